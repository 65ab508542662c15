//! A worker's sockets: those that peers are let in at, and those it dials from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landro_sys::{Driver, Interest, SocketId, TcpId, TcpListener, TcpStream, UdpSocket};

use super::event_loop::Loop;
use crate::quic::Setup;
use crate::tcp::TcpSetup;

/// One socket.
pub(crate) struct Listener {
    pub(crate) socket: SocketId,
    pub(crate) local: SocketAddr,
    /// How connections are accepted here, and by its ALPN what they may carry. None: one peer is
    /// dialled from this socket, and nobody is let in.
    pub(crate) accept: Option<Setup>,
}

/// Where connections over TCP are accepted.
pub(crate) struct Door {
    id: TcpId,
    setup: TcpSetup,
    /// There was no descriptor to be had; until then nobody is accepted.
    shut_until: Option<Instant>,
}

/// How long nobody is accepted where there are no descriptors: the listener stays ready, so without
/// a pause the loop would do nothing else.
const SHUT_FOR: Duration = Duration::from_millis(100);

/// Connections accepted at once before others get their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// In the order of the daemon's addresses, which all workers share ([`super::Stray`] counts on it).
#[derive(Default)]
pub(crate) struct Listeners {
    sockets: Vec<Listener>,
    doors: Vec<Door>,
}

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
        self.sockets.push(Listener {
            socket,
            local,
            accept,
        });
        Ok(self.sockets.len() - 1)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Listener> {
        self.sockets.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Listener> {
        self.sockets.get_mut(index)
    }

    pub(crate) fn find(&self, socket: SocketId) -> Option<usize> {
        let mut sockets = self.sockets.iter();
        sockets.position(|listener| listener.socket == socket)
    }
}

/// Connections over TCP.
impl Listeners {
    /// # Errors
    /// The driver has no room for it.
    pub(crate) fn add_door(
        &mut self,
        driver: &mut Driver,
        listener: TcpListener,
        setup: TcpSetup,
    ) -> io::Result<()> {
        let id = driver.add_listener(listener)?;
        driver.watch(id, Interest::READ);
        self.doors.push(Door {
            id,
            setup,
            shut_until: None,
        });
        Ok(())
    }

    /// If this is a listener: how connections are accepted there, and those that wait. `error`: why
    /// there may be more, though none can be had now.
    pub(crate) fn accept(&mut self, io: &mut Loop, id: TcpId) -> Option<AtDoor> {
        let door = self.doors.iter_mut().find(|door| door.id == id)?;
        let (mut streams, mut error) = (Vec::new(), None);
        while streams.len() < ACCEPTS_PER_TURN && error.is_none() {
            match io.driver.listener(id).accept() {
                Ok(Some(stream)) => streams.push(stream),
                Ok(None) => break,
                Err(why) => error = Some(why),
            }
        }
        match error {
            Some(_) => door.shut_until = Some(io.now + SHUT_FOR),
            None => io.driver.watch(id, Interest::READ),
        }
        let setup = door.setup.clone();
        Some(AtDoor {
            setup,
            streams,
            error,
        })
    }

    /// When a door that was shut opens.
    pub(crate) fn open_at(&self) -> Option<Instant> {
        self.doors.iter().filter_map(|door| door.shut_until).min()
    }

    /// Opens the doors that were shut for long enough.
    pub(crate) fn open(&mut self, io: &mut Loop) {
        for door in &mut self.doors {
            if door.shut_until.take_if(|at| *at <= io.now).is_some() {
                io.driver.watch(door.id, Interest::READ);
            }
        }
    }

    /// Nobody is accepted any more: the kernel refuses newcomers.
    pub(crate) fn close_doors(&mut self, driver: &mut Driver) {
        for door in self.doors.drain(..) {
            drop(driver.remove_listener(door.id));
        }
    }
}

/// Connections that waited at a door.
pub(crate) struct AtDoor {
    pub(crate) setup: TcpSetup,
    pub(crate) streams: Vec<(TcpStream, SocketAddr)>,
    pub(crate) error: Option<io::Error>,
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
