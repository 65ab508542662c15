//! One outgoing datagram run as the kernel wants it: msghdr, iovec, address and control part in one
//! pinned place.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ptr;

use socket2::SockAddr;

use crate::cmsg::{ControlPart, mapped};
use crate::socket::UdpSocket;

/// What one message carries, where to and where from.
pub(crate) struct Letter<'a> {
    pub payload: &'a [u8],
    /// The kernel cuts the payload into datagrams of this length; `None`: it is one datagram.
    pub segment_bytes: Option<u16>,
    pub to: SocketAddr,
    pub from: Option<IpAddr>,
}

/// A msghdr with everything it points to except the payload. It points into itself, so it lives in
/// a `Box` that is not opened between [`KernelMessage::fill`] and the completion.
pub(crate) struct KernelMessage {
    header: libc::msghdr,
    vector: libc::iovec,
    name: SockAddr,
    control: ControlPart,
}

impl KernelMessage {
    pub fn new() -> Box<KernelMessage> {
        // SAFETY: msghdr is integers and pointers, for which zero is a value (an empty message).
        let header = unsafe { std::mem::zeroed() };
        let vector = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        let name = SockAddr::from(SocketAddr::from(([0, 0, 0, 0], 0)));
        Box::new(KernelMessage {
            header,
            vector,
            name,
            control: ControlPart::new(),
        })
    }

    /// Puts a letter in; more than one segment is cut by UDP_SEGMENT.
    ///
    /// The header is valid until the box is dropped or filled again, and as long as the payload is.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` for a v6 address on a v4 socket.
    pub fn fill(
        self: &mut Box<KernelMessage>,
        socket: &UdpSocket,
        letter: &Letter<'_>,
    ) -> io::Result<*const libc::msghdr> {
        let payload = letter.payload;
        let message = &mut **self;
        message.control.clear();
        // Some virtio NICs answer EIO to a UDP_SEGMENT message of a single segment.
        if let Some(segment_bytes) = letter
            .segment_bytes
            .filter(|&size| payload.len() > usize::from(size))
        {
            message.control.push_segment(segment_bytes);
        }
        let (to, from) = in_family(socket, letter.to, letter.from)?;
        if let Some(from) = from {
            message.control.push_source(from);
        }
        message.name = SockAddr::from(to);
        message.vector = libc::iovec {
            iov_base: payload.as_ptr().cast_mut().cast(),
            iov_len: payload.len(),
        };
        message.header.msg_name = message.name.as_ptr().cast_mut().cast();
        message.header.msg_namelen = message.name.len();
        message.header.msg_iov = &raw mut message.vector;
        message.header.msg_iovlen = 1;
        let control = message.control.as_bytes();
        let start = if control.is_empty() {
            ptr::null_mut()
        } else {
            control.as_ptr().cast_mut().cast()
        };
        message.header.msg_control = start;
        message.header.msg_controllen = control.len() as _;
        Ok(&raw const message.header)
    }
}

/// Both addresses as a socket of this family takes them.
fn in_family(
    socket: &UdpSocket,
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<(SocketAddr, Option<IpAddr>)> {
    let from = from.filter(|ip| !ip.is_unspecified());
    if socket.is_v6() {
        // A v4 address is mapped; a v6 one is kept whole, with its scope (link-local addresses need
        // it).
        let to = if to.is_ipv4() {
            SocketAddr::new(mapped(to.ip()), to.port())
        } else {
            to
        };
        return Ok((to, from.map(mapped)));
    }
    let v4_only = to.is_ipv4() && from.is_none_or(|ip| ip.is_ipv4());
    if v4_only {
        Ok((to, from))
    } else {
        Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
    }
}
