//! Whatever a session lets a peer make us keep has a bound, and is given back.

use std::fs;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use landro::engine::now;
use landro::ids::EntryId;
use landro::proto::integrity::digest_of;
use landro::proto::wire::{
    self, Message, RecordHead, RecordStatus, Verdict, VerdictKind, WireRequest, encode_record_tail,
};
use landro::quic::Identity;

use super::common::World;
use super::common::tree::{self, Rng};
use super::peer::{Peer, file, file_of_unknown_size, file_with_holes};

const BUDGET: &str = "64M";
const BUDGET_BYTES: u64 = 64 << 20;

/// Code, stacks, receive rings, the heap's own loss, what BoringSSL keeps.
const BESIDE_BYTES: u64 = 32 << 20;

/// What may be left [`GIVEN_BACK_AFTER`].
const LEFT_BYTES: u64 = 16 << 20;

/// A keep-alive is sent after 5 s, answered within 2 s, looked at each half second, by a worker
/// that was not away for one; memory is given back 2 s later: 11 s at most. As much again is for a
/// machine that is busy with other tests.
const GIVEN_BACK_AFTER: Duration = Duration::from_secs(22);

/// Sent without a pause: less than the daemon's socket holds.
const BURST_BYTES: usize = 128 << 10;

/// Daemons that are watched at a time: as many as there are processors, whatever else is tested. In
/// a crowd of them one is still busy when it should have given its memory back.
struct Turn;

static WATCHED: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    fn wait() -> Turn {
        let most = thread::available_parallelism().map_or(1, usize::from);
        let (watched, freed) = &WATCHED;
        let watched = watched.lock().unwrap();
        // Every turn ends: a test binary that hangs is ended (scripts/within.sh).
        *freed.wait_while(watched, |count| *count >= most).unwrap() += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (watched, freed) = &WATCHED;
        *watched.lock().unwrap() -= 1;
        freed.notify_one();
    }
}

/// A daemon whose memory is watched: its RSS stays below the budget and a constant.
pub struct Watched {
    pub world: World,
    pub villain: Identity,
    pub idle_bytes: u64,
    sent_bytes: usize,
    paused_at_bytes: usize,
    /// Behind the daemon: the next one begins when this one is gone.
    _turn: Turn,
}

impl Watched {
    pub fn start(backend: &'static str) -> Watched {
        let turn = Turn::wait();
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
            _turn: turn,
        }
    }

    pub fn address(&self) -> &str {
        self.world.daemon.address()
    }

    /// Counts what was sent, lets the daemon take it now and then, and looks at its memory.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
        if self.sent_bytes - self.paused_at_bytes > BURST_BYTES {
            self.paused_at_bytes = self.sent_bytes;
            thread::sleep(Duration::from_millis(2));
            self.look();
        }
    }

    #[track_caller]
    pub fn look(&self) {
        let rss = self.world.daemon.rss_bytes();
        assert!(
            rss <= BUDGET_BYTES + BESIDE_BYTES,
            "{} MiB after {} bytes",
            rss >> 20,
            self.sent_bytes
        );
    }

    /// The daemon lives, serves, and gives back what it held.
    pub fn end(mut self) {
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
        let gone = now();
        while gone.elapsed() < GIVEN_BACK_AFTER {
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
        peer.open(WireRequest::Pull {
            sources,
            follow_named: false,
            no_growing: false,
            place: None,
        });
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

/// A flood ends after so much, or after so many turns where the disk takes its time.
const FLOOD_BYTES: usize = 16 << 20;
const FLOOD_TURNS: usize = 3000;

/// Files of unknown size in stretches of a byte: `at` says where the next one is.
fn flood_of_stretches(backend: &'static str, at: fn(u64) -> u64) {
    const FILES: u32 = 32;
    let mut watched = Watched::start(backend);
    let mut peer = Peer::connect(watched.address(), &watched.villain);
    peer.push("");
    let name = |id| format!("stretches-{id}");
    peer.entries(
        (1..=FILES)
            .map(|id| file_of_unknown_size(id, &name(id)))
            .collect(),
    );
    (1..=FILES).for_each(|id| drop(peer.verdict(id)));
    let stream = peer.open_data();
    let (mut taken_bytes, mut number, mut turns) = (0, 0, 0);
    let (mut sent, mut bytes) = (0, BytesMut::new());
    while taken_bytes < FLOOD_BYTES && turns < FLOOD_TURNS && !peer.is_closed() {
        if sent == bytes.len() {
            (sent, bytes) = (0, BytesMut::new());
            for entry in 1..=FILES {
                RecordHead::Stretch {
                    entry: EntryId(entry),
                    offset: at(number),
                    len_bytes: 1,
                }
                .encode(&mut bytes);
                bytes.extend_from_slice(b"x");
                encode_record_tail(RecordStatus::Valid, &digest_of(b"x"), &mut bytes);
            }
            number += 1;
        }
        let taken = peer.conn.stream_send(stream, &bytes[sent..], false);
        let taken = taken.unwrap_or(0);
        (sent, taken_bytes) = (sent + taken, taken_bytes + taken);
        watched.sent(taken);
        if taken == 0 {
            peer.turn();
            turns += 1;
        }
    }
    println!("{taken_bytes} bytes were taken: {:?}", peer.closed());
    assert!(taken_bytes > 1 << 20, "it does not go on");
    watched.look();
    peer.hang_up();
    watched.end();
}

/// What each costs beside its byte is counted, too.
pub fn stretches_of_a_byte(backend: &'static str) {
    flood_of_stretches(backend, |number| number);
}

/// Each leaves a hole before it: none can be told of before that is filled.
pub fn stretches_with_holes(backend: &'static str) {
    flood_of_stretches(backend, |number| 2 * number + 1);
}

/// Holes told one chunk at a time, as many as two files have: each is an operation on the disk.
pub fn holes_one_by_one(backend: &'static str) {
    const CHUNKS: u32 = 65_536;
    let mut watched = Watched::start(backend);
    let mut peer = Peer::connect(watched.address(), &watched.villain);
    peer.push("");
    let size_bytes = u64::from(CHUNKS) << 20;
    let huge = |id| file_with_holes(id, &format!("holes-{id}"), size_bytes);
    peer.entries(vec![huge(1), huge(2)]);
    (1..=2).for_each(|id| drop(peer.verdict(id)));
    for first in (0..CHUNKS).step_by(2) {
        for entry in [1, 2] {
            let holes = Message::Holes {
                entry: EntryId(entry),
                first,
                count: 1,
            };
            peer.message(&holes);
        }
        watched.sent(30);
        if first % 1024 == 0 {
            watched.look();
        }
    }
    (0..20).for_each(|_| peer.turn());
    println!("{:?}", peer.closed());
    watched.look();
    peer.hang_up();
    watched.end();
}
