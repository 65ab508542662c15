//! All connections of a worker: the table, the way to them, and which of them wants a turn.

pub(super) mod app;
pub(super) mod connection;
mod counting;
mod doubt;
mod egress;
mod ingress;
mod refused;
mod streams;
mod tcp_link;
pub(super) mod transport;
mod weights;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use landro_sys::{Bind, SocketId, TcpId};

use super::event_loop::Loop;
use super::lane::{Errand, LanePhase, TransferLane};
use crate::budget::MAX_LANES_PER_PEER;
use crate::config::LaneKind;
use crate::ids::Fingerprint;
use crate::metrics::{Metric, Origin, of_kind};
use crate::proto::lanes::{DialKind, Newcomer};
use crate::quic::{Conn, Connect, Router, Setup};
use app::{App, Handshake};
use connection::WorkerConnection;
use transport::{QuicLink, Transport};
use weights::Weights;

pub(super) use egress::Batch;
pub(super) use streams::StreamTo;

/// What UDP over IPv4 takes of an MTU; the transport allows for IPv6 itself.
const UDP_IPV4_HEADER_BYTES: usize = 28;
const UDP_IPV6_HEADER_BYTES: usize = 48;

pub(crate) struct Connections {
    table: slab::Slab<WorkerConnection>,
    router: Router,
    /// Those that a TCP stream carries.
    streams: HashMap<TcpId, usize>,
    /// Those that something happened to since their last turn.
    touched: Vec<usize>,
    /// Those that have more to send or read than one turn allowed.
    unfinished: Vec<usize>,
    /// Those that want to read and found no pool buffer.
    hungry: Vec<usize>,
    /// Those that have something to send and found no send buffer.
    waiting_to_send: VecDeque<usize>,
    weights: Weights,
}

/// Where a connection that we make goes.
pub(crate) struct Destination {
    pub(crate) socket: SocketId,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// Where packets leave from, if we choose, and its number.
    pub(crate) bind: Option<(u8, Bind)>,
    /// First byte of the connection id, which picks the peer's worker.
    pub(crate) steer: Option<u8>,
    /// To resume an earlier connection's TLS session.
    pub(crate) ticket: Option<Vec<u8>>,
}

/// Whether the connections of one identity are as many as it may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PeerShare {
    Within,
    /// The youngest is refused.
    Beyond,
    /// It comes on and on, and does not take an answer: it gets none.
    FarBeyond,
}

impl Connections {
    pub(super) fn new(router: Router, now: Instant) -> Connections {
        Connections {
            table: slab::Slab::new(),
            router,
            streams: HashMap::new(),
            touched: Vec::new(),
            unfinished: Vec::new(),
            hungry: Vec::new(),
            waiting_to_send: VecDeque::new(),
            weights: Weights::new(now),
        }
    }

    pub(crate) fn contains(&self, key: usize) -> bool {
        self.table.contains(key)
    }

    pub(crate) fn get(&self, key: usize) -> Option<&WorkerConnection> {
        self.table.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut WorkerConnection> {
        self.table.get_mut(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &WorkerConnection)> {
        self.table.iter()
    }

    pub(crate) fn keys(&self) -> Vec<usize> {
        self.table.iter().map(|(key, _)| key).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn find(&self, serial: u64) -> Option<usize> {
        self.table
            .iter()
            .find(|(_, connection)| connection.serial == serial)
            .map(|(key, _)| key)
    }

    pub(crate) fn lane(&self, key: usize) -> Option<&TransferLane> {
        self.table.get(key).and_then(WorkerConnection::lane)
    }

    /// What a connection that carries no session yet is to become.
    pub(crate) fn newcomer_mut(&mut self, key: usize) -> Option<&mut Newcomer> {
        match &mut self.lane_mut(key)?.1.phase {
            LanePhase::Arriving(newcomer) => Some(newcomer),
            LanePhase::Serving { .. } | LanePhase::Closing => None,
        }
    }

    fn of(&self, session: usize) -> impl Iterator<Item = (usize, &WorkerConnection)> {
        let serves = move |found: &WorkerConnection| found.app.session() == Some(session);
        self.table.iter().filter(move |(_, found)| serves(found))
    }

    /// Those whose handshake is to begin a command's session.
    pub(crate) fn dialled_first(&self) -> Vec<usize> {
        let is_first =
            |found: &WorkerConnection| found.app.dialled_for() == Some(Errand::FirstLane);
        let all = self.table.iter().filter(|(_, found)| is_first(found));
        all.map(|(key, _)| key).collect()
    }

    /// Handshakes of lanes that were to be added to a session, or to take over, are over with the
    /// next turn.
    pub(crate) fn give_up_adding(&mut self, io: &mut Loop, session: usize) {
        let errands = [DialKind::Add, DialKind::AddClear, DialKind::TakeOver];
        let errands = errands.map(|kind| Errand::Join { session, kind });
        let is_one = |errand: Errand| errands.contains(&errand);
        let is_it = |(_, found): &(usize, &mut WorkerConnection)| {
            found.app.dialled_for().is_some_and(is_one)
        };
        for (key, connection) in self.table.iter_mut().filter(is_it) {
            connection.deadline = Some(io.now);
            connection.schedule(io, key);
        }
    }

    /// The lanes of a session.
    pub(crate) fn keys_of(&self, session: usize) -> Vec<usize> {
        self.of(session).map(|(key, _)| key).collect()
    }

    /// Those that send from a socket.
    pub(crate) fn keys_of_socket(&self, socket: SocketId) -> Vec<usize> {
        let sends = |(_, found): &(usize, &WorkerConnection)| found.conn.socket() == Some(socket);
        self.table
            .iter()
            .filter(sends)
            .map(|(key, _)| key)
            .collect()
    }

    /// The youngest lane of a session that carries its control stream, or did.
    pub(crate) fn newest_of(&self, session: usize) -> Option<&WorkerConnection> {
        let connections = self.of(session).map(|(_, connection)| connection);
        let carrying = connections.filter(|it| it.lane().is_some_and(|lane| !lane.is_added));
        carrying.max_by_key(|connection| connection.serial)
    }

    /// How many lanes are added to a session from one of a command's places, and are not worn.
    pub(crate) fn added_from(&self, session: usize, bind: u8) -> usize {
        let is_from =
            |it: &&WorkerConnection| it.bind.as_ref().is_some_and(|(from, _)| *from == bind);
        let connections = self.of(session).map(|(_, connection)| connection);
        let added = connections.filter(|it| {
            let lane = it.lane();
            lane.is_some_and(|lane| lane.is_added && !lane.is_worn)
        });
        added.filter(is_from).count()
    }

    /// Whether all lanes of a session are closed for holding too much.
    pub(crate) fn are_evicted(&self, session: usize) -> bool {
        self.of(session).all(|(_, connection)| connection.evicted)
    }

    /// Has all lanes of a session a turn.
    pub(crate) fn touch_all_of(&mut self, session: usize) {
        for key in self.keys_of(session) {
            self.touch(key);
        }
    }

    pub(crate) fn lane_mut(&mut self, key: usize) -> Option<(&mut Transport, &mut TransferLane)> {
        self.table.get_mut(key).and_then(WorkerConnection::lane_mut)
    }

    /// Whether one identity has more connections than it may. Those that are refused count until
    /// they have heard it.
    pub(crate) fn share_of(&self, io: &Loop, peer: &Fingerprint) -> PeerShare {
        let theirs = self.table.iter().filter(|(_, it)| it.is_of(peer));
        let (mut all, mut over_tcp) = (0, 0);
        for (_, connection) in theirs {
            all += 1;
            over_tcp += u64::from(connection.conn.kind().is_over_tcp());
        }
        let most = io.shared.descriptors.of_one_peer();
        match over_tcp {
            _ if over_tcp > 2 * most => PeerShare::FarBeyond,
            _ if over_tcp > most || all > MAX_LANES_PER_PEER => PeerShare::Beyond,
            _ => PeerShare::Within,
        }
    }

    /// Has it a turn.
    pub(crate) fn touch(&mut self, key: usize) {
        if let Some(found) = self.table.get_mut(key)
            && !found.touched
        {
            found.touched = true;
            self.touched.push(key);
        }
    }

    /// Has it another turn at once: it was not done with this one.
    pub(super) fn go_on_with(&mut self, key: usize) {
        if let Some(found) = self.table.get_mut(key)
            && !found.unfinished
        {
            found.unfinished = true;
            self.unfinished.push(key);
        }
    }

    /// It found no pool buffer to read into.
    pub(crate) fn starve(&mut self, key: usize) {
        if !self.hungry.contains(&key) {
            self.hungry.push(key);
        }
    }

    /// Whose turn it is, each once.
    pub(super) fn take_turns(&mut self) -> Vec<usize> {
        let mut keys = std::mem::take(&mut self.touched);
        keys.append(&mut self.unfinished);
        for &key in &keys {
            if let Some(connection) = self.table.get_mut(key) {
                connection.touched = false;
                connection.unfinished = false;
                connection.is_news = true;
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Whether something happened to one since it had its turn.
    pub(super) fn are_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Whether one can go on without anything happening. `io`: a buffer that came free in this very
    /// turn is nobody else's event.
    pub(super) fn can_go_on(&self, io: &Loop) -> bool {
        !self.unfinished.is_empty()
            || !self.touched.is_empty()
            || !self.hungry.is_empty() && io.has_pool_buffer()
            || !self.waiting_to_send.is_empty() && io.send_buffers.available() > 0
    }

    /// Those that waited for pool buffers look again; sessions that could not be read may be now.
    pub(super) fn feed_hungry(&mut self, io: &Loop) {
        if !self.hungry.is_empty() && io.has_pool_buffer() {
            for key in std::mem::take(&mut self.hungry) {
                self.touch(key);
            }
        }
    }

    /// As many as there are free send buffers have their turn; one with nothing to send leaves its
    /// buffer to the next.
    pub(super) fn feed_waiting_to_send(&mut self, io: &Loop) {
        for _ in 0..io.send_buffers.available() {
            let Some(key) = self.waiting_to_send.pop_front() else {
                return;
            };
            if let Some(connection) = self.table.get_mut(key) {
                connection.waiting_to_send = false;
            }
            self.touch(key);
        }
    }

    /// Closes one with CONNECTION_CLOSE.
    pub(crate) fn close(&mut self, io: &Loop, key: usize, code: u64, reason: &str) {
        if let Some(connection) = self.table.get_mut(key) {
            connection.close(io.now, code, reason);
            self.touch(key);
        }
    }

    /// Begins one of ours. Whom we dial needs no authorisation, so its window is granted at once.
    ///
    /// # Errors
    /// There is no way there, or QUIC refuses, in words.
    pub(crate) fn dial(
        &mut self,
        io: &mut Loop,
        setup: &mut Setup,
        to: Destination,
        handshake: Handshake,
    ) -> Result<(), String> {
        let peer = to.peer;
        let bind = to.bind.as_ref().map(|(_, bind)| bind);
        let route = landro_sys::route_to(peer, bind)
            .map_err(|error| format!("for there is no way there: {error}"))?;
        let budget = &io.shared.budget;
        let promise = budget.promise_window();
        budget.end_promise(promise);
        let granted_bytes = budget.grant_window(promise);
        setup.set_windows(promise.first_bytes, promise.most_bytes);
        setup.set_interface_payload(route.mtu_bytes.saturating_sub(UDP_IPV4_HEADER_BYTES));
        let key = self.table.vacant_key();
        let connect = Connect {
            key,
            local: to.local,
            peer,
            steer: to.steer,
            ticket: to.ticket.as_deref(),
            now: io.now,
        };
        let conn = Conn::connect(setup, &mut self.router, connect).map_err(|error| {
            io.shared.budget.return_window(granted_bytes);
            error.to_string()
        })?;
        // Who is connected for a handle follows no route; it is asked as seldom as any peer.
        let quiet = matches!(handshake, Handshake::Dialled(_)).then_some(doubt::SIGN_OF_LIFE);
        let app = App::Undecided(handshake);
        let link = QuicLink {
            conn,
            socket: to.socket,
        };
        let conn = Transport::Quic(Box::new(link));
        let mut connection = WorkerConnection::new(io, conn, peer, app);
        connection.quiet = quiet;
        connection.granted_bytes = granted_bytes;
        connection.bind = to.bind;
        let labels = [of_kind(LaneKind::Quic), Origin::Dialled as usize];
        io.count(Metric::ConnectionsBegun, labels);
        self.table.insert(connection);
        self.touch(key);
        Ok(())
    }

    /// Takes one out; what it held is free. `idle`: the worker has no sessions.
    pub(super) fn remove(&mut self, io: &mut Loop, key: usize, idle: bool) -> WorkerConnection {
        self.handshake_over(io, key, false);
        let mut connection = self.table.remove(key);
        match &mut connection.conn {
            Transport::Quic(_) => self.router.remove(key),
            Transport::Tcp(_) => self.end_stream(io, &mut connection),
        }
        connection.count_last(io);
        self.weights.shed(io, &connection, idle);
        connection
    }

    /// QUIC's timers of one that are due. True: it is silent, and was asked for a sign of life.
    pub(super) fn expire(&mut self, io: &Loop, key: usize) -> bool {
        let Some(connection) = self.table.get_mut(key) else {
            return false;
        };
        let now = io.now;
        if connection.conn.timeout().is_some_and(|at| at <= now) {
            connection.conn.on_timeout(now);
            connection.spare_probes(io);
        }
        if let Some(quiet) = &mut connection.quiet {
            *quiet = doubt::patience(&connection.conn.snapshot());
        }
        let ask_at = connection.ask_at(io.shared.quic.keep_alive);
        let is_silent = ask_at.is_some_and(|at| at <= now);
        if is_silent {
            connection.ping(now);
        }
        is_silent
    }

    /// Whether a timer with this serial number is due, and not overtaken.
    pub(super) fn surfaced(&mut self, key: usize, serial: u64, now: Instant) -> bool {
        self.table
            .get_mut(key)
            .is_some_and(|found| found.serial == serial && found.timer.surfaced(now))
    }

    pub(super) fn schedule(&mut self, io: &mut Loop, key: usize) {
        if let Some(connection) = self.table.get_mut(key) {
            connection.schedule(io, key);
        }
    }

    /// Gives the tables' free room back.
    pub(super) fn shrink(&mut self) {
        self.weights.forget_shed();
        self.table.shrink_to_fit();
        self.router.shrink();
        crate::tcp::forget_spares();
    }

    /// Holds the counters against the tables.
    #[cfg(debug_assertions)]
    pub(super) fn check(&self) {
        self.weights.check(&self.table);
        let flagged = |is: fn(&WorkerConnection) -> bool| {
            self.table
                .iter()
                .filter(|(_, connection)| is(connection))
                .count()
        };
        // Keys of connections that are gone may stand in the lists until their next use.
        assert!(flagged(|connection| connection.touched) <= self.touched.len());
        assert!(flagged(|connection| connection.unfinished) <= self.unfinished.len());
        assert!(flagged(|connection| connection.waiting_to_send) <= self.waiting_to_send.len());
    }
}
