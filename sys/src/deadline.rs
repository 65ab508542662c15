//! How long a wait has still to go, when something cuts it short.

use std::time::{Duration, Instant};

/// A relative timeout as a point in time.
#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    Never,
    At(Instant),
    /// Zero: look, do not wait.
    Past,
}

impl Deadline {
    // A wait that a signal or an inner event cut short is resumed for the rest.
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn after(timeout: Option<Duration>) -> Deadline {
        match timeout {
            None => Deadline::Never,
            Some(Duration::ZERO) => Deadline::Past,
            // Past the end of time is as good as never.
            Some(timeout) => Instant::now()
                .checked_add(timeout)
                .map_or(Deadline::Never, Deadline::At),
        }
    }

    /// Time left; `None`: no limit.
    #[allow(clippy::disallowed_methods)] // As above.
    pub(crate) fn left(self) -> Option<Duration> {
        match self {
            Deadline::Never => None,
            Deadline::At(at) => Some(at.saturating_duration_since(Instant::now())),
            Deadline::Past => Some(Duration::ZERO),
        }
    }
}
