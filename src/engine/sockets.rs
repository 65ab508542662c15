//! The sockets that workers begin with: buffers, one address for all workers and both kinds of
//! lanes, steering by connection id.

use std::net::SocketAddr;
use std::time::Duration;
use std::{io, thread};

use landro_sys::{TcpListener, UdpOptions, UdpSocket};

use super::EngineError;
use crate::config::{LaneKind, LaneKinds};

/// Receive buffer asked of the kernel: 4 MiB are 2 ms at 16 Gbit/s, the longest a worker is away
/// from its ring.
const SOCKET_RECEIVE_BYTES: usize = 4 << 20;

/// Send buffer asked of the kernel: larger than the queue below it, a socket overruns that queue
/// silently (the send succeeds and the qdisc drops); at this size the ring waits instead. Measured
/// on a 1 GbE wire.
const SOCKET_SEND_BYTES: usize = 256 << 10;

/// One second in all for an address to become free.
const REBIND_TRIES: u32 = 50;
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// Ports that the kernel chose for one kind and that somebody has for the other: each is one of
/// some 28,000 free ones.
const PORT_TRIES: u32 = 16;

pub(super) fn options(reuse_port: bool) -> UdpOptions {
    UdpOptions {
        recv_buffer_bytes: SOCKET_RECEIVE_BYTES,
        send_buffer_bytes: SOCKET_SEND_BYTES,
        reuse_port,
    }
}

/// What a worker of a daemon is reached at: sockets of each kind in the order of the addresses.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
}

/// Binds every address once per worker; gives the addresses and each worker's sockets in the same
/// order.
pub(super) fn bind_all(
    listen: &[SocketAddr],
    workers: u8,
    kinds: LaneKinds,
) -> Result<(Vec<SocketAddr>, Vec<Sockets>), EngineError> {
    let mut addresses = Vec::new();
    let mut sockets: Vec<Sockets> = (0..workers).map(|_| Sockets::default()).collect();
    for &wanted in listen {
        let bound = bind_address(wanted, workers, kinds)?;
        if let (Some(socket), true) = (bound.udp.first(), workers > 1) {
            socket.steer_by_cid(workers)?;
        }
        for (worker, socket) in sockets.iter_mut().zip(bound.udp) {
            worker.udp.push(socket);
        }
        for (worker, socket) in sockets.iter_mut().zip(bound.tcp) {
            worker.tcp.push(socket);
        }
        addresses.push(bound.addr);
    }
    Ok((addresses, sockets))
}

/// Has the congestion control of this name rule what is sent to those who come over TCP.
///
/// # Errors
/// The kernel does not have it, or this user may not choose it.
pub(super) fn rule(sockets: &[Sockets], name: &str) -> io::Result<()> {
    let mut listeners = sockets.iter().flat_map(|sockets| &sockets.tcp);
    listeners.try_for_each(|listener| listener.set_congestion(name))
}

/// One address, a socket of each kind for each worker.
struct Bound {
    addr: SocketAddr,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// Both kinds are to have one port number: where the kernel chose it, another is tried if somebody
/// has it for the other kind.
fn bind_address(wanted: SocketAddr, workers: u8, kinds: LaneKinds) -> Result<Bound, EngineError> {
    let mut tries_left = if wanted.port() == 0 { PORT_TRIES } else { 0 };
    loop {
        match bind_kinds(wanted, workers, kinds) {
            Err(EngineError::Bind { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && tries_left > 0 =>
            {
                tries_left -= 1;
            }
            bound => return bound,
        }
    }
}

fn bind_kinds(wanted: SocketAddr, workers: u8, kinds: LaneKinds) -> Result<Bound, EngineError> {
    let rebinds = if wanted.port() == 0 { 0 } else { REBIND_TRIES };
    let mut addr = wanted;
    let (mut udp, mut tcp) = (Vec::<UdpSocket>::new(), Vec::<TcpListener>::new());
    if kinds.has(LaneKind::Quic) {
        let bind = |addr, reuse_port| UdpSocket::bind(addr, &options(reuse_port));
        let to_bind = (
            &bind as &_,
            &UdpSocket::share_port as &_,
            &UdpSocket::local_addr as &_,
        );
        udp = bind_for_each(addr, workers, rebinds, to_bind)?;
        if let Some(first) = udp.first() {
            addr = first.local_addr()?;
            warn_of_small_buffer(first, addr)?;
        }
    }
    if kinds.has(LaneKind::Tls) {
        let to_bind = (
            &TcpListener::bind as &_,
            &TcpListener::share_port as &_,
            &TcpListener::local_addr as &_,
        );
        tcp = bind_for_each(addr, workers, rebinds, to_bind)?;
        if let Some(first) = tcp.first() {
            addr = first.local_addr()?;
        }
    }
    Ok(Bound { addr, udp, tcp })
}

/// A kind of socket: how one is bound, the second argument being SO_REUSEPORT, how others are let
/// have its port, and where it is.
type Binding<'a, S> = (
    &'a dyn Fn(SocketAddr, bool) -> io::Result<S>,
    &'a dyn Fn(&S) -> io::Result<()>,
    &'a dyn Fn(&S) -> io::Result<SocketAddr>,
);

/// A socket for each worker, all at one address.
fn bind_for_each<S>(
    wanted: SocketAddr,
    workers: u8,
    rebinds: u32,
    (bind, share_port, local_addr): Binding<S>,
) -> Result<Vec<S>, EngineError> {
    // With SO_REUSEPORT it would share the port with whatever process of the same user has done so,
    // and each would get packets of the other; the kernel even chooses such a port for port 0.
    let first = bind_patiently(wanted, rebinds, || bind(wanted, false))?;
    let addr = local_addr(&first)?;
    if workers > 1 {
        share_port(&first)?;
    }
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bind_patiently(addr, rebinds, || bind(addr, true))?);
    }
    Ok(sockets)
}

fn warn_of_small_buffer(socket: &UdpSocket, addr: SocketAddr) -> io::Result<()> {
    let (receive, _) = socket.buffer_sizes()?;
    if receive < SOCKET_RECEIVE_BYTES {
        tracing::warn!(
            %addr,
            got_bytes = receive,
            wanted_bytes = SOCKET_RECEIVE_BYTES,
            "the receive buffer is smaller than wanted; raise net.core.rmem_max"
        );
    }
    Ok(())
}

/// Binds; an address in use may be that of a daemon that was killed a moment ago: the kernel closes
/// the sockets of an io_uring only some milliseconds after the death of its process.
fn bind_patiently<S>(
    addr: SocketAddr,
    mut tries_left: u32,
    bind: impl Fn() -> io::Result<S>,
) -> Result<S, EngineError> {
    loop {
        match bind() {
            Ok(socket) => return Ok(socket),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse && tries_left > 0 => {
                tries_left -= 1;
                thread::sleep(REBIND_PAUSE);
            }
            Err(source) => return Err(EngineError::Bind { addr, source }),
        }
    }
}
