//! The sender of chunks, as a program has it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::alarm::StallAlarms;
use super::chunks::{ChunkProvider, ChunkResult, LARGEST_CHUNK_BYTES, NeededChunk};
use super::crew::unless;
use super::errors::ParallelTransferError;
use super::outgoing::{OutgoingParts, OutgoingTransfer};
use super::pieces::{Readers, charge_of};
use super::progress::{ProgressBoard, ProgressStream};
use super::{CHUNKS_MAX, PROGRESS_TIMEOUT, check_buffer, check_streams, check_timeout};
use crate::api::buffers::{BufferPool, BufferPoolStatistics};
use crate::api::connection::Connection;
use crate::api::file_reads::FileReads;
use crate::api::permits::MemoryGate;
use crate::proto::parallel::ParallelTransferConfig;

/// Threads that read files and reckon digests, at most: with more, disks of today do not read
/// faster, and nobody's cores are so many.
const READ_THREADS_MAX: usize = 4;

/// Sends chunks to the [`ParallelReceiver`](super::ParallelReceiver) of the peer, over several
/// unidirectional streams of one connection at a time.
///
/// - **Streams** are added while that brings more, as measured over each `bandwidth_window`; a step
///   up that did not pay is taken back, and those that have paid once stay: the same controller as
///   rules the streams of `landro cp`. A stream carries `chunks_per_stream` chunks or
///   `bytes_per_stream_target` bytes, then another takes its place. The receiver says how many it
///   has memory for.
/// - **Memory** is taken by permits, of `max_buffer_size` bytes in all: before a chunk is asked of
///   the provider, until the peer's transport has acknowledged it. A provider that is fast and a
///   peer that is slow cost no more.
/// - **Each chunk** has a BLAKE3 digest, which the receiver compares before its sink sees the
///   chunk, and an outcome, which comes back.
/// - **Every wait ends**: where nothing moves for the
///   [progress timeout](Self::with_progress_timeout), the transfer fails and says what it waited
///   for.
///
/// One transfer runs at a time. The peer's receiver takes all streams that this side of the
/// connection opens, so a program that has streams of its own beside opens them from the other
/// side, or over another connection.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use bytes::Bytes;
/// # use landro::*;
/// # struct Memory;
/// # impl ChunkProvider for Memory {
/// #     async fn provide(&self, chunk: NeededChunk) -> Result<ChunkData, ChunkFailure> {
/// #         Ok(ChunkData::Bytes(Bytes::from(vec![chunk.id as u8; chunk.size_bytes as usize])))
/// #     }
/// # }
/// # struct Nowhere;
/// # impl ChunkSink for Nowhere {
/// #     async fn write(&self, _: NeededChunk, _: Bytes) -> Result<(), ChunkFailure> { Ok(()) }
/// # }
/// # let anyone = PeerTrust::Decide(Arc::new(|_| true));
/// # let server = Engine::builder().protocol("chunks/1").listen("127.0.0.1:0".parse()?);
/// # let server = server.accept(anyone.clone()).start()?;
/// # let client = Engine::builder().protocol("chunks/1").start()?;
/// # let (listener, at) = (server.listener(), server.listener().addresses()[0].to_string());
/// # let receives = std::thread::spawn(move || futures_lite::future::block_on(async {
/// #     let connection = listener.accept().await.unwrap();
/// #     let receiver = ParallelReceiver::new(connection, ParallelReceiverConfig::default());
/// #     receiver.receive(&Nowhere).await.unwrap().len()
/// # }));
/// # futures_lite::future::block_on(async {
/// # let connection = client.connect(&at, anyone).await?;
/// # let chunk_provider = Memory;
/// # let chunks_needed = (0..4).map(|id| NeededChunk { id, size_bytes: 100_000 });
/// let manager = ParallelTransferManager::new(connection, ParallelTransferConfig {
///     max_concurrent_streams: 16, chunks_per_stream: 8, bytes_per_stream_target: 4 * 1024 * 1024,
///     adaptive_parallelism: true, bandwidth_window: Duration::from_secs(1),
///     max_buffer_size: 128 * 1024 * 1024 });
/// let chunks = manager.transfer_chunks(chunks_needed, chunk_provider).await?;
/// assert!(chunks.iter().all(ChunkResult::is_delivered));
/// # assert_eq!(chunks.len(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # assert_eq!(receives.join().unwrap(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ParallelTransferManager {
    connection: Connection,
    config: ParallelTransferConfig,
    progress_timeout: Duration,
    gate: Arc<MemoryGate>,
    buffers: BufferPool,
    reads: FileReads,
    board: Arc<ProgressBoard>,
    alarms: StallAlarms,
}

impl ParallelTransferManager {
    /// The manager of a connection. Values of the configuration are checked with the first
    /// transfer.
    pub fn new(connection: Connection, config: ParallelTransferConfig) -> ParallelTransferManager {
        let threads = config.max_concurrent_streams.clamp(1, READ_THREADS_MAX);
        ParallelTransferManager {
            connection,
            progress_timeout: PROGRESS_TIMEOUT,
            gate: MemoryGate::new(config.max_buffer_size),
            buffers: BufferPool::new(config.max_buffer_size),
            reads: FileReads::new(threads),
            board: Arc::default(),
            alarms: StallAlarms::default(),
            config,
        }
    }

    /// For how long nothing may move before a transfer fails. Default: 60 s. A provider, or the
    /// peer's sink, that takes longer for a chunk while nothing else moves needs more.
    #[must_use]
    pub fn with_progress_timeout(mut self, timeout: Duration) -> ParallelTransferManager {
        self.progress_timeout = timeout;
        self
    }

    /// Sends the chunks, and gives what became of each, in the order in which they are needed.
    /// Returns when the peer has said so of all of them.
    ///
    /// Files are read, and digests reckoned, by threads of the manager, but for pieces of at most
    /// 16 KiB in memory; all else is done by whoever polls the future.
    ///
    /// # Errors
    /// A value of the configuration, or a chunk, cannot be; nothing moved for the progress timeout;
    /// [`cancel`](Self::cancel) was called; the peer refused or gave up; the connection is over.
    /// That a chunk was not delivered is no error, but its outcome.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the transfer: its streams are reset, and the receiver is told.
    /// Which chunks were delivered, nobody knows then. Memory is free when the transport has let it
    /// go, and the next transfer of the manager may begin at once.
    pub async fn transfer_chunks<P: ChunkProvider>(
        &self,
        chunks_needed: impl IntoIterator<Item = NeededChunk>,
        chunk_provider: P,
    ) -> Result<Vec<ChunkResult>, ParallelTransferError> {
        // Before anything fails: progress of this transfer ends then, too.
        let _runs = self.board.begin().ok_or(ParallelTransferError::Busy)?;
        let chunks = self.check(chunks_needed)?;
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        let alarm = self.alarms.start(self.progress_timeout);
        let alarm = alarm.map_err(ParallelTransferError::Thread)?;
        // The first wait: streams that go both ways may all be taken.
        let opens = unless(alarm.rings(), self.connection.open_bi());
        let (say, hear) = match unless(self.board.cancelled(), opens).await {
            None => return Err(ParallelTransferError::Cancelled),
            Some(None) => {
                return Err(ParallelTransferError::Stalled {
                    after: alarm.timeout(),
                    waits_for: "the peer, to let in a control stream".to_owned(),
                });
            }
            Some(Some(opened)) => opened?,
        };
        let parts = OutgoingParts {
            connection: &self.connection,
            config: &self.config,
            chunks: &chunks,
            provider: &chunk_provider,
            gate: &self.gate,
            readers: Readers {
                reads: &self.reads,
                buffers: &self.buffers,
            },
            board: &self.board,
            alarm,
        };
        let sending = OutgoingTransfer::new(parts, say.id());
        sending.run(say, hear).await
    }

    fn check(
        &self,
        chunks_needed: impl IntoIterator<Item = NeededChunk>,
    ) -> Result<Vec<NeededChunk>, ParallelTransferError> {
        let config = &self.config;
        let wrong = |what: String| Err(ParallelTransferError::Config(what));
        check_streams(config.max_concurrent_streams)?;
        check_buffer(config.max_buffer_size)?;
        check_timeout(self.progress_timeout)?;
        if config.chunks_per_stream == 0 || config.bytes_per_stream_target == 0 {
            return wrong(format!(
                "a stream carries at least one chunk and one byte: chunks_per_stream is {}, \
                 bytes_per_stream_target {}",
                config.chunks_per_stream, config.bytes_per_stream_target
            ));
        }
        let window = config.bandwidth_window;
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&window) {
            return wrong(format!(
                "bandwidth_window is {window:?}: it is 1 ms to an hour"
            ));
        }
        let chunks: Vec<_> = chunks_needed.into_iter().take(CHUNKS_MAX + 1).collect();
        check_chunks(&chunks, config.max_buffer_size)?;
        Ok(chunks)
    }

    /// Ends the transfer that runs, if one does, with [`ParallelTransferError::Cancelled`]. From
    /// any thread.
    pub fn cancel(&self) {
        self.board.cancel();
    }

    /// Numbers of the transfer that runs, else of the next one, as they change.
    pub fn progress(&self) -> ProgressStream {
        ProgressStream::new(Arc::clone(&self.board))
    }

    /// The most bytes of memory that were in use at any time: `max_buffer_size` at most.
    pub fn most_buffered_bytes(&self) -> usize {
        self.gate.most_used_bytes()
    }

    /// What the pooled buffers do: those of the memory in use that are the manager's own.
    pub fn buffers(&self) -> BufferPoolStatistics {
        self.buffers.statistics()
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn check_chunks(chunks: &[NeededChunk], most_bytes: usize) -> Result<(), ParallelTransferError> {
    let wrong = |what: String| Err(ParallelTransferError::Chunks(what));
    if chunks.len() > CHUNKS_MAX {
        return wrong(format!(
            "there are more than {CHUNKS_MAX}, the most of one transfer; make several of it"
        ));
    }
    let mut ids = HashSet::with_capacity(chunks.len());
    for chunk in chunks {
        if chunk.size_bytes > LARGEST_CHUNK_BYTES {
            return wrong(format!(
                "{chunk} is larger than {LARGEST_CHUNK_BYTES}, the largest; cut it"
            ));
        }
        let charge = charge_of(chunk.size_bytes);
        if charge > most_bytes {
            return wrong(format!(
                "{chunk} takes {charge} bytes of memory, and max_buffer_size is {most_bytes}"
            ));
        }
        if !ids.insert(chunk.id) {
            return wrong(format!("the id {} is there twice", chunk.id));
        }
    }
    Ok(())
}

impl Drop for ParallelTransferManager {
    fn drop(&mut self) {
        self.board.gone();
    }
}

impl fmt::Debug for ParallelTransferManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelTransferManager")
            .field("connection", &self.connection)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
