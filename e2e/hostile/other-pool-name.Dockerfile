# tries: a listener in a member of another pool, by its host name and its Service
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ARG OTHER_NAMES
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for name in $OTHER_NAMES; do
  n=$((n + 1))
  timeout 4 nc -w 2 "$name" 7777 </dev/null >/dev/null 2>&1 && echo "ESCAPED to $name"
  nslookup "$name" >/dev/null 2>&1 && echo "resolved $name"
done
tried "$n"
ATTACK
