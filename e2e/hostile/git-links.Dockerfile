# tries: a repository whose links lead out of it: copied, and followed by name
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/links.git#main /repository
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for link in /repository/*; do
  n=$((n + 1))
  daemon_file "$link"
  # What the daemon has read in the place of a link.
  [ -L "$link" ] || find "$link" -type f | xargs -r attack scan
done
tried "$n"
ATTACK
