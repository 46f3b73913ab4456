# tries: links in images and stages that lead out of them, as source and as target of COPY
# ends: .*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable AS links
RUN mkdir /l && ln -s / /l/root && ln -s ../../../../../../../../../../etc /l/up && ln -s /proc/self/root /l/proc && ln -s /home/user/.local /l/home
FROM registry.buildpools.test:5000/library/attacker:stable
COPY --from=links /l/ /l/
COPY --from=links /l/up/ /copied/
COPY --from=links /l/root/etc/passwd /l/home
COPY --from=links /bin/busybox /l/up/written-by-copy
RUN <<'ATTACK'
. /lib/hunt.sh
grep -q '^user:' /copied/passwd /etc/passwd 2>/dev/null && echo "ESCAPED: the daemon's own passwd"
[ -e /etc/written-by-copy ] || echo "written elsewhere or refused"
attack scan /copied/*
tried 4
ATTACK
