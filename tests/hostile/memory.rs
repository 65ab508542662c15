//! Whatever QUIC lets a peer make us keep has a bound, and is given back: the budget and a
//! constant, in the daemon's RSS.

use std::fs;
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use landro::ids::EntryId;
use landro::proto::wire::{self, Message, RecordHead, Verdict, VerdictKind, WireRequest};
use landro::quic::Identity;

use super::common::World;
use super::common::tree::{self, Rng};
use super::craft::{Forger, Stranger, frame, varint};
use super::peer::{Peer, file};

const BUDGET: &str = "64M";
const BUDGET_BYTES: u64 = 64 << 20;

/// Code, stacks, receive rings, the heap's own loss, what BoringSSL keeps.
const BESIDE_BYTES: u64 = 32 << 20;

/// What may be left 10 s after.
const LEFT_BYTES: u64 = 16 << 20;

/// Frames' room in a packet that every path carries.
const PAYLOAD_BYTES: usize = 1150;

/// Sent without a pause: less than the daemon's socket holds.
const BURST_BYTES: usize = 128 << 10;

/// A daemon whose memory is watched.
struct Watched {
    world: World,
    villain: Identity,
    idle_bytes: u64,
    sent_bytes: usize,
    paused_at_bytes: usize,
}

impl Watched {
    fn start(backend: &'static str) -> Watched {
        let villain = Identity::generate().unwrap();
        let allow = villain.fingerprint().to_string();
        let args = [
            "--memory-budget",
            BUDGET,
            "--workers",
            "2",
            "--allow",
            &allow,
        ];
        let world = World::with(backend, &args);
        // What a daemon is that has served somebody.
        fs::write(world.here("first"), "first").unwrap();
        world.push(world.here("first"), "first").expect(0);
        let idle_bytes = world.daemon.rss_bytes();
        Watched {
            world,
            villain,
            idle_bytes,
            sent_bytes: 0,
            paused_at_bytes: 0,
        }
    }

    fn address(&self) -> &str {
        self.world.daemon.address()
    }

    /// Counts what was sent, lets the daemon take it now and then, and looks at its memory.
    fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
        if self.sent_bytes - self.paused_at_bytes > BURST_BYTES {
            self.paused_at_bytes = self.sent_bytes;
            thread::sleep(Duration::from_millis(2));
            self.look();
        }
    }

    #[track_caller]
    fn look(&self) {
        let rss = self.world.daemon.rss_bytes();
        assert!(
            rss <= BUDGET_BYTES + BESIDE_BYTES,
            "{} MiB after {} bytes",
            rss >> 20,
            self.sent_bytes
        );
    }

    /// A push that was welcomed, whose peer goes on by hand.
    fn forger(&self) -> Forger {
        let mut peer = Peer::connect(self.address(), &self.villain);
        peer.push("");
        peer.entries(vec![file(1, "holes", 1 << 30)]);
        peer.verdict(1);
        Forger::of(peer)
    }

    /// The daemon lives, serves, and gives back what it held.
    fn end(mut self) {
        let peak = self.world.daemon.peak_rss_bytes();
        println!(
            "idle {} KiB, most {} KiB after {} bytes",
            self.idle_bytes >> 10,
            peak >> 10,
            self.sent_bytes
        );
        assert!(
            peak <= BUDGET_BYTES + BESIDE_BYTES,
            "{} MiB at most",
            peak >> 20
        );
        let mut rss = self.world.daemon.rss_bytes();
        for _ in 0..100 {
            if rss <= self.idle_bytes + LEFT_BYTES {
                break;
            }
            thread::sleep(Duration::from_millis(100));
            rss = self.world.daemon.rss_bytes();
        }
        assert!(
            rss <= self.idle_bytes + LEFT_BYTES,
            "{} MiB of {} are left",
            rss >> 20,
            peak >> 20
        );
        tree::write_file(&self.world.here("last"), 3 << 20, &mut Rng::new("last"));
        self.world.push(self.world.here("last"), "last").expect(0);
        assert!(
            self.world.daemon.is_running(),
            "{}",
            self.world.daemon.log()
        );
        assert!(
            !self.world.daemon.log().contains("panicked"),
            "{}",
            self.world.daemon.log()
        );
        assert_eq!(self.world.daemon.stop().code, Some(0));
    }
}

/// CRYPTO frames of one byte, every second byte missing.
fn crypto_with_holes(offset: &mut u64) -> Vec<u8> {
    let mut frames = Vec::new();
    while frames.len() < PAYLOAD_BYTES - 8 && *offset < 65_530 {
        frames.extend(frame(0x06, &[*offset, 1]));
        frames.push(b'x');
        *offset += 2;
    }
    frames
}

/// Strangers' handshakes that never come to anything, from a few addresses.
pub fn strangers_with_holes(backend: &'static str) {
    let mut watched = Watched::start(backend);
    let mut strangers: Vec<(Stranger, u64)> = Vec::new();
    for number in 0..300 {
        let stranger = Stranger::new(watched.address(), &format!("127.0.0.{}:0", 2 + number % 4));
        strangers.push((stranger, 1));
    }
    for round in 0..40 {
        for (stranger, offset) in &mut strangers {
            let bytes = stranger.send(&crypto_with_holes(offset));
            if round == 0 && stranger.follow_retry() {
                *offset = 1;
            }
            watched.sent(bytes);
        }
    }
    watched.look();
    watched.end();
}

/// Small files begun and not ended, as many as a session may, in more and more sessions.
pub fn small_files_begun(backend: &'static str) {
    let mut watched = Watched::start(backend);
    let mut peers = Vec::new();
    for session in 0..40 {
        let mut peer = Peer::connect(watched.address(), &watched.villain);
        peer.push("");
        peer.entries(
            (1..=60)
                .map(|id| file(id, &format!("s{session}-{id}"), 65_536))
                .collect(),
        );
        (1..=60).for_each(|id| drop(peer.verdict(id)));
        for id in 1..=60 {
            let stream = peer.open_data();
            let mut bytes = BytesMut::new();
            RecordHead::Whole {
                entry: EntryId(id),
                len_bytes: 65_536,
            }
            .encode(&mut bytes);
            bytes.resize(65_500, 7);
            peer.send(stream, &bytes, false);
            watched.sent(bytes.len());
        }
        (0..5).for_each(|_| peer.turn());
        peers.push(peer);
    }
    watched.look();
    drop(peers);
    watched.end();
}

/// Entries that are each answered, by a peer that reads no answers.
pub fn verdicts_never_read(backend: &'static str) {
    const WINDOW_BYTES: u64 = 64 << 10;
    const FLOOD_BYTES: usize = 64 << 20;
    let mut watched = Watched::start(backend);
    let mut peer = Peer::connect_narrow(watched.address(), &watched.villain, WINDOW_BYTES);
    peer.push("");
    peer.entries(vec![file(1, "one", 10)]);
    peer.verdict(1);
    (peer.reads, peer.wait) = (false, Duration::from_millis(1));
    let (mut taken_bytes, mut idle_turns, mut id) = (0, 0, 2);
    let (mut at, mut frames) = (0, BytesMut::new());
    while idle_turns < 500 && taken_bytes < FLOOD_BYTES && !peer.is_closed() {
        if at == frames.len() {
            // A second entry of a name fails at once, which is said in words.
            (at, frames) = (0, BytesMut::new());
            wire::encode(
                &Message::Entries((id..id + 500).map(|id| file(id, "one", 10)).collect()),
                &mut frames,
            );
            id += 500;
        }
        let taken = peer.conn.stream_send(0, &frames[at..], false).unwrap_or(0);
        (at, taken_bytes) = (at + taken, taken_bytes + taken);
        idle_turns = if taken == 0 { idle_turns + 1 } else { 0 };
        watched.sent(taken);
        peer.turn();
    }
    println!("{taken_bytes} bytes were taken");
    assert!(
        taken_bytes < FLOOD_BYTES,
        "the daemon keeps answers for a client that does not read"
    );
    assert!(!peer.is_closed(), "{:?}", peer.closed());
    watched.look();
    drop(peer);
    watched.end();
}

/// Files announced and never sent, and directories that never end, in more and more sessions.
pub fn manifests_begun(backend: &'static str) {
    let mut watched = Watched::start(backend);
    let mut peers = Vec::new();
    for session in 0..300 {
        let mut peer = Peer::connect(watched.address(), &watched.villain);
        peer.push("");
        let name = |id: u32| format!("{session}-{id}-{}", "x".repeat(200));
        for first in [1, 201, 401, 601, 801] {
            peer.entries(
                (first..first + 200)
                    .map(|id| file(id, &name(id), 10))
                    .collect(),
            );
            watched.sent(200 * 230);
        }
        (0..5).for_each(|_| peer.turn());
        peers.push(peer);
    }
    watched.look();
    peers.iter_mut().for_each(Peer::hang_up);
    watched.end();
}

/// Pulls that say which chunks of huge files are there, every second one, and never go on.
pub fn chunks_that_are_there(backend: &'static str) {
    const CHUNKS: u32 = 65_536;
    let mut watched = Watched::start(backend);
    for name in ["one", "two"] {
        let huge = fs::File::create(watched.world.root(name)).unwrap();
        huge.set_len(u64::from(CHUNKS) << 20).unwrap();
    }
    let mut peers = Vec::new();
    for _ in 0..30 {
        let mut peer = Peer::connect(watched.address(), &watched.villain);
        let sources = vec!["one".into(), "two".into()];
        peer.open(WireRequest::Pull { sources });
        assert!(matches!(peer.next_message(), Some(Message::Welcome(_))));
        assert!(matches!(
            peer.next_message(),
            Some(Message::Entries(_)) | None
        ));
        for entry in [1, 2] {
            for begin in (0..CHUNKS).step_by(1024) {
                let have = |first| Verdict {
                    entry: EntryId(entry),
                    kind: VerdictKind::Have {
                        first,
                        values: vec![7; 32].into(),
                    },
                };
                peer.message(&Message::Verdicts(
                    (begin..begin + 1024).step_by(2).map(have).collect(),
                ));
                watched.sent(512 * 45);
            }
        }
        peers.push(peer);
    }
    watched.look();
    peers.iter_mut().for_each(Peer::hang_up);
    watched.end();
}

/// First flights and nothing after them: those who come then are told of a window that is enough
/// for a LAN, and the memory of it all is given back.
pub fn half_open(backend: &'static str) {
    let watched = Watched::start(backend);
    let stranger = Identity::generate().unwrap();
    let mut begun: Vec<Peer> = Vec::new();
    for _ in 0..120 {
        let mut peer = Peer::dial(watched.address(), &stranger);
        peer.send_first_flight();
        begun.push(peer);
    }
    thread::sleep(Duration::from_millis(200));
    let window_bytes = Forger::connect(watched.address(), &watched.villain).window_bytes();
    println!("{window_bytes} bytes for the next");
    assert!(
        window_bytes >= 256 << 10,
        "strangers took all but {window_bytes} bytes"
    );
    watched.look();
    watched.end();
}

/// Single bytes of many streams, every second one missing.
pub fn holes(backend: &'static str) {
    let mut watched = Watched::start(backend);
    let mut forger = watched.forger();
    assert!(
        fill_with_holes(&mut watched, &mut forger, 20_000),
        "it may go on for ever"
    );
    watched.world.daemon.wait_for_log("more than its share");
    watched.end();
}

/// STREAM frames of one byte on a hundred streams of a side, whose first is `first`; every second
/// byte is missing.
pub fn bytes_with_holes(first: u64, offset: &mut u64) -> Vec<u8> {
    let mut frames = Vec::new();
    while frames.len() < PAYLOAD_BYTES - 10 {
        let stream = *offset / 2 % 100 * 4 + first;
        frames.extend(frame(0x0e, &[stream, *offset / 200 * 2 + 1, 1]));
        frames.push(b'x');
        *offset += 2;
    }
    frames
}

/// Sends until the daemon has enough of it, at most so many packets. Whether that came.
fn fill_with_holes(watched: &mut Watched, forger: &mut Forger, packets: u64) -> bool {
    let mut offset = forger.offset;
    for packet in 0..packets {
        let frames = bytes_with_holes(2, &mut offset);
        let bytes = forger.send(&frames);
        watched.sent(bytes);
        forger.offset = offset;
        if packet % 64 == 0 && forger.is_forgotten() {
            return true;
        }
    }
    false
}

/// A window full of data whose first byte never comes, and a peer that is gone: its share, and not
/// for long.
pub fn left_behind(backend: &'static str) {
    let mut watched = Watched::start(backend);
    // While the connection of the push before lingers, the windows are smaller.
    let mut forger = watched.forger();
    while forger.window_bytes() < 8 << 20 {
        thread::sleep(Duration::from_millis(500));
        forger = watched.forger();
    }
    let window_bytes = forger.window_bytes();
    let mut offset = 1;
    while offset + 1100 < window_bytes {
        let mut frames = frame(0x0e, &[2, offset, 1100]);
        frames.extend([0; 1100]);
        let bytes = forger.send(&frames);
        watched.sent(bytes);
        offset += 1100;
    }
    thread::sleep(Duration::from_millis(300));
    let rss = watched.world.daemon.rss_bytes();
    println!("{offset} bytes unread, {} MiB", rss >> 20);
    assert!(
        rss > watched.idle_bytes + offset / 2,
        "it was not held, or most of it lost on the way"
    );
    drop(forger);
    watched.end();
}

/// PINGs with gaps in their numbers: each answer names one range more, and is kept for it is never
/// acknowledged.
pub fn unacknowledged(backend: &'static str) {
    let mut watched = Watched::start(backend);
    let mut forger = Forger::connect(watched.address(), &watched.villain);
    for packet in 0..400_000 {
        forger.skip();
        let bytes = forger.send(&[1, 0, 0, 0, 0, 0, 0, 0]);
        watched.sent(bytes * 4);
        if packet % 64 == 0 && forger.is_forgotten() {
            break;
        }
    }
    watched.world.daemon.wait_for_log("more than its share");
    watched.end();
}

/// Forty connections of one identity, which keep below their own bounds and not below that of all:
/// that identity loses some, and nobody else does.
pub fn many_with_holes(backend: &'static str) {
    let mut watched = Watched::start(backend);
    let mut forgers: Vec<Forger> = (0..40)
        .map(|_| Forger::connect(watched.address(), &watched.villain))
        .collect();
    for round in 0..4 {
        for forger in &mut forgers {
            fill_with_holes(&mut watched, forger, 50);
        }
        let name = format!("meanwhile-{round}");
        watched
            .world
            .push(watched.world.here("first"), &name)
            .expect(0);
    }
    watched
        .world
        .daemon
        .wait_for_log("the memory budget is used up");
    watched.end();
}

/// Frames a peer may send once it is in, each of random values: floods of one kind, and of several;
/// in packets that are small or full, with gaps or without; on one connection or on three.
pub fn random_frames(backend: &'static str) {
    let mut watched = Watched::start(backend);
    let mut rng = Rng::new(backend);
    for round in 0..KINDS + 15 {
        let kinds: Vec<u64> = match round {
            0..KINDS => vec![round],
            _ => (0..1 + rng.below(4)).map(|_| rng.below(KINDS)).collect(),
        };
        let (payload_bytes, packets) =
            [(PAYLOAD_BYTES, 4000), (100, 40_000)][rng.below(2) as usize];
        let gap = [0, 4, 1][rng.below(3) as usize];
        let mut forgers: Vec<Forger> = (0..1 + rng.below(2) * 2)
            .map(|_| Forger::connect(watched.address(), &watched.villain))
            .collect();
        let count = forgers.len();
        println!(
            "kinds {kinds:?} in {packets} packets of {payload_bytes} bytes on {count}, a gap each {gap}"
        );
        for packet in 0..packets {
            let Some(forger) = forgers.get_mut(packet % count) else {
                continue;
            };
            let mut frames = Vec::new();
            while frames.len() + MAX_FRAME_BYTES <= payload_bytes {
                let kind = kinds[rng.below(kinds.len() as u64) as usize];
                frames.extend(random_frame(kind, forger.window_bytes(), &mut rng));
            }
            if gap > 0 && rng.below(gap) == 0 {
                forger.skip();
            }
            let bytes = forger.send(&frames);
            watched.sent(bytes);
            if packet % 128 < count && forger.is_forgotten() {
                break;
            }
        }
        watched.look();
        println!("{} KiB", watched.world.daemon.rss_bytes() >> 10);
    }
    watched.end();
}

/// Longest that [`random_frame`] makes.
const MAX_FRAME_BYTES: usize = 60;

const STREAMS: u64 = 100;

const KINDS: u64 = 20;

fn random_frame(kind: u64, window_bytes: u64, rng: &mut Rng) -> Vec<u8> {
    let stream = rng.below(STREAMS) * 4 + 2;
    let offset = rng.below(window_bytes / STREAMS - 4);
    let data = rng.below(4) as usize;
    let mut frame = match kind {
        0 => vec![1],
        1 => frame(0x0e, &[stream, offset, data as u64]),
        2 => frame(0x0e, &[stream, rng.below(1000), 1]),
        3 => frame(0x06, &[rng.below(60_000), data as u64]),
        4 => frame(0x04, &[stream, 7, 0]),
        5 => frame(0x05, &[0, 7]),
        6 => frame(0x10, &[rng.below(1 << 40)]),
        7 => frame(0x11, &[0, rng.below(1 << 40)]),
        8 => frame(0x12 + rng.below(2) as u8, &[rng.below(1 << 20)]),
        9 => frame(0x14, &[rng.below(1 << 30)]),
        10 => frame(0x15, &[stream, rng.below(1 << 30)]),
        11 => frame(0x16 + rng.below(2) as u8, &[rng.below(1 << 20)]),
        12 => {
            let number = rng.below(1 << 20);
            let mut frame = frame(0x18, &[number, number]);
            frame.push(8);
            frame.extend(rng.bytes(8 + 16));
            frame
        }
        13 => frame(0x19, &[rng.below(2)]),
        14 | 15 => {
            let mut frame = vec![0x1a + (kind - 14) as u8];
            frame.extend(rng.bytes(8));
            frame
        }
        16 => frame(0x31, &[data as u64]),
        // An acknowledgement of what may have been sent.
        17 => frame(0x02, &[rng.below(50), 0, 0, 0]),
        18 => {
            let mut frame = frame(0x02, &[60, 0, 20, 0]);
            (0..20).for_each(|_| varint(&mut frame, 0));
            (0..20).for_each(|_| varint(&mut frame, 0));
            frame
        }
        // The end of a stream that may have begun.
        _ => frame(0x0f, &[stream, rng.below(100), 0]),
    };
    if matches!(kind, 1 | 3 | 16) {
        frame.extend(rng.bytes(data));
    } else if kind == 2 {
        frame.push(0);
    }
    frame
}
