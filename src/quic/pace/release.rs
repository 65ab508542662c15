//! When the next packet of a kept rate may leave: in bursts that a short queue holds.

use std::time::{Duration, Instant};

use super::rate::slow_burst;

/// A burst where a queue overflows, at least: 25 kB at 1 Gbit/s, which is well below a queue of
/// 64 kB and means few enough wake-ups. A slow path's burst is longer.
const SHORT_QUEUE_BURST: Duration = Duration::from_micros(200);

/// The times of a rate.
#[derive(Debug)]
pub(super) struct Release {
    /// When the next packet is due.
    next: Instant,
    /// The burst is used up: the next packet waits until it is due, and begins the next burst.
    spent: bool,
}

impl Release {
    pub fn new(now: Instant) -> Release {
        Release {
            next: now,
            spent: false,
        }
    }

    /// When the next packet may leave, if that is not yet.
    pub fn time(&self, now: Instant) -> Option<Instant> {
        (self.spent && self.next > now).then_some(self.next)
    }

    /// A packet of so many bytes was built. Up to `made_up` of the time that passed since it was
    /// due is not lost.
    pub fn sent(&mut self, now: Instant, bytes: usize, bytes_per_second: u64, made_up: Duration) {
        let transfer = Duration::from_nanos(bytes as u64 * 1_000_000_000 / bytes_per_second);
        let earliest = now.checked_sub(made_up).unwrap_or(now);
        self.next = self.next.max(earliest) + transfer;
        self.spent = self.next > now + slow_burst(bytes_per_second).max(SHORT_QUEUE_BURST);
    }
}
