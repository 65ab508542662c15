//! What happens in a pool, one after the other, and in numbers.

use std::collections::VecDeque;
use std::time::Duration;

use super::errors::PeerFailure;
use crate::api::ConnectionError;
use crate::ids::Fingerprint;

/// Events that wait to be taken; older ones are dropped for newer ones.
const EVENTS_MAX: usize = 1024;

/// Something that happened to a peer of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PoolEvent {
    /// The peer's, as it was given.
    pub address: String,
    /// What happened.
    pub kind: PoolEventKind,
}

/// What happened to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PoolEventKind {
    /// A dial began.
    Dialled,
    /// It succeeded, with whoever has this key.
    Connected(Fingerprint),
    /// It failed.
    Failed(PeerFailure),
    /// A connection ended by itself, or by the peer.
    Closed(ConnectionError),
    /// A connection was closed that nobody used: for long, or a caller needed its place.
    Expired,
    /// A connection was closed whose peer gave no sign of life.
    Unhealthy,
    /// Callers fail at once from now on, until the next dial is due.
    CircuitOpened {
        /// The last of the failures.
        why: PeerFailure,
        /// In so long it is.
        next_try_in: Duration,
    },
    /// One dial is let through.
    CircuitHalfOpen,
    /// It succeeded.
    CircuitClosed,
}

/// What a pool holds, and did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct PoolStatistics {
    /// Peers that it knows, with a connection or without.
    pub peers: usize,
    /// Connections that it has.
    pub connections: usize,
    /// Dials under way.
    pub dialling: usize,
    /// Connections that were given out and did not come back.
    pub callers: usize,
    /// Callers that wait.
    pub waiting: usize,
    /// Peers whose circuit is open or half-open.
    pub open_circuits: usize,
    /// Connections that were asked for.
    pub gets: u64,
    /// Those that were there at once.
    pub hits: u64,
    /// Callers that waited for too long.
    pub timed_out: u64,
    /// Dials that began.
    pub dials: u64,
    /// Dials that failed.
    pub failed_dials: u64,
    /// Connections that were closed because nobody used them.
    pub expired: u64,
    /// Connections that were closed because their peer gave no sign of life.
    pub unhealthy: u64,
    /// Events that were dropped for newer ones.
    pub dropped_events: u64,
}

/// Events that nobody has taken.
#[derive(Default)]
pub(super) struct EventQueue {
    waiting: VecDeque<PoolEvent>,
    pub(super) dropped: u64,
}

impl EventQueue {
    pub(super) fn push(&mut self, event: PoolEvent) {
        if self.waiting.len() >= EVENTS_MAX {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Option<PoolEvent> {
        self.waiting.pop_front()
    }
}
