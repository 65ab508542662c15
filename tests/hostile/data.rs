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

pub fn that_lies(scene: &Scene) {
    let data = vec![5; 3 * MIB];
    // A record that does not fit what was announced: (announced, record, its data).
    let lies: [(&str, u64, RecordHead, usize); 13] = [
        ("a small file too long", 10, whole(1, 20), 20),
        ("a small file too short", 10, whole(1, 5), 5),
        ("a small file as a chunk", 10, chunk(1, 1, 10), 10),
        (
            "a large file as a whole",
            2 * MIB as u64,
            whole(1, 100),
            100,
        ),
        ("a chunk too short", 2 * MIB as u64, chunk(1, 0, 100), 100),
        (
            "a chunk too long",
            2 * MIB as u64,
            chunk(1, 0, 2 * MIB),
            2 * MIB,
        ),
        ("the last chunk too long", MIB as u64 + 5, chunk(1, 1, 6), 6),
        (
            "a chunk outside of the file",
            2 * MIB as u64,
            chunk(1, 2, MIB),
            MIB,
        ),
        (
            "a chunk far outside of the file",
            2 * MIB as u64,
            chunk(1, u32::MAX, MIB),
            MIB,
        ),
        ("an entry nobody announced", 10, whole(2, 10), 10),
        ("entry 0", 10, whole(0, 10), 10),
        ("an entry far away", 10, chunk(u32::MAX, 0, 10), 10),
        ("an empty chunk", 2 * MIB as u64, chunk(1, 0, 0), 0),
    ];
    for (number, (what, announced, head, len)) in lies.into_iter().enumerate() {
        let mut peer = asked_for(scene, &format!("lie-{number}"), announced);
        peer.record(head, &data[..len], digest_of(&data[..len]));
        peer.expect_violation(what);
    }
    // A head that promises more than a varint's worth of data.
    let mut peer = asked_for(scene, "lie-huge", 2 * MIB as u64);
    peer.raw_data(
        &[
            1, 0, 2, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3,
        ],
        false,
    );
    peer.expect_violation("a chunk of 2^62 bytes");

    let (first, second) = (
        value(0, &data[..MIB], 2 * MIB),
        value(1, &data[..MIB], 2 * MIB),
    );
    let mut peer = asked_for(scene, "twice", 2 * MIB as u64);
    peer.record(chunk(1, 0, MIB), &data[..MIB], first);
    peer.record(chunk(1, 0, MIB), &data[..MIB], first);
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
    let _ = second;

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
    for (what, bytes, fin) in [
        ("a stream of another type", &[9, 0, 1, 1][..], false),
        ("a record of another kind", &[1, 0, 7, 1, 1], false),
        ("a stream that ends in its head", &[1, 0, 1], true),
        (
            "a stream that ends in its data",
            &[1, 0, 1, 1, 10, 5, 5],
            true,
        ),
        ("a stream that ends in its header", &[1], true),
        (
            "a status nobody knows",
            &[
                1, 0, 1, 1, 1, 5, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
            false,
        ),
    ] {
        let mut peer = asked_for(scene, "raw", if what.contains("status") { 1 } else { 10 });
        peer.raw_data(bytes, fin);
        peer.expect_violation(what);
    }
    // A bidirectional stream beside the control stream.
    let mut peer = scene.push();
    peer.send(4, b"hello?", false);
    peer.expect_violation("a second bidirectional stream");

    sizes_nobody_has_room_for(scene);
    for name in scene.planted() {
        let name = name.to_string_lossy().into_owned();
        assert!(matches!(&name[..], "d" | "l"), "{name} appeared");
    }
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

    // A root for what needs none, or before its time, or twice.
    let mut peer = asked_for(scene, "odd", 10);
    peer.message(&Message::Root {
        entry: EntryId(1),
        digest: [3; 32],
    });
    peer.expect_violation("a root of a small file");
    let mut peer = asked_for(scene, "odd", 2 * MIB as u64);
    for _ in 0..2 {
        peer.message(&Message::Root {
            entry: EntryId(1),
            digest: [3; 32],
        });
    }
    peer.expect_violation("two roots");
    let mut peer = scene.push();
    peer.entries(vec![directory(1, 0, "dir"), end(1), end(1)]);
    peer.expect_violation("a directory that ends twice");
}
