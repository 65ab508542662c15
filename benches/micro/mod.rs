//! The parts that are ours, each measured alone.

pub mod chunks;
pub mod hashing;
pub mod packets;
pub mod sessions;
pub mod table;
pub mod udp;
pub mod wire;

/// The largest piece of a file that moves at once, and the size of one UDP message.
pub use landro::proto::PIECE_BYTES;

/// The usual chunk.
pub const MIB: usize = 1 << 20;

/// Bytes that look random and are the same in every run.
pub fn noise(len_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len_bytes + 8);
    while bytes.len() < len_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    bytes.truncate(len_bytes);
    bytes
}
