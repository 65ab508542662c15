//! One transfer between the thread that follows its sessions and its handle.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use event_listener::{Event as Changed, EventListener};

use super::TransferEvent;
use super::end::{TransferError, TransferSummary, judge};
use crate::api::errors::ConnectError;
use crate::api::lookup::Lookup;
use crate::engine::{Client, Embedded, RunningCount};
use crate::proto::session::Request;
use crate::proto::{CancelReason, Event, Outcome};
use crate::quic::Trust;
use crate::worker::{ClientEvent, Ended};

/// Events that wait for the reader before the transfer does.
const EVENTS_MAX: usize = 4096;

/// How long a wish to cancel waits at most while nothing happens.
const LOOK: Duration = Duration::from_millis(50);

type TransferResult = Result<TransferSummary, TransferError>;

/// What the handle and the thread have in common.
pub(super) struct Following {
    state: Mutex<FollowState>,
    /// For the handle: there is an event, or the end.
    changed: Changed,
    /// For the thread: there is room for events, or it is to cancel.
    room: Condvar,
}

#[derive(Default)]
struct FollowState {
    events: VecDeque<TransferEvent>,
    drops_events: bool,
    is_cancelled: bool,
    is_over: bool,
    result: Option<TransferResult>,
}

impl Following {
    /// Starts the thread. Where there is none to be had, the transfer has failed.
    pub(super) fn start(
        engine: Arc<Embedded>,
        to: String,
        trust: Trust,
        request: Request,
    ) -> Arc<Following> {
        let following = Arc::new(Following {
            state: Mutex::default(),
            changed: Changed::new(),
            room: Condvar::new(),
        });
        let follower = Follower {
            to,
            following: following.clone(),
            summary: TransferSummary::default(),
            _running: engine.begin_transfer(),
            engine,
            has_begun: false,
        };
        let started = thread::Builder::new()
            .name("landro-transfer".to_owned())
            .spawn(move || follower.run(trust, request));
        if let Err(error) = started {
            tracing::warn!(%error, "cannot start the thread of a transfer");
        }
        following
    }

    pub(super) fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    pub(super) fn take_event(&self) -> Option<TransferEvent> {
        let event = self.state().events.pop_front();
        self.room.notify_all();
        event
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().is_over
    }

    pub(super) fn take_result(&self) -> Option<TransferResult> {
        self.state().result.take()
    }

    pub(super) fn drop_events(&self) {
        let mut state = self.state();
        state.drops_events = true;
        state.events.clear();
        drop(state);
        self.room.notify_all();
    }

    pub(super) fn cancel(&self) {
        self.state().is_cancelled = true;
        self.room.notify_all();
    }

    /// Waits for room, which nobody has to make who cancelled, or whose engine ends.
    fn tell(&self, engine: &Embedded, event: TransferEvent) {
        let mut state = self.state();
        while state.events.len() >= EVENTS_MAX
            && !(state.drops_events || state.is_cancelled || engine.is_ending())
        {
            let waited = self.room.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if !state.drops_events && state.events.len() < EVENTS_MAX {
            state.events.push_back(event);
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    /// The first end counts.
    fn end(&self, result: TransferResult) {
        let mut state = self.state();
        if state.is_over {
            return;
        }
        state.result = Some(result);
        state.is_over = true;
        drop(state);
        self.changed.notify(usize::MAX);
    }

    fn state(&self) -> MutexGuard<'_, FollowState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread has.
struct Follower {
    to: String,
    following: Arc<Following>,
    summary: TransferSummary,
    engine: Arc<Embedded>,
    has_begun: bool,
    /// It counts as under way until the thread ends.
    _running: RunningCount,
}

/// Who waits is told, whatever the thread ends of.
impl Drop for Follower {
    fn drop(&mut self) {
        let why = match self.has_begun {
            true => "the thread of the transfer failed; this is a bug in landro",
            false => {
                "no thread can be started for it; are the processes of this user or cgroup used up \
                 (ulimit -u, TasksMax=)?"
            }
        };
        self.following
            .end(Err(TransferError::Failed(why.to_owned())));
    }
}

impl Follower {
    fn run(mut self, trust: Trust, request: Request) {
        self.has_begun = true;
        let result = self.follow(trust, request);
        self.following.end(result);
    }

    fn follow(&mut self, trust: Trust, request: Request) -> TransferResult {
        let peer = match self.look_up() {
            Some(found) => found.map_err(|error| TransferError::Unreachable(error.to_string()))?,
            None => return Err(TransferError::Cancelled(self.summary)),
        };
        let failed = |why: &dyn ToString| TransferError::Failed(why.to_string());
        let begun = self.engine.request(peer, trust, request);
        let mut client = begun.map_err(|error| failed(&error))?;
        let ended = self.pump(&mut client);
        client.join().map_err(|error| failed(&error))?;
        judge(
            ended,
            self.summary,
            self.engine.host().identity().fingerprint(),
        )
    }

    fn pump(&mut self, client: &mut Client) -> Ended {
        let mut has_cancelled = false;
        loop {
            if !has_cancelled && self.is_cancelled() {
                has_cancelled = true;
                client.cancel();
            }
            match client.next(LOOK) {
                Some(ClientEvent::Ended(ended)) if has_cancelled => return cancelled(ended),
                Some(ClientEvent::Ended(ended)) => return ended,
                Some(event) => self.hear(client, event),
                None => {}
            }
        }
    }

    fn hear(&mut self, client: &mut Client, event: ClientEvent) {
        match event {
            ClientEvent::Connected {
                fingerprint,
                address,
                kind,
                ..
            } => self.tell(TransferEvent::Connected {
                peer: fingerprint,
                address,
                lane: kind,
            }),
            ClientEvent::Session(event) => {
                self.summary.note(&event);
                if let Some(event) = told(event) {
                    self.tell(event);
                }
            }
            ClientEvent::Lost { ended, pause, .. } => {
                let why = judge(
                    ended,
                    self.summary,
                    self.engine.host().identity().fingerprint(),
                );
                let why = why.err().map_or_else(String::new, |why| why.to_string());
                self.tell(TransferEvent::Interrupted { why, pause });
                // Those that are known will do where no name server answers.
                if let Some(Ok(found)) = self.look_up() {
                    client.redirect(found);
                }
            }
            ClientEvent::Stats(_) | ClientEvent::Ended(_) => {}
        }
    }

    fn tell(&self, event: TransferEvent) {
        self.following.tell(&self.engine, event);
    }

    /// None: it is cancelled.
    fn look_up(&self) -> Option<Result<Vec<SocketAddr>, ConnectError>> {
        Lookup::on_this_thread(&self.to, LOOK, || self.is_cancelled())
    }

    fn is_cancelled(&self) -> bool {
        self.engine.is_ending() || self.following.state().is_cancelled
    }
}

/// What an end means that came after it was cancelled: that, unless it was complete before.
fn cancelled(ended: Ended) -> Ended {
    match ended {
        Ended::Outcome(Outcome::Complete(totals)) => Ended::Outcome(Outcome::Complete(totals)),
        _ => Ended::Outcome(Outcome::Cancelled {
            reason: CancelReason::User,
            totals: Default::default(),
        }),
    }
}

fn told(event: Event) -> Option<TransferEvent> {
    Some(match event {
        Event::Started => TransferEvent::Accepted,
        Event::Announced {
            files,
            bytes,
            complete,
        } => TransferEvent::Announced {
            files,
            bytes,
            complete,
        },
        Event::Progress { bytes } => TransferEvent::Moved { bytes },
        Event::Resumed { bytes } => TransferEvent::Resumed { bytes },
        Event::Entry {
            path,
            kind,
            size_bytes,
            result,
        } => TransferEvent::Entry {
            path,
            kind,
            bytes: size_bytes,
            result,
        },
        Event::Warning { path, place, text } => TransferEvent::Warning { path, place, text },
        Event::Placed { .. }
        | Event::Addresses(_)
        | Event::Begun { .. }
        | Event::Asked { .. }
        | Event::Counted { .. }
        | Event::Listing { .. }
        | Event::Answer { .. }
        | Event::ClearOff(_)
        | Event::RoundTrips(_)
        | Event::Benched { .. } => return None,
    })
}
