//! The receiver of chunks, as a program has it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::alarm::{StallAlarm, StallAlarms};
use super::chunks::{ChunkResult, ChunkSink, LARGEST_CHUNK_BYTES, NeededChunk};
use super::crew::unless;
use super::errors::ParallelTransferError;
use super::framing::{
    ANNOUNCED_CHUNK_BYTES, ANNOUNCEMENT_HEAD_BYTES, ControlMessage, announced_chunk,
    announcement_head,
};
use super::incoming::{IncomingParts, IncomingTransfer, charge_of_arriving};
use super::{CHUNKS_MAX, PROGRESS_TIMEOUT, check_buffer, check_streams, check_timeout};
use crate::api::buffers::{BufferPool, BufferPoolStatistics};
use crate::api::connection::Connection;
use crate::api::permits::MemoryGate;
use crate::api::stream::{RecvStream, SendStream};
use crate::engine;

/// What one read of an announcement brings at most.
const ANNOUNCEMENT_READ_BYTES: usize = 64 << 10;

/// A sender that is refused has so long to hear why, before its connection may be closed.
const LINGER: Duration = Duration::from_secs(1);

/// What a receiver lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParallelReceiverConfig {
    /// Streams of chunks at a time, at most; the sender is told. Default 16. Fewer are let in where
    /// `max_buffer_size` does not hold two of the largest announced chunks for each.
    pub max_concurrent_streams: usize,
    /// Chunks of one transfer, at most. Each costs some 100 bytes; words of the peer are 4 MiB
    /// together at most. Default 65,536.
    pub max_chunks: usize,
    /// Memory for chunks that are not whole, and for those that the sink holds, in bytes. Default
    /// 128 MiB.
    pub max_buffer_size: usize,
}

impl Default for ParallelReceiverConfig {
    fn default() -> ParallelReceiverConfig {
        ParallelReceiverConfig {
            max_concurrent_streams: 16,
            max_chunks: 65_536,
            max_buffer_size: 128 << 20,
        }
    }
}

/// Receives what a [`ParallelTransferManager`](super::ParallelTransferManager) of the peer sends,
/// and gives it to a [`ChunkSink`].
///
/// A chunk is in memory whole, and its BLAKE3 digest compared, before the sink sees it. Memory is
/// bounded by `max_buffer_size` whatever the peer sends and the sink holds; a sink that is slow
/// makes the sender wait. Whatever the peer says is checked: of one that does what no right one
/// does, the transfer ends with [`ParallelTransferError::Breach`], and nothing of it was given to
/// the sink that was not announced, whole and right.
///
/// While it receives, it takes all streams that the peer opens on the connection.
pub struct ParallelReceiver {
    connection: Connection,
    config: ParallelReceiverConfig,
    progress_timeout: Duration,
    gate: Arc<MemoryGate>,
    buffers: BufferPool,
    alarms: StallAlarms,
    is_busy: AtomicBool,
}

/// Until it is dropped, a transfer runs.
struct BusyReceiver<'a>(&'a AtomicBool);

impl Drop for BusyReceiver<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl ParallelReceiver {
    /// The receiver of a connection. Values of the configuration are checked with the first
    /// transfer.
    pub fn new(connection: Connection, config: ParallelReceiverConfig) -> ParallelReceiver {
        ParallelReceiver {
            connection,
            progress_timeout: PROGRESS_TIMEOUT,
            gate: MemoryGate::new(config.max_buffer_size),
            buffers: BufferPool::new(config.max_buffer_size),
            config,
            alarms: StallAlarms::default(),
            is_busy: AtomicBool::new(false),
        }
    }

    /// For how long nothing may arrive, and the sink may take nothing, before a transfer fails.
    /// Default: 60 s.
    #[must_use]
    pub fn with_progress_timeout(mut self, timeout: Duration) -> ParallelReceiver {
        self.progress_timeout = timeout;
        self
    }

    /// Receives the next transfer of the peer, and gives what became of each of its chunks, in the
    /// order in which they are needed. For the transfer to begin it waits as long as the connection
    /// lives; from then on, something has to move.
    ///
    /// # Errors The peer broke the rules, was refused for what it announced, or gave up; nothing
    /// moved for the progress timeout; the connection is over. That a chunk was not delivered is no
    /// error, but its outcome.
    ///
    /// # Cancel safety
    /// Dropping the future ends the transfer, if one has begun: the sender is told. The sink has
    /// then seen some chunks, each of them whole.
    pub async fn receive<S: ChunkSink>(
        &self,
        sink: &S,
    ) -> Result<Vec<ChunkResult>, ParallelTransferError> {
        check_streams(self.config.max_concurrent_streams)?;
        check_buffer(self.config.max_buffer_size)?;
        check_timeout(self.progress_timeout)?;
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return Err(ParallelTransferError::Busy);
        }
        let _busy = BusyReceiver(&self.is_busy);
        let (mut say, mut hear) = self.connection.accept_bi().await?;
        let alarm = self.alarms.start(self.progress_timeout);
        let alarm = alarm.map_err(ParallelTransferError::Thread)?;
        let done = self.run(sink, alarm, (&mut say, &mut hear)).await;
        if let Err(
            error @ (ParallelTransferError::Breach(_)
            | ParallelTransferError::Chunks(_)
            | ParallelTransferError::Stalled { .. }),
        ) = &done
        {
            tell(&mut say, &mut hear, error).await;
        }
        done
    }

    async fn run<S: ChunkSink>(
        &self,
        sink: &S,
        alarm: StallAlarm,
        (say, hear): (&mut SendStream, &mut RecvStream),
    ) -> Result<Vec<ChunkResult>, ParallelTransferError> {
        let announced = unless(alarm.rings(), self.announced(hear, &alarm)).await;
        let Some(announced) = announced else {
            return Err(ParallelTransferError::Stalled {
                after: alarm.timeout(),
                waits_for: "the peer, to say which chunks come".to_owned(),
            });
        };
        let (chunks, streams) = announced?;
        let receiving = IncomingTransfer::new(IncomingParts {
            connection: &self.connection,
            sink,
            chunks,
            streams,
            gate: &self.gate,
            buffers: &self.buffers,
            alarm,
            control: hear.id(),
        });
        receiving.run(say, hear).await
    }

    /// Reads which chunks come, and reckons how many streams there is memory for.
    async fn announced(
        &self,
        hear: &mut RecvStream,
        alarm: &StallAlarm,
    ) -> Result<(Vec<NeededChunk>, usize), ParallelTransferError> {
        let mut read = BytesMut::new();
        read_to(hear, alarm, (&mut read, ANNOUNCEMENT_HEAD_BYTES)).await?;
        let head = read.split_to(ANNOUNCEMENT_HEAD_BYTES);
        let head = <&[u8; ANNOUNCEMENT_HEAD_BYTES]>::try_from(&head[..]);
        let head = announcement_head(head.unwrap_or(&[0; ANNOUNCEMENT_HEAD_BYTES]))?;
        let (count, most) = (head.chunks as usize, self.config.max_chunks.min(CHUNKS_MAX));
        if count > most {
            return Err(ParallelTransferError::Chunks(format!(
                "{count} are announced, and {most} are let in at a time"
            )));
        }
        let (mut chunks, mut ids) = (Vec::new(), HashSet::new());
        let (mut largest, most_bytes) = (1, self.config.max_buffer_size);
        while chunks.len() < count {
            read_to(hear, alarm, (&mut read, ANNOUNCED_CHUNK_BYTES)).await?;
            let whole = (read.len() / ANNOUNCED_CHUNK_BYTES).min(count - chunks.len());
            let mut whole = read.split_to(whole * ANNOUNCED_CHUNK_BYTES).freeze();
            while !whole.is_empty() {
                let chunk = announced_chunk(&mut whole);
                let charge = charge_of_arriving(chunk.size_bytes);
                if chunk.size_bytes > LARGEST_CHUNK_BYTES || 2 * charge > most_bytes {
                    return Err(ParallelTransferError::Chunks(format!(
                        "{chunk} is too large: max_buffer_size of the receiver is {most_bytes}, \
                         and has to hold two; the largest there are have {LARGEST_CHUNK_BYTES}"
                    )));
                }
                if !ids.insert(chunk.id) {
                    let twice = format!("the id {} is there twice", chunk.id);
                    return Err(ParallelTransferError::Breach(twice));
                }
                largest = largest.max(charge);
                chunks.push(chunk);
            }
        }
        if !read.is_empty() || count == 0 {
            let what = "it does not say which chunks come, and then waits".to_owned();
            return Err(ParallelTransferError::Breach(what));
        }
        let wanted = usize::from(head.streams).min(self.config.max_concurrent_streams);
        let fit = most_bytes / (2 * largest);
        Ok((chunks, wanted.min(fit).max(1)))
    }

    /// The most bytes of memory that were in use at any time: `max_buffer_size` at most.
    pub fn most_buffered_bytes(&self) -> usize {
        self.gate.most_used_bytes()
    }

    /// What the pooled buffers do: those of the memory in use that are the receiver's own.
    pub fn buffers(&self) -> BufferPoolStatistics {
        self.buffers.statistics()
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Reads until so much is there.
async fn read_to(
    hear: &mut RecvStream,
    alarm: &StallAlarm,
    (into, bytes): (&mut BytesMut, usize),
) -> Result<(), ParallelTransferError> {
    while into.len() < bytes {
        let read = hear.read_bytes(ANNOUNCEMENT_READ_BYTES).await;
        let Some(more) = read.map_err(ParallelTransferError::of_read)? else {
            let what = "its announcement ends in the middle".to_owned();
            return Err(ParallelTransferError::Breach(what));
        };
        into.put(more);
    }
    // All of it is progress, and a part is none: it may drip.
    alarm.moved(engine::now());
    Ok(())
}

/// Says why, and gives the peer a moment to hear it.
async fn tell(say: &mut SendStream, hear: &mut RecvStream, error: &ParallelTransferError) {
    let mut words = BytesMut::new();
    ControlMessage::Refused(error.to_string()).write(&mut words);
    let alarms = StallAlarms::default();
    let Ok(linger) = alarms.start(LINGER) else {
        return;
    };
    let tells = async {
        say.write_bytes(words.freeze()).await.ok()?;
        say.finish().ok()?;
        while let Ok(Some(_)) = hear.read_bytes(ANNOUNCEMENT_READ_BYTES).await {}
        Some(())
    };
    unless(linger.rings(), tells).await;
}

impl fmt::Debug for ParallelReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelReceiver")
            .field("connection", &self.connection)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
