//! The codecs against themselves, against cut-off input, and against lies.

mod records;

use bytes::{BufMut, Bytes, BytesMut};
use minicbor::Encoder;

use super::*;
use crate::ids::{ChunkIndex, EntryId};
use crate::proto::chunk::SMALL_MAX_BYTES;
use crate::proto::clear::ClearSecret;
use crate::proto::errno::ENOSPC;
use crate::proto::{
    CancelReason, EntryError, EntryErrorCode, EntryPlace, Kind, Lasting, Meta, Mtime, ObjectId,
    SessionError, SessionErrorCode,
};

fn error(text: &str) -> EntryError {
    EntryError {
        code: EntryErrorCode::Full,
        errno: ENOSPC,
        text: text.into(),
        place: EntryPlace::Destination,
        call: text.into(),
        advice: text.into(),
    }
}

fn entry(name: &[u8], link: Option<&[u8]>) -> Item {
    Item::Entry(Entry {
        id: EntryId(u32::MAX),
        parent: EntryId(u32::MAX),
        name: Bytes::copy_from_slice(name),
        kind: Kind::Special,
        mode: 0o7777,
        mtime: Mtime {
            seconds: i64::MIN,
            nanoseconds: 999_999_999,
        },
        size_bytes: MAX_FILE_BYTES,
        source_tag: u64::MAX,
        object: Some(ObjectId {
            device: u64::MAX,
            inode: u64::MAX,
        }),
        allocated_bytes: Some(u64::MAX),
        is_unsized: false,
        link: link.map(Bytes::copy_from_slice),
    })
}

fn verdict(kind: VerdictKind) -> Verdict {
    Verdict {
        entry: EntryId(u32::MAX),
        kind,
    }
}

fn list_item() -> ListItem {
    let meta = Meta {
        kind: Kind::File,
        mode: 0o7777,
        mtime: Mtime {
            seconds: i64::MIN,
            nanoseconds: 1,
        },
        size_bytes: MAX_FILE_BYTES,
        allocated_bytes: MAX_FILE_BYTES,
        inode: u64::MAX,
        device: 0,
        lasting: Lasting::Inode,
        links: 1,
        is_sized: true,
    };
    ListItem {
        name: Bytes::from_static(b"x"),
        meta,
        link: Some(Bytes::from(vec![b'l'; 4095])),
    }
}

fn requests() -> Vec<WireRequest> {
    let path = Bytes::from_static(b"a/b\xff");
    vec![
        WireRequest::Push {
            target: path.clone(),
            must_be_dir: true,
            force: true,
            fsync: false,
            single: true,
            keep_dirlinks: true,
            no_perms: false,
            no_times: false,
            dir_modes: true,
            no_target_dir: false,
            copy: Some([9; 16].into()),
        },
        WireRequest::Pull {
            sources: vec![path.clone(), Bytes::new()],
            follow_named: false,
            no_growing: false,
            place: None,
        },
        WireRequest::List {
            path,
            partial: false,
        },
        WireRequest::Queries {},
        WireRequest::Bench {
            mode: BenchMode::Echo,
            milliseconds: u64::MAX,
        },
    ]
}

fn every_message() -> Vec<Message> {
    let mut all: Vec<Message> = requests()
        .into_iter()
        .map(|request| {
            Message::Hello(Hello {
                version: 1,
                request,
                entry_window: 1024,
                bwlimit_bps: Some(1),
                streams: None,
                counts: false,
                patience_s: None,
                adds_lanes: false,
                asks_addresses: false,
                takes_kept: false,
                clear: true,
            })
        })
        .collect();
    all.extend(messages_after_hello());
    all.extend(messages_of_few());
    all.extend(messages_of_queries());
    all.push(Message::Working { finished: u64::MAX });
    all
}

fn cancel(reason: CancelReason) -> Message {
    Message::Cancel { reason }
}

fn root(has_grown: bool) -> Message {
    Message::Root {
        entry: EntryId(9),
        digest: [7; 32],
        has_grown,
        agains: 3,
    }
}

fn end() -> Message {
    Message::End {
        entry: EntryId(9),
        size_bytes: MAX_FILE_BYTES,
        digest: [8; 32],
    }
}

fn warning(text: &str) -> Message {
    Message::DestinationWarning {
        path: Bytes::from_static(b"a"),
        text: text.into(),
    }
}

fn welcome() -> Message {
    let place = WirePlace {
        host: [5; 16].into(),
        above: vec![1, u64::MAX],
    };
    Message::Welcome(Welcome {
        version: 1,
        entry_window: 7,
        inside: true,
        place: Some(place),
        adds_lanes: false,
        addresses: Vec::new(),
        clear: Some(ClearSecret([3; 32])),
    })
}

/// Messages go into logs and panics as they are.
#[test]
fn a_secret_is_in_nobodys_log() {
    let said = format!("{:?}", welcome());
    assert!(said.contains("ClearSecret"), "{said}");
    assert!(!said.contains("3, 3, 3"), "{said}");
}

fn messages_after_hello() -> Vec<Message> {
    let path = Bytes::from_static(b"dir/\xff\n");
    vec![
        welcome(),
        Message::Entries(vec![
            entry(b"name", None),
            entry(b"", Some(b"../target")),
            Item::EndDirectory { id: EntryId(3) },
        ]),
        Message::ManifestEnd { entries: u64::MAX },
        root(true),
        end(),
        Message::Abort {
            entry: EntryId(1),
            error: error("gone"),
        },
        Message::SourceError {
            path: path.clone(),
            error: error(""),
        },
        Message::SourceWarning {
            path,
            text: "a socket".into(),
        },
        Message::Verdicts(vec![
            verdict(VerdictKind::Send {}),
            verdict(VerdictKind::Have {
                first: 5,
                values: Bytes::from(vec![1; 64]),
            }),
            verdict(VerdictKind::Skipped {}),
            verdict(VerdictKind::Done {
                resumed_bytes: u64::MAX,
            }),
            verdict(VerdictKind::Failed {
                error: error("full"),
            }),
        ]),
        Message::Finished {},
        Message::Listing(vec![list_item()]),
        Message::ListEnd {},
        Message::Error(SessionError::told(SessionErrorCode::Busy, "later")),
        cancel(CancelReason::User),
        cancel(CancelReason::Ending),
        cancel(CancelReason::Stalled),
        Message::ListAck {},
        Message::FileSize {
            size_bytes: MAX_FILE_BYTES,
            mtime: Mtime::default(),
        },
        Message::FilePart {
            data: Bytes::from(vec![7; MAX_PART_BYTES]),
        },
        Message::ChunkValue { value: [6; 32] },
        warning("mode not set"),
    ]
}

fn messages_of_queries() -> Vec<Message> {
    vec![
        Message::Query {
            slot: 255,
            query: WireQuery::List {
                path: Bytes::from_static(b"a/b\xff"),
            },
        },
        Message::Query {
            slot: 0,
            query: WireQuery::Read {
                path: Bytes::new(),
                from: 1,
                to: u64::MAX,
                follow_named: true,
            },
        },
        Message::About { slot: 7 },
        Message::Unanswered(SessionError::told(SessionErrorCode::NotFound, "none")),
        Message::Forget { slot: 7 },
    ]
}

fn messages_of_few() -> Vec<Message> {
    vec![
        Message::Holes {
            entry: EntryId(9),
            first: 7,
            count: u32::MAX,
        },
        Message::Again {
            entry: EntryId(9),
            chunk: u32::MAX,
        },
        Message::LaneOver {
            lane: u32::MAX,
            altered: true,
        },
        Message::LaneAccount(LaneAccount {
            lane: 3,
            below: 7,
            parts: vec![
                LanePart {
                    stream: 7,
                    records: Some(5),
                },
                LanePart {
                    stream: 9,
                    records: None,
                },
            ],
            more: true,
            altered: false,
        }),
        Message::BenchEnd { bytes: u64::MAX },
        Message::Echo {
            payload: Bytes::from(vec![0; 300]),
        },
        Message::EchoReply {
            payload: Bytes::new(),
        },
    ]
}

fn framed(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    encode(message, &mut out);
    out.freeze()
}

/// A frame around hand-made CBOR.
fn frame(build: impl FnOnce(&mut Encoder<Vec<u8>>)) -> Bytes {
    let mut encoder = Encoder::new(Vec::new());
    build(&mut encoder);
    let body = encoder.into_writer();
    let mut out = BytesMut::new();
    out.put_u32(body.len() as u32);
    out.put_slice(&body);
    out.freeze()
}

fn decode_one(bytes: Bytes) -> Result<Option<Message>, WireError> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.next()
}

#[test]
fn messages_survive_any_split() {
    let mut stream = BytesMut::new();
    for message in every_message() {
        encode(&message, &mut stream);
        assert!(fits(&message));
    }
    let stream = stream.freeze();
    for step in [1, 2, 3, 7, 64, stream.len()] {
        let (mut decoder, mut got) = (Decoder::new(), Vec::new());
        for at in (0..stream.len()).step_by(step) {
            decoder.push(stream.slice(at..stream.len().min(at + step)));
            while let Some(message) = decoder.next().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, every_message());
        assert!(decoder.is_empty());
    }
}

#[test]
fn a_cut_message_is_waited_for() {
    for message in every_message() {
        let whole = framed(&message);
        for len in 0..whole.len() {
            let mut decoder = Decoder::new();
            decoder.push(whole.slice(..len));
            assert_eq!(decoder.next(), Ok(None), "{message:?} cut at {len}");
        }
    }
}

#[test]
fn a_message_with_its_end_missing_inside_the_frame_is_malformed() {
    for message in every_message() {
        let whole = framed(&message);
        for len in 5..whole.len() {
            let mut cut = BytesMut::from(&whole[..len]);
            cut[..4].copy_from_slice(&(len as u32 - 4).to_be_bytes());
            assert!(
                decode_one(cut.freeze()).is_err(),
                "{message:?} cut at {len}"
            );
        }
    }
}

#[test]
fn unknown_fields_are_skipped() {
    // ManifestEnd [3, [entries, "new", {1: [2]}]]
    let bytes = frame(|e| {
        e.array(2)
            .unwrap()
            .u8(3)
            .unwrap()
            .array(3)
            .unwrap()
            .u8(5)
            .unwrap();
        e.str("new")
            .unwrap()
            .map(1)
            .unwrap()
            .u8(1)
            .unwrap()
            .array(1)
            .unwrap()
            .u8(2)
            .unwrap();
    });
    assert_eq!(
        decode_one(bytes),
        Ok(Some(Message::ManifestEnd { entries: 5 }))
    );
    // The error of an Abort with a seventh field.
    let bytes = frame(|e| {
        e.array(2)
            .unwrap()
            .u8(5)
            .unwrap()
            .array(2)
            .unwrap()
            .u8(1)
            .unwrap();
        e.array(7)
            .unwrap()
            .u8(2)
            .unwrap()
            .u8(28)
            .unwrap()
            .str("full")
            .unwrap()
            .u8(1)
            .unwrap()
            .str("full")
            .unwrap()
            .str("full")
            .unwrap()
            .bool(true)
            .unwrap();
    });
    assert_eq!(
        decode_one(bytes),
        Ok(Some(Message::Abort {
            entry: EntryId(1),
            error: error("full")
        }))
    );
}

#[test]
fn missing_optional_fields_are_none() {
    // A Hello that ends after entry_window.
    let bytes = frame(|e| {
        e.array(2)
            .unwrap()
            .u8(0)
            .unwrap()
            .array(1)
            .unwrap()
            .array(3)
            .unwrap();
        e.u8(1).unwrap();
        e.array(2)
            .unwrap()
            .u8(2)
            .unwrap()
            .array(1)
            .unwrap()
            .bytes(b"p")
            .unwrap()
            .u8(9)
            .unwrap();
    });
    let Ok(Some(Message::Hello(hello))) = decode_one(bytes) else {
        panic!("no hello")
    };
    assert_eq!(
        (hello.entry_window, hello.bwlimit_bps, hello.streams),
        (9, None, None)
    );
}

/// An entry that ends before its link.
#[test]
fn a_missing_link_is_none() {
    let bytes = frame(|e| {
        e.array(2)
            .unwrap()
            .u8(2)
            .unwrap()
            .array(1)
            .unwrap()
            .array(1)
            .unwrap();
        e.array(2)
            .unwrap()
            .u8(0)
            .unwrap()
            .array(1)
            .unwrap()
            .array(8)
            .unwrap();
        e.u8(1)
            .unwrap()
            .u8(0)
            .unwrap()
            .bytes(b"n")
            .unwrap()
            .u8(0)
            .unwrap()
            .u16(0o644)
            .unwrap();
        e.array(2)
            .unwrap()
            .u8(1)
            .unwrap()
            .u8(2)
            .unwrap()
            .u8(3)
            .unwrap()
            .u8(4)
            .unwrap();
    });
    let Ok(Some(Message::Entries(items))) = decode_one(bytes) else {
        panic!("no entries")
    };
    assert!(matches!(&items[..], [Item::Entry(entry)] if entry.link.is_none()));
}

#[test]
fn unknown_kinds_are_told_from_broken_ones() {
    let bytes = frame(|e| {
        e.array(2).unwrap().u8(77).unwrap().array(0).unwrap();
    });
    assert_eq!(decode_one(bytes), Err(WireError::Unknown(77)));
    assert!(matches!(
        decode_one(frame(|e| drop(e.u8(1)))),
        Err(WireError::Malformed(_))
    ));
    let mut trailing = BytesMut::from(&framed(&Message::Finished {})[..]);
    trailing.put_u8(0);
    let len = trailing.len() as u32 - 4;
    trailing[..4].copy_from_slice(&len.to_be_bytes());
    assert!(matches!(
        decode_one(trailing.freeze()),
        Err(WireError::Malformed(_))
    ));
}

#[test]
fn caps_hold() {
    let mut head = BytesMut::new();
    head.put_u32(MAX_MESSAGE_BYTES as u32 + 1);
    assert_eq!(
        decode_one(head.freeze()),
        Err(WireError::MessageTooLong { len_bytes: 65_537 })
    );
    // A batch that claims 2^60 items is refused at its head.
    let bytes = frame(|e| {
        e.array(2)
            .unwrap()
            .u8(2)
            .unwrap()
            .array(1)
            .unwrap()
            .array(1 << 60)
            .unwrap();
    });
    assert!(matches!(decode_one(bytes), Err(WireError::Malformed(_))));
    let mut long = entry(b"", None);
    let Item::Entry(inner) = &mut long else {
        unreachable!()
    };
    inner.name = Bytes::from(vec![b'n'; 300]);
    assert!(matches!(
        decode_one(framed(&Message::Entries(vec![long]))),
        Err(WireError::Malformed(_))
    ));
    let mut wild = entry(b"n", None);
    let Item::Entry(inner) = &mut wild else {
        unreachable!()
    };
    inner.mtime.nanoseconds = 1_000_000_000;
    assert!(decode_one(framed(&Message::Entries(vec![wild]))).is_err());
    let ragged = verdict(VerdictKind::Have {
        first: 0,
        values: Bytes::from(vec![0; 33]),
    });
    assert!(decode_one(framed(&Message::Verdicts(vec![ragged]))).is_err());
}

#[test]
fn long_texts_are_cut_between_characters() {
    let text = "ä".repeat(MAX_TEXT_BYTES);
    let message = Message::Error(SessionError::told(SessionErrorCode::Other, text));
    let Ok(Some(Message::Error(error))) = decode_one(framed(&message)) else {
        panic!("no error")
    };
    assert_eq!(error.text, "ä".repeat(MAX_TEXT_BYTES / 2));
}

#[test]
fn encoded_bounds_hold() {
    let len = |message: &Message| framed(message).len() - 4 - 8;
    for item in [
        entry(&[b'n'; 255], Some(&[b'l'; 4095])),
        entry(b"", None),
        Item::EndDirectory {
            id: EntryId(u32::MAX),
        },
    ] {
        assert!(len(&Message::Entries(vec![item.clone()])) <= item.encoded_bound());
    }
    for kind in [
        VerdictKind::Have {
            first: u32::MAX,
            values: Bytes::from(vec![0; 32 * MAX_VALUES]),
        },
        VerdictKind::Failed {
            error: EntryError {
                errno: i32::MIN,
                ..error(&"x".repeat(9999))
            },
        },
        VerdictKind::Done {
            resumed_bytes: u64::MAX,
        },
    ] {
        let verdict = verdict(kind);
        assert!(len(&Message::Verdicts(vec![verdict.clone()])) <= verdict.encoded_bound());
    }
    assert!(len(&Message::Listing(vec![list_item()])) <= list_item().encoded_bound());
}

#[test]
fn prefaces_and_stream_headers_survive() {
    let preface = Preface {
        kind: PrefaceKind::Join,
        session: SessionId([9; 16]),
        lane: 0x0102_0304,
    };
    assert_eq!(Preface::decode(&preface.encode()), Ok(preface));
    assert_eq!(
        Preface::decode(&[7; Preface::BYTES]),
        Err(WireError::Preface(7))
    );
}

/// Holes and data behind them, in a chunk.
const RUNS: [(u64, u64); 5] = [(0, 4096), (8192, 0), (4096, 8192), (0, 4096), (4096, 77)];

#[test]
fn noise_never_panics() {
    let mut seed = 0x1234_5678_9abc_def0u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let messages: Vec<Bytes> = every_message().iter().map(framed).collect();
    let (records, _) = records::record_stream();
    for _ in 0..20_000 {
        let mut bytes = BytesMut::from(&messages[random() as usize % messages.len()][..]);
        for _ in 0..=random() % 4 {
            let at = 4 + random() as usize % (bytes.len() - 4);
            bytes[at] = random() as u8;
        }
        let _ = decode_one(bytes.freeze());
        let mut noise = BytesMut::from(&records[..]);
        let at = random() as usize % noise.len();
        noise[at] = random() as u8;
        let (mut parser, mut input) = (RecordParser::default(), noise.freeze());
        while let Ok(Some(_)) = parser.next(&mut input) {}
    }
}
