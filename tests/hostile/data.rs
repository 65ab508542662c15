//! Data that is not what was announced.

use landro::ids::{ChunkIndex, EntryId};
use landro::proto::Kind;
use landro::proto::integrity::{ChunkHasher, Digest, digest_of};
use landro::proto::wire::{Message, RecordHead, VerdictKind};
use landro::proto::{EntryErrorCode, Mtime};

use super::Scene;
use super::peer::{Peer, directory, end, entry, file, link};

const MIB: usize = 1 << 20;

fn whole(entry: u32, len: usize) -> RecordHead {
    RecordHead::Whole {
        entry: EntryId(entry),
        len_bytes: len as u64,
    }
}

fn chunk(entry: u32, index: u32, len: usize) -> RecordHead {
    RecordHead::Chunk {
        entry: EntryId(entry),
        chunk: ChunkIndex(index),
        len_bytes: len as u64,
        has_holes: false,
    }
}

fn value(index: u32, data: &[u8], file_size_bytes: usize) -> Digest {
    let mut hasher = ChunkHasher::new(ChunkIndex(index), file_size_bytes as u64);
    hasher.update(data);
    hasher.finish()
}

/// A push with one file announced and asked for.
fn asked_for(scene: &Scene, name: &str, size_bytes: u64) -> Peer {
    let mut peer = scene.push();
    peer.entries(vec![file(1, name, size_bytes)]);
    assert_eq!(peer.verdict(1), VerdictKind::Send {}, "{name}");
    peer
}

/// A record that does not fit what was announced.
struct Lie {
    what: &'static str,
    announced_bytes: u64,
    head: RecordHead,
    len: usize,
}

/// Of files of 10 bytes.
fn small_lies() -> impl Iterator<Item = Lie> {
    let lies = [
        ("a small file too long", whole(1, 20), 20),
        ("a small file too short", whole(1, 5), 5),
        ("a small file as a chunk", chunk(1, 1, 10), 10),
        ("an entry nobody announced", whole(2, 10), 10),
        ("entry 0", whole(0, 10), 10),
        ("an entry far away", chunk(u32::MAX, 0, 10), 10),
    ];
    lies.into_iter().map(|(what, head, len)| Lie {
        what,
        announced_bytes: 10,
        head,
        len,
    })
}

/// Of files of 2 MiB, except one.
fn large_lies() -> impl Iterator<Item = Lie> {
    let two = 2 * MIB as u64;
    let odd = MIB as u64 + 5;
    let lies = [
        ("a large file as a whole", two, whole(1, 100), 100),
        ("a chunk too short", two, chunk(1, 0, 100), 100),
        ("a chunk too long", two, chunk(1, 0, 2 * MIB), 2 * MIB),
        ("the last chunk too long", odd, chunk(1, 1, 6), 6),
        ("a chunk outside of the file", two, chunk(1, 2, MIB), MIB),
        ("a chunk far outside", two, chunk(1, u32::MAX, MIB), MIB),
        ("an empty chunk", two, chunk(1, 0, 0), 0),
    ];
    lies.into_iter()
        .map(|(what, announced_bytes, head, len)| Lie {
            what,
            announced_bytes,
            head,
            len,
        })
}

pub fn that_lies(scene: &Scene) {
    records_that_do_not_fit(scene);
    chunks_that_come_twice(scene);
    data_of_what_has_none(scene);
    streams_that_are_none(scene);
    sizes_nobody_has_room_for(scene);
    for name in scene.planted() {
        let name = name.to_string_lossy().into_owned();
        assert!(matches!(&name[..], "d" | "l"), "{name} appeared");
    }
}

fn records_that_do_not_fit(scene: &Scene) {
    let data = vec![5; 2 * MIB];
    for (number, lie) in small_lies().chain(large_lies()).enumerate() {
        let mut peer = asked_for(scene, &format!("lie-{number}"), lie.announced_bytes);
        let data = &data[..lie.len];
        peer.record(lie.head, data, digest_of(data));
        peer.expect_violation(lie.what);
    }
    // A head that promises more than a varint's worth of data.
    let mut peer = asked_for(scene, "lie-huge", 2 * MIB as u64);
    let head = [&[1, 0, 2, 1, 0][..], &[0xff; 8], &[1, 2, 3]].concat();
    peer.raw_data(&head, false);
    peer.expect_violation("a chunk of 2^62 bytes");
}

fn chunks_that_come_twice(scene: &Scene) {
    let data = vec![5; MIB];
    let first = value(0, &data, 2 * MIB);
    let mut peer = asked_for(scene, "twice", 2 * MIB as u64);
    peer.record(chunk(1, 0, MIB), &data, first);
    peer.record(chunk(1, 0, MIB), &data, first);
    peer.expect_violation("a chunk twice");
    // At the same time on two streams, so that neither is complete when the other begins.
    let mut peer = asked_for(scene, "twice-at-once", 2 * MIB as u64);
    let (one, other) = (peer.open_data(), peer.open_data());
    for stream in [one, other] {
        let mut head = bytes::BytesMut::new();
        chunk(1, 1, MIB).encode(&mut head);
        peer.send(stream, &head, false);
        peer.send(stream, &data[..1000], false);
    }
    peer.expect_violation("a chunk twice at once");
}

fn data_of_what_has_none(scene: &Scene) {
    let mut peer = scene.push();
    peer.entries(vec![directory(1, 0, "d")]);
    peer.record(whole(1, 3), b"bad", digest_of(b"bad"));
    peer.expect_violation("data of a directory");
    // A symlink may be in place already; what still comes for it is dropped.
    let mut peer = scene.push();
    peer.entries(vec![link(1, 0, "l", "target")]);
    peer.record(whole(1, 3), b"bad", digest_of(b"bad"));
    peer.message(&Message::ManifestEnd { entries: 1 });
    while !matches!(peer.next_message(), Some(Message::Finished {}) | None) {}
    let mut peer = scene.push();
    peer.record(whole(1, 3), b"bad", digest_of(b"bad"));
    peer.expect_violation("data before any entry");
}

/// What is wrong with a stream, the size that was announced, the stream, whether it ends.
const NO_STREAMS: [(&str, u64, &[u8], bool); 10] = [
    ("a stream of another type", 10, &[9, 0, 1, 1], false),
    ("a record of another kind", 10, &[1, 7, 1, 1], false),
    ("a stream that ends in its head", 10, &[1, 1, 0], true),
    (
        "a stream that ends in its data",
        10,
        &[1, 1, 1, 10, 5, 5, 0],
        true,
    ),
    ("a stream of nothing", 10, &[0], true),
    ("a stream whose end is missing", 10, &[1], true),
    ("a stream with another end", 10, &[1, 1, 1, 1, 1], true),
    ("a lane end cut short", 10, &[2, 0, 0, 0, 0], true),
    (
        "a lane end of another length",
        10,
        &[2, 0, 0, 0, 0, 1, 0],
        true,
    ),
    (
        "a lane end that does not end",
        10,
        &[2, 0, 0, 0, 0, 0, 9],
        false,
    ),
];

fn streams_that_are_none(scene: &Scene) {
    let status = [&[1, 1, 1, 1, 5, 9][..], &[0; 32]].concat();
    let status = ("a status nobody knows", 1, &status[..], false);
    for (what, announced_bytes, bytes, fin) in NO_STREAMS.into_iter().chain([status]) {
        let mut peer = asked_for(scene, "raw", announced_bytes);
        peer.raw_data(bytes, fin);
        peer.expect_violation(what);
    }
    // A bidirectional stream beside the control stream.
    let mut peer = scene.push();
    peer.send(4, b"hello?", false);
    peer.expect_violation("a second bidirectional stream");
}

fn sizes_nobody_has_room_for(scene: &Scene) {
    for size_bytes in [1 << 40, 1 << 62, i64::MAX as u64] {
        let mut peer = scene.push();
        peer.entries(vec![file(1, "vast", size_bytes)]);
        match peer.verdict(1) {
            VerdictKind::Failed { error } => {
                let codes = [
                    EntryErrorCode::Full,
                    EntryErrorCode::Destination,
                    EntryErrorCode::Name,
                ];
                assert!(codes.contains(&error.code), "{error:?}");
            }
            // Sparse files may be of that size where fallocate does not reserve; nothing is held
            // for them.
            VerdictKind::Send {} => peer.hang_up(),
            other => panic!("{other:?}"),
        }
    }
    let mut peer = scene.push();
    peer.entries(vec![file(1, "vast", i64::MAX as u64 + 1)]);
    peer.expect_violation("a size above 2^63 - 1");
    for seconds in [i64::MIN, i64::MAX] {
        let mut peer = scene.push();
        let mut item = file(1, "old", 1);
        if let landro::proto::wire::Item::Entry(entry) = &mut item {
            entry.mtime = Mtime {
                seconds,
                nanoseconds: 999_999_999,
            };
        }
        peer.entries(vec![item]);
        if peer.verdict(1) == (VerdictKind::Send {}) {
            peer.record(whole(1, 1), b"x", digest_of(b"x"));
            peer.verdict(1);
        }
        let _ = std::fs::remove_file(scene.world.root("old"));
    }
}

/// Wrong digests are not violations: bits rot on the way from a disk. The file fails, the session
/// goes on.
pub fn digests(scene: &Scene) {
    let data = vec![7; 2 * MIB];
    let mut peer = scene.push();
    peer.entries(vec![
        file(1, "small", 10),
        file(2, "single", 70_000),
        file(3, "chunk", 2 * MIB as u64),
        file(4, "root", 2 * MIB as u64),
        file(5, "fine", 10),
        entry(6, 0, b"empty", Kind::File, 0),
    ]);
    for id in 1..=6 {
        assert_eq!(peer.verdict(id), VerdictKind::Send {}, "{id}");
    }
    let (first, second) = (
        value(0, &data[..MIB], 2 * MIB),
        value(1, &data[MIB..], 2 * MIB),
    );
    peer.record(whole(1, 10), &data[..10], [0; 32]);
    peer.record(chunk(2, 0, 70_000), &data[..70_000], [1; 32]);
    peer.record(chunk(3, 0, MIB), &data[..MIB], [2; 32]);
    peer.record(chunk(4, 0, MIB), &data[..MIB], first);
    peer.record(chunk(4, 1, MIB), &data[MIB..], second);
    peer.message(&Message::Root {
        entry: EntryId(4),
        digest: [3; 32],
        has_grown: false,
        agains: 0,
    });
    peer.record(whole(5, 10), &data[..10], digest_of(&data[..10]));
    peer.record(whole(6, 0), &[], [4; 32]);
    for id in [1, 2, 3, 4, 6] {
        match peer.verdict(id) {
            VerdictKind::Failed { error } => {
                assert_eq!(error.code, EntryErrorCode::Integrity, "{id}")
            }
            other => panic!("{id}: {other:?}"),
        }
    }
    assert!(matches!(peer.verdict(5), VerdictKind::Done { .. }));
    peer.message(&Message::ManifestEnd { entries: 6 });
    while !matches!(
        peer.next_message().expect("the session goes on"),
        Message::Finished {}
    ) {}
    let names = scene.planted();
    assert_eq!(names, ["fine"], "nothing else appears, nothing is left");
    std::fs::remove_file(scene.world.root("fine")).unwrap();
    roots_out_of_place(scene);
}

/// A root for what needs none, or before its time, or twice.
fn roots_out_of_place(scene: &Scene) {
    let mut peer = asked_for(scene, "odd", 10);
    peer.message(&Message::Root {
        entry: EntryId(1),
        digest: [3; 32],
        has_grown: false,
        agains: 0,
    });
    peer.expect_violation("a root of a small file");
    let mut peer = asked_for(scene, "odd", 2 * MIB as u64);
    for _ in 0..2 {
        peer.message(&Message::Root {
            entry: EntryId(1),
            digest: [3; 32],
            has_grown: false,
            agains: 0,
        });
    }
    peer.expect_violation("two roots");
    let mut peer = scene.push();
    peer.entries(vec![directory(1, 0, "dir"), end(1), end(1)]);
    peer.expect_violation("a directory that ends twice");
}
