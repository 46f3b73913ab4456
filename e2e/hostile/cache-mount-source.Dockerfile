# tries: a cache mount whose source is a link to the root, put there by an earlier step
# ends: .*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --mount=type=cache,id=hostile-link,target=/c ln -sfn / /c/link && ln -sfn ../../../../../../../../home /c/up
RUN --mount=type=cache,id=hostile-link,source=up,target=/m <<'ATTACK'
. /lib/hunt.sh
ls /m | grep -x user && echo "ESCAPED to the daemon's home"
find /m -maxdepth 4 -name 'buildkit*' | sed 's/^/ESCAPED to /'
tried 1
ATTACK
