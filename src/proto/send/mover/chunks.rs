//! Chunks of large files: read in pieces, hashed while hot, emitted by reference.
//!
//! A chunk is a job on one stream slot. Its reads may run ahead of its turn on the stream; its
//! record leaves in order. A job whose source fails under us still fills the record it began
//! (status 1), so that the stream stays readable.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::runs::{ChunkCourse, NextPiece, PieceUse};
use super::values::ChunkValue;
use super::{Issued, SendMover, SendMoverOp};
use crate::ids::{EntryId, StreamKey};
use crate::proto::chunk::{chunk_len_bytes, chunk_offset};
use crate::proto::errors::{source_changed, source_error};
use crate::proto::integrity::ZEROS;
use crate::proto::ports::Ports;
use crate::proto::send::orders::{ChunkOrder, RecordAt, SendReport};
use crate::proto::wire::{RecordHead, RecordStatus, encode_record_tail, encode_run};
use crate::proto::{DiskDone, DiskError, DiskOp, KernelData, PIECE_BYTES, Payload};

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
    /// Bytes whose read was started, holes included.
    issued_bytes: u64,
    emitted_bytes: u64,
    /// Of them, what is no hole, and of that what stayed in the kernel.
    data_bytes: u64,
    piped_bytes: u64,
    course: ChunkCourse,
    value: ChunkValue,
    /// Pieces in order, each with its number.
    pieces: VecDeque<(u32, JobPiece)>,
    next_piece: u32,
    /// Reads in flight, and looks where data is.
    reads: usize,
    state: JobState,
}

#[derive(Debug)]
enum JobPiece {
    /// Next: Data, Kernel, or several that are Reading.
    Reading,
    Data(Bytes),
    /// Data that stays in the kernel.
    Kernel(KernelData, u64),
    /// The begin of a run of a chunk with holes.
    Run {
        hole_bytes: u64,
        data_bytes: u64,
    },
    /// Of a hole.
    Zeros(u64),
}

impl JobPiece {
    /// What is here and was read.
    fn data_bytes(&self) -> u64 {
        match self {
            JobPiece::Data(data) => data.len() as u64,
            JobPiece::Kernel(_, len) => *len,
            JobPiece::Reading | JobPiece::Run { .. } | JobPiece::Zeros(_) => 0,
        }
    }
}

impl Job {
    /// Adds a piece behind the others, and gives its number.
    fn push(&mut self, piece: JobPiece) -> u32 {
        let number = self.next_piece;
        self.next_piece += 1;
        self.pieces.push_back((number, piece));
        number
    }

    /// What was being read is here.
    fn set(&mut self, number: u32, piece: JobPiece) {
        if let Some(found) = self.pieces.iter_mut().find(|(of, _)| *of == number) {
            found.1 = piece;
        }
    }

    /// Several pieces that are to be read, in place of one of so many bytes: the number of each,
    /// where it begins within that, and its length.
    fn split(&mut self, number: u32, len: u32) -> Vec<(u32, u64, u64)> {
        let Some(at) = self.pieces.iter().position(|(of, _)| *of == number) else {
            return Vec::new();
        };
        let mut behind = self.pieces.split_off(at);
        behind.pop_front();
        let (len, mut from, mut parts) = (u64::from(len), 0, Vec::new());
        while from < len {
            let bytes = (len - from).min(PIECE_BYTES as u64);
            parts.push((self.push(JobPiece::Reading), from, bytes));
            from += bytes;
        }
        self.pieces.append(&mut behind);
        parts
    }
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

    /// Bytes of chunks taken whose read was not started.
    pub(super) fn to_read(&self) -> u64 {
        let issuing = self.issuing.iter().filter_map(|at| self.all.get(*at));
        issuing.map(|job| job.len_bytes - job.issued_bytes).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    #[cfg(test)]
    pub(super) fn files(&self) -> impl Iterator<Item = usize> {
        self.all.iter().map(|(_, job)| job.order.file)
    }

    /// Bytes read and not emitted.
    #[cfg(test)]
    pub(super) fn read_bytes(&self) -> u64 {
        let pieces = self.all.iter().flat_map(|(_, job)| job.pieces.iter());
        pieces.map(|(_, piece)| piece.data_bytes()).sum()
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

    /// Chunks taken whose reads are not all started.
    pub fn orders_ahead(&self) -> usize {
        self.jobs.issuing.len()
    }

    pub fn take_chunk(&mut self, mut order: ChunkOrder) {
        let job = self.jobs.all.insert(Job {
            slot: 0,
            len_bytes: chunk_len_bytes(order.size_bytes, order.chunk),
            issued_bytes: 0,
            emitted_bytes: 0,
            data_bytes: 0,
            piped_bytes: 0,
            course: ChunkCourse::new(order.map.take()),
            value: ChunkValue::of(&order),
            order,
            pieces: VecDeque::new(),
            next_piece: 0,
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
        let start = chunk_offset(job.order.size_bytes, job.order.chunk);
        let rest = (start + job.issued_bytes, start + job.len_bytes);
        let use_of = match job.state {
            JobState::Filling => PieceUse::Fills,
            _ if self.takes_pipes && job.value.is_kept() => PieceUse::Stays,
            _ => PieceUse::IsRead,
        };
        let read_bytes = match job.course.next(rest, &mut self.pace, use_of) {
            NextPiece::Data(len) => {
                job.issued_bytes += len;
                self.ahead.reading_bytes += len;
                match use_of {
                    PieceUse::Fills => drop(job.push(JobPiece::Data(zeros(len)))),
                    // A pipe costs what it costs, whatever is in it.
                    PieceUse::Stays if len >= PIECE_BYTES as u64 => {
                        self.pipe_piece(ports, at, rest.0, len);
                    }
                    PieceUse::IsRead | PieceUse::Stays => self.read_piece(ports, at, rest.0, len),
                }
                len
            }
            NextPiece::Run {
                hole_bytes,
                data_bytes,
            } => {
                job.push(JobPiece::Run {
                    hole_bytes,
                    data_bytes,
                });
                0
            }
            NextPiece::Zeros(len) => {
                job.issued_bytes += len;
                job.push(JobPiece::Zeros(len));
                0
            }
            NextPiece::Look(offset) => {
                job.reads += 1;
                let file = job.order.id;
                let (op, cmd) = (SendMoverOp::Look { job: at }, DiskOp::Map { file, offset });
                self.ops.start(ports, op, cmd);
                return Issued::Nothing;
            }
            NextPiece::Wait => return Issued::Nothing,
            NextPiece::Yield => {
                self.yield_turn(ports);
                return Issued::Nothing;
            }
        };
        let job = &mut self.jobs.all[at];
        let slot = job.slot;
        if job.issued_bytes == job.len_bytes {
            self.jobs.issuing.pop_front();
        }
        self.emit(ports, slot);
        Issued::Bytes(read_bytes)
    }

    fn read_piece(&mut self, ports: &mut Ports, at: usize, offset: u64, len: u64) {
        let piece = self.jobs.all[at].push(JobPiece::Reading);
        self.start_read(ports, (at, piece), offset, len);
    }

    fn start_read(&mut self, ports: &mut Ports, (at, piece): (usize, u32), offset: u64, len: u64) {
        let job = &mut self.jobs.all[at];
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

    /// Has a piece wait in the kernel, for its digest is known.
    fn pipe_piece(&mut self, ports: &mut Ports, at: usize, offset: u64, len: u64) {
        let job = &mut self.jobs.all[at];
        let piece = job.push(JobPiece::Reading);
        job.reads += 1;
        let cmd = DiskOp::Pipe {
            file: job.order.id,
            offset,
            len_bytes: len as usize,
        };
        let op = SendMoverOp::Pipe {
            job: at,
            piece,
            range: (offset, len as u32),
        };
        self.ops.start(ports, op, cmd);
    }

    pub(super) fn piece_piped(
        &mut self,
        ports: &mut Ports,
        (at, piece): (usize, u32),
        (offset, len): (u64, u32),
        result: Result<DiskDone, DiskError>,
    ) {
        let job = &mut self.jobs.all[at];
        job.reads -= 1;
        if job.state == JobState::Dropped {
            return self.read_in_vain(at, len);
        }
        let slot = job.slot;
        match result {
            Ok(DiskDone::Piped(Some(data))) => {
                job.set(piece, JobPiece::Kernel(data, u64::from(len)));
                self.emit(ports, slot);
            }
            // It is read, and what is wrong, if anything, told of that.
            Ok(_) | Err(_) => {
                self.takes_pipes = false;
                for (piece, from, len) in job.split(piece, len) {
                    self.start_read(ports, (at, piece), offset + from, len);
                }
            }
        }
    }

    /// A read of a job that was dropped came back.
    fn read_in_vain(&mut self, at: usize, len: u32) {
        self.ahead.reading_bytes -= u64::from(len);
        if self.jobs.all[at].reads == 0 {
            self.end_job(at);
        }
    }

    /// It is known where the file has data.
    pub(super) fn looked(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        let job = &mut self.jobs.all[at];
        job.reads -= 1;
        if job.state == JobState::Dropped {
            if job.reads == 0 {
                self.end_job(at);
            }
            return;
        }
        let file = job.order.file;
        match result {
            Ok(DiskDone::Mapped(map)) => job.course.learn(Some(map)),
            Ok(_) => debug_assert!(false, "the disk layer answered Map with something else"),
            Err(error) => {
                job.course.learn(None);
                let error = source_error(&error);
                self.reports.push_back(SendReport::Failed { file, error });
                self.cancel(ports, file);
            }
        }
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
            return self.read_in_vain(at, len);
        }
        let (data, failure) = match result {
            Ok(DiskDone::Read { data }) if data.len() == len as usize => (data, None),
            Ok(_) => (zeros(u64::from(len)), Some(source_changed())),
            Err(error) => (zeros(u64::from(len)), Some(source_error(&error))),
        };
        job.set(piece, JobPiece::Data(data));
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
            let is_here = |(_, piece): &(u32, JobPiece)| !matches!(piece, JobPiece::Reading);
            while self.jobs.all[at].pieces.front().is_some_and(is_here) {
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
        let job = &mut self.jobs.all[at];
        let Some((_, piece)) = job.pieces.pop_front() else {
            return;
        };
        if job.state == JobState::Queued {
            job.state = JobState::Begun;
            let mut head = BytesMut::new();
            RecordHead::Chunk {
                entry: job.order.entry,
                chunk: job.order.chunk,
                len_bytes: job.len_bytes,
                has_holes: job.course.is_sparse(),
            }
            .encode(&mut head);
            self.emit_bytes(ports, slot, head);
        }
        match piece {
            JobPiece::Reading => {}
            JobPiece::Data(data) => {
                let job = &mut self.jobs.all[at];
                if job.state == JobState::Begun {
                    job.value.update(&data);
                }
                self.emit_data(ports, slot, at, Payload::FileData(data));
            }
            JobPiece::Kernel(data, len_bytes) => {
                self.jobs.all[at].piped_bytes += len_bytes;
                self.emit_data(ports, slot, at, Payload::Piped { data, len_bytes });
            }
            JobPiece::Run {
                hole_bytes,
                data_bytes,
            } => {
                let mut run = BytesMut::new();
                encode_run(hole_bytes, data_bytes, &mut run);
                self.emit_bytes(ports, slot, run);
            }
            JobPiece::Zeros(len) => {
                let job = &mut self.jobs.all[at];
                job.emitted_bytes += len;
                if job.state == JobState::Begun {
                    job.value.update_zeros(len);
                    self.ahead.hole_bytes += len;
                }
            }
        }
    }

    /// Emits what is no file data.
    fn emit_bytes(&mut self, ports: &mut Ports, slot: usize, bytes: BytesMut) {
        self.ahead.untaken_bytes += bytes.len() as u64;
        let key = self.streams.key(slot);
        ports.data(key, Payload::Bytes(bytes.freeze()), 0, false);
    }

    fn emit_data(&mut self, ports: &mut Ports, slot: usize, at: usize, payload: Payload) {
        let key = self.streams.key(slot);
        let job = &mut self.jobs.all[at];
        let len = payload.len_bytes();
        job.emitted_bytes += len;
        job.data_bytes += len;
        self.ahead.emitted_bytes += len;
        self.ahead.reading_bytes -= len;
        self.ahead.untaken_bytes += len;
        ports.data(key, payload, 0, false);
    }

    /// The tail of a record whose data is all emitted.
    fn end_record(&mut self, ports: &mut Ports, slot: usize, at: usize, has_grown: bool) {
        let key = self.streams.key(slot);
        let ordinal = self.streams.records(slot);
        let job = &self.jobs.all[at];
        let (status, digest) = match job.state {
            JobState::Begun | JobState::Held => {
                let (value, is_kept) = job.value.finish();
                self.reports.push_back(SendReport::Chunk {
                    file: job.order.file,
                    chunk: job.order.chunk,
                    value,
                    is_kept,
                    piped_bytes: job.piped_bytes,
                    at: Some(RecordAt {
                        stream: key,
                        ordinal,
                        data_bytes: job.data_bytes,
                    }),
                });
                (RecordStatus::of_chunk(is_kept, has_grown), value)
            }
            JobState::Filling | JobState::Queued | JobState::Dropped => {
                (RecordStatus::SourceFailed, [0; 32])
            }
        };
        let mut tail = BytesMut::new();
        encode_record_tail(status, &digest, &mut tail);
        self.ahead.untaken_bytes += tail.len() as u64;
        let fin = self.streams.record_ends(slot, job.len_bytes);
        ports.data(key, Payload::Bytes(tail.freeze()), 1, fin);
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
        self.cancel_holes(file);
        // All change their state before anything is emitted: emitting one lets the next of its slot
        // begin.
        jobs.into_iter().for_each(|job| self.cancel_job(job));
        slots.into_iter().for_each(|slot| self.emit(ports, slot));
    }

    fn cancel_job(&mut self, at: usize) {
        let job = &mut self.jobs.all[at];
        match job.state {
            JobState::Begun | JobState::Held => job.state = JobState::Filling,
            JobState::Queued => self.drop_job(at),
            JobState::Filling | JobState::Dropped => {}
        }
    }

    /// Nothing more is emitted of a job.
    fn drop_job(&mut self, at: usize) {
        let job = &mut self.jobs.all[at];
        job.state = JobState::Dropped;
        let held = job.pieces.drain(..);
        let held_bytes: u64 = held.map(|(_, piece)| piece.data_bytes()).sum();
        self.ahead.reading_bytes -= held_bytes;
        let (slot, reads) = (job.slot, job.reads);
        self.jobs.issuing.retain(|other| *other != at);
        self.streams.remove(slot, at);
        if reads == 0 {
            self.end_job(at);
        }
    }

    /// Gives chunks back to the plan that were not begun.
    pub(super) fn give_back_chunks(&mut self) {
        let all: Vec<usize> = self.jobs.all.iter().map(|(at, _)| at).collect();
        for at in all {
            let job = &self.jobs.all[at];
            if job.state == JobState::Queued {
                let (file, chunk) = (job.order.file, job.order.chunk);
                self.reports
                    .push_back(SendReport::GivenBack { file, chunk });
                self.drop_job(at);
            }
        }
    }

    /// Gives up what was begun: the lane is no more.
    pub(super) fn lose_chunks(&mut self) {
        self.give_back_chunks();
        for (slot, stream, ordinal) in self.streams.lose(|_| true) {
            self.tear_front(slot, stream, ordinal);
        }
    }

    /// Gives up what was begun on streams that are no more; what waited behind it takes others.
    pub(super) fn lose_streams_of_chunks(&mut self, ports: &mut Ports, keys: &[StreamKey]) {
        let lost = self.streams.lose(|key| keys.contains(&key));
        for (slot, stream, ordinal) in &lost {
            self.tear_front(*slot, *stream, *ordinal);
        }
        lost.into_iter()
            .for_each(|(slot, ..)| self.emit(ports, slot));
    }

    /// The stream of a slot is no more, on which so many records ended: no other job than the front
    /// one has begun there.
    fn tear_front(&mut self, slot: usize, stream: StreamKey, ordinal: u32) {
        let Some(at) = self.streams.front(slot) else {
            return;
        };
        let job = &self.jobs.all[at];
        match job.state {
            JobState::Begun | JobState::Held => {
                self.reports.push_back(SendReport::Torn {
                    file: job.order.file,
                    chunk: job.order.chunk,
                    at: RecordAt {
                        stream,
                        ordinal,
                        data_bytes: job.data_bytes,
                    },
                });
                self.drop_job(at);
            }
            JobState::Filling => self.drop_job(at),
            JobState::Queued | JobState::Dropped => {}
        }
    }
}

fn zeros(len: u64) -> Bytes {
    Bytes::from_static(&ZEROS[..len as usize])
}
