//! A command's side: dialling, the one session, joining lanes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use landro_sys::{UdpOptions, UdpSocket};
use rand::Rng;

use crate::disk::{Base, Space};
use crate::ids::{Fingerprint, SessionId};
use crate::proto::Input;
use crate::proto::chunks::ParallelTransferConfig;
use crate::proto::session::{Limits, Session};
use crate::proto::wire::{Preface, PrefaceKind};
use crate::worker::Worker;
use crate::worker::client_events::{ClientEvent, ClientStart};
use crate::worker::client_transfer::ClientTransfer;
use crate::worker::code;
use crate::worker::connections::Destination;
use crate::worker::connections::app::App;
use crate::worker::lane::{Errand, Lane};
use crate::worker::limits;
use crate::worker::log::Who;
use crate::worker::sessions::Beginning;

impl Worker {
    pub(crate) fn start_client(&mut self, start: ClientStart) {
        self.client = Some(ClientTransfer::new(start, self.io.now));
        self.dial_next("no address to dial".to_owned());
    }

    /// Dials the next address, or gives up with what the last one said.
    pub(super) fn dial_next(&mut self, last_error: String) {
        let mut last_error = last_error;
        while let Some(client) = &mut self.client
            && let Some(peer) = client.next_address(self.io.now, last_error)
        {
            let options = client.socket_options;
            let dialled = self
                .open_socket(peer, &options)
                .map_err(|error| format!("no route to {peer}: {error}"))
                .and_then(|listener| self.dial(peer, listener, None, Errand::FirstLane));
            match dialled {
                Ok(()) => return,
                Err(error) => last_error = error,
            }
        }
    }

    /// A socket for one peer: connected, it learns what ICMP says about that peer.
    fn open_socket(&mut self, peer: SocketAddr, options: &UdpOptions) -> io::Result<usize> {
        let any: IpAddr = match peer.is_ipv4() {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0), options)?;
        socket.connect(peer)?;
        self.listeners.add(&mut self.io.driver, socket, None)
    }

    fn dial(
        &mut self,
        peer: SocketAddr,
        listener: usize,
        steer: Option<u8>,
        errand: Errand,
    ) -> Result<(), String> {
        let listener = self.listeners.get(listener);
        let (Some(client), Some(listener)) = (&mut self.client, listener) else {
            return Ok(());
        };
        let to = Destination {
            socket: listener.socket,
            local: listener.local,
            peer,
            steer,
            ticket: client.ticket.clone(),
        };
        self.connections
            .dial(&mut self.io, &mut client.setup, to, errand)
    }

    pub(super) fn begin_client_session(&mut self, key: usize, peer: Fingerprint) {
        let (Some(client), Some(connection)) = (&mut self.client, self.connections.get_mut(key))
        else {
            return;
        };
        let Some(request) = client.begin() else {
            return;
        };
        let limits = limits::of_session(&self.io.shared, self.sessions.len());
        let limits = Limits {
            parallel: ParallelTransferConfig {
                max_concurrent_streams: client.streams,
                ..limits.parallel
            },
            ..limits
        };
        client.tell(ClientEvent::Connected {
            fingerprint: peer,
            address: connection.peer,
            backend: self.io.driver.backend(),
            backend_reason: client.backend_reason.clone(),
        });
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let id = SessionId(id);
        let preface = Preface {
            kind: PrefaceKind::New,
            session: id,
            lane: 0,
        };
        let begin = Beginning {
            id,
            peer,
            machine: Session::client(self.io.now, request, limits),
            space: Space::new(Base::Local, self.files_in_place()),
            allowed: None,
        };
        self.begin_session(key, begin, Some(preface.encode().to_vec().into()));
    }

    /// Connects a fresh lane before this one nears the AEAD limit; the transfer goes on meanwhile.
    pub(super) fn replace_lane(&mut self, key: usize, session: usize) {
        let (Some(connection), Some(running)) =
            (self.connections.get(key), self.sessions.get_mut(session))
        else {
            return;
        };
        running.joining = true;
        let who = Who::Peer(running.peer);
        let (peer, steer) = (connection.peer, connection.conn.peer_cid_first_byte());
        if let Some(client) = &mut self.client {
            client.ticket = connection.conn.session_ticket().map(<[u8]>::to_vec);
        }
        let listener = self.listeners.find(connection.socket).unwrap_or(0);
        let dialled = self.dial(peer, listener, steer, Errand::Join { session });
        if let Err(error) = dialled {
            if self.io.log.admits(who, self.io.now) {
                tracing::warn!(%peer, error, "cannot open a lane to replace one near its packet limit");
            }
            self.join_failed(session);
        }
    }

    /// A lane that was dialled for it joins a session.
    pub(super) fn join_client_lane(
        &mut self,
        key: usize,
        session: usize,
        fingerprint: Fingerprint,
    ) {
        let Some(running) = self.sessions.get_mut(session) else {
            return self.connections.close(&self.io, key, code::DONE, "");
        };
        running.joining = false;
        if running.peer != fingerprint || running.finished.is_some() || running.lanes.is_empty() {
            return self.connections.close(&self.io, key, code::DONE, "");
        }
        let lane = running.lanes.len() as u32;
        let preface = Preface {
            kind: PrefaceKind::Join,
            session: running.id,
            lane,
        };
        running.lanes.push(key);
        if let Some(fresh) = self.connections.get_mut(key) {
            let before = preface.encode().to_vec().into();
            fresh.app = App::Transfer(Box::new(Lane::serving(session, Some(before))));
            fresh.deadline = None;
            if self.io.log.admits(Who::Debug, self.io.now) {
                tracing::debug!(peer = %fresh.peer, lane, resumed = fresh.conn.is_resumed(), "a fresh lane joined");
            }
        }
        self.touch_session_lanes(session);
    }

    pub(crate) fn cancel_client(&mut self) {
        let at_once = self.client.as_mut().is_some_and(ClientTransfer::stop);
        for session in self.sessions.keys() {
            self.sessions.tell(self.io.now, session, Input::Cancel);
            self.drain_session(session);
            self.touch_session_lanes(session);
        }
        if at_once {
            for key in self.connections.keys() {
                self.connections
                    .close(&self.io, key, code::DONE, "cancelled");
            }
        }
    }

    /// Remembers why a command's connection is closing; the first reason counts.
    pub(super) fn note_close_reason(&mut self, key: usize) {
        if let (Some(client), Some(connection)) = (&mut self.client, self.connections.get(key)) {
            client.note(connection.conn.close_reason());
        }
    }
}
