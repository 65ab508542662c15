//! Any [`FileOp`] by plain system calls, right here: for memory file systems, the poll backend and
//! start-up.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, ResolveFlag, copy_file_range};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::UnlinkatFlags;

use super::{
    Dir, FileDone, FileOp, FileSystem, Flock, OpenHow, STATX_MASK, Statx, extents, holes, invalid,
    list, xattr,
};
use crate::pipe;
use crate::pool::Buffer;
use crate::process::descriptor_path;

/// How often openat2 is repeated on EAGAIN: with RESOLVE_BENEATH the kernel gives it whenever any
/// rename on the host raced with a `..` of the path (openat2(2)).
const OPEN_RACES_MAX: usize = 64;

/// ramfs, the other file system that is only memory (linux/magic.h).
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Runs any [`FileOp`] right here by plain system calls, blocking as long as they do.
///
/// # Errors
/// What the system call says, with its errno. `InvalidInput` for offsets past `i64::MAX`.
pub fn run(op: FileOp) -> io::Result<FileDone> {
    match op {
        FileOp::Open { dir, path, how, .. } => open(at(&dir), &path, how).map(FileDone::Opened),
        FileOp::Statx { dir, path, flags } => statx(at(&dir), &path, flags).map(FileDone::Stat),
        FileOp::Fstat { file } => statx(file.as_fd(), c"", libc::AT_EMPTY_PATH).map(FileDone::Stat),
        FileOp::Read {
            file,
            offset,
            buffer,
            len,
            ..
        } => read(&file, offset, buffer, len),
        FileOp::ReadOn { file, buffer, len } => read_on(&file, buffer, len),
        FileOp::Pipe { file, offset, len } => pipe::filled(&file, offset, len).map(piped),
        FileOp::Write { file, offset, data } => write(&file, offset, &data).map(FileDone::Written),
        FileOp::Append { file, data } => append(&file, &data).map(FileDone::Written),
        FileOp::Reserve { file, len } => done(reserve(&file, len)),
        FileOp::Punch { file, offset, len } => done(punch(&file, offset, len)),
        FileOp::FindData { file, from, max } => {
            holes::find_data(&file, from, max).map(FileDone::Data)
        }
        FileOp::Truncate { file, len } => done(truncate(&file, len)),
        FileOp::Fsync { file, data_only } => done(sync(&file, data_only)),
        FileOp::SyncRange { file, range, wait } => done(sync_range(&file, range, wait)),
        FileOp::Extents {
            file,
            len,
            has_holes,
        } => extents::are_written(&file, len, has_holes).map(FileDone::Allocated),
        FileOp::GetXattr { file, name } => xattr::get(&file, name).map(FileDone::Xattr),
        FileOp::SetXattr { file, name, value } => done(xattr::set(&file, name, &value)),
        FileOp::RemoveXattr { file, name } => done(xattr::remove(&file, name)),
        FileOp::SyncFs { file } => done(nix::unistd::syncfs(&file)),
        FileOp::Rename {
            from_dir,
            from,
            to_dir,
            to,
            flags,
        } => {
            let (from, to) = ((at(&from_dir), &*from), (at(&to_dir), &*to));
            done(rename(from, to, flags))
        }
        FileOp::Link { file, to_dir, to } => done(link(&file, at(&to_dir), &to)),
        FileOp::Unlink { dir, path, is_dir } => done(unlink(at(&dir), &path, is_dir)),
        FileOp::Mkdir { dir, path, mode } => done(mkdir(at(&dir), &path, mode)),
        FileOp::Symlink { target, dir, path } => {
            let (target, path) = (target.as_c_str(), path.as_c_str());
            done(nix::unistd::symlinkat(target, at(&dir), path))
        }
        FileOp::Readlink { dir, path } => {
            let target = nix::fcntl::readlinkat(at(&dir), path.as_c_str())?;
            Ok(FileDone::Link(target.into_vec()))
        }
        FileOp::SetMeta { file, mode, mtime } => done(set_meta(&file, mode, mtime)),
        FileOp::SetLinkTime { dir, path, mtime } => done(set_link_time(at(&dir), &path, mtime)),
        FileOp::List { file, cursor, max } => list::list(&file, cursor, max),
        FileOp::Lock { file, how } => lock(&file, how).map(FileDone::Locked),
        FileOp::StatFs { file } => stat_fs(&file).map(FileDone::FileSystem),
        FileOp::Close { file } => done(nix::unistd::close(file)),
        FileOp::CopyRange {
            from,
            from_offset,
            to,
            to_offset,
            len,
        } => copy_range((&from, from_offset), (&to, to_offset), len).map(FileDone::Written),
    }
}

fn at(dir: &Dir) -> BorrowedFd<'_> {
    dir.as_ref().map_or(AT_FDCWD, |dir| dir.as_fd())
}

/// renameat2(2), for which nix and musl have no name.
fn rename(
    (from_dir, from): (BorrowedFd, &CStr),
    (to_dir, to): (BorrowedFd, &CStr),
    flags: u32,
) -> io::Result<()> {
    // SAFETY: both names end with a zero byte, and outlive the call as both directories do.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from_dir.as_raw_fd(),
            from.as_ptr(),
            to_dir.as_raw_fd(),
            to.as_ptr(),
            flags,
        )
    };
    Errno::result(result)?;
    Ok(())
}

fn done<E: Into<io::Error>>(result: Result<(), E>) -> io::Result<FileDone> {
    result.map(|()| FileDone::Done).map_err(Into::into)
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| invalid("file offset past i64::MAX"))
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}

fn open(dir: BorrowedFd<'_>, path: &CStr, how: OpenHow) -> io::Result<OwnedFd> {
    let raw = nix::fcntl::OpenHow::new()
        .flags(OFlag::from_bits_retain(how.flags | libc::O_CLOEXEC))
        .mode(Mode::from_bits_truncate(how.effective_mode()))
        .resolve(ResolveFlag::from_bits_retain(how.resolve));
    let mut races = 0;
    loop {
        match nix::fcntl::openat2(dir, path, raw) {
            Err(Errno::EAGAIN) if races < OPEN_RACES_MAX => races += 1,
            Err(Errno::EINTR) => continue,
            result => return Ok(result?),
        }
    }
}

fn statx(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<Statx> {
    let mut raw = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `path` is NUL-terminated and `raw` is writable memory of the right size; both outlive
    // the call.
    let result = unsafe {
        libc::statx(
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            STATX_MASK,
            raw.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above, and every bit pattern of these integers is valid.
    Ok(Statx::from(unsafe { raw.assume_init_ref() }))
}

fn read(file: &OwnedFd, offset: u64, mut buffer: Buffer, len: usize) -> io::Result<FileDone> {
    let len = len.min(buffer.spare_len());
    let bytes = uninterrupted(|| {
        let room = &mut buffer.spare_mut()[..len];
        Ok(nix::sys::uio::pread(file, room, signed(offset)?)?)
    })?;
    Ok(FileDone::Read { buffer, bytes })
}

fn piped((pipe, bytes): (OwnedFd, usize)) -> FileDone {
    FileDone::Piped(pipe, bytes)
}

fn read_on(file: &OwnedFd, mut buffer: Buffer, len: usize) -> io::Result<FileDone> {
    let len = len.min(buffer.spare_len());
    let bytes = uninterrupted(|| Ok(nix::unistd::read(file, &mut buffer.spare_mut()[..len])?))?;
    Ok(FileDone::Read { buffer, bytes })
}

fn append(file: &OwnedFd, data: &[u8]) -> io::Result<usize> {
    uninterrupted(|| Ok(nix::unistd::write(file, data)?))
}

fn write(file: &OwnedFd, offset: u64, data: &[u8]) -> io::Result<usize> {
    uninterrupted(|| Ok(nix::sys::uio::pwrite(file, data, signed(offset)?)?))
}

fn reserve(file: &OwnedFd, len: u64) -> io::Result<()> {
    let keeps_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    uninterrupted(|| Ok(nix::fcntl::fallocate(file, keeps_size, 0, signed(len)?)?))
}

fn punch(file: &OwnedFd, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (signed(offset)?, signed(len)?);
    let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    uninterrupted(|| Ok(nix::fcntl::fallocate(file, how, offset, len)?))
}

fn truncate(file: &OwnedFd, len: u64) -> io::Result<()> {
    uninterrupted(|| Ok(nix::unistd::ftruncate(file, signed(len)?)?))
}

fn sync(file: &OwnedFd, data_only: bool) -> nix::Result<()> {
    match data_only {
        true => nix::unistd::fdatasync(file),
        false => nix::unistd::fsync(file),
    }
}

fn mkdir(dir: BorrowedFd<'_>, path: &CStr, mode: u32) -> nix::Result<()> {
    nix::sys::stat::mkdirat(dir, path, Mode::from_bits_truncate(mode))
}

fn unlink(dir: BorrowedFd<'_>, path: &CStr, is_dir: bool) -> nix::Result<()> {
    let kind = if is_dir {
        UnlinkatFlags::RemoveDir
    } else {
        UnlinkatFlags::NoRemoveDir
    };
    nix::unistd::unlinkat(dir, path, kind)
}

/// From a file and an offset to another.
fn copy_range(from: (&OwnedFd, u64), to: (&OwnedFd, u64), len: usize) -> io::Result<usize> {
    let (mut from_at, mut to_at) = (signed(from.1)?, signed(to.1)?);
    uninterrupted(|| {
        let (from_at, to_at) = (Some(&mut from_at), Some(&mut to_at));
        Ok(copy_file_range(from.0, from_at, to.0, to_at, len)?)
    })
}

fn link(file: &OwnedFd, to_dir: BorrowedFd<'_>, to: &CStr) -> io::Result<()> {
    match nix::unistd::linkat(file, c"", to_dir, to, AtFlags::AT_EMPTY_PATH) {
        // Without CAP_DAC_READ_SEARCH (before Linux 6.10: always so) AT_EMPTY_PATH is ENOENT; /proc
        // leads round it.
        Err(Errno::ENOENT) => {
            let path = by_proc(file)?;
            Ok(nix::unistd::linkat(
                AT_FDCWD,
                path.as_c_str(),
                to_dir,
                to,
                AtFlags::AT_SYMLINK_FOLLOW,
            )?)
        }
        result => Ok(result?),
    }
}

/// The time of access goes along with that of modification, though nobody asks for it: a FUSE
/// server that is built on libfuse 2 is not told of a request for one of the two, and the kernel is
/// told that all went well.
const ACCESSED: TimeSpec = TimeSpec::UTIME_NOW;

fn set_meta(file: &OwnedFd, mode: Option<u32>, mtime: Option<(i64, u32)>) -> io::Result<()> {
    if let Some(mode) = mode {
        let mode = Mode::from_bits_truncate(mode);
        match nix::sys::stat::fchmod(file, mode) {
            // A directory that may not be read was opened by O_PATH, and that descriptor is none to
            // fchmod(2) and futimens(2): /proc leads to what it stands for.
            Err(Errno::EBADF) => {
                let path = by_proc(file)?;
                let follow = FchmodatFlags::FollowSymlink;
                nix::sys::stat::fchmodat(AT_FDCWD, path.as_c_str(), mode, follow)?;
            }
            other => other?,
        }
    }
    if let Some(mtime) = mtime {
        let (atime, mtime) = (ACCESSED, time_spec(mtime)?);
        match nix::sys::stat::futimens(file, &atime, &mtime) {
            Err(Errno::EBADF) => {
                let path = by_proc(file)?;
                let follow = UtimensatFlags::FollowSymlink;
                utimensat(AT_FDCWD, path.as_c_str(), &atime, &mtime, follow)?;
            }
            other => other?,
        }
    }
    Ok(())
}

/// The path by which procfs leads to what a descriptor stands for.
fn by_proc(file: &OwnedFd) -> io::Result<CString> {
    Ok(CString::new(descriptor_path(file))?)
}

fn set_link_time(dir: BorrowedFd<'_>, path: &CStr, mtime: (i64, u32)) -> io::Result<()> {
    let (atime, mtime) = (ACCESSED, time_spec(mtime)?);
    let of_the_link = UtimensatFlags::NoFollowSymlink;
    Ok(utimensat(dir, path, &atime, &mtime, of_the_link)?)
}

fn time_spec((seconds, nanoseconds): (i64, u32)) -> io::Result<TimeSpec> {
    // Larger values are UTIME_NOW and UTIME_OMIT: never what a peer's metadata means.
    if nanoseconds >= 1_000_000_000 {
        return Err(invalid("nanoseconds of a second"));
    }
    Ok(TimeSpec::new(seconds, i64::from(nanoseconds)))
}

/// What sync_file_range(2) is told: to start writing, or to see all of it written.
pub(crate) fn sync_range_flags(wait: bool) -> u32 {
    let waits = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    libc::SYNC_FILE_RANGE_WRITE | if wait { waits } else { 0 }
}

fn sync_range(file: &OwnedFd, (from, len): (u64, u32), wait: bool) -> io::Result<()> {
    let (from, len, flags) = (signed(from)?, i64::from(len), sync_range_flags(wait));
    // SAFETY: sync_file_range takes a descriptor, held by `file`, and no memory.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), from, len, flags) };
    Ok(Errno::result(result).map(drop)?)
}

fn lock(file: &OwnedFd, how: Flock) -> io::Result<bool> {
    let kind = match how {
        Flock::Exclusive => libc::LOCK_EX,
        Flock::Shared => libc::LOCK_SH,
        Flock::Unlock => libc::LOCK_UN,
    };
    // SAFETY: flock takes a descriptor, held by `file`, and no memory.
    let result = unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) };
    match Errno::result(result) {
        Ok(_) => Ok(true),
        Err(Errno::EWOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether a file is on a memory file system, so that reading it waits for no disk (unless it was
/// swapped out). Not where the kernel does not tell.
pub fn is_in_memory(file: impl AsFd) -> bool {
    stat_fs(file).is_ok_and(|found| found.is_memory)
}

fn stat_fs(file: impl AsFd) -> io::Result<FileSystem> {
    let raw = nix::sys::statfs::fstatfs(file)?;
    #[allow(clippy::unnecessary_cast, reason = "to musl it is unsigned")]
    let magic = raw.filesystem_type().0 as i64;
    let block_bytes = u64::try_from(raw.block_size()).unwrap_or(0);
    Ok(FileSystem {
        is_memory: magic == libc::TMPFS_MAGIC || magic == RAMFS_MAGIC,
        free_bytes: raw.blocks_available().saturating_mul(block_bytes),
        total_bytes: raw.blocks().saturating_mul(block_bytes),
        has_inodes: raw.files() == 0 || raw.files_free() > 0,
        magic,
    })
}
