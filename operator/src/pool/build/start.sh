#!/bin/sh
# Entry point of the container buildkitd: runs the daemon (the arguments after the first) on the cache volume (the first),
# and empties the volume when the daemon cannot run because its database is damaged.
#
# BuildKit resets two of its databases by itself when they cannot be opened (cache.db, history.db). With any other it
# ends, at each start anew. Nobody but this container may touch the files: they belong to its user namespace.
#
# Emptied is only what the daemon keeps, its root directory on the volume, and only after the daemon has ended three
# times within half an hour with the words of a damaged database. A full disk, a wrong configuration or a missing
# right ends it with other words. A RUN step that forges them harms the cache that it can write to anyway.
set -u
# A stop that comes before the daemon runs, or while the cache is emptied, must not be lost; and what a shell ignores, the
# one that follows it could never notice.
stopped=0
daemon=
trap 'stopped=1; [ -z "$daemon" ] || kill -TERM "$daemon" 2>/dev/null' TERM INT
volume=$1
shift
root=$volume/root
ends=$volume/.buildpools-damaged
most=3
within=1800

# Files of the daemon's user namespace can be removed in it only.
remove() {
  case $1 in
    rootlesskit) rootlesskit rm -rf -- "$root.damaged" ;;
    *) rm -rf -- "$root.damaged" ;;
  esac
}

# Left over when the container was stopped meanwhile. Nothing else may fill the disk before the daemon starts.
if [ -e "$root.damaged" ]; then
  remove "$1"
fi

# The volume's root has the setgid bit, because the kubelet sets it with the fsGroup, and a new directory inherits it from
# the one above: without this, every image would have it on its root directory and on all that a step makes there.
# A RUN step may have put a link there.
[ ! -L "$root" ] || rm -f -- "$root"
mkdir -p -m 700 "$root"
chmod g-s "$root"
# The runner, user 1000, keeps its notes on the volume, which belongs to root where no fsGroup is set.
if [ "$(id -u)" = 0 ]; then
  chgrp 1000 "$volume"
  chmod g+rwx "$volume"
fi

[ "$stopped" = 0 ] || exit 0
# The daemon's words go to the container's log, and the last of them into a file.
words=$(mktemp -d)
mkfifo "$words/all" "$words/copy"
tee "$words/copy" <"$words/all" >&2 &
tee=$!
tail -c 65536 <"$words/copy" >"$words/last" &
tail=$!
"$@" 2>"$words/all" &
daemon=$!
[ "$stopped" = 0 ] || kill -TERM "$daemon" 2>/dev/null
# A trapped signal ends wait, not the daemon.
while :; do
  wait "$daemon"
  code=$?
  kill -0 "$daemon" 2>/dev/null || break
done
# A process that has outlived the daemon may hold its end of the pipe.
(sleep 5 && kill "$tee" "$tail") 2>/dev/null &
wait "$tee" "$tail"

last=$words/last
is_damaged() {
  [ "$code" -ne 0 ] || return 1
  grep -qiE 'no space left on device|input/output error|read-only file system|cannot allocate memory' "$last" && return 1
  grep -qE '^buildkitd: (.*: )?(invalid database|version mismatch|checksum error|file size too small)' "$last" && return 0
  grep -qE '^(panic|fatal error|unexpected fault address)' "$last" && grep -q 'go\.etcd\.io/bbolt' "$last"
}
if ! is_damaged; then
  rm -rf -- "$words"
  exit "$code"
fi

# Times of such ends, the newest last; only those of the last half hour count.
now=$(date +%s)
count=1
times=
# A RUN step may have put anything there.
if [ -f "$ends" ] && [ ! -L "$ends" ]; then
  times=$(tail -n "$most" "$ends" | grep -E '^[1-9][0-9]{0,11}$')
  for time in $times; do
    [ "$time" -gt $((now - within)) ] && count=$((count + 1))
  done
fi
rm -rf -- "$words"
if [ "$count" -lt "$most" ]; then
  # Not through a link: a new file each time.
  rm -rf -- "$ends"
  printf '%s\n%s\n' "$times" "$now" >"$ends"
  echo "buildpools: the cache's database is damaged ($count of $most times before the cache is emptied)" >&2
  exit "$code"
fi
echo "buildpools: the cache's database is damaged ($count of $most times): emptying the cache" >&2
rm -rf -- "$ends" "$volume/.buildpools-healed"
mv -- "$root" "$root.damaged" || exit "$code"
remove "$1"
echo "$now" >"$volume/.buildpools-healed"
[ "$stopped" = 0 ] || exit "$code"
trap - TERM INT
exec /bin/sh "$0" "$volume" "$@"
