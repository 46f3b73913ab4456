# tries: a file of the daemon through a link in the context
# context: hostile/links.git
# ends: Failed "/above/daemon-canary": not found
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
COPY above/daemon-canary /x
RUN cat /x; echo "ESCAPED"
