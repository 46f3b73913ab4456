# tries: memory of other processes through /proc/PID/mem
# ends: Succeeded
# Rootless: canary memory
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for pid in $(others); do
  n=$((n + 1))
  case $(attack memory "$pid") in *"done memory"*) echo "SHARED memory $pid"; attack memory "$pid" ;; esac
done
tried "$n"
ATTACK
