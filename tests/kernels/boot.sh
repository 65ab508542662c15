#!/usr/bin/env bash
# Runs one test binary under one kernel, and ends as it does: boot.sh KERNEL-DIRECTORY BINARY [ARGUMENT]...
# The machine is emulated (qemu, without KVM: the same everywhere) and is nothing but the kernel, its modules that
# scripts/kernels.sh took, the binary and `landro`, and busybox. cargo puts this in front of test binaries.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernel=$1 binary=$(realpath "$2")
shift 2

# Longest seen: 60 s. A machine that hangs is ended.
: "${LANDRO_KERNEL_SECONDS_MAX:=300}"
# Random, so that no test can print it.
mark=exit-$RANDOM$RANDOM$RANDOM

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,dev,etc,proc,root,sys,modules,tmp}

# A program with its libraries, each where it is here.
program() {
    local file
    while read -r file; do
        mkdir -p "$root$(dirname "$file")"
        [ -e "$root$file" ] || cp -L "$file" "$root$file"
    done < <(echo "$1"; ldd "$1" | grep -o '/[^ ]*')
}

cp "$(command -v busybox)" "$root/bin/busybox"
cp "$here/init" "$root/init"
cp "$kernel"/modules/* "$root/modules/"
program "$(PATH=$PATH:/sbin:/usr/sbin command -v mke2fs)"
program "$binary"
strip --strip-debug "$root$binary"
# Where tests of the command look for it (CARGO_BIN_EXE_landro).
landro=$(dirname "$(dirname "$binary")")/landro
if [ -e "$landro" ]; then
    program "$landro"
    strip --strip-debug "$root$landro"
fi
# mke2fs looks there whether the disk is mounted.
touch "$root/etc/mtab"
echo '127.0.0.1 localhost' > "$root/etc/hosts"
echo 'root:x:0:0::/root:/bin/sh' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
mkdir -p "$root$PWD"
{
    printf 'TEST_DIR=%q\nTEST_MARK=%q\n' "$PWD" "$mark"
    printf 'TEST_TMP=%q\n' "$(dirname "$(dirname "$(dirname "$binary")")")/tmp"
    printf 'TEST_COMMAND=%q\n' "$(printf '%q ' "$binary" "$@")"
} > "$root/test.env"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$work/initramfs"

# `max`: with the instructions for AES that cryptography looks for. Without random.trust_cpu the first random number
# waits for entropy.
timeout --foreground "$LANDRO_KERNEL_SECONDS_MAX" qemu-system-x86_64 \
    -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nodefaults -no-reboot -display none -serial stdio \
    -kernel "$kernel/vmlinuz" -initrd "$work/initramfs" \
    -append "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=1" < /dev/null |
    sed -u 's/\r//' | tee "$work/said" | grep -v --line-buffered "^$mark" || true
status=$(sed -n "s/^$mark //p" "$work/said")
if [ -z "$status" ]; then
    echo "the machine under $(basename "$kernel") ended without a word, or was ended after $LANDRO_KERNEL_SECONDS_MAX s" >&2
    exit 1
fi
exit "$status"
