//! When packets leave: at once, unless a long path, a queue that overflows or a program says
//! otherwise.
//!
//! On a LAN packets leave as fast as the congestion window allows. Four reasons hold packets back.
//! Each has a file of its own, which explains its word:
//!
//! | reason          | if                                                  | gives                |
//! |-----------------|-----------------------------------------------------|----------------------|
//! | [`long_path`]   | the shortest round trip is 2 ms or more             | BBR2's release times |
//! | [`short_queue`] | 3 % of 512 packets are lost, and no long path       | a measured rate      |
//! | [`crowd`]       | 10 % of 256 packets are lost, and four signs say so | a measured rate      |
//! | a program       | its configuration has a policy                      | what that says       |
//!
//! Whatever gives a rate is a [`RatePolicy`]: [`overflow`] for queues, and a program's. This file
//! combines them. The lowest rate counts. A measured rate comes before BBR2's release times; a
//! program's is kept to beside them. Decisions 10 (docs/adr/0010-short-queues-and-pacing.md) and 51
//! (docs/adr/0051-a-rate-policy-and-no-controller-of-our-own.md) tell why, with figures.

use std::time::{Duration, Instant};

use landro_sys::gso::MAX_SEGMENTS;

use super::path::PathSnapshot;
use crate::config::{PathView, RateBound, RatePolicies, RatePolicy};
use overflow::Overflow;
use release::Release;
use short_queue::SHORT_QUEUE_SEGMENTS;

mod crowd;
mod long_path;
mod overflow;
mod rate;
mod release;
mod short_queue;
mod term;
mod window;

#[cfg(test)]
mod tests;

/// Of a rate that is not measured, so much time is made up for when packets left late: a slice of
/// another thread on a busy core.
const MADE_UP: Duration = Duration::from_millis(4);

/// The pace of one path.
pub(super) struct Pace {
    /// None: the configuration wants no pacing anywhere.
    queues: Option<Overflow>,
    program: Option<Box<dyn RatePolicy>>,
    /// What leaves at once besides BBR2's release times, if the path is long.
    long_path_burst: Option<Duration>,
    held: Option<Held>,
}

/// A rate that a policy gave.
struct Held {
    bytes_per_second: u64,
    /// See [`RateBound::measured`].
    is_measured: bool,
    made_up: Duration,
    release: Release,
}

impl Pace {
    pub fn new(wanted: bool, program: Option<&RatePolicies>) -> Pace {
        Pace {
            queues: wanted.then(Overflow::new),
            program: program.map(RatePolicies::make),
            long_path_burst: None,
            held: None,
        }
    }

    /// Whether there is a reason to call [`Pace::observe`].
    pub fn is_looking(&self) -> bool {
        self.queues.is_some() || self.program.is_some()
    }

    /// When the next packet may leave, if that is not yet. If BBR2's release time counts, `bbr` is
    /// asked for it.
    pub fn release_time(
        &self,
        now: Instant,
        bbr: impl FnOnce() -> Option<Instant>,
    ) -> Option<Instant> {
        let of_rate = self.held.as_ref().and_then(|held| held.release.time(now));
        let of_bbr = self
            .long_path_burst
            .filter(|_| !self.is_measured())
            .and_then(|burst| long_path::release_time(now, burst, bbr()?));
        of_rate.max(of_bbr)
    }

    /// Most packets of one message.
    pub fn max_segments(&self) -> usize {
        match self.is_measured() {
            true => SHORT_QUEUE_SEGMENTS,
            false => MAX_SEGMENTS,
        }
    }

    fn is_measured(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_measured)
    }

    /// A packet was built.
    pub fn sent(&mut self, now: Instant, bytes: usize) {
        if let Some(held) = &mut self.held {
            let (rate, made_up) = (held.bytes_per_second, held.made_up);
            held.release.sent(now, bytes, rate, made_up);
        }
    }

    /// Looks at the path's numbers, which only grow, once per batch of packets. `acked_bytes`
    /// counts what the peer acknowledged; it is asked once per window, as quiche walks all streams
    /// for it. `is_on_link` says whether no router is between.
    pub fn observe(
        &mut self,
        now: Instant,
        path: &PathSnapshot,
        acked_bytes: impl Fn() -> u64,
        is_on_link: impl Fn() -> bool,
    ) {
        let view = view_of(path, &acked_bytes, &is_on_link);
        let is_long = self.queues.is_some() && long_path::is_long(&view);
        self.long_path_burst = is_long.then(|| long_path::burst_of(&view));
        let queues = self.queues.as_mut().map(|queues| queues as _);
        let program = self.program.as_deref_mut().map(|program| program as _);
        let policies: [Option<&mut dyn RatePolicy>; 2] = [queues, program];
        let bounds = policies.into_iter().flatten();
        let bound = bounds
            .map(|policy| policy.bound(now, &view))
            .fold(RateBound::none(), RateBound::and);
        self.hold(now, bound, &view);
    }

    fn hold(&mut self, now: Instant, bound: RateBound, path: &PathView<'_>) {
        let Some(bytes_per_second) = bound.bytes_per_second(path) else {
            self.held = None;
            return;
        };
        let before = self.held.take().map(|held| held.release);
        self.held = Some(Held {
            bytes_per_second,
            is_measured: bound.is_measured(),
            made_up: match (bound.is_measured(), bound.bounds_flight()) {
                (true, _) => Duration::ZERO,
                // More than the bytes of a round trip would be in flight.
                (false, true) => MADE_UP.min(path.rtt / 2),
                (false, false) => MADE_UP,
            },
            release: before.unwrap_or_else(|| Release::new(now)),
        });
    }
}

fn view_of<'a>(
    path: &PathSnapshot,
    acked_bytes: &'a dyn Fn() -> u64,
    is_on_link: &'a dyn Fn() -> bool,
) -> PathView<'a> {
    PathView {
        rtt: path.rtt,
        min_rtt: path.min_rtt,
        cwnd_bytes: path.cwnd_bytes,
        sent_packets: path.sent_packets,
        lost_packets: path.lost_packets,
        sent_bytes: path.sent_bytes,
        lost_bytes: path.lost_bytes,
        delivery_bytes_per_second: path.delivery_bytes_per_second,
        acked_bytes,
        is_on_link,
    }
}
