//! The driver: operations in, completions out, over io_uring or over epoll with the same system
//! calls.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::availability::Availability;
use crate::file::FileOp;
use crate::op::{Completion, DriverConfig, DriverLoad, SendRun};
use crate::poll::PollDriver;
use crate::pool::Pool;
use crate::receive::Datagrams;
use crate::socket::{SocketId, UdpSocket};
use crate::tcp::{Interest, TcpId, TcpListener, TcpSocket, TcpStream};
use crate::uring::UringDriver;
use crate::wake::WakeHandle;

/// What is said of an id that is none.
const NO_SOCKET: &str = "no TCP socket of this driver, or one that was removed";

/// Which mechanism drives the I/O.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backend {
    /// io_uring; needs Linux 6.1 and permission (containers forbid it by default).
    IoUring,
    /// epoll through mio; works everywhere.
    Poll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::IoUring => "io_uring",
            Backend::Poll => "poll",
        })
    }
}

/// One thread's I/O. Not `Send`: the kernel ties a ring to the thread that made it.
///
/// Dropping it cancels what is in flight and waits (at most 2 s) for the kernel to let go of its
/// memory; file operations may be done or not. Memory the kernel still holds after that is leaked,
/// never freed.
#[derive(Debug)]
pub struct Driver(Mechanism);

#[derive(Debug)]
enum Mechanism {
    Uring(Box<UringDriver>),
    Poll(Box<PollDriver>),
}

impl Driver {
    /// Makes a driver for the calling thread, which alone may use it. With io_uring, file
    /// operations on buffers of `pool` use registered memory as far as RLIMIT_MEMLOCK allows.
    ///
    /// # Errors
    /// `InvalidInput` for a `recv_buffers` that is not a power of 2 in 2..=32,768. On io_uring:
    /// `EPERM` or `ENOSYS` where it is forbidden or missing, `EINVAL` before Linux 6.1, `ENOMEM`
    /// under a tight RLIMIT_MEMLOCK; [`crate::Caps`] puts it in words.
    pub fn new(backend: Backend, config: &DriverConfig, pool: &Pool) -> io::Result<Driver> {
        if !config.recv_buffers.is_power_of_two() || !(2..=1 << 15).contains(&config.recv_buffers) {
            return Err(crate::file::invalid(
                "recv_buffers must be a power of 2 from 2 to 32768",
            ));
        }
        Ok(Driver(match backend {
            Backend::IoUring => Mechanism::Uring(Box::new(UringDriver::new(config, pool)?)),
            Backend::Poll => Mechanism::Poll(Box::new(PollDriver::new(config, pool)?)),
        }))
    }

    /// Which backend this is.
    pub fn backend(&self) -> Backend {
        match &self.0 {
            Mechanism::Uring(_) => Backend::IoUring,
            Mechanism::Poll(_) => Backend::Poll,
        }
    }

    /// Takes the socket and starts receiving on it.
    ///
    /// # Errors
    /// What epoll_ctl(2) says; the ring has none here.
    pub fn add_socket(&mut self, socket: UdpSocket) -> io::Result<SocketId> {
        match &mut self.0 {
            Mechanism::Uring(driver) => Ok(driver.add_socket(socket)),
            Mechanism::Poll(driver) => driver.add_socket(socket),
        }
    }

    /// A socket of this driver.
    ///
    /// # Panics
    /// For an id of another driver.
    pub fn socket(&self, id: SocketId) -> &UdpSocket {
        match &self.0 {
            Mechanism::Uring(driver) => driver.socket(id),
            Mechanism::Poll(driver) => driver.socket(id),
        }
    }

    /// Takes a listener. Its calls never wait; [`Driver::watch`] tells when one may be worthwhile.
    ///
    /// # Errors
    /// What epoll_ctl(2) says; the ring has none here.
    pub fn add_listener(&mut self, listener: TcpListener) -> io::Result<TcpId> {
        self.add_tcp(TcpSocket::Listener(listener))
    }

    /// Takes a stream, as [`Driver::add_listener`] does a listener.
    ///
    /// # Errors
    /// What epoll_ctl(2) says; the ring has none here.
    pub fn add_stream(&mut self, stream: TcpStream) -> io::Result<TcpId> {
        self.add_tcp(TcpSocket::Stream(stream))
    }

    /// A listener of this driver.
    ///
    /// # Panics
    /// For an id of another driver, of a stream, or of a socket that was removed.
    pub fn listener(&self, id: TcpId) -> &TcpListener {
        match self.tcp_socket(id) {
            TcpSocket::Listener(listener) => listener,
            TcpSocket::Stream(_) => panic!("{id:?} is a stream"),
        }
    }

    /// A stream of this driver.
    ///
    /// # Panics
    /// For an id of another driver, of a listener, or of a socket that was removed.
    pub fn stream(&self, id: TcpId) -> &TcpStream {
        match self.tcp_socket(id) {
            TcpSocket::Stream(stream) => stream,
            TcpSocket::Listener(_) => panic!("{id:?} is a listener"),
        }
    }

    /// Waits until a TCP socket is ready for `interest`, which it may be already. One
    /// [`Completion::Ready`] comes, and ends it: what is still waited for is to be watched anew.
    /// Until it comes, a further call adds its interest to what is waited for. It may come although
    /// nothing is to be had.
    ///
    /// # Panics
    /// For an id of another driver or of a socket that was removed.
    pub fn watch(&mut self, id: TcpId, interest: Interest) {
        let known = match &mut self.0 {
            Mechanism::Uring(driver) => driver.watch(id, interest),
            Mechanism::Poll(driver) => driver.watch(id, interest),
        };
        known.expect(NO_SOCKET);
    }

    /// Gives a listener back; no completion of it comes any more. A ring lets go of it, if it was
    /// watched, in the next [`Driver::submit_and_wait`]: until then its port is taken even when it
    /// is dropped.
    ///
    /// # Panics
    /// For an id of another driver, of a stream, or of a socket that was removed.
    pub fn remove_listener(&mut self, id: TcpId) -> TcpListener {
        match self.remove_tcp(id) {
            TcpSocket::Listener(listener) => listener,
            TcpSocket::Stream(_) => panic!("{id:?} is a stream"),
        }
    }

    /// Gives a stream back, for another driver or to be closed; no completion of it comes any more.
    /// A ring lets go of it, if it was watched, in the next [`Driver::submit_and_wait`]: until then
    /// its peer is told nothing even when it is dropped.
    ///
    /// # Panics
    /// For an id of another driver, of a listener, or of a socket that was removed.
    pub fn remove_stream(&mut self, id: TcpId) -> TcpStream {
        match self.remove_tcp(id) {
            TcpSocket::Stream(stream) => stream,
            TcpSocket::Listener(_) => panic!("{id:?} is a listener"),
        }
    }

    fn add_tcp(&mut self, socket: TcpSocket) -> io::Result<TcpId> {
        match &mut self.0 {
            Mechanism::Uring(driver) => Ok(driver.add_tcp(socket)),
            Mechanism::Poll(driver) => driver.add_tcp(socket),
        }
    }

    fn tcp_socket(&self, id: TcpId) -> &TcpSocket {
        let socket = match &self.0 {
            Mechanism::Uring(driver) => driver.tcp_socket(id),
            Mechanism::Poll(driver) => driver.tcp_socket(id),
        };
        socket.expect(NO_SOCKET)
    }

    fn remove_tcp(&mut self, id: TcpId) -> TcpSocket {
        let socket = match &mut self.0 {
            Mechanism::Uring(driver) => driver.remove_tcp(id),
            Mechanism::Poll(driver) => driver.remove_tcp(id),
        };
        socket.expect(NO_SOCKET)
    }

    /// A handle to wake this driver from any thread.
    pub fn wake_handle(&self) -> WakeHandle {
        match &self.0 {
            Mechanism::Uring(driver) => driver.wake_handle(),
            Mechanism::Poll(driver) => driver.wake_handle(),
        }
    }

    /// Queues datagrams; they leave in the next [`Driver::submit_and_wait`]. When the socket's
    /// buffer is full they wait until there is room. One [`Completion::Sent`] comes back, also for
    /// a run that cannot be sent at all.
    pub fn send(&mut self, token: u64, send: SendRun) {
        match &mut self.0 {
            Mechanism::Uring(driver) => driver.send(token, send),
            Mechanism::Poll(driver) => driver.send(token, send),
        }
    }

    /// Queues a file operation; its completion comes as [`Completion::File`]. The poll backend, and
    /// io_uring for operations it does not have, has threads run it: nothing waits for a file
    /// system here. Operations in flight together run in any order.
    pub fn file(&mut self, token: u64, op: FileOp) {
        match &mut self.0 {
            Mechanism::Uring(driver) => driver.file(token, op),
            Mechanism::Poll(driver) => driver.file(token, op),
        }
    }

    /// Submits what is queued and waits until there is a completion or `timeout` passed (`None`: no
    /// limit; zero: only looks). Does not wait when completions are queued already.
    ///
    /// # Errors
    /// Only what makes the driver unusable: a socket whose descriptor went bad, a ring that takes
    /// nothing.
    pub fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match &mut self.0 {
            Mechanism::Uring(driver) => driver.submit_and_wait(timeout),
            Mechanism::Poll(driver) => driver.submit_and_wait(timeout),
        }
    }

    /// The next queued completion; never waits.
    pub fn next_completion(&mut self) -> Option<Completion> {
        match &mut self.0 {
            Mechanism::Uring(driver) => driver.next_completion(),
            Mechanism::Poll(driver) => driver.next_completion(),
        }
    }

    /// Gives a receive buffer back once its datagrams are processed. The same as dropping them.
    pub fn recycle(&mut self, datagrams: Datagrams) {
        drop(datagrams);
    }

    /// Send runs and file operations that have not completed yet. Completions still queued do not
    /// count, nor do TCP sockets that are watched.
    pub fn in_flight(&self) -> usize {
        match &self.0 {
            Mechanism::Uring(driver) => driver.in_flight(),
            Mechanism::Poll(driver) => driver.in_flight(),
        }
    }

    /// How much is under way, and what there was no room for.
    pub fn load(&mut self) -> DriverLoad {
        match &mut self.0 {
            Mechanism::Uring(driver) => driver.load(),
            Mechanism::Poll(driver) => DriverLoad {
                in_flight: driver.in_flight(),
                ..DriverLoad::default()
            },
        }
    }

    /// Gives the memory of the pool's free buffers back to the kernel, also what is pinned by this
    /// ring's registration. For idle times: it costs a system call per buffer that was ever used.
    pub fn trim(&mut self) {
        match &mut self.0 {
            Mechanism::Uring(driver) => driver.trim(),
            Mechanism::Poll(driver) => driver.trim(),
        }
    }

    /// Whether file operations use registered memory, and why not (all) where they do not.
    pub(crate) fn registered_buffers(&self) -> Availability {
        match &self.0 {
            Mechanism::Uring(driver) => driver.registered_buffers(),
            Mechanism::Poll(_) => Availability::No("not on the poll backend".into()),
        }
    }
}
