//! Batches of datagrams in and out of UDP sockets, with the kernel's receive time stamps. Nothing
//! blocks.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, ReceiveTimestampns, RxqOvfl};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt,
};
use nix::sys::time::TimeSpec;

/// Datagrams per system call. At 1 Gbit/s 64 of them are 0.8 ms.
pub const BATCH: usize = 64;

/// Larger datagrams are cut here, which is seen; the link drops them for their size anyway.
const BUFFER_BYTES: usize = 2048;

/// What a sender with a large window may throw at us in one go. The kernel charges about 2.3 kB for
/// a full packet.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

/// Buffers to receive into, used again and again.
pub struct Buffers(Box<[[u8; BUFFER_BYTES]]>);

impl Buffers {
    pub fn new() -> Buffers {
        Buffers(vec![[0; BUFFER_BYTES]; BATCH].into_boxed_slice())
    }
}

/// A datagram as it came.
pub struct Datagram {
    pub from: Option<SocketAddr>,
    pub payload: Vec<u8>,
    /// Longer than what is in `payload`.
    pub cut: bool,
    /// When the kernel got it, on the real-time clock.
    pub stamp_ns: Option<u64>,
    /// How many the socket dropped so far because its buffer was full.
    pub overflows: Option<u32>,
}

/// Makes a socket fit for [`receive`].
///
/// # Errors
/// What setsockopt(2) says; a small buffer is none.
pub fn prepare(socket: &UdpSocket) -> nix::Result<()> {
    setsockopt(socket, ReceiveTimestampns, &true)?;
    setsockopt(socket, RxqOvfl, &1)?;
    // Without CAP_NET_ADMIN, what net.core.rmem_max allows.
    setsockopt(socket, RcvBufForce, &RECEIVE_BUFFER_BYTES)
        .or_else(|_| setsockopt(socket, RcvBuf, &RECEIVE_BUFFER_BYTES))
}

/// Receives one batch; a full one ([`BATCH`]) may have left something.
///
/// # Errors
/// What recvmmsg(2) says, except that nothing is there.
pub fn receive(socket: &UdpSocket, buffers: &mut Buffers) -> nix::Result<Vec<Datagram>> {
    // New headers for each call: the kernel writes lengths into them that nix does not restore.
    let control = nix::cmsg_space!(TimeSpec, u32);
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(control));
    let mut slices: Vec<_> = buffers
        .0
        .iter_mut()
        .map(|buffer| [IoSliceMut::new(buffer)])
        .collect();
    let received = match recvmmsg(
        socket.as_raw_fd(),
        &mut headers,
        slices.iter_mut(),
        MsgFlags::MSG_DONTWAIT,
        None,
    ) {
        Ok(received) => received,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut datagrams = Vec::with_capacity(BATCH);
    for message in received {
        let (mut stamp_ns, mut overflows) = (None, None);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(stamp) => stamp_ns = Some(nanoseconds(stamp)),
                ControlMessageOwned::RxqOvfl(dropped) => overflows = Some(dropped),
                _ => {}
            }
        }
        datagrams.push(Datagram {
            from: message.address.and_then(internet_address),
            payload: message.iovs().next().unwrap_or_default().to_vec(),
            cut: message.flags.contains(MsgFlags::MSG_TRUNC),
            stamp_ns,
            overflows,
        });
    }
    Ok(datagrams)
}

/// Sends datagrams to `to`, or where the socket is connected to; returns how many the kernel did
/// not take.
pub fn send<'a>(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    payloads: impl Iterator<Item = &'a [u8]>,
) -> u64 {
    let slices: Vec<_> = payloads.map(|payload| [IoSlice::new(payload)]).collect();
    let (mut rest, mut refused) = (&slices[..], 0);
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(BATCH)];
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(batch.len(), None);
        let addresses = vec![to.map(SockaddrStorage::from); batch.len()];
        match sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            batch,
            &addresses,
            [],
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(sent) => rest = &rest[sent.count()..],
            // Of the first datagram: full, or (ECONNREFUSED) an answer to an earlier one, which
            // this call took away.
            Err(_) => {
                refused += 1;
                rest = &rest[1..];
            }
        }
    }
    refused
}

pub fn nanoseconds(time: TimeSpec) -> u64 {
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

fn internet_address(address: SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddrV4::from(*v4).into()),
        (_, Some(v6)) => Some(SocketAddrV6::from(*v6).into()),
        _ => None,
    }
}
