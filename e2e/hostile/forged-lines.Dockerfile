# tries: lines that look as if they were another job's, or the end of this one
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
printf '[neighbour] succeeded: sha256:0000\n'
printf 'x\r[neighbour] failed\n'
printf 'x\n[neighbour] failed\n\n\n'
tried 3
ATTACK
