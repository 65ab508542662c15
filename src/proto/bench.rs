//! The benchmark's roles: filler sent and counted, messages echoed. No file is touched on either
//! side.
//!
//! Whoever sends ends it, with `BenchEnd`, when the time is over; the other side answers `Finished`
//! when it has everything. Neither waits much longer than what was asked for, whatever the other
//! does.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::errors::{Violation, violation};
use super::parallel::{ParallelTransferConfig, StreamSlots};
use super::ports::{Ports, ProgressTeller, REPORT_EVERY};
use super::wire::{MAX_ECHO_BYTES, Message};
use super::{Event, PIECE_BYTES, Payload, Totals};
use crate::ids::MoverId;

/// Longest benchmark: enough to see a machine get warm, short enough that a forgotten one ends by
/// itself.
pub const MAX_BENCH: Duration = Duration::from_secs(3600);

/// Most data streams of a benchmark at a time, as many as `cp --streams` takes.
pub const MAX_BENCH_STREAMS: usize = 64;

/// What is under way at the end has this long to arrive: the read-ahead at 1 Mbit/s takes a few
/// seconds.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What is sent, as much at a time as a file is read in: its content does not matter to encrypted
/// packets, and one buffer stays hot in the cache.
static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// Most round trips told in one event.
const MAX_ROUND_TRIPS: usize = 1024;

/// What one side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchRole {
    Send {
        streams: usize,
        read_ahead_bytes: u64,
    },
    Receive,
    Ask {
        size_bytes: usize,
    },
    Answer,
}

pub struct Bench {
    work: Work,
    state: BenchState,
    duration: Duration,
    /// Filler or echoed bytes: emitted, arrived, asked or answered.
    bytes: u64,
    /// When the first left or arrived, and when the last arrived.
    began: Option<Instant>,
    last: Option<Instant>,
    reporter: ProgressTeller,
}

enum Work {
    Send {
        slots: StreamSlots,
        streams: usize,
        next: usize,
        read_ahead_bytes: u64,
        untaken_bytes: u64,
    },
    Receive {
        announced_bytes: Option<u64>,
    },
    Ask {
        size_bytes: usize,
        asked_at: Option<Instant>,
        round_trips: Vec<Duration>,
        told_at: Instant,
    },
    Answer,
}

#[derive(Debug)]
enum BenchState {
    /// Client: the server has not accepted yet. Data may be faster than its welcome. Next: Running.
    Greeting,
    /// Whoever sends ends it at `ends_at`. Next: Ended (sender), Over (receiver).
    Running { ends_at: Instant },
    /// Everything was sent and said; the peer's `Finished` is due. Next: Over.
    Ended { since: Instant },
    /// Both have everything.
    Over,
}

impl Bench {
    pub fn new(now: Instant, role: BenchRole, duration: Duration) -> Bench {
        let work = match role {
            BenchRole::Send {
                streams,
                read_ahead_bytes,
            } => {
                let streams = streams.clamp(1, MAX_BENCH_STREAMS);
                // Streams end after so many bytes, as those of files: a lane that is replaced must
                // run empty.
                let config = ParallelTransferConfig {
                    max_concurrent_streams: streams,
                    chunks_per_stream: u32::MAX,
                    ..ParallelTransferConfig::default()
                };
                let slots = StreamSlots::new(MoverId::CONTROL, &config);
                Work::Send {
                    slots,
                    streams,
                    next: 0,
                    read_ahead_bytes,
                    untaken_bytes: 0,
                }
            }
            BenchRole::Receive => Work::Receive {
                announced_bytes: None,
            },
            BenchRole::Ask { size_bytes } => {
                let size_bytes = size_bytes.min(MAX_ECHO_BYTES);
                Work::Ask {
                    size_bytes,
                    asked_at: None,
                    round_trips: Vec::new(),
                    told_at: now,
                }
            }
            BenchRole::Answer => Work::Answer,
        };
        let reporter = ProgressTeller::new(now);
        Bench {
            work,
            state: BenchState::Greeting,
            duration,
            bytes: 0,
            began: None,
            last: None,
            reporter,
        }
    }

    /// The session was accepted: the time runs.
    pub fn start(&mut self, now: Instant) {
        self.state = BenchState::Running {
            ends_at: now + self.duration,
        };
        if !matches!(self.work, Work::Receive { .. }) {
            self.began = Some(now);
        }
    }

    /// Bytes of a data stream. What they are does not matter.
    ///
    /// # Errors
    /// When none, or not so many, may come.
    pub fn on_data(&mut self, now: Instant, bytes: usize) -> Result<(), Violation> {
        let Work::Receive { announced_bytes } = self.work else {
            return violation("data from a peer that has none to send");
        };
        self.bytes += bytes as u64;
        if announced_bytes.is_some_and(|announced_bytes| self.bytes > announced_bytes) {
            return violation("more data than was announced at the end of the benchmark");
        }
        self.began.get_or_insert(now);
        self.last = Some(now);
        Ok(())
    }

    /// # Errors
    /// When the peer may not say that (now).
    pub fn on_message(
        &mut self,
        now: Instant,
        ports: &mut Ports,
        message: Message,
    ) -> Result<(), Violation> {
        match (&mut self.work, &self.state, message) {
            (
                Work::Send { .. } | Work::Ask { .. },
                BenchState::Ended { .. },
                Message::Finished {},
            ) => {
                self.last = Some(now);
                self.state = BenchState::Over;
            }
            (
                Work::Receive {
                    announced_bytes: announced @ None,
                },
                BenchState::Running { .. },
                Message::BenchEnd { bytes },
            ) => {
                if bytes < self.bytes {
                    return violation("less data announced at the end of the benchmark than came");
                }
                *announced = Some(bytes);
            }
            (Work::Answer, BenchState::Running { .. }, Message::Echo { payload }) => {
                self.bytes += payload.len() as u64;
                ports.message(&Message::EchoReply { payload });
            }
            (Work::Answer, BenchState::Running { .. }, Message::BenchEnd { bytes }) => {
                if bytes != self.bytes {
                    return violation("another number of bytes to echo than came");
                }
                self.last = Some(now);
                self.state = BenchState::Over;
                ports.message(&Message::Finished {});
            }
            (
                Work::Ask {
                    size_bytes,
                    asked_at,
                    round_trips,
                    ..
                },
                BenchState::Running { .. },
                Message::EchoReply { payload },
            ) => {
                let Some(asked_at) = asked_at.take() else {
                    return violation("an echo nobody asked for");
                };
                if payload != ZEROS[..*size_bytes] {
                    return violation("an echo of something else");
                }
                round_trips.push(now.saturating_duration_since(asked_at));
            }
            _ => return violation("a message out of place"),
        }
        Ok(())
    }

    /// The transport took so many bytes.
    pub fn on_sent(&mut self, bytes: u64) {
        if let Work::Send { untaken_bytes, .. } = &mut self.work {
            *untaken_bytes = untaken_bytes.saturating_sub(bytes);
        }
    }

    /// Goes on as far as possible; `Some` when both sides have everything.
    pub fn pump(&mut self, now: Instant, ports: &mut Ports) -> Option<Totals> {
        if let BenchState::Running { ends_at } = self.state {
            self.run(now, ends_at, ports);
        }
        self.report(now, ports);
        matches!(self.state, BenchState::Over).then(|| {
            let elapsed = match (self.began, self.last) {
                (Some(began), Some(last)) => last.saturating_duration_since(began),
                _ => Duration::ZERO,
            };
            ports.event(Event::Benched {
                bytes: self.bytes,
                elapsed,
            });
            self.totals()
        })
    }

    fn run(&mut self, now: Instant, ends_at: Instant, ports: &mut Ports) {
        let time_over = now >= ends_at;
        match &mut self.work {
            Work::Send { slots, .. } if time_over => {
                for stream in slots.retire_idle(0) {
                    ports.end_data(stream);
                }
                self.end(now, ports);
            }
            Work::Send {
                slots,
                streams,
                next,
                read_ahead_bytes,
                untaken_bytes,
            } => {
                // Streams take turns by the piece, as those of a file's chunks do.
                while *untaken_bytes < *read_ahead_bytes {
                    let stream = slots.key(*next);
                    let full = slots.record_ends(*next, PIECE_BYTES as u64);
                    ports.data(stream, filler(PIECE_BYTES), 0, full);
                    *next = (*next + 1) % *streams;
                    *untaken_bytes += PIECE_BYTES as u64;
                    self.bytes += PIECE_BYTES as u64;
                }
            }
            Work::Ask { asked_at: None, .. } if time_over => self.end(now, ports),
            Work::Ask {
                asked_at: asked_at @ None,
                size_bytes,
                ..
            } => {
                *asked_at = Some(now);
                self.bytes += *size_bytes as u64;
                let payload = Bytes::from_static(&ZEROS[..*size_bytes]);
                ports.message(&Message::Echo { payload });
            }
            Work::Receive { announced_bytes } if *announced_bytes == Some(self.bytes) => {
                self.state = BenchState::Over;
                ports.message(&Message::Finished {});
            }
            Work::Receive { .. }
            | Work::Ask {
                asked_at: Some(_), ..
            }
            | Work::Answer => {}
        }
    }

    fn end(&mut self, now: Instant, ports: &mut Ports) {
        self.state = BenchState::Ended { since: now };
        ports.message(&Message::BenchEnd { bytes: self.bytes });
    }

    /// Tells how far it is, not more often than people can see.
    fn report(&mut self, now: Instant, ports: &mut Ports) {
        let last = matches!(self.state, BenchState::Ended { .. } | BenchState::Over);
        match &mut self.work {
            Work::Send { .. } | Work::Receive { .. } => {
                let bytes = self.totals().sent_bytes;
                self.reporter.progress(now, ports, bytes, last);
            }
            Work::Ask {
                round_trips,
                told_at,
                ..
            } => {
                let due = now.saturating_duration_since(*told_at) >= REPORT_EVERY
                    || round_trips.len() >= MAX_ROUND_TRIPS;
                if !round_trips.is_empty() && (due || last) {
                    *told_at = now;
                    ports.event(Event::RoundTrips(std::mem::take(round_trips)));
                }
            }
            Work::Answer => {}
        }
    }

    /// When time alone changes something: the sender ends, or the peer had time enough.
    pub fn deadline(&self) -> Option<Instant> {
        match (&self.state, &self.work) {
            (BenchState::Running { ends_at }, Work::Send { .. }) => Some(*ends_at),
            _ => self.gives_up_at(),
        }
    }

    /// When a peer that has not come to an end never will.
    pub fn gives_up_at(&self) -> Option<Instant> {
        match self.state {
            BenchState::Running { ends_at } => Some(ends_at + DRAIN_TIMEOUT),
            BenchState::Ended { since } => Some(since + DRAIN_TIMEOUT),
            BenchState::Greeting | BenchState::Over => None,
        }
    }

    /// Whether the peer's messages are answered one for one, so that it must read before it is
    /// heard again.
    pub fn answers(&self) -> bool {
        matches!(self.work, Work::Answer)
    }

    pub fn totals(&self) -> Totals {
        let untaken_bytes = match self.work {
            Work::Send { untaken_bytes, .. } => untaken_bytes,
            Work::Receive { .. } | Work::Ask { .. } | Work::Answer => 0,
        };
        Totals {
            sent_bytes: self.bytes - untaken_bytes.min(self.bytes),
            ..Totals::default()
        }
    }
}

fn filler(bytes: usize) -> Payload {
    Payload::Bytes(Bytes::from_static(&ZEROS[..bytes]))
}
