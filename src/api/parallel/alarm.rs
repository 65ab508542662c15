//! Whether anything has moved: a thread that waits beside transfers, and ends the one where nothing
//! does.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use event_listener::Event;

use crate::engine;

/// The alarms of transfers of which one is under way at a time. The thread is started with the
/// first, for a short transfer takes no longer than that start, and ends when this is dropped.
#[derive(Default)]
pub(super) struct StallAlarms(OnceLock<Arc<AlarmState>>);

/// The alarm of one transfer, set until it is dropped.
pub(super) struct StallAlarm(Arc<AlarmState>);

struct AlarmState {
    times: Mutex<AlarmTimes>,
    /// For the thread: it is to look anew.
    changed: Condvar,
    rings: Event,
}

struct AlarmTimes {
    timeout: Duration,
    moved_at: Instant,
    phase: AlarmPhase,
    has_rung: bool,
    /// The thread waits for `changed` alone, and would not look by itself.
    sleeps: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AlarmPhase {
    /// A transfer is under way. Next: Idle.
    Set,
    /// None is. Next: Set, Over.
    Idle,
    /// There will be none.
    Over,
}

impl AlarmState {
    fn times(&self) -> MutexGuard<'_, AlarmTimes> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let mut times = self.times();
        while times.phase != AlarmPhase::Over {
            let idle = engine::now().saturating_duration_since(times.moved_at);
            let left = times.timeout.checked_sub(idle);
            // Between transfers, too: the next one finds a thread that need not be woken.
            if let Some(left) = left.filter(|left| !left.is_zero()) {
                let waited = self.changed.wait_timeout(times, left);
                times = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if times.phase == AlarmPhase::Set {
                times.has_rung = true;
                self.rings.notify(usize::MAX);
            }
            // Until something moves after all, or another transfer begins.
            times.sleeps = true;
            let waited = self.changed.wait(times);
            times = waited.unwrap_or_else(PoisonError::into_inner);
            times.sleeps = false;
        }
    }

    /// From now on.
    fn set(&self, timeout: Duration) {
        let mut times = self.times();
        let looks_in_time = !times.sleeps && timeout >= times.timeout;
        times.timeout = timeout;
        times.moved_at = engine::now();
        times.phase = AlarmPhase::Set;
        times.has_rung = false;
        if !looks_in_time {
            self.changed.notify_all();
        }
    }
}

impl StallAlarms {
    /// Sets the alarm for a transfer.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(&self, timeout: Duration) -> io::Result<StallAlarm> {
        if let Some(state) = self.0.get() {
            state.set(timeout);
            return Ok(StallAlarm(Arc::clone(state)));
        }
        let state = Arc::new(AlarmState {
            times: Mutex::new(AlarmTimes {
                timeout,
                moved_at: engine::now(),
                phase: AlarmPhase::Set,
                has_rung: false,
                sleeps: false,
            }),
            changed: Condvar::new(),
            rings: Event::new(),
        });
        let watched = Arc::clone(&state);
        thread::Builder::new()
            .name("landro-stall".to_owned())
            .spawn(move || watched.watch())?;
        let state = self.0.get_or_init(|| state);
        Ok(StallAlarm(Arc::clone(state)))
    }
}

impl Drop for StallAlarms {
    fn drop(&mut self) {
        if let Some(state) = self.0.get() {
            state.times().phase = AlarmPhase::Over;
            state.changed.notify_all();
        }
    }
}

impl StallAlarm {
    /// Something has moved: an alarm that has rung, and was not heard so far, rings no more.
    pub fn moved(&self, now: Instant) {
        let mut times = self.0.times();
        times.moved_at = now;
        times.has_rung = false;
        if times.sleeps {
            self.0.changed.notify_all();
        }
    }

    /// Whether it rings now.
    pub fn has_rung(&self) -> bool {
        self.0.times().has_rung
    }

    pub fn timeout(&self) -> Duration {
        self.0.times().timeout
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
        let mut times = self.0.times();
        // Where nobody sets it any more, the thread has ended or is about to.
        if times.phase == AlarmPhase::Set {
            times.phase = AlarmPhase::Idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn what_moves_before_the_alarm_is_heard_is_not_too_late() {
        let alarms = StallAlarms::default();
        let alarm = alarms.start(Duration::from_millis(20)).unwrap();
        for _ in 0..3 {
            block_on(alarm.rings());
            let rung_at = engine::now();
            alarm.moved(rung_at);
            assert!(!alarm.has_rung());
            block_on(alarm.rings());
            assert!(engine::now() - rung_at >= Duration::from_millis(20));
        }
    }

    #[test]
    fn each_transfer_has_an_alarm_of_its_own() {
        let alarms = StallAlarms::default();
        let timeout = Duration::from_millis(20);
        for _ in 0..3 {
            let begun = engine::now();
            let alarm = alarms.start(timeout).unwrap();
            assert!(!alarm.has_rung(), "that was the one before");
            block_on(alarm.rings());
            assert!(engine::now() - begun >= timeout);
        }
        // One that is shorter than what the thread waits for rings in its own time.
        let hour = Duration::from_secs(3600);
        drop(alarms.start(hour).unwrap());
        block_on(alarms.start(timeout).unwrap().rings());
        // None is set: nothing rings.
        let state = Arc::clone(alarms.0.get().unwrap());
        drop(alarms.start(timeout).unwrap());
        thread::sleep(3 * timeout);
        assert!(!state.times().has_rung);
    }
}
