//! Benchmarks: both sessions over a wire that delivers in any order, and peers that do not keep to
//! the rules.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::Rng;
use super::scenario::limits;
use super::tests::{for_seeds, start};
use crate::ids::{MoverId, StreamKey};
use crate::proto::bench::{DRAIN_TIMEOUT, MAX_BENCH, MAX_BENCH_STREAMS};
use crate::proto::session::{BenchWork, Grant, Limits, Request, Session};
use crate::proto::wire::{self, BenchMode, Decoder, Hello, Message, VERSION, Welcome, WireRequest};
use crate::proto::{Event, Input, Outcome, Output, PIECE_BYTES, Payload, SessionErrorCode};

/// Whoever may come in may measure, even one that may touch nothing.
const NOTHING: Grant = Grant {
    read: false,
    write: false,
};

/// One side and everything it said and has not been taken.
struct Side {
    session: Session,
    limits: Limits,
    control: BytesMut,
    data: VecDeque<(StreamKey, Bytes, bool)>,
    untaken_bytes: usize,
    open: BTreeSet<StreamKey>,
    most_open: usize,
    events: Vec<Event>,
    answers_max: Option<usize>,
    outcome: Option<Outcome>,
}

impl Side {
    fn new(session: Session, limits: Limits) -> Side {
        let mut side = Side {
            session,
            limits,
            control: BytesMut::new(),
            data: VecDeque::new(),
            untaken_bytes: 0,
            open: BTreeSet::new(),
            most_open: 0,
            events: Vec::new(),
            answers_max: None,
            outcome: None,
        };
        side.drain();
        side
    }

    fn client(now: Instant, work: BenchWork, duration: Duration, limits: &Limits) -> Side {
        let session = Session::client(now, Request::Bench { work, duration }, limits.clone());
        Side::new(session, limits.clone())
    }

    fn server(now: Instant, limits: &Limits) -> Side {
        Side::new(
            Session::server(now, NOTHING, limits.clone()),
            limits.clone(),
        )
    }

    fn input(&mut self, now: Instant, input: Input) {
        self.session.handle(now, input);
        self.drain();
    }

    fn hear(&mut self, now: Instant, message: &Message) {
        let mut bytes = BytesMut::new();
        wire::encode(message, &mut bytes);
        self.input(now, Input::Control(bytes.freeze()));
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            assert!(self.outcome.is_none(), "{output:?} after the end");
            match output {
                Output::Control(bytes) => self.control.extend_from_slice(&bytes),
                Output::Data {
                    stream,
                    payload,
                    fin,
                    ..
                } => {
                    let Payload::Bytes(bytes) = payload else {
                        panic!("a benchmark has no file")
                    };
                    self.untaken_bytes += bytes.len();
                    self.open.insert(stream);
                    self.most_open = self.most_open.max(self.open.len());
                    if fin {
                        self.open.remove(&stream);
                    }
                    self.data.push_back((stream, bytes, fin));
                }
                Output::Disk { cmd, .. } => panic!("a benchmark wants {cmd:?}"),
                Output::AnswersMax(most) => self.answers_max = most,
                Output::Copy(_) => panic!("this lane leads to another host"),
                Output::Stays(_)
                | Output::Retired(_)
                | Output::AddsLanes { .. }
                | Output::Altered
                | Output::LaneOver(_)
                | Output::LaneAccount(_)
                | Output::ToOutpost(..)
                | Output::ToHome(_) => panic!("a benchmark has no added lanes"),
                Output::Piece { .. } | Output::TakesData(_) => {
                    panic!("filler is read as it comes")
                }
                Output::Event(event) => self.events.push(event),
                Output::Finished(outcome) => self.outcome = Some(outcome),
            }
        }
        assert!(
            self.untaken_bytes < self.limits.read_ahead_bytes + PIECE_BYTES,
            "{}",
            self.untaken_bytes
        );
    }

    fn said(&mut self) -> Vec<Message> {
        let mut decoder = Decoder::new();
        decoder.push(self.control.split().freeze());
        std::iter::from_fn(|| decoder.next().expect("we speak the protocol")).collect()
    }

    fn benched(&self) -> (u64, Duration) {
        let mut ends = self.events.iter().filter_map(|event| match event {
            Event::Benched { bytes, elapsed } => Some((*bytes, *elapsed)),
            _ => None,
        });
        let end = ends.next().expect("it came to its end");
        assert_eq!(ends.next(), None, "one end");
        end
    }

    fn is_violation(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Violation(_)))
    }
}

/// Runs both to their ends; what happens next is a matter of the seed.
fn run(rng: &mut Rng, work: BenchWork, duration: Duration) -> [Side; 2] {
    let mut now = start();
    let mut sides = [
        Side::client(now, work, duration, &limits(rng)),
        Side::server(now, &limits(rng)),
    ];
    let mut wire: [VecDeque<(StreamKey, Bytes, bool)>; 2] = Default::default();
    for step in 0.. {
        assert!(step < 1_000_000, "no end in sight");
        now += Duration::from_nanos(rng.next() % 200_000);
        let due = |side: &Side| side.session.deadline().filter(|_| side.outcome.is_none());
        let mut actions: Vec<(usize, usize)> = Vec::new();
        for at in [0, 1] {
            let possible = [
                !sides[at].control.is_empty(),
                !sides[at].data.is_empty(),
                !wire[at].is_empty(),
                due(&sides[at]).is_some_and(|deadline| deadline <= now),
            ];
            actions.extend((0..4).filter(|what| possible[*what]).map(|what| (at, what)));
        }
        if actions.is_empty() {
            let Some(next) = sides.iter().filter_map(due).min() else {
                return sides;
            };
            now = now.max(next);
            continue;
        }
        let (at, what) = rng.pick(&actions);
        match what {
            0 => {
                let len = 1 + rng.below(sides[at].control.len());
                let bytes = sides[at].control.split_to(len).freeze();
                sides[1 - at].input(now, Input::Control(bytes));
            }
            1 => {
                let (stream, mut bytes, fin) = sides[at].data.pop_front().expect("it is possible");
                let taken = bytes.split_to(rng.below(bytes.len() + 1));
                sides[at].untaken_bytes -= taken.len();
                let sent = taken.len() as u64;
                let rest = bytes.has_remaining();
                wire[at].push_back((stream, taken, fin && !rest));
                if rest {
                    sides[at].data.push_front((stream, bytes, fin));
                }
                sides[at].input(
                    now,
                    Input::Sent {
                        mover: MoverId::CONTROL,
                        bytes: sent,
                    },
                );
            }
            2 => {
                // Streams are independent of each other: any one may be next, each in its order.
                let streams: BTreeSet<StreamKey> =
                    wire[at].iter().map(|(stream, ..)| *stream).collect();
                let wanted = rng.pick(&streams.into_iter().collect::<Vec<_>>());
                let first = wire[at].iter().position(|(stream, ..)| *stream == wanted);
                let (stream, bytes, fin) = first
                    .and_then(|at_| wire[at].remove(at_))
                    .expect("it is there");
                sides[1 - at].input(now, Input::Data { stream, bytes, fin });
            }
            _ => sides[at].input(now, Input::Tick),
        }
    }
    unreachable!("the loop ends when nothing can happen")
}

#[test]
fn benchmarks_come_to_their_end() {
    for_seeds("benchmarks_come_to_their_end", 300, |seed| {
        let mut rng = Rng::new(seed ^ 0xbe7c);
        let work = rng.pick(&[
            BenchWork::Send,
            BenchWork::Receive,
            BenchWork::Echo { size_bytes: 1 },
            BenchWork::Echo { size_bytes: 1000 },
            BenchWork::Echo {
                size_bytes: wire::MAX_ECHO_BYTES,
            },
        ]);
        let duration = Duration::from_millis(rng.pick(&[0, 1, 20]));
        let sides = run(&mut rng, work, duration);
        for side in &sides {
            assert!(
                matches!(side.outcome, Some(Outcome::Complete(_))),
                "{:?}",
                side.outcome
            );
            assert_eq!(side.untaken_bytes, 0);
            assert!(side.open.is_empty(), "streams without an end");
        }
        let [client, server] = &sides;
        let ((sent_bytes, elapsed), (served_bytes, _)) = (client.benched(), server.benched());
        assert_eq!(sent_bytes, served_bytes);
        assert!(
            !matches!(work, BenchWork::Send) || elapsed >= duration,
            "{elapsed:?}"
        );
        let told: u64 = client
            .events
            .iter()
            .map(|event| match event {
                Event::Progress { bytes } => *bytes,
                _ => 0,
            })
            .sum();
        let round_trips: usize = client
            .events
            .iter()
            .map(|event| match event {
                Event::RoundTrips(round_trips) => round_trips.len(),
                _ => 0,
            })
            .sum();
        match work {
            BenchWork::Echo { size_bytes } => {
                assert_eq!(round_trips * size_bytes, sent_bytes as usize)
            }
            BenchWork::Send | BenchWork::Receive => assert_eq!(told, sent_bytes),
        }
        let streams = client
            .limits
            .parallel
            .max_concurrent_streams
            .clamp(1, MAX_BENCH_STREAMS);
        assert!(
            client.most_open.max(server.most_open) <= streams,
            "one stream too many"
        );
    });
}

fn hello(mode: BenchMode, milliseconds: u64, streams: Option<u8>) -> Message {
    Message::Hello(Hello {
        version: VERSION,
        request: WireRequest::Bench { mode, milliseconds },
        entry_window: 0,
        bwlimit_bps: None,
        streams,
        counts: false,
        patience_s: None,
        adds_lanes: false,
        asks_addresses: false,
        takes_kept: false,
        clear: false,
    })
}

/// What a benchmark itself takes for the end is looked at.
fn patient() -> Limits {
    Limits {
        patience: None,
        ..limits(&mut Rng::new(1))
    }
}

/// A server of which this was asked.
fn asked(mode: BenchMode, milliseconds: u64, streams: Option<u8>) -> (Side, Instant) {
    let now = start();
    let mut server = Side::server(now, &patient());
    server.hear(now, &hello(mode, milliseconds, streams));
    (server, now)
}

/// A client that was welcomed.
fn welcomed(work: BenchWork) -> (Side, Instant) {
    let now = start();
    let mut client = Side::client(now, work, Duration::from_secs(1), &patient());
    let welcome = Welcome {
        version: VERSION,
        entry_window: 0,
        inside: false,
        place: None,
        adds_lanes: false,
        addresses: Vec::new(),
        clear: None,
    };
    client.hear(now, &Message::Welcome(welcome));
    (client, now)
}

#[test]
fn nobody_measures_for_ever() {
    let most = MAX_BENCH.as_millis() as u64;
    for mode in [BenchMode::Send, BenchMode::Receive, BenchMode::Echo] {
        for milliseconds in [most + 1, u64::MAX] {
            let (server, _) = asked(mode, milliseconds, None);
            let Some(Outcome::Refused(error)) = server.outcome else {
                panic!("{:?}", server.outcome)
            };
            assert_eq!(error.code, SessionErrorCode::Unsupported);
        }
        // What was allowed is not waited for much longer.
        let (mut server, now) = asked(mode, most, None);
        assert_eq!(server.outcome, None);
        server.input(now + MAX_BENCH, Input::Tick);
        assert_eq!(server.outcome, None);
        server.input(now + MAX_BENCH + DRAIN_TIMEOUT, Input::Tick);
        assert!(
            matches!(server.outcome, Some(Outcome::Lost(_))),
            "{mode:?}: {:?}",
            server.outcome
        );
    }
    let (mut client, now) = welcomed(BenchWork::Echo { size_bytes: 5 });
    client.input(now + Duration::from_secs(1) + DRAIN_TIMEOUT, Input::Tick);
    assert!(
        matches!(client.outcome, Some(Outcome::Lost(_))),
        "a server that does not answer"
    );
}

#[test]
fn streams_and_memory_are_bounded_by_the_server() {
    for streams in [0, 1, 200, 255] {
        let (server, _) = asked(BenchMode::Receive, 1000, Some(streams));
        assert_eq!(server.outcome, None);
        assert!(
            (1..=MAX_BENCH_STREAMS).contains(&server.most_open),
            "{} streams",
            server.most_open
        );
    }
}

fn payload(len: usize) -> Bytes {
    Bytes::from(vec![0; len])
}

/// Echoes nobody asked for, of another length or content, or twice.
#[test]
fn other_echoes_are_a_violation() {
    let (mut client, now) = welcomed(BenchWork::Send);
    client.hear(
        now,
        &Message::EchoReply {
            payload: payload(1),
        },
    );
    assert!(client.is_violation(), "{:?}", client.outcome);
    for (reply, fine) in [
        (payload(1000), true),
        (payload(999), false),
        (payload(0), false),
        (Bytes::from(vec![1; 1000]), false),
    ] {
        let (mut client, now) = welcomed(BenchWork::Echo { size_bytes: 1000 });
        assert!(matches!(
            client.said()[..],
            [Message::Hello(_), Message::Echo { .. }]
        ));
        client.hear(now, &Message::EchoReply { payload: reply });
        assert_eq!(client.outcome.is_none(), fine, "{:?}", client.outcome);
    }
    // A whole message more in the same piece of the control stream: the next question is not out
    // yet.
    let (mut client, now) = welcomed(BenchWork::Echo { size_bytes: 1000 });
    let mut twice = BytesMut::new();
    for _ in 0..2 {
        wire::encode(
            &Message::EchoReply {
                payload: payload(1000),
            },
            &mut twice,
        );
    }
    client.input(now, Input::Control(twice.freeze()));
    assert!(client.is_violation(), "{:?}", client.outcome);
}

/// Data where none is sent, and more or less than announced.
#[test]
fn other_data_is_a_violation() {
    for work in [BenchWork::Send, BenchWork::Echo { size_bytes: 1 }] {
        let (mut client, now) = welcomed(work);
        client.input(
            now,
            Input::Data {
                stream: StreamKey(0),
                bytes: payload(1),
                fin: false,
            },
        );
        assert!(client.is_violation(), "{:?}", client.outcome);
    }
    for (before, announced, after) in [(10, 9, 0), (10, 15, 6)] {
        let (mut server, now) = asked(BenchMode::Send, 1000, None);
        server.input(
            now,
            Input::Data {
                stream: StreamKey(0),
                bytes: payload(before),
                fin: false,
            },
        );
        server.hear(now, &Message::BenchEnd { bytes: announced });
        server.input(
            now,
            Input::Data {
                stream: StreamKey(0),
                bytes: payload(after),
                fin: true,
            },
        );
        assert!(server.is_violation(), "{:?}", server.outcome);
    }
}

/// The end from the wrong side, too early, twice; messages of other sessions.
#[test]
fn other_messages_are_a_violation() {
    for (mode, messages) in [
        (BenchMode::Send, &[Message::Finished {}][..]),
        (
            BenchMode::Send,
            &[
                Message::BenchEnd { bytes: 5 },
                Message::BenchEnd { bytes: 5 },
            ],
        ),
        (BenchMode::Receive, &[Message::BenchEnd { bytes: 0 }]),
        (BenchMode::Receive, &[Message::Finished {}]),
        (BenchMode::Echo, &[Message::BenchEnd { bytes: 5 }]),
        (BenchMode::Echo, &[Message::ManifestEnd { entries: 0 }]),
        (
            BenchMode::Send,
            &[Message::Echo {
                payload: Bytes::new(),
            }],
        ),
    ] {
        let (mut server, now) = asked(mode, 1000, None);
        messages
            .iter()
            .for_each(|message| server.hear(now, message));
        assert!(
            server.is_violation(),
            "{mode:?} {messages:?}: {:?}",
            server.outcome
        );
    }
}

#[test]
fn data_may_be_faster_than_the_welcome() {
    let now = start();
    let limits = limits(&mut Rng::new(1));
    let mut client = Side::client(now, BenchWork::Receive, Duration::from_secs(1), &limits);
    let bytes = Bytes::from(vec![0; 7]);
    client.input(
        now,
        Input::Data {
            stream: StreamKey(0),
            bytes,
            fin: true,
        },
    );
    assert_eq!(client.outcome, None);
    let welcome = Welcome {
        version: VERSION,
        entry_window: 0,
        inside: false,
        place: None,
        adds_lanes: false,
        addresses: Vec::new(),
        clear: None,
    };
    client.hear(now, &Message::Welcome(welcome));
    client.hear(now, &Message::BenchEnd { bytes: 7 });
    assert_eq!(client.benched().0, 7);
    assert!(matches!(
        client.said()[..],
        [Message::Hello(_), Message::Finished {}]
    ));
}

#[test]
fn only_who_answers_waits_for_its_answers_to_be_read() {
    let echo = BenchWork::Echo { size_bytes: 1 };
    for (side, answers_max) in [
        (asked(BenchMode::Echo, 1000, None).0, Some(0)),
        (asked(BenchMode::Send, 1000, None).0, None),
        (asked(BenchMode::Receive, 1000, None).0, None),
        (welcomed(echo).0, None),
        (welcomed(BenchWork::Send).0, None),
        (welcomed(BenchWork::Receive).0, None),
    ] {
        assert_eq!(side.answers_max, answers_max);
    }
}
