//! What goes into and comes out of [`super::Lanes`], and the words of CONNECTION_CLOSE.

use bytes::Bytes;

use super::mail::{ToHome, ToOutpost};
use crate::ids::{Fingerprint, OpId, SessionId, WorkerId};
use crate::proto::clear::ClearSecret;
use crate::proto::query::QueryRequest;
use crate::proto::{
    CancelReason, DiskDone, DiskError, DiskOp, Event, Outcome, Payload, SessionError,
};

/// A transport's own name for a connection. It means nothing here but that two are not the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LaneKey(pub usize);

/// A stream of one lane.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum LaneStream {
    Control,
    /// One-way streams are counted from 0, in each direction by the side that opens them. The first
    /// bytes for number n come behind those of number n − 1.
    OneWay(u64),
}

/// A question of one worker: do older sessions of an identity live? Unique among the workers of a
/// process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct QuestionId {
    /// The worker on which a new session waits.
    pub asker: crate::ids::WorkerId,
    /// Serial number of the connection it waits on.
    pub connection: u64,
}

/// What another lane of a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DialKind {
    /// It takes over from the lane that carries the control stream.
    Replace,
    /// It carries data beside that one, and may be of another kind of transport.
    Add,
    /// As Add, in the clear.
    AddClear,
    /// It carries control from where the peer stopped reading, for the lane that did so is silent
    /// or cut (`takeover.rs`): of the other kind of transport, and where that comes to nothing of
    /// the same.
    TakeOver,
}

impl DialKind {
    /// It carries data beside the lane that carries control.
    pub fn is_added(self) -> bool {
        matches!(self, DialKind::Add | DialKind::AddClear)
    }
}

/// What the transport, the disk, the user and time tell the lanes of a session.
#[derive(Debug)]
pub enum LanesInput {
    /// Client: the lane that [`LanesOutput::Dial`] asked for is there, and this is who answered.
    Dialled {
        lane: LaneKey,
        peer: Fingerprint,
        kind: DialKind,
    },
    /// Client: no such lane came to be.
    DialFailed { kind: DialKind },
    /// Server: a connection of `peer` asks to be this lane of the session (see
    /// [`super::Newcomer`]). Adopted, or answered with [`LanesOutput::Close`].
    Joins {
        lane: LaneKey,
        number: u32,
        peer: Fingerprint,
        kind: DialKind,
    },
    /// Bytes of a lane's control stream, in order, cut anywhere; `fin` with the last.
    Control {
        lane: LaneKey,
        bytes: Bytes,
        fin: bool,
    },
    /// The peer reset its direction of the control stream.
    ControlReset { lane: LaneKey },
    /// Bytes of a one-way stream of the peer; `fin` with the last.
    Data {
        lane: LaneKey,
        stream: u64,
        bytes: Bytes,
        fin: bool,
    },
    /// The peer reset a one-way stream.
    DataReset { lane: LaneKey, stream: u64 },
    /// The peer opened a stream that is neither.
    Stray { lane: LaneKey },
    /// The lane's transport takes about so many bytes now. Whenever that may have become more it
    /// says so again. `takes_pipes`: from now on it takes [`Payload::Piped`], too.
    Room {
        lane: LaneKey,
        bytes: usize,
        takes_pipes: bool,
    },
    /// The answer to [`LanesOutput::Send`], the very next input.
    Taken(Taken),
    /// The peer has everything of a watched stream (see [`LanesOutput::Watch`]).
    Delivered { lane: LaneKey, stream: LaneStream },
    /// Client: the lane's key has sealed so much that another lane should take over.
    Worn { lane: LaneKey },
    /// The connection is closed or lost.
    Closed { lane: LaneKey, why: LaneClosed },
    /// Something authentic arrived on the lane. Told while [`LanesOutput::Listen`] asks for it.
    Heard { lane: LaneKey },
    /// A new session of this peer waits for a sign of life of this one (see
    /// [`super::suspicion`]). `round_trip`: of the newest lane; `crowd`: sessions on this worker.
    Question {
        id: QuestionId,
        crowd: usize,
        round_trip: std::time::Duration,
    },
    /// The session's part on another worker said something. Its mail arrives in order.
    FromOutpost(WorkerId, ToHome),
    /// To such a part: the session's own worker did.
    FromHome(ToOutpost),
    /// A disk operation ended.
    Disk {
        op: OpId,
        result: Result<DiskDone, DiskError>,
    },
    /// As [`crate::proto::Input::DiskWorks`].
    DiskWorks,
    /// Client: what is asked of a session of queries.
    Ask(QueryRequest),
    /// The user asks to stop.
    Cancel(CancelReason),
    /// The daemon is ending: as `Cancel`, and nobody is waited for long.
    Shutdown,
    /// A daemon no longer allows what this session does. The lanes of a peer that does not hang up
    /// when it is told are closed with `why`.
    Refuse {
        error: SessionError,
        why: &'static str,
    },
    /// Server: what the session holds is needed by others. If it waits for another lane to take
    /// over, it ends.
    NoLonger,
    /// Nothing but time passed ([`super::Lanes::deadline`] was due).
    Tick,
}

/// What became of the bytes of a [`LanesOutput::Send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    All,
    /// Only so many bytes, perhaps none. Nothing more is taken of this stream for now.
    Part(u64),
    /// The peer does not want the stream, or the connection is closing.
    Gone,
}

/// Why a lane is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneClosed {
    /// Closed by the peer with [`code::REPLACED`]. It is the one orderly end: it is told behind
    /// everything that had arrived before it. All others overtake.
    Replaced,
    /// Closed by the peer with [`code::NO_SESSION`].
    NoSession,
    /// Nobody closed it: what carried it broke, and what it carried may go on elsewhere. Or the
    /// peer said [`code::TAKEN_OVER`], which means the same.
    Cut,
    /// What came on it, which was in the clear, is not what was sent, as one side says.
    Altered,
    Otherwise,
}

/// What the lanes of a session want.
#[derive(Debug)]
pub enum LanesOutput {
    /// What to append to a stream of a lane; opens it at first mention. `fin` ends it. Answered by
    /// [`LanesInput::Taken`] before anything else is told.
    Send {
        lane: LaneKey,
        stream: LaneStream,
        payload: Payload,
        fin: bool,
    },
    /// Something waits to be sent on this lane: say [`LanesInput::Room`] when there is some.
    Wants { lane: LaneKey },
    /// Whether control bytes of this lane are to be read; initially not. Of a lane that is added
    /// nothing else is read either before they are for the first time: it may be no lane yet.
    ReadControl { lane: LaneKey, allowed: bool },
    /// Whether one-way streams are to be read, of all lanes; initially they are.
    TakesData(bool),
    /// So many bytes of an incoming one-way stream are best handed over together next; None: as
    /// they come, which is what counts until the first is said.
    Piece {
        lane: LaneKey,
        stream: u64,
        bytes: Option<usize>,
    },
    /// Say [`LanesInput::Delivered`] once all bytes of this stream, which has ended, are
    /// acknowledged and, of the control stream, all that the peer sent was read.
    Watch { lane: LaneKey, stream: LaneStream },
    /// Client: connect another lane to the same session of the server. Answered by
    /// [`LanesInput::Dialled`] or [`LanesInput::DialFailed`] of the same kind, at any time; at most
    /// one of each kind is asked for at a time.
    Dial { kind: DialKind },
    /// Client: the same for [`DialKind::AddClear`], which is admitted as this lane by this secret.
    DialClear {
        session: SessionId,
        lane: u32,
        secret: ClearSecret,
    },
    /// A lane carries control in place of one that was silent, or cut: the peer agrees.
    TakenOver { lane: LaneKey },
    /// Close this lane's connection. It is none of the session's any more.
    Close {
        lane: LaneKey,
        code: u64,
        text: String,
    },
    /// Ask the peer for a sign of life on this lane.
    Ping { lane: LaneKey },
    /// Whether [`LanesInput::Heard`] is wanted; initially not.
    Listen(bool),
    /// This session is no reason to wait any more: it lives, or it is over.
    Settled(QuestionId),
    /// Added lanes may be on other workers from now on. `sends`: data goes from here to the peer.
    TakesOutposts { sends: bool },
    /// Mail for the session's part on another worker. If it names a file
    /// ([`ToOutpost::file`]), that file's descriptor goes along.
    ToOutpost { to: WorkerId, mail: ToOutpost },
    /// Mail for the session's own worker. If it names a file ([`ToHome::lets_go`]), that is let go
    /// of before.
    ToHome(ToHome),
    /// A disk operation to start. Every one is answered by exactly one [`LanesInput::Disk`].
    Disk { op: OpId, cmd: DiskOp },
    /// Something worth reporting.
    Event(Event),
    /// The session's outcome. The lanes still say goodbye.
    Finished(Outcome),
    /// All is said, and no lane is left; nothing follows.
    Over,
}

/// Application error codes of CONNECTION_CLOSE (docs/protocol.md).
pub mod code {
    pub const DONE: u64 = 0;
    pub const VIOLATION: u64 = 1;
    pub const UNAUTHORISED: u64 = 2;
    pub const TIMEOUT: u64 = 3;
    pub const SHUTDOWN: u64 = 4;
    pub const NO_SESSION: u64 = 5;
    pub const BUSY: u64 = 6;
    pub const REPLACED: u64 = 7;
    // 8 is `crate::quic::KEY_SPENT`, which the transport says by itself.
    pub const TOO_MUCH: u64 = 9;
    pub const UNAVAILABLE: u64 = 10;
    pub const TAKEN_OVER: u64 = 11;
    pub const ALTERED: u64 = 12;
}
