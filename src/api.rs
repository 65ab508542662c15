//! The engine as Rust programs use it: connections, streams and datagrams under any async runtime,
//! or none.
//!
//! [`Engine`] runs workers of its own; the handles here ([`Connection`], [`SendStream`],
//! [`RecvStream`]) leave bytes for them and take bytes from them. Futures of this module need no
//! runtime: whoever polls them is woken by a worker.
#![deny(missing_docs)]

mod connection;
mod engine;
mod stream;

pub use connection::{Connection, ConnectionError, DatagramError};
pub use engine::{ConnectError, Engine, EngineBuilder, Listener, PeerTrust};
pub use stream::{ReadError, RecvStream, SendStream, WriteError};

pub use crate::worker::ConnectionStatistics;
