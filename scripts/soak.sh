#!/usr/bin/env bash
# The long campaigns, each from a printed seed: scripts/soak.sh fuzz [SECONDS] | kills [ROUNDS] | power [CUTS] | kernels
set -euo pipefail
cd "$(dirname "$0")/.."
part=scripts/soak/${1:-}.sh
[ -f "$part" ] || { sed -n 2p "$0" >&2; exit 2; }
shift
exec "$part" "$@"
