//! What a connection has because it is a lane of a transfer.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use landro_sys::Buffer;

use crate::ids::{SessionId, StreamKey};
use crate::proto::Input;
use crate::proto::wire::StreamHeader;

/// The control stream is bidirectional stream 0 of each lane.
pub(crate) const CONTROL_STREAM: u64 = 0;

/// What a lane of ours was dialled for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Errand {
    FirstLane,
    /// To replace another of this session.
    Join {
        session: usize,
    },
}

pub(crate) struct Lane {
    pub(crate) phase: LanePhase,
    /// Streams with unread data, in the order they became readable.
    pub(crate) readable: VecDeque<u64>,
    /// Incoming data streams that are not finished yet.
    pub(crate) incoming: HashMap<u64, Incoming>,
    /// Of those, streams that hold the beginning of a piece.
    pub(crate) partials: usize,
    /// Incoming data streams read to their ends.
    streams_read: u64,
    /// Data streams the peer says this replaced lane has.
    streams_announced: Option<u64>,
    /// This side said the same, on this stream if it was opened and not taken yet.
    pub(crate) end_announced: bool,
    pub(crate) end_stream: Option<u64>,
    pub(crate) control: ControlStream,
    /// What the next read fills.
    pub(crate) buffer: Option<Buffer>,
    /// Last time a new session of the same peer asked for it.
    pub(crate) asked: Option<Instant>,
}

/// Where a lane is in its life.
#[derive(Debug)]
pub(crate) enum LanePhase {
    /// Established on a daemon, the preface is not complete yet. Next: Waiting, Serving.
    Preface(Vec<u8>),
    /// Names a session; before it begins, older ones of its peer must give a sign of life.
    /// `missing`: workers that have not said that theirs are settled. Next: Serving.
    Waiting { session: SessionId, missing: usize },
    /// Part of a session. Next: Closing.
    Serving { session: usize },
    /// CONNECTION_CLOSE is queued or sent, or was received; waits for quiche to say closed.
    Closing,
}

/// Both directions of this lane's control stream.
#[derive(Default)]
pub(crate) struct ControlStream {
    /// Bytes that precede the session's control bytes on this lane: the preface, the rest of what
    /// was begun here.
    pub(crate) before: VecDeque<Bytes>,
    /// The rest of what our direction ends with, if it was not taken whole.
    pub(crate) end: Option<Bytes>,
    /// Our direction was finished: the session ended or moved to the next lane.
    pub(crate) fin_sent: bool,
    /// The peer finished its direction.
    pub(crate) fin_received: bool,
}

/// A data stream of the peer: its header, then its records.
pub(crate) struct Incoming {
    pub(crate) key: StreamKey,
    /// Header bytes so far; None once it is complete.
    header: Option<Vec<u8>>,
    /// The beginning of a piece of a chunk, the rest of which has not arrived.
    partial: Option<Buffer>,
}

/// Bytes just read of a data stream, and whether they are its last.
pub(crate) struct Arrived {
    pub(crate) bytes: Bytes,
    pub(crate) fin: bool,
}

impl Lane {
    pub(crate) fn new(phase: LanePhase) -> Lane {
        Lane {
            phase,
            readable: VecDeque::new(),
            incoming: HashMap::new(),
            partials: 0,
            streams_read: 0,
            streams_announced: None,
            end_announced: false,
            end_stream: None,
            control: ControlStream::default(),
            buffer: None,
            asked: None,
        }
    }

    /// One that serves a session from the start; `before` is what it says first.
    pub(crate) fn serving(session: usize, before: Option<Bytes>) -> Lane {
        let mut lane = Lane::new(LanePhase::Serving { session });
        lane.control.before.extend(before);
        lane
    }

    pub(crate) fn session(&self) -> Option<usize> {
        match self.phase {
            LanePhase::Serving { session } => Some(session),
            LanePhase::Preface(_) | LanePhase::Waiting { .. } | LanePhase::Closing => None,
        }
    }

    /// No session has begun on it.
    pub(crate) fn is_idle(&self) -> bool {
        match self.phase {
            LanePhase::Preface(_) | LanePhase::Waiting { .. } => true,
            LanePhase::Serving { .. } | LanePhase::Closing => false,
        }
    }

    /// Gives back what waits for the rest of a piece, and the read buffer: nothing more will be
    /// read here.
    pub(crate) fn release_buffers(&mut self) {
        self.buffer = None;
        self.incoming.clear();
        self.readable.clear();
        self.partials = 0;
    }

    /// Whether everything was read from a lane that was replaced.
    pub(crate) fn is_read_out(&self) -> bool {
        self.control.fin_sent
            && self.control.fin_received
            && self.streams_announced == Some(self.streams_read)
    }

    /// The beginning of a piece, to be read on into.
    pub(crate) fn take_partial(&mut self, stream: u64) -> Option<Buffer> {
        let partial = self.incoming.get_mut(&stream)?.partial.take();
        self.partials -= usize::from(partial.is_some());
        partial
    }

    /// Keeps the beginning of a piece.
    pub(crate) fn keep_partial(&mut self, stream: u64, buffer: Buffer) {
        if let Some(incoming) = self.incoming.get_mut(&stream) {
            incoming.partial = Some(buffer);
            self.partials += 1;
        }
    }

    /// A data stream was reset, or is none any more: what the session is told.
    pub(crate) fn lose(&mut self, stream: u64) -> Option<Input> {
        let incoming = self.incoming.remove(&stream)?;
        Some(Input::DataReset {
            stream: incoming.key,
        })
    }

    /// Takes bytes of a data stream; what the session is told, if anything yet. `next`: the key of
    /// the next stream that appears.
    ///
    /// # Errors
    /// The peer broke the protocol, in words.
    pub(crate) fn arrive(
        &mut self,
        stream: u64,
        next: &mut u32,
        arrived: Arrived,
    ) -> Result<Option<Input>, String> {
        let Arrived { mut bytes, fin } = arrived;
        let incoming = self.incoming.entry(stream).or_insert_with(|| {
            // Keys are ours: a peer that repeats its own cannot mix two streams up.
            let key = StreamKey(*next);
            *next = next.wrapping_add(1);
            Incoming {
                key,
                header: Some(Vec::new()),
                partial: None,
            }
        });
        if let Some(header) = &mut incoming.header {
            if header.is_empty() && StreamHeader::is_lane_end(&bytes) {
                self.incoming.remove(&stream);
                // Unidirectional streams count up in steps of four (RFC 9000 §2.1), so its number
                // counts those before.
                self.streams_announced = Some(stream / 4);
                return Ok(None);
            }
            let before = header.len();
            header.extend_from_slice(&bytes[..bytes.len().min(StreamHeader::MAX_BYTES)]);
            match StreamHeader::decode(header).map_err(|error| error.to_string())? {
                Some((_, len)) => {
                    bytes = bytes.slice(len - before..);
                    incoming.header = None;
                }
                None if fin => return Err("a data stream ended inside its header".to_owned()),
                None => return Ok(None),
            }
        }
        let key = incoming.key;
        if fin {
            self.incoming.remove(&stream);
            self.streams_read += 1;
        }
        Ok(Some(Input::Data {
            stream: key,
            bytes,
            fin,
        }))
    }

    /// Holds the counter against the table.
    #[cfg(debug_assertions)]
    pub(crate) fn check(&self) {
        let begun = self.incoming.values();
        let partials = begun.filter(|incoming| incoming.partial.is_some());
        assert_eq!(self.partials, partials.count());
    }
}
