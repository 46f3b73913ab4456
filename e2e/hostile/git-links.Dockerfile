# tries: a repository whose links lead out of it: copied, and followed by name
# ends: .*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/links.git#main /repository
RUN <<'ATTACK'
. /lib/hunt.sh
for link in /repository/*; do [ -L "$link" ] || continue; find "$link/" -maxdepth 3 -name 'buildkit*' 2>/dev/null | sed 's/^/ESCAPED to /'; done
cat /repository/passwd 2>/dev/null | grep '^user:' && echo "ESCAPED: the daemon's passwd"
tried 1
ATTACK
