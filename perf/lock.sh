#!/usr/bin/env bash
# Sourced by who makes or uses the lab: its namespaces have fixed names, and two measurements at a time measure each
# other. perf/run and perf/tuning take the same lock (perf/harness/bench.py).

# lock_lab: takes it until this script ends, or dies. What a holder calls finds it taken, and is told by the variable.
lock_lab() {
    if [ "${LANDRO_LAB_LOCKED:-}" = yes ]; then return; fi
    exec {lab_lock}>/run/landro-perf.lock
    flock --nonblock "$lab_lock" ||
        die "another measurement runs on this machine (it holds /run/landro-perf.lock); wait for its end"
    export LANDRO_LAB_LOCKED=yes
}
