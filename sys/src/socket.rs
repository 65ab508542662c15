//! UDP sockets as QUIC wants them: GRO, don't-fragment, packet info, big buffers, steering by
//! connection id.

use std::io;
use std::mem::size_of_val;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::cmsg::plain;

mod bind;
mod interfaces;

pub use bind::{BadBind, Bind};
pub(crate) use interfaces::interfaces_at;
pub use interfaces::{is_on_link, reachable_addresses};

#[cfg(test)]
mod tests;

/// A socket given to a driver; valid for that driver only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SocketId(pub(crate) u32);

impl SocketId {
    /// Sockets of a driver count from 0 in the order they were added.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How to open a [`UdpSocket`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpOptions {
    /// Receive buffer wanted, in bytes of packet memory. Without CAP_NET_ADMIN net.core.rmem_max
    /// limits it.
    pub recv_buffer_bytes: usize,
    /// Send buffer wanted, in bytes. One larger than the queue of the device below overruns that
    /// queue silently.
    pub send_buffer_bytes: usize,
    /// SO_REUSEPORT: several sockets (of one user) share the port.
    pub reuse_port: bool,
}

/// A bound UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    is_v6: bool,
    gro: bool,
}

impl UdpSocket {
    /// Opens and binds; port 0 takes a free one. `[::]` is dual-stack, any other v6 address v6
    /// only. Path MTU probes leave with DF set and ICMP does not change what the kernel lets
    /// through (IP_MTU_DISCOVER=PROBE). GRO and packet info are on.
    ///
    /// # Errors
    /// What socket(2), bind(2) and the mandatory socket options say; missing GRO and small buffers
    /// are no error.
    pub fn bind(addr: SocketAddr, options: &UdpOptions) -> io::Result<UdpSocket> {
        let is_v6 = addr.is_ipv6();
        // Blocking: io_uring answers EAGAIN instead of waiting on an O_NONBLOCK file. The poll
        // backend passes MSG_DONTWAIT with each call.
        let kind = Type::DGRAM.cloexec();
        let socket = Socket::new(
            if is_v6 { Domain::IPV6 } else { Domain::IPV4 },
            kind,
            Some(Protocol::UDP),
        )?;
        if is_v6 {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        let fd = socket.as_raw_fd();
        // IPv4's options work on v6 sockets too and rule their v4-mapped traffic.
        set_int(
            fd,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        )?;
        if is_v6 {
            set_int(
                fd,
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_PROBE,
            )?;
            // Reports v4-mapped addresses for v4 packets, so IP_PKTINFO is not needed beside it.
            set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        } else {
            set_int(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        }
        // Linux 5.0. Without it every datagram comes alone, which is slower and nothing else.
        let gro = set_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        set_buffer(
            fd,
            libc::SO_RCVBUFFORCE,
            libc::SO_RCVBUF,
            options.recv_buffer_bytes,
        )?;
        set_buffer(
            fd,
            libc::SO_SNDBUFFORCE,
            libc::SO_SNDBUF,
            options.send_buffer_bytes,
        )?;
        socket.bind(&addr.into())?;
        Ok(UdpSocket { socket, is_v6, gro })
    }

    /// Makes `peer` the only one this socket receives from, and its own address the one that
    /// packets to `peer` leave from now. What ICMP says about what is sent there is reported from
    /// then on.
    ///
    /// # Errors
    /// What connect(2) says: `ENETUNREACH` where there is no route.
    pub fn connect(&self, peer: SocketAddr) -> io::Result<()> {
        self.socket.connect(&peer.into())
    }

    /// Opens one that sends to `peer` alone, from `bind`, or from where the kernel would.
    ///
    /// # Errors
    /// As of [`UdpSocket::bind`] and [`UdpSocket::connect`]; `EADDRNOTAVAIL` and `ENODEV` where
    /// what is to be bound to is gone.
    pub fn to(
        peer: SocketAddr,
        bind: Option<&Bind>,
        options: &UdpOptions,
    ) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(Bind::local(bind, peer), options)?;
        if let Some(bind) = bind {
            bind.limit(&socket.socket)?;
        }
        socket.connect(peer)?;
        Ok(socket)
    }

    /// Connects to `peer` anew, from the address that packets to it leave from now and from a port
    /// of its own: connect(2) alone would keep the address that it chose first. `bind`: what the
    /// socket was opened with. Gives the new address. A receive that waits goes on waiting.
    ///
    /// # Errors
    /// What connect(2) says; the socket is then connected to nobody.
    pub fn reconnect(&self, peer: SocketAddr, bind: Option<&Bind>) -> io::Result<SocketAddr> {
        // AF_UNSPEC takes peer, address and port away, as none of them was asked for by bind(2)
        // (udp_disconnect in net/ipv4/udp.c).
        let nobody = libc::sockaddr {
            sa_family: libc::AF_UNSPEC as libc::sa_family_t,
            sa_data: [0; 14],
        };
        let len = size_of_val(&nobody) as libc::socklen_t;
        // SAFETY: the address is a sockaddr that outlives the call, and its length is given.
        let result = unsafe { libc::connect(self.as_raw_fd(), &raw const nobody, len) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // That took the interface away, too.
        if let Some(bind) = bind {
            bind.limit(&self.socket)?;
        }
        self.connect(peer)?;
        self.local_addr()
    }

    /// The bound address, with the real port.
    ///
    /// # Errors
    /// What getsockname(2) says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Effective (receive, send) buffer sizes in bytes, in the unit they were asked for (the kernel
    /// doubles it), so that the log can say when net.core.rmem_max or wmem_max limited us.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn buffer_sizes(&self) -> io::Result<(usize, usize)> {
        Ok((
            self.socket.recv_buffer_size()? / 2,
            self.socket.send_buffer_size()? / 2,
        ))
    }

    /// Whether the kernel joins datagrams for us.
    pub fn has_gro(&self) -> bool {
        self.gro
    }

    /// Datagrams that the kernel dropped since the socket was made, nearly always because its
    /// receive buffer was full. It is the number that SO_RXQ_OVFL tells with each datagram, asked
    /// for by itself (SO_MEMINFO, Linux 4.12), so that no datagram costs more.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn dropped_datagrams(&self) -> io::Result<u32> {
        // SK_MEMINFO_DROPS of include/uapi/linux/sock_diag.h; what a newer kernel has behind it is
        // not asked for.
        const DROPS: usize = 8;
        let mut values = [0_u32; DROPS + 1];
        let mut len = size_of_val(&values) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, the size of an array of integers that
        // outlives the call.
        let result = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                (&raw mut values).cast(),
                &raw mut len,
            )
        };
        match result {
            0 => Ok(values[DROPS]),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Lets sockets that are bound with [`UdpOptions::reuse_port`] from now on have this one's
    /// port. Bound without, it had the port to itself: with SO_REUSEPORT set before, bind(2) may
    /// choose, or join, a port that another process of the same user shares.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn share_port(&self) -> io::Result<()> {
        self.socket.set_reuse_port(true)
    }

    /// Makes the kernel give each datagram to socket number `cid[0] % workers` of this SO_REUSEPORT
    /// group, where `cid` is the packet's destination connection id and sockets count in the order
    /// they were bound. Long headers have the id at byte 6 (none: socket 0), short ones at byte 1.
    /// One call on any socket serves the whole group.
    ///
    /// Numbers of sockets not bound (yet) fall back to the kernel's hash.
    ///
    /// # Errors
    /// `InvalidInput` for 0 workers; what SO_ATTACH_REUSEPORT_CBPF says (`EINVAL` without
    /// SO_REUSEPORT).
    pub fn steer_by_cid(&self, workers: u8) -> io::Result<()> {
        if workers == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut code = steering_program(workers);
        let program = libc::sock_fprog {
            len: code.len() as u16,
            filter: code.as_mut_ptr(),
        };
        // SAFETY: `program` points to `code`, both alive during the call; the kernel copies the
        // instructions.
        let result = unsafe {
            libc::setsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                size_of_val(&program) as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Whether this is a v6 socket, which names v4 addresses as mapped ones.
    pub(crate) fn is_v6(&self) -> bool {
        self.is_v6
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Classic BPF over the UDP payload. A load past the end ends the program with 0, so runts go to
/// socket 0.
fn steering_program(workers: u8) -> [libc::sock_filter; 9] {
    let op = |code: u32, jump_true, jump_false, k| libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k,
    };
    let load_byte = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    [
        op(load_byte, 0, 0, 0), // 0: A = first byte
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 2, 0, 0x80), // 1: long header -> 4
        op(load_byte, 0, 0, 1), // 2: short: A = cid[0]
        op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 3), // 3: -> 7
        op(load_byte, 0, 0, 5), // 4: A = cid length
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, 0), // 5: none -> 7 (0 % n = 0)
        op(load_byte, 0, 0, 6), // 6: A = cid[0]
        op(
            libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K,
            0,
            0,
            workers.into(),
        ), // 7: A %= workers
        op(libc::BPF_RET | libc::BPF_A, 0, 0, 0), // 8: socket A
    ]
}

pub(crate) fn set_int(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option value is an int that outlives the call, and its length is given.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn get_int(fd: RawFd, level: i32, option: i32) -> io::Result<i32> {
    let mut value: i32 = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to an int that outlives the call.
    let result =
        unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut len) };
    if result == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// FORCE goes past the sysctl limit but needs CAP_NET_ADMIN; without it the limit is what we get.
fn set_buffer(fd: RawFd, force: i32, plain: i32, bytes: usize) -> io::Result<()> {
    // The kernel doubles the number, so half of i32 is the most it can mean.
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX).min(i32::MAX / 2);
    set_int(fd, libc::SOL_SOCKET, force, bytes)
        .or_else(|_| set_int(fd, libc::SOL_SOCKET, plain, bytes))
}

/// How the kernel would reach a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteTo {
    /// The source address.
    pub local: IpAddr,
    /// MTU of the first hop (less a learned path MTU), IP header included; 65,536 on loopback.
    pub mtu_bytes: usize,
}

/// How the kernel would reach `peer` from `bind`, by connecting a throw-away UDP socket (sends
/// nothing).
///
/// # Errors
/// What socket(2) and connect(2) say: `ENETUNREACH` where there is no route; `EADDRNOTAVAIL` and
/// `ENODEV` where what is bound to is gone.
pub fn route_to(peer: SocketAddr, bind: Option<&Bind>) -> io::Result<RouteTo> {
    let socket = std::net::UdpSocket::bind(Bind::local(bind, peer))?;
    if let Some(bind) = bind {
        bind.limit(&SockRef::from(&socket))?;
    }
    socket.connect(peer)?;
    let local = plain(socket.local_addr()?).ip();
    let (level, option) = match peer.is_ipv4() {
        true => (libc::IPPROTO_IP, libc::IP_MTU),
        false => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mtu_bytes = get_int(socket.as_raw_fd(), level, option)? as usize;
    Ok(RouteTo { local, mtu_bytes })
}
