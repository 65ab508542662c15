//! What goes into a driver and what comes out of it: sizes, datagrams to send, completions.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};

use crate::errno;
use crate::file::FileDone;
use crate::gso::Run;
use crate::receive::Datagrams;
use crate::socket::SocketId;
use crate::tcp::TcpId;

/// Sizes of a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriverConfig {
    /// Receive buffers of 64 KiB (and 128 bytes) each; a power of 2, at least 2, at most 32,768.
    /// Each becomes resident at first use.
    pub recv_buffers: u16,
    /// Entries of the submission queue; the completion queue has four times as many.
    pub queue_entries: u32,
}

/// What a driver has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DriverLoad {
    /// Send runs and file operations that have not completed.
    pub in_flight: usize,
    /// Of a ring: entries that wait for room in its submission queue.
    pub backlog: usize,
    /// Of a ring: how often, since it was made, its completion queue was found full, and the kernel
    /// had kept completions aside (IORING_SQ_CQ_OVERFLOW).
    pub overflows: u64,
}

impl Default for DriverConfig {
    /// 16 receive buffers (1 MiB: stays in L2), 256 entries.
    fn default() -> DriverConfig {
        DriverConfig {
            recv_buffers: 16,
            queue_entries: 256,
        }
    }
}

/// A 64 KiB buffer to build datagrams in; reused by passing it round: worker → [`SendRun`] →
/// [`Completion::Sent`].
pub struct SendBuffer {
    bytes: Box<[u8]>,
}

impl SendBuffer {
    /// Size in bytes.
    pub const BYTES: usize = 64 * 1024;

    /// Allocates a zeroed buffer.
    pub fn new() -> SendBuffer {
        SendBuffer {
            bytes: vec![0; SendBuffer::BYTES].into_boxed_slice(),
        }
    }
}

impl Default for SendBuffer {
    fn default() -> SendBuffer {
        SendBuffer::new()
    }
}

impl fmt::Debug for SendBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendBuffer")
    }
}

impl Deref for SendBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for SendBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Datagrams to one peer, in order, from one buffer.
#[derive(Debug)]
pub struct SendRun {
    /// The socket to send from.
    pub socket: SocketId,
    /// Owned by the driver until [`Completion::Sent`] gives it back.
    pub buffer: SendBuffer,
    /// Messages in sending order; runs to the same peer are never reordered by the driver, not even
    /// across calls.
    pub runs: Vec<Run>,
    /// The peer; a plain v4 address also on a dual-stack socket.
    pub to: SocketAddr,
    /// Source address to send from; `None` or unspecified: by route.
    pub from: Option<IpAddr>,
}

/// Something that was finished.
#[derive(Debug)]
pub enum Completion {
    /// Datagrams arrived. Recycle (or drop) them once processed.
    Received(Datagrams),
    /// All messages of a [`SendRun`] left or were refused.
    Sent {
        /// As given to [`crate::Driver::send`].
        token: u64,
        /// The buffer, free for reuse.
        buffer: SendBuffer,
        /// Bytes sent, or the first error (the other messages were still tried). `EMSGSIZE` says
        /// that a datagram is over the path MTU. No error of a send affects the socket or later
        /// sends. `ENOBUFS` and `EPERM` are losses like any other.
        result: io::Result<usize>,
    },
    /// A [`crate::FileOp`] is done.
    File {
        /// As given to [`crate::Driver::file`].
        token: u64,
        /// What it gave.
        result: io::Result<FileDone>,
    },
    /// An ICMP message came for a connected socket: the peer's port is closed, or somebody on the
    /// way rejects what is sent there. Anybody who knows both addresses can send one. (A
    /// [`Completion::Sent`] may have got it instead, as `ECONNREFUSED`; its datagrams were not sent
    /// then.)
    Refused {
        /// The socket, receiving as before.
        socket: SocketId,
        /// `ECONNREFUSED` for a closed port; `EHOSTUNREACH`, `EACCES`, `ENOPROTOOPT` say what was
        /// rejected.
        error: io::Error,
    },
    /// A TCP socket is ready, as [`crate::Driver::watch`] asked; nothing of it is watched any more.
    Ready {
        /// The socket.
        id: TcpId,
        /// There is something to receive or to accept, or the end, or an error.
        readable: bool,
        /// There is room to send, or there is none to wait for: an end, or an error.
        writable: bool,
    },
    /// A [`crate::WakeHandle`] was used since the last `Woken`.
    Woken,
}

impl Completion {
    /// Whether this says that TCP socket `id` is ready.
    pub(crate) fn is_of_tcp(&self, id: TcpId) -> bool {
        matches!(self, Completion::Ready { id: of, .. } if *of == id)
    }

    /// What a failed receive says about the peer, if it does: the kernel reports these to connected
    /// sockets alone.
    pub(crate) fn of_failed_receive(socket: SocketId, errno: i32) -> Option<Completion> {
        errno::is_refusal(errno).then(|| Completion::Refused {
            socket,
            error: io::Error::from_raw_os_error(errno),
        })
    }
}
