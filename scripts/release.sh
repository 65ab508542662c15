#!/usr/bin/env bash
# Builds target/release/landro with profile-guided optimisation: once with counters, which a few copies over loopback
# fill, and again with what they counted. About twice as long as `cargo build --release`, for 10 % less time and CPU
# (docs/performance.md). Needs llvm-profdata of rustc's own LLVM, from rustup's llvm-tools or Debian's llvm-NN.
#   scripts/release.sh [--static] [--deb] [--all]
#   --static  also the binary for hosts of any distribution (packaging/static.sh), by the same counters
#   --deb     also the Debian package (packaging/deb.sh)
#   --all     both
# With any of these all that was built is in target/dist, with its checksums in SHA256SUMS; in its directory share is what
# belongs beside a binary by itself: unit, configuration, examples, pages, completions, licences.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
help_if_asked scripts/release.sh "$@"
setup build

# Of another major version it cannot read what rustc's counters wrote.
llvm_version=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
profdata=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/llvm-profdata
if [ ! -x "$profdata" ]; then
    install_packages "llvm-$llvm_version" ||
        die "llvm-profdata of LLVM $llvm_version is missing. Get it by: rustup component add llvm-tools"
    profdata=llvm-profdata-$llvm_version
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
counters=$target/pgo-counters
work='' daemon=''
clean_up() {
    # One that ended by itself is none of our business any more.
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# What is counted: big files and small ones, there and back, on both backends.
train() {
    local landro=$1 backend client_id url server_id
    # Packets as on Ethernet, not the 16 kB that loopback takes; only a network namespace of one's own allows it.
    ip link set lo up mtu 1500 2>/dev/null || true
    client() { LANDRO_CONFIG_DIR=$work/client "$landro" "$@" >/dev/null; }
    client_id=$(LANDRO_CONFIG_DIR=$work/client "$landro" id)
    mkdir "$work/served" "$work/back" "$work/small"
    head -c $((256 << 20)) /dev/urandom >"$work/big"
    head -c $((2000 * 4096)) /dev/urandom | split -b 4096 -a 4 - "$work/small/"
    for backend in io_uring poll; do
        LANDRO_CONFIG_DIR=$work/server "$landro" serve "$work/served" --listen 127.0.0.1:0 --allow "$client_id" \
            --backend "$backend" >"$work/ready" 2>"$work/log" &
        daemon=$!
        for _ in $(seq 200); do
            grep -q '^listening on ' "$work/ready" && break
            if ! kill -0 "$daemon" 2>/dev/null; then
                # Where io_uring is forbidden there is nothing to count of it.
                [ "$backend" = io_uring ] || die "the daemon did not start: $(cat "$work/log")"
                continue 2
            fi
            sleep 0.1
        done
        read -r _ _ url _ server_id <"$work/ready" || die "the daemon is not ready after 20 s: $(cat "$work/log")"
        for _ in 1 2 3; do
            client cp --backend "$backend" --peer "$server_id" "$work/big" "${url}big"
            client cp --backend "$backend" --peer "$server_id" "${url}big" "$work/back/big"
            client cp --backend "$backend" --peer "$server_id" "$work/small" "${url}small"
            client cp --backend "$backend" --peer "$server_id" "${url}small" "$work/back/small"
            rm -rf "$work/served/"* "$work/back/"*
        done
        # It writes its counters when it ends.
        kill "$daemon"
        wait "$daemon"
        daemon=''
    done
}

if [ "${1:-}" = train ]; then
    work=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)/landro-release.XXXXXX")
    train "$counters/release/landro"
    exit
fi

static='' deb=''
for word in "$@"; do
    case $word in
    --static) static=1 ;;
    --deb) deb=1 ;;
    --all) static=1 deb=1 ;;
    *) die "there is no $word; scripts/release.sh --help says what there is" ;;
    esac
done

# Whatever they lack is said now, and not after two builds.
if [ -n "$static" ]; then
    setup static
    find_static_target "$(uname -m)-unknown-linux-musl"
fi
if [ -n "$deb" ]; then
    find_cargo_deb
    # shellcheck disable=SC1091 # of the host
    made_on=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}") || made_on=''
    [ "$made_on" = "debian 12" ] || echo "$0: this is ${made_on:-unknown}, not Debian 12: the package will demand the \
C library of this system, or later, and not be installable where an older one is" >&2
fi

rm -rf "$counters/raw" "$counters/"landro-*.profdata
RUSTFLAGS="-Cprofile-generate=$counters/raw" CARGO_TARGET_DIR=$counters cargo build --release --locked --bin landro
if unshare --map-root-user --net true 2>/dev/null; then
    unshare --map-root-user --net "$0" train
else
    "$0" train
fi
"$profdata" merge -o "$counters/merged" "$counters/raw"
# By its content, for cargo looks at the name only.
profile=$counters/landro-$(sha256sum "$counters/merged" | cut -c 1-16).profdata
mv "$counters/merged" "$profile"
RUSTFLAGS="-Cprofile-use=$profile" CARGO_TARGET_DIR=$target cargo build --release --locked --bin landro
echo "built $target/release/landro"
[ -n "$static$deb" ] || exit 0

dist=$target/dist.new
name=landro-$("$target/release/landro" --version | cut -d ' ' -f 2)-$(uname -m)-linux
rm -rf "$dist"
install -D --strip "$target/release/landro" "$dist/$name-gnu"
# Whoever passes the binaries on passes these notices on.
packaging/third-party.sh >"$dist/third-party.txt"
share=$dist/share
mkdir -p "$share/examples"
install -m 644 LICENSE-APACHE LICENSE-MIT packaging/landro.service packaging/landro.toml "$share/"
install -m 644 packaging/default "$share/landro.default"
install -m 644 packaging/examples/* "$share/examples/"
date=$(git log -1 --format=%cs 2>/dev/null || date +%F)
CARGO_TARGET_DIR=$target cargo run --locked --quiet -p landro-pages -- "$share" "$date"
rm -r "$share/help"
if [ -n "$static" ]; then
    RUSTFLAGS="-Cprofile-use=$profile" CARGO_TARGET_DIR=$target packaging/static.sh
    # Of musl, too.
    install -m 644 "$target/musl/image/program/usr/share/doc/landro/third-party.txt" "$dist/third-party.txt"
    install "$target/musl/image/program/usr/bin/landro" "$dist/$name-static"
fi
if [ -n "$deb" ]; then
    rm -f "$target/debian/"landro_*.deb
    CARGO_TARGET_DIR=$target packaging/deb.sh
    install -m 644 "$target/debian/"landro_*.deb "$dist/"
fi
(cd "$dist" && find . -type f ! -name SHA256SUMS -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum -- >SHA256SUMS)
# Whole or not at all.
rm -rf "$target/dist"
mv "$dist" "$target/dist"
ls -lR "$target/dist"
