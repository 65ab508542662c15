#!/usr/bin/env bash
# Installs what building landro, testing it ("test" includes "build") or a part of the laboratory needs on Debian, if
# it is missing. Sourced by the other scripts, which then find cargo in PATH; run by itself it only installs.
#   scripts/setup.sh [build|static|package|static-check|test|kernels|lab|peers|profile]
# package: what packaging/check.sh installs the Debian package in, and judges it by; static-check: that of
# packaging/check-static.sh.
# peers: what perf/run measures landro with and against, all but those of crates.io.

build_needs=(build-essential ca-certificates clang cmake curl git libclang-dev pkg-config)
static_needs=(musl musl-tools)
package_needs=(debootstrap dpkg-dev lintian mandoc systemd systemd-container)
static_check_needs=(iproute2 python3-minimal util-linux)
test_needs=(bpftool btrfs-progs clang e2fsprogs ethtool fish iproute2 libbpf-dev linux-libc-dev man-db mandoc procps python3
    strace systemd util-linux xfsprogs zsh)
kernels_needs=(binutils busybox-static cpio e2fsprogs kmod qemu-system-x86 xz-utils)
lab_needs=(bpftool clang ethtool iperf3 iproute2 jq kmod libbpf-dev linux-libc-dev procps)
peers_needs=(curl iperf3 nginx-light openssh-client openssh-server openssl python3-matplotlib rclone rsync)
profile_needs=(iproute2 libc6-dbg linux-perf valgrind)

die() {
    echo "$0: $*" >&2
    exit 1
}

# help_if_asked FILE [WORD]: where WORD asks for help, prints what stands above the code of FILE, and that is all.
help_if_asked() {
    case "${2:-}" in --help | -h) ;; *) return 0 ;; esac
    sed -n '2,/^[^#]/{ /^#/s/^# \{0,1\}//p }' "$1"
    exit 0
}

install_packages() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "this is not Debian; install the likes of: ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "run this as root, or install: ${missing[*]}"
        as_root=(sudo)
    fi
    echo "installing ${missing[*]}" >&2
    "${as_root[@]}" apt-get update -q >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

install_peers() {
    local service new=()
    # Installing these starts a server for everybody. The lab starts its own, where only the lab reaches them.
    for service in nginx:nginx-light ssh:openssh-server rsync:rsync; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "${service#*:}" 2>/dev/null)" = installed ] || new+=("${service%:*}")
    done
    install_packages "${build_needs[@]}" "${lab_needs[@]}" "${peers_needs[@]}"
    [ ${#new[@]} = 0 ] || [ ! -d /run/systemd/system ] || systemctl disable --quiet --now "${new[@]}"
}

find_rust() {
    # A shell that was open while rustup was installed has not got its directory in PATH yet.
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null && return 0
    die "Rust is missing. Get it by rustup, then run this again:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
}

# find_static_target NAME: Rust's library for it
find_static_target() {
    [ -d "$(rustc --print sysroot)/lib/rustlib/$1" ] || rustup target add "$1" ||
        die "Rust's library for $1 is missing. Get it by: rustup target add $1"
}

# Makes the Debian package. Unoptimised: it runs for seconds and would build for minutes more.
find_cargo_deb() {
    local version=3.8.0
    [ "$(cargo deb --version 2>/dev/null)" = "cargo-deb $version" ] ||
        cargo install --locked --debug --version "$version" cargo-deb || die "cargo-deb $version cannot be installed"
}

setup() {
    case "${1:-build}" in
    build) install_packages "${build_needs[@]}" ;;
    static) install_packages "${build_needs[@]}" "${static_needs[@]}" ;;
    package | static-check)
        # No Rust: they judge what is built already, as root, who seldom has it.
        if [ "$1" = package ]; then
            install_packages "${package_needs[@]}"
        else
            install_packages "${static_check_needs[@]}"
        fi
        return
        ;;
    test) install_packages "${build_needs[@]}" "${test_needs[@]}" ;;
    kernels) install_packages "${build_needs[@]}" "${kernels_needs[@]}" ;;
    profile) install_packages "${build_needs[@]}" "${profile_needs[@]}" ;;
    lab)
        # No Rust: the lab is for whatever there is to run in it.
        install_packages "${lab_needs[@]}"
        return
        ;;
    peers)
        install_peers
        # No Rust yet: root, who measures, seldom has it, and perf/run builds as the user who called sudo.
        return
        ;;
    *) die "usage: $0 [build|static|package|static-check|test|kernels|lab|peers|profile]" ;;
    esac
    find_rust
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -eu
    help_if_asked "$0" "$@"
    setup "$@"
fi
