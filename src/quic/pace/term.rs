//! How long a measured rate is kept before the path is tried without it.
//!
//! If the path is still as it was, each trial loses packets, so each term is twice as long as the
//! one before. A term ends early if the queue is *deserted*: it was long when it overflowed, and
//! those who filled it are gone.

use std::time::{Duration, Instant};

use crate::config::PACING_MIN_RTT;

/// If the round trip is this or more while a queue overflows, the queue is long and may be a
/// crowd's: the round trip of a LAN is a small part of it.
pub(super) const CROWDED_RTT: Duration = PACING_MIN_RTT;

/// The first term, and the longest.
pub(super) const KEPT_FIRST: Duration = Duration::from_secs(2);
pub(super) const KEPT_MAX: Duration = Duration::from_secs(64);

/// If the round trip fell to a quarter of what it was, the queue is deserted. Without this the last
/// of a crowd would go on at what had been its share.
const DESERTED_SHARE: u32 = 4;

/// The round trip is looked at after an eighth of the term, not before: the short queue of a slow
/// path empties as well once it is not overrun.
pub(super) const DESERTED_AFTER_SHARE: u32 = 8;

/// The term of one rate.
#[derive(Debug)]
pub(super) struct Term {
    pub until: Instant,
    /// If the round trip is this or less from then on, the term is over. None: the queue was not
    /// long.
    deserted: Option<(Instant, Duration)>,
}

impl Term {
    pub fn is_over(&self, now: Instant, rtt: Duration) -> bool {
        self.until <= now
            || self
                .deserted
                .is_some_and(|(from, short)| from <= now && rtt <= short)
    }
}

/// The terms of a connection: each twice as long as the one before.
#[derive(Debug)]
pub(super) struct Terms {
    pub next: Duration,
}

impl Terms {
    pub fn new() -> Terms {
        Terms { next: KEPT_FIRST }
    }

    /// A term that begins now, with this round trip while the queue overflows.
    pub fn begin(&mut self, now: Instant, rtt: Duration) -> Term {
        let deserted = (rtt >= CROWDED_RTT)
            .then(|| (now + self.next / DESERTED_AFTER_SHARE, rtt / DESERTED_SHARE));
        let term = Term {
            until: now + self.next,
            deserted,
        };
        self.next = doubled(self.next);
        term
    }
}

pub(super) fn doubled(term: Duration) -> Duration {
    (term * 2).min(KEPT_MAX)
}
