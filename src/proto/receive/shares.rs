//! Which files movers on other workers have, and how much they moved: a file is left by all before
//! it is quiet.

use std::collections::BTreeMap;

use super::orders::{ReceiveReport, TakePart};
use crate::ids::{EntryId, FileId, WorkerId};
use crate::proto::entries::EntryMap;

/// The movers of a receiver on other workers than the plan's.
#[derive(Debug, Default)]
pub struct Shares {
    files: EntryMap<SharedPart>,
    moved: BTreeMap<WorkerId, Moved>,
}

/// A file that others have, too.
#[derive(Debug)]
struct SharedPart {
    part: usize,
    file: FileId,
    with: Vec<WorkerId>,
    /// The plan's own mover has nothing of it any more.
    is_quiet_here: bool,
}

/// What a mover moved, all in all.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    received_bytes: u64,
    hole_bytes: u64,
}

/// What a share costs, about.
const SHARE_BYTES: u64 = 64;

impl Shares {
    /// A worker has a file from now on.
    pub fn add(&mut self, order: &TakePart, worker: WorkerId) {
        let share = self.files.entry(order.entry).or_insert(SharedPart {
            part: order.part,
            file: order.file,
            with: Vec::new(),
            is_quiet_here: false,
        });
        share.with.push(worker);
    }

    /// Who has a file.
    pub fn of(&self, entry: EntryId) -> &[WorkerId] {
        let share = self.files.get(&entry);
        share.map_or(&[], |share| &share.with)
    }

    /// The plan's own mover is quiet. Whether all are.
    pub fn quiet_here(&mut self, entry: EntryId) -> bool {
        let Some(share) = self.files.get_mut(&entry) else {
            return true;
        };
        share.is_quiet_here = true;
        let is_over = share.with.is_empty();
        if is_over {
            self.files.remove(&entry);
        }
        is_over
    }

    /// A worker has let go of a file. Gives what the plan is to hear once nobody has it any more.
    pub fn quiet_at(&mut self, entry: EntryId, worker: WorkerId) -> Option<ReceiveReport> {
        let share = self.files.get_mut(&entry)?;
        share.with.retain(|other| *other != worker);
        if !share.with.is_empty() || !share.is_quiet_here {
            return None;
        }
        let SharedPart { part, file, .. } = self.files.remove(&entry)?;
        Some(ReceiveReport::Quiet { entry, part, file })
    }

    /// A worker has let go of everything.
    pub fn gone(&mut self, worker: WorkerId) -> Vec<ReceiveReport> {
        let has = |share: &&SharedPart| share.with.contains(&worker);
        let files = self.files.iter().filter(|(_, share)| has(share));
        let mut entries: Vec<EntryId> = files.map(|(entry, _)| *entry).collect();
        // In an order that does not hang on how the table hashes.
        entries.sort_unstable();
        let quiet = entries.into_iter();
        quiet
            .filter_map(|entry| self.quiet_at(entry, worker))
            .collect()
    }

    /// What a worker's mover moved so far. Gives how many bytes more than it had told.
    pub fn moved(&mut self, worker: WorkerId, received_bytes: u64, hole_bytes: u64) -> u64 {
        let moved = self.moved.entry(worker).or_default();
        let more = received_bytes.saturating_sub(moved.received_bytes);
        *moved = Moved {
            received_bytes,
            hole_bytes,
        };
        more
    }

    pub fn received_bytes(&self) -> u64 {
        self.moved.values().map(|moved| moved.received_bytes).sum()
    }

    pub fn hole_bytes(&self) -> u64 {
        self.moved.values().map(|moved| moved.hole_bytes).sum()
    }

    pub fn held_bytes(&self) -> u64 {
        self.files.len() as u64 * SHARE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::receive::orders::PartContent;
    use crate::proto::stretches::InOrder;

    fn order() -> TakePart {
        TakePart {
            entry: EntryId(1),
            part: 7,
            file: FileId(3),
            content: PartContent::Stretches(InOrder::default()),
        }
    }

    #[test]
    fn a_file_is_quiet_once_all_have_left() {
        let (entry, one, other) = (EntryId(1), WorkerId(1), WorkerId(2));
        let mut shares = Shares::default();
        assert!(shares.quiet_here(entry), "nobody else has it");
        for by_word in [true, false] {
            shares.add(&order(), one);
            shares.add(&order(), other);
            assert_eq!(shares.of(entry), [one, other]);
            assert!(!shares.quiet_here(entry));
            assert!(shares.quiet_at(entry, one).is_none());
            let quiet = match by_word {
                true => shares.quiet_at(entry, other),
                false => shares.gone(other).pop(),
            };
            assert!(matches!(quiet, Some(ReceiveReport::Quiet { part: 7, .. })));
            assert!(shares.of(entry).is_empty());
        }
    }

    #[test]
    fn a_file_that_others_left_first_is_quiet_with_the_plans_own_mover() {
        let mut shares = Shares::default();
        shares.add(&order(), WorkerId(1));
        assert!(shares.quiet_at(EntryId(1), WorkerId(1)).is_none());
        assert!(shares.quiet_here(EntryId(1)));
    }

    #[test]
    fn what_moved_is_a_sum_over_workers() {
        let mut shares = Shares::default();
        assert_eq!(shares.moved(WorkerId(1), 10, 1), 10);
        assert_eq!(shares.moved(WorkerId(2), 5, 0), 5);
        assert_eq!(shares.moved(WorkerId(1), 7, 2), 0, "some was taken back");
        assert_eq!((shares.received_bytes(), shares.hole_bytes()), (12, 2));
    }
}
