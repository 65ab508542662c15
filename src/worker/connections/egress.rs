//! Packets of a connection out of QUIC and into the ring, in GSO batches.

use std::io;

use landro_sys::{SendBuffer, SendRun};

use super::transport::Transport;
use super::{Connections, UDP_IPV4_HEADER_BYTES, UDP_IPV6_HEADER_BYTES};
use crate::metrics::Metric;
use crate::worker::event_loop::Loop;
use crate::worker::limits::PACKETS_PER_BATCH;
use crate::worker::log::Who;

/// Token of sends that belong to no connection.
pub(super) const NO_CONNECTION: u64 = u64::MAX;

/// What became of a batch.
pub(crate) enum Batch {
    Sent,
    /// Not now: the kernel has all buffers, pacing says no, or the connection is gone.
    Held,
    /// There is nothing to send.
    Empty,
}

impl Connections {
    /// Sends one batch of a connection's packets.
    pub(crate) fn send_batch(&mut self, io: &mut Loop, key: usize) -> Batch {
        let Some(connection) = self.table.get_mut(key) else {
            return Batch::Held;
        };
        let link = match &mut connection.conn {
            Transport::Quic(link) => link,
            Transport::Tcp(link) => {
                return match link.send(&io.driver, io.now) {
                    true => Batch::Sent,
                    false => Batch::Held,
                };
            }
        };
        let Some(mut buffer) = io.send_buffers.take() else {
            // All are with the kernel, whose queue is full. Trying again before one is back would
            // only burn time.
            if !std::mem::replace(&mut connection.waiting_to_send, true) {
                self.waiting_to_send.push_back(key);
            }
            return Batch::Held;
        };
        let now = io.now;
        let release = link.conn.release_time(now);
        if release.is_some_and(|at| at > now) {
            io.send_buffers.put_back(buffer);
            return Batch::Held;
        }
        let mut runs = Vec::new();
        let filled = link
            .conn
            .fill(now, &mut buffer, PACKETS_PER_BATCH, &mut runs);
        let Some(filled) = filled else {
            io.send_buffers.put_back(buffer);
            return Batch::Empty;
        };
        for run in &runs {
            let packets = run.datagrams().len();
            io.numbers.batch(Metric::GsoPackets, packets as u64);
        }
        let send = SendRun {
            socket: link.socket,
            buffer,
            runs,
            to: filled.to,
            from: Some(filled.from.ip()).filter(|ip| !ip.is_unspecified()),
        };
        io.driver.send(connection.serial, send);
        Batch::Sent
    }

    /// A send completed: its buffer is free again.
    pub(crate) fn sent(
        &mut self,
        io: &mut Loop,
        serial: u64,
        buffer: SendBuffer,
        result: io::Result<usize>,
    ) {
        io.send_buffers.put_back(buffer);
        if let Err(error) = result {
            io.count(Metric::SendErrors, []);
            // EPERM (a firewall), ENOBUFS: the path may come back before the idle timeout.
            if io.log.admits(Who::Debug, io.now) {
                tracing::debug!(connection = serial, %error, "datagrams were not sent");
            }
            if error.kind() == io::ErrorKind::ConnectionRefused {
                self.send_refused(io, serial, &error);
            } else if landro_sys::is_too_large(&error) {
                self.limit_packets(io, serial);
            } else if landro_sys::is_of_the_way(&error) {
                self.look_at_way(serial);
            }
        }
    }

    /// A datagram did not fit: a path MTU probe, which QUIC learns as a loss, or the interface, or
    /// what ICMP said of the path, is smaller than it was.
    fn limit_packets(&mut self, io: &Loop, serial: u64) {
        let found = self.find(serial).and_then(|key| self.table.get_mut(key));
        if let Some(connection) = found
            && let Ok(route) = connection.route()
        {
            let headers = match connection.peer.is_ipv4() {
                true => UDP_IPV4_HEADER_BYTES,
                false => UDP_IPV6_HEADER_BYTES,
            };
            let fits_bytes = route.mtu_bytes.saturating_sub(headers);
            if let Some(conn) = connection.conn.quic_mut() {
                conn.limit_packets(io.now, fits_bytes);
            }
        }
    }

    /// A send failed for want of a way to the peer.
    fn look_at_way(&mut self, serial: u64) {
        if let Some(key) = self.find(serial)
            && let Some(connection) = self.table.get_mut(key)
        {
            connection.failed_to_leave = true;
            self.touch(key);
        }
    }
}
