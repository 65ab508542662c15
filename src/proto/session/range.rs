//! Bytes of one file, without a place for them here: what a server reads and tells the values of,
//! and what a client holds against these before it hands anything on.
//!
//! Whole chunks travel, in order, each followed by its chaining value: less could not be checked.
//! The value is that of the bytes as they were read, and not one that is remembered: a memory that
//! is wrong would make a file unreadable.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::handles::AnswerHandles;
use crate::ids::{ChunkIndex, OpId};
use crate::proto::chunk::{chunk_len_bytes, chunk_log2_for, chunk_offset};
use crate::proto::errors::{
    Access, Violation, session_error, source_changed, source_error, violation,
};
use crate::proto::integrity::{ChunkHasher, Digest};
use crate::proto::ports::{Ops, Ports};
use crate::proto::query::QueryAnswer;
use crate::proto::wire::{MAX_PART_BYTES, Message};
use crate::proto::{
    DiskDone, DiskError, DiskOp, Kind, Meta, Mtime, PIECE_BYTES, SessionError, SessionErrorCode,
};

/// Parts sent and not acknowledged; with 32 KiB each, 512 KiB of one answer.
pub(super) const PARTS_AHEAD: u32 = 16;

/// Chunks that are read for a part of them: those of files of up to 64 TiB.
const CHUNK_MAX_BYTES: u64 = 1 << 30;

/// The chunks of a file that hold a range of it. Nothing of the range may lie in the file.
fn chunks_of(range: &Range<u64>, size_bytes: u64) -> Range<u32> {
    let end = range.end.min(size_bytes);
    if range.start >= end {
        return 0..0;
    }
    let log2 = chunk_log2_for(size_bytes);
    (range.start >> log2) as u32..((end - 1) >> log2) as u32 + 1
}

/// What a disk operation was for.
#[derive(Debug)]
enum RangeOp {
    Source,
    Open,
    Read,
    /// Whether it is still the file that it was.
    Stat,
    Close,
}

#[derive(Debug, PartialEq, Eq)]
enum RangeState {
    /// The path is looked up, the file opened. Next: Reading, Failed.
    Opening,
    /// Its bytes are read. Next: Over, Failed.
    Reading,
    /// Everything was sent.
    Over,
    Failed(SessionError),
}

/// A server's side.
#[derive(Debug)]
pub struct RangeServer {
    ops: Ops<RangeOp>,
    handles: AnswerHandles,
    state: RangeState,
    range: Range<u64>,
    meta: Option<Meta>,
    chunks: Range<u32>,
    /// Of the first chunk of these: bytes sent, and their hash so far.
    sent_bytes: u64,
    hasher: Option<ChunkHasher>,
    all_sent_bytes: u64,
    ahead: u32,
    ahead_max: u32,
    is_parent_open: bool,
    is_file_open: bool,
    stopping: bool,
    closed: bool,
}

impl RangeServer {
    /// Of a file that is `asked` for by its path; with `true` a symlink there is followed.
    pub(super) fn new(
        ports: &mut Ports,
        handles: AnswerHandles,
        (path, follow): (Bytes, bool),
        range: Range<u64>,
    ) -> RangeServer {
        let mut server = RangeServer {
            ops: Ops::of(handles.owner),
            handles,
            state: RangeState::Opening,
            range,
            meta: None,
            chunks: 0..0,
            sent_bytes: 0,
            hasher: None,
            all_sent_bytes: 0,
            ahead: 0,
            ahead_max: PARTS_AHEAD,
            is_parent_open: false,
            is_file_open: false,
            stopping: false,
            closed: false,
        };
        let cmd = DiskOp::ResolveSource {
            path,
            follow,
            dir: handles.parent,
        };
        server.ops.start(ports, RangeOp::Source, cmd);
        server
    }

    /// A part arrived at the client.
    ///
    /// # Errors
    /// When none was under way.
    pub fn on_acknowledged(&mut self, ports: &mut Ports) -> Result<(), Violation> {
        if self.ahead == 0 {
            return violation("acknowledged a part of a file that was not sent");
        }
        self.ahead -= 1;
        self.read_on(ports);
        Ok(())
    }

    /// So many parts may be under way from now on.
    pub(super) fn share(&mut self, ports: &mut Ports, ahead_max: u32) {
        self.ahead_max = ahead_max;
        self.read_on(ports);
    }

    /// Parts that were not acknowledged.
    pub(super) fn ahead(&self) -> u32 {
        self.ahead
    }

    /// The same, with the one that is being read.
    pub(super) fn ahead_or_read(&self) -> u32 {
        self.ahead + u32::from(self.ops.in_flight() > 0)
    }

    pub(super) fn all_sent_bytes(&self) -> u64 {
        self.all_sent_bytes
    }

    pub fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        let Some(op) = self.ops.finish(op) else {
            return;
        };
        match op {
            RangeOp::Source => self.is_parent_open |= result.is_ok(),
            RangeOp::Open => self.is_file_open |= result.is_ok(),
            RangeOp::Read | RangeOp::Stat | RangeOp::Close => {}
        }
        if self.stopping || self.state != RangeState::Opening && self.state != RangeState::Reading {
            return;
        }
        match (op, result) {
            (RangeOp::Source | RangeOp::Open, Err(error)) => {
                self.fail(session_error(Access::Read, &error));
            }
            (_, Err(error)) => self.fail(of_file(source_error(&error).sentence(""))),
            (RangeOp::Source, Ok(DiskDone::Source { name, meta, .. })) => match name {
                Some(name) if meta.kind == Kind::File => {
                    let (dir, file) = (self.handles.parent, self.handles.file);
                    let cmd = DiskOp::OpenRead { dir, name, file };
                    self.ops.start(ports, RangeOp::Open, cmd);
                }
                _ => self.fail(SessionError::told(
                    SessionErrorCode::NotFound,
                    "only of a file can bytes be read; this is a directory, a symlink or a device",
                )),
            },
            (RangeOp::Open, Ok(DiskDone::Meta(meta))) if !meta.is_sized => {
                let text = "its file system does not say how much is in it, so that no range of it \
                            can be read; copy it";
                self.fail(of_file(text.to_owned()));
            }
            (RangeOp::Open, Ok(DiskDone::Meta(meta))) => {
                self.meta = Some(meta);
                self.begin(ports);
            }
            (RangeOp::Read, Ok(DiskDone::Read { data })) => self.read(ports, data),
            (RangeOp::Stat, Ok(DiskDone::Meta(meta))) => {
                let is_same = self.meta.is_some_and(|before| {
                    (before.size_bytes, before.mtime) == (meta.size_bytes, meta.mtime)
                });
                if !is_same {
                    return self.fail(of_file(source_changed().sentence("")));
                }
                ports.message(&Message::ListEnd {});
                self.state = RangeState::Over;
            }
            (RangeOp::Close, Ok(_)) => {}
            (_, Ok(_)) => debug_assert!(false, "the disk layer answered something else"),
        }
    }

    fn begin(&mut self, ports: &mut Ports) {
        let size_bytes = self.size_bytes();
        let mtime = self.meta.map_or_else(Mtime::default, |meta| meta.mtime);
        self.chunks = chunks_of(&self.range, size_bytes);
        ports.message(&Message::FileSize { size_bytes, mtime });
        self.state = RangeState::Reading;
        self.read_on(ports);
    }

    fn size_bytes(&self) -> u64 {
        self.meta.map_or(0, |meta| meta.size_bytes)
    }

    fn read_on(&mut self, ports: &mut Ports) {
        let may_read = self.state == RangeState::Reading
            && !self.stopping
            && self.ops.in_flight() == 0
            && self.ahead < self.ahead_max;
        if !may_read {
            return;
        }
        if self.chunks.is_empty() {
            let file = self.handles.file;
            self.ops.start(ports, RangeOp::Stat, DiskOp::Stat { file });
            return;
        }
        let (size_bytes, chunk) = (self.size_bytes(), ChunkIndex(self.chunks.start));
        let left = chunk_len_bytes(size_bytes, chunk) - self.sent_bytes;
        let cmd = DiskOp::Read {
            file: self.handles.file,
            offset: chunk_offset(size_bytes, chunk) + self.sent_bytes,
            len_bytes: left.min(MAX_PART_BYTES as u64) as usize,
        };
        self.ops.start(ports, RangeOp::Read, cmd);
    }

    fn read(&mut self, ports: &mut Ports, data: Bytes) {
        let (size_bytes, chunk) = (self.size_bytes(), ChunkIndex(self.chunks.start));
        if data.is_empty() {
            // It became shorter.
            return self.fail(of_file(source_changed().sentence("")));
        }
        let hasher = self
            .hasher
            .get_or_insert_with(|| ChunkHasher::new(chunk, size_bytes));
        hasher.update(&data);
        self.sent_bytes += data.len() as u64;
        self.all_sent_bytes += data.len() as u64;
        self.ahead += 1;
        ports.message(&Message::FilePart { data });
        if self.sent_bytes == chunk_len_bytes(size_bytes, chunk) {
            let value = self.hasher.take().map(|hasher| hasher.finish());
            let value = value.unwrap_or_default();
            ports.message(&Message::ChunkValue { value });
            (self.chunks.start, self.sent_bytes) = (chunk.0 + 1, 0);
        }
        self.read_on(ports);
    }

    fn fail(&mut self, error: SessionError) {
        self.state = RangeState::Failed(error);
    }

    /// `Some` when everything was said: the reason, if it failed.
    pub fn result(&self) -> Option<Result<(), SessionError>> {
        match &self.state {
            RangeState::Opening | RangeState::Reading => None,
            RangeState::Over => Some(Ok(())),
            RangeState::Failed(error) => Some(Err(error.clone())),
        }
    }

    /// Closes what is open once nothing is in flight.
    pub fn stop(&mut self, ports: &mut Ports) {
        self.stopping = true;
        if self.ops.in_flight() > 0 || self.closed {
            return;
        }
        self.closed = true;
        if self.is_file_open {
            let file = self.handles.file;
            let cmd = DiskOp::CloseRead { file };
            self.ops.start(ports, RangeOp::Close, cmd);
        }
        if self.is_parent_open {
            let dir = self.handles.parent;
            let cmd = DiskOp::CloseDir { dir };
            self.ops.start(ports, RangeOp::Close, cmd);
        }
    }

    pub fn is_drained(&self) -> bool {
        self.closed && self.ops.in_flight() == 0
    }
}

/// Something is wrong with the file that was asked for.
fn of_file(text: String) -> SessionError {
    SessionError::told(SessionErrorCode::Other, text)
}

/// A client's side: holds a chunk until its value is right.
#[derive(Debug)]
pub struct RangeTaker {
    slot: u8,
    range: Range<u64>,
    /// Of the file, once the server said it.
    size_bytes: Option<u64>,
    chunks: Range<u32>,
    /// Of the first chunk of these: its hash so far, how much of it came, and what of that is
    /// wanted.
    hasher: Option<ChunkHasher>,
    came_bytes: u64,
    wanted: BytesMut,
    result: Option<Result<(), SessionError>>,
}

impl RangeTaker {
    pub fn new(slot: u8, range: Range<u64>) -> RangeTaker {
        RangeTaker {
            slot,
            range,
            size_bytes: None,
            chunks: 0..0,
            hasher: None,
            came_bytes: 0,
            wanted: BytesMut::new(),
            result: None,
        }
    }

    /// # Errors
    /// When the server may not say that, or not now.
    pub fn on_message(&mut self, ports: &mut Ports, message: Message) -> Result<(), Violation> {
        if self.result.is_some() {
            return Ok(());
        }
        match (message, self.size_bytes) {
            (Message::FileSize { size_bytes, .. }, None)
                if 1 << chunk_log2_for(size_bytes) > CHUNK_MAX_BYTES =>
            {
                let text = "the file is larger than 64 TiB, and its chunks than 1 GiB, which is too \
                            much to be read for a range";
                let code = SessionErrorCode::Unsupported;
                self.result = Some(Err(SessionError::told(code, text)));
                Ok(())
            }
            (Message::FileSize { size_bytes, mtime }, None) => {
                self.size_bytes = Some(size_bytes);
                self.chunks = chunks_of(&self.range, size_bytes);
                ports.answer(self.slot, QueryAnswer::File { size_bytes, mtime });
                Ok(())
            }
            (Message::FilePart { data }, Some(size_bytes)) => self.part(ports, &data, size_bytes),
            (Message::ChunkValue { value }, Some(size_bytes)) => {
                self.value(ports, value, size_bytes)
            }
            (Message::ListEnd {}, Some(_)) if self.chunks.is_empty() => {
                self.result.get_or_insert(Ok(()));
                Ok(())
            }
            _ => violation("a message out of place in the bytes of a file"),
        }
    }

    fn part(&mut self, ports: &mut Ports, data: &[u8], size_bytes: u64) -> Result<(), Violation> {
        let chunk = ChunkIndex(self.chunks.start);
        let left = chunk_len_bytes(size_bytes, chunk).saturating_sub(self.came_bytes);
        if self.chunks.is_empty() || data.is_empty() || data.len() as u64 > left {
            return violation("more of a chunk than it has, or none of it");
        }
        let hasher = self
            .hasher
            .get_or_insert_with(|| ChunkHasher::new(chunk, size_bytes));
        hasher.update(data);
        let at = chunk_offset(size_bytes, chunk) + self.came_bytes;
        let end = at + data.len() as u64;
        let (from, to) = (
            self.range.start.clamp(at, end),
            self.range.end.clamp(at, end),
        );
        self.wanted
            .extend_from_slice(&data[(from - at) as usize..(to - at) as usize]);
        self.came_bytes += data.len() as u64;
        ports.message(&Message::ListAck {});
        Ok(())
    }

    fn value(
        &mut self,
        ports: &mut Ports,
        value: Digest,
        size_bytes: u64,
    ) -> Result<(), Violation> {
        let chunk = ChunkIndex(self.chunks.start);
        if self.chunks.is_empty() || self.came_bytes < chunk_len_bytes(size_bytes, chunk) {
            return violation("the value of a chunk that is not there yet");
        }
        let found = self.hasher.take().map(|hasher| hasher.finish());
        if found != Some(value) {
            let text = "bytes of the file are not those that the daemon hashed; is the memory of \
                        one of both hosts all right?";
            let code = SessionErrorCode::Integrity;
            self.result = Some(Err(SessionError::told(code, text)));
            return Ok(());
        }
        let bytes = self.wanted.split().freeze();
        ports.answer(self.slot, QueryAnswer::Bytes(bytes));
        (self.chunks.start, self.came_bytes) = (chunk.0 + 1, 0);
        Ok(())
    }

    /// `Some` when everything came, or nothing more is wanted.
    pub fn result(&self) -> Option<Result<(), SessionError>> {
        self.result.clone()
    }
}

// A part is read whole.
const _: () = assert!(MAX_PART_BYTES <= PIECE_BYTES);
