//! From a file to a stream without a copy in the caller: read into pooled buffers by threads, and
//! sealed from there.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::buffers::{BufferPool, BufferPoolError, BufferPoolStatistics};
use super::errors::WriteError;
use super::file_reads::{FileReads, PieceError, PieceRead, PieceSource};
use super::permits::MemoryGate;
use super::stream::SendStream;

/// Memory of one writer, in bytes of files that are read and not acknowledged: four of the largest
/// chunks, and more than the paths of most programs have under way.
const MOST_BYTES: usize = 4 * BufferPool::LARGEST_BYTES;

/// Chunks that are read while one is written. Beyond one, a slow read is made up for.
const READ_AHEAD: usize = 2;

/// One reads while the other waits for the disk.
const READ_THREADS: usize = 2;

/// Why a file, or pieces, did not reach a stream.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ZeroCopyError {
    /// The writer's chunk size is none.
    #[error(
        "a chunk size of {chunk_size} bytes: it is 1 to {}, 65,536 to 1 MiB being of use",
        BufferPool::LARGEST_BYTES
    )]
    ChunkSize {
        /// What [`ZeroCopyStreamWriter::new`] was given.
        chunk_size: usize,
    },
    /// The range goes beyond what offsets can say.
    #[error("{size} bytes at {offset} are in no file")]
    Range {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        size: u64,
    },
    /// The file ends before the range does. What was before that is written.
    #[error(
        "the file ends at {ends_at}, and {size} bytes at {offset} were to be sent; was it cut off \
         meanwhile?"
    )]
    Short {
        /// Its end, as it was met.
        ends_at: u64,
        /// Where the range begins.
        offset: u64,
        /// How long it is.
        size: u64,
    },
    /// The file cannot be read.
    #[error(
        "cannot read the file at {at}: {source}; does the kernel's log (dmesg) tell of its disk?"
    )]
    Read {
        /// Where.
        at: u64,
        /// What the system call said.
        source: io::Error,
    },
    /// There is no buffer.
    #[error("no buffer for a chunk of the file: {0}")]
    Buffer(BufferPoolError),
    /// The writer cannot be set up.
    #[error(
        "cannot set up reading of the file: {0}; are threads or descriptors used up (ulimit -u, -n)?"
    )]
    Setup(io::Error),
    /// The stream, or its connection, is over.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What a writer has done so far.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ZeroCopyStatistics {
    /// Bytes of files that were handed to streams.
    pub file_bytes: u64,
    /// Reads of files, each of a chunk.
    pub reads: u64,
    /// Bytes that [`ZeroCopyStreamWriter::write_all_vectored`] handed on.
    pub vectored_bytes: u64,
    /// Pieces that it handed on.
    pub vectored_pieces: u64,
    /// Bytes of files that are read, or being read, and that the peer has not acknowledged.
    pub in_flight_bytes: usize,
    /// The buffers.
    pub buffers: BufferPoolStatistics,
}

/// Writes files, and bytes in pieces, to streams without a copy in the program.
///
/// **This is not sendfile(2).** QUIC seals each packet in user space, so the bytes of a file have
/// to pass through the memory of the process: they are read once, into a pooled buffer, and sealed
/// from there. (landro's own transfers use `sendfile` and `splice` on TCP lanes where the kernel
/// seals, or nobody does; streams of programs are carried by QUIC alone.) What is saved is the copy
/// into a buffer of the caller's, and the one into a queue.
///
/// Reads are done by two threads of the writer, some chunks ahead. The thread that polls the future
/// reads nothing but chunks of at most 16 KiB of files in memory (tmpfs), which takes less time
/// than waking another. At most 64 MiB are read and not acknowledged at a time, for all streams
/// together; then reading waits for the peer. A peer that does not read a stream may hold all of
/// that for as long as the stream lives: use one writer per peer, so that it is nobody else's.
///
/// ```
/// # use std::sync::Arc;
/// # use landro::*;
/// # let anyone = PeerTrust::Decide(Arc::new(|_| true));
/// # let server = Engine::builder().protocol("files/1").listen("127.0.0.1:0".parse()?);
/// # let server = server.accept(anyone.clone()).start()?;
/// # let client = Engine::builder().protocol("files/1").start()?;
/// # let (listener, at) = (server.listener(), server.listener().addresses()[0].to_string());
/// # let receives = std::thread::spawn(move || futures_lite::future::block_on(async {
/// #     let connection = listener.accept().await.unwrap();
/// #     let mut stream = connection.accept_uni().await.unwrap();
/// #     stream.read_to_end(100).await.unwrap()
/// # }));
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("file");
/// # std::fs::write(&path, b"some bytes of a file")?;
/// # futures_lite::future::block_on(async {
/// # let connection = client.connect(&at, anyone).await?;
/// # let mut stream = connection.open_uni().await?;
/// # let file = std::fs::File::open(&path)?;
/// # let (chunk_size, offset, size) = (64 << 10, 5, 5);
/// let writer = ZeroCopyStreamWriter::new(chunk_size);
/// writer.sendfile_to_stream(&mut stream, &file, offset, size).await?;
/// # stream.finish()?;
/// # stream.delivered().await?;
/// # assert_eq!(receives.join().unwrap(), &b"bytes"[..]);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ZeroCopyStreamWriter {
    chunk_size: usize,
    gate: Arc<MemoryGate>,
    buffers: BufferPool,
    reads: FileReads,
    file_bytes: AtomicU64,
    read_count: AtomicU64,
    vectored: Mutex<(u64, u64)>,
}

/// A range of a file that is read ahead.
struct FileRange {
    file: Arc<File>,
    next: u64,
    end: u64,
    begun: VecDeque<PieceRead>,
}

impl ZeroCopyStreamWriter {
    /// A writer that reads files by so many bytes at a time: 1 to
    /// [`BufferPool::LARGEST_BYTES`]. Other sizes are an error of the first call. 256 KiB are good
    /// for most.
    pub fn new(chunk_size: usize) -> ZeroCopyStreamWriter {
        ZeroCopyStreamWriter {
            chunk_size,
            gate: MemoryGate::new(MOST_BYTES),
            buffers: BufferPool::new(MOST_BYTES),
            reads: FileReads::new(READ_THREADS),
            file_bytes: AtomicU64::new(0),
            read_count: AtomicU64::new(0),
            vectored: Mutex::default(),
        }
    }

    /// Writes `size` bytes of the file, from `offset` on, and gives how many that were: all of
    /// them. The file's own position is neither used nor changed (pread(2)). The stream is not
    /// finished.
    ///
    /// # Errors
    /// The file ends before the range does ([`ZeroCopyError::Short`] says where) or cannot be read:
    /// what is before that has been written. Or the stream is over.
    ///
    /// # Cancel safety
    /// A dropped future may have written some, in whole chunks.
    pub async fn sendfile_to_stream(
        &self,
        stream: &mut SendStream,
        file: &File,
        offset: u64,
        size: u64,
    ) -> Result<u64, ZeroCopyError> {
        let chunk_size = self.chunk_size;
        if !(1..=BufferPool::LARGEST_BYTES).contains(&chunk_size) {
            return Err(ZeroCopyError::ChunkSize { chunk_size });
        }
        let end = offset.checked_add(size);
        let Some(end) = end.filter(|end| *end <= i64::MAX as u64) else {
            return Err(ZeroCopyError::Range { offset, size });
        };
        // Of the thread's own: it may read after this future was dropped, and the file closed.
        let file = Arc::new(file.try_clone().map_err(ZeroCopyError::Setup)?);
        let mut range = FileRange {
            file,
            next: offset,
            end,
            begun: VecDeque::new(),
        };
        let in_words = |error| match error {
            PieceError::Short { at: ends_at } => ZeroCopyError::Short {
                ends_at,
                offset,
                size,
            },
            PieceError::Read { at, source } => ZeroCopyError::Read { at, source },
            PieceError::Buffer(error) => ZeroCopyError::Buffer(error),
            PieceError::Thread(error) => ZeroCopyError::Setup(error),
        };
        while range.next < range.end || !range.begun.is_empty() {
            self.read_ahead(&mut range).await.map_err(in_words)?;
            let Some(reads) = range.begun.pop_front() else {
                break;
            };
            let piece = reads.done().await.map_err(in_words)?;
            let bytes = piece.bytes.len() as u64;
            stream.write_bytes(piece.bytes).await?;
            self.file_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(size)
    }

    /// Begins reads, waiting for memory only where none is under way.
    async fn read_ahead(&self, range: &mut FileRange) -> Result<(), PieceError> {
        while range.begun.len() <= READ_AHEAD && range.next < range.end {
            let bytes = (range.end - range.next).min(self.chunk_size as u64) as usize;
            let charge = bytes.next_power_of_two().max(BufferPool::SMALLEST_BYTES);
            let permit = match range.begun.is_empty() {
                true => self.gate.take(charge).await,
                false => match self.gate.try_take(charge) {
                    Some(permit) => permit,
                    None => return Ok(()),
                },
            };
            let source = PieceSource::File {
                file: Arc::clone(&range.file),
                offset: range.next,
                bytes,
                buffers: self.buffers.clone(),
            };
            range
                .begun
                .push_back(self.reads.begin(source, None, permit)?);
            self.read_count.fetch_add(1, Ordering::Relaxed);
            range.next += bytes as u64;
        }
        Ok(())
    }

    /// Writes all pieces, in their order and without a copy: each is sealed from where it is, and
    /// dropped when the peer has acknowledged it. Pieces of less than 16 KiB each are better put
    /// together by [`SendStream::write_all`], which copies: many of them cost more than that.
    ///
    /// # Errors
    /// The stream or its connection is over; some may have been written.
    ///
    /// # Cancel safety
    /// A dropped future may have written some, in whole pieces.
    pub async fn write_all_vectored(
        &self,
        stream: &mut SendStream,
        pieces: &[Bytes],
    ) -> Result<(), ZeroCopyError> {
        for piece in pieces {
            stream.write_bytes(piece.clone()).await?;
            let mut vectored = self.vectored.lock().unwrap_or_else(PoisonError::into_inner);
            vectored.0 += piece.len() as u64;
            vectored.1 += 1;
        }
        Ok(())
    }

    /// What the writer has done, and holds.
    pub fn statistics(&self) -> ZeroCopyStatistics {
        let vectored = *self.vectored.lock().unwrap_or_else(PoisonError::into_inner);
        ZeroCopyStatistics {
            file_bytes: self.file_bytes.load(Ordering::Relaxed),
            reads: self.read_count.load(Ordering::Relaxed),
            vectored_bytes: vectored.0,
            vectored_pieces: vectored.1,
            in_flight_bytes: self.gate.in_use_bytes(),
            buffers: self.buffers.statistics(),
        }
    }
}

impl fmt::Debug for ZeroCopyStreamWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZeroCopyStreamWriter")
            .field("chunk_size", &self.chunk_size)
            .field("statistics", &self.statistics())
            .finish()
    }
}
