//! Queues that overflow: the policy that keeps to a measured rate while packets are lost in one.
//!
//! A *measured* rate begins a little below what was delivered: while a queue overflows, that is
//! what the path carries. A connection has one measured rate at a time, for a short queue or a
//! crowd, keeps it for a [`Term`], and then tries the path without it.

use std::time::Instant;

use super::crowd::{Belief, Crowd};
use super::long_path;
use super::short_queue::ShortQueue;
use super::term::{Term, Terms};
use super::window::{WindowEnd, WindowSeen, Windows};
use crate::config::{PathView, RateBound, RatePolicy};

/// What is known of the queues of one path.
#[derive(Debug)]
pub(super) struct Overflow {
    windows: Windows,
    belief: Belief,
    terms: Terms,
    pub measured: Option<Measured>,
}

/// A rate that was measured while a queue on the path overflowed.
#[derive(Debug)]
pub(super) struct Measured {
    reason: Reason,
    pub term: Term,
}

/// Whose queue overflowed.
#[derive(Debug)]
enum Reason {
    ShortQueue(ShortQueue),
    Crowd(Crowd),
}

impl Measured {
    /// None: holding back does not help.
    pub fn bytes_per_second(&self) -> Option<u64> {
        match &self.reason {
            Reason::ShortQueue(short_queue) => Some(short_queue.bytes_per_second()),
            Reason::Crowd(crowd) => crowd.bytes_per_second(),
        }
    }

    fn judge(&mut self, seen: &WindowSeen) {
        match &mut self.reason {
            Reason::ShortQueue(short_queue) => short_queue.judge(seen),
            Reason::Crowd(crowd) => crowd.judge(seen),
        }
    }
}

impl RatePolicy for Overflow {
    fn bound(&mut self, now: Instant, path: &PathView<'_>) -> RateBound {
        self.observe(now, path);
        let measured = self.measured.as_ref();
        match measured.and_then(Measured::bytes_per_second) {
            Some(rate) => RateBound::rate(rate).measured(),
            None => RateBound::none(),
        }
    }
}

impl Overflow {
    pub fn new() -> Overflow {
        Overflow {
            windows: Windows::new(),
            belief: Belief::new(),
            terms: Terms::new(),
            measured: None,
        }
    }

    fn observe(&mut self, now: Instant, path: &PathView<'_>) {
        if let Some(measured) = &self.measured
            && measured.term.is_over(now, path.rtt)
        {
            self.end(now);
        }
        let is_crowd = self.belief.is_crowd(now, path);
        let end = self.window_end(is_crowd);
        let Some(seen) = self.windows.observe(now, path, end, is_crowd) else {
            return;
        };
        match &mut self.measured {
            Some(measured) => {
                measured.judge(&seen);
                if measured.bytes_per_second().is_none() {
                    self.end(now);
                }
            }
            None => {
                let reason = match (is_crowd, long_path::is_long(path)) {
                    (true, _) => Crowd::find(&seen).map(Reason::Crowd),
                    (false, false) => ShortQueue::find(&seen).map(Reason::ShortQueue),
                    (false, true) => None,
                };
                if let Some(reason) = reason {
                    self.begin(now, reason, &seen);
                }
            }
        }
    }

    fn window_end(&self, is_crowd: bool) -> WindowEnd {
        match self.measured.as_ref().map(|measured| &measured.reason) {
            Some(Reason::Crowd(_)) => Crowd::HELD_WINDOW,
            Some(Reason::ShortQueue(_)) | None if is_crowd => Crowd::WINDOW,
            Some(Reason::ShortQueue(_)) => ShortQueue::HELD_WINDOW,
            None => ShortQueue::WINDOW,
        }
    }

    fn begin(&mut self, now: Instant, reason: Reason, seen: &WindowSeen) {
        let (lost, rtt, kept) = (seen.lost_packets, seen.rtt, self.terms.next);
        let term = self.terms.begin(now, rtt);
        let measured = Measured { reason, term };
        let rate = measured.bytes_per_second();
        tracing::debug!(lost, ?rate, ?kept, ?rtt, "a queue on the path overflows");
        self.measured = Some(measured);
    }

    /// Holds nothing back any more.
    fn end(&mut self, now: Instant) {
        match self.measured.take().map(|measured| measured.reason) {
            Some(Reason::Crowd(crowd)) => self.belief.ended(now, &crowd),
            Some(Reason::ShortQueue(_)) | None => {}
        }
    }
}
