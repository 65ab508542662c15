//! The wire codec: batches of control messages both ways, the records of a data stream.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use landro::ids::{ChunkIndex, EntryId};
use landro::proto::wire::{
    Decoder, Entry, Item, MAX_ITEMS, MAX_MESSAGE_BYTES, Message, Record, RecordHead, RecordParser,
    RecordStatus, Verdict, VerdictKind, encode, encode_record_tail,
};
use landro::proto::{Kind, Mtime};

use super::{MIB, PIECE_BYTES, noise};

const SMALL_FILE_BYTES: usize = 4_096;
const SMALL_FILES: u32 = 256;

fn entries() -> Message {
    let items = (1..=MAX_ITEMS as u32).map(|id| {
        Item::Entry(Entry {
            id: EntryId(1_000 + id),
            parent: EntryId(7),
            name: Bytes::from(format!("IMG_{id:06}.jpeg")),
            kind: Kind::File,
            mode: 0o644,
            mtime: Mtime {
                seconds: 1_700_000_000 + i64::from(id),
                nanoseconds: 123_456_789,
            },
            size_bytes: 4_000 + u64::from(id),
            source_tag: 5_000_000 + u64::from(id),
            link: None,
            object: None,
            allocated_bytes: None,
            is_unsized: false,
        })
    });
    Message::Entries(items.collect())
}

fn verdicts() -> Message {
    let verdict = |id| Verdict {
        entry: EntryId(1_000 + id),
        kind: VerdictKind::Done { resumed_bytes: 0 },
    };
    Message::Verdicts((1..=MAX_ITEMS as u32).map(verdict).collect())
}

/// A data stream of records, each with `len_bytes` of data.
fn stream(heads: impl Iterator<Item = RecordHead>, len_bytes: usize) -> Bytes {
    let (mut out, data) = (BytesMut::new(), noise(len_bytes));
    for head in heads {
        head.encode(&mut out);
        out.extend_from_slice(&data);
        encode_record_tail(RecordStatus::Valid, &[7; 32], &mut out);
    }
    out.freeze()
}

/// Parses a stream that arrives in pieces; gives the number of records.
fn parse(stream: &Bytes) -> usize {
    let (mut parser, mut records) = (RecordParser::default(), 0);
    for at in (0..stream.len()).step_by(PIECE_BYTES) {
        let mut piece = stream.slice(at..stream.len().min(at + PIECE_BYTES));
        while let Some(record) = parser.next(&mut piece).expect("a good stream") {
            records += usize::from(matches!(record, Record::End { .. }));
        }
    }
    records
}

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire/per item");
    group.throughput(Throughput::Elements(MAX_ITEMS as u64));
    for (name, message) in [("entries", entries()), ("verdicts", verdicts())] {
        let mut out = BytesMut::with_capacity(MAX_MESSAGE_BYTES + 4);
        group.bench_function(format!("encode {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(black_box(&message), &mut out);
            });
        });
        let (bytes, mut decoder) = (Bytes::copy_from_slice(&out), Decoder::new());
        group.bench_function(format!("decode {name}"), |bencher| {
            bencher.iter(|| {
                decoder.push(bytes.clone());
                decoder
                    .next()
                    .expect("a good message")
                    .expect("a whole one")
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("wire/per record");
    let mut out = BytesMut::with_capacity(PIECE_BYTES);
    group.throughput(Throughput::Elements(1));
    group.bench_function("frame a small file", |bencher| {
        bencher.iter(|| {
            out.clear();
            let head = RecordHead::Whole {
                entry: EntryId(70_000),
                len_bytes: SMALL_FILE_BYTES as u64,
            };
            black_box(head).encode(&mut out);
            encode_record_tail(RecordStatus::Valid, black_box(&[7; 32]), &mut out);
        });
    });
    let whole = |id| RecordHead::Whole {
        entry: EntryId(70_000 + id),
        len_bytes: SMALL_FILE_BYTES as u64,
    };
    let small = stream((0..SMALL_FILES).map(whole), SMALL_FILE_BYTES);
    group.throughput(Throughput::Elements(u64::from(SMALL_FILES)));
    group.bench_function("parse small files of 4 KiB", |bencher| {
        bencher.iter(|| parse(&small))
    });
    let chunk = |at| RecordHead::Chunk {
        entry: EntryId(3),
        chunk: ChunkIndex(at),
        len_bytes: MIB as u64,
        has_holes: false,
    };
    let large = stream((0..8).map(chunk), MIB);
    group.throughput(Throughput::Elements(8));
    group.bench_function("parse chunks of 1 MiB", |bencher| {
        bencher.iter(|| parse(&large))
    });
    group.finish();
}
