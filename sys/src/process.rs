//! What this process is and may: its user, and how many files it may have open.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The user file systems take this process for.
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Descriptors this process may have, and so one more than the highest number of one.
pub fn open_files_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

/// Gives the calling thread descriptors of its own: those of the process as they are now, and what
/// is opened or closed from then on is so for this thread alone. While a table belongs to several
/// threads, each call by a descriptor counts a reference to its file, back and forth (fdget in
/// fs/file.c), which costs a copy of small files 2 %.
///
/// # Errors
/// What unshare(2) says; a sandbox may forbid it. The thread then shares its descriptors as before.
pub fn own_descriptors() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_FILES)?)
}

/// The path by which procfs leads the calling thread to what a descriptor stands for. Not below
/// /proc/self, which is the first thread's: another may have descriptors of its own.
pub fn descriptor_path(file: &OwnedFd) -> String {
    format!("/proc/thread-self/fd/{}", file.as_raw_fd())
}

/// Another descriptor of what this process has open under a number: with the same position and the
/// same flags, O_APPEND among them, as no open(2) of a path gives it.
///
/// # Errors
/// EBADF if nothing is open under it, and what else fcntl(2) says.
pub fn duplicate(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes numbers and no memory; of one that is not open it is EBADF.
    let made = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    let made = Errno::result(made)?;
    // SAFETY: the kernel gave this descriptor just now, to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// The lowest number that no descriptor has, which is the next one's: it tells how full the table
/// is. Found by an eventfd(2), which is there for the time of this call and costs about 1 us.
///
/// # Errors
/// EMFILE if the table is full, and what else eventfd(2) says.
pub fn next_descriptor() -> io::Result<u64> {
    let made = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
    Ok(u64::from(made.as_fd().as_raw_fd().unsigned_abs()))
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

    #[test]
    fn a_thread_with_descriptors_of_its_own_finds_them() {
        let opens = || {
            own_descriptors().unwrap();
            let file: OwnedFd = std::fs::File::open("/proc/version").unwrap().into();
            let own = std::fs::read_link(descriptor_path(&file)).unwrap();
            assert_eq!(own, std::path::Path::new("/proc/version"));
            file.as_raw_fd()
        };
        let number = std::thread::spawn(opens).join().unwrap();
        // What has that number here, if anything does, is another file.
        let here = std::fs::read_link(format!("/proc/self/fd/{number}"));
        assert!(here.is_err() || here.unwrap() != std::path::Path::new("/proc/version"));
    }
}
