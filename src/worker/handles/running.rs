//! The worker's part of a connection with handles: what they left goes to the transport, what
//! arrived is left for them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::attached::Attached;
use super::order::SendOrder;
use super::pipe::{Pipe, ReadBytes, ReceivePhase, SendPhase, ToSend};
use super::read_buffers::{READ_BYTES, ReadBuffers};
use super::running_stream::{Fed, RunningStream, Sends};
use super::tickets::Tickets;
use super::told::ToldEvents;
use crate::quic::{
    CloseReason, Conn, DATA_URGENCY, DatagramRefusal, STOPPED_MAX, SendState, StreamDirection,
    StreamError, URGENCIES,
};

/// Stream bytes that may wait unsent in the transport: what waits for long is cold in cache when it
/// is sealed.
const UNSENT_BYTES: usize = 128 << 10;

/// A read of so much hands its buffer on; less is copied out of it, for what is kept counts as what
/// it is and not as what it holds.
const HANDED_ON_BYTES: usize = READ_BYTES / 2;

/// What is kept for all handles of a connection that do not read, divided among its streams; what
/// is beyond that stays with the transport, whose windows are in the memory budget.
const KEPT_BYTES: usize = 1 << 20;
/// And of one stream: less would cost a turn for each read, more helps nobody on a LAN.
const KEPT_OF_ONE: std::ops::RangeInclusive<usize> = (16 << 10)..=(256 << 10);

/// Streams that have ended and that nobody has read out; with more, only what a handle waits for is
/// read. They divide the above like all others, so that they keep less than 5 MiB together.
const UNREAD_MAX: usize = 64;

/// Reads in one turn, before other connections have theirs.
const READS_PER_TURN: usize = 16;

/// How old statistics may be.
const MEASURED_EVERY: Duration = Duration::from_millis(100);

/// What runs on a connection with handles.
pub(crate) struct StreamsApp {
    pub(super) attached: Arc<Attached>,
    streams: HashMap<u64, RunningStream>,
    /// Those with something to send.
    sending: SendOrder,
    /// Those with something to read, in the order of their turns.
    readable: VecDeque<u64>,
    /// Streams of the peer that found no room among those that wait to be accepted.
    newcomers: VecDeque<u64>,
    known_newcomers: HashSet<u64>,
    /// How many have ended and are not read out.
    unread: usize,
    /// Those that were stopped, as long as the transport holds their places.
    stopped: Vec<u64>,
    /// Packets that had come when the sending halves were last looked at.
    looked_at: u64,
    measured_at: Option<Instant>,
    /// Packets that had come and gone by then, and whether there were others since.
    measured_packets: u64,
    is_stale: bool,
    /// Where the peer's ticket goes that the next connection is resumed with, and as what.
    pub(super) keeps_ticket: Option<(Arc<Tickets>, String)>,
    /// What listeners were told already.
    told: ToldEvents,
    asked: Vec<Arc<Pipe>>,
    /// The question for a sign of life that the peer has not answered, and how many of its packets
    /// had come before.
    question: Option<(u64, u64)>,
    /// How often the peer was asked.
    questions: u64,
}

impl Drop for StreamsApp {
    /// Whatever becomes of the worker, nobody waits for it for ever.
    fn drop(&mut self) {
        self.end(CloseReason::GivenUp("its worker ended".to_owned()));
    }
}

impl StreamsApp {
    pub(crate) fn new(attached: Arc<Attached>) -> StreamsApp {
        StreamsApp {
            attached,
            streams: HashMap::new(),
            sending: SendOrder::default(),
            readable: VecDeque::new(),
            newcomers: VecDeque::new(),
            known_newcomers: HashSet::new(),
            unread: 0,
            stopped: Vec::new(),
            looked_at: 0,
            measured_at: None,
            measured_packets: 0,
            is_stale: false,
            keeps_ticket: None,
            told: ToldEvents::default(),
            asked: Vec::new(),
            question: None,
            questions: 0,
        }
    }

    /// Takes what handles left. Gives how the connection is to be closed, if it is.
    pub(crate) fn take_wishes(&mut self, conn: &mut Conn) -> Option<(u64, String)> {
        // First: a stream that the peer stopped is one that it has all of once others are opened.
        let received = conn.received_packets();
        if std::mem::replace(&mut self.looked_at, received) != received {
            self.look_at_sending(conn);
        }
        let mut asked = std::mem::take(&mut self.asked);
        self.attached.begin_turn(&mut asked);
        // Behind that: a question that comes after it was looked for wants another turn.
        self.ask_for_life(conn);
        for pipe in asked.drain(..) {
            pipe.is_asked.store(false, Ordering::Release);
            self.look_at(conn, &pipe);
        }
        self.asked = asked;
        for direction in [
            StreamDirection::Bidirectional,
            StreamDirection::Unidirectional,
        ] {
            let mut is_opened = false;
            while self.attached.wants_stream(direction)
                && let Some(stream) = conn.open(direction)
            {
                let is_receiving = direction == StreamDirection::Bidirectional;
                let pipe = self.insert(conn, stream, (Sends::Open, is_receiving));
                self.attached.opened(direction, pipe);
                is_opened = true;
            }
            if conn.is_established() {
                self.told.note_credit(&self.attached, direction, is_opened);
            }
        }
        self.attached.take_close()
    }

    /// Whatever the peer sends behind a question answers it. What is not sealed by its key does not
    /// count: anybody could have sent that.
    fn ask_for_life(&mut self, conn: &mut Conn) {
        let received = || conn.snapshot().received_packets;
        if let Some((question, before)) = self.question
            && received() > before
        {
            self.attached.answered(question);
            self.question = None;
        }
        let question = self.attached.question();
        // Before the handshake is complete there is no answer, and each question were a packet.
        if question != self.questions && !conn.is_early() {
            self.questions = question;
            self.question = Some((question, received()));
            conn.keep_alive();
            self.attached.sent(question);
        }
    }

    /// A handle did something with a stream.
    fn look_at(&mut self, conn: &mut Conn, pipe: &Arc<Pipe>) {
        let stream = pipe.id;
        let Some(running) = self.streams.get_mut(&stream) else {
            return;
        };
        let urgency = pipe.urgency();
        let urgency_before = std::mem::replace(&mut running.urgency, urgency);
        if urgency != urgency_before {
            conn.prioritise(stream, urgency);
            if running.is_in_sending {
                self.sending.transfer(stream, urgency_before, urgency);
            }
        }
        match pipe.send_phase() {
            SendPhase::Open | SendPhase::Finishing => {
                if running.sends == Sends::Open && !running.is_in_sending {
                    running.is_in_sending = true;
                    self.sending.push(stream, running.urgency);
                }
            }
            SendPhase::Reset(code) if running.sends != Sends::Over => {
                conn.shutdown_write(stream, code);
                running.stop_sending();
            }
            SendPhase::Reset(_)
            | SendPhase::Delivered
            | SendPhase::Stopped(_)
            | SendPhase::Lost => {}
        }
        if let ReceivePhase::Stopped(code) = pipe.receive_phase() {
            running.discards = Some(code);
        }
        // Not for each write: most have nothing to do with reading.
        if pipe.take_read_wish() && running.is_receiving && !running.is_in_readable {
            running.is_in_readable = true;
            self.readable.push_back(stream);
        }
        if running.is_unread && pipe.is_read_out() {
            running.is_unread = false;
            self.unread -= 1;
        }
        self.forget_if_over(stream);
    }

    fn insert(
        &mut self,
        conn: &Conn,
        stream: u64,
        (sends, is_receiving): (Sends, bool),
    ) -> Arc<Pipe> {
        let is_early = conn.is_early() && conn.is_server();
        let pipe = Arc::new(Pipe::new(stream, is_early));
        let running = RunningStream {
            pipe: Arc::clone(&pipe),
            rest: None,
            waits_until: None,
            waits_since: None,
            losses_before: conn.losses(),
            mark: Arc::default(),
            sends,
            urgency: DATA_URGENCY,
            is_receiving,
            is_unread: false,
            discards: None,
            is_in_sending: false,
            is_in_readable: false,
        };
        self.streams.insert(stream, running);
        pipe
    }

    fn forget_if_over(&mut self, stream: u64) {
        let is_over = |running: &RunningStream| {
            running.sends == Sends::Over && !running.is_receiving && !running.is_unread
        };
        if self.streams.get(&stream).is_some_and(is_over) {
            self.streams.remove(&stream);
        }
    }
}

/// What arrives.
impl StreamsApp {
    /// Reads what handles have room for. True: there is more than one turn allows.
    pub(crate) fn read(&mut self, conn: &mut Conn, buffers: &mut ReadBuffers) -> bool {
        while let Some(datagram) = conn.next_datagram() {
            self.attached.arrived(datagram);
        }
        while let Some(stream) = conn.readable_next() {
            self.became_readable(conn, stream);
        }
        self.let_in(conn);
        let mut reads = 0;
        while reads < READS_PER_TURN
            && let Some(stream) = self.readable.pop_front()
        {
            reads += 1;
            if self.read_stream(conn, stream, buffers) {
                self.readable.push_back(stream);
            } else if let Some(running) = self.streams.get_mut(&stream) {
                running.is_in_readable = false;
            }
        }
        !self.readable.is_empty()
    }

    /// Packets came: what the peer stopped, and what it has all of.
    fn look_at_sending(&mut self, conn: &mut Conn) {
        let mut over = Vec::new();
        for (stream, running) in &mut self.streams {
            let ended = running.sends.has_ended();
            let phase = match (running.sends, conn.send_state(*stream)) {
                (Sends::Over, _) | (_, SendState::Open) => continue,
                (_, SendState::Stopped(code)) => SendPhase::Stopped(code),
                (_, SendState::Gone) if ended => SendPhase::Delivered,
                (_, SendState::Gone) => SendPhase::Lost,
            };
            running.stop_sending();
            running.pipe.end_sending(phase);
            over.push(*stream);
        }
        for (stream, running) in &mut self.streams {
            if let Some(phase) = running.cut(conn) {
                self.unread += running.end_receiving(phase);
                over.push(*stream);
            }
        }
        for stream in over {
            self.forget_if_over(stream);
        }
        self.stopped
            .retain(|stream| conn.send_state(*stream) != SendState::Gone);
    }

    fn became_readable(&mut self, conn: &Conn, stream: u64) {
        match self.streams.get_mut(&stream) {
            Some(running) if running.is_receiving && !running.is_in_readable => {
                running.is_in_readable = true;
                self.readable.push_back(stream);
            }
            Some(_) => {}
            // One of ours that is over, or one of the peer's that is new.
            None if stream & 1 == u64::from(conn.is_server()) => {}
            None => {
                if self.known_newcomers.insert(stream) {
                    self.newcomers.push_back(stream);
                }
            }
        }
    }

    /// Streams of the peer become handles as far as there is room.
    fn let_in(&mut self, conn: &mut Conn) {
        for _ in 0..self.newcomers.len() {
            let Some(stream) = self.newcomers.pop_front() else {
                return;
            };
            let direction = StreamDirection::of(stream);
            if !self.attached.has_room_for_incoming(direction) {
                self.newcomers.push_back(stream);
                continue;
            }
            self.known_newcomers.remove(&stream);
            let sends = match direction {
                StreamDirection::Bidirectional => {
                    conn.adopt(stream);
                    Sends::Open
                }
                StreamDirection::Unidirectional => Sends::Over,
            };
            let pipe = self.insert(conn, stream, (sends, true));
            self.attached.incoming(direction, pipe);
            if let Some(running) = self.streams.get_mut(&stream) {
                running.is_in_readable = true;
                self.readable.push_back(stream);
            }
        }
    }

    /// One read. True: there may be more.
    fn read_stream(&mut self, conn: &mut Conn, stream: u64, buffers: &mut ReadBuffers) -> bool {
        let most = (KEPT_BYTES / self.streams.len().max(1))
            .clamp(*KEPT_OF_ONE.start(), *KEPT_OF_ONE.end());
        let Some(running) = self.streams.get_mut(&stream) else {
            return false;
        };
        let room_bytes = match running.discards {
            Some(_) => READ_BYTES,
            None => {
                let is_crowded = self.unread >= UNREAD_MAX;
                running.pipe.room_bytes(most, is_crowded).min(READ_BYTES)
            }
        };
        if !running.is_receiving || room_bytes == 0 {
            return false;
        }
        let phase = match conn.read(stream, &mut buffers.next()[..room_bytes]) {
            Ok(None) => match running.discards {
                // Everything that is here was dropped, and the peer is told to send no more.
                Some(code) if self.stopped.len() < STOPPED_MAX as usize => {
                    conn.shutdown_read(stream, code);
                    self.stopped.push(stream);
                    ReceivePhase::Stopped(code)
                }
                Some(_) | None => return false,
            },
            Ok(Some((bytes, fin))) => {
                running.pipe.arrive(match bytes >= HANDED_ON_BYTES {
                    true => ReadBytes::Buffer(buffers.hand_on(bytes)),
                    false => ReadBytes::Little(&buffers.next()[..bytes]),
                });
                if !fin {
                    return true;
                }
                ReceivePhase::Ended
            }
            Err(StreamError::Reset(code)) => ReceivePhase::Reset(code),
            Err(StreamError::Stopped(_) | StreamError::Unknown | StreamError::Quiche(_)) => {
                ReceivePhase::Lost
            }
        };
        self.unread += running.end_receiving(phase);
        // The last thing it waited for, perhaps.
        if running.sends.has_ended() && conn.send_state(stream) == SendState::Gone {
            running.stop_sending();
            running.pipe.end_sending(SendPhase::Delivered);
        }
        self.forget_if_over(stream);
        false
    }
}

/// What leaves.
impl StreamsApp {
    /// Gives the transport what it has room for. Gives how many bytes that were.
    pub(crate) fn feed(&mut self, conn: &mut Conn, now: Instant) -> usize {
        let mut given = 0;
        while let Some(datagram) = self.attached.next_to_send() {
            match conn.send_datagram(&datagram) {
                Ok(()) => given += datagram.len(),
                // It was as large as the path carried when it was left here, perhaps.
                Err(DatagramRefusal::TooLarge) => {}
                Err(DatagramRefusal::Full) => {
                    self.attached.put_back(datagram);
                    break;
                }
            }
        }
        for urgency in 0..URGENCIES {
            given += self.feed_streams(conn, urgency, now);
        }
        given
    }

    /// The same of the streams of one urgency.
    fn feed_streams(&mut self, conn: &mut Conn, urgency: u8, now: Instant) -> usize {
        let (mut given, mut blocked) = (0, 0);
        while conn.unsent_bytes() < UNSENT_BYTES
            && blocked < self.sending.of(urgency).len()
            && let Some(stream) = self.sending.of(urgency).pop_front()
        {
            match self.feed_stream(conn, stream, now) {
                Fed::Bytes(bytes) => {
                    given += bytes;
                    blocked = 0;
                    self.sending.push(stream, urgency);
                }
                Fed::Blocked => {
                    blocked += 1;
                    self.sending.push(stream, urgency);
                }
                Fed::Nothing => {
                    if let Some(running) = self.streams.get_mut(&stream) {
                        running.is_in_sending = false;
                    }
                    self.forget_if_over(stream);
                }
            }
        }
        given
    }

    /// One piece of a stream.
    fn feed_stream(&mut self, conn: &mut Conn, stream: u64, now: Instant) -> Fed {
        let Some(running) = self.streams.get_mut(&stream) else {
            return Fed::Nothing;
        };
        if matches!(running.sends, Sends::Ending | Sends::Repeating) {
            return running.end_alone(conn, now);
        }
        if running.sends != Sends::Open {
            return Fed::Nothing;
        }
        let (bytes, is_last) = match running.next_piece(now) {
            ToSend::Piece { bytes, is_last } => (bytes, is_last),
            ToSend::Nothing if running.waits_until.is_some() => return Fed::Blocked,
            ToSend::Nothing => return Fed::Nothing,
            ToSend::End => {
                running.sends = Sends::Ending;
                return running.end_alone(conn, now);
            }
        };
        let len = bytes.len();
        match conn.write(stream, (bytes, is_last), &running.mark) {
            Ok(None) => {
                if is_last {
                    running.sends = Sends::Ended;
                }
                Fed::Bytes(len)
            }
            Ok(Some(rest)) => {
                let taken = len - rest.len();
                // Before the byte that is kept back, if one is.
                running.put_back(rest, is_last);
                match taken {
                    0 => Fed::Blocked,
                    _ => Fed::Bytes(taken),
                }
            }
            Err(error) => {
                running.failed(error);
                Fed::Nothing
            }
        }
    }

    /// When something is to be sent though nothing happens.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waiting = self.sending.iter();
        let running = waiting.filter_map(|stream| self.streams.get(stream));
        let streams = running.filter_map(|running| running.waits_until).min();
        let measures = self.measured_at.map(|at| at + MEASURED_EVERY);
        let tells = measures.filter(|_| self.is_stale || self.told.has_more());
        streams.into_iter().chain(tells).min()
    }

    /// After a turn: what the path is like.
    pub(crate) fn settle(&mut self, conn: &Conn, now: Instant) {
        let packets = conn.packets_sent() + conn.received_packets();
        if self.measured_at.is_none_or(|at| at + MEASURED_EVERY <= now) {
            self.measured_at = Some(now);
            self.measured_packets = packets;
            self.measure(conn);
            self.told.tell(&self.attached, conn);
        }
        self.is_stale = packets != self.measured_packets;
        self.told.look(&self.attached, conn);
        self.note_handshake(conn, now);
    }

    pub(crate) fn measure(&self, conn: &Conn) {
        self.attached.set_most_datagram(conn.most_datagram_bytes());
        self.attached
            .measured(&conn.snapshot(), conn.dropped_datagrams());
    }

    /// The connection is over, and all that it has with it.
    pub(crate) fn end(&mut self, reason: CloseReason) {
        for (_, running) in self.streams.drain() {
            running.pipe.end_sending(SendPhase::Lost);
            running.pipe.end_receiving(ReceivePhase::Lost);
        }
        self.sending.clear();
        self.readable.clear();
        self.newcomers.clear();
        self.attached.ended(reason);
    }

    /// Nothing more is read.
    pub(crate) fn stop_reading(&mut self) {
        self.readable.clear();
    }
}
