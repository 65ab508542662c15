#!/usr/bin/env bash
# Builds target/ARCH-unknown-linux-musl/release/landro, which needs nothing of the host it runs on but the kernel: no C
# library, no loader. RUSTFLAGS are added to. Needs Debian's musl-tools, and the target by rustup.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
help_if_asked packaging/static.sh "$@"
setup static

arch=$(uname -m)
target=$arch-unknown-linux-musl
ours=$PWD/packaging/musl
built=$(realpath -m "${CARGO_TARGET_DIR:-target}")
find_static_target "$target"

mkdir -p "$built/musl"
musl-gcc -c -O2 -fPIC -o "$built/musl/single_threaded.o" "$ours/single_threaded.c"
# Names of variables have no hyphens.
of_target=${target//-/_}
export "CC_$of_target=musl-gcc" "CXX_$of_target=$ours/c++" "CMAKE_TOOLCHAIN_FILE_$of_target=$ours/toolchain.cmake"
export BINDGEN_EXTRA_CLANG_ARGS="-nostdinc -isystem $(clang -print-resource-dir)/include -isystem /usr/include/$arch-linux-musl"
export RUSTFLAGS="${RUSTFLAGS:-} -Clink-arg=$built/musl/single_threaded.o"
cargo build --release --locked --bin landro --target "$target"
landro=$built/$target/release/landro
if readelf --program-headers "$landro" | grep -q INTERP; then
    die "$landro asks for a loader: it is not static"
fi
# What packaging/Dockerfile makes an image of, a directory for each owner.
image=$built/musl/image
rm -rf "$image"
install -D -m 755 --strip "$landro" "$image/program/usr/bin/landro"
install -d "$image/program/usr/share/doc/landro"
packaging/third-party.sh "$target" >"$image/program/usr/share/doc/landro/third-party.txt"
install -m 644 LICENSE-APACHE LICENSE-MIT "$image/program/usr/share/doc/landro/"
install -d -m 750 "$image/owned/config" "$image/owned/files"
install -d -m 700 "$image/owned/tmp"
echo "built $landro, and without symbols $image/program/usr/bin/landro"
