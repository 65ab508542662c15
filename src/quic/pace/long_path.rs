//! A long path: packets leave at BBR2's release times, a little ahead of them.
//!
//! A *long path* has a round trip of 2 ms or more when its queues are empty. What a congestion
//! window lets go at once may be more than the queues of its routers hold, so the packets have to
//! be spread over the round trip. BBR2, the congestion controller, computes a *release time* for
//! each packet. quiche counts release times on from when the packet before really left: if a timer
//! fires late, the time is lost for ever. For that reason packets leave [`LONG_PATH_AHEAD`] before
//! their release time, which is as late as timers fire.

use std::time::{Duration, Instant};

use super::rate::slow_burst;
use crate::config::{PACING_MIN_RTT, PathView};

/// So much time's worth of packets leaves at once, at least: the loop's timers are this coarse, and
/// any router's queue holds such a burst.
pub(super) const LONG_PATH_BURST: Duration = Duration::from_millis(1);

/// Packets leave so long before their release time, besides the burst: where cores are busy, timers
/// fire 2 ms late.
pub(super) const LONG_PATH_AHEAD: Duration = Duration::from_millis(2);

pub(super) fn is_long(path: &PathView<'_>) -> bool {
    path.min_rtt.is_some_and(|rtt| rtt >= PACING_MIN_RTT)
}

/// What leaves at once: the longer of [`LONG_PATH_BURST`] and a slow path's burst.
pub(super) fn burst_of(path: &PathView<'_>) -> Duration {
    slow_burst(path.delivery_bytes_per_second).max(LONG_PATH_BURST)
}

/// When the next packet may leave, if that is not yet. `bbr` is its release time.
pub(super) fn release_time(now: Instant, burst: Duration, bbr: Instant) -> Option<Instant> {
    let at = bbr - LONG_PATH_AHEAD;
    (at > now + burst).then_some(at)
}
