#!/bin/sh
# ready.sh HOME...: waits until each of these nodes serves.
set -eu
here=$(dirname "$0")
tries=0
for home in "$@"; do
  until pid=$(cat "$home/data/ready" 2>/dev/null) && [ "$pid" = "$(cat "$home/data/node.pid" 2>/dev/null)" ]; do
    tries=$((tries + 1))
    if ! "$here/runs.sh" "$home" || [ "$tries" -ge 600 ]; then
      echo "$home does not serve; its log ends:" >&2
      tail -n 20 "$home/node.log" >&2
      exit 1
    fi
    sleep 0.1
  done
done
