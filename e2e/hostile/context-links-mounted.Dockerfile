# tries: a bind mount of a link in the context
# context: hostile/links.git
# ends: Failed "/above": not found
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --mount=type=bind,source=above,target=/up cat /up/daemon-canary; echo "ESCAPED"
