//! Files with holes, as a receiver that lies has them sent.

use super::*;
use crate::proto::extents::DataMap;

/// A chunk of files of this size is a mebibyte.
const CHUNK_BYTES: u64 = 1 << 20;
const CHUNKS: u32 = 1 << 16;

/// Who says of every other chunk of a hole that it has it has as many holes sent, which cost no
/// more stack than one.
#[test]
fn a_hole_in_pieces_is_told_on_a_small_stack() {
    let tells = || {
        let mut client = Bench::client(push());
        client.hear(welcome());
        let whole = Meta {
            size_bytes: u64::from(CHUNKS) * CHUNK_BYTES,
            ..meta(Kind::File)
        };
        client.answer(Ok(DiskDone::Source {
            name: Name::new(Bytes::from_static(b"src")).ok(),
            meta: Box::new(whole),
            link: None,
            in_place: false,
        }));
        let verdict = |kind| {
            let entry = EntryId(1);
            Message::Verdicts(vec![Verdict { entry, kind }])
        };
        for first in (0..CHUNKS).step_by(2) {
            let values = Bytes::from_static(&[7; 32]);
            client.hear(verdict(VerdictKind::Have { first, values }));
        }
        client.hear(verdict(VerdictKind::Send {}));
        // Closing of what was walked, opening, and looking for data, in this order or another.
        for _ in 0..10 {
            let Some((_, op)) = client.disk.first() else {
                break;
            };
            let done = match op {
                DiskOp::OpenRead { .. } => DiskDone::Meta(whole),
                DiskOp::Map { .. } => DiskDone::Mapped(DataMap::new(None, u64::MAX)),
                DiskOp::Yield => break,
                _ => DiskDone::Done,
            };
            client.answer(Ok(done));
        }
        let told = client.said.iter().map(|message| match message {
            Message::Holes { count, .. } => u64::from(*count),
            _ => 0,
        });
        (told.sum::<u64>(), client.outcome)
    };
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let (told, outcome) = small.spawn(tells).unwrap().join().unwrap();
    assert_eq!((told, outcome), (u64::from(CHUNKS) / 2, None));
}
