//! Connections over TCP: made, accepted, handed over between workers, and what their streams bring.

use std::io;
use std::net::SocketAddr;

use landro_sys::{Bind, TcpId, TcpStream};

use super::Connections;
use super::app::{App, Handshake};
use super::connection::WorkerConnection;
use super::doubt::SIGN_OF_LIFE;
use super::tcp_link::TcpLink;
use super::transport::Transport;
use crate::budget::{MAX_CONNECTIONS_PER_WORKER, MAX_HANDSHAKES_PER_ADDRESS, Promise};
use crate::config::LaneKind;
use crate::metrics::{Metric, Origin, Refusal, of_kind};
use crate::tcp::{ClearPass, TcpConn, TcpSetup, TcpWindows};
use crate::worker::event_loop::Loop;
use crate::worker::handed_over::HandedStream;
use crate::worker::lane::Errand;
use crate::worker::limits::LINGER;
use crate::worker::log::Who;

/// Where a stream that we connect goes.
pub(crate) struct StreamTo {
    pub(crate) peer: SocketAddr,
    /// Where packets leave from, if we choose, and its number.
    pub(crate) bind: Option<(u8, Bind)>,
    /// What a packet carries at most, in both directions.
    pub(crate) segment_bytes: Option<u32>,
}

impl Connections {
    /// The driver says that a stream is ready.
    pub(crate) fn ready(&mut self, id: TcpId, readable: bool, writable: bool) {
        let Some(&key) = self.streams.get(&id) else {
            return;
        };
        if let Some(link) = self.table.get_mut(key).and_then(|it| it.conn.tcp_mut()) {
            link.ready(readable, writable);
        }
        self.touch(key);
    }

    /// Takes in what the kernel has for one that a TCP stream carries.
    pub(crate) fn receive(&mut self, io: &Loop, key: usize) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        if let Transport::Tcp(link) = &mut connection.conn {
            link.receive(&io.driver, io.now);
            connection.heard = link.conn.heard_at();
        }
    }

    /// Gives up one that TCP carries where nothing that it sends arrives, and that the peer is
    /// reached without: a lane that was added to one over QUIC, or is on another worker than it.
    /// (One that is alone goes on as long as TCP does.)
    pub(crate) fn give_up_stuck(&mut self, io: &Loop, key: usize) {
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        let session = connection.app.session();
        let Some(link) = connection.conn.tcp_mut() else {
            return;
        };
        if !link.is_stuck(&io.driver, io.now) {
            return;
        }
        let is_reached = |session| {
            let is_quic = self.of(session).any(|(_, it)| it.conn.quic().is_some());
            // That which carries control may be another worker's.
            let is_added = |it: &WorkerConnection| it.lane().is_some_and(|lane| lane.is_added);
            is_quic || self.of(session).all(|(_, it)| is_added(it))
        };
        if session.is_some_and(is_reached)
            && let Some(link) = self.table.get_mut(key).and_then(|it| it.conn.tcp_mut())
        {
            link.give_up(io.now, "nothing that was sent arrived any more (TCP)");
        }
    }

    /// Whether the kernel may have more for one.
    pub(crate) fn has_more(&self, key: usize) -> bool {
        match self.table.get(key).map(|connection| &connection.conn) {
            Some(Transport::Tcp(link)) => link.has_more(),
            Some(Transport::Quic(_)) | None => false,
        }
    }

    /// Asks the kernel about the path of one that TCP carries.
    pub(crate) fn measure(&mut self, io: &Loop, key: usize) {
        if let Some(connection) = self.table.get_mut(key)
            && let Transport::Tcp(link) = &mut connection.conn
        {
            link.measure(&io.driver);
            connection.last_stats();
        }
    }

    /// One whose handshake failed is kept no longer than any that is closed.
    pub(crate) fn linger(&mut self, io: &Loop, key: usize) {
        if let Some(connection) = self.table.get_mut(key) {
            let until = io.now + LINGER;
            let deadline = connection.deadline.map_or(until, |at| at.min(until));
            connection.deadline = Some(deadline);
        }
    }

    /// Begins one of ours over TCP, as [`Connections::dial`] does over UDP; with a pass, without
    /// TLS.
    ///
    /// # Errors
    /// There is no way there, in words.
    pub(crate) fn dial_stream(
        &mut self,
        io: &mut Loop,
        (setup, pass): (&TcpSetup, Option<ClearPass>),
        to: StreamTo,
        errand: Errand,
    ) -> Result<(), String> {
        let bind = to.bind.as_ref().map(|(_, bind)| bind);
        let no_way = |error| format!("for there is no way there: {error}");
        let stream = TcpStream::connect(to.peer, bind, to.segment_bytes).map_err(no_way)?;
        rule(io, &stream)
            .map_err(|error| format!("for --tcp-congestion cannot be heeded: {error}"))?;
        prepare(io, &stream);
        let id = io.driver.add_stream(stream).map_err(no_way)?;
        let budget = &io.shared.budget;
        let promise = budget.promise_window();
        budget.end_promise(promise);
        let granted_bytes = budget.grant_window(promise);
        let windows = windows(io, promise);
        let conn = match pass {
            Some(pass) => TcpConn::connect_clear(setup, pass, windows, io.now),
            None => TcpConn::connect(setup, windows, io.now),
        };
        let link = link(io, conn, id, true);
        let app = App::Undecided(Handshake::Dialled(errand));
        let mut connection =
            WorkerConnection::new(io, Transport::Tcp(Box::new(link)), to.peer, app);
        connection.bind = to.bind;
        connection.quiet = Some(SIGN_OF_LIFE);
        connection.granted_bytes = granted_bytes;
        let labels = [of_kind(connection.conn.kind()), Origin::Dialled as usize];
        io.count(Metric::ConnectionsBegun, labels);
        self.insert_stream(io, id, connection);
        Ok(())
    }

    /// A stranger's connection was accepted. False: there is no place for it, and it is reset.
    pub(crate) fn accept_stream(
        &mut self,
        io: &mut Loop,
        setup: &TcpSetup,
        (stream, peer): (TcpStream, SocketAddr),
    ) -> bool {
        if self.table.len() >= MAX_CONNECTIONS_PER_WORKER {
            let here = io.count_refusal(Refusal::Connections);
            if here.is_power_of_two() && io.log.admits(Who::Strangers, io.now) {
                let count = io.refusals(Refusal::Connections);
                tracing::warn!(%peer, count, "connection refused: this worker's limit is reached");
            }
            return false;
        }
        if let Err(error) = rule(io, &stream)
            && io.log.admits(Who::Strangers, io.now)
        {
            tracing::warn!(%peer, %error, "what is sent there is not ruled as --tcp-congestion says");
        }
        prepare(io, &stream);
        let Ok(id) = io.driver.add_stream(stream) else {
            return false;
        };
        let promise = io.shared.budget.promise_window();
        let conn = TcpConn::accept(setup, windows(io, promise), io.now);
        let link = link(io, conn, id, false);
        let app = App::Undecided(Handshake::Accepted {
            promise,
            early: None,
        });
        let connection = WorkerConnection::new(io, Transport::Tcp(Box::new(link)), peer, app);
        self.handshake_begun(io, LaneKind::Tls);
        self.insert_stream(io, id, connection);
        true
    }

    /// Whether one address has as many handshakes under way as it may; gives its oldest then.
    pub(crate) fn oldest_of_too_many(&self, from: SocketAddr) -> Option<usize> {
        match self.handshakes_from(from) >= MAX_HANDSHAKES_PER_ADDRESS {
            true => self.oldest_handshake_from(from),
            false => None,
        }
    }

    /// Takes one out for another worker. What it held is free here.
    pub(crate) fn hand_over(&mut self, io: &mut Loop, key: usize) -> Option<(HandedStream, App)> {
        let is_tcp = |found: &WorkerConnection| matches!(found.conn, Transport::Tcp(_));
        if !self.table.get(key).is_some_and(is_tcp) {
            return None;
        }
        self.measure(io, key);
        let mut connection = self.table.remove(key);
        connection.count(io);
        let granted_bytes = std::mem::take(&mut connection.granted_bytes);
        self.weights.shed(io, &connection, false);
        let Transport::Tcp(link) = connection.conn else {
            return None;
        };
        self.streams.remove(&link.id);
        io.shared.descriptors.stream_went();
        let handed = HandedStream {
            stream: io.driver.remove_stream(link.id),
            conn: link.conn,
            peer: connection.peer,
            heard: connection.heard,
            granted_bytes,
            begun: connection.begun,
            counted: connection.counted,
        };
        Some((handed, connection.app))
    }

    /// Takes one in from another worker. None: there is no place for it.
    pub(crate) fn take_over(
        &mut self,
        io: &mut Loop,
        handed: HandedStream,
        app: App,
    ) -> Option<usize> {
        let place = self.table.len() < MAX_CONNECTIONS_PER_WORKER;
        let added = place.then(|| io.driver.add_stream(handed.stream).ok());
        let Some(id) = added.flatten() else {
            io.shared.budget.return_window(handed.granted_bytes);
            return None;
        };
        let link = link(io, handed.conn, id, false);
        let conn = Transport::Tcp(Box::new(link));
        let mut connection = WorkerConnection::new(io, conn, handed.peer, app);
        connection.granted_bytes = handed.granted_bytes;
        connection.heard = handed.heard;
        (connection.begun, connection.counted) = (handed.begun, handed.counted);
        Some(self.insert_stream(io, id, connection))
    }

    fn insert_stream(&mut self, io: &Loop, id: TcpId, connection: WorkerConnection) -> usize {
        io.shared.descriptors.stream_came();
        let key = self.table.insert(connection);
        self.streams.insert(id, key);
        self.touch(key);
        key
    }

    /// A connection is over: its stream is closed.
    pub(super) fn end_stream(&mut self, io: &mut Loop, connection: &mut WorkerConnection) {
        if let Transport::Tcp(link) = &mut connection.conn {
            link.measure(&io.driver);
            self.streams.remove(&link.id);
            io.shared.descriptors.stream_went();
            drop(io.driver.remove_stream(link.id));
        }
        connection.last_stats();
    }
}

/// What the peer may have us hold: all of what it is promised, for credit costs nothing that is not
/// used.
fn windows(io: &Loop, promise: Promise) -> TcpWindows {
    let connection_bytes = promise.most_bytes;
    TcpWindows {
        connection_bytes,
        stream_bytes: connection_bytes.min(io.shared.quic.stream_receive_window_bytes),
    }
}

/// One whose TCP obeys who was named, or the kernel's own choice as long as that gets on.
fn link(io: &Loop, conn: TcpConn, id: TcpId, connecting: bool) -> TcpLink {
    let mut link = TcpLink::new(conn, id, connecting);
    if io.shared.tcp_congestion.is_none() {
        link.watch_losses();
    }
    link
}

/// Has the congestion control that was asked for rule what is sent. What is accepted has it from
/// its listener, unless a route has one of its own (`congctl` of ip-route(8)), which goes before
/// that. It is set where it is not there yet only: of one that was taken away meanwhile the
/// listener still hands down what it holds, while each question for its name has the kernel start
/// modprobe.
fn rule(io: &Loop, stream: &TcpStream) -> io::Result<()> {
    match &io.shared.tcp_congestion {
        Some(name) if stream.congestion()? != *name => stream.set_congestion(name),
        Some(_) | None => Ok(()),
    }
}

/// The peer's host may be gone without a word.
fn prepare(io: &mut Loop, stream: &TcpStream) {
    if let Err(error) = stream.set_user_timeout(io.shared.quic.idle_timeout)
        && io.log.admits(Who::Debug, io.now)
    {
        tracing::debug!(%error, "cannot bound how long TCP repeats itself");
    }
}
