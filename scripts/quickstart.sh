#!/usr/bin/env bash
# From a bare Debian machine to files crossing QUIC: installs what building needs, builds landro, runs a daemon on
# loopback in a temporary directory, copies a 1 GiB file and 10,000 files of 4 KiB there and back, compares every
# byte, and prints what it cost. Everything it made is removed at the end, except the build in target/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup build

big_bytes=$((1 << 30))
directories=100
files_each=100
file_bytes=4096

cargo build --release --locked
landro=${CARGO_TARGET_DIR:-target}/release/landro

# 3 copies of everything. In memory if there is room, so that no disk is what is measured.
need_kib=$((3 * (big_bytes + directories * files_each * file_bytes) / 1024 + 512 * 1024))
room_kib() { df --output=avail -k "$1" 2>/dev/null | tail -n 1; }
memory_kib=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
if [ -w /dev/shm ] && [ "$(room_kib /dev/shm)" -gt "$need_kib" ] && [ "$memory_kib" -gt $((need_kib + 1024 * 1024)) ]; then
    base=/dev/shm where="in memory (/dev/shm)"
else
    base=${TMPDIR:-/tmp} where="on disk ($base), which may be the bottleneck"
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
echo "daemon at $url, files $where"

echo "making 1 GiB and $((directories * files_each)) files of $file_bytes bytes"
head -c "$big_bytes" /dev/urandom >"$work/source/big"
mkdir "$work/source/small"
for i in $(seq "$directories"); do
    mkdir "$work/source/small/$i"
    head -c $((files_each * file_bytes)) /dev/urandom | split -b "$file_bytes" -a 3 -d - "$work/source/small/$i/f"
done

# ---- measuring: user and system time of the daemon from /proc, in clock ticks
ticks=$(getconf CLK_TCK)
daemon_ticks() { awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$daemon/stat"; }
number() { sed -n 's/.*"'"$1"'":\([0-9.eE+-]*\).*/\1/p' <<<"$summary"; }

printf '\n%-24s %8s %8s %9s   %-19s %-19s\n' "" "" "" "" "CPU s/GB" "peak memory MB"
printf '%-24s %8s %8s %9s   %-9s %-9s %-9s %-9s\n' "" seconds Gbit/s files/s client daemon client daemon

# run NAME SRC DST: one copy, one row
run() {
    local before after peak_kib
    # Writing 5 resets the daemon's high-water mark to what it uses now.
    echo 5 >"/proc/$daemon/clear_refs" 2>/dev/null || true
    before=$(daemon_ticks)
    if ! client cp --json --stats --peer "$server_id" "$2" "$3" >"$work/events" 2>"$work/errors"; then
        cat "$work/errors" "$work/daemon.log" >&2
        die "$1 failed"
    fi
    after=$(daemon_ticks)
    peak_kib=$(awk '/^VmHWM/ { print $2 }' "/proc/$daemon/status")
    summary=$(tail -n 1 "$work/events")
    awk -v name="$1" -v seconds="$(number seconds)" -v bytes="$(number bytes)" -v files="$(number files)" \
        -v user_s="$(number cpu_user_seconds)" -v system_s="$(number cpu_system_seconds)" \
        -v rss="$(number peak_rss_bytes)" -v daemon_cpu="$((after - before))" -v ticks="$ticks" -v hwm="$peak_kib" 'BEGIN {
            gb = bytes / 1e9
            printf "%-24s %8.3f %8.2f %9.0f   %-9.2f %-9.2f %-9.1f %-9.1f\n", name, seconds, gb * 8 / seconds,
                files / seconds, (user_s + system_s) / gb, daemon_cpu / ticks / gb, rss / 1e6, hwm * 1024 / 1e6
        }'
}

run "1 GiB there" "$work/source/big" "${url}big"
run "1 GiB back" "${url}big" "$work/back/big"
run "10,000 files there" "$work/source/small" "${url}small"
run "10,000 files back" "${url}small" "$work/back/small"

cmp "$work/source/big" "$work/served/big"
cmp "$work/source/big" "$work/back/big"
diff -r "$work/source/small" "$work/served/small"
diff -r "$work/source/small" "$work/back/small"
echo
echo "every byte compared: identical, both ways"
