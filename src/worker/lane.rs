//! What a connection has because it is a lane of a transfer: what of it is read, and how.

use std::collections::{HashMap, VecDeque};

use landro_sys::Buffer;

use crate::proto::lanes::{DialKind, LaneStream, Newcomer};

/// The control stream is bidirectional stream 0 of each lane.
pub(crate) const CONTROL_STREAM: u64 = 0;

/// What a lane of ours was dialled for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Errand {
    FirstLane,
    /// Another lane of this session.
    Join {
        session: usize,
        kind: DialKind,
    },
}

pub(crate) struct TransferLane {
    pub(crate) phase: LanePhase,
    /// Streams with unread data, in the order they became readable.
    pub(crate) readable: VecDeque<u64>,
    /// How many control bytes may be read.
    pub(crate) control_most: usize,
    /// In which pieces streams are best read, and the beginnings of such pieces.
    pieces: HashMap<u64, usize>,
    partials: HashMap<u64, Buffer>,
    /// What the next read fills.
    pub(crate) buffer: Option<Buffer>,
    /// One-way streams that we opened.
    pub(crate) opened: u64,
    /// Of those that the peer opened: how many are known, and how many of them have ended.
    their_streams: [u64; 2],
    /// Streams of ours that ended; the session is to know when the peer has all of them.
    pub(crate) watched: Vec<LaneStream>,
    /// The session knows that this lane is to be replaced.
    pub(crate) is_worn: bool,
    /// It carries data beside the lane of the control stream.
    pub(crate) is_added: bool,
}

/// What a connection is to the session that it carries.
pub(crate) enum LanePhase {
    /// Established on a daemon, it does not carry any yet. Next: Serving, Closing.
    Arriving(Newcomer),
    /// Next: Closing.
    Serving { session: usize },
    /// CONNECTION_CLOSE is queued or sent, or was received; waits for quiche to say closed.
    Closing,
}

impl TransferLane {
    pub(crate) fn new(phase: LanePhase) -> TransferLane {
        TransferLane {
            phase,
            readable: VecDeque::new(),
            control_most: 0,
            pieces: HashMap::new(),
            partials: HashMap::new(),
            buffer: None,
            opened: 0,
            their_streams: [0; 2],
            watched: Vec::new(),
            is_worn: false,
            is_added: false,
        }
    }

    pub(crate) fn session(&self) -> Option<usize> {
        match self.phase {
            LanePhase::Serving { session } => Some(session),
            LanePhase::Arriving(_) | LanePhase::Closing => None,
        }
    }

    /// No session has begun on it.
    pub(crate) fn is_idle(&self) -> bool {
        match self.phase {
            LanePhase::Arriving(_) => true,
            LanePhase::Serving { .. } | LanePhase::Closing => false,
        }
    }

    /// It is no session's any more: gives back what waits for the rest of a piece, and the read
    /// buffer, for nothing more will be read here.
    pub(crate) fn leave(&mut self) {
        self.phase = LanePhase::Closing;
        self.buffer = None;
        self.readable.clear();
        self.pieces.clear();
        self.partials.clear();
        self.watched.clear();
    }

    /// Says in which pieces a stream is best read from now on; None: as its bytes come.
    pub(crate) fn set_piece(&mut self, stream: u64, bytes: Option<usize>) {
        match bytes {
            Some(bytes) => self.pieces.insert(stream, bytes),
            None => self.pieces.remove(&stream),
        };
    }

    pub(crate) fn piece(&self, stream: u64) -> Option<usize> {
        self.pieces.get(&stream).copied()
    }

    /// Streams that hold the beginning of a piece.
    pub(crate) fn partials(&self) -> usize {
        self.partials.len()
    }

    /// The beginning of a piece, to be read on into.
    pub(crate) fn take_partial(&mut self, stream: u64) -> Option<Buffer> {
        self.partials.remove(&stream)
    }

    /// Keeps the beginning of a piece.
    pub(crate) fn keep_partial(&mut self, stream: u64, buffer: Buffer) {
        self.partials.insert(stream, buffer);
    }

    /// Something came on the peer's one-way stream of this number: those before it are there, too.
    pub(crate) fn meet_stream(&mut self, number: u64) {
        self.their_streams[0] = self.their_streams[0].max(number + 1);
    }

    /// One-way streams of the peer that have not ended.
    pub(crate) fn incoming_streams(&self) -> u64 {
        let [known, ended] = self.their_streams;
        known.saturating_sub(ended)
    }

    /// A stream of the peer has ended.
    pub(crate) fn forget_stream(&mut self, stream: u64) {
        self.their_streams[1] += 1;
        self.pieces.remove(&stream);
        self.partials.remove(&stream);
    }
}
