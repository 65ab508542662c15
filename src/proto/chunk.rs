//! How a file is cut into chunks: both sides reckon alike.

use super::PIECE_BYTES;
use crate::ids::ChunkIndex;

/// Files up to this size travel whole, packed with others into one stream: one read, one buffer.
pub const SMALL_MAX_BYTES: u64 = PIECE_BYTES as u64;

/// The usual chunk size as a power of two: 1 MiB. Small enough that a lost one costs 10 ms of 1
/// GbE, large enough that a record head, a digest and a journal record per chunk are nothing.
pub const CHUNK_LOG2_MIN: u8 = 20;

/// Chunks of very large files grow so that none has more: bitmaps, journals and resume lists stay
/// bounded.
pub const MAX_CHUNKS: u32 = 65_536;

/// Deepest directory nesting that is sent or accepted; bounds the walk's and the receiver's open
/// directories.
pub const MAX_DEPTH: usize = 512;

/// The chunk size (as a power of two) of a file of this size. Both sides use this one function.
pub fn chunk_log2_for(size_bytes: u64) -> u8 {
    let mut log2 = CHUNK_LOG2_MIN;
    while size_bytes > u64::from(MAX_CHUNKS) << log2 && log2 < 47 {
        log2 += 1;
    }
    log2
}

/// How many chunks a file of this size has. An empty file has one, empty.
pub fn chunk_count(size_bytes: u64) -> u32 {
    let chunks = size_bytes.div_ceil(1 << chunk_log2_for(size_bytes)).max(1);
    chunks.min(u64::from(u32::MAX)) as u32
}

/// Offset of a chunk in a file of this size.
pub fn chunk_offset(size_bytes: u64, chunk: ChunkIndex) -> u64 {
    u64::from(chunk.0) << chunk_log2_for(size_bytes)
}

/// Length of a chunk of a file of this size; 0 for one outside of it.
pub fn chunk_len_bytes(size_bytes: u64, chunk: ChunkIndex) -> u64 {
    let offset = chunk_offset(size_bytes, chunk);
    size_bytes
        .saturating_sub(offset)
        .min(1 << chunk_log2_for(size_bytes))
}

/// Whether a partial file of this size is worth a journal: it has more than one chunk.
pub fn is_resumable(size_bytes: u64) -> bool {
    chunk_count(size_bytes) > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn chunks_cover_every_size() {
        for size in [
            0,
            1,
            MIB - 1,
            MIB,
            MIB + 1,
            65_536 * MIB,
            65_536 * MIB + 1,
            1 << 50,
            i64::MAX as u64,
        ] {
            let count = chunk_count(size);
            assert!(
                (1..=MAX_CHUNKS).contains(&count),
                "{count} chunks of {size}"
            );
            let last = ChunkIndex(count - 1);
            assert_eq!(chunk_offset(size, last) + chunk_len_bytes(size, last), size);
            assert!(size == 0 || chunk_len_bytes(size, last) > 0);
            assert_eq!(chunk_len_bytes(size, ChunkIndex(count)), 0);
        }
        assert_eq!(chunk_log2_for(65_536 * MIB), 20);
        assert_eq!(chunk_log2_for(65_536 * MIB + 1), 21);
    }
}
