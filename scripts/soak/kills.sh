#!/usr/bin/env bash
# kill -9 of clients and daemons at random moments, and a rerun that ends well: kills.sh [ROUNDS] [SEED]
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup.sh
setup test
export LANDRO_SOAK_ROUNDS=${1:-1000} LANDRO_TEST_SEED=${2:-$(date +%s)}
exec cargo test --locked --test crash -- --ignored --exact soak_kills --nocapture
