//! TCP sockets of the poll backend: what is waited for on each, as one registration with epoll.
//!
//! mio's edges tell once what became possible since. Registering anew reports what is possible at
//! that moment, which makes every arming a question about the present.

use std::os::fd::AsRawFd;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Registry, Token};

use crate::op::Completion;
use crate::table::Table;
use crate::tcp::{Interest, TcpId, TcpSocket};

// Numbers of a table are 2^32 and more; tokens of UDP sockets are less.
const _: () = assert!(usize::BITS == 64);

/// Nothing, as far as mio can say it: no peer sends urgent data, and if it does, it is one event.
const QUIET: mio::Interest = mio::Interest::PRIORITY;

/// A socket and what is waited for on it.
struct EpollWatch {
    socket: TcpSocket,
    /// Waited for, until the next completion.
    armed: Interest,
    /// What epoll was asked for last. It may still be that when nothing is armed: most sockets are
    /// armed again before anything happens.
    asked: mio::Interest,
}

impl EpollWatch {
    fn ask(&mut self, registry: &Registry, id: TcpId, interest: mio::Interest) -> bool {
        self.asked = interest;
        let fd = self.socket.as_raw_fd();
        registry
            .reregister(&mut SourceFd(&fd), token(id), interest)
            .is_ok()
    }
}

/// All TCP sockets of a poll driver.
#[derive(Default)]
pub(super) struct EpollWatches {
    sockets: Table<EpollWatch>,
}

impl EpollWatches {
    pub fn add(&mut self, registry: &Registry, socket: TcpSocket) -> std::io::Result<TcpId> {
        let fd = socket.as_raw_fd();
        let id = TcpId(self.sockets.insert(EpollWatch {
            socket,
            armed: Interest::NONE,
            asked: QUIET,
        }));
        let result = registry.register(&mut SourceFd(&fd), token(id), QUIET);
        if result.is_err() {
            self.sockets.remove(id.0);
        }
        result.map(|()| id)
    }

    pub fn socket(&self, id: TcpId) -> Option<&TcpSocket> {
        self.sockets.get(id.0).map(|watch| &watch.socket)
    }

    /// Waits for `interest` too. `false`: that cannot be waited for. `None`: there is no such
    /// socket.
    pub fn arm(&mut self, registry: &Registry, id: TcpId, interest: Interest) -> Option<bool> {
        let watch = self.sockets.get_mut(id.0)?;
        let armed = watch.armed.union(interest);
        let Some(wanted) = events(armed).filter(|_| armed != watch.armed) else {
            return Some(true);
        };
        watch.armed = armed;
        let is_asked = watch.ask(registry, id, wanted);
        if !is_asked {
            watch.armed = Interest::NONE;
        }
        Some(is_asked)
    }

    /// Something happened on a socket. `None`: nobody waits for it.
    pub fn complete(&mut self, registry: &Registry, event: &Event) -> Option<Completion> {
        let id = TcpId(event.token().0 as u64);
        let watch = self.sockets.get_mut(id.0)?;
        if watch.armed == Interest::NONE {
            // The next packets shall not wake us, too.
            if watch.asked != QUIET {
                watch.ask(registry, id, QUIET);
            }
            return None;
        }
        watch.armed = Interest::NONE;
        let ended = event.is_error() || event.is_read_closed() || event.is_write_closed();
        Some(Completion::Ready {
            id,
            readable: ended || event.is_readable(),
            writable: ended || event.is_writable(),
        })
    }

    /// Gives a socket back.
    pub fn remove(&mut self, registry: &Registry, id: TcpId) -> Option<TcpSocket> {
        let watch = self.sockets.remove(id.0)?;
        // It is registered: `add` saw to it.
        let _ = registry.deregister(&mut SourceFd(&watch.socket.as_raw_fd()));
        Some(watch.socket)
    }
}

/// Whether a token is of a TCP socket.
pub(super) fn is_tcp(token: Token) -> bool {
    token.0 as u64 > u64::from(u32::MAX)
}

fn token(id: TcpId) -> Token {
    Token(id.0 as usize)
}

fn events(interest: Interest) -> Option<mio::Interest> {
    let read = interest.read.then_some(mio::Interest::READABLE);
    let write = interest.write.then_some(mio::Interest::WRITABLE);
    match (read, write) {
        (Some(read), Some(write)) => Some(read | write),
        (read, write) => read.or(write),
    }
}
