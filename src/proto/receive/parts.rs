//! Large files at the receiver: partial files, their journals, resuming, rehashing, commit.
//!
//! A part outlives its entry's verdict only to close: what it removes would change its directory's
//! mtime, so the directory waits for it.

mod resume;

use bytes::{Bytes, BytesMut};

use super::{Op, Receiver, State, Stop};
use crate::ids::{ChunkIndex, EntryId, FileId};
use crate::proto::chunks::MAX_PARTIAL_CHUNKS;
use crate::proto::errors::{Violation, corrupted, destination_error, violation};
use crate::proto::integrity::{Digest, Tree};
use crate::proto::journal::{Header, RecordKey, Storage};
use crate::proto::manifest::{chunk_count, chunk_len_bytes, is_resumable};
use crate::proto::ports::Ports;
use crate::proto::wire::VerdictKind;
use crate::proto::{DiskDone, DiskError, DiskOp, EntryError, EntryErrorCode, EntryResult};

/// Partial files open at a time: one round trip's worth of files just above the small ones. Each is
/// one or two descriptors.
const OPEN_PARTS: usize = 64;

/// A partial file.
#[derive(Debug)]
pub(super) struct Part {
    entry: EntryId,
    dir: usize,
    file: FileId,
    header: Header,
    phase: Phase,
    /// Chunks that began to arrive or were resumed; none may come twice.
    seen: Vec<u64>,
    tree: Tree,
    /// The partial file survives a crash.
    resumable: bool,
    journal: Option<JournalWriter>,
    /// The journal on the disk names chunks: there is something to keep for a later session.
    journaled: bool,
    resumed_bytes: u64,
    /// What the sender says the whole is.
    root: Option<Digest>,
    /// Operations on this file in flight.
    ops: usize,
}

/// Where a partial file is.
#[derive(Debug)]
enum Phase {
    /// Next: Starting, Rehashing, Receiving.
    Opening,
    /// What an earlier session wrote may be gone: what the journal names is read and hashed again.
    /// Next: Receiving, Starting.
    Rehashing(Box<resume::Rehash>),
    /// Begun anew. Next: Receiving.
    Starting,
    /// Data may come. Next: Committing.
    Receiving,
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

impl Part {
    /// Whether data of this entry still goes into this part.
    pub(super) fn is_live(&self, entry: EntryId) -> bool {
        self.entry == entry && matches!(self.phase, Phase::Receiving)
    }

    /// Counts a write about to start and gives the file; `None` when the data is to be dropped.
    pub(super) fn begin_write(&mut self, entry: EntryId) -> Option<FileId> {
        if !self.is_live(entry) {
            return None;
        }
        self.ops += 1;
        Some(self.file)
    }

    /// Marks a chunk; `false` when it was marked before.
    fn mark(&mut self, chunk: ChunkIndex) -> bool {
        let (word, bit) = (chunk.0 as usize / 64, 1u64 << (chunk.0 % 64));
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }
}

impl Receiver {
    /// Opens the next large file's part if there is room.
    pub(super) fn open_next_part(&mut self, ports: &mut Ports) -> bool {
        let Some(&id) = self.ready_parts.front() else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            self.ready_parts.pop_front();
            return true;
        };
        let chunks = u64::from(chunk_count(entry.size_bytes));
        if self.parts.len() >= OPEN_PARTS || self.part_chunks + chunks > MAX_PARTIAL_CHUNKS {
            return false;
        }
        self.ready_parts.pop_front();
        let Some(name) = entry.name.clone() else {
            return true;
        };
        self.last_file = self.last_file.wrapping_add(1);
        let file = FileId(self.last_file);
        let (dir, size_bytes) = (entry.dir, entry.size_bytes);
        let header = Header {
            storage: Storage::default(),
            size_bytes,
            mtime: entry.mtime,
            source_tag: entry.source_tag,
        };
        let part = self.parts.insert(Part {
            entry: id,
            dir,
            file,
            header,
            phase: Phase::Opening,
            seen: vec![0; chunks.div_ceil(64) as usize],
            tree: Tree::new(size_bytes),
            resumable: false,
            journal: None,
            journaled: false,
            resumed_bytes: 0,
            root: None,
            ops: 0,
        });
        entry.state = State::Part(part);
        self.part_chunks += chunks;
        self.lookups += 1;
        let cmd = DiskOp::OpenPart {
            dir: self.dir_id(dir),
            name,
            file,
            resumable: is_resumable(size_bytes),
        };
        self.part_op(ports, part, Op::OpenPart { part }, cmd);
        true
    }

    fn part_op(&mut self, ports: &mut Ports, part: usize, op: Op, cmd: DiskOp) {
        self.parts[part].ops += 1;
        self.ops.start(ports, op, cmd);
    }

    pub(super) fn part_op_ended(&mut self, part: usize) {
        self.parts[part].ops -= 1;
    }

    pub(super) fn part_opened(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.part_op_ended(at);
        match result {
            Err(error) => {
                let id = self.parts[at].entry;
                if let Some(entry) = self.entries.remove(&id) {
                    let error = destination_error(self.host, &error);
                    self.conclude(ports, id, &entry, EntryResult::Failed(error));
                }
                self.part_closed(ports, at);
            }
            Ok(DiskDone::Part {
                journal,
                size_bytes,
                resumable,
                storage,
            }) if self.stop == Stop::No => {
                let part = &mut self.parts[at];
                part.header.storage = storage;
                part.resumable = resumable && is_resumable(part.header.size_bytes);
                self.resume_or_start(ports, at, &journal, size_bytes);
            }
            // Stopping: whatever was there stays as it was found.
            Ok(done) => {
                let part = &mut self.parts[at];
                part.journaled =
                    matches!(done, DiskDone::Part { journal, .. } if !journal.is_empty());
                part.phase = Phase::Failed { keep: true };
            }
        }
    }

    /// Begins a partial file anew.
    fn start_part(&mut self, ports: &mut Ports, at: usize) {
        let part = &mut self.parts[at];
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
        part.phase = Phase::Starting;
        let cmd = DiskOp::StartPart {
            file: part.file,
            size_bytes: part.header.size_bytes,
            journal,
        };
        self.part_op(ports, at, Op::StartPart { part: at }, cmd);
    }

    pub(super) fn part_started(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.part_op_ended(at);
        if self.stop != Stop::No {
            return;
        }
        match result {
            Ok(_) => self.receive_part(ports, at),
            Err(error) => self.fail_part(ports, at, destination_error(self.host, &error), false),
        }
    }

    /// Asks the sender for what is missing.
    fn receive_part(&mut self, ports: &mut Ports, at: usize) {
        self.parts[at].phase = Phase::Receiving;
        self.push_verdict(ports, self.parts[at].entry, VerdictKind::Send {});
    }

    /// A chunk's record begins.
    ///
    /// # Errors
    /// When it was not asked for, came before, or has not its true length.
    pub(super) fn claim_chunk(
        &mut self,
        at: usize,
        chunk: ChunkIndex,
        len_bytes: u64,
    ) -> Result<(), Violation> {
        let part = &mut self.parts[at];
        let size_bytes = part.header.size_bytes;
        let fits =
            chunk.0 < chunk_count(size_bytes) && len_bytes == chunk_len_bytes(size_bytes, chunk);
        if !fits || !matches!(part.phase, Phase::Receiving) || !part.mark(chunk) {
            let entry = part.entry.0;
            return violation(format!(
                "chunk {} of entry {entry}: twice, outside, or of another length",
                chunk.0
            ));
        }
        Ok(())
    }

    /// A chunk is written and its digest is right.
    pub(super) fn chunk_done(
        &mut self,
        ports: &mut Ports,
        at: usize,
        chunk: ChunkIndex,
        digest: Digest,
    ) {
        let part = &mut self.parts[at];
        part.tree.insert(chunk, digest);
        if let Some(journal) = &mut part.journal {
            journal
                .key
                .encode_record(chunk, &digest, &mut journal.pending);
            self.flush_journal(ports, at);
        }
        self.settle_part(ports, at);
    }

    fn flush_journal(&mut self, ports: &mut Ports, at: usize) {
        let part = &mut self.parts[at];
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
        self.part_op(ports, at, Op::Journal { part: at }, cmd);
    }

    pub(super) fn journal_written(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.part_op_ended(at);
        let part = &mut self.parts[at];
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
    ) -> Result<(), Violation> {
        let Some(entry) = self.entries.get(&id) else {
            return self.known_or_violation(id);
        };
        if let State::Part(at) = entry.state {
            let part = &mut self.parts[at];
            if part.is_live(id) && part.root.is_none() && part.tree.chunks() > 1 {
                part.root = Some(digest);
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
        let part = &self.parts[at];
        if !part.is_live(part.entry) || part.root.is_some() {
            return violation(format!("entry {} aborted in the wrong state", part.entry.0));
        }
        // Without an errno the source changed: what is here belongs to a version that is gone.
        let keep = error.errno != 0;
        self.fail_part(ports, at, error, keep);
        Ok(())
    }

    pub(super) fn write_failed(&mut self, ports: &mut Ports, at: usize, error: &DiskError) {
        let error = destination_error(self.host, error);
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
        let part = &mut self.parts[at];
        if let Phase::Failed { .. } | Phase::Closing = part.phase {
            return;
        }
        part.phase = Phase::Failed { keep };
        let id = part.entry;
        if let Some(entry) = self.entries.remove(&id) {
            self.conclude(ports, id, &entry, EntryResult::Failed(error));
        }
        self.settle_part(ports, at);
    }

    /// What follows when nothing of a part is in flight: commit behind the last chunk, close behind
    /// a failure.
    pub(super) fn settle_part(&mut self, ports: &mut Ports, at: usize) {
        let Some(part) = self.parts.get_mut(at).filter(|part| part.ops == 0) else {
            return;
        };
        match part.phase {
            Phase::Receiving if part.tree.missing() == 0 && self.stop == Stop::No => {
                let whole = part.tree.root();
                match part.root {
                    Some(root) if whole == Some(root) => self.commit_part(ports, at),
                    Some(_) => self.fail_part(ports, at, corrupted(self.host), false),
                    // The only chunk's digest was the whole's and has been compared.
                    None if part.tree.chunks() == 1 => self.commit_part(ports, at),
                    None => {}
                }
            }
            Phase::Failed { keep } => {
                if keep {
                    self.flush_journal(ports, at);
                }
                let part = &mut self.parts[at];
                if part.ops == 0 {
                    let keep = keep && part.journaled;
                    part.phase = Phase::Closing;
                    let cmd = DiskOp::ClosePart {
                        file: part.file,
                        keep,
                    };
                    self.part_op(ports, at, Op::ClosePart { part: at }, cmd);
                }
            }
            Phase::Opening
            | Phase::Rehashing(_)
            | Phase::Starting
            | Phase::Receiving
            | Phase::Committing
            | Phase::Closing => {}
        }
    }

    fn commit_part(&mut self, ports: &mut Ports, at: usize) {
        let part = &mut self.parts[at];
        let Some(entry) = self.entries.get(&part.entry) else {
            return;
        };
        part.phase = Phase::Committing;
        let cmd = DiskOp::CommitPart {
            file: part.file,
            mode: entry.mode,
            mtime: entry.mtime,
            fsync: self.fsync,
        };
        self.part_op(ports, at, Op::Commit { part: at }, cmd);
    }

    pub(super) fn part_committed(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.part_op_ended(at);
        if let Err(error) = result {
            return self.fail_part(ports, at, destination_error(self.host, &error), false);
        }
        let (id, resumed_bytes) = (self.parts[at].entry, self.parts[at].resumed_bytes);
        if let Some(entry) = self.entries.remove(&id) {
            self.conclude(ports, id, &entry, EntryResult::Done { resumed_bytes });
        }
        self.part_closed(ports, at);
    }

    /// A part is gone.
    pub(super) fn part_closed(&mut self, ports: &mut Ports, at: usize) {
        let part = self.parts.remove(at);
        self.part_chunks -= u64::from(part.tree.chunks());
        self.child_done(ports, part.dir);
    }

    /// The session stops: a part closes once nothing of it is in flight, kept if there is something
    /// to resume.
    pub(super) fn stop_part(&mut self, ports: &mut Ports, at: usize) {
        let part = &mut self.parts[at];
        if part.ops > 0 {
            return;
        }
        let keep = match part.phase {
            Phase::Rehashing(_) | Phase::Receiving => true,
            Phase::Opening | Phase::Starting | Phase::Committing => false,
            Phase::Failed { keep } => keep,
            Phase::Closing => return,
        };
        part.phase = Phase::Failed { keep };
        self.settle_part(ports, at);
    }
}
