//! What all workers of a process have in common: the service, the budget, each other's mailboxes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::descriptors::StreamDescriptors;
use super::mailbox::{Mail, Mailbox};
use super::stats::TransportStats;
use crate::budget::Budget;
use crate::config::{LaneKinds, QuicConfig};
use crate::disk::{ServedRoot, Settler};
use crate::ids::{Fingerprint, SessionId, WorkerId};
use crate::proto::clear::ClearSecret;
use crate::proto::session::Grant;
use crate::quic::Secrets;
use crate::tcp::ClearPass;

/// What a peer may do, and the sub-directory of the root it is confined to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAccess {
    pub access: Grant,
    pub path: Option<Vec<u8>>,
    /// It may have lanes in the clear, where the daemon allows them.
    pub clear: bool,
}

/// Asked in the handshake and again when a session starts; None: not authorised.
pub type Authorize = Arc<dyn Fn(&Fingerprint) -> Option<PeerAccess> + Send + Sync>;

/// The daemon's side: what it serves, and to whom.
pub struct Service {
    pub root: Arc<ServedRoot>,
    pub authorize: Authorize,
    /// Whose access says so may have lanes in the clear.
    pub allow_clear: bool,
}

pub struct Shared {
    pub workers: u8,
    pub secrets: Arc<Secrets>,
    pub mailboxes: Vec<Mailbox>,
    pub budget: Budget,
    pub quic: QuicConfig,
    /// What may carry sessions.
    pub lane_kinds: LaneKinds,
    /// Of what is sent over TCP; None: the kernel's default.
    pub tcp_congestion: Option<String>,
    /// How long nothing may be got on with in a session; None: for ever.
    pub patience: Option<Duration>,
    pub service: Option<Service>,
    pub homes: Arc<SessionHomes>,
    pub descriptors: StreamDescriptors,
    /// Set for a daemon: takes the marks of directories away when their data is on disk.
    pub settler: Option<Settler>,
    pub refusals: Refusals,
    /// What a daemon's connections did, once they have ended.
    pub served: Mutex<TransportStats>,
}

impl Shared {
    pub fn post(&self, worker: WorkerId, mail: Mail) -> bool {
        self.mailboxes
            .get(worker.0 as usize)
            .is_some_and(|mailbox| mailbox.post(mail))
    }

    /// As [`Shared::post`], but gives back what could not be posted.
    ///
    /// # Errors
    /// The queue is full, or the worker is gone.
    pub fn try_post(&self, worker: WorkerId, mail: Mail) -> Result<(), Mail> {
        match self.mailboxes.get(worker.0 as usize) {
            Some(mailbox) => mailbox.try_post(mail),
            None => Err(mail),
        }
    }

    /// How much mail waits for a worker.
    pub fn waiting(&self, worker: WorkerId) -> usize {
        self.mailboxes
            .get(worker.0 as usize)
            .map_or(0, |mailbox| mailbox.sender.len())
    }

    pub fn insist(&self, worker: WorkerId, mail: Mail) -> bool {
        self.mailboxes
            .get(worker.0 as usize)
            .is_some_and(|mailbox| mailbox.insist(mail))
    }

    /// What a peer may do here; None: it is not authorised, or this is no daemon.
    pub fn authorised(&self, peer: &Fingerprint) -> Option<PeerAccess> {
        self.service
            .as_ref()
            .and_then(|service| (service.authorize)(peer))
    }
}

/// Which worker of a daemon has which session: the kernel gives a TCP connection to any of them.
/// And what lets lanes in the clear in, of which any worker may be asked.
#[derive(Default)]
pub struct SessionHomes(Mutex<HashMap<SessionId, Home>>);

struct Home {
    worker: WorkerId,
    clear: Option<(Fingerprint, ClearSecret)>,
}

impl SessionHomes {
    /// A session is to begin. False: there is one of its id, which goes on as if nothing was said.
    pub fn claim(&self, session: SessionId, worker: WorkerId) -> bool {
        let home = Home {
            worker,
            clear: None,
        };
        self.lock().entry(session).or_insert(home).worker == worker
    }

    /// A session is over.
    pub fn remove(&self, session: &SessionId) {
        self.lock().remove(session);
    }

    pub fn find(&self, session: &SessionId) -> Option<WorkerId> {
        self.lock().get(session).map(|home| home.worker)
    }

    /// A session may have lanes in the clear, which come with this secret.
    pub fn let_in(&self, session: &SessionId, peer: Fingerprint, secret: ClearSecret) {
        if let Some(home) = self.lock().get_mut(session) {
            home.clear = Some((peer, secret));
        }
    }

    /// What the lane of this number of a session is let in by.
    pub fn pass(&self, session: SessionId, lane: u32) -> Option<ClearPass> {
        let (peer, secret) = self.lock().get(&session)?.clear?;
        Some(ClearPass {
            session,
            lane,
            secret: secret.of_lane(lane).0,
            peer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Home>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts refused and dropped things, so that the log can say it once in a while and not per
/// packet.
#[derive(Default)]
pub struct Refusals {
    pub strays_dropped: AtomicU64,
    pub connections_refused: AtomicU64,
}

impl Refusals {
    pub fn count(counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed) + 1
    }
}
