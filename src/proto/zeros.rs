//! Hashing what a hole reads as, in slices between which others have their turn.
//!
//! Nothing of it is read or written.
//!
//! BLAKE3 takes zeros at the speed of any bytes, so a hole of a terabyte is minutes of work on both
//! sides that no byte on the wire paces.

use super::chunk::chunk_len_bytes;
use super::integrity::{ChunkHasher, Digest};
use crate::ids::ChunkIndex;

/// Zeros hashed between two turns of the loop: some 200 microseconds of one core.
const SLICE_BYTES: u64 = 1 << 20;

/// How much may be hashed before the next turn.
#[derive(Debug)]
pub struct ZeroPace {
    left_bytes: u64,
    /// The next turn was asked for.
    is_awaited: bool,
}

impl Default for ZeroPace {
    fn default() -> ZeroPace {
        ZeroPace {
            left_bytes: SLICE_BYTES,
            is_awaited: false,
        }
    }
}

impl ZeroPace {
    /// As many of `want_bytes` as may be hashed now.
    pub fn take(&mut self, want_bytes: u64) -> u64 {
        let taken_bytes = want_bytes.min(self.left_bytes);
        self.left_bytes -= taken_bytes;
        taken_bytes
    }

    /// Whether the next turn is to be asked for: there is work, and nobody asked yet.
    pub fn asks(&mut self) -> bool {
        !std::mem::replace(&mut self.is_awaited, true)
    }

    /// The next turn came.
    pub fn renew(&mut self) {
        *self = ZeroPace::default();
    }
}

/// Chunks in a row that are all hole.
#[derive(Debug)]
pub struct ZeroChunks {
    size_bytes: u64,
    next: u32,
    end: u32,
    /// Of the chunk `next`, with what is left of it.
    begun: Option<(ChunkHasher, u64)>,
}

impl ZeroChunks {
    /// `first..end` of a file of this size, all of them in it.
    pub fn new(size_bytes: u64, first: u32, end: u32) -> ZeroChunks {
        ZeroChunks {
            size_bytes,
            next: first,
            end,
            begun: None,
        }
    }

    /// The first that is not hashed.
    pub fn next_chunk(&self) -> u32 {
        self.next
    }

    pub fn is_over(&self) -> bool {
        self.next >= self.end
    }

    /// Goes on to the end of the next chunk; its chaining value and length. None: all are hashed,
    /// or no more may be now.
    pub fn hash(&mut self, pace: &mut ZeroPace) -> Option<(ChunkIndex, Digest, u64)> {
        if self.is_over() {
            return None;
        }
        let chunk = ChunkIndex(self.next);
        let len_bytes = chunk_len_bytes(self.size_bytes, chunk);
        let (hasher, left_bytes) = self
            .begun
            .get_or_insert_with(|| (ChunkHasher::new(chunk, self.size_bytes), len_bytes));
        let taken_bytes = pace.take(*left_bytes);
        hasher.update_zeros(taken_bytes);
        *left_bytes -= taken_bytes;
        if *left_bytes > 0 {
            return None;
        }
        let value = hasher.finish();
        self.begun = None;
        self.next += 1;
        Some((chunk, value, len_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::integrity::Tree;

    #[test]
    fn the_root_of_zeros_is_the_ordinary_digest_slice_by_slice() {
        let size_bytes = (5 << 20) + 12_345;
        let mut run = ZeroChunks::new(size_bytes, 0, 6);
        let (mut tree, mut pace) = (Tree::new(size_bytes), ZeroPace::default());
        let mut turns = 0;
        while !run.is_over() {
            match run.hash(&mut pace) {
                Some((chunk, value, _)) => assert!(tree.insert(chunk, value)),
                None => {
                    assert_eq!(pace.take(1), 0);
                    assert!(pace.asks() && !pace.asks());
                    pace.renew();
                    turns += 1;
                }
            }
        }
        assert_eq!(turns, 5);
        let whole = blake3::hash(&vec![0; size_bytes as usize]);
        assert_eq!(tree.root(), Some(*whole.as_bytes()));
    }

    #[test]
    fn a_chunk_of_terabytes_is_cut_too() {
        let size_bytes = 1 << 60;
        let mut run = ZeroChunks::new(size_bytes, 3, 4);
        let mut pace = ZeroPace::default();
        for _ in 0..3 {
            assert_eq!(run.hash(&mut pace), None);
            pace.renew();
        }
        assert!(!run.is_over());
    }
}
