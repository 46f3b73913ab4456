# tries: ports that something in the pod listens on, on every address of it
# ends: Succeeded
# Rootless: port7777
# UserNamespace: port7777
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for line in $(awk 'NR > 1 && $4 == "0A" {print $2}' /proc/net/tcp /proc/net/tcp6 2>/dev/null | sort -u); do
  port=$((0x${line##*:}))
  for host in 127.0.0.1 localhost "$(hostname -i 2>/dev/null | cut -d" " -f1)"; do
    n=$((n + 1))
    timeout 3 nc -w 1 "$host" "$port" </dev/null >/dev/null 2>&1 && echo "SHARED port$port $host"
  done
done
for port in 1234 2375 2376 8080 8081 8082 9090 50051; do
  n=$((n + 1))
  timeout 3 nc -w 1 127.0.0.1 "$port" </dev/null >/dev/null 2>&1 && echo "SHARED port$port"
done
tried "$n"
ATTACK
