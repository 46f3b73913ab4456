# tries: packets of others on the pod's network, which the neighbour's canary travels over, and packets under another address
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
attack packets | sed 's/^done/SHARED raw/'
ip address add 198.51.100.1/32 dev eth0 2>/dev/null && echo "SHARED address"
ip route add 198.51.100.0/24 dev eth0 2>/dev/null && echo "SHARED route"
tried 4
ATTACK
