//! A worker's sockets: those that peers are let in at, and those it dials from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landro_sys::{Driver, Interest, SocketId, TcpId, TcpListener, TcpStream, UdpSocket};

use super::event_loop::Loop;
use crate::quic::Setup;
use crate::tcp::TcpSetup;

/// One socket.
pub(crate) struct WorkerSocket {
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

/// In the order of the daemon's addresses, which all workers share ([`super::Stray`] counts on it).
#[derive(Default)]
pub(crate) struct Listeners {
    sockets: Vec<WorkerSocket>,
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
        self.sockets.push(WorkerSocket {
            socket,
            local,
            accept,
        });
        Ok(self.sockets.len() - 1)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&WorkerSocket> {
        self.sockets.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut WorkerSocket> {
        self.sockets.get_mut(index)
    }

    pub(crate) fn sockets(&self) -> impl Iterator<Item = SocketId> {
        self.sockets.iter().map(|it| it.socket)
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

    /// Which door this is, if it is one, and how connections are accepted there.
    pub(crate) fn door(&self, id: TcpId) -> Option<(usize, TcpSetup)> {
        let at = self.doors.iter().position(|door| door.id == id)?;
        Some((at, self.doors[at].setup.clone()))
    }

    /// The next connection that waits at a door. None: there is none, and the door is watched.
    ///
    /// # Errors
    /// There may be more, though none can be had now; until the door is open again nobody looks.
    pub(crate) fn accept(&mut self, io: &mut Loop, door: usize) -> io::Result<Option<AtDoor>> {
        let door = &mut self.doors[door];
        let accepted = io.driver.listener(door.id).accept();
        match &accepted {
            Ok(Some(_)) => {}
            Ok(None) => io.driver.watch(door.id, Interest::READ),
            Err(_) => door.shut_until = Some(io.now + SHUT_FOR),
        }
        accepted
    }

    /// There may be more at a door; others have their turn before.
    pub(crate) fn leave(&self, io: &mut Loop, door: usize) {
        io.driver.watch(self.doors[door].id, Interest::READ);
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

/// A connection that waited at a door, and its peer.
pub(crate) type AtDoor = (TcpStream, SocketAddr);

impl WorkerSocket {
    /// The address a datagram was sent to: on a wildcard socket the packet info says which of ours.
    pub(crate) fn address(&self, to: Option<IpAddr>) -> SocketAddr {
        match to {
            Some(ip) if self.local.ip().is_unspecified() => SocketAddr::new(ip, self.local.port()),
            _ => self.local,
        }
    }
}
