#!/bin/sh
# start.sh BINARY HOME: starts one node unless it runs, and looks that it stays. Waiting for its service is ready.sh's part.
set -eu
binary=$1 home=$2
here=$(dirname "$0")
if "$here/runs.sh" "$home"; then exit 0; fi
setsid "$binary" serve --config "$home/node.toml" </dev/null >>"$home/node.log" 2>&1 &
pid=$!
sha256sum <"$binary" >"$home/binary.sha256"
tries=0
until [ "$(cat "$home/data/node.pid" 2>/dev/null)" = "$pid" ]; do
  if ! kill -0 "$pid" 2>/dev/null || [ "$tries" -ge 100 ]; then
    echo "$home does not start; its log ends:" >&2
    tail -n 20 "$home/node.log" >&2
    kill -KILL "$pid" 2>/dev/null || true
    exit 1
  fi
  tries=$((tries + 1))
  sleep 0.1
done
