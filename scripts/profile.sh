#!/usr/bin/env bash
# Where the time of a transfer goes and what its memory holds, sender and receiver apart. Output in perf/out/.
#   scripts/profile.sh flamegraph | perf | valgrind | all [-- COMMAND...]
# flamegraph  a flame graph (SVG) of each side, user and kernel
# perf        the same samples as text: by function, and what each calls
# valgrind    the heap at its peak by who allocated it (massif), of a smaller transfer; slab buffers are mapped, so not
#             in it
# COMMAND is profiled instead of the transfer; `landro` in it is the build that is made for this, with frame pointers.
#
# The transfer is `landro cp` of 1 GiB in memory to a daemon, five times: between the hosts of perf/lab if they are up
# (`perf/lab up gbe`), else over a wire of perf/lab's mode `raw`, else (not as root) over loopback.
# Samples are taken by the clock, as virtual machines have no hardware counters. Without NMIs a sample that falls into
# kernel code with interrupts off shows up where that code turns them on again (…_irqrestore and the like).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
. perf/lock.sh

sample_hz=997 # a prime: in step with no timer
big_bytes=$((1 << 30))
copies=5                     # one takes a second, and a thousand samples are few
valgrind_bytes=$((64 << 20)) # every instruction is simulated
out=perf/out

usage() {
    [ $# = 0 ] || printf '%s: %s\n\n' "$0" "$*" >&2
    sed -n '2,8s/^# \{0,1\}//p' scripts/profile.sh >&2
    exit 2
}

help_if_asked scripts/profile.sh "$@"
what=${1:-}
case $what in flamegraph | perf | valgrind | all) shift ;; *) usage "'$what' is nothing to do" ;; esac
if [ $# -gt 0 ]; then
    if [ "$1" != -- ] || [ $# = 1 ]; then usage "a command to profile comes after --"; fi
    shift
fi
command=("$@")
# wanted KIND...
wanted() {
    [ "$what" = all ] || [[ " $* " = *" $what "* ]]
}

base=/dev/shm
[ -w $base ] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/landro-profile.XXXXXX")
lab_is_ours='' daemon='' on_a=() on_b=() address=127.0.0.1 made=()

clean_up() {
    [ -z "$daemon" ] || stop_daemon
    [ -z "$lab_is_ours" ] || perf/lab down
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- the build and two hosts for it

# build CARGO_OPTION...: into a target directory of its own, as other flags would rebuild everything in the usual one.
# BoringSSL's assembly has no frames either way; it leaves the frame pointer alone, so that its caller's caller is
# found. Rust's std comes with frame pointers.
build() {
    local c_flags="-fno-omit-frame-pointer -mno-omit-leaf-frame-pointer"
    CARGO_TARGET_DIR=target/profile RUSTFLAGS="-C force-frame-pointers=yes" CFLAGS=$c_flags CXXFLAGS=$c_flags \
        cargo build --release --locked --bin landro "$@"
}

find_hosts() {
    if [ "$(id -u)" != 0 ]; then
        echo "not as root: over loopback, whose packets are larger than a network's"
        return
    fi
    if ! ip netns list | grep -q '^landro-a\b'; then
        lab_is_ours=yes
        perf/lab up raw
    fi
    on_a=(ip netns exec landro-a) on_b=(ip netns exec landro-b) address=198.18.0.2
}

# make_source BYTES: $work/big, to be copied
make_source() {
    head -c "$1" /dev/urandom >"$work/big"
}

# start_daemon PREFIX...: runs one below it; sets url and server_id
start_daemon() {
    local client_id
    client_id=$(LANDRO_CONFIG_DIR=$work/client landro id)
    mkdir -p "$work/served"
    LANDRO_CONFIG_DIR=$work/server "${on_b[@]}" "$@" landro serve "$work/served" --listen $address:0 \
        --allow "$client_id" --backend "$backend" >"$work/ready" 2>"$work/daemon.log" &
    daemon=$!
    for _ in $(seq 300); do
        grep -q '^listening on ' "$work/ready" && break
        kill -0 $daemon 2>/dev/null || break
        sleep 0.1
    done
    read -r _ _ url _ server_id <"$work/ready" || die "the daemon did not start: $(tail "$work/daemon.log")"
}

# What is told to end is perf, which passes it on, or the daemon itself below valgrind.
stop_daemon() {
    kill $daemon 2>/dev/null || true
    wait $daemon || true
    daemon=
}

# ---- samples

install_inferno() {
    tools=$PWD/target/tools
    [ -x "$tools/bin/inferno-flamegraph" ] || cargo install --quiet --locked --root "$tools" inferno@0.12.8
}

# sampling NAME: the words that run a command with its samples taken
sampling() {
    echo perf record --quiet --event cpu-clock --freq $sample_hz --call-graph fp --output "$out/$1.data" --
}

# show NAME [SELECTION...]: what was asked for of NAME's samples; the selection is options of `perf script` and report
show() {
    # Inlined functions would be looked up by addr2line, address by address, which takes many minutes.
    local source=(--no-inline --input "$out/$1.data" "${@:2}")
    if wanted flamegraph; then
        # All workers in one tower.
        perf script "${source[@]}" 2>"$work/log" | "$tools/bin/inferno-collapse-perf" 2>>"$work/log" |
            sed 's/^landro-[0-9]*;/landro worker;/' >"$work/folded" || die "no samples of $1: $(tail -n 5 "$work/log")"
        "$tools/bin/inferno-flamegraph" --title "landro: $1" --countname ns --hash --minwidth 0.05 \
            "$work/folded" >"$out/$1.svg"
        made+=("$out/$1.svg")
    fi
    if wanted perf; then
        {
            source+=(--stdio --percentage relative)
            echo "# By function"
            perf report "${source[@]}" --no-children --call-graph none --sort dso,symbol --percent-limit 0.2
            echo "# By function and all below it, with what it calls"
            perf report "${source[@]}" --children --call-graph graph,1,caller --sort symbol --percent-limit 1
        } >"$out/$1.txt" 2>"$work/log" || die "perf report of $1: $(tail -n 5 "$work/log")"
        made+=("$out/$1.txt")
    fi
}

sample_transfer() {
    backend=auto
    make_source $big_bytes
    # shellcheck disable=SC2046 # words of a command
    start_daemon $(sampling receiver)
    # The copy is removed each time, as going over an old one costs its removal to the receiver.
    # shellcheck disable=SC2016 disable=SC2046 # for the inner shell; words of a command
    LANDRO_CONFIG_DIR=$work/client "${on_a[@]}" $(sampling sender) sh -c '
        for _ in $(seq "$1"); do
            landro cp --peer "$2" "$3" "$4" && rm "$5" || exit
        done' sh $copies "$server_id" "$work/big" "$url" "$work/served/big" ||
        die "the transfer failed: $(cat "$work/daemon.log")"
    stop_daemon
    # Without the shell: landro and its workers are landro, landro-0, landro-1 …
    local threads
    threads=landro,$(seq -s , -f landro-%g 0 "$(nproc)")
    show sender --comms "$threads"
    show receiver --comms "$threads"
}

# ---- memory

# watching NAME: the words that run a command with its heap watched
watching() {
    echo valgrind --tool=massif --log-file="$work/$1.log" --massif-out-file="$out/$1.massif"
}

tell_heap() {
    ms_print "$out/$1.massif" >"$out/$1.massif.txt"
    made+=("$out/$1.massif.txt")
}

# What valgrind needs: an allocator it can watch, and a kernel interface it knows.
prepare_valgrind() {
    build --no-default-features
    cc -O1 -fPIC -shared -o "$work/openat2.so" perf/openat2.c
    preloaded=(env LD_PRELOAD="$work/openat2.so")
}

watch_transfer() {
    backend=poll # valgrind sees nothing of what the kernel does in an io_uring
    make_source $valgrind_bytes
    # shellcheck disable=SC2046 # words of a command
    start_daemon "${preloaded[@]}" $(watching receiver)
    # shellcheck disable=SC2046
    LANDRO_CONFIG_DIR=$work/client "${on_a[@]}" "${preloaded[@]}" $(watching sender) \
        landro cp --backend $backend --peer "$server_id" "$work/big" "$url" ||
        die "the transfer failed: $(cat "$work/sender.log" "$work/daemon.log")"
    stop_daemon
    tell_heap sender
    tell_heap receiver
}

# ---- what was asked for

setup profile
# Two at a time would profile each other. Not as root, nobody is locked out, and none of the lab is used.
[ "$(id -u)" != 0 ] || lock_lab
mkdir -p $out
PATH=$PWD/target/profile/release:$PATH
[ ${#command[@]} -gt 0 ] || find_hosts
if wanted flamegraph perf; then
    ! wanted flamegraph || install_inferno
    build
    if [ ${#command[@]} -gt 0 ]; then
        # shellcheck disable=SC2046 # words of a command
        $(sampling command) "${command[@]}" || die "${command[0]} failed; no profile of that"
        show command
    else
        sample_transfer
    fi
fi
if wanted valgrind; then
    prepare_valgrind
    if [ ${#command[@]} -gt 0 ]; then
        # shellcheck disable=SC2046
        "${preloaded[@]}" $(watching command) "${command[@]}" || die "${command[0]} failed: $(tail "$work/command.log")"
        tell_heap command
    else
        watch_transfer
    fi
fi
printf '%s\n' "made:" "${made[@]}"
