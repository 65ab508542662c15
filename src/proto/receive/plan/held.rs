//! What a receiver keeps because its peer announced it: an estimate, for the worker's sum of all
//! sessions.

use super::{ReceivePlan, ReceivedEntry};
use crate::ids::Name;

/// An entry, its place in the tables, and what its names take beside their bytes: 250 bytes where
/// tables are full, 490 where they have just grown. The rest is what counts nowhere, the session
/// itself and what allocators add, for sessions may be many and announce little each.
const ENTRY_BYTES: u64 = 720;

/// A directory here (240 bytes) and in the disk layer, without its path, and what counts nowhere.
const DIR_BYTES: u64 = 800;

impl ReceivePlan {
    /// Heap bytes, about.
    pub fn held_bytes(&self) -> u64 {
        self.manifest.described_bytes + self.parts.held_bytes()
    }
}

pub(super) fn of_entry(entry: &ReceivedEntry) -> u64 {
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
