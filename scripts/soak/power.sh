#!/usr/bin/env bash
# Power cuts of ext4, xfs and btrfs at random moments of copies, each followed by a rerun: power.sh [CUTS] [SEED]
# As root. The disks are in memory and in a mount namespace of their own, and go with it, whatever ends this.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup.sh
setup test
export LANDRO_SOAK_ROUNDS=${1:-200} LANDRO_TEST_SEED=${2:-$(date +%s)}
cargo test --locked --test crash --no-run
exec unshare --mount sh -c 'mount -t tmpfs none /dev/shm && TMPDIR=/dev/shm exec "$@"' - \
    cargo test --locked --test crash -- --ignored --exact soak_power --nocapture
