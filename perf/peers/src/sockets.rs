//! A socket for those libraries that take one: with buffers as large as landro gives itself.

use std::net::{Ipv4Addr, UdpSocket};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce};

use crate::transport::Result;

const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;

pub fn socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Forced it needs CAP_NET_ADMIN, and has no limit.
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_BYTES)
        .or_else(|_| setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER_BYTES))?;
    setsockopt(&socket, SndBufForce, &SEND_BUFFER_BYTES)
        .or_else(|_| setsockopt(&socket, SndBuf, &SEND_BUFFER_BYTES))?;
    Ok(socket)
}
