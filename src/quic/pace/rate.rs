//! What a reason for holding back gives: a rate, and how a measured one is kept and lowered.

use std::time::Duration;

/// How packets leave while they are held back. Whatever the rate, some leave at once and the next
/// ones wait: a timer for each packet would cost more than all the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rate {
    /// At BBR2's release times. So much time's worth of packets leaves at once.
    Bbr { burst: Duration },
    /// At this rate, whatever BBR2 says.
    Kept { bytes_per_second: u64 },
}

/// Share of what was delivered that is kept, so that the queue drains; and share of the rate that
/// is left of it after each window that still lost packets.
const HEADROOM_PERCENT: u64 = 98;

/// Least share of what was delivered that is kept, whatever is lost.
const FLOOR_PERCENT: u64 = 60;

/// No rate below this is kept, a thousandth of 1 Gbit/s: packets that are due, probes among them,
/// wait 15 ms at most.
pub(super) const LEAST_BYTES_PER_SECOND: u64 = 100_000;

/// Bytes that leave at once on a slow path, at least: 1 ms at 100 Mbit/s. A hundred connections
/// that share 1 Gbit/s would otherwise wake up for every packet.
const SLOW_PATH_BURST_BYTES: u64 = 12_000;

/// Longest time that [`SLOW_PATH_BURST_BYTES`] may stand for.
pub(super) const SLOW_PATH_BURST_MAX: Duration = Duration::from_millis(10);

/// A rate a little below what was delivered.
#[derive(Debug)]
pub(super) struct KeptRate {
    pub bytes_per_second: u64,
    floor_bytes_per_second: u64,
}

impl KeptRate {
    pub fn below(delivered_bytes_per_second: u64) -> KeptRate {
        let share =
            |percent: u64| (delivered_bytes_per_second * percent / 100).max(LEAST_BYTES_PER_SECOND);
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

    pub fn rate(&self) -> Rate {
        Rate::Kept {
            bytes_per_second: self.bytes_per_second,
        }
    }
}

/// How long a slow path takes for what leaves at once.
pub(super) fn slow_burst(bytes_per_second: u64) -> Duration {
    let slow_ns = SLOW_PATH_BURST_BYTES * 1_000_000_000 / bytes_per_second.max(1);
    Duration::from_nanos(slow_ns).min(SLOW_PATH_BURST_MAX)
}
