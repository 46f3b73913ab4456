# tries: a device of the node, which needs an entitlement
# ends: Failed CDI device support is disabled
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --device=vendor.example/gpu=all,required echo "ESCAPED device"
