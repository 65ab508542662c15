#!/usr/bin/env bash
# Runs every fuzz target, all of them together for SECONDS (default 3600), as many at a time as there are cores, and
# prints what each executed. Fails if one crashed, hung, leaked or took too much memory; what did it is then named.
#   scripts/soak.sh fuzz [SECONDS]     SEED=N repeats a campaign's order of mutations (from the same corpus)
# What it finds worth keeping stays in fuzz/corpus, where the next campaign goes on from, and cargo fuzz, too.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup.sh
setup build

seconds=${1:-3600}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "usage: scripts/soak.sh fuzz [SECONDS]"
# libFuzzer takes 0 for "choose one".
seed=${SEED:-$((RANDOM * 32768 + RANDOM + 1))}
cores=$(nproc)

if ! cargo fuzz --version >/dev/null 2>&1; then
    # Unoptimised: it only calls cargo.
    cargo install --locked --debug cargo-fuzz
fi
# AddressSanitizer is not stable yet, but in every stable compiler.
export RUSTC_BOOTSTRAP=1
cargo fuzz build
built=${CARGO_TARGET_DIR:-fuzz/target}/$(rustc -vV | sed -n 's/^host: //p')/release
mapfile -t targets < <(cargo fuzz list)
each=$((seconds * cores / ${#targets[@]}))
[ "$each" -gt 0 ] || each=1
echo "seed $seed: ${#targets[@]} targets, $each s each, $cores at a time"

# run TARGET: one target for its share of the time
run() {
    mkdir -p "fuzz/corpus/$1" "fuzz/artifacts/$1"
    # 10 s for one input is for ever. No input makes a parser take more than 64 MiB at once: what a peer says is checked
    # before memory is taken for it.
    "$built/$1" "fuzz/corpus/$1" "fuzz/seeds/$1" -seed="$seed" -max_total_time="$each" -timeout=10 -malloc_limit_mb=64 \
        -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$1/" >"$logs/$1" 2>&1 ||
        echo "$1" >>"$logs/failed"
}

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$cores" ]; do wait -n; done
    run "$target" &
done
wait

total=0
printf '%-20s %14s\n' target executions
for target in "${targets[@]}"; do
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$target")
    printf '%-20s %14d\n' "$target" "${executions:-0}"
    total=$((total + ${executions:-0}))
done
printf '%-20s %14d\n' "total" "$total"
[ ! -f "$logs/failed" ] || {
    while read -r target; do
        printf '\n%s FAILED (seed %s): repeat it by\n    RUSTC_BOOTSTRAP=1 cargo fuzz run %s INPUT\n' "$target" "$seed" "$target"
        grep -aE 'panicked at|ERROR: |SUMMARY: |Test unit written to' "$logs/$target" || tail -n 5 "$logs/$target"
    done <"$logs/failed"
    exit 1
}
