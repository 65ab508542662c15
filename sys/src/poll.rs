//! The poll backend: readiness from mio, then the same system calls the ring would make, those on
//! files by threads, queued as completions.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Registry, Token};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EfdFlags;
use nix::sys::time::TimeSpec;

use crate::cmsg::{self, CONTROL_BYTES};
use crate::deadline::Deadline;
use crate::errno::is_transient;
use crate::file::FileOp;
use crate::message::KernelMessage;
use crate::op::{Completion, DriverConfig, SendRun};
use crate::outbox::Outbox;
use crate::pool::Pool;
use crate::receive::{Datagrams, Envelope, NAME_BYTES, PAYLOAD_BYTES, ReceiveMemory};
use crate::socket::{SocketId, UdpSocket};
use crate::tcp::{Interest as TcpInterest, TcpId, TcpSocket};
use crate::threads::Threads;
use crate::wake::WakeHandle;

mod watches;

use watches::EpollWatches;

const WAKE: Token = Token(usize::MAX);

/// Events of one call; the rest comes with the next, in the order in which it happened.
const EVENTS_MAX: usize = 64;

/// mio rounds timeouts up to whole milliseconds, which ruins pacing; shorter waits than this go
/// through ppoll(2).
const PRECISE_BELOW: Duration = Duration::from_millis(50);

/// Transient errors taken off one socket in a row before others get their turn; ENOMEM may not go
/// away by trying.
const ERRORS_MAX: usize = 64;

/// The driver on epoll. See [`crate::Driver`], whose methods these are.
pub(crate) struct PollDriver {
    poll: mio::Poll,
    events: Events,
    sockets: Vec<Watched>,
    tcp: EpollWatches,
    outbox: Outbox,
    message: Box<KernelMessage>,
    memory: Rc<ReceiveMemory>,
    /// Receive buffers nobody uses; last in, first out.
    free: Vec<u16>,
    ready: VecDeque<Completion>,
    threads: Threads,
    wake: WakeHandle,
    pool: Pool,
}

/// A socket and what epoll's edges said of it. Both start true: trying costs one EAGAIN.
struct Watched {
    socket: UdpSocket,
    readable: bool,
    /// Watched for only while false: every packet the network lets go of is an edge, and would wake
    /// us for nothing.
    writable: bool,
}

impl Watched {
    fn set_writable(
        &mut self,
        registry: &Registry,
        id: SocketId,
        writable: bool,
    ) -> io::Result<()> {
        if self.writable == writable {
            return Ok(());
        }
        self.writable = writable;
        let both = Interest::READABLE | Interest::WRITABLE;
        let interest = if writable { Interest::READABLE } else { both };
        // Registering anew reports what is ready at this moment, so no edge is lost in between.
        registry.reregister(
            &mut SourceFd(&self.socket.as_raw_fd()),
            Token(id.index()),
            interest,
        )
    }
}

impl PollDriver {
    pub(crate) fn new(config: &DriverConfig, pool: &Pool) -> io::Result<PollDriver> {
        let poll = mio::Poll::new()?;
        let wake = WakeHandle::new(EfdFlags::EFD_NONBLOCK)?;
        poll.registry()
            .register(&mut SourceFd(&wake.raw_fd()), WAKE, Interest::READABLE)?;
        Ok(PollDriver {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            sockets: Vec::new(),
            tcp: EpollWatches::default(),
            outbox: Outbox::default(),
            message: KernelMessage::new(),
            memory: ReceiveMemory::new(config.recv_buffers)?,
            free: (0..config.recv_buffers).rev().collect(),
            ready: VecDeque::new(),
            threads: Threads::new(wake.clone()),
            wake,
            pool: pool.clone(),
        })
    }

    pub(crate) fn add_socket(&mut self, socket: UdpSocket) -> io::Result<SocketId> {
        let id = SocketId(self.sockets.len() as u32);
        let token = Token(id.index());
        self.poll.registry().register(
            &mut SourceFd(&socket.as_raw_fd()),
            token,
            Interest::READABLE,
        )?;
        self.sockets.push(Watched {
            socket,
            readable: true,
            writable: true,
        });
        self.outbox.add_socket();
        Ok(id)
    }

    pub(crate) fn socket(&self, id: SocketId) -> &UdpSocket {
        &self.sockets[id.index()].socket
    }

    pub(crate) fn add_tcp(&mut self, socket: TcpSocket) -> io::Result<TcpId> {
        self.tcp.add(self.poll.registry(), socket)
    }

    pub(crate) fn tcp_socket(&self, id: TcpId) -> Option<&TcpSocket> {
        self.tcp.socket(id)
    }

    /// `None`: there is no such socket.
    pub(crate) fn watch(&mut self, id: TcpId, interest: TcpInterest) -> Option<()> {
        if !self.tcp.arm(self.poll.registry(), id, interest)? {
            // What cannot be waited for is tried.
            self.ready.push_back(Completion::Ready {
                id,
                readable: true,
                writable: true,
            });
        }
        Some(())
    }

    pub(crate) fn remove_tcp(&mut self, id: TcpId) -> Option<TcpSocket> {
        let socket = self.tcp.remove(self.poll.registry(), id)?;
        self.ready.retain(|completion| !completion.is_of_tcp(id));
        Some(socket)
    }

    pub(crate) fn wake_handle(&self) -> WakeHandle {
        self.wake.clone()
    }

    pub(crate) fn send(&mut self, token: u64, send: SendRun) {
        self.ready.extend(self.outbox.push(token, send));
    }

    pub(crate) fn file(&mut self, token: u64, op: FileOp) {
        self.ready.extend(self.threads.push(token, op));
    }

    pub(crate) fn next_completion(&mut self) -> Option<Completion> {
        self.ready.pop_front()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.outbox.len() + self.threads.in_flight()
    }

    pub(crate) fn trim(&mut self) {
        self.pool.trim();
    }

    pub(crate) fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = Deadline::after(timeout);
        let mut looked = false;
        loop {
            self.work()?;
            if looked && !self.ready.is_empty() {
                return Ok(());
            }
            let left = if self.ready.is_empty() {
                deadline.left()
            } else {
                Some(Duration::ZERO)
            };
            let patience = self.threads.patience();
            self.wait(left.into_iter().chain(patience).min())?;
            self.threads.grow();
            looked = true;
            if left == Some(Duration::ZERO) {
                return self.work();
            }
        }
    }

    /// Everything that is possible without waiting.
    fn work(&mut self) -> io::Result<()> {
        while let Some(index) = self.memory.take_returned() {
            self.free.push(index);
        }
        self.threads.take_done(&mut self.ready);
        for index in 0..self.sockets.len() as u32 {
            self.send_queued(SocketId(index))?;
            self.receive(SocketId(index))?;
        }
        Ok(())
    }

    fn send_queued(&mut self, id: SocketId) -> io::Result<()> {
        let watched = &mut self.sockets[id.index()];
        while watched.writable {
            let Some(piece) = self.outbox.next(id) else {
                break;
            };
            let letter = self.outbox.letter(&piece);
            let filled = self.message.fill(&watched.socket, &letter);
            let result = filled.and_then(|header| {
                // SAFETY: `header` and what it points to live in `self.message` and the outbox's
                // buffer, neither of which is touched before the call returns.
                let sent = unsafe {
                    libc::sendmsg(watched.socket.as_raw_fd(), header, libc::MSG_DONTWAIT)
                };
                usize::try_from(sent).map_err(|_| io::Error::last_os_error())
            });
            match result.as_ref().map_err(io::Error::kind) {
                Err(io::ErrorKind::WouldBlock) => {
                    self.outbox.put_back(piece);
                    watched.set_writable(self.poll.registry(), id, false)?;
                }
                Err(io::ErrorKind::Interrupted) => self.outbox.put_back(piece),
                _ => self.ready.extend(self.outbox.settle(piece, result)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, id: SocketId) -> io::Result<()> {
        let mut errors = 0;
        while self.sockets[id.index()].readable && errors < ERRORS_MAX {
            let Some(index) = self.free.pop() else {
                return Ok(());
            };
            match receive_into(&self.memory, index, id, &self.sockets[id.index()].socket) {
                Ok(Some(datagrams)) => self.ready.push_back(Completion::Received(datagrams)),
                // An empty datagram (or one from nowhere) says nothing.
                Ok(None) => self.free.push(index),
                Err(error) => {
                    self.free.push(index);
                    match error.raw_os_error() {
                        Some(libc::EAGAIN) => self.sockets[id.index()].readable = false,
                        // Reading such an error off the socket clears it.
                        Some(errno) if is_transient(errno) => {
                            errors += 1;
                            self.ready.extend(Completion::of_failed_receive(id, errno));
                        }
                        _ => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    fn wait(&mut self, left: Option<Duration>) -> io::Result<()> {
        let left = match left {
            Some(left) if !left.is_zero() && left < PRECISE_BELOW => {
                // SAFETY: the epoll descriptor is open as long as `self.poll`, borrowed for this
                // block.
                let epoll = unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) };
                let mut descriptors = [PollFd::new(epoll.as_fd(), PollFlags::POLLIN)];
                // An error can only be EINTR; the caller resumes the wait.
                let _ = ppoll(&mut descriptors, Some(TimeSpec::from_duration(left)), None);
                Some(Duration::ZERO)
            }
            left => left,
        };
        match self.poll.poll(&mut self.events, left) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for event in &self.events {
            if event.token() == WAKE {
                self.wake.drain();
                if self.wake.seen() {
                    self.ready.push_back(Completion::Woken);
                }
            } else if watches::is_tcp(event.token()) {
                let completion = self.tcp.complete(self.poll.registry(), event);
                self.ready.extend(completion);
            } else if let Some(watched) = self.sockets.get_mut(event.token().0) {
                // An error is collected by either call.
                watched.readable |= event.is_readable() || event.is_error();
                if event.is_writable() || event.is_error() {
                    watched.set_writable(
                        self.poll.registry(),
                        SocketId(event.token().0 as u32),
                        true,
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// One recvmsg(2) without waiting. `None`: an empty datagram; the buffer is still the caller's.
fn receive_into(
    memory: &Rc<ReceiveMemory>,
    index: u16,
    id: SocketId,
    socket: &UdpSocket,
) -> io::Result<Option<Datagrams>> {
    let mut name = [0u8; NAME_BYTES];
    let mut control = [0u8; CONTROL_BYTES];
    let mut vector = libc::iovec {
        iov_base: memory.payload(index).cast(),
        iov_len: PAYLOAD_BYTES,
    };
    // SAFETY: msghdr is integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = NAME_BYTES as _;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: every pointer in `header` is to a local or to receive buffer `index`, which is free
    // (the caller took it off the free list), with the lengths given.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let Ok(len) = usize::try_from(got) else {
        return Err(io::Error::last_os_error());
    };
    let name_len = (header.msg_namelen as usize).min(NAME_BYTES);
    let Some(from) = cmsg::decode_address(&name[..name_len]).filter(|_| len > 0) else {
        return Ok(None);
    };
    // The name length is a u32, the control length a size_t or u32 depending on the C library.
    #[allow(clippy::unnecessary_cast)]
    let control_len = (header.msg_controllen as usize).min(CONTROL_BYTES);
    let received = cmsg::decode(&control[..control_len]);
    let envelope = Envelope {
        from,
        to: received.to,
        segment_bytes: received.segment_bytes,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        socket: id,
    };
    // SAFETY: the call is over, so the kernel is done with the buffer, and it was on nobody's list
    // but ours.
    Ok(Some(unsafe {
        Datagrams::new(Rc::clone(memory), index, len.min(PAYLOAD_BYTES), envelope)
    }))
}

impl fmt::Debug for PollDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollDriver")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
