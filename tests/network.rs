//! A cable is pulled out, between two network namespaces behind a switch, and plugged in again or
//! not.

mod common;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use common::tree::{self, Rng, assert_no_leftovers, assert_same};
use common::{Daemon, Running, Side};

on_both_backends!(
    a_peer_is_unplugged,
    a_network_is_away_for_longer_than_both_wait
);

const MIB: u64 = 1 << 20;

/// How long the cable is out when it comes back: several probe timeouts, far below the idle
/// timeout.
const UNPLUGGED: Duration = Duration::from_secs(20);

/// Three namespaces: two hosts and the switch between them. Dropping it removes them, also after a
/// panic.
struct Wire {
    names: [String; 3],
}

impl Wire {
    /// None: that needs root and ip(8).
    fn new() -> Option<Wire> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let has_ip = Command::new("ip")
            .arg("-V")
            .output()
            .is_ok_and(|output| output.status.success());
        if !common::is_root() || !has_ip {
            common::skipped("network namespaces need root and ip(8) of iproute2");
            return None;
        }
        let tag = format!(
            "landro-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::SeqCst)
        );
        let wire = Wire {
            names: ["client", "server", "switch"].map(|role| format!("{tag}-{role}")),
        };
        for name in &wire.names {
            wire.ip(&format!("netns add {name}"));
            wire.ip(&format!("-n {name} link set lo up"));
        }
        let [client, server, switch] = &wire.names;
        wire.ip(&format!("-n {switch} link add bridge type bridge"));
        wire.ip(&format!("-n {switch} link set bridge up"));
        for (host, port, number) in [(client, "to-client", 1), (server, "to-server", 2)] {
            wire.ip(&format!(
                "-n {switch} link add {port} type veth peer name eth0 netns {host}"
            ));
            wire.ip(&format!("-n {switch} link set {port} master bridge"));
            wire.ip(&format!("-n {switch} link set {port} up"));
            // The range of RFC 2544, for tests of networks, and a unique local one.
            wire.ip(&format!("-n {host} addr add 198.18.0.{number}/24 dev eth0"));
            wire.ip(&format!(
                "-n {host} addr add fd00:18::{number}/64 dev eth0 nodad"
            ));
            wire.ip(&format!("-n {host} link set eth0 up"));
        }
        Some(wire)
    }

    fn ip(&self, words: &str) {
        let output = Command::new("ip").args(words.split(' ')).output().unwrap();
        assert!(
            output.status.success(),
            "ip {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn within(&self, role: usize) -> [&str; 4] {
        ["ip", "netns", "exec", &self.names[role]]
    }

    /// Both hosts keep their addresses; the server's loses its carrier, as with a cable.
    fn plug(&self, state: &str) {
        self.ip(&format!("-n {} link set to-server {state}", self.names[2]));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was never made is not there.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn a_peer_is_unplugged(backend: &'static str) {
    let Some(_) = Wire::new() else { return };
    thread::scope(|scope| {
        scope.spawn(|| comes_back(backend, "198.18.0.2:0", true));
        scope.spawn(|| comes_back(backend, "[fd00:18::2]:0", false));
        scope.spawn(|| stays_away(backend));
    });
}

/// A daemon and a client on two ends of a wire, and a file to move.
struct Hosts {
    backend: &'static str,
    client: Side,
    daemon: Daemon,
    dir: tempfile::TempDir,
    wire: Wire,
}

impl Hosts {
    fn new(backend: &'static str, listen: &str) -> Hosts {
        Hosts::with(backend, &["--lane-kinds", "quic", "--listen", listen])
    }

    fn with(backend: &'static str, serve: &[&str]) -> Hosts {
        let wire = Wire::new().unwrap();
        let (client, server) = (Side::new(), Side::new());
        let dir = tempfile::tempdir().unwrap();
        for name in ["root", "here"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let id = client.id();
        let args = [&["--backend", backend, "--allow", &id], serve].concat();
        let daemon = Daemon::start_with(&server, &wire.within(1), &dir.path().join("root"), &args);
        Hosts {
            backend,
            client,
            daemon,
            dir,
            wire,
        }
    }

    /// A file to be moved, where it is to go, and how `cp` is told.
    fn file(&self, push: bool) -> (PathBuf, PathBuf, [OsString; 2]) {
        let [here, root] = ["here/file", "root/file"].map(|path| self.dir.path().join(path));
        let url = OsString::from(self.daemon.url("file"));
        let places = match push {
            true => (here.clone(), root, [here.into(), url]),
            false => (root, here.clone(), [url, here.into()]),
        };
        tree::write_file(&places.0, 40 * MIB, &mut Rng::new(self.backend));
        places
    }

    fn start(&self, args: &[OsString]) -> Running {
        let fixed = [
            "cp",
            "--json",
            "--backend",
            self.backend,
            "--peer",
            &self.daemon.fingerprint,
        ];
        let all = fixed
            .into_iter()
            .map(OsString::from)
            .chain(args.iter().cloned());
        Running::spawn(common::command(&self.client, &self.wire.within(0), all))
    }

    /// Starts a transfer of some seconds and one session, and pulls the cable in the middle of it.
    fn unplug_midway(&self, args: &[OsString]) -> Running {
        self.unplug(&["--retry", "0"], args)
    }

    fn unplug(&self, options: &[&str], args: &[OsString]) -> Running {
        let slow = ["--bwlimit", "8M"].iter().chain(options);
        let slow: Vec<OsString> = slow.map(OsString::from).collect();
        let running = self.start(&[&slow[..], args].concat());
        let midway = running.line(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["event"] == "progress" && event["bytes"].as_u64().unwrap() >= 6 * MIB
        });
        assert!(
            midway.is_some(),
            "it ended before: {}{}",
            running.stdout(),
            running.stderr()
        );
        self.wire.plug("down");
        running
    }
}

fn comes_back(backend: &'static str, listen: &str, push: bool) {
    let hosts = Hosts::new(backend, listen);
    let (from, to, args) = hosts.file(push);
    let mut running = hosts.unplug_midway(&args);
    thread::sleep(UNPLUGGED);
    assert!(
        running.is_running(),
        "it did not wait: {}",
        running.stderr()
    );
    assert!(!to.exists());
    hosts.wire.plug("up");
    let output = running.wait().expect(0);
    assert_eq!(
        (output.number("resumed_bytes"), output.number("sent_bytes")),
        (0, 40 * MIB),
        "one session"
    );
    assert_same(&from, &to);
    assert_no_leftovers(to.parent().unwrap());
}

fn stays_away(backend: &'static str) {
    let hosts = Hosts::new(backend, "198.18.0.2:0");
    let (here, root) = (
        hosts.dir.path().join("here/file"),
        hosts.dir.path().join("root/file"),
    );
    tree::write_file(&here, 40 * MIB, &mut Rng::new(backend));
    let args: [OsString; 2] = [here.clone().into(), hosts.daemon.url("file").into()];
    // The outer timeout of a command is what bounds it; the idle timeout is a minute.
    let output = hosts.unplug_midway(&args).wait().expect(5);
    let error = output.of("error").last().unwrap();
    assert_eq!(error["code"], "lost", "{output:?}");
    assert!(
        output.stderr.contains("resumes") && !root.exists(),
        "{}",
        output.stderr
    );
    hosts.wire.plug("up");
    let output = hosts.start(&args).wait().expect(0);
    assert!(output.number("resumed_bytes") >= 4 * MIB, "{output:?}");
    assert_same(&here, &root);
    assert_no_leftovers(root.parent().unwrap());
}

/// The daemon has given the session up, and the client its own, when the network is back; or the
/// client has not.
fn a_network_is_away_for_longer_than_both_wait(backend: &'static str) {
    let Some(_) = Wire::new() else { return };
    let both = &["--timeout", "3", "--retry", "20"][..];
    thread::scope(|scope| {
        for (push, options, host) in [
            (true, both, "198.18.0.2:0"),
            (false, both, "[fd00:18::2]:0"),
            (true, &["--timeout", "40"], "198.18.0.2:0"),
            (false, &["--timeout", "40"], "198.18.0.2:0"),
        ] {
            scope.spawn(move || is_taken_up_again(backend, push, options, host));
        }
    });
}

fn is_taken_up_again(backend: &'static str, push: bool, options: &[&str], listen: &str) {
    let hosts = Hosts::with(backend, &["--timeout", "3", "--listen", listen]);
    let (from, to, args) = hosts.file(push);
    let mut running = hosts.unplug(options, &args);
    thread::sleep(Duration::from_secs(9));
    assert!(running.is_running(), "{}", running.stderr());
    hosts.wire.plug("up");
    let output = running.wait().expect(0);
    let said = &output.stderr;
    assert_eq!(output.number("sessions"), 2, "{said}");
    assert!(output.number("resumed_bytes") >= 4 * MIB, "{said}");
    // Less than half of it was done, and not much of that twice.
    assert!(output.number("sent_bytes") < 52 * MIB, "{said}");
    let is_told = said.contains("it is taken up again") || said.contains("(--retry, ");
    assert!(is_told, "{said}");
    let seconds = output.summary()["seconds"].as_f64().unwrap();
    println!("{push} {options:?}: {seconds} s");
    assert_same(&from, &to);
    assert_no_leftovers(to.parent().unwrap());
}
