//! Waking a driver from another thread: an eventfd, written at most once until the driver has seen
//! it. And what waits in accept(2).

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::SockRef;

/// Wakes one driver, from any thread; outlives the driver harmlessly. Wakes that the driver has not
/// seen yet coalesce into one [`crate::Completion::Woken`].
#[derive(Clone, Debug)]
pub struct WakeHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    event: EventFd,
    /// Set from the write until the driver takes note, so that a busy mailbox costs one system
    /// call, not thousands.
    pending: AtomicBool,
    /// Somebody outside asked, who is to be told [`crate::Completion::Woken`].
    asked: AtomicBool,
}

impl WakeHandle {
    /// `flags`: a ring wants a blocking eventfd (on an O_NONBLOCK one it answers EAGAIN instead of
    /// waiting).
    pub(crate) fn new(flags: EfdFlags) -> io::Result<WakeHandle> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | flags)?;
        Ok(WakeHandle {
            inner: Arc::new(Inner {
                event,
                pending: AtomicBool::new(false),
                asked: AtomicBool::new(false),
            }),
        })
    }

    /// Makes the driver's current or next `submit_and_wait` return with `Woken`.
    ///
    /// What was written to shared memory before is visible to the driver's thread once it has taken
    /// `Woken`.
    pub fn wake(&self) {
        self.inner.asked.store(true, Ordering::Release);
        self.nudge();
    }

    /// Wakes the driver for something of its own.
    pub(crate) fn nudge(&self) {
        if self.inner.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        // Never blocks: the counter holds 2^64 - 2 and `pending` lets it reach 1. Only EINTR can
        // happen.
        while self.inner.event.write(1) == Err(Errno::EINTR) {}
    }

    /// Notes that the wake was seen; later wakes write again. Call before the mailbox is drained,
    /// so that a message posted while it is being drained wakes again. True: somebody outside asked
    /// for it.
    pub(crate) fn seen(&self) -> bool {
        self.inner.pending.swap(false, Ordering::AcqRel);
        self.inner.asked.swap(false, Ordering::AcqRel)
    }

    /// Takes the count out of a non-blocking eventfd.
    pub(crate) fn drain(&self) {
        let _ = self.inner.event.read();
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.inner.event.as_raw_fd()
    }
}

/// Has a thread that waits in accept(2) for this listener come back with an error, and so every
/// later accept of it. Linux does so for TCP and for sockets among files; it takes no descriptor.
///
/// # Errors
/// What shutdown(2) says.
pub fn stop_accepting(listener: impl AsFd) -> io::Result<()> {
    SockRef::from(&listener).shutdown(Shutdown::Both)
}
