#!/bin/sh
# What buildkitd starts as runc.
#
# 1. Steps get no NET_RAW. BuildKit gives it to all of them; with the profile UserNamespace it would count in the pod's
#    network, for packets that name another sender.
#
# 2. What a step has started ends with the step. Without a process sandbox (profile Rootless) runc can kill the first
#    process of a step only: the step shares its PID namespace with the daemon, and an unprivileged runc has no cgroup
#    that would tell which other processes are the step's. They would go on after the step has ended or was cancelled,
#    hold its output open and with it the step, the slot and at last the daemon's stop (moby/buildkit#2417, #2855,
#    #5763). But runc is their subreaper: whatever a step starts stays below `runc run`. So when the step's first process
#    is gone, all that is left below runc is killed.
set -u
runc=$(command -v buildkit-runc || command -v runc)

# parent PID: sets $parent; empty for a process that is gone or is dead and not yet reaped.
parent() {
  parent=
  # pid (name) state ppid …; the name may hold anything but a line break.
  read -r line 2>/dev/null <"/proc/$1/stat" || return 0
  # shellcheck disable=SC2086
  set -- ${line##*) }
  [ "$1" = Z ] || parent=$2
}

# below PID: sets $below to the processes that descend from it.
below() {
  below=
  tree=" $1 " grown=1
  while [ "$grown" = 1 ]; do
    grown=0
    for process in /proc/[0-9]*; do
      pid=${process#/proc/}
      case $tree in *" $pid "*) continue ;; esac
      parent "$pid"
      case $tree in *" ${parent:-none} "*) tree="$tree$pid " below="$below $pid" grown=1 ;; esac
    done
  done
}

# end_all PID: kills what descends from it. More than once: what forks meanwhile leaves children.
end_all() {
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    below "$1"
    [ -n "$below" ] || return 0
    # shellcheck disable=SC2086
    kill -9 $below 2>/dev/null
  done
}

# watch PID FILE: the runc of that PID writes the PID of the step's first process into the file.
watch() {
  first=
  while kill -0 "$1" 2>/dev/null; do
    if [ -z "$first" ]; then
      { read -r first <"$2" || [ -n "$first" ]; } 2>/dev/null || first=
    fi
    if [ -n "$first" ]; then
      parent "$first"
      [ -n "$parent" ] || end_all "$1"
    fi
    sleep 1
  done
}

# runc --log <executor>/runc-log.json … run --bundle <executor>/<id> … <id>
# runc --log <executor>/runc-log.json … kill <id> <signal>
log=
bundle=
killed=
last=
for argument; do
  case $last in
    --log) log=$argument ;;
    --bundle) bundle=$argument ;;
    kill) killed=$argument ;;
  esac
  last=$argument
done
case " $* " in
  *' run --bundle '*)
    sed -i -e 's/"CAP_NET_RAW",//g' -e 's/,"CAP_NET_RAW"//g' "$bundle/config.json" || exit 1
    # The kernel ends what is in a PID namespace with its first process.
    if grep -q '"type":"pid"' "$bundle/config.json"; then
      exec "$runc" "$@"
    fi
    echo $$ >"$bundle/runc.pid"
    # Not a child of runc: it must not be taken for the step's. Without the step's output, which would not end before it;
    # by `exec`, because a redirection of a function keeps copies.
    (exec </dev/null >/dev/null 2>&1; watch $$ "$bundle/init.pid" &)
    count=$#
    while [ "$count" -gt 0 ]; do
      argument=$1
      shift
      set -- "$@" "$argument"
      [ "$argument" != run ] || set -- "$@" --pid-file "$bundle/init.pid"
      count=$((count - 1))
    done
    exec "$runc" "$@"
    ;;
  *" kill $killed 9 "*)
    "$runc" "$@"
    code=$?
    read -r pid 2>/dev/null <"${log%/*}/$killed/runc.pid" && grep -q "$killed" "/proc/$pid/cmdline" && end_all "$pid"
    exit "$code"
    ;;
esac
exec "$runc" "$@"
