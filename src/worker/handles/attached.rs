//! One connection between its handles and its worker: who wants what, what came, and why it is
//! over.
//!
//! A handle leaves a wish and has the connection given a turn; the worker takes what is there,
//! leaves what arrived, and wakes who waits. No lock is held while anybody waits.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use event_listener::{Event, EventListener};

use super::events::{ConnectionEvent, EventLog};
use super::pipe::Pipe;
use crate::ids::Fingerprint;
use crate::quic::{CloseReason, PathSnapshot, StreamDirection};
use crate::worker::wanted::WantedTurns;

/// Datagrams that wait in either direction; older ones are dropped for newer ones.
const DATAGRAMS_MAX: usize = 64;

/// Streams of the peer, of one direction, that wait to be accepted. The others stay with the
/// transport, and their peer has no credit for more.
const INCOMING_MAX: usize = 64;

/// What is known of a connection from its handshake on.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) peer: Fingerprint,
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Vec<u8>,
    pub(crate) is_server: bool,
    /// It began to be used before its handshake was complete.
    pub(crate) began_early: bool,
}

/// Numbers of a connection's path, as of some moment within the last tenth of a second, or of its
/// end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStatistics {
    /// Smoothed round-trip time (RFC 9002 §5.3).
    pub rtt: Duration,
    /// Least round-trip time; `None` before the first sample.
    pub min_rtt: Option<Duration>,
    /// Congestion window, in bytes.
    pub cwnd_bytes: u64,
    /// QUIC packets that left.
    pub sent_packets: u64,
    /// QUIC packets that came.
    pub received_packets: u64,
    /// Packets declared lost (RFC 9002 §6).
    pub lost_packets: u64,
    /// UDP payload that left.
    pub sent_bytes: u64,
    /// UDP payload that came.
    pub received_bytes: u64,
    /// Datagrams that were dropped here for newer ones, in either direction.
    pub dropped_datagrams: u64,
    /// NUMA node whose core the connection's worker was on at that moment. Workers of a program are
    /// not pinned, so it may change; on a machine of one node it is 0. `None` before the first
    /// measurement, and where the kernel does not say.
    pub numa_node: Option<u32>,
}

/// Streams of one direction that are not handles yet.
#[derive(Default)]
pub(super) struct Openings {
    /// How many callers wait for one of ours.
    wanted: usize,
    opened: VecDeque<Arc<Pipe>>,
    /// The peer's.
    incoming: VecDeque<Arc<Pipe>>,
}

#[derive(Default)]
struct AttachedState {
    end: Option<CloseReason>,
    /// Of one that began early: whether early data was taken as that, once it is known.
    took_early: Option<bool>,
    /// A handle wants it closed, and the worker has not heard of it.
    close: Option<(u64, String)>,
    /// The first wish of that kind, which stays: nothing more comes of the connection.
    closing: Option<(u64, String)>,
    bidirectional: Openings,
    unidirectional: Openings,
    /// Streams that the worker is to look at.
    asked: Vec<Arc<Pipe>>,
    to_send: VecDeque<Bytes>,
    arrived: VecDeque<Bytes>,
    statistics: ConnectionStatistics,
    events: EventLog,
    dropped_to_send: u64,
    dropped_arrived: u64,
}

impl AttachedState {
    fn openings(&mut self, direction: StreamDirection) -> &mut Openings {
        match direction {
            StreamDirection::Bidirectional => &mut self.bidirectional,
            StreamDirection::Unidirectional => &mut self.unidirectional,
        }
    }
}

/// A connection with handles.
pub(crate) struct Attached {
    pub(crate) facts: Facts,
    turns: Arc<WantedTurns>,
    /// In the worker's table.
    key: usize,
    serial: u64,
    /// It stands in the list of those that are to have a turn.
    wants_turn: AtomicBool,
    state: Mutex<AttachedState>,
    /// Something happened that a caller may wait for.
    changed: Event,
    most_datagram_bytes: AtomicUsize,
    /// How often a handle has asked for a sign of life, which of these questions is the last that
    /// the peer was sent, and which the last that something of it came behind.
    asked: AtomicU64,
    sent: AtomicU64,
    answered: AtomicU64,
}

/// Where a connection is: on whose list, in its worker's table, and which of those that had the
/// place.
pub(crate) struct Place {
    pub(crate) turns: Arc<WantedTurns>,
    pub(crate) key: usize,
    pub(crate) serial: u64,
}

impl Attached {
    pub(crate) fn new(facts: Facts, place: Place) -> Attached {
        let Place { turns, key, serial } = place;
        Attached {
            facts,
            turns,
            key,
            serial,
            wants_turn: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Event::new(),
            most_datagram_bytes: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, AttachedState> {
        // Every critical section leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want_turn(&self) {
        if !self.wants_turn.swap(true, Ordering::AcqRel) {
            self.turns.want(self.key, self.serial);
        }
    }
}

/// The handles' side.
impl Attached {
    /// Resolves when something happens; to be made before what is waited for is looked at.
    pub(crate) fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    pub(crate) fn end(&self) -> Option<CloseReason> {
        self.state().end.clone()
    }

    /// Whether early data was taken as that; `None` as long as it is not known.
    pub(crate) fn took_early(&self) -> Option<bool> {
        match self.facts.began_early {
            true => self.state().took_early,
            false => Some(false),
        }
    }

    pub(crate) fn close(&self, code: u64, reason: &str) {
        let mut state = self.state();
        let wish = state.closing.get_or_insert((code, reason.to_owned()));
        let wish = wish.clone();
        state.close.get_or_insert(wish);
        drop(state);
        self.want_turn();
    }

    /// How a handle closed it, if one did, whether or not the worker has come to it.
    pub(crate) fn closing(&self) -> Option<(u64, String)> {
        self.state().closing.clone()
    }

    /// The worker is to look at a stream.
    pub(crate) fn ask(&self, pipe: &Arc<Pipe>) {
        if pipe.ask() {
            self.state().asked.push(Arc::clone(pipe));
        }
        self.want_turn();
    }

    /// One more caller waits for a stream of ours, or one less.
    pub(crate) fn want_stream(&self, direction: StreamDirection, wants: bool) {
        let mut state = self.state();
        let openings = state.openings(direction);
        match wants {
            true => openings.wanted += 1,
            false => openings.wanted -= 1,
        }
        let is_missing = openings.opened.len() < openings.wanted;
        drop(state);
        if is_missing {
            self.want_turn();
        }
    }

    /// A stream of ours for who wants one.
    pub(crate) fn take_opened(&self, direction: StreamDirection) -> Option<Arc<Pipe>> {
        self.state().openings(direction).opened.pop_front()
    }

    /// A stream of the peer.
    pub(crate) fn take_incoming(&self, direction: StreamDirection) -> Option<Arc<Pipe>> {
        let mut state = self.state();
        let incoming = &mut state.openings(direction).incoming;
        let was_full = incoming.len() >= INCOMING_MAX;
        let pipe = incoming.pop_front();
        drop(state);
        if was_full {
            self.want_turn();
        }
        pipe
    }

    pub(crate) fn send_datagram(&self, bytes: Bytes) {
        let mut state = self.state();
        if state.to_send.len() >= DATAGRAMS_MAX {
            state.to_send.pop_front();
            state.dropped_to_send += 1;
        }
        state.to_send.push_back(bytes);
        drop(state);
        self.want_turn();
    }

    pub(crate) fn take_datagram(&self) -> Option<Bytes> {
        self.state().arrived.pop_front()
    }

    /// 0: the peer takes none.
    pub(crate) fn most_datagram_bytes(&self) -> usize {
        self.most_datagram_bytes.load(Ordering::Relaxed)
    }

    /// The place of whoever listens from now on.
    pub(crate) fn events_end(&self) -> u64 {
        self.state().events.end()
    }

    pub(crate) fn take_event(&self, place: &mut u64) -> Option<ConnectionEvent> {
        self.state().events.take(place)
    }

    pub(crate) fn statistics(&self) -> ConnectionStatistics {
        self.state().statistics.clone()
    }

    /// Has the peer asked for a sign of life (PING, RFC 9000 §19.2). Gives the question's number.
    pub(crate) fn ask_for_life(&self) -> u64 {
        let question = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.want_turn();
        question
    }

    /// Whether the peer was sent that question, or a later one.
    pub(crate) fn was_asked(&self, question: u64) -> bool {
        self.sent.load(Ordering::Acquire) >= question
    }

    /// Whether something of the peer came behind that question.
    pub(crate) fn has_answered(&self, question: u64) -> bool {
        self.answered.load(Ordering::Acquire) >= question
    }
}

/// The worker's side.
impl Attached {
    /// What handles left is looked at now: whoever leaves something later wants another turn.
    pub(super) fn begin_turn(&self, asked: &mut Vec<Arc<Pipe>>) {
        // What was left before a turn was wanted is to be seen behind this, the questions included,
        // which no lock orders.
        self.wants_turn.swap(false, Ordering::AcqRel);
        asked.append(&mut self.state().asked);
    }

    /// The handshake is complete.
    pub(super) fn set_took_early(&self, took: bool) {
        self.state().took_early = Some(took);
        self.changed.notify(usize::MAX);
    }

    pub(super) fn take_close(&self) -> Option<(u64, String)> {
        self.state().close.take()
    }

    /// The last question for a sign of life.
    pub(super) fn question(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    pub(super) fn sent(&self, question: u64) {
        self.sent.store(question, Ordering::Release);
    }

    pub(super) fn answered(&self, question: u64) {
        self.answered.store(question, Ordering::Release);
    }

    /// Whether another stream of ours is to be opened.
    pub(super) fn wants_stream(&self, direction: StreamDirection) -> bool {
        let mut state = self.state();
        let openings = state.openings(direction);
        openings.opened.len() < openings.wanted
    }

    pub(super) fn opened(&self, direction: StreamDirection, pipe: Arc<Pipe>) {
        self.state().openings(direction).opened.push_back(pipe);
        self.changed.notify(usize::MAX);
    }

    pub(super) fn has_room_for_incoming(&self, direction: StreamDirection) -> bool {
        self.state().openings(direction).incoming.len() < INCOMING_MAX
    }

    pub(super) fn incoming(&self, direction: StreamDirection, pipe: Arc<Pipe>) {
        self.state().openings(direction).incoming.push_back(pipe);
        self.changed.notify(usize::MAX);
    }

    pub(super) fn next_to_send(&self) -> Option<Bytes> {
        self.state().to_send.pop_front()
    }

    /// One that there was no room for is the next again.
    pub(super) fn put_back(&self, datagram: Bytes) {
        self.state().to_send.push_front(datagram);
    }

    pub(super) fn arrived(&self, datagram: Bytes) {
        let mut state = self.state();
        if state.arrived.len() >= DATAGRAMS_MAX {
            state.arrived.pop_front();
            state.dropped_arrived += 1;
        }
        state.arrived.push_back(datagram);
        drop(state);
        self.changed.notify(usize::MAX);
    }

    pub(super) fn set_most_datagram(&self, bytes: Option<usize>) {
        let most_bytes = bytes.unwrap_or(0);
        let before = self.most_datagram_bytes.swap(most_bytes, Ordering::Relaxed);
        // The first is what the connection began with.
        if before != 0 && before != most_bytes {
            self.happened(ConnectionEvent::DatagramSize { most_bytes });
        }
    }

    pub(super) fn happened(&self, event: ConnectionEvent) {
        self.state().events.push(event);
        self.changed.notify(usize::MAX);
    }

    /// Datagrams that were dropped here, in either direction.
    pub(super) fn dropped_datagrams(&self) -> u64 {
        let state = self.state();
        state.dropped_to_send + state.dropped_arrived
    }

    pub(super) fn measured(&self, path: &PathSnapshot, dropped_before: u64) {
        let mut state = self.state();
        let dropped = state.dropped_to_send + state.dropped_arrived + dropped_before;
        state.statistics = ConnectionStatistics {
            rtt: path.rtt,
            min_rtt: path.min_rtt,
            cwnd_bytes: path.cwnd_bytes as u64,
            sent_packets: path.sent_packets,
            received_packets: path.received_packets,
            lost_packets: path.lost_packets,
            sent_bytes: path.sent_bytes,
            received_bytes: path.received_bytes,
            dropped_datagrams: dropped,
            numa_node: landro_sys::numa::current_node(),
        };
    }

    /// It is over, if it was not before.
    pub(super) fn ended(&self, reason: CloseReason) {
        self.state().end.get_or_insert(reason);
        self.changed.notify(usize::MAX);
    }
}

/// A handle's part in a connection: when the last goes, it is closed.
pub(crate) struct Hold(pub(crate) Arc<Attached>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.close(0, "");
    }
}
