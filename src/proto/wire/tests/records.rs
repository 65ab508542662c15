//! Records of data streams: any split, and lies.

use super::*;

/// Two whole files (one empty), a chunk and one with holes, as one stream, and what a parser says
/// of it.
pub(super) fn record_stream() -> (Bytes, Vec<(RecordHead, Vec<u8>, RecordStatus)>) {
    let records = vec![
        (
            RecordHead::Whole {
                entry: EntryId(1),
                len_bytes: 0,
            },
            vec![],
            RecordStatus::ValidShort,
        ),
        (
            RecordHead::Whole {
                entry: EntryId(70_000),
                len_bytes: 100,
            },
            vec![5; 100],
            RecordStatus::SourceFailed,
        ),
        (
            RecordHead::Chunk {
                entry: EntryId(u32::MAX),
                chunk: ChunkIndex(65_535),
                len_bytes: 3000,
                has_holes: false,
            },
            vec![6; 3000],
            RecordStatus::KeptPrefix,
        ),
        (
            RecordHead::Chunk {
                entry: EntryId(3),
                chunk: ChunkIndex(4),
                len_bytes: RUNS.iter().map(|(hole, data)| hole + data).sum(),
                has_holes: true,
            },
            RUNS.iter()
                .flat_map(|(hole, data)| [(0, *hole), (7, *data)])
                .flat_map(|(byte, len)| vec![byte; len as usize])
                .collect(),
            RecordStatus::Kept,
        ),
    ];
    let mut out = BytesMut::new();
    for (head, data, status) in &records {
        head.encode(&mut out);
        match head {
            RecordHead::Chunk {
                has_holes: true, ..
            } => {
                for (hole, data) in RUNS {
                    encode_run(hole, data, &mut out);
                    out.put_bytes(7, data as usize);
                }
            }
            _ => out.put_slice(data),
        }
        encode_record_tail(*status, &[head.entry().0 as u8; 32], &mut out);
    }
    (out.freeze(), records)
}

#[test]
fn records_survive_any_split() {
    let (stream, expected) = record_stream();
    for step in [1, 2, 3, 33, 64, 1000, stream.len()] {
        let (mut parser, mut got) = (RecordParser::default(), Vec::new());
        for at in (0..stream.len()).step_by(step) {
            let mut input = stream.slice(at..stream.len().min(at + step));
            while let Some(record) = parser.next(&mut input).unwrap() {
                match record {
                    Record::Begin(head) => got.push((head, Vec::new(), RecordStatus::Valid)),
                    Record::Data(bytes) => got.last_mut().unwrap().1.extend_from_slice(&bytes),
                    Record::Hole(len) => {
                        let data = &mut got.last_mut().unwrap().1;
                        data.resize(data.len() + len as usize, 0);
                    }
                    Record::End { status, digest } => {
                        let last = got.last_mut().unwrap();
                        last.2 = status;
                        assert_eq!(digest, [last.0.entry().0 as u8; 32]);
                    }
                }
            }
            assert!(input.is_empty());
        }
        assert_eq!(got, expected);
        assert!(parser.is_between_records());
    }
}

#[test]
fn record_lies_are_refused() {
    let parse = |bytes: &[u8]| RecordParser::default().next(&mut Bytes::copy_from_slice(bytes));
    assert!(parse(&[5, 1, 1]).is_err());
    let mut out = BytesMut::new();
    RecordHead::Whole {
        entry: EntryId(1),
        len_bytes: SMALL_MAX_BYTES + 1,
    }
    .encode(&mut out);
    assert!(parse(&out).is_err());
    out.clear();
    out.put_u8(2);
    put_varint(&mut out, 1 << 40);
    put_varint(&mut out, 0);
    put_varint(&mut out, 0);
    assert!(parse(&out).is_err());
}
