//! Threads for file operations: a call that a file system never answers holds one of them, and
//! never the thread that moves packets.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::cpu;
use crate::deadline::Deadline;
use crate::file::{FileDone, FileOp, run};
use crate::op::Completion;
use crate::wake::WakeHandle;

/// Threads that are started as soon as there is something to do: enough for calls that are answered
/// from memory, and for a disk to have a queue.
const THREADS_AT_ONCE: usize = 4;

/// Most threads of one driver. One that hangs is never got back; whoever asks for operations bounds
/// how many of them may hang, and stays below this.
const THREADS_MAX: usize = 512;

/// When the oldest operation was not begun for so long, all threads are taken to be waiting, and
/// another is started.
const STALLED: Duration = Duration::from_millis(5);

/// A thread without work ends after so long.
const IDLE: Duration = Duration::from_secs(10);

/// `run` needs a few kilobytes; the names of a directory are read into the heap.
const STACK_BYTES: usize = 128 << 10;

/// The threads of one driver.
pub(crate) struct Threads {
    shared: Arc<ThreadsShared>,
    /// Operations given and not taken back.
    in_flight: usize,
    /// Of the operation that waits longest, if all threads are busy: how many had been begun before
    /// it, and until when others are awaited.
    stalled: Option<(u64, Deadline)>,
}

struct ThreadsShared {
    state: Mutex<ThreadsState>,
    has_jobs: Condvar,
    /// Whether `state.done` holds something, known without its lock.
    has_done: AtomicBool,
    wake: WakeHandle,
}

#[derive(Default)]
struct ThreadsState {
    jobs: VecDeque<(u64, FileOp)>,
    done: Vec<(u64, io::Result<FileDone>)>,
    /// Threads that wait for a job, and how many of them were woken for one and did not see it yet.
    idle: usize,
    woken: usize,
    threads: usize,
    /// Jobs begun so far.
    begun: u64,
    is_over: bool,
}

impl Threads {
    /// `wake`: of the driver, which is woken when something is done.
    pub(crate) fn new(wake: WakeHandle) -> Threads {
        Threads {
            shared: Arc::new(ThreadsShared {
                state: Mutex::default(),
                has_jobs: Condvar::new(),
                has_done: AtomicBool::new(false),
                wake,
            }),
            in_flight: 0,
            stalled: None,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Has a thread run the operation. `Some`: there is none, and none can be started.
    pub(crate) fn push(&mut self, token: u64, op: FileOp) -> Option<Completion> {
        let mut state = self.shared.lock();
        state.jobs.push_back((token, op));
        self.in_flight += 1;
        if state.idle > state.woken {
            state.woken += 1;
            drop(state);
            self.shared.has_jobs.notify_one();
            return None;
        }
        if state.threads < THREADS_AT_ONCE
            && let Err(error) = self.shared.start(&mut state)
            && state.threads == 0
        {
            state.jobs.pop_back();
            self.in_flight -= 1;
            let result = Err(error);
            return Some(Completion::File { token, result });
        }
        None
    }

    /// How long to wait at most before [`Threads::grow`] is to look again.
    pub(crate) fn patience(&mut self) -> Option<Duration> {
        if self.in_flight == 0 {
            self.stalled = None;
            return None;
        }
        let state = self.shared.lock();
        let waits = !state.jobs.is_empty() && state.threads < THREADS_MAX;
        let begun = state.begun;
        drop(state);
        self.stalled = match self.stalled {
            _ if !waits => None,
            Some((before, until)) if before == begun => Some((before, until)),
            Some(_) | None => Some((begun, Deadline::after(Some(STALLED)))),
        };
        self.stalled.and_then(|(_, until)| until.left())
    }

    /// Starts another thread if all of them have been waiting for a while.
    pub(crate) fn grow(&mut self) {
        let Some((before, until)) = self.stalled else {
            return;
        };
        if until.left() == Some(Duration::ZERO) {
            self.stalled = None;
            let mut state = self.shared.lock();
            if state.begun == before {
                // Without another thread the operation waits for one of those that there are.
                let _ = self.shared.start(&mut state);
            }
        }
    }

    /// Gives what was done.
    pub(crate) fn take_done(&mut self, ready: &mut VecDeque<Completion>) {
        if !self.shared.has_done.swap(false, Ordering::AcqRel) {
            return;
        }
        let done = std::mem::take(&mut self.shared.lock().done);
        self.in_flight -= done.len();
        ready.extend(
            done.into_iter()
                .map(|(token, result)| Completion::File { token, result }),
        );
    }

    /// What was not begun never is. What was goes on by itself: a thread owns what it works with.
    /// What was done and not taken goes now: a thread that hangs keeps what all of them share, and
    /// would keep the descriptors that were opened for nobody.
    pub(crate) fn abandon(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        let unwanted = (
            std::mem::take(&mut state.jobs),
            std::mem::take(&mut state.done),
        );
        drop(state);
        self.shared.has_jobs.notify_all();
        drop(unwanted);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl ThreadsShared {
    fn lock(&self) -> MutexGuard<'_, ThreadsState> {
        // Nothing that can panic is done under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>, state: &mut ThreadsState) -> io::Result<()> {
        let shared = Arc::clone(self);
        thread::Builder::new()
            .name("landro-file".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.work())?;
        state.threads += 1;
        Ok(())
    }

    fn work(&self) {
        // The thread that started this one may be pinned; this one is to be where there is room.
        let _ = cpu::unpin();
        let mut state = self.lock();
        loop {
            if let Some((token, op)) = state.jobs.pop_front() {
                state.begun += 1;
                drop(state);
                let result = run(op);
                state = self.lock();
                // A descriptor that was opened for nobody is closed with the result.
                if !state.is_over {
                    state.done.push((token, result));
                    drop(state);
                    self.has_done.store(true, Ordering::Release);
                    self.wake.nudge();
                    state = self.lock();
                }
                continue;
            }
            if state.is_over {
                break;
            }
            state.idle += 1;
            let waited = self.has_jobs.wait_timeout(state, IDLE);
            let timeout;
            (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            state.woken = state.woken.saturating_sub(1);
            if timeout.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}
