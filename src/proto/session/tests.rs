//! Sessions against scripted peers: greetings, refusals, time-outs, cancelling, listings, the
//! window.

mod altered;
mod holes;
mod progress;
mod queries;
mod ranges;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::ids::{EntryId, Name, OpId};
use crate::proto::errno::{EACCES, ENOENT};
use crate::proto::wire::{
    self, Hello, Item, ListItem, VERSION, Verdict, VerdictKind, Welcome, WireRequest,
};
use crate::proto::{
    CancelReason, DiskDone, DiskError, DiskOp, EntryErrorCode, EntryPlace, EntryResult, Event,
    Kind, Lasting, Listed, Meta, Mtime, Output,
};

const BOTH: Grant = Grant {
    read: true,
    write: true,
};
#[allow(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
fn epoch() -> Instant {
    Instant::now()
}

fn limits() -> Limits {
    Limits {
        entry_window: 4,
        write_behind_bytes: 1 << 20,
        read_ahead_bytes: 1 << 20,
        read_ahead_in_place_bytes: 1 << 20,
        read_ahead_all_bytes: 1 << 20,
        carriage: Carriage::Bytes,
        host_key: None,
        parallel: ParallelTransferConfig::default(),
        lookups: 8,
        patience: Some(PATIENCE),
        adds_lanes: false,
        keeps_digests: false,
        asks_addresses: false,
        addresses: std::sync::Arc::default(),
        clear: ClearLanes::Off,
    }
}

fn push() -> Request {
    transfer(Direction::Push, vec![Bytes::from_static(b"src")])
}

fn pull() -> Request {
    transfer(Direction::Pull, vec![Bytes::from_static(b"src")])
}

fn transfer(direction: Direction, sources: Vec<Bytes>) -> Request {
    Request::Transfer(Transfer {
        direction,
        sources,
        target: Bytes::from_static(b"dst"),
        options: TransferOptions::default(),
    })
}

fn hello(version: u16, request: WireRequest) -> Message {
    Message::Hello(Hello {
        version,
        request,
        entry_window: 4,
        bwlimit_bps: None,
        streams: None,
        counts: false,
        patience_s: None,
        adds_lanes: false,
        asks_addresses: false,
        takes_kept: false,
        clear: false,
    })
}

fn welcome() -> Message {
    Message::Welcome(Welcome {
        version: VERSION,
        entry_window: 4,
        inside: false,
        place: None,
        adds_lanes: false,
        addresses: Vec::new(),
        clear: None,
    })
}

fn wire_push() -> WireRequest {
    let target = Bytes::from_static(b"dst");
    WireRequest::Push {
        target,
        must_be_dir: false,
        force: false,
        fsync: false,
        single: true,
        keep_dirlinks: false,
        no_perms: false,
        no_times: false,
        dir_modes: false,
        no_target_dir: false,
        copy: None,
    }
}

fn meta(kind: Kind) -> Meta {
    Meta {
        kind,
        mode: 0o644,
        mtime: Mtime::default(),
        size_bytes: 0,
        allocated_bytes: 0,
        inode: 1,
        device: 0,
        lasting: Lasting::Inode,
        links: 1,
        is_sized: true,
    }
}

#[test]
fn a_server_sends_what_was_asked_for_and_no_more() {
    for (names, accused) in [
        (&[&b"src"[..]][..], false),
        (&[b".bashrc"], true),
        (&[b""], true),
        (&[b"src", b"src"], true),
    ] {
        let mut client = Bench::client(pull());
        client.answer(Ok(DiskDone::Target { name: None }));
        client.answer(Ok(DiskDone::Above(Vec::new())));
        client.hear(welcome());
        let items = names.iter().zip(1..).map(|(name, id)| {
            Item::Entry(wire::Entry {
                id: EntryId(id),
                parent: EntryId(0),
                name: Bytes::from_static(name),
                kind: Kind::Directory,
                mode: 0o755,
                mtime: Mtime::default(),
                size_bytes: 0,
                source_tag: 0,
                object: None,
                allocated_bytes: None,
                is_unsized: false,
                link: None,
            })
        });
        client.hear(Message::Entries(items.collect()));
        // What is under way has to end before the outcome is told.
        let accepted = client
            .disk
            .iter()
            .any(|(_, cmd)| matches!(cmd, DiskOp::MakeDir { .. }));
        client.settle();
        let refused = matches!(client.outcome, Some(Outcome::Violation(_)));
        assert_eq!((refused, accepted), (accused, !accused), "{names:?}");
    }
}

/// A session under test and everything it said, sorted.
struct Bench {
    now: Instant,
    session: Session,
    decoder: Decoder,
    said: Vec<Message>,
    disk: Vec<(OpId, DiskOp)>,
    events: Vec<Event>,
    outcome: Option<Outcome>,
    /// Lanes in the clear are said to be altered.
    is_altered: bool,
    answers_max: Option<usize>,
}

impl Bench {
    fn new(now: Instant, session: Session) -> Bench {
        let decoder = Decoder::new();
        let mut bench = Bench {
            now,
            session,
            decoder,
            said: vec![],
            disk: vec![],
            events: vec![],
            outcome: None,
            is_altered: false,
            answers_max: None,
        };
        bench.drain();
        bench
    }

    fn server() -> Bench {
        let now = epoch();
        Bench::new(now, Session::server(now, BOTH, limits()))
    }

    fn client(request: Request) -> Bench {
        let now = epoch();
        Bench::new(now, Session::client(now, request, limits()))
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            assert!(self.outcome.is_none(), "{output:?} after the end");
            match output {
                Output::Control(bytes) => self.decoder.push(bytes),
                Output::Data { .. }
                | Output::Stays(_)
                | Output::Retired(_)
                | Output::AddsLanes { .. }
                | Output::LaneOver(_)
                | Output::LaneAccount(_)
                | Output::ToOutpost(..)
                | Output::ToHome(_)
                | Output::Piece { .. }
                | Output::TakesData(_) => {}
                Output::AnswersMax(most) => self.answers_max = most,
                Output::Altered => self.is_altered = true,
                Output::Copy(_) => panic!("this lane leads to another host"),
                Output::Disk { op, cmd } => self.disk.push((op, cmd)),
                Output::Event(event) => self.events.push(event),
                Output::Finished(outcome) => self.outcome = Some(outcome),
            }
            while let Some(message) = self.decoder.next().expect("we speak the protocol") {
                self.said.push(message);
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.session.handle(self.now, input);
        self.drain();
    }

    fn hear(&mut self, message: Message) {
        let mut bytes = BytesMut::new();
        wire::encode(&message, &mut bytes);
        self.input(Input::Control(bytes.freeze()));
    }

    /// Answers the oldest operation under way.
    fn answer(&mut self, result: Result<DiskDone, i32>) {
        let (op, _) = self.disk.remove(0);
        let result = result.map_err(|errno| DiskError {
            call: "openat2",
            errno,
        });
        self.input(Input::Disk { op, result });
    }

    /// Answers everything under way with success, however often that starts more.
    fn settle(&mut self) {
        while !self.disk.is_empty() {
            self.answer(Ok(DiskDone::Done));
        }
    }

    fn refusal(&self) -> SessionErrorCode {
        match &self.outcome {
            Some(Outcome::Refused(error) | Outcome::CalledOff(error)) => error.code,
            other => panic!("not refused: {other:?}"),
        }
    }
}

#[test]
fn a_silent_client_is_dropped() {
    let mut server = Bench::server();
    assert_eq!(server.session.deadline(), Some(server.now + HELLO_TIMEOUT));
    server.input(Input::Tick);
    assert_eq!(server.outcome, None);
    server.now += HELLO_TIMEOUT;
    server.input(Input::Tick);
    assert!(matches!(server.outcome, Some(Outcome::Violation(_))));
    assert_eq!(server.session.deadline(), None);
}

#[test]
fn a_silent_server_is_given_up() {
    let mut client = Bench::client(push());
    assert!(matches!(client.said[..], [Message::Hello(_)]));
    client.now += PATIENCE;
    client.input(Input::Tick);
    assert_eq!(
        client.outcome, None,
        "the server would say first what it waits for"
    );
    client.now += Duration::from_secs(1);
    client.input(Input::Tick);
    assert!(matches!(client.outcome, Some(Outcome::Stalled { .. })));
}

#[test]
fn a_disk_that_has_nothing_to_do_does_not_put_the_end_off() {
    let mut client = Bench::client(push());
    assert!(client.disk.is_empty(), "it waits for the server alone");
    client.now += PATIENCE + Duration::from_secs(1);
    client.input(Input::DiskWorks);
    client.input(Input::Tick);
    assert!(matches!(client.outcome, Some(Outcome::Stalled { .. })));
}

#[test]
fn another_version_is_refused() {
    let mut server = Bench::server();
    server.hear(hello(VERSION + 1, wire_push()));
    assert_eq!(server.refusal(), SessionErrorCode::Unsupported);
    assert!(matches!(
        server.said[..],
        [Message::Error(SessionError {
            code: SessionErrorCode::Unsupported,
            ..
        })]
    ));
}

#[test]
fn rights_are_checked() {
    let list = WireRequest::List {
        path: Bytes::new(),
        partial: false,
    };
    for (grant, request) in [
        (
            Grant {
                read: true,
                write: false,
            },
            wire_push(),
        ),
        (
            Grant {
                read: false,
                write: true,
            },
            WireRequest::Pull {
                sources: vec![],
                follow_named: false,
                no_growing: false,
                place: None,
            },
        ),
        (
            Grant {
                read: false,
                write: true,
            },
            list,
        ),
        (
            Grant {
                read: false,
                write: true,
            },
            WireRequest::Queries {},
        ),
    ] {
        let now = epoch();
        let mut server = Bench::new(now, Session::server(now, grant, limits()));
        server.hear(hello(VERSION, request));
        assert_eq!(server.refusal(), SessionErrorCode::Permission);
        assert!(server.disk.is_empty(), "nothing was looked at");
    }
}

#[test]
fn a_missing_target_is_refused() {
    let mut server = Bench::server();
    server.hear(hello(VERSION, wire_push()));
    assert!(matches!(server.disk[0].1, DiskOp::ResolveTarget { .. }));
    server.answer(Err(ENOENT));
    assert_eq!(server.refusal(), SessionErrorCode::NotFound);
    assert!(matches!(server.said[..], [Message::Error(_)]));
}

#[test]
fn a_pull_looks_at_its_own_target_first() {
    let mut client = Bench::client(pull());
    assert!(client.said.is_empty());
    client.answer(Err(EACCES));
    assert_eq!(client.refusal(), SessionErrorCode::Permission);
    assert!(
        matches!(
            client.said[..],
            [Message::Cancel {
                reason: CancelReason::User
            }]
        ),
        "the server was not bothered, and need not wait"
    );

    let mut client = Bench::client(pull());
    client.answer(Ok(DiskDone::Target { name: None }));
    client.answer(Ok(DiskDone::Above(Vec::new())));
    assert!(matches!(
        client.said[..],
        [Message::Hello(Hello {
            request: WireRequest::Pull { .. },
            ..
        })]
    ));
}

#[test]
fn too_many_sources_are_refused_at_once() {
    let sources = vec![Bytes::from_static(b"x"); wire::MAX_SOURCES + 1];
    let request = transfer(Direction::Pull, sources);
    let mut client = Bench::client(request);
    client.answer(Ok(DiskDone::Target { name: None }));
    client.answer(Ok(DiskDone::Above(Vec::new())));
    client.settle();
    assert_eq!(client.refusal(), SessionErrorCode::Unsupported);
    let long = Request::List {
        path: Bytes::from(vec![b'x'; 5000]),
        partial: false,
    };
    assert_eq!(Bench::client(long).refusal(), SessionErrorCode::Unsupported);
}

#[test]
fn cancel_ends_every_state_once() {
    let mut benches = vec![
        Bench::server(),
        Bench::client(push()),
        Bench::client(pull()),
    ];
    let mut pushing = Bench::client(push());
    pushing.hear(welcome());
    let mut receiving = Bench::server();
    receiving.hear(hello(VERSION, wire_push()));
    let mut listing = Bench::server();
    listing.hear(hello(
        VERSION,
        WireRequest::List {
            path: Bytes::new(),
            partial: false,
        },
    ));
    benches.extend([pushing, receiving, listing]);
    for mut bench in benches {
        let said = bench.said.len();
        bench.input(Input::Cancel(CancelReason::User));
        bench.input(Input::Cancel(CancelReason::User));
        bench.settle();
        assert!(
            matches!(bench.outcome, Some(Outcome::Cancelled { .. })),
            "{:?}",
            bench.outcome
        );
        assert_eq!(
            bench.said[said..],
            [Message::Cancel {
                reason: CancelReason::User
            }]
        );
        bench.input(Input::ControlClosed);
        assert_eq!(bench.session.deadline(), None);
    }
}

#[test]
fn a_lost_transport_is_told_after_everything_is_closed() {
    let mut server = Bench::server();
    server.hear(hello(VERSION, wire_push()));
    server.answer(Ok(DiskDone::Target { name: None }));
    server.answer(Ok(DiskDone::Above(Vec::new())));
    server.input(Input::ControlClosed);
    assert_eq!(server.outcome, None);
    assert!(matches!(server.disk[..], [(_, DiskOp::CloseDir { .. })]));
    server.settle();
    assert!(matches!(server.outcome, Some(Outcome::Lost(_))));
}

#[test]
fn a_message_out_of_place_is_a_violation() {
    for message in [
        Message::Finished {},
        welcome(),
        Message::ListAck {},
        Message::ManifestEnd { entries: 0 },
    ] {
        let mut server = Bench::server();
        server.hear(message);
        assert!(matches!(server.outcome, Some(Outcome::Violation(_))));
    }
    let mut client = Bench::client(push());
    client.hear(welcome());
    client.hear(Message::Finished {});
    client.settle();
    assert!(
        matches!(client.outcome, Some(Outcome::Violation(_))),
        "finished before it began"
    );
}

fn names(from: usize, count: usize) -> Vec<Listed> {
    let listed = |at| Listed {
        name: format!("{at:0200}").into(),
        found: Ok((meta(Kind::File), None)),
    };
    (from..from + count).map(listed).collect()
}

#[test]
fn a_listing_waits_for_a_client_that_reads() {
    let mut server = Bench::server();
    server.hear(hello(
        VERSION,
        WireRequest::List {
            path: Bytes::new(),
            partial: false,
        },
    ));
    server.answer(Ok(DiskDone::Source {
        name: None,
        meta: Box::new(meta(Kind::Directory)),
        link: None,
        in_place: false,
    }));
    server.answer(Ok(DiskDone::Done));
    let mut asked = 0;
    while !server.disk.is_empty() {
        server.answer(Ok(DiskDone::Listed {
            entries: names(asked * 256, 256),
            end: false,
        }));
        asked += 1;
        assert!(asked < 100, "the server reads on and on");
    }
    server.hear(Message::ListAck {});
    assert_eq!(server.disk.len(), 1, "it goes on");
    server.answer(Ok(DiskDone::Listed {
        entries: vec![],
        end: true,
    }));
    server.settle();
    assert_eq!(server.outcome, Some(Outcome::Complete(Totals::default())));
    let rows: usize = server
        .said
        .iter()
        .map(|m| {
            if let Message::Listing(rows) = m {
                rows.len()
            } else {
                0
            }
        })
        .sum();
    assert_eq!(rows, asked * 256);
    assert!(matches!(server.said.last(), Some(Message::ListEnd {})));
}

#[test]
fn a_client_reads_a_listing() {
    let mut client = Bench::client(Request::List {
        path: Bytes::new(),
        partial: false,
    });
    client.hear(welcome());
    let row = ListItem {
        name: Bytes::from_static(b"x"),
        meta: meta(Kind::Directory),
        link: None,
    };
    client.hear(Message::Listing(vec![row.clone(), row]));
    assert!(matches!(client.said.last(), Some(Message::ListAck {})));
    client.hear(Message::ListEnd {});
    assert_eq!(client.outcome, Some(Outcome::Complete(Totals::default())));
    assert_eq!(
        client
            .events
            .iter()
            .filter(|event| matches!(event, Event::Listing { .. }))
            .count(),
        2
    );
}

/// A pushing client that was welcomed with a window of 4 and found a directory of many files.
fn walker() -> Bench {
    let mut client = Bench::client(push());
    client.hear(welcome());
    let name = Name::new(Bytes::from_static(b"src")).ok();
    client.answer(Ok(DiskDone::Source {
        name,
        meta: Box::new(meta(Kind::Directory)),
        link: None,
        in_place: false,
    }));
    client.answer(Ok(DiskDone::Done));
    assert!(matches!(
        client.disk[..],
        [(_, DiskOp::CloseDir { .. }), (_, DiskOp::List { .. })]
    ));
    client.answer(Ok(DiskDone::Done));
    client.answer(Ok(DiskDone::Listed {
        entries: names(0, 64),
        end: false,
    }));
    client
}

fn announced(bench: &Bench) -> usize {
    let batches = bench.said.iter().map(|m| {
        if let Message::Entries(items) = m {
            &items[..]
        } else {
            &[]
        }
    });
    batches
        .flatten()
        .filter(|item| matches!(item, Item::Entry(_)))
        .count()
}

#[test]
fn the_walk_keeps_the_window() {
    let mut client = walker();
    assert_eq!(
        announced(&client),
        1 + 4,
        "the directory being walked does not count"
    );
    let skipped = Verdict {
        entry: EntryId(3),
        kind: VerdictKind::Skipped {},
    };
    client.hear(Message::Verdicts(vec![skipped.clone()]));
    assert_eq!(announced(&client), 1 + 5);
    client.hear(Message::Verdicts(vec![skipped]));
    assert!(!client.disk.is_empty());
    client.settle();
    assert!(
        matches!(client.outcome, Some(Outcome::Violation(_))),
        "two final verdicts"
    );
}

#[test]
fn a_directory_that_cannot_be_made_is_not_walked_further() {
    let mut client = walker();
    let error = crate::proto::EntryError {
        code: EntryErrorCode::Permission,
        errno: EACCES,
        text: "no".into(),
        place: EntryPlace::Source,
        call: "read".into(),
        advice: "wait".into(),
    };
    let failed = |id| Verdict {
        entry: EntryId(id),
        kind: VerdictKind::Failed {
            error: error.clone(),
        },
    };
    client.hear(Message::Verdicts((1..=5).map(failed).collect()));
    client.settle();
    assert_eq!(announced(&client), 5, "nothing more of it");
    assert!(matches!(
        client.said.last(),
        Some(Message::ManifestEnd { entries: 5 })
    ));
    client.hear(Message::Finished {});
    client.settle();
    let Some(Outcome::Complete(totals)) = client.outcome else {
        panic!("{:?}", client.outcome)
    };
    assert_eq!((totals.errors, totals.permission), (5, true));
    let told = client.events.iter().filter(|event| {
        matches!(
            event,
            Event::Entry {
                result: EntryResult::Failed(_),
                ..
            }
        )
    });
    assert_eq!(told.count(), 5);
}
