//! Extended attributes of open files.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

/// Longest value read: attributes of ours are shorter, and a longer one is not ours.
const VALUE_MAX_BYTES: usize = 256;

/// The value of an attribute, if there is one of that name.
pub(super) fn get(file: &OwnedFd, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0u8; VALUE_MAX_BYTES];
    let (start, len) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: `name` is NUL-terminated and the kernel writes at most `len` bytes at `start`, into
    // `value`, which lives past the call.
    let got = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), start, len) };
    match Errno::result(got) {
        Ok(bytes) => {
            value.truncate(bytes as usize);
            Ok(Some(value))
        }
        Err(Errno::ENODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn set(file: &OwnedFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    let (start, len) = (value.as_ptr().cast(), value.len());
    // SAFETY: `name` is NUL-terminated and the kernel reads `len` bytes at `start`, from `value`;
    // both live past the call.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), start, len, 0) };
    Ok(Errno::result(result).map(drop)?)
}

pub(super) fn remove(file: &OwnedFd, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated and lives past the call, which takes no other memory.
    let result = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
    Ok(Errno::result(result).map(drop)?)
}
