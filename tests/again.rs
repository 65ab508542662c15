//! A session that is lost is taken up again by the command that began it: what was done is counted
//! once, refusals are final, and what brings nothing ends.

mod common;

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::tree::{self, Rng, assert_no_leftovers, assert_same, mkfifo};
use common::{Daemon, Output, Running, Side, World, within};

on_both_backends!(
    a_daemon_that_is_killed_and_back,
    a_daemon_that_is_told_to_stop_and_back,
    a_client_that_was_stopped_for_longer_than_the_daemon_waits,
    what_failed_at_first_is_fine_in_the_end,
    a_refusal_is_final,
    somebody_else_is_not_gone_on_with,
    a_peer_that_cuts_each_session_is_left,
    a_signal_ends_it_in_each_phase,
    what_flows_by_is_not_had_twice,
    nobody_was_there_at_first,
    strict_knows_what_was_set,
);

const MIB: u64 = 1 << 20;

/// Of a tree: small files, and one that takes seconds under the limit.
const SMALL_FILES: u64 = 40;
const SMALL_BYTES: u64 = 10 << 10;
const LARGE_BYTES: u64 = 24 * MIB;
const LIMIT: &str = "6M";

/// What is on its way when a session is lost travels twice: of each stream a chunk that is not
/// whole, and what the transport holds. And what comes in its last moment is not counted.
const TWICE_BYTES: u64 = 12 * MIB;

/// A daemon that is being started anew is away for so long.
const AWAY: Duration = Duration::from_millis(1500);

/// What the user is told of a lost session.
const TOLD: &str = "it is taken up again";

/// A copy of a tree, one way or the other.
struct Copy {
    world: World,
    from: PathBuf,
    to: PathBuf,
    args: Vec<OsString>,
}

impl Copy {
    fn new(backend: &'static str, push: bool, serve: &[&str]) -> Copy {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let world = World::within(backend, serve, dir);
        let mut rng = Rng::new(backend);
        let (from, to) = match push {
            true => (world.here("tree"), world.root("copy")),
            false => (world.root("tree"), world.here("copy")),
        };
        fs::create_dir(&from).unwrap();
        for number in 0..SMALL_FILES {
            tree::write_file(&from.join(format!("s{number}")), SMALL_BYTES, &mut rng);
        }
        tree::write_file(&from.join("large"), LARGE_BYTES, &mut rng);
        let args = match push {
            true => [from.clone().into(), world.url("copy").into()],
            false => [world.url("tree").into(), to.clone().into()],
        };
        Copy {
            args: args.into(),
            world,
            from,
            to,
        }
    }

    fn start(&self, options: &[&str]) -> Running {
        let options: Vec<OsString> = options.iter().map(OsString::from).collect();
        let limit = ["--bwlimit", LIMIT].map(OsString::from);
        self.world
            .cp_start(&[&limit[..], &options, &self.args].concat())
    }

    /// Started, and some of it is done.
    fn midway(&self, options: &[&str]) -> Running {
        let running = self.start(options);
        wait_for_bytes(&running, 8 * MIB);
        running
    }

    /// All is there after so many sessions, and nothing is counted twice.
    fn is_done(&self, output: Output, sessions: u64) {
        let output = output.expect(0);
        assert_same(&self.from, &self.to);
        assert_no_leftovers(self.to.parent().unwrap());
        let sent = output.number("sent_bytes");
        let all = LARGE_BYTES + SMALL_FILES * SMALL_BYTES;
        assert!(sent.abs_diff(all) < TWICE_BYTES, "{}", output.summary());
        for (field, number) in [
            ("files", SMALL_FILES + 1),
            ("directories", 1),
            ("skipped", 0),
            ("errors", 0),
            ("bytes", all),
            ("sessions", sessions),
        ] {
            assert_eq!(
                output.number(field),
                number,
                "{field}: {}",
                output.summary()
            );
        }
        let resumed = output.number("resumed_bytes");
        assert!(resumed >= MIB, "{}", output.summary());
        let told = output.stderr.matches(TOLD).count() as u64;
        assert_eq!(told, sessions - 1, "{}", output.stderr);
        assert!(output.of("lost").count() as u64 >= sessions - 1);
        let error = output.of("error").next();
        assert!(error.is_none(), "{error:?}");
    }
}

fn wait_for_bytes(running: &Running, bytes: u64) {
    let moved = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        event["event"] == "progress" && event["bytes"].as_u64() >= Some(bytes)
    };
    let said = || format!("{}{}", running.stdout(), running.stderr());
    assert!(running.line(moved).is_some(), "it ended before: {}", said());
}

fn wait_for_loss(running: &Running) {
    let is_lost = |line: &str| line.contains("\"event\":\"lost\"");
    assert!(running.line(is_lost).is_some(), "{}", running.stderr());
}

fn a_daemon_that_is_killed_and_back(backend: &'static str) {
    for (push, kinds) in [(true, "quic,tls"), (false, "quic,tls"), (false, "tls")] {
        let mut copy = Copy::new(backend, push, &[]);
        let running = copy.midway(&["--lane-kinds", kinds]);
        copy.world.daemon.kill();
        thread::sleep(AWAY);
        copy.world.restart();
        copy.is_done(running.wait(), 2);
    }
}

fn a_daemon_that_is_told_to_stop_and_back(backend: &'static str) {
    for push in [true, false] {
        let mut copy = Copy::new(backend, push, &[]);
        let running = copy.midway(&["--summary"]);
        stop_and_start(&mut copy);
        wait_for_bytes(&running, 16 * MIB);
        stop_and_start(&mut copy);
        let output = running.wait();
        let says = "the daemon is stopping";
        assert!(output.stderr.contains(says), "{}", output.stderr);
        copy.is_done(output, 3);
    }
}

/// As `systemctl restart` does it.
fn stop_and_start(copy: &mut Copy) {
    common::signal(copy.world.daemon.pid(), "TERM");
    copy.world.daemon.wait_for_end();
    thread::sleep(AWAY);
    copy.world.restart();
}

/// As near to a host that slept as can be had: the daemon has given the session up meanwhile.
fn a_client_that_was_stopped_for_longer_than_the_daemon_waits(backend: &'static str) {
    for push in [true, false] {
        let copy = Copy::new(backend, push, &["--timeout", "2"]);
        let running = copy.midway(&[]);
        running.signal("STOP");
        thread::sleep(Duration::from_secs(6));
        running.signal("CONT");
        copy.is_done(running.wait(), 2);
    }
}

/// And what was done is done, whatever became of it meanwhile.
fn what_failed_at_first_is_fine_in_the_end(backend: &'static str) {
    let mut copy = Copy::new(backend, true, &[]);
    fs::create_dir_all(copy.to.join("s0/in-the-way")).unwrap();
    let running = copy.midway(&["-T"]);
    let failed = || running.stdout().contains("is a directory");
    assert!(within(AWAY, failed), "{}", running.stdout());
    copy.world.daemon.kill();
    fs::remove_dir_all(copy.to.join("s0")).unwrap();
    copy.world.restart();
    let output = running.wait().expect(0);
    assert_eq!(
        (output.number("errors"), output.number("files")),
        (0, SMALL_FILES + 1),
        "{output:?}"
    );
    assert_same(&copy.from, &copy.to);
}

/// Starts another daemon on the port of one that is killed.
fn in_its_place(copy: &mut Copy, side: &Side, args: &[&str]) -> Daemon {
    let listen = copy.world.daemon.address().to_owned();
    copy.world.daemon.kill();
    let args = [
        &["--listen", &listen, "--backend", copy.world.backend],
        args,
    ]
    .concat();
    Daemon::start(side, &copy.world.root(""), &args)
}

fn a_refusal_is_final(backend: &'static str) {
    let id = Side::new().id();
    let own = |copy: &Copy| copy.world.client.id();
    for (args, says) in [
        (&["--allow", &id][..], "does not know this host"),
        (&["--read-only"], "may not write"),
    ] {
        let mut copy = Copy::new(backend, true, &[]);
        let running = copy.midway(&[]);
        let (server, own) = (Side::at(copy.world.server.path().into()), own(&copy));
        let args = match args {
            ["--read-only"] => vec!["--read-only", "--allow", &own],
            args => args.to_vec(),
        };
        let _daemon = in_its_place(&mut copy, &server, &args);
        let output = running.wait().expect(4);
        assert!(output.stderr.contains(says), "{}", output.stderr);
        assert_eq!(output.stderr.matches(TOLD).count(), 1, "{}", output.stderr);
    }
}

/// Who was trusted at first sight is gone on with, and nobody else.
fn somebody_else_is_not_gone_on_with(backend: &'static str) {
    let mut copy = Copy::new(backend, false, &[]);
    let mut all: Vec<OsString> = ["cp", "--json", "--accept-new", "--backend", backend]
        .map(OsString::from)
        .into();
    all.extend(["--bwlimit", LIMIT].map(OsString::from));
    all.extend(copy.args.clone());
    let running = Running::spawn(common::command(&copy.world.client, &[], all));
    wait_for_bytes(&running, 8 * MIB);
    copy.world.restart();
    wait_for_bytes(&running, 12 * MIB);
    let known = fs::read_to_string(copy.world.client.path().join("known_hosts")).unwrap();
    assert_eq!(known.matches("SHA256:").count(), 1, "{known}");
    let (other, own) = (Side::new(), copy.world.client.id());
    let _daemon = in_its_place(&mut copy, &other, &["--allow", &own]);
    let output = running.wait().expect(4);
    assert!(output.stderr.contains("HAS CHANGED"), "{}", output.stderr);
    // A lane that would take over may meet somebody else before the session is lost.
    let told = output.stderr.matches(TOLD).count();
    assert!((1..=2).contains(&told), "{}", output.stderr);
}

/// Passes bytes of TCP on, and cuts each connection but the first after so many of them came from
/// the daemon.
struct Cutter {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
}

impl Cutter {
    fn new(daemon: &str, later_bytes: u64) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cutter = Cutter {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
        };
        let (daemon, connections) = (daemon.to_owned(), cutter.connections.clone());
        // Its threads end with the process.
        thread::spawn(move || {
            for client in listener.incoming() {
                let bytes = match connections.fetch_add(1, Ordering::SeqCst) {
                    0 => u64::MAX,
                    _ => later_bytes,
                };
                let client = client.unwrap();
                // While the daemon is away, nobody is there.
                let Ok(server) = TcpStream::connect(&daemon) else {
                    continue;
                };
                let (up, down) = (
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                );
                thread::spawn(move || pass(up, u64::MAX));
                thread::spawn(move || pass(down, bytes));
            }
        });
        cutter
    }
}

fn pass((mut from, mut to): (TcpStream, TcpStream), mut left: u64) {
    let mut buffer = [0; 64 << 10];
    while left > 0
        && let most = left.min(buffer.len() as u64) as usize
        && let Ok(bytes @ 1..) = from.read(&mut buffer[..most])
        && to.write_all(&buffer[..bytes]).is_ok()
    {
        left = left.saturating_sub(bytes as u64);
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Before the handshake, or behind the welcome.
fn a_peer_that_cuts_each_session_is_left(backend: &'static str) {
    for later_bytes in [0, 3000] {
        let mut copy = Copy::new(backend, false, &["--lane-kinds", "tls"]);
        let cutter = Cutter::new(copy.world.daemon.address(), later_bytes);
        copy.args[0] = format!("landro://{}/tree", cutter.address).into();
        let running = copy.midway(&["--lane-kinds", "tls", "--lanes", "1", "--timeout", "4"]);
        copy.world.restart();
        #[allow(
            clippy::disallowed_methods,
            reason = "how long it takes is what is looked at"
        )]
        let began = Instant::now();
        let output = running.wait().expect(5);
        let (took, connections) = (began.elapsed(), cutter.connections.load(Ordering::SeqCst));
        println!("{later_bytes}: {took:?}, {connections} connections");
        let said = &output.stderr;
        assert!(took < Duration::from_secs(25), "{took:?}: {said}");
        assert!((3..40).contains(&connections), "{connections} {said}");
        assert_eq!(said.matches(TOLD).count(), 1, "{said}");
        let says = "the same command again resumes it";
        assert!(said.contains(says), "{said}");
        assert!(output.number("sent_bytes") >= 8 * MIB);
    }
}

fn a_signal_ends_it_in_each_phase(backend: &'static str) {
    // While it waits for the next try, while it dials somebody silent, and in another session.
    for phase in ["pause", "dial", "session"] {
        let mut copy = Copy::new(backend, false, &[]);
        let running = copy.midway(&[]);
        match phase {
            "pause" => {
                copy.world.daemon.kill();
                wait_for_loss(&running);
            }
            "dial" => {
                copy.world.daemon.kill();
                wait_for_loss(&running);
                let address = copy.world.daemon.address();
                let silent = UdpSocket::bind(address).unwrap();
                let closed = TcpListener::bind(address).unwrap();
                // A first packet of the next session.
                silent.recv(&mut [0; 2048]).unwrap();
                thread::spawn(move || {
                    thread::sleep(Duration::from_secs(60));
                    drop((silent, closed));
                });
            }
            _ => {
                copy.world.restart();
                wait_for_loss(&running);
                wait_for_bytes(&running, 10 * MIB);
            }
        }
        running.signal("INT");
        let mut ended = running;
        let is_over = within(Duration::from_secs(5), || !ended.is_running());
        assert!(is_over, "{phase}: it goes on: {}", ended.stderr());
        let output = ended.wait().expect(130);
        let said = &output.stderr;
        assert!(said.contains("stopped by SIGINT; "), "{phase}: {said}");
        assert!(said.contains("MB moved"), "{phase}: {said}");
        assert_eq!(output.number("exit_code"), 130);
        assert!(
            output.number("sent_bytes") >= 6 * MIB,
            "{phase}: {}",
            output.summary()
        );
    }
}

/// A pipe is read once: another session would take its rest for all of it.
fn what_flows_by_is_not_had_twice(backend: &'static str) {
    let mut copy = Copy::new(backend, true, &[]);
    let fifo = copy.world.here("fifo");
    mkfifo(&fifo);
    let path = fifo.clone();
    thread::spawn(move || {
        let mut pipe = fs::OpenOptions::new().write(true).open(path).unwrap();
        let piece = vec![7; 1 << 16];
        // Until nobody reads any more.
        while pipe.write_all(&piece).is_ok() {}
    });
    let url: OsString = copy.world.url("").into();
    copy.args = vec![copy.from.clone().into(), fifo.into(), url];
    let running = copy.midway(&["--retry", "5"]);
    copy.world.restart();
    let output = running.wait().expect(5);
    assert!(
        output.stderr.contains("is not taken up again by itself"),
        "{}",
        output.stderr
    );
    assert_eq!(output.of("connected").count(), 1, "{output:?}");
    assert!(!copy.world.root("fifo").exists());
}

/// Then it is not waited for, unless that is asked.
fn nobody_was_there_at_first(backend: &'static str) {
    let mut copy = Copy::new(backend, true, &[]);
    copy.world.daemon.kill();
    let output = copy.start(&[]).wait().expect(5);
    assert_eq!(output.of("lost").count(), 0, "{output:?}");
    let running = copy.start(&["--retry", "9"]);
    wait_for_loss(&running);
    copy.world.restart();
    let output = running.wait().expect(0);
    assert_eq!(output.number("sessions"), 1, "{output:?}");
    assert!(output.stderr.contains("(--retry, "), "{}", output.stderr);
    assert_same(&copy.from, &copy.to);
}

/// What a session could not set is told at its end, and the next finds the files in place.
fn strict_knows_what_was_set(backend: &'static str) {
    for (options, code) in [
        (&["--strict"][..], 5),
        (&["--strict", "--retry", "9"], 3),
        (&["--strict", "--retry", "9", "--force"], 0),
    ] {
        let mut copy = Copy::new(backend, true, &[]);
        let running = copy.midway(options);
        copy.world.daemon.kill();
        thread::sleep(AWAY);
        copy.world.restart();
        let output = running.wait().expect(code);
        let errors = output.of("error").filter(|error| error["code"] == "strict");
        assert_eq!(errors.count(), usize::from(code == 3), "{output:?}");
        if code != 5 {
            assert_same(&copy.from, &copy.to);
        }
    }
}
