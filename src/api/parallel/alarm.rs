//! Whether anything has moved: a thread that waits beside a transfer, and ends it where nothing
//! does.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use event_listener::Event;

use crate::engine;

/// The alarm of one transfer; dropped, its thread ends.
pub(super) struct StallAlarm(Arc<AlarmState>);

struct AlarmState {
    timeout: Duration,
    times: Mutex<AlarmTimes>,
    over: Condvar,
    rings: Event,
}

struct AlarmTimes {
    moved_at: Instant,
    is_over: bool,
    has_rung: bool,
}

impl AlarmState {
    fn times(&self) -> MutexGuard<'_, AlarmTimes> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let mut times = self.times();
        while !times.is_over {
            let idle = engine::now().saturating_duration_since(times.moved_at);
            let Some(left) = self
                .timeout
                .checked_sub(idle)
                .filter(|left| !left.is_zero())
            else {
                times.has_rung = true;
                drop(times);
                self.rings.notify(usize::MAX);
                return;
            };
            let waited = self.over.wait_timeout(times, left);
            times = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl StallAlarm {
    pub fn start(timeout: Duration) -> io::Result<StallAlarm> {
        let state = Arc::new(AlarmState {
            timeout,
            times: Mutex::new(AlarmTimes {
                moved_at: engine::now(),
                is_over: false,
                has_rung: false,
            }),
            over: Condvar::new(),
            rings: Event::new(),
        });
        let watched = Arc::clone(&state);
        thread::Builder::new()
            .name("landro-stall".to_owned())
            .spawn(move || watched.watch())?;
        Ok(StallAlarm(state))
    }

    /// Something has moved.
    pub fn moved(&self, now: Instant) {
        self.0.times().moved_at = now;
    }

    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Resolves when nothing has moved for as long as that may be.
    pub async fn rings(&self) {
        loop {
            let rings = self.0.rings.listen();
            if self.0.times().has_rung {
                return;
            }
            rings.await;
        }
    }
}

impl Drop for StallAlarm {
    fn drop(&mut self) {
        self.0.times().is_over = true;
        self.0.over.notify_all();
    }
}
