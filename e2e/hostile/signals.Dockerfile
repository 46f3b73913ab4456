# tries: signals to other processes: kill -0 tells whether a real one would arrive
# ends: Succeeded
# Rootless: signal
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for pid in $(others); do
  n=$((n + 1))
  kill -0 "$pid" 2>/dev/null && echo "SHARED signal $pid $(cat "/proc/$pid/comm")"
done
tried "$n"
ATTACK
