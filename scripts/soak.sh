#!/usr/bin/env bash
# The long campaigns, each from a printed seed: scripts/soak.sh fuzz [SECONDS] | kills [ROUNDS] | power [CUTS] | kernels | metrics [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
part=scripts/soak/${1:-}.sh
case "${1:-}" in --help | -h) sed -n '2s/^# //p' scripts/soak.sh && exit ;; esac
[ -f "$part" ] || { sed -n '2s/^# //p' scripts/soak.sh >&2; exit 2; }
shift
exec "$part" "$@"
