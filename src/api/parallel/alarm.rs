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
    /// The transfer is over, or something has moved though the alarm has rung.
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
                self.rings.notify(usize::MAX);
                // Until something moves after all, or the transfer is over.
                let waited = self.over.wait(times);
                times = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
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

    /// Something has moved: an alarm that has rung, and was not heard so far, rings no more.
    pub fn moved(&self, now: Instant) {
        let mut times = self.0.times();
        times.moved_at = now;
        if std::mem::take(&mut times.has_rung) {
            self.0.over.notify_all();
        }
    }

    /// Whether it rings now.
    pub fn has_rung(&self) -> bool {
        self.0.times().has_rung
    }

    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Resolves when nothing has moved for as long as that may be.
    pub async fn rings(&self) {
        loop {
            let rings = self.0.rings.listen();
            if self.has_rung() {
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

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn what_moves_before_the_alarm_is_heard_is_not_too_late() {
        let alarm = StallAlarm::start(Duration::from_millis(20)).unwrap();
        for _ in 0..3 {
            block_on(alarm.rings());
            let rung_at = engine::now();
            alarm.moved(rung_at);
            assert!(!alarm.has_rung());
            block_on(alarm.rings());
            assert!(engine::now() - rung_at >= Duration::from_millis(20));
        }
    }
}
