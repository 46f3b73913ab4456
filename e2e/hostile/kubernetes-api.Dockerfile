# syntax=registry.buildpools.test:5000/library/hostile-frontend:stable
# tries: Secrets, pods and jobs of the Kubernetes API, over the way that the runner needs
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
# mode=api
