//! How connections with handles begin: dialled for one who waits, or accepted and left for whoever
//! accepts next.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use landro_sys::{UdpOptions, UdpSocket};

use crate::ids::Fingerprint;
use crate::metrics::Refusal;
use crate::proto::lanes::code;
use crate::quic::{CloseReason, Setup};
use crate::worker::Worker;
use crate::worker::addresses::{AddressStep, Addresses};
use crate::worker::connections::app::{App, Handshake};
use crate::worker::connections::connection::WorkerConnection;
use crate::worker::connections::{Destination, PeerShare};
use crate::worker::handles::{
    Attached, ConnectFailure, ConnectStart, Facts, Hold, Owed, Place, StreamsApp, Ticket, Tickets,
};
use crate::worker::paths::Path;

/// Connections that a worker dials at a time.
const DIALS_MAX: usize = 256;

const ANOTHER_ANSWERED: &str = "another address answered before";
const NOBODY_WAITS: &str = "nobody waits for this connection any more";
const TOO_MANY: &str = "too many connections of this identity";
const NOBODY_ACCEPTS: &str = "as many connections wait to be accepted as may";

/// One peer that is being dialled.
struct Dialling {
    addresses: Addresses,
    setup: Setup,
    options: UdpOptions,
    answer: Owed,
    ticket: Option<Ticket>,
    tickets: (Arc<Tickets>, String),
    refused: Option<ConnectFailure>,
}

/// Peers that a worker dials, and the sockets it dials from.
#[derive(Default)]
pub(crate) struct Dials {
    /// By numbers of which none is used again: a connection may outlive its dial.
    all: HashMap<u64, Dialling>,
    next: u64,
    v4: Option<usize>,
    v6: Option<usize>,
}

impl Dials {
    /// When the next address is dialled although nothing happened.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.all
            .values()
            .filter_map(|dial| dial.addresses.due())
            .min()
    }
}

impl Worker {
    /// Begins the connections that handles wait for.
    pub(crate) fn take_connects(&mut self) {
        let starts = self.connects.as_ref().map(|connects| connects.0.take());
        for start in starts.into_iter().flatten() {
            self.start_connecting(start);
        }
    }

    fn start_connecting(&mut self, start: ConnectStart) {
        self.forget_dials();
        let failure = match self.io.stopping {
            Some(_) => Some(ConnectFailure::ShuttingDown),
            None if self.dials.all.len() >= DIALS_MAX => Some(ConnectFailure::Busy),
            None => None,
        };
        if let Some(failure) = failure {
            return start.answer.0.give(Err(failure));
        }
        let to = start.to.into_iter().map(Path::to).collect();
        let dial = self.dials.next;
        self.dials.next += 1;
        let dialled = Dialling {
            addresses: Addresses::new(to, self.io.now),
            setup: start.setup,
            options: start.socket_options,
            answer: start.answer,
            ticket: start.ticket,
            tickets: start.tickets,
            refused: None,
        };
        self.dials.all.insert(dial, dialled);
        self.go_on_dialling(dial);
    }

    /// Dials that nobody waits for give their places up.
    fn forget_dials(&mut self) {
        let is_left = |dial: &Dialling| dial.answer.0.is_forgotten();
        let left = self.dials.all.iter().filter(|(_, dial)| is_left(dial));
        for dial in left.map(|(dial, _)| *dial).collect::<Vec<_>>() {
            self.dials.all.remove(&dial);
            self.give_up_connecting(dial, |_| true);
        }
    }

    /// Dials the addresses whose time has come.
    pub(crate) fn connect_when_due(&mut self) {
        let is_due = |dial: &Dialling| dial.addresses.due().is_some_and(|at| at <= self.io.now);
        let due = self.dials.all.iter().filter(|(_, dial)| is_due(dial));
        for dial in due.map(|(dial, _)| *dial).collect::<Vec<_>>() {
            self.go_on_dialling(dial);
        }
    }

    fn go_on_dialling(&mut self, dial: u64) {
        let now = self.io.now;
        while let Some(dialled) = self.dials.all.get_mut(&dial) {
            match dialled.addresses.step(now) {
                AddressStep::Dial(path) => {
                    if let Err(why) = self.connect(dial, path.peer)
                        && let Some(dialled) = self.dials.all.get_mut(&dial)
                    {
                        dialled.addresses.failed(now, path, why, false);
                    }
                }
                AddressStep::GiveUp(path) => {
                    dialled
                        .addresses
                        .failed(now, path, "in time".to_owned(), false);
                    self.give_up_connecting(dial, |it| it.peer == path.peer);
                }
                AddressStep::Wait => return,
                AddressStep::Failed(why) => {
                    let failure = dialled.refused.take();
                    let failure = failure.unwrap_or(ConnectFailure::NoAnswer(why));
                    dialled.answer.0.give(Err(failure));
                    self.dials.all.remove(&dial);
                    return;
                }
            }
        }
    }

    fn connect(&mut self, dial: u64, peer: SocketAddr) -> Result<(), String> {
        let no_way = |error| format!("for there is no way there: {error}");
        let socket = self.socket_for(dial, peer).map_err(no_way)?;
        let route = landro_sys::route_to(peer, None).map_err(no_way)?;
        let (Some(dialled), Some(listener)) =
            (self.dials.all.get_mut(&dial), self.listeners.get(socket))
        else {
            return Ok(());
        };
        let to = Destination {
            socket: listener.socket,
            local: SocketAddr::new(route.local, listener.local.port()),
            peer,
            bind: None,
            steer: None,
            ticket: dialled.ticket.as_ref().map(|ticket| ticket.bytes.clone()),
        };
        let handshake = Handshake::Connecting { dial };
        self.connections
            .dial(&mut self.io, &mut dialled.setup, to, handshake)
    }

    /// One socket of each family for all who are dialled: connection ids tell them apart.
    fn socket_for(&mut self, dial: u64, peer: SocketAddr) -> std::io::Result<usize> {
        let known = match peer {
            SocketAddr::V4(_) => self.dials.v4,
            SocketAddr::V6(_) => self.dials.v6,
        };
        if let Some(socket) = known {
            return Ok(socket);
        }
        let any = match peer {
            SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
        };
        let Some(dial) = self.dials.all.get(&dial) else {
            return Err(std::io::ErrorKind::NotConnected.into());
        };
        let socket = UdpSocket::bind(any, &dial.options)?;
        let socket = self.listeners.add(&mut self.io.driver, socket, None)?;
        match peer {
            SocketAddr::V4(_) => self.dials.v4 = Some(socket),
            SocketAddr::V6(_) => self.dials.v6 = Some(socket),
        }
        Ok(socket)
    }

    fn give_up_connecting(&mut self, dial: u64, is_it: impl Fn(&WorkerConnection) -> bool) {
        let found = self
            .connections
            .iter()
            .filter(|(_, it)| it.app.connects_for() == Some(dial) && is_it(it));
        for key in found.map(|(key, _)| key).collect::<Vec<_>>() {
            self.connections.close(&self.io, key, 0, ANOTHER_ANSWERED);
        }
    }

    /// The handshake of a connection that a handle waits for is complete.
    pub(crate) fn connected(&mut self, key: usize, dial: u64, peer: Fingerprint) {
        let Some(dialled) = self.dials.all.remove(&dial) else {
            return self.connections.close(&self.io, key, 0, ANOTHER_ANSWERED);
        };
        let Some((hold, mut app)) = self.attach(key, peer) else {
            return;
        };
        app.keep_ticket(dialled.tickets);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.app = App::Streams(app);
            connection.deadline = None;
        }
        self.give_up_connecting(dial, |_| true);
        dialled.answer.0.give(Ok(hold));
        self.connections.touch(key);
    }

    /// A peer's handshake is complete, in which it asked for a protocol of the embedding program.
    pub(crate) fn streams_arrived(&mut self, key: usize, peer: Fingerprint) {
        let programs = self.io.shared.programs.as_ref();
        let incoming = programs.map(|programs| Arc::clone(&programs.incoming));
        // The handshake, resumed or not, lets those in, too, who may only transfer files.
        if !programs.is_some_and(|programs| (programs.trust)(&peer)) {
            let reason = "not let in for this protocol";
            self.io.count_refusal(Refusal::Unauthorised);
            self.tell_refused(key, &peer, reason);
            return self
                .connections
                .close(&self.io, key, code::UNAUTHORISED, reason);
        }
        // One that began early is accepted, or waits for that.
        let (hold, app) = match self.take_early(key) {
            Some(app) => (None, app),
            None => match self.attach(key, peer) {
                Some((hold, app)) => (Some(hold), app),
                None => return,
            },
        };
        self.connections
            .decide(&self.io, key, App::Streams(app), true);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.deadline = None;
        }
        let share = self.connections.share_of(&self.io, &peer);
        if share != PeerShare::Within {
            self.io.count_refusal(Refusal::PeerShare);
        }
        match (share, incoming) {
            (PeerShare::Beyond, _) => self.connections.close(&self.io, key, 0, TOO_MANY),
            (PeerShare::FarBeyond, _) => self.connections.evict(&mut self.io, key, TOO_MANY),
            (PeerShare::Within, Some(incoming)) => {
                if hold.is_some_and(|hold| incoming.leave(hold).is_err()) {
                    self.connections.close(&self.io, key, 0, NOBODY_ACCEPTS);
                }
            }
            (PeerShare::Within, None) => self.connections.close(&self.io, key, 0, NOBODY_ACCEPTS),
        }
        self.connections.touch(key);
    }

    pub(super) fn attach(
        &mut self,
        key: usize,
        peer: Fingerprint,
    ) -> Option<(Hold, Box<StreamsApp>)> {
        let connection = self.connections.get(key)?;
        let conn = connection.conn.quic()?;
        let facts = Facts {
            peer,
            address: connection.peer,
            protocol: conn.protocol().to_vec(),
            is_server: conn.is_server(),
            began_early: conn.is_early(),
        };
        let mailbox = self.io.shared.mailboxes.get(self.io.id.0 as usize)?;
        let place = Place {
            turns: Arc::clone(&mailbox.turns),
            key,
            serial: connection.serial,
        };
        let attached = Attached::new(facts, place);
        let hold = Hold(Arc::new(attached));
        let app = StreamsApp::new(Arc::clone(&hold.0));
        app.measure(conn);
        Some((hold, Box::new(app)))
    }

    /// A connection that was dialled for a handle is gone before its handshake was complete.
    pub(crate) fn not_connected(&mut self, dial: u64, gone: &WorkerConnection) {
        let Some(dialled) = self.dials.all.get_mut(&dial) else {
            return;
        };
        let closed = gone.close_reason();
        if let Some(CloseReason::IdentityRefused { by_peer, .. }) = closed {
            let shown = gone.conn.shown_fingerprint();
            dialled.refused = Some(ConnectFailure::Refused { by_peer, shown });
        }
        let why = closed.map_or_else(|| NOBODY_WAITS.to_owned(), |reason| reason.to_string());
        dialled
            .addresses
            .failed(self.io.now, Path::to(gone.peer), why, false);
        self.go_on_dialling(dial);
    }

    /// The process ends: nobody waits for what is being dialled.
    pub(crate) fn stop_connecting(&mut self) {
        self.dials.all.clear();
    }
}
