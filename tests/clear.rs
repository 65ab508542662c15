//! Lanes in the clear: only where both sides say so, and what somebody on the wire can do to them.

mod common;
#[path = "clear/strangers.rs"]
mod strangers;
#[path = "clear/wire.rs"]
mod wire;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use common::tree::{self, Rng, assert_no_leftovers, assert_same, same_content};
use common::{Daemon, Output, Running, Side};
use tempfile::TempDir;
use wire::{Change, Mischief, Wire};

on_both_backends!(
    the_bulk_goes_in_the_clear,
    several_lanes_go_in_the_clear,
    nothing_goes_in_the_clear_unless_both_say_so,
    data_that_is_changed_comes_again,
    what_is_remembered_and_changed_comes_again,
    what_is_said_cannot_be_changed,
    a_handshake_that_is_changed_lets_nobody_in,
    a_proof_that_is_changed_lets_nobody_in,
    answers_cannot_be_changed,
    strangers_are_not_let_in,
    who_may_not_go_in_the_clear_any_more_does_not,
    there_is_no_lane_in_the_clear_without_tcp,
);

const PEERS: &str = "authorized_peers";

const MIB: u64 = 1 << 20;
const FILE_BYTES: u64 = 32 * MIB;

/// What a reader of the wire finds, or does not.
const MARKER: &[u8] = b"this is plainly to be read by whoever is on the wire, if anything is";

const ALTERED: &str = "DATA IN THE CLEAR WAS CHANGED ON THE WIRE";
const ALTERED_LOG: &str = "data in the clear was changed on the wire";
const NOT_HAD: &str = "no lane in the clear came to be";
const NOT_ALLOWED: &str = "the daemon allows no lanes in the clear";

/// A daemon, and a client whose line in its list has some options.
pub struct Site {
    backend: &'static str,
    client: Side,
    server: Side,
    pub daemon: Daemon,
    dir: TempDir,
}

impl Site {
    fn new(backend: &'static str, serve: &[&str], options: &str) -> Site {
        let (client, server) = (Side::new(), Side::new());
        // On a disk, as users' files are.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let line = format!("{} {options}\n", client.id());
        fs::create_dir_all(server.path()).unwrap();
        fs::write(server.path().join(PEERS), line).unwrap();
        let args = [&["--backend", backend, "--memory-budget", "32M"], serve].concat();
        Site {
            backend,
            daemon: Daemon::start(&server, &root, &args),
            client,
            server,
            dir,
        }
    }

    fn open(backend: &'static str) -> Site {
        Site::new(backend, &["--allow-clear", "--workers", "2"], "rw,clear")
    }

    /// The client's line has other options from now on.
    fn authorize(&self, options: &str) {
        let line = format!("{} {options}\n", self.client.id());
        fs::write(self.server.path().join(PEERS), line).unwrap();
        common::signal(self.daemon.pid(), "HUP");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&self, args: &[&str]) -> Running {
        let fixed = [
            "cp",
            "--json",
            "--stats",
            "--force",
            "--backend",
            self.backend,
        ];
        let peer = ["--peer", &self.daemon.fingerprint];
        let all = [&fixed[..], &peer, args].concat();
        Running::spawn(common::command(&self.client, &[], all))
    }

    /// A file with the marker in it again and again.
    fn source(&self, bytes: u64) -> PathBuf {
        let path = self.path("file");
        if !path.exists() {
            tree::write_file(&path, bytes, &mut Rng::new("in the clear"));
            let mut data = fs::read(&path).unwrap();
            for part in data.chunks_mut(10_000) {
                if part.len() > MARKER.len() {
                    part[..MARKER.len()].copy_from_slice(MARKER);
                }
            }
            fs::write(&path, data).unwrap();
        }
        path
    }

    /// Pushes and pulls the file through a wire, or past it.
    fn there_and_back(&self, url: &str, args: &[&str]) -> [Output; 2] {
        let (there, back) = (self.source(FILE_BYTES), self.path("back"));
        let words = |from, to| [args, &[from, to]].concat();
        let pushed = self.start(&words(there.to_str().unwrap(), url)).wait();
        let pushed = pushed.expect(0);
        assert_same(&there, &self.path("root/file"));
        let pulled = self.start(&words(url, back.to_str().unwrap())).wait();
        let pulled = pulled.expect(0);
        assert_same(&there, &back);
        assert_no_leftovers(&self.path("root"));
        [pushed, pulled]
    }
}

/// A transfer that goes on for seconds, all over TCP.
pub fn slow_push(site: &Site, wire: &Wire, bytes: u64) -> Running {
    let source = site.source(bytes);
    let words = ["--clear", "--lane-kinds", "tls", "--bwlimit", "4M"];
    let url = wire.url("file");
    site.start(&[&words[..], &[source.to_str().unwrap(), &url]].concat())
}

fn carried(output: &Output, kind: &str) -> u64 {
    let kind = &output.summary()["stats"][kind];
    let bytes = |field: &str| kind[field].as_u64().unwrap();
    bytes("sent_bytes") + bytes("received_bytes")
}

fn has(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|part| part == what)
}

fn warns(output: &Output, of: &str) -> bool {
    let mut warnings = output.of("warning");
    warnings.any(|warning| warning["message"].as_str().unwrap().contains(of))
}

/// Through TCP alone.
const TCP: [&str; 3] = ["--clear", "--lane-kinds", "tls"];

fn the_bulk_goes_in_the_clear(backend: &'static str) {
    let site = Site::open(backend);
    for output in site.there_and_back(&site.daemon.url("file"), &["--clear"]) {
        assert!(carried(&output, "clear") > FILE_BYTES / 4, "{output:?}");
        assert_eq!(output.number("warnings"), 0, "{output:?}");
        assert_eq!(output.summary()["stats"]["began_on"], "quic");
    }
    let wire = Wire::new(site.daemon.address(), None);
    for output in site.there_and_back(&wire.url("file"), &TCP) {
        assert!(carried(&output, "clear") > FILE_BYTES / 4, "{output:?}");
        assert!(carried(&output, "tls") > 0);
    }
    let lanes = wire.in_the_clear();
    assert_eq!(lanes.len(), 2);
    for (lane, side) in lanes.iter().zip([0, 1]) {
        assert!(has(&lane.kept[side], MARKER), "nothing is to be read");
    }
    for crossed in wire.crossed().iter().filter(|it| !it.is_clear) {
        assert!(!crossed.kept.iter().any(|kept| has(kept, MARKER)));
    }
}

fn several_lanes_go_in_the_clear(backend: &'static str) {
    let site = Site::open(backend);
    let wire = Wire::new(site.daemon.address(), None);
    let args = [&TCP[..], &["--lanes", "3", "--bwlimit", "16M"]].concat();
    for output in site.there_and_back(&wire.url("file"), &args) {
        let lanes = &output.summary()["stats"]["clear"]["lanes"];
        assert_eq!(lanes.as_u64(), Some(3), "{output:?}");
        assert_eq!(output.number("warnings"), 0, "{output:?}");
    }
}

fn nothing_goes_in_the_clear_unless_both_say_so(backend: &'static str) {
    let cases: [(&[&str], &str, &[&str]); 3] = [
        (&[], "rw,clear", &TCP),
        (&["--allow-clear"], "rw", &TCP),
        (&["--allow-clear"], "rw,clear", &TCP[1..]),
    ];
    for (serve, options, args) in cases {
        let site = Site::new(backend, serve, options);
        let wire = Wire::new(site.daemon.address(), None);
        let args = [args, &["--lanes", "2"]].concat();
        for output in site.there_and_back(&wire.url("file"), &args) {
            assert_eq!(carried(&output, "clear"), 0, "{output:?}");
            let is_asked = args.contains(&"--clear");
            assert_eq!(warns(&output, NOT_ALLOWED), is_asked, "{output:?}");
        }
        let crossed = wire.crossed();
        assert!(crossed.len() >= 4, "{} connections", crossed.len());
        for connection in crossed {
            assert!(!connection.is_clear);
            assert!(!connection.kept.iter().any(|kept| has(kept, MARKER)));
        }
    }
}

/// Pushes and pulls over wires on which something happens once.
fn over_a_bad_wire(backend: &'static str, changes: &[Change], expected: &str) {
    let site = Site::open(backend);
    for &change in changes {
        let wire = Wire::new(site.daemon.address(), Some(change));
        let (there, back) = (site.source(FILE_BYTES), site.path("back"));
        let url = wire.url("file");
        let is_push = change.to_daemon;
        let files = match is_push {
            true => [there.to_str().unwrap(), &url],
            false => [&url, back.to_str().unwrap()],
        };
        if !is_push {
            fs::copy(&there, site.path("root/file")).unwrap();
        }
        let before = site.daemon.log().matches(ALTERED_LOG).count();
        let args = [&TCP[..], &files].concat();
        let output = site.start(&args).wait().expect(0);
        let landed = match is_push {
            true => site.path("root/file"),
            false => back,
        };
        assert!(same_content(&there, &landed), "{change:?}");
        assert_no_leftovers(&site.path("root"));
        assert!(warns(&output, expected), "{change:?}: {output:?}");
        assert_eq!(output.number("warnings"), 1, "{change:?}: {output:?}");
        let lanes = wire.in_the_clear();
        assert_eq!(lanes.len(), 1, "{change:?}: taken up again");
        if expected == ALTERED {
            site.daemon.wait_for_log_again(ALTERED_LOG, before);
        }
    }
}

fn changes(at: &[usize], to_daemon: &[bool], mischiefs: &[Mischief]) -> Vec<Change> {
    let mut all = Vec::new();
    for &at in at {
        for &to_daemon in to_daemon {
            for &mischief in mischiefs {
                all.push(Change {
                    mischief,
                    to_daemon,
                    at,
                });
            }
        }
    }
    all
}

/// In the midst of what is nearly all data of files.
fn data_that_is_changed_comes_again(backend: &'static str) {
    use Mischief::{Flip, Insert, Remove, Swap, Twice};
    let all = [Flip, Insert, Remove, Swap, Twice];
    let changes = changes(&[700_000, 3_000_001], &[true, false], &all);
    over_a_bad_wire(backend, &changes, ALTERED);
}

/// The daemon does not see what it sends, and finds out by the receiver's complaint that it is not
/// what arrives.
fn what_is_remembered_and_changed_comes_again(backend: &'static str) {
    let store = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let kept = store.path().join("kept");
    let args = ["--allow-clear", "--digest-cache", kept.to_str().unwrap()];
    let site = Site::new(backend, &args, "rw,clear");
    let (there, back) = (site.path("root/file"), site.path("back"));
    fs::copy(site.source(FILE_BYTES), &there).unwrap();
    // Until it is not young any more (ADR 44).
    std::thread::sleep(Duration::from_millis(4_500));
    let pull = |url: &str| {
        let files = [url, back.to_str().unwrap()];
        let output = site.start(&[&TCP[..], &files].concat()).wait().expect(0);
        assert_same(&there, &back);
        output
    };
    assert_eq!(pull(&site.daemon.url("file")).number("kept_chunks"), 0);
    for at in [3_000_001, 9_000_000] {
        let change = Change {
            mischief: Mischief::Flip,
            to_daemon: false,
            at,
        };
        let wire = Wire::new(site.daemon.address(), Some(change));
        let before = site.daemon.log().matches(ALTERED_LOG).count();
        let output = pull(&wire.url("file"));
        assert!(output.number("kept_chunks") > 0, "{output:?}");
        assert!(warns(&output, ALTERED), "{output:?}");
        assert_eq!(output.number("warnings"), 1, "{output:?}");
        site.daemon.wait_for_log_again(ALTERED_LOG, before);
        // It was forgotten, though it was right.
        assert_eq!(pull(&site.daemon.url("file")).number("kept_chunks"), 0);
    }
}

/// Heads of records and frames, and the codes of what is said, at the beginning of a lane.
fn what_is_said_cannot_be_changed(backend: &'static str) {
    use Mischief::{Flip, Insert, Remove};
    // Behind the handshake: 60 and 32 bytes to the daemon, 64 from it.
    let to_daemon = changes(&[92, 94, 97, 120, 150], &[true], &[Flip]);
    let from_daemon = changes(&[65, 70, 90, 110], &[false], &[Flip]);
    let others = changes(&[200], &[true, false], &[Insert, Remove]);
    let all = [to_daemon, from_daemon, others].concat();
    over_a_bad_wire(backend, &all, ALTERED);
}

fn a_handshake_that_is_changed_lets_nobody_in(backend: &'static str) {
    use Mischief::{Flip, Swap};
    let from_client = changes(&[0, 9, 26, 40], &[true], &[Flip]);
    let from_daemon = changes(&[3, 40], &[false], &[Flip, Swap]);
    over_a_bad_wire(backend, &[from_client, from_daemon].concat(), NOT_HAD);
}

/// The client believes that it is let in, until it hears nothing but the end.
fn a_proof_that_is_changed_lets_nobody_in(backend: &'static str) {
    let site = Site::open(backend);
    for at in [60, 91] {
        let change = Change {
            mischief: Mischief::Flip,
            to_daemon: true,
            at,
        };
        let wire = Wire::new(site.daemon.address(), Some(change));
        for output in site.there_and_back(&wire.url("file"), &TCP) {
            assert!(warns(&output, NOT_HAD), "{at}: {output:?}");
            assert_eq!(output.number("warnings"), 1, "{at}: {output:?}");
        }
        assert_eq!(wire.in_the_clear().len(), 2, "{at}: taken up again");
    }
}

/// What the receiver of data says on the lane: credit, and what was read. A length that was made
/// greater has the sender wait for bytes that never come, on a lane without credit.
fn answers_cannot_be_changed(backend: &'static str) {
    let site = Site::open(backend);
    let there = site.source(FILE_BYTES);
    for at in [64, 66, 80, 130] {
        let change = Change {
            mischief: Mischief::Flip,
            to_daemon: false,
            at,
        };
        let wire = Wire::new(site.daemon.address(), Some(change));
        let url = wire.url("file");
        let files = [there.to_str().unwrap(), &url];
        let output = site.start(&[&TCP[..], &files].concat()).wait().expect(0);
        assert_same(&there, &site.path("root/file"));
        let is_length = at < 70;
        assert!(is_length || warns(&output, ALTERED), "{at}: {output:?}");
        assert_eq!(wire.in_the_clear().len(), 1, "{at}: taken up again");
    }
}

fn strangers_are_not_let_in(backend: &'static str) {
    strangers::while_a_transfer_goes_on(&Site::open(backend));
}

/// The right is taken from whoever has it: what goes in the clear ends, what does not goes on.
fn who_may_not_go_in_the_clear_any_more_does_not(backend: &'static str) {
    let site = Site::open(backend);
    let source = site.source(FILE_BYTES);
    let start = |name: &str, options: &[&str]| {
        let url = site.daemon.url(name);
        let files = ["--bwlimit", "8M", source.to_str().unwrap(), &url];
        let running = site.start(&[options, &files].concat());
        let flows = running.line(|line| line.contains("\"progress\""));
        flows.expect("data flows");
        running
    };
    let clear = start("clear", &["--clear", "--retry", "0"]);
    let encrypted = start("encrypted", &[]);
    site.authorize("rw");
    let output = clear.wait().expect(4);
    let error = output.of("error").next().unwrap();
    assert_eq!(error["code"], "permission", "{output:?}");
    let output = encrypted.wait().expect(0);
    assert_eq!(output.number("warnings"), 0, "{output:?}");
    assert_same(&source, &site.path("root/encrypted"));
}

fn there_is_no_lane_in_the_clear_without_tcp(backend: &'static str) {
    let site = Site::open(backend);
    let source = site.source(MIB);
    let files = [source.to_str().unwrap(), &site.daemon.url("file")];
    let words = ["--clear", "--lane-kinds", "quic"];
    let output = site.start(&[&words[..], &files].concat()).wait().expect(2);
    assert!(format!("{output:?}").contains("lanes in the clear go over TCP"));
}
