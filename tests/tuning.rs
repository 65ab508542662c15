//! tuning/apply.sh on a made-up host: what it changes, what it leaves alone, and that it puts all
//! of it back.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The host the cases run on; each is bash.
const HOST: &str = include_str!("tuning/host.sh");

/// What only the whole machine has: no case may change it.
const MACHINE: [&str; 4] = [
    "rmem_max",
    "wmem_max",
    "netdev_budget",
    "netdev_max_backlog",
];

fn machine() -> Vec<Option<String>> {
    MACHINE
        .iter()
        .map(|name| fs::read_to_string(format!("/proc/sys/net/core/{name}")).ok())
        .collect()
}

/// `unshare` into mounts and networks of its own, as root of its own where this is not root.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command
        .arg(if common::is_root() { "-mn" } else { "-rmn" })
        .args(["--propagation", "private"]);
    command
}

fn case(steps: &str) {
    if !common::is_root()
        && !unshare()
            .arg("true")
            .status()
            .is_ok_and(|status| status.success())
    {
        common::skipped("no namespaces for mounts and networks can be made here");
        return;
    }
    let before = machine();
    let work = tempfile::tempdir().unwrap();
    let apply = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/apply.sh");
    let output = unshare()
        .args(["bash", "-c", &format!("{HOST}\n{steps}")])
        .env("work", work.path())
        .env("apply", apply)
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}",
        said(&output.stdout),
        said(&output.stderr)
    );
    assert_eq!(machine(), before);
}

#[test]
fn a_dry_run_shows_and_changes_nothing() {
    case(
        r#"
        expect 0 "$apply" --dry-run
        says "net.core.rmem_max                          212992 → 4194304 bytes"
        says "net.core.wmem_max: 268435456 is higher than 262144 and stays"
        says_not netdev
        says_not fastopen
        says "eth9 ring rx                               512 → 2048 packets"
        says "eth9 mtu: 1500 bytes stays"
        says_not eth8
        unchanged
        "#,
    );
}

#[test]
fn it_raises_what_is_lower_and_leaves_what_is_higher() {
    case(
        r#"
        expect 0 "$apply"
        is /proc/sys/net/core/rmem_max 4194304
        is /proc/sys/net/core/wmem_max 268435456
        is /proc/sys/net/core/netdev_budget 300
        is /proc/sys/net/core/netdev_max_backlog 1000
        is /proc/sys/net/ipv4/tcp_fastopen 1
        is "$work/card/gro" on
        is "$work/card/uso" on
        is "$work/card/rx" 2048
        is "$work/card/tx" 1024 # its most
        is "$work/card/adaptive" on
        is /proc/irq/71/smp_affinity_list 0
        is /proc/irq/72/smp_affinity_list 1
        is /proc/irq/73/smp_affinity_list 0
        is /proc/irq/74/smp_affinity_list 0-1
        is $card/mtu 1500
        [ ! -e /etc/sysctl.d/60-landro.conf ] || fail "installed without --persist"
        "#,
    );
}

/// What was measured is the default; what the specification names is set when it is asked for, and
/// put back like the rest, whichever of the two came first.
#[test]
fn the_specification_has_a_profile() {
    case(
        r#"
        expect 0 "$apply"
        expect 0 "$apply" --profile 25g --profile spec
        is /proc/sys/net/core/rmem_max 134217728
        is /proc/sys/net/core/wmem_max 268435456
        is /proc/sys/net/core/netdev_budget 600
        is /proc/sys/net/core/netdev_max_backlog 5000
        is /proc/sys/net/ipv4/tcp_fastopen 3
        is "$work/card/rx" 4096
        expect 0 "$apply" # lowers nothing
        is /proc/sys/net/core/rmem_max 134217728
        expect 0 "$apply" --revert
        unchanged
        "#,
    );
}

/// Help is what stands above the code, and none of the code.
#[test]
fn help_is_help() {
    case(
        r#"
        for word in --help -h; do
            expect 0 "$apply" $word
            says "Sets a host up for landro"
            says "tuning/apply.sh [--dry-run"
            says "docs/tuning.md"
            says_not "set -euo"
            says_not "readlink"
        done
        unchanged
        "#,
    );
}

/// Scripts that are asked for help do nothing else, wherever they are called from.
#[test]
fn scripts_asked_for_help_do_nothing() {
    let (dir, root) = (
        tempfile::tempdir().unwrap(),
        Path::new(env!("CARGO_MANIFEST_DIR")),
    );
    // What they would call.
    for name in ["cargo", "apt-get", "dpkg-query"] {
        let path = dir.path().join(name);
        fs::write(&path, "#!/bin/sh\necho called >&2\nexit 1\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    for (script, words) in [
        ("scripts/release.sh", "Builds target/release/landro"),
        ("scripts/quickstart.sh", "From a bare Debian machine"),
        ("scripts/test.sh", "Installs what the tests need"),
        ("scripts/setup.sh", "Installs what building landro"),
        ("scripts/profile.sh", "Where the time of a transfer goes"),
        ("scripts/soak.sh", "The long campaigns"),
        ("scripts/file-tables.sh", "Writes the tables of files"),
        ("packaging/check.sh", "Judges the Debian package"),
        ("packaging/check-static.sh", "Judges the static binary"),
        ("packaging/deb.sh", "Makes target/debian"),
        ("packaging/links.sh", "Prints a document"),
        ("packaging/static.sh", "Builds target/ARCH-unknown"),
        (
            "packaging/third-party.sh",
            "Prints the notices and licences",
        ),
        ("perf/lab", "Two hosts on one machine"),
        ("tuning/apply.sh", "Sets a host up for landro"),
    ] {
        let (within, name) = script.split_once('/').unwrap();
        for word in ["--help", "-h"] {
            let mut command = Command::new(format!("./{name}"));
            command.arg(word).current_dir(root.join(within));
            let output = command.env("PATH", &path).output().unwrap();
            let (told, said) = (
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
            assert_eq!(output.status.code(), Some(0), "{script} {word}: {said}");
            assert!(told.starts_with(words), "{script} {word}: {told}");
            assert!(
                said.is_empty() && !told.contains("set -eu"),
                "{script}: {said}"
            );
        }
    }
}

#[test]
fn flags_that_were_set_stay_set() {
    case(
        r#"
        echo 1025 >/proc/sys/net/ipv4/tcp_fastopen
        expect 0 "$apply" --profile spec
        is /proc/sys/net/ipv4/tcp_fastopen 1027
        "#,
    );
}

#[test]
fn revert_restores_exactly_what_was_there_also_after_several_runs() {
    case(
        r#"
        expect 0 "$apply" --profile 1g
        expect 0 "$apply" --profile 25g
        is "$work/card/rx" 4096
        expect 0 "$apply" --profile 25g
        says "nothing to change"
        expect 0 "$apply" --revert
        says "eth9 coalesce adaptive-rx                  on → off rx-usecs 3"
        unchanged
        expect 0 "$apply" --revert
        says "nothing to put back"
        unchanged
        "#,
    );
}

#[test]
fn persist_installs_only_what_it_raised_and_revert_removes_it() {
    case(
        r#"
        expect 0 "$apply" --profile spec # before: it is to find out later what it raised now
        expect 0 "$apply" --persist
        file=/etc/sysctl.d/60-landro.conf
        [ "$(grep -c = $file)" = 4 ] || fail "$(cat $file)"
        grep -qx 'net.core.rmem_max = 134217728' $file
        ! grep -q wmem_max $file || fail "would lower wmem_max at the next boot"
        [ "$(stat -c %a $file)" = 644 ] || fail "not readable for all"
        expect 0 "$apply" --persist
        [ "$(grep -c = $file)" = 4 ] || fail "$(cat $file)"
        expect 0 "$apply" --revert
        unchanged
        "#,
    );
}

#[test]
fn a_file_of_somebody_else_is_not_overwritten() {
    case(
        r#"
        echo 'net.core.rmem_max = 1000000' >/etc/sysctl.d/60-landro.conf
        before=$(snapshot)
        expect 1 "$apply" --persist
        says "is not of this script; nothing was changed"
        unchanged
        expect 0 "$apply"
        expect 0 "$apply" --revert
        unchanged
        "#,
    );
}

#[test]
fn after_a_reboot_only_what_was_installed_is_put_back() {
    case(
        r#"
        reboot() {
            sed -i 's/^boot\t.*/boot\tanother/' /var/lib/landro-tuning/tuning.state
            echo 512 >"$work/card/rx"
        }
        expect 0 "$apply"
        reboot
        echo 300000 >/proc/sys/net/core/rmem_max # by the administrator, since then
        echo 700 >"$work/card/rx"
        expect 0 "$apply" --revert
        is /proc/sys/net/core/rmem_max 300000
        is "$work/card/rx" 700
        echo 212992 >/proc/sys/net/core/rmem_max

        expect 0 "$apply" --persist
        reboot
        expect 0 "$apply" --revert
        is /proc/sys/net/core/rmem_max 212992
        is "$work/card/rx" 512
        [ ! -e /etc/sysctl.d/60-landro.conf ] || fail "still installed"
        "#,
    );
}

/// The daemon's directory is the daemon's: what lies there is not done as root.
#[test]
fn a_planted_state_is_refused() {
    case(
        r#"
        planted() { # PATH LINE
            mkdir -p "${1%/*}"
            printf 'boot\t%s\npersisted\n%b\n' "$(cat /proc/sys/kernel/random/boot_id)" "$2" >"$1"
        }
        refused() { # WORDS
            before=$(snapshot)
            for mode in --revert --persist; do
                expect 1 "$apply" $mode
                says "$1"
                unchanged
            done
        }
        old=/var/lib/landro/tuning.state
        planted $old 'sysctl\t-\tnet.core.rmem_max\t4096'
        chmod 777 /var/lib/landro
        refused "/var/lib/landro can be written by others than root"
        chmod 755 /var/lib/landro
        chmod 666 $old
        refused "$old can be written by others than root"
        mv $old /var/lib/landro/other
        chmod 644 /var/lib/landro/other
        ln -s other $old
        refused "$old can be written by others than root"
        rm -r /var/lib/landro
        if chown 1:1 /var/lib 2>/dev/null; then
            chown 0:0 /var/lib
            planted $old 'sysctl\t-\tnet.core.rmem_max\t4096'
            chown 1:1 /var/lib/landro
            refused "/var/lib/landro can be written by others than root"
            rm -r /var/lib/landro
        fi

        # Wherever they come from.
        for line in 'sysctl\t-\tkernel.core_pattern\t|/x' 'sysctl\t-\tkernel.panic\t10' \
            'sysctl\t-\tnet.core.rmem_max\t1 2' 'sysctl\t-\tnet.core/rmem_max\t1' \
            'device\teth9\tmtu\t900' 'device\teth9\t../../../../etc/cron.d/x\tx' \
            'irq\teth9\t../../etc/x\t1' 'ring\t../eth9\trx\t512' 'ring\teth9\trx-mini\t512' \
            'coalesce\teth9\tadaptive-rx\toff rx-usecs 3 tx-usecs 3' 'offload\teth9\tlro\ton' 'x'; do
            planted /var/lib/landro-tuning/tuning.state "$line"
            refused "is nothing that this script changes"
        done
        "#,
    );
}

/// What an earlier version wrote is put back, if root alone can have written it.
#[test]
fn a_state_in_its_old_place_is_gone_on_with() {
    case(
        r#"
        old() {
            mkdir -m 755 /var/lib/landro
            mv /var/lib/landro-tuning/tuning.state /var/lib/landro/
            rmdir /var/lib/landro-tuning
        }
        expect 0 "$apply"
        [ "$(stat -c '%a %u' /var/lib/landro-tuning)" = '700 0' ] || fail "not root's alone"
        old
        expect 0 "$apply" --revert
        rmdir /var/lib/landro
        unchanged
        expect 0 "$apply"
        old
        expect 0 "$apply" --profile spec
        rmdir /var/lib/landro
        expect 0 "$apply" --revert
        unchanged
        "#,
    );
}

#[test]
fn a_card_that_refuses_is_named_and_the_rest_is_done() {
    case(
        r#"
        touch "$work/card/stubborn"
        before=$(snapshot)
        expect 3 "$apply"
        says "eth9 ring rx cannot be set to '2048': Operation not permitted"
        is /proc/sys/net/core/rmem_max 4194304
        is "$work/card/gro" on
        is "$work/card/rx" 512
        expect 0 "$apply" --revert
        unchanged
        "#,
    );
}

#[test]
fn a_run_that_was_killed_can_be_reverted() {
    case(
        r#"
        touch "$work/card/deadly"
        before=$(snapshot)
        ! setsid -w "$apply" || fail "it was to be killed"
        is /proc/sys/net/core/rmem_max 4194304
        rm "$work/card/deadly"
        expect 0 "$apply"
        expect 0 "$apply" --revert
        touch "$work/card/deadly"
        unchanged
        "#,
    );
}

#[test]
fn interrupts_are_left_to_irqbalance_and_to_who_spread_them_already() {
    case(
        r#"
        touch "$work/card/irqbalance"
        expect 0 "$apply" --dry-run
        says "irqbalance is running"
        says_not "eth9 interrupt 7"
        rm "$work/card/irqbalance"
        echo 1 >/proc/irq/72/effective_affinity_list
        expect 0 "$apply" --dry-run
        says "spread over 2 cores already"
        says_not "eth9 interrupt 7"
        "#,
    );
}

#[test]
fn a_slow_card_keeps_its_low_latency() {
    case(
        r#"
        echo 1000 >$card/speed
        expect 0 "$apply" --dry-run
        says "eth9 coalesce: 'off rx-usecs 3' stays"
        says_not "ring rx "
        "#,
    );
}

#[test]
fn a_real_interface_of_a_network_namespace() {
    case(
        r#"
        PATH=${PATH#*:} # the real ethtool, if there is one
        umount /sys /proc/sys/net/core
        mount -t sysfs sysfs /sys
        ip link add veth8 type veth peer name veth9
        ip link set veth8 up
        expect 0 "$apply" --profile spec --interface veth8
        says "net.core.rmem_max: read-only in this network namespace"
        says "net.core.netdev_budget: not in this network namespace"
        is /proc/sys/net/ipv4/tcp_fastopen 3
        # grep reads to the end: one that left at the first match could end ethtool by SIGPIPE, which pipefail shows.
        if command -v ethtool; then
            says "veth8 offload gro                          off → on"
            says "veth8 ring rx: its driver does not let it be changed"
            ethtool -k veth8 | grep -x 'generic-receive-offload: on' || fail "GRO is off"
        else
            says "veth8: offloads, rings and coalescing need ethtool"
        fi
        expect 0 "$apply" --revert
        is /proc/sys/net/ipv4/tcp_fastopen 1
        ! command -v ethtool || ethtool -k veth8 | grep -x 'generic-receive-offload: off' || fail "GRO is on"
        "#,
    );
}

#[test]
fn words_it_does_not_know_are_refused() {
    case(
        r#"
        expect 2 "$apply" --dry-run --revert
        expect 2 "$apply" --profile 40g
        expect 2 "$apply" now
        expect 1 "$apply" --interface eth7
        says "there is no interface eth7"
        unchanged
        "#,
    );
}

/// On this very host: whoever is not root can change nothing of it.
#[test]
fn writing_needs_root() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for file in ["apply.sh", "60-landro.conf"] {
        let original = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tuning")
            .join(file);
        fs::copy(original, dir.path().join(file)).unwrap();
    }
    let run = |words: &[&str]| {
        let mut command = Command::new(if common::is_root() { "setpriv" } else { "env" });
        if common::is_root() {
            command.args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--bounding-set=-all",
            ]);
        }
        command
            .arg(dir.path().join("apply.sh"))
            .args(words)
            .output()
            .unwrap()
    };
    for words in [&[][..], &["--persist"], &["--revert"]] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("changing settings needs root"));
    }
    assert_eq!(run(&["--dry-run"]).status.code(), Some(0));
}
