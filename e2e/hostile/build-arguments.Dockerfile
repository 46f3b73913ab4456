# tries: build arguments of other builds: in their processes, and in what the daemon keeps of them
# ends: Succeeded
# Rootless: canary
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for pid in $(others); do
  n=$((n + 1))
  attack scan "/proc/$pid/environ" "/proc/$pid/cmdline"
done
find / -xdev -maxdepth 4 -name '*.db' -o -xdev -maxdepth 4 -name 'history*' 2>/dev/null | grep -v -e ^/proc -e ^/sys | sed 's/^/ESCAPED to /'
tried "$n"
ATTACK
