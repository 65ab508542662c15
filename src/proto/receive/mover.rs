//! A mover of a receiver: takes records apart, hashes data on the way, writes it where the plan
//! ordered it to go.

mod accounts;
mod away;
mod holes;
mod streams;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use slab::Slab;

use super::orders::{PartContent, ReceiveOrder, ReceiveReport, TakePart, TakeWhole};
use crate::ids::{ChunkIndex, EntryId, MoverId, OpId, StreamKey, WorkerId};
use crate::proto::chunk::{chunk_count, chunk_len_bytes};
use crate::proto::entries::EntryMap;
use crate::proto::errors::{Violation, violation};
use crate::proto::integrity::Digest;
use crate::proto::ports::{OpOwner, Ops, Ports};
use crate::proto::zeros::ZeroPace;
use crate::proto::{DiskDone, DiskError, DiskOp};
use accounts::Accounts;
use away::{Away, FromAway};
use holes::{HoleInChunk, HoleRun};
use streams::{Arrived, DataStream, bytes_of};

/// An order in its table, which has room for more.
const ORDER_BYTES: u64 = 200;

/// A data stream that is in the middle of a record, with the state of BLAKE3.
const STREAM_BYTES: u64 = 2200;

/// What the disk layer keeps of a write under way beside its data, about. Stretches may be a byte
/// each, and a buffer full of them is more than a thousand writes.
const WRITE_BYTES: u64 = 4 << 10;

/// Chunks in a row that are hole, in their queue, which has room for more.
const HOLE_BYTES: u64 = 150;

pub struct ReceiveMover {
    ops: Ops<ReceiveMoverOp>,
    taking: EntryMap<Taking>,
    streams: HashMap<StreamKey, DataStream>,
    chunks: Slab<ArrivingChunk>,
    /// Small files whose record has begun and not ended.
    wholes: usize,
    /// Chunks that are hole and not hashed yet.
    holes: VecDeque<HoleRun>,
    /// What the streams wait for.
    hole: Option<HoleInChunk>,
    /// What came meanwhile.
    backlog: VecDeque<Arrived>,
    pace: ZeroPace,
    flow: Flow,
    /// Entries that data came for without an order.
    unasked: Vec<EntryId>,
    reports: VecDeque<ReceiveReport>,
    accounts: Accounts,
    /// Chunks that half arrived on a lane that is no more, and are still being written.
    dropped: usize,
    /// Its plan is on another worker.
    away: Option<Away>,
    /// What other movers handed over.
    from_away: FromAway,
    is_stopped: bool,
    /// So many chunks in the clear were asked for again.
    doubted: u32,
}

/// What is here of what came.
#[derive(Debug)]
struct Flow {
    write_behind_max: u64,
    /// Bytes given to the disk and not written yet, with [`WRITE_BYTES`] for each write.
    write_behind_bytes: u64,
    /// Writes under way.
    writes: u64,
    /// Of small files that are not whole.
    arriving_bytes: u64,
    /// All file data so far.
    received_bytes: u64,
    /// Of holes.
    hole_bytes: u64,
    /// Of streams that wait for a hole to be hashed.
    backlog_bytes: u64,
}

impl Flow {
    fn begin_write(&mut self, bytes: u64) {
        self.write_behind_bytes += bytes + WRITE_BYTES;
        self.writes += 1;
    }

    fn end_write(&mut self, bytes: u64) {
        self.write_behind_bytes -= bytes + WRITE_BYTES;
        self.writes -= 1;
    }
}

/// What an operation was for.
#[derive(Debug)]
pub enum ReceiveMoverOp {
    Put {
        entry: EntryId,
        bytes: u64,
        /// Where it arrived, if that was another worker, and what it counts for there.
        from: Option<(WorkerId, u64)>,
    },
    Write {
        entry: EntryId,
        chunk: usize,
        bytes: u64,
    },
    /// Where chunks from this one on are hole, what was there goes.
    Clear {
        entry: EntryId,
        first: u32,
    },
    Yield,
}

/// An order.
#[derive(Debug)]
enum Taking {
    Whole(TakeWhole, WholeState),
    Part(TakingPart),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WholeState {
    /// Next: Arriving.
    Asked,
    /// Its record has begun. Next: Putting, Asked (the source failed), gone.
    Arriving,
    /// It is being put in place. Next: gone.
    Putting,
}

#[derive(Debug)]
struct TakingPart {
    order: TakePart,
    /// Writes in flight.
    writes: usize,
    /// The plan wants no more: gone when nothing is being written.
    is_left: bool,
}

/// A chunk that is arriving or being written.
#[derive(Debug)]
struct ArrivingChunk {
    entry: EntryId,
    part: usize,
    place: RecordPlace,
    writes: u32,
    end: ChunkEnd,
}

/// What of a file it is.
#[derive(Clone, Copy, Debug)]
enum RecordPlace {
    Chunk(ChunkIndex),
    Stretch { offset: u64, len_bytes: u64 },
}

/// How the record of a chunk ended.
#[derive(Debug)]
enum ChunkEnd {
    NotYet,
    /// Its digest is right: once all writes are done the chunk is there.
    Valid {
        value: Digest,
        has_grown: bool,
        is_kept: bool,
    },
    /// It is not what the sender remembers, and may come again once nothing of it is being written.
    Mistaken,
    /// The source failed, or this side did: never counts.
    Worthless,
    /// It does not come to an end, and may come again once nothing of it is being written.
    Dropped,
}

impl TakingPart {
    /// Marks a chunk whose record begins.
    ///
    /// # Errors
    /// When it was not asked for, came before, or has not its true length.
    fn claim(&self, chunk: ChunkIndex, len_bytes: u64) -> Result<u64, Violation> {
        if let PartContent::Chunks {
            size_bytes, claims, ..
        } = &self.order.content
        {
            let size_bytes = *size_bytes;
            let fits = chunk.0 < chunk_count(size_bytes)
                && len_bytes == chunk_len_bytes(size_bytes, chunk);
            if fits && claims.claim(chunk) {
                return Ok(size_bytes);
            }
        }
        let entry = self.order.entry.0;
        violation(format!(
            "chunk {} of entry {entry}: twice, outside, or of another length",
            chunk.0
        ))
    }

    /// A chunk did not come to its end, or is not what it should be, and may come again.
    fn give_back(&self, chunk: ChunkIndex) {
        if let PartContent::Chunks { claims, .. } = &self.order.content {
            claims.give_back(chunk);
        }
    }

    /// Marks a stretch whose record begins.
    ///
    /// # Errors
    /// When it was not asked for, or some of it came before.
    fn claim_stretch(&mut self, offset: u64, len_bytes: u64) -> Result<(), Violation> {
        if let PartContent::Stretches(order) = &mut self.order.content
            && order.insert(offset, len_bytes, ())
        {
            while order.pop().is_some() {}
            return Ok(());
        }
        let entry = self.order.entry.0;
        violation(format!(
            "bytes from {offset} on of entry {entry}: twice, of a file that is no stream, or too early"
        ))
    }
}

impl ReceiveMover {
    /// The entry of the write that is under way longest.
    pub fn awaited(&self) -> Option<EntryId> {
        match *self.ops.oldest()? {
            ReceiveMoverOp::Put { entry, .. }
            | ReceiveMoverOp::Write { entry, .. }
            | ReceiveMoverOp::Clear { entry, .. } => Some(entry),
            ReceiveMoverOp::Yield => None,
        }
    }

    pub fn new(write_behind_max: u64) -> ReceiveMover {
        ReceiveMover::of(MoverId::CONTROL, write_behind_max)
    }

    fn of(id: MoverId, write_behind_max: u64) -> ReceiveMover {
        ReceiveMover {
            ops: Ops::of(OpOwner::Mover(id)),
            taking: EntryMap::default(),
            streams: HashMap::new(),
            chunks: Slab::new(),
            wholes: 0,
            holes: VecDeque::new(),
            hole: None,
            backlog: VecDeque::new(),
            pace: ZeroPace::default(),
            flow: Flow {
                write_behind_max: write_behind_max.max(1),
                write_behind_bytes: 0,
                writes: 0,
                arriving_bytes: 0,
                received_bytes: 0,
                hole_bytes: 0,
                backlog_bytes: 0,
            },
            unasked: Vec::new(),
            reports: VecDeque::new(),
            accounts: Accounts::default(),
            dropped: 0,
            away: None,
            from_away: FromAway::default(),
            doubted: 0,
            is_stopped: false,
        }
    }

    pub fn takes_data(&self) -> bool {
        let has_room = self.flow.write_behind_bytes < self.flow.write_behind_max;
        has_room && !self.is_held_up() || self.is_stopped
    }

    /// What came last waits: for a hole before it to be hashed, or for an answer.
    fn is_held_up(&self) -> bool {
        self.hole.is_some() || self.away.as_ref().is_some_and(Away::waits)
    }

    pub fn held_bytes(&self) -> u64 {
        let orders = self.taking.len() as u64 * ORDER_BYTES;
        let streams = self.streams.len() as u64 * STREAM_BYTES;
        let holes = self.holes.len() as u64 * HOLE_BYTES;
        let writes = self.flow.writes * WRITE_BYTES;
        let here = self.flow.arriving_bytes + self.flow.backlog_bytes;
        let accounts = self.accounts.held_bytes();
        orders + streams + holes + writes + here + accounts
    }

    pub fn received_bytes(&self) -> u64 {
        self.flow.received_bytes
    }

    /// Bytes of holes that were passed.
    pub fn hole_bytes(&self) -> u64 {
        self.flow.hole_bytes
    }

    pub fn in_flight(&self) -> usize {
        self.ops.in_flight()
    }

    pub fn next_report(&mut self) -> Option<ReceiveReport> {
        self.reports.pop_front()
    }

    /// Entries that data came for since the last call although there is no order: late data of one
    /// that is resolved, or a breach.
    pub fn take_unasked(&mut self) -> Vec<EntryId> {
        std::mem::take(&mut self.unasked)
    }

    #[cfg(test)]
    pub fn has_unasked(&self) -> bool {
        !self.unasked.is_empty()
    }

    pub fn finish(&mut self, op: OpId) -> Option<ReceiveMoverOp> {
        self.ops.finish(op)
    }

    pub fn obey(&mut self, order: ReceiveOrder) {
        match order {
            ReceiveOrder::Whole(order) => {
                let entry = order.entry;
                let taking = Taking::Whole(order, WholeState::Asked);
                self.taking.insert(entry, taking);
            }
            ReceiveOrder::Part(order) => {
                let entry = order.entry;
                let taking = TakingPart {
                    order,
                    writes: 0,
                    is_left: false,
                };
                self.taking.insert(entry, Taking::Part(taking));
            }
            ReceiveOrder::Forget { entry } => drop(self.taking.remove(&entry)),
            ReceiveOrder::Leave { entry } => {
                if let Some(Taking::Part(taking)) = self.taking.get_mut(&entry) {
                    taking.is_left = true;
                    self.holes.retain(|run| run.entry != entry);
                    self.settle_part(entry);
                }
            }
        }
    }

    pub fn on_disk(&mut self, op: ReceiveMoverOp, result: Result<DiskDone, DiskError>) {
        match op {
            ReceiveMoverOp::Put { entry, bytes, from } => {
                self.flow.write_behind_bytes -= bytes;
                from.into_iter()
                    .for_each(|(worker, bytes)| self.from_away.put(worker, bytes));
                self.taking.remove(&entry);
                self.reports
                    .push_back(ReceiveReport::Published { entry, result });
            }
            ReceiveMoverOp::Write {
                entry,
                chunk,
                bytes,
            } => {
                self.flow.end_write(bytes);
                self.chunk_written(entry, chunk, result);
            }
            ReceiveMoverOp::Clear { entry, first } => self.cleared(entry, first, result),
            ReceiveMoverOp::Yield => self.pace.renew(),
        }
    }

    /// Starts to put a whole small file in place.
    fn put(
        &mut self,
        ports: &mut Ports,
        entry: EntryId,
        (data, has_grown): (Vec<Bytes>, bool),
        from: Option<(WorkerId, u64)>,
    ) {
        let Some(Taking::Whole(order, state)) = self.taking.get_mut(&entry) else {
            return;
        };
        *state = WholeState::Putting;
        let bytes = bytes_of(&data);
        self.flow.write_behind_bytes += bytes;
        let cmd = DiskOp::PutSmall {
            dir: order.dir,
            name: order.name.clone(),
            data,
            attributes: order.attributes,
            replaces: order.replaces,
        };
        let op = ReceiveMoverOp::Put { entry, bytes, from };
        self.ops.start(ports, op, cmd);
        self.reports.push_back(ReceiveReport::Publishing {
            entry,
            bytes,
            has_grown,
        });
    }

    fn chunk_written(&mut self, entry: EntryId, at: usize, result: Result<DiskDone, DiskError>) {
        let chunk = &mut self.chunks[at];
        chunk.writes -= 1;
        if let Some(Taking::Part(taking)) = self.taking.get_mut(&entry) {
            taking.writes -= 1;
        }
        if let Err(error) = result {
            if let ChunkEnd::Valid { .. } = chunk.end {
                chunk.end = ChunkEnd::Worthless;
            }
            let part = chunk.part;
            self.reports
                .push_back(ReceiveReport::WriteFailed { part, error });
        }
        self.settle_chunk(at);
        self.settle_part(entry);
    }

    /// Reports a chunk whose record ended well and whose writes are all done.
    fn settle_chunk(&mut self, at: usize) {
        let chunk = &self.chunks[at];
        let is_coming = matches!(chunk.end, ChunkEnd::NotYet) && !self.is_stopped;
        if chunk.writes > 0 || is_coming {
            return;
        }
        let ArrivingChunk {
            entry,
            part,
            place,
            end,
            ..
        } = self.chunks.remove(at);
        if let ChunkEnd::Dropped = end {
            self.dropped -= 1;
            if let (RecordPlace::Chunk(chunk), Some(Taking::Part(taking))) =
                (place, self.taking.get(&entry))
            {
                taking.give_back(chunk);
            }
        }
        if let ChunkEnd::Mistaken = end
            && let (RecordPlace::Chunk(chunk), Some(Taking::Part(taking))) =
                (place, self.taking.get(&entry))
        {
            taking.give_back(chunk);
            self.reports
                .push_back(ReceiveReport::ChunkMistaken { part, chunk });
        }
        if let ChunkEnd::Valid {
            value,
            has_grown,
            is_kept,
        } = end
            && self.taking.contains_key(&entry)
        {
            self.reports.push_back(match place {
                RecordPlace::Chunk(chunk) => ReceiveReport::Chunk {
                    part,
                    chunk,
                    value,
                    has_grown,
                    is_kept,
                },
                RecordPlace::Stretch { offset, len_bytes } => ReceiveReport::Stretch {
                    part,
                    offset,
                    len_bytes,
                    digest: value,
                },
            });
        }
    }

    /// A part that the plan left is over once nothing of it is being written.
    fn settle_part(&mut self, entry: EntryId) {
        if let Some(Taking::Part(taking)) = self.taking.get(&entry)
            && taking.is_left
            && taking.writes == 0
        {
            let (part, file) = (taking.order.part, taking.order.file);
            self.taking.remove(&entry);
            self.reports
                .push_back(ReceiveReport::Quiet { entry, part, file });
        }
    }

    /// Nothing more is taken; what is being written ends.
    pub fn stop(&mut self, ports: &mut Ports) {
        self.is_stopped = true;
        self.flow.arriving_bytes = 0;
        self.flow.backlog_bytes = 0;
        self.holes.clear();
        self.hole = None;
        self.backlog.clear();
        if let Some(away) = &mut self.away {
            away.stop();
        }
        self.drop_streams(ports);
    }

    /// Holds the counters against the tables.
    #[cfg(test)]
    pub fn check(&self) {
        assert!(self.reports.is_empty(), "{:?}", self.reports);
        let bytes = |op: &ReceiveMoverOp| match op {
            ReceiveMoverOp::Put { bytes, .. } => *bytes,
            ReceiveMoverOp::Write { bytes, .. } => bytes + WRITE_BYTES,
            ReceiveMoverOp::Clear { .. } | ReceiveMoverOp::Yield => 0,
        };
        let behind: u64 = self.ops.iter().map(bytes).sum();
        let behind = behind + self.away.as_ref().map_or(0, Away::handed_bytes);
        assert_eq!(self.flow.write_behind_bytes, behind, "bytes being written");
        let is_write = |op: &&ReceiveMoverOp| matches!(op, ReceiveMoverOp::Write { .. });
        let under_way = self.ops.iter().filter(is_write).count();
        assert_eq!(self.flow.writes, under_way as u64, "writes under way");
        let arriving: Vec<u64> = self
            .streams
            .values()
            .filter_map(DataStream::arriving)
            .collect();
        assert_eq!(self.wholes, arriving.len(), "small files arriving");
        let arriving: u64 = arriving.iter().sum();
        assert_eq!(self.flow.arriving_bytes, arriving, "bytes arriving");
        let backlog: usize = self.backlog.iter().map(|it| it.bytes.len()).sum();
        assert_eq!(self.flow.backlog_bytes, backlog as u64, "bytes that wait");
        assert!(self.backlog.is_empty() || self.is_held_up());
        let is_dropped = |chunk: &&ArrivingChunk| matches!(chunk.end, ChunkEnd::Dropped);
        let dropped = self.chunks.iter().map(|(_, chunk)| chunk);
        assert_eq!(self.dropped, dropped.filter(is_dropped).count());
        let writes = |of: &dyn Fn(EntryId, usize) -> bool| {
            let is_of = |op: &&ReceiveMoverOp| match op {
                ReceiveMoverOp::Write { entry, chunk, .. } => of(*entry, *chunk),
                ReceiveMoverOp::Clear { entry, .. } => of(*entry, usize::MAX),
                ReceiveMoverOp::Put { .. } | ReceiveMoverOp::Yield => false,
            };
            self.ops.iter().filter(is_of).count()
        };
        for (at, chunk) in &self.chunks {
            let of_chunk = writes(&|_, chunk| chunk == at);
            assert_eq!(chunk.writes as usize, of_chunk, "{chunk:?}");
        }
        for (entry, taking) in &self.taking {
            if let Taking::Part(taking) = taking {
                let of_part = writes(&|of, _| of == *entry);
                assert_eq!(taking.writes, of_part, "writes of {entry:?}");
            }
        }
    }
}
