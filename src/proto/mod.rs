//! The transfer protocol as state machines: no I/O, no clock, no quiche (design, law 1).
//!
//! # The contract
//!
//! A [`session::Session`] is one side of one session. The same machine runs under the worker (real
//! sockets and files) and under the simulator (a seed). Whatever it learns of the world is an
//! [`Input`]; whatever the world must know of it is an [`Output`]. Time is an argument. A record of
//! the inputs with their times replays everything.
//!
//! The world does, in this order:
//!
//! 1. [`session::Session::handle`] with one input, at a time not before the last. Inputs may come
//!    in any order but where [`Input`] says otherwise, and never fail: a peer that breaks the
//!    protocol shows as `Finished(Violation)`.
//! 2. [`session::Session::poll`] until it gives `None`, before the next `handle`: a constructor
//!    counts as a first `handle`. Outputs are carried out in the order they come. What is held back
//!    to go together (small files, manifest items, verdicts, control messages) comes when there is
//!    nothing else, so a world that stops polling early may wait for ever.
//! 3. [`session::Session::deadline`], which only a `handle` changes: if nothing else happens by
//!    then, `Input::Tick` is due. A tick that is due moves the deadline into the future or takes it
//!    away; one that is not due does no harm.
//!
//! Until `Finished` the world answers every `Output::Disk` with exactly one `Input::Disk`, in any
//! order among those under way. `Finished` is the last output, and what is still handed in is
//! ignored. By then the session holds no file and no directory open, unless operations did not come
//! back in time: then the world closes what it holds for the session as they do.
//!
//! Nothing else is asked of a session but [`session::Session::held_bytes`], which is accounting
//! and no protocol: the worker's sum of what peers make it keep, read whenever the worker likes.

pub mod bench;
pub mod chunk;
pub mod claims;
pub mod clear;
pub mod entries;
pub mod errno;
pub mod errors;
pub mod extents;
pub mod fs;
pub mod integrity;
pub mod journal;
pub mod lanes;
pub mod parallel;
pub mod path;
pub mod place;
pub mod ports;
pub mod query;
pub mod receive;
pub mod send;
pub mod session;
#[cfg(test)]
pub(crate) mod sim;
pub mod stretches;
pub mod wire;
pub mod zeros;

use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};

use self::clear::{ClearOff, ClearSecret};
use crate::ids::{DirId, EntryId, FileId, MoverId, OpId, StreamKey, WorkerId};
pub use fs::{
    Attributes, DirFound, DirMode, DiskDone, DiskError, DiskOp, Existing, FileStamp, Kind, Lapses,
    Lasting, Listed, Meta, Mtime, ObjectId, Recalled, TimeLapse,
};
use query::{QueryAnswer, QueryRequest};
use receive::{AwayOrder, AwayReport, ReceiveReport};
use send::{AwaySendOrder, AwaySendReport};
use wire::LaneAccount;

/// What the world tells a session. Data is `Bytes`: cheap slices of the worker's pool buffers,
/// never copied on the way through.
#[derive(Debug)]
pub enum Input {
    /// Bytes of the peer's control stream, in order (lane changes are invisible here).
    Control(Bytes),
    /// The peer's control stream ended: FIN, reset, or its last lane is gone.
    ControlClosed,
    /// Bytes of a data stream, in order; `fin` with the last ones.
    Data {
        stream: StreamKey,
        bytes: Bytes,
        fin: bool,
    },
    /// The peer reset this data stream.
    DataReset,
    /// The transport took this many bytes of earlier `Output::Data` of a mover (all its streams
    /// together, ranges by their length). A mover's read-ahead is bounded by what it emitted and
    /// has not seen here. A lane within this host says how many of the last [`CopyStep::Range`]
    /// were copied, once they are.
    Sent { mover: MoverId, bytes: u64 },
    /// The sender's own: whether this mover takes new orders. The first word of an added lane
    /// begins its mover; that of the lanes that carry control takes orders from the start.
    Pulls { mover: MoverId, pulls: bool },
    /// The sender's own: the lane of this mover carries data that stays in the kernel, from now on.
    TakesPipes { mover: MoverId },
    /// The sender's own: whether the movers on other workers are given orders.
    PullsAway(bool),
    /// The sender's own: the mover of an added lane takes no order any more, gives back what it has
    /// not begun, and ends its streams behind the rest. Answered by [`Output::Retired`].
    Retire { mover: MoverId },
    /// A lane within this host: what the other side gave as [`Output::Copy`].
    Copy(CopyStep),
    /// A disk operation ended.
    Disk {
        op: OpId,
        result: Result<DiskDone, DiskError>,
    },
    /// Of the disk operations under way some got on, though none ended: told, if it is so, before a
    /// `Tick`.
    DiskWorks,
    /// The user or the daemon asks to stop: tell the peer, keep resumable state, finish.
    Cancel(CancelReason),
    /// A daemon no longer allows what this session does: tell the peer why, keep resumable state,
    /// finish.
    Refuse(SessionError),
    /// A lane is no more. The receiver of what travelled on it gives an account; the sender
    /// moves again what is missing then.
    LaneLost(LostLane),
    /// The sender's own: what the receiver did not take of a lane that is no more, by stream
    /// with the number of records that it did take.
    LaneAccounted { missing: Vec<(StreamKey, u32)> },
    /// The part of this session on another worker said something.
    FromOutpost(WorkerId, Box<MoverReport>),
    /// There the peer broke a rule.
    Broken(String),
    /// To such a part: its session said something.
    FromHome(Box<MoverOrder>),
    /// To such a part: the session is over, or goes on without it.
    Over,
    /// Client, in a session of queries: what is asked of it.
    Ask(QueryRequest),
    /// Nothing but time passed (`deadline()` was due).
    Tick,
}

/// What was on a lane that is no more, by the side that sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostLane {
    /// With [`LostLane::CARRIED_CONTROL`], if it did.
    pub number: u32,
    /// Our data streams that had not ended on a lane that carried control. They do not go on.
    pub ours: Vec<StreamKey>,
    /// What of them had not been taken by the transport.
    pub untaken_bytes: u64,
    /// The peer may not know.
    pub tell_peer: bool,
    /// The peer's data streams of lesser numbers were read to their ends.
    pub below: u32,
    /// So were these, in order.
    pub ended: Vec<u32>,
    /// These were begun, in order, and do not go on.
    pub begun: Vec<(u32, StreamKey)>,
    /// Of a lane in the clear, of those that were read to their ends the last: of one of them it
    /// may turn out that it was altered.
    pub lately: Vec<(u32, StreamKey)>,
    /// What came on it is not what was sent.
    pub altered: bool,
}

impl LostLane {
    /// Lanes that carried control are told from those that were added by this bit of their numbers.
    pub const CARRIED_CONTROL: u32 = 1 << 31;

    /// Who of the sender moved what travelled there.
    pub fn mover(&self) -> MoverId {
        match self.number & LostLane::CARRIED_CONTROL {
            0 => MoverId::of_added(self.number),
            _ => MoverId::CONTROL,
        }
    }
}

/// What a session wants from the world.
#[derive(Debug)]
pub enum Output {
    /// Bytes to append to our control stream.
    Control(Bytes),
    /// More of a data stream (opened at first mention; keys of one mover count up from 0), for the
    /// lane of its mover; `fin` ends it. `records`: how many end with it.
    Data {
        stream: StreamKey,
        payload: Payload,
        records: u32,
        fin: bool,
    },
    /// Something follows on this data stream, of the lanes that carry control, that could not be
    /// moved again if its lane were lost.
    Stays(StreamKey),
    /// Nothing follows from this mover: its streams were ended.
    Retired(MoverId),
    /// Both sides know lanes that are added. `sends`: data goes from here to the peer.
    /// `clear`: of a client, with what the server lets lanes in the clear in, if it does.
    AddsLanes {
        sends: bool,
        clear: Option<ClearSecret>,
    },
    /// What came on a lane in the clear is not what the peer sent, as this side saw, or the peer.
    /// Such lanes are over in this session; what they carried comes again on others.
    Altered,
    /// The peer, which sends, says that this added lane is no more.
    LaneOver(u32),
    /// The peer, which receives, says what it took of an added lane.
    LaneAccount(LaneAccount),
    /// How many bytes of this incoming data stream are best handed over together next: at most
    /// [`PIECE_BYTES`], and they will come. None: as they come, which holds for every new stream.
    /// Said when it changes.
    Piece {
        stream: StreamKey,
        bytes: Option<usize>,
    },
    /// Whether data streams may be read now; the world leaves their bytes in the transport
    /// otherwise. True at first, said when it changes.
    TakesData(bool),
    /// Control bytes are to be read only while no more of ours than these wait: each message is
    /// answered, and a peer that does not read must not make us keep the answers. None: read
    /// whatever waits, as a sender hears its verdicts, so that both sides cannot wait for each
    /// other. None at first, said when it changes.
    AnswersMax(Option<usize>),
    /// A lane within this host ([`Carriage::Copies`]): for the other side, behind the control bytes
    /// that came before.
    Copy(CopyStep),
    /// For the part of this session on another worker. An order for a file brings that its
    /// descriptor.
    ToOutpost(WorkerId, Box<MoverOrder>),
    /// Of such a part, for its session.
    ToHome(Box<MoverReport>),
    /// A disk operation to start. Every one is answered by exactly one `Input::Disk`.
    Disk { op: OpId, cmd: DiskOp },
    /// Something worth reporting (progress, warnings, per-entry results).
    Event(Event),
    /// The session is over; nothing follows. The control stream is to be finished after what was
    /// queued.
    Finished(Outcome),
}

/// For movers on another worker than their plan's.
#[derive(Debug)]
pub enum MoverOrder {
    Receive(AwayOrder),
    Send(AwaySendOrder),
}

/// Of such movers.
#[derive(Debug)]
pub enum MoverReport {
    Receive(AwayReport),
    Send(AwaySendReport),
    /// Nothing is there any more, and nothing follows.
    Gone,
}

impl MoverOrder {
    /// The directories that go along, each once.
    pub fn dirs(&self) -> Vec<DirId> {
        let MoverOrder::Send(AwaySendOrder::Wholes { orders, .. }) = self else {
            return Vec::new();
        };
        let mut dirs: Vec<DirId> = orders.iter().map(|order| order.dir).collect();
        dirs.sort_unstable();
        dirs.dedup();
        dirs
    }

    /// The file whose descriptor goes along.
    pub fn file(&self) -> Option<FileId> {
        match self {
            MoverOrder::Receive(AwayOrder::Part(order)) => Some(order.file),
            MoverOrder::Send(AwaySendOrder::Chunk { order, .. }) => Some(order.id),
            MoverOrder::Receive(_) | MoverOrder::Send(_) => None,
        }
    }
}

impl MoverReport {
    /// The directories that are let go of before this is told.
    pub fn lets_go_dirs(&self) -> &[DirId] {
        match self {
            MoverReport::Send(AwaySendReport::Wholes { lets_go, .. }) => lets_go,
            MoverReport::Receive(_) | MoverReport::Send(_) | MoverReport::Gone => &[],
        }
    }

    /// The file that is let go of before this is told.
    pub fn lets_go(&self) -> Option<FileId> {
        match self {
            MoverReport::Receive(AwayReport::Report(ReceiveReport::Quiet { file, .. })) => {
                Some(*file)
            }
            MoverReport::Send(AwaySendReport::Report { lets_go, .. }) => *lets_go,
            MoverReport::Receive(_) | MoverReport::Send(_) | MoverReport::Gone => None,
        }
    }
}

/// What goes onto a data stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Bytes(Bytes),
    /// Of a file, whose digest follows on the same stream: what a lane in the clear may carry
    /// without a code that tells if it was changed.
    FileData(Bytes),
    /// The same, which nobody has seen: for a lane that takes it ([`Input::TakesPipes`]). Of so
    /// many bytes the first are those that were not taken yet.
    Piped {
        data: KernelData,
        len_bytes: u64,
    },
}

/// Bytes of a file that the disk layer has in the kernel, as the transport takes them from there:
/// only these two know what it is. What nobody keeps any more is given back.
#[derive(Clone)]
pub struct KernelData(Arc<dyn Any + Send + Sync>);

impl KernelData {
    pub fn new(data: Arc<dyn Any + Send + Sync>) -> KernelData {
        KernelData(data)
    }

    /// What it is, if it is this.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.clone().downcast().ok()
    }
}

impl PartialEq for KernelData {
    fn eq(&self, other: &KernelData) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for KernelData {}

impl fmt::Debug for KernelData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelData")
    }
}

impl Payload {
    pub fn len_bytes(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) | Payload::FileData(bytes) => bytes.len() as u64,
            Payload::Piped { len_bytes, .. } => *len_bytes,
        }
    }

    /// Leaves out the first bytes, which were taken.
    pub fn skip(&mut self, taken_bytes: u64) {
        match self {
            Payload::Bytes(bytes) | Payload::FileData(bytes) => {
                bytes.advance(taken_bytes as usize);
            }
            Payload::Piped { len_bytes, .. } => *len_bytes -= taken_bytes,
        }
    }
}

/// What becomes of the data of files between the two sides of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// The transport carries bytes.
    Bytes,
    /// Both sides are on one host, where the kernel copies from file to file ([`CopyStep`]):
    /// neither side reads, hashes or resumes anything.
    Copies,
}

/// What the sender of a copy within one host says of a file that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyStep {
    /// Its next bytes are the next of this file of the sender's. One range at a time: the next one
    /// follows `Input::Sent`. An empty file has one of no bytes. `most_bytes`: the file has holes,
    /// which come along beyond `len_bytes`, up to so many in all.
    Range {
        entry: EntryId,
        from: FileId,
        len_bytes: u64,
        most_bytes: Option<u64>,
    },
    /// All of it was copied, and the source is still what was announced.
    Whole { entry: EntryId },
}

// What is moved for every file of a transfer is moved by a few instructions, not by memcpy(3).
const _: () = assert!(size_of::<Input>() <= 128 && size_of::<Output>() <= 128);

/// The piece in which file data is read, hashed, handed over and written: a buffer of the worker's
/// pool. BLAKE3 hashes it with all SIMD lanes, and no page is touched twice.
pub const PIECE_BYTES: usize = 64 * 1024;

/// The same of data that stays in the kernel: what a pipe may hold that any user makes
/// (fs.pipe-max-size).
pub const PIPED_BYTES: usize = 1 << 20;

/// What a session reports to whoever started it. Names are raw bytes; the printer escapes them.
#[derive(Clone, Debug)]
pub enum Event {
    /// The peer accepted the session.
    Started,
    /// Where the sources land is known: inside the target, or in its place.
    Placed { inside: bool },
    /// Client: where else the server is, as it says.
    Addresses(Vec<IpAddr>),
    /// Client: a large file is the next to be moved.
    Begun { path: Bytes },
    /// Client: so many bytes of a file need not be sent, for an earlier session did.
    Resumed { bytes: u64 },
    /// Server: what the client wants, whether or not it may: the first path, and how many more.
    Asked {
        verb: Verb,
        path: Bytes,
        more: usize,
    },
    /// Manifest so far: entries and file bytes announced; `complete` when the walk is over.
    Announced {
        files: u64,
        bytes: u64,
        complete: bool,
    },
    /// How much there will be in all, about, counted ahead of the manifest.
    Counted { files: u64, bytes: u64 },
    /// File bytes that left (sender) or arrived (receiver), resumed ones not counted.
    Progress { bytes: u64 },
    /// A file, symlink or directory reached its final state.
    Entry {
        path: Bytes,
        kind: Kind,
        size_bytes: u64,
        result: EntryResult,
    },
    /// Something the user should know that is not an error (a special file was skipped).
    Warning {
        path: Bytes,
        /// At which end of its way the path is.
        place: EntryPlace,
        text: String,
    },
    /// One row of a listing.
    Listing {
        path: Bytes,
        meta: Box<Meta>,
        link: Option<Bytes>,
    },
    /// Client: what came of a query.
    Answer { slot: u8, answer: QueryAnswer },
    /// Nothing goes in the clear, or nothing more.
    ClearOff(ClearOff),
    /// Benchmark: how long these echoes took, in order.
    RoundTrips(Vec<Duration>),
    /// Benchmark: it is over; so many bytes arrived at the receiver, in this time.
    Benched { bytes: u64, elapsed: Duration },
}

/// What is done in a session, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Push,
    Pull,
    List,
    Queries,
    Bench,
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryResult {
    /// It is there.
    Done {
        /// Bytes of it that were there before.
        resumed_bytes: u64,
    },
    /// Size and mtime already matched, or the symlink's target.
    Skipped,
    /// Boxed, for it is rare, and would make every event and output larger.
    Failed(Box<EntryError>),
}

impl EntryResult {
    /// It is not there.
    pub fn failed(error: EntryError) -> EntryResult {
        EntryResult::Failed(Box::new(error))
    }
}

/// Why one entry failed, wherever it happened; travels on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryError {
    /// Of what kind it is.
    pub code: EntryErrorCode,
    /// 0 where no system call failed.
    pub errno: i32,
    /// What is wrong, for people; neither path nor side, which who shows it knows better.
    pub text: String,
    /// Where it happened.
    pub place: EntryPlace,
    /// The system call; empty where none failed.
    pub call: String,
    /// What to do about it; may be empty.
    pub advice: String,
}

/// At which end of an entry's way something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPlace {
    /// Where it is copied from.
    Source,
    /// Where it is copied to.
    Destination,
}

/// Of what kind the error of an entry is; travels on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryErrorCode {
    /// The source could not be read, vanished, or changed while it was read.
    Source,
    /// The destination could not be written.
    Destination,
    /// ENOSPC or EDQUOT at the destination.
    Full,
    /// Digests differ.
    Integrity,
    /// EACCES, EPERM, EROFS.
    Permission,
    /// The name or tree shape cannot be represented at the destination.
    Name,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was resolved; entry errors, if any, were reported as events.
    Complete(Totals),
    /// Stopped by `Input::Cancel`.
    Cancelled {
        reason: CancelReason,
        totals: Totals,
    },
    /// The peer stopped, and said so.
    Stopped {
        reason: CancelReason,
        totals: Totals,
    },
    /// The peer refused or failed the whole session, or this server did.
    Refused(SessionError),
    /// Client: a reason on its own side, before anything was asked of the server.
    CalledOff(SessionError),
    /// The peer broke the protocol; the connection is closed with this as reason.
    Violation(String),
    /// The transport went away first.
    Lost(Totals),
    /// Nothing was got on with for too long; the text says who was waited for, and where.
    Stalled { totals: Totals, text: String },
}

/// Why a side stops what could go on; travels on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CancelReason {
    /// Whoever asked for it does not want it any more.
    #[default]
    User,
    /// The process ends, whatever it was doing.
    Ending,
    /// Work is due, and none gets done.
    Stalled,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionError {
    pub code: SessionErrorCode,
    /// What is wrong, for people.
    pub text: String,
    /// Of what failed with the path that was asked for; 0 where it is not about that path.
    pub errno: i32,
    /// The system call; empty where none failed.
    pub call: String,
    /// What to do about it; may be empty.
    pub advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionErrorCode {
    /// Read-only, write-only, outside the granted path.
    Permission,
    /// The path asked for does not exist or is of the wrong kind.
    NotFound,
    /// No room for another session now.
    Busy,
    /// Version or request not understood.
    Unsupported,
    /// The destination root has no space left.
    Full,
    /// Nothing was got on with for too long.
    Stalled,
    /// Bytes are not those that were hashed.
    Integrity,
    /// Anything else, with text.
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    pub directories: u64,
    pub symlinks: u64,
    pub bytes: u64,
    pub skipped: u64,
    pub resumed_bytes: u64,
    /// Chunks that the sender did not hash, since it remembered their values.
    pub kept_chunks: u64,
    /// Bytes of them that the sender did not see: they went from the page cache to the wire. 0 to a
    /// receiver.
    pub piped_bytes: u64,
    /// File bytes that crossed the wire.
    pub sent_bytes: u64,
    pub errors: u64,
    /// The gravest entry error, if any, decides the exit code.
    pub full: bool,
    pub integrity: bool,
    pub permission: bool,
}
