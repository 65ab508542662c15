//! When a pipe that has nothing to read now is looked at again.

use std::time::{Duration, Instant};

/// The first pause behind the last byte. A pipe holds a MiB where it may, which is read at a
/// GB/s then.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// Pauses grow up to this one: what comes after a long silence waits no longer for us, and a silent
/// pipe costs twenty looks a second.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How long a source has been silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    pause: Duration,
    /// None: the pause begins when the time is told.
    until: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            pause: PAUSE_MIN,
            until: None,
        }
    }
}

impl Patience {
    /// With what patience the next look is made, once the pause is over.
    pub fn next_look(&mut self, now: Instant) -> Option<Patience> {
        let until = *self.until.get_or_insert(now + self.pause);
        let pause = (self.pause * 2).min(PAUSE_MAX);
        (now >= until).then_some(Patience { pause, until: None })
    }

    /// When the pause is over.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }
}
