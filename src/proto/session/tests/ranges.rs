//! Bytes of a file: a client against a server that lies, a server against a disk that does.

use super::*;
use crate::ids::ChunkIndex;
use crate::proto::chunk::{chunk_len_bytes, chunk_offset};
use crate::proto::integrity::{ChunkHasher, Digest};
use crate::proto::query::{Query, QueryAnswer, QueryRequest};
use crate::proto::wire::MAX_PART_BYTES;

const MIB: u64 = 1 << 20;

fn file_of(bytes: u64) -> Vec<u8> {
    (0..bytes).map(|at| ((at * at) >> 7) as u8).collect()
}

fn value_of(file: &[u8], chunk: u32) -> Digest {
    let (size_bytes, chunk) = (file.len() as u64, ChunkIndex(chunk));
    let from = chunk_offset(size_bytes, chunk) as usize;
    let mut hasher = ChunkHasher::new(chunk, size_bytes);
    hasher.update(&file[from..from + chunk_len_bytes(size_bytes, chunk) as usize]);
    hasher.finish()
}

fn query(range: std::ops::Range<u64>) -> Query {
    Query::Read {
        path: Bytes::from_static(b"f"),
        range,
        follow_named: true,
    }
}

/// A server that was asked for a range.
fn asked(range: std::ops::Range<u64>) -> Bench {
    let mut server = Bench::server();
    server.hear(hello(VERSION, WireRequest::Queries {}));
    let (slot, query) = (0, query(range).into());
    server.hear(Message::Query { slot, query });
    server
}

fn end_of(said: &[Message]) -> Option<&Message> {
    said.iter()
        .find(|it| matches!(it, Message::ListEnd {} | Message::Unanswered(_)))
}

fn refused(server: &Bench) -> SessionErrorCode {
    match end_of(&server.said) {
        Some(Message::Unanswered(error)) => error.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn of_size(bytes: usize) -> Meta {
    Meta {
        size_bytes: bytes as u64,
        ..meta(Kind::File)
    }
}

/// A server that was asked for a range of this file and has it open.
fn opened(file: &[u8], range: std::ops::Range<u64>) -> Bench {
    let mut server = asked(range);
    server.answer(Ok(DiskDone::Source {
        name: Name::new(Bytes::from_static(b"f")).ok(),
        meta: Box::new(of_size(file.len())),
        link: None,
        in_place: false,
    }));
    server.answer(Ok(DiskDone::Meta(of_size(file.len()))));
    server
}

/// The disk reads `file`, and the client acknowledges what comes, to the end.
fn serve(server: &mut Bench, file: &[u8]) -> Vec<Message> {
    let mut acknowledged = 0;
    while end_of(&server.said).is_none() {
        let count = |said: &[Message]| {
            let parts = said.iter();
            parts
                .filter(|it| matches!(it, Message::FilePart { .. }))
                .count()
        };
        let done = match server.disk.first().map(|(_, op)| op.clone()) {
            Some(DiskOp::Read {
                offset, len_bytes, ..
            }) => {
                let from = file.len().min(offset as usize);
                let to = file.len().min(from + len_bytes);
                let data = Bytes::copy_from_slice(&file[from..to]);
                DiskDone::Read { data }
            }
            Some(DiskOp::Stat { .. }) => DiskDone::Meta(of_size(file.len())),
            Some(_) => DiskDone::Done,
            None => {
                assert!(acknowledged < count(&server.said), "it waits for nothing");
                acknowledged += 1;
                server.hear(Message::ListAck {});
                continue;
            }
        };
        server.answer(Ok(done));
    }
    server.settle();
    std::mem::take(&mut server.said)
}

/// What a client makes of these messages.
fn take(range: std::ops::Range<u64>, said: Vec<Message>) -> (Vec<u8>, Taken) {
    let mut client = Bench::client(Request::Queries);
    let (slot, query) = (0, query(range));
    client.input(Input::Ask(QueryRequest::Query { slot, query }));
    for message in said {
        if client.outcome.is_some() {
            break;
        }
        client.hear(message);
    }
    let (mut came, mut end) = (Vec::new(), None);
    for event in client.events {
        match event {
            Event::Answer { answer, .. } => match answer {
                QueryAnswer::Bytes(bytes) => came.extend_from_slice(&bytes),
                QueryAnswer::End(it) => end = Some(it),
                QueryAnswer::Row { .. } | QueryAnswer::File { .. } | QueryAnswer::Free => {}
            },
            event => assert!(matches!(event, Event::Started), "{event:?}"),
        }
    }
    let outcome = client.outcome;
    (came, Taken { end, outcome })
}

/// How a query ended, and its session.
#[derive(Debug)]
struct Taken {
    end: Option<Result<(), SessionError>>,
    outcome: Option<Outcome>,
}

#[test]
fn a_range_comes_as_it_is() {
    for size in [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17] {
        let file = file_of(size);
        for (from, to) in [
            (0, 0),
            (0, 1),
            (0, u64::MAX),
            (MIB - 1, MIB + 1),
            (size, size + 5),
            (size + 1, u64::MAX),
            (size.saturating_sub(3), size),
            (5, 2),
        ] {
            let mut server = opened(&file, from..to);
            let said = serve(&mut server, &file);
            assert_eq!(end_of(&said), Some(&Message::ListEnd {}));
            let (came, taken) = take(from..to, said);
            assert_eq!(taken.end, Some(Ok(())), "{size} {from}..{to}");
            let end = to.min(size).max(from.min(size)) as usize;
            assert!(
                came == file[from.min(size) as usize..end],
                "{size} {from}..{to}"
            );
        }
    }
}

#[test]
fn a_file_that_changes_is_an_error() {
    let file = file_of(MIB / 4);
    for shorter in [false, true] {
        let mut server = opened(&file, 0..u64::MAX);
        while let Some((_, op)) = server.disk.first() {
            let done = match op {
                DiskOp::Read { .. } if shorter => DiskDone::Read { data: Bytes::new() },
                DiskOp::Read {
                    offset, len_bytes, ..
                } => {
                    let from = *offset as usize;
                    let to = file.len().min(from + len_bytes);
                    let data = Bytes::copy_from_slice(&file[from..to]);
                    DiskDone::Read { data }
                }
                DiskOp::Stat { .. } => DiskDone::Meta(of_size(file.len() + 1)),
                _ => DiskDone::Done,
            };
            server.answer(Ok(done));
        }
        assert_eq!(refused(&server), SessionErrorCode::Other);
        assert_eq!(server.outcome, None, "others are answered yet");
    }
}

#[test]
fn a_client_that_does_not_acknowledge_is_waited_for() {
    let file = file_of(8 * MIB);
    let mut server = opened(&file, 0..u64::MAX);
    let mut reads = 0;
    while let Some((_, DiskOp::Read { .. })) = server.disk.first() {
        let data = Bytes::from(vec![0; MAX_PART_BYTES]);
        server.answer(Ok(DiskDone::Read { data }));
        reads += 1;
        assert!(reads <= 16, "the server reads on and on");
    }
    server.hear(Message::ListAck {});
    assert_eq!(server.disk.len(), 1, "it goes on");
    for _ in 0..16 {
        server.hear(Message::ListAck {});
    }
    server.settle();
    assert!(matches!(server.outcome, Some(Outcome::Violation(_))));
}

/// Each ends the session or the query, and none hands bytes over that were not held against a
/// value.
#[test]
fn a_server_that_lies_is_found_out() {
    let file = file_of(MIB + 1);
    let size_bytes = file.len() as u64;
    let part = |data: &[u8]| Message::FilePart {
        data: Bytes::copy_from_slice(data),
    };
    let whole_chunk = || file[..MIB as usize].chunks(MAX_PART_BYTES).map(part);
    let mtime = Mtime::default();
    let size = || Message::FileSize { size_bytes, mtime };
    let value = |value| Message::ChunkValue { value };
    let (right, wrong) = (value_of(&file, 0), value_of(&file, 1));
    let with_chunk = |after: Vec<Message>| {
        let head = [welcome(), size()].into_iter();
        head.chain(whole_chunk()).chain(after).collect::<Vec<_>>()
    };
    let lies = [
        vec![welcome(), part(b"x")],
        vec![welcome(), value(right)],
        vec![welcome(), size(), size()],
        vec![welcome(), size(), part(b"")],
        vec![welcome(), size(), value(right)],
        vec![welcome(), size(), Message::ListEnd {}],
        with_chunk(vec![part(b"x")]),
        with_chunk(vec![value(wrong)]),
        with_chunk(vec![Message::ListEnd {}]),
        with_chunk(vec![Message::Listing(Vec::new())]),
        vec![welcome(), size(), welcome()],
        vec![
            welcome(),
            Message::FileSize {
                size_bytes: 1 << 62,
                mtime,
            },
        ],
    ];
    for said in lies {
        let shown = format!("{:?}", said.last());
        let (came, taken) = take(0..size_bytes, said);
        assert!(came.is_empty(), "{shown}");
        let is_broken = matches!(taken.outcome, Some(Outcome::Violation(_)));
        let is_refused = matches!(taken.end, Some(Err(_)));
        assert!(is_broken != is_refused, "{shown}: {taken:?}");
    }
    let (came, taken) = take(0..size_bytes, with_chunk(vec![value(right), part(b"xx")]));
    assert!(came == file[..MIB as usize] && taken.end.is_none());
    assert!(matches!(taken.outcome, Some(Outcome::Violation(_))));
}

#[test]
fn what_is_no_file_is_refused() {
    for kind in [Kind::Directory, Kind::Special, Kind::Symlink] {
        let mut server = asked(0..5);
        server.answer(Ok(DiskDone::Source {
            name: Name::new(Bytes::from_static(b"f")).ok(),
            meta: Box::new(meta(kind)),
            link: None,
            in_place: false,
        }));
        server.settle();
        assert_eq!(refused(&server), SessionErrorCode::NotFound);
    }
    let mut server = asked(0..5);
    server.answer(Err(ENOENT));
    assert_eq!(refused(&server), SessionErrorCode::NotFound);
}
