# tries: a device of the node, which needs an entitlement
# ends: Failed .*
# Rootless: nothing
# UserNamespace: nothing
# (labs syntax is in the image of the frontend only: the built-in one refuses the flag)
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --device=vendor.example/gpu=all echo "ESCAPED device"
