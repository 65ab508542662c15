#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Arguments go to cargo test: scripts/test.sh --test tidy
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup test
exec cargo test --locked --workspace "$@"
