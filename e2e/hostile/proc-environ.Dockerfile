# tries: environments and command lines of all processes that /proc shows
# ends: Succeeded
# Rootless: canary process
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for pid in $(others); do
  n=$((n + 1))
  attack scan "/proc/$pid/environ" "/proc/$pid/cmdline"
  [ -r "/proc/$pid/cmdline" ] && echo "SHARED process $pid"
done
tried "$n"
ATTACK
