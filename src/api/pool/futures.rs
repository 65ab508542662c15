//! Futures that one thread polls: it sleeps until one of them is woken, somebody rings, or a moment
//! has come.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// What the thread sleeps on. Wakers ring it from any thread and with any lock held, so nothing is
/// called from in here.
#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    /// Futures that were woken; each stands here once.
    woken: Vec<u64>,
    is_rung: bool,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, Rung> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread is to have a turn.
    pub(super) fn ring(&self) {
        self.state().is_rung = true;
        self.changed.notify_one();
    }

    fn woke(&self, number: u64) {
        self.state().woken.push(number);
        self.changed.notify_one();
    }

    /// Sleeps until there is something to do, but no longer than that.
    pub(super) fn wait(&self, at_most: Option<Duration>) {
        let is_quiet = |rung: &mut Rung| !rung.is_rung && rung.woken.is_empty();
        let state = self.state();
        let mut state = match at_most {
            Some(at_most) => {
                let woken = self.changed.wait_timeout_while(state, at_most, is_quiet);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let woken = self.changed.wait_while(state, is_quiet);
                woken.unwrap_or_else(PoisonError::into_inner)
            }
        };
        state.is_rung = false;
    }
}

/// The waker of one future.
struct FutureWaker {
    number: u64,
    bell: Arc<Bell>,
    /// It stands in the list of those that were woken.
    is_woken: AtomicBool,
}

impl Wake for FutureWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.bell.woke(self.number);
        }
    }
}

type BoxedFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct PolledFuture<T> {
    future: BoxedFuture<T>,
    waker: Arc<FutureWaker>,
}

/// The futures of one thread, by number.
pub(super) struct PolledFutures<T> {
    bell: Arc<Bell>,
    all: HashMap<u64, PolledFuture<T>>,
}

impl<T> PolledFutures<T> {
    pub(super) fn new(bell: Arc<Bell>) -> PolledFutures<T> {
        let all = HashMap::new();
        PolledFutures { bell, all }
    }

    /// Takes another one in, in the place of one of the same number.
    pub(super) fn insert(&mut self, number: u64, future: impl Future<Output = T> + Send + 'static) {
        let waker = Arc::new(FutureWaker {
            number,
            bell: self.bell.clone(),
            is_woken: AtomicBool::new(false),
        });
        waker.wake_by_ref();
        let future: BoxedFuture<T> = Box::pin(future);
        self.all.insert(number, PolledFuture { future, waker });
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.all.remove(&number);
    }

    /// Polls those that were woken. Gives what came of those that are complete.
    pub(super) fn poll(&mut self) -> Vec<T> {
        let woken = std::mem::take(&mut self.bell.state().woken);
        let mut complete = Vec::new();
        for number in woken {
            let Some(polled) = self.all.get_mut(&number) else {
                continue;
            };
            polled.waker.is_woken.store(false, Ordering::Release);
            let waker = Waker::from(polled.waker.clone());
            let mut context = Context::from_waker(&waker);
            if let Poll::Ready(output) = polled.future.as_mut().poll(&mut context) {
                self.all.remove(&number);
                complete.push(output);
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use event_listener::Event;

    use super::*;

    #[test]
    fn who_is_woken_is_polled_and_the_thread_sleeps_else() {
        let bell = Arc::<Bell>::default();
        let mut futures = PolledFutures::new(bell.clone());
        let event = Arc::new(Event::new());
        for number in 0..3_u64 {
            let listener = event.listen();
            futures.insert(number, async move {
                if number > 0 {
                    listener.await;
                }
                number
            });
        }
        bell.wait(None);
        assert_eq!(futures.poll(), [0]);
        bell.wait(Some(Duration::from_millis(1)));
        assert!(futures.poll().is_empty());
        futures.remove(2);
        let wakes = event.clone();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            wakes.notify(usize::MAX);
        });
        bell.wait(None);
        assert_eq!(futures.poll(), [1]);
        thread.join().unwrap();
        bell.ring();
        bell.wait(None);
        assert!(futures.poll().is_empty());
    }
}
