//! What a command asks of its worker, and what it hears of the transfer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crossbeam::channel::Sender;
use landro_sys::{Backend, Bind, UdpOptions};

use super::stats::TransportStats;
use crate::config::{LaneCount, LaneKind, LaneKinds};
use crate::ids::Fingerprint;
use crate::proto;
use crate::quic::Setup;
use crate::tcp::TcpSetup;

/// How lanes over TCP are dialled.
pub struct TcpSetups {
    /// Those that carry a session's messages, too.
    pub carrying: TcpSetup,
    /// Whether the kernel seals and opens in them, where it is asked to.
    pub ktls: Option<String>,
}

pub struct ClientStart {
    /// In the order of preference; the first that answers is taken.
    pub peers: Vec<SocketAddr>,
    /// Where packets leave from; empty: from where the kernel has them.
    pub binds: Vec<Bind>,
    pub setup: Setup,
    pub tcp: TcpSetups,
    /// Where the trust function leaves whom it refused.
    pub trust_refused: Arc<Mutex<Option<Fingerprint>>>,
    /// Whose session it is, once it has begun.
    pub met: Arc<OnceLock<Fingerprint>>,
    pub request: proto::session::Request,
    pub streams: usize,
    /// What may carry the session.
    pub kinds: LaneKinds,
    /// How many are added.
    pub lanes: LaneCount,
    /// Those are in the clear, if the daemon lets them.
    pub clear: bool,
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
        /// What the session begins on, and why.
        kind: LaneKind,
        kind_reason: &'static str,
        /// Whether the kernel seals and opens in lanes over TLS, where it is asked to.
        ktls: Option<String>,
    },
    Session(proto::Event),
    /// Of all sessions so far, just before `Lost` and `Ended`.
    Stats(Box<TransportStats>),
    /// A session ended so, and after a pause another one is begun in its place.
    Lost {
        ended: Ended,
        pause: Duration,
        /// It had come further than all before.
        got_further: bool,
        /// How often that may be done again, if that is limited.
        times_left: Option<u32>,
    },
    Ended(Ended),
}

#[derive(Debug)]
pub enum Ended {
    Outcome(proto::Outcome),
    /// No answer, or an answer that there is nobody; in words that follow "no answer, ".
    Unreachable {
        /// What was tried.
        kinds: LaneKinds,
        why: String,
    },
    /// The peer was there and went away: idle timeout, reset, shutdown.
    Lost(String),
    /// Our trust function refused this server.
    IdentityUnknown(Fingerprint),
    /// The server refused our identity.
    RefusedByPeer(String),
    Failed(String),
}
