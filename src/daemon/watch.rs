//! Notices a worker whose loop does not turn, and feeds the service manager's watchdog as long as
//! all do.

use std::time::{Duration, Instant};

use super::notify;
use crate::engine::{self, Server};

/// Workers are looked after this often, or as often as the watchdog wants. One that failed is
/// noticed this late, too.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The watchdog is fed so many times in its time: one that comes late harms nothing.
const FEEDS_PER_TIMEOUT: u32 = 4;

/// A worker that did not turn for so long is named in the log. A busy disk holds one that makes its
/// file operations in place (the poll backend) for a second or two.
const SILENCE: Duration = Duration::from_secs(10);

/// What is known of the workers' loops.
pub struct Watch {
    every: Duration,
    feeds: bool,
    next: Instant,
    workers: Vec<Asked>,
}

/// A worker, when it was asked the question it did not answer yet, and whether the log says so.
struct Asked {
    at: Instant,
    logged: bool,
}

impl Watch {
    /// `timeout`: the service manager's, see [`notify::watchdog`].
    pub fn new(server: &Server, timeout: Option<Duration>) -> Watch {
        let every = timeout.map_or(LOOK_EVERY, |timeout| {
            LOOK_EVERY.min(timeout / FEEDS_PER_TIMEOUT)
        });
        let now = engine::now();
        let workers = server
            .ask_workers()
            .into_iter()
            .map(|_| Asked {
                at: now,
                logged: false,
            })
            .collect();
        Watch {
            every,
            feeds: timeout.is_some(),
            next: now + every,
            workers,
        }
    }

    /// How long there is nothing to look at; never zero.
    pub fn pause(&self) -> Duration {
        self.next
            .saturating_duration_since(engine::now())
            .max(Duration::from_millis(1))
    }

    /// Looks whether all workers answered, and asks them anew, if it is time to.
    pub fn look(&mut self, server: &Server) {
        let now = engine::now();
        if now < self.next {
            return;
        }
        self.next = now + self.every;
        let answered = server.ask_workers();
        for (worker, (asked, &answered)) in self.workers.iter_mut().zip(&answered).enumerate() {
            let silence = now.saturating_duration_since(asked.at);
            if answered {
                if asked.logged {
                    tracing::warn!(
                        worker,
                        "the worker turns again, after {} s",
                        silence.as_secs()
                    );
                }
                *asked = Asked {
                    at: now,
                    logged: false,
                };
            } else if !asked.logged && silence >= SILENCE {
                asked.logged = true;
                tracing::error!(
                    worker,
                    "a worker has not turned for {} s, and its peers wait: does a mount below the root not answer?",
                    silence.as_secs()
                );
            }
        }
        if self.feeds && !answered.contains(&false) {
            notify::tell("WATCHDOG=1");
        }
    }
}
