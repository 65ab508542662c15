//! Bytes of a lane in: control bytes and pieces of data streams, as far as its session has room.

use bytes::Bytes;
use landro_sys::Buffer;

use crate::proto::Input;
use crate::quic::StreamError;
use crate::worker::Worker;
use crate::worker::lane::{Arrived, CONTROL_STREAM, LanePhase};
use crate::worker::limits::{MAX_PARTIALS, MIN_READ_BYTES, READS_PER_TURN};

/// The bit of a stream id that says so (RFC 9000 §2.1).
const UNIDIRECTIONAL: u64 = 2;

/// What became of a read.
pub(super) enum Read {
    /// There may be more on this stream.
    Again,
    /// Nothing more on this stream for now, or ever.
    Drained,
    /// Not now: the session takes nothing, or there is no buffer.
    Wait,
}

impl Worker {
    /// Reads what is readable, as far as the session and the pool have room. True: there is more.
    pub(crate) fn read_lane(&mut self, key: usize) -> bool {
        let Some((conn, lane)) = self.connections.lane_mut(key) else {
            return false;
        };
        while let Some(stream) = conn.readable_next() {
            if !lane.readable.contains(&stream) {
                lane.readable.push_back(stream);
            }
        }
        let mut at = 0;
        for _ in 0..READS_PER_TURN {
            let Some(lane) = self.connections.lane(key) else {
                return false;
            };
            let Some(&stream) = lane.readable.get(at) else {
                break;
            };
            match self.read_stream(key, stream) {
                Read::Again => {}
                Read::Drained => {
                    if let Some((_, lane)) = self.connections.lane_mut(key) {
                        lane.readable.retain(|&other| other != stream);
                    }
                }
                // Others may be read: control bytes must not wait behind data that nobody may read
                // now.
                Read::Wait => at += 1,
            }
        }
        let tight = self.io.is_pool_tight();
        let Some((_, lane)) = self.connections.lane_mut(key) else {
            return false;
        };
        if tight {
            lane.buffer = None;
        }
        lane.readable.len() > at
    }

    fn read_stream(&mut self, key: usize, stream: u64) -> Read {
        let Some(lane) = self.connections.lane(key) else {
            return Read::Drained;
        };
        let session = match lane.phase {
            LanePhase::Serving { session } => session,
            LanePhase::Preface(_) if stream == CONTROL_STREAM => return self.read_preface(key),
            LanePhase::Preface(_) | LanePhase::Waiting { .. } => return Read::Wait,
            LanePhase::Closing => return Read::Drained,
        };
        let Some(running) = self.sessions.get(session) else {
            return Read::Drained;
        };
        if stream == CONTROL_STREAM {
            // Control bytes go on on a newer lane only after the older lane's ended.
            let mut older = running.lanes.iter().take_while(|&&lane| lane != key);
            let older_open = older.any(|&lane| {
                let lane = self.connections.lane(lane);
                lane.is_some_and(|lane| !lane.control.fin_received)
            });
            if older_open || !running.takes_control() {
                return Read::Wait;
            }
            return self.read_control(key, session);
        }
        if !running.standing.takes_data {
            return Read::Wait;
        }
        if stream & UNIDIRECTIONAL == 0 {
            self.violation(key, "a second bidirectional stream");
            return Read::Drained;
        }
        let input = match self.read_data(key, session, stream) {
            Ok(input) => input,
            Err(read) => return read,
        };
        let ended = matches!(
            input,
            Input::Data { fin: true, .. } | Input::DataReset { .. }
        );
        self.sessions.tell(self.io.now, session, input);
        self.drain_session(session);
        if ended { Read::Drained } else { Read::Again }
    }

    fn read_control(&mut self, key: usize, session: usize) -> Read {
        let Some(mut buffer) = self.take_read_buffer(key) else {
            return Read::Wait;
        };
        let Some((conn, lane)) = self.connections.lane_mut(key) else {
            return Read::Drained;
        };
        let (input, fin) = match conn.read(CONTROL_STREAM, buffer.spare_mut()) {
            Ok(None) => {
                lane.buffer = Some(buffer);
                return Read::Drained;
            }
            Ok(Some((bytes, fin))) => {
                buffer.advance(bytes);
                (Some(buffer.split()).filter(|bytes| !bytes.is_empty()), fin)
            }
            Err(
                StreamError::Reset(_)
                | StreamError::Stopped(_)
                | StreamError::Unknown
                | StreamError::Quiche(_),
            ) => (None, true),
        };
        lane.buffer = Some(buffer);
        lane.control.fin_received |= fin;
        if let Some(bytes) = input {
            self.sessions
                .tell(self.io.now, session, Input::Control(bytes));
        }
        if fin {
            self.control_ended(key, session);
        }
        self.drain_session(session);
        if fin { Read::Drained } else { Read::Again }
    }

    /// Reads a data stream. Inside a chunk, bytes are gathered to whole aligned pieces first.
    fn read_data(&mut self, key: usize, session: usize, stream: u64) -> Result<Input, Read> {
        let tight = self.io.is_pool_tight();
        let lane = self.connections.lane_mut(key);
        let begun = lane.and_then(|(_, lane)| lane.take_partial(stream));
        let mut buffer = match begun {
            Some(partial) => partial,
            None => self.take_read_buffer(key).ok_or(Read::Wait)?,
        };
        let (Some(running), Some((conn, lane))) = (
            self.sessions.get_mut(session),
            self.connections.lane_mut(key),
        ) else {
            return Err(Read::Drained);
        };
        let known = lane.incoming.get(&stream).map(|incoming| incoming.key);
        let piece = known.and_then(|known| running.standing.pieces.get(&known).copied());
        let piece = piece.filter(|_| !tight && lane.partials < MAX_PARTIALS);
        let mut limit = buffer.spare_len();
        if let Some(piece) = piece {
            if buffer.filled().is_empty() && limit < piece {
                // The piece is to lie in one buffer.
                buffer = self.io.pool.take().unwrap_or(buffer);
            }
            limit = (piece - buffer.filled().len()).min(buffer.spare_len());
        }
        let read = match conn.read(stream, &mut buffer.spare_mut()[..limit]) {
            Ok(read) => read,
            Err(
                StreamError::Reset(_)
                | StreamError::Stopped(_)
                | StreamError::Unknown
                | StreamError::Quiche(_),
            ) => return lane.lose(stream).ok_or(Read::Drained),
        };
        let (bytes, fin) = read.unwrap_or_default();
        buffer.advance(bytes);
        let is_whole = fin
            || buffer.spare_len() == 0
            || piece.is_none_or(|piece| buffer.filled().len() >= piece);
        if !is_whole {
            lane.keep_partial(stream, buffer);
            return Err(read.map_or(Read::Drained, |_| Read::Again));
        }
        // When buffers are scarce, how long this session holds its bytes is not to matter to
        // others.
        let bytes = match tight {
            true => Bytes::copy_from_slice(buffer.filled()),
            false => buffer.split(),
        };
        lane.buffer = Some(buffer).filter(|_| !tight);
        // Nothing new, but a piece begun earlier may have to go as it is: buffers became scarce.
        if read.is_none() && bytes.is_empty() {
            return Err(Read::Drained);
        }
        match lane.arrive(stream, &mut running.next_incoming, Arrived { bytes, fin }) {
            Ok(input) => input.ok_or(Read::Again),
            Err(reason) => {
                self.violation(key, &reason);
                Err(Read::Drained)
            }
        }
    }

    /// The lane's read buffer, or a fresh one when little of it is left.
    fn take_read_buffer(&mut self, key: usize) -> Option<Buffer> {
        let kept = self.connections.lane_mut(key)?.1.buffer.take();
        let kept = kept.filter(|buffer| buffer.spare_len() >= MIN_READ_BYTES);
        let buffer = kept.or_else(|| self.io.pool.take());
        if buffer.is_none() {
            self.connections.starve(key);
        }
        buffer
    }
}
