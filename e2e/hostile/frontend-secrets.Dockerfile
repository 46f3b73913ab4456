# syntax=registry.buildpools.test:5000/library/hostile-frontend:stable
# tries: a frontend of its own, which asks for secrets and agents that were not granted
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
# mode=secrets
