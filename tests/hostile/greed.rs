//! Peers that want more than their share, or say nothing at all.

use std::fs;
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use landro::proto::wire::{self, BenchMode, Item, MAX_ITEMS, Message, WireRequest};
use landro::proto::{EntryError, EntryErrorCode, EntryPlace};
use landro::quic::Identity;

use super::Scene;
use super::peer::{Peer, directory, end, file};

pub fn manifests(scene: &Scene) {
    more_than_a_session_holds(scene);
    an_endless_manifest(scene);
    for entry in fs::read_dir(scene.world.root("")).unwrap() {
        let name = entry.unwrap().file_name();
        if !name.to_string_lossy().starts_with("good") {
            let _ = fs::remove_dir_all(scene.world.root("").join(name));
        }
    }
}

fn more_than_a_session_holds(scene: &Scene) {
    let announce = |what: &str, item: fn(u32) -> Item| {
        let mut peer = scene.push();
        let mut id = 1;
        while !peer.is_closed() && id < 100_000 {
            peer.entries((id..id + 500).map(item).collect());
            id += 500;
            peer.turn();
        }
        peer.expect_violation(what);
    };
    // More files than the window has room for, none of which is ever sent.
    announce("100,000 files at once", |id| {
        file(id, &format!("f{id}"), 10)
    });
    announce("100,000 directories that do not end", |id| {
        directory(id, 0, &format!("d{id}"))
    });
    // More items than a batch may have.
    let mut peer = scene.push();
    peer.entries((1..MAX_ITEMS as u32 + 2).map(end).collect());
    peer.expect_violation("a batch of 513 items");
}

/// What is allowed may go on for ever, and costs the daemon nothing that grows.
fn an_endless_manifest(scene: &Scene) {
    let mut peer = scene.push();
    let before = scene.world.daemon.rss_bytes();
    let mut id = 1;
    while id < 30_000 && !peer.is_closed() {
        let batch = (id..id + 100).flat_map(|id| [directory(id, 0, &format!("e{id}")), end(id)]);
        peer.entries(batch.collect());
        id += 100;
        while let Some(stream_backlog) = peer.backlog()
            && stream_backlog > 4000
        {
            peer.turn();
        }
    }
    assert!(!peer.is_closed(), "{:?}", peer.closed());
    let error = EntryError {
        code: EntryErrorCode::Source,
        errno: 5,
        text: "x".repeat(512),
        place: EntryPlace::Source,
        call: "read".into(),
        advice: "wait".into(),
    };
    for _ in 0..5000 {
        let path = Bytes::from(vec![b'p'; 4000]);
        peer.message(&Message::SourceError {
            path: path.clone(),
            error: error.clone(),
        });
        peer.message(&Message::SourceWarning {
            path,
            text: "w".repeat(512),
        });
    }
    let after = scene.world.daemon.rss_bytes();
    println!(
        "an endless manifest: {} MiB before, {} MiB after",
        before >> 20,
        after >> 20
    );
    peer.hang_up();
}

/// Connections and streams on which nothing, or nothing more, is said. They are given up; nobody
/// waits for them.
pub fn silence(scene: &Scene) {
    let mut without_preface = scene.connect();
    let mut half_a_preface = scene.connect();
    half_a_preface.control(&[0; 5]);
    let mut without_hello = scene.connect();
    without_hello.preface();
    let mut half_a_hello = scene.connect();
    half_a_hello.preface();
    half_a_hello.control(&[0, 0, 1, 0, 0x82]);
    for peer in [&mut half_a_preface, &mut without_hello, &mut half_a_hello] {
        peer.turn();
    }
    // Streams opened, a byte on each, and left.
    let mut streams = scene.push();
    streams.entries(vec![file(1, "asked-for", 2 << 20)]);
    streams.verdict(1);
    for _ in 0..200 {
        streams.raw_data(&[1], false);
        streams.turn();
    }
    // A chunk begun on many streams, and left.
    let mut chunks = scene.push();
    chunks.entries(vec![file(1, "chunks", 300 << 20)]);
    chunks.verdict(1);
    for index in 0..200u8 {
        let index = [0x40, index];
        let head = [&[1, 0, 2, 1][..], &index, &[0x80, 0x10, 0, 0], &[5; 700]].concat();
        chunks.raw_data(&head, false);
        chunks.turn();
        if chunks.is_closed() {
            break;
        }
    }
    for (what, peer) in [
        ("no preface", &mut without_preface),
        ("half a preface", &mut half_a_preface),
        ("no hello", &mut without_hello),
        ("half a hello", &mut half_a_hello),
    ] {
        let closed = peer.wait_closed();
        assert!(
            closed.by_application && closed.code != 0,
            "{what}: {closed:?}"
        );
        println!("{what}: {closed:?}");
    }
    streams.hang_up();
    chunks.hang_up();
}

/// Clients that ask for much and read nothing: the daemon may fill their windows, not its memory.
pub fn never_reading(scene: &Scene) {
    let root = scene.world.root("");
    let big = fs::File::create(root.join("good-big")).unwrap();
    big.set_len(1 << 30).unwrap();
    fs::create_dir(root.join("good-names")).unwrap();
    for number in 0..20_000 {
        fs::File::create(
            root.join("good-names")
                .join(format!("{number}-{}", "x".repeat(200))),
        )
        .unwrap();
    }
    let mut peers = Vec::new();
    for number in 0..12 {
        let mut peer = scene.connect();
        (peer.reads, peer.wait) = (false, Duration::ZERO);
        match number % 3 {
            0 => peer.open(WireRequest::Pull {
                sources: vec![Bytes::from_static(b"good-big")],
                follow_named: false,
                no_growing: false,
            }),
            1 => peer.open(WireRequest::List {
                path: Bytes::from_static(b"good-names"),
            }),
            _ => peer.open(WireRequest::Pull {
                sources: vec![Bytes::from_static(b"good-names")],
                follow_named: false,
                no_growing: false,
            }),
        }
        peers.push(peer);
    }
    // Asked for the big file, too: its verdict is sent without having read that it was announced.
    turns(&mut peers);
    let send = landro::proto::wire::Verdict {
        entry: landro::ids::EntryId(1),
        kind: landro::proto::wire::VerdictKind::Send {},
    };
    for peer in peers.iter_mut().step_by(3) {
        peer.message(&Message::Verdicts(vec![send.clone()]));
    }
    turns(&mut peers);
    println!(
        "12 clients that do not read: {} MiB",
        scene.world.daemon.rss_bytes() >> 20
    );
    peers.iter_mut().for_each(Peer::hang_up);
    fs::remove_dir_all(root.join("good-names")).unwrap();
    fs::remove_file(root.join("good-big")).unwrap();
}

/// Benchmarks of clients that read nothing: filler fills a window, and echoes that are not read are
/// asked in vain.
pub fn unread_benchmarks(scene: &Scene) {
    const HOUR_MS: u64 = 3_600_000;
    let mut filled = scene.connect();
    filled.reads = false;
    filled.open(WireRequest::Bench {
        mode: BenchMode::Receive,
        milliseconds: HOUR_MS,
    });
    let mut peer = Peer::connect_narrow(scene.world.daemon.address(), &scene.villain, NARROW_BYTES);
    (peer.reads, peer.wait) = (false, Duration::from_millis(1));
    peer.open(WireRequest::Bench {
        mode: BenchMode::Echo,
        milliseconds: HOUR_MS,
    });
    let mut frame = BytesMut::new();
    wire::encode(
        &Message::Echo {
            payload: Bytes::from(vec![7; 60_000]),
        },
        &mut frame,
    );
    let (mut taken_bytes, mut at, mut idle_turns) = (0, 0, 0);
    while idle_turns < 500 && taken_bytes < FLOOD_BYTES {
        let sent = peer.conn.stream_send(0, &frame[at..], false).unwrap_or(0);
        taken_bytes += sent;
        at = (at + sent) % frame.len();
        idle_turns = if sent == 0 { idle_turns + 1 } else { 0 };
        peer.turn();
        filled.turn();
    }
    assert!(
        !peer.is_closed() && !filled.is_closed(),
        "{:?} {:?}",
        peer.closed(),
        filled.closed()
    );
    println!("of echoes nobody reads {taken_bytes} bytes were taken");
    assert!(
        taken_bytes < FLOOD_BYTES,
        "the daemon keeps answers for a client that does not read"
    );
    // Longer than anybody may; an echo longer than a message; what is no mode.
    let mut longer = scene.connect();
    longer.open(WireRequest::Bench {
        mode: BenchMode::Receive,
        milliseconds: HOUR_MS + 1,
    });
    assert!(matches!(longer.next_message(), Some(Message::Error(_))));
    let mut huge = scene.connect();
    huge.open(WireRequest::Bench {
        mode: BenchMode::Echo,
        milliseconds: HOUR_MS,
    });
    assert!(matches!(huge.next_message(), Some(Message::Welcome(_))));
    let payload = vec![0; wire::MAX_ECHO_BYTES + 1];
    let mut body = vec![0x82, 16, 0x81, 0x59];
    body.extend((payload.len() as u16).to_be_bytes());
    body.extend(payload);
    huge.control(&(body.len() as u32).to_be_bytes());
    huge.control(&body);
    huge.expect_violation("an echo longer than any may be");
    for mut peer in [filled, peer, longer] {
        peer.hang_up();
    }
}

/// What a narrow peer lets the daemon send on the control stream.
const NARROW_BYTES: u64 = 64 << 10;

/// Much more than the daemon's windows hold, and than it may keep.
const FLOOD_BYTES: usize = 64 << 20;

/// Lets all of them go on for a second.
fn turns(peers: &mut [Peer]) {
    for _ in 0..200 {
        peers.iter_mut().for_each(Peer::turn);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Many connections at once, of one identity that may come in and of one that may not.
pub fn crowds(scene: &Scene) {
    let stranger = Identity::generate().unwrap();
    let mut crowd: Vec<Peer> = Vec::new();
    for _ in 0..100 {
        let mut peer = Peer::connect(scene.world.daemon.address(), &scene.villain);
        peer.preface();
        peer.turn();
        crowd.push(peer);
    }
    println!(
        "100 connections: {} MiB",
        scene.world.daemon.rss_bytes() >> 20
    );
    // Handshakes begun and not finished, each from an address of its own.
    let mut begun: Vec<Peer> = Vec::new();
    for _ in 0..300 {
        let mut peer = Peer::dial(scene.world.daemon.address(), &stranger);
        peer.send_first_flight();
        begun.push(peer);
    }
    println!(
        "300 half-open handshakes: {} MiB",
        scene.world.daemon.rss_bytes() >> 20
    );
    for _ in 0..20 {
        let mut peer = Peer::dial(scene.world.daemon.address(), &stranger);
        let closed = peer.wait_closed();
        assert!(
            !closed.by_application && (0x100..0x200).contains(&closed.code),
            "a TLS alert: {closed:?}"
        );
    }
    crowd.iter_mut().for_each(Peer::hang_up);
}
