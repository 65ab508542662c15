#!/usr/bin/env bash
# What packaging/check.sh does within the root that it booted: the unit as installed, files across it, a daemon that
# hangs, an upgrade, and the end. The last line it prints is "all is well", if it is.
set -euo pipefail
export LC_ALL=C.UTF-8 HOME=/root
# It installs, removes and restarts: on a host that is somebody's it does nothing.
if [ "$(systemd-detect-virt --container)" != systemd-nspawn ] || [ ! -e /landro.deb ]; then
    echo "$0: only packaging/check.sh runs this, in the root that it booted" >&2
    exit 1
fi

step() { printf -- '-- %s (%d s)\n' "$1" "$SECONDS"; }
die() {
    echo "FAILED: $*"
    journalctl --no-pager -u landro -n 30
    exit 1
}
# wait_until SECONDS COMMAND...
wait_until() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$until" ] || die "not in time: $*"
        sleep 0.2
    done
}
trap 'die "line $LINENO: $BASH_COMMAND"' ERR
# has PATTERN COMMAND...: all of what the command says is read, so that a pipe that closes is nobody's failure.
has() {
    local said
    said=$("${@:2}")
    grep -q -- "$1" <<<"$said"
}
# What is logged goes to the journal itself, beside what systemd says of the unit, and may be under way yet.
logged() {
    journalctl --sync
    has "$1" journalctl --no-pager -o cat -u landro
}
main_pid() { systemctl show -P MainPID landro; }

step "installed, and neither enabled nor started"
[ "$(systemctl is-enabled landro)" = disabled ] || die "it is enabled: $(systemctl is-enabled landro)"
[ "$(systemctl is-active landro)" = inactive ] || die "it was started"
has '^landro:x:[0-9]*:[0-9]*:.*:/var/lib/landro:/usr/sbin/nologin$' getent passwd landro || die "no user landro"
verified=$(systemd-analyze verify landro.service 2>&1) && [ -z "$verified" ] || die "verify: $verified"
exposed=$(systemd-analyze security --offline=true --no-pager --threshold=20 /usr/lib/systemd/system/landro.service) ||
    die "it exposes more than 2.0: $exposed"
tail -n 1 <<<"$exposed"

step "pages and completions"
for page in landro landro-serve landro-cp landro-ls landro-clean landro-bench landro-id landro-peers landro-config; do
    has '^EXIT STATUS' env MANPAGER=cat man "$page" || die "man $page"
done
has '-F _landro' bash -c 'source /usr/share/bash-completion/bash_completion
    _completion_loader landro; complete -p landro' || die "bash does not complete"
for page in /usr/share/doc/landro/*.md; do
    for link in $(sed -nE 's/.*\]\(([^)#]+)[^)]*\).*/\1/p' "$page"); do
        [[ $link == http* ]] || [ -e "/usr/share/doc/landro/$link" ] || die "$page leads to $link, which is not there"
    done
done
for text in mimalloc 'fiat-crypto authors' 'its library'; do
    has "$text" zcat /usr/share/doc/landro/third-party.gz || die "no notice of $text"
done

step "a transfer under the unit"
landro id >/dev/null 2>&1
me=$(landro id)
systemctl start landro
[ "$(systemctl show -P ActiveState landro)" = active ] || die "it does not run"
echo "$me  # check" >>/var/lib/landro/config/authorized_peers
systemctl reload landro
daemon=$(landro id --of /var/lib/landro/config)
mkdir -p /tmp/tree/sub
head -c 40000000 /dev/urandom >/tmp/tree/big
for i in $(seq 300); do head -c $((i * 37)) /dev/urandom >"/tmp/tree/sub/$i"; done
landro cp --peer "$daemon" --summary /tmp/tree landro://127.0.0.1/
landro cp --peer "$daemon" --fsync --summary landro://127.0.0.1/tree /tmp/back
diff -r /tmp/tree /tmp/back && diff -r /tmp/tree /var/lib/landro/files/tree || die "not the same bytes"
landro cp --peer "$daemon" --lane-kinds tls --force /tmp/tree/big landro://127.0.0.1/over-tls
cmp /tmp/tree/big /var/lib/landro/files/over-tls || die "not the same bytes over TLS"
logged '^serving ' || die "it does not say what it serves by"
journalctl --no-pager -o cat -u landro | grep '^serving '
journalctl --sync
has . journalctl --no-pager -o cat "LANDRO_PEER=$me" || die "the journal does not know who came"
journalctl --no-pager -o cat "LANDRO_PEER=$me" | head -n 3
# Visits are written every ten seconds at most.
came() { has "^$me .*127.0.0.1" landro peers --of /var/lib/landro/config 2>/dev/null; }
wait_until 30 came
landro peers --of /var/lib/landro/config
if [ "$(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo 0)" = 0 ]; then
    logged 'serving .* on io_uring' || die "no io_uring under the unit"
fi
status=/proc/$(main_pid)/status
grep -qx 'Seccomp:	2' "$status" && grep -qx 'NoNewPrivs:	1' "$status" || die "it is not confined"
grep -qx 'CapEff:	0000000000000000' "$status" && grep -qx 'CapBnd:	0000000000000000' "$status" || die "capabilities"
[ "$(stat -c %U "/proc/$(main_pid)")" = landro ] || die "it runs as $(stat -c %U "/proc/$(main_pid)")"

step "a changed configuration, read while it runs"
before=$(main_pid)
cp -a /etc/landro/landro.toml /tmp/landro.toml
echo 'read-only = true' >>/etc/landro/landro.toml
systemctl reload landro
refuses() { ! landro cp --peer "$daemon" --force /tmp/tree/sub/1 landro://127.0.0.1/refused 2>/dev/null; }
wait_until 10 refuses
cp -a /tmp/landro.toml /etc/landro/landro.toml
systemctl reload landro
takes() { landro cp --peer "$daemon" --force /tmp/tree/sub/1 landro://127.0.0.1/taken 2>/dev/null; }
wait_until 10 takes
[ "$(main_pid)" = "$before" ] || die "it was restarted"

step "options of /etc/landro/landro.toml, and another backend"
printf 'listen = ["127.0.0.1:4434"]\nbackend = "poll"\n' >>/etc/landro/landro.toml
landro config --check --config /etc/landro/landro.toml
systemctl restart landro
landro cp --peer "$daemon" --force --summary /tmp/tree landro://127.0.0.1:4434/
logged 'serving .* on poll' || die "not on poll"

step "a daemon that hangs is started anew"
mkdir -p /run/systemd/system/landro.service.d
printf '[Service]\nWatchdogSec=2s\n' >/run/systemd/system/landro.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart landro
before=$(main_pid)
sleep 5
[ "$(main_pid)" = "$before" ] || die "one that works was killed"
kill -STOP "$before"
restarted() {
    local now
    now=$(main_pid)
    [ "$now" != 0 ] && [ "$now" != "$before" ] && [ "$(systemctl is-active landro)" = active ]
}
wait_until 30 restarted
logged 'Watchdog timeout' || die "it was not the watchdog"
has '^300$' landro ls --peer "$daemon" landro://127.0.0.1:4434/tree/sub || die "the new one does not answer"

step "installed again, as an upgrade does"
before=$(main_pid)
dpkg -i /landro.deb
wait_until 10 restarted
grep -q 4434 /etc/landro/landro.toml || die "options were overwritten"
dpkg --verify landro | grep -v ' c /etc/landro/landro.toml$' && die "files are not as they were installed"

step "a copy by hand is told of"
install -m 755 /bin/true /usr/local/bin/landro
has '/usr/local/bin/landro comes before' bash -c '/var/lib/dpkg/info/landro.postinst configure 2>&1' || die "nothing was said of it"
rm /usr/local/bin/landro

step "removed, and purged"
mkdir -m 700 /var/lib/landro-tuning
touch /var/lib/landro-tuning/tuning.state
has 'apply.sh --revert' bash -c 'dpkg -r landro 2>&1' || die "removal does not say how settings of the host are put back"
[ "$(systemctl is-active landro)" = inactive ] || die "it runs on"
[ ! -e /usr/bin/landro ] && [ -e /etc/landro/landro.toml ] || die "removal"
dpkg -P landro
[ ! -e /etc/landro/landro.toml ] && [ -e /var/lib/landro/files/tree/big ] && [ -e /var/lib/landro/config/identity.pem ] ||
    die "purge"
echo "all is well"
