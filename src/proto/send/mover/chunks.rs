//! Chunks of large files: read in pieces, hashed while hot, emitted by reference.
//!
//! A chunk is a job on one stream slot. Its reads may run ahead of its turn on the stream; its
//! record leaves in order. A job whose source fails under us still fills the record it began
//! (status 1), so that the stream stays readable.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::{Issued, SendMover, SendMoverOp};
use crate::ids::EntryId;
use crate::proto::chunk::{chunk_len_bytes, chunk_offset};
use crate::proto::errors::{source_changed, source_error};
use crate::proto::integrity::ChunkHasher;
use crate::proto::ports::Ports;
use crate::proto::send::orders::{ChunkOrder, SendReport};
use crate::proto::wire::{RecordHead, RecordStatus, encode_record_tail};
use crate::proto::{Carriage, DiskDone, DiskError, DiskOp, PIECE_BYTES, Payload};

static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

#[derive(Debug, Default)]
pub(super) struct Jobs {
    all: Slab<Job>,
    /// Jobs with reads not started, oldest first.
    issuing: VecDeque<usize>,
}

/// A chunk on its way.
#[derive(Debug)]
struct Job {
    order: ChunkOrder,
    slot: usize,
    len_bytes: u64,
    /// Bytes whose read was started.
    issued_bytes: u64,
    emitted_bytes: u64,
    hasher: ChunkHasher,
    /// Pieces in order from number `first_piece` on; `None`: being read.
    pieces: VecDeque<Option<Bytes>>,
    first_piece: u32,
    reads: usize,
    state: JobState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobState {
    /// Nothing of the record was emitted. Next: Begun, Dropped.
    Queued,
    /// Next: Held, Filling, or done.
    Begun,
    /// All data of a file's only chunk was emitted, and the plan was told. Next: Filling, or done.
    Held,
    /// The source failed: the rest of the record is filler. Next: done.
    Filling,
    /// Never begun and never will be; waits for its reads.
    Dropped,
}

impl Jobs {
    pub(super) fn entry_of(&self, job: usize) -> Option<EntryId> {
        self.all.get(job).map(|job| job.order.entry)
    }

    fn of_file(&self, file: usize) -> Vec<usize> {
        let jobs = self.all.iter();
        jobs.filter(|(_, job)| job.order.file == file)
            .map(|(at, _)| at)
            .collect()
    }

    #[cfg(test)]
    pub(super) fn files(&self) -> Vec<usize> {
        self.all.iter().map(|(_, job)| job.order.file).collect()
    }

    /// Bytes read and not emitted.
    #[cfg(test)]
    pub(super) fn read_bytes(&self) -> u64 {
        let pieces = self.all.iter().flat_map(|(_, job)| job.pieces.iter());
        pieces.flatten().map(|piece| piece.len() as u64).sum()
    }

    /// `reads`: the job of each read in flight.
    #[cfg(test)]
    pub(super) fn check(&self, reads: &[usize]) {
        for (at, job) in &self.all {
            let of_job = reads.iter().filter(|read| **read == at).count();
            assert_eq!(job.reads, of_job, "reads of {job:?}");
            let issuing = job.state != JobState::Dropped && job.issued_bytes < job.len_bytes;
            assert_eq!(self.issuing.contains(&at), issuing, "{job:?}");
        }
    }
}

impl SendMover {
    /// Whether chunks were taken whose reads are not all started.
    pub fn has_reads(&self) -> bool {
        !self.jobs.issuing.is_empty()
    }

    pub fn take_chunk(&mut self, order: ChunkOrder) {
        let job = self.jobs.all.insert(Job {
            order,
            slot: 0,
            len_bytes: chunk_len_bytes(order.size_bytes, order.chunk),
            issued_bytes: 0,
            emitted_bytes: 0,
            hasher: ChunkHasher::new(order.chunk, order.size_bytes),
            pieces: VecDeque::new(),
            first_piece: 0,
            reads: 0,
            state: JobState::Queued,
        });
        let target = self.stream_target();
        self.jobs.all[job].slot = self.streams.assign(job, target);
        self.jobs.issuing.push_back(job);
    }

    /// Starts the next read of a chunk.
    pub fn read_chunk(&mut self, ports: &mut Ports) -> Issued {
        let Some(&at) = self.jobs.issuing.front() else {
            return Issued::Nothing;
        };
        let job = &mut self.jobs.all[at];
        let len = (PIECE_BYTES as u64).min(job.len_bytes - job.issued_bytes);
        let piece = job.first_piece + job.pieces.len() as u32;
        let filling = job.state == JobState::Filling;
        let offset = chunk_offset(job.order.size_bytes, job.order.chunk) + job.issued_bytes;
        self.ahead.reading_bytes += len;
        job.issued_bytes += len;
        if filling {
            job.pieces.push_back(Some(zeros(len)));
        } else {
            job.pieces.push_back(None);
            job.reads += 1;
            let cmd = DiskOp::Read {
                file: job.order.id,
                offset,
                len_bytes: len as usize,
            };
            let op = SendMoverOp::Piece {
                job: at,
                piece,
                len: len as u32,
            };
            self.ops.start(ports, op, cmd);
        }
        let slot = job.slot;
        if job.issued_bytes == job.len_bytes {
            self.jobs.issuing.pop_front();
        }
        if filling {
            self.emit(ports, slot);
        }
        Issued::Bytes(len)
    }

    pub(super) fn piece_read(
        &mut self,
        ports: &mut Ports,
        at: usize,
        piece: u32,
        len: u32,
        result: Result<DiskDone, DiskError>,
    ) {
        let job = &mut self.jobs.all[at];
        job.reads -= 1;
        let (file, slot) = (job.order.file, job.slot);
        if job.state == JobState::Dropped {
            self.ahead.reading_bytes -= u64::from(len);
            if job.reads == 0 {
                self.end_job(at);
            }
            return;
        }
        let (data, failure) = match result {
            Ok(DiskDone::Read { data }) if data.len() == len as usize => (data, None),
            Ok(_) => (zeros(u64::from(len)), Some(source_changed())),
            Err(error) => (zeros(u64::from(len)), Some(source_error(&error))),
        };
        job.pieces[(piece - job.first_piece) as usize] = Some(data);
        if let Some(error) = failure {
            self.reports.push_back(SendReport::Failed { file, error });
            self.cancel(ports, file);
        }
        self.emit(ports, slot);
    }

    /// Emits what may leave on a slot: the front job's pieces as far as they are here, then the
    /// next job's.
    fn emit(&mut self, ports: &mut Ports, slot: usize) {
        while let Some(at) = self.streams.front(slot) {
            while let Some(Some(_)) = self.jobs.all[at].pieces.front() {
                self.emit_piece(ports, slot, at);
            }
            let job = &mut self.jobs.all[at];
            if job.emitted_bytes < job.len_bytes || job.state == JobState::Held {
                return;
            }
            // The only chunk carries the file's digest: the source is checked before it is vouched
            // for.
            if job.state == JobState::Begun && job.order.is_only {
                job.state = JobState::Held;
                let file = job.order.file;
                self.reports.push_back(SendReport::Held { file });
                return;
            }
            self.end_record(ports, slot, at, false);
        }
    }

    /// Emits the front piece of a job, behind the head of its record if it is the first.
    fn emit_piece(&mut self, ports: &mut Ports, slot: usize, at: usize) {
        let key = self.streams.key(slot);
        let job = &mut self.jobs.all[at];
        let Some(data) = job.pieces.pop_front().flatten() else {
            return;
        };
        job.first_piece += 1;
        let ChunkOrder {
            entry,
            chunk,
            size_bytes,
            ..
        } = job.order;
        if job.state == JobState::Queued {
            job.state = JobState::Begun;
            let mut head = BytesMut::new();
            let len_bytes = job.len_bytes;
            RecordHead::Chunk {
                entry,
                chunk,
                len_bytes,
            }
            .encode(&mut head);
            self.ahead.untaken_bytes += head.len() as u64;
            ports.data(key, Payload::Bytes(head.freeze()), false);
        }
        let len = data.len() as u64;
        let is_genuine = job.state == JobState::Begun;
        if is_genuine {
            job.hasher.update(&data);
        }
        let payload = match is_genuine && self.carriage == Carriage::Ranges {
            true => Payload::Range {
                file: job.order.id,
                offset: chunk_offset(size_bytes, chunk) + job.emitted_bytes,
                len_bytes: len,
            },
            false => Payload::Bytes(data),
        };
        job.emitted_bytes += len;
        self.ahead.emitted_bytes += len;
        self.ahead.reading_bytes -= len;
        self.ahead.untaken_bytes += len;
        ports.data(key, payload, false);
    }

    /// The tail of a record whose data is all emitted.
    fn end_record(&mut self, ports: &mut Ports, slot: usize, at: usize, has_grown: bool) {
        let job = &self.jobs.all[at];
        let (status, digest) = match job.state {
            JobState::Begun | JobState::Held => {
                let value = job.hasher.finish();
                self.reports.push_back(SendReport::Chunk {
                    file: job.order.file,
                    chunk: job.order.chunk,
                    value,
                });
                let status = match has_grown {
                    true => RecordStatus::ValidPrefix,
                    false => RecordStatus::Valid,
                };
                (status, value)
            }
            JobState::Filling | JobState::Queued | JobState::Dropped => {
                (RecordStatus::SourceFailed, [0; 32])
            }
        };
        let mut tail = BytesMut::new();
        encode_record_tail(status, &digest, &mut tail);
        self.ahead.untaken_bytes += tail.len() as u64;
        let key = self.streams.key(slot);
        let fin = self.streams.record_ends(slot, job.len_bytes);
        ports.data(key, Payload::Bytes(tail.freeze()), fin);
        self.streams.pop(slot);
        self.end_job(at);
    }

    /// A job is over and no read of it is in flight.
    fn end_job(&mut self, at: usize) {
        let job = self.jobs.all.remove(at);
        let file = job.order.file;
        self.reports.push_back(SendReport::Over { file });
    }

    /// The record of a file's only chunk may end.
    pub(super) fn vouch(&mut self, ports: &mut Ports, file: usize, has_grown: bool) {
        for at in self.jobs.of_file(file) {
            let job = &self.jobs.all[at];
            if job.state == JobState::Held {
                let slot = job.slot;
                self.end_record(ports, slot, at, has_grown);
                self.emit(ports, slot);
            }
        }
    }

    /// Ends what is under way for a file: records begun are filled up, the others never begin.
    pub(super) fn cancel(&mut self, ports: &mut Ports, file: usize) {
        let jobs = self.jobs.of_file(file);
        let slots: Vec<usize> = jobs.iter().map(|job| self.jobs.all[*job].slot).collect();
        // All change their state before anything is emitted: emitting one lets the next of its slot
        // begin.
        jobs.into_iter().for_each(|job| self.cancel_job(job));
        slots.into_iter().for_each(|slot| self.emit(ports, slot));
    }

    fn cancel_job(&mut self, at: usize) {
        let job = &mut self.jobs.all[at];
        match job.state {
            JobState::Begun | JobState::Held => job.state = JobState::Filling,
            JobState::Queued => {
                job.state = JobState::Dropped;
                let held = job.pieces.drain(..).flatten();
                let held_bytes: u64 = held.map(|data| data.len() as u64).sum();
                self.ahead.reading_bytes -= held_bytes;
                let (slot, reads) = (job.slot, job.reads);
                self.jobs.issuing.retain(|other| *other != at);
                self.streams.remove(slot, at);
                if reads == 0 {
                    self.end_job(at);
                }
            }
            JobState::Filling | JobState::Dropped => {}
        }
    }
}

fn zeros(len: u64) -> Bytes {
    Bytes::from_static(&ZEROS[..len as usize])
}
