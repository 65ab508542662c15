//! The pool's buffers in the ring's table of registered memory, each entered at its first use.

use std::io;

use io_uring::IoUring;
use nix::sys::resource::{Resource, getrlimit};

use crate::availability::Availability;
use crate::pool::Pool;

/// IORING_MAX_REG_BUFFERS of the kernel.
const REGISTERED_MAX: usize = 1 << 14;

/// Part of RLIMIT_MEMLOCK one ring may pin. The kernel counts per user, not per process, and counts
/// the rings themselves too (since 6.14): a daemon that took all of Debian's 8 MiB would leave the
/// same user's next command without io_uring. The free list hands out the same few buffers again
/// and again, so a small part serves most operations.
const MEMLOCK_SHARE: u64 = 8;

/// Bit of CAP_IPC_LOCK in a capability set; who has it is not counted.
const CAP_IPC_LOCK: u32 = 14;

/// Which buffers of the pool are registered.
pub(super) struct Registration {
    /// Per buffer the epoch whose pages the kernel pinned. Empty: there is no table.
    pinned: Vec<Option<u32>>,
    /// Most buffers to register.
    budget: usize,
    /// Why no (more) buffers are registered.
    refused: Option<String>,
}

impl Registration {
    /// An empty table for the pool. It pins nothing, so that memory becomes resident only with use.
    pub fn new(ring: &IoUring, pool: &Pool) -> Registration {
        let count = pool.capacity().min(REGISTERED_MAX);
        match ring.submitter().register_buffers_sparse(count as u32) {
            Ok(()) => Registration {
                pinned: vec![None; count],
                budget: budget(),
                refused: None,
            },
            Err(error) => Registration {
                pinned: Vec::new(),
                budget: 0,
                refused: Some(explain(&error)),
            },
        }
    }

    /// The table entry of pool buffer `index`, which the caller holds; registers it when that was
    /// not done. `None`: use the plain operation.
    pub fn entry_of(&mut self, ring: &IoUring, pool: &Pool, index: u32) -> Option<u16> {
        let pinned = *self.pinned.get(index as usize)?;
        let epoch = pool.epoch(index);
        if pinned == Some(epoch) {
            return Some(index as u16);
        }
        if self.refused.is_some() {
            return None;
        }
        // Replacing a stale entry pins no more than before.
        if pinned.is_none() && self.pinned() >= self.budget {
            let share =
                format!("one ring takes at most 1/{MEMLOCK_SHARE} of RLIMIT_MEMLOCK (ulimit -l)");
            self.refused = Some(share);
            return None;
        }
        // SAFETY: the buffer is mapped as long as the pool, which the driver holds longer than the
        // ring. Pages that are trimmed later change the epoch, and this entry is not used again.
        let result = unsafe {
            ring.submitter()
                .register_buffers_update(index, &[pool.iovec(index)], None)
        };
        match result {
            Ok(()) => {
                self.pinned[index as usize] = Some(epoch);
                Some(index as u16)
            }
            Err(error) => {
                self.refused = Some(explain(&error));
                None
            }
        }
    }

    /// Lets go of the pages of buffers that were trimmed since they were registered.
    pub fn drop_stale(&mut self, ring: &IoUring, pool: &Pool) {
        let nothing = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        for (index, pinned) in self.pinned.iter_mut().enumerate() {
            if pinned.is_some_and(|epoch| epoch != pool.epoch(index as u32)) {
                // SAFETY: a null entry names no memory. Operations in flight keep what they use;
                // there are none on this buffer, because a trimmed buffer was free.
                let _ = unsafe {
                    ring.submitter()
                        .register_buffers_update(index as u32, &[nothing], None)
                };
                *pinned = None;
            }
        }
    }

    /// Whether all, or why not all.
    pub fn availability(&self) -> Availability {
        match &self.refused {
            None => Availability::Yes,
            Some(reason) => Availability::No(format!(
                "{reason}; {} buffers are registered",
                self.pinned()
            )),
        }
    }

    /// Number of buffers registered.
    pub fn pinned(&self) -> usize {
        self.pinned.iter().flatten().count()
    }
}

/// How many buffers a ring of this process may pin.
fn budget() -> usize {
    let limit = match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((libc::RLIM_INFINITY, _)) | Err(_) => return usize::MAX,
        Ok((limit, _)) => limit,
    };
    if has_ipc_lock() {
        usize::MAX
    } else {
        (limit / MEMLOCK_SHARE) as usize / Pool::BUFFER_BYTES
    }
}

fn has_ipc_lock() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    set.is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1)
}

fn explain(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::ENOMEM | libc::EPERM) => {
            " - RLIMIT_MEMLOCK is used up (ulimit -l, or CAP_IPC_LOCK)"
        }
        Some(libc::EINVAL) => " - needs Linux 5.19",
        _ => "",
    };
    format!("registering buffers: {error}{hint}")
}
