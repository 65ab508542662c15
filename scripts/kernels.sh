#!/usr/bin/env bash
# Runs tests under Debian's own kernels, in an emulator:
#   scripts/kernels.sh [6.1|6.12|newest]... [-- CARGO TEST ARGUMENTS]
# Without arguments for cargo: what calls the kernel (sockets, rings, files), and copies over both kinds of lanes. A
# kernel that was fetched stays in target/kernels/; who wants Debian's latest deletes it there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup kernels
built=$(realpath -m "${CARGO_TARGET_DIR:-target}")

# Whatever the tests use that Debian builds as modules. What a kernel lacks of them it has built in, or does not need.
# TLS, and the ciphers that it asks the kernel for by name, which a machine without modprobe has to have before.
modules=(loop tls gcm ctr gf128mul ghash-generic seqiv cryptd crypto_simd aesni-intel ghash-clmulni-intel)

# apt with lists of its own: releases that the machine does not have. The mirror is the machine's.
apt_of() {
    local state=$built/kernels/apt-$1 mirror
    shift
    mkdir -p "$state"/lists/partial "$state"/cache/archives/partial
    if [ ! -e "$state/sources.list" ]; then
        mirror=$(apt-get indextargets --format '$(SITE)' 'Identifier: Packages' 'Label: Debian' | head -n 1)
        [ -n "$mirror" ] || die "apt knows no mirror of Debian"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror ${state##*/apt-} main" \
            > "$state/sources.list"
    fi
    "$@" -qq -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/nonexistent \
        -o Dir::State::Lists="$state/lists" -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root
}

# SUITE PACKAGE: the names of those it depends on directly.
needs_of() {
    apt_of "$1" apt-cache depends "$2" | sed -n 's/^ *\(Pre\)\?Depends: \(linux-[^ ]*cloud-amd64\)$/\2/p'
}

# A directory with vmlinuz, and in modules/ the modules in the order in which they are to be loaded.
get() {
    local name=$1 suite=$2 image debs=() version module file
    local dir=$built/kernels/$name
    # What was fetched for other modules has not all of these.
    if [ -e "$dir/vmlinuz" ] && [ "${modules[*]}" = "$(cat "$dir/wanted" 2>/dev/null)" ]; then
        return 0
    fi
    rm -rf "$dir" && mkdir -p "$dir/debs" "$dir/root" "$dir/modules"
    apt_of "$suite" apt-get update
    image=$(needs_of "$suite" linux-image-cloud-amd64 | grep '^linux-image-')
    # Newer packages are split: the image's own is empty, and needs those of the binary and of the modules.
    mapfile -t debs < <(echo "$image"; needs_of "$suite" "$image" | grep '^linux-\(binary\|modules\)-' || true)
    (cd "$dir/debs" && apt_of "$suite" apt-get download "${debs[@]}")
    for file in "$dir"/debs/*.deb; do
        dpkg-deb -x "$file" "$dir/root"
    done
    # modprobe looks in lib/, where older packages have them.
    [ -e "$dir/root/lib" ] || ln -s usr/lib "$dir/root/lib"
    version=${image#linux-image-}
    depmod -b "$dir/root" "$version"
    for module in "${modules[@]}"; do
        modprobe -q -d "$dir/root" -S "$version" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p' || true
    done | awk '!seen[$0]++' | while read -r file; do
        cp "$file" "$dir/modules/"
        file=$dir/modules/${file##*/}
        case $file in *.xz) xz -d "$file" && file=${file%.xz} ;; esac
        echo "${file##*/}" >> "$dir/modules/order"
    done
    echo "${modules[*]}" > "$dir/wanted"
    cp "$(find "$dir/root" -name 'vmlinuz*' -type f)" "$dir/vmlinuz.new"
    rm -rf "$dir/debs" "$dir/root"
    mv "$dir/vmlinuz.new" "$dir/vmlinuz"
}

names=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    names+=("$1")
    shift
done
[ ${#names[@]} -gt 0 ] || names=(6.1)
[ $# -eq 0 ] || shift

binaries=
if [ $# -eq 0 ]; then
    # All packages at once, as scripts/test.sh selects them: what that built is used again.
    binaries=$(cargo test --locked --workspace --lib --test kinds --no-run 2>&1 | tee /dev/stderr |
        sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
fi

# DIRECTORY TESTS ARGUMENT...: a test binary under the kernel, where cargo would run it.
run() {
    local binary root=$PWD
    binary=$(realpath "$(grep "/$2-" <<<"$binaries")")
    (cd "$1" && "$root/tests/kernels/boot.sh" "$built/kernels/$name" "$binary" "${@:3}")
}

for name in "${names[@]}"; do
    case $name in
    6.1) get "$name" bookworm ;;
    6.12) get "$name" trixie ;;
    newest) get "$name" sid ;;
    *) die "no kernel $name; there are 6.1, 6.12 and newest" ;;
    esac
    if [ $# -gt 0 ]; then
        cargo test --locked \
            --config "target.'cfg(unix)'.runner = ['$PWD/tests/kernels/boot.sh', '$built/kernels/$name']" "$@"
        continue
    fi
    # All but the longest, which an emulator takes minutes for, and one that a clock ends after a second.
    run sys landro_sys --skip tests::property --skip a_thousand_streams_are_each_told_once
    run . kinds a_megabyte_over_either_kind a_wrong_identity_over_tcp
    # Of these kernels one alone can renew keys of TLS (6.14), which lanes need.
    if [ "$name" = newest ]; then
        run . landro tcp_link
        run . kinds tls_in_the_kernel
    fi
done
