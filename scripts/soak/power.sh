#!/usr/bin/env bash
# Power cuts of ext4, xfs and btrfs at random moments of copies, each followed by a rerun: power.sh [CUTS] [SEED]
# As root. The mounts are in a namespace of their own and go with it, whatever ends this.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup.sh
setup test
export LANDRO_SOAK_ROUNDS=${1:-200} LANDRO_TEST_SEED=${2:-$(date +%s)}
exec unshare --mount cargo test --locked --test crash -- --ignored --exact soak_power --nocapture
