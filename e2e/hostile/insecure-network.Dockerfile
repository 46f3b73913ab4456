# tries: a step in the host's network, which needs an entitlement
# ends: Failed network.host is not allowed
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --network=host echo "ESCAPED host network"
