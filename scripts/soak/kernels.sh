#!/usr/bin/env bash
# What calls the kernel, under every kernel of docs/kernels.md, the test with random operations included: kernels.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts/kernels.sh 6.1 6.12 newest
# With landro, though none of its tests is called so: features of dependencies are those of scripts/test.sh then.
exec scripts/kernels.sh 6.1 6.12 newest -- -p landro -p landro-sys --lib tests::property
