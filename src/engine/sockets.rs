//! The sockets that workers begin with: buffers, one address for all workers, steering by
//! connection id.

use std::net::SocketAddr;
use std::time::Duration;
use std::{io, thread};

use landro_sys::{UdpOptions, UdpSocket};

use super::EngineError;

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

pub(super) fn options(reuse_port: bool) -> UdpOptions {
    UdpOptions {
        recv_buffer_bytes: SOCKET_RECEIVE_BYTES,
        send_buffer_bytes: SOCKET_SEND_BYTES,
        reuse_port,
    }
}

/// Binds every address once per worker; gives the addresses and each worker's sockets in the same
/// order.
pub(super) fn bind_all(
    listen: &[SocketAddr],
    workers: u8,
) -> Result<(Vec<SocketAddr>, Vec<Vec<UdpSocket>>), EngineError> {
    let mut addresses = Vec::new();
    let mut sockets: Vec<Vec<UdpSocket>> = (0..workers).map(|_| Vec::new()).collect();
    for &wanted in listen {
        let bind = |addr: SocketAddr| bind_patiently(addr, workers > 1);
        // SO_REUSEPORT would let a second daemon of the same user join the port and steal its
        // packets: a bind without it fails when anybody is there.
        if workers > 1 && wanted.port() != 0 {
            bind_patiently(wanted, false)?;
        }
        let first = bind(wanted)?;
        let addr = first.local_addr()?;
        let (receive, _) = first.buffer_sizes()?;
        if receive < SOCKET_RECEIVE_BYTES {
            tracing::warn!(
                %addr,
                got_bytes = receive,
                wanted_bytes = SOCKET_RECEIVE_BYTES,
                "the receive buffer is smaller than wanted; raise net.core.rmem_max"
            );
        }
        sockets[0].push(first);
        for worker in sockets.iter_mut().skip(1) {
            worker.push(bind(addr)?);
        }
        if workers > 1 {
            sockets[0][addresses.len()].steer_by_cid(workers)?;
        }
        addresses.push(addr);
    }
    Ok((addresses, sockets))
}

/// Binds; an address in use may be that of a daemon that was killed a moment ago: the kernel closes
/// the sockets of an io_uring only some milliseconds after the death of its process.
fn bind_patiently(addr: SocketAddr, reuse_port: bool) -> Result<UdpSocket, EngineError> {
    let mut tries_left = REBIND_TRIES;
    loop {
        match UdpSocket::bind(addr, &options(reuse_port)) {
            Ok(socket) => return Ok(socket),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse && tries_left > 0 => {
                tries_left -= 1;
                thread::sleep(REBIND_PAUSE);
            }
            Err(source) => return Err(EngineError::Bind { addr, source }),
        }
    }
}
