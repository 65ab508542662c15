//! The thread that has a handle's sessions, one after the other, while there are questions.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::remote::{Answered, Remote, Waiter};
use crate::api::lookup::Lookup;
use crate::api::transfer::{TransferError, TransferSummary, judge};
use crate::engine::{Client, RunningCount};
use crate::proto::Event;
use crate::proto::query::Query;
use crate::proto::session::Request;
use crate::worker::{ClientEvent, Ended};

/// How long it takes at most until the thread notices what nobody tells it: that the engine ends.
const LOOK: Duration = Duration::from_millis(50);

/// # Cancel safety
/// Dropped, the question is forgotten.
pub(super) async fn ask(remote: &Arc<Remote>, query: Query) -> Answered {
    let waiter = Arc::<Waiter>::default();
    let (_pending, needs_thread) = remote.begin(query, &waiter);
    if needs_thread {
        start(remote);
    }
    waiter.answered().await
}

/// Starts the thread. Where there is none to be had, those who wait hear so.
fn start(remote: &Arc<Remote>) {
    let follower = Questioner {
        remote: remote.clone(),
        has_begun: false,
        is_over: false,
        _running: remote.engine.begin_transfer(),
    };
    let started = thread::Builder::new()
        .name("landro-files".to_owned())
        .spawn(move || follower.run());
    if let Err(error) = started {
        tracing::warn!(%error, "cannot start the thread that asks a daemon");
    }
}

struct Questioner {
    remote: Arc<Remote>,
    has_begun: bool,
    /// It left, and another may have begun.
    is_over: bool,
    /// It counts as under way until the thread ends.
    _running: RunningCount,
}

/// Who waits is told, whatever the thread ends of.
impl Drop for Questioner {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let why = match self.has_begun {
            true => "the thread that asks the daemon failed; this is a bug in landro",
            false => {
                "no thread can be started for it; are the processes of this user or cgroup used up \
                 (ulimit -u, TasksMax=)?"
            }
        };
        let mut state = self.remote.state();
        state.fail_all(&TransferError::Failed(why.to_owned()));
        state.leave();
    }
}

impl Questioner {
    fn run(mut self) {
        self.has_begun = true;
        loop {
            let mut has_connected = false;
            let ended = self.one_session(&mut has_connected);
            let mut state = self.remote.state();
            match ended {
                // Whoever waited for a session has none.
                Err(error) if !has_connected || self.is_ending() => state.fail_all(&error),
                ended => state.end_session(ended),
            }
            if state.leave() {
                self.is_over = true;
                return;
            }
        }
    }

    fn is_ending(&self) -> bool {
        self.remote.engine.is_ending()
    }

    /// # Errors
    /// Why there is none, or why it ended.
    fn one_session(&self, has_connected: &mut bool) -> Result<(), TransferError> {
        let none = TransferSummary::default();
        let is_over = || self.is_ending() || self.remote.state().is_dropped();
        let peer = match Lookup::on_this_thread(self.remote.to(), LOOK, is_over) {
            Some(found) => found.map_err(|error| TransferError::Unreachable(error.to_string()))?,
            None => return Err(TransferError::Cancelled(none)),
        };
        let failed = |why: &dyn ToString| TransferError::Failed(why.to_string());
        let (engine, trust) = (&self.remote.engine, self.remote.trust.clone());
        let begun = engine.request(peer, trust, Request::Queries);
        let mut client = begun.map_err(|error| failed(&error))?;
        let ended = self.pump(&mut client, has_connected);
        let mut state = self.remote.state();
        state.stop_asking();
        drop(state);
        client.join().map_err(|error| failed(&error))?;
        if self.is_ending() {
            return Err(TransferError::Cancelled(none));
        }
        let ours = engine.host().identity().fingerprint();
        judge(ended, none, ours).map(|_| ())
    }

    fn pump(&self, client: &mut Client, has_connected: &mut bool) -> Ended {
        let mut is_cancelled = false;
        loop {
            let event = client.next(LOOK);
            let mut state = self.remote.state();
            match event {
                Some(ClientEvent::Ended(ended)) => return ended,
                Some(ClientEvent::Connected { .. }) => {
                    *has_connected = true;
                    client
                        .asker()
                        .into_iter()
                        .for_each(|asker| state.begin(asker));
                }
                Some(ClientEvent::Session(Event::Answer { slot, answer })) => {
                    state.hear(slot, answer);
                }
                Some(_) => {}
                None => state.close_if_idle(),
            }
            // The worker may have had no room before, and may have it while events come.
            state.feed();
            let nobody_asks = state.is_dropped() && !*has_connected;
            drop(state);
            if !is_cancelled && (nobody_asks || self.is_ending()) {
                is_cancelled = true;
                client.cancel();
            }
        }
    }
}
