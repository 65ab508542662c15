//! Why a transfer of chunks is over before all of them have an outcome.

use std::io;
use std::time::Duration;

use crate::api::errors::{ConnectionError, ReadError, WriteError};

/// Why a transfer of chunks failed, of either side. What became of single chunks is no error of the
/// transfer ([`ChunkOutcome`](super::ChunkOutcome)).
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ParallelTransferError {
    /// A value of the configuration cannot be had.
    #[error("configuration of chunks: {0}")]
    Config(String),
    /// The list of needed chunks is none.
    #[error("needed chunks: {0}")]
    Chunks(String),
    /// Another transfer of this manager or receiver runs.
    #[error("a transfer runs already: one connection carries one at a time in each direction")]
    Busy,
    /// There is no thread that watches for progress.
    #[error("cannot start a thread: {0}; are the threads of this user or cgroup used up?")]
    Thread(io::Error),
    /// Nothing moved for as long as that may be.
    #[error(
        "nothing moved for {} s; waiting for {waits_for}",
        after.as_secs_f64()
    )]
    Stalled {
        /// The progress timeout.
        after: Duration,
        /// What was waited for then.
        waits_for: String,
    },
    /// [`cancel`](super::ParallelTransferManager::cancel) was called.
    #[error("cancelled")]
    Cancelled,
    /// The peer gave the transfer up: cancelled it, or dropped its side.
    #[error("the peer gave the transfer up, with code {code}")]
    PeerGaveUp {
        /// The code of its stream.
        code: u64,
    },
    /// The peer refused the transfer, in its words.
    #[error("the peer refused the transfer: {0}")]
    Refused(String),
    /// The peer did what no right one does; better close the connection.
    #[error("the peer broke the rules of chunks: {0}")]
    Breach(String),
    /// The connection is over.
    #[error("the connection of the transfer is over: {0}")]
    Lost(#[from] ConnectionError),
}

impl ParallelTransferError {
    pub(super) fn of_read(error: ReadError) -> ParallelTransferError {
        match error {
            ReadError::Reset(code) => ParallelTransferError::PeerGaveUp { code },
            ReadError::Lost(lost) => lost.into(),
            // Streams of a transfer are stopped, and read to an end, by nobody else.
            other @ (ReadError::Closed | ReadError::TooLong(_)) => {
                ParallelTransferError::Breach(other.to_string())
            }
        }
    }

    pub(super) fn of_write(error: WriteError) -> ParallelTransferError {
        match error {
            WriteError::Stopped(code) => ParallelTransferError::PeerGaveUp { code },
            WriteError::Lost(lost) => lost.into(),
            other @ WriteError::Closed => ParallelTransferError::Breach(other.to_string()),
        }
    }
}

impl From<super::framing::Breach> for ParallelTransferError {
    fn from(breach: super::framing::Breach) -> ParallelTransferError {
        ParallelTransferError::Breach(breach.0)
    }
}
