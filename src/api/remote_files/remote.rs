//! Who asks and who is answered: the questions of a handle, those that have a slot of the session
//! and those that wait for one.

use std::collections::{HashMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event as Changed;

use super::gather::{FoundAnswer, Gathered};
use crate::api::transfer::{TransferError, TransferSummary, refused};
use crate::engine::{Asker, Embedded, now};
use crate::proto::query::{QUERIES_MAX, Query, QueryAnswer, QueryRequest};
use crate::quic::Trust;

/// How long a session is kept that nobody asks. Programs that read files come in bursts; a daemon
/// has a connection for each of them meanwhile.
const IDLE: Duration = Duration::from_secs(10);

pub(super) type Answered = Result<FoundAnswer, TransferError>;

/// A daemon, and what is asked of it.
pub(super) struct Remote {
    pub(super) engine: Arc<Embedded>,
    to: String,
    pub(super) trust: Trust,
    state: Mutex<RemoteState>,
}

#[derive(Default)]
pub(super) struct RemoteState {
    /// No handle is left.
    is_dropped: bool,
    has_thread: bool,
    session: Option<LiveSession>,
    last_key: u64,
    questions: HashMap<u64, Question>,
    /// Those without a slot.
    waiting: VecDeque<u64>,
    slots: [QuestionSlot; QUERIES_MAX],
    /// Answers that are told once the state is free again: who is woken may ask at once.
    told: Vec<(Arc<Waiter>, Answered)>,
}

/// The state, for as long as this lives.
pub(super) struct HeldState<'a> {
    /// None: it is free again.
    state: Option<MutexGuard<'a, RemoteState>>,
}

impl Deref for HeldState<'_> {
    type Target = RemoteState;

    fn deref(&self) -> &RemoteState {
        self.state.as_ref().expect("it is held to its end")
    }
}

impl DerefMut for HeldState<'_> {
    fn deref_mut(&mut self) -> &mut RemoteState {
        self.state.as_mut().expect("it is held to its end")
    }
}

impl Drop for HeldState<'_> {
    fn drop(&mut self) {
        let told = std::mem::take(&mut self.told);
        self.state = None;
        for (waiter, answered) in told {
            waiter.tell(answered);
        }
    }
}

/// A session that may be asked.
struct LiveSession {
    asker: Asker,
    /// It is one that works.
    has_answered: bool,
    /// When there was no question any more.
    rests_since: Instant,
    closing: SessionClosing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SessionClosing {
    No,
    /// The worker has no room for the word. Next: Told.
    Wanted,
    Told,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum QuestionSlot {
    #[default]
    Free,
    /// By this question.
    Taken(u64),
    /// Nobody waits for the answer; the worker was told so, or is to be.
    Forgotten { is_told: bool },
}

struct Question {
    query: Query,
    gathered: Gathered,
    waiter: Arc<Waiter>,
    /// It went to a session that had answered before.
    may_be_asked_again: bool,
    was_asked_again: bool,
}

/// Who waits for an answer.
#[derive(Default)]
pub(super) struct Waiter {
    answered: Mutex<Option<Answered>>,
    changed: Changed,
}

impl Waiter {
    fn tell(&self, answered: Answered) {
        *self.lock() = Some(answered);
        self.changed.notify(usize::MAX);
    }

    /// # Cancel safety
    /// The answer stays here.
    pub(super) async fn answered(&self) -> Answered {
        loop {
            let changed = self.changed.listen();
            if let Some(answered) = self.lock().take() {
                return answered;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Answered>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question whose future lives.
pub(super) struct PendingQuestion<'a> {
    remote: &'a Remote,
    key: u64,
}

impl Drop for PendingQuestion<'_> {
    fn drop(&mut self) {
        self.remote.state().abandon(self.key);
    }
}

impl Remote {
    pub(super) fn new(engine: Arc<Embedded>, to: &str, trust: Trust) -> Arc<Remote> {
        Arc::new(Remote {
            engine,
            to: to.to_owned(),
            trust,
            state: Mutex::default(),
        })
    }

    pub(super) fn to(&self) -> &str {
        &self.to
    }

    pub(super) fn state(&self) -> HeldState<'_> {
        // Every critical section leaves it whole.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        HeldState { state: Some(state) }
    }

    /// Takes a question on. True: there is no thread for it, and there is to be one.
    pub(super) fn begin(&self, query: Query, waiter: &Arc<Waiter>) -> (PendingQuestion<'_>, bool) {
        let mut state = self.state();
        let key = state.take_on(query, waiter.clone());
        state.feed();
        let needs_thread = !std::mem::replace(&mut state.has_thread, true);
        (PendingQuestion { remote: self, key }, needs_thread)
    }

    /// No handle is left, and so no question.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_dropped = true;
        state.close();
    }
}

impl RemoteState {
    fn take_on(&mut self, query: Query, waiter: Arc<Waiter>) -> u64 {
        self.last_key += 1;
        let question = Question {
            gathered: Gathered::new(&query),
            query,
            waiter,
            may_be_asked_again: false,
            was_asked_again: false,
        };
        self.questions.insert(self.last_key, question);
        self.waiting.push_back(self.last_key);
        self.last_key
    }

    /// The session's thread ends if there is nothing for it, which this says.
    pub(super) fn leave(&mut self) -> bool {
        self.has_thread = !self.waiting.is_empty();
        !self.has_thread
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.is_dropped
    }

    /// The daemon may be asked.
    pub(super) fn begin(&mut self, asker: Asker) {
        self.session = Some(LiveSession {
            asker,
            has_answered: false,
            rests_since: now(),
            closing: SessionClosing::No,
        });
        if self.is_dropped {
            self.close();
        }
        self.feed();
    }

    /// Gives the worker what it has room for.
    pub(super) fn feed(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        if session.closing != SessionClosing::No {
            if session.closing == SessionClosing::Wanted && session.asker.ask(QueryRequest::NoMore)
            {
                session.closing = SessionClosing::Told;
            }
            return;
        }
        for (number, slot) in (0u8..).zip(&mut self.slots) {
            match *slot {
                QuestionSlot::Taken(_) | QuestionSlot::Forgotten { is_told: true } => {}
                QuestionSlot::Forgotten { is_told: false } => {
                    let is_told = session.asker.ask(QueryRequest::Forget { slot: number });
                    *slot = QuestionSlot::Forgotten { is_told };
                }
                QuestionSlot::Free => {
                    let Some(key) = self.waiting.pop_front() else {
                        continue;
                    };
                    let Some(question) = self.questions.get_mut(&key) else {
                        continue;
                    };
                    let query = question.query.clone();
                    let ask = QueryRequest::Query {
                        slot: number,
                        query,
                    };
                    if !session.asker.ask(ask) {
                        return self.waiting.push_front(key);
                    }
                    question.may_be_asked_again = session.has_answered && !question.was_asked_again;
                    *slot = QuestionSlot::Taken(key);
                }
            }
        }
    }

    /// The session has been without a question for long.
    pub(super) fn close_if_idle(&mut self) {
        let is_idle = self.session.as_ref().is_some_and(|session| {
            let rests = now().saturating_duration_since(session.rests_since);
            self.questions.is_empty() && rests >= IDLE
        });
        if is_idle {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(session) = &mut self.session
            && session.closing == SessionClosing::No
        {
            session.closing = SessionClosing::Wanted;
        }
        self.feed();
    }

    /// Something came of what is asked in this slot.
    pub(super) fn hear(&mut self, slot: u8, answer: QueryAnswer) {
        let Some(slot) = self.slots.get_mut(usize::from(slot)) else {
            return;
        };
        if answer == QueryAnswer::Free {
            *slot = QuestionSlot::Free;
            return self.feed();
        }
        let QuestionSlot::Taken(key) = *slot else {
            return;
        };
        let Some(question) = self.questions.get_mut(&key) else {
            return;
        };
        let end = match answer {
            QueryAnswer::End(end) => end,
            answer => {
                if let Err(error) = question.gathered.take(answer) {
                    *slot = QuestionSlot::Forgotten { is_told: false };
                    self.settle(key, Err(error));
                    self.feed();
                }
                return;
            }
        };
        let found = end
            .map_err(|error| refused(&error, TransferSummary::default()))
            .and_then(|()| question.gathered.found());
        *slot = QuestionSlot::Forgotten { is_told: true };
        if let Some(session) = &mut self.session {
            session.has_answered = true;
        }
        self.settle(key, found);
    }

    fn settle(&mut self, key: u64, answered: Answered) {
        if let Some(question) = self.questions.remove(&key) {
            self.told.push((question.waiter, answered));
        }
        self.rest();
    }

    /// Nobody waits for it any more.
    fn abandon(&mut self, key: u64) {
        if self.questions.remove(&key).is_none() {
            return;
        }
        self.waiting.retain(|waiting| *waiting != key);
        for slot in &mut self.slots {
            if *slot == QuestionSlot::Taken(key) {
                *slot = QuestionSlot::Forgotten { is_told: false };
            }
        }
        self.rest();
        self.feed();
    }

    fn rest(&mut self) {
        if let Some(session) = &mut self.session {
            session.rests_since = now();
        }
    }

    /// The session hears nothing any more.
    pub(super) fn stop_asking(&mut self) {
        self.session = None;
    }

    /// The session is over: what it was asked is asked of the next one, where that may help, and
    /// else has this end. `Ok`: nobody broke it.
    pub(super) fn end_session(&mut self, ended: Result<(), TransferError>) {
        self.session = None;
        let error = ended.err().unwrap_or_else(lost);
        for slot in self.slots.iter_mut().rev() {
            let QuestionSlot::Taken(key) = std::mem::take(slot) else {
                continue;
            };
            let Some(question) = self.questions.get_mut(&key) else {
                continue;
            };
            if question.may_be_asked_again && matches!(error, TransferError::Lost { .. }) {
                question.may_be_asked_again = false;
                question.was_asked_again = true;
                question.gathered = Gathered::new(&question.query);
                self.waiting.push_front(key);
            } else if let Some(question) = self.questions.remove(&key) {
                self.told.push((question.waiter, Err(error.clone())));
            }
        }
    }

    /// No session came to be, or none will.
    pub(super) fn fail_all(&mut self, error: &TransferError) {
        self.end_session(Err(error.clone()));
        for key in std::mem::take(&mut self.waiting) {
            self.settle(key, Err(error.clone()));
        }
    }
}

/// The daemon has answered nothing, and has not said why.
fn lost() -> TransferError {
    TransferError::Lost {
        why: "the daemon ended the session before it had answered".to_owned(),
        done: TransferSummary::default(),
    }
}
