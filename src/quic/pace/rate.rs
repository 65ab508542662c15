//! A measured rate: how it begins, how it is kept and lowered, and what leaves of it at once.
//!
//! At any rate several packets leave at once (a *burst*) before the next one waits: a timer for
//! each packet would cost more than all the rest.

use std::time::Duration;

use crate::config::RateBound;

/// A rate begins with this share of what was delivered, so that the queue drains. Each lowering
/// leaves this share of the rate.
const HEADROOM_PERCENT: u64 = 98;

/// A rate is never lowered below this share of what was delivered, whatever is lost.
const FLOOR_PERCENT: u64 = 60;

/// Bytes of a burst on a slow path, 1 ms at 100 Mbit/s: with less, each of a hundred connections
/// that share 1 Gbit/s would wake up for every packet.
const SLOW_PATH_BURST_BYTES: u64 = 12_000;

/// A burst is never longer than this.
pub(super) const SLOW_PATH_BURST_MAX: Duration = Duration::from_millis(10);

/// A rate a little below what was delivered.
#[derive(Debug)]
pub(super) struct KeptRate {
    pub bytes_per_second: u64,
    floor_bytes_per_second: u64,
}

impl KeptRate {
    pub fn below(delivered_bytes_per_second: u64) -> KeptRate {
        let least = RateBound::LEAST_BYTES_PER_SECOND;
        let share = |percent: u64| (delivered_bytes_per_second * percent / 100).max(least);
        KeptRate {
            bytes_per_second: share(HEADROOM_PERCENT),
            floor_bytes_per_second: share(FLOOR_PERCENT),
        }
    }

    /// Less, as packets were still lost; not below the floor.
    pub fn lower(&mut self) {
        let lower = self.bytes_per_second * HEADROOM_PERCENT / 100;
        self.bytes_per_second = lower.max(self.floor_bytes_per_second);
    }
}

/// How long a path of this rate takes for a slow path's burst.
pub(super) fn slow_burst(bytes_per_second: u64) -> Duration {
    let slow_ns = SLOW_PATH_BURST_BYTES * 1_000_000_000 / bytes_per_second.max(1);
    Duration::from_nanos(slow_ns).min(SLOW_PATH_BURST_MAX)
}
