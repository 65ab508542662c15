//! What programs use: handles of the engine, buffers, and files as bytes. All of it is at the root
//! of the crate.

mod buffers;
mod connection;
mod engine;
mod errors;
mod events;
mod file_reads;
mod lookup;
mod mmap;
mod parallel;
mod permits;
mod pool;
mod remote_files;
mod stream;
#[cfg(feature = "tokio")]
mod tokio_traits;
mod transfer;
mod zero_copy;

pub use buffers::{
    BufferPool, BufferPoolError, BufferPoolStatistics, MemoryPressure, PooledBuffer,
};
pub use connection::Connection;
pub use engine::{Engine, EngineBuilder, Listener, PeerTrust};
pub use errors::{ConnectError, ConnectionError, DatagramError, ReadError, StartError, WriteError};
pub use events::ConnectionEvents;
pub use mmap::{MmapError, MmapFileReader};
pub use pool::{
    ConnectionPool, ConnectionPoolConfig, PeerFailure, PoolError, PoolEvent, PoolEventKind,
    PoolStatistics, PooledConnection,
};
pub use remote_files::{ListedEntry, RemoteFiles, RemoteRange};
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
pub use parallel::{
    ChunkData, ChunkFailure, ChunkOutcome, ChunkProvider, ChunkResult, ChunkSink,
    LARGEST_CHUNK_BYTES, NeededChunk, ParallelReceiver, ParallelReceiverConfig,
    ParallelTransferError, ParallelTransferManager, ProgressStream, TransferProgress,
};
pub use zero_copy::{ZeroCopyError, ZeroCopyStatistics, ZeroCopyStreamWriter};

pub use crate::proto::parallel::ParallelTransferConfig;
pub use crate::quic::StreamDirection;
pub use crate::worker::{ConnectionEvent, ConnectionStatistics};
