//! Deadlines of connections and sessions in one heap; entries that were overtaken are dropped when
//! they surface.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::time::Instant;

/// Whose deadline it is. The serial number tells a pool key's owner from an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Timer {
    Connection { key: usize, serial: u64 },
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

    /// Moves what is due into `due`, once a turn: what the owners put in anew waits for the next
    /// turn even if it is due already. So no deadline, however wrong, keeps the loop from taking
    /// completions, commands and signals to stop.
    pub fn take_due(&mut self, now: Instant, due: &mut Vec<Timer>) {
        while let Some(entry) = self.heap.peek_mut() {
            if entry.0.0 > now {
                return;
            }
            let Reverse((_, timer)) = PeekMut::pop(entry);
            due.push(timer);
        }
    }
}

/// An owner's part: when it is next in the heap, so that it adds itself again only when it became
/// earlier.
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
        let timer = Timer::Connection { key: 1, serial: 7 };
        let at = |ms| start + Duration::from_millis(ms);
        scheduled.want(Some(at(50)), &mut timers, timer);
        scheduled.want(Some(at(80)), &mut timers, timer);
        assert_eq!(
            timers.next(),
            Some(at(50)),
            "a later wish waits for the earlier entry to surface"
        );
        scheduled.want(Some(at(20)), &mut timers, timer);
        let due = |timers: &mut Timers, now| {
            let mut due = Vec::new();
            timers.take_due(now, &mut due);
            due
        };
        assert_eq!(due(&mut timers, at(20)), [timer]);
        assert!(scheduled.surfaced(at(20)));
        assert_eq!(due(&mut timers, at(20)), []);
        assert_eq!(due(&mut timers, at(50)), [timer]);
        assert!(!scheduled.surfaced(at(50)), "overtaken");
    }

    #[test]
    fn what_is_put_off_into_the_past_waits_for_the_next_turn() {
        let now = crate::worker::now();
        let mut timers = Timers::default();
        let mut scheduled = Scheduled::default();
        let timer = Timer::Session { key: 3, serial: 9 };
        scheduled.want(Some(now), &mut timers, timer);
        for _ in 0..3 {
            let mut due = Vec::new();
            timers.take_due(now, &mut due);
            assert_eq!(due, [timer], "each turn has it once");
            for _ in due {
                assert!(scheduled.surfaced(now));
                // A deadline that its owner never moves.
                scheduled.want(Some(now), &mut timers, timer);
            }
        }
    }
}
