//! Claims: a bit for each chunk of a file; whoever sets it has the chunk to itself.
//!
//! The movers of a session share them, wherever they are: a chunk that came on one lane comes on no
//! other, whatever a sender says, and none of them has to ask for it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::ChunkIndex;

#[derive(Debug)]
pub struct Claims(Vec<AtomicU64>);

impl Claims {
    /// A bit is set for each chunk that may not come. Bits beyond the last chunk mean nothing.
    pub fn new(taken: Vec<u64>) -> Claims {
        Claims(taken.into_iter().map(AtomicU64::new).collect())
    }

    /// False: somebody has it, or there is no such chunk.
    pub fn claim(&self, chunk: ChunkIndex) -> bool {
        let (word, bit) = place(chunk);
        // What was written of a chunk that was given back comes before what is written of it next.
        let before = self
            .0
            .get(word)
            .map(|it| it.fetch_or(bit, Ordering::AcqRel));
        before.is_some_and(|before| before & bit == 0)
    }

    /// A chunk did not come to its end, nothing of it is being written, and it may come again.
    pub fn give_back(&self, chunk: ChunkIndex) {
        let (word, bit) = place(chunk);
        if let Some(it) = self.0.get(word) {
            it.fetch_and(!bit, Ordering::AcqRel);
        }
    }
}

fn place(chunk: ChunkIndex) -> (usize, u64) {
    (chunk.0 as usize / 64, 1 << (chunk.0 % 64))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_chunk_is_claimed_once_until_it_is_given_back() {
        let claims = Claims::new(vec![0b101, 0]);
        for (chunk, is_free) in [(0, false), (1, true), (2, false), (64, true), (128, false)] {
            assert_eq!(claims.claim(ChunkIndex(chunk)), is_free, "{chunk}");
            assert!(!claims.claim(ChunkIndex(chunk)), "{chunk} twice");
        }
        claims.give_back(ChunkIndex(64));
        claims.give_back(ChunkIndex(500));
        assert!(claims.claim(ChunkIndex(64)));
        assert!(!claims.claim(ChunkIndex(1)), "another was given back");
    }

    /// Whatever several threads claim at once, each chunk is one thread's.
    #[test]
    fn threads_share_no_chunk() {
        const CHUNKS: u32 = 4096;
        let claims = Claims::new(vec![0; CHUNKS as usize / 64]);
        let claimed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mine = (0..CHUNKS).filter(|chunk| claims.claim(ChunkIndex(*chunk)));
                    claimed.fetch_add(mine.count(), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(claimed.into_inner(), CHUNKS as usize);
    }
}
