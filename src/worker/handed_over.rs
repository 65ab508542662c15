//! A TCP connection on its way to the worker where it is to be a lane.

use std::net::SocketAddr;
use std::time::Instant;

use landro_sys::TcpStream;

use crate::ids::SessionId;
use crate::proto::lanes::{DialKind, Newcomer};
use crate::tcp::TcpConn;
use crate::worker::counted::Counted;

pub struct HandedOver {
    pub(crate) stream: HandedStream,
    /// What it was before it is a lane, for the word that it has come too late.
    pub(crate) newcomer: Newcomer,
    /// Its streams with unread data, in the order they became readable.
    pub(crate) readable: Vec<u64>,
    pub(crate) joins: Joins,
}

/// What it has whatever it is to be.
pub(crate) struct HandedStream {
    pub(crate) stream: TcpStream,
    pub(crate) conn: TcpConn,
    pub(crate) peer: SocketAddr,
    pub(crate) heard: Instant,
    /// Window bytes granted out of the memory budget, which go with it.
    pub(crate) granted_bytes: u64,
    pub(crate) begun: Instant,
    /// What of it the worker counted that had it.
    pub(crate) counted: Counted,
}

/// What a connection wants to be.
#[derive(Clone, Copy)]
pub(crate) struct Joins {
    pub(crate) session: SessionId,
    pub(crate) number: u32,
    pub(crate) kind: DialKind,
}
