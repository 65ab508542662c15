//! What callers of a pool and its thread have in common.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::Event;

use super::errors::PoolError;
use super::events::{EventQueue, PoolEvent, PoolStatistics};
use super::futures::Bell;
use super::name::PeerName;
use super::plan::{PoolPlace, PoolPlan};
use crate::api::{Connection, ConnectionError};
use crate::engine::now;

/// A pool, between its handles, its callers and its thread. Nobody is woken with it locked, and no
/// [`PooledConnection`] dropped.
pub(super) struct PoolShared {
    state: Mutex<PoolState>,
    pub(super) bell: Arc<Bell>,
    /// There are events to be taken, or there will be none.
    pub(super) told: Event,
    /// The pool has ended.
    pub(super) ended: Event,
}

pub(super) struct PoolState {
    pub(super) plan: PoolPlan,
    pub(super) connections: HashMap<u64, Connection>,
    pub(super) callers: HashMap<u64, Arc<PoolCaller>>,
    pub(super) events: EventQueue,
    /// No handle of the pool is left.
    pub(super) is_dropped: bool,
    /// The thread is gone, and nothing happens any more.
    pub(super) is_over: bool,
}

/// Somebody who waits for a connection.
#[derive(Default)]
pub(super) struct PoolCaller {
    answer: Mutex<Option<Result<PooledConnection, PoolError>>>,
    changed: Event,
}

impl PoolCaller {
    pub(super) fn give(&self, answer: Result<PooledConnection, PoolError>) {
        *self.answer() = Some(answer);
        self.changed.notify(usize::MAX);
    }

    fn answer(&self) -> MutexGuard<'_, Option<Result<PooledConnection, PoolError>>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolShared {
    pub(super) fn new(plan: PoolPlan) -> PoolShared {
        PoolShared {
            state: Mutex::new(PoolState {
                plan,
                connections: HashMap::new(),
                callers: HashMap::new(),
                events: EventQueue::default(),
                is_dropped: false,
                is_over: false,
            }),
            bell: Arc::default(),
            told: Event::new(),
            ended: Event::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, PoolState> {
        // Every critical section leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, as soon as there is one.
    pub(super) async fn get(
        self: Arc<PoolShared>,
        name: Arc<PeerName>,
    ) -> Result<PooledConnection, PoolError> {
        let (number, caller) = match self.place(&name)? {
            PlaceFound::Connection(connection) => return Ok(connection),
            PlaceFound::Waits(number, caller) => (number, caller),
        };
        let waits = CallerWaits {
            shared: self,
            name,
            number,
            caller,
        };
        loop {
            let changed = waits.caller.changed.listen();
            let answer = waits.caller.answer().take();
            match answer {
                Some(answer) => return answer,
                None => changed.await,
            }
        }
    }

    fn place(self: &Arc<PoolShared>, name: &Arc<PeerName>) -> Result<PlaceFound, PoolError> {
        let mut locked = self.state();
        let PoolState {
            plan,
            connections,
            callers,
            ..
        } = &mut *locked;
        let over = |number: u64| ended(connections.get(&number));
        let found = plan.get(now(), name, over).and_then(|place| match place {
            PoolPlace::On(number) => {
                let connection = connections.get(&number).ok_or(PoolError::Dropped)?;
                let pooled = self.pooled(name, number, connection.clone());
                Ok(PlaceFound::Connection(pooled))
            }
            PoolPlace::Waits(number) => {
                let caller = Arc::<PoolCaller>::default();
                callers.insert(number, caller.clone());
                Ok(PlaceFound::Waits(number, caller))
            }
        });
        let is_to_turn = plan.wants_turn() || matches!(found, Ok(PlaceFound::Waits(..)));
        drop(locked);
        if is_to_turn {
            self.bell.ring();
        }
        found
    }

    pub(super) fn pooled(
        self: &Arc<PoolShared>,
        name: &Arc<PeerName>,
        number: u64,
        connection: Connection,
    ) -> PooledConnection {
        PooledConnection {
            shared: self.clone(),
            name: name.clone(),
            number,
            connection,
        }
    }

    pub(super) fn statistics(&self) -> PoolStatistics {
        let state = self.state();
        PoolStatistics {
            dropped_events: state.events.dropped,
            ..state.plan.statistics()
        }
    }

    /// The next event; `None`: there will be none.
    pub(super) async fn next_event(&self) -> Option<PoolEvent> {
        loop {
            let told = self.told.listen();
            {
                let mut state = self.state();
                if let Some(event) = state.events.pop() {
                    return Some(event);
                }
                if state.is_over {
                    return None;
                }
            }
            told.await;
        }
    }
}

/// Why a connection is of no use any more, if it is not.
pub(super) fn ended(connection: Option<&Connection>) -> Option<ConnectionError> {
    let gone = || Some(ConnectionError::Transport("the pool let it go".to_owned()));
    connection.map_or_else(gone, Connection::unusable)
}

/// What a caller found.
enum PlaceFound {
    Connection(PooledConnection),
    Waits(u64, Arc<PoolCaller>),
}

/// Whoever waits for a connection says so when it does not any more.
struct CallerWaits {
    shared: Arc<PoolShared>,
    name: Arc<PeerName>,
    number: u64,
    caller: Arc<PoolCaller>,
}

impl Drop for CallerWaits {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.callers.remove(&self.number).is_some() {
            state.plan.forget_caller(&self.name, self.number);
        }
        drop(state);
        // One that came at the same moment goes back.
        let left = self.caller.answer().take();
        drop(left);
    }
}

/// A connection of a pool, and a place on it: other callers may have the same one. It is handed
/// back when it is dropped.
///
/// It is to be kept as long as the streams that were opened on it. Neither they nor a clone of the
/// connection itself hold a place: once nobody has one, the pool closes the connection after
/// [`idle_timeout`](super::ConnectionPoolConfig::idle_timeout), sooner where another peer needs the
/// room or the pool is drained, and streams that are open still end with it.
///
/// Whoever is done with it drops it and leaves the connection open. Whoever finds it unusable
/// closes it ([`Connection::close`]), and the pool makes another one when somebody needs it.
pub struct PooledConnection {
    shared: Arc<PoolShared>,
    name: Arc<PeerName>,
    number: u64,
    connection: Connection,
}

impl Deref for PooledConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.plan.hand_back(now(), &self.name, self.number);
        let is_to_turn = state.plan.wants_turn();
        drop(state);
        if is_to_turn {
            self.shared.bell.ring();
        }
    }
}

impl fmt::Debug for PooledConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledConnection")
            .field(&self.connection)
            .finish()
    }
}
