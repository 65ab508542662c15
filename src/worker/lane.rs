//! A lane: one QUIC connection of a session, owned by this worker for life.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use landro_sys::{Buffer, Pool, SocketId};

use super::refused::Doubt;
use super::timers::Scheduled;
use super::turn::Incoming;
use crate::budget::Promise;
use crate::ids::SessionId;
use crate::proto::chunks::ParallelTransferConfig;
use crate::proto::session::Limits;
use crate::quic::{CloseReason, Conn, PathSnapshot};

/// An established lane must say which session it belongs to within this time.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// After the last word of a session, how long a side waits for the other to hang up.
pub const LINGER: Duration = Duration::from_secs(3);

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
}

/// The control stream is bidirectional stream 0 of each lane.
pub const CONTROL_STREAM: u64 = 0;

pub struct Lane {
    pub serial: u64,
    pub conn: Conn,
    pub socket: SocketId,
    pub peer: SocketAddr,
    pub phase: Phase,
    pub touched: bool,
    pub unfinished: bool,
    pub waiting_to_send: bool,
    pub timer: Scheduled,
    /// When this lane is given up: a missing preface, a finished session, a silent handshake.
    pub deadline: Option<Instant>,
    /// Last time a datagram of this lane arrived, and when we last asked for a sign of life.
    pub heard: Instant,
    pub pinged: Instant,
    /// How long a lane that we dialled is silent before we ask. None: accepted; a daemon, which has
    /// many, asks seldom.
    pub quiet: Option<Duration>,
    /// The peer's port is said to be closed.
    pub doubt: Option<Doubt>,
    /// Last time a new session of the same peer asked for it.
    pub asked: Option<Instant>,
    /// Streams with unread data, in the order they became readable.
    pub readable: VecDeque<u64>,
    /// Incoming data streams that are not finished yet.
    pub incoming: HashMap<u64, Incoming>,
    /// Of those, streams that hold the beginning of a piece.
    pub partials: usize,
    /// Incoming data streams read to their ends.
    pub streams_read: u64,
    /// Data streams the peer says this replaced lane has.
    pub streams_announced: Option<u64>,
    /// This side said the same, on this stream if it was opened and not taken yet.
    pub end_announced: bool,
    pub end_stream: Option<u64>,
    pub control: Control,
    /// What the next read fills.
    pub buffer: Option<Buffer>,
    /// Window bytes granted out of the memory budget, given back when the lane ends.
    pub granted_bytes: u64,
    /// The window it was told of, until its peer is authorised.
    pub promise: Option<Promise>,
    /// What QUIC held for it when that was last added up.
    pub held_bytes: u64,
    /// Closed for holding too much: to be dropped with the turn that says so.
    pub evicted: bool,
    /// Outgoing UDP payload bytes and datagrams' segments, for the statistics.
    pub gso_packets: u64,
    pub gso_sends: u64,
    /// The path's numbers; quiche forgets its active path when the connection closes.
    pub path: PathSnapshot,
}

/// Where a lane is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the handshake is complete; a client's first lane, a joining lane or a daemon's new
    /// connection.
    Handshaking(Purpose),
    /// Established on a daemon, the preface is not complete yet.
    Preface(Vec<u8>),
    /// Names a session; before it begins, older ones of its peer must give a sign of life.
    /// `missing`: workers that have not said that theirs are settled.
    Waiting { session: SessionId, missing: usize },
    /// Part of a session.
    Serving { session: usize },
    /// CONNECTION_CLOSE is queued or sent, or was received; waits for quiche to say closed.
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Accepted,
    FirstLane,
    Join { session: usize },
}

/// Both directions of this lane's control stream.
#[derive(Default)]
pub struct Control {
    /// Bytes that precede the session's control bytes on this lane: the preface, the rest of what
    /// was begun here.
    pub before: VecDeque<Bytes>,
    /// The rest of what our direction ends with, if it was not taken whole.
    pub end: Option<Bytes>,
    /// Our direction was finished: the session ended or moved to the next lane.
    pub fin_sent: bool,
    /// The peer finished its direction.
    pub fin_received: bool,
}

impl Lane {
    pub fn new(
        serial: u64,
        conn: Conn,
        socket: SocketId,
        peer: SocketAddr,
        phase: Phase,
        now: Instant,
    ) -> Lane {
        Lane {
            serial,
            conn,
            socket,
            peer,
            phase,
            touched: false,
            unfinished: false,
            waiting_to_send: false,
            timer: Scheduled::default(),
            deadline: None,
            heard: now,
            pinged: now,
            quiet: None,
            doubt: None,
            asked: None,
            readable: VecDeque::new(),
            incoming: HashMap::new(),
            partials: 0,
            streams_read: 0,
            streams_announced: None,
            end_announced: false,
            end_stream: None,
            control: Control::default(),
            buffer: None,
            granted_bytes: 0,
            promise: None,
            held_bytes: 0,
            evicted: false,
            gso_packets: 0,
            gso_sends: 0,
            path: PathSnapshot::default(),
        }
    }

    /// Takes the path's numbers while there is a path.
    pub fn last_stats(&mut self) {
        let path = self.conn.snapshot();
        if path.sent_packets > 0 {
            self.path = path;
        }
    }

    pub fn session(&self) -> Option<usize> {
        match self.phase {
            Phase::Serving { session } => Some(session),
            Phase::Handshaking(_) | Phase::Preface(_) | Phase::Waiting { .. } | Phase::Closing => {
                None
            }
        }
    }

    /// Gives back what waits for the rest of a piece, and the read buffer: nothing more will be
    /// read here.
    pub fn release_buffers(&mut self) {
        self.buffer = None;
        self.incoming.clear();
        self.readable.clear();
        self.partials = 0;
    }

    /// Whether the peer closed this lane because another replaced it.
    pub fn is_closed_as_replaced(&self) -> bool {
        matches!(
            self.conn.close_reason(),
            Some(CloseReason::PeerApp {
                code: code::REPLACED,
                ..
            })
        )
    }

    /// Whether everything was read from a lane that was replaced.
    pub fn is_read_out(&self) -> bool {
        self.control.fin_sent
            && self.control.fin_received
            && self.streams_announced == Some(self.streams_read)
    }
}

/// What a session may hold, by the number of sessions that share the worker.
pub fn limits(shared: &super::Shared, sessions: usize) -> Limits {
    // A quarter of a pool for a lone session, its share among many, never less than two reads.
    let pool_bytes = shared.budget.pool_bytes_per_worker() as usize;
    let share = (pool_bytes / 4)
        .min(pool_bytes / (sessions + 1))
        .max(2 * Pool::BUFFER_BYTES);
    Limits {
        entry_window: if sessions < FEW_SESSIONS {
            ENTRY_WINDOW
        } else {
            ENTRY_WINDOW / 4
        },
        write_behind_bytes: share.min(WRITE_BEHIND_BYTES),
        read_ahead_bytes: share.min(READ_AHEAD_BYTES),
        read_ahead_in_place_bytes: share.min(READ_AHEAD_IN_PLACE_BYTES),
        carriage: crate::proto::Carriage::Bytes,
        lookups: LOOKUPS,
        parallel: ParallelTransferConfig::default(),
    }
}

/// Entries announced and not resolved: at a round trip of 50 ms still 40,000 small files a second.
const ENTRY_WINDOW: u32 = 2048;

/// Sessions on a worker from which on each gets a smaller entry window (an entry costs up to 600
/// bytes).
const FEW_SESSIONS: usize = 16;

/// Data being written: a disk's hiccup of 3 ms at 10 Gbit/s.
const WRITE_BEHIND_BYTES: usize = 4 << 20;

/// Data read and not yet taken by QUIC, where reads take their time: eight at once keep a disk
/// busy.
const READ_AHEAD_BYTES: usize = 512 << 10;

/// The same where a read is made in place: waiting is all that more would do, and what is sealed
/// long after it was read has left the second-level cache (measured on tmpfs: with 512 KiB 8 % less
/// throughput at 14 % more CPU).
const READ_AHEAD_IN_PLACE_BYTES: usize = 128 << 10;

/// Disk operations of one session at a time.
const LOOKUPS: usize = 64;
