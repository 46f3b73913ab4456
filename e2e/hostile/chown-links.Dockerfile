# tries: the owner of a COPY, looked up in the daemon's files: /etc/passwd is a link to them
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN ln -sf ../../../../../../../../../../tmp/daemon-canary /etc/passwd && echo 1 > /1
COPY --from=registry.buildpools.test:5000/library/attacker:stable --chown=escaped /bin/attack /2
# That user is 4242 there; who is not found is root.
RUN . /lib/hunt.sh; [ "$(stat -c %u /2)" = 0 ] || echo "ESCAPED: $(stat -c %u /2)"; tried 1
