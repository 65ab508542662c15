//! A connection and its socket: trains of packets in (UDP_GRO) and out (UDP_SEGMENT), asleep when
//! there is neither.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce, UdpGroSegment};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
};
use nix::sys::time::TimeSpec;

use crate::Result;
use crate::config::Connection;

/// The largest UDP payload, which is also what one call may send, and more than GRO ever joins.
const MAX_DATAGRAM_BYTES: usize = 65_507;
/// Segments the kernel takes in one call: it was 64 until Linux 6.9.
const MAX_SEGMENTS: usize = 64;
/// Received packets after which it is time for an acknowledgement.
const ACK_PACKETS: usize = 32;
/// As landro's sockets have it. More to send would overrun the queue of a slow device without a
/// word.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// A socket with its buffers.
pub struct Socket {
    socket: UdpSocket,
    pub local: SocketAddrV4,
    train: Vec<u8>,
    control: Vec<u8>,
    out: Vec<u8>,
}

/// Received packets: the bytes of all, how long each but the last is, where they come from.
type Train = (usize, usize, SocketAddrV4);

impl Socket {
    pub fn new(socket: UdpSocket) -> Result<Socket> {
        setsockopt(&socket, UdpGroSegment, &true)?;
        // Forced it needs CAP_NET_ADMIN, and has no limit.
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_BYTES)
            .or_else(|_| setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER_BYTES))?;
        setsockopt(&socket, SndBufForce, &SEND_BUFFER_BYTES)
            .or_else(|_| setsockopt(&socket, SndBuf, &SEND_BUFFER_BYTES))?;
        let SocketAddr::V4(local) = socket.local_addr()? else {
            return Err("IPv4 only".into());
        };
        let control = nix::cmsg_space!(i32);
        Ok(Socket {
            socket,
            local,
            train: vec![0; 1 << 16],
            control,
            out: vec![0; MAX_DATAGRAM_BYTES],
        })
    }

    /// What came; `None`: nothing, and with `MSG_DONTWAIT` there may just be nothing yet.
    fn receive(&mut self, flags: MsgFlags) -> Result<Option<Train>> {
        let mut slices = [IoSliceMut::new(&mut self.train)];
        let fd = self.socket.as_raw_fd();
        match recvmsg::<SockaddrIn>(fd, &mut slices, Some(&mut self.control), flags) {
            Ok(message) => {
                let segment_bytes = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::UdpGroSegments(bytes) => Some(bytes as usize),
                    _ => None,
                });
                let from = message.address.ok_or("a datagram without a sender")?;
                Ok(Some((
                    message.bytes,
                    segment_bytes.unwrap_or(message.bytes).max(1),
                    from.into(),
                )))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the first packet of a new connection: where it comes from, and itself.
    pub fn first(&mut self) -> Result<(SocketAddrV4, &mut [u8])> {
        loop {
            if let Some((bytes, segment_bytes, from)) = self.receive(MsgFlags::empty())? {
                return Ok((from, &mut self.train[..bytes.min(segment_bytes)]));
            }
        }
    }

    /// Equal packets, the last of which may be shorter. `to`: unless the socket is connected.
    fn send(
        &self,
        start: usize,
        end: usize,
        segment_bytes: usize,
        to: Option<SocketAddrV4>,
    ) -> Result<()> {
        if start == end {
            return Ok(());
        }
        let segment_bytes = segment_bytes as u16;
        let control = [ControlMessage::UdpGsoSegments(&segment_bytes)];
        // Some virtual devices refuse trains of one.
        let control = if end - start > usize::from(segment_bytes) {
            &control[..]
        } else {
            &[]
        };
        let slices = [IoSlice::new(&self.out[start..end])];
        let to = to.map(SockaddrIn::from);
        loop {
            match sendmsg(
                self.socket.as_raw_fd(),
                &slices,
                control,
                MsgFlags::empty(),
                to.as_ref(),
            ) {
                Err(Errno::EINTR) => {}
                sent => return Ok(sent.map(|_| ())?),
            }
        }
    }
}

pub struct Link<'a> {
    pub conn: Connection,
    pub socket: &'a mut Socket,
    peer: SocketAddrV4,
    connected: bool,
}

/// What [`Link::put`] sent.
#[derive(Default)]
pub struct Put {
    pub packets: usize,
    pub bytes: usize,
}

impl Link<'_> {
    pub fn new(
        conn: Connection,
        socket: &mut Socket,
        peer: SocketAddrV4,
        connected: bool,
    ) -> Link<'_> {
        Link {
            conn,
            socket,
            peer,
            connected,
        }
    }

    /// Gives quiche what came, without waiting, as much as one acknowledgement is due for. False:
    /// nothing came.
    pub fn take(&mut self) -> Result<bool> {
        let mut packets = 0;
        // What follows the end may be the beginning of the next connection.
        while packets < ACK_PACKETS
            && !self.is_over()
            && let Some((bytes, segment_bytes, from)) =
                self.socket.receive(MsgFlags::MSG_DONTWAIT)?
        {
            if from != self.peer {
                continue;
            }
            let info = quiche::RecvInfo {
                from: from.into(),
                to: self.socket.local.into(),
            };
            for packet in self.socket.train[..bytes].chunks_mut(segment_bytes) {
                packets += 1;
                // A packet that is refused is as good as lost; what ends the connection is seen
                // there.
                let _ = self.conn.recv(packet, info);
            }
        }
        if self.conn.timeout().is_some_and(|left| left.is_zero()) {
            self.conn.on_timeout();
        }
        Ok(packets > 0)
    }

    /// Builds up to 64 KB of packets and sends them.
    pub fn put(&mut self) -> Result<Put> {
        let room = self.conn.max_send_udp_payload_size();
        let to = (!self.connected).then_some(self.peer);
        let mut put = Put::default();
        // Of the train that is being built.
        let (mut start, mut segment_bytes) = (0, 0);
        while put.packets < MAX_SEGMENTS {
            let Some(out) = self.socket.out.get_mut(put.bytes..put.bytes + room) else {
                break;
            };
            let bytes = match self.conn.send(out) {
                Ok((bytes, _)) => bytes,
                Err(quiche::Error::Done) => break,
                Err(error) => return Err(error.into()),
            };
            if bytes > segment_bytes {
                self.socket.send(start, put.bytes, segment_bytes, to)?;
                (start, segment_bytes) = (put.bytes, bytes);
            }
            put.packets += 1;
            put.bytes += bytes;
            if bytes < segment_bytes {
                self.socket.send(start, put.bytes, segment_bytes, to)?;
                (start, segment_bytes) = (put.bytes, 0);
            }
        }
        self.socket.send(start, put.bytes, segment_bytes, to)?;
        Ok(put)
    }

    /// Sleeps until a datagram is there or quiche has something to do.
    pub fn wait(&self) -> Result<()> {
        let timeout = self.conn.timeout().unwrap_or(Duration::from_secs(1));
        let mut readable = [PollFd::new(self.socket.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut readable, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn is_over(&self) -> bool {
        self.conn.is_closed() || self.conn.is_draining()
    }

    /// Why it is over, when that was not to be.
    pub fn reason(&self) -> String {
        if self.conn.is_timed_out() {
            return "no word from the peer for 10 seconds".to_owned();
        }
        let (who, error) = match (self.conn.peer_error(), self.conn.local_error()) {
            (Some(error), _) => ("the peer", error),
            (None, Some(error)) => ("we", error),
            (None, None) => return "the connection is over".to_owned(),
        };
        match error.is_app {
            true => String::from_utf8_lossy(&error.reason).into_owned(),
            false => format!(
                "{who} broke the connection: QUIC error {:#x}",
                error.error_code
            ),
        }
    }
}
