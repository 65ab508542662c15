//! Frames that QUIC allows and no honest peer sends: with holes, never acknowledged, at random.

use std::thread;
use std::time::Duration;

use landro::quic::Identity;

use super::common::tree::Rng;
use super::craft::{Forger, Stranger, frame, varint};
use super::memory::Watched;
use super::peer::{Peer, file};

/// Frames' room in a packet that every path carries.
const PAYLOAD_BYTES: usize = 1150;

/// A push that was welcomed, whose peer goes on by hand.
fn push_by_hand(watched: &Watched) -> Forger {
    let mut peer = Peer::connect(watched.address(), &watched.villain);
    peer.push("");
    peer.entries(vec![file(1, "holes", 1 << 30)]);
    peer.verdict(1);
    Forger::of(peer)
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
    let mut forger = push_by_hand(&watched);
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
    let mut forger = push_by_hand(&watched);
    while forger.window_bytes() < 8 << 20 {
        thread::sleep(Duration::from_millis(500));
        forger = push_by_hand(&watched);
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
