//! How much peers can make a daemon log, or a command say: so many lines, then a count.

mod common;
#[allow(dead_code, reason = "tests/hostile.rs uses the rest")]
#[path = "hostile/peer.rs"]
mod peer;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Daemon, Running, Side, World, command, is_root, landro, skipped};
use landro::proto::wire::{Message, Welcome};
use landro::proto::{EntryError, EntryErrorCode, EntryPlace, Kind};
use landro::quic::Identity;
use peer::{Peer, entry};
use serde_json::{Value, json};

on_both_backends!(
    a_talkative_peer,
    sessions_in_a_loop,
    strangers,
    a_talkative_server,
    a_line_for_each_session,
    what_is_refused_has_the_call_that_failed,
    a_daemon_that_stops_says_so,
    a_log_in_json_has_the_same_names,
);

const WORKERS: u64 = 2;

/// Lines of one peer on one worker: at once, and one more for each second.
const BURST_LINES: u64 = 100;

struct Scene {
    daemon: Daemon,
    villain: Identity,
    started: Instant,
    _sides: (Side, tempfile::TempDir),
}

impl Scene {
    fn new(backend: &str) -> Scene {
        let (server, root) = (Side::new(), tempfile::tempdir().unwrap());
        let villain = Identity::generate().unwrap();
        let allow = villain.fingerprint().to_string();
        let args = ["--backend", backend, "--workers", "2", "--allow", &allow];
        let daemon = Daemon::start(&server, root.path(), &args);
        #[allow(
            clippy::disallowed_methods,
            reason = "how long it took bounds how much may be logged"
        )]
        let started = Instant::now();
        Scene {
            daemon,
            villain,
            started,
            _sides: (server, root),
        }
    }

    /// Ends the daemon; its log has `lines_at_most` lines, and some more for the time that passed.
    fn end(self, lines_at_most: u64) -> String {
        let log = self.daemon.stop().expect(0).stderr;
        let allowed = lines_at_most + WORKERS * (self.started.elapsed().as_secs() + 5);
        let lines = log.lines().count() as u64;
        println!("{lines} lines, {} bytes", log.len());
        assert!(lines <= allowed, "{lines} lines, {allowed} allowed");
        assert!(log.lines().all(|line| line.len() < 2500), "no line is long");
        assert!(
            log.lines().all(|line| line.starts_with("20")),
            "each begins with its time: none is forged"
        );
        assert!(!log.contains('\x1b'));
        log
    }
}

fn failed(text: &str) -> EntryError {
    EntryError {
        code: EntryErrorCode::Source,
        errno: 5,
        text: text.into(),
        place: EntryPlace::Source,
        call: "read".into(),
        advice: "wait".into(),
    }
}

/// One session says what goes wrong with ten thousand things.
fn a_talkative_peer(backend: &'static str) {
    let scene = Scene::new(backend);
    let mut peer = Peer::connect(scene.daemon.address(), &scene.villain);
    peer.push("");
    for _ in 0..5_000 {
        let path = Bytes::from(
            [
                b"\x1b]0;x\x07\n2026 INFO forged".to_vec(),
                vec![b'\xff'; 4_000],
            ]
            .concat(),
        );
        let text = format!("\x1b[31m\nforged line{}", "w".repeat(480));
        peer.message(&Message::SourceWarning {
            path: path.clone(),
            text: text.clone(),
        });
        peer.message(&Message::SourceError {
            path,
            error: failed(&text),
        });
    }
    peer.hang_up();
    scene.daemon.wait_for_log("left out");
    let log = scene.end(60);
    let counted = |what: &str| {
        let rest = log
            .split(what)
            .nth(1)
            .and_then(|rest| rest.split([' ', '\n']).next());
        rest.and_then(|digits| digits.parse::<u64>().ok())
            .unwrap_or_default()
    };
    assert!(
        counted("failed_entries=") > 100 && counted(" warnings=") > 100,
        "the rest is counted"
    );
}

/// Each session is short and says little, but there is no end of them: complete ones, and such as
/// break the protocol.
fn sessions_in_a_loop(backend: &'static str) {
    let scene = Scene::new(backend);
    for number in 0..300 {
        let mut peer = Peer::connect(scene.daemon.address(), &scene.villain);
        if number % 2 == 0 {
            peer.preface();
            peer.control(&[0xff; 40]);
        } else {
            peer.control(&[0xff; 40]);
        }
        peer.turn_until_closed();
    }
    let log = scene.end(WORKERS * BURST_LINES + 10);
    assert!(log.contains("were left out"), "the rest is counted");
}

/// Whoever can reach the port, with a key that may not come in, or with noise.
fn strangers(backend: &'static str) {
    let scene = Scene::new(backend);
    for _ in 0..400 {
        let mut peer = Peer::dial(scene.daemon.address(), &Identity::generate().unwrap());
        peer.turn_until_closed();
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..2_000_u32 {
        let mut noise = vec![0xc3; 1200];
        noise[1..5].copy_from_slice(&1_u32.to_be_bytes());
        noise[6..10].copy_from_slice(&number.to_be_bytes());
        socket.send_to(&noise, scene.daemon.address()).unwrap();
    }
    let log = scene.end(WORKERS * BURST_LINES + 10);
    assert!(log.contains("refused why=\"not in authorized_peers") && log.contains("were left out"));
}

/// The real client pulls from a server that has nothing but complaints.
fn a_talkative_server(backend: &'static str) {
    let identity = Identity::generate().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("landro://{}/x", socket.local_addr().unwrap());
    let (side, dir) = (Side::new(), tempfile::tempdir().unwrap());
    let pin = identity.fingerprint().to_string();
    let to = dir.path().join("to");
    let args = [
        "cp",
        "--json",
        "--retry",
        "0",
        "--backend",
        backend,
        "--peer",
        &pin,
        &url,
        to.to_str().unwrap(),
    ];
    let running = Running::spawn(command(&side, &[], args));
    let output = thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut peer = Peer::accept(socket, &identity);
            assert!(matches!(peer.next_message(), Some(Message::Hello(_))));
            peer.message(&Message::Welcome(Welcome {
                version: 1,
                entry_window: 1024,
                inside: false,
                place: None,
                adds_lanes: false,
                addresses: Vec::new(),
                clear: None,
            }));
            peer.entries(vec![entry(1, 0, b"x", Kind::File, 0)]);
            for _ in 0..12_000 {
                let path = Bytes::from_static(b"p");
                peer.message(&Message::SourceWarning {
                    path: path.clone(),
                    text: "w".into(),
                });
                peer.message(&Message::SourceError {
                    path,
                    error: failed("e"),
                });
            }
            // Long enough for all of it to be acknowledged.
            for _ in 0..20 {
                peer.wait = Duration::from_millis(5);
                peer.turn();
            }
            peer.hang_up();
        });
        let output = running.wait();
        server.join().unwrap();
        output
    });
    let (warnings, errors) = (output.of("warning").count(), output.of("error").count());
    assert_eq!(warnings, 1_000, "{} bytes", output.stdout.len());
    assert!((10_000..10_010).contains(&errors), "{errors}");
    assert!(
        output.number("warnings") > 1_000 && output.stderr.contains("landro: warning: "),
        "{}",
        output.summary()
    );
    let lines = output.stderr.lines().count();
    assert!(output.stderr.contains(" more: ") && lines < 100, "{lines}");
}

/// Who, from where, which way, what, how much, how fast, and how it ended; nothing as Rust writes
/// it.
fn a_line_for_each_session(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir(world.here("a b")).unwrap();
    fs::write(world.here("a b/x"), vec![1; 100_000]).unwrap();
    fs::write(world.here("a b/y"), "y").unwrap();
    world.push(world.here("a b"), "to/").expect(0);
    world.push(world.here("a b"), "to/").expect(0);
    world.pull("to/a%20b/x", world.here("back")).expect(0);
    world.pull("to/no%0Asuch", world.here("back")).expect(1);
    let of_client = ["--peer", &world.daemon.fingerprint, "--backend", backend];
    let url = world.url("to");
    landro(&world.client, [&["ls", &url], &of_client[..]].concat()).expect(0);
    let stranger = Side::new();
    let file = world.here("back");
    let cp = ["cp", file.to_str().unwrap(), &url];
    landro(&stranger, [&cp[..], &of_client[..]].concat()).expect(4);
    let (peer, stranger) = (world.client.id(), stranger.id());
    world.daemon.wait_for_log(&stranger);
    let log = world.daemon.stop().expect(0).stderr;
    let line = |words: &[&str]| {
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        let found: Vec<&str> = log.lines().filter(has_all).collect();
        assert_eq!(found.len(), 1, "{words:?}: {found:?}\n{log}");
        found[0].to_owned()
    };
    for words in [
        &[
            "session complete verb=push",
            "files=2 bytes=100001 sent_bytes=100001 skipped=0",
        ][..],
        &[
            "session complete verb=push",
            "files=0 bytes=0 sent_bytes=0 skipped=2 failed=0",
        ],
        &[
            "session complete verb=pull",
            "path=\"to/a b/x\" files=1 bytes=100000",
        ],
        &["verb=pull path=\"to/no\\\\nsuch\"", "failed=1"],
        &["session complete verb=list path=\"to\""],
    ] {
        let line = line(words);
        for word in [&format!("peer={peer}")[..], "address=127.0.0.1:"] {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
    assert!(line(&["verb=push", "sent_bytes=100001"]).contains("seconds=0."));
    line(&[
        "refused why=\"not in authorized_peers",
        "address=127.0.0.1:",
        &stranger,
    ]);
    for rust in ["Totals", "Some(", "None", "{ ", "IoUring"] {
        assert!(!log.contains(rust), "{rust}: {log}");
    }
}

/// A call and its error are named where a call failed, and nowhere else.
fn what_is_refused_has_the_call_that_failed(backend: &'static str) {
    let world = World::with(backend, &["--read-only"]);
    let file = world.here("file");
    fs::write(&file, "x").unwrap();
    world.push(&file, "file").expect(4);
    let url = world.url("no-such");
    let ls = ["ls", &url, "--peer", &world.daemon.fingerprint];
    landro(&world.client, ls).expect(1);
    let log = world.daemon.stop().expect(0).stderr;
    let refused = |verb: &str| {
        let begin = format!("session refused verb={verb} path=");
        log.lines().find(|line| line.contains(&begin)).expect(verb)
    };
    let (push, list) = (refused("push"), refused("list"));
    assert!(
        !push.contains("call=") && !push.contains("errno="),
        "{push}"
    );
    assert!(list.contains(" call=\"statx\" errno=2 "), "{list}");
}

/// Both sides know that it was the daemon's end, and what of the transfer was cut short.
fn a_daemon_that_stops_says_so(backend: &'static str) {
    let world = World::new(backend);
    let big = vec![7; 8 << 20];
    for at in [world.here("big"), world.root("big")] {
        fs::write(at, &big).unwrap();
    }
    let (here, there) = (world.here("big"), world.url("big"));
    let (push, pull) = (world.url("pushed"), world.here("pulled"));
    let slow = |from: &std::ffi::OsStr, to: &std::ffi::OsStr| {
        let options = ["--retry", "0", "--bwlimit", "1M"].map(std::ffi::OsStr::new);
        world.cp_start(&[&options[..], &[from, to]].concat())
    };
    let push = slow(here.as_os_str(), push.as_ref());
    let pull = slow(there.as_ref(), pull.as_os_str());
    for running in [&push, &pull] {
        let moves = |line: &str| line.contains("progress") && !line.contains("\"bytes\":0,");
        assert!(running.line(moves).is_some(), "{}", running.stderr());
    }
    let World { daemon, .. } = world;
    let log = daemon.stop().expect(0).stderr;
    for (running, verb) in [(push, "push"), (pull, "pull")] {
        let output = running.wait().expect(5);
        assert!(
            output.stderr.contains("the daemon is stopping"),
            "{}",
            output.stderr
        );
        let cut = format!("session cut short: this daemon is ending verb={verb} path=");
        assert!(log.contains(&cut), "{log}");
    }
}

/// What is text to people is one object a line to programs, whatever a peer calls its files.
fn a_log_in_json_has_the_same_names(backend: &'static str) {
    let world = World::with(backend, &["--log-format", "json"]);
    let name = OsStr::from_bytes(b"a\x1b[31m\n\"{\xc3\xbc\xff");
    let from = world.here("x").with_file_name(name);
    fs::write(&from, "x").unwrap();
    world.push(&from, "to").expect(0);
    let peer = world.client.id();
    world
        .pull("a%1B%5B31m%0A%22%7B%C3%BC%FF", world.here("back"))
        .expect(1);
    let log = world.daemon.stop().expect(0).stderr;
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(lines.iter().all(|line| line["timestamp"].is_string()));
    let of = |message: &str| {
        let is_it = |line: &&Value| line["message"] == message;
        lines.iter().find(is_it).expect(message)
    };
    let complete = of("session complete");
    assert_eq!(
        (
            &complete["verb"],
            &complete["path"],
            &complete["files"],
            &complete["bytes"],
        ),
        (&json!("push"), &json!("to"), &json!(1), &json!(1)),
        "{complete}"
    );
    assert_eq!(complete["peer"], peer, "{complete}");
    assert!(complete["lanes"].as_u64() >= Some(1), "{complete}");
    assert!(complete["sent_packets"].as_u64() > Some(0), "{complete}");
    assert!(complete["seconds"].as_f64() > Some(0.0), "{complete}");
    let pulled = lines
        .iter()
        .find(|line| line["verb"] == "pull")
        .expect("the pull");
    assert_eq!(pulled["path"], "a\\u{1b}[31m\\n\"{ü\\xff", "{pulled}");
    assert!(!log.contains('\x1b'));
}

/// Fields of an entry in the journal's native protocol: `NAME=value`, or the name alone on its line
/// and behind it how long the value is, in eight bytes, and that.
fn journal_entry(mut datagram: &[u8]) -> HashMap<String, String> {
    let mut entry = HashMap::new();
    while let Some(end) = datagram.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(&datagram[..end]).into_owned();
        datagram = &datagram[end + 1..];
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let (length, rest) = datagram.split_first_chunk().expect("a length");
                let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
                datagram = &rest[1..];
                (line, String::from_utf8_lossy(value).into_owned())
            }
        };
        entry.insert(name, value);
    }
    entry
}

/// The journal has each value under its name, where the service manager connected stderr to it; it
/// is in a mount namespace of its own.
#[test]
fn the_journal_gets_fields() {
    if !is_root() {
        return skipped("mount namespaces need root");
    }
    let (server, root, run) = (
        Side::new(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let socket = run.path().join("socket");
    let journal = UnixDatagram::bind(&socket).unwrap();
    let script = format!(
        "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && touch /run/systemd/journal/socket \
         && mount --bind {} /run/systemd/journal/socket && JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) \
         exec \"$@\"",
        socket.display()
    );
    let prefix = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    // The journal's queue is short: who does not read it holds up who writes.
    let (sender, entries) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut datagram = vec![0; 64 << 10];
        while let Ok(bytes) = journal.recv(&mut datagram) {
            let _ = sender.send(journal_entry(&datagram[..bytes]));
        }
    });
    let daemon = Daemon::start_with(&server, &prefix, root.path(), &[]);
    let stranger = Side::new();
    let url = daemon.url("");
    landro(&stranger, ["ls", "--peer", &daemon.fingerprint, &url]).expect(4);
    let id = stranger.id();
    let entry = loop {
        let wait = Duration::from_secs(20);
        let entry = entries.recv_timeout(wait).expect("an entry of the refusal");
        if entry.get("LANDRO_PEER") == Some(&id) {
            break entry;
        }
    };
    for (field, value) in [
        ("MESSAGE", "refused"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "landro"),
        ("LANDRO_WHY", "not in authorized_peers"),
        ("LANDRO_ADDRESS", "127.0.0.1:"),
    ] {
        let found = entry.get(field).map_or("", String::as_str);
        assert!(found.starts_with(value), "{field}: {entry:?}");
    }
    let said = daemon.stop().expect(0).stderr;
    assert_eq!(said, "", "nothing is said twice");
    let asked = ["--log-format", "journald"].map(str::to_owned);
    let serve = [
        &["serve".to_owned()],
        &asked[..],
        &[root.path().display().to_string()],
    ]
    .concat();
    let without = "mount -t tmpfs tmpfs /run && exec \"$@\"";
    let prefix = ["unshare", "--mount", "sh", "-c", without, "sh"];
    let output = Running::spawn(command(&server, &prefix, serve))
        .wait()
        .expect(1);
    assert!(
        output.stderr.contains("is systemd-journald running"),
        "{}",
        output.stderr
    );
}
