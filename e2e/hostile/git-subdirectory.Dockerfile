# tries: a directory above a repository, by #ref:subdir: it is the root of the repository
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/links.git#main /repository
ADD https://git.buildpools.test/hostile/links.git#main:../../../../.. /up
RUN <<'ATTACK'
. /lib/hunt.sh
daemon_file /up /up/.. /up/../..
find /up -type f | xargs -r attack scan
[ "$(ls /up | tr '\n' ' ')" = "$(ls /repository | tr '\n' ' ')" ] || echo "ESCAPED to $(ls /up)"
tried 1
ATTACK
