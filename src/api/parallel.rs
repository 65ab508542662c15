//! Chunks of programs over many streams of one connection: scheduled by what they bring, in bounded
//! memory, each with a digest and an outcome.
//!
//! [`ParallelTransferManager`] sends chunks that a [`ChunkProvider`] has; on the other side of the
//! connection a [`ParallelReceiver`] gives them to a [`ChunkSink`]. Both work under any runtime, or
//! none: all streams of a transfer go on within the one future that the caller polls.

mod acknowledged;
mod alarm;
mod chunks;
mod crew;
mod errors;
mod framing;
mod incoming;
mod manager;
mod outgoing;
mod pieces;
mod progress;
mod receiver;
mod schedule;

use std::time::Duration;

pub use chunks::{
    ChunkData, ChunkFailure, ChunkOutcome, ChunkProvider, ChunkResult, ChunkSink,
    LARGEST_CHUNK_BYTES, NeededChunk,
};
pub use errors::ParallelTransferError;
pub use manager::ParallelTransferManager;
pub use progress::{ProgressStream, TransferProgress};
pub use receiver::{ParallelReceiver, ParallelReceiverConfig};

/// Nothing moves for so long: a transfer is over. As with `landro cp --timeout`.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// Longer timeouts are no timeouts.
const PROGRESS_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Streams of one transfer at a time; twice as many are let in, and QUIC's default for a LAN is
/// 512.
const STREAMS_MAX: usize = 256;

/// Chunks of one transfer, at the most that either side may say: 12 MiB of an announcement.
const CHUNKS_MAX: usize = 1 << 20;

/// More memory than this is a mistake in a unit.
const BUFFER_MAX_BYTES: usize = 1 << 40;

fn check_timeout(timeout: Duration) -> Result<(), ParallelTransferError> {
    match timeout.is_zero() || timeout > PROGRESS_TIMEOUT_MAX {
        true => Err(ParallelTransferError::Config(format!(
            "a progress timeout of {timeout:?}: it is more than nothing, and a day at most"
        ))),
        false => Ok(()),
    }
}

fn check_streams(streams: usize) -> Result<(), ParallelTransferError> {
    match (1..=STREAMS_MAX).contains(&streams) {
        false => Err(ParallelTransferError::Config(format!(
            "max_concurrent_streams is {streams}: it is 1 to {STREAMS_MAX}"
        ))),
        true => Ok(()),
    }
}

fn check_buffer(bytes: usize) -> Result<(), ParallelTransferError> {
    match (1..=BUFFER_MAX_BYTES).contains(&bytes) {
        false => Err(ParallelTransferError::Config(format!(
            "max_buffer_size is {bytes} bytes: it has to hold a chunk at least, and is {} at most",
            BUFFER_MAX_BYTES
        ))),
        true => Ok(()),
    }
}
