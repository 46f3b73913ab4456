# tries: a step without confinement, which needs an entitlement
# ends: Failed .*security.insecure.*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --security=insecure cat /proc/self/status && echo "ESCAPED insecure"
