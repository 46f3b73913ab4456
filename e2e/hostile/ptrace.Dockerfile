# tries: ptrace of other processes
# ends: Succeeded
# Rootless: ptrace
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for pid in $(others); do
  n=$((n + 1))
  case $(attack ptrace "$pid") in done*) echo "SHARED ptrace $pid $(cat "/proc/$pid/comm")" ;; esac
done
tried "$n"
ATTACK
