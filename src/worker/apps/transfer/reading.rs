//! Bytes of a lane in: control bytes and pieces of data streams, as far as its session has room.

use bytes::Bytes;
use landro_sys::Buffer;

use crate::proto::lanes::{LaneKey, LanesInput, NewcomerInput};
use crate::worker::Worker;
use crate::worker::lane::{CONTROL_STREAM, LanePhase};
use crate::worker::limits::{MAX_PARTIALS, MIN_READ_BYTES, READS_PER_TURN};

/// The bit of a stream id that says so (RFC 9000 §2.1).
const UNIDIRECTIONAL: u64 = 2;

/// What became of a read.
enum Read {
    /// There may be more on this stream.
    Again,
    /// Nothing more on this stream for now, or ever.
    Drained,
    /// Not now: the session takes nothing, or there is no buffer.
    Wait,
}

/// The id of a one-way stream that the peer opened.
pub(super) fn id_of_theirs(number: u64, is_client: bool) -> u64 {
    number * 4 + UNIDIRECTIONAL + u64::from(is_client)
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

    /// From now on at most so many control bytes are read.
    pub(super) fn read_control_up_to(&mut self, key: usize, most_bytes: usize) {
        if let Some((_, lane)) = self.connections.lane_mut(key) {
            lane.control_most = most_bytes;
            self.connections.touch(key);
        }
    }

    fn read_stream(&mut self, key: usize, stream: u64) -> Read {
        let Some(lane) = self.connections.lane(key) else {
            return Read::Drained;
        };
        let session = match &lane.phase {
            LanePhase::Serving { session } => Some(*session),
            LanePhase::Arriving(_) => None,
            LanePhase::Closing => return Read::Drained,
        };
        if stream == CONTROL_STREAM {
            return match lane.control_most {
                0 => Read::Wait,
                most => self.read_control(key, session, most),
            };
        }
        let Some(session) = session else {
            return Read::Wait;
        };
        let is_asking = lane.is_added && lane.control_most == 0;
        let running = self.sessions.get(session);
        if is_asking || !running.is_some_and(|running| running.takes_data) {
            return Read::Wait;
        }
        let lane = LaneKey(key);
        if stream & UNIDIRECTIONAL == 0 {
            self.tell(session, LanesInput::Stray { lane });
            return Read::Drained;
        }
        let (input, read) = match self.read_data(key, stream) {
            Ok((bytes, fin)) => {
                if !bytes.is_empty() {
                    self.data_moves(session);
                }
                let read = if fin { Read::Drained } else { Read::Again };
                let stream = stream / 4;
                let input = LanesInput::Data {
                    lane,
                    stream,
                    bytes,
                    fin,
                };
                (input, read)
            }
            Err(Some(read)) => return read,
            Err(None) => {
                let stream = stream / 4;
                (LanesInput::DataReset { lane, stream }, Read::Drained)
            }
        };
        self.tell(session, input);
        read
    }

    fn read_control(&mut self, key: usize, session: Option<usize>, most: usize) -> Read {
        let Some(mut buffer) = self.take_read_buffer(key) else {
            return Read::Wait;
        };
        let Some((conn, lane)) = self.connections.lane_mut(key) else {
            return Read::Drained;
        };
        let most = buffer.spare_len().min(most);
        let read = conn.read(CONTROL_STREAM, &mut buffer.spare_mut()[..most]);
        if let Ok(None) = read {
            lane.buffer = Some(buffer);
            return Read::Drained;
        }
        // A reset ends the stream as FIN does.
        let arrived = read.ok().flatten().map(|(bytes, fin)| {
            buffer.advance(bytes);
            (buffer.split(), fin)
        });
        lane.buffer = Some(buffer);
        let goes_on = matches!(arrived, Some((_, false)));
        let lane = LaneKey(key);
        match (session, arrived) {
            (Some(session), Some((bytes, fin))) => {
                self.tell(session, LanesInput::Control { lane, bytes, fin });
            }
            (Some(session), None) => {
                self.tell(session, LanesInput::ControlReset { lane });
            }
            (None, Some((bytes, fin))) => {
                self.tell_newcomer(key, NewcomerInput::Control { bytes, fin });
            }
            (None, None) => self.tell_newcomer(key, NewcomerInput::ControlReset),
        }
        if goes_on { Read::Again } else { Read::Drained }
    }

    /// Reads a data stream. Inside a chunk, bytes are gathered to whole aligned pieces first.
    /// `Err(None)`: the peer reset it.
    fn read_data(&mut self, key: usize, stream: u64) -> Result<(Bytes, bool), Option<Read>> {
        let tight = self.io.is_pool_tight();
        let lane = self.connections.lane_mut(key);
        let begun = lane.and_then(|(_, lane)| lane.take_partial(stream));
        let mut buffer = match begun {
            Some(partial) => partial,
            None => self.take_read_buffer(key).ok_or(Some(Read::Wait))?,
        };
        let Some((conn, lane)) = self.connections.lane_mut(key) else {
            return Err(Some(Read::Drained));
        };
        let piece = lane.piece(stream);
        let piece = piece.filter(|_| !tight && lane.partials() < MAX_PARTIALS);
        let mut limit = buffer.spare_len();
        if let Some(piece) = piece {
            if buffer.filled().is_empty() && limit < piece {
                // The piece is to lie in one buffer.
                buffer = self.io.pool.take().unwrap_or(buffer);
            }
            limit = (piece - buffer.filled().len()).min(buffer.spare_len());
        }
        let Ok(read) = conn.read(stream, &mut buffer.spare_mut()[..limit]) else {
            lane.meet_stream(stream / 4);
            lane.forget_stream(stream);
            return Err(None);
        };
        lane.meet_stream(stream / 4);
        let (bytes, fin) = read.unwrap_or_default();
        buffer.advance(bytes);
        let is_whole = fin
            || buffer.spare_len() == 0
            || piece.is_none_or(|piece| buffer.filled().len() >= piece);
        if !is_whole {
            lane.keep_partial(stream, buffer);
            return Err(Some(read.map_or(Read::Drained, |_| Read::Again)));
        }
        // When buffers are scarce, how long this session holds its bytes is not to matter to
        // others.
        let bytes = match tight {
            true => Bytes::copy_from_slice(buffer.filled()),
            false => buffer.split(),
        };
        lane.buffer = Some(buffer).filter(|_| !tight);
        if fin {
            lane.forget_stream(stream);
        }
        // Nothing new, but a piece begun earlier may have to go as it is: buffers became scarce.
        if read.is_none() && bytes.is_empty() {
            return Err(Some(Read::Drained));
        }
        Ok((bytes, fin))
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
