//! Bytes of a session out: control and data into a lane's QUIC, a little at a time.

use bytes::{Bytes, BytesMut};

use crate::ids::StreamKey;
use crate::proto::Input;
use crate::proto::wire::{FILLER, StreamHeader};
use crate::quic::{Conn, StreamError};
use crate::worker::Worker;
use crate::worker::lane::{CONTROL_STREAM, Lane};
use crate::worker::limits::UNSENT_BYTES;
use crate::worker::sessions::{OutStream, Running};

impl Worker {
    /// Offers queued control and stream bytes to the connection, until it has `UNSENT_BYTES`. Gives
    /// how many it took.
    pub(crate) fn feed_lane(&mut self, key: usize) -> usize {
        let mut taken = 0;
        while let Some(connection) = self.connections.get(key)
            && let unsent = connection.conn.unsent_bytes()
            && unsent < UNSENT_BYTES
        {
            match self.feed_once(key, UNSENT_BYTES - unsent) {
                0 => break,
                bytes => taken += bytes,
            }
        }
        taken
    }

    /// One round of feeding: what the state machine has queued, then what it reads because of that.
    fn feed_once(&mut self, key: usize, limit: usize) -> usize {
        let Some(session) = self.connections.lane(key).and_then(Lane::session) else {
            return 0;
        };
        let has_to_wait = self.connections.has_to_wait(&self.io, key);
        let (Some((conn, lane)), Some(running)) = (
            self.connections.lane_mut(key),
            self.sessions.get_mut(session),
        ) else {
            return 0;
        };
        let mut feed = Feed {
            key,
            conn,
            lane,
            running,
        };
        let control = feed.control();
        let data = if has_to_wait { 0 } else { feed.data(limit) };
        if data > 0 {
            let bytes = data as u64;
            running.machine.handle(self.io.now, Input::Sent { bytes });
            self.drain_session(session);
        }
        control + data
    }
}

/// One lane, and the session whose bytes it takes.
struct Feed<'a> {
    key: usize,
    conn: &'a mut Conn,
    lane: &'a mut Lane,
    running: &'a mut Running,
}

impl Feed<'_> {
    fn is_newest(&self) -> bool {
        self.running.newest_lane() == Some(self.key)
    }

    fn control(&mut self) -> usize {
        let mut taken = 0;
        let newest = self.is_newest();
        let Feed {
            conn,
            lane,
            running,
            ..
        } = self;
        while let Some(bytes) = lane.control.before.pop_front() {
            let len = bytes.len();
            let rest = offer(conn, CONTROL_STREAM, bytes);
            taken += len - rest.as_ref().map_or(0, Bytes::len);
            if let Some(rest) = rest {
                lane.control.before.push_front(rest);
                return taken;
            }
        }
        while newest && let Some(bytes) = running.control_out.pop_front() {
            let len = bytes.len();
            let rest = offer(conn, CONTROL_STREAM, bytes);
            taken += len - rest.as_ref().map_or(0, Bytes::len);
            if let Some(rest) = rest {
                // What was begun here goes on here: a lane's control stream ends between messages.
                match rest.len() < len {
                    true => lane.control.before.push_back(rest),
                    false => running.control_out.push_front(rest),
                }
                return taken;
            }
        }
        let over = !newest || (running.finished.is_some() && running.all_accepted());
        if over && !lane.control.fin_sent {
            self.end_control();
        }
        taken
    }

    fn end_control(&mut self) {
        let control = &mut self.lane.control;
        let end = control.end.take().unwrap_or(Bytes::from_static(&FILLER));
        match self.conn.send(CONTROL_STREAM, end, true) {
            Ok(None) => control.fin_sent = true,
            Ok(rest) => control.end = rest,
            // Closing: nothing is wanted any more.
            Err(
                StreamError::Stopped(_)
                | StreamError::Reset(_)
                | StreamError::Unknown
                | StreamError::Quiche(_),
            ) => {}
        }
    }

    fn data(&mut self, limit: usize) -> usize {
        let newest = self.is_newest();
        if !newest && self.running.standing.leads && !self.lane.end_announced {
            self.announce_end();
        }
        let Feed {
            key, conn, running, ..
        } = self;
        let mut taken = 0;
        let mut index = 0;
        while taken < limit && index < running.order.len() {
            let stream = running.order[index];
            let Some(out) = running.streams.get_mut(&stream) else {
                running.order.remove(index);
                continue;
            };
            let id = match out.opened {
                Some((lane, _)) if lane != *key => {
                    index += 1;
                    continue;
                }
                None if !newest => {
                    index += 1;
                    continue;
                }
                None => match conn.open_uni() {
                    Some(id) => {
                        out.opened = Some((*key, id));
                        // The header is not the state machine's: it is not reported as sent.
                        feed_header(conn, id, out, header(stream));
                        id
                    }
                    None => break, // MAX_STREAMS: earlier streams must end first
                },
                Some((_, id)) => id,
            };
            let (bytes, ended) = feed_stream(conn, id, out, limit - taken);
            taken += bytes;
            if ended {
                running.streams.remove(&stream);
                running.order.remove(index);
            } else {
                index += 1;
            }
        }
        taken
    }

    /// Tells the receiver of a replaced lane how many data streams it has, once no stream of ours
    /// has more for it: the number of this stream says it.
    fn announce_end(&mut self) {
        if self.running.has_streams_on(self.key) {
            return;
        }
        let lane = &mut self.lane;
        lane.end_stream = lane.end_stream.or_else(|| self.conn.open_uni());
        if let Some(id) = lane.end_stream {
            let end = Bytes::from_static(&[StreamHeader::LANE_END as u8]);
            // Not taken while the window is shut, as it is behind much data: with the next
            // acknowledgement then.
            lane.end_announced = !matches!(self.conn.send(id, end, true), Ok(Some(_)));
        }
    }
}

fn header(key: StreamKey) -> Bytes {
    let mut bytes = BytesMut::with_capacity(StreamHeader::MAX_BYTES);
    StreamHeader { key }.encode(&mut bytes);
    bytes.freeze()
}

/// Puts the header in; it is a few bytes on a fresh stream, so it goes whole or stays queued in
/// front.
fn feed_header(conn: &mut Conn, id: u64, out: &mut OutStream, header: Bytes) {
    if let Some(rest) = offer(conn, id, header) {
        out.queue.push_front(rest);
    }
}

/// Offers one stream's queue. Gives the bytes taken, and whether the stream is done with.
fn feed_stream(conn: &mut Conn, id: u64, out: &mut OutStream, limit: usize) -> (usize, bool) {
    let mut taken = 0;
    while taken < limit
        && let Some(bytes) = out.queue.pop_front()
    {
        let len = bytes.len();
        let last = out.queue.is_empty() && out.fin;
        match conn.send(id, bytes, last) {
            Ok(None) => {
                taken += len;
                if last {
                    return (taken, true);
                }
            }
            Ok(Some(rest)) => {
                taken += len - rest.len();
                out.queue.push_front(rest);
                return (taken, false);
            }
            // STOP_SENDING or a closing connection: what is left will not be wanted.
            Err(
                StreamError::Stopped(_)
                | StreamError::Reset(_)
                | StreamError::Unknown
                | StreamError::Quiche(_),
            ) => {
                taken += len + out.queue.iter().map(Bytes::len).sum::<usize>();
                out.queue.clear();
                return (taken, true);
            }
        }
    }
    if out.queue.is_empty() && out.fin {
        // An end alone needs no window: it fails only where nothing more is wanted, and then it is
        // over too.
        let _ = conn.send(id, Bytes::new(), true);
        return (taken, true);
    }
    (taken, false)
}

/// Offers bytes; gives back what was not taken. Bytes for a stream that is gone are dropped.
fn offer(conn: &mut Conn, id: u64, bytes: Bytes) -> Option<Bytes> {
    conn.send(id, bytes, false).unwrap_or_default()
}
