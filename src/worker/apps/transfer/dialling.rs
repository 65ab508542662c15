//! A command's side: dialling, the one session, joining lanes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use landro_sys::{UdpOptions, UdpSocket};
use rand::Rng;

use crate::disk::{Base, Space};
use crate::ids::{Fingerprint, SessionId};
use crate::proto::CancelReason;
use crate::proto::lanes::{LaneKey, Lanes, LanesInput, code};
use crate::proto::parallel::ParallelTransferConfig;
use crate::proto::session::{Limits, Session};
use crate::worker::Worker;
use crate::worker::client_events::{ClientEvent, ClientStart};
use crate::worker::client_transfer::ClientTransfer;
use crate::worker::connections::Destination;
use crate::worker::lane::Errand;
use crate::worker::limits;
use crate::worker::sessions::Beginning;

impl Worker {
    pub(crate) fn start_client(&mut self, start: ClientStart) {
        self.client = Some(ClientTransfer::new(start, self.io.now));
        self.dial_next("for it has no address".to_owned());
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
                .map_err(|error| format!("for there is no way to {peer} ({error})"))
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
        let address = connection.peer;
        client.tell(ClientEvent::Connected {
            fingerprint: peer,
            address,
            backend: self.io.driver.backend(),
            backend_reason: client.backend_reason.clone(),
        });
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let (id, now) = (SessionId(id), self.io.now);
        let session = Session::client(now, request, limits);
        let begin = Beginning {
            id,
            address,
            peer,
            lanes: Lanes::client(now, LaneKey(key), session, self.lanes_config(id, peer)),
            space: Space::new(Base::Local, self.files_in_place()),
            allowed: None,
        };
        self.begin_session(key, begin);
    }

    /// Connects another lane for a session, to the same worker of the daemon. Gives what the
    /// session is to be told, if that fails at once.
    pub(super) fn dial_lane(&mut self, session: usize) -> Option<LanesInput> {
        let connection = self.connections.newest_of(session)?;
        let (peer, who) = (connection.peer, connection.who());
        let steer = connection.conn.peer_cid_first_byte();
        let ticket = connection.conn.session_ticket().map(<[u8]>::to_vec);
        let listener = self.listeners.find(connection.socket).unwrap_or(0);
        if let Some(client) = &mut self.client {
            client.ticket = ticket;
        }
        let dialled = self.dial(peer, listener, steer, Errand::Join { session });
        let error = dialled.err()?;
        if self.io.log.admits(who, self.io.now) {
            tracing::warn!(%peer, error, "cannot open a lane to replace one near its packet limit");
        }
        Some(LanesInput::DialFailed)
    }

    pub(crate) fn cancel_client(&mut self) {
        let at_once = self.client.as_mut().is_some_and(ClientTransfer::stop);
        for session in self.sessions.keys() {
            self.tell(session, LanesInput::Cancel(CancelReason::User));
        }
        if at_once {
            for key in self.connections.keys() {
                self.connections
                    .close(&self.io, key, code::DONE, "cancelled");
            }
        }
    }
}
