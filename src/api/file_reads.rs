//! Pieces of files and their digests, read and reckoned by threads of their own where that takes
//! long: whoever polls a future waits for no disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use bytes::Bytes;
use crossbeam::channel::{self, Receiver, Sender};
use event_listener::Event;

use super::buffers::{BufferPool, BufferPoolError};
use super::permits::Permit;
use crate::ids::ChunkIndex;
use crate::proto::chunk::CHUNK_LOG2_MIN;
use crate::proto::integrity::{ChunkHasher, Digest};

/// A piece whose digest is reckoned: what the engine calls a chunk of a file of up to 64 GiB, so
/// that the digests of pieces are merged by what merges its own.
pub(super) const PIECE_BYTES: usize = 1 << CHUNK_LOG2_MIN;

/// A piece of at most so much that is in memory is read and reckoned at once, in less than the 20
/// microseconds or more that a thread takes to wake.
const AT_ONCE_BYTES: usize = 16 << 10;

/// Where the bytes of a piece come from.
pub(super) enum PieceSource {
    File {
        file: Arc<File>,
        offset: u64,
        bytes: usize,
        buffers: BufferPool,
    },
    Memory(Bytes),
}

impl PieceSource {
    /// Little, and in memory: no disk is waited for.
    fn is_at_once(&self) -> bool {
        match self {
            PieceSource::Memory(bytes) => bytes.len() <= AT_ONCE_BYTES,
            PieceSource::File { file, bytes, .. } => {
                *bytes <= AT_ONCE_BYTES && landro_sys::file::is_in_memory(file)
            }
        }
    }
}

/// Which piece of how many bytes in all a digest is wanted of.
#[derive(Clone, Copy)]
pub(super) struct PlaceOfPiece {
    pub index: u32,
    pub whole_bytes: u64,
}

/// A piece that is in memory. The bytes keep the permit.
pub(super) struct ReadPiece {
    pub bytes: Bytes,
    pub value: Option<Digest>,
}

/// Why there is no piece.
#[derive(Debug, thiserror::Error)]
pub(super) enum PieceError {
    #[error("the file ends at {at}, before the range that was asked for: somebody cut it off")]
    Short { at: u64 },
    #[error("cannot read the file at {at}: {source}")]
    Read { at: u64, source: io::Error },
    #[error("no buffer: {0}")]
    Buffer(BufferPoolError),
    #[error("cannot start a thread that reads: {0}; are the threads of this user used up?")]
    Thread(io::Error),
}

struct ReadJob {
    source: PieceSource,
    place: Option<PlaceOfPiece>,
    permit: Permit,
    slot: Arc<ReadSlot>,
}

struct ReadSlot {
    result: Mutex<Option<Result<ReadPiece, PieceError>>>,
    changed: Event,
    is_wanted: AtomicBool,
}

/// A piece that is being read; dropped, it is not read any more if it was not begun.
pub(super) struct PieceRead(Arc<ReadSlot>);

impl PieceRead {
    pub async fn done(&self) -> Result<ReadPiece, PieceError> {
        loop {
            let changed = self.0.changed.listen();
            let result = self.0.result.lock().ok().and_then(|mut it| it.take());
            if let Some(result) = result {
                return result;
            }
            changed.await;
        }
    }
}

impl Drop for PieceRead {
    fn drop(&mut self) {
        self.0.is_wanted.store(false, Ordering::Release);
    }
}

/// Threads that read; they are started with the first piece and end, each behind the piece that it
/// is at, when this is dropped.
pub(super) struct FileReads {
    threads: usize,
    jobs: OnceLock<Sender<ReadJob>>,
    starting: Mutex<()>,
}

impl FileReads {
    pub fn new(threads: usize) -> FileReads {
        FileReads {
            threads,
            jobs: OnceLock::new(),
            starting: Mutex::new(()),
        }
    }

    /// Begins to read; what is little and in memory is read already when this returns. How many are
    /// begun at a time, callers bound by permits.
    pub fn begin(
        &self,
        source: PieceSource,
        place: Option<PlaceOfPiece>,
        permit: Permit,
    ) -> Result<PieceRead, PieceError> {
        let slot = |result| ReadSlot {
            result: Mutex::new(result),
            changed: Event::new(),
            is_wanted: AtomicBool::new(true),
        };
        if source.is_at_once() {
            let result = read(source, place, permit);
            return Ok(PieceRead(Arc::new(slot(Some(result)))));
        }
        let slot = Arc::new(slot(None));
        let job = ReadJob {
            source,
            place,
            permit,
            slot: Arc::clone(&slot),
        };
        let sent = self.queue()?.send(job);
        // A thread ends with the sender only, which is here.
        sent.map_err(|_| PieceError::Thread(io::ErrorKind::BrokenPipe.into()))?;
        Ok(PieceRead(slot))
    }

    fn queue(&self) -> Result<&Sender<ReadJob>, PieceError> {
        if let Some(jobs) = self.jobs.get() {
            return Ok(jobs);
        }
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = self.jobs.get() {
            return Ok(jobs);
        }
        let (send, receive) = channel::unbounded();
        for number in 0..self.threads {
            let jobs = receive.clone();
            let started = thread::Builder::new()
                .name("landro-reads".to_owned())
                .spawn(move || read_all(&jobs));
            match started {
                Ok(_) => {}
                Err(error) if number == 0 => return Err(PieceError::Thread(error)),
                // Fewer do, too.
                Err(_) => break,
            }
        }
        Ok(self.jobs.get_or_init(|| send))
    }
}

fn read_all(jobs: &Receiver<ReadJob>) {
    for job in jobs {
        if !job.slot.is_wanted.load(Ordering::Acquire) {
            continue;
        }
        let result = read(job.source, job.place, job.permit);
        if let Ok(mut slot) = job.slot.result.lock() {
            *slot = Some(result);
        }
        job.slot.changed.notify(usize::MAX);
    }
}

fn read(
    source: PieceSource,
    place: Option<PlaceOfPiece>,
    permit: Permit,
) -> Result<ReadPiece, PieceError> {
    let bytes = match source {
        PieceSource::Memory(bytes) => bytes,
        PieceSource::File {
            file,
            offset,
            bytes,
            buffers,
        } => {
            let mut buffer = buffers.take(bytes).map_err(PieceError::Buffer)?;
            read_range(&file, offset, &mut buffer)?;
            buffer.freeze()
        }
    };
    // While the bytes are hot in cache.
    let value = place.map(|place| value_of(&bytes, place));
    let bytes = permit.hold(bytes);
    Ok(ReadPiece { bytes, value })
}

/// The digest of a piece: the root where it is the only one, else its chaining value.
pub(super) fn value_of(bytes: &[u8], place: PlaceOfPiece) -> Digest {
    let mut hasher = ChunkHasher::new(ChunkIndex(place.index), place.whole_bytes);
    hasher.update(bytes);
    hasher.finish()
}

fn read_range(file: &File, offset: u64, buffer: &mut [u8]) -> Result<(), PieceError> {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        match file.read_at(&mut buffer[done..], at) {
            Ok(0) => return Err(PieceError::Short { at }),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(PieceError::Read { at, source }),
        }
    }
    Ok(())
}
