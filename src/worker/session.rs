//! A running session: its state machine, its files, its lanes, and what waits to be sent.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::link::PeerAccess;
use super::log::SessionLog;
use super::timers::Scheduled;
use crate::disk::Space;
use crate::ids::{Fingerprint, SessionId, StreamKey};
use crate::proto::Outcome;
use crate::proto::session::Session;

/// Lanes of one session at a time: the one in use, replaced ones being read out, one joining.
pub const MAX_LANES_PER_SESSION: usize = 4;

/// As many a daemon takes of a client. It may count lanes that the client has closed: what it has
/// not read of them yet, and a CONNECTION_CLOSE that was lost, which is not sent again, so that the
/// lane lives until its idle timeout.
pub const MAX_SERVED_LANES_PER_SESSION: usize = 4 * MAX_LANES_PER_SESSION;

pub struct Running {
    pub serial: u64,
    pub id: SessionId,
    pub machine: Session,
    pub space: Rc<Space>,
    pub peer: Fingerprint,
    /// What a daemon let the peer do when the session began.
    pub allowed: Option<PeerAccess>,
    /// Why it does no longer.
    pub revoked: Option<&'static str>,
    /// Newest last: new data streams and control bytes go there.
    pub lanes: Vec<usize>,
    /// A lane is being connected to replace the newest.
    pub joining: bool,
    /// Not before: a server that refuses lanes is not asked in a loop.
    pub join_after: Instant,
    pub control_out: VecDeque<Bytes>,
    pub streams: HashMap<StreamKey, OutStream>,
    /// Streams with something queued, in the order they got it.
    pub order: VecDeque<StreamKey>,
    pub finished: Option<Outcome>,
    pub timer: Scheduled,
    /// Incoming data streams get their keys in order of appearance.
    pub next_incoming: u32,
    pub standing: Standing,
    pub is_client: bool,
    pub log: SessionLog,
    /// What the machine kept when that was last added up.
    pub held_bytes: u64,
}

/// What the machine said last of itself (`proto::Output`).
pub struct Standing {
    /// This side says where a lane ends that was replaced.
    pub leads: bool,
    pub takes_data: bool,
    pub answers_max: Option<usize>,
    /// Incoming streams of which the next bytes are best handed over together.
    pub pieces: HashMap<StreamKey, usize>,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing {
            leads: false,
            takes_data: true,
            answers_max: None,
            pieces: HashMap::new(),
        }
    }
}

/// A data stream of ours that is not all accepted by QUIC yet.
pub struct OutStream {
    /// Lane and QUIC stream, once opened.
    pub opened: Option<(usize, u64)>,
    pub queue: VecDeque<Bytes>,
    pub fin: bool,
}

impl Running {
    pub fn newest_lane(&self) -> Option<usize> {
        self.lanes.last().copied()
    }

    /// Queues bytes of a data stream.
    pub fn queue(&mut self, stream: StreamKey, bytes: Bytes, fin: bool) {
        let out = self.streams.entry(stream).or_insert_with(|| {
            self.order.push_back(stream);
            OutStream {
                opened: None,
                queue: VecDeque::new(),
                fin: false,
            }
        });
        if !bytes.is_empty() {
            out.queue.push_back(bytes);
        }
        out.fin |= fin;
    }

    /// Nothing of ours waits to be accepted by QUIC.
    pub fn all_accepted(&self) -> bool {
        self.control_out.is_empty()
            && self
                .streams
                .values()
                .all(|out| out.queue.is_empty() && !out.fin)
    }
}
