#!/usr/bin/env bash
# A host of its own for tuning/apply.sh, inside namespaces for mounts and networks that tests/tuning.rs makes: kernel
# settings that are the whole machine's are files of a tmpfs here, so that no failure of a test can change the real ones.
set -euo pipefail

# Debian's, except a buffer size that is higher than asked for.
mount -t tmpfs tmpfs /proc/sys/net/core
for setting in rmem_max=212992 wmem_max=268435456 netdev_budget=300 netdev_max_backlog=1000; do
    echo "${setting#*=}" >"/proc/sys/net/core/${setting%=*}"
done
# This one every network namespace has for itself.
echo 1 >/proc/sys/net/ipv4/tcp_fastopen

mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /etc/sysctl.d
mount -t tmpfs tmpfs "${work:?}"
echo 'kernel.panic = 10' >/etc/sysctl.d/50-other.conf

# A card as sysfs, /proc/irq and ethtool show it: 10 Gbit/s, small rings, every interrupt on core 0.
mount -t tmpfs tmpfs /sys
card=/sys/class/net/eth9
mkdir -p $card/device/msi_irqs /sys/class/net/lo /sys/class/net/eth8/device /sys/devices/system/cpu
echo up >$card/operstate
echo down >/sys/class/net/eth8/operstate
echo 10000 >$card/speed
echo 1500 >$card/mtu
echo 0-1 >$card/device/local_cpulist
mount -t tmpfs tmpfs /proc/irq
for irq in 71 72 73; do
    touch $card/device/msi_irqs/$irq
    mkdir -p /proc/irq/$irq/eth9-$irq
    echo 0-1 >/proc/irq/$irq/smp_affinity_list
    echo 0 >/proc/irq/$irq/effective_affinity_list
done
# Not in use: nobody's directory is below it.
touch $card/device/msi_irqs/74
mkdir /proc/irq/74
echo 0-1 >/proc/irq/74/smp_affinity_list

mkdir "$work/bin" "$work/card"
for setting in gro=off gso=on uso=off rx=512 tx=512 adaptive=off usecs=3; do
    echo "${setting#*=}" >"$work/card/${setting%=*}"
done
cat >"$work/bin/ethtool" <<'ETHTOOL'
#!/usr/bin/env bash
# The card eth9. A file `stubborn` makes it refuse to change its rings, `deadly` makes it end who changes them.
set -euo pipefail
cd "$work/card"
[ "$2" = eth9 ] || { echo "netlink error: No such device" >&2; exit 1; }
case $1 in
-k)
    echo "Features for eth9:"
    echo "generic-segmentation-offload: $(cat gso)"
    echo "generic-receive-offload: $(cat gro)"
    printf '\ttx-udp-segmentation: %s\n' "$(cat uso)"
    echo "rx-gro-hw: off [fixed]"
    ;;
-g)
    printf 'Ring parameters for eth9:\nPre-set maximums:\nRX:\t4096\nRX Mini:\tn/a\nRX Jumbo:\tn/a\nTX:\t1024\n'
    printf 'Current hardware settings:\nRX:\t%s\nRX Mini:\tn/a\nRX Jumbo:\tn/a\nTX:\t%s\nRX Buf Len:\tn/a\n' \
        "$(cat rx)" "$(cat tx)"
    ;;
-c)
    printf 'Coalesce parameters for eth9:\nAdaptive RX: %s  TX: off\n\nrx-usecs:\t%s\nrx-frames:\t0\n' \
        "$(cat adaptive)" "$(cat usecs)"
    ;;
-K) [ "$3" = tx-udp-segmentation ] && echo "$4" >uso || echo "$4" >"$3" ;;
-G)
    [ ! -e stubborn ] || { echo "netlink error: Operation not permitted" >&2; exit 1; }
    [ ! -e deadly ] || kill -KILL 0
    echo "$4" >"$3"
    ;;
-C)
    [ "$3" = adaptive-rx ]
    echo "$4" >adaptive
    # An adapting card moves its interval.
    if [ "$4" = on ]; then echo 47 >usecs; else echo "$6" >usecs; fi
    ;;
*) exit 1 ;;
esac
ETHTOOL
cat >"$work/bin/pidof" <<'PIDOF'
#!/bin/sh
[ -e "$work/card/irqbalance" ]
PIDOF
chmod +x "$work"/bin/*
export PATH="$work/bin:$PATH"

# Everything that may be changed here, as text.
snapshot() {
    grep -r . /proc/sys/net/core /proc/sys/net/ipv4/tcp_fastopen /sys/class/net /proc/irq /etc/sysctl.d /var/lib \
        "$work/card" | sort
}

is() {
    [ "$(cat "$1")" = "$2" ] || fail "$1 is '$(cat "$1")', not '$2'"
}

fail() {
    echo "failed: $*" >&2
    exit 1
}

# expect CODE COMMAND...: its output, for says
expect() {
    local code=$1 got=0
    shift
    said=$("$@" 2>&1) || got=$?
    echo "$ $*"
    echo "$said"
    [ $got = "$code" ] || fail "exit code $got, not $code"
}

says() {
    grep -qF -- "$1" <<<"$said" || fail "it does not say '$1'"
}

says_not() {
    ! grep -qF -- "$1" <<<"$said" || fail "it says '$1'"
}

unchanged() {
    [ "$(snapshot)" = "$before" ] || fail "changed: $(diff <(echo "$before") <(snapshot))"
}

before=$(snapshot)
