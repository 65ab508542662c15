//! What programs use: handles of the engine, buffers, and files as bytes. All of it is at the root
//! of the crate.

mod buffers;
mod connection;
mod engine;
mod errors;
mod mmap;
mod stream;

pub use buffers::{
    BufferPool, BufferPoolError, BufferPoolStatistics, MemoryPressure, PooledBuffer,
};
pub use connection::Connection;
pub use engine::{ConnectError, Engine, EngineBuilder, Listener, PeerTrust};
pub use errors::{ConnectionError, DatagramError, ReadError, StartError, WriteError};
pub use mmap::{MmapError, MmapFileReader};
pub use stream::{RecvStream, SendStream};

pub use crate::config::{ConfigError, CongestionControl, Correction, Diagnostics, QuicConfig};
pub use crate::engine::BackendChoice;
pub use crate::identity::{BoringError, Identity, IdentityError};
pub use crate::ids::Fingerprint;
pub use crate::worker::ConnectionStatistics;
