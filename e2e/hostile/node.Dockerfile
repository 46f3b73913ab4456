# tries: the node's kubelet and whatever else listens there
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ARG NODE
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for port in 22 80 81 2379 2380 10248 10249 10250 10255 10256 10257 10259; do
  n=$((n + 1))
  timeout 4 nc -w 2 "$NODE" "$port" </dev/null >/dev/null 2>&1 && echo "ESCAPED node port $port"
done
tried "$n"
ATTACK
