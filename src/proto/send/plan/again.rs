//! What was on a lane that is no more, and was not taken by the receiver, is moved again.
//!
//! An entry keeps where its records went, and its directory, until its final verdict: of what a
//! transport delivered long ago a receiver may say that it never read it. That is bounded by the
//! window for small files, and by 65,536 chunks for each large one, all of which were sent.

use std::collections::HashMap;

use super::kept::KeptValues;
use super::{SendPlan, SentEntry, SentState};
use crate::ids::{ChunkIndex, EntryId, StreamKey};
use crate::proto::chunk::{SMALL_MAX_BYTES, chunk_count};
use crate::proto::ports::Ports;
use crate::proto::send::orders::RecordAt;

/// See [`SendPlan::held_bytes`].
const RECORD_BYTES: u64 = size_of::<(ChunkIndex, RecordAt)>() as u64;

/// What is kept of the records of an entry.
#[derive(Debug, Default)]
pub(super) struct SentRecords {
    all: Vec<(ChunkIndex, RecordAt)>,
    /// To read it again from.
    dir: Option<usize>,
    /// Chunks that are to be sent again, once the file is open.
    again: Vec<ChunkIndex>,
    /// Something of it is sent again, or was.
    pub(super) is_again: bool,
    /// Of a large file: values of its chunks, if they are remembered or to be.
    pub(super) kept: Option<Box<KeptValues>>,
    /// Of a small file: what was emitted.
    pub(super) whole_bytes: Option<u64>,
}

impl SentRecords {
    #[cfg(test)]
    pub(super) fn keeps_dir(&self) -> bool {
        self.dir.is_some()
    }

    /// See [`SendPlan::held_bytes`].
    pub(super) fn held_bytes(&self) -> u64 {
        let kept = self.kept.as_ref().map_or(0, |kept| kept.held_bytes());
        self.all.len() as u64 * RECORD_BYTES + kept
    }

    /// Takes out the youngest record of a chunk: how much data it had.
    pub(super) fn take_record(&mut self, chunk: ChunkIndex) -> Option<u64> {
        let at = self.all.iter().rposition(|(of, _)| *of == chunk)?;
        Some(self.all.remove(at).1.data_bytes)
    }

    /// Which chunks of the file are to be sent again, and whether those are all: a file of several
    /// is only opened again when its root was said.
    pub(super) fn take_again(&mut self, size_bytes: u64) -> (Vec<ChunkIndex>, bool) {
        let is_rooted = self.is_again && chunk_count(size_bytes) > 1;
        let again = std::mem::take(&mut self.again);
        match is_rooted {
            true => (again, true),
            false => (Vec::new(), false),
        }
    }

    /// Takes out the records that the receiver did not take: their chunks and data bytes.
    fn take_missing(&mut self, missing: &HashMap<StreamKey, u32>) -> (Vec<ChunkIndex>, u64) {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        self.all.retain(|(chunk, at)| {
            let is_missing = matches!(missing.get(&at.stream), Some(taken) if at.ordinal >= *taken);
            if is_missing {
                chunks.push(*chunk);
                bytes += at.data_bytes;
            }
            !is_missing
        });
        (chunks, bytes)
    }
}

impl SendPlan {
    /// A directory was used to read an entry from. It is kept where that may come again.
    pub(super) fn keep_dir(&mut self, ports: &mut Ports, id: EntryId, dir: usize) {
        match self.entries.get_mut(&id) {
            Some(entry) if self.moves_again => entry.sent.dir = Some(dir),
            _ => self.release_dir(ports, dir),
        }
    }

    /// A small file was not read before its mover's lane was lost.
    pub(super) fn want_unread(&mut self, ports: &mut Ports, id: EntryId, held: usize) {
        match self.entries.get_mut(&id) {
            Some(entry) if matches!(entry.state, SentState::Ordered { .. }) => {
                let dir = Some(held);
                entry.state = SentState::Wanted { dir, resume: None };
                self.wholes.push_front(id);
            }
            Some(_) | None => self.release_dir(ports, held),
        }
    }

    pub(super) fn note_chunk(&mut self, file: usize, chunk: ChunkIndex, at: Option<RecordAt>) {
        if let (Some(id), Some(at)) = (self.files.entry_of(file), at) {
            self.note_sent(id, chunk, at);
        }
    }

    pub(super) fn note_sent(&mut self, id: EntryId, chunk: ChunkIndex, at: RecordAt) {
        if let Some(entry) = self.entries.get_mut(&id).filter(|_| self.moves_again) {
            entry.sent.all.push((chunk, at));
            self.sent_bytes += RECORD_BYTES;
        }
    }

    /// An entry has its final verdict.
    pub(super) fn forget_sent(&mut self, ports: &mut Ports, entry: &SentEntry) {
        self.sent_bytes -= entry.sent.held_bytes();
        if let Some(dir) = entry.sent.dir {
            self.release_dir(ports, dir);
        }
    }

    /// `missing`: streams with the number of their records that the receiver took. All others of
    /// them are moved again; so much file data that is.
    pub fn move_again(&mut self, missing: &[(StreamKey, u32)]) -> u64 {
        if missing.is_empty() {
            return 0;
        }
        let missing: HashMap<StreamKey, u32> = missing.iter().copied().collect();
        let sent = self.entries.iter();
        let sent = sent.filter(|(_, entry)| !entry.sent.all.is_empty());
        let mut ids: Vec<EntryId> = sent.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let mut bytes = 0;
        for id in ids {
            if let Some(entry) = self.entries.get_mut(&id) {
                let (chunks, data_bytes) = entry.sent.take_missing(&missing);
                self.sent_bytes -= chunks.len() as u64 * RECORD_BYTES;
                bytes += data_bytes;
                if !chunks.is_empty() {
                    self.want_again(id, &chunks);
                }
            }
        }
        bytes
    }

    pub(super) fn want_again(&mut self, id: EntryId, chunks: &[ChunkIndex]) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.sent.is_again = true;
        match entry.state {
            SentState::Emitted => {
                let dir = entry.sent.dir.take();
                debug_assert!(dir.is_some(), "where it was read from is kept");
                entry.state = SentState::Wanted { dir, resume: None };
                entry.sent.again.extend_from_slice(chunks);
                match entry.version.size_bytes <= SMALL_MAX_BYTES {
                    true => self.wholes.push_back(id),
                    false => self.files.want(id),
                }
            }
            SentState::Wanted { .. } => entry.sent.again.extend_from_slice(chunks),
            SentState::Large { file } => self.files.send_again(file, chunks),
            SentState::Offered { .. }
            | SentState::Ordered { .. }
            | SentState::Told
            | SentState::Copied
            | SentState::Aborted
            | SentState::Open => {}
        }
    }

    #[cfg(test)]
    pub(super) fn check_sent(&self) {
        let held: u64 = self.entries.values().map(|it| it.sent.held_bytes()).sum();
        assert_eq!(self.sent_bytes, held);
    }
}
