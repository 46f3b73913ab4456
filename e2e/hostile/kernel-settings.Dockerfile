# tries: settings of the kernel: core_pattern, sysctl, sysrq, modules, binfmt, uevent helper
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/sysrq /proc/sysrq-trigger /proc/sys/kernel/hostname \
  /proc/sys/vm/overcommit_memory /proc/sys/kernel/randomize_va_space /proc/sys/fs/suid_dumpable /proc/sys/net/ipv4/ip_forward \
  /proc/sys/kernel/ns_last_pid /sys/kernel/uevent_helper /proc/sys/fs/binfmt_misc/register /sys/module/nft_chain_nat/parameters/x; do
  n=$((n + 1))
  [ -e "$file" ] || continue
  before=$(head -c 100 "$file" 2>/dev/null)
  case $file in
    */hostname | */ip_forward) (echo "$before" >"$file") 2>/dev/null && echo "SHARED setting $file" ;;
    */sysrq-trigger) (: >>"$file") 2>/dev/null && echo "ESCAPED $file" ;;
    *) (echo "$before" >"$file") 2>/dev/null && echo "ESCAPED $file" ;;
  esac
done
insmod /bin/busybox 2>/dev/null && echo "ESCAPED insmod"
tried "$n"
ATTACK
