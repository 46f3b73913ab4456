# tries: devices: the memory, the kernel log and the disks of the node
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for device in "mem c 1 1" "kmsg c 1 11" "port c 1 4" "vda b 254 0" "sda b 8 0" "loop0 b 7 0" "fuse c 10 229" "kvm c 10 232" "tun c 10 200"; do
  set -- $device
  n=$((n + 1))
  mknod "/dev/x$1" "$2" "$3" "$4" 2>/dev/null || continue
  case $1 in fuse | tun | kvm) continue ;; esac
  dd if="/dev/x$1" bs=512 count=1 of=/dev/null 2>/dev/null && echo "ESCAPED device $1"
  (echo canary >"/dev/x$1") 2>/dev/null && echo "ESCAPED device $1 written"
done
for file in /dev/mem /dev/kmsg /proc/kcore /proc/kmsg; do
  n=$((n + 1))
  [ -e "$file" ] && dd if="$file" bs=512 count=1 of=/dev/null 2>/dev/null | grep -q . && echo "ESCAPED $file"
done
tried "$n"
ATTACK
