# syntax=registry.buildpools.test:5000/library/hostile-frontend:stable
# tries: a frontend of its own, which imports a cache that somebody poisoned, from a repository of its own and of another tenant
# ends: .*
# Rootless: nothing
# UserNamespace: nothing
# mode=cache-import
