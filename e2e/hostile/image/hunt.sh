# What the hostile builds share. Everything that a build finds or does outside of itself it says in a line of its own:
#   LEAK <where> <canary>   something secret was read
#   SHARED <word> <detail>  something outside of the build was seen or could be done
#   ESCAPED <detail>        the same, and nothing may ever allow it
#   TRIED <n>               the attempts were made: a build that does not say so has shown nothing
export HUNT_OWN="$$-$(cat /proc/sys/kernel/random/uuid)"

# Processes that this build did not start.
others() {
  for p in /proc/[0-9]*; do
    pid=${p#/proc/}
    [ "$pid" = $$ ] && continue
    tr '\0' '\n' <"$p/environ" 2>/dev/null | grep -qx "HUNT_OWN=$HUNT_OWN" || echo "$pid"
  done
}
# The file that the test has put into the daemon's container, below what may be the root of that.
daemon_file() {
  for root; do
    [ -e "$root/tmp/daemon-canary" ] && echo "ESCAPED to the daemon's files through $root"
    cat "$root/tmp/daemon-canary" 2>/dev/null
  done
}
tried() { echo "TRIED $1"; }
