//! When packets leave: at once, unless a long path, a short queue or a crowd says otherwise.
//!
//! On a LAN packets leave as fast as the congestion window allows. Three reasons hold packets back.
//! Each has a file of its own, which explains its word:
//!
//! | reason          | if                                                  | gives                |
//! |-----------------|-----------------------------------------------------|----------------------|
//! | [`long_path`]   | the shortest round trip is 2 ms or more             | BBR2's release times |
//! | [`short_queue`] | 3 % of 512 packets are lost, and no long path       | a measured rate      |
//! | [`crowd`]       | 10 % of 256 packets are lost, and four signs say so | a measured rate      |
//!
//! A *measured* rate begins a little below what was delivered: while a queue overflows, that is
//! what the path carries. This file combines the rates. A measured rate comes before BBR2's. A
//! connection has one measured rate at a time, keeps it for a [`term`], and then tries the path
//! without it. Decision 10 (docs/adr/0010-short-queues-and-pacing.md) tells why, with figures.

use std::time::Instant;

use landro_sys::gso::MAX_SEGMENTS;

use super::path::PathSnapshot;
use crowd::{Belief, Crowd};
use rate::Rate;
use release::Release;
use short_queue::{SHORT_QUEUE_SEGMENTS, ShortQueue};
use term::{Term, Terms};
use window::{WindowEnd, WindowSeen, Windows};

mod crowd;
mod long_path;
mod rate;
mod release;
mod short_queue;
mod term;
mod window;

#[cfg(test)]
mod tests;

/// The pace of one path.
#[derive(Debug)]
pub(super) struct Pace {
    /// False: the configuration wants no pacing anywhere.
    wanted: bool,
    /// BBR2's rate, if the path is long.
    long_path: Option<Rate>,
    windows: Windows,
    belief: Belief,
    terms: Terms,
    measured: Option<Measured>,
}

/// A rate that was measured while a queue on the path overflowed.
#[derive(Debug)]
struct Measured {
    reason: Reason,
    term: Term,
    release: Release,
}

/// Whose queue overflowed.
#[derive(Debug)]
enum Reason {
    ShortQueue(ShortQueue),
    Crowd(Crowd),
}

impl Reason {
    /// None: holding back does not help.
    fn rate(&self) -> Option<Rate> {
        match self {
            Reason::ShortQueue(short_queue) => Some(short_queue.rate()),
            Reason::Crowd(crowd) => crowd.rate(),
        }
    }

    fn judge(&mut self, seen: &WindowSeen) {
        match self {
            Reason::ShortQueue(short_queue) => short_queue.judge(seen),
            Reason::Crowd(crowd) => crowd.judge(seen),
        }
    }
}

impl Pace {
    pub fn new(wanted: bool) -> Pace {
        Pace {
            wanted,
            long_path: None,
            windows: Windows::new(),
            belief: Belief::new(),
            terms: Terms::new(),
            measured: None,
        }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// At which rate packets leave. None: at once.
    fn rate(&self) -> Option<Rate> {
        let measured = self.measured.as_ref();
        measured
            .and_then(|measured| measured.reason.rate())
            .or(self.long_path)
    }

    /// When the next packet may leave, if that is not yet. If BBR2's release time counts, `bbr` is
    /// asked for it.
    pub fn release_time(
        &self,
        now: Instant,
        bbr: impl FnOnce() -> Option<Instant>,
    ) -> Option<Instant> {
        match self.rate()? {
            Rate::Kept { .. } => self.measured.as_ref()?.release.time(now),
            Rate::Bbr { burst } => long_path::release_time(now, burst, bbr()?),
        }
    }

    /// Most packets of one message.
    pub fn max_segments(&self) -> usize {
        match self.measured {
            Some(_) => SHORT_QUEUE_SEGMENTS,
            None => MAX_SEGMENTS,
        }
    }

    /// A packet was built.
    pub fn sent(&mut self, now: Instant, bytes: usize) {
        if let Some(measured) = &mut self.measured
            && let Some(Rate::Kept { bytes_per_second }) = measured.reason.rate()
        {
            measured.release.sent(now, bytes, bytes_per_second);
        }
    }

    /// Looks at the path's numbers, which only grow, once per batch of packets. `acked_bytes`
    /// counts what the peer acknowledged; it is asked once per window, as quiche walks all streams
    /// for it. `is_on_link` says whether no router is between.
    pub fn observe(
        &mut self,
        now: Instant,
        path: &PathSnapshot,
        acked_bytes: impl FnOnce() -> u64,
        is_on_link: impl FnOnce() -> bool,
    ) {
        self.long_path = long_path::rate(path);
        if let Some(measured) = &self.measured
            && measured.term.is_over(now, path.rtt)
        {
            self.end(now);
        }
        let is_crowd = self.belief.is_crowd(now, path, is_on_link);
        let end = self.window_end(is_crowd);
        let Some(seen) = self.windows.observe(now, path, end, is_crowd, acked_bytes) else {
            return;
        };
        match &mut self.measured {
            Some(measured) => {
                measured.reason.judge(&seen);
                if measured.reason.rate().is_none() {
                    self.end(now);
                }
            }
            None => self.look_for_overflow(now, &seen, is_crowd),
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

    fn look_for_overflow(&mut self, now: Instant, seen: &WindowSeen, is_crowd: bool) {
        let reason = match (is_crowd, self.long_path) {
            (true, _) => Crowd::find(seen).map(Reason::Crowd),
            (false, None) => ShortQueue::find(seen).map(Reason::ShortQueue),
            (false, Some(_)) => None,
        };
        let Some(reason) = reason else {
            return;
        };
        let (lost, rtt, kept) = (seen.lost_packets, seen.rtt, self.terms.next);
        tracing::debug!(lost, rate = ?reason.rate(), ?kept, ?rtt, "a queue on the path overflows");
        self.measured = Some(Measured {
            reason,
            term: self.terms.begin(now, rtt),
            release: Release::new(now),
        });
    }

    /// Holds nothing back any more.
    fn end(&mut self, now: Instant) {
        match self.measured.take().map(|measured| measured.reason) {
            Some(Reason::Crowd(crowd)) => self.belief.ended(now, &crowd),
            Some(Reason::ShortQueue(_)) | None => {}
        }
    }
}
