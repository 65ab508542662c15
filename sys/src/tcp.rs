//! TCP sockets of which no call ever waits: what there is to wait for, a driver watches.

use std::fs;
use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::fcntl::SpliceFFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::cmsg::plain;
use crate::file::invalid;
use crate::socket::{Bind, set_int};

mod info;

pub use info::TcpInfo;

/// Connections that may wait to be accepted: what a burst of clients brings during a turn of the
/// loop. net.core.somaxconn (4,096 by default) is the kernel's own limit.
const BACKLOG: i32 = 1024;

/// Connections that died before they were accepted, passed over in one call; behind them the
/// listener is still ready.
const DEAD_MAX: usize = 64;

/// More slices than this are an error to the kernel (UIO_MAXIOV in include/uapi/linux/uio.h).
const SLICES_MAX: usize = 1024;

/// TCP_CA_NAME_MAX in include/net/tcp.h, less the end of the string: the kernel cuts longer names.
const CONGESTION_NAME_BYTES_MAX: usize = 15;

/// A TCP socket given to a driver; valid for that driver only, until it is removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct TcpId(pub(crate) u64);

/// What of a socket is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interest {
    /// There is something to receive or to accept, or the end.
    pub read: bool,
    /// There is room to send, or a connection is established.
    pub write: bool,
}

impl Interest {
    /// Nothing.
    pub const NONE: Interest = Interest {
        read: false,
        write: false,
    };
    /// Reading alone.
    pub const READ: Interest = Interest {
        read: true,
        write: false,
    };
    /// Writing alone.
    pub const WRITE: Interest = Interest {
        read: false,
        write: true,
    };
    /// Both.
    pub const BOTH: Interest = Interest {
        read: true,
        write: true,
    };

    /// What is in either.
    pub(crate) fn union(self, other: Interest) -> Interest {
        Interest {
            read: self.read || other.read,
            write: self.write || other.write,
        }
    }

    /// Whether all of `other` is in this.
    pub(crate) fn covers(self, other: Interest) -> bool {
        self.union(other) == self
    }
}

/// A socket that takes connections.
///
/// Connections that nobody accepted are reset when it is dropped, also those that SO_REUSEPORT gave
/// to this socket among others of the port.
#[derive(Debug)]
pub struct TcpListener {
    socket: Socket,
}

impl TcpListener {
    /// Binds and listens; port 0 takes a free one. `[::]` is dual-stack, any other v6 address v6
    /// only. With `reuse_port` several sockets (of one user) share the port, and the kernel gives
    /// each new connection to one of them. A port of which old connections linger can be bound.
    ///
    /// # Errors
    /// What socket(2), bind(2) and listen(2) say.
    pub fn bind(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
        let socket = new_socket(addr)?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener { socket })
    }

    /// As [`UdpSocket::share_port`](crate::UdpSocket::share_port).
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn share_port(&self) -> io::Result<()> {
        self.socket.set_reuse_port(true)
    }

    /// Has the congestion control of this name rule what connections send that are accepted from
    /// now on.
    ///
    /// # Errors
    /// As of [`check_congestion`].
    pub fn set_congestion(&self, name: &str) -> io::Result<()> {
        set_congestion(&self.socket, name)
    }

    /// The bound address, with the real port.
    ///
    /// # Errors
    /// What getsockname(2) says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        address(self.socket.local_addr()?)
    }

    /// A connection that waits, and its peer; `None`: there is none now. Connections that died
    /// meanwhile, or that a firewall forbids, are passed over.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`: there is none to be had now. The connection waits
    /// on, and the listener stays ready: who watches it at once again is told at once again.
    pub fn accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        for _ in 0..DEAD_MAX {
            match self
                .socket
                .accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            {
                Ok((socket, peer)) => {
                    return Ok(Some((TcpStream::new(socket)?, plain(address(peer)?))));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Whether accept(2) failed for one connection, not for the listener: Linux passes on what is
/// pending on the new socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::ETIMEDOUT
                | libc::EINTR
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
        )
    )
}

/// One end of a connection, or of one that is being established. Small writes leave at once
/// (TCP_NODELAY).
#[derive(Debug)]
pub struct TcpStream {
    socket: Socket,
}

impl TcpStream {
    fn new(socket: Socket) -> io::Result<TcpStream> {
        socket.set_tcp_nodelay(true)?;
        Ok(TcpStream { socket })
    }

    /// Begins to connect. When the socket is writable, [`TcpStream::finish_connect`] tells how it
    /// went. `bind`: where packets leave from, if not from where the kernel would have them.
    /// `segment_bytes`: what a packet carries at most, in both directions; none: what the
    /// paths of both hosts are said to carry.
    ///
    /// # Errors
    /// What socket(2) and connect(2) say at once: `ENETUNREACH` where there is no route;
    /// `EADDRNOTAVAIL` and `ENODEV` where what is to be bound to is gone.
    pub fn connect(
        to: SocketAddr,
        bind: Option<&Bind>,
        segment_bytes: Option<u32>,
    ) -> io::Result<TcpStream> {
        let stream = TcpStream::new(new_socket(to)?)?;
        if let Some(bind) = bind {
            bind.bind_stream(&stream.socket, to)?;
        }
        if let Some(bytes) = segment_bytes {
            // Said in the SYN (tcp(7)); later it would change nothing.
            stream.socket.set_tcp_mss(bytes)?;
        }
        match stream.socket.connect(&to.into()) {
            Err(error)
                if !matches!(
                    error.raw_os_error(),
                    // Interrupted, it goes on like any other (connect(2)).
                    Some(libc::EINPROGRESS | libc::EINTR)
                ) =>
            {
                Err(error)
            }
            _ => Ok(stream),
        }
    }

    /// The number of its descriptor: the kernel gives the lowest free one, so it tells how full the
    /// table is.
    pub fn number(&self) -> u64 {
        u64::from(self.socket.as_raw_fd().unsigned_abs())
    }

    /// Whether the connection is established; `false`: it is still tried.
    ///
    /// # Errors
    /// Why there is none: `ECONNREFUSED`, `ETIMEDOUT`, `EHOSTUNREACH`. Reading it takes it off the
    /// socket; from then on it is `NotConnected`.
    pub fn finish_connect(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        info::is_connected(self.as_raw_fd())
    }

    /// Sends from `parts`, in order, as much as there is room for. `None`: there is no room now.
    ///
    /// # Errors
    /// What sendmsg(2) says: `EPIPE`, `ECONNRESET`, `ETIMEDOUT` when there is no connection any
    /// more. There is no signal.
    pub fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        let parts = &parts[..parts.len().min(SLICES_MAX)];
        let sent = self
            .socket
            .send_vectored_with_flags(parts, libc::MSG_NOSIGNAL);
        unless_later(sent)
    }

    /// As [`TcpStream::send`], where [`TcpStream::send_piped`] follows at once: what would fill no
    /// packet waits for that.
    ///
    /// # Errors
    /// As of [`TcpStream::send`].
    pub fn send_ahead(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_MORE;
        unless_later(self.socket.send_with_flags(bytes, flags))
    }

    /// Sends at most so many of the bytes that are in a pipe, as much as there is room for, without
    /// a copy of them. `None`: there is no room now. `Some(0)`: the pipe is empty and has no other
    /// end.
    ///
    /// # Errors
    /// As of [`TcpStream::send`].
    pub fn send_piped(&self, pipe: &OwnedFd, bytes: usize) -> io::Result<Option<usize>> {
        // A socket has no SIGPIPE of splice(2): that sends with MSG_NOSIGNAL since Linux 6.5
        // (splice_to_socket), and before by the socket's sendpage, which raises it; Rust's runtime
        // ignores that signal.
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        let sent = nix::fcntl::splice(pipe, None, &self.socket, None, bytes, flags);
        unless_later(sent.map_err(io::Error::from))
    }

    /// Receives into `buffer`. `Some(0)`: the peer sends no more; `None`: nothing is there now, or
    /// `buffer` is empty.
    ///
    /// # Errors
    /// What recv(2) says: `ECONNRESET` or `ETIMEDOUT` when there is no connection any more.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if buffer.is_empty() {
            // The kernel would answer 0, as at the end.
            return Ok(None);
        }
        unless_later((&self.socket).read(buffer))
    }

    /// Tells the peer that nothing more is sent, behind what was sent.
    ///
    /// # Errors
    /// `ENOTCONN` when there is no connection any more.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Our address; a plain v4 address also on a dual-stack socket.
    ///
    /// # Errors
    /// What getsockname(2) says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(plain(address(self.socket.local_addr()?)?))
    }

    /// The peer's address; a plain v4 address also on a dual-stack socket.
    ///
    /// # Errors
    /// `ENOTCONN` before the connection is established and after it is lost.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(plain(address(self.socket.peer_addr()?)?))
    }

    /// Has the congestion control of this name rule what is sent.
    ///
    /// # Errors
    /// As of [`check_congestion`].
    pub fn set_congestion(&self, name: &str) -> io::Result<()> {
        set_congestion(&self.socket, name)
    }

    /// The name of the congestion control that rules what is sent.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn congestion(&self) -> io::Result<String> {
        // Filled up with zeros to TCP_CA_NAME_MAX.
        let name = self.socket.tcp_congestion()?;
        let len = name.iter().position(|&byte| byte == 0);
        let name = &name[..len.unwrap_or(name.len())];
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// What the kernel knows of the connection.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn info(&self) -> io::Result<TcpInfo> {
        TcpInfo::of(self.as_raw_fd())
    }

    /// Bytes that were taken by [`TcpStream::send`] and have not left for the first time.
    ///
    /// # Errors
    /// What ioctl(2) says.
    pub fn unsent_bytes(&self) -> io::Result<usize> {
        info::unsent_bytes(self.as_raw_fd())
    }

    /// Bytes that were taken by [`TcpStream::send`] and that the peer's kernel has not
    /// acknowledged, whether they left or not. A FIN counts as one.
    ///
    /// # Errors
    /// What ioctl(2) says.
    pub fn unacknowledged_bytes(&self) -> io::Result<usize> {
        info::unacknowledged_bytes(self.as_raw_fd())
    }

    /// Has the socket be readable only when so many bytes are there, or the end, or when the window
    /// lets the peer send no more. Who waits for fewer sets it anew: bytes below it are not told.
    ///
    /// Not for a listener: its connections would inherit it (sk_rcvlowat is copied with the
    /// socket), and the first bytes of a peer, too few, would never be told.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_receive_low_water(&self, bytes: usize) -> io::Result<()> {
        // The kernel takes at most half of net.ipv4.tcp_rmem's maximum, and lets the receive buffer
        // grow to what it takes (tcp_set_rcvlowat in net/ipv4/tcp.c).
        let bytes = i32::try_from(bytes.max(1)).unwrap_or(i32::MAX);
        set_int(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
    }

    /// Has routers cut packets in pieces where they are too large, instead of dropping them and
    /// saying so to whoever may filter it. IPv6 knows no such thing, and has an error.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn allow_fragments(&self) -> io::Result<()> {
        let (option, value) = (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
        match self.peer_addr()?.is_ipv4() {
            true => set_int(self.as_raw_fd(), libc::IPPROTO_IP, option, value),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Has the connection end with `ETIMEDOUT` when what was sent is not acknowledged for so long
    /// (TCP_USER_TIMEOUT, in milliseconds); zero: as long as the system's retries last.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket.set_tcp_user_timeout(Some(timeout))
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What a driver watches.
#[derive(Debug)]
pub(crate) enum TcpSocket {
    Listener(TcpListener),
    Stream(TcpStream),
}

impl AsRawFd for TcpSocket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            TcpSocket::Listener(listener) => listener.socket.as_raw_fd(),
            TcpSocket::Stream(stream) => stream.as_raw_fd(),
        }
    }
}

/// A socket of the family of `addr` whose calls do not wait.
fn new_socket(addr: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.cloexec().nonblocking();
    Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))
}

fn address(address: SockAddr) -> io::Result<SocketAddr> {
    address
        .as_socket()
        .ok_or_else(|| invalid("an address that is neither v4 nor v6"))
}

/// A call that would have to wait, or was interrupted, is for later: the socket's readiness tells
/// when.
pub(crate) fn unless_later(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}

/// Whether sockets of this process may have the congestion control of this name. The kernel loads
/// one that is a module, if this process may have that done (CAP_NET_ADMIN).
///
/// # Errors
/// One that names those that the kernel has (`NotFound`), and that this user may choose
/// (`PermissionDenied`).
pub fn check_congestion(name: &str) -> io::Result<()> {
    set_congestion(&new_socket(SocketAddr::from(([127, 0, 0, 1], 0)))?, name)
}

fn set_congestion(socket: &Socket, name: &str) -> io::Result<()> {
    // What follows a zero the kernel would not read.
    let is_name = (1..=CONGESTION_NAME_BYTES_MAX).contains(&name.len()) && !name.contains('\0');
    let result = match is_name {
        true => socket.set_tcp_congestion(name.as_bytes()),
        false => Err(io::Error::from_raw_os_error(libc::ENOENT)),
    };
    result.map_err(|error| {
        let (kind, why) = match error.raw_os_error() {
            Some(libc::ENOENT) => (io::ErrorKind::NotFound, congestion_unknown(is_name)),
            Some(libc::EPERM) => (io::ErrorKind::PermissionDenied, congestion_refused(name)),
            // EBUSY: one written in BPF is being taken away.
            _ => (error.kind(), format!(" cannot be had: {error}")),
        };
        io::Error::new(kind, format!("congestion control {name:?}{why}"))
    })
}

/// What is wrong with a name that the kernel does not know, and which it does.
fn congestion_unknown(is_name: bool) -> String {
    let why = match is_name {
        true => " is not there",
        false => " cannot be: a name has 1 to 15 bytes",
    };
    let names = congestion_controls("tcp_available_congestion_control");
    format!(
        "{why}; the kernel has {names}; root loads others, with modprobe tcp_NAME, or with bpftool \
         struct_ops register FILE those that are written in BPF"
    )
}

/// Why one that the kernel has is not had: it is none for everyone, or a route's own is locked
/// (tcp_set_congestion_control in net/ipv4/tcp_cong.c says EPERM for both).
fn congestion_refused(name: &str) -> String {
    let has = congestion_controls("tcp_available_congestion_control");
    let may = congestion_controls("tcp_allowed_congestion_control");
    format!(
        " is refused: of {has} this user may have {may}; for others have root add {name} to \
         net.ipv4.tcp_allowed_congestion_control, or give CAP_NET_ADMIN; and none may be chosen \
         where a route locks its own (congctl lock)"
    )
}

/// Names from a file below /proc/sys/net/ipv4, for people.
fn congestion_controls(file: &str) -> String {
    match fs::read_to_string(format!("/proc/sys/net/ipv4/{file}")) {
        Ok(names) => names.split_whitespace().collect::<Vec<_>>().join(", "),
        Err(error) => format!("a list that cannot be read ({error})"),
    }
}
