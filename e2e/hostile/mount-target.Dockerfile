# tries: a mount below a link that the step replaces while it runs, so that clearing up removes something else
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --mount=type=tmpfs,target=/a/b/c <<'ATTACK'
. /lib/hunt.sh
mv /a /a-before 2>/dev/null
ln -s / /a 2>/dev/null
tried 1
ATTACK
RUN <<'ATTACK'
. /lib/hunt.sh
[ -x /bin/busybox ] || echo "ESCAPED: files are gone"
tried 1
ATTACK
