# tries: a step without confinement, which needs an entitlement
# ends: Failed security.insecure is not allowed
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --security=insecure cat /proc/self/status && echo "ESCAPED insecure"
