//! The bounds and times of a pool of connections, with their defaults.

use std::time::Duration;

use super::errors::PoolError;

/// Peers that a pool knows at a time, those included that it has no connection to, for their
/// failures are remembered: some hundred bytes each.
pub(super) const PEERS_MAX: usize = 1024;

/// Bounds and times of a [`ConnectionPool`](super::ConnectionPool). A value of none of these may be
/// zero.
///
/// ```
/// use std::time::Duration;
///
/// use landro::ConnectionPoolConfig;
///
/// let config = ConnectionPoolConfig {
///     max_connections_per_peer: 2,
///     idle_timeout: Duration::from_secs(300),
///     ..ConnectionPoolConfig::default()
/// };
/// assert_eq!(config.max_connections, 256);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionPoolConfig {
    /// Connections of the whole pool, those included that are being made. Default: 256. Where a
    /// caller needs one more, the one that was unused for the longest time is closed for it.
    pub max_connections: usize,
    /// Connections to one peer. Default: 4. Another one is made when all that there are have as
    /// many callers as they may, and one after the other.
    pub max_connections_per_peer: usize,
    /// Callers that share a connection at a time, each with streams of its own. Default: 128, so
    /// that each may have two streams open within the 256 that landro's profiles allow.
    pub max_callers_per_connection: usize,
    /// Callers of the whole pool that wait. Default: 4096; whoever comes then is refused.
    pub max_waiting_callers: usize,
    /// How long one waits. Default: 15 s, which is more than a dial takes.
    pub wait_timeout: Duration,
    /// How long a dial takes, the look-up of the name included. Default: 12 s. Each address has as
    /// long as the handshake timeout of [`QuicConfig`](crate::config::QuicConfig), 10 s by default.
    pub connect_timeout: Duration,
    /// How long a connection is kept that nobody uses. Default: 60 s.
    pub idle_timeout: Duration,
    /// How often each connection's peer is asked for a sign of life. Default: 5 s.
    pub health_interval: Duration,
    /// How long it has for one; then its connection is closed. Default: 2 s. A peer that is frozen
    /// is noticed within the interval and this time together (twice this time, where the interval
    /// is shorter). A packet of QUIC answers, so the peer's program has no part in it; a path that
    /// is slower than this is taken for a dead one.
    pub health_timeout: Duration,
    /// How long nobody is dialled after the first failure. Each further one in a row doubles it.
    /// Of every pause a random part of at most a half is taken off. Default: 250 ms.
    pub backoff_initial: Duration,
    /// The longest of these pauses. Default: 30 s.
    pub backoff_max: Duration,
    /// So many failures in a row open the circuit: callers fail at once until the next dial is
    /// due. Default: 3. A peer with another key than the one that is trusted opens it by itself,
    /// for the longest pause.
    pub failure_threshold: u32,
    /// How long a drain waits for connections that are in use. Default: 30 s.
    pub drain_timeout: Duration,
}

impl Default for ConnectionPoolConfig {
    fn default() -> ConnectionPoolConfig {
        ConnectionPoolConfig {
            max_connections: 256,
            max_connections_per_peer: 4,
            max_callers_per_connection: 128,
            max_waiting_callers: 4096,
            wait_timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(12),
            idle_timeout: Duration::from_secs(60),
            health_interval: Duration::from_secs(5),
            health_timeout: Duration::from_secs(2),
            backoff_initial: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            failure_threshold: 3,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Times beyond this are for ever, and adding them to a moment could overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl ConnectionPoolConfig {
    /// The same with times that can be reckoned with.
    pub(super) fn checked(mut self) -> Result<ConnectionPoolConfig, PoolError> {
        let zero = |field| PoolError::Config {
            field,
            why: "it may not be zero",
        };
        for (field, count) in [
            ("max_connections", self.max_connections),
            ("max_connections_per_peer", self.max_connections_per_peer),
            (
                "max_callers_per_connection",
                self.max_callers_per_connection,
            ),
            ("max_waiting_callers", self.max_waiting_callers),
            ("failure_threshold", self.failure_threshold as usize),
        ] {
            if count == 0 {
                return Err(zero(field));
            }
        }
        for (field, time) in [
            ("wait_timeout", &mut self.wait_timeout),
            ("connect_timeout", &mut self.connect_timeout),
            ("idle_timeout", &mut self.idle_timeout),
            ("health_interval", &mut self.health_interval),
            ("health_timeout", &mut self.health_timeout),
            ("backoff_initial", &mut self.backoff_initial),
            ("backoff_max", &mut self.backoff_max),
            ("drain_timeout", &mut self.drain_timeout),
        ] {
            if time.is_zero() {
                return Err(zero(field));
            }
            *time = (*time).min(LONGEST);
        }
        if self.backoff_max < self.backoff_initial {
            return Err(PoolError::Config {
                field: "backoff_max",
                why: "it may not be less than backoff_initial",
            });
        }
        Ok(self)
    }
}
