//! Datagrams in: each segment to its connection, strays to their owner, new connections accepted.

use std::net::SocketAddr;

use landro_sys::Datagrams;

use super::client::UDP_IPV4_HEADER_BYTES;
use super::lane::{Lane, Phase, Purpose};
use super::link::{Command, Refusals, Stray};
use super::log::Who;
use super::{Worker, egress};
use crate::budget::{
    MAX_CONNECTIONS_PER_WORKER, MAX_HANDSHAKES_PER_ADDRESS, RETRY_ABOVE_HANDSHAKES,
};
use crate::config::{ETHERNET_UDP_PAYLOAD_BYTES, MAX_UDP_PAYLOAD_BYTES};
use crate::ids::WorkerId;
use crate::quic::{Accept, Conn, NewConn, Route};

/// What is assumed where the kernel does not say.
const ETHERNET_MTU_BYTES: usize = 1500;

/// Jumbo strays a mailbox takes, 1 MiB of the largest; of ordinary ones it holds 1.5 MB.
const MAX_JUMBO_STRAYS: usize = 64;

impl Worker {
    pub(super) fn received(&mut self, mut datagrams: Datagrams) {
        let socket = self
            .sockets
            .iter()
            .position(|(id, _)| *id == datagrams.socket());
        if let (Some(socket), false) = (socket, datagrams.truncated()) {
            let from = datagrams.from();
            let local = self.local_address(socket, datagrams.to());
            let segment_bytes = datagrams.segment_bytes().max(1);
            self.gro_receives += 1;
            for segment in datagrams.payload_mut().chunks_mut(segment_bytes) {
                self.segment(segment, socket, from, local);
            }
        }
        self.driver.recycle(datagrams);
    }

    pub(super) fn stray(&mut self, mut stray: Stray) {
        if stray.socket < self.sockets.len() {
            let local = self.local_address(stray.socket, stray.to);
            self.segment(&mut stray.datagram, stray.socket, stray.from, local);
        }
    }

    /// The address a datagram was sent to: on a wildcard socket the packet info says which of ours.
    fn local_address(&self, socket: usize, to: Option<std::net::IpAddr>) -> SocketAddr {
        let bound = self.sockets[socket].1;
        match to {
            Some(ip) if bound.ip().is_unspecified() => SocketAddr::new(ip, bound.port()),
            _ => bound,
        }
    }

    fn segment(&mut self, segment: &mut [u8], socket: usize, from: SocketAddr, local: SocketAddr) {
        self.gro_packets += 1;
        let demand_retry = self.handshaking >= RETRY_ABOVE_HANDSHAKES;
        let key = match self
            .router
            .route(segment, from, local, self.now, demand_retry)
        {
            Route::Conn(key) => key,
            Route::New(new) => match self.accept(new, socket, from, local) {
                Some(key) => key,
                None => return,
            },
            Route::Stray(owner) => return self.pass_on(segment, owner, socket, from, local),
            Route::Reply(bytes) => return self.reply(socket, from, local, &bytes),
            Route::Drop => return,
        };
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        lane.heard = self.now;
        if let Err(error) = lane.conn.recv(segment, from)
            && self.log.admits(Who::Debug, self.now)
        {
            tracing::debug!(peer = %from, %error, "a packet was refused");
        }
        // At once: between two turns there are hundreds of packets.
        if lane.conn.is_too_heavy() {
            self.evict(
                key,
                "what this connection makes us keep is more than its share",
            );
        }
        self.touch(key);
    }

    fn pass_on(
        &mut self,
        segment: &[u8],
        owner: WorkerId,
        socket: usize,
        from: SocketAddr,
        local: SocketAddr,
    ) {
        // Ours are never larger; what is would only fill the owner's mailbox, as many jumbo packets
        // of strangers would.
        let jumbo = segment.len() > ETHERNET_UDP_PAYLOAD_BYTES;
        if segment.len() > MAX_UDP_PAYLOAD_BYTES
            || jumbo && self.shared.waiting(owner) > MAX_JUMBO_STRAYS
        {
            Refusals::count(&self.shared.refusals.strays_dropped);
            return;
        }
        let stray = Stray {
            datagram: segment.to_vec(),
            from,
            to: Some(local.ip()),
            socket,
        };
        if !self.shared.post(owner, Command::Stray(stray)) {
            Refusals::count(&self.shared.refusals.strays_dropped);
        }
    }

    /// Sends a packet that belongs to no connection: version negotiation, Retry, stateless reset.
    fn reply(&mut self, socket: usize, to: SocketAddr, local: SocketAddr, bytes: &[u8]) {
        // Half of the send buffers is for those we know. Otherwise the reply is lost like any
        // datagram may be; the peer asks again.
        if self.free_send_buffers() <= super::SEND_BUFFERS / 2 {
            return;
        }
        let Some(mut buffer) = self.take_send_buffer() else {
            return;
        };
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        let socket = self.sockets[socket].0;
        self.driver.send(
            egress::NO_LANE,
            egress::single(socket, buffer, len, to, local),
        );
    }

    fn accept(
        &mut self,
        new: NewConn,
        socket: usize,
        from: SocketAddr,
        local: SocketAddr,
    ) -> Option<usize> {
        if self.lanes.len() >= MAX_CONNECTIONS_PER_WORKER || self.stopping.is_some() {
            let count = Refusals::count(&self.shared.refusals.connections_refused);
            if count.is_power_of_two() && self.log.admits(Who::Strangers, self.now) {
                tracing::warn!(peer = %from, count, "connection refused: this worker's limit is reached");
            }
            return None;
        }
        // Beyond the threshold addresses are proven, so that this share is of one host that really
        // is there.
        if self.handshaking >= RETRY_ABOVE_HANDSHAKES
            && self.handshakes_from(from) >= MAX_HANDSHAKES_PER_ADDRESS
        {
            Refusals::count(&self.shared.refusals.connections_refused);
            return None;
        }
        let key = self.lanes.vacant_key();
        let setup = self.accept.as_mut()?;
        let promise = self.shared.budget.promise_window();
        setup.set_windows(promise.first_bytes, promise.most_bytes);
        // Jumbo frames are probed for where our side of the path has them.
        let mtu_bytes =
            landro_sys::route_to(from).map_or(ETHERNET_MTU_BYTES, |route| route.mtu_bytes);
        setup.set_interface_payload(mtu_bytes.saturating_sub(UDP_IPV4_HEADER_BYTES));
        let accept = Accept {
            key,
            new,
            local,
            peer: from,
            now: self.now,
        };
        match Conn::accept(setup, &mut self.router, accept) {
            Ok(conn) => {
                let serial = self.serial();
                let phase = Phase::Handshaking(Purpose::Accepted);
                let mut lane =
                    Lane::new(serial, conn, self.sockets[socket].0, from, phase, self.now);
                lane.promise = Some(promise);
                lane.deadline = Some(self.now + self.shared.quic.handshake_timeout);
                self.handshake_begun();
                let inserted = self.lanes.insert(lane);
                debug_assert_eq!(inserted, key);
                Some(key)
            }
            Err(error) => {
                self.shared.budget.end_promise(promise);
                if self.log.admits(Who::Debug, self.now) {
                    tracing::debug!(peer = %from, %error, "cannot accept");
                }
                None
            }
        }
    }
}
