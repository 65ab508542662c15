//! A command's side: dialling, the one session, joining lanes.

use std::io;
use std::time::Duration;

use landro_sys::UdpSocket;
use rand::Rng;

use crate::config::LaneKind;
use crate::disk::{Base, Space};
use crate::ids::{Fingerprint, SessionId};
use crate::proto::CancelReason;
use crate::proto::clear::{ClearLanes, ClearSecret};
use crate::proto::lanes::{
    ADD_PAUSE_MAX, DialKind, LaneKey, Lanes, LanesConfig, LanesInput, TAKEOVER_DIALS, code,
};
use crate::proto::parallel::ParallelTransferConfig;
use crate::proto::query::QueryRequest;
use crate::proto::session::{Limits, Request, Session};
use crate::tcp::ClearPass;
use crate::worker::Worker;
use crate::worker::client_events::{ClientEvent, ClientStart};
use crate::worker::client_transfer::ClientTransfer;
use crate::worker::connections::app::Handshake;
use crate::worker::connections::connection::WorkerConnection;
use crate::worker::connections::transport::Transport;
use crate::worker::connections::{Destination, StreamTo};
use crate::worker::lane::Errand;
use crate::worker::limits;
use crate::worker::log::Who;
use crate::worker::paths::Path;
use crate::worker::race::RaceStep;
use crate::worker::sessions::Beginning;

/// What each packet of a lane carries that is added in place of one that was lost: 1,280 bytes,
/// which every path of IPv6 carries, less the headers.
const SMALL_SEGMENT_BYTES: u32 = 1_220;

/// Where lanes leave from several places, the longest pause before one that has none is tried
/// again: a cable may be plugged in any moment.
const PLUGGED_IN_PAUSE: Duration = Duration::from_secs(2);

impl Worker {
    pub(crate) fn start_client(&mut self, start: ClientStart) {
        self.client = Some(ClientTransfer::new(start, self.io.now));
        self.dial_when_due();
    }

    /// Dials the addresses whose time has come.
    pub(crate) fn dial_when_due(&mut self) {
        let now = self.io.now;
        while let Some(client) = &mut self.client {
            match client.next_address(now) {
                RaceStep::Dial(kind, path) => self.dial_address(kind, path),
                RaceStep::GiveUp(kind, path) => self.give_up_dialling(kind, path),
                RaceStep::Wait | RaceStep::Failed(_) => return,
            }
        }
    }

    fn dial_address(&mut self, kind: LaneKind, path: Path) {
        let dialled = match kind {
            LaneKind::Quic => self
                .open_socket(path)
                .map_err(|error| format!("for there is no way there: {error}"))
                .and_then(|listener| self.dial(path, listener, None, Errand::FirstLane)),
            LaneKind::Tls | LaneKind::Clear => {
                self.dial_stream(self.on_path(path), Errand::FirstLane, None)
            }
        };
        if let (Err(why), Some(client)) = (dialled, &mut self.client) {
            client.not_dialled(self.io.now, (kind, path), why);
        }
    }

    fn give_up_dialling(&mut self, kind: LaneKind, path: Path) {
        // Whatever becomes of the connection: the address has had its time.
        if let Some(client) = &mut self.client {
            client.not_dialled(self.io.now, (kind, path), "in time".to_owned());
        }
        for key in self.connections.dialled_first() {
            let is_it = |it: &WorkerConnection| (it.conn.kind(), it.path()) == (kind, path);
            if self.connections.get(key).is_some_and(is_it) {
                self.drop_connection(key);
            }
        }
    }

    /// Where a lane over TCP goes on a path of this command's.
    fn on_path(&self, path: Path) -> StreamTo {
        StreamTo {
            peer: path.peer,
            bind: self
                .client
                .as_ref()
                .and_then(|client| client.paths.numbered(path)),
            segment_bytes: None,
        }
    }

    /// `pass`: without TLS.
    fn dial_stream(
        &mut self,
        to: StreamTo,
        errand: Errand,
        pass: Option<ClearPass>,
    ) -> Result<(), String> {
        let (setup, has_lost) = match errand {
            Errand::Join {
                kind: DialKind::Add | DialKind::AddClear,
                session,
            } => {
                let session = self.sessions.get(session);
                let has_lost = session.is_some_and(|it| it.lanes.has_lost_added());
                (self.io.shared.added_lanes.as_ref(), has_lost)
            }
            Errand::FirstLane | Errand::Join { .. } => {
                let client = self.client.as_ref();
                (client.map(|client| &client.tcp.carrying), false)
            }
        };
        let Some(setup) = setup.cloned() else {
            return Ok(());
        };
        // Perhaps to a path that carries small packets only.
        let segment_bytes = has_lost.then_some(SMALL_SEGMENT_BYTES);
        let to = StreamTo {
            segment_bytes,
            ..to
        };
        self.connections
            .dial_stream(&mut self.io, (&setup, pass), to, errand)
    }

    /// A socket for one peer: connected, it learns what ICMP says about that peer.
    fn open_socket(&mut self, path: Path) -> io::Result<usize> {
        let Some(client) = &self.client else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let (bind, options) = (client.paths.bind(path), &client.socket_options);
        let socket = UdpSocket::to(path.peer, bind, options)?;
        self.listeners.add(&mut self.io.driver, socket, None)
    }

    fn dial(
        &mut self,
        path: Path,
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
            peer: path.peer,
            bind: client.paths.numbered(path),
            steer,
            ticket: client.ticket.clone(),
        };
        let handshake = Handshake::Dialled(errand);
        self.connections
            .dial(&mut self.io, &mut client.setup, to, handshake)
    }

    pub(super) fn begin_client_session(&mut self, key: usize, peer: Fingerprint) {
        let (Some(client), Some(connection)) = (&mut self.client, self.connections.get_mut(key))
        else {
            return;
        };
        let Some(request) = client.begin() else {
            let reason = "another address answered before";
            return self.connections.close(&self.io, key, code::DONE, reason);
        };
        let limits = limits::of_session(&self.io.shared, self.sessions.len());
        let limits = Limits {
            asks_addresses: client.paths.several().is_some(),
            parallel: ParallelTransferConfig {
                max_concurrent_streams: client.streams,
                ..limits.parallel
            },
            clear: match client.clear {
                true => ClearLanes::Wanted,
                false => ClearLanes::Off,
            },
            ..limits
        };
        let (address, kind) = (connection.peer, connection.conn.kind());
        client.paths.carries(connection.path());
        // The first one is met once.
        let _ = client.met.set(peer);
        client.tell(ClientEvent::Connected {
            fingerprint: peer,
            address,
            backend: self.io.driver.backend(),
            backend_reason: client.backend_reason.clone(),
            kind,
            kind_reason: client.why(kind),
            ktls: client.tcp.ktls.clone(),
        });
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let (id, now) = (SessionId(id), self.io.now);
        let is_transfer = matches!(request, Request::Transfer(_));
        let outlives_lanes = limits.adds_lanes && is_transfer;
        let session = Session::client(now, request, limits);
        self.io.shared.homes.claim(id, self.io.id);
        let config = self.client_lanes_config((id, peer), kind, outlives_lanes);
        let begin = Beginning {
            id,
            address,
            peer,
            lanes: Lanes::client(now, LaneKey(key), session, config),
            space: Space::new(Base::Local),
            allowed: None,
            home: None,
            dials: None,
        };
        self.begin_session(key, begin);
        for key in self.connections.dialled_first() {
            let reason = "another address answered before";
            self.connections.close(&self.io, key, code::DONE, reason);
        }
    }

    /// What lanes a command's session is to have that began on one of this kind.
    fn client_lanes_config(
        &self,
        (id, peer): (SessionId, Fingerprint),
        kind: LaneKind,
        outlives_lanes: bool,
    ) -> LanesConfig {
        let client = self.client.as_ref();
        let places = client.and_then(|client| client.paths.several());
        let asked = client.map_or(0, |client| client.lanes.lanes());
        let clear = client.is_some_and(|client| client.clear);
        LanesConfig {
            // A place is chosen where all lanes are known.
            workers: match places {
                Some(_) => 1,
                None => self.io.shared.workers,
            },
            adds: match (kind, places) {
                (_, Some(places)) => asked.max(places),
                // It has nothing to gain from just another TLS lane, unless that takes over.
                (LaneKind::Tls, None) if asked == 1 && !clear => 0,
                (LaneKind::Tls | LaneKind::Clear | LaneKind::Quic, None) => asked,
            },
            add_pause_max: match places {
                Some(_) => PLUGGED_IN_PAUSE,
                None => ADD_PAUSE_MAX,
            },
            takeover_dials: TAKEOVER_DIALS * places.unwrap_or(1) as u32,
            places: places.unwrap_or(1) as u32,
            outlives_lanes,
            ..self.lanes_config((id, peer), kind)
        }
    }

    /// Connects another lane for a session: one that replaces another is of the same kind, and goes
    /// to the same worker of the daemon. Gives what the session is to be told, if that fails at
    /// once.
    pub(super) fn dial_lane(&mut self, session: usize, kind: DialKind) -> Option<LanesInput> {
        if kind == DialKind::TakeOver {
            return self.dial_elsewhere(session);
        }
        if let Some(to) = self.away_from(session) {
            let errand = Errand::Join { session, kind };
            let dialled = self.dial_stream(to, errand, None);
            return dialled.err().map(|_| LanesInput::DialFailed { kind });
        }
        let Some(connection) = self.connections.newest_of(session) else {
            // It was cut just now.
            return Some(LanesInput::DialFailed { kind });
        };
        let (mut path, who) = (connection.path(), connection.who());
        if kind == DialKind::Add {
            path = self.way_to_add(session).unwrap_or(path);
        }
        let peer = path.peer;
        let errand = Errand::Join { session, kind };
        let dialled = match (&connection.conn, kind) {
            (Transport::Quic(link), DialKind::Replace) => {
                let steer = link.conn.peer_cid_first_byte();
                let ticket = link.conn.session_ticket().map(<[u8]>::to_vec);
                let listener = self.listeners.find(link.socket).unwrap_or(0);
                if let Some(client) = &mut self.client {
                    client.ticket = ticket;
                }
                self.dial(path, listener, steer, errand)
            }
            (Transport::Tcp(_), DialKind::Replace)
            | (_, DialKind::Add | DialKind::AddClear | DialKind::TakeOver) => {
                self.dial_stream(self.on_path(path), errand, None)
            }
        };
        let error = dialled.err()?;
        if let Some(client) = &mut self.client {
            client.paths.failed(path);
        }
        if self.io.log.admits(who, self.io.now) {
            match kind == DialKind::Replace {
                true => {
                    tracing::warn!(%peer, error, "cannot open a lane to replace one near its packet limit");
                }
                false => tracing::debug!(%peer, error, "cannot open a lane over TCP"),
            }
        }
        Some(LanesInput::DialFailed { kind })
    }

    /// Connects another lane, in the clear, which this secret lets in.
    pub(super) fn dial_in_the_clear(
        &mut self,
        session: usize,
        (id, lane, secret): (SessionId, u32, ClearSecret),
    ) -> Option<LanesInput> {
        let kind = DialKind::AddClear;
        let connection = self.connections.newest_of(session);
        let known = connection.and_then(|it| Some((it.path(), it.conn.peer_fingerprint()?)));
        let Some((path, peer)) = known else {
            return Some(LanesInput::DialFailed { kind });
        };
        let path = self.way_to_add(session).unwrap_or(path);
        let pass = ClearPass {
            session: id,
            lane,
            secret: secret.0,
            peer,
        };
        let errand = Errand::Join { session, kind };
        let dialled = self.dial_stream(self.on_path(path), errand, Some(pass));
        let error = dialled.err()?;
        if let Some(client) = &mut self.client {
            client.paths.failed(path);
        }
        if self.io.log.admits(Who::Debug, self.io.now) {
            let peer = path.peer;
            tracing::debug!(%peer, error, "cannot open a lane in the clear");
        }
        Some(LanesInput::DialFailed { kind })
    }

    /// The way of a lane that is to be added, where the command names several places.
    fn way_to_add(&self, session: usize) -> Option<Path> {
        let client = self.client.as_ref()?;
        client.paths.several()?;
        let lanes = |bind| self.connections.added_from(session, bind);
        client.paths.next(client.lanes.lanes(), lanes)
    }

    /// Where lanes go of a session whose own worker is another one.
    fn away_from(&self, session: usize) -> Option<StreamTo> {
        let at = self.sessions.get(session)?.dials.clone()?;
        Some(StreamTo {
            peer: at.address,
            bind: at.bind,
            segment_bytes: None,
        })
    }

    /// Connects a lane that takes over from one that is silent, or cut.
    fn dial_elsewhere(&mut self, session: usize) -> Option<LanesInput> {
        let silent = self.connections.newest_of(session).map(|it| &it.conn);
        let from = silent.map(Transport::kind);
        let steer = silent.and_then(|conn| conn.quic()?.peer_cid_first_byte());
        let client = self.client.as_mut()?;
        let kind = DialKind::TakeOver;
        let lanes = |bind| self.connections.added_from(session, bind);
        let Some(path) = client.paths.elsewhere(lanes) else {
            return Some(LanesInput::DialFailed { kind });
        };
        let elsewhere = &mut client.elsewhere;
        elsewhere.steer = steer.unwrap_or(elsewhere.steer);
        let steer = elsewhere.steer;
        let other = from.map_or(LaneKind::Tls, LaneKind::other);
        let to = elsewhere.kind.take().unwrap_or(other);
        let errand = Errand::Join { session, kind };
        let dialled = match to {
            LaneKind::Tls | LaneKind::Clear => self.dial_stream(self.on_path(path), errand, None),
            LaneKind::Quic => self
                .socket_elsewhere(path)
                .map_err(|error| format!("for there is no way there: {error}"))
                .and_then(|listener| self.dial(path, listener, Some(steer), errand)),
        };
        let error = dialled.err()?;
        if let Some(client) = &mut self.client {
            client.elsewhere.kind = Some(to.other());
        }
        if self.io.log.admits(Who::Debug, self.io.now) {
            let peer = path.peer;
            tracing::debug!(%peer, error, "cannot open a lane to go on in place of a silent one");
        }
        Some(LanesInput::DialFailed { kind })
    }

    /// The socket of lanes that take over on this path: one, however often that is tried.
    fn socket_elsewhere(&mut self, path: Path) -> io::Result<usize> {
        let known = self.client.iter().flat_map(|it| &it.elsewhere.listeners);
        if let Some((_, listener)) = known.into_iter().find(|(other, _)| *other == path) {
            return Ok(*listener);
        }
        let listener = self.open_socket(path)?;
        if let Some(client) = &mut self.client {
            client.elsewhere.listeners.push((path, listener));
        }
        Ok(listener)
    }

    /// Of the one session that a command has.
    pub(crate) fn ask(&mut self, ask: QueryRequest) {
        if let Some(session) = self.sessions.keys().first() {
            self.tell(*session, LanesInput::Ask(ask));
        }
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
