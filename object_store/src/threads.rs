//! Threads that carry out what would block, or must get on although nobody polls it.
//!
//! A store's puts are futures of landro, which need no thread. If whoever asked polled them, one
//! that is asked for and then left alone would keep its place among the few that run at once, and
//! those that wait for a place might wait for ever. Here work that was begun ends whatever its
//! caller does, and gives its place back.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use futures_channel::oneshot;

/// How long a thread without work waits for some before it ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// Why work was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ThreadError {
    #[error(
        "cannot start a thread for it: {0}; are the processes of this user or cgroup used up \
         (ulimit -u, TasksMax=)?"
    )]
    NoThread(io::Error),
    #[error("its thread failed; this is a bug in landro-object-store")]
    Panicked,
}

/// At most so many threads, started as they are needed. Work waits its turn in the order in which
/// it came. They end behind what they are at when this is dropped.
pub(crate) struct StoreThreads {
    shared: Arc<SharedWork>,
}

struct SharedWork {
    name: &'static str,
    threads_max: usize,
    state: Mutex<WorkState>,
    changed: Condvar,
}

#[derive(Default)]
struct WorkState {
    /// Each with its number.
    jobs: VecDeque<(u64, Job)>,
    last_number: u64,
    threads: usize,
    /// Of these, those that wait for work.
    idle: usize,
    is_over: bool,
}

/// Work of a caller who waits for it. Where he goes, it leaves the queue: callers who try again and
/// again behind requests that take long would have any number there.
struct Queued<'a> {
    shared: &'a SharedWork,
    number: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let at = state
            .jobs
            .iter()
            .position(|(number, _)| *number == self.number);
        let job = at.and_then(|at| state.jobs.remove(at));
        drop(state);
        // What it holds is dropped without the lock.
        drop(job);
    }
}

/// Who waits for the result of some work.
pub(crate) struct Caller<T>(oneshot::Sender<T>);

impl<T> Caller<T> {
    /// Polls on this thread until it is done. `None`: the caller has gone, and the future was
    /// dropped.
    pub(crate) fn wait<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        block_on(poll_fn(|context| {
            if let Poll::Ready(done) = future.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            self.0.poll_canceled(context).map(|()| None)
        }))
    }

    /// Whether nobody waits any more.
    pub(crate) fn has_gone(&self) -> bool {
        self.0.is_canceled()
    }
}

impl StoreThreads {
    pub(crate) fn new(name: &'static str, threads_max: usize) -> StoreThreads {
        StoreThreads {
            shared: Arc::new(SharedWork {
                name,
                threads_max,
                state: Mutex::default(),
                changed: Condvar::new(),
            }),
        }
    }

    /// Has it done, and waits. Work that gives `None` gave up since its caller had gone.
    ///
    /// # Cancel safety
    /// Dropped before its turn, the work is not done; after that [`Caller`] says so to it.
    pub(crate) async fn run<T, W>(&self, work: W) -> Result<T, ThreadError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Caller<T>) -> Option<T> + Send + 'static,
    {
        let (sender, done) = oneshot::channel();
        let mut caller = Caller(sender);
        let job = move || {
            if !caller.has_gone()
                && let Some(result) = work(&mut caller)
            {
                // Nobody may be left who wants it.
                let _ = caller.0.send(result);
            }
        };
        let queued = self.take_on(Box::new(job));
        let _queued = queued.map_err(ThreadError::NoThread)?;
        done.await.map_err(|_| ThreadError::Panicked)
    }

    fn take_on(&self, job: Job) -> io::Result<Queued<'_>> {
        let mut state = self.shared.state();
        state.last_number += 1;
        let number = state.last_number;
        state.jobs.push_back((number, job));
        let needs_thread = state.jobs.len() > state.idle && state.threads < self.shared.threads_max;
        if needs_thread {
            let shared = self.shared.clone();
            let started = thread::Builder::new()
                .name(self.shared.name.to_owned())
                .spawn(move || shared.work());
            match started {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    state.jobs.pop_back();
                    return Err(error);
                }
                // Those that there are get to it.
                Err(_) => {}
            }
        }
        drop(state);
        self.shared.changed.notify_one();
        Ok(Queued {
            shared: &self.shared,
            number,
        })
    }
}

impl Drop for StoreThreads {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.changed.notify_all();
    }
}

impl SharedWork {
    fn state(&self) -> MutexGuard<'_, WorkState> {
        // Every critical section leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(job) = self.next_job() {
            // Whoever waits hears of it, for what was to tell them is dropped; others have work.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    /// `None`: there is nothing to do, and the thread does not count any more.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if let Some((_, job)) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.is_over {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let waited = self.changed.wait_timeout(state, IDLE);
            let (woken, time) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if time.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

struct Unpark {
    thread: Thread,
    /// Somebody else may take the thread's token while it polls.
    is_woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Polls on this thread until it is done.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let unpark = Arc::new(Unpark {
        thread: thread::current(),
        is_woken: AtomicBool::new(false),
    });
    let waker = Waker::from(unpark.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
        while !unpark.is_woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    #[test]
    fn all_is_done_by_no_more_threads_than_may_be() {
        let threads = StoreThreads::new("test", 3);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = (0..40).map(|number| {
            let (now, most) = (now.clone(), most.clone());
            threads.run(move |_| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2));
                now.fetch_sub(1, Ordering::SeqCst);
                Some(number)
            })
        });
        let done: Vec<u32> = block_on(join_all(work))
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(done, Vec::from_iter(0..40));
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    }

    #[test]
    fn who_goes_away_is_not_worked_for() {
        let threads = StoreThreads::new("test", 1);
        let (begin, begun) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        // Waits for ever, unless its caller goes.
        let mut first = Box::pin(threads.run(move |caller: &mut Caller<()>| {
            begin.send(()).unwrap();
            let waited = caller.wait(pending());
            end.send((waited, caller.has_gone())).unwrap();
            waited
        }));
        let mut second = Box::pin(threads.run(|_| -> Option<()> { panic!("nobody wants it") }));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        begun.recv().unwrap();
        let mut third = Box::pin(threads.run(|_| -> Option<()> { panic!("nor this") }));
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(threads.shared.state().jobs.len(), 2);
        drop(third);
        assert_eq!(threads.shared.state().jobs.len(), 1, "it left the queue");
        drop((second, first));
        assert_eq!(ended.recv().unwrap(), (None, true));
        assert_eq!(block_on(threads.run(|_| Some(5))).unwrap(), 5);
    }

    #[test]
    fn work_that_panics_is_an_error_and_others_go_on() {
        let threads = StoreThreads::new("test", 1);
        let failed = block_on(threads.run(|_| -> Option<()> { panic!("as the test wants it") }));
        assert!(matches!(failed, Err(ThreadError::Panicked)), "{failed:?}");
        assert_eq!(block_on(threads.run(|_| Some(5))).unwrap(), 5);
    }

    #[test]
    fn they_end_with_who_has_them() {
        let threads = StoreThreads::new("test", 2);
        let shared = threads.shared.clone();
        block_on(threads.run(|_| Some(()))).unwrap();
        assert_eq!(shared.state().threads, 1);
        drop(threads);
        let mut state = shared.state();
        while state.threads > 0 {
            drop(state);
            thread::yield_now();
            state = shared.state();
        }
        assert!(state.jobs.is_empty());
    }
}
