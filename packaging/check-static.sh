#!/usr/bin/env bash
# Judges the static binary: in an empty root, as nobody in particular, it serves and copies, on both kinds of lanes, and
# finds addresses by /etc/hosts and by the name servers of /etc/resolv.conf. Root only; takes seconds, and no network but
# a loopback of its own.
#   packaging/check-static.sh [FILE]
# FILE: the binary; without it what packaging/static.sh built.
set -euo pipefail
self=$(realpath "$0") given=${1:-}
[ -z "$given" ] || [[ $given == -* ]] || given=$(realpath "$given")
cd "$(dirname "$self")/.."
. scripts/setup.sh
help_if_asked packaging/check-static.sh "$given"
landro=${given:-$(realpath -m "${CARGO_TARGET_DIR:-target}")/musl/image/program/usr/bin/landro}
[ -x "$landro" ] || die "$landro is missing; packaging/static.sh builds it"
[ "$(id -u)" = 0 ] || die "run this as root: it changes the root directory of what it runs"
setup static-check
if [ -z "${LANDRO_CHECK_WITHIN:-}" ]; then
    LANDRO_CHECK_WITHIN=1 exec unshare --net --mount "$self" "$landro"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/landro-static.XXXXXX")
daemon='' names=''
clean_up() {
    # Until they are gone, their files and mounts are in use. The daemon takes 12 s at most.
    for pid in $daemon $names; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    umount -l "$work"/*/proc 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
ip link set lo up

# Two roots with the binary, a directory for keys and one for files, and /proc, as every container has it, through which
# files without a name get theirs. Nothing else: no library, no /etc, no /dev.
for root in "$work/here" "$work/there"; do
    mkdir -p "$root/config" "$root/files" "$root/proc"
    mount -t proc proc "$root/proc"
    install -m 755 "$landro" "$root/landro"
    chown -R 4433:4433 "$root/config" "$root/files"
done
chroot=$(command -v chroot)
# In place of a shell of its own, so that a signal reaches landro and not that.
become() { exec env -i LANDRO_CONFIG_DIR=/config "$chroot" --userspec=4433:4433 "$work/$1" /landro "${@:2}"; }
within() { (become "$@"); }
client=$(within here id) || die "$landro does not run where nothing else is: is it the static one?"
become there serve /files --allow "$client" >"$work/ready" 2>"$work/log" &
daemon=$!
for _ in $(seq 100); do
    grep -q '^listening on ' "$work/ready" && break
    kill -0 "$daemon" 2>/dev/null || die "the daemon did not start: $(cat "$work/log")"
    sleep 0.1
done
read -r _ _ _ _ server <"$work/ready" || die "the daemon is not ready after 10 s: $(cat "$work/log")"
grep ' serving ' "$work/log"

head -c 50000000 /dev/urandom >"$work/here/files/big"
for kind in quic tls; do
    within here cp --peer "$server" --lane-kinds "$kind" --summary files/big "landro://127.0.0.1/$kind"
    cmp "$work/here/files/big" "$work/there/files/$kind"
done
within here cp --peer "$server" landro://127.0.0.1/quic files/back
cmp "$work/here/files/big" "$work/here/files/back"

# A name server that knows one name, for musl asks those of resolv.conf itself: over UDP, and since musl 1.2.4 by TCP
# where an answer is cut short, which these are not.
mkdir "$work/here/etc"
echo '127.0.0.1 by-hosts' >"$work/here/etc/hosts"
echo 'nameserver 127.0.0.53' >"$work/here/etc/resolv.conf"
python3 - <<'END' &
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))
while True:
    asked, whose = server.recvfrom(512)
    end = asked.index(b"\0", 12) + 5
    question, is_a = asked[12:end], asked[end - 4:end - 2] == b"\0\1"
    found = question.startswith(b"\x09by-server")
    flags = b"\x81\x80" if found else b"\x81\x83"
    answers = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if found and is_a else b""
    count = b"\0\1" if answers else b"\0\0"
    server.sendto(asked[:2] + flags + b"\0\1" + count + b"\0\0\0\0" + question + answers, whose)
END
names=$!
sleep 0.5
for name in by-hosts by-server.example; do
    within here ls --peer "$server" "landro://$name/" | grep -qx quic || die "$name is not found"
    echo "found $name"
done
code=0
said=$(within here ls --peer "$server" landro://nobody.example/ 2>&1) || code=$?
[ "$code" = 5 ] || die "a name that nobody knows: exit code $code: $said"
echo "$said"

kill "$daemon"
wait "$daemon" || die "the daemon ended with $?: $(cat "$work/log")"
daemon=''
echo "all is well"
