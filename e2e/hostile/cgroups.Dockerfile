# tries: control groups: a release agent, limits of its own, devices
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for file in $(find /sys/fs/cgroup -name release_agent -o -name devices.allow -o -name memory.limit_in_bytes -o -name memory.max -o -name cpu.cfs_quota_us -o -name pids.max 2>/dev/null | head -200); do
  n=$((n + 1))
  before=$(head -c 100 "$file" 2>/dev/null)
  (echo "${before:-a}" >"$file") 2>/dev/null && echo "ESCAPED $file"
done
mkdir -p /cg
for kind in memory rdma pids devices cpu; do
  n=$((n + 1))
  mount -t cgroup -o "$kind" "$kind" /cg 2>/dev/null && { echo "ESCAPED cgroup $kind"; umount /cg; }
  unshare -UrmC mount -t cgroup -o "$kind" "$kind" /cg 2>/dev/null && echo "ESCAPED cgroup $kind in a namespace"
done
tried "$n"
ATTACK
