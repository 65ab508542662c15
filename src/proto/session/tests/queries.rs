//! Several queries in one session: slots, what is under way, what is forgotten, and who rests.

use super::*;
use crate::proto::query::{QUERIES_MAX, Query, QueryAnswer, QueryRequest};
use crate::proto::wire::{MAX_PART_BYTES, WireQuery};

fn read(path: &'static [u8]) -> Query {
    Query::Read {
        path: Bytes::from_static(path),
        range: 0..u64::MAX,
        follow_named: false,
    }
}

fn ask(slot: u8, query: Query) -> Message {
    let query = WireQuery::from(query);
    Message::Query { slot, query }
}

fn server() -> Bench {
    let mut server = Bench::server();
    server.hear(hello(VERSION, WireRequest::Queries {}));
    server
}

/// Opens the file that was asked for in the oldest query that is not open yet.
fn open(server: &mut Bench, size_bytes: u64) {
    let meta = Meta {
        size_bytes,
        ..meta(Kind::File)
    };
    server.answer(Ok(DiskDone::Source {
        name: Name::new(Bytes::from_static(b"f")).ok(),
        meta: Box::new(meta),
        link: None,
        in_place: false,
    }));
    // The open is the youngest operation.
    let last = server.disk.pop().expect("it is opened");
    server.disk.insert(0, last);
    server.answer(Ok(DiskDone::Meta(meta)));
}

/// Reads on wherever that is under way, until nothing is.
fn read_on(server: &mut Bench) -> usize {
    let mut reads = 0;
    while let Some((_, DiskOp::Read { len_bytes, .. })) = server.disk.first() {
        let data = Bytes::from(vec![0; *len_bytes]);
        server.answer(Ok(DiskDone::Read { data }));
        reads += 1;
        assert!(reads < 1000, "the server reads on and on");
    }
    reads
}

/// A session that ends closes what it has open, behind what is in flight.
fn broke_the_protocol(side: &mut Bench) -> bool {
    side.now += Duration::from_secs(20);
    side.input(Input::Tick);
    matches!(side.outcome, Some(Outcome::Violation(_)))
}

#[test]
fn a_slot_takes_one_query_at_a_time() {
    for (first, second, is_wrong) in [
        (0, QUERIES_MAX as u8, true),
        (0, 255, true),
        (3, 3, true),
        (0, 7, false),
    ] {
        let mut server = server();
        server.hear(ask(first, read(b"f")));
        server.hear(ask(second, read(b"g")));
        assert_eq!(
            broke_the_protocol(&mut server),
            is_wrong,
            "{first} {second}"
        );
    }
    for odd in [
        Message::ListAck {},
        Message::About { slot: 8 },
        Message::Forget { slot: 8 },
        Message::ListEnd {},
        hello(VERSION, WireRequest::Queries {}),
    ] {
        let mut server = server();
        server.hear(odd.clone());
        assert!(broke_the_protocol(&mut server), "{odd:?}");
    }
}

/// However many ask, what is under way together is bounded, and everyone has a share of it.
#[test]
fn answers_share_what_is_under_way() {
    for queries in 1..=QUERIES_MAX as u8 {
        let mut server = server();
        for slot in 0..queries {
            server.hear(ask(slot, read(b"f")));
        }
        (0..queries).for_each(|_| open(&mut server, 1 << 30));
        let reads = read_on(&mut server);
        // Queries are read while less waits for the transport, which all of it is.
        let most = server.answers_max.expect("it reads on and on");
        assert!((24 * MAX_PART_BYTES..2 << 20).contains(&most));
        assert!(
            (12..=16).contains(&reads),
            "{queries} queries have {reads} parts under way"
        );
        let parts = server.said.iter().filter_map(|it| match it {
            Message::FilePart { data } => Some(data.len()),
            _ => None,
        });
        assert!(parts.sum::<usize>() <= 16 * MAX_PART_BYTES);
        // Each goes on by its own acknowledgements.
        for slot in 0..queries {
            server.hear(Message::About { slot });
            server.hear(Message::ListAck {});
            assert_eq!(read_on(&mut server), 1, "slot {slot} of {queries}");
        }
    }
}

/// What those before have under way is no share of those that come later, who have one part yet.
#[test]
fn answers_that_begin_one_after_the_other_share_what_is_under_way() {
    for is_forgotten in [false, true] {
        let mut server = server();
        let mut parts = Vec::new();
        for slot in 0..QUERIES_MAX as u8 {
            server.hear(ask(slot, read(b"f")));
            open(&mut server, 1 << 30);
            parts.push(read_on(&mut server));
            if is_forgotten {
                server.hear(Message::Forget { slot });
                server.settle();
            }
        }
        assert_eq!(parts, [16, 1, 1, 1, 1, 1, 1, 1], "{is_forgotten}");
        // Whose turn it is gets more once the first has had its acknowledgements.
        server.hear(Message::About { slot: 0 });
        (0..16).for_each(|_| server.hear(Message::ListAck {}));
        let reads = read_on(&mut server);
        assert_eq!(reads > 0, !is_forgotten);
        let parts = server.said.iter();
        let parts = parts.filter(|it| matches!(it, Message::FilePart { .. }));
        assert!(parts.count() - 16 <= 16 + QUERIES_MAX);
    }
}

/// A batch of names may be many messages.
#[test]
fn rows_that_are_long_wait_for_acknowledgements() {
    let mut server = server();
    server.hear(ask(0, Query::List { path: Bytes::new() }));
    server.answer(Ok(DiskDone::Source {
        name: None,
        meta: Box::new(meta(Kind::Directory)),
        link: None,
        in_place: false,
    }));
    server.answer(Ok(DiskDone::Done));
    let listed = |number: usize| Listed {
        name: Bytes::from(format!("n{number}")),
        found: Ok((meta(Kind::Symlink), Some(Bytes::from(vec![b'x'; 4000])))),
    };
    let entries = (0..256).map(listed).collect();
    server.answer(Ok(DiskDone::Listed { entries, end: true }));
    let count = |server: &Bench| {
        let rows = server.said.iter().map(|it| match it {
            Message::Listing(rows) => (1, rows.len()),
            _ => (0, 0),
        });
        rows.fold((0, 0), |all, it| (all.0 + it.0, all.1 + it.1))
    };
    let (messages, _) = count(&server);
    assert_eq!(messages, 8, "no more than are acknowledged");
    for acknowledged in 1..9 {
        server.hear(Message::ListAck {});
        assert!(count(&server).0 <= 8 + acknowledged);
    }
    while end_is_missing(&server) {
        server.hear(Message::ListAck {});
    }
    assert_eq!(count(&server).1, 256);
}

fn end_is_missing(server: &Bench) -> bool {
    assert_eq!(server.outcome, None);
    let ended = |it: &Message| matches!(it, Message::ListEnd {});
    !server.said.iter().any(ended)
}

/// A client that asks on and on, and acknowledges nothing, is owed nothing more in the end.
#[test]
fn what_was_not_acknowledged_counts_for_the_next_query() {
    let mut server = server();
    let mut parts = 0;
    for _ in 0..100 {
        server.hear(ask(0, read(b"f")));
        if server.disk.is_empty() {
            break;
        }
        open(&mut server, 1 << 30);
        parts += read_on(&mut server);
        server.hear(Message::Forget { slot: 0 });
        server.settle();
    }
    assert_eq!(parts, 16);
    (0..parts).for_each(|_| server.hear(Message::ListAck {}));
    assert_eq!(server.outcome, None);
    server.hear(Message::ListAck {});
    assert!(broke_the_protocol(&mut server));
}

#[test]
fn a_forgotten_query_ends_and_its_slot_is_asked_again() {
    let mut server = server();
    server.hear(ask(2, read(b"f")));
    open(&mut server, 1 << 30);
    assert_eq!(server.disk.len(), 1, "a read is under way");
    server.hear(Message::Forget { slot: 2 });
    assert_eq!(server.said.last(), Some(&Message::ListEnd {}));
    // Its files are closed behind that, and the next query waits for it.
    server.hear(ask(2, read(b"g")));
    assert_eq!(server.disk.len(), 1);
    server.hear(Message::Forget { slot: 5 });
    let data = Bytes::from_static(b"late");
    server.answer(Ok(DiskDone::Read { data }));
    let closes =
        |it: &(OpId, DiskOp)| matches!(it.1, DiskOp::CloseRead { .. } | DiskOp::CloseDir { .. });
    assert!(server.disk.len() == 2 && server.disk.iter().all(closes));
    server.answer(Ok(DiskDone::Done));
    server.answer(Ok(DiskDone::Done));
    assert!(matches!(
        &server.disk[..],
        [(_, DiskOp::ResolveSource { path, .. })] if path == "g"
    ));
    let parts = server.said.iter();
    let parts = parts.filter(|it| matches!(it, Message::FilePart { .. }));
    assert_eq!(parts.count(), 0, "what came late is said to nobody");
}

/// Also what waits behind the files of the query before, which a hung disk may have for long.
#[test]
fn a_query_that_has_not_begun_is_forgotten() {
    let mut server = server();
    server.hear(ask(2, read(b"f")));
    open(&mut server, 1 << 30);
    let ends = |server: &Bench| {
        let said = server.said.iter();
        said.filter(|it| matches!(it, Message::ListEnd {})).count()
    };
    for round in 1..10 {
        server.hear(Message::Forget { slot: 2 });
        assert_eq!(ends(&server), round);
        server.hear(Message::Forget { slot: 2 });
        assert_eq!(ends(&server), round, "it has ended");
        server.hear(ask(2, read(b"g")));
    }
    server.hear(Message::Forget { slot: 2 });
    let data = Bytes::from_static(b"late");
    server.answer(Ok(DiskDone::Read { data }));
    server.settle();
    assert_eq!(ends(&server), 10);
    assert!(server.disk.is_empty(), "none of them is looked up");
    server.hear(ask(2, read(b"h")));
    assert!(matches!(
        &server.disk[..],
        [(_, DiskOp::ResolveSource { path, .. })] if path == "h"
    ));
}

#[test]
fn who_asks_nothing_is_waited_for_and_then_finished_with() {
    let mut server = server();
    let asked = server.now;
    while server.outcome.is_none() {
        server.now = server.session.deadline().expect("it waits for ever");
        server.input(Input::Tick);
    }
    assert_eq!(server.said.last(), Some(&Message::Finished {}));
    assert!(matches!(server.outcome, Some(Outcome::Complete(_))));
    assert!(server.now - asked >= PATIENCE);

    // A client waits as long as it likes, and then its query has all its time.
    let mut client = Bench::client(Request::Queries);
    client.hear(welcome());
    for _ in 0..10 {
        client.now = client.session.deadline().expect("it watches");
        client.input(Input::Tick);
        assert_eq!(client.outcome, None);
    }
    client.now += PATIENCE / 2;
    let (slot, query) = (0, read(b"f"));
    client.input(Input::Ask(QueryRequest::Query { slot, query }));
    client.now += PATIENCE - Duration::from_secs(1);
    client.input(Input::Tick);
    assert!(client.outcome.is_none() && !is_settled(&client, 0));
    client.input(Input::Ask(QueryRequest::NoMore));
    assert_eq!(client.said.last(), Some(&Message::Finished {}));
    assert!(matches!(client.outcome, Some(Outcome::Complete(_))));
}

fn is_settled(client: &Bench, of: u8) -> bool {
    client.events.iter().any(|event| {
        matches!(event, Event::Answer { slot, answer: QueryAnswer::End(Err(error)) }
            if *slot == of && error.code == SessionErrorCode::Stalled)
    })
}

/// A server that answers others keeps nobody waiting for ever.
#[test]
fn each_query_has_a_patience_of_its_own() {
    let mut client = Bench::client(Request::Queries);
    client.hear(welcome());
    for slot in [0, 1] {
        let query = Query::List { path: Bytes::new() };
        client.input(Input::Ask(QueryRequest::Query { slot, query }));
    }
    let row = || ListItem {
        name: Bytes::from_static(b"n"),
        meta: meta(Kind::File),
        link: None,
    };
    client.hear(Message::About { slot: 1 });
    for _ in 0..7 {
        client.now += PATIENCE / 5;
        client.hear(Message::Listing(vec![row()]));
        client.input(Input::Tick);
    }
    assert!(is_settled(&client, 0) && !is_settled(&client, 1));
    assert_eq!(client.outcome, None);
    let forgets = Message::Forget { slot: 0 };
    assert!(client.said.contains(&forgets), "the server is told");
    let answers = client.events.iter().filter(|event| {
        matches!(
            event,
            Event::Answer {
                slot: 1,
                answer: QueryAnswer::Row { .. }
            }
        )
    });
    assert_eq!(answers.count(), 7);
    // What comes yet is acknowledged, and nobody's.
    client.hear(Message::About { slot: 0 });
    let (before, events) = (client.said.len(), client.events.len());
    client.hear(Message::Listing(vec![row()]));
    assert_eq!(
        client.said[before..],
        [Message::About { slot: 0 }, Message::ListAck {}]
    );
    assert_eq!(client.events.len(), events);
    client.hear(Message::ListEnd {});
    assert_eq!(client.events.len(), events, "the slot is not used again");
}

/// The next query in a slot would wait for what the one before waits for.
#[test]
fn slots_that_stall_are_not_used_again_and_without_others_the_session_ends() {
    let mut client = Bench::client(Request::Queries);
    client.hear(welcome());
    for slot in 0..QUERIES_MAX as u8 {
        let query = Query::List { path: Bytes::new() };
        client.input(Input::Ask(QueryRequest::Query { slot, query }));
    }
    for _ in 0..7 {
        client.now += PATIENCE / 5;
        let (name, meta, link) = (Bytes::from_static(b"n"), meta(Kind::File), None);
        client.hear(Message::Listing(vec![ListItem { name, meta, link }]));
        client.input(Input::Tick);
    }
    assert!((1..QUERIES_MAX as u8).all(|slot| is_settled(&client, slot)));
    // The server hears of it, and so the session gets on, but the last query does not.
    for slot in 1..QUERIES_MAX as u8 {
        assert_eq!(client.outcome, None);
        client.hear(Message::About { slot });
        client.hear(Message::ListEnd {});
        client.now += PATIENCE / 6;
        client.input(Input::Tick);
    }
    assert!(is_settled(&client, 0));
    assert!(matches!(client.outcome, Some(Outcome::Complete(_))));
    assert_eq!(client.said.last(), Some(&Message::Finished {}));
    let is_free = |event: &Event| {
        let Event::Answer { answer, .. } = event else {
            return false;
        };
        *answer == QueryAnswer::Free
    };
    assert!(!client.events.iter().any(is_free));
}

/// An answer that ended here goes on until the server has heard of it, and as an answer.
#[test]
fn an_answer_that_nobody_wants_keeps_to_the_protocol() {
    for (odd, is_wrong) in [
        (Message::ListEnd {}, false),
        (
            Message::ChunkValue {
                value: Default::default(),
            },
            false,
        ),
        (Message::Listing(Vec::new()), true),
        (welcome(), true),
    ] {
        let mut client = Bench::client(Request::Queries);
        client.hear(welcome());
        let (slot, query) = (0, read(b"f"));
        client.input(Input::Ask(QueryRequest::Query { slot, query }));
        let (size_bytes, mtime) = (1 << 62, Default::default());
        client.hear(Message::FileSize { size_bytes, mtime });
        let ends = |client: &Bench| {
            let ends = client.events.iter().filter(|event| {
                matches!(
                    event,
                    Event::Answer {
                        answer: QueryAnswer::End(_),
                        ..
                    }
                )
            });
            ends.count()
        };
        assert_eq!(ends(&client), 1, "the file is too large");
        client.hear(odd.clone());
        assert_eq!(ends(&client), 1, "{odd:?}");
        assert_eq!(broke_the_protocol(&mut client), is_wrong, "{odd:?}");
    }
}

#[test]
fn an_answer_that_nobody_asked_for_breaks_the_protocol() {
    for odd in [
        Message::ListEnd {},
        Message::About { slot: 8 },
        Message::Unanswered(SessionError::told(SessionErrorCode::Other, "")),
        Message::Listing(Vec::new()),
        ask(0, read(b"f")),
    ] {
        let mut client = Bench::client(Request::Queries);
        client.hear(welcome());
        client.hear(odd.clone());
        assert!(broke_the_protocol(&mut client), "{odd:?}");
    }
}

#[test]
fn a_path_that_cannot_be_said_is_an_answer() {
    let mut client = Bench::client(Request::Queries);
    let path = Bytes::from(vec![b'x'; 5000]);
    let (slot, query) = (0, Query::List { path });
    client.input(Input::Ask(QueryRequest::Query { slot, query }));
    assert!(matches!(
        &client.events[..],
        [
            Event::Answer {
                slot: 0,
                answer: QueryAnswer::End(Err(_))
            },
            Event::Answer {
                slot: 0,
                answer: QueryAnswer::Free
            },
        ]
    ));
    assert_eq!(client.said.len(), 1, "the hello alone");
}
