//! The driver: operations in, completions out, over io_uring or over epoll with the same system
//! calls.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut, Range};
use std::time::{Duration, Instant};

use crate::file::{FileDone, FileOp};
use crate::poll::PollDriver;
use crate::pool::Pool;
use crate::receive::Datagrams;
use crate::socket::UdpSocket;
use crate::uring::UringDriver;
use crate::wake::WakeHandle;

/// Which mechanism drives the I/O.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backend {
    /// io_uring; needs Linux 6.1 and permission (containers forbid it by default).
    IoUring,
    /// epoll through mio; works everywhere.
    Poll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::IoUring => "io_uring",
            Backend::Poll => "poll",
        })
    }
}

/// Sizes of a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriverConfig {
    /// Receive buffers of 64 KiB (and 128 bytes) each; a power of 2, at least 2, at most 32,768.
    /// Each becomes resident at first use.
    pub recv_buffers: u16,
    /// Entries of the submission queue; the completion queue has four times as many.
    pub queue_entries: u32,
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

/// A socket given to a driver; valid for that driver only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SocketId(pub(crate) u32);

impl SocketId {
    /// Sockets of a driver count from 0 in the order they were added.
    pub fn index(self) -> usize {
        self.0 as usize
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

/// One message of a [`SendRun`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Its bytes in the buffer; at most 65,507 of them (v6: 65,487), and 64 segments (newer kernels
    /// take 128; more are sent one by one).
    pub range: Range<usize>,
    /// The kernel cuts the message into datagrams of this size, the last may be shorter. `None`:
    /// one datagram.
    pub segment_bytes: Option<u16>,
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
        /// As given to [`Driver::send`].
        token: u64,
        /// The buffer, free for reuse.
        buffer: SendBuffer,
        /// Bytes sent, or the first error (the other messages were still tried). `EMSGSIZE` says
        /// that a datagram is over the path MTU. No error of a send affects the socket or later
        /// sends. `ENOBUFS` and `EPERM` are losses like any other.
        result: io::Result<usize>,
    },
    /// A [`FileOp`] is done.
    File {
        /// As given to [`Driver::file`].
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
    /// A [`WakeHandle`] was used since the last `Woken`.
    Woken,
}

impl Completion {
    /// What a failed receive says about the peer, if it does: the kernel reports these to connected
    /// sockets alone.
    pub(crate) fn of_failed_receive(socket: SocketId, errno: i32) -> Option<Completion> {
        let refused = matches!(
            errno,
            libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::EACCES | libc::ENOPROTOOPT
        );
        refused.then(|| Completion::Refused {
            socket,
            error: io::Error::from_raw_os_error(errno),
        })
    }
}

/// One thread's I/O. Not `Send`: the kernel ties a ring to the thread that made it.
///
/// Dropping it cancels what is in flight and waits (at most 5 s) for the kernel to let go of its
/// memory; file operations may be done or not. Memory the kernel still holds after that is leaked,
/// never freed.
#[derive(Debug)]
pub enum Driver {
    /// On io_uring.
    Uring(Box<UringDriver>),
    /// On epoll.
    Poll(Box<PollDriver>),
}

impl Driver {
    /// Makes a driver for the calling thread, which alone may use it. With io_uring, file
    /// operations on buffers of `pool` use registered memory as far as RLIMIT_MEMLOCK allows.
    ///
    /// # Errors
    /// `InvalidInput` for a `recv_buffers` that is not a power of 2 in 2..=32,768. On io_uring:
    /// `EPERM` or `ENOSYS` where it is forbidden or missing, `EINVAL` before Linux 6.1, `ENOMEM`
    /// under a tight RLIMIT_MEMLOCK; [`crate::Caps`] puts it in words.
    pub fn new(backend: Backend, config: &DriverConfig, pool: &Pool) -> io::Result<Driver> {
        if !config.recv_buffers.is_power_of_two() || !(2..=1 << 15).contains(&config.recv_buffers) {
            return Err(crate::file::invalid(
                "recv_buffers must be a power of 2 from 2 to 32768",
            ));
        }
        match backend {
            Backend::IoUring => Ok(Driver::Uring(Box::new(UringDriver::new(config, pool)?))),
            Backend::Poll => Ok(Driver::Poll(Box::new(PollDriver::new(config, pool)?))),
        }
    }

    /// Which backend this is.
    pub fn backend(&self) -> Backend {
        match self {
            Driver::Uring(_) => Backend::IoUring,
            Driver::Poll(_) => Backend::Poll,
        }
    }

    /// Takes the socket and starts receiving on it.
    ///
    /// # Errors
    /// What epoll_ctl(2) says; the ring has none here.
    pub fn add_socket(&mut self, socket: UdpSocket) -> io::Result<SocketId> {
        match self {
            Driver::Uring(driver) => Ok(driver.add_socket(socket)),
            Driver::Poll(driver) => driver.add_socket(socket),
        }
    }

    /// A socket of this driver.
    ///
    /// # Panics
    /// For an id of another driver.
    pub fn socket(&self, id: SocketId) -> &UdpSocket {
        match self {
            Driver::Uring(driver) => driver.socket(id),
            Driver::Poll(driver) => driver.socket(id),
        }
    }

    /// A handle to wake this driver from any thread.
    pub fn wake_handle(&self) -> WakeHandle {
        match self {
            Driver::Uring(driver) => driver.wake_handle(),
            Driver::Poll(driver) => driver.wake_handle(),
        }
    }

    /// Queues datagrams; they leave in the next [`Driver::submit_and_wait`]. When the socket's
    /// buffer is full they wait until there is room. One [`Completion::Sent`] comes back, also for
    /// a run that cannot be sent at all.
    pub fn send(&mut self, token: u64, send: SendRun) {
        match self {
            Driver::Uring(driver) => driver.send(token, send),
            Driver::Poll(driver) => driver.send(token, send),
        }
    }

    /// Queues a file operation; its completion comes as [`Completion::File`]. The poll backend, and
    /// io_uring for operations it does not have, runs it here and now. Operations in flight
    /// together run in any order.
    pub fn file(&mut self, token: u64, op: FileOp) {
        match self {
            Driver::Uring(driver) => driver.file(token, op),
            Driver::Poll(driver) => driver.file(token, op),
        }
    }

    /// Submits what is queued and waits until there is a completion or `timeout` passed (`None`: no
    /// limit; zero: only looks). Does not wait when completions are queued already.
    ///
    /// # Errors
    /// Only what makes the driver unusable: a socket whose descriptor went bad, a ring that takes
    /// nothing.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Driver::Uring(driver) => driver.submit_and_wait(timeout),
            Driver::Poll(driver) => driver.submit_and_wait(timeout),
        }
    }

    /// The next queued completion; never waits.
    pub fn next_completion(&mut self) -> Option<Completion> {
        match self {
            Driver::Uring(driver) => driver.next_completion(),
            Driver::Poll(driver) => driver.next_completion(),
        }
    }

    /// Gives a receive buffer back once its datagrams are processed. The same as dropping them.
    pub fn recycle(&mut self, datagrams: Datagrams) {
        drop(datagrams);
    }

    /// Send runs and file operations that have not completed yet. Completions still queued do not
    /// count.
    pub fn in_flight(&self) -> usize {
        match self {
            Driver::Uring(driver) => driver.in_flight(),
            Driver::Poll(driver) => driver.in_flight(),
        }
    }

    /// Gives the memory of the pool's free buffers back to the kernel, also what is pinned by this
    /// ring's registration. For idle times: it costs a system call per buffer that was ever used.
    pub fn trim(&mut self) {
        match self {
            Driver::Uring(driver) => driver.trim(),
            Driver::Poll(driver) => driver.trim(),
        }
    }
}

/// A relative timeout as a point in time.
#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    Never,
    At(Instant),
    /// Zero: look, do not wait.
    Past,
}

impl Deadline {
    #[allow(clippy::disallowed_methods)] // A wait that a signal or an inner event cut short is resumed for the rest.
    pub fn after(timeout: Option<Duration>) -> Deadline {
        match timeout {
            None => Deadline::Never,
            Some(Duration::ZERO) => Deadline::Past,
            // Past the end of time is as good as never.
            Some(timeout) => Instant::now()
                .checked_add(timeout)
                .map_or(Deadline::Never, Deadline::At),
        }
    }

    /// Time left; `None`: no limit.
    #[allow(clippy::disallowed_methods)] // As above.
    pub fn left(self) -> Option<Duration> {
        match self {
            Deadline::Never => None,
            Deadline::At(at) => Some(at.saturating_duration_since(Instant::now())),
            Deadline::Past => Some(Duration::ZERO),
        }
    }
}
