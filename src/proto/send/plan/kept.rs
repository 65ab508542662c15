//! Values of chunks that the disk remembers: files are sent with them, and without them once the
//! receiver found one that is wrong.
//!
//! A value that is remembered is never believed for more than the hashing it saves. The receiver
//! hashes what comes, as ever. Where that is another value it asks for the chunk again
//! (`Message::Again`), and from then on nothing of that file is sent by what is remembered.

use std::sync::Arc;

use super::SendPlan;
use crate::ids::{ChunkIndex, EntryId};
use crate::proto::chunk::chunk_count;
use crate::proto::errors::{Violation, violation};
use crate::proto::integrity::{Digest, Tree};
use crate::proto::{FileStamp, Recalled};

/// Chunks of a file that may be asked for again. Nothing more is sent with a value that is
/// remembered once one was, so these are what was under way (chunks have 1 MiB or more, and a lane
/// that is silent for 5 s while others carry 10 Gbit/s has them all come together), while each may
/// have the digest of the file made anew (20 ms of 64 GiB).
const AGAINS_MAX: u32 = 8192;

/// What an entry keeps of the values of its chunks until its final verdict.
#[derive(Debug)]
pub(super) struct KeptValues {
    stamp: FileStamp,
    values: Values,
    /// A bit for each chunk that was sent with a value that is remembered, and of which nobody has
    /// complained.
    unproven: Vec<u64>,
    /// Chunks that are ordered with such a value, and of which no mover has told yet; and those of
    /// them that were asked for again already, for what a mover on another worker tells comes by
    /// mail. As many as orders at most.
    ordered: Vec<ChunkIndex>,
    early: Vec<ChunkIndex>,
    /// Chunks that were asked for again and are not hashed yet, with what was remembered of them.
    doubted: Vec<(ChunkIndex, Digest)>,
    /// So many were asked for again.
    agains: u32,
    /// Something was remembered wrongly.
    is_wrong: bool,
    /// The digest of the file has to be said, or said again.
    owes_root: bool,
}

#[derive(Debug)]
enum Values {
    /// All of them were remembered.
    Remembered(Arc<[Digest]>),
    /// They are hashed.
    Hashed(Vec<Option<Digest>>),
}

impl KeptValues {
    fn new(size_bytes: u64, recalled: Recalled) -> KeptValues {
        let chunks = chunk_count(size_bytes) as usize;
        let remembered = recalled.values.filter(|values| values.len() == chunks);
        KeptValues {
            stamp: recalled.stamp,
            values: match remembered {
                Some(values) => Values::Remembered(values),
                None => Values::Hashed(vec![None; chunks]),
            },
            unproven: vec![0; chunks.div_ceil(64)],
            ordered: Vec::new(),
            early: Vec::new(),
            doubted: Vec::new(),
            agains: 0,
            is_wrong: false,
            owes_root: true,
        }
    }

    /// Heap bytes, about. What is remembered is the disk's.
    pub(super) fn held_bytes(&self) -> u64 {
        let values = match &self.values {
            Values::Remembered(_) => 0,
            Values::Hashed(values) => size_of_val(&values[..]),
        };
        let doubted = size_of_val(&self.doubted[..]);
        (size_of::<KeptValues>() + values + doubted + self.unproven.len() * 8) as u64
    }

    /// A chunk is ordered: what it is sent with, if not with what it hashes to.
    fn order(&mut self, chunk: ChunkIndex) -> Option<Digest> {
        let at = chunk.0 as usize;
        let value = match &self.values {
            Values::Remembered(values) => values.get(at).copied(),
            // It was sent so, and is sent once more for its lane was lost. The file's digest was
            // made with that value and may have been said: only a complaint has it said anew.
            Values::Hashed(values) if self.is_unproven(chunk) => values.get(at).copied().flatten(),
            Values::Hashed(_) => None,
        }?;
        self.ordered.push(chunk);
        Some(value)
    }

    fn is_unproven(&self, chunk: ChunkIndex) -> bool {
        let word = self.unproven.get(chunk.0 as usize / 64);
        word.is_some_and(|word| word & 1 << (chunk.0 % 64) != 0)
    }

    /// The receiver asks again for a chunk of which no mover has told. False: for another.
    fn ask_early(&mut self, chunk: ChunkIndex) -> bool {
        let is_early = self.ordered.contains(&chunk) && !self.early.contains(&chunk);
        if is_early {
            self.early.push(chunk);
        }
        is_early
    }

    /// An order of a chunk is over. True: it was asked for again.
    fn order_over(&mut self, chunk: ChunkIndex) -> bool {
        if let Some(at) = self.ordered.iter().position(|other| *other == chunk) {
            self.ordered.swap_remove(at);
        }
        let early = self.early.iter().position(|other| *other == chunk);
        early.map(|at| self.early.swap_remove(at)).is_some()
    }

    /// A chunk was sent. True: what was remembered of it is right, though the receiver found it to
    /// be another.
    fn note(&mut self, chunk: ChunkIndex, value: Digest, is_kept: bool) -> bool {
        let at = chunk.0 as usize;
        let mut doubted = self.doubted.iter();
        let doubted = doubted.position(|(of, _)| *of == chunk && !is_kept);
        let doubted = doubted.map(|at| self.doubted.swap_remove(at));
        match &mut self.values {
            _ if is_kept => self.unproven[at / 64] |= 1 << (at % 64),
            Values::Hashed(values) => values[at] = Some(value),
            // A hole, which is always hashed.
            Values::Remembered(values) if values[at] == value => {}
            Values::Remembered(_) => self.mend(chunk, Some(value)),
        }
        doubted.is_some_and(|(_, remembered)| remembered == value)
    }

    /// The value of a chunk is another than was remembered, or is not known. The others may be
    /// right: the receiver says of each.
    fn mend(&mut self, chunk: ChunkIndex, value: Option<Digest>) {
        self.is_wrong = true;
        if let Values::Remembered(values) = &self.values {
            self.values = Values::Hashed(values.iter().copied().map(Some).collect());
        }
        if let Values::Hashed(values) = &mut self.values {
            values[chunk.0 as usize] = value;
        }
    }

    /// The receiver has another value of a chunk. False: of one that it was not sent so.
    fn doubt(&mut self, chunk: ChunkIndex) -> bool {
        if !self.is_unproven(chunk) || self.agains >= AGAINS_MAX {
            return false;
        }
        let at = chunk.0 as usize;
        self.unproven[at / 64] &= !(1 << (at % 64));
        self.agains += 1;
        self.owes_root = true;
        let remembered = match &self.values {
            Values::Remembered(values) => values.get(at).copied(),
            Values::Hashed(values) => values.get(at).copied().flatten(),
        };
        self.doubted
            .extend(remembered.map(|remembered| (chunk, remembered)));
        self.mend(chunk, None);
        true
    }

    pub(super) fn owes_root(&self) -> bool {
        self.owes_root
    }

    /// The digest of a file of several chunks, to be said now, and how many were asked for again
    /// before. `of_tree`: what was hashed or remembered when it was first sent.
    pub(super) fn say_root(
        &mut self,
        size_bytes: u64,
        of_tree: Option<Digest>,
    ) -> (Option<Digest>, u32) {
        let root = match &self.values {
            Values::Hashed(values) if self.agains > 0 && values.len() > 1 => {
                let mut tree = Tree::new(size_bytes);
                for (chunk, value) in (0..).zip(values) {
                    if let Some(value) = value {
                        tree.insert(ChunkIndex(chunk), *value);
                    }
                }
                let root = tree.root();
                // None: a chunk was hashed anew on a lane that is no more, and moves once more.
                self.owes_root = root.is_none();
                root
            }
            Values::Hashed(_) | Values::Remembered(_) => {
                self.owes_root = false;
                of_tree
            }
        };
        (root, self.agains)
    }

    /// What the disk is to remember, or to forget (None), if anything changed. `is_sure`: the file
    /// is what it was when it was opened, and was read once.
    pub(super) fn to_remember(&self, is_sure: bool) -> Option<(FileStamp, Option<Arc<[Digest]>>)> {
        match &self.values {
            _ if self.is_wrong => Some((self.stamp, None)),
            Values::Hashed(values) if is_sure => {
                let values: Option<Arc<[Digest]>> = values.iter().copied().collect();
                values.map(|values| (self.stamp, Some(values)))
            }
            Values::Hashed(_) | Values::Remembered(_) => None,
        }
    }
}

impl SendPlan {
    /// An entry is sent with what is remembered of it, or is to be remembered.
    pub(super) fn lean_on(&mut self, id: EntryId, size_bytes: u64, recalled: Recalled) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let kept = KeptValues::new(size_bytes, recalled);
            self.sent_bytes += kept.held_bytes();
            entry.sent.kept = Some(Box::new(kept));
        }
    }

    /// A chunk is ordered: the value that it is sent with, if that is remembered.
    pub(super) fn order_kept(&mut self, id: EntryId, chunk: ChunkIndex) -> Option<Digest> {
        let entry = self.entries.get_mut(&id)?;
        entry.sent.kept.as_mut()?.order(chunk)
    }

    /// A mover has told what became of an order, and that is noted. What was asked for again before
    /// is so now.
    pub(super) fn kept_order_over(&mut self, file: usize, chunk: ChunkIndex) {
        let Some(id) = self.files.entry_of(file) else {
            return;
        };
        let entry = self.entries.get_mut(&id);
        let kept = entry.and_then(|entry| entry.sent.kept.as_mut());
        if kept.is_some_and(|kept| kept.order_over(chunk)) {
            // If nothing was sent with that value, there is nothing to ask for, whatever was said.
            let _ = self.on_again(id, chunk);
        }
    }

    /// How much file data is moved again since this was last asked, for it was asked for.
    pub fn take_again_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.again_bytes)
    }

    /// True: the receiver found a chunk to be another than it is, so it was changed on the wire.
    pub(super) fn note_value(
        &mut self,
        file: usize,
        chunk: ChunkIndex,
        value: Digest,
        is_kept: bool,
    ) -> bool {
        let mut was_changed = false;
        self.totals.kept_chunks += u64::from(is_kept);
        let entry = self.files.entry_of(file);
        let entry = entry.and_then(|id| self.entries.get_mut(&id));
        if let Some(kept) = entry.and_then(|entry| entry.sent.kept.as_mut()) {
            let before = kept.held_bytes();
            was_changed = kept.note(chunk, value, is_kept);
            self.sent_bytes = self.sent_bytes + kept.held_bytes() - before;
        }
        was_changed
    }

    /// The receiver asks for a chunk again.
    ///
    /// # Errors
    /// When the chunk was not sent with a value that is remembered, or was asked for before, as
    /// were so many others.
    pub fn on_again(&mut self, id: EntryId, chunk: ChunkIndex) -> Result<(), Violation> {
        let entry = self.entries.get_mut(&id);
        let Some(sent) = entry.map(|entry| &mut entry.sent) else {
            return violation(format!("asks again for entry {}, which is over", id.0));
        };
        let before = sent.held_bytes();
        let mut kept = sent.kept.as_mut();
        if kept.as_mut().is_some_and(|kept| kept.ask_early(chunk)) {
            return Ok(());
        }
        if !kept.is_some_and(|kept| kept.doubt(chunk)) {
            return violation(format!(
                "asks again for chunk {} of entry {}, which was hashed",
                chunk.0, id.0
            ));
        }
        let bytes = sent.take_record(chunk);
        self.sent_bytes = self.sent_bytes + sent.held_bytes() - before;
        self.want_again(id, &[chunk]);
        self.again_bytes += bytes.unwrap_or(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Mtime;

    const SIZE_BYTES: u64 = 3 << 20;

    fn kept() -> KeptValues {
        let stamp = FileStamp {
            device: 1,
            inode: 2,
            size_bytes: SIZE_BYTES,
            mtime: Mtime::default(),
            ctime: Mtime::default(),
        };
        let values: Arc<[Digest]> = Arc::new([[1; 32], [2; 32], [3; 32]]);
        let values = Some(values);
        KeptValues::new(SIZE_BYTES, Recalled { stamp, values })
    }

    /// A chunk is sent as it is remembered, and told of.
    fn send(kept: &mut KeptValues, chunk: ChunkIndex) {
        let value = kept.order(chunk).unwrap();
        assert!(!kept.note(chunk, value, true));
        assert!(!kept.order_over(chunk));
    }

    #[test]
    fn what_was_sent_so_is_sent_so_again_until_somebody_complains() {
        let (mut kept, first, last) = (kept(), ChunkIndex(0), ChunkIndex(2));
        send(&mut kept, first);
        send(&mut kept, last);
        assert!(kept.doubt(first));
        assert_eq!(kept.order(ChunkIndex(1)), None, "nothing new is");
        // Its lane is lost, and the file's digest was made with its value.
        assert_eq!(kept.order(last), Some([3; 32]));
        kept.order_over(last);
        assert!(kept.doubt(last));
        assert_eq!(kept.order(last), None);
        assert!(!kept.doubt(last), "it was hashed");
    }

    #[test]
    fn a_complaint_may_come_before_the_movers_word() {
        let (mut kept, chunk) = (kept(), ChunkIndex(1));
        assert!(!kept.ask_early(chunk), "nobody ordered it");
        let value = kept.order(chunk).unwrap();
        assert!(kept.ask_early(chunk));
        assert!(!kept.ask_early(chunk), "once");
        assert!(!kept.note(chunk, value, true));
        assert!(kept.order_over(chunk));
        assert!(kept.doubt(chunk));
    }

    #[test]
    fn who_complains_of_what_is_right_had_it_from_a_bad_wire() {
        let (mut kept, first, last) = (kept(), ChunkIndex(0), ChunkIndex(2));
        send(&mut kept, first);
        send(&mut kept, last);
        assert!(kept.doubt(first) && kept.doubt(last));
        assert_eq!((kept.order(first), kept.order(last)), (None, None));
        assert!(
            !kept.note(first, [9; 32], false),
            "it was remembered wrongly"
        );
        assert!(kept.note(last, [3; 32], false));
        // It was lost, and goes once more.
        assert!(!kept.note(last, [3; 32], false));
    }
}
