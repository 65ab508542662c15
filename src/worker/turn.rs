//! A turn: what arrived goes to the sessions, what they answer is carried out, until nothing moves.

use std::time::Instant;

use bytes::Bytes;
use landro_sys::Buffer;

use super::Worker;
use super::lane::{CONTROL_STREAM, Phase, code};
use super::link::ClientEvent;
use super::log::Who;
use super::refused::Doubt;
use super::timers::Timer;
use crate::disk;
use crate::ids::StreamKey;
use crate::proto::wire::StreamHeader;
use crate::proto::{Event, Input, Outcome, Output, Payload};
use crate::quic::StreamError;

/// A read buffer with less room than this is exchanged for a fresh one: shorter pieces cost more
/// per byte.
const MIN_READ_BYTES: usize = 8 * 1024;

/// Streams of a lane whose pieces are gathered at a time, as many as a sender uses; each holds a
/// pool buffer.
const MAX_PARTIALS: usize = 16;

/// The bit of a stream id that says so (RFC 9000 §2.1).
const UNIDIRECTIONAL: u64 = 2;

/// Read operations of one lane per turn; 16 × 64 KiB is more than arrives between two turns.
const READS_PER_TURN: usize = 16;

/// Rounds of disk operations and what follows from them before others get their turn: where
/// operations are made in place, one session's work may never pause (a journal of another boot is
/// read and hashed piece by piece).
const DISK_ROUNDS_PER_TURN: usize = 64;

impl Worker {
    /// Hands finished disk operations to their sessions and carries out what they answer.
    pub(super) fn turn_sessions(&mut self) {
        let mut finished = Vec::new();
        for _ in 0..DISK_ROUNDS_PER_TURN {
            self.disk.take_finished(&mut finished);
            if finished.is_empty() {
                break;
            }
            let mut touched: Vec<usize> = Vec::new();
            for disk::Finished {
                session,
                serial,
                op,
                result,
            } in finished.drain(..)
            {
                if let Some(running) = self.sessions.get_mut(session)
                    && running.serial == serial
                {
                    running.machine.handle(self.now, Input::Disk { op, result });
                    if touched.last() != Some(&session) {
                        touched.push(session);
                    }
                }
            }
            for session in touched {
                self.drain_session(session);
                self.touch_session_lanes(session);
            }
        }
    }

    /// One turn for each lane that something happened to.
    pub(super) fn turn_lanes(&mut self) {
        let mut lanes = std::mem::take(&mut self.touched);
        lanes.append(&mut self.unfinished);
        for &key in &lanes {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.touched = false;
                lane.unfinished = false;
            }
        }
        lanes.sort_unstable();
        lanes.dedup();
        for key in lanes {
            self.turn_lane(key);
        }
    }

    fn turn_lane(&mut self, key: usize) {
        if !self.lanes.contains(key) {
            return;
        }
        self.advance(key);
        let more_to_read = self.read_lane(key);
        self.turn_sessions();
        let more_to_send = self.egress(key);
        self.turn_sessions();
        self.weigh(key);
        if self.settle(key) {
            return;
        }
        if more_to_read || more_to_send {
            let lane = &mut self.lanes[key];
            if !lane.unfinished {
                lane.unfinished = true;
                self.unfinished.push(key);
            }
        }
        self.schedule_lane(key);
    }

    pub(super) fn schedule_lane(&mut self, key: usize) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let pacing = lane.conn.release_time(self.now).filter(|at| *at > self.now);
        let alive =
            Some(lane.heard.max(lane.pinged) + lane.quiet.unwrap_or(self.shared.quic.keep_alive));
        let alive = alive.filter(|_| matches!(lane.phase, Phase::Serving { .. }));
        // One that passed is seen to in the turn that a send buffer or pacing allows.
        let stuck = lane.conn.stuck_check().filter(|at| *at > self.now);
        let doubt = lane
            .doubt
            .as_ref()
            .map(Doubt::until)
            .filter(|_| !lane.conn.is_closing());
        let due = [
            lane.conn.timeout(),
            lane.deadline,
            pacing,
            alive,
            stuck,
            doubt,
        ]
        .into_iter()
        .flatten()
        .min();
        lane.timer.want(
            due,
            &mut self.timers,
            Timer::Lane {
                key,
                serial: lane.serial,
            },
        );
    }

    pub(super) fn touch_session_lanes(&mut self, session: usize) {
        let Some(running) = self.sessions.get(session) else {
            return;
        };
        for lane in running.lanes.clone() {
            self.touch(lane);
        }
    }

    /// Reads what is readable, as far as the session and the pool have room. True: there is more.
    fn read_lane(&mut self, key: usize) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else {
            return false;
        };
        while let Some(stream) = lane.conn.readable_next() {
            if !lane.readable.contains(&stream) {
                lane.readable.push_back(stream);
            }
        }
        let mut at = 0;
        for _ in 0..READS_PER_TURN {
            let Some(lane) = self.lanes.get(key) else {
                return false;
            };
            let Some(&stream) = lane.readable.get(at) else {
                break;
            };
            match self.read_stream(key, stream) {
                Read::Again => {}
                Read::Drained => {
                    if let Some(lane) = self.lanes.get_mut(key) {
                        lane.readable.retain(|&other| other != stream);
                    }
                }
                // Others may be read: control bytes must not wait behind data that nobody may read
                // now.
                Read::Wait => at += 1,
            }
        }
        let tight = self.is_pool_tight();
        let Some(lane) = self.lanes.get_mut(key) else {
            return false;
        };
        if tight {
            lane.buffer = None;
        }
        lane.readable.len() > at
    }

    fn read_stream(&mut self, key: usize, stream: u64) -> Read {
        let lane = &mut self.lanes[key];
        let session = match lane.phase {
            Phase::Serving { session } => session,
            Phase::Preface(_) if stream == CONTROL_STREAM => return self.read_preface(key),
            Phase::Preface(_) | Phase::Waiting { .. } | Phase::Handshaking(_) => return Read::Wait,
            Phase::Closing => return Read::Drained,
        };
        let Some(running) = self.sessions.get_mut(session) else {
            return Read::Drained;
        };
        if stream == CONTROL_STREAM {
            // Control bytes go on on a newer lane only after the older lane's ended.
            let mut older = running.lanes.iter().take_while(|&&lane| lane != key);
            let older_open = older.any(|&lane| {
                self.lanes
                    .get(lane)
                    .is_some_and(|lane| !lane.control.fin_received)
            });
            if older_open {
                return Read::Wait;
            }
        } else if !running.standing.takes_data {
            return Read::Wait;
        }
        if stream == CONTROL_STREAM {
            // What is acknowledged of our answers, or more room for them, touches the lane: then it
            // is read on.
            let waiting_bytes = || running.control_out.iter().map(Bytes::len).sum::<usize>();
            if running
                .standing
                .answers_max
                .is_some_and(|most| waiting_bytes() > most)
            {
                return Read::Wait;
            }
            return self.read_control(key, session);
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
        if let Some(running) = self.sessions.get_mut(session) {
            running.machine.handle(self.now, input);
        }
        self.drain_session(session);
        if ended { Read::Drained } else { Read::Again }
    }

    fn read_control(&mut self, key: usize, session: usize) -> Read {
        let Some(mut buffer) = self.take_read_buffer(key) else {
            return Read::Wait;
        };
        let lane = &mut self.lanes[key];
        let read = lane.conn.read(CONTROL_STREAM, buffer.spare_mut());
        let (input, fin) = match read {
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
        if let (Some(bytes), Some(running)) = (input, self.sessions.get_mut(session)) {
            running.machine.handle(self.now, Input::Control(bytes));
        }
        if fin {
            self.lanes[key].control.fin_received = true;
            self.control_ended(key, session);
        }
        self.drain_session(session);
        if fin { Read::Drained } else { Read::Again }
    }

    /// Reads a data stream. Inside a chunk, bytes are gathered to whole aligned pieces first.
    fn read_data(&mut self, key: usize, session: usize, stream: u64) -> Result<Input, Read> {
        let tight = self.is_pool_tight();
        let partial = self.lanes[key]
            .incoming
            .get_mut(&stream)
            .and_then(|incoming| incoming.partial.take());
        let mut buffer = match partial {
            Some(partial) => {
                self.lanes[key].partials -= 1;
                partial
            }
            None => self.take_read_buffer(key).ok_or(Read::Wait)?,
        };
        let (Some(running), lane) = (self.sessions.get_mut(session), &mut self.lanes[key]) else {
            return Err(Read::Drained);
        };
        let known = lane.incoming.get(&stream).map(|incoming| incoming.key);
        let piece = known.and_then(|known| running.standing.pieces.get(&known).copied());
        let piece = piece.filter(|_| !tight && lane.partials < MAX_PARTIALS);
        let mut limit = buffer.spare_len();
        if let Some(piece) = piece {
            if buffer.filled().is_empty() && limit < piece {
                // The piece is to lie in one buffer.
                buffer = self.pool.take().unwrap_or(buffer);
            }
            limit = (piece - buffer.filled().len()).min(buffer.spare_len());
        }
        match lane.conn.read(stream, &mut buffer.spare_mut()[..limit]) {
            Ok(read) => {
                let (bytes, fin) = read.unwrap_or_default();
                buffer.advance(bytes);
                let whole = fin
                    || buffer.spare_len() == 0
                    || piece.is_none_or(|piece| buffer.filled().len() >= piece);
                if !whole {
                    if let Some(incoming) = lane.incoming.get_mut(&stream) {
                        incoming.partial = Some(buffer);
                        lane.partials += 1;
                    }
                    return Err(if read.is_none() {
                        Read::Drained
                    } else {
                        Read::Again
                    });
                }
                // When buffers are scarce, how long this session holds its bytes is not to matter
                // to others.
                let bytes = match tight {
                    true => Bytes::copy_from_slice(buffer.filled()),
                    false => buffer.split(),
                };
                lane.buffer = Some(buffer).filter(|_| !tight);
                // Nothing new, but a piece begun earlier may have to go as it is: buffers became
                // scarce.
                if read.is_none() && bytes.is_empty() {
                    return Err(Read::Drained);
                }
                match incoming(lane, stream, &mut running.next_incoming, bytes, fin) {
                    Ok(Some(input)) => Ok(input),
                    Ok(None) => Err(Read::Again),
                    Err(reason) => {
                        self.violation(key, &reason);
                        Err(Read::Drained)
                    }
                }
            }
            Err(
                StreamError::Reset(_)
                | StreamError::Stopped(_)
                | StreamError::Unknown
                | StreamError::Quiche(_),
            ) => match lane.incoming.remove(&stream) {
                Some(incoming) => Ok(Input::DataReset {
                    stream: incoming.key,
                }),
                None => Err(Read::Drained),
            },
        }
    }

    /// The lane's read buffer, or a fresh one when little of it is left.
    pub(super) fn take_read_buffer(&mut self, key: usize) -> Option<Buffer> {
        match self.lanes[key].buffer.take() {
            Some(buffer) if buffer.spare_len() >= MIN_READ_BYTES => Some(buffer),
            _ => {
                let buffer = self.pool.take();
                if buffer.is_none() && !self.hungry.contains(&key) {
                    self.hungry.push(key);
                }
                buffer
            }
        }
    }

    /// More than half of the pool is in use: idle lanes then hold none of it, and pieces are not
    /// waited for, so that silent peers cannot keep it from others.
    pub(super) fn is_pool_tight(&self) -> bool {
        self.pool.in_use() > self.pool.capacity() / 2
    }

    /// Carries out everything a session wants, until it wants nothing.
    pub(super) fn drain_session(&mut self, session: usize) {
        while let Some(running) = self.sessions.get_mut(session) {
            let Some(output) = running.machine.poll() else {
                break;
            };
            match output {
                Output::Control(bytes) => running.control_out.push_back(bytes),
                Output::Data {
                    stream,
                    payload,
                    fin,
                } => match payload {
                    Payload::Bytes(bytes) => running.queue(stream, bytes, fin),
                    Payload::Range { .. } => unreachable!("QUIC says that it takes no ranges"),
                },
                Output::Piece { stream, bytes } => {
                    match bytes {
                        Some(bytes) => running.standing.pieces.insert(stream, bytes),
                        None => running.standing.pieces.remove(&stream),
                    };
                }
                Output::TakesData(takes_data) => running.standing.takes_data = takes_data,
                Output::AnswersMax(most) => running.standing.answers_max = most,
                Output::Copy(_) => unreachable!("QUIC says that it carries bytes"),
                Output::Leads => running.standing.leads = true,
                Output::Disk { op, cmd } => {
                    let space = running.space.clone();
                    self.disk.start(session, running.serial, &space, op, cmd);
                }
                Output::Event(event) => self.report(session, event),
                Output::Finished(outcome) => self.finish(session, outcome),
            }
        }
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        let key = Timer::Session {
            key: session,
            serial: running.serial,
        };
        running
            .timer
            .want(running.machine.deadline(), &mut self.timers, key);
        self.weigh_session(session);
    }

    fn report(&mut self, session: usize, event: Event) {
        let running = &mut self.sessions[session];
        match (&self.client, running.is_client) {
            (Some(client), true) => client.tell(ClientEvent::Session(event)),
            _ => self
                .log
                .event(&mut running.log, &running.peer, &event, self.now),
        }
    }

    fn finish(&mut self, session: usize, outcome: Outcome) {
        let running = &mut self.sessions[session];
        self.log
            .outcome(running.log, &running.peer, &outcome, self.now);
        let violation = match &outcome {
            Outcome::Violation(reason) => Some(reason.clone()),
            _ => None,
        };
        let lanes = running.lanes.clone();
        // A client that got its answer hangs up; one that is cut off for a while gets it when it is
        // back.
        let answered = matches!(outcome, Outcome::Complete(_) | Outcome::Refused(_));
        let patience = match answered && !running.is_client && self.stopping.is_none() {
            true => self.shared.quic.idle_timeout,
            false => super::lane::LINGER,
        };
        let patience = running.revoked.map_or(patience, |_| super::lane::LINGER);
        running.finished = Some(outcome);
        for key in lanes {
            let Some(lane) = self.lanes.get_mut(key) else {
                continue;
            };
            match &violation {
                Some(reason) => self.close_lane(key, code::VIOLATION, reason),
                None => lane.deadline = Some(self.now + patience),
            }
            self.touch(key);
        }
        self.end_if_over(session);
    }

    pub(super) fn expire_timers(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.take_due(self.now, &mut due);
        for timer in due.drain(..) {
            match timer {
                Timer::Lane { key, serial } => {
                    let Some(lane) = self.lanes.get_mut(key) else {
                        continue;
                    };
                    if lane.serial == serial && lane.timer.surfaced(self.now) {
                        self.lane_due(key);
                    }
                }
                Timer::Session { key, serial } => {
                    let Some(running) = self.sessions.get_mut(key) else {
                        continue;
                    };
                    if running.serial == serial && running.timer.surfaced(self.now) {
                        if running.machine.deadline().is_some_and(|at| at <= self.now) {
                            running.machine.handle(self.now, Input::Tick);
                        }
                        self.drain_session(key);
                        self.touch_session_lanes(key);
                    }
                }
            }
        }
        self.due = due;
    }

    fn lane_due(&mut self, key: usize) {
        let lane = &mut self.lanes[key];
        if lane
            .conn
            .timeout()
            .is_some_and(|at: Instant| at <= self.now)
        {
            lane.conn.on_timeout(self.now);
        }
        lane.measure_quiet();
        let alive = lane.heard.max(lane.pinged) + lane.quiet.unwrap_or(self.shared.quic.keep_alive);
        if alive <= self.now && matches!(lane.phase, Phase::Serving { .. }) {
            lane.pinged = self.now;
            lane.conn.keep_alive();
            if let Some(running) = lane
                .session()
                .and_then(|session| self.sessions.get(session))
                && self.log.admits(Who::Debug, self.now)
            {
                tracing::debug!(
                    peer = %lane.peer,
                    lane.readable = ?lane.readable,
                    lane.partials,
                    may_read = running.standing.takes_data,
                    queued_streams = running.order.len(),
                    queued_control = running.control_out.len(),
                    disk_operations = self.disk.in_flight(),
                    pool = self.pool.in_use(),
                    path = ?lane.conn.snapshot(),
                    streams = ?running.streams.iter().map(|(key, out)| (key.0, out.opened, out.queue.len(), out.fin)).collect::<Vec<_>>(),
                    "silence; asking for a sign of life"
                );
            }
        }
        self.review_doubt(key);
        let lane = &mut self.lanes[key];
        if lane.deadline.is_some_and(|at| at <= self.now) {
            lane.deadline = None;
            self.overdue(key);
        }
        self.touch(key);
    }

    /// Lanes and disk tasks that waited for pool buffers look again; sessions that could not be
    /// read may be now.
    pub(super) fn feed_hungry(&mut self) {
        if !self.hungry.is_empty() && self.pool.in_use() < self.pool.capacity() {
            for key in std::mem::take(&mut self.hungry) {
                self.touch(key);
            }
        }
    }
}

pub(super) enum Read {
    /// There may be more on this stream.
    Again,
    /// Nothing more on this stream for now, or ever.
    Drained,
    /// Not now: the session takes nothing, or there is no buffer.
    Wait,
}

/// A data stream of the peer: its header, then its records.
pub struct Incoming {
    pub key: StreamKey,
    /// Header bytes so far; None once it is complete.
    header: Option<Vec<u8>>,
    /// The beginning of a piece of a chunk, the rest of which has not arrived.
    partial: Option<Buffer>,
}

fn incoming(
    lane: &mut super::lane::Lane,
    stream: u64,
    next: &mut u32,
    mut bytes: Bytes,
    fin: bool,
) -> Result<Option<Input>, String> {
    let incoming = lane.incoming.entry(stream).or_insert_with(|| {
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
            lane.incoming.remove(&stream);
            // Unidirectional streams count up in steps of four (RFC 9000 §2.1), so its number
            // counts those before.
            lane.streams_announced = Some(stream / 4);
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
        lane.incoming.remove(&stream);
        lane.streams_read += 1;
    }
    Ok(Some(Input::Data {
        stream: key,
        bytes,
        fin,
    }))
}
