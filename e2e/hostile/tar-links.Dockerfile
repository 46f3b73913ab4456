# tries: an archive with a link to the root and an entry that goes through it, unpacked by ADD
# context: hostile/archive.git
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD links.tar /x/y/
RUN <<'ATTACK'
. /lib/hunt.sh
find / -xdev -name 'evil-*' | sed 's/^/unpacked: /'
[ -n "$(find / -xdev -name 'evil-*')" ] && tried 1
ATTACK
