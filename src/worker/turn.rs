//! A turn: what arrived goes to what runs on the connections, what they answer is carried out.

use super::Worker;
use super::connections::Batch;
use super::connections::app::{App, Handshake};
use super::limits::{BATCHES_PER_TURN, DISK_ROUNDS_PER_TURN};
use super::log::Who;
use super::timers::Timer;
use crate::proto::lanes::{LanesInput, code};
use crate::quic::{Alpn, Conn, ConnState};

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
            self.io.lookups.want();
            for done in finished.drain(..) {
                self.io.count_disk(&done);
                let (session, op, result) = (done.session, done.op, done.result);
                let Some(running) = self.sessions.get_same(session, done.serial) else {
                    continue;
                };
                running
                    .lanes
                    .handle(self.io.now, LanesInput::Disk { op, result });
                if touched.last() != Some(&session) {
                    touched.push(session);
                }
            }
            // All at once: what was read together goes together.
            for session in touched {
                self.carry_out(session);
            }
        }
    }

    /// One turn for each connection that something happened to.
    pub(super) fn turn_connections(&mut self) {
        let turns = self.connections.take_turns();
        if !turns.is_empty() {
            self.io.lookups.want();
        }
        for key in turns {
            if self.connections.contains(key) {
                self.turn_connection(key);
            }
        }
    }

    fn turn_connection(&mut self, key: usize) {
        let now = self.io.now;
        let found = self.connections.get_mut(key);
        if found.is_some_and(|connection| connection.takes_look(now)) {
            self.follow_route(key);
        }
        self.connections.receive(&self.io, key);
        self.advance(key);
        let more_to_read = self.read(key);
        self.turn_sessions();
        let more_to_send = self.egress(key);
        // The first flight of one that resumes a session has left: what a program has follows.
        self.begins_early(key);
        self.turn_sessions();
        self.connections.weigh(&self.io, key);
        if self.settle(key) {
            return;
        }
        // A stream is received from only as fast as what it brought is read.
        let more_to_receive = self.connections.has_more(key);
        if more_to_read || more_to_send || more_to_receive {
            self.connections.go_on_with(key);
        }
        self.connections.schedule(&mut self.io, key);
    }

    /// Follows the connection's own state: a finished handshake says what runs on it.
    fn advance(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let App::Undecided(handshake) = &connection.app else {
            return;
        };
        if connection.conn.state() != ConnState::Established {
            return;
        }
        if connection.conn.quic().is_some_and(Conn::is_early) {
            return self.begins_early(key);
        }
        let Some(peer) = connection.conn.peer_fingerprint() else {
            let reason = "no identity was presented";
            return self
                .connections
                .close(&self.io, key, code::UNAUTHORISED, reason);
        };
        connection.count_handshake(&mut self.io);
        match (connection.conn.alpn(), handshake) {
            (Alpn::Landro1, Handshake::Accepted { .. }) => self.lane_arrived(key, &peer),
            (Alpn::Landro1, &Handshake::Dialled(errand)) => self.dialled(key, errand, peer),
            (Alpn::Streams, Handshake::Accepted { .. }) => self.streams_arrived(key, peer),
            (Alpn::Streams, &Handshake::Connecting { dial }) => self.connected(key, dial, peer),
            // Nothing else was offered in that handshake.
            (Alpn::Landro1, Handshake::Connecting { .. })
            | (Alpn::Streams, Handshake::Dialled(_)) => {
                let reason = "another protocol than the one that was offered";
                self.connections
                    .close(&self.io, key, code::VIOLATION, reason);
            }
        }
    }

    /// Takes what arrived. True: there is more than one turn allows.
    fn read(&mut self, key: usize) -> bool {
        match self.connections.get(key).map(|found| &found.app) {
            Some(App::Transfer(_)) => self.read_lane(key),
            Some(App::Streams(_) | App::Undecided(_)) => self.read_streams(key),
            None => false,
        }
    }

    /// Gives the connection what is to be sent. Gives how many bytes it took.
    fn feed(&mut self, key: usize) -> usize {
        match self.connections.get(key).map(|found| &found.app) {
            Some(App::Transfer(_)) => self.feed_lane(key),
            Some(App::Streams(_) | App::Undecided(_)) => self.feed_streams(key),
            None => 0,
        }
    }

    /// Sends what a connection has to say. True: there is more than one turn allows.
    fn egress(&mut self, key: usize) -> bool {
        for _ in 0..BATCHES_PER_TURN {
            self.feed(key);
            match self.connections.send_batch(&mut self.io, key) {
                Batch::Sent => {}
                Batch::Held => return false,
                // Where more was thought to be unsent than there was, what was kept back for it
                // goes now.
                Batch::Empty if self.feed(key) == 0 => return false,
                Batch::Empty => {}
            }
        }
        true
    }

    /// After a turn: clears what is closed, has the others see to their ends. True: it is gone.
    fn settle(&mut self, key: usize) -> bool {
        let Some(connection) = self.connections.get(key) else {
            return true;
        };
        if connection.is_evicted() {
            self.drop_connection(key);
            return true;
        }
        match (connection.conn.state(), &connection.app) {
            (ConnState::Handshaking | ConnState::Established, App::Transfer(_)) => {
                self.settle_lane(key);
                false
            }
            (
                ConnState::Handshaking | ConnState::Established,
                App::Streams(_) | App::Undecided(_),
            ) => {
                self.settle_streams(key);
                false
            }
            (ConnState::Closing | ConnState::Closed(_), App::Transfer(_))
                if self.has_last_words(key) =>
            {
                false
            }
            // The reason is lost where a TCP stream is closed with something unread: the kernel
            // resets it.
            (ConnState::Closing, App::Undecided(_)) if connection.lingers() => {
                self.connections.linger(&self.io, key);
                false
            }
            // The close, if it was ours to send, left with this turn.
            (ConnState::Closed(_), _) | (ConnState::Closing, App::Undecided(_)) => {
                self.drop_connection(key);
                true
            }
            (ConnState::Closing, App::Transfer(_)) => {
                self.lane_closes(key);
                self.drop_if_heavy(key)
            }
            (ConnState::Closing, App::Streams(_)) => {
                self.streams_close(key);
                self.drop_if_heavy(key)
            }
        }
    }

    /// One that closes and holds much is gone at once.
    fn drop_if_heavy(&mut self, key: usize) -> bool {
        let is_heavy = self.connections.is_heavy(key);
        if is_heavy {
            self.drop_connection(key);
        }
        is_heavy
    }

    /// Removes a handshake that others need the room of.
    pub(super) fn displace(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.displace();
        }
        self.drop_connection(key);
    }

    /// Removes a closed connection and gives back what it held.
    pub(super) fn drop_connection(&mut self, key: usize) {
        if !self.connections.contains(key) {
            return;
        }
        self.lane_closes(key);
        self.streams_close(key);
        let idle = self.sessions.is_empty();
        let gone = self.connections.remove(&mut self.io, key, idle);
        self.io.lookups.want();
        if self.io.log.admits(Who::Debug, self.io.now) {
            tracing::debug!(
                peer = %gone.peer,
                reason = ?gone.conn.close_reason(),
                path = ?gone.measured_path(),
                "connection ended"
            );
        }
        match gone.app.connects_for() {
            Some(dial) => self.not_connected(dial, &gone),
            None => self.connection_ended(&gone),
        }
    }

    pub(super) fn expire_timers(&mut self) {
        let now = self.io.now;
        let mut due = std::mem::take(&mut self.due);
        self.io.timers.take_due(now, &mut due);
        for timer in due.drain(..) {
            match timer {
                Timer::Connection { key, serial } => {
                    if self.connections.surfaced(key, serial, now) {
                        self.connection_due(key);
                    }
                }
                Timer::Session { key, serial } => {
                    if self.sessions.surfaced(&self.io, key, serial) {
                        self.session_due(key);
                    }
                }
            }
        }
        self.due = due;
    }

    fn session_due(&mut self, key: usize) {
        let now = self.io.now;
        let deadline = self.sessions.get(key).and_then(|it| it.lanes.deadline());
        if deadline.is_some_and(|at| at <= now) {
            let running = self.sessions.get(key);
            if running.is_some_and(|running| running.space.take_moved()) {
                self.tell(key, LanesInput::DiskWorks);
            }
            self.tell(key, LanesInput::Tick);
        } else {
            self.sessions.schedule(&mut self.io, key);
        }
    }

    fn connection_due(&mut self, key: usize) {
        let now = self.io.now;
        if self.connections.expire(&self.io, key) {
            self.tell_silence(key);
            self.follow_route(key);
        }
        self.connections.give_up_stuck(&self.io, key);
        self.connections.review_doubt(&mut self.io, key);
        let connection = self.connections.get_mut(key);
        if let Some(connection) = connection
            && connection.deadline.take_if(|at| *at <= now).is_some()
        {
            self.overdue(key);
        }
        self.connections.touch(key);
    }

    /// A connection's deadline passed.
    fn overdue(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match &connection.app {
            App::Undecided(_) => {
                let now = self.io.now;
                connection
                    .conn
                    .close(now, code::TIMEOUT, b"handshake timeout");
                self.drop_connection(key);
            }
            App::Transfer(_) => self.lane_overdue(key),
            App::Streams(_) => self.drop_connection(key),
        }
    }
}
