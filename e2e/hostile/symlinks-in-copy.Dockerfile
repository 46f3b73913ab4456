# tries: links in images and stages that lead out of them, as source and as target of COPY
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable AS links
RUN mkdir /l && ln -s / /l/root && ln -s ../../../../../../../../../../etc /l/up && ln -s /proc/self/root /l/proc && ln -s ../../../../../../../../../../tmp /l/tmp
FROM registry.buildpools.test:5000/library/attacker:stable
COPY --from=links /l/ /l/
COPY --from=links /l/up/ /copied/
COPY --from=links /l/root/tmp/ /l/tmp/ /copied-too/
COPY --from=links /bin/busybox /l/up/evil-copy
COPY --from=links /bin/busybox /l/tmp/evil-copy
RUN <<'ATTACK'
. /lib/hunt.sh
find /copied /copied-too /l -type f | xargs -r attack scan
# Where the links lead to in this image.
[ -x /etc/evil-copy ] && [ -x /tmp/evil-copy ] && tried 4
ATTACK
