# tries: a context full of links, copied as a whole
# context: hostile/links.git
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
COPY . /all
RUN <<'ATTACK'
. /lib/hunt.sh
# The links lead to this step's own files; what the daemon has read in their place would be no link.
find /all -type f | xargs -r attack scan
tried "$(find /all -type l | wc -l)"
ATTACK
