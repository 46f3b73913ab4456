# syntax=registry.buildpools.test:5000/library/hostile-frontend:stable
# tries: a frontend of its own, which starts containers of its own, with mounts and namespaces of the host
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
# mode=containers
