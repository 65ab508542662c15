//! What carries a connection, and what any carrier can do for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use landro_sys::SocketId;

use super::tcp_link::TcpLink;
use crate::config::LaneKind;
use crate::ids::Fingerprint;
use crate::quic::{Alpn, CloseReason, Conn, ConnState, PathSnapshot};
use crate::tcp::ClearLane;

/// A connection's way to its peer. What only one kind has is asked of that kind.
pub(crate) enum Transport {
    Quic(Box<QuicLink>),
    Tcp(Box<TcpLink>),
}

/// A QUIC connection, and the socket that its packets leave from.
pub(crate) struct QuicLink {
    pub(crate) conn: Conn,
    pub(crate) socket: SocketId,
}

/// A stream is not there, or not any more: the peer stopped or reset it, or it has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoStream;

impl Transport {
    pub(crate) fn kind(&self) -> LaneKind {
        match self {
            Transport::Quic(_) => LaneKind::Quic,
            Transport::Tcp(link) if link.conn.is_clear() => LaneKind::Clear,
            Transport::Tcp(_) => LaneKind::Tls,
        }
    }

    /// The TCP stream, if one carries this connection.
    pub(crate) fn tcp_mut(&mut self) -> Option<&mut TcpLink> {
        match self {
            Transport::Quic(_) => None,
            Transport::Tcp(link) => Some(link),
        }
    }

    pub(crate) fn quic(&self) -> Option<&Conn> {
        match self {
            Transport::Quic(link) => Some(&link.conn),
            Transport::Tcp(_) => None,
        }
    }

    pub(crate) fn quic_mut(&mut self) -> Option<&mut Conn> {
        match self {
            Transport::Quic(link) => Some(&mut link.conn),
            Transport::Tcp(_) => None,
        }
    }

    /// The UDP socket, if datagrams carry this connection.
    pub(crate) fn socket(&self) -> Option<SocketId> {
        match self {
            Transport::Quic(link) => Some(link.socket),
            Transport::Tcp(_) => None,
        }
    }

    pub(crate) fn state(&self) -> ConnState {
        match self {
            Transport::Quic(link) => link.conn.state(),
            Transport::Tcp(link) => link.conn.state(),
        }
    }

    pub(crate) fn is_server(&self) -> bool {
        match self {
            Transport::Quic(link) => link.conn.is_server(),
            Transport::Tcp(link) => link.conn.is_server(),
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        match self {
            Transport::Quic(link) => link.conn.is_closing(),
            Transport::Tcp(link) => link.conn.is_closing(),
        }
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        match self {
            Transport::Quic(link) => link.conn.close_reason(),
            Transport::Tcp(link) => link.conn.close_reason(),
        }
    }

    pub(crate) fn peer_fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Transport::Quic(link) => link.conn.peer_fingerprint(),
            Transport::Tcp(link) => link.conn.peer_fingerprint(),
        }
    }

    /// Whose certificate the peer shows, which proves nothing.
    pub(crate) fn shown_fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Transport::Quic(link) => link.conn.shown_fingerprint(),
            Transport::Tcp(link) => link.conn.shown_fingerprint(),
        }
    }

    pub(crate) fn alpn(&self) -> Alpn {
        match self {
            Transport::Quic(link) => link.conn.alpn(),
            Transport::Tcp(link) => link.conn.alpn(),
        }
    }

    /// When [`Transport::on_timeout`] is due.
    pub(crate) fn timeout(&self) -> Option<Instant> {
        match self {
            Transport::Quic(link) => link.conn.timeout(),
            Transport::Tcp(link) => link.conn.deadline(),
        }
    }

    pub(crate) fn on_timeout(&mut self, now: Instant) {
        match self {
            Transport::Quic(link) => link.conn.on_timeout(now),
            Transport::Tcp(link) => link.conn.on_timeout(now),
        }
    }

    pub(crate) fn close(&mut self, now: Instant, code: u64, reason: &[u8]) {
        match self {
            Transport::Quic(link) => link.conn.close(code, reason),
            Transport::Tcp(link) => link.conn.close(now, code, reason),
        }
    }

    /// Closes for a reason that is no word between the two sides.
    pub(crate) fn give_up(&mut self, now: Instant, code: u64, why: &str) {
        match self {
            Transport::Quic(link) => link.conn.give_up(code, why),
            Transport::Tcp(link) => link.conn.give_up(now, code, why),
        }
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn keep_alive(&mut self) {
        match self {
            Transport::Quic(link) => link.conn.keep_alive(),
            Transport::Tcp(link) => link.conn.keep_alive(),
        }
    }

    pub(crate) fn is_to_be_replaced(&self, now: Instant) -> bool {
        match self {
            Transport::Quic(link) => link.conn.is_to_be_replaced(now),
            // TLS renews its keys by itself.
            Transport::Tcp(_) => false,
        }
    }

    /// When the kernel last said that what is sent over TCP is acknowledged.
    pub(crate) fn arrives_at(&self) -> Option<Instant> {
        match self {
            Transport::Quic(_) => None,
            Transport::Tcp(link) => link.arrives_at,
        }
    }

    pub(crate) fn snapshot(&self) -> PathSnapshot {
        match self {
            Transport::Quic(link) => link.conn.snapshot(),
            Transport::Tcp(link) => link.path,
        }
    }

    /// Heap bytes that the transport keeps for this connection now.
    pub(crate) fn held_bytes(&self) -> u64 {
        match self {
            Transport::Quic(link) => link.conn.held_bytes(),
            Transport::Tcp(link) => link.conn.held_bytes(),
        }
    }

    /// Opens a one-way stream. None: as many are open as the peer allows.
    pub(crate) fn open_uni(&mut self) -> Option<u64> {
        match self {
            Transport::Quic(link) => link.conn.open_uni(),
            Transport::Tcp(link) => link.conn.open_uni(),
        }
    }

    /// Which lane it is, if it goes without TLS.
    pub(crate) fn clear_lane(&self) -> Option<ClearLane> {
        match self {
            Transport::Quic(_) => None,
            Transport::Tcp(link) => link.conn.clear_lane(),
        }
    }

    /// Takes what there is room for, and gives the rest back.
    ///
    /// # Errors
    /// The peer does not want the stream, or it has ended.
    pub(crate) fn send(
        &mut self,
        stream: u64,
        data: Bytes,
        fin: bool,
    ) -> Result<Option<Bytes>, NoStream> {
        match self {
            Transport::Quic(link) => link.conn.send(stream, data, fin).map_err(|_| NoStream),
            Transport::Tcp(link) => link.conn.send(stream, data, fin).map_err(|_| NoStream),
        }
    }

    /// The same with data of a file, whose digest follows.
    ///
    /// # Errors
    /// As of [`Transport::send`].
    pub(crate) fn send_bulk(
        &mut self,
        stream: u64,
        data: Bytes,
    ) -> Result<Option<Bytes>, NoStream> {
        match self {
            Transport::Quic(link) => link.conn.send(stream, data, false).map_err(|_| NoStream),
            Transport::Tcp(link) => link.conn.send_bulk(stream, data).map_err(|_| NoStream),
        }
    }

    /// Whether data that is in pipes may be sent, now and from now on.
    pub(crate) fn takes_pipes(&self) -> bool {
        match self {
            Transport::Quic(_) => false,
            Transport::Tcp(link) => link.conn.takes_pipes(),
        }
    }

    /// The same with so many bytes of a file that are in a pipe. Gives how many are left, if any.
    ///
    /// # Errors
    /// As of [`Transport::send`]; or not [`Transport::takes_pipes`].
    pub(crate) fn send_piped(
        &mut self,
        stream: u64,
        pipe: Arc<OwnedFd>,
        bytes: u64,
    ) -> Result<Option<u64>, NoStream> {
        let Transport::Tcp(link) = self else {
            return Err(NoStream);
        };
        let taken = link.conn.send_piped(stream, pipe, bytes as usize);
        let rest = bytes - taken.map_err(|_| NoStream)? as u64;
        Ok((rest > 0).then_some(rest))
    }

    pub(crate) fn unsent_bytes(&self) -> usize {
        match self {
            Transport::Quic(link) => link.conn.unsent_bytes(),
            Transport::Tcp(link) => link.conn.unsent_bytes(),
        }
    }

    /// A stream that got something to read, each once.
    pub(crate) fn readable_next(&mut self) -> Option<u64> {
        match self {
            Transport::Quic(link) => link.conn.readable_next(),
            Transport::Tcp(link) => link.conn.readable_next(),
        }
    }

    /// Gives how much was read, and whether the stream ended with it. None: nothing is there now.
    ///
    /// # Errors
    /// The peer reset the stream, or it has ended.
    pub(crate) fn read(
        &mut self,
        stream: u64,
        out: &mut [u8],
    ) -> Result<Option<(usize, bool)>, NoStream> {
        match self {
            Transport::Quic(link) => link.conn.read(stream, out).map_err(|_| NoStream),
            Transport::Tcp(link) => link.conn.read(stream, out).map_err(|_| NoStream),
        }
    }

    /// Whether the peer has all of a stream.
    pub(crate) fn is_delivered(&mut self, stream: u64) -> bool {
        match self {
            Transport::Quic(link) => link.conn.is_delivered(stream),
            Transport::Tcp(link) => link.conn.is_delivered(stream),
        }
    }
}
