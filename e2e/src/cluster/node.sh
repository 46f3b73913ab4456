# Makes the mount namespace it runs in the node's: sh node.sh CGROUP_PROCS CLUSTER_DIR NEEDED_DIR...
# (-n: the table that mount keeps in /run is the host's.)
set -eu
echo $$ >"$1"
dir=$2
shift 2

# /run, /var/lib and /var/log are the node's own. What must stay visible in spite of that is put aside in between.
mount -n -t tmpfs -o mode=755 node-run /mnt
i=0
for needed; do
	i=$((i + 1))
	mkdir -p "/mnt/needed/$i"
	mount -n --bind "$needed" "/mnt/needed/$i"
done
mount -n -t tmpfs -o mode=755 node-lib /var/lib
mount -n -t tmpfs -o mode=755 node-log /var/log
mount -n --move /mnt /run
i=0
for needed; do
	i=$((i + 1))
	if [ ! -e "$needed" ]; then
		mkdir -p "$needed"
		mount -n --bind "/run/needed/$i" "$needed"
	fi
	umount -n "/run/needed/$i"
done
rm -r /run/needed

for data in kubelet cni; do
	mkdir -p "/var/lib/$data" "$dir/data/$data"
	mount -n --bind "$dir/data/$data" "/var/lib/$data"
done
for file in hosts resolv.conf; do
	# resolv.conf may be a link into the host's /run.
	target=$(readlink -m "/etc/$file")
	[ -e "$target" ] || { mkdir -p "${target%/*}" && : >"$target"; }
	mount -n --bind "$dir/config/$file" "$target"
done

# Pods may ask for mounts that propagate. This makes the mounts shared among the node's processes, not with the host.
mount -n --make-rshared /

# Of the node's network namespace.
echo 1 >/proc/sys/net/ipv4/ip_forward
# Each connection that a NetworkPolicy forbids is refused, not only the first few in a second.
echo 0 >/proc/sys/net/ipv4/icmp_ratelimit

: >"$dir/run/node.ready"
exec sleep infinity
