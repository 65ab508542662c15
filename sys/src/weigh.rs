//! Heap bytes by thread: an allocator that counts, so that what a piece of code keeps can be told
//! from before and after.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

thread_local! {
    /// Allocated minus freed by this thread. What another thread frees makes it wrong by that; who
    /// compares two readings around code that keeps to its thread gets what the code kept.
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

/// Counts what an allocator gives and takes back: one addition to a number of the thread each time.
pub struct Weighed<A>(pub A);

// SAFETY: every call goes to the inner allocator with its arguments unchanged; counting touches no
// memory of it.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Weighed<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as i64);
        // SAFETY: the caller's promises are those of the inner allocator.
        unsafe { self.0.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as i64);
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        add(-(layout.size() as i64));
        // SAFETY: as above; the memory came from the inner allocator.
        unsafe { self.0.dealloc(memory, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        add(new_bytes as i64 - layout.size() as i64);
        // SAFETY: as above; the memory came from the inner allocator.
        unsafe { self.0.realloc(memory, layout, new_bytes) }
    }
}

/// Adds to this thread's count what is kept elsewhere on its behalf (negative: no longer).
#[inline]
pub fn add(bytes: i64) {
    LIVE_BYTES.with(|live| live.set(live.get().wrapping_add(bytes)));
}

/// This thread's count; only differences mean something. It stays 0 where [`Weighed`] is not the
/// global allocator.
#[inline]
pub fn live_bytes() -> i64 {
    LIVE_BYTES.with(Cell::get)
}

/// Runs `work` without counting what it allocates and frees.
#[inline]
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = live_bytes();
    let done = work();
    LIVE_BYTES.with(|live| live.set(before));
    done
}

/// Whether this process counts at all.
pub fn is_counting() -> bool {
    let before = live_bytes();
    let probe = std::hint::black_box(Box::new([0u8; 64]));
    let counted = live_bytes() != before;
    drop(probe);
    counted
}

/// Gives free memory of this thread's heap, and of the C library's, back to the kernel.
/// Milliseconds: not in a hurry.
pub fn give_back() {
    #[cfg(feature = "mimalloc")]
    {
        use libmimalloc_sys as _;
        unsafe extern "C" {
            fn mi_collect(force: bool);
        }
        // SAFETY: mimalloc's documented way to free unused pages of the calling thread; no
        // allocation is touched.
        unsafe { mi_collect(true) };
    }
    // BoringSSL allocates with the C library, whose arenas keep what was freed between two things
    // that live on.
    #[cfg(target_env = "gnu")]
    // SAFETY: any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_seen_by_its_thread_alone() {
        let before = live_bytes();
        add(1000);
        assert_eq!(live_bytes() - before, 1000);
        std::thread::spawn(|| add(1)).join().unwrap();
        assert_eq!(live_bytes() - before, 1000);
        assert_eq!(uncounted(|| add(5)), ());
        assert_eq!(live_bytes() - before, 1000);
    }

    #[test]
    fn each_way_to_allocate_is_counted_and_comes_to_nothing_in_the_end() {
        let allocator = Weighed(std::alloc::System);
        let layout = Layout::from_size_align(100, 8).unwrap();
        let grown = Layout::from_size_align(300, 8).unwrap();
        let before = live_bytes();
        // SAFETY: sizes are not zero; each block is freed once, with the layout it has by then.
        unsafe {
            let first = allocator.alloc(layout);
            let second = allocator.alloc_zeroed(layout);
            assert_eq!(live_bytes() - before, 200);
            let first = allocator.realloc(first, layout, grown.size());
            assert_eq!(live_bytes() - before, 400);
            allocator.dealloc(first, grown);
            allocator.dealloc(second, layout);
        }
        assert_eq!(live_bytes(), before);
    }
}
