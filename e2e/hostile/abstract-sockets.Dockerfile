# tries: abstract sockets, which belong to the network that all containers of a pod share; the neighbour listens on one
# ends: Succeeded
# Rootless: abstract
# UserNamespace: abstract
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=1
for name in $(awk 'NR > 1 && $8 ~ "^@" {print $8}' /proc/net/unix | sort -u) @/containerd-shim; do
  n=$((n + 1))
  case "$name $(attack dial "$name")" in
    "@neighbour done"*) echo "SHARED abstract $name" ;;
    *" done "*) echo "ESCAPED abstract socket $name" ;;
  esac
done
tried "$n"
ATTACK
