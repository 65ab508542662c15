//! A server's connection before it is a lane: it says what it is for, and may have to wait for
//! that.
//!
//! | state | what is awaited | next |
//! |---|---|---|
//! | `Preface` | the first 21 bytes of the control stream | `Asking`, or it joins a session |
//! | `Asking` | how many workers ask older sessions of it | `Waiting`, or its session begins |
//! | `Waiting` | those workers' answers, for 5 s at most | its session begins |
//! | `Placed` | whether there is such a session | over |
//! | `Over` | nothing: it is a lane now, or closed | |

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ports::{DialKind, code};
use crate::ids::SessionId;
use crate::proto::wire::{Preface, PrefaceKind};

/// An established connection must say which session it belongs to within this time.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// A new session waits no longer for older ones, whatever they do.
pub const WAIT_AT_MOST: Duration = Duration::from_secs(5);

/// What a newcomer is told.
#[derive(Debug)]
pub enum NewcomerInput {
    /// Bytes of its control stream; not more than were asked for.
    Control { bytes: Bytes, fin: bool },
    /// The peer reset its direction of the control stream.
    ControlReset,
    /// The answer to [`NewcomerOutput::Ask`]: so many workers have older sessions to ask.
    Asked { workers: usize },
    /// One of those workers has nobody to wait for any more.
    Answered,
    /// The answer to [`NewcomerOutput::Begin`] and [`NewcomerOutput::Join`]: there is one of that
    /// id, or there is none.
    SessionExists(bool),
    /// Nothing but time passed ([`Newcomer::deadline`] was due).
    Tick,
}

/// What a newcomer wants.
#[derive(Debug, PartialEq, Eq)]
pub enum NewcomerOutput {
    /// At most so many further bytes of the control stream are to be read. What follows them
    /// belongs to a session, and stays in the transport until there is one.
    ReadControl { most_bytes: usize },
    /// Ask on all workers for signs of life of this peer's older sessions.
    Ask,
    /// Begin a session of this id with this connection as lane 0, unless there is one of that id:
    /// answer [`NewcomerInput::SessionExists`] then.
    Begin { session: SessionId },
    /// Hand this connection to the session of this id, which has the last word
    /// ([`super::LanesInput::Joins`]); if there is none answer [`NewcomerInput::SessionExists`].
    Join {
        session: SessionId,
        number: u32,
        kind: DialKind,
    },
    /// Close the connection.
    Close { code: u64, text: String },
}

/// See the table above.
pub struct Newcomer {
    state: NewcomerState,
    outputs: VecDeque<NewcomerOutput>,
}

enum NewcomerState {
    Preface {
        so_far: Vec<u8>,
        until: Instant,
    },
    Asking {
        session: SessionId,
        until: Instant,
    },
    Waiting {
        session: SessionId,
        workers: usize,
        until: Instant,
    },
    Placed(PrefaceKind),
    Over,
}

impl Newcomer {
    /// A connection whose peer is known and may come in.
    pub fn new(now: Instant) -> Newcomer {
        let most_bytes = Preface::BYTES;
        Newcomer {
            state: NewcomerState::Preface {
                so_far: Vec::new(),
                until: now + PREFACE_TIMEOUT,
            },
            outputs: VecDeque::from([NewcomerOutput::ReadControl { most_bytes }]),
        }
    }

    pub fn poll(&mut self) -> Option<NewcomerOutput> {
        self.outputs.pop_front()
    }

    /// When [`NewcomerInput::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            NewcomerState::Preface { until, .. }
            | NewcomerState::Asking { until, .. }
            | NewcomerState::Waiting { until, .. } => Some(*until),
            NewcomerState::Placed(_) | NewcomerState::Over => None,
        }
    }

    pub fn handle(&mut self, now: Instant, input: NewcomerInput) {
        match (&mut self.state, input) {
            (NewcomerState::Preface { .. }, NewcomerInput::Control { bytes, fin }) => {
                self.take(now, &bytes, fin);
            }
            (NewcomerState::Preface { .. }, NewcomerInput::ControlReset) => {
                self.violation("the control stream was reset before its preface");
            }
            (NewcomerState::Asking { session, .. }, NewcomerInput::Asked { workers: 0 }) => {
                let session = *session;
                self.begin(session);
            }
            (NewcomerState::Asking { session, until }, NewcomerInput::Asked { workers }) => {
                self.state = NewcomerState::Waiting {
                    session: *session,
                    workers,
                    until: *until,
                };
            }
            (
                NewcomerState::Waiting {
                    session, workers, ..
                },
                NewcomerInput::Answered,
            ) => {
                *workers -= 1;
                if *workers == 0 {
                    let session = *session;
                    self.begin(session);
                }
            }
            (NewcomerState::Placed(PrefaceKind::New), NewcomerInput::SessionExists(true)) => {
                self.violation("a session of this id exists");
            }
            (
                NewcomerState::Placed(PrefaceKind::Join | PrefaceKind::Add | PrefaceKind::TakeOver),
                NewcomerInput::SessionExists(false),
            ) => {
                self.close(code::NO_SESSION, super::NO_SUCH_SESSION);
            }
            (_, NewcomerInput::Tick) => self.tick(now),
            // Late answers to what was settled otherwise.
            (
                _,
                NewcomerInput::Control { .. }
                | NewcomerInput::ControlReset
                | NewcomerInput::Asked { .. }
                | NewcomerInput::Answered
                | NewcomerInput::SessionExists(_),
            ) => {}
        }
    }

    fn take(&mut self, now: Instant, bytes: &[u8], fin: bool) {
        let NewcomerState::Preface { so_far, .. } = &mut self.state else {
            return;
        };
        so_far.extend_from_slice(bytes);
        // Behind a whole preface at least the end of the stream follows.
        if fin {
            return self.violation("the control stream ended with its preface");
        }
        let Ok(whole) = <[u8; Preface::BYTES]>::try_from(&so_far[..]) else {
            let most_bytes = Preface::BYTES.saturating_sub(so_far.len());
            return self
                .outputs
                .push_back(NewcomerOutput::ReadControl { most_bytes });
        };
        self.outputs
            .push_back(NewcomerOutput::ReadControl { most_bytes: 0 });
        match Preface::decode(&whole) {
            Err(error) => self.violation(&error.to_string()),
            Ok(preface) => self.named(now, preface),
        }
    }

    fn named(&mut self, now: Instant, preface: Preface) {
        let (session, number) = (preface.session, preface.lane);
        match preface.kind {
            PrefaceKind::New if number != 0 => {
                self.violation("the first lane of a session is number 0");
            }
            PrefaceKind::New => {
                self.state = NewcomerState::Asking {
                    session,
                    until: now + WAIT_AT_MOST,
                };
                self.outputs.push_back(NewcomerOutput::Ask);
            }
            PrefaceKind::Join | PrefaceKind::Add | PrefaceKind::TakeOver => {
                let kind = match preface.kind {
                    PrefaceKind::Add => DialKind::Add,
                    PrefaceKind::TakeOver => DialKind::TakeOver,
                    PrefaceKind::New | PrefaceKind::Join => DialKind::Replace,
                };
                self.state = NewcomerState::Placed(preface.kind);
                self.outputs.push_back(NewcomerOutput::Join {
                    session,
                    number,
                    kind,
                });
            }
        }
    }

    fn begin(&mut self, session: SessionId) {
        self.state = NewcomerState::Placed(PrefaceKind::New);
        self.outputs.push_back(NewcomerOutput::Begin { session });
    }

    fn tick(&mut self, now: Instant) {
        match &self.state {
            NewcomerState::Preface { until, .. } if now >= *until => {
                self.close(code::TIMEOUT, "no session was named in time");
            }
            NewcomerState::Asking { session, until }
            | NewcomerState::Waiting { session, until, .. }
                if now >= *until =>
            {
                let session = *session;
                self.begin(session);
            }
            NewcomerState::Preface { .. }
            | NewcomerState::Asking { .. }
            | NewcomerState::Waiting { .. }
            | NewcomerState::Placed(_)
            | NewcomerState::Over => {}
        }
    }

    fn violation(&mut self, text: &str) {
        self.close(code::VIOLATION, text);
    }

    fn close(&mut self, code: u64, text: &str) {
        self.state = NewcomerState::Over;
        let text = text.to_owned();
        self.outputs.push_back(NewcomerOutput::Close { code, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::sim::start as sim_start;

    fn outputs(newcomer: &mut Newcomer) -> Vec<NewcomerOutput> {
        std::iter::from_fn(|| newcomer.poll()).collect()
    }

    fn preface(kind: PrefaceKind, lane: u32) -> Bytes {
        let session = SessionId([7; 16]);
        let preface = Preface {
            kind,
            session,
            lane,
        };
        Bytes::copy_from_slice(&preface.encode())
    }

    fn said(kind: PrefaceKind, lane: u32) -> (Newcomer, Vec<NewcomerOutput>) {
        let mut newcomer = Newcomer::new(sim_start());
        outputs(&mut newcomer);
        let bytes = preface(kind, lane);
        newcomer.handle(sim_start(), NewcomerInput::Control { bytes, fin: false });
        let outputs = outputs(&mut newcomer);
        (newcomer, outputs)
    }

    fn closes(outputs: &[NewcomerOutput]) -> Option<u64> {
        outputs.iter().find_map(|output| match output {
            NewcomerOutput::Close { code, .. } => Some(*code),
            _ => None,
        })
    }

    #[test]
    fn a_preface_comes_in_any_pieces_and_nothing_behind_it_is_read() {
        let now = sim_start();
        let mut newcomer = Newcomer::new(now);
        let mut most = match newcomer.poll() {
            Some(NewcomerOutput::ReadControl { most_bytes }) => most_bytes,
            other => panic!("{other:?}"),
        };
        let mut bytes = preface(PrefaceKind::Join, 3);
        while !bytes.is_empty() {
            assert_eq!(most, bytes.len());
            let bytes = bytes.split_to(1 + bytes.len() / 3);
            newcomer.handle(now, NewcomerInput::Control { bytes, fin: false });
            match newcomer.poll() {
                Some(NewcomerOutput::ReadControl { most_bytes }) => most = most_bytes,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(most, 0);
        let session = SessionId([7; 16]);
        let join = NewcomerOutput::Join {
            session,
            number: 3,
            kind: DialKind::Replace,
        };
        assert_eq!(outputs(&mut newcomer), [join]);
    }

    #[test]
    fn a_new_session_waits_for_all_who_ask_and_not_for_ever() {
        let (mut newcomer, asks) = said(PrefaceKind::New, 0);
        assert_eq!(asks.last(), Some(&NewcomerOutput::Ask));
        let now = sim_start();
        newcomer.handle(now, NewcomerInput::Asked { workers: 2 });
        newcomer.handle(now, NewcomerInput::Answered);
        assert_eq!(outputs(&mut newcomer), []);
        let session = SessionId([7; 16]);
        let due = newcomer.deadline().unwrap();
        newcomer.handle(due, NewcomerInput::Tick);
        let begin = NewcomerOutput::Begin { session };
        assert_eq!(outputs(&mut newcomer), [begin]);
        newcomer.handle(due, NewcomerInput::Answered);
        assert_eq!(
            (outputs(&mut newcomer), newcomer.deadline()),
            (vec![], None)
        );
    }

    #[test]
    fn what_cannot_be_is_closed() {
        let (_, outputs_) = said(PrefaceKind::New, 1);
        assert_eq!(closes(&outputs_), Some(code::VIOLATION));
        let (mut newcomer, _) = said(PrefaceKind::Join, 1);
        newcomer.handle(sim_start(), NewcomerInput::SessionExists(false));
        assert_eq!(closes(&outputs(&mut newcomer)), Some(code::NO_SESSION));
        let (mut newcomer, _) = said(PrefaceKind::New, 0);
        newcomer.handle(sim_start(), NewcomerInput::Asked { workers: 0 });
        newcomer.handle(sim_start(), NewcomerInput::SessionExists(true));
        assert_eq!(closes(&outputs(&mut newcomer)), Some(code::VIOLATION));
        let mut newcomer = Newcomer::new(sim_start());
        newcomer.handle(newcomer.deadline().unwrap(), NewcomerInput::Tick);
        assert_eq!(closes(&outputs(&mut newcomer)), Some(code::TIMEOUT));
        for input in [
            NewcomerInput::ControlReset,
            NewcomerInput::Control {
                bytes: preface(PrefaceKind::New, 0),
                fin: true,
            },
        ] {
            let mut newcomer = Newcomer::new(sim_start());
            newcomer.handle(sim_start(), input);
            assert_eq!(closes(&outputs(&mut newcomer)), Some(code::VIOLATION));
        }
    }
}
