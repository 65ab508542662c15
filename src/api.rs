//! The engine as Rust programs use it: connections, streams and datagrams under any async runtime,
//! or none; and beside them buffers, and files as bytes.
//!
//! [`Engine`] runs workers of its own; its handles ([`Connection`], [`SendStream`], [`RecvStream`])
//! leave bytes for them and take bytes from them. Futures of this module need no runtime: whoever
//! polls them is woken by a worker.
#![deny(missing_docs)]

mod buffers;
mod connection;
mod engine;
mod errors;
mod file_reads;
mod mmap;
mod parallel;
mod permits;
mod stream;
mod zero_copy;

pub use buffers::{
    BufferPool, BufferPoolError, BufferPoolStatistics, MemoryPressure, PooledBuffer,
};
pub use connection::Connection;
pub use engine::{ConnectError, Engine, EngineBuilder, Listener, PeerTrust};
pub use errors::{ConnectionError, DatagramError, ReadError, WriteError};
pub use mmap::{MmapError, MmapFileReader};
pub use parallel::{
    ChunkData, ChunkFailure, ChunkOutcome, ChunkProvider, ChunkResult, ChunkSink,
    LARGEST_CHUNK_BYTES, NeededChunk, ParallelReceiver, ParallelReceiverConfig,
    ParallelTransferError, ParallelTransferManager, ProgressStream, TransferProgress,
};
pub use stream::{RecvStream, SendStream};
pub use zero_copy::{ZeroCopyError, ZeroCopyStatistics, ZeroCopyStreamWriter};

pub use crate::proto::parallel::ParallelTransferConfig;
pub use crate::worker::ConnectionStatistics;
