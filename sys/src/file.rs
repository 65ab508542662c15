//! File operations as data: what a driver can be asked to do with files, and what comes back.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;

use crate::pool::Buffer;

mod extents;
mod holes;
pub(crate) mod list;
mod run;
#[cfg(test)]
mod tests;
mod xattr;

pub use holes::FoundData;
pub(crate) use holes::next_data;
pub(crate) use run::sync_range_flags;
pub use run::{is_in_memory, run};

/// The constants of open, openat2, rename and stat calls that users of [`FileOp`] need.
pub mod flags {
    pub use libc::{
        AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOATIME,
        O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY,
        RENAME_EXCHANGE, RENAME_NOREPLACE, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS,
        RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV,
    };
}

/// A directory to which a path is relative. `None` is the working directory.
pub type Dir = Option<Arc<OwnedFd>>;

/// How openat2(2) shall open a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenHow {
    /// `O_*`; `O_CLOEXEC` is always added.
    pub flags: i32,
    /// Permission bits of a file made by `O_CREAT` or `O_TMPFILE` (the umask applies); ignored
    /// otherwise.
    pub mode: u32,
    /// `RESOLVE_*`.
    pub resolve: u64,
}

impl OpenHow {
    /// `mode`, or 0 where nothing is created: openat2 (unlike open) answers EINVAL to a mode it
    /// does not need.
    pub(crate) fn effective_mode(&self) -> u32 {
        let creates =
            self.flags & libc::O_CREAT != 0 || self.flags & libc::O_TMPFILE == libc::O_TMPFILE;
        if creates { self.mode & 0o7777 } else { 0 }
    }
}

/// One file operation. Paths are relative to the descriptor beside them; offsets and lengths are
/// bytes.
#[derive(Debug)]
#[allow(missing_docs)] // The fields are the arguments of the system call each variant names.
pub enum FileOp {
    /// openat2(2) → [`FileDone::Opened`]. `waits`: a server may be asked (FUSE), which takes its
    /// time: the ring would try an open of what is cached in place, and wait with it.
    Open {
        dir: Dir,
        path: CString,
        how: OpenHow,
        waits: bool,
    },
    /// statx(2); `flags` are `AT_*` → [`FileDone::Stat`].
    Statx { dir: Dir, path: CString, flags: i32 },
    /// statx(2) of an open file → [`FileDone::Stat`].
    Fstat { file: Arc<OwnedFd> },
    /// pread(2) of at most `len` bytes to the start of the buffer's spare part →
    /// [`FileDone::Read`], which may be short. `len` is cut to the spare length. The buffer is
    /// *not* advanced. On error it goes back to its pool. `waits`: a server may be asked (FUSE).
    /// That is no read of the ring's, which goes on behind a short one by itself, and where FUSE
    /// has FOPEN_DIRECT_IO from the same offset once more: such files do not move the ring's
    /// offset on (seen on Linux 6.18). The data would be there twice.
    Read {
        file: Arc<OwnedFd>,
        offset: u64,
        buffer: Buffer,
        len: usize,
        waits: bool,
    },
    /// read(2): the same from where the last one of this open file ended, as pipes and files that
    /// only know a next byte are read. A file opened with O_NONBLOCK answers EAGAIN where it would
    /// wait.
    ReadOn {
        file: Arc<OwnedFd>,
        buffer: Buffer,
        len: usize,
    },
    /// splice(2) of so many bytes into a new pipe → [`FileDone::Piped`]: they stay in the page
    /// cache. At most [`crate::pipe::MAX_PIPED_BYTES`]. `EPERM`: this user's pipes hold as much as
    /// they may (fs.pipe-user-pages-soft).
    Pipe {
        file: Arc<OwnedFd>,
        offset: u64,
        len: usize,
    },
    /// pwrite(2) → [`FileDone::Written`], which may be short.
    Write {
        file: Arc<OwnedFd>,
        offset: u64,
        data: Bytes,
    },
    /// write(2) at the file's own position, for what has no offsets (pipes, terminals) →
    /// [`FileDone::Written`], which may be short. `EAGAIN` where it would wait and the file is
    /// `O_NONBLOCK`.
    Append { file: Arc<OwnedFd>, data: Bytes },
    /// fallocate(2) of `0..len` with FALLOC_FL_KEEP_SIZE: blocks for so much, and the size as it
    /// is. `EOPNOTSUPP` where the file system cannot; nothing is emulated.
    Reserve { file: Arc<OwnedFd>, len: u64 },
    /// fallocate(2) with FALLOC_FL_PUNCH_HOLE: the range reads as zeros and has no blocks; the size
    /// stays. `EOPNOTSUPP` where the file system cannot.
    Punch {
        file: Arc<OwnedFd>,
        offset: u64,
        len: u64,
    },
    /// lseek(2) with SEEK_DATA and SEEK_HOLE → [`FileDone::Data`]: where a file has data, in at
    /// most `max` ranges from `from` on. Where the file system does not tell, all of it is data.
    FindData {
        file: Arc<OwnedFd>,
        from: u64,
        max: usize,
    },
    /// ftruncate(2).
    Truncate { file: Arc<OwnedFd>, len: u64 },
    /// fsync(2) of a file or directory; `data_only`: fdatasync(2).
    Fsync { file: Arc<OwnedFd>, data_only: bool },
    /// sync_file_range(2) of a range, offset and length (0: to the end): starts writing what is
    /// dirty; `wait`: and waits until it is written. The device's own cache is not flushed, nor is
    /// metadata.
    SyncRange {
        file: Arc<OwnedFd>,
        range: (u64, u32),
        wait: bool,
    },
    /// FIEMAP (linux/fiemap.h) → [`FileDone::Allocated`]: whether all of `0..len` is in extents
    /// that were written; `has_holes`: or in none.
    Extents {
        file: Arc<OwnedFd>,
        len: u64,
        has_holes: bool,
    },
    /// fgetxattr(2) → [`FileDone::Xattr`].
    GetXattr {
        file: Arc<OwnedFd>,
        name: &'static CStr,
    },
    /// fsetxattr(2), replacing what was there.
    SetXattr {
        file: Arc<OwnedFd>,
        name: &'static CStr,
        value: Vec<u8>,
    },
    /// fremovexattr(2).
    RemoveXattr {
        file: Arc<OwnedFd>,
        name: &'static CStr,
    },
    /// close(2) of a descriptor, for what it says: some file systems (NFS, FUSE, AFS) ask their
    /// server, wait for it, and tell only then that data they took was not stored. The descriptor
    /// is gone, whatever it says.
    Close { file: OwnedFd },
    /// syncfs(2) of the file system a file is on. Since Linux 5.8 an error at writeback is told.
    SyncFs { file: Arc<OwnedFd> },
    /// renameat2(2); `flags` are `RENAME_*`.
    Rename {
        from_dir: Dir,
        from: CString,
        to_dir: Dir,
        to: CString,
        flags: u32,
    },
    /// linkat(2) of an open file (one from `O_TMPFILE` too) to a name.
    Link {
        file: Arc<OwnedFd>,
        to_dir: Dir,
        to: CString,
    },
    /// unlinkat(2), or rmdir when `is_dir`.
    Unlink {
        dir: Dir,
        path: CString,
        is_dir: bool,
    },
    /// mkdirat(2); the umask applies.
    Mkdir { dir: Dir, path: CString, mode: u32 },
    /// symlinkat(2): `path` will point to `target`.
    Symlink {
        target: CString,
        dir: Dir,
        path: CString,
    },
    /// readlinkat(2) → [`FileDone::Link`].
    Readlink { dir: Dir, path: CString },
    /// fchmod(2) and futimens(2) of an open file (of a directory by `O_PATH`, too); mtime is
    /// (seconds, nanoseconds). No ring operation exists.
    SetMeta {
        file: Arc<OwnedFd>,
        mode: Option<u32>,
        mtime: Option<(i64, u32)>,
    },
    /// utimensat(2) of a symlink itself.
    SetLinkTime {
        dir: Dir,
        path: CString,
        mtime: (i64, u32),
    },
    /// getdents64(2): one batch of at most about `max` names (at least 11) from `cursor` (0: the
    /// beginning) → [`FileDone::Listed`].
    List {
        file: Arc<OwnedFd>,
        cursor: u64,
        max: usize,
    },
    /// flock(2) without waiting → [`FileDone::Locked`]. Held until the open file description is
    /// closed or unlocked.
    Lock { file: Arc<OwnedFd>, how: Flock },
    /// fstatfs(2) → [`FileDone::FileSystem`].
    StatFs { file: Arc<OwnedFd> },
    /// copy_file_range(2) → [`FileDone::Written`], which may be short; 0 at the end of `from`.
    CopyRange {
        from: Arc<OwnedFd>,
        from_offset: u64,
        to: Arc<OwnedFd>,
        to_offset: u64,
        len: usize,
    },
}

/// What flock(2) is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flock {
    /// By nobody else.
    Exclusive,
    /// By nobody else exclusively.
    Shared,
    /// Given back.
    Unlock,
}

/// What a [`FileOp`] gave.
#[derive(Debug)]
pub enum FileDone {
    /// The new descriptor.
    Opened(OwnedFd),
    /// What statx said.
    Stat(Statx),
    /// The first `bytes` of the buffer's spare part are now filled; call `buffer.advance(bytes)`.
    /// 0: end of file.
    Read {
        /// The buffer given with the operation, not advanced.
        buffer: Buffer,
        /// Number of bytes read; may be fewer than asked for.
        bytes: usize,
    },
    /// The end of a pipe to read from, whose other end is closed, and how many bytes are in it:
    /// fewer than asked for where the file ends.
    Piped(OwnedFd, usize),
    /// Number of bytes written or copied; may be fewer than asked for.
    Written(usize),
    /// A batch of names, in the directory's own order, without `.` and `..`. It may be empty before
    /// the end.
    Listed {
        /// The names.
        entries: Vec<DirEntry>,
        /// Where the next batch begins. `None`: that was the last.
        next: Option<u64>,
    },
    /// The symlink's target.
    Link(Vec<u8>),
    /// Whether the lock is ours now; `false`: someone else holds it.
    Locked(bool),
    /// About the file system a file is on.
    FileSystem(FileSystem),
    /// Whether everything asked about is allocated and written.
    Allocated(bool),
    /// Where data is.
    Data(FoundData),
    /// An extended attribute's value; `None`: there is none of that name.
    Xattr(Option<Vec<u8>>),
    /// Done, with nothing to say.
    Done,
}

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name's bytes: no `/`, no NUL, not `.` or `..`.
    pub name: Vec<u8>,
    /// From `d_type`; `Unknown` where the file system does not tell.
    pub kind: FileKind,
    /// Inode number.
    pub ino: u64,
}

/// What kind of thing a name is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Socket, FIFO or device.
    Special,
    /// The directory does not tell; stat it.
    Unknown,
}

impl FileKind {
    /// From the `S_IFMT` bits of a mode.
    pub(crate) fn of_mode(mode: u32) -> FileKind {
        match mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Dir,
            libc::S_IFLNK => FileKind::Symlink,
            0 => FileKind::Unknown,
            _ => FileKind::Special,
        }
    }
}

/// The parts of statx(2) that moving files needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statx {
    /// Kind and permission bits, as in `st_mode`.
    pub mode: u32,
    /// From `mode`.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Bytes of blocks that hold its data, as the file system counts them.
    pub allocated: u64,
    /// Modification time, seconds since the epoch.
    pub mtime_s: i64,
    /// Modification time, nanoseconds of the second.
    pub mtime_ns: u32,
    /// When the inode last changed, as seconds and nanoseconds.
    pub ctime: (i64, u32),
    /// When the inode was made, as seconds and nanoseconds; None where the file system does not
    /// tell.
    pub btime: Option<(i64, u32)>,
    /// Inode number.
    pub ino: u64,
    /// Device number, as in `st_dev`.
    pub dev: u64,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Number of the mount, never used twice while this kernel runs. `None` before Linux 6.8.
    pub mount: Option<u64>,
}

impl Statx {
    /// Whether it is a socket, the one special file that open(2) refuses.
    pub fn is_socket(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFSOCK
    }
}

/// What statx is asked for.
pub(crate) const STATX_MASK: u32 = libc::STATX_TYPE
    | libc::STATX_MODE
    | libc::STATX_SIZE
    | libc::STATX_BLOCKS
    | libc::STATX_MTIME
    | libc::STATX_CTIME
    | libc::STATX_BTIME
    | libc::STATX_INO
    | libc::STATX_NLINK
    | libc::STATX_UID
    | STATX_MNT_ID_UNIQUE;

/// Linux 6.8: `stx_mnt_id` is a number that is not used again. Older kernels ignore the bit and do
/// not answer it.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

impl From<&libc::statx> for Statx {
    fn from(raw: &libc::statx) -> Statx {
        Statx {
            mode: u32::from(raw.stx_mode),
            kind: FileKind::of_mode(u32::from(raw.stx_mode)),
            size: raw.stx_size,
            // A file system that does not count blocks has none to leave out.
            allocated: match raw.stx_mask & libc::STATX_BLOCKS {
                0 => raw.stx_size,
                _ => raw.stx_blocks.saturating_mul(512),
            },
            mtime_s: raw.stx_mtime.tv_sec,
            mtime_ns: raw.stx_mtime.tv_nsec,
            ctime: (raw.stx_ctime.tv_sec, raw.stx_ctime.tv_nsec),
            btime: (raw.stx_mask & libc::STATX_BTIME != 0)
                .then_some((raw.stx_btime.tv_sec, raw.stx_btime.tv_nsec)),
            ino: raw.stx_ino,
            dev: libc::makedev(raw.stx_dev_major, raw.stx_dev_minor),
            nlink: raw.stx_nlink,
            uid: raw.stx_uid,
            mount: (raw.stx_mask & STATX_MNT_ID_UNIQUE != 0).then_some(raw.stx_mnt_id),
        }
    }
}

/// About a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileSystem {
    /// tmpfs or ramfs: operations never wait for a device, so [`run`] beats any ring.
    pub is_memory: bool,
    /// Bytes an unprivileged user may still write (0 on ramfs, which counts nothing).
    pub free_bytes: u64,
    /// Size of the whole, in bytes.
    pub total_bytes: u64,
    /// Whether another file can be made: some file systems (ext4) have so many inodes and no more,
    /// others (btrfs) make them as they go and count none.
    pub has_inodes: bool,
    /// Magic number of statfs(2).
    pub magic: i64,
}

/// Magic numbers of statfs(2) (linux/magic.h).
pub mod magic {
    /// ext2, ext3 and ext4.
    pub const EXT: i64 = 0xef53;
    /// XFS.
    pub const XFS: i64 = 0x5846_5342;
    /// btrfs.
    pub const BTRFS: i64 = 0x9123_683e;
    /// overlayfs.
    pub const OVERLAY: i64 = 0x794c_7630;
    /// tmpfs.
    pub const TMPFS: i64 = 0x0102_1994;
    /// F2FS.
    pub const F2FS: i64 = 0xf2f5_2010;
    /// ZFS.
    pub const ZFS: i64 = 0x2fc1_2fc1;
    /// bcachefs.
    pub const BCACHEFS: i64 = 0xca45_1a4e;
    /// FAT.
    pub const FAT: i64 = 0x4d44;
    /// exFAT.
    pub const EXFAT: i64 = 0x2011_bab0;
    /// NTFS by the kernel's own driver.
    pub const NTFS3: i64 = 0x7366_746e;
    /// procfs.
    pub const PROC: i64 = 0x9fa0;
}

/// The error for a path or number that no system call could take.
pub(crate) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
