//! The table of entries, and the sums over them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::{EntryErrorCode, EntryResult, Kind, Totals};
use crate::ids::EntryId;

/// A map by entry. Ids count up from 1 on both sides (a peer that skips one is refused), so
/// spreading them by one multiplication is enough: no keyed hash.
pub type EntryMap<T> = HashMap<EntryId, T, BuildHasherDefault<IdHasher>>;

/// Multiplies by 2^64 / φ: consecutive numbers land far apart in the top bits, which `HashMap` uses
/// as tags.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.write_u64(u64::from(id));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = (self.0 ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

impl Totals {
    /// Adds an entry's terminal result; what a peer says of it may be any number. Bytes on the wire
    /// (`sent_bytes`) are counted where they pass.
    pub fn count(&mut self, kind: Kind, size_bytes: u64, result: &EntryResult) {
        match result {
            EntryResult::Done { resumed_bytes } => {
                match kind {
                    Kind::File => {
                        self.files += 1;
                        self.bytes = self.bytes.saturating_add(size_bytes);
                    }
                    Kind::Directory => self.directories += 1,
                    Kind::Symlink => self.symlinks += 1,
                    Kind::Special => {}
                }
                self.resumed_bytes = self.resumed_bytes.saturating_add(*resumed_bytes);
            }
            EntryResult::Skipped => self.skipped += 1,
            EntryResult::Failed(error) => self.count_error(error.code),
        }
    }

    /// Adds an error of an entry, or of something that never became one.
    pub fn count_error(&mut self, code: EntryErrorCode) {
        self.errors += 1;
        match code {
            EntryErrorCode::Full => self.full = true,
            EntryErrorCode::Integrity => self.integrity = true,
            EntryErrorCode::Permission => self.permission = true,
            EntryErrorCode::Source | EntryErrorCode::Destination | EntryErrorCode::Name => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_what_a_peer_says_do_not_overflow() {
        let mut totals = Totals::default();
        for _ in 0..3 {
            totals.count(
                Kind::File,
                u64::MAX,
                &EntryResult::Done {
                    resumed_bytes: u64::MAX,
                },
            );
        }
        assert_eq!(
            (totals.files, totals.bytes, totals.resumed_bytes),
            (3, u64::MAX, u64::MAX)
        );
    }

    #[test]
    fn totals_count_each_result_once() {
        let mut totals = Totals::default();
        totals.count(Kind::File, 10, &EntryResult::Done { resumed_bytes: 4 });
        totals.count(Kind::Directory, 0, &EntryResult::Done { resumed_bytes: 0 });
        totals.count(Kind::Symlink, 3, &EntryResult::Done { resumed_bytes: 0 });
        totals.count(Kind::File, 99, &EntryResult::Skipped);
        totals.count_error(EntryErrorCode::Full);
        let expected = Totals {
            files: 1,
            directories: 1,
            symlinks: 1,
            bytes: 10,
            skipped: 1,
            resumed_bytes: 4,
            errors: 1,
            full: true,
            ..Totals::default()
        };
        assert_eq!(totals, expected);
    }

    #[test]
    fn entry_ids_spread() {
        let buckets: std::collections::HashSet<u64> = (1..=1024u32)
            .map(|id| {
                let mut hasher = IdHasher::default();
                hasher.write_u32(id);
                hasher.finish() % 2048
            })
            .collect();
        assert!(
            buckets.len() > 600,
            "{} buckets of 2048 used by 1024 ids",
            buckets.len()
        );
    }
}
