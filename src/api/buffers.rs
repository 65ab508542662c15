//! Buffers that are used again: taken by size, given back by being dropped, freed when nobody
//! needs them or memory is short.
#![deny(missing_docs)]

mod pressure;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::engine;
pub use pressure::MemoryPressure;

/// Sizes of buffers: each power of two from the smallest to the largest.
const CLASSES: usize =
    (BufferPool::LARGEST_BYTES.ilog2() - BufferPool::SMALLEST_BYTES.ilog2() + 1) as usize;

/// Why there is no buffer.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BufferPoolError {
    /// No pool has buffers of that size.
    #[error(
        "{bytes} bytes are more than a buffer of a pool holds ({}); take several",
        BufferPool::LARGEST_BYTES
    )]
    TooLarge {
        /// What was asked for.
        bytes: usize,
    },
    /// What is in use leaves too little of the pool's bound. It can be had when others came back,
    /// unless the bound itself is below it.
    #[error(
        "a buffer of {class_bytes} bytes does not fit: {in_use_bytes} of at most {most_bytes} bytes \
         of this pool are in use; drop buffers (and the `Bytes` made of them) first, or make the \
         pool larger"
    )]
    AtBound {
        /// Size of the buffer that was to be taken.
        class_bytes: usize,
        /// Bytes of buffers that are out.
        in_use_bytes: usize,
        /// The pool's bound.
        most_bytes: usize,
    },
}

/// What a pool did so far, and holds now. Bytes are those of whole buffers, whose sizes are powers
/// of two.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct BufferPoolStatistics {
    /// Buffers that were taken: those [reused](Self::reused), and those
    /// [allocated](Self::allocated).
    pub taken: u64,
    /// Buffers that came back.
    pub returned: u64,
    /// Buffers taken that had been used before.
    pub reused: u64,
    /// Buffers taken whose memory is new.
    pub allocated: u64,
    /// Bytes kept for whoever takes the next buffers.
    pub idle_bytes: usize,
    /// Bytes of buffers that are out, frozen ones included.
    pub in_use_bytes: usize,
    /// The most bytes that were in use at any time.
    pub high_water_bytes: usize,
    /// Bytes that were freed: unused for long, in a time of pressure, or for a buffer of another
    /// size.
    pub trimmed_bytes: u64,
    /// How short memory was when it was last looked at, and which source said so.
    pub pressure: MemoryPressure,
}

/// Buffers that are used again, in size classes, and bounded in bytes.
///
/// A buffer goes back to its pool when it is dropped, on whatever thread. The pool has no thread
/// and no timer: what there is to do beside, it does within [`take`](Self::take) and
/// [`trim`](Self::trim). Every [`TRIM_INTERVAL`](Self::TRIM_INTERVAL) it frees the buffers that
/// nobody took within that time. Every [`LOOK_INTERVAL`](Self::LOOK_INTERVAL) it looks whether
/// memory is [short](MemoryPressure::is_high). While it is, the pool keeps nothing that is idle. A
/// pool that nobody calls keeps what it has: a program that goes quiet calls `trim`.
///
/// Freed memory goes to the process's allocator. In a time of pressure, and by `trim`, the
/// allocator of C is told to give what it has free to the system (malloc_trim(3)), which takes some
/// milliseconds.
///
/// Clones are handles of the same pool. Buffers that are out when the last handle is dropped are
/// freed when they come back.
///
/// ```
/// use landro::BufferPool;
///
/// let pool = BufferPool::new(8 << 20);
/// let mut buffer = pool.take(10_000)?;
/// assert_eq!(buffer.len(), 10_000);
/// buffer[..5].copy_from_slice(b"hello");
///
/// // As `Bytes`, without a copy; the last clone gives the buffer back.
/// let bytes = buffer.freeze();
/// let clone = bytes.clone();
/// drop(bytes);
/// assert_eq!(&clone[..5], b"hello");
/// assert_eq!(pool.statistics().returned, 0);
/// drop(clone);
///
/// let again = pool.take(16_000)?;
/// let statistics = pool.statistics();
/// assert_eq!((statistics.taken, statistics.reused), (2, 1));
/// assert_eq!(statistics.in_use_bytes, 16_384);
/// # drop(again);
/// # Ok::<(), landro::BufferPoolError>(())
/// ```
#[derive(Clone)]
pub struct BufferPool {
    depot: Arc<Depot>,
}

/// What the handles of a pool share, and buffers find their way back to.
struct Depot {
    most_bytes: usize,
    /// Below it is what tells of pressure: `/`, if this is no test.
    root: PathBuf,
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    shelves: [Shelf; CLASSES],
    statistics: BufferPoolStatistics,
    is_pressed: bool,
    /// When unused buffers were freed last; the pool's first call begins with that.
    trimmed_at: Option<Instant>,
    looked_at: Option<Instant>,
}

/// Idle buffers of one size.
#[derive(Default)]
struct Shelf {
    /// Taken from the end: what was used last is still in cache.
    idle: Vec<Vec<u8>>,
    /// The fewest that were idle since the last trim: so many at the front were not used since.
    unused: usize,
}

impl Shelf {
    fn pop(&mut self) -> Option<Vec<u8>> {
        let memory = self.idle.pop();
        self.unused = self.unused.min(self.idle.len());
        memory
    }
}

impl Stock {
    /// Takes `count` buffers of a shelf out of the pool, those first that were unused for longest.
    fn take_out(&mut self, class: usize, count: usize) -> Vec<Vec<u8>> {
        let shelf = &mut self.shelves[class];
        let out: Vec<_> = shelf.idle.drain(..count).collect();
        shelf.unused = shelf.unused.saturating_sub(count);
        let bytes = count * class_bytes(class);
        self.statistics.idle_bytes -= bytes;
        self.statistics.trimmed_bytes += bytes as u64;
        out
    }

    /// What nobody used since this was last called.
    fn take_out_unused(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.trimmed_at = Some(now);
        let mut out = Vec::new();
        for class in 0..CLASSES {
            out.append(&mut self.take_out(class, self.shelves[class].unused));
            self.shelves[class].unused = self.shelves[class].idle.len();
        }
        out
    }

    fn take_out_all(&mut self) -> Vec<Vec<u8>> {
        (0..CLASSES)
            .flat_map(|class| self.take_out(class, self.shelves[class].idle.len()))
            .collect()
    }

    /// Makes room for `wanted_bytes` by what is idle on other shelves, large buffers first: they
    /// are the fewest to be allocated anew.
    fn make_room(&mut self, wanted_bytes: usize, most_bytes: usize) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for class in (0..CLASSES).rev() {
            let held = self.statistics.idle_bytes + self.statistics.in_use_bytes;
            let over = (held + wanted_bytes).saturating_sub(most_bytes);
            let count = over.div_ceil(class_bytes(class));
            out.append(&mut self.take_out(class, count.min(self.shelves[class].idle.len())));
        }
        out
    }
}

/// Whether something that is done every so often is to be done.
fn is_due(last: Option<Instant>, interval: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= interval)
}

fn class_bytes(class: usize) -> usize {
    BufferPool::SMALLEST_BYTES << class
}

/// The smallest class that holds so many bytes.
fn class_of(bytes: usize) -> Option<usize> {
    (0..CLASSES).find(|&class| class_bytes(class) >= bytes)
}

fn sum_of_bytes(buffers: &[Vec<u8>]) -> usize {
    buffers.iter().map(Vec::len).sum()
}

impl Depot {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        // Every critical section leaves the stock whole, so a poisoned lock is still usable.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, memory: Vec<u8>) {
        let mut stock = self.stock();
        let bytes = memory.len();
        stock.statistics.returned += 1;
        stock.statistics.in_use_bytes -= bytes;
        if stock.is_pressed {
            stock.statistics.trimmed_bytes += bytes as u64;
            // Freeing may take the kernel long, and needs no lock.
            drop(stock);
            drop(memory);
        } else if let Some(class) = class_of(bytes) {
            stock.statistics.idle_bytes += bytes;
            stock.shelves[class].idle.push(memory);
        }
    }

    /// Looks at the pressure if that is due, and frees all that is idle where it is high: so many
    /// bytes.
    fn look(&self, now: Instant) -> usize {
        let is_due = {
            let mut stock = self.stock();
            let is_due = is_due(stock.looked_at, BufferPool::LOOK_INTERVAL, now);
            if is_due {
                stock.looked_at = Some(now);
            }
            is_due
        };
        if !is_due {
            return 0;
        }
        // Others go on meanwhile, and do not look.
        let pressure = MemoryPressure::look(&self.root);
        let freed = {
            let mut stock = self.stock();
            stock.statistics.pressure = pressure;
            stock.is_pressed = pressure.is_high();
            if stock.is_pressed {
                stock.take_out_all()
            } else {
                Vec::new()
            }
        };
        give_back(freed)
    }
}

/// Frees buffers, and has the allocator give to the system what it has free: so many bytes.
fn give_back(buffers: Vec<Vec<u8>>) -> usize {
    let bytes = sum_of_bytes(&buffers);
    drop(buffers);
    if bytes > 0 {
        landro_sys::weigh::give_back();
    }
    bytes
}

impl BufferPool {
    /// The smallest buffer: a page of memory.
    pub const SMALLEST_BYTES: usize = 4 << 10;

    /// The largest buffer. What is larger is moved in pieces: no more is gained by it.
    pub const LARGEST_BYTES: usize = 16 << 20;

    /// For how long a buffer has to be of no use before it is freed: longer than a pause between
    /// two transfers, and nothing that an operator waits for.
    pub const TRIM_INTERVAL: Duration = Duration::from_secs(10);

    /// How often the pressure is looked at, at most: the kernel makes its averages anew every 2 s.
    pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);

    /// A pool whose buffers, idle ones included, are `most_bytes` together at most. Nothing is
    /// allocated yet.
    pub fn new(most_bytes: usize) -> BufferPool {
        BufferPool::below(most_bytes, Path::new("/"))
    }

    fn below(most_bytes: usize, root: &Path) -> BufferPool {
        BufferPool {
            depot: Arc::new(Depot {
                most_bytes,
                root: root.to_path_buf(),
                stock: Mutex::default(),
            }),
        }
    }

    /// Takes a buffer of `bytes` bytes, which counts as the power of two above. What is in it is
    /// zeros, or what its last user left.
    ///
    /// # Errors
    /// [`BufferPoolError::TooLarge`] above [`LARGEST_BYTES`](Self::LARGEST_BYTES);
    /// [`BufferPoolError::AtBound`] where too much is in use.
    pub fn take(&self, bytes: usize) -> Result<PooledBuffer, BufferPoolError> {
        self.take_at(bytes, engine::now())
    }

    fn take_at(&self, bytes: usize, now: Instant) -> Result<PooledBuffer, BufferPoolError> {
        let class = class_of(bytes).ok_or(BufferPoolError::TooLarge { bytes })?;
        let class_bytes = class_bytes(class);
        self.depot.look(now);
        let most_bytes = self.depot.most_bytes;
        let mut stock = self.depot.stock();
        let in_use_bytes = stock.statistics.in_use_bytes;
        if most_bytes.saturating_sub(in_use_bytes) < class_bytes {
            return Err(BufferPoolError::AtBound {
                class_bytes,
                in_use_bytes,
                most_bytes,
            });
        }
        let reused = stock.shelves[class].pop();
        let mut freed = Vec::new();
        if reused.is_some() {
            stock.statistics.reused += 1;
            stock.statistics.idle_bytes -= class_bytes;
        } else {
            stock.statistics.allocated += 1;
            freed = stock.make_room(class_bytes, most_bytes);
        }
        if is_due(stock.trimmed_at, BufferPool::TRIM_INTERVAL, now) {
            freed.append(&mut stock.take_out_unused(now));
        }
        let statistics = &mut stock.statistics;
        statistics.taken += 1;
        statistics.in_use_bytes += class_bytes;
        statistics.high_water_bytes = statistics.high_water_bytes.max(statistics.in_use_bytes);
        // Memory is freed and allocated without the lock: either may take the kernel long.
        drop(stock);
        drop(freed);
        let memory = reused.unwrap_or_else(|| vec![0; class_bytes]);
        Ok(PooledBuffer {
            memory,
            len: bytes,
            depot: Arc::downgrade(&self.depot),
        })
    }

    /// Frees the buffers that were not used since unused ones were freed last (twice in a row: all
    /// that are idle), and has the allocator give free memory to the system. Looks at the pressure,
    /// too, if that is due. Says how many bytes it freed.
    pub fn trim(&self) -> usize {
        self.trim_at(engine::now())
    }

    fn trim_at(&self, now: Instant) -> usize {
        let freed = self.depot.look(now);
        let unused = self.depot.stock().take_out_unused(now);
        freed + give_back(unused)
    }

    /// What the pool did and holds.
    pub fn statistics(&self) -> BufferPoolStatistics {
        self.depot.stock().statistics
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("most_bytes", &self.depot.most_bytes)
            .field("statistics", &self.statistics())
            .finish()
    }
}

/// A buffer of a [`BufferPool`], of the length that was asked for. It goes back when it is dropped.
pub struct PooledBuffer {
    /// All of a class's size.
    memory: Vec<u8>,
    /// Of it, what was asked for.
    len: usize,
    depot: Weak<Depot>,
}

impl PooledBuffer {
    /// The buffer as [`Bytes`], without a copy. It goes back when the last clone and slice of them
    /// is dropped; the smallest slice keeps all of it.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(depot) = self.depot.upgrade() {
            depot.put(std::mem::take(&mut self.memory));
        }
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer")
            .field("len", &self.len)
            .field("class_bytes", &self.memory.len())
            .finish()
    }
}
