//! How long a measured rate is kept before the path is tried without it.
//!
//! Each trial loses packets if the path is as it was, so the next term is twice as long. A term
//! ends early where the queue was *deserted*: those who filled it are gone.

use std::time::{Duration, Instant};

use crate::config::PACING_MIN_RTT;

/// From this round trip on a queue that overflows is long, which one connection alone does not make
/// it: it is a crowd's.
pub(super) const CROWDED_RTT: Duration = PACING_MIN_RTT;

/// How long a rate is kept at first, and at most.
pub(super) const KEPT_FIRST: Duration = Duration::from_secs(2);
pub(super) const KEPT_MAX: Duration = Duration::from_secs(64);

/// A queue was long when it overflowed, and the round trip is a quarter of that by now: it was
/// filled by others who are gone. The last of a crowd would go on at what had been its share.
const DESERTED_SHARE: u32 = 4;

/// The question is asked after an eighth of the term: the short queue of a slow path empties as
/// well, once it is not overrun.
pub(super) const DESERTED_AFTER_SHARE: u32 = 8;

/// The term of one rate.
#[derive(Debug)]
pub(super) struct Term {
    pub until: Instant,
    /// From when on the rate is given up if the path's round trip fell to this. None: the queue was
    /// short, which nobody can desert.
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
