#!/usr/bin/env bash
# Sets a host up for landro: the kernel settings of 60-landro.conf, which lies beside it, and the network cards.
#   tuning/apply.sh [--dry-run | --persist | --revert] [--profile 1g|10g|25g|spec]... [--interface NAME]...
# Shows what it will change, then changes it, until the next reboot. Never lowers what is higher already. Root only.
#   --dry-run    only shows; needs no root
#   --persist    the kernel settings also for later reboots, in /etc/sysctl.d/60-landro.conf
#   --revert     puts back what was there before the first run, and takes that file away
#   --profile    1g, 10g, 25g: how fast the cards are; by itself it asks each card. spec: the kernel settings of
#                landro's specification, 60-landro-spec.conf, and not only what was measured to be worth something
#   --interface  this one, and not all that are up and have hardware below them; may be given several times
# Exit codes: 0 done, or nothing to do; 1 error; 2 usage; 3 a card refused something, all else is done.
# What each setting is worth to landro, with the measurements: docs/tuning.md.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
conf=$here/60-landro.conf
installed=/etc/sysctl.d/60-landro.conf
# What was there before: one line per setting changed. Written before the first change and never overwritten, so that
# --revert finds the original after any number of runs, and after one that was killed. Root does what it says, so nobody
# else may write it: it is not in /var/lib/landro, which is the daemon's, and where earlier versions had it.
state_dir=/var/lib/landro-tuning
state=$state_dir/tuning.state
old_state=/var/lib/landro/tuning.state
tab=$'\t'

mode=apply profile='' interfaces=()
plan=()     # what to change: KIND, TARGET, KEY, value now, value wanted, unit; separated by tabs
saved=()    # the lines of the state file: KIND, TARGET, KEY, value before
notes=()    # what is left as it is, and why
persisted=  # the installed file is ours
refused=0

die() {
    echo "$0: $*" >&2
    exit 1
}

# The lines above, from the one that shows the command.
help() {
    sed -n '/^#   tuning/,/^[^#]/{ /^#/s/^# \{0,1\}//p }' "$0"
}

usage() {
    printf '%s: %s\n\n' "$0" "$*" >&2
    help >&2
    exit 2
}

# ---- one setting: reading and writing it

# current KIND TARGET KEY: its value; nothing, or failure, where it does not exist
current() {
    case $1 in
    sysctl) cat "/proc/sys/${3//.//}" ;;
    irq) cat "/proc/irq/$3/smp_affinity_list" ;;
    offload) ethtool -k "$2" | awk -v name="$(feature "$3"):" '$1 == name { print $2 }' ;;
    ring) ring "$2" Current "$3" ;;
    # With its interval, which some drivers move while they adapt: put back, both must be what they were.
    coalesce) ethtool -c "$2" | awk '/^Adaptive RX:/ { on = $3 } /^rx-usecs:/ { every = $2 }
        END { if (on == "on") print on; else if (on == "off") print on (every ~ /^[0-9]+$/ ? " rx-usecs " every : "") }' ;;
    esac 2>/dev/null
}

# feature NAME: as ethtool shows what it takes by this name
feature() {
    case $1 in
    gro) echo generic-receive-offload ;;
    gso) echo generic-segmentation-offload ;;
    *) echo "$1" ;;
    esac
}

# ring INTERFACE Pre-set|Current rx|tx: packets
ring() {
    ethtool -g "$1" | awk -v section="$2" -v key="$3" '
        /^(Pre-set|Current)/ { here = $1 }
        here == section && tolower($1) == key ":" && $2 ~ /^[0-9]+$/ { print $2 }'
}

# change KIND TARGET KEY VALUE
change() {
    # shellcheck disable=SC2086 # "off rx-usecs 3" is three words
    case $1 in
    sysctl) printf '%s\n' "$4" >"/proc/sys/${3//.//}" ;;
    irq) printf '%s\n' "$4" >"/proc/irq/$3/smp_affinity_list" ;;
    offload) ethtool -K "$2" "$3" "$4" ;;
    ring) ethtool -G "$2" "$3" "$4" ;;
    coalesce) ethtool -C "$2" "$3" $4 ;;
    esac
}

# described KIND TARGET KEY: for people
described() {
    case $1 in
    sysctl) echo "$3" ;;
    irq) echo "$2 interrupt $3 on cores" ;;
    *) echo "$2 $1 $3" ;;
    esac
}

note() {
    notes+=("$*")
}

propose() {
    local IFS=$tab
    plan+=("$*")
}

# raise KIND TARGET KEY WANTED UNIT: wants at least this number
raise() {
    local now
    now=$(current "$1" "$2" "$3") || now=
    if ! [[ $now =~ ^[0-9]+$ ]]; then
        note "$(described "$@"): there is none here"
    elif [ "$now" -lt "$4" ]; then
        propose "$1" "$2" "$3" "$now" "$4" "$5"
    elif [ "$now" -gt "$4" ]; then
        note "$(described "$@"): $now is higher than $4 and stays"
    fi
}

# ---- the kernel

wanted_sysctls() {
    sed -n 's/^\([a-z0-9._]*\) *= *\([0-9]*\)$/\1 \2/p' "$conf"
}

# All that any run can have changed, whatever its profile: names, with spaces between.
known_sysctls() {
    sed -n 's/^\([a-z0-9._]*\) *= *[0-9]*$/\1/p' "$here"/60-landro*.conf | tr '\n' ' '
}

unit_of() {
    case $1 in
    *mem_max) echo bytes ;;
    *tcp_fastopen) echo "flags" ;;
    *) echo packets ;;
    esac
}

plan_sysctls() {
    local key wanted now path
    [ -r "$conf" ] || die "$conf is missing: it belongs beside this script"
    while read -r key wanted; do
        path=/proc/sys/${key//.//}
        if ! [ -e "$path" ]; then
            note "$key: not in this network namespace; it is the host's: run this there"
            continue
        elif [ $((0$(stat -c %a "$path") & 0200)) = 0 ]; then
            note "$key: read-only in this network namespace; it is the host's: run this there"
            continue
        fi
        if [ "$key" = net.ipv4.tcp_fastopen ]; then
            # Bits, so that "at least" means all of them; those set beside them stay.
            now=$(current sysctl - "$key")
            wanted=$((now | wanted))
        fi
        raise sysctl - "$key" "$wanted" "$(unit_of "$key")"
    done < <(wanted_sysctls)
}

# ---- the cards

physical_interfaces() {
    local path
    for path in /sys/class/net/*; do
        if [ -e "$path/device" ] && [ "$(cat "$path/operstate")" = up ]; then
            basename "$path"
        fi
    done
}

# By the speed the link has now; unknown counts as slow, which changes least.
profile_of() {
    local mbit
    mbit=$(cat "/sys/class/net/$1/speed" 2>/dev/null) || mbit=0
    if [ "$mbit" -gt 10000 ]; then
        echo 25g
    elif [ "$mbit" -gt 1000 ]; then
        echo 10g
    else
        echo 1g
    fi
}

plan_interface() {
    local device=$1 speed=${profile:-$(profile_of "$1")} mtu
    if command -v ethtool >/dev/null; then
        plan_offload "$device" gro
        plan_offload "$device" gso
        plan_offload "$device" tx-udp-segmentation
        # The longest a program is kept from its packets is about 2 ms: 163 full frames at 1 Gbit/s, 1,626 at 10, 4,064
        # at 25.
        case $speed in
        1g) plan_rings "$device" 256 ;;
        10g) plan_rings "$device" 2048 ;;
        25g) plan_rings "$device" 4096 ;;
        esac
        plan_coalescing "$device" "$speed"
    else
        note "$device: offloads, rings and coalescing need ethtool: apt-get install ethtool"
    fi
    # Not gro_flush_timeout: measured, it saves no CPU and makes every small request wait.
    plan_interrupts "$device"
    mtu=$(cat "/sys/class/net/$device/mtu")
    [ "$mtu" -ge 9000 ] || note "$device mtu: $mtu bytes stays. If every host and switch of this network has jumbo frames, \
9000 is worth more than all else here: ip link set dev $device mtu 9000"
}

# plan_offload INTERFACE NAME: on
plan_offload() {
    local line
    line=$(ethtool -k "$1" 2>/dev/null | grep "^\s*$(feature "$2"):") || line=
    case $line in
    *": on"*) ;;
    *"[fixed]"*) note "$1 $2: its driver has none; the kernel does it in software" ;;
    *": off"*) propose offload "$1" "$2" off on '' ;;
    *) note "$1 $2: this kernel does not know it" ;;
    esac
}

plan_rings() {
    local way most target
    for way in rx tx; do
        most=$(ring "$1" Pre-set $way 2>/dev/null) || most=
        if [ -z "$most" ]; then
            note "$1 ring $way: its driver does not let it be changed"
            continue
        fi
        target=$(($2 < most ? $2 : most))
        raise ring "$1" $way $target "packets; the link may pause for a second"
    done
}

plan_coalescing() {
    local now
    now=$(current coalesce "$1" adaptive-rx) || now=
    case $now in
    on*) ;;
    '') note "$1 coalesce: its driver cannot adapt interrupts to load" ;;
    *)
        # A slow card gives a core no trouble, and waiting for more packets costs every small request its time.
        if [ "$2" = 1g ]; then
            note "$1 coalesce: '$now' stays: at 1 Gbit/s low latency is worth more than fewer interrupts"
        else
            propose coalesce "$1" adaptive-rx "$now" on ''
        fi
        ;;
    esac
}

# One core for each interrupt, if all of them go to the same one now.
plan_interrupts() {
    local device=$1 irqs=() places irq cores now count=0
    mapfile -t irqs < <(interrupts_of "$device")
    if [ ${#irqs[@]} -lt 2 ]; then
        note "$device interrupts: ${#irqs[@]} here: nothing to spread"
        return
    elif pidof irqbalance >/dev/null; then
        note "$device interrupts: irqbalance is running and places them"
        return
    fi
    places=$(for irq in "${irqs[@]}"; do
        cat "/proc/irq/$irq/effective_affinity_list" 2>/dev/null || current irq - "$irq"
    done | sort -u | wc -l)
    if [ "$places" -gt 1 ]; then
        note "$device interrupts: spread over $places cores already"
        return
    fi
    mapfile -t cores < <(cores_near "$device")
    for irq in "${irqs[@]}"; do
        now=$(current irq - "$irq") || continue
        # One that may go to one core only was put there by somebody who knows why.
        [[ $now =~ ^[0-9]+$ ]] || propose irq "$device" "$irq" "$now" "${cores[count++ % ${#cores[@]}]}" ''
    done
}

# interrupts_of INTERFACE: numbers of those in use. A virtio device has them one directory further up.
interrupts_of() {
    local path
    for path in "/sys/class/net/$1/device"/{,../}msi_irqs/*; do
        # In use: a directory named after the user is below.
        if [ -e "$path" ] && compgen -G "/proc/irq/${path##*/}/*/" >/dev/null; then echo "${path##*/}"; fi
    done | sort -n
}

# cores_near INTERFACE: numbers of the cores of its NUMA node, one per line
cores_near() {
    local list range
    list=$(cat "/sys/class/net/$1/device/local_cpulist" 2>/dev/null) || list=
    [ -n "$list" ] || list=$(cat /sys/devices/system/cpu/online)
    for range in ${list//,/ }; do
        seq "${range%-*}" "${range#*-}"
    done
}

# ---- what was there before

boot_id() {
    cat /proc/sys/kernel/random/boot_id
}

# of_root_alone PATH: it is root's, no symlink, and nobody else may write it
of_root_alone() {
    [ ! -L "$1" ] && [ "$(stat -c %u "$1")" = 0 ] && [ $((0$(stat -c %a "$1") & 0022)) = 0 ]
}

# understood KIND TARGET KEY VALUE: it is something that this script can have changed, and from such a value
understood() {
    [[ $2 != */* && $3 != */* && $2 != . && $2$tab$3 != *..* ]] || return 1
    case $1 in
    sysctl) [[ " $(known_sysctls) " == *" $3 "* && $4 =~ ^[0-9]+$ ]] ;;
    irq) [[ $3 =~ ^[0-9]+$ && $4 =~ ^[0-9,-]+$ ]] ;;
    offload) [[ $3 =~ ^(gro|gso|tx-udp-segmentation)$ && $4 =~ ^(on|off)$ ]] ;;
    ring) [[ $3 =~ ^(rx|tx)$ && $4 =~ ^[0-9]+$ ]] ;;
    coalesce) [[ $3 = adaptive-rx && $4 =~ ^(on|off)(\ rx-usecs\ [0-9]+)?$ ]] ;;
    *) false ;;
    esac
}

load_state() {
    local from=$state line old_boot='' kind target key before
    [ -e "$state" ] || from=$old_state
    [ -e "$from" ] || return 0
    for line in "${from%/*}" "$from"; do
        of_root_alone "$line" || die "$line can be written by others than root, so what is in $from is not done as root. \
If you know that each line of it is right, move it to $state, of root and mode 600; else remove it"
    done
    while IFS= read -r line; do
        case $line in
        "boot$tab"*) old_boot=${line#*"$tab"} ;;
        persisted) persisted=yes ;;
        *)
            IFS=$tab read -r kind target key before <<<"$line"
            understood "$kind" "$target" "$key" "$before" ||
                die "$from: '$line' is nothing that this script changes; nothing was done. Who wrote it? Without that \
line the rest can be put back"
            saved+=("$line")
            ;;
        esac
    done <"$from"
    [ "$old_boot" != "$(boot_id)" ] || return 0
    # After a reboot nothing is in force any more but what the installed file set again.
    local kept=()
    for line in "${saved[@]}"; do
        [[ -n $persisted && $line = sysctl$tab* ]] && kept+=("$line")
    done
    saved=("${kept[@]}")
}

# Whole or not at all, and on the disk before anything is changed.
save_state() {
    local new
    mkdir -p -m 700 "$state_dir"
    of_root_alone "$state_dir" || die "$state_dir can be written by others than root; nothing was changed. Remove it"
    new=$(mktemp "$state.XXXXXX")
    {
        printf 'boot\t%s\n' "$(boot_id)"
        [ -z "$persisted" ] || echo persisted
        [ ${#saved[@]} = 0 ] || printf '%s\n' "${saved[@]}"
    } >"$new"
    sync "$new"
    mv -f "$new" "$state"
    sync "$state_dir"
    # It was read, and now is here.
    rm -f "$old_state"
}

drop_state() {
    rm -f "$state" "$old_state"
    # Somebody else's files may be there, too.
    rmdir "$state_dir" 2>/dev/null || true
}

# remember KIND TARGET KEY NOW: unless an earlier run did
remember() {
    local line
    for line in "${saved[@]}"; do
        [[ $line != "$1$tab$2$tab$3$tab"* ]] || return 0
    done
    saved+=("$1$tab$2$tab$3$tab$4")
}

# ---- showing and doing

show() {
    local line kind target key now wanted unit
    for line in "${plan[@]}"; do
        IFS=$tab read -r kind target key now wanted unit <<<"$line"
        printf '  %-42s %s → %s%s\n' "$(described "$kind" "$target" "$key")" "$now" "$wanted" "${unit:+ $unit}"
    done
    for line in "${notes[@]}"; do
        printf '  %s\n' "$line"
    done
}

# carry_out: all of the plan. The kernel's settings must work; a card may refuse.
carry_out() {
    local line kind target key now wanted unit said
    for line in "${plan[@]}"; do
        IFS=$tab read -r kind target key now wanted unit <<<"$line"
        if ! said=$(change "$kind" "$target" "$key" "$wanted" 2>&1); then
            said="$(described "$kind" "$target" "$key") cannot be set to '$wanted': ${said##*: }"
            [ "$kind" != sysctl ] || die "$said. In a container that is for its host to do. What was set before stays \
set; --revert puts it back"
            echo "$0: $said" >&2
            refused=$((refused + 1))
        fi
    done
}

# What this script raised, now or earlier; nothing that was as high already.
lines_to_install() {
    local line kind key
    echo "# Put here by landro's tuning/apply.sh --persist, which takes it away again with --revert."
    for line in "${saved[@]}"; do
        IFS=$tab read -r kind _ key _ <<<"$line"
        [ "$kind" != sysctl ] || printf '%s = %s\n' "$key" "$(current sysctl - "$key")"
    done
}

install_file() {
    local new
    new=$(mktemp "$installed.XXXXXX")
    lines_to_install >"$new"
    chmod 644 "$new"
    sync "$new"
    mv -f "$new" "$installed"
}

need_root() {
    [ "$(id -u)" = 0 ] || die "changing settings needs root: run this with sudo. --dry-run shows them without"
}

apply() {
    local device line kind target key now
    plan_sysctls
    for device in "${interfaces[@]}"; do
        plan_interface "$device"
    done
    if [ ${#plan[@]} = 0 ]; then echo "nothing to change"; else echo "to change:"; fi
    show
    [ "$mode" != dry-run ] || return 0
    need_root
    if [ "$mode" = persist ] && [ -e "$installed" ] && [ -z "$persisted" ]; then
        die "$installed exists and is not of this script; nothing was changed. Move it away if it is not needed"
    fi
    for line in "${plan[@]}"; do
        IFS=$tab read -r kind target key now _ <<<"$line"
        remember "$kind" "$target" "$key" "$now"
    done
    if [ "$mode" = persist ]; then persisted=yes; fi
    if [ ${#saved[@]} = 0 ]; then
        [ "$mode" != persist ] || echo "nothing to keep: all is as high without $installed"
        return 0
    fi
    save_state
    carry_out
    if [ "$mode" = persist ]; then
        install_file
        echo "installed $installed. Settings of cards end with the next reboot: run this then, as docs/tuning.md shows"
    fi
}

revert() {
    local line kind target key before now
    need_root
    if ! [ -e "$state" ] && ! [ -e "$old_state" ]; then
        echo "nothing to put back"
        return
    fi
    for line in "${saved[@]}"; do
        IFS=$tab read -r kind target key before <<<"$line"
        if [ "$kind" != sysctl ] && ! [ -e "/sys/class/net/$target" ]; then
            note "$(described "$kind" "$target" "$key"): $target is gone, and its settings with it"
            continue
        fi
        now=$(current "$kind" "$target" "$key") || now=
        [ "$now" = "$before" ] || propose "$kind" "$target" "$key" "$now" "$before" ''
    done
    if [ ${#plan[@]} = 0 ]; then echo "all is as it was"; else echo "to put back:"; fi
    show
    if [ -n "$persisted" ]; then rm -f "$installed"; fi
    carry_out
    [ $refused -gt 0 ] || drop_state
}

while [ $# -gt 0 ]; do
    case $1 in
    --dry-run | --persist | --revert)
        [ "$mode" = apply ] || usage "--$mode and $1 exclude each other"
        mode=${1#--}
        ;;
    --profile)
        case ${2:-} in
        1g | 10g | 25g) profile=$2 ;;
        spec) conf=$here/60-landro-spec.conf ;;
        *) usage "--profile: 1g, 10g, 25g or spec" ;;
        esac
        shift
        ;;
    --interface)
        [ -n "${2:-}" ] || usage "--interface: which one?"
        [ -e "/sys/class/net/$2" ] || die "there is no interface $2; ip link shows them"
        interfaces+=("$2")
        shift
        ;;
    --help | -h) sed -n '2s/^# //p' "$0" && help && exit ;;
    *) usage "'$1' is not understood" ;;
    esac
    shift
done
[ ${#interfaces[@]} -gt 0 ] || mapfile -t interfaces < <(physical_interfaces)

load_state
if [ "$mode" = revert ]; then revert; else apply; fi
if [ $refused -gt 0 ]; then
    echo "$0: $refused refused, the rest is done" >&2
    exit 3
fi
