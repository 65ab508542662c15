//! One anonymous mapping: page-aligned, zeroed, not resident until touched.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// An owned anonymous mapping. Hands out raw pointers only: who may touch which part is the user's
/// matter.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: the mapping is plain memory, valid from every thread until `drop`; it has no interior
// state.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives only an address; dereferencing it is unsafe and argued for where it
// happens.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len_bytes` (rounded up to pages by the kernel) of zeroes.
    ///
    /// # Errors
    /// `InvalidInput` for 0 bytes; what mmap(2) says otherwise (`ENOMEM` under `RLIMIT_AS` or
    /// strict overcommit).
    pub fn new(len_bytes: usize) -> io::Result<Mapping> {
        let len = NonZeroUsize::new(len_bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe {
            mmap_anonymous(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                flags,
            )?
        };
        let mapping = Mapping {
            base: base.cast(),
            len_bytes,
        };
        // With transparent_hugepage=always the first touched byte would make 2 MiB resident; an
        // idle daemon counts single buffers. A kernel without THP answers EINVAL, which is as good.
        // SAFETY: the range is exactly our mapping; the advice changes no contents.
        let _ = unsafe { madvise(base, len_bytes, MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(mapping)
    }

    /// Address of byte `offset`.
    ///
    /// # Panics
    /// When `offset` is past the end.
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.len_bytes);
        // SAFETY: `offset` is within (or one past) the mapping, checked above.
        unsafe { self.base.add(offset) }
    }

    /// Length asked for, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Gives the pages of a range back to the kernel; the range reads as zeroes afterwards.
    ///
    /// # Safety
    /// Nobody may hold a reference into the range, nor may the kernel be reading or writing it.
    pub unsafe fn discard(&self, offset: usize, len_bytes: usize) {
        assert!(
            offset
                .checked_add(len_bytes)
                .is_some_and(|end| end <= self.len_bytes)
        );
        // SAFETY: inside the mapping (checked); unused by anyone (the caller's promise).
        let _ = unsafe { madvise(self.at(offset).cast(), len_bytes, MmapAdvise::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `new`, unmapped exactly once,
        // here.
        let _ = unsafe { munmap(self.base.cast(), self.len_bytes) };
    }
}
