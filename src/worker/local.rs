//! A copy within this host: both sides of a session on one thread, and a lane in memory between
//! them.
//!
//! What one side says is the other's next input. Their disk operations are run one at a time, the
//! receiver's first: what is known goes before what has to be looked for, so that the walk is never
//! far ahead of the copying, and nothing is looked for in a directory that could not be made.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::disk::Side;
use crate::ids::{MoverId, OpId};
use crate::proto::parallel::ParallelTransferConfig;
use crate::proto::session::{Direction, Grant, Limits, Request, Session, Transfer};
use crate::proto::{CancelReason, Carriage, DiskDone, DiskOp, Event, Input, Outcome, Output};

/// Entries on their way; more would only be held in memory.
const ENTRY_WINDOW: u32 = 256;

/// What is copied at a time of a big file: between two ranges a signal is noticed and progress is
/// shown. A multiple of every block size, for blocks are shared whole.
const RANGE_BYTES: usize = 16 << 20;

/// How long a signal may go unnoticed while nothing is done.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// Operations between two looks at the clock, but for those that copy data, behind each of which it
/// is looked at: progress is told and limits hold by it, to some milliseconds.
const CLOCK_EVERY: u32 = 8;

/// Looks at a time of the receiver; each is a call that is made at once.
const LOOKUPS: usize = 64;

/// Copies what a push would send; every entry is told to `on`. `stop` is asked before each disk
/// operation, of which the longest copies 16 MiB, and told what it is about.
///
/// # Errors
/// When there is no memory to begin with, or no end is reached (a bug of the session). What goes
/// wrong with single entries is an event.
pub fn copy_locally(
    transfer: &Transfer,
    stop: &dyn Fn(&[u8]) -> bool,
    on: &mut dyn FnMut(Event),
) -> io::Result<Outcome> {
    let (now, sender) = (super::now(), Side::new()?);
    let transfer = Transfer {
        direction: Direction::Push,
        ..transfer.clone()
    };
    let everything = Grant {
        read: true,
        write: true,
    };
    let receiver = LocalEnd::new(
        Session::server(now, everything, limits()),
        sender.receiver(),
    );
    let client = Session::client(now, Request::Transfer(transfer), limits());
    let mut lane = LocalLane {
        ends: [LocalEnd::new(client, sender), receiver],
        outcome: None,
    };
    lane.run(stop, on);
    match lane.outcome {
        // It was this host's own, and nobody else was asked.
        Some(Outcome::Refused(error)) => Ok(Outcome::CalledOff(error)),
        Some(outcome) => Ok(outcome),
        None => Err(io::Error::other(
            "the copy stood still; this is a bug in landro",
        )),
    }
}

fn limits() -> Limits {
    Limits {
        entry_window: ENTRY_WINDOW,
        write_behind_bytes: 1,
        read_ahead_bytes: RANGE_BYTES,
        read_ahead_in_place_bytes: RANGE_BYTES,
        read_ahead_all_bytes: RANGE_BYTES,
        carriage: Carriage::Copies,
        // Both sides know the objects themselves.
        host_key: None,
        parallel: ParallelTransferConfig::default(),
        lookups: LOOKUPS,
        // Both sides are on this thread, and one operation at a time is waited for by calling it:
        // who started the thread watches it.
        patience: None,
        adds_lanes: false,
        keeps_digests: false,
        asks_addresses: false,
        addresses: std::sync::Arc::default(),
        clear: crate::proto::clear::ClearLanes::Off,
    }
}

/// The client, which sends.
const SENDER: usize = 0;
const RECEIVER: usize = 1;

/// Both sides and what is under way between them.
struct LocalLane {
    ends: [LocalEnd; 2],
    /// The client's.
    outcome: Option<Outcome>,
}

/// One side.
struct LocalEnd {
    session: Session,
    disk: Side,
    inbox: VecDeque<Input>,
    operations: VecDeque<(OpId, DiskOp)>,
}

impl LocalEnd {
    fn new(session: Session, disk: Side) -> LocalEnd {
        LocalEnd {
            session,
            disk,
            inbox: VecDeque::new(),
            operations: VecDeque::new(),
        }
    }
}

impl LocalEnd {
    /// What the next operation is about.
    fn about(&self) -> &[u8] {
        let next = self.operations.front();
        next.and_then(|(_, cmd)| cmd.about()).unwrap_or_default()
    }
}

impl LocalLane {
    /// Goes on until neither side has anything to do.
    fn run(&mut self, stop: &dyn Fn(&[u8]) -> bool, on: &mut dyn FnMut(Event)) {
        let (mut stopped, mut now, mut unclocked) = (false, super::now(), 0);
        self.drain(SENDER, on);
        self.drain(RECEIVER, on);
        loop {
            self.deliver(now, on);
            let next = self.next_operation();
            let about = next.map(|end| self.ends[end].about());
            if stop(about.unwrap_or_default()) && !stopped {
                stopped = true;
                let cancel = Input::Cancel(CancelReason::User);
                self.ends[SENDER].inbox.push_back(cancel);
                continue;
            }
            unclocked += 1;
            let takes_time = match next {
                Some(end) => self.operate(end),
                None => {
                    // Asked only here, where nothing else is to be done.
                    let Some(until) = self.ends[SENDER].session.deadline() else {
                        return;
                    };
                    self.wait(until);
                    true
                }
            };
            if takes_time || unclocked >= CLOCK_EVERY {
                (now, unclocked) = (super::now(), 0);
            }
        }
    }

    /// Waits for what the bandwidth limit lets through next, but not so long that a signal would
    /// wait.
    fn wait(&mut self, until: Instant) {
        let left = until.saturating_duration_since(super::now());
        std::thread::sleep(left.min(STOP_CHECK));
        self.ends[SENDER].inbox.push_back(Input::Tick);
    }

    /// Hands over what the sides said to each other, until both are silent.
    fn deliver(&mut self, now: Instant, on: &mut dyn FnMut(Event)) {
        while let Some(end) = [RECEIVER, SENDER]
            .into_iter()
            .find(|&end| !self.ends[end].inbox.is_empty())
        {
            while let Some(input) = self.ends[end].inbox.pop_front() {
                self.ends[end].session.handle(now, input);
                self.drain(end, on);
            }
        }
    }

    fn drain(&mut self, end: usize, on: &mut dyn FnMut(Event)) {
        while let Some(output) = self.ends[end].session.poll() {
            let other = &mut self.ends[1 - end].inbox;
            match output {
                Output::Control(bytes) => other.push_back(Input::Control(bytes)),
                Output::Copy(step) => other.push_back(Input::Copy(step)),
                Output::Disk { op, cmd } => self.ends[end].operations.push_back((op, cmd)),
                Output::Event(event) if end == SENDER => on(event),
                Output::Finished(outcome) if end == SENDER => self.outcome = Some(outcome),
                Output::Event(_) | Output::Finished(_) => {}
                // Nothing waits in a lane within this host.
                Output::Piece { .. } | Output::TakesData(_) | Output::AnswersMax(_) => {}
                Output::Stays(_)
                | Output::Retired(_)
                | Output::AddsLanes { .. }
                | Output::Altered
                | Output::LaneOver(_)
                | Output::LaneAccount(_)
                | Output::ToOutpost(..)
                | Output::ToHome(_) => unreachable!("the session was told of no other lanes"),
                Output::Data { .. } => unreachable!("the session was told that data is copied"),
            }
        }
    }

    fn next_operation(&self) -> Option<usize> {
        [RECEIVER, SENDER]
            .into_iter()
            .find(|&end| !self.ends[end].operations.is_empty())
    }

    /// Runs the next disk operation of a side. True: it copied data, which takes its time.
    fn operate(&mut self, end: usize) -> bool {
        let LocalEnd {
            disk,
            inbox,
            operations,
            ..
        } = &mut self.ends[end];
        let Some((op, cmd)) = operations.pop_front() else {
            return false;
        };
        let result = disk.run(cmd);
        let copied = match &result {
            Ok(DiskDone::Copied { bytes }) => Some(*bytes),
            _ => None,
        };
        inbox.push_back(Input::Disk { op, result });
        if let Some(bytes) = copied {
            self.ends[SENDER].inbox.push_back(Input::Sent {
                mover: MoverId::CONTROL,
                bytes,
            });
        }
        copied.is_some()
    }
}
