# tries: a listener in a member of another pool, by its address
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ARG OTHER_ADDRESS
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for port in 7777 1234 80; do
  n=$((n + 1))
  timeout 4 nc -w 2 "$OTHER_ADDRESS" "$port" </dev/null >/dev/null 2>&1 && echo "ESCAPED to $OTHER_ADDRESS:$port"
done
ping -c 1 -W 1 "$OTHER_ADDRESS" >/dev/null 2>&1 && echo "ESCAPED ping of $OTHER_ADDRESS"
tried "$n"
ATTACK
