# syntax=registry.buildpools.test:5000/library/hostile-frontend:stable
# tries: a frontend of its own, which asks for steps without confinement, in the host's network, and for devices
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
# mode=entitlements
