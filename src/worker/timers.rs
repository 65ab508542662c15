//! Deadlines of lanes and sessions in one heap; entries that were overtaken are dropped when they surface.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Whose deadline it is. The serial number tells a slab key's owner from an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Timer {
    Lane { key: usize, serial: u64 },
    Session { key: usize, serial: u64 },
}

#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    pub fn add(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        match self.heap.peek() {
            Some(Reverse((at, _))) if *at <= now => self.heap.pop().map(|Reverse((_, timer))| timer),
            _ => None,
        }
    }
}

/// An owner's part: when it is next in the heap, so that it adds itself again only when it became earlier.
#[derive(Default, Debug)]
pub struct Scheduled(Option<Instant>);

impl Scheduled {
    /// Puts `wanted` into the heap unless an entry at or before it is there already.
    pub fn want(&mut self, wanted: Option<Instant>, timers: &mut Timers, timer: Timer) {
        let Some(wanted) = wanted else { return };
        if self.0.is_none_or(|at| wanted < at) {
            timers.add(wanted, timer);
            self.0 = Some(wanted);
        }
    }

    /// The owner's entry surfaced. False: an overtaken one.
    pub fn surfaced(&mut self, now: Instant) -> bool {
        match self.0 {
            Some(at) if at <= now => {
                self.0 = None;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn earlier_deadlines_overtake_later_ones() {
        let start = crate::worker::now();
        let mut timers = Timers::default();
        let mut scheduled = Scheduled::default();
        let timer = Timer::Lane { key: 1, serial: 7 };
        let at = |ms| start + Duration::from_millis(ms);
        scheduled.want(Some(at(50)), &mut timers, timer);
        scheduled.want(Some(at(80)), &mut timers, timer);
        assert_eq!(timers.next(), Some(at(50)), "a later wish waits for the earlier entry to surface");
        scheduled.want(Some(at(20)), &mut timers, timer);
        assert_eq!(timers.pop_due(at(20)), Some(timer));
        assert!(scheduled.surfaced(at(20)));
        assert_eq!(timers.pop_due(at(20)), None);
        assert_eq!(timers.pop_due(at(50)), Some(timer));
        assert!(!scheduled.surfaced(at(50)), "overtaken");
    }
}
