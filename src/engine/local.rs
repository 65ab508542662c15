//! A copy within this host, on a thread of its own: a file system that does not answer keeps that
//! thread, and not the one that hears signals.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{EngineError, demand_calls};
use crate::proto::session::Transfer;
use crate::proto::{Event, Outcome, errors};
use crate::worker;

/// Events that wait for the reader before the copy waits for it.
const EVENTS_MAX: usize = 4096;

/// So many wake the reader, which then mostly comes before the copy has to wait.
const EVENTS_MANY: usize = EVENTS_MAX / 2;

/// A copy under way.
pub struct LocalCopy {
    shared: Arc<Mutual>,
}

/// What happened since it was last asked.
pub struct LocalNews {
    pub events: Vec<Event>,
    /// Operations on files begun so far: as long as this grows, the copy gets on.
    pub steps: u64,
    pub ended: Option<io::Result<Outcome>>,
}

#[derive(Default)]
struct Mutual {
    state: Mutex<LocalProgress>,
    changed: Condvar,
}

#[derive(Default)]
struct LocalProgress {
    events: Vec<Event>,
    steps: u64,
    /// The name that the operation under way is about.
    about: Vec<u8>,
    is_asked_to_stop: bool,
    ended: Option<io::Result<Outcome>>,
}

impl LocalCopy {
    /// Starts to copy. It may go on behind the back of a caller that does not wait for its end.
    ///
    /// # Errors
    /// When there is no thread to be had, or a sandbox forbids what is needed. What goes wrong with
    /// single entries is an event.
    pub fn start(transfer: Transfer) -> Result<LocalCopy, EngineError> {
        demand_calls()?;
        let shared = Arc::new(Mutual::default());
        let copying = shared.clone();
        let run = move || {
            // Without, it is but slower.
            let _ = landro_sys::process::own_descriptors();
            let step = |about: &[u8]| copying.step(about);
            let ended = worker::copy_locally(&transfer, &step, &mut |event| copying.tell(event));
            copying.lock().ended = Some(ended);
            copying.changed.notify_all();
        };
        let name = "landro-copy".to_owned();
        let started = thread::Builder::new().name(name).spawn(run);
        started.map_err(EngineError::Thread)?;
        Ok(LocalCopy { shared })
    }

    /// What is new, at the latest after `wait`, at once when the copy ended.
    pub fn next(&self, wait: Duration) -> LocalNews {
        let state = self.shared.lock();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, wait, |state| {
                state.ended.is_none() && state.events.len() < EVENTS_MANY
            });
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let news = LocalNews {
            events: std::mem::take(&mut state.events),
            steps: state.steps,
            ended: state.ended.take(),
        };
        drop(state);
        self.shared.changed.notify_all();
        news
    }

    /// Has it stop before the next operation.
    pub fn stop(&self) {
        self.shared.lock().is_asked_to_stop = true;
    }

    /// How a copy ends whose operation under way is not waited for any more.
    pub fn stalled(&self, silence: Duration) -> Outcome {
        let state = self.shared.lock();
        let about = Some(&state.about[..]).filter(|about| !about.is_empty());
        Outcome::Stalled {
            totals: Default::default(),
            text: errors::stalled(errors::HostSide::Only, true, about, silence),
        }
    }
}

impl Mutual {
    fn lock(&self) -> MutexGuard<'_, LocalProgress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation begins. True: it is to stop instead.
    fn step(&self, about: &[u8]) -> bool {
        let mut state = self.lock();
        state.steps += 1;
        state.about.clear();
        state.about.extend_from_slice(about);
        state.is_asked_to_stop
    }

    fn tell(&self, event: Event) {
        let state = self.lock();
        let full = |state: &mut LocalProgress| state.events.len() >= EVENTS_MAX;
        if state.events.len() + 1 == EVENTS_MANY {
            self.changed.notify_all();
        }
        let waited = self.changed.wait_while(state, full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.events.push(event);
    }
}
