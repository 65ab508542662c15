//! How connections reach who waits for them: the answer to a dial, and the queue of those that
//! peers began.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::{Event, EventListener};
use landro_sys::UdpOptions;

use super::attached::Hold;
use super::tickets::{Ticket, Tickets};
use crate::ids::Fingerprint;
use crate::quic::Setup;

/// Connections that wait to be accepted, of a process; who comes then is turned away.
const WAITING_MAX: usize = 128;

/// Connections that wait to be begun on one worker, between two of its turns.
const STARTS_MAX: usize = 256;

/// Why there is no connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConnectFailure {
    /// As many are being dialled as may.
    Busy,
    /// What each address said.
    NoAnswer(String),
    /// Whoever answered is not trusted, or does not trust us.
    Refused {
        by_peer: bool,
        shown: Option<Fingerprint>,
    },
    /// The engine ends.
    ShuttingDown,
}

/// Whom to connect to, and who waits for it.
pub struct ConnectStart {
    pub to: Vec<SocketAddr>,
    /// Whom to trust, what to speak.
    pub setup: Setup,
    pub socket_options: UdpOptions,
    /// To resume a session with, where data is to be sent at once.
    pub ticket: Option<Ticket>,
    /// Where the next one is to be kept, and as what.
    pub tickets: (Arc<Tickets>, String),
    pub answer: Owed,
}

/// Connections that wait to be begun on one worker. Not mail: what is in a mailbox is dropped with
/// the last who may write to it, which is later than its worker.
#[derive(Default)]
pub struct ConnectQueue(Mutex<Waiting>);

enum Waiting {
    For(Vec<ConnectStart>),
    /// The worker has ended.
    Over,
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting::For(Vec::new())
    }
}

impl ConnectQueue {
    /// Leaves one for the worker, which is to be woken then; or answers it.
    pub(crate) fn leave(&self, start: ConnectStart) {
        let mut waiting = self.waiting();
        match &mut *waiting {
            Waiting::For(starts) if starts.len() < STARTS_MAX => starts.push(start),
            Waiting::For(_) => {
                drop(waiting);
                start.answer.0.give(Err(ConnectFailure::Busy));
            }
            Waiting::Over => {
                drop(waiting);
                drop(start);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !matches!(&*self.waiting(), Waiting::For(starts) if !starts.is_empty())
    }

    /// Takes all.
    pub(crate) fn take(&self) -> Vec<ConnectStart> {
        match &mut *self.waiting() {
            Waiting::For(starts) => std::mem::take(starts),
            Waiting::Over => Vec::new(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's end of its queue: whatever becomes of the worker, who waits is told.
pub(crate) struct ConnectsEnd(pub(crate) Arc<ConnectQueue>);

impl Drop for ConnectsEnd {
    fn drop(&mut self) {
        let left = std::mem::replace(&mut *self.0.waiting(), Waiting::Over);
        drop(left);
    }
}

/// What came of dialling, for the one who waits.
#[derive(Default)]
pub struct Answer {
    result: Mutex<Option<Result<Hold, ConnectFailure>>>,
    changed: Event,
    /// Who waited does not any more.
    is_forgotten: AtomicBool,
    is_given: AtomicBool,
}

/// The worker's part of an answer, which is given whatever becomes of the worker.
pub struct Owed(pub Arc<Answer>);

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.0.is_given.load(Ordering::Acquire) {
            self.0.give(Err(ConnectFailure::ShuttingDown));
        }
    }
}

impl Answer {
    pub(crate) fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    pub(crate) fn take(&self) -> Option<Result<Hold, ConnectFailure>> {
        self.result().take()
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.is_forgotten.load(Ordering::Acquire)
    }

    pub(crate) fn forget(&self) {
        self.is_forgotten.store(true, Ordering::Release);
        // A connection that came at the same moment is closed.
        drop(self.take());
    }

    pub(crate) fn give(&self, result: Result<Hold, ConnectFailure>) {
        self.is_given.store(true, Ordering::Release);
        *self.result() = Some(result);
        self.changed.notify(usize::MAX);
        if self.is_forgotten.load(Ordering::Acquire) {
            drop(self.take());
        }
    }

    fn result(&self) -> MutexGuard<'_, Option<Result<Hold, ConnectFailure>>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections that wait to be accepted by whoever holds the listener.
#[derive(Default)]
pub(crate) struct AcceptQueue {
    waiting: Mutex<VecDeque<Hold>>,
    changed: Event,
    /// Changed with `waiting` locked.
    is_over: AtomicBool,
    /// Workers that leave connections here.
    accepting: AtomicUsize,
}

/// A worker's part of such a queue, which is over with the last: who waits is told, whatever became
/// of the workers.
pub(crate) struct Accepting(Arc<AcceptQueue>);

impl Drop for Accepting {
    fn drop(&mut self) {
        if self.0.accepting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.end();
        }
    }
}

impl AcceptQueue {
    /// Another worker leaves connections here.
    pub(crate) fn begin(self: &Arc<AcceptQueue>) -> Accepting {
        self.accepting.fetch_add(1, Ordering::AcqRel);
        Accepting(Arc::clone(self))
    }

    pub(crate) fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    pub(crate) fn take(&self) -> Option<Hold> {
        self.waiting().pop_front()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Nothing comes any more.
    pub(crate) fn end(&self) {
        let mut waiting = self.waiting();
        self.is_over.store(true, Ordering::Release);
        let left = std::mem::take(&mut *waiting);
        drop(waiting);
        drop(left);
        self.changed.notify(usize::MAX);
    }

    /// Whether another would find a place.
    pub(crate) fn has_room(&self) -> bool {
        self.makes_room(&mut self.waiting())
    }

    fn makes_room(&self, waiting: &mut VecDeque<Hold>) -> bool {
        if waiting.len() >= WAITING_MAX {
            // Who came and went waits for nothing.
            waiting.retain(|hold| hold.0.end().is_none());
        }
        waiting.len() < WAITING_MAX && !self.is_over()
    }

    /// Gives back what finds no place.
    pub(crate) fn leave(&self, hold: Hold) -> Result<(), Hold> {
        let mut waiting = self.waiting();
        if !self.makes_room(&mut waiting) {
            return Err(hold);
        }
        waiting.push_back(hold);
        drop(waiting);
        self.changed.notify(usize::MAX);
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Hold>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
