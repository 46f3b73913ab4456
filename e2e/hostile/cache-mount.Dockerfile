# tries: a cache mount by the id that others use: another pool's, and a neighbour's, which shares it by design
# ends: Succeeded
# Rootless: canary
# UserNamespace: canary
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --mount=type=cache,id=hostile-shared,target=/shared <<'ATTACK'
. /lib/hunt.sh
find /shared -type f | xargs -r attack scan
tried 1
ATTACK
