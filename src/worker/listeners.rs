//! A worker's sockets: those that peers are let in at, and those it dials from.

use std::io;
use std::net::{IpAddr, SocketAddr};

use landro_sys::{Driver, SocketId, UdpSocket};

use crate::quic::Setup;

/// One socket.
pub(crate) struct Listener {
    pub(crate) socket: SocketId,
    pub(crate) local: SocketAddr,
    /// How connections are accepted here, and by its ALPN what they may carry. None: one peer is
    /// dialled from this socket, and nobody is let in.
    pub(crate) accept: Option<Setup>,
}

/// In the order of the daemon's addresses, which all workers share ([`super::Stray`] counts on it).
#[derive(Default)]
pub(crate) struct Listeners(Vec<Listener>);

impl Listeners {
    /// # Errors
    /// The socket has no address, or the driver has no room for it.
    pub(crate) fn add(
        &mut self,
        driver: &mut Driver,
        socket: UdpSocket,
        accept: Option<Setup>,
    ) -> io::Result<usize> {
        let local = socket.local_addr()?;
        let socket = driver.add_socket(socket)?;
        self.0.push(Listener {
            socket,
            local,
            accept,
        });
        Ok(self.0.len() - 1)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Listener> {
        self.0.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Listener> {
        self.0.get_mut(index)
    }

    pub(crate) fn find(&self, socket: SocketId) -> Option<usize> {
        self.0.iter().position(|listener| listener.socket == socket)
    }
}

impl Listener {
    /// The address a datagram was sent to: on a wildcard socket the packet info says which of ours.
    pub(crate) fn address(&self, to: Option<IpAddr>) -> SocketAddr {
        match to {
            Some(ip) if self.local.ip().is_unspecified() => SocketAddr::new(ip, self.local.port()),
            _ => self.local,
        }
    }
}
