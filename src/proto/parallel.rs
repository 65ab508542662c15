//! How the chunks of a transfer share data streams: configuration, measured parallelism, pacing,
//! stream slots.
//!
//! The sender of a session is one user, the sender of a program's chunks (`api::parallel`) the
//! other. Memory is not bounded here but by the sender's read-ahead, of which
//! [`ParallelTransferConfig::max_buffer_size`] is the ceiling.

mod bucket;
mod parallelism;
mod streams;
#[cfg(test)]
mod tests;

use std::time::Duration;

#[cfg(any(test, feature = "internals"))]
pub use bucket::TokenBucket;
pub use bucket::TransferRate;
pub use parallelism::Parallelism;
pub use streams::{StreamLimits, StreamLoad, StreamSlots};

/// Chunks of the partial files a receiver has open, and so of the files a sender resumes, taken
/// together: what a lying peer can make either side keep chaining values and bitmaps of (a few
/// MiB). Two files of the most chunks fit.
pub const MAX_PARTIAL_CHUNKS: u64 = 2 * super::chunk::MAX_CHUNKS as u64;

/// How one transfer uses data streams. `cp` itself runs on these defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParallelTransferConfig {
    /// Most data streams with unfinished records at a time, the one of packed small files included.
    /// Default 16.
    pub max_concurrent_streams: usize,
    /// A stream ends after this many chunks and the next chunk takes a new one. Default 8.
    pub chunks_per_stream: u32,
    /// A stream also ends once it carried this many bytes. Default 4 MiB.
    pub bytes_per_stream_target: u64,
    /// Start with one stream and let measured goodput decide; otherwise always use the maximum.
    /// Default true.
    pub adaptive_parallelism: bool,
    /// The sliding window over which goodput is measured before each decision. Default 1 s.
    pub bandwidth_window: Duration,
    /// Ceiling of the bytes read ahead of the transport, whatever the memory budget says. Default
    /// 128 MiB.
    pub max_buffer_size: usize,
}

impl Default for ParallelTransferConfig {
    fn default() -> ParallelTransferConfig {
        ParallelTransferConfig {
            max_concurrent_streams: 16,
            chunks_per_stream: 8,
            bytes_per_stream_target: 4 << 20,
            adaptive_parallelism: true,
            bandwidth_window: Duration::from_secs(1),
            max_buffer_size: 128 << 20,
        }
    }
}
