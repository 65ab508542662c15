#!/usr/bin/env bash
# From a bare Debian machine to files crossing QUIC: installs what building needs, builds landro, runs a daemon on
# loopback in a temporary directory, copies a 1 GiB file and 10,000 files of 4 KiB there and back, compares every
# byte, and prints what it cost, beside a local cp of the same, and what limited it. Everything it made is removed at
# the end, except the build in target/.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
. scripts/setup.sh
help_if_asked scripts/quickstart.sh "$@"
setup build

big_bytes=$((1 << 30))
directories=100
files_each=100
file_bytes=4096

cargo build --release --locked
landro=${CARGO_TARGET_DIR:-target}/release/landro

# 3 copies of everything, and one by cp. In memory if there is room, so that no disk is what is measured.
need_kib=$((4 * (big_bytes + directories * files_each * file_bytes) / 1024 + 512 * 1024))
room_kib() { df --output=avail -k "$1" 2>/dev/null | tail -n 1; }
memory_kib=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
if [ -w /dev/shm ] && [ "$(room_kib /dev/shm)" -gt "$need_kib" ] && [ "$memory_kib" -gt $((need_kib + 1024 * 1024)) ]; then
    base=/dev/shm medium=memory
else
    base=${TMPDIR:-/tmp} medium=disk
    [ "$(room_kib "$base")" -gt "$need_kib" ] || die "not enough room in $base: $((need_kib / 1024)) MiB needed"
fi
work=$(mktemp -d "$base/landro-quickstart.XXXXXX")
daemon=

clean_up() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- two hosts on one: a directory each for their keys
mkdir "$work/source" "$work/served" "$work/back"
client() { LANDRO_CONFIG_DIR=$work/client "$landro" "$@"; }
client_id=$(client id)
LANDRO_CONFIG_DIR=$work/server "$landro" serve "$work/served" --listen 127.0.0.1:0 --allow "$client_id" \
    >"$work/ready" 2>"$work/daemon.log" &
daemon=$!
for _ in $(seq 100); do
    grep -q '^listening on ' "$work/ready" && break
    kill -0 "$daemon" 2>/dev/null || die "the daemon did not start: $(cat "$work/daemon.log")"
    sleep 0.1
done
read -r _ _ url _ server_id <"$work/ready" || die "the daemon is not ready after 10 s: $(cat "$work/daemon.log")"
echo "daemon at $url, files in $base ($medium)"

# A virtual machine gets its memory from the host when it first touches it, which takes many times as long as using it
# again: 1.6 Gbit/s in the first copy and 6.4 in the second. So it is touched before anything is measured: tail keeps all
# it may have to print.
touch_kib=$((memory_kib - 1024 * 1024))
[ "$touch_kib" -le "$need_kib" ] || touch_kib=$need_kib
if [ "$touch_kib" -gt 0 ]; then
    echo "touching $((touch_kib / 1024)) MiB of memory, so that the first copy does not pay for it"
    head -c "${touch_kib}K" /dev/zero | tail -c "${touch_kib}K" >/dev/null
fi
echo "making 1 GiB and $((directories * files_each)) files of $file_bytes bytes"
head -c "$big_bytes" /dev/urandom >"$work/source/big"
mkdir "$work/source/small"
for i in $(seq "$directories"); do
    mkdir "$work/source/small/$i"
    head -c $((files_each * file_bytes)) /dev/urandom | split -b "$file_bytes" -a 3 -d - "$work/source/small/$i/f"
done

# ---- measuring: user and system time of the daemon from /proc, in clock ticks
ticks=$(getconf CLK_TCK)
cores=$(nproc)
daemon_ticks() { awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$daemon/stat"; }
# All that all cores did, but for waiting.
machine_ticks() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat; }
number() { sed -n 's/.*"'"$1"'":\([0-9.eE+-]*\).*/\1/p' <<<"$summary"; }

printf '\n%-20s %8s %7s %8s  %9s  %13s  %13s  %13s\n' "" "" "" "" "local cp" "CPU s/GB" "% of a core" "peak MB"
printf '%-20s %8s %7s %8s  %9s  %6s %6s  %6s %6s  %6s %6s\n' \
    "" seconds Gbit/s files/s seconds client daemon client daemon client daemon

# run NAME SRC DST LOCAL_SRC: one copy, one row; then LOCAL_SRC by cp on the same file system
run() {
    local daemon_before machine_before daemon_cpu machine_cpu peak_kib cp_began cp_seconds
    # Writing 5 resets the daemon's high-water mark to what it uses now.
    echo 5 >"/proc/$daemon/clear_refs" 2>/dev/null || true
    daemon_before=$(daemon_ticks)
    machine_before=$(machine_ticks)
    if ! client cp --json --stats --peer "$server_id" "$2" "$3" >"$work/events" 2>"$work/errors"; then
        cat "$work/errors" "$work/daemon.log" >&2
        die "$1 failed"
    fi
    machine_cpu=$(($(machine_ticks) - machine_before))
    daemon_cpu=$(($(daemon_ticks) - daemon_before))
    peak_kib=$(awk '/^VmHWM/ { print $2 }' "/proc/$daemon/status")
    summary=$(tail -n 1 "$work/events")
    # Bytes, not a reference to the same blocks.
    cp_began=$EPOCHREALTIME
    cp -r --reflink=never "$4" "$work/by-cp"
    cp_seconds=$(awk -v from="$cp_began" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }')
    rm -rf "$work/by-cp"
    row=$(awk -v seconds="$(number seconds)" -v bytes="$(number bytes)" -v files="$(number files)" \
        -v user_s="$(number cpu_user_seconds)" -v system_s="$(number cpu_system_seconds)" \
        -v rss="$(number peak_rss_bytes)" -v daemon_cpu="$daemon_cpu" -v machine_cpu="$machine_cpu" \
        -v ticks="$ticks" -v hwm="$peak_kib" -v cp="$cp_seconds" 'BEGIN {
            gb = bytes / 1e9
            client_s = user_s + system_s
            daemon_s = daemon_cpu / ticks
            print seconds, gb * 8 / seconds, (files > 1 ? int(files / seconds) : "-"), cp, client_s / gb, daemon_s / gb,
                100 * client_s / seconds, 100 * daemon_s / seconds, rss / 1e6, hwm * 1024 / 1e6,
                100 * (machine_cpu / ticks - client_s - daemon_s) / seconds
        }')
    # shellcheck disable=SC2086 # the numbers of a row are words
    printf '%-20s %8.3f %7.2f %8s  %9.3f  %6.2f %6.2f  %6.0f %6.0f  %6.1f %6.1f\n' "$1" ${row% *}
}

# What limited the copy of the last row, from the client to the daemon, by the numbers measured.
limit() {
    awk -v cores="$cores" -v medium="$medium" -v row="$row" 'BEGIN {
        split(row, r, " ")
        seconds = r[1]; cp = r[4]; sender = r[7]; receiver = r[8]; others = r[11]
        busy = sprintf("client %.0f %%, daemon %.0f %% of a core", sender, receiver)
        # Both sides run one thread each for one copy; what they leave of a core is waiting.
        if (seconds <= cp * 1.1)
            what = sprintf("nothing of landro: a local cp of it took %.2f s (%s)", cp, busy)
        else if (sender + receiver + others >= 90 * cores && others >= 25 * cores)
            what = sprintf("other programs, which took %.0f %% of a core of the %d here (%s)", others, cores, busy)
        else if (sender + receiver >= 90 * cores)
            what = sprintf("the CPU: both sides share the %d core%s of this machine (%s)", cores, cores > 1 ? "s" : "", busy)
        else if (receiver >= 90 && receiver >= sender)
            what = sprintf("one core of the daemon, which decrypts, hashes and writes (%s)", busy)
        else if (sender >= 90)
            what = sprintf("one core of the client, which reads, hashes and encrypts (%s)", busy)
        else if (medium == "disk")
            what = sprintf("the disk, for both sides waited (%s)", busy)
        else
            what = sprintf("waiting for each other, neither side being busy all the time (%s)", busy)
        printf "what limited 1 GiB there: %s\n", what
    }'
}

run "1 GiB there" "$work/source/big" "${url}big" "$work/source/big"
limited=$(limit)
run "1 GiB back" "${url}big" "$work/back/big" "$work/source/big"
run "10,000 files there" "$work/source/small" "${url}small" "$work/source/small"
run "10,000 files back" "${url}small" "$work/back/small" "$work/source/small"

cmp "$work/source/big" "$work/served/big"
cmp "$work/source/big" "$work/back/big"
diff -r "$work/source/small" "$work/served/small"
diff -r "$work/source/small" "$work/back/small"
echo
echo "$limited"
echo "every byte compared: identical, both ways"
