#!/usr/bin/env bash
# Installs what the tests need and runs all of them; a binary that hangs is ended (scripts/within.sh). Arguments go to
# cargo test: scripts/test.sh --test tidy
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
help_if_asked scripts/test.sh "$@"
setup test
exec cargo test --locked --workspace --config "target.'cfg(unix)'.runner = '$PWD/scripts/within.sh'" "$@"
