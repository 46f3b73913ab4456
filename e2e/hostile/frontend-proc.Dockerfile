# syntax=registry.buildpools.test:5000/library/hostile-frontend:stable
# tries: a frontend of its own, which reads /proc, the environment and the files of where the frontend runs
# ends: Succeeded
# Rootless: canary process
# UserNamespace: nothing
# mode=proc
