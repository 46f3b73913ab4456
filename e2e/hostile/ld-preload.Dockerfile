# tries: a base image whose environment and files try to take part in the work of the daemon
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable AS base
RUN mkdir -p /etc/buildkit && printf 'insecure-entitlements = ["security.insecure"]\n' > /etc/buildkit/buildkitd.toml
ENV PATH=/evil:/bin:/sbin LD_PRELOAD=/lib/evil.so LD_LIBRARY_PATH=/evil GIT_SSH_COMMAND=/evil BUILDKIT_HOST=tcp://127.0.0.1:1 HTTP_PROXY=http://127.0.0.1:1 DOCKER_CONFIG=/evil
FROM base
COPY --from=base /etc/passwd /copied
WORKDIR /work
RUN . /lib/hunt.sh; [ -s /lib/evil.so ] && [ "$LD_PRELOAD" = /lib/evil.so ] && tried 1
