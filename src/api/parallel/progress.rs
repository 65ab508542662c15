//! How far a transfer is, for whoever watches it: the latest numbers, and never a queue of older
//! ones.

use std::cmp::Ordering;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use event_listener::{Event, EventListener};
use futures_core::Stream;

/// How far a transfer of chunks is.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransferProgress {
    /// Chunks that are needed.
    pub chunks: usize,
    /// Of these, those that have an outcome.
    pub finished_chunks: usize,
    /// Bytes that are needed.
    pub total_bytes: u64,
    /// Bytes that the peer's transport has acknowledged.
    pub acknowledged_bytes: u64,
    /// Streams that are used at a time now.
    pub streams: usize,
    /// Bytes of memory that are in use: taken before a chunk was asked for, and not acknowledged.
    pub buffered_bytes: usize,
    /// Bytes a second that were acknowledged within the last `bandwidth_window`.
    pub bytes_per_second: u64,
}

/// The place where a manager leaves its numbers.
#[derive(Default)]
pub(super) struct ProgressBoard {
    state: Mutex<BoardState>,
    /// For who watches.
    changed: Event,
    /// For the transfer. It is another event: a transfer that listened to its own numbers would
    /// wake itself with each of them.
    cancelled: Event,
}

#[derive(Default)]
struct BoardState {
    latest: TransferProgress,
    /// Counts what was left here.
    version: u64,
    /// Counts transfers.
    transfer: u64,
    is_running: bool,
    is_cancelled: bool,
    /// No transfer comes any more.
    is_gone: bool,
}

impl ProgressBoard {
    fn state(&self) -> MutexGuard<'_, BoardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut BoardState) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify(usize::MAX);
        changed
    }

    /// A transfer begins. `None`: another runs.
    pub fn begin(&self) -> Option<BoardTransfer<'_>> {
        let begun = self.change(|state| {
            let is_free = !state.is_running;
            if is_free {
                state.is_running = true;
                state.is_cancelled = false;
                state.transfer += 1;
                state.latest = TransferProgress::default();
            }
            is_free
        });
        begun.then(|| BoardTransfer(self))
    }

    pub fn update(&self, latest: TransferProgress) {
        let mut state = self.state();
        if state.latest != latest {
            state.latest = latest;
            state.version += 1;
            drop(state);
            self.changed.notify(usize::MAX);
        }
    }

    pub fn cancel(&self) {
        self.state().is_cancelled = true;
        self.cancelled.notify(usize::MAX);
    }

    pub async fn cancelled(&self) {
        loop {
            let cancelled = self.cancelled.listen();
            if self.state().is_cancelled {
                return;
            }
            cancelled.await;
        }
    }

    pub fn gone(&self) {
        self.change(|state| state.is_gone = true);
    }
}

/// Until it is dropped, a transfer runs.
pub(super) struct BoardTransfer<'a>(&'a ProgressBoard);

impl Drop for BoardTransfer<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.is_running = false);
    }
}

/// Numbers of one transfer: the one that runs, else the next. Whoever takes them seldom misses
/// those between. It ends behind the last ones of that transfer.
pub struct ProgressStream {
    board: Arc<ProgressBoard>,
    /// Which transfer. It is known before it begins, so that one that is over before this is first
    /// asked is not waited for.
    transfer: u64,
    seen: u64,
    waits: Option<Pin<Box<EventListener>>>,
}

impl ProgressStream {
    pub(super) fn new(board: Arc<ProgressBoard>) -> ProgressStream {
        let (transfer, seen) = {
            let state = board.state();
            let next = u64::from(!state.is_running);
            (state.transfer + next, state.version)
        };
        ProgressStream {
            board,
            transfer,
            seen,
            waits: None,
        }
    }

    /// The next numbers, when some have changed. `None`: the transfer is over.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<TransferProgress> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn look(&mut self) -> Poll<Option<TransferProgress>> {
        let state = self.board.state();
        match self.transfer.cmp(&state.transfer) {
            Ordering::Greater if state.is_gone => return Poll::Ready(None),
            Ordering::Greater => return Poll::Pending,
            Ordering::Less => return Poll::Ready(None),
            Ordering::Equal => {}
        }
        if self.seen != state.version {
            self.seen = state.version;
            return Poll::Ready(Some(state.latest));
        }
        match state.is_running {
            true => Poll::Pending,
            false => Poll::Ready(None),
        }
    }
}

impl Stream for ProgressStream {
    type Item = TransferProgress;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<TransferProgress>> {
        loop {
            if let ready @ Poll::Ready(_) = self.look() {
                self.waits = None;
                return ready;
            }
            let Some(waits) = &mut self.waits else {
                // And looks again: something may have come before there was somebody to tell.
                self.waits = Some(Box::pin(self.board.changed.listen()));
                continue;
            };
            if waits.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.waits = None;
        }
    }
}

impl fmt::Debug for ProgressStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressStream")
            .field("transfer", &self.transfer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn poll(stream: &mut ProgressStream) -> Poll<Option<TransferProgress>> {
        Pin::new(stream).poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_stream_ends_with_its_transfer_though_it_was_not_asked_before() {
        let board = Arc::<ProgressBoard>::default();
        let mut first = ProgressStream::new(Arc::clone(&board));
        let mut unasked = ProgressStream::new(Arc::clone(&board));
        assert_eq!(poll(&mut first), Poll::Pending);
        drop(board.begin());
        assert_eq!(poll(&mut first), Poll::Ready(None));
        assert_eq!(poll(&mut unasked), Poll::Ready(None));
        // The numbers of a later transfer are another stream's.
        let mut second = ProgressStream::new(Arc::clone(&board));
        let runs = board.begin();
        let mut joined = ProgressStream::new(Arc::clone(&board));
        let numbers = TransferProgress {
            chunks: 3,
            ..Default::default()
        };
        board.update(numbers);
        assert_eq!(poll(&mut first), Poll::Ready(None));
        assert_eq!(poll(&mut joined), Poll::Ready(Some(numbers)));
        assert_eq!(poll(&mut joined), Poll::Pending);
        drop(runs);
        assert_eq!(poll(&mut joined), Poll::Ready(None));
        assert_eq!(poll(&mut second), Poll::Ready(Some(numbers)));
        assert_eq!(poll(&mut second), Poll::Ready(None));
        let mut third = ProgressStream::new(Arc::clone(&board));
        assert_eq!(poll(&mut third), Poll::Pending);
        board.gone();
        assert_eq!(poll(&mut third), Poll::Ready(None));
    }
}
