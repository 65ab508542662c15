//! The names of temporary files. They depend only on the final name, so that a rerun finds what a
//! crash left.

use std::ffi::CString;

use super::DiskError;
use crate::ids::{Name, TEMPORARY_PREFIX, is_reserved_path};
use crate::proto::errno::EINVAL;

/// Partial file of a resumable transfer.
pub fn part(name: &Name) -> CString {
    derived(name, "part")
}

/// Journal beside the partial file.
pub fn journal(name: &Name) -> CString {
    derived(name, "journal")
}

/// A complete file on its way to replace an existing one.
pub fn replacement(name: &Name) -> CString {
    derived(name, "new")
}

fn derived(name: &Name, suffix: &str) -> CString {
    // 64 bits of the name's digest: short enough beside any name, and a name of 255 bytes stays
    // possible.
    let digest = blake3::hash(name.as_bytes()).to_hex();
    CString::new(format!(
        "{TEMPORARY_PREFIX}{}.{suffix}",
        &digest.as_str()[..16]
    ))
    .expect("hex and letters hold no NUL")
}

/// Holds a path that somebody asked for against the names of unfinished files: neither they nor
/// what pretends to be one may be placed, read or listed.
///
/// # Errors
/// `RESERVED_NAME` when one of its components is one.
pub fn refuse_reserved(path: &[u8]) -> Result<(), DiskError> {
    if is_reserved_path(path) {
        Err(DiskError::RESERVED_NAME)
    } else {
        Ok(())
    }
}

/// A name or path for a system call.
///
/// # Errors
/// EINVAL when the bytes hold a NUL.
pub fn c_string(bytes: &[u8]) -> Result<CString, DiskError> {
    CString::new(bytes).map_err(|_| DiskError {
        call: "path",
        errno: EINVAL,
    })
}
