//! A mover of a sender: reads what the plan orders a little ahead of its lane, hashes it while hot,
//! and emits it as records.
//!
//! Each lane that carries data has a mover, which pulls orders as its lane takes what it emits. The
//! mover of an added lane ends in one of two ways: it is retired, and ends its streams behind what
//! it has begun; or its lane is lost, and it waits for reads in flight only. That of the lanes that
//! carry control outlives each of them, and loses the streams that were there.

mod chunks;
mod holes;
mod pack;
mod runs;
mod unsized_files;
mod values;

use std::collections::VecDeque;
use std::time::Instant;

use super::orders::{HolesOrder, SendCommand, SendReport, WholeOrder};
use super::tail::{LaneLoad, LaneRate};
use crate::ids::{EntryId, MoverId, OpId, StreamKey};
#[cfg(test)]
use crate::proto::PIECE_BYTES;
use crate::proto::parallel::{ParallelTransferConfig, Parallelism, StreamSlots};
use crate::proto::ports::{OpOwner, Ops, Ports};
use crate::proto::zeros::ZeroPace;
use crate::proto::{DiskDone, DiskError};
use chunks::Jobs;
use pack::Pack;
use unsized_files::UnsizedJobs;

/// After this many bytes of one class (packed small files, chunks) the other has its turn: neither
/// starves.
const TURN_BYTES: u64 = 256 * 1024;

/// What all movers of a sender are made with.
#[derive(Clone, Debug)]
pub struct MoverConfig {
    pub read_ahead_bytes: u64,
    pub read_ahead_in_place_bytes: u64,
    pub parallel: ParallelTransferConfig,
}

pub struct SendMover {
    pub id: MoverId,
    ops: Ops<SendMoverOp>,
    course: MoverCourse,
    /// Its lane carries what stays in the kernel.
    takes_pipes: bool,
    #[cfg(test)]
    has_piped: bool,
    ahead: ReadAhead,
    rate: LaneRate,
    turn: Turn,
    streams: StreamSlots,
    /// So many movers have the streams together that one would have alone: what half arrived when a
    /// session is cut short is a chunk a stream.
    stream_sharers: usize,
    parallelism: Parallelism,
    pack: Pack,
    jobs: Jobs,
    holes: VecDeque<HolesOrder>,
    pace: ZeroPace,
    unsized_files: UnsizedJobs,
    reports: VecDeque<SendReport>,
}

/// Whether a mover takes orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MoverCourse {
    /// Next: itself, Retiring, Lost.
    Pulls(bool),
    /// What it has begun goes out, and it takes no order. Next: Retired, Lost.
    Retiring,
    /// Its streams are ended.
    Retired,
    /// Its lane is no more: nothing is emitted.
    Lost,
}

/// What an operation was for.
#[derive(Debug)]
pub enum SendMoverOp {
    Whole(WholeOrder),
    Piece {
        job: usize,
        piece: u32,
        len: u32,
    },
    /// Of a piece that is to stay in the kernel, with where it is in its file.
    Pipe {
        job: usize,
        piece: u32,
        range: (u64, u32),
    },
    /// Where its file has data.
    Look {
        job: usize,
    },
    Yield,
    Input {
        job: usize,
    },
    Stretch {
        job: usize,
    },
}

/// How far reading is ahead of the transport, and may be.
#[derive(Debug)]
struct ReadAhead {
    /// Where reads take their time, and where they are made in place.
    awaited_bytes: u64,
    in_place_bytes: u64,
    is_in_place: bool,
    /// Bytes asked from the disk or read, not emitted yet.
    reading_bytes: u64,
    /// Stream bytes emitted (or in the pack), not taken by the transport yet.
    untaken_bytes: u64,
    /// File bytes emitted, all in all.
    emitted_bytes: u64,
    /// Of holes, which are not emitted.
    hole_bytes: u64,
}

impl ReadAhead {
    /// By itself.
    fn most_bytes(&self) -> u64 {
        match self.is_in_place {
            true => self.in_place_bytes,
            false => self.awaited_bytes,
        }
    }

    fn ahead_bytes(&self) -> u64 {
        self.reading_bytes + self.untaken_bytes
    }
}

/// Which class of reads goes on.
#[derive(Debug)]
struct Turn {
    wholes: bool,
    left_bytes: u64,
}

/// What one try to start a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issued {
    Bytes(u64),
    Nothing,
}

impl SendMover {
    pub fn new(now: Instant, id: MoverId, config: &MoverConfig) -> SendMover {
        let ceiling = config.parallel.max_buffer_size as u64;
        let awaited_bytes = config.read_ahead_bytes.min(ceiling).max(1);
        SendMover {
            id,
            ops: Ops::of(OpOwner::Mover(id)),
            course: MoverCourse::Pulls(true),
            takes_pipes: false,
            #[cfg(test)]
            has_piped: false,
            ahead: ReadAhead {
                awaited_bytes,
                in_place_bytes: awaited_bytes.min(config.read_ahead_in_place_bytes).max(1),
                is_in_place: false,
                reading_bytes: 0,
                untaken_bytes: 0,
                emitted_bytes: 0,
                hole_bytes: 0,
            },
            rate: LaneRate::default(),
            turn: Turn {
                wholes: true,
                left_bytes: TURN_BYTES,
            },
            streams: StreamSlots::new(id, &config.parallel),
            stream_sharers: 1,
            parallelism: Parallelism::new(now, &config.parallel),
            pack: Pack::default(),
            jobs: Jobs::default(),
            holes: VecDeque::new(),
            pace: ZeroPace::default(),
            unsized_files: UnsizedJobs::default(),
            reports: VecDeque::new(),
        }
    }

    pub fn next_report(&mut self) -> Option<SendReport> {
        self.reports.pop_front()
    }

    pub fn finish(&mut self, op: OpId) -> Option<SendMoverOp> {
        self.ops.finish(op)
    }

    pub fn in_flight(&self) -> usize {
        self.ops.in_flight()
    }

    pub fn on_disk(
        &mut self,
        ports: &mut Ports,
        op: SendMoverOp,
        result: Result<DiskDone, DiskError>,
    ) {
        match op {
            SendMoverOp::Whole(order) => self.whole_read(ports, order, result),
            SendMoverOp::Piece { job, piece, len } => {
                self.piece_read(ports, job, piece, len, result);
            }
            SendMoverOp::Pipe { job, piece, range } => {
                self.piece_piped(ports, (job, piece), range, result);
            }
            SendMoverOp::Look { job } => self.looked(ports, job, result),
            SendMoverOp::Yield => self.pace.renew(),
            SendMoverOp::Input { job } => self.input_looked_for(job, result),
            SendMoverOp::Stretch { job } => self.stretch_read(ports, job, result),
        }
    }

    pub fn obey(&mut self, ports: &mut Ports, command: SendCommand) {
        match command {
            SendCommand::Vouch { file, has_grown } => self.vouch(ports, file, has_grown),
            SendCommand::Cancel { file } => {
                self.cancel(ports, file);
                self.cancel_unsized(file);
            }
            SendCommand::Forget { entry } => self.forget_whole(entry),
            SendCommand::ReadInPlace(is_in_place) => self.set_in_place(is_in_place),
        }
    }

    pub fn set_in_place(&mut self, is_in_place: bool) {
        self.ahead.is_in_place = is_in_place;
    }

    pub fn on_sent(&mut self, now: Instant, bytes: u64) {
        self.ahead.untaken_bytes = self.ahead.untaken_bytes.saturating_sub(bytes);
        self.rate.took(now, bytes, self.is_empty_handed());
        self.parallelism.on_sent(now, bytes);
    }

    /// Streams that are no more, with so much of them that was not taken. What waited behind them
    /// takes others.
    pub fn lose_streams(&mut self, ports: &mut Ports, keys: &[StreamKey], untaken_bytes: u64) {
        self.ahead.untaken_bytes = self.ahead.untaken_bytes.saturating_sub(untaken_bytes);
        self.lose_pack(|key| keys.contains(&key));
        self.lose_streams_of_chunks(ports, keys);
    }

    /// Its lane carries what stays in the kernel.
    pub fn take_pipes(&mut self) {
        self.takes_pipes = true;
        #[cfg(test)]
        {
            self.has_piped = true;
        }
    }

    /// Whether it takes new orders now.
    pub fn set_pulls(&mut self, pulls: bool) {
        if let MoverCourse::Pulls(_) = self.course {
            self.course = MoverCourse::Pulls(pulls);
        }
    }

    pub fn pulls(&self) -> bool {
        self.course == MoverCourse::Pulls(true)
    }

    /// Its lane is to end: what has not begun goes back to the plan.
    pub fn retire(&mut self) {
        if let MoverCourse::Pulls(_) = self.course {
            self.course = MoverCourse::Retiring;
            self.give_back_chunks();
            self.give_back_wholes();
        }
    }

    /// Its lane is no more: what was begun there may have to move again.
    pub fn lose(&mut self) {
        self.course = MoverCourse::Lost;
        self.lose_pack(|_| true);
        self.lose_chunks();
        self.give_back_wholes();
    }

    fn is_lost(&self) -> bool {
        self.course == MoverCourse::Lost
    }

    /// Ends the streams of one that retires, once nothing of it is under way.
    pub fn end_if_retired(&mut self, ports: &mut Ports) {
        let is_quiet = self.jobs.is_empty() && self.ops.in_flight() == 0;
        if self.course == MoverCourse::Retiring && is_quiet {
            self.course = MoverCourse::Retired;
            self.end_streams(ports);
            ports.retired(self.id);
        }
    }

    /// Nothing of it is left.
    pub fn is_over(&self) -> bool {
        let has_ended = match self.course {
            MoverCourse::Lost => true,
            // What its lane has not taken is read ahead, as anybody's.
            MoverCourse::Retired => self.ahead.untaken_bytes == 0,
            MoverCourse::Pulls(_) | MoverCourse::Retiring => false,
        };
        has_ended && self.ops.in_flight() == 0 && self.reports.is_empty()
    }

    /// File bytes that were emitted, all in all.
    pub fn emitted_bytes(&self) -> u64 {
        self.ahead.emitted_bytes
    }

    /// Stream bytes that were emitted and not taken by the transport.
    pub fn untaken_bytes(&self) -> u64 {
        match self.is_lost() {
            true => 0,
            false => self.ahead.untaken_bytes,
        }
    }

    /// Its lane was offered more than it took, at its last chance.
    pub fn waits(&self) -> bool {
        self.untaken_bytes() > self.pack.held_bytes()
    }

    /// Bytes of holes that were passed.
    pub fn hole_bytes(&self) -> u64 {
        self.ahead.hole_bytes
    }

    /// Whether another read may start, as far as its lane is concerned. `most_bytes`: so much may
    /// be read ahead, beside what it may by itself.
    pub fn has_room(&self, most_bytes: u64) -> bool {
        let most_bytes = self.ahead.most_bytes().min(most_bytes);
        !self.is_lost() && self.ahead.ahead_bytes() < most_bytes
    }

    /// What it may read ahead by itself.
    pub fn most_ahead_bytes(&self) -> u64 {
        self.ahead.most_bytes()
    }

    /// It takes orders, or has something of those it took.
    pub fn is_active(&self) -> bool {
        self.pulls() || self.ahead_bytes() > 0
    }

    /// So many movers share the streams of a session.
    pub fn share_streams(&mut self, movers: usize) {
        self.stream_sharers = movers.max(1);
    }

    /// Has the rate of its lane be counted while there is something for it. What was being read may
    /// have come to nothing: its source failed, or nobody wants it any more.
    pub fn keep_rate(&mut self, now: Instant) {
        match self.is_empty_handed() {
            true => self.rate.rest(),
            false => self.rate.begin(now),
        }
    }

    /// It has nothing read, nor is anything being read.
    pub fn is_empty_handed(&self) -> bool {
        self.ahead.ahead_bytes() == 0
    }

    /// What of its own counts as read ahead: once its lane is lost, what is being read.
    pub fn ahead_bytes(&self) -> u64 {
        self.ahead.reading_bytes + self.untaken_bytes()
    }

    /// What it has to move yet, read or not.
    pub fn held_bytes(&self) -> u64 {
        self.ahead.ahead_bytes() + self.jobs.to_read() + self.pack.to_read()
    }

    /// What it has to do yet, and how fast its lane is.
    pub fn load(&self, now: Instant) -> LaneLoad {
        LaneLoad {
            held_bytes: self.held_bytes(),
            bytes_per_second: self.rate.bytes_per_second(now),
        }
    }

    /// Whether small files have their turn.
    pub fn is_wholes_turn(&self) -> bool {
        self.turn.wholes
    }

    /// The class whose turn it was has nothing.
    pub fn pass_turn(&mut self) {
        self.turn = Turn {
            wholes: !self.turn.wholes,
            left_bytes: TURN_BYTES,
        };
    }

    /// A read of so many bytes was started.
    pub fn count(&mut self, bytes: u64) {
        match self.turn.left_bytes.checked_sub(bytes) {
            Some(left_bytes) if left_bytes > 0 => self.turn.left_bytes = left_bytes,
            _ => self.pass_turn(),
        }
    }

    /// The entry of the read that is under way longest.
    pub fn awaited(&self) -> Option<EntryId> {
        match self.ops.oldest()? {
            SendMoverOp::Whole(order) => Some(order.entry),
            SendMoverOp::Piece { job, .. }
            | SendMoverOp::Pipe { job, .. }
            | SendMoverOp::Look { job } => self.jobs.entry_of(*job),
            SendMoverOp::Yield => None,
            SendMoverOp::Input { job } | SendMoverOp::Stretch { job } => {
                self.unsized_files.entry_of(*job)
            }
        }
    }

    /// When a pipe is looked at again.
    pub fn deadline(&self) -> Option<Instant> {
        self.unsized_files.look_at()
    }

    /// Streams for chunks: the stream of small files, when there is one, counts towards the
    /// maximum.
    pub fn stream_target(&self) -> usize {
        let most = self.streams.most() / self.stream_sharers;
        let target = self.parallelism.target().min(most);
        target.saturating_sub(self.pack.streams()).max(1)
    }

    /// Ends streams that nothing comes for. Of a mover that takes no orders those are all that are
    /// idle, or a lane that was replaced would not run empty.
    /// `takes_chunks`: if it takes any orders.
    pub fn retire_idle(&mut self, ports: &mut Ports, takes_chunks: bool) {
        if self.is_lost() {
            return;
        }
        let target = match self.pulls() && takes_chunks {
            true => self.stream_target(),
            false => 0,
        };
        for stream in self.streams.retire_idle(target) {
            ports.end_data(stream);
        }
        if !self.pulls() && self.pack.is_idle() && self.unsized_files.is_empty() {
            self.end_pack_stream(ports);
        }
    }

    /// Nothing will be moved any more.
    pub fn end_streams(&mut self, ports: &mut Ports) {
        if self.is_lost() {
            return;
        }
        self.end_pack_stream(ports);
        for stream in self.streams.retire_idle(0) {
            ports.end_data(stream);
        }
    }

    /// What the plan is to know of: small files under way, and the file of each other order.
    #[cfg(test)]
    pub fn orders(&self) -> Orders {
        let is_whole = |op: &&SendMoverOp| matches!(op, SendMoverOp::Whole(_));
        Orders {
            wholes: self.ops.iter().filter(is_whole).count() + self.pack.ahead(),
            chunks: self
                .jobs
                .files()
                .chain(self.holes.iter().map(|order| order.file))
                .chain(self.unsized_files.files())
                .collect(),
        }
    }

    /// How far it may go beyond a bound of what is read ahead.
    #[cfg(test)]
    pub fn slack_bytes(&self) -> u64 {
        let piped_bytes = match self.has_piped {
            true => crate::proto::PIPED_BYTES,
            false => 0,
        };
        (3 * PIECE_BYTES + piped_bytes) as u64
    }

    /// Holds the counters against the tables.
    #[cfg(test)]
    pub fn check(&self) {
        assert!(self.reports.is_empty(), "{:?}", self.reports);
        let asked: u64 = self
            .ops
            .iter()
            .map(|op| match op {
                SendMoverOp::Whole(order) => order.version.size_bytes,
                SendMoverOp::Piece { len, .. }
                | SendMoverOp::Pipe {
                    range: (_, len), ..
                } => u64::from(*len),
                SendMoverOp::Look { .. } | SendMoverOp::Yield | SendMoverOp::Input { .. } => 0,
                SendMoverOp::Stretch { .. } => PIECE_BYTES as u64,
            })
            .sum();
        let known = asked + self.jobs.read_bytes();
        assert_eq!(self.ahead.reading_bytes, known, "bytes being read");
        self.pack.check(self.orders().wholes - self.pack.ahead());
        let pieces = self.ops.iter().filter_map(|op| match op {
            SendMoverOp::Piece { job, .. }
            | SendMoverOp::Pipe { job, .. }
            | SendMoverOp::Look { job } => Some(*job),
            SendMoverOp::Whole(_)
            | SendMoverOp::Yield
            | SendMoverOp::Input { .. }
            | SendMoverOp::Stretch { .. } => None,
        });
        self.jobs.check(&pieces.collect::<Vec<_>>());
    }
}

/// See [`SendMover::orders`].
#[cfg(test)]
pub struct Orders {
    pub wholes: usize,
    pub chunks: Vec<usize>,
}
