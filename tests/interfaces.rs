//! Two wires between two hosts: what lanes carry over each adds up, and one may be pulled out.

mod common;
#[path = "interfaces/congestion.rs"]
mod congestion;

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use common::tree::{self, Rng, assert_no_leftovers, assert_same};
use common::{Daemon, Running, Side};
use congestion::{
    a_rule_of_a_route_goes_behind, a_rule_that_is_taken_away, every_lane_has_the_rule,
};

on_both_backends!(
    lanes_over_two_wires,
    a_wire_is_pulled_out,
    what_cannot_be_bound_to,
    every_lane_has_the_rule,
    a_rule_that_is_taken_away,
    a_rule_of_a_route_goes_behind,
);

const MIB: u64 = 1 << 20;
const FILE_BYTES: u64 = 160 * MIB;

/// Two namespaces, and two wires of 50 MB/s between them. Dropping it removes them, also after a
/// panic.
struct Wires {
    names: [String; 2],
}

impl Wires {
    /// None: that needs root, ip(8) and tc(8).
    fn new() -> Option<Wires> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let has_them = ["ip", "tc"].iter().all(|tool| {
            let output = Command::new(tool).arg("-V").output();
            output.is_ok_and(|output| output.status.success())
        });
        if !common::is_root() || !has_them {
            common::skipped("network namespaces need root, ip(8) and tc(8) of iproute2");
            return None;
        }
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let tag = format!("landro-{}-{count}", std::process::id());
        let wires = Wires {
            names: ["near", "far"].map(|role| format!("{tag}-{role}")),
        };
        for name in &wires.names {
            run("ip", &format!("netns add {name}"));
            run("ip", &format!("-n {name} link set lo up"));
        }
        let [near, far] = &wires.names;
        for wire in [0, 1] {
            let peer = format!("peer name wire{wire} netns {far}");
            run(
                "ip",
                &format!("-n {near} link add wire{wire} type veth {peer}"),
            );
            for (name, host) in [(near, 1), (far, 2)] {
                // Of the range of RFC 2544, for tests of networks.
                let at = format!("198.18.{wire}.{host}/24 dev wire{wire}");
                run("ip", &format!("-n {name} addr add {at}"));
                run("ip", &format!("-n {name} link set wire{wire} up"));
                let root =
                    format!("-n {name} qdisc add dev wire{wire} root handle 1: htb default 1");
                run("tc", &root);
                let class = format!("-n {name} class add dev wire{wire} parent 1: classid 1:1");
                run("tc", &format!("{class} htb rate 400mbit"));
            }
        }
        Some(wires)
    }

    fn within(&self, host: usize) -> [&str; 4] {
        ["ip", "netns", "exec", &self.names[host]]
    }

    /// The far end of a wire, as with a cable: both ends lose their carrier.
    fn plug(&self, wire: u8, state: &str) {
        run(
            "ip",
            &format!("-n {} link set wire{wire} {state}", self.names[1]),
        );
    }

    /// Bytes that passed each wire in either direction.
    fn carried(&self) -> [u64; 2] {
        [0, 1].map(|wire| {
            let counters = ["rx_bytes", "tx_bytes"].map(|counter| {
                let path = format!("/sys/class/net/wire{wire}/statistics/{counter}");
                let [ip, netns, exec, name] = self.within(0);
                let shown = Command::new(ip)
                    .args([netns, exec, name, "cat", &path])
                    .output();
                let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
                shown.trim().parse::<u64>().unwrap()
            });
            counters.iter().sum()
        })
    }
}

fn run(tool: &str, words: &str) {
    let output = Command::new(tool).args(words.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {words}: {said}");
}

impl Drop for Wires {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was never made is not there.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// A daemon and a client at both ends, and a file to move.
struct Hosts {
    backend: &'static str,
    client: Side,
    server: Side,
    daemon: Daemon,
    dir: tempfile::TempDir,
    wires: Wires,
}

impl Hosts {
    fn new(backend: &'static str, wires: Wires) -> Hosts {
        Hosts::with(backend, wires, &[])
    }

    fn with(backend: &'static str, wires: Wires, serve: &[&str]) -> Hosts {
        let (client, server) = (Side::new(), Side::new());
        let dir = tempfile::tempdir().unwrap();
        for name in ["root", "here"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let id = client.id();
        let args = ["--backend", backend, "--listen", "0.0.0.0:0"];
        let args = [&args[..], &["--allow", &id], serve].concat();
        let root = dir.path().join("root");
        let daemon = Daemon::start_with(&server, &wires.within(1), &root, &args);
        Hosts {
            backend,
            client,
            server,
            daemon,
            dir,
            wires,
        }
    }

    /// Another daemon takes the place and the port of this one, which is killed.
    fn restart(&mut self, serve: &[&str]) {
        let (id, listen) = (self.client.id(), self.daemon.address().to_owned());
        self.daemon.kill();
        let args = ["--backend", self.backend, "--listen", &listen];
        let args = [&args[..], &["--allow", &id], serve].concat();
        let root = self.dir.path().join("root");
        self.daemon = Daemon::start_with(&self.server, &self.wires.within(1), &root, &args);
    }

    /// Where a file is from and goes to, and how `cp` is told.
    fn places(&self, name: &str, push: bool) -> (PathBuf, PathBuf, [OsString; 2]) {
        let (here, root) = (self.dir.path().join("here"), self.dir.path().join("root"));
        let port = self.daemon.address().rsplit(':').next().unwrap();
        let url = OsString::from(format!("landro://198.18.0.2:{port}/{name}"));
        let (here, root) = (here.join(name), root.join(name));
        match push {
            true => (here.clone(), root, [here.into(), url]),
            false => (root, here.clone(), [url, here.into()]),
        }
    }

    fn start(&self, binds: &[&str], args: &[OsString]) -> Running {
        let fixed = ["cp", "--json", "--backend", self.backend, "--peer"];
        let mut all: Vec<OsString> = fixed.into_iter().map(OsString::from).collect();
        all.push(self.daemon.fingerprint.clone().into());
        for bind in binds {
            all.extend(["--bind".into(), bind.into()]);
        }
        all.extend(args.iter().cloned());
        Running::spawn(common::command(&self.client, &self.wires.within(0), all))
    }
}

fn lanes_over_two_wires(backend: &'static str) {
    let Some(wires) = Wires::new() else { return };
    let hosts = Hosts::new(backend, wires);
    for (push, binds) in [
        (true, ["wire0", "wire1"]),
        (false, ["198.18.0.1", "198.18.1.1"]),
        (true, ["wire1", "wire0"]),
    ] {
        let name = format!("{push}-{}", binds[0]);
        let (from, to, args) = hosts.places(&name, push);
        tree::write_file(&from, FILE_BYTES, &mut Rng::new(&name));
        let before = hosts.wires.carried();
        hosts.start(&binds, &args).wait().expect(0);
        arrived(&from, &to);
        let after = hosts.wires.carried();
        let carried = [0, 1].map(|wire| after[wire] - before[wire]);
        // The second is added when much was moved, so that the first has more.
        let least = FILE_BYTES / 4;
        assert!(
            carried.iter().all(|bytes| *bytes > least),
            "{carried:?} {binds:?} {push}"
        );
    }
}

fn a_wire_is_pulled_out(backend: &'static str) {
    thread::scope(|scope| {
        for (push, wire) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
            scope.spawn(move || pulled_out(backend, push, wire));
        }
    });
}

fn pulled_out(backend: &'static str, push: bool, wire: u8) {
    let Some(wires) = Wires::new() else { return };
    let hosts = Hosts::new(backend, wires);
    let (from, to, args) = hosts.places("file", push);
    tree::write_file(&from, FILE_BYTES, &mut Rng::new(backend));
    let mut slow: Vec<OsString> = vec!["--bwlimit".into(), "8M".into()];
    slow.extend(args);
    let running = hosts.start(&["wire0", "wire1"], &slow);
    wait_for_bytes(&running, FILE_BYTES / 8);
    hosts.wires.plug(wire, "down");
    // The other one carries on.
    wait_for_bytes(&running, FILE_BYTES / 3);
    hosts.wires.plug(wire, "up");
    let before = hosts.wires.carried()[usize::from(wire)];
    let output = running.wait().expect(0);
    let after = hosts.wires.carried()[usize::from(wire)];
    assert_eq!(output.number("resumed_bytes"), 0, "one session: {output:?}");
    arrived(&from, &to);
    assert!(
        after - before > 8 * MIB,
        "{} bytes after it was plugged in",
        after - before
    );
}

fn wait_for_bytes(running: &Running, least: u64) {
    let moved = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        event["event"] == "progress" && event["bytes"].as_u64().unwrap() >= least
    };
    assert!(running.line(moved).is_some(), "{}", running.stderr());
}

/// Behind a session that was lost: the next one moves something.
fn wait_for_more_bytes(running: &Running) {
    let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let is_lost = |line: &str| event(line)["event"] == "lost";
    assert!(running.line(is_lost).is_some(), "{}", running.stderr());
    let before = Cell::new(None);
    let moves = |line: &str| {
        let event = event(line);
        let bytes = event["bytes"]
            .as_u64()
            .filter(|_| event["event"] == "progress");
        let before = before.replace(bytes.or(before.get()));
        before.is_some() && bytes > before
    };
    assert!(running.line(moves).is_some(), "{}", running.stderr());
}

fn arrived(from: &Path, to: &Path) {
    assert_same(from, to);
    assert_no_leftovers(to.parent().unwrap());
}

fn what_cannot_be_bound_to(backend: &'static str) {
    let side = Side::new();
    for bad in ["no-such-wire", "192.0.2.7", "", "2001:db8::7"] {
        let args = [
            "cp",
            "--backend",
            backend,
            "--bind",
            bad,
            "landro://127.0.0.1/a",
            "b",
        ];
        let all = args.into_iter().map(OsString::from);
        let output = Running::spawn(common::command(&side, &[], all))
            .wait()
            .expect(2);
        assert!(output.stderr.contains("--bind"), "{bad}: {}", output.stderr);
    }
}
