#!/bin/sh
# roll.sh BINARY HOME...: restarts the nodes that run another binary, one at a time, each in service before the next.
set -eu
binary=$1
shift
here=$(dirname "$0")
hash=$(sha256sum <"$binary")
for home in "$@"; do
  if [ "$(cat "$home/binary.sha256" 2>/dev/null)" = "$hash" ] && "$here/runs.sh" "$home"; then continue; fi
  "$here/stop.sh" "$home"
  "$here/start.sh" "$binary" "$home"
  "$here/ready.sh" "$home"
  echo "$home runs the new binary"
done
