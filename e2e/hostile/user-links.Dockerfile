# tries: a user that only the daemon's files know: /etc/passwd is a link to them
# ends: Failed unable to find user escaped: no matching entries in passwd file
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN ln -sf ../../../../../../../../../../tmp/daemon-canary /etc/passwd
USER escaped
RUN echo "ESCAPED: $(id -u)"
