#!/bin/sh
# stop.sh HOME: asks one node to hand over and stop, and kills it after ten seconds.
set -eu
home=$1
here=$(dirname "$0")
if ! "$here/runs.sh" "$home"; then exit 0; fi
pid=$(cat "$home/data/node.pid")
kill -TERM "$pid"
tries=0
while [ "$tries" -lt 100 ]; do
  if ! grep -q '^State:.[^ZX]' "/proc/$pid/status" 2>/dev/null; then exit 0; fi
  tries=$((tries + 1))
  sleep 0.1
done
kill -KILL "$pid" 2>/dev/null || true
