//! The io_uring backend: one ring per thread, deferred task work, multishot receives, registered
//! file buffers.
//!
//! What the kernel can see (payloads, message headers, paths, statx buffers, the receive ring) is
//! owned by this struct from submission to completion. `Drop` cancels everything, waits for the
//! last completion, and only then lets the fields go: `ring` (the kernel's side) first, then
//! operations and their buffers, then receive memory, then sockets. Polls of TCP sockets point to
//! nothing: a socket may go while its poll is being cancelled.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use nix::sys::eventfd::EfdFlags;

use crate::deadline::Deadline;
use crate::file::FileOp;
use crate::message::KernelMessage;
use crate::op::{Completion, DriverConfig, DriverLoad, SendRun};
use crate::outbox::{Outbox, Piece};
use crate::pool::Pool;
use crate::socket::{SocketId, UdpSocket};
use crate::table::Table;
use crate::tcp::{Interest, TcpId, TcpSocket};
use crate::threads::Threads;
use crate::wake::WakeHandle;

mod fixed;
mod ops;
mod recv;
#[cfg(test)]
mod tests;
mod watches;

use fixed::Registration;
use ops::{Again, FileInFlight};
use recv::RingReceiver;
use watches::RingWatches;

/// How long `Drop` waits for cancelled operations. Disk I/O in the kernel cannot be cancelled and
/// may take seconds, or for ever.
const DROP_WAIT_MAX: Duration = Duration::from_secs(2);

/// Kernel threads that run file operations which would block: per ring, for files (bounded) and for
/// the rest. The kernel's own limit is 4 per core and RLIMIT_NPROC: with so few, a mount that does
/// not answer has all of them, and the ring's other files wait for it. Who asks for operations
/// bounds how many of one session are under way; the kernel starts a thread only when all others
/// wait.
const IO_WORKERS_MAX: [u32; 2] = [512, 4];

/// The driver on io_uring. See [`crate::Driver`], whose methods these are.
pub(crate) struct UringDriver {
    /// Everything the kernel may hold pointers into; leaked if it does not let go in time.
    held: ManuallyDrop<Held>,
}

/// See the order in the module's description: fields drop from top to bottom.
struct Held {
    ring: IoUring,
    ops: Table<RingOp>,
    outbox: Outbox,
    /// Messages between two uses.
    #[allow(clippy::vec_box)] // A message in flight must not move; the boxes go round.
    spare_messages: Vec<Box<KernelMessage>>,
    receiver: RingReceiver,
    /// Where the read of the wake eventfd goes.
    wake_count: Box<u64>,
    wake: WakeHandle,
    registration: Registration,
    sockets: Vec<UdpSocket>,
    tcp: RingWatches,
    /// IORING_OP_FTRUNCATE is there (Linux 6.9); every other operation used is older than the
    /// ring's flags.
    has_truncate: bool,
    /// Entries that found the submission queue full.
    backlog: VecDeque<squeue::Entry>,
    ready: VecDeque<Completion>,
    /// File operations in flight on the ring.
    files: usize,
    /// See [`DriverLoad::overflows`].
    overflows: u64,
    /// Those that the ring does not have.
    threads: Threads,
    /// What made the driver unusable; told by the next `submit_and_wait`.
    fatal: Option<io::Error>,
    pool: Pool,
}

/// What an operation's `user_data` stands for.
enum RingOp {
    Receive(SocketId),
    Send {
        piece: Piece,
        message: Box<KernelMessage>,
    },
    File(FileInFlight),
    Poll(TcpId),
    Wake,
}

/// A ring as the driver needs it; also what the probe tries.
pub(crate) fn new_ring(entries: u32) -> io::Result<IoUring> {
    // DEFER_TASKRUN (6.1) runs completions when we ask for them instead of interrupting us; it
    // needs SINGLE_ISSUER. TASKRUN_FLAG tells without a system call that some are waiting.
    // SUBMIT_ALL: a bad entry does not stop a batch.
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(entries.saturating_mul(4))
        .dontfork()
        .build(entries)
}

impl UringDriver {
    pub(crate) fn new(config: &DriverConfig, pool: &Pool) -> io::Result<UringDriver> {
        let ring = new_ring(config.queue_entries.max(8))?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let has_truncate = probe.is_supported(opcode::Ftruncate::CODE);
        // Best effort: without it the kernel's defaults hold.
        let _ = ring
            .submitter()
            .register_iowq_max_workers(&mut { IO_WORKERS_MAX });
        let receiver = RingReceiver::new(&ring, config.recv_buffers)?;
        let registration = Registration::new(&ring, pool);
        let wake = WakeHandle::new(EfdFlags::empty())?;
        let mut held = Held {
            ring,
            ops: Table::default(),
            outbox: Outbox::default(),
            spare_messages: Vec::new(),
            receiver,
            wake_count: Box::new(0),
            threads: Threads::new(wake.clone()),
            wake,
            registration,
            sockets: Vec::new(),
            tcp: RingWatches::default(),
            has_truncate,
            backlog: VecDeque::new(),
            ready: VecDeque::new(),
            files: 0,
            overflows: 0,
            fatal: None,
            pool: pool.clone(),
        };
        held.arm_wake();
        Ok(UringDriver {
            held: ManuallyDrop::new(held),
        })
    }

    pub(crate) fn add_socket(&mut self, socket: UdpSocket) -> SocketId {
        let held = &mut *self.held;
        let id = SocketId(held.sockets.len() as u32);
        held.sockets.push(socket);
        held.outbox.add_socket();
        held.receiver.add_socket(id);
        id
    }

    pub(crate) fn socket(&self, id: SocketId) -> &UdpSocket {
        &self.held.sockets[id.index()]
    }

    pub(crate) fn add_tcp(&mut self, socket: TcpSocket) -> TcpId {
        self.held.tcp.add(socket)
    }

    pub(crate) fn tcp_socket(&self, id: TcpId) -> Option<&TcpSocket> {
        self.held.tcp.socket(id)
    }

    /// `None`: there is no such socket.
    pub(crate) fn watch(&mut self, id: TcpId, interest: Interest) -> Option<()> {
        self.held.tcp.arm(id, interest)
    }

    pub(crate) fn remove_tcp(&mut self, id: TcpId) -> Option<TcpSocket> {
        let held = &mut *self.held;
        let (socket, cancel) = held.tcp.remove(id)?;
        if let Some(entry) = cancel {
            held.push(entry);
        }
        held.ready.retain(|completion| !completion.is_of_tcp(id));
        Some(socket)
    }

    pub(crate) fn wake_handle(&self) -> WakeHandle {
        self.held.wake.clone()
    }

    pub(crate) fn send(&mut self, token: u64, send: SendRun) {
        let completion = self.held.outbox.push(token, send);
        self.held.ready.extend(completion);
    }

    pub(crate) fn file(&mut self, token: u64, op: FileOp) {
        self.held.file(token, op);
    }

    pub(crate) fn next_completion(&mut self) -> Option<Completion> {
        self.held.ready.pop_front()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.held.outbox.len() + self.held.files + self.held.threads.in_flight()
    }

    pub(crate) fn load(&mut self) -> DriverLoad {
        DriverLoad {
            in_flight: self.in_flight(),
            backlog: self.held.backlog.len(),
            overflows: self.held.overflows,
        }
    }

    pub(crate) fn trim(&mut self) {
        self.held.pool.trim();
        let held = &mut *self.held;
        held.registration.drop_stale(&held.ring, &held.pool);
    }

    /// Whether file operations use registered memory, and why not (all) where they do not.
    pub(crate) fn registered_buffers(&self) -> crate::Availability {
        self.held.registration.availability()
    }

    pub(crate) fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let held = &mut *self.held;
        let deadline = Deadline::after(timeout);
        loop {
            held.prepare()?;
            held.threads.take_done(&mut held.ready);
            let left = if held.ready.is_empty() {
                deadline.left()
            } else {
                Some(Duration::ZERO)
            };
            let patience = held.threads.patience();
            held.enter(left.into_iter().chain(patience).min())?;
            held.threads.grow();
            held.reap();
            if let Some(error) = held.fatal.take() {
                return Err(error);
            }
            // Each message of one destination starts when the one before is done, which it usually
            // is at once.
            let more = held.outbox.has_runnable();
            if !more && (!held.ready.is_empty() || left == Some(Duration::ZERO)) {
                return Ok(());
            }
        }
    }
}

impl Held {
    /// Fills the submission queue with what waits for it.
    fn prepare(&mut self) -> io::Result<()> {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                break;
            }
        }
        self.receiver.give_back();
        for id in self.receiver.take_unarmed() {
            let user_data = self.ops.insert(RingOp::Receive(id));
            let fd = Fd(self.sockets[id.index()].as_raw_fd());
            let entry = self.receiver.entry(fd).user_data(user_data);
            self.push(entry);
        }
        self.start_polls();
        for index in 0..self.sockets.len() {
            self.start_sends(SocketId(index as u32));
        }
        Ok(())
    }

    /// Entries of one socket stay in this order, in the queue as in the backlog: a poll that is
    /// cancelled before it is submitted is cancelled behind it.
    fn start_polls(&mut self) {
        while let Some(change) = self.tcp.next_change(|id| self.ops.insert(RingOp::Poll(id))) {
            for entry in change.cancel.into_iter().chain([change.entry]) {
                self.push(entry);
            }
        }
    }

    fn start_sends(&mut self, id: SocketId) {
        while self.has_room() {
            let Some(piece) = self.outbox.next(id) else {
                return;
            };
            let socket = &self.sockets[id.index()];
            let mut message = self.spare_messages.pop().unwrap_or_else(KernelMessage::new);
            let letter = self.outbox.letter(&piece);
            match message.fill(socket, &letter) {
                Ok(header) => {
                    // Without MSG_DONTWAIT the ring waits for room in a full socket by itself.
                    let entry = opcode::SendMsg::new(Fd(socket.as_raw_fd()), header).build();
                    let user_data = self.ops.insert(RingOp::Send { piece, message });
                    self.push(entry.user_data(user_data));
                }
                Err(error) => {
                    self.spare_messages.push(message);
                    self.ready.extend(self.outbox.settle(piece, Err(error)));
                }
            }
        }
    }

    fn file(&mut self, token: u64, op: FileOp) {
        let mut file = FileInFlight::new(token, op);
        match file.entry(
            &self.ring,
            self.has_truncate,
            &self.pool,
            &mut self.registration,
        ) {
            Some(entry) => {
                let entry = entry.flags(file.flags());
                let user_data = self.ops.insert(RingOp::File(file));
                self.files += 1;
                self.push(entry.user_data(user_data));
            }
            None => {
                let completion = self.threads.push(token, file.into_op());
                self.ready.extend(completion);
            }
        }
    }

    fn arm_wake(&mut self) {
        let user_data = self.ops.insert(RingOp::Wake);
        let buffer = (&raw mut *self.wake_count).cast();
        let entry =
            opcode::Read::new(Fd(self.wake.raw_fd()), buffer, size_of::<u64>() as u32).build();
        self.push(entry.user_data(user_data));
    }

    fn has_room(&mut self) -> bool {
        if self.ring.submission().is_full() {
            // Whatever it says, the queue tells whether there is room now.
            let _ = self.ring.submit();
        }
        !self.ring.submission().is_full()
    }

    /// Queues an entry; its memory is already in `ops`.
    fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.has_room() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the one rule of this module: everything an entry points to is owned by an
        // operation in `ops`, by the outbox job of its piece, or by `Held` itself, none of which is
        // moved in memory, changed or freed before the operation's last completion. Descriptors
        // stay open as long (`Arc` in the operation, or `sockets`).
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Submits, and waits for a completion at most `left`.
    fn enter(&mut self, left: Option<Duration>) -> io::Result<()> {
        let left = if self.ring.completion().is_empty() {
            left
        } else {
            Some(Duration::ZERO)
        };
        let result = match left {
            None if self.backlog.is_empty() => self.ring.submit_and_wait(1),
            // Nothing to submit or to run, and nothing to wait for.
            Some(Duration::ZERO) if self.is_idle() => return Ok(()),
            Some(left) if !left.is_zero() && self.backlog.is_empty() => {
                let time = Timespec::from(left);
                self.ring
                    .submitter()
                    .submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
            // Runs the deferred work too when the TASKRUN flag is up. With a backlog nothing may be
            // waited for: its entries are not with the kernel yet.
            None | Some(_) => self.ring.submit(),
        };
        self.overflows += u64::from(self.ring.submission().cq_overflow());
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // ETIME: the wait is over. EINTR: a signal. EBUSY: completions must be reaped
                // first. EAGAIN: no memory for a request just now. All are handled by the caller's
                // next turn.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn is_idle(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
    }

    /// Takes every completion off the ring and queues what the user is to see of them.
    fn reap(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else {
                return;
            };
            self.complete(&entry);
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) {
        let user_data = entry.user_data();
        if let Some(&mut RingOp::Receive(id)) = self.ops.get_mut(user_data) {
            if !cqueue::more(entry.flags()) {
                self.ops.remove(user_data);
            }
            self.ready
                .extend(Completion::of_failed_receive(id, -entry.result()));
            match self.receiver.complete(id, entry) {
                Ok(datagrams) => self.ready.extend(datagrams.map(Completion::Received)),
                Err(error) => self.fatal = Some(error),
            }
            return;
        }
        if let Some(&mut RingOp::Poll(id)) = self.ops.get_mut(user_data) {
            if !cqueue::more(entry.flags()) {
                self.ops.remove(user_data);
            }
            if let Some(told) = self.tcp.complete(id, user_data, entry) {
                self.ready.push_back(told.completion);
                told.cancel.into_iter().for_each(|entry| self.push(entry));
            }
            return;
        }
        let errno = -entry.result();
        let result =
            usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(errno));
        match self.ops.remove(user_data) {
            Some(RingOp::Send { piece, message }) => {
                self.spare_messages.push(message);
                match errno {
                    libc::EINTR => self.outbox.put_back(piece),
                    _ => self.ready.extend(self.outbox.settle(piece, result)),
                }
            }
            Some(RingOp::File(file)) => {
                self.files -= 1;
                match file.finish(result) {
                    Ok(completion) => self.ready.push_back(completion),
                    Err(Again::OnRing(token, op)) => self.file(token, op),
                    Err(Again::ByThread(token, op)) => {
                        let completion = self.threads.push(token, op);
                        self.ready.extend(completion);
                    }
                }
            }
            Some(RingOp::Wake) => {
                let asked = self.wake.seen();
                self.threads.take_done(&mut self.ready);
                self.ready.extend(asked.then_some(Completion::Woken));
                self.arm_wake();
            }
            // Completions of cancel requests, which carry no operation.
            Some(RingOp::Receive(_) | RingOp::Poll(_)) | None => {}
        }
    }

    /// Cancels everything and waits until the kernel has let go of every operation. `false`: it did
    /// not in time.
    fn quiesce(&mut self) -> bool {
        // Never submitted, so never seen by the kernel.
        for entry in std::mem::take(&mut self.backlog) {
            self.ops.remove(entry.get_user_data());
        }
        let deadline = Deadline::after(Some(DROP_WAIT_MAX));
        loop {
            let _ = self.ring.submit();
            // Also drops operations that a cancelled one lets start. ENOENT: there was none to
            // cancel.
            let now = Some(Timespec::from(Duration::ZERO));
            let _ = self
                .ring
                .submitter()
                .register_sync_cancel(now, CancelBuilder::any());
            let time = Timespec::from(Duration::from_millis(1));
            let _ = self
                .ring
                .submitter()
                .submit_with_args(1, &SubmitArgs::new().timespec(&time));
            while let Some(entry) = self.ring.completion().next() {
                if !cqueue::more(entry.flags()) {
                    // A descriptor that was opened after all is closed by dropping its result.
                    if let Some(RingOp::File(file)) = self.ops.remove(entry.user_data()) {
                        file.abandon(entry.result());
                    }
                }
            }
            if self.ops.is_empty() {
                return true;
            }
            if deadline.left() == Some(Duration::ZERO) {
                return false;
            }
        }
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        // Of these the kernel holds nothing; what was opened for nobody is closed, come what may.
        self.held.threads.abandon();
        self.held.ready.clear();
        if self.held.quiesce() {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.held) };
        }
        // Otherwise the kernel may still write: the memory and the ring stay until the process
        // ends.
    }
}

impl fmt::Debug for UringDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringDriver")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
