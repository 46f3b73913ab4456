# syntax=registry.buildpools.test:5000/library/hostile-frontend:stable
# tries: a frontend of its own, which asks for directories of the runner's file system, by names and by paths, and for sources of the daemon's disk
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
# mode=sources
