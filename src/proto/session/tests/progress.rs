//! What a peer may give for ever holds no session for ever.

use super::*;
use crate::proto::EntryError;
use crate::proto::journal::Storage;

/// Time between two messages of a peer that wants to be waited for.
const NOW_AND_THEN: Duration = Duration::from_secs(50);

/// A server that receives, once its target is known.
pub(super) fn receiving(entry_window: u32) -> Bench {
    let now = epoch();
    let limits = Limits {
        entry_window,
        ..limits()
    };
    let mut server = Bench::new(now, Session::server(now, BOTH, limits));
    server.hear(hello(VERSION, wire_push()));
    server.answer(Ok(DiskDone::Target { name: None }));
    server.answer(Ok(DiskDone::Above(Vec::new())));
    assert!(matches!(server.said[..], [Message::Welcome(_)]));
    server
}

/// Has `server` hear this again and again, for at most so long.
fn hears_for(server: &mut Bench, most: Duration, message: impl Fn() -> Message) {
    let end = server.now + most;
    while server.outcome.is_none() && server.now < end {
        server.hear(message());
        tick(server);
    }
}

fn tick(server: &mut Bench) {
    server.now += NOW_AND_THEN;
    server.input(Input::Tick);
    if server
        .said
        .last()
        .is_some_and(|last| matches!(last, Message::Error(_)))
    {
        server.settle();
    }
}

fn is_stalled(server: &Bench) -> bool {
    matches!(server.outcome, Some(Outcome::Stalled { .. }))
}

#[test]
fn an_empty_list_is_no_progress() {
    let mut server = receiving(4);
    hears_for(&mut server, 3 * NOW_AND_THEN, || Message::Entries(vec![]));
    assert!(is_stalled(&server), "{:?}", server.outcome);
}

#[test]
fn what_is_said_of_no_entry_is_believed_for_half_a_day() {
    let half_a_day = Duration::from_secs(12 * 60 * 60);
    let path = || Bytes::from_static(b"socket");
    let warning = || Message::SourceWarning {
        path: path(),
        text: "left out".into(),
    };
    let error = || Message::SourceError {
        path: path(),
        error: EntryError {
            code: EntryErrorCode::Source,
            errno: EACCES,
            text: String::new(),
            place: EntryPlace::Source,
            call: String::new(),
            advice: String::new(),
        },
    };
    for message in [&warning as &dyn Fn() -> Message, &error] {
        let mut server = receiving(4);
        hears_for(&mut server, half_a_day, message);
        assert_eq!(server.outcome, None);
        hears_for(&mut server, 4 * NOW_AND_THEN, message);
        assert!(is_stalled(&server), "{:?}", server.outcome);
    }
}

/// A file of 2^60 bytes, all hole, costs a peer a few hundred bytes, and who hashes it years.
#[test]
fn a_hole_is_hashed_for_half_a_day() {
    let mut server = receiving(4);
    let file = wire::Entry {
        id: EntryId(1),
        parent: EntryId(0),
        name: Bytes::from_static(b"src"),
        kind: Kind::File,
        mode: 0o644,
        mtime: Mtime::default(),
        size_bytes: 1 << 60,
        source_tag: 0,
        object: None,
        allocated_bytes: Some(0),
        is_unsized: false,
        link: None,
    };
    server.hear(Message::Entries(vec![Item::Entry(file)]));
    server.answer(Ok(DiskDone::Existing(None)));
    server.answer(Ok(DiskDone::Part {
        journal: Bytes::new(),
        size_bytes: 0,
        resumable: true,
        storage: Storage::default(),
    }));
    assert!(matches!(server.disk[..], [(_, DiskOp::StartPart { .. })]));
    server.answer(Ok(DiskDone::Done));
    server.hear(Message::Holes {
        entry: EntryId(1),
        first: 0,
        count: 1 << 16,
    });
    assert!(matches!(server.disk[..], [(_, DiskOp::MakeHole { .. })]));
    server.answer(Ok(DiskDone::Done));
    let begin = server.now;
    while server.outcome.is_none() && server.now < begin + Duration::from_secs(24 * 60 * 60) {
        if matches!(server.disk.first(), Some((_, DiskOp::Yield))) {
            server.answer(Ok(DiskDone::Yielded));
        }
        tick(&mut server);
    }
    assert!(is_stalled(&server), "{:?}", server.outcome);
    let hours = (server.now - begin).as_secs() / 3600;
    assert_eq!(hours, 12, "an honest hole has that long");
}
