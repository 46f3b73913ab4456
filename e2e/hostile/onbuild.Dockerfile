# tries: a base image whose ONBUILD does what its user did not write
# ends: Failed security.insecure is not allowed
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable AS base
ONBUILD RUN --security=insecure echo "ESCAPED insecure by ONBUILD"
FROM base
