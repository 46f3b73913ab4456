# tries: a log of a hundred megabytes, and one line of ten
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
yes "$(head -c 900 /dev/zero | tr '\0' x)" | head -c 100000000
head -c 10000000 /dev/zero | tr '\0' y
echo
ATTACK
# In a step of its own: of the first one's log the daemon keeps the beginning only.
RUN . /lib/hunt.sh; tried 2
