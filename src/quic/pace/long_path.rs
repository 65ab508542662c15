//! A long path: packets leave at BBR2's release times, a little ahead of them.
//!
//! On a path with a round trip of some milliseconds the queues of routers are smaller than what a
//! congestion window lets go at once, so packets have to be spread over the round trip. BBR2 says
//! when each may leave (quiche's `get_next_release_time`), but it counts on from when the packet
//! before it really left: what a late timer loses is lost for ever. So packets leave
//! [`LONG_PATH_AHEAD`] of their time, which is as late as timers come.

use std::time::{Duration, Instant};

use super::rate::{Rate, slow_burst};
use crate::config::PACING_MIN_RTT;
use crate::quic::path::PathSnapshot;

/// How much time's worth of packets leaves at once, at least: the loop's timers are this coarse,
/// and a burst of it fits any router's queue.
pub(super) const LONG_PATH_BURST: Duration = Duration::from_millis(1);

/// How far ahead of BBR2's release times packets leave, besides the burst: where cores are busy,
/// timers fire 2 ms late.
pub(super) const LONG_PATH_AHEAD: Duration = Duration::from_millis(2);

/// BBR2's own rate, if the path is long.
pub(super) fn rate(path: &PathSnapshot) -> Option<Rate> {
    path.min_rtt
        .filter(|rtt| *rtt >= PACING_MIN_RTT)
        .map(|_| Rate::Bbr {
            burst: burst_of(path),
        })
}

/// What leaves at once: [`LONG_PATH_BURST`], or the bytes of a slow path's burst where those take
/// longer.
pub(super) fn burst_of(path: &PathSnapshot) -> Duration {
    slow_burst(path.delivery_bytes_per_second).max(LONG_PATH_BURST)
}

/// When to send the next packet, if not yet. `bbr` is BBR2's release time.
pub(super) fn release_time(now: Instant, burst: Duration, bbr: Instant) -> Option<Instant> {
    let at = bbr - LONG_PATH_AHEAD;
    (at > now + burst).then_some(at)
}
