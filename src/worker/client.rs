//! A command's side: dialling, the one session, joining lanes, and how it ended.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use landro_sys::{SocketId, UdpOptions, UdpSocket};
use rand::Rng;

use super::lane::{Lane, Phase, Purpose, code};
use super::link::{ClientEvent, ClientLink, ClientStart, Command, Ended};
use super::log::Who;
use super::session::Running;
use super::stats::TransportStats;
use super::{Worker, lane};
use crate::disk::Base;
use crate::ids::{Fingerprint, SessionId};
use crate::proto::session::{Limits, Session};
use crate::proto::wire::{Preface, PrefaceKind};
use crate::proto::{Input, Outcome};
use crate::quic::{CloseReason, Conn, Connect};

/// What UDP over IPv4 takes of an MTU; the transport allows for IPv6 itself.
pub const UDP_IPV4_HEADER_BYTES: usize = 28;

impl Worker {
    pub(super) fn take_commands(&mut self) {
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Stray(stray) => self.stray(stray),
                Command::AreYouAlive { asker, lane, peer } => {
                    self.question_from(asker, lane, &peer)
                }
                Command::Answered { lane } => self.answered(lane),
                Command::Start(start) => self.start_client(*start),
                Command::Cancel => self.cancel_client(),
                Command::Reauthorise => self.reauthorise(),
                Command::Shutdown(grace) => self.shut_down(grace),
            }
        }
    }

    fn start_client(&mut self, start: ClientStart) {
        self.client = Some(ClientLink {
            peers: start.peers,
            next_peer: 0,
            dial_until: self.now + super::refused::DIAL_FOR,
            was_refused: false,
            setup: start.setup,
            trust_refused: start.trust_refused,
            request: Some(start.request),
            streams: start.streams,
            socket_options: start.socket_options,
            events: start.events,
            backend_reason: start.backend_reason,
            cancelled: false,
            ticket: None,
            ended: None,
            stats: TransportStats::default(),
            done: false,
        });
        self.dial_next("no address to dial".to_owned());
    }

    /// Dials the next address, or gives up with what the last one said.
    fn dial_next(&mut self, last_error: String) {
        let Some(client) = &mut self.client else {
            return;
        };
        if client.done {
            return; // Cancelled while it was dialling.
        }
        // Only where ICMP took its time to say so: what fails at once would fail for ever here.
        if client.next_peer == client.peers.len()
            && client.was_refused
            && self.now < client.dial_until
        {
            (client.next_peer, client.was_refused) = (0, false);
        }
        let Some(&peer) = client.peers.get(client.next_peer) else {
            client.ended = Some(Ended::Unreachable(last_error));
            client.done = true;
            return;
        };
        client.next_peer += 1;
        let options = client.socket_options;
        let dialled = self
            .open_socket(peer, &options)
            .map_err(|error| format!("no route to {peer}: {error}"))
            .and_then(|socket| self.dial(peer, socket, Purpose::FirstLane, None));
        if let Err(error) = dialled {
            self.dial_next(error);
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
        let local = socket.local_addr()?;
        self.sockets.push((self.driver.add_socket(socket)?, local));
        Ok(self.sockets.len() - 1)
    }

    fn dial(
        &mut self,
        peer: SocketAddr,
        socket: usize,
        purpose: Purpose,
        steer: Option<u8>,
    ) -> Result<(), String> {
        let (socket, local): (SocketId, _) = self.sockets[socket];
        let route =
            landro_sys::route_to(peer).map_err(|error| format!("no route to {peer}: {error}"))?;
        let key = self.lanes.vacant_key();
        let Some(client) = &mut self.client else {
            return Ok(());
        };
        // Whom we dial ourselves needs no authorisation.
        let promise = self.shared.budget.promise_window();
        self.shared.budget.end_promise(promise);
        let granted_bytes = self.shared.budget.grant_window(promise);
        client
            .setup
            .set_windows(promise.first_bytes, promise.most_bytes);
        client
            .setup
            .set_interface_payload(route.mtu_bytes.saturating_sub(UDP_IPV4_HEADER_BYTES));
        let ticket = client.ticket.as_deref();
        let connect = Connect {
            key,
            local,
            peer,
            steer,
            ticket,
            now: self.now,
        };
        let conn =
            Conn::connect(&mut client.setup, &mut self.router, connect).map_err(|error| {
                self.shared.budget.return_window(granted_bytes);
                error.to_string()
            })?;
        let serial = self.serial();
        let mut lane = Lane::new(
            serial,
            conn,
            socket,
            peer,
            Phase::Handshaking(purpose),
            self.now,
        );
        lane.quiet = Some(super::refused::SIGN_OF_LIFE);
        lane.granted_bytes = granted_bytes;
        lane.deadline = Some(self.now + self.shared.quic.handshake_timeout);
        self.new_lane(lane);
        Ok(())
    }

    pub(super) fn begin_client_session(&mut self, key: usize, fingerprint: Fingerprint) {
        let limits = self.limits();
        let address = self.lanes[key].peer;
        let backend = self.driver.backend();
        let Some(client) = &mut self.client else {
            return;
        };
        let Some(request) = client.request.take() else {
            return;
        };
        let limits = Limits {
            parallel: crate::proto::chunks::ParallelTransferConfig {
                max_concurrent_streams: client.streams,
                ..limits.parallel
            },
            ..limits
        };
        let backend_reason = client.backend_reason.clone();
        client.tell(ClientEvent::Connected {
            fingerprint,
            address,
            backend,
            backend_reason,
        });
        let machine = Session::client(self.now, request, limits);
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let id = SessionId(id);
        let preface = Preface {
            kind: PrefaceKind::New,
            session: id,
            lane: 0,
        };
        self.lanes[key]
            .control
            .before
            .push_back(preface.encode().to_vec().into());
        self.begin_session(key, id, fingerprint, machine, Base::Local, true);
        if self.client.as_ref().is_some_and(|client| client.cancelled) {
            self.cancel_client();
        }
    }

    /// Connects a fresh lane before this one nears the AEAD limit; the transfer goes on meanwhile.
    pub(super) fn replace_lane(&mut self, key: usize, session: usize) {
        let lane = &self.lanes[key];
        let (peer, steer) = (lane.peer, lane.conn.peer_cid_first_byte());
        let ticket = lane.conn.session_ticket().map(<[u8]>::to_vec);
        let socket = self
            .sockets
            .iter()
            .position(|(id, _)| *id == lane.socket)
            .unwrap_or(0);
        if let Some(client) = &mut self.client {
            client.ticket = ticket;
        }
        self.sessions[session].joining = true;
        if let Err(error) = self.dial(peer, socket, Purpose::Join { session }, steer) {
            if self
                .log
                .admits(Who::Peer(self.sessions[session].peer), self.now)
            {
                tracing::warn!(%peer, error, "cannot open a lane to replace one near its packet limit");
            }
            self.join_failed(session);
        }
    }

    pub(super) fn join_client_lane(
        &mut self,
        key: usize,
        session: usize,
        fingerprint: Fingerprint,
    ) {
        let Some(running) = self.sessions.get_mut(session) else {
            return self.close_lane(key, code::DONE, "");
        };
        running.joining = false;
        if running.peer != fingerprint || running.finished.is_some() || running.lanes.is_empty() {
            return self.close_lane(key, code::DONE, "");
        }
        let lane = running.lanes.len() as u32;
        let preface = Preface {
            kind: PrefaceKind::Join,
            session: running.id,
            lane,
        };
        running.lanes.push(key);
        let fresh = &mut self.lanes[key];
        fresh
            .control
            .before
            .push_back(preface.encode().to_vec().into());
        fresh.phase = Phase::Serving { session };
        fresh.deadline = None;
        if self.log.admits(Who::Debug, self.now) {
            tracing::debug!(peer = %fresh.peer, lane, resumed = fresh.conn.is_resumed(), "a fresh lane joined");
        }
        self.touch_session_lanes(session);
    }

    fn cancel_client(&mut self) {
        if let Some(client) = &mut self.client {
            client.cancelled = true;
        }
        let sessions: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for session in sessions {
            self.sessions[session]
                .machine
                .handle(self.now, Input::Cancel);
            self.drain_session(session);
            self.touch_session_lanes(session);
        }
        if self.sessions.is_empty() {
            let lanes: Vec<usize> = self.lanes.iter().map(|(key, _)| key).collect();
            for lane in lanes {
                self.close_lane(lane, code::DONE, "cancelled");
            }
            if let Some(client) = &mut self.client {
                client
                    .ended
                    .get_or_insert(Ended::Outcome(Outcome::Cancelled(Default::default())));
                client.done = true;
            }
        }
    }

    /// Remembers why a command's connection is closing; the first reason counts.
    pub(super) fn note_close_reason(&mut self, key: usize) {
        let (Some(client), Some(lane)) = (&mut self.client, self.lanes.get(key)) else {
            return;
        };
        if let Some(ended) = how_it_ended(client, lane) {
            client.ended.get_or_insert(ended);
        }
    }

    /// A lane of the command is gone: in its handshake that decides how the transfer ends.
    pub(super) fn client_lane_ended(&mut self, lane: &Lane, stats: &TransportStats) {
        let Some(client) = &mut self.client else {
            return self.served(stats);
        };
        client.stats.add(stats);
        let ended = how_it_ended(client, lane);
        if let Phase::Handshaking(Purpose::FirstLane) = lane.phase {
            client.was_refused |= matches!(lane.conn.close_reason(), Some(CloseReason::GivenUp(_)));
            match ended {
                Some(
                    ended
                    @ (Ended::IdentityUnknown(_) | Ended::RefusedByPeer(_) | Ended::Failed(_)),
                ) => {
                    client.ended = Some(ended);
                    client.done = true;
                }
                Some(Ended::Lost(text) | Ended::Unreachable(text)) => {
                    self.dial_next(format!("{}: {text}", lane.peer));
                }
                Some(Ended::Outcome(_)) | None => {
                    self.dial_next(format!("{}: no answer", lane.peer))
                }
            }
        } else if let Some(ended) = ended {
            client.ended.get_or_insert(ended);
        }
    }

    pub(super) fn client_session_ended(&mut self, running: Running) {
        let Some(client) = &mut self.client else {
            return;
        };
        let ended = match (running.finished, client.ended.take()) {
            (Some(outcome @ Outcome::Complete(_)), _) => Ended::Outcome(outcome),
            (Some(outcome @ Outcome::Cancelled(_)), _) if client.cancelled => {
                Ended::Outcome(outcome)
            }
            (_, Some(ended)) => ended,
            (Some(Outcome::Cancelled(_)), None) => {
                Ended::Lost("the peer stopped the transfer".to_owned())
            }
            (Some(Outcome::Lost(_)) | None, None) => Ended::Lost("the connection ended".to_owned()),
            (Some(outcome), None) => Ended::Outcome(outcome),
        };
        client.ended = Some(ended);
        client.done = true;
    }

    fn shut_down(&mut self, grace: Duration) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(self.now + grace);
        let sessions: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for session in sessions {
            self.sessions[session]
                .machine
                .handle(self.now, Input::Cancel);
            self.drain_session(session);
        }
        let lanes: Vec<usize> = self.lanes.iter().map(|(key, _)| key).collect();
        for key in lanes {
            if self.lanes[key].session().is_none() {
                self.close_lane(key, code::SHUTDOWN, "the daemon is shutting down");
            }
            self.touch(key);
        }
    }

    /// Whether the loop may end.
    pub(super) fn is_over(&mut self) -> bool {
        if let Some(client) = &mut self.client
            && client.done
            && self.disk.in_flight() == 0
            && self.send_buffers.len() == self.send_buffers_made
            && self.touched.is_empty()
        {
            let ended = client
                .ended
                .take()
                .unwrap_or_else(|| Ended::Failed("the transfer ended".to_owned()));
            let mut stats = std::mem::take(&mut client.stats);
            for (_, lane) in &self.lanes {
                stats.add(&super::stats::of_lane(lane, self.driver.backend()));
            }
            stats.set_received(self.gro_packets, self.gro_receives);
            stats.cpu = landro_sys::cpu::thread_cpu_time().unwrap_or_default();
            client.tell(ClientEvent::Stats(Box::new(stats)));
            client.tell(ClientEvent::Ended(ended));
            return true;
        }
        match self.stopping {
            Some(at) => self.lanes.is_empty() && self.disk.in_flight() == 0 || at <= self.now,
            None => false,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        lane::limits(&self.shared, self.sessions.len())
    }
}

/// What a closed connection means to a command; None: it was closed as it should be.
fn how_it_ended(client: &ClientLink, lane: &Lane) -> Option<Ended> {
    if let Some(refused) = client
        .trust_refused
        .lock()
        .ok()
        .and_then(|refused| *refused)
    {
        return Some(Ended::IdentityUnknown(refused));
    }
    Some(match lane.conn.close_reason()? {
        refused @ CloseReason::IdentityRefused { .. } => Ended::RefusedByPeer(refused.to_string()),
        CloseReason::PeerApp {
            code: code::UNAUTHORISED,
            reason,
        } => Ended::RefusedByPeer(reason),
        CloseReason::PeerApp {
            code: code::VIOLATION,
            reason,
        } => Ended::Failed(format!("the peer reports a protocol violation: {reason}")),
        CloseReason::Local {
            code: code::TOO_MUCH,
            reason,
        } => Ended::Failed(format!("the connection was closed: {reason}")),
        CloseReason::PeerApp {
            code: code::DONE | code::REPLACED,
            ..
        }
        | CloseReason::Local { .. } => {
            return None;
        }
        CloseReason::PeerApp { code, reason } => Ended::Lost(format!(
            "the peer closed the connection: {reason} (code {code})"
        )),
        other => Ended::Lost(other.to_string()),
    })
}
