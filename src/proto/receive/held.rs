//! What a receiver keeps because its peer announced or began it: an estimate, for the worker's sum
//! of all sessions.

use super::{Entry, Receiver};
use crate::ids::Name;

/// An entry, its place in the tables, and what its names take beside their bytes.
const ENTRY_BYTES: u64 = 350;

/// A directory here and in the disk layer, without its path.
const DIR_BYTES: u64 = 500;

/// A data stream that is in the middle of a record, with the state of BLAKE3.
const STREAM_BYTES: u64 = 2200;

impl Receiver {
    /// Heap bytes, about.
    pub fn held_bytes(&self) -> u64 {
        self.described_bytes + self.arriving_bytes + self.streams.len() as u64 * STREAM_BYTES
    }
}

pub(super) fn of_entry(entry: &Entry) -> u64 {
    let (name, link) = (
        entry.name.as_ref().map_or(&b""[..], Name::as_bytes),
        entry.link.as_deref(),
    );
    ENTRY_BYTES + (name.len() + link.map_or(0, <[u8]>::len)) as u64
}

/// The path is kept twice.
pub(super) fn of_directory(path: &[u8]) -> u64 {
    DIR_BYTES + 2 * path.len() as u64
}
