//! Files mapped to be read, whose pages the kernel alone touches: one that shrinks is fewer bytes
//! and not a SIGBUS.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::getpid;

#[cfg(test)]
mod tests;

/// A file, and its bytes as memory, which nobody but the kernel reads: a touch of a page behind the
/// end of a file that was cut off is SIGBUS, while process_vm_readv(2) answers EFAULT there.
#[derive(Debug)]
pub struct MappedFile {
    file: File,
    map: Option<Map>,
}

#[derive(Debug)]
struct Map {
    base: NonNull<std::ffi::c_void>,
    len_bytes: NonZeroUsize,
}

// SAFETY: the map is an address that this program never dereferences; the system calls that get it
// may be made by any thread.
unsafe impl Send for Map {}
// SAFETY: as above; nothing about a `Map` changes before it is dropped.
unsafe impl Sync for Map {}

impl MappedFile {
    /// Maps the first `len_bytes` of a file. Where the kernel does not map it (an empty file, a
    /// file system without mmap, RLIMIT_AS), all of it is read by pread(2).
    pub fn new(file: File, len_bytes: u64) -> MappedFile {
        let len = usize::try_from(len_bytes).ok().and_then(NonZeroUsize::new);
        let map = len.and_then(|len_bytes| {
            // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
            // MAP_SHARED and read only: nothing is reserved for it, however large it is.
            let base = unsafe {
                mmap(
                    None,
                    len_bytes,
                    ProtFlags::PROT_READ,
                    MapFlags::MAP_SHARED,
                    &file,
                    0,
                )
            };
            base.ok().map(|base| Map { base, len_bytes })
        });
        MappedFile { file, map }
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether there is a map, of which the bytes are taken.
    pub fn is_mapped(&self) -> bool {
        self.map.is_some()
    }

    /// Fills `buffer` with what is at `offset`, and says how much that is: less than asked for
    /// where the file ends. Waits as long as the disk does.
    ///
    /// # Errors
    /// What pread(2) says of the file: it is asked for all that the map did not give, so that what
    /// is only EFAULT there (the end of the file, an error of the disk) gets its name here, and so
    /// that a seccomp filter without process_vm_readv (EPERM, ENOSYS) costs nothing but that call.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = match &self.map {
            Some(map) => map.copy_out(offset, buffer),
            None => 0,
        };
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}

impl Map {
    /// Copies from the map until `buffer` is full, the map ends, or the kernel refuses.
    fn copy_out(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let mapped = usize::try_from(offset)
            .ok()
            .and_then(|offset| Some((offset, self.len_bytes.get().checked_sub(offset)?)));
        // What is behind the map is other memory of this process.
        let Some((offset, behind)) = mapped else {
            return 0;
        };
        let wanted = buffer.len().min(behind);
        let mut copied = 0;
        while copied < wanted {
            let from = RemoteIoVec {
                base: self.base.as_ptr() as usize + offset + copied,
                len: wanted - copied,
            };
            let mut to = [IoSliceMut::new(&mut buffer[copied..wanted])];
            // The number of this process is asked for each time: a fork has another.
            match process_vm_readv(getpid(), &mut to, &[from]) {
                // Less than all is where the next call is refused, or a signal came.
                Ok(bytes) if bytes > 0 => copied += bytes,
                Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        copied
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `new`, unmapped exactly once,
        // here; nobody has a reference into it.
        let _ = unsafe { munmap(self.base, self.len_bytes.get()) };
    }
}
