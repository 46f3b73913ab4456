# tries: an archive with absolute paths, and with .., unpacked by ADD
# context: hostile/archive.git
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD evil.tar /x/y/
RUN <<'ATTACK'
. /lib/hunt.sh
find / -xdev -name 'evil-*' | grep -v -x -e /x/y/tmp/evil-above -e /x/y/home/user/evil-absolute | sed 's/^/outside of the directory: /'
[ "$(find / -xdev -name 'evil-*' | wc -l)" -gt 0 ] && tried 2
ATTACK
