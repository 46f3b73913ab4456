# tries: a repository on the disk of the daemon
# ends: Failed .*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD file:///home/user/.local/share/buildkit/x.git /a
RUN echo "ESCAPED"
