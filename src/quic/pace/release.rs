//! When the next packet of a kept rate is due: as many leave at once as the queue takes.

use std::time::{Duration, Instant};

use super::rate::slow_burst;

/// What leaves at once where a queue overflows: 25 kB at 1 Gbit/s, well below a queue of 64 kB, and
/// few enough wake-ups; on slower paths as much as on long ones.
const SHORT_QUEUE_BURST: Duration = Duration::from_micros(200);

/// The times of a kept rate.
#[derive(Debug)]
pub(super) struct Release {
    /// When the next packet is due.
    next: Instant,
    /// All that may leave at once has left: the next packet waits until it is due, then as many
    /// may follow.
    spent: bool,
}

impl Release {
    pub fn new(now: Instant) -> Release {
        Release {
            next: now,
            spent: false,
        }
    }

    /// When to send the next packet, if not yet.
    pub fn time(&self, now: Instant) -> Option<Instant> {
        (self.spent && self.next > now).then_some(self.next)
    }

    /// A packet of so many bytes was built.
    pub fn sent(&mut self, now: Instant, bytes: usize, bytes_per_second: u64) {
        let transfer = Duration::from_nanos(bytes as u64 * 1_000_000_000 / bytes_per_second);
        self.next = self.next.max(now) + transfer;
        self.spent = self.next > now + slow_burst(bytes_per_second).max(SHORT_QUEUE_BURST);
    }
}
