//! Datagrams in: each segment to its connection, strays to their owner, new connections accepted.

use std::net::SocketAddr;

use landro_sys::{Datagrams, Run, SendRun};

use super::app::{App, Handshake};
use super::connection::WorkerConnection;
use super::egress::NO_CONNECTION;
use super::transport::{QuicLink, Transport};
use super::{Connections, UDP_IPV4_HEADER_BYTES};
use crate::budget::{
    MAX_CONNECTIONS_PER_WORKER, MAX_HANDSHAKES_PER_ADDRESS, RETRY_ABOVE_HANDSHAKES,
};
use crate::config::{ETHERNET_UDP_PAYLOAD_BYTES, LaneKind, MAX_UDP_PAYLOAD_BYTES};
use crate::ids::WorkerId;
use crate::metrics::{Metric, Refusal};
use crate::quic::{Accept, Conn, NewConn, Route};
use crate::worker::event_loop::Loop;
use crate::worker::limits::SEND_BUFFERS;
use crate::worker::listeners::Listeners;
use crate::worker::log::Who;
use crate::worker::mailbox::{Mail, Stray};

/// What is assumed where the kernel does not say.
const ETHERNET_MTU_BYTES: usize = 1500;

/// Jumbo strays a mailbox takes, 1 MiB of the largest; of ordinary ones it holds 1.5 MB.
const MAX_JUMBO_STRAYS: usize = 64;

/// How a datagram came in: at which of our sockets, and between which addresses.
#[derive(Clone, Copy)]
struct Way {
    listener: usize,
    from: SocketAddr,
    local: SocketAddr,
}

impl Connections {
    pub(crate) fn take(
        &mut self,
        io: &mut Loop,
        listeners: &mut Listeners,
        mut datagrams: Datagrams,
    ) {
        let found = listeners.find(datagrams.socket());
        if let Some(index) = found.filter(|_| !datagrams.truncated())
            && let Some(listener) = listeners.get(index)
        {
            let way = Way {
                listener: index,
                from: datagrams.from(),
                local: listener.address(datagrams.to()),
            };
            let segment_bytes = datagrams.segment_bytes().max(1);
            let segments = datagrams.payload().len().div_ceil(segment_bytes);
            io.numbers.batch(Metric::GroPackets, segments as u64);
            for segment in datagrams.payload_mut().chunks_mut(segment_bytes) {
                self.segment(io, listeners, segment, way);
            }
        }
        io.driver.recycle(datagrams);
    }

    /// A datagram that reached another worker's socket.
    pub(crate) fn take_stray(
        &mut self,
        io: &mut Loop,
        listeners: &mut Listeners,
        mut stray: Stray,
    ) {
        if let Some(listener) = listeners.get(stray.socket) {
            let way = Way {
                listener: stray.socket,
                from: stray.from,
                local: listener.address(stray.to),
            };
            self.segment(io, listeners, &mut stray.datagram, way);
        }
    }

    fn segment(&mut self, io: &mut Loop, listeners: &mut Listeners, segment: &mut [u8], way: Way) {
        let Way { from, local, .. } = way;
        let demand_retry = self.handshaking() >= RETRY_ABOVE_HANDSHAKES;
        let routed = self
            .router
            .route(segment, from, local, io.now, demand_retry);
        let key = match routed {
            Route::Conn(key) => key,
            Route::New(new) => match self.accept(io, listeners, new, way) {
                Some(key) => key,
                None => return,
            },
            Route::Stray(owner) => return pass_on(io, segment, owner, way),
            Route::Reply(bytes) => return reply(io, listeners, way, &bytes),
            Route::Drop => return,
        };
        let Some(connection) = self.table.get_mut(key) else {
            return;
        };
        connection.heard = io.now;
        let Some(conn) = connection.conn.quic_mut() else {
            return;
        };
        conn.release_timers();
        if let Err(error) = conn.recv(segment, from)
            && io.log.admits(Who::Debug, io.now)
        {
            tracing::debug!(peer = %from, %error, "a packet was refused");
        }
        let (address, is_too_heavy) = (conn.peer_address(), conn.is_too_heavy());
        if address != connection.peer {
            let before = std::mem::replace(&mut connection.peer, address);
            if io.log.admits(Who::Debug, io.now) {
                tracing::debug!(%before, now = %address, "a peer's address changed");
            }
        }
        // At once: between two turns there are hundreds of packets.
        if is_too_heavy {
            let reason = "what this connection makes us keep is more than its share";
            self.evict(io, key, reason);
        }
        self.touch(key);
    }

    fn accept(
        &mut self,
        io: &mut Loop,
        listeners: &mut Listeners,
        new: NewConn,
        way: Way,
    ) -> Option<usize> {
        let Way { from, local, .. } = way;
        if io.stopping.is_some() {
            return None;
        }
        if self.table.len() >= MAX_CONNECTIONS_PER_WORKER {
            let here = io.count_refusal(Refusal::Connections);
            if here.is_power_of_two() && io.log.admits(Who::Strangers, io.now) {
                let count = io.refusals(Refusal::Connections);
                tracing::warn!(peer = %from, count, "connection refused: this worker's limit is reached");
            }
            return None;
        }
        // Beyond the threshold addresses are proven, so that this share is of one host that really
        // is there.
        if self.handshaking() >= RETRY_ABOVE_HANDSHAKES
            && self.handshakes_from(from) >= MAX_HANDSHAKES_PER_ADDRESS
        {
            io.count_refusal(Refusal::Handshakes);
            return None;
        }
        let listener = listeners.get_mut(way.listener)?;
        let socket = listener.socket;
        let setup = listener.accept.as_mut()?;
        let promise = io.shared.budget.promise_window();
        setup.set_windows(promise.first_bytes, promise.most_bytes);
        // Jumbo frames are probed for where our side of the path has them.
        let mtu_bytes =
            landro_sys::route_to(from, None).map_or(ETHERNET_MTU_BYTES, |route| route.mtu_bytes);
        setup.set_interface_payload(mtu_bytes.saturating_sub(UDP_IPV4_HEADER_BYTES));
        let key = self.table.vacant_key();
        let accept = Accept {
            key,
            new,
            local,
            peer: from,
            now: io.now,
        };
        match Conn::accept(setup, &mut self.router, accept) {
            Ok(conn) => {
                let app = App::Undecided(Handshake::Accepted {
                    promise,
                    early: None,
                });
                let conn = Transport::Quic(Box::new(QuicLink { conn, socket }));
                let connection = WorkerConnection::new(io, conn, from, app);
                self.handshake_begun(io, LaneKind::Quic);
                Some(self.table.insert(connection))
            }
            Err(error) => {
                io.shared.budget.end_promise(promise);
                if io.log.admits(Who::Debug, io.now) {
                    tracing::debug!(peer = %from, %error, "cannot accept");
                }
                None
            }
        }
    }
}

fn pass_on(io: &Loop, segment: &[u8], owner: WorkerId, way: Way) {
    // Ours are never larger; what is would only fill the owner's mailbox, as many jumbo packets of
    // strangers would.
    let jumbo = segment.len() > ETHERNET_UDP_PAYLOAD_BYTES;
    if segment.len() > MAX_UDP_PAYLOAD_BYTES || jumbo && io.shared.waiting(owner) > MAX_JUMBO_STRAYS
    {
        io.count(Metric::StraysDropped, []);
        return;
    }
    let stray = Stray {
        datagram: segment.to_vec(),
        from: way.from,
        to: Some(way.local.ip()),
        socket: way.listener,
    };
    if !io.shared.post(owner, Mail::Stray(stray)) {
        io.count(Metric::StraysDropped, []);
    }
}

/// Sends a packet that belongs to no connection: version negotiation, Retry, stateless reset.
fn reply(io: &mut Loop, listeners: &Listeners, way: Way, bytes: &[u8]) {
    // Half of the send buffers is for those we know. Otherwise the reply is lost like any datagram
    // may be; the peer asks again.
    if io.send_buffers.available() <= SEND_BUFFERS / 2 {
        return;
    }
    let Some(listener) = listeners.get(way.listener) else {
        return;
    };
    let Some(mut buffer) = io.send_buffers.take() else {
        return;
    };
    let len = bytes.len().min(buffer.len());
    buffer[..len].copy_from_slice(&bytes[..len]);
    let send = SendRun {
        socket: listener.socket,
        buffer,
        runs: vec![Run::single(0..len)],
        to: way.from,
        from: Some(way.local.ip()),
    };
    io.driver.send(NO_CONNECTION, send);
}
