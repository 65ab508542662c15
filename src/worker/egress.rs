//! Bytes out: stream data into quiche a little at a time, packets out of it in GSO batches.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use landro_sys::{Run, SendBuffer, SendRun, SocketId};

use super::Worker;
use super::lane::{CONTROL_STREAM, Lane, Phase};
use super::log::Who;
use super::session::{OutStream, Running};
use crate::ids::StreamKey;
use crate::proto::Input;
use crate::proto::wire::{FILLER, StreamHeader};
use crate::quic::StreamError;

/// Token of sends that belong to no lane.
pub const NO_LANE: u64 = u64::MAX;

/// Batches one lane may send before others get their turn and the ring is entered: each is up to 64
/// KiB, and the kernel sends nothing before the ring is entered.
const BATCHES_PER_TURN: usize = 2;

/// Stream bytes that quiche has at hand before each batch: the batch's own, and some more, as
/// without any it would take the connection for one that has nothing to send. More grows cold while
/// it waits.
const UNSENT_BYTES: usize = 128 * 1024;

/// Most packets in one batch: the kernel's limit of segments per UDP_SEGMENT send is 128 (64 before
/// 6.9).
const PACKETS_PER_BATCH: usize = 64;

/// A datagram of its own.
pub fn single(
    socket: SocketId,
    buffer: SendBuffer,
    len: usize,
    to: SocketAddr,
    from: SocketAddr,
) -> SendRun {
    let runs = vec![Run {
        range: 0..len,
        segment_bytes: None,
    }];
    SendRun {
        socket,
        buffer,
        runs,
        to,
        from: Some(from.ip()),
    }
}

impl Worker {
    /// Sends what a lane has to say. True: there is more than one turn allows.
    pub(super) fn egress(&mut self, key: usize) -> bool {
        for _ in 0..BATCHES_PER_TURN {
            self.feed(key);
            let Some(mut buffer) = self.take_send_buffer() else {
                // All are with the kernel, whose queue is full. Trying again before one is back
                // would only burn time.
                if let Some(lane) = self.lanes.get_mut(key)
                    && !std::mem::replace(&mut lane.waiting_to_send, true)
                {
                    self.waiting_to_send.push_back(key);
                }
                return false;
            };
            let Some(lane) = self.lanes.get_mut(key) else {
                self.send_buffers.push(buffer);
                return false;
            };
            if lane
                .conn
                .release_time(self.now)
                .is_some_and(|at| at > self.now)
            {
                self.send_buffers.push(buffer);
                return false;
            }
            let mut runs = Vec::new();
            match lane
                .conn
                .fill(self.now, &mut buffer, PACKETS_PER_BATCH, &mut runs)
            {
                Some(filled) => {
                    lane.gso_packets += filled.packets as u64;
                    lane.gso_sends += runs.len() as u64;
                    let runs = runs.into_iter().map(|run| Run {
                        range: run.range,
                        segment_bytes: run.segment_bytes,
                    });
                    let run = SendRun {
                        socket: lane.socket,
                        buffer,
                        runs: runs.collect(),
                        to: filled.to,
                        from: Some(filled.from.ip()).filter(|ip| !ip.is_unspecified()),
                    };
                    self.driver.send(lane.serial, run);
                }
                None => {
                    self.send_buffers.push(buffer);
                    // Where more was thought to be unsent than there was, what was kept back for it
                    // goes now.
                    if self.feed(key) == 0 {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// As many lanes as there are free send buffers have their turn; one with nothing to send
    /// leaves its buffer to the next.
    pub(super) fn feed_waiting_to_send(&mut self) {
        for _ in 0..self.free_send_buffers() {
            let Some(key) = self.waiting_to_send.pop_front() else {
                return;
            };
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.waiting_to_send = false;
            }
            self.touch(key);
        }
    }

    /// A send completed: its buffer is free again.
    pub(super) fn sent(&mut self, lane: u64, buffer: SendBuffer, result: io::Result<usize>) {
        self.send_buffers.push(buffer);
        if let Err(error) = result {
            // EMSGSIZE: a path MTU probe that does not fit the interface; QUIC learns it as a loss.
            // EHOSTUNREACH, ENETDOWN, EPERM (a firewall): the path may come back before the idle
            // timeout.
            if self.log.admits(Who::Debug, self.now) {
                tracing::debug!(lane, %error, "datagrams were not sent");
            }
            if error.kind() == io::ErrorKind::ConnectionRefused {
                self.send_refused(lane, &error);
            }
        }
    }

    /// Offers queued control and stream bytes to the connection, until it has `UNSENT_BYTES`. Gives
    /// how many it took.
    fn feed(&mut self, key: usize) -> usize {
        let mut taken = 0;
        while let Some(lane) = self.lanes.get(key)
            && let unsent = lane.conn.unsent_bytes()
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
        let Some(lane) = self.lanes.get(key) else {
            return 0;
        };
        let Phase::Serving { session } = lane.phase else {
            return 0;
        };
        let control = self.feed_control(key, session);
        let data = if self.has_to_wait(key) {
            0
        } else {
            self.feed_data(key, session, limit)
        };
        if data > 0 {
            if let Some(running) = self.sessions.get_mut(session) {
                running
                    .machine
                    .handle(self.now, Input::Sent { bytes: data as u64 });
            }
            self.drain_session(session);
        }
        control + data
    }

    fn feed_control(&mut self, key: usize, session: usize) -> usize {
        let mut taken = 0;
        let (Some(lane), Some(running)) = (self.lanes.get_mut(key), self.sessions.get_mut(session))
        else {
            return 0;
        };
        let newest = running.newest_lane() == Some(key);
        while let Some(bytes) = lane.control.before.pop_front() {
            let len = bytes.len();
            let rest = offer(&mut lane.conn, CONTROL_STREAM, bytes);
            taken += len - rest.as_ref().map_or(0, Bytes::len);
            if let Some(rest) = rest {
                lane.control.before.push_front(rest);
                return taken;
            }
        }
        while newest && let Some(bytes) = running.control_out.pop_front() {
            let len = bytes.len();
            let rest = offer(&mut lane.conn, CONTROL_STREAM, bytes);
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
            let end = lane
                .control
                .end
                .take()
                .unwrap_or(Bytes::from_static(&FILLER));
            match lane.conn.send(CONTROL_STREAM, end, true) {
                Ok(None) => lane.control.fin_sent = true,
                Ok(rest) => lane.control.end = rest,
                // Closing: nothing is wanted any more.
                Err(
                    StreamError::Stopped(_)
                    | StreamError::Reset(_)
                    | StreamError::Unknown
                    | StreamError::Quiche(_),
                ) => {}
            }
        }
        taken
    }

    fn feed_data(&mut self, key: usize, session: usize, limit: usize) -> usize {
        let (Some(lane), Some(running)) = (self.lanes.get_mut(key), self.sessions.get_mut(session))
        else {
            return 0;
        };
        let newest = running.newest_lane() == Some(key);
        if !newest && running.standing.leads && !lane.end_announced {
            announce_end(lane, running, key);
        }
        let mut taken = 0;
        let mut index = 0;
        while taken < limit && index < running.order.len() {
            let stream = running.order[index];
            let Some(out) = running.streams.get_mut(&stream) else {
                running.order.remove(index);
                continue;
            };
            match out.opened {
                Some((lane, _)) if lane != key => {
                    index += 1;
                    continue;
                }
                None if !newest => {
                    index += 1;
                    continue;
                }
                None => match lane.conn.open_uni() {
                    Some(id) => {
                        out.opened = Some((key, id));
                        out.queue.push_front(header(stream));
                        // The header is not the state machine's: it is not reported as sent.
                        taken += feed_header(&mut lane.conn, id, out);
                    }
                    None => break, // MAX_STREAMS: earlier streams must end first
                },
                Some(_) => {}
            }
            let Some((_, id)) = out.opened else { break };
            let (bytes, ended) = feed_stream(&mut lane.conn, id, out, limit - taken);
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
}

/// Tells the receiver of a replaced lane how many data streams it has, once no stream of ours has
/// more for it: the number of this stream says it.
fn announce_end(lane: &mut Lane, running: &Running, key: usize) {
    if running
        .streams
        .values()
        .any(|out| out.opened.is_some_and(|(lane, _)| lane == key))
    {
        return;
    }
    lane.end_stream = lane.end_stream.or_else(|| lane.conn.open_uni());
    if let Some(id) = lane.end_stream {
        let end = Bytes::from_static(&[StreamHeader::LANE_END as u8]);
        // Not taken while the window is shut, as it is behind much data: with the next
        // acknowledgement then.
        lane.end_announced = !matches!(lane.conn.send(id, end, true), Ok(Some(_)));
    }
}

fn header(key: StreamKey) -> Bytes {
    let mut bytes = BytesMut::with_capacity(StreamHeader::MAX_BYTES);
    StreamHeader { key }.encode(&mut bytes);
    bytes.freeze()
}

/// Puts the header in; it is a few bytes on a fresh stream, so it goes whole or stays queued in
/// front.
fn feed_header(conn: &mut crate::quic::Conn, id: u64, out: &mut OutStream) -> usize {
    if let Some(header) = out.queue.pop_front()
        && let Some(rest) = offer(conn, id, header)
    {
        out.queue.push_front(rest);
    }
    0
}

/// Offers one stream's queue. Gives the bytes taken, and whether the stream is done with.
fn feed_stream(
    conn: &mut crate::quic::Conn,
    id: u64,
    out: &mut OutStream,
    limit: usize,
) -> (usize, bool) {
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
fn offer(conn: &mut crate::quic::Conn, id: u64, bytes: Bytes) -> Option<Bytes> {
    conn.send(id, bytes, false).unwrap_or_default()
}
