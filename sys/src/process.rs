//! What this process is and may: its user, and how many files it may have open.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The user file systems take this process for.
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Descriptors this process may have, and so one more than the highest number of one.
pub fn open_files_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

/// Whether a call failed for want of a descriptor: of this process, or of the whole host.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether this program was given rights that its caller has not (set-user-ID, capabilities): what
/// the caller's environment says is then not to be acted on.
pub fn has_more_rights_than_its_caller() -> bool {
    // SAFETY: getauxval(3) reads what the kernel left on the stack; any argument is allowed.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Raises the soft limit of open files to the hard one, and gives it. The soft one is 1,024 almost
/// everywhere, for the sake of programs that use select(2); this one does not.
///
/// # Errors
/// What getrlimit(2) and setrlimit(2) say; a sandbox may forbid the latter. The limit is as it was
/// then.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let hard = raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        assert_eq!(open_files_limit(), hard);
        assert_eq!(raise_open_files().unwrap(), hard, "again is harmless");
    }
}
