//! The engine as Rust programs use it: connections, streams and datagrams under any async runtime,
//! or none; and beside them buffers, and files as bytes.
//!
//! [`Engine`] runs workers of its own; its handles ([`Connection`], [`SendStream`], [`RecvStream`])
//! leave bytes for them and take bytes from them. Futures of this module need no runtime: whoever
//! polls them is woken by a worker. Streams have the futures' `AsyncRead` and `AsyncWrite`, and
//! with the feature `tokio` that crate's, too, which needs no runtime either.
#![deny(missing_docs)]

mod buffers;
mod connection;
mod engine;
mod errors;
mod events;
mod mmap;
mod stream;
#[cfg(feature = "tokio")]
mod tokio_traits;

pub use buffers::{
    BufferPool, BufferPoolError, BufferPoolStatistics, MemoryPressure, PooledBuffer,
};
pub use connection::Connection;
pub use engine::{ConnectError, Engine, EngineBuilder, Listener, PeerTrust};
pub use errors::{ConnectionError, DatagramError, ReadError, WriteError};
pub use events::ConnectionEvents;
pub use mmap::{MmapError, MmapFileReader};
pub use stream::{RecvStream, SendStream};

pub use crate::quic::StreamDirection;
pub use crate::worker::{ConnectionEvent, ConnectionStatistics};
