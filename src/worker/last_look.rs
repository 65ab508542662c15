//! When a worker looks up what it does not count itself, and what it saw there last.

use std::time::{Duration, Instant};

/// How often what connections and kernel know is looked up, as long as something happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When a worker looks up what it does not count itself, and what it saw there last.
pub(super) struct LastLook {
    /// When it looks next. None: nothing has happened since it last looked.
    pub(super) due: Option<Instant>,
    pub(super) looked_at: Instant,
    pub(super) cpu: Duration,
    pub(super) overflows: u64,
    /// By socket, in the order of the driver's.
    pub(super) drops: Vec<u32>,
}

impl LastLook {
    pub(super) fn new(now: Instant) -> LastLook {
        LastLook {
            due: None,
            looked_at: now,
            cpu: Duration::ZERO,
            overflows: 0,
            drops: Vec::new(),
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Something happened: what it changed is looked up soon.
    pub(super) fn want(&mut self) {
        self.due.get_or_insert(self.looked_at + LOOK_EVERY);
    }
}
