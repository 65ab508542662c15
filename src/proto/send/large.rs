//! Large files: opened a few ahead, cut into chunks, read in pieces, hashed while hot, emitted by
//! reference.
//!
//! A chunk is a job on one stream slot. Its reads may run ahead of its turn on the stream; its
//! record leaves in order. A file whose source fails under us still fills the records it began
//! (status 1), so that the streams stay readable, and is aborted on the control stream.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::{Op, Pumped, Sender, State};
use crate::ids::{ChunkIndex, EntryId, FileId};
use crate::proto::integrity::{ChunkHasher, Tree};
use crate::proto::manifest::{chunk_count, chunk_len_bytes, chunk_offset};
use crate::proto::session::errors::{source_changed, source_error};
use crate::proto::session::ports::Ports;
use crate::proto::wire::{Message, RecordHead, RecordStatus, encode_record_tail};
use crate::proto::{Carriage, DiskDone, DiskError, DiskOp, EntryError, PIECE_BYTES, Payload};

/// Files open at a time: enough that opening and checking one hides behind the others.
const OPEN_FILES: usize = 8;

/// Of a file with a gap behind each chunk: half a node of its tree.
const RESUMED_CHUNK_BYTES: u64 = 30;

static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

#[derive(Debug, Default)]
pub(super) struct Large {
    /// Wanted, not opened yet.
    queue: VecDeque<EntryId>,
    files: Slab<File>,
    /// Open files that may have chunks not given to a job yet, oldest first.
    active: VecDeque<usize>,
    jobs: Slab<Job>,
    /// Jobs with reads not started, oldest first.
    issuing: VecDeque<usize>,
    last_file: u32,
    /// Chunks of files the receiver resumes that were not opened yet.
    pub(super) resumed_chunks: u64,
}

#[derive(Debug)]
struct File {
    entry: EntryId,
    id: FileId,
    size_bytes: u64,
    /// The next chunk to look at; those the receiver has are passed over.
    next: u32,
    tree: Tree,
    jobs: usize,
    /// Whether a `Stat` is in flight.
    checking: bool,
    state: FileState,
}

#[derive(Debug, PartialEq, Eq)]
enum FileState {
    /// Next: Reading, Over.
    Opening,
    /// Next: Checking, Over.
    Reading,
    /// All data was read; whether it is still the same file is being asked. Next: Over.
    Checking,
    /// Aborted or given up; closed when its last job is gone.
    Over,
}

/// A chunk on its way.
#[derive(Debug)]
struct Job {
    file: usize,
    slot: usize,
    chunk: ChunkIndex,
    len_bytes: u64,
    /// Bytes whose read was started.
    issued_bytes: u64,
    emitted_bytes: u64,
    hasher: ChunkHasher,
    /// Pieces in order from number `first_piece` on; `None`: being read.
    pieces: VecDeque<Option<Bytes>>,
    first_piece: u32,
    reads: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing of the record was emitted. Next: Begun, Dropped.
    Queued,
    /// Next: Filling, or done.
    Begun,
    /// The source failed: the rest of the record is filler. Next: done.
    Filling,
    /// Never begun and never will be; waits for its reads.
    Dropped,
}

impl Large {
    pub(super) fn push(&mut self, entry: EntryId) {
        self.queue.push_back(entry);
    }

    /// Of trees: those of open files, and what the receiver says that it has of others.
    pub(super) fn held_bytes(&self) -> u64 {
        let of_open: u64 = self
            .files
            .iter()
            .map(|(_, file)| file.tree.held_bytes())
            .sum();
        of_open + self.resumed_chunks * RESUMED_CHUNK_BYTES
    }

    pub(super) fn has_work(&self) -> bool {
        !self.issuing.is_empty() || !self.active.is_empty()
    }

    /// While stopping: remembers what has to be closed.
    pub(super) fn opened_while_stopping(&mut self, at: usize, opened: bool) {
        if opened {
            self.files[at].state = FileState::Over;
        } else {
            self.files.remove(at);
        }
    }

    /// Gives up all files; those to be closed.
    pub(super) fn take_open(&mut self) -> Vec<FileId> {
        let files = std::mem::take(&mut self.files);
        files
            .into_iter()
            .filter_map(|(_, file)| (file.state != FileState::Opening).then_some(file.id))
            .collect()
    }
}

impl Sender {
    /// Opens the next wanted files.
    pub(super) fn open_files(&mut self, ports: &mut Ports) {
        while self.large.files.len() < OPEN_FILES {
            let Some(id) = self.large.queue.pop_front() else {
                return;
            };
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let State::Wanted { dir, resume } = &mut entry.state else {
                continue;
            };
            let (Some(dir), Some(name)) = (dir.take(), entry.name.clone()) else {
                continue;
            };
            let resume = resume.take();
            let size_bytes = entry.size_bytes;
            if resume.is_some() {
                self.large.resumed_chunks -= u64::from(chunk_count(size_bytes));
            }
            let tree = resume.map_or_else(|| Tree::new(size_bytes), |resume| resume.tree);
            self.large.last_file = self.large.last_file.wrapping_add(1);
            let file_id = FileId(self.large.last_file);
            let file = self.large.files.insert(File {
                entry: id,
                id: file_id,
                size_bytes,
                next: 0,
                tree,
                jobs: 0,
                checking: false,
                state: FileState::Opening,
            });
            entry.state = State::Large { file };
            let cmd = DiskOp::OpenRead {
                dir: self.dirs[dir].id,
                name,
                file: file_id,
            };
            self.ops.start(ports, Op::OpenRead { file, dir }, cmd);
        }
    }

    pub(super) fn file_opened(
        &mut self,
        ports: &mut Ports,
        at: usize,
        dir: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.release_dir(ports, dir);
        let file = &mut self.large.files[at];
        let given_up = file.state == FileState::Over;
        match result {
            Err(error) => {
                let file = self.large.files.remove(at);
                if !given_up {
                    self.abort(ports, file.entry, source_error(self.host, &error));
                }
            }
            Ok(_) if given_up => self.settle_file(ports, at),
            Ok(DiskDone::Meta(meta))
                if self
                    .entries
                    .get(&file.entry)
                    .is_some_and(|e| e.is_unchanged(&meta)) =>
            {
                file.state = FileState::Reading;
                self.large.active.push_back(at);
                // A file resumed with nothing missing has no job that would ask for the check.
                self.settle_file(ports, at);
            }
            Ok(_) => {
                file.state = FileState::Reading;
                self.fail_file(ports, at, source_changed(self.host));
            }
        }
    }

    /// Starts the next read of a chunk.
    pub(super) fn issue_chunks(&mut self, ports: &mut Ports) -> Pumped {
        if self.large.issuing.is_empty() && !self.next_job() {
            return Pumped::Nothing;
        }
        let Some(&at) = self.large.issuing.front() else {
            return Pumped::Nothing;
        };
        let job = &mut self.large.jobs[at];
        let len = (PIECE_BYTES as u64).min(job.len_bytes - job.issued_bytes);
        let piece = job.first_piece + job.pieces.len() as u32;
        let filling = job.phase == Phase::Filling;
        let file = &self.large.files[job.file];
        let offset = chunk_offset(file.size_bytes, job.chunk) + job.issued_bytes;
        self.reading_bytes += len;
        job.issued_bytes += len;
        if filling {
            job.pieces
                .push_back(Some(Bytes::from_static(&ZEROS[..len as usize])));
        } else {
            job.pieces.push_back(None);
            job.reads += 1;
            let cmd = DiskOp::Read {
                file: file.id,
                offset,
                len_bytes: len as usize,
            };
            self.ops.start(
                ports,
                Op::Read {
                    job: at,
                    piece,
                    len: len as u32,
                },
                cmd,
            );
        }
        let slot = job.slot;
        if job.issued_bytes == job.len_bytes {
            self.large.issuing.pop_front();
        }
        if filling {
            self.emit(ports, slot);
        }
        Pumped::Issued(len)
    }

    /// Makes a job of the next chunk that the receiver misses. `false`: there is none.
    fn next_job(&mut self) -> bool {
        while let Some(&at) = self.large.active.front() {
            let Some(file) = self
                .large
                .files
                .get_mut(at)
                .filter(|file| file.state == FileState::Reading)
            else {
                self.large.active.pop_front();
                continue;
            };
            while file.tree.has(ChunkIndex(file.next)) {
                file.next += 1;
            }
            if file.next >= file.tree.chunks() {
                self.large.active.pop_front();
                continue;
            }
            let chunk = ChunkIndex(file.next);
            file.next += 1;
            file.jobs += 1;
            let job = Job {
                file: at,
                slot: 0,
                chunk,
                len_bytes: chunk_len_bytes(file.size_bytes, chunk),
                issued_bytes: 0,
                emitted_bytes: 0,
                hasher: ChunkHasher::new(chunk, file.size_bytes),
                pieces: VecDeque::new(),
                first_piece: 0,
                reads: 0,
                phase: Phase::Queued,
            };
            let target = self.stream_target();
            let job = self.large.jobs.insert(job);
            self.large.jobs[job].slot = self.streams.assign(job, target);
            self.large.issuing.push_back(job);
            return true;
        }
        false
    }

    pub(super) fn piece_read(
        &mut self,
        ports: &mut Ports,
        at: usize,
        piece: u32,
        len: u32,
        result: Result<DiskDone, DiskError>,
    ) {
        let job = &mut self.large.jobs[at];
        job.reads -= 1;
        let (file, slot) = (job.file, job.slot);
        if job.phase == Phase::Dropped {
            self.reading_bytes -= u64::from(len);
            if job.reads == 0 {
                self.forget_job(ports, at);
            }
            return;
        }
        let (data, failure) = match result {
            Ok(DiskDone::Read { data }) if data.len() == len as usize => (data, None),
            Ok(_) => (
                Bytes::from_static(&ZEROS[..len as usize]),
                Some(source_changed(self.host)),
            ),
            Err(error) => (
                Bytes::from_static(&ZEROS[..len as usize]),
                Some(source_error(self.host, &error)),
            ),
        };
        job.pieces[(piece - job.first_piece) as usize] = Some(data);
        if let Some(error) = failure {
            self.fail_file(ports, file, error);
        }
        self.emit(ports, slot);
    }

    /// Emits what may leave on a slot: the front job's pieces as far as they are here, then the
    /// next job's.
    fn emit(&mut self, ports: &mut Ports, slot: usize) {
        while let Some(at) = self.streams.front(slot) {
            let job = &mut self.large.jobs[at];
            let file = &mut self.large.files[job.file];
            while let Some(Some(_)) = job.pieces.front() {
                let Some(data) = job.pieces.pop_front().flatten() else {
                    break;
                };
                job.first_piece += 1;
                let key = self.streams.key(slot);
                let mut head = BytesMut::new();
                if job.phase == Phase::Queued {
                    job.phase = Phase::Begun;
                    let (entry, chunk, len_bytes) = (file.entry, job.chunk, job.len_bytes);
                    RecordHead::Chunk {
                        entry,
                        chunk,
                        len_bytes,
                    }
                    .encode(&mut head);
                    self.unsent_bytes += head.len() as u64;
                    ports.data(key, Payload::Bytes(head.freeze()), false);
                }
                let len = data.len() as u64;
                if job.phase == Phase::Begun {
                    job.hasher.update(&data);
                }
                self.emitted_bytes += len;
                self.reading_bytes -= len;
                self.unsent_bytes += len;
                let payload = match job.phase {
                    Phase::Begun if self.carriage == Carriage::Ranges => Payload::Range {
                        file: file.id,
                        offset: chunk_offset(file.size_bytes, job.chunk) + job.emitted_bytes,
                        len_bytes: len,
                    },
                    Phase::Begun | Phase::Queued | Phase::Filling | Phase::Dropped => {
                        Payload::Bytes(data)
                    }
                };
                job.emitted_bytes += len;
                ports.data(key, payload, false);
            }
            if job.emitted_bytes < job.len_bytes {
                return;
            }
            // The only chunk carries the file's digest: the source is checked before it is vouched
            // for.
            if job.phase == Phase::Begun && file.tree.chunks() == 1 && file.state != FileState::Over
            {
                if file.state == FileState::Reading {
                    let file = job.file;
                    self.check_file(ports, file);
                }
                return;
            }
            self.end_record(ports, slot, at);
        }
    }

    /// The tail of a record whose data is all emitted.
    fn end_record(&mut self, ports: &mut Ports, slot: usize, at: usize) {
        let job = &self.large.jobs[at];
        let file = &mut self.large.files[job.file];
        let (status, digest) = match job.phase {
            Phase::Begun => {
                let value = job.hasher.finish();
                file.tree.insert(job.chunk, value);
                (RecordStatus::Valid, value)
            }
            Phase::Filling | Phase::Queued | Phase::Dropped => {
                (RecordStatus::SourceFailed, [0; 32])
            }
        };
        let mut tail = BytesMut::new();
        encode_record_tail(status, &digest, &mut tail);
        self.unsent_bytes += tail.len() as u64;
        let len_bytes = job.len_bytes;
        let key = self.streams.key(slot);
        let fin = self.streams.record_ends(slot, len_bytes);
        ports.data(key, Payload::Bytes(tail.freeze()), fin);
        self.streams.pop(slot);
        self.forget_job(ports, at);
    }

    /// A job is over and no read of it is in flight.
    fn forget_job(&mut self, ports: &mut Ports, at: usize) {
        let job = self.large.jobs.remove(at);
        self.large.files[job.file].jobs -= 1;
        self.settle_file(ports, job.file);
    }

    /// Behind the last chunk: asks whether the source is still the same, or closes what is over.
    fn settle_file(&mut self, ports: &mut Ports, at: usize) {
        let Some(file) = self.large.files.get(at).filter(|file| file.jobs == 0) else {
            return;
        };
        match file.state {
            FileState::Reading if file.tree.missing() == 0 => self.check_file(ports, at),
            FileState::Over if !file.checking => {
                let file = self.large.files.remove(at);
                self.ops
                    .start(ports, Op::Close, DiskOp::CloseRead { file: file.id });
            }
            FileState::Opening | FileState::Reading | FileState::Checking | FileState::Over => {}
        }
    }

    fn check_file(&mut self, ports: &mut Ports, at: usize) {
        let file = &mut self.large.files[at];
        file.state = FileState::Checking;
        file.checking = true;
        let cmd = DiskOp::Stat { file: file.id };
        self.ops.start(ports, Op::Stat { file: at }, cmd);
    }

    /// The answer to the check behind the last byte.
    pub(super) fn file_checked(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        let file = &mut self.large.files[at];
        file.checking = false;
        if file.state == FileState::Over {
            return self.settle_file(ports, at);
        }
        let id = file.entry;
        let failure = match result {
            Ok(DiskDone::Meta(meta))
                if self
                    .entries
                    .get(&id)
                    .is_some_and(|entry| entry.is_unchanged(&meta)) =>
            {
                None
            }
            Ok(_) => Some(source_changed(self.host)),
            Err(error) => Some(source_error(self.host, &error)),
        };
        if let Some(error) = failure {
            return self.fail_file(ports, at, error);
        }
        file.state = FileState::Over;
        let root = file.tree.root();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = State::Emitted;
        }
        match root {
            Some(digest) => self.tell(ports, &Message::Root { entry: id, digest }),
            // The only chunk's record waits on its slot for this answer.
            None => {
                let waiting = self
                    .large
                    .jobs
                    .iter()
                    .find(|(_, job)| job.file == at)
                    .map(|(_, job)| job.slot);
                waiting.into_iter().for_each(|slot| self.emit(ports, slot));
            }
        }
        self.settle_file(ports, at);
    }

    /// The source failed: tells the receiver and ends what is under way.
    fn fail_file(&mut self, ports: &mut Ports, at: usize, error: EntryError) {
        if self.large.files[at].state != FileState::Over {
            self.abort(ports, self.large.files[at].entry, error);
            self.cancel_file(ports, at);
        }
    }

    /// Ends what is under way for a file: records begun are filled up, the others never begin.
    pub(super) fn cancel_file(&mut self, ports: &mut Ports, at: usize) {
        let file = &mut self.large.files[at];
        let opening = file.state == FileState::Opening;
        file.state = FileState::Over;
        if opening {
            return;
        }
        let jobs: Vec<usize> = self
            .large
            .jobs
            .iter()
            .filter(|(_, job)| job.file == at)
            .map(|(at, _)| at)
            .collect();
        let slots: Vec<usize> = jobs.iter().map(|job| self.large.jobs[*job].slot).collect();
        // All change their phase before anything is emitted: emitting one lets the next of its slot
        // begin.
        jobs.into_iter().for_each(|job| self.cancel_job(job));
        slots.into_iter().for_each(|slot| self.emit(ports, slot));
        self.settle_file(ports, at);
    }

    fn cancel_job(&mut self, at: usize) {
        let job = &mut self.large.jobs[at];
        match job.phase {
            Phase::Begun => job.phase = Phase::Filling,
            Phase::Queued => {
                job.phase = Phase::Dropped;
                let held: u64 = job
                    .pieces
                    .drain(..)
                    .flatten()
                    .map(|data| data.len() as u64)
                    .sum();
                self.reading_bytes -= held;
                let (slot, reads, file) = (job.slot, job.reads, job.file);
                self.large.issuing.retain(|other| *other != at);
                self.streams.remove(slot, at);
                if reads == 0 {
                    self.large.jobs.remove(at);
                    self.large.files[file].jobs -= 1;
                }
            }
            Phase::Filling | Phase::Dropped => {}
        }
    }
}
