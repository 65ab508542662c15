//! Lanes over QUIC and over TLS: which of them carries what, and what goes on when one is not to be
//! had or is lost.

mod common;
#[path = "kinds/kernel.rs"]
mod kernel;
#[path = "kinds/relay.rs"]
mod relay;
#[path = "kinds/takeovers.rs"]
mod takeovers;

use std::ffi::OsString;
use std::fs;
use std::thread;
use std::time::Duration;

use common::tree::{self, Rng, assert_no_leftovers, assert_same};
use common::{Daemon, Output, Running, Side, World, landro};
use kernel::tls_in_the_kernel;
use relay::{Relay, Udp};
use takeovers::{
    tls_that_is_cut_where_udp_passes, udp_that_is_back, udp_that_is_cut, udp_that_is_cut_early,
    udp_that_is_cut_where_there_is_no_tls,
};

on_both_backends!(
    a_megabyte_over_either_kind,
    tls_in_the_kernel,
    quic_alone,
    tls_alone,
    both_and_tls_carries_the_bulk,
    several_lanes_carry_the_bulk,
    each_lane_adds_what_it_can,
    lanes_that_nobody_has,
    tls_that_is_slower,
    udp_that_is_silent,
    udp_that_is_refused,
    tcp_that_is_refused,
    tcp_that_never_answers,
    a_tls_lane_that_is_cut,
    udp_that_is_cut,
    udp_that_is_cut_early,
    udp_that_is_back,
    tls_that_is_cut_where_udp_passes,
    udp_that_is_cut_where_there_is_no_tls,
    small_files_over_tls,
    a_wrong_identity_over_tcp,
    a_peer_that_is_removed_is_cut_off,
    workers_that_have_the_session_of_anothers_lane,
    many_sessions_over_tls,
    listings_and_benchmarks_over_tls,
    a_daemon_that_stops,
);

const MIB: u64 = 1 << 20;

/// What has not happened by then does not happen.
const LONG: Duration = Duration::from_secs(60);

/// What the acceptance of several lanes is measured with.
const FILE_BYTES: u64 = 64 * MIB;

const QUIC: [&str; 2] = ["--lane-kinds", "quic"];
const TLS: [&str; 2] = ["--lane-kinds", "tls"];

/// A world whose files are where the build is, on a disk.
fn world(backend: &'static str, serve_args: &[&str]) -> World {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    World::within(backend, serve_args, dir)
}

/// Pushes and pulls a file by some URL, with `--stats`.
fn there_and_back(world: &World, args: &[&str], url: &str) -> [Output; 2] {
    let there = world.here("file");
    if !there.exists() {
        tree::write_file(&there, FILE_BYTES, &mut Rng::new("lanes of two kinds"));
    }
    let back = world.here("back");
    let mut words: Vec<OsString> = args.iter().map(OsString::from).collect();
    words.push("--stats".into());
    let copy = |from: OsString, to: OsString| {
        let mut all = words.clone();
        all.extend(["--force".into(), from, to]);
        world.cp(&all).expect(0)
    };
    let pushed = copy(there.clone().into(), url.into());
    assert_same(&there, &world.root("file"));
    let pulled = copy(url.into(), back.clone().into());
    assert_same(&there, &back);
    assert_no_leftovers(&world.root(""));
    [pushed, pulled]
}

fn of_kind(output: &Output, kind: &str, field: &str) -> u64 {
    let stats = &output.summary()["stats"];
    stats[kind][field]
        .as_u64()
        .unwrap_or_else(|| panic!("no {kind}.{field}: {output:?}"))
}

fn crossed(output: &Output, kind: &str) -> u64 {
    of_kind(output, kind, "sent_bytes") + of_kind(output, kind, "received_bytes")
}

fn began_on(output: &Output) -> &str {
    output.summary()["stats"]["began_on"].as_str().unwrap()
}

fn began_reason(output: &Output) -> &str {
    output.summary()["stats"]["began_reason"].as_str().unwrap()
}

/// Little enough for an emulated machine (tests/kernels).
fn a_megabyte_over_either_kind(backend: &'static str) {
    for kinds in [QUIC, TLS] {
        let world = world(backend, &[]);
        let mut rng = Rng::new("a megabyte");
        tree::write_file(&world.here("file"), MIB, &mut rng);
        for output in there_and_back(&world, &kinds, &world.url("file")) {
            assert_eq!(began_on(&output), kinds[1]);
        }
    }
}

fn quic_alone(backend: &'static str) {
    for serve in [&QUIC[..], &[]] {
        let world = world(backend, serve);
        for output in there_and_back(&world, &QUIC, &world.url("file")) {
            assert_eq!(began_on(&output), "quic");
            assert_eq!(of_kind(&output, "tls", "lanes"), 0);
            assert!(crossed(&output, "quic") > FILE_BYTES);
        }
    }
}

fn tls_alone(backend: &'static str) {
    for serve in [&TLS[..], &[]] {
        let world = world(backend, serve);
        for output in there_and_back(&world, &TLS, &world.url("file")) {
            assert_eq!(
                (began_on(&output), began_reason(&output)),
                ("tls", "asked for")
            );
            assert_eq!(of_kind(&output, "quic", "lanes"), 0);
            assert!(crossed(&output, "tls") > FILE_BYTES);
        }
    }
}

fn both_and_tls_carries_the_bulk(backend: &'static str) {
    let world = world(backend, &[]);
    for output in there_and_back(&world, &[], &world.url("file")) {
        assert_eq!(began_on(&output), "quic");
        assert!(
            crossed(&output, "tls") > FILE_BYTES / 2,
            "the added lane carried little: {output:?}"
        );
        assert!(crossed(&output, "quic") > 0);
    }
}

/// Lanes are dialled one after the other while the transfer goes on, so that it must not be over
/// before.
fn several_lanes_carry_the_bulk(backend: &'static str) {
    let world = world(backend, &["--workers", "4"]);
    let slowly = ["--lanes", "4", "--bwlimit", "24M"];
    for output in there_and_back(&world, &slowly, &world.url("file")) {
        assert_eq!(began_on(&output), "quic");
        assert_eq!(of_kind(&output, "tls", "lanes"), 4, "{output:?}");
        assert!(crossed(&output, "tls") > FILE_BYTES / 2, "{output:?}");
    }
    let tls = [&TLS[..], &["--lanes", "2", "--bwlimit", "24M"]].concat();
    let relay = Relay::new(world.daemon.address(), Udp::Passes);
    for output in there_and_back(&world, &tls, &relay.url("file")) {
        assert_eq!(of_kind(&output, "tls", "lanes"), 3, "{output:?}");
    }
    assert_eq!(
        relay.small_segments(),
        0,
        "none of them took another's place"
    );
}

/// Where each connection has a limit of its own, several carry as much more.
fn each_lane_adds_what_it_can(backend: &'static str) {
    const RATE: u64 = 3 * MIB;
    let world = world(backend, &[]);
    let source = world.here("file");
    tree::write_file(&source, 24 * MIB, &mut Rng::new("limits"));
    let relay = Relay::new(world.daemon.address(), Udp::Passes);
    relay.slow_tcp(RATE);
    let seconds = ["1", "2", "4"].map(|lanes| {
        let start = landro::engine::now();
        let words = [&TLS[..], &["--lanes", lanes]].concat();
        let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
        args.extend([source.clone().into(), relay.url(lanes).into()]);
        world.cp(&args).expect(0);
        assert_same(&source, &world.root(lanes));
        start.elapsed().as_secs_f64()
    });
    let [one, two, four] = seconds;
    // All that was sent before the lanes were there went over one of them.
    assert!(one / two > 1.4 && one / four > 2.0, "{seconds:?}");
}

fn lanes_that_nobody_has(backend: &'static str) {
    let world = world(backend, &QUIC);
    for output in there_and_back(&world, &["--lanes", "4"], &world.url("file")) {
        assert_eq!(of_kind(&output, "tls", "lanes"), 0, "{output:?}");
    }
    let here = world.here("file").into_os_string();
    let words = ["--lanes", "2", "--lane-kinds", "quic"];
    let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
    args.extend([here, world.url("other").into()]);
    let output = world.cp(&args).expect(2);
    assert!(format!("{output:?}").contains("--lanes adds lanes over TCP"));
}

/// What TLS brings is less than what QUIC brings, from its beginning (push) or from some moment on
/// (pull): QUIC carries the bulk.
fn tls_that_is_slower(backend: &'static str) {
    const BYTES_PER_SECOND: u64 = 8_000_000;
    let world = world(backend, &[]);
    let source = world.here("file");
    tree::write_file(&source, 3 * FILE_BYTES, &mut Rng::new("TLS is slower"));
    for push in [true, false] {
        let relay = Relay::new(world.daemon.address(), Udp::Passes);
        let (from, to): (OsString, OsString) = match push {
            true => (source.clone().into(), relay.url("file").into()),
            false => (relay.url("file").into(), world.here("back").into()),
        };
        let copy = |kinds: &[&str], slow_at: u64| {
            let mut args: Vec<OsString> = kinds.iter().map(OsString::from).collect();
            args.extend(["--force".into(), "--stats".into(), from.clone(), to.clone()]);
            let start = landro::engine::now();
            let running = world.cp_start(&args);
            if kinds.is_empty() {
                let wait = |bytes| {
                    while relay.tcp_bytes() < bytes && start.elapsed() < LONG {
                        thread::sleep(Duration::from_millis(5));
                    }
                };
                wait(slow_at);
                relay.slow_tcp(BYTES_PER_SECOND);
            }
            let output = running.wait().expect(0);
            (output, start.elapsed())
        };
        let (_, quic_took) = copy(&QUIC, 0);
        let (output, took) = copy(&[], if push { 0 } else { 16 * MIB });
        println!("{quic_took:?} by QUIC alone, {took:?} by both");
        let (quic, tls) = (crossed(&output, "quic"), crossed(&output, "tls"));
        assert!(tls > 0 && quic > tls, "{quic} by QUIC, {tls} by TLS");
    }
    assert_same(&source, &world.root("file"));
    assert_same(&source, &world.here("back"));
}

fn udp_that_is_silent(backend: &'static str) {
    let world = world(backend, &[]);
    let relay = Relay::new(world.daemon.address(), Udp::Silent);
    let start = landro::engine::now();
    let small = world.here("small");
    fs::write(&small, "a few bytes").unwrap();
    let args = [
        "--stats".into(),
        small.into_os_string(),
        relay.url("small").into(),
    ];
    let output = world.cp(&args).expect(0);
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(began_on(&output), "tls");
    assert_eq!(began_reason(&output), "UDP did not answer in 250 ms");
    let connected = output.of("connected").next().unwrap();
    assert_eq!(connected["kind"], "tls");
    assert_eq!(connected["reason"], "UDP did not answer in 250 ms");
    for output in there_and_back(&world, &[], &relay.url("file")) {
        assert_eq!(began_on(&output), "tls");
        assert!(crossed(&output, "tls") > FILE_BYTES);
    }
}

fn udp_that_is_refused(backend: &'static str) {
    let world = world(backend, &TLS);
    let start = landro::engine::now();
    let small = world.here("small");
    fs::write(&small, "a few bytes").unwrap();
    let args = [
        "--stats".into(),
        small.into_os_string(),
        world.url("small").into(),
    ];
    let output = world.cp(&args).expect(0);
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(began_on(&output), "tls");
}

/// The daemon has no TCP: nothing is slower, and nothing is said of it.
fn tcp_that_is_refused(backend: &'static str) {
    let world = world(backend, &QUIC);
    for output in there_and_back(&world, &[], &world.url("file")) {
        assert_eq!(began_on(&output), "quic");
        assert_eq!(crossed(&output, "tls"), 0);
        assert_eq!(output.number("warnings"), 0);
        assert_eq!(output.stderr, "");
    }
}

/// Nobody waits for a lane that is still being dialled when everything is there.
fn tcp_that_never_answers(backend: &'static str) {
    let world = world(backend, &[]);
    let relay = Relay::new(world.daemon.address(), Udp::Passes);
    relay.stall();
    let start = landro::engine::now();
    for output in there_and_back(&world, &[], &relay.url("file")) {
        assert_eq!(began_on(&output), "quic");
        assert_eq!(of_kind(&output, "tls", "received_bytes"), 0);
        assert_eq!(output.stderr, "");
    }
    // Each waited for its handshake's 10 s.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// In both directions, by a firewall that says so and by one that does not.
fn a_tls_lane_that_is_cut(backend: &'static str) {
    let world = world(backend, &[]);
    let source = world.here("file");
    tree::write_file(&source, FILE_BYTES, &mut Rng::new("a lane that is cut"));
    let there = world.root("source");
    fs::copy(&source, &there).unwrap();
    let ends = [(true, true), (true, false), (false, true), (false, false)];
    let ends = ends.map(|(cut, push)| [("1", cut, push), ("3", cut, push)]);
    for (number, (lanes, cut, push)) in ends.into_iter().flatten().enumerate() {
        let relay = Relay::new(world.daemon.address(), Udp::Passes);
        let name = format!("target-{number}");
        let (from, to, target): (OsString, OsString, _) = match push {
            true => (
                source.clone().into(),
                relay.url(&name).into(),
                world.root(&name),
            ),
            false => (
                relay.url("source").into(),
                world.here(&name).into(),
                world.here(&name),
            ),
        };
        let words = ["--bwlimit", "24M", "--stats", "--lanes", lanes];
        let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
        args.extend([from, to]);
        let running = world.cp_start(&args);
        midway(&running, &relay);
        if cut {
            relay.reset();
        } else {
            relay.stall();
        }
        let output = running.wait().expect(0);
        assert_same(if push { &source } else { &there }, &target);
        assert_eq!(output.number("errors"), 0, "{output:?}");
        assert!(of_kind(&output, "tls", "lanes") >= 1);
        assert_no_leftovers(&world.root(""));
    }
}

/// Waits until something happened to a transfer that goes on.
fn wait(running: &Running, happened: impl Fn() -> bool) {
    let said = || format!("{}{}", running.stdout(), running.stderr());
    assert!(common::within(LONG, happened), "nothing moves: {}", said());
}

/// Waits until the lane that was added carries data.
fn midway(running: &Running, relay: &Relay) {
    let start = landro::engine::now();
    while relay.tcp_bytes() < 8 * MIB {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "TLS carries nothing: {}{}",
            running.stdout(),
            running.stderr()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn small_files_over_tls(backend: &'static str) {
    const FILES: u64 = 4000;
    let world = world(backend, &[]);
    let mut rng = Rng::new("small files over TLS");
    let source = world.here("many");
    for number in 0..FILES {
        let dir = source.join((number / 100).to_string());
        fs::create_dir_all(&dir).unwrap();
        // 10 KiB on average, which are 40 MiB.
        let size_bytes = rng.below(20 << 10);
        tree::write_file(&dir.join(number.to_string()), size_bytes, &mut rng);
    }
    let ways = [&TLS[..], &[], &["--lanes", "3"]];
    for (number, args) in ways.into_iter().enumerate() {
        let (there, back) = (format!("there-{number}"), format!("back-{number}"));
        let copy = |from: OsString, to: OsString| {
            let mut all: Vec<OsString> = args.iter().map(OsString::from).collect();
            all.extend(["-T".into(), from, to]);
            world.cp(&all).expect(0)
        };
        copy(source.clone().into(), world.url(&there).into());
        assert_same(&source, &world.root(&there));
        let pulled = copy(world.url(&there).into(), world.here(&back).into());
        assert_eq!(pulled.number("files"), FILES);
        assert_same(&source, &world.here(&back));
    }
}

/// Who has another key than the daemon is believed on no kind of lane.
fn a_wrong_identity_over_tcp(backend: &'static str) {
    let world = world(backend, &[]);
    let other = Side::new();
    let root = tempfile::tempdir().unwrap();
    let args = ["--backend", backend, "--allow", &world.client.id()];
    let other = Daemon::start(&other, root.path(), &args);
    let source = world.here("file");
    fs::write(&source, "secret").unwrap();
    // It begins there: refused.
    let url = other.url("file");
    let mut args: Vec<OsString> = TLS.iter().map(OsString::from).collect();
    args.extend([source.clone().into(), url.into()]);
    let output = world.cp(&args).expect(4);
    assert!(output.stdout.contains("identity"), "{output:?}");
    assert!(!root.path().join("file").exists());
    // A client that the daemon does not know is refused, and hears it.
    let stranger = Side::new();
    let peer = ["--peer", &world.daemon.fingerprint];
    let url = world.url("file");
    let source = source.to_str().unwrap();
    let words = [&["cp"], &peer[..], &TLS, &[source, &url]].concat();
    let output = landro(&stranger, words).expect(4);
    assert!(
        output.stderr.contains("does not know this host"),
        "{output:?}"
    );
    world.daemon.wait_for_log("not in authorized_peers");
}

/// SIGHUP ends sessions on TLS lanes as on any.
fn a_peer_that_is_removed_is_cut_off(backend: &'static str) {
    let (client, server) = (Side::new(), Side::new());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let peers = server.path().join("authorized_peers");
    server.id();
    fs::write(&peers, format!("{}\n", client.id())).unwrap();
    let daemon = Daemon::start(&server, dir.path(), &["--backend", backend]);
    let source = client.path().join("source");
    tree::write_file(&source, FILE_BYTES, &mut Rng::new("removed"));
    let url = daemon.url("file");
    let words = [
        &[
            "cp",
            "--json",
            "--bwlimit",
            "4M",
            "--peer",
            &daemon.fingerprint,
        ][..],
        &TLS,
        &["--backend", backend, source.to_str().unwrap(), &url],
    ];
    let running = Running::spawn(common::command(&client, &[], words.concat()));
    running.line(|line| line.contains("\"progress\"")).unwrap();
    fs::write(&peers, "").unwrap();
    common::signal(daemon.pid(), "HUP");
    let output = running.wait().expect(4);
    assert!(
        output.stdout.contains("removed from authorized_peers"),
        "{output:?}"
    );
    daemon.stop().expect(0);
}

/// The kernel gives a TCP connection to any worker, and the session is another's.
fn workers_that_have_the_session_of_anothers_lane(backend: &'static str) {
    let world = world(backend, &["--workers", "4"]);
    let source = world.here("file");
    tree::write_file(&source, 16 * MIB, &mut Rng::new("workers"));
    for number in 0..12 {
        let name = format!("file-{number}");
        let args: [OsString; 3] = [
            "--stats".into(),
            source.clone().into(),
            world.url(&name).into(),
        ];
        let output = world.cp(&args).expect(0);
        assert_same(&source, &world.root(&name));
        assert_eq!(of_kind(&output, "tls", "lanes"), 1, "{output:?}");
        assert!(crossed(&output, "tls") > MIB, "{output:?}");
    }
}

fn many_sessions_over_tls(backend: &'static str) {
    const SESSIONS: usize = 150;
    const AT_A_TIME: usize = 30;
    let world = world(backend, &[]);
    let source = world.here("file");
    tree::write_file(&source, MIB / 2, &mut Rng::new("many sessions"));
    let mut all: Vec<usize> = (0..SESSIONS).collect();
    while !all.is_empty() {
        let some = all.split_off(all.len().saturating_sub(AT_A_TIME));
        let running: Vec<Running> = some
            .iter()
            .map(|number| {
                let mut args: Vec<OsString> = TLS.iter().map(OsString::from).collect();
                let url = world.url(&format!("file-{number}"));
                args.extend([source.clone().into(), url.into()]);
                world.cp_start(&args)
            })
            .collect();
        for running in running {
            running.wait().expect(0);
        }
        for number in some {
            assert_same(&source, &world.root(&format!("file-{number}")));
        }
    }
    assert_eq!(world.daemon.stop().code, Some(0));
}

fn listings_and_benchmarks_over_tls(backend: &'static str) {
    let world = world(backend, &[]);
    for number in 0..3000 {
        fs::write(world.root(&number.to_string()), "").unwrap();
    }
    let peer = ["--peer", &world.daemon.fingerprint, "--backend", backend];
    let url = world.url("");
    let words = [&["ls"], &peer[..], &TLS, &[&url]].concat();
    let listed = landro(&world.client, words).expect(0);
    assert_eq!(listed.stdout.lines().count(), 3000);
    for more in [&[][..], &["--reverse"], &["--latency"]] {
        let fixed = ["bench", "--json", "--seconds", "1"];
        let words = [&fixed, &peer[..], &TLS, more, &[&url]].concat();
        landro(&world.client, words).expect(0);
    }
    let local = [
        "bench",
        "--json",
        "--seconds",
        "1",
        "--local",
        "--backend",
        backend,
    ];
    landro(&world.client, [&local[..], &TLS].concat()).expect(0);
}

/// A daemon says goodbye on TLS lanes, too, and is back on both of its ports.
fn a_daemon_that_stops(backend: &'static str) {
    let mut world = world(backend, &[]);
    let source = world.here("file");
    tree::write_file(&source, FILE_BYTES, &mut Rng::new("stops"));
    let mut args: Vec<OsString> = TLS.iter().map(OsString::from).collect();
    args.extend([
        "--retry".into(),
        "0".into(),
        "--bwlimit".into(),
        "4M".into(),
        source.into(),
        world.url("file").into(),
    ]);
    let running = world.cp_start(&args);
    running.line(|line| line.contains("\"progress\"")).unwrap();
    common::signal(world.daemon.pid(), "TERM");
    let output = running.wait().expect(5);
    assert!(output.stdout.contains("stop"), "{output:?}");
    world.daemon.wait_for_end();
    world.restart();
    fs::write(world.here("small"), "back again").unwrap();
    let mut args: Vec<OsString> = TLS.iter().map(OsString::from).collect();
    args.extend([world.here("small").into(), world.url("small").into()]);
    world.cp(&args).expect(0);
}

#[test]
fn an_unknown_kind_is_a_usage_error() {
    let side = Side::new();
    for command in ["serve", "cp", "ls", "bench"] {
        for kinds in ["tcp", "quic,", ""] {
            let words = [command, "--lane-kinds", kinds, "landro://host/a", "b"];
            let output = landro(&side, &words[..if command == "cp" { 5 } else { 4 }]).expect(2);
            assert!(output.stderr.contains("unknown kind of lane"), "{output:?}");
        }
    }
}
