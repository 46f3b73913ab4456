# tries: packets of others on the pod's network, and packets under another address
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
attack packets | sed -n 's/^done/SHARED raw/p'
ip address add 198.51.100.1/32 dev eth0 2>/dev/null && echo "SHARED address"
ip route add 198.51.100.0/24 dev eth0 2>/dev/null && echo "SHARED route"
tried 4
ATTACK
