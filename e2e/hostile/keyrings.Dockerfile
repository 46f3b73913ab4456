# tries: keys of other processes: of the user that all steps are, and in every keyring that the kernel lists; steps may use none at all
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
for try in keys "key own"; do
  attack $try | sed 's/^done/ESCAPED/'
done
tried 2
ATTACK
