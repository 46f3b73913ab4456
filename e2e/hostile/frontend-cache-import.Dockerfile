# syntax=registry.buildpools.test:5000/library/hostile-frontend:stable
# tries: a frontend of its own, which imports a cache that somebody poisoned, from a repository that it may read and from another tenant's, and from the metadata service
# ends: Succeeded
# Rootless: poisoned-cache
# UserNamespace: poisoned-cache
# mode=cache-import
