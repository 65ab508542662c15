//! Why a pool gives no connection, and what went wrong with a peer.

use std::time::Duration;

use crate::api::{ConnectError, ConnectionError};

/// What counts against a peer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFailure {
    /// A dial failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A connection ended within a second of being made.
    #[error("the last connection ended as soon as it was made: {0}")]
    EndedAtOnce(ConnectionError),
    /// A connection's peer gave no sign of life within [`health_timeout`].
    ///
    /// [`health_timeout`]: super::ConnectionPoolConfig::health_timeout
    #[error("the peer did not answer a health check within {0:?}; is its process stopped?")]
    Unhealthy(Duration),
}

impl PeerFailure {
    /// Whether another dial may succeed without anything being changed here or there. A name that
    /// is not found may be back in a moment: its server may be what does not answer.
    pub fn is_retryable(&self) -> bool {
        match self {
            PeerFailure::Connect(ConnectError::Name { .. }) => true,
            PeerFailure::Connect(error) => error.is_retryable(),
            PeerFailure::EndedAtOnce(_) | PeerFailure::Unhealthy(_) => true,
        }
    }

    /// Whether one such failure is enough to think that the next dial fails, too.
    pub(super) fn is_lasting(&self) -> bool {
        !self.is_retryable()
    }
}

/// Why a pool gave no connection.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The dial that the caller waited for failed.
    #[error(transparent)]
    Peer(#[from] PeerFailure),
    /// Too many failures came in a row, so that nobody is dialled now.
    #[error(
        "{address:?} is not dialled for another {next_try_in:.1?}: it failed {failures} times in a \
         row, and is left alone between tries since {open_for:.1?}; the last time {why}"
    )]
    CircuitOpen {
        /// As it was given.
        address: String,
        /// How long the circuit has been open.
        open_for: Duration,
        /// Failures in a row.
        failures: u32,
        /// The last of them.
        why: Box<PeerFailure>,
        /// In so long the next dial is let through.
        next_try_in: Duration,
    },
    /// The caller waited for [`wait_timeout`](super::ConnectionPoolConfig::wait_timeout).
    #[error(
        "waited {waited:.1?} for a connection to {address:?}: {}",
        waited_for(*is_dialling, *connections)
    )]
    TimedOut {
        /// As it was given.
        address: String,
        /// How long that was.
        waited: Duration,
        /// Whether the peer is being dialled.
        is_dialling: bool,
        /// Connections that the peer has, each with as many callers as may be.
        connections: usize,
    },
    /// As many callers wait as may.
    #[error("{0} callers wait for connections already; later there is room again")]
    TooManyWaiting(usize),
    /// The pool knows as many peers as it may, and has connections or callers of each.
    #[error("the pool has {0} peers already; drop connections, or have another pool")]
    TooManyPeers(usize),
    /// More connections were to be kept warm than the pool may have to one peer, or than those of
    /// other peers leave room for.
    #[error(
        "{wanted} connections cannot be kept warm: this peer may have {most} of them; raise \
         max_connections_per_peer or max_connections, or keep fewer warm of other peers"
    )]
    TooManyWarm {
        /// What was asked for.
        wanted: usize,
        /// [`max_connections_per_peer`](super::ConnectionPoolConfig::max_connections_per_peer), or
        /// what [`max_connections`](super::ConnectionPoolConfig::max_connections) leaves beside
        /// the warm connections of other peers and one for anybody.
        most: usize,
    },
    /// The pool is being drained, or was.
    #[error("the pool is drained, and gives no connections any more")]
    Draining,
    /// The pool was dropped.
    #[error("the pool was dropped")]
    Dropped,
    /// A value of the configuration is impossible.
    #[error("{field} of the pool: {why}")]
    Config {
        /// Which one.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The pool's thread cannot be started.
    #[error(
        "cannot start the thread of the pool: {0}; is a limit of processes reached (ulimit -u)?"
    )]
    Thread(String),
}

impl PoolError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            PoolError::Peer(why) => why.is_retryable(),
            PoolError::CircuitOpen { why, .. } => why.is_retryable(),
            PoolError::TimedOut { .. }
            | PoolError::TooManyWaiting(_)
            | PoolError::TooManyPeers(_)
            | PoolError::Thread(_) => true,
            PoolError::TooManyWarm { .. }
            | PoolError::Draining
            | PoolError::Dropped
            | PoolError::Config { .. } => false,
        }
    }
}

fn waited_for(is_dialling: bool, connections: usize) -> String {
    match (is_dialling, connections) {
        (true, 0) => "it is still being dialled".to_owned(),
        (false, 0) => "it may not be dialled yet, after a failure or for the pool is full; close \
                       connections that are not needed, or raise max_connections"
            .to_owned(),
        (_, some) => format!(
            "all of its {some} connections have as many callers as they may; hand connections back \
             sooner, or raise max_callers_per_connection or max_connections_per_peer"
        ),
    }
}
