//! What workers share, what they are told, and what a command hears back.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use landro_sys::{Backend, UdpOptions, WakeHandle};

use super::pulse::Pulse;
use super::stats::TransportStats;
use crate::budget::Budget;
use crate::config::QuicConfig;
use crate::disk::Settler;
use crate::ids::{Fingerprint, WorkerId};
use crate::proto;
use crate::quic::{Secrets, Setup};

/// What one peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub read: bool,
    pub write: bool,
}

/// Access of a peer, and the sub-directory of the root it is confined to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAccess {
    pub access: Access,
    pub path: Option<Vec<u8>>,
}

/// Asked in the handshake and again when a session starts; None: not authorised.
pub type Authorize = Arc<dyn Fn(&Fingerprint) -> Option<PeerAccess> + Send + Sync>;

/// The daemon's side: what it serves, and to whom.
pub struct Service {
    pub root: Arc<OwnedFd>,
    pub authorize: Authorize,
}

/// What all workers of a process have in common.
pub struct Shared {
    pub workers: u8,
    pub secrets: Arc<Secrets>,
    pub mailboxes: Vec<Mailbox>,
    pub budget: Budget,
    pub quic: QuicConfig,
    pub service: Option<Service>,
    /// Set for a daemon: takes the marks of directories away when their data is on disk.
    pub settler: Option<Settler>,
    pub refusals: Refusals,
    /// What a daemon's connections did, once they have ended.
    pub served: Mutex<TransportStats>,
}

/// How one worker is reached by others.
pub struct Mailbox {
    pub sender: Sender<Command>,
    pub wake: OnceLock<WakeHandle>,
    pub pulse: Pulse,
}

impl Mailbox {
    /// Puts a command into the worker's queue and wakes it. False: the queue is full or the worker
    /// is gone.
    pub fn post(&self, command: Command) -> bool {
        let posted = self.sender.try_send(command).is_ok();
        self.wake();
        posted
    }

    /// As [`Mailbox::post`], but waits for room: what the user wants is not lost among strays.
    /// False: the worker is gone or stuck.
    pub fn insist(&self, command: Command) -> bool {
        let posted = self.sender.send_timeout(command, ROOM_TIMEOUT).is_ok();
        self.wake();
        posted
    }

    /// Makes the worker's loop turn.
    pub fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            wake.wake();
        }
    }
}

/// A worker empties its mailbox in each turn of its loop.
const ROOM_TIMEOUT: Duration = Duration::from_secs(1);

pub enum Command {
    /// A datagram that reached the wrong worker's socket, for its owner.
    Stray(Stray),
    /// A new session of `peer` begins on the lane with this serial number: which older ones live?
    AreYouAlive {
        asker: WorkerId,
        lane: u64,
        peer: Fingerprint,
    },
    /// The older sessions of one worker are settled.
    Answered { lane: u64 },
    /// Start the one transfer of a command.
    Start(Box<ClientStart>),
    /// The user asked to stop.
    Cancel,
    /// The list of peers was read again.
    Reauthorise,
    /// The process is ending; sessions may take this long to say so.
    Shutdown(Duration),
}

pub struct Stray {
    pub datagram: Vec<u8>,
    pub from: SocketAddr,
    pub to: Option<IpAddr>,
    /// Index of the listening address it arrived at; workers list them in the same order.
    pub socket: usize,
}

pub struct ClientStart {
    /// Tried in order.
    pub peers: Vec<SocketAddr>,
    pub setup: Setup,
    pub trust_refused: Arc<Mutex<Option<Fingerprint>>>,
    pub request: proto::session::Request,
    pub streams: usize,
    pub socket_options: UdpOptions,
    pub events: Sender<ClientEvent>,
    pub backend_reason: String,
}

/// What a command hears of its transfer.
#[derive(Debug)]
pub enum ClientEvent {
    Connected {
        fingerprint: Fingerprint,
        address: SocketAddr,
        backend: Backend,
        backend_reason: String,
    },
    Session(proto::Event),
    /// Once, just before `Ended`.
    Stats(Box<TransportStats>),
    Ended(Ended),
}

#[derive(Debug)]
pub enum Ended {
    Outcome(proto::Outcome),
    /// No answer, or an answer that there is nobody.
    Unreachable(String),
    /// The peer was there and went away: idle timeout, reset, shutdown.
    Lost(String),
    /// Our trust function refused this server.
    IdentityUnknown(Fingerprint),
    /// The server refused our identity.
    RefusedByPeer(String),
    Failed(String),
}

/// A client's transfer as the worker holds it.
pub struct ClientLink {
    pub peers: Vec<SocketAddr>,
    pub next_peer: usize,
    /// Until when addresses are dialled again, and whether ICMP kept one from answering since that
    /// began anew.
    pub dial_until: Instant,
    pub was_refused: bool,
    pub setup: Setup,
    pub trust_refused: Arc<Mutex<Option<Fingerprint>>>,
    pub request: Option<proto::session::Request>,
    pub streams: usize,
    pub socket_options: UdpOptions,
    pub events: Sender<ClientEvent>,
    pub backend_reason: String,
    pub cancelled: bool,
    pub ticket: Option<Vec<u8>>,
    pub ended: Option<Ended>,
    pub stats: TransportStats,
    pub done: bool,
}

impl ClientLink {
    /// A reader that went away is no reason to stop: the transfer ends by itself or by `Cancel`.
    pub fn tell(&self, event: ClientEvent) {
        let _ = self.events.send(event);
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

impl Shared {
    pub fn post(&self, worker: WorkerId, command: Command) -> bool {
        self.mailboxes
            .get(worker.0 as usize)
            .is_some_and(|mailbox| mailbox.post(command))
    }

    /// Commands that wait for a worker.
    pub fn waiting(&self, worker: WorkerId) -> usize {
        self.mailboxes
            .get(worker.0 as usize)
            .map_or(0, |mailbox| mailbox.sender.len())
    }

    pub fn insist(&self, worker: WorkerId, command: Command) -> bool {
        self.mailboxes
            .get(worker.0 as usize)
            .is_some_and(|mailbox| mailbox.insist(command))
    }
}
