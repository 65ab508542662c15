//! Connections that are made beforehand and shared: to each peer as many as its callers need, with
//! failures remembered and ends noticed.

mod circuit;
mod config;
mod errors;
mod events;
mod futures;
mod keeper;
mod name;
mod peer;
mod plan;
mod shared;

use std::fmt;
use std::sync::Arc;
use std::thread;

use super::engine::{Engine, PeerTrust};
use crate::engine::now;
use keeper::PoolKeeper;
use name::PeerName;
use plan::PoolPlan;
use shared::PoolShared;

pub use config::ConnectionPoolConfig;
pub use errors::{PeerFailure, PoolError};
pub use events::{PoolEvent, PoolEventKind, PoolStatistics};
pub use shared::PooledConnection;

/// Connections to peers, each shared by many callers.
///
/// A *peer* of the pool is an address as it is written and whom to trust there; two callers that
/// trust different keys, or hold different functions, share nothing. A connection carries the
/// streams of up to [`max_callers_per_connection`] callers. Another one is dialled only where all
/// that there are have as many, up to [`max_connections_per_peer`], one dial of a peer at a time:
/// callers that come meanwhile share what it brings, or hear why it failed.
///
/// - A connection that nobody uses for [`idle_timeout`] is closed, unless it is to be
///   [kept warm](ConnectionPool::keep_warm).
/// - Each connection's peer is asked for a sign of life every [`health_interval`]. A connection
///   whose peer gives none within [`health_timeout`] is closed, and its callers find it closed.
/// - After a failure the peer is not dialled for [`backoff_initial`], twice as long after the next
///   one, and so on up to [`backoff_max`]; callers wait. After [`failure_threshold`] failures the
///   circuit is open: callers get [`PoolError::CircuitOpen`] at once. When the pause is over, one
///   dial is let through: it closes the circuit, or opens it for a longer time.
/// - A dial that fails is told to all that wait for it. The pool repeats none for them; it does for
///   connections that are to be kept warm.
///
/// The pool has one thread, which sleeps unless something is to be done. It ends when the pool is
/// dropped: connections that nobody has are closed then, and who waits gets
/// [`PoolError::Dropped`]. A connection that was given out lasts as long as whoever has it, and its
/// engine; the pool keeps the engine running.
///
/// ```no_run
/// # use landro::{ConnectionPool, ConnectionPoolConfig, Engine, PeerTrust};
/// # use landro::Fingerprint;
/// # async fn example(key: Fingerprint) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder().protocol("example/1").start()?;
/// let pool = ConnectionPool::new(&engine, ConnectionPoolConfig::default())?;
/// let connection = pool.get("host:4433", PeerTrust::Pinned(key)).await?;
/// let (mut send, mut receive) = connection.open_bi().await?;
/// send.write_all(b"request").await?;
/// send.finish()?;
/// let answer = receive.read_to_end(1 << 20).await?;
/// drop(connection); // Behind its streams: its place is somebody else's.
/// # Ok(()) }
/// ```
///
/// [`max_callers_per_connection`]: ConnectionPoolConfig::max_callers_per_connection
/// [`max_connections_per_peer`]: ConnectionPoolConfig::max_connections_per_peer
/// [`idle_timeout`]: ConnectionPoolConfig::idle_timeout
/// [`health_interval`]: ConnectionPoolConfig::health_interval
/// [`health_timeout`]: ConnectionPoolConfig::health_timeout
/// [`backoff_initial`]: ConnectionPoolConfig::backoff_initial
/// [`backoff_max`]: ConnectionPoolConfig::backoff_max
/// [`failure_threshold`]: ConnectionPoolConfig::failure_threshold
pub struct ConnectionPool {
    shared: Arc<PoolShared>,
}

impl ConnectionPool {
    /// A pool without connections.
    ///
    /// # Errors
    /// A value of the configuration is impossible, or the pool's thread cannot be started.
    pub fn new(engine: &Engine, config: ConnectionPoolConfig) -> Result<ConnectionPool, PoolError> {
        let plan = PoolPlan::new(config.checked()?, rand::random());
        let shared = Arc::new(PoolShared::new(plan));
        let keeper = PoolKeeper::new(engine.clone(), shared.clone());
        thread::Builder::new()
            .name("landro-pool".to_owned())
            .spawn(move || keeper.run())
            .map_err(|error| PoolError::Thread(error.to_string()))?;
        Ok(ConnectionPool { shared })
    }

    /// A connection to `HOST:PORT`, and a place on it; at once, if one has room. The future does
    /// not borrow the pool, and does nothing before it is polled.
    ///
    /// The place is to be kept as long as the streams that are opened on it: the pool does not see
    /// streams, and closes a connection on which nobody has a place, whatever goes over it.
    ///
    /// # Errors
    /// [`PoolError`] says which may be tried again.
    ///
    /// # Cancel safety
    /// A caller that goes away takes nothing from the others: a dial that it caused goes on, and
    /// what it brings is the next caller's.
    pub fn get(
        &self,
        to: &str,
        trust: PeerTrust,
    ) -> impl Future<Output = Result<PooledConnection, PoolError>> + Send + use<> {
        self.shared.clone().get(peer_name(to, trust))
    }

    /// Keeps at least so many connections to a peer, used or not: they are made now, and anew when
    /// they end, one after the other and with the pauses of any dial. 0: none any more. What
    /// becomes of them is told by [events](ConnectionPool::next_event).
    ///
    /// # Errors
    /// So many are more than a peer may have, or those of all peers together leave no connection of
    /// [`max_connections`](ConnectionPoolConfig::max_connections) for anybody else: nothing is
    /// changed then. There are too many peers, or the pool is drained.
    pub fn keep_warm(&self, to: &str, trust: PeerTrust, count: usize) -> Result<(), PoolError> {
        let mut state = self.shared.state();
        let name = peer_name(to, trust);
        let kept = state.plan.keep_warm(now(), &name, count);
        drop(state);
        self.shared.bell.ring();
        kept
    }

    /// The next event of the pool; several callers divide them. `None`: the pool is drained, and
    /// there will be none. 1024 wait to be taken; then the oldest is dropped for the new one and
    /// counted.
    ///
    /// # Cancel safety
    /// No event is lost by dropping the future.
    pub async fn next_event(&self) -> Option<PoolEvent> {
        self.shared.next_event().await
    }

    /// What the pool holds, and did so far.
    pub fn statistics(&self) -> PoolStatistics {
        self.shared.statistics()
    }

    /// Ends the pool: nobody gets a connection any more, who waits gets [`PoolError::Draining`],
    /// and what is not in use is closed. What is in use is closed when it comes back, or when
    /// [`drain_timeout`] has passed. Gives how many connections were closed for that. A connection
    /// is in use while somebody has a [`PooledConnection`]: streams that outlive theirs are cut off
    /// at once.
    ///
    /// [`drain_timeout`]: ConnectionPoolConfig::drain_timeout
    ///
    /// # Cancel safety
    /// Once it was polled, the drain goes on. Another call waits for the same one.
    pub async fn drain(&self) -> usize {
        self.shared.state().plan.drain(now());
        self.shared.bell.ring();
        loop {
            let ended = self.shared.ended.listen();
            let drained = self.shared.state().plan.drained();
            if let Some(cut_off) = drained {
                return cut_off;
            }
            ended.await;
        }
    }
}

impl Drop for ConnectionPool {
    fn drop(&mut self) {
        self.shared.state().is_dropped = true;
        self.shared.bell.ring();
    }
}

impl fmt::Debug for ConnectionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionPool")
            .field(&self.statistics())
            .finish()
    }
}

fn peer_name(to: &str, trust: PeerTrust) -> Arc<PeerName> {
    let address = to.to_owned();
    Arc::new(PeerName { address, trust })
}
