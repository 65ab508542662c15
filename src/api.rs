//! What programs use: handles of the engine, buffers, and files as bytes. All of it is at the root
//! of the crate.

mod buffers;
mod connection;
mod engine;
mod errors;
mod lookup;
mod mmap;
mod stream;
mod transfer;

pub use buffers::{
    BufferPool, BufferPoolError, BufferPoolStatistics, MemoryPressure, PooledBuffer,
};
pub use connection::Connection;
pub use engine::{ConnectError, Engine, EngineBuilder, Listener, PeerTrust};
pub use errors::{ConnectionError, DatagramError, ReadError, StartError, WriteError};
pub use mmap::{MmapError, MmapFileReader};
pub use stream::{RecvStream, SendStream};
pub use transfer::{RunningTransfer, TransferError, TransferEvent, TransferSummary};

pub use crate::config::{
    ConfigError, CongestionControl, Correction, Diagnostics, FixedRate, LaneKind, PathView,
    QuicConfig, RateBound, RatePolicy,
};
pub use crate::engine::BackendChoice;
pub use crate::identity::{BoringError, Identity, IdentityError};
pub use crate::ids::{CopyId, Fingerprint};
pub use crate::proto::receive::MetadataOptions;
pub use crate::proto::session::{Direction, Grant, Transfer, TransferOptions};
pub use crate::proto::{EntryError, EntryErrorCode, EntryPlace, EntryResult, Kind};
pub use crate::worker::ConnectionStatistics;
