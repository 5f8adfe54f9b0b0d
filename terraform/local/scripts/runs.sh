#!/bin/sh
# runs.sh HOME: does this node run? An old node.pid may name a process of somebody else by now, and a zombie does not run.
set -eu
home=$1
pid=$(cat "$home/data/node.pid" 2>/dev/null) || exit 1
grep -q '^State:.[^ZX]' "/proc/$pid/status" 2>/dev/null || exit 1
tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF "$home/node.toml"
