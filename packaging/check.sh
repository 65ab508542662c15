#!/usr/bin/env bash
# Judges the Debian package: lintian finds nothing; it installs into a bare Debian 12, where a real systemd runs the unit
# with all its restrictions and files cross it; a daemon that hangs is killed and started anew; and it goes without
# leaving anything but data. Root only; takes a minute, and debootstrap another.
#   packaging/check.sh FILE.deb
# The bare Debian is kept in target/bookworm; what it installs is done in a copy of it, with no network but loopback.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
help_if_asked packaging/check.sh "$@"
[ $# = 1 ] && [ -r "$1" ] || die "usage: packaging/check.sh FILE.deb (packaging/deb.sh makes one)"
[ "$(id -u)" = 0 ] || die "run this as root: it installs packages in a root directory, and boots it"
deb=$(realpath "$1")
setup package

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
bare=$target/bookworm
parts=adduser,bash-completion,dbus,iproute2,man-db,systemd,systemd-sysv

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

step "lintian"
lintian --allow-root --tag-display-limit 0 --fail-on error,warning "$deb"

step "a bare Debian 12"
if [ ! -e "$bare/usr/bin/systemctl" ]; then
    # Kept is what was finished; with file systems of its own mounted, debootstrap was killed, and they stay as they are.
    mkdir -p "$target"
    rm -rf --one-file-system "$bare" "$bare.new"
    debootstrap --variant=minbase --include="$parts" bookworm "$bare.new" >"$target/bookworm.log" ||
        die "debootstrap failed: $(tail -n 5 "$target/bookworm.log")"
    mv "$bare.new" "$bare"
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/landro-check.XXXXXX")
root=$work/root console=$work/console
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$root"
cp -a --reflink=auto "$bare/." "$root"
# Minimal systems leave documentation out, and what is to be seen here is whether it can be read.
rm -f "$root/etc/dpkg/dpkg.cfg.d/"*

step "it installs"
install -m 644 "$deb" "$root/landro.deb"
# Without a service manager, as in an image that is built: maintainer scripts have to do without, too.
unshare --mount --pid --fork --mount-proc="$root/proc" chroot "$root" dpkg -i /landro.deb
install -m 755 packaging/check-inside.sh "$root/check-inside.sh"
cat >"$root/etc/systemd/system/landro-check.service" <<'END'
[Unit]
After=dbus.service
[Service]
Type=oneshot
ExecStart=/check-inside.sh
ExecStopPost=systemctl poweroff --no-block
TimeoutStartSec=180
StandardOutput=append:/check.log
StandardError=append:/check.log
END
ln -s ../landro-check.service "$root/etc/systemd/system/multi-user.target.wants/"

step "systemd boots"
# nspawn's own filter forbids io_uring, as container engines do; the unit's is what is looked at here.
timeout --kill-after=10 240 systemd-nspawn --quiet --directory="$root" --register=no --keep-unit --private-network \
    --console=pipe --system-call-filter=@aio --boot >"$console" 2>&1 || true
cat "$root/check.log" 2>/dev/null || true
if ! grep -qx 'all is well' "$root/check.log" 2>/dev/null; then
    tail -n 20 "$console"
    die "the package does not do what it is to (above)"
fi
step "the package is as it should be"
