//! A pool of equal 64 KiB buffers whose filled parts split off as reference-counted `Bytes`,
//! without copying.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::memory::Mapping;

#[cfg(test)]
mod tests;

/// One anonymous memory arena of equal buffers with a last-in-first-out free list (the most
/// recently freed buffer is still in cache). Memory becomes resident only when a buffer is first
/// written.
///
/// Cloning gives another handle to the same arena. The arena lives until the last handle,
/// [`Buffer`] and split-off `Bytes` are gone.
#[derive(Clone)]
pub struct Pool {
    arena: Arc<Arena>,
}

struct Arena {
    memory: Mapping,
    /// Per buffer: how often its pages were given back. A ring that registered the buffer pinned
    /// the pages of that time; after a trim it would write into pages nobody sees, so it compares
    /// epochs first.
    epochs: Box<[AtomicU32]>,
    free: Mutex<FreeList>,
}

struct FreeList {
    /// Freed and probably resident; taken from the end.
    warm: Vec<u32>,
    /// Never used or trimmed: not resident.
    cold: Vec<u32>,
}

impl Arena {
    fn free(&self) -> MutexGuard<'_, FreeList> {
        // Every critical section leaves the lists whole, so a poisoned lock is still usable.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Size of every buffer, in bytes.
    pub const BUFFER_BYTES: usize = 64 * 1024;

    /// Reserves address space for `max_buffers` buffers; nothing is resident yet.
    ///
    /// # Errors
    /// `InvalidInput` for 0 or absurdly many buffers; what mmap(2) says otherwise.
    pub fn new(max_buffers: usize) -> io::Result<Pool> {
        let count = u32::try_from(max_buffers).map_err(|_| io::ErrorKind::InvalidInput)?;
        let len_bytes = max_buffers
            .checked_mul(Pool::BUFFER_BYTES)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let memory = Mapping::new(len_bytes)?;
        let epochs = (0..count).map(|_| AtomicU32::new(0)).collect();
        let free = FreeList {
            warm: Vec::with_capacity(max_buffers),
            cold: (0..count).rev().collect(),
        };
        Ok(Pool {
            arena: Arc::new(Arena {
                memory,
                epochs,
                free: Mutex::new(free),
            }),
        })
    }

    /// Takes a buffer, the most recently freed one first. `None`: all are in use, wait until one
    /// comes back.
    pub fn take(&self) -> Option<Buffer> {
        let index = {
            let mut free = self.arena.free();
            free.warm.pop().or_else(|| free.cold.pop())?
        };
        let claim = Arc::new(Claim {
            arena: Arc::clone(&self.arena),
            index,
        });
        Some(Buffer {
            claim,
            frozen: 0,
            filled: 0,
        })
    }

    /// Buffers out at the moment, whether writable or only kept alive by `Bytes`.
    pub fn in_use(&self) -> usize {
        let free = self.arena.free();
        self.capacity() - free.warm.len() - free.cold.len()
    }

    /// Number of buffers.
    pub fn capacity(&self) -> usize {
        self.arena.epochs.len()
    }

    /// Gives the memory of all free buffers back to the kernel (MADV_DONTNEED); buffers in use are
    /// untouched.
    ///
    /// A ring that has a buffer registered keeps its old pages pinned until
    /// [`crate::Driver::trim`].
    pub fn trim(&self) {
        // Taken out of both lists, these are ours alone while the (slow) system calls run unlocked.
        let mut warm = std::mem::take(&mut self.arena.free().warm);
        warm.sort_unstable();
        for run in warm.chunk_by(|a, b| a + 1 == *b) {
            for &index in run {
                self.arena.epochs[index as usize].fetch_add(1, Ordering::Release);
            }
            let offset = run[0] as usize * Pool::BUFFER_BYTES;
            // SAFETY: the buffers are on no list and have no claim, so no reference and no
            // operation uses them.
            unsafe {
                self.arena
                    .memory
                    .discard(offset, run.len() * Pool::BUFFER_BYTES)
            };
        }
        self.arena.free().cold.append(&mut warm);
    }

    /// Which buffer `bytes` lies in, if it is memory of this pool.
    pub(crate) fn index_of(&self, bytes: &[u8]) -> Option<u32> {
        let base = self.arena.memory.at(0).as_ptr() as usize;
        let offset = (bytes.as_ptr() as usize).checked_sub(base)?;
        let inside = offset.checked_add(bytes.len())? <= self.arena.memory.len_bytes();
        (inside && !bytes.is_empty()).then_some((offset / Pool::BUFFER_BYTES) as u32)
    }

    /// The whole buffer `index` as the kernel is told of it when it is registered.
    pub(crate) fn iovec(&self, index: u32) -> libc::iovec {
        let base = self.arena.memory.at(index as usize * Pool::BUFFER_BYTES);
        libc::iovec {
            iov_base: base.as_ptr().cast(),
            iov_len: Pool::BUFFER_BYTES,
        }
    }

    /// How often buffer `index` was trimmed; constant while anyone holds a part of it.
    pub(crate) fn epoch(&self, index: u32) -> u32 {
        self.arena.epochs[index as usize].load(Ordering::Acquire)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("in_use", &self.in_use())
            .field("capacity", &self.capacity())
            .finish()
    }
}

/// The right to one buffer of the arena; the buffer is free again when the last `Arc` of it is
/// dropped.
struct Claim {
    arena: Arc<Arena>,
    index: u32,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.arena.free().warm.push(self.index);
    }
}

/// A unique writable buffer; what is already filled can be split off as `Bytes` while the rest
/// stays writable.
///
/// The memory returns to the pool when the `Buffer` and every `Bytes` split from it are dropped, on
/// any thread. Fresh buffers hold zeroes or whatever their last user wrote.
pub struct Buffer {
    claim: Arc<Claim>,
    /// Bytes before this were split off and are read-only, shared.
    frozen: usize,
    /// Bytes before this are filled. `frozen <= filled <= BUFFER_BYTES`.
    filled: usize,
}

impl Buffer {
    /// The unfilled rest.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let base = self
            .claim
            .arena
            .memory
            .at(self.claim.index as usize * Pool::BUFFER_BYTES + self.filled);
        // SAFETY: initialised (zeroed by the kernel) memory of our claim, kept alive by it. Parts
        // split off end at or before `filled`, so `&mut self` is the only way to these bytes.
        unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), self.spare_len()) }
    }

    /// Length of the unfilled rest, in bytes.
    pub fn spare_len(&self) -> usize {
        Pool::BUFFER_BYTES - self.filled
    }

    /// Says that the next `n` bytes of the spare part are now filled.
    ///
    /// # Panics
    /// When `n` is more than [`Buffer::spare_len`].
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.spare_len(), "advanced past the end of the buffer");
        self.filled += n;
    }

    /// Filled bytes not split off yet.
    pub fn filled(&self) -> &[u8] {
        let base = self
            .claim
            .arena
            .memory
            .at(self.claim.index as usize * Pool::BUFFER_BYTES + self.frozen);
        // SAFETY: as in `spare_mut`; writing to this range needs `&mut self` and cannot happen any
        // more.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), self.filled - self.frozen) }
    }

    /// Freezes what was filled since the last split. No copy; the `Bytes` share the buffer.
    pub fn split(&mut self) -> Bytes {
        let range = self.frozen..self.filled;
        self.frozen = self.filled;
        if range.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Part {
            claim: Arc::clone(&self.claim),
            range,
        })
    }

    /// Which buffer of its pool this is.
    pub(crate) fn index(&self) -> u32 {
        self.claim.index
    }

    /// Whether the buffer belongs to `pool` (and so to its registration).
    pub(crate) fn is_of(&self, pool: &Pool) -> bool {
        Arc::ptr_eq(&self.claim.arena, &pool.arena)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("frozen", &self.frozen)
            .field("filled", &self.filled)
            .finish()
    }
}

/// The owner behind split-off `Bytes`.
struct Part {
    claim: Arc<Claim>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        let offset = self.claim.index as usize * Pool::BUFFER_BYTES + self.range.start;
        // SAFETY: initialised memory kept alive by the claim; it was frozen by `Buffer::split`, so
        // nobody has or can get a mutable reference to it until every claim is gone.
        unsafe {
            std::slice::from_raw_parts(
                self.claim.arena.memory.at(offset).as_ptr(),
                self.range.len(),
            )
        }
    }
}
