//! Value of a chunk on its way: hashed from its data, or known beforehand.

use crate::proto::integrity::{ChunkHasher, Digest};
use crate::proto::send::orders::ChunkOrder;

#[derive(Debug)]
pub(super) enum ChunkValue {
    Hashed(ChunkHasher),
    /// Remembered: the receiver hashes the data, and tells if it is another.
    Kept(Digest),
}

impl ChunkValue {
    pub(super) fn of(order: &ChunkOrder) -> ChunkValue {
        match order.kept {
            Some(value) => ChunkValue::Kept(value),
            None => ChunkValue::Hashed(ChunkHasher::new(order.chunk, order.size_bytes)),
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self, ChunkValue::Kept(_))
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        if let ChunkValue::Hashed(hasher) = self {
            hasher.update(data);
        }
    }

    pub(super) fn update_zeros(&mut self, len_bytes: u64) {
        if let ChunkValue::Hashed(hasher) = self {
            hasher.update_zeros(len_bytes);
        }
    }

    /// The value, and whether it was remembered.
    pub(super) fn finish(&self) -> (Digest, bool) {
        match self {
            ChunkValue::Hashed(hasher) => (hasher.finish(), false),
            ChunkValue::Kept(value) => (*value, true),
        }
    }
}
