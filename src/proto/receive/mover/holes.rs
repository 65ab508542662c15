//! Holes of files being received: chunks that are all hole, and those within a chunk. They are
//! hashed as zeros and not written; what an earlier session left in their place goes.

use super::{ReceiveMover, ReceiveMoverOp, Taking, TakingPart};
use crate::ids::{ChunkIndex, EntryId, StreamKey};
use crate::proto::chunk::{chunk_count, chunk_len_bytes, chunk_offset};
use crate::proto::errors::{Violation, violation};
use crate::proto::ports::Ports;
use crate::proto::receive::orders::{PartContent, ReceiveReport};
use crate::proto::zeros::ZeroChunks;
use crate::proto::{DiskDone, DiskError, DiskOp};

/// Runs at the front of the queue whose places are being cleared, or are hashed. A file of 65,536
/// chunks may be as many runs, and each that is cleared is an operation.
const CLEARS_MAX: usize = 8;

/// Chunks in a row that are all hole.
#[derive(Debug)]
pub(super) struct HoleRun {
    pub(super) entry: EntryId,
    chunks: ZeroChunks,
    /// Offset and length in the file.
    range: (u64, u64),
    state: HoleState,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HoleState {
    /// Next: Clearing, gone.
    Queued,
    /// What may be in its place is being removed. Next: Clear, gone.
    Clearing,
    /// It is hashed now. Next: gone.
    Clear,
}

/// A hole within a chunk, behind which nothing is taken before its zeros are hashed.
#[derive(Debug)]
pub(super) struct HoleInChunk {
    pub(super) stream: StreamKey,
    left_bytes: u64,
}

impl ReceiveMover {
    /// The sender says that so many chunks of a file are hole.
    ///
    /// # Errors
    /// When they were not ordered, came before, or the file was announced without holes.
    pub fn on_holes(
        &mut self,
        ports: &mut Ports,
        entry: EntryId,
        (first, count): (u32, u32),
    ) -> Result<(), Violation> {
        if self.is_stopped {
            return Ok(());
        }
        let (taking, size_bytes) = match self.taking.get_mut(&entry) {
            None => {
                self.unasked.push(entry);
                return Ok(());
            }
            Some(Taking::Part(TakingPart { is_left: true, .. })) => return Ok(()),
            Some(Taking::Part(taking)) => match taking.order.content {
                PartContent::Chunks {
                    size_bytes,
                    is_sparse: true,
                    ..
                } => (taking, size_bytes),
                PartContent::Chunks { .. } | PartContent::Stretches(_) => return no_holes(entry),
            },
            Some(Taking::Whole(..)) => return no_holes(entry),
        };
        let end = first.saturating_add(count);
        if count == 0 || end > chunk_count(size_bytes) || chunk_count(size_bytes) == 1 {
            return violation(format!("holes outside of entry {}", entry.0));
        }
        for chunk in (first..end).map(ChunkIndex) {
            taking.claim(chunk, chunk_len_bytes(size_bytes, chunk))?;
        }
        let last = ChunkIndex(end - 1);
        let from = chunk_offset(size_bytes, ChunkIndex(first));
        let to = chunk_offset(size_bytes, last) + chunk_len_bytes(size_bytes, last);
        let chunks = ZeroChunks::new(size_bytes, first, end);
        self.holes.push_back(HoleRun {
            entry,
            chunks,
            range: (from, to - from),
            state: HoleState::Queued,
        });
        self.clear_next(ports);
        Ok(())
    }

    /// Has what may be in the place of the next runs removed.
    fn clear_next(&mut self, ports: &mut Ports) {
        for at in 0..self.holes.len().min(CLEARS_MAX) {
            let run = &mut self.holes[at];
            if run.state == HoleState::Queued {
                run.state = HoleState::Clearing;
                let (entry, range, first) = (run.entry, run.range, run.chunks.next_chunk());
                let op = ReceiveMoverOp::Clear { entry, first };
                self.clear(ports, entry, op, range);
            }
        }
    }

    /// Has a range of a partial file read as zeros.
    fn clear(
        &mut self,
        ports: &mut Ports,
        entry: EntryId,
        op: ReceiveMoverOp,
        (offset, len_bytes): (u64, u64),
    ) {
        if let Some(taking) = self.open_part(entry) {
            taking.writes += 1;
            let cmd = DiskOp::MakeHole {
                file: taking.order.file,
                offset,
                len_bytes,
            };
            self.ops.start(ports, op, cmd);
        }
    }

    /// What was in the place of a run of holes is gone.
    pub(super) fn cleared(
        &mut self,
        entry: EntryId,
        first: u32,
        result: Result<DiskDone, DiskError>,
    ) {
        let Some(Taking::Part(taking)) = self.taking.get_mut(&entry) else {
            return;
        };
        taking.writes -= 1;
        let part = taking.order.part;
        let is_run = |run: &&mut HoleRun| run.entry == entry && run.chunks.next_chunk() == first;
        match result {
            Ok(_) => {
                if let Some(run) = self.holes.iter_mut().take(CLEARS_MAX).find(is_run) {
                    run.state = HoleState::Clear;
                }
            }
            Err(error) => {
                self.holes.retain(|run| run.entry != entry);
                self.reports
                    .push_back(ReceiveReport::WriteFailed { part, error });
            }
        }
        self.settle_part(entry);
    }

    /// Hashes what may be hashed before the next turn: first what streams wait for.
    ///
    /// # Errors
    /// When what came behind a hole is not what was ordered.
    pub fn hash_holes(&mut self, ports: &mut Ports) -> Result<(), Violation> {
        self.hash_hole_in_chunk(ports)?;
        let is_clear = |run: &HoleRun| run.state == HoleState::Clear;
        while let Some(at) = self.holes.iter().take(CLEARS_MAX).position(is_clear) {
            let run = &mut self.holes[at];
            let entry = run.entry;
            match run.chunks.hash(&mut self.pace) {
                Some((chunk, value, len_bytes)) => {
                    self.flow.hole_bytes += len_bytes;
                    if let Some(taking) = self.open_part(entry) {
                        let part = taking.order.part;
                        // Whether the file grew is said with its root.
                        self.reports.push_back(ReceiveReport::Chunk {
                            part,
                            chunk,
                            value,
                            has_grown: false,
                            is_kept: false,
                        });
                    }
                }
                None if run.chunks.is_over() => drop(self.holes.remove(at)),
                None => {
                    self.yield_turn(ports);
                    break;
                }
            }
        }
        self.clear_next(ports);
        Ok(())
    }

    fn yield_turn(&mut self, ports: &mut Ports) {
        if self.pace.asks() {
            self.ops.start(ports, ReceiveMoverOp::Yield, DiskOp::Yield);
        }
    }

    /// A hole within the chunk that a stream is in. Nothing more is taken of any stream until it is
    /// hashed.
    pub(super) fn begin_hole(&mut self, ports: &mut Ports, stream: StreamKey, len_bytes: u64) {
        if let Some((chunk, offset)) = self.chunk_of(stream) {
            let entry = self.chunks[chunk].entry;
            if self.open_part(entry).is_some() {
                self.chunks[chunk].writes += 1;
                self.flow.begin_write(0);
                let bytes = 0;
                let op = ReceiveMoverOp::Write {
                    entry,
                    chunk,
                    bytes,
                };
                self.clear(ports, entry, op, (offset, len_bytes));
            }
        }
        let left_bytes = len_bytes;
        self.hole = Some(HoleInChunk { stream, left_bytes });
    }

    /// Goes on with the hole that the streams wait for, and behind it with what they brought.
    pub(super) fn hash_hole_in_chunk(&mut self, ports: &mut Ports) -> Result<(), Violation> {
        while let Some(HoleInChunk { stream, left_bytes }) = self.hole.take() {
            // Of a part that takes nothing any more nobody asks what it would be.
            let wanted = self.chunk_of(stream).map(|(chunk, _)| chunk);
            let entry = wanted.map(|chunk| self.chunks[chunk].entry);
            let is_open = entry.is_some_and(|entry| self.open_part(entry).is_some());
            if is_open {
                let taken_bytes = self.pace.take(left_bytes);
                self.flow.hole_bytes += taken_bytes;
                self.pass_zeros(stream, taken_bytes);
                if taken_bytes < left_bytes {
                    let left_bytes = left_bytes - taken_bytes;
                    self.hole = Some(HoleInChunk { stream, left_bytes });
                    self.yield_turn(ports);
                    return Ok(());
                }
            }
            self.take_arrived(ports)?;
        }
        Ok(())
    }
}

fn no_holes(entry: EntryId) -> Result<(), Violation> {
    violation(format!("holes in entry {}, which has none", entry.0))
}
