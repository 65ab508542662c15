//! Large files at the receiver: partial files, their journals, resuming, rehashing, commit.
//!
//! A part outlives its entry's verdict only to close: what it removes would change its directory's
//! mtime, so the directory waits for it.

mod resume;
mod unsized_parts;

pub use unsized_parts::Stretch;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::{ReceivePlan, ReceivePlanOp, ReceivedState};
use crate::ids::{ChunkIndex, EntryId, FileId};
use crate::proto::chunk::{chunk_count, is_resumable};
use crate::proto::claims::Claims;
use crate::proto::errors::{Violation, corrupted, destination_error, violation};
use crate::proto::integrity::{Digest, Tree};
use crate::proto::journal::{Header, RecordKey, Storage};
use crate::proto::parallel::MAX_PARTIAL_CHUNKS;
use crate::proto::ports::{OddSize, Ports};
use crate::proto::receive::orders::{PartContent, ReceiveOrder, TakePart};
use crate::proto::stretches::{InOrder, StretchChain};
use crate::proto::wire::VerdictKind;
use crate::proto::{DiskDone, DiskError, DiskOp, EntryError, EntryErrorCode, EntryResult, Event};

/// Partial files open at a time: one round trip's worth of files just above the small ones. Each is
/// one or two descriptors.
const OPEN_PARTS: usize = 64;

/// Partial files, open and to be opened.
#[derive(Debug, Default)]
pub(super) struct TargetParts {
    /// Wanted but not opened.
    ready: VecDeque<EntryId>,
    open: Slab<TargetPart>,
    /// Chunks of all open parts together.
    chunks: u64,
    last_file: u32,
}

impl TargetParts {
    /// Heap bytes, about: of stretches that came early.
    pub(super) fn held_bytes(&self) -> u64 {
        let chains = self
            .open
            .iter()
            .filter_map(|(_, part)| part.stretches.as_ref());
        chains.map(StretchChain::held_bytes).sum()
    }

    pub(super) fn entry_of(&self, part: usize) -> Option<EntryId> {
        self.open.get(part).map(|part| part.entry)
    }

    pub(super) fn want(&mut self, entry: EntryId) {
        self.ready.push_back(entry);
    }
}

/// What of a partial file an operation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartStep {
    Open,
    Start,
    Read,
    Journal,
    Commit,
    Close,
}

/// A partial file.
#[derive(Debug)]
pub(super) struct TargetPart {
    entry: EntryId,
    dir: usize,
    file: FileId,
    header: Header,
    /// Of a source with holes: how much of it is data.
    sparse: Option<u64>,
    state: PartState,
    tree: Tree,
    /// The partial file survives a crash.
    resumable: bool,
    journal: Option<JournalWriter>,
    /// The journal on the disk names chunks: there is something to keep for a later session.
    journaled: bool,
    resumed_bytes: u64,
    /// What the sender says the whole is.
    root: Option<Digest>,
    /// Of an unsized file, instead of `tree`, which is that of an empty file then.
    stretches: Option<StretchChain>,
    /// Operations on this file in flight.
    ops: usize,
    moving: Moving,
}

/// Whether a mover may write to a partial file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moving {
    /// Next: May.
    No,
    /// Next: Leaves.
    May,
    /// What is being written ends. Next: No.
    Leaves,
}

/// Where a partial file is.
#[derive(Debug)]
enum PartState {
    /// Next: Starting, Rehashing, Receiving.
    Opening,
    /// What an earlier session wrote may be gone: what the journal names is read and hashed again.
    /// Next: Receiving, Starting.
    Rehashing(Box<resume::Rehash>),
    /// Begun anew. Next: Receiving.
    Starting,
    /// Data may come. Next: Leaving.
    Receiving,
    /// All is there, and whoever could write to it is asked to leave. Next: Committing.
    Leaving,
    /// Next: gone.
    Committing,
    /// Its verdict is out or the session stops; waits for its operations. `keep`: what the journal
    /// names may be gone on with. Next: Closing.
    Failed { keep: bool },
    /// Next: gone.
    Closing,
}

/// Appends to a journal, one write in flight at a time.
#[derive(Debug)]
struct JournalWriter {
    key: RecordKey,
    at_bytes: u64,
    pending: BytesMut,
    writing: bool,
}

impl TargetPart {
    /// Nothing of it is in flight, neither here nor at a mover.
    fn is_quiet(&self) -> bool {
        self.ops == 0 && self.moving == Moving::No
    }
}

impl ReceivePlan {
    /// Opens the next large file's part if there is room.
    pub(super) fn open_next_part(&mut self, ports: &mut Ports) -> bool {
        let Some(&id) = self.parts.ready.front() else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            self.parts.ready.pop_front();
            return true;
        };
        let chunks = u64::from(chunk_count(entry.size_bytes));
        if self.parts.open.len() >= OPEN_PARTS || self.parts.chunks + chunks > MAX_PARTIAL_CHUNKS {
            return false;
        }
        self.parts.ready.pop_front();
        let Some(name) = entry.name.clone() else {
            return true;
        };
        self.parts.last_file = self.parts.last_file.wrapping_add(1);
        let file = FileId(self.parts.last_file);
        let (dir, size_bytes) = (entry.dir, entry.size_bytes);
        let (sparse, is_unsized) = (entry.sparse, entry.is_unsized);
        let header = Header {
            storage: Storage::default(),
            size_bytes,
            mtime: entry.mtime,
            source_tag: entry.source_tag,
        };
        if self.client {
            let path = self.path_of(&self.entries[&id]);
            ports.event(Event::Begun { path });
        }
        let part = self.parts.open.insert(TargetPart {
            entry: id,
            dir,
            file,
            header,
            sparse,
            state: PartState::Opening,
            tree: Tree::new(size_bytes),
            resumable: false,
            journal: None,
            journaled: false,
            resumed_bytes: 0,
            root: None,
            stretches: is_unsized.then(StretchChain::default),
            ops: 0,
            moving: Moving::No,
        });
        self.entries
            .entry(id)
            .and_modify(|entry| entry.state = ReceivedState::Part(part));
        self.parts.chunks += chunks;
        self.lookups.in_flight += 1;
        let cmd = DiskOp::OpenPart {
            dir: self.dir_id(dir),
            name,
            file,
            resumable: is_resumable(size_bytes),
            is_plain: self.options.metadata.no_perms,
        };
        self.part_op(ports, part, PartStep::Open, cmd);
        true
    }

    fn part_op(&mut self, ports: &mut Ports, part: usize, step: PartStep, cmd: DiskOp) {
        self.parts.open[part].ops += 1;
        let op = ReceivePlanOp::Part { part, step };
        self.ops.start(ports, op, cmd);
    }

    /// An operation on a part ended.
    pub(super) fn part_moved_on(
        &mut self,
        ports: &mut Ports,
        at: usize,
        step: PartStep,
        result: Result<DiskDone, DiskError>,
    ) {
        self.parts.open[at].ops -= 1;
        match step {
            PartStep::Open => self.part_opened(ports, at, result),
            PartStep::Start => self.part_started(ports, at, result),
            PartStep::Read => self.part_read(ports, at, result),
            PartStep::Journal => self.journal_written(ports, at, result),
            PartStep::Commit => self.part_committed(ports, at, result),
            PartStep::Close => self.part_closed(ports, at),
        }
    }

    fn part_opened(&mut self, ports: &mut Ports, at: usize, result: Result<DiskDone, DiskError>) {
        match result {
            Err(error) => {
                let id = self.parts.open[at].entry;
                if let Some(entry) = self.entries.remove(&id) {
                    let error = destination_error(&error);
                    self.conclude(ports, id, &entry, EntryResult::failed(error));
                }
                self.part_closed(ports, at);
            }
            Ok(DiskDone::Part {
                journal,
                size_bytes,
                resumable,
                storage,
            }) if !self.is_stopped => {
                let part = &mut self.parts.open[at];
                part.header.storage = storage;
                part.resumable = resumable && is_resumable(part.header.size_bytes);
                self.resume_or_start(ports, at, &journal, size_bytes);
            }
            // Stopping: whatever was there stays as it was found.
            Ok(done) => {
                let part = &mut self.parts.open[at];
                part.journaled =
                    matches!(done, DiskDone::Part { journal, .. } if !journal.is_empty());
                part.state = PartState::Failed { keep: true };
            }
        }
    }

    /// Begins a partial file anew.
    fn start_part(&mut self, ports: &mut Ports, at: usize) {
        let part = &mut self.parts.open[at];
        let mut journal = Bytes::new();
        part.journaled = false;
        if part.resumable {
            journal = part.header.encode();
            let (key, at_bytes) = (part.header.key(), journal.len() as u64);
            part.journal = Some(JournalWriter {
                key,
                at_bytes,
                pending: BytesMut::new(),
                writing: false,
            });
        }
        part.state = PartState::Starting;
        let cmd = DiskOp::StartPart {
            file: part.file,
            size_bytes: part.header.size_bytes,
            sparse: part.sparse,
            journal,
        };
        self.part_op(ports, at, PartStep::Start, cmd);
    }

    fn part_started(&mut self, ports: &mut Ports, at: usize, result: Result<DiskDone, DiskError>) {
        if self.is_stopped {
            return;
        }
        match result {
            Ok(_) => self.receive_part(ports, at),
            Err(error) => self.fail_part(ports, at, destination_error(&error), false),
        }
    }

    /// Lets a mover take what is missing, and asks the sender for it.
    fn receive_part(&mut self, ports: &mut Ports, at: usize) {
        let part = &mut self.parts.open[at];
        part.state = PartState::Receiving;
        part.moving = Moving::May;
        let content = match part.stretches {
            Some(_) => PartContent::Stretches(InOrder::default()),
            None => PartContent::Chunks {
                size_bytes: part.header.size_bytes,
                is_sparse: part.sparse.is_some(),
                claims: Arc::new(Claims::new(part.tree.bitmap())),
            },
        };
        self.orders.push_back(ReceiveOrder::Part(TakePart {
            entry: part.entry,
            part: at,
            file: part.file,
            content,
        }));
        let entry = part.entry;
        self.push_verdict(ports, entry, VerdictKind::Send {});
    }

    /// Nothing more is to go into a part.
    fn leave_part(&mut self, at: usize) {
        let part = &mut self.parts.open[at];
        if part.moving == Moving::May {
            part.moving = Moving::Leaves;
            let entry = part.entry;
            self.orders.push_back(ReceiveOrder::Leave { entry });
        }
    }

    /// The mover has nothing in flight of a part that was left.
    pub(super) fn part_is_quiet(&mut self, ports: &mut Ports, at: usize) {
        self.parts.open[at].moving = Moving::No;
        self.settle_part(ports, at);
    }

    /// A chunk is written and its digest is right.
    pub(super) fn chunk_done(
        &mut self,
        ports: &mut Ports,
        at: usize,
        (chunk, digest): (ChunkIndex, Digest),
        has_grown: bool,
    ) {
        let part = &mut self.parts.open[at];
        if !matches!(part.state, PartState::Receiving) {
            return;
        }
        part.tree.insert(chunk, digest);
        if has_grown && let Some(entry) = self.entries.get_mut(&part.entry) {
            entry.odd_size = Some(OddSize::Grown);
        }
        if let Some(journal) = &mut part.journal {
            journal
                .key
                .encode_record(chunk, &digest, &mut journal.pending);
            self.flush_journal(ports, at);
        }
        self.settle_part(ports, at);
    }

    fn flush_journal(&mut self, ports: &mut Ports, at: usize) {
        let part = &mut self.parts.open[at];
        let Some(journal) = part
            .journal
            .as_mut()
            .filter(|journal| !journal.writing && !journal.pending.is_empty())
        else {
            return;
        };
        let bytes = journal.pending.split().freeze();
        let offset = journal.at_bytes;
        journal.at_bytes += bytes.len() as u64;
        journal.writing = true;
        let cmd = DiskOp::WriteJournal {
            file: part.file,
            offset,
            bytes,
        };
        self.part_op(ports, at, PartStep::Journal, cmd);
    }

    fn journal_written(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        let part = &mut self.parts.open[at];
        match (result, &mut part.journal) {
            (Ok(_), Some(journal)) => {
                journal.writing = false;
                part.journaled = true;
            }
            (Ok(_), None) => {}
            // A journal that cannot be written costs a later resume, not this transfer.
            (Err(_), _) => part.journal = None,
        }
        self.flush_journal(ports, at);
        self.settle_part(ports, at);
    }

    /// The digest of a whole file of several chunks.
    pub(super) fn on_root(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        digest: Digest,
        has_grown: bool,
    ) -> Result<(), Violation> {
        let Some(entry) = self.entries.get_mut(&id) else {
            return self.known_or_violation(id);
        };
        if let ReceivedState::Part(at) = entry.state {
            let part = &mut self.parts.open[at];
            let is_open = matches!(part.state, PartState::Receiving);
            if is_open && part.root.is_none() && part.tree.chunks() > 1 {
                part.root = Some(digest);
                entry.odd_size = has_grown.then_some(OddSize::Grown);
                self.settle_part(ports, at);
                return Ok(());
            }
        }
        violation(format!("digest of entry {} in the wrong state", id.0))
    }

    pub(super) fn abort_part(
        &mut self,
        ports: &mut Ports,
        at: usize,
        error: EntryError,
    ) -> Result<(), Violation> {
        let part = &self.parts.open[at];
        let is_sent = part.root.is_some() && !self.sends_again;
        if !matches!(part.state, PartState::Receiving) || is_sent {
            return violation(format!("entry {} aborted in the wrong state", part.entry.0));
        }
        // Without an errno the source changed: what is here belongs to a version that is gone.
        let keep = error.errno != 0;
        self.fail_part(ports, at, error, keep);
        Ok(())
    }

    pub(super) fn write_failed(&mut self, ports: &mut Ports, at: usize, error: &DiskError) {
        let error = destination_error(error);
        // With more space the rest can follow what is there.
        let keep = error.code == EntryErrorCode::Full;
        self.fail_part(ports, at, error, keep);
    }

    /// Fails the entry at once; the part closes when nothing of it is in flight.
    pub(super) fn fail_part(
        &mut self,
        ports: &mut Ports,
        at: usize,
        error: EntryError,
        keep: bool,
    ) {
        let part = &mut self.parts.open[at];
        if let PartState::Failed { .. } | PartState::Closing = part.state {
            return;
        }
        part.state = PartState::Failed { keep };
        let id = part.entry;
        self.leave_part(at);
        if let Some(entry) = self.entries.remove(&id) {
            self.conclude(ports, id, &entry, EntryResult::failed(error));
        }
        self.settle_part(ports, at);
    }

    /// What follows when nothing of a part is in flight: commit behind the last chunk, close behind
    /// a failure.
    fn settle_part(&mut self, ports: &mut Ports, at: usize) {
        let Some(part) = self.parts.open.get_mut(at).filter(|part| part.ops == 0) else {
            return;
        };
        match part.state {
            PartState::Receiving if part.stretches.is_some() && !self.is_stopped => {
                self.settle_stretches(ports, at);
            }
            PartState::Receiving if part.tree.missing() == 0 && !self.is_stopped => {
                let whole = part.tree.root();
                match part.root {
                    Some(root) if whole == Some(root) => self.part_is_whole(at),
                    Some(_) => self.fail_part(ports, at, corrupted(), false),
                    // The only chunk's digest was the whole's and has been compared.
                    None if part.tree.chunks() == 1 => self.part_is_whole(at),
                    None => {}
                }
            }
            PartState::Leaving | PartState::Failed { .. } if part.moving != Moving::No => {}
            PartState::Leaving if !self.is_stopped => self.commit_part(ports, at),
            PartState::Failed { keep } => {
                if keep {
                    self.flush_journal(ports, at);
                }
                let part = &mut self.parts.open[at];
                if part.ops == 0 {
                    let keep = keep && part.journaled;
                    part.state = PartState::Closing;
                    let cmd = DiskOp::ClosePart {
                        file: part.file,
                        keep,
                    };
                    self.part_op(ports, at, PartStep::Close, cmd);
                }
            }
            PartState::Opening
            | PartState::Rehashing(_)
            | PartState::Starting
            | PartState::Receiving
            | PartState::Leaving
            | PartState::Committing
            | PartState::Closing => {}
        }
    }

    /// All that belongs into a part is there. It gets its name once nobody can write to it.
    fn part_is_whole(&mut self, at: usize) {
        self.parts.open[at].state = PartState::Leaving;
        self.leave_part(at);
    }

    fn commit_part(&mut self, ports: &mut Ports, at: usize) {
        let part = &self.parts.open[at];
        let Some(entry) = self.entries.get(&part.entry) else {
            return;
        };
        let cmd = DiskOp::CommitPart {
            file: part.file,
            attributes: self.attributes(entry),
            replaces: entry.replaces,
        };
        self.parts.open[at].state = PartState::Committing;
        self.part_op(ports, at, PartStep::Commit, cmd);
    }

    fn part_committed(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        if let Err(error) = self.placed(self.parts.open[at].entry, result) {
            return self.fail_part(ports, at, error, false);
        }
        let (id, resumed_bytes) = (self.parts.open[at].entry, self.parts.open[at].resumed_bytes);
        if let Some(entry) = self.entries.remove(&id) {
            self.conclude(ports, id, &entry, EntryResult::Done { resumed_bytes });
        }
        self.part_closed(ports, at);
    }

    /// A part is gone.
    fn part_closed(&mut self, ports: &mut Ports, at: usize) {
        let part = self.parts.open.remove(at);
        self.parts.chunks -= u64::from(part.tree.chunks());
        self.child_done(ports, part.dir);
    }

    /// The session stops: parts close once nothing of them is in flight, kept if there is something
    /// to resume.
    pub fn stop_parts(&mut self, ports: &mut Ports) {
        let parts: Vec<usize> = self.parts.open.iter().map(|(at, _)| at).collect();
        for part in parts {
            self.stop_part(ports, part);
        }
    }

    fn stop_part(&mut self, ports: &mut Ports, at: usize) {
        let part = &mut self.parts.open[at];
        if !part.is_quiet() {
            return self.leave_part(at);
        }
        let keep = match part.state {
            PartState::Rehashing(_) | PartState::Receiving | PartState::Leaving => true,
            PartState::Opening | PartState::Starting | PartState::Committing => false,
            PartState::Failed { keep } => keep,
            PartState::Closing => return,
        };
        part.state = PartState::Failed { keep };
        self.settle_part(ports, at);
    }

    pub fn has_no_parts(&self) -> bool {
        self.parts.open.is_empty()
    }

    #[cfg(test)]
    pub(super) fn check_parts(&self) {
        let mut chunks = 0;
        for (at, part) in &self.parts.open {
            chunks += u64::from(part.tree.chunks());
            let is_of_part = |op: &&ReceivePlanOp| match op {
                ReceivePlanOp::Part { part, .. } => *part == at,
                _ => false,
            };
            let ops = self.ops.iter().filter(is_of_part).count();
            assert_eq!(part.ops, ops, "operations on {part:?}");
        }
        assert_eq!(self.parts.chunks, chunks, "chunks of open parts");
    }

    /// Parts in a directory whose entry has its verdict.
    #[cfg(test)]
    pub(super) fn closing_parts(&self, dir: usize) -> usize {
        let parts = self.parts.open.iter();
        parts
            .filter(|(_, part)| part.dir == dir && !self.entries.contains_key(&part.entry))
            .count()
    }
}
