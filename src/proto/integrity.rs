//! BLAKE3 by chunk: each chunk's chaining value alone and in any order, merged to the file's
//! ordinary digest.
//!
//! A chunk is an aligned power-of-two range, so it is a whole subtree of BLAKE3's tree (the last
//! chunk: a whole right edge). Chunks can thus be hashed on any core, kept in a journal, and merged
//! without the data.

use std::collections::HashMap;

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::PIECE_BYTES;
use super::chunk::{chunk_count, chunk_len_bytes, chunk_log2_for};
use crate::ids::ChunkIndex;

/// A BLAKE3 root digest, or a subtree's chaining value where that is said.
pub type Digest = [u8; 32];

/// What a hole reads as: one piece, which stays hot.
pub static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// The digest of a whole small file.
pub fn digest_of(data: &[u8]) -> Digest {
    *blake3::hash(data).as_bytes()
}

/// Hashes one chunk of a file, fed in order.
#[derive(Debug)]
pub struct ChunkHasher {
    hasher: Box<Hasher>,
    left_bytes: u64,
    single: bool,
}

impl ChunkHasher {
    /// `chunk` must lie in a file of `file_size_bytes`; the chunk size follows from the file's.
    pub fn new(chunk: ChunkIndex, file_size_bytes: u64) -> ChunkHasher {
        let mut hasher = Box::new(Hasher::new());
        let single = chunk_count(file_size_bytes) <= 1;
        if !single {
            hasher.set_input_offset(u64::from(chunk.0) << chunk_log2_for(file_size_bytes));
        }
        ChunkHasher {
            hasher,
            left_bytes: chunk_len_bytes(file_size_bytes, chunk),
            single,
        }
    }

    /// Takes the next bytes. What exceeds the chunk is left out: BLAKE3 panics beyond a subtree's
    /// end, and a peer's excess must not. Callers compare lengths before.
    pub fn update(&mut self, data: &[u8]) {
        let take = (data.len() as u64).min(self.left_bytes);
        debug_assert_eq!(take, data.len() as u64, "more data than the chunk has");
        self.hasher.update(&data[..take as usize]);
        self.left_bytes -= take;
    }

    /// The same for as many zeros.
    pub fn update_zeros(&mut self, mut len_bytes: u64) {
        while len_bytes > 0 {
            let step = len_bytes.min(ZEROS.len() as u64);
            self.update(&ZEROS[..step as usize]);
            len_bytes -= step;
        }
    }

    /// The chaining value of the chunk; for a file of one chunk the root digest.
    pub fn finish(&self) -> Digest {
        if self.single {
            return *self.hasher.finalize().as_bytes();
        }
        // An empty non-root subtree does not exist in BLAKE3 and its finalisation panics: a chunk
        // of a file of several is never empty, but a caller that was fed nothing (an aborted read)
        // may still ask.
        if self.hasher.count() == 0 {
            return [0; 32];
        }
        self.hasher.finalize_non_root()
    }
}

/// A node in a table that is half full, as was measured.
const NODE_BYTES: usize = 60;

/// Collects chunks' chaining values in any order and merges them to the root. Neighbours are merged
/// as soon as both are there, so a file received nearly in order costs a few nodes however large it
/// is.
#[derive(Debug)]
pub struct Tree {
    chunks: u32,
    present: Vec<u64>,
    have: u32,
    /// Subtrees not yet merged, by (height, position at that height).
    nodes: HashMap<(u8, u32), Digest>,
}

impl Tree {
    pub fn new(file_size_bytes: u64) -> Tree {
        let chunks = chunk_count(file_size_bytes);
        Tree {
            chunks,
            present: vec![0; chunks.div_ceil(64) as usize],
            have: 0,
            nodes: HashMap::new(),
        }
    }

    /// How many chunks the file has; an empty file has one.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Heap bytes, about: of what could not be merged.
    pub fn held_bytes(&self) -> u64 {
        (self.nodes.len() * NODE_BYTES + self.present.len() * 8) as u64
    }

    /// How many chunks are not there yet.
    pub fn missing(&self) -> u32 {
        self.chunks - self.have
    }

    pub fn has(&self, chunk: ChunkIndex) -> bool {
        chunk.0 < self.chunks && self.present[chunk.0 as usize / 64] & 1 << (chunk.0 % 64) != 0
    }

    /// A bit for each chunk that is there.
    pub fn bitmap(&self) -> Vec<u64> {
        self.present.clone()
    }

    /// Adds a chunk's value (of a single-chunk file: the root). `false` when it is outside the file
    /// or was there before; nothing changes then.
    pub fn insert(&mut self, chunk: ChunkIndex, value: Digest) -> bool {
        if chunk.0 >= self.chunks || self.has(chunk) {
            return false;
        }
        self.present[chunk.0 as usize / 64] |= 1 << (chunk.0 % 64);
        self.have += 1;
        let (mut height, mut at, mut width, mut value) = (0u8, chunk.0, self.chunks, value);
        while width > 1 {
            let sibling = at ^ 1;
            if sibling < width {
                let Some(other) = self.nodes.remove(&(height, sibling)) else {
                    break;
                };
                let (left, right) = if at & 1 == 0 {
                    (value, other)
                } else {
                    (other, value)
                };
                value = match width {
                    2 => *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes(),
                    _ => merge_subtrees_non_root(&left, &right, Mode::Hash),
                };
            }
            // A node without a right neighbour rises unchanged: BLAKE3's left subtrees are full.
            at /= 2;
            width = width.div_ceil(2);
            height += 1;
        }
        self.nodes.insert((height, at), value);
        true
    }

    /// The file's BLAKE3 digest once every chunk is there.
    pub fn root(&self) -> Option<Digest> {
        if self.missing() > 0 {
            return None;
        }
        self.nodes.values().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn data(len: u64) -> Vec<u8> {
        (0..len)
            .map(|i| (i * 31 + (i >> 8) * 7 + (i >> 16)) as u8)
            .collect()
    }

    /// The root through chunks fed in `order` with pieces of `piece` bytes.
    fn by_chunks(data: &[u8], piece: usize, order: impl Iterator<Item = u32>) -> Option<Digest> {
        let size = data.len() as u64;
        let mut tree = Tree::new(size);
        for chunk in order.map(ChunkIndex) {
            let mut hasher = ChunkHasher::new(chunk, size);
            let from = super::super::chunk::chunk_offset(size, chunk) as usize;
            let all = &data[from..from + chunk_len_bytes(size, chunk) as usize];
            all.chunks(piece).for_each(|part| hasher.update(part));
            assert!(!tree.has(chunk) && tree.insert(chunk, hasher.finish()) && tree.has(chunk));
            assert!(!tree.insert(chunk, [0; 32]));
        }
        tree.root()
    }

    #[test]
    fn the_root_is_the_ordinary_digest() {
        let sizes = [
            0,
            1,
            1023,
            1024,
            65_536,
            MIB - 1,
            MIB,
            MIB + 1,
            2 * MIB,
            3 * MIB - 5,
            3 * MIB,
            5 * MIB + 1,
        ];
        for size in sizes.into_iter().chain([7 * MIB, 8 * MIB, 9 * MIB + 1023]) {
            let data = data(size);
            let count = chunk_count(size);
            let expected = Some(*blake3::hash(&data).as_bytes());
            assert_eq!(
                by_chunks(&data, 65_536, 0..count),
                expected,
                "size {size} in order"
            );
            assert_eq!(
                by_chunks(&data, 65_536, (0..count).rev()),
                expected,
                "size {size} backwards"
            );
            let odd_first = (0..count)
                .filter(|c| c % 2 == 1)
                .chain((0..count).filter(|c| c % 2 == 0));
            assert_eq!(
                by_chunks(&data, 10_007, odd_first),
                expected,
                "size {size} odd ones first"
            );
        }
    }

    #[test]
    fn every_shape_merges_as_blake3_does() {
        // The shape is what matters here, so values are arbitrary and the reference is BLAKE3's
        // recursion.
        fn reference(values: &[Digest], root: bool) -> Digest {
            if let [one] = values {
                return *one;
            }
            let left = values.len().next_power_of_two() / 2;
            let (left, right) = (
                reference(&values[..left], false),
                reference(&values[left..], false),
            );
            match root {
                true => *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes(),
                false => merge_subtrees_non_root(&left, &right, Mode::Hash),
            }
        }
        for count in 1..200u32 {
            let values: Vec<Digest> = (0..count).map(|i| digest_of(&i.to_be_bytes())).collect();
            let mut tree = Tree::new(u64::from(count) * MIB);
            for i in 0..count {
                let at = (i * 83 + 5) % count; // 83 is prime: visits all unless count is a multiple
                let at = if count % 83 == 0 { i } else { at };
                assert!(tree.root().is_none());
                tree.insert(ChunkIndex(at), values[at as usize]);
            }
            assert_eq!(
                tree.root(),
                Some(reference(&values, true)),
                "{count} chunks"
            );
        }
    }

    #[test]
    fn in_order_costs_few_nodes_and_outside_is_refused() {
        let mut tree = Tree::new(60_000 * MIB);
        for i in 0..60_000 {
            assert!(tree.insert(ChunkIndex(i), [i as u8; 32]));
            assert!(tree.nodes.len() <= 17);
        }
        assert!(!tree.insert(ChunkIndex(60_000), [0; 32]));
        assert!(!Tree::new(0).has(ChunkIndex(u32::MAX)));
    }
}
