//! File operations as ring entries, and their results.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use io_uring::types::{self, Fd};
use io_uring::{IoUring, opcode, squeue};

use super::fixed::Registration;
use crate::file::{Dir, FileDone, FileOp, OpenHow, STATX_MASK, Statx, sync_range_flags};
use crate::op::Completion;
use crate::pool::{Buffer, Pool};

/// A file operation and everything its ring entry points to.
pub(super) struct FileInFlight {
    token: u64,
    op: FileOp,
    scratch: Scratch,
}

/// What the kernel reads or writes beside the operation's own paths and buffers; boxed, as it may
/// not move.
enum Scratch {
    None,
    #[allow(dead_code)] // Held for the kernel, never read by us.
    How(Box<types::OpenHow>),
    Stat(Box<MaybeUninit<libc::statx>>),
}

/// An operation that is to be tried once more.
pub(super) enum Again {
    OnRing(u64, FileOp),
    ByThread(u64, FileOp),
}

impl FileInFlight {
    pub fn new(token: u64, op: FileOp) -> FileInFlight {
        FileInFlight {
            token,
            op,
            scratch: Scratch::None,
        }
    }

    /// The operation, when there is no entry for it.
    pub fn into_op(self) -> FileOp {
        self.op
    }

    /// How the ring is to go about it. It tries most operations in place first, and an open of what
    /// is cached may ask a server all the same, and wait.
    pub fn flags(&self) -> squeue::Flags {
        match self.op {
            FileOp::Open { waits: true, .. } => squeue::Flags::ASYNC,
            _ => squeue::Flags::empty(),
        }
    }

    /// The ring entry. It points into `self`'s heap memory (not into `self`, which may be moved).
    /// `None`: the ring has no such operation.
    pub fn entry(
        &mut self,
        ring: &IoUring,
        has_truncate: bool,
        pool: &Pool,
        registration: &mut Registration,
    ) -> Option<squeue::Entry> {
        let FileInFlight { op, scratch, .. } = self;
        let mut fixed = |index| registration.entry_of(ring, pool, index);
        Some(match op {
            FileOp::Open { dir, path, how, .. } => open(at(dir), path, how, scratch),
            FileOp::Statx { dir, path, flags } => statx(at(dir), path, *flags, scratch),
            FileOp::Fstat { file } => statx(fd(file), c"", libc::AT_EMPTY_PATH, scratch),
            FileOp::Read {
                file,
                offset,
                buffer,
                len,
                waits: false,
            } => {
                let index = buffer.is_of(pool).then(|| buffer.index());
                let index = index.and_then(&mut fixed);
                read(fd(file), seekable(*offset)?, buffer, *len, index)
            }
            FileOp::Write { file, offset, data } => {
                let index = pool.index_of(data).and_then(&mut fixed);
                write(fd(file), seekable(*offset)?, data, index)
            }
            FileOp::Append { file, data } => write(fd(file), AT_POSITION, data, None),
            FileOp::Reserve { file, len } => reserve(fd(file), seekable(*len)?),
            FileOp::Punch { file, offset, len } => {
                punch(fd(file), seekable(*offset)?, seekable(*len)?)
            }
            FileOp::Truncate { file, len } if has_truncate => truncate(fd(file), seekable(*len)?),
            FileOp::Fsync { file, data_only } => fsync(fd(file), *data_only),
            FileOp::SyncRange { file, range, wait } => {
                sync_range(fd(file), (seekable(range.0)?, range.1), *wait)
            }
            FileOp::Close { file } => opcode::Close::new(fd(file)).build(),
            FileOp::Rename {
                from_dir,
                from,
                to_dir,
                to,
                flags,
            } => rename((at(from_dir), from), (at(to_dir), to), *flags),
            FileOp::Link { file, to_dir, to } => link(fd(file), at(to_dir), to),
            FileOp::Unlink { dir, path, is_dir } => unlink(at(dir), path, *is_dir),
            FileOp::Mkdir { dir, path, mode } => mkdir(at(dir), path, *mode),
            FileOp::Symlink { target, dir, path } => symlink(target, at(dir), path),
            // A ring's `ReadOn` would end at the size that FUSE told (Linux 6.18).
            FileOp::Read { waits: true, .. }
            | FileOp::ReadOn { .. }
            | FileOp::Pipe { .. }
            | FileOp::Truncate { .. }
            | FileOp::Readlink { .. }
            | FileOp::SetMeta { .. }
            | FileOp::SetLinkTime { .. }
            | FileOp::List { .. }
            | FileOp::Lock { .. }
            | FileOp::StatFs { .. }
            | FileOp::Extents { .. }
            | FileOp::FindData { .. }
            | FileOp::GetXattr { .. }
            | FileOp::SetXattr { .. }
            | FileOp::RemoveXattr { .. }
            | FileOp::SyncFs { .. }
            | FileOp::CopyRange { .. } => return None,
        })
    }

    /// The completion for the kernel's answer, or the operation again when it has to be repeated.
    pub fn finish(self, result: io::Result<usize>) -> Result<Completion, Again> {
        let FileInFlight { token, op, scratch } = self;
        if let FileOp::Close { file } = op {
            // The kernel has closed it, whatever it says (close(2)).
            let _ = file.into_raw_fd();
            let result = result.map(|_| FileDone::Done);
            return Ok(Completion::File { token, result });
        }
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                return match (error.raw_os_error(), &op) {
                    // A signal ended it early. These do no harm twice.
                    (
                        Some(libc::EINTR),
                        FileOp::Read { .. }
                        | FileOp::Write { .. }
                        | FileOp::Reserve { .. }
                        | FileOp::Punch { .. }
                        | FileOp::Truncate { .. }
                        | FileOp::Fsync { .. }
                        | FileOp::SyncRange { .. }
                        | FileOp::Open { .. },
                    ) => Err(Again::OnRing(token, op)),
                    // A rename raced with the path walk, or AT_EMPTY_PATH is not allowed:
                    // `file::run` knows the ways round.
                    (Some(libc::EAGAIN), FileOp::Open { .. })
                    | (Some(libc::ENOENT), FileOp::Link { .. }) => Err(Again::ByThread(token, op)),
                    _ => Ok(Completion::File {
                        token,
                        result: Err(error),
                    }),
                };
            }
        };
        let done = match (op, scratch) {
            (FileOp::Open { .. }, _) => {
                // SAFETY: the kernel has just made this descriptor for this operation; nobody else
                // knows it.
                FileDone::Opened(unsafe { OwnedFd::from_raw_fd(value as i32) })
            }
            (FileOp::Statx { .. } | FileOp::Fstat { .. }, Scratch::Stat(raw)) => {
                // SAFETY: zeroed when it was made, and every bit pattern of these integers is
                // valid.
                FileDone::Stat(Statx::from(unsafe { raw.assume_init_ref() }))
            }
            (FileOp::Read { buffer, .. }, _) => FileDone::Read {
                buffer,
                bytes: value,
            },
            (FileOp::Write { .. } | FileOp::Append { .. }, _) => FileDone::Written(value),
            _ => FileDone::Done,
        };
        Ok(Completion::File {
            token,
            result: Ok(done),
        })
    }

    /// Nobody will see the result; a descriptor must be closed all the same.
    pub fn abandon(self, result: i32) {
        match (self.op, result) {
            (FileOp::Open { .. }, 0..) => {
                // SAFETY: as in `finish`: the descriptor is new and unknown to anyone else.
                drop(unsafe { OwnedFd::from_raw_fd(result) });
            }
            // As in `finish`: closed already.
            (FileOp::Close { file }, _) => {
                let _ = file.into_raw_fd();
            }
            _ => {}
        }
    }
}

fn open(dir: Fd, path: &CStr, how: &OpenHow, scratch: &mut Scratch) -> squeue::Entry {
    let raw = Box::new(
        types::OpenHow::new()
            .flags(how.flags as u32 as u64 | libc::O_CLOEXEC as u64)
            .mode(how.effective_mode().into())
            .resolve(how.resolve),
    );
    let entry = opcode::OpenAt2::new(dir, path.as_ptr(), &raw const *raw).build();
    *scratch = Scratch::How(raw);
    entry
}

fn statx(dir: Fd, path: &CStr, flags: i32, scratch: &mut Scratch) -> squeue::Entry {
    let mut raw = Box::new(MaybeUninit::<libc::statx>::zeroed());
    let entry = opcode::Statx::new(dir, path.as_ptr(), raw.as_mut_ptr().cast())
        .flags(flags)
        .mask(STATX_MASK)
        .build();
    *scratch = Scratch::Stat(raw);
    entry
}

/// A read into the buffer's spare part; `fixed` is the buffer's place among the registered ones.
fn read(
    file: Fd,
    offset: u64,
    buffer: &mut Buffer,
    len: usize,
    fixed: Option<u16>,
) -> squeue::Entry {
    let spare = buffer.spare_mut();
    // At most 64 KiB, so it fits.
    let (start, len) = (spare.as_mut_ptr(), spare.len().min(len) as u32);
    match fixed {
        Some(index) => opcode::ReadFixed::new(file, start, len, index)
            .offset(offset)
            .build(),
        None => opcode::Read::new(file, start, len).offset(offset).build(),
    }
}

fn write(file: Fd, offset: u64, data: &[u8], fixed: Option<u16>) -> squeue::Entry {
    // The kernel writes at most 2 GiB less a page per call; the rest is a short write.
    let (start, len) = (data.as_ptr(), data.len().min(i32::MAX as usize) as u32);
    match fixed {
        Some(index) => opcode::WriteFixed::new(file, start, len, index)
            .offset(offset)
            .build(),
        None => opcode::Write::new(file, start, len).offset(offset).build(),
    }
}

fn reserve(file: Fd, len: u64) -> squeue::Entry {
    opcode::Fallocate::new(file, len)
        .mode(libc::FALLOC_FL_KEEP_SIZE)
        .build()
}

fn punch(file: Fd, offset: u64, len: u64) -> squeue::Entry {
    opcode::Fallocate::new(file, len)
        .offset(offset)
        .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
        .build()
}

fn truncate(file: Fd, len: u64) -> squeue::Entry {
    opcode::Ftruncate::new(file, len).build()
}

fn fsync(file: Fd, data_only: bool) -> squeue::Entry {
    let flags = if data_only {
        types::FsyncFlags::DATASYNC
    } else {
        types::FsyncFlags::empty()
    };
    opcode::Fsync::new(file).flags(flags).build()
}

fn sync_range(file: Fd, (from, len): (u64, u32), wait: bool) -> squeue::Entry {
    opcode::SyncFileRange::new(file, len)
        .offset(from)
        .flags(sync_range_flags(wait))
        .build()
}

/// The position of the file, as io_uring_enter(2) has it.
const AT_POSITION: u64 = u64::MAX;

fn rename(from: (Fd, &CStr), to: (Fd, &CStr), flags: u32) -> squeue::Entry {
    opcode::RenameAt::new(from.0, from.1.as_ptr(), to.0, to.1.as_ptr())
        .flags(flags)
        .build()
}

fn link(file: Fd, to_dir: Fd, to: &CStr) -> squeue::Entry {
    opcode::LinkAt::new(file, c"".as_ptr(), to_dir, to.as_ptr())
        .flags(libc::AT_EMPTY_PATH)
        .build()
}

fn unlink(dir: Fd, path: &CStr, is_dir: bool) -> squeue::Entry {
    let flags = if is_dir { libc::AT_REMOVEDIR } else { 0 };
    opcode::UnlinkAt::new(dir, path.as_ptr())
        .flags(flags)
        .build()
}

fn mkdir(dir: Fd, path: &CStr, mode: u32) -> squeue::Entry {
    opcode::MkDirAt::new(dir, path.as_ptr())
        .mode(mode & 0o7777)
        .build()
}

fn symlink(target: &CStr, dir: Fd, path: &CStr) -> squeue::Entry {
    opcode::SymlinkAt::new(dir, target.as_ptr(), path.as_ptr()).build()
}

fn fd(file: &OwnedFd) -> Fd {
    Fd(file.as_raw_fd())
}

fn at(dir: &Dir) -> Fd {
    Fd(dir.as_ref().map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd()))
}

/// A file offset or size. Past `i64::MAX` the kernel would take it for "the current position" or
/// worse; `run` refuses it.
fn seekable(offset: u64) -> Option<u64> {
    i64::try_from(offset).is_ok().then_some(offset)
}
