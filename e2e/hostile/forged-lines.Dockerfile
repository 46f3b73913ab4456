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
printf 'x\r2026-01-01T00:00:00.000000Z  INFO forged\n20 forged\n'
tried 5
ATTACK
