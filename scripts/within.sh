#!/usr/bin/env bash
# Runs a test binary, and ends it if it hangs; cargo puts this in front of each (scripts/test.sh).
set -euo pipefail

# All binaries together take less than 25 minutes on two cores (.ci/run), and none of them half of that: one that takes
# longer than this hangs. What hung is known then before a CI's limit of an hour.
: "${LANDRO_TEST_SECONDS_MAX:=900}"

# The process and what it started.
tree() {
    local child
    echo "$1"
    for child in $(ps -o pid= --ppid "$1"); do
        [ "$child" = "$watchdog" ] || tree "$child"
    done
}

# What each thread waits for: D is a call in the kernel that no signal ends, as one of a FUSE mount without a server.
show() {
    local pid stack
    for pid in "$@"; do
        ps -ww -o pid=,etime=,args= -p "$pid" || continue
        ps -L -o tid=,stat=,wchan:32=,comm= -p "$pid" || true
        for stack in /proc/"$pid"/task/*/stack; do
            # Who is not root may not look.
            if [ -r "$stack" ]; then echo "$stack" && cat "$stack"; fi 2>/dev/null || true
        done
    done
}

watch() {
    local watchdog=$BASHPID pids
    # Nobody may be reading what is said.
    trap '' PIPE
    while kill -0 "$1" 2>/dev/null; do
        if [ "$SECONDS" -ge "$LANDRO_TEST_SECONDS_MAX" ]; then
            mapfile -t pids < <(tree "$1")
            {
                echo "$2 hangs: it is ended after $SECONDS s. Its tests that ran for over a minute are named above." || true
                show "${pids[@]}" || true
            } >&2
            kill -KILL "${pids[@]}" 2>/dev/null || true
            return
        fi
        sleep 0.2
    done
}

# The binary has the shell's place: what ends it, and how it ends, is between it and cargo.
watch $$ "$1" &
exec "$@"
