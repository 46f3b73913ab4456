# tries: namespaces of other processes, by setns
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for pid in $(others); do
  n=$((n + 1))
  attack setns "$pid" | sed -n 's/^done/ESCAPED/p'
done
unshare -Ur sh -c 'id; for p in /proc/[0-9]*; do attack setns ${p#/proc/}; done' 2>/dev/null | grep -E 'done setns (mnt|pid|net) ' | sed 's/^/ESCAPED from a user namespace: /'
tried "$n"
ATTACK
