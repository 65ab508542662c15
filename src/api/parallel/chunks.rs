//! Chunks as programs name them: what is needed, who has it, who takes it, what became of it.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::buffers::BufferPool;

/// The largest chunk: that of the largest pooled buffer, for a chunk is in memory whole before its
/// receiver sees it.
pub const LARGEST_CHUNK_BYTES: u64 = BufferPool::LARGEST_BYTES as u64;

/// A chunk that the other side needs: a name of the program's own, and how many bytes it has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NeededChunk {
    /// What provider and sink know it by. Of one transfer, each id is another.
    pub id: u64,
    /// Its size, [`LARGEST_CHUNK_BYTES`] at most; 0 is a size, too.
    pub size_bytes: u64,
}

impl fmt::Display for NeededChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {} of {} bytes", self.id, self.size_bytes)
    }
}

/// Why a provider has no chunk, or a sink does not take one: whatever the program says. The first
/// 512 bytes of its words reach the other side.
pub type ChunkFailure = Box<dyn Error + Send + Sync>;

/// Where the bytes of a chunk are.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum ChunkData {
    /// In the program's memory. They are not copied.
    Bytes(Bytes),
    /// In a file. They are read into pooled buffers by threads of the manager, and go from there to
    /// the stream.
    FileRange {
        /// The file; its own position is neither used nor changed.
        file: Arc<File>,
        /// Where the chunk begins. It is as long as it was needed.
        offset: u64,
    },
}

/// Has the chunks. Several are asked for at a time, no more than there are streams.
pub trait ChunkProvider: Sync {
    /// Gives a chunk, as long as it was needed. An error fails this chunk and no other
    /// ([`ChunkOutcome::Missing`]).
    ///
    /// It is called with a permit for the chunk's memory taken. Until it has answered, nothing else
    /// is asked for by the same stream; a provider that takes longer than the progress timeout ends
    /// the transfer if nothing else moves meanwhile.
    fn provide(
        &self,
        chunk: NeededChunk,
    ) -> impl Future<Output = Result<ChunkData, ChunkFailure>> + Send;
}

impl<P: ChunkProvider + Send> ChunkProvider for Arc<P> {
    fn provide(
        &self,
        chunk: NeededChunk,
    ) -> impl Future<Output = Result<ChunkData, ChunkFailure>> + Send {
        P::provide(self, chunk)
    }
}

/// Takes the chunks.
pub trait ChunkSink: Sync {
    /// Whether the chunk is wanted; asked when it begins to arrive, before memory is taken for it.
    /// Default: each is.
    ///
    /// # Errors
    /// Why not: the sender is told ([`ChunkOutcome::Refused`]).
    fn accept(&self, chunk: NeededChunk) -> Result<(), ChunkFailure> {
        let _ = chunk;
        Ok(())
    }

    /// Takes a whole chunk, whose digest is right. Several are given at a time, one of each stream.
    /// While this takes its time, its stream is not read, and the sender waits; the bytes count as
    /// memory in use until their last clone and slice is dropped.
    ///
    /// An error fails this chunk and no other ([`ChunkOutcome::Refused`]).
    fn write(
        &self,
        chunk: NeededChunk,
        data: Bytes,
    ) -> impl Future<Output = Result<(), ChunkFailure>> + Send;
}

impl<S: ChunkSink + Send> ChunkSink for Arc<S> {
    fn accept(&self, chunk: NeededChunk) -> Result<(), ChunkFailure> {
        S::accept(self, chunk)
    }

    fn write(
        &self,
        chunk: NeededChunk,
        data: Bytes,
    ) -> impl Future<Output = Result<(), ChunkFailure>> + Send {
        S::write(self, chunk, data)
    }
}

/// What became of a chunk: both sides say the same.
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkOutcome {
    /// The sink has it.
    Delivered,
    /// The sink did not take it, for this reason.
    Refused(String),
    /// It arrived with another digest than it was sent with; the sink has not seen it.
    Corrupt,
    /// The provider did not have it, for this reason.
    Missing(String),
}

/// Words of a program, or of the other side, on one chunk, which may be anything: no more of them
/// is said, or kept.
pub(super) const MAX_WORDS_BYTES: usize = 512;

/// Words that are kept for all chunks of a transfer together; beyond that, an
/// outcome has none.
const WORDS_BYTES: usize = 4 << 20;

/// How much of that is left.
pub(super) struct WordsLeft(usize);

impl WordsLeft {
    pub fn new() -> WordsLeft {
        WordsLeft(WORDS_BYTES)
    }

    /// The outcome as it is kept: of its words no more than reaches the other side.
    pub fn keep(&mut self, mut outcome: ChunkOutcome) -> ChunkOutcome {
        if let ChunkOutcome::Refused(words) | ChunkOutcome::Missing(words) = &mut outcome {
            words.truncate(words.floor_char_boundary(MAX_WORDS_BYTES));
            // What was cut off is memory, too.
            words.shrink_to_fit();
            match self.0.checked_sub(words.len()) {
                Some(left) => self.0 = left,
                None => *words = String::new(),
            }
        }
        outcome
    }
}

/// A chunk and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkResult {
    /// The chunk.
    pub chunk: NeededChunk,
    /// What became of it.
    pub outcome: ChunkOutcome,
}

impl ChunkResult {
    /// Whether the sink has it.
    pub fn is_delivered(&self) -> bool {
        self.outcome == ChunkOutcome::Delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_before_they_count() {
        let mut words = WordsLeft::new();
        // 4 MiB of these, uncut, would be used up by one.
        let long = || ChunkOutcome::Refused("ä".repeat(WORDS_BYTES));
        for _ in 0..3 {
            let ChunkOutcome::Refused(kept) = words.keep(long()) else {
                panic!("it is another outcome");
            };
            assert_eq!(kept, "ä".repeat(MAX_WORDS_BYTES / 2));
            assert!(kept.capacity() <= 2 * MAX_WORDS_BYTES);
        }
        assert_eq!(words.0, WORDS_BYTES - 3 * MAX_WORDS_BYTES);
    }
}
