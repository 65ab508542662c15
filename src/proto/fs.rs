//! File work as the machines ask for it: operations, what they found, why they failed.
//!
//! Two executors answer them, `disk` on real files and the simulator on imagined ones; one random
//! test (`disk/conformance.rs`) sees that they give the same answers.

use std::sync::Arc;

use bytes::Bytes;

use super::chunk::SMALL_MAX_BYTES;
use super::errno::{EBUSY, EINVAL, EIO, ELOOP, ENODEV, ENOSPC};
use super::extents::DataMap;
use super::integrity::Digest;
use super::journal::Storage;
use crate::ids::{CopyId, DirId, FileId, Name};

/// Fewer names than this at a time cannot be asked for: getdents64(2) is asked by the byte, with
/// room for a few long names, which is room for so many short ones.
#[cfg(test)]
pub const LIST_MIN: usize = 128;

/// Mode bits a file gets. Never setuid or setgid: owners do not travel, so another user's setuid
/// program would become ours, and root's where root receives.
pub const FILE_MODE: u32 = 0o1777;

/// Mode bits a directory gets: on it setgid only hands down the group, and sticky protects.
pub const DIRECTORY_MODE: u32 = 0o3777;

/// The mode of a directory of ours that is being filled. Nobody else means anything by a sticky bit
/// where only the owner may write, so that a later run knows by it that the attributes of this
/// directory are still to be set.
pub const UNFINISHED_MODE: u32 = 0o1700;

/// Metadata of a file system object, as lstat(2) gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    pub kind: Kind,
    /// Permission bits only (07777).
    pub mode: u32,
    pub mtime: Mtime,
    pub size_bytes: u64,
    /// Bytes of blocks that hold its data; less than `size_bytes` of a file with holes.
    pub allocated_bytes: u64,
    pub inode: u64,
    /// With `inode`, which object of this host it is.
    pub device: u64,
    /// What tells it from another object of the same name, size and mtime.
    pub lasting: Lasting,
    /// Names it has (hard links).
    pub links: u32,
    /// Whether `size_bytes` of a file is how much it holds: one that is *unsized* is read to its
    /// end, wherever that is.
    pub is_sized: bool,
}

/// What of an object stays the same as long as it is the same object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lasting {
    /// Its inode number.
    Inode,
    /// Numbers may be made up anew (NFS): when it last changed (ctime), in nanoseconds.
    Changed(u64),
    /// Nothing but size and mtime.
    Nothing,
}

impl Meta {
    /// How much of a file with holes is data, about. None: there are none, or the file is so small
    /// that they are not worth a look: it is sent and written whole; or it has no size, so that
    /// nothing tells a hole from its end.
    pub fn sparse(&self) -> Option<u64> {
        let is_large = self.kind == Kind::File && self.size_bytes > SMALL_MAX_BYTES;
        let is_worth_it = is_large && self.is_sized;
        (is_worth_it && self.allocated_bytes < self.size_bytes).then_some(self.allocated_bytes)
    }

    pub fn object(&self) -> ObjectId {
        ObjectId {
            device: self.device,
            inode: self.inode,
        }
    }

    /// Which object it is, as far as its file system keeps that.
    pub fn kept_inode(&self) -> Option<u64> {
        (self.lasting == Lasting::Inode).then_some(self.inode)
    }

    /// Tells a replaced source from the one that an earlier session read a part of.
    pub fn tag(&self) -> u64 {
        match self.lasting {
            Lasting::Inode => self.inode,
            Lasting::Changed(nanoseconds) => nanoseconds,
            Lasting::Nothing => 0,
        }
    }
}

/// Which object of this host something is, whatever names and mounts lead to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectId {
    pub device: u64,
    pub inode: u64,
}

/// What an entry is to have besides its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// None: what new files and directories get (umask(2)), or what is there.
    pub mode: Option<u32>,
    pub mtime: Option<Mtime>,
    /// On disk before it counts as done.
    pub fsync: bool,
}

/// What of [`Attributes`] is not at the destination, though the data is: metadata is not data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lapses {
    /// The errno of fchmod(2).
    pub mode: Option<i32>,
    pub mtime: Option<TimeLapse>,
}

impl Lapses {
    pub fn any(&self) -> bool {
        *self != Lapses::default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeLapse {
    /// The errno of utimensat(2).
    Refused(i32),
    /// It was taken, and another one was stored: the file system's range ends before.
    OutOfRange,
    /// It was taken, and nothing was stored.
    NotKept,
}

/// What a directory of a transfer was when it was wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirFound {
    /// It was made just now.
    Missing,
    /// An earlier transfer of this user made it, and did not come to give it its attributes.
    Unfinished,
    /// Its attributes are its owner's business.
    Finished,
}

/// What the mode of a directory of a transfer becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirMode {
    /// It stays.
    Kept,
    /// This one, and setgid if it was made in a directory that hands it down, as mkdir(2) does.
    New(u32),
    /// This very one.
    Exact(u32),
}

/// Modification time: seconds and nanoseconds (0..10^9) since the epoch, as struct timespec.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
pub struct Mtime {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What an entry of a tree is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Its data is what counts.
    File,
    /// Its entries are.
    Directory,
    /// Its text is.
    Symlink,
    /// Socket, FIFO or device: never sent, only warned about.
    Special,
}

/// A step of file work. The disk layer executes it below what was asked for, confined to it:
/// directories are opened with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, names are single
/// components relative to held directory descriptors.
#[derive(Clone, Debug)]
pub enum DiskOp {
    // ---- where things are
    /// Receiver: finds where to put the sources; symlinks in `path` are followed (on a daemon:
    /// inside its root). An existing directory: `dir` is that directory, no rename. Missing and
    /// `must_be_dir`: it is created if its parent exists. Missing or a non-directory: `dir` is its
    /// parent (which must exist) and the one source takes the last component as its name; a device
    /// or FIFO there is written into by what is placed at that name, and never replaced.
    ///
    /// `no_target_dir`: the second way always, if the path has a last component. `copy`: the second
    /// way, too, if the directory was made for this copy and its copy is not finished.
    ResolveTarget {
        path: Bytes,
        must_be_dir: bool,
        no_target_dir: bool,
        copy: Option<CopyId>,
        dir: DirId,
        fsync: bool,
    },
    /// Sender: finds one source. `dir` becomes its parent directory. A trailing `/` follows a final
    /// symlink, and so does `follow`; the root itself is a source whose name is empty
    /// (`Source.name` is None). A pipe or device of the user's own is an unsized file.
    ResolveSource {
        path: Bytes,
        follow: bool,
        dir: DirId,
    },
    /// Forgets a directory. Its number may not be used again.
    CloseDir { dir: DirId },

    // ---- sender
    /// Opens a subdirectory for listing, never through a symlink. `name` None: the parent itself.
    OpenDir {
        parent: DirId,
        name: Option<Name>,
        dir: DirId,
    },
    /// The next names of `dir` with their metadata; `.` and `..` left out. At most `max_entries`,
    /// or 128 if that is more: getdents64(2) is asked by the byte.
    List { dir: DirId, max_entries: usize },
    /// Looks at one of our unfinished files, of which `List` says that it is one.
    LookUnfinished { dir: DirId, name: Bytes },
    /// Reads a whole small file: opens (never through a symlink), reads at most `max_bytes`, fstats
    /// after reading (whose size tells of a file that grew), closes.
    ReadSmall {
        dir: DirId,
        name: Name,
        max_bytes: usize,
    },
    /// Opens a regular file for reading, never through a symlink.
    OpenRead {
        dir: DirId,
        name: Name,
        file: FileId,
    },
    /// Reads at most `len_bytes` (≤ [`super::PIECE_BYTES`]) at `offset`; shorter only at the end of
    /// the file.
    Read {
        file: FileId,
        offset: u64,
        len_bytes: usize,
    },
    /// Has so many bytes (≤ [`super::PIPED_BYTES`]) wait in the kernel, for a lane that takes them
    /// from there.
    Pipe {
        file: FileId,
        offset: u64,
        len_bytes: usize,
    },
    /// Where a file opened by `OpenRead` has data, from `offset` (a multiple of
    /// [`super::extents::BLOCK_BYTES`]) on, as far as one look goes.
    Map { file: FileId, offset: u64 },
    /// Looks whether [`DiskOp::ReadOn`] would find bytes, the end or an error. EAGAIN for what is
    /// no pipe or device of the user's own and would have to be waited for.
    AwaitInput { file: FileId },
    /// Reads the next bytes of an unsized file, at most `len_bytes`; none at its end.
    ReadOn { file: FileId, len_bytes: usize },
    /// fstat(2) of an open file, to see whether it changed while it was read.
    Stat { file: FileId },
    /// What is remembered of the chunks of a file opened by `OpenRead`, of which `size_bytes` were
    /// announced. Looks into memory and at the file; waits for no store.
    Recall { file: FileId, size_bytes: u64 },
    /// Has the chaining values of all chunks of a file remembered, unless it is not what it was
    /// when `Recall` said `stamp`. None: forgets what is remembered of that file.
    Remember {
        file: FileId,
        stamp: FileStamp,
        values: Option<Arc<[Digest]>>,
    },
    /// Closes a file opened by `OpenRead`.
    CloseRead { file: FileId },

    // ---- receiver
    /// lstat(2) and readlink(2) of a name; `Existing(None)` when there is none. `mtime`: what is to
    /// be there has this one. `sparse`: a file of that name that came from such a source has holes.
    Check {
        dir: DirId,
        name: Name,
        mtime: Mtime,
        sparse: bool,
    },
    /// Makes `name` in `parent` or opens the directory that is already there. A new one has a mode
    /// of its own until `SetDir` ([`UNFINISHED_MODE`]); `is_plain`: that of any new directory,
    /// which it keeps. One of this user's that he may not write is made writable until `SetDir` or
    /// `CloseDir`. Never through a symlink, unless `keep_dirlinks`, and then only through one that
    /// was made on this host (not received). `copy`: one that is made belongs to this copy until
    /// `SetDir` ends it.
    MakeDir {
        parent: DirId,
        name: Name,
        dir: DirId,
        keep_dirlinks: bool,
        is_plain: bool,
        copy: Option<CopyId>,
        fsync: bool,
    },
    /// The directory of `ResolveTarget` takes the place of one of a source, and is made writable as
    /// `MakeDir` would, until `CloseDir`.
    EnterTarget { dir: DirId },
    /// Gives a finished directory its mode (of it [`DIRECTORY_MODE`]) and mtime.
    SetDir {
        dir: DirId,
        mode: DirMode,
        mtime: Option<Mtime>,
        /// Nothing of this copy is missing: the directory is no longer its own.
        ends_copy: Option<CopyId>,
        fsync: bool,
    },
    /// Writes a whole small file under a temporary identity and publishes it atomically as `name`;
    /// of its mode [`FILE_MODE`]. `replaces`: something was seen there by `Check`; otherwise what
    /// is there by another spelling of the name is not replaced.
    PutSmall {
        dir: DirId,
        name: Name,
        data: Vec<Bytes>,
        attributes: Attributes,
        replaces: bool,
    },
    /// Makes a symlink, replacing a file or symlink of that name atomically, never a directory. Its
    /// mode is the file system's. `replaces` as in `PutSmall`.
    PutSymlink {
        dir: DirId,
        name: Name,
        target: Bytes,
        attributes: Attributes,
        replaces: bool,
    },
    /// Opens (or makes) the partial file of `name`, and takes its lock. `resumable`: the partial
    /// file and its journal have a name derived from `name` and survive a crash; otherwise they are
    /// anonymous. `is_plain`: with the mode of any new file, which it keeps.
    OpenPart {
        dir: DirId,
        name: Name,
        file: FileId,
        resumable: bool,
        is_plain: bool,
    },
    /// Starts a partial file over: empties it, sees whether it can fit at all where the file system
    /// keeps bytes as they are (ENOSPC), and writes `journal` as the journal's beginning. `sparse`:
    /// the source has holes and so much data; the partial file begins as one hole of its full size.
    StartPart {
        file: FileId,
        size_bytes: u64,
        sparse: Option<u64>,
        journal: Bytes,
    },
    /// Writes all of `data` at `offset` of a partial file.
    Write {
        file: FileId,
        offset: u64,
        data: Bytes,
    },
    /// Makes a range of a partial file read as zeros, whatever an earlier session left there.
    MakeHole {
        file: FileId,
        offset: u64,
        len_bytes: u64,
    },
    /// Reads back a partial file (to hash it again). Answered by `Read`.
    ReadPart {
        file: FileId,
        offset: u64,
        len_bytes: usize,
    },
    /// Writes `bytes` at `offset` of the journal. Never reordered before an earlier `Write` that
    /// completed.
    WriteJournal {
        file: FileId,
        offset: u64,
        bytes: Bytes,
    },
    /// Sets mode (of it [`FILE_MODE`]) and mtime, fsyncs if asked, renames the partial file to its
    /// final name (and fsyncs the directory if asked), removes the journal, closes. Where that
    /// fails, or the name is taken, the file stays open, only to be closed. `replaces` as in
    /// `PutSmall`.
    CommitPart {
        file: FileId,
        attributes: Attributes,
        replaces: bool,
    },
    /// Closes a partial file; `keep` leaves it and its journal for a later resume, else both are
    /// removed.
    ClosePart { file: FileId, keep: bool },
    /// Copies the next `len_bytes` of `from`, a file of the other side's, to the end of a partial
    /// file; blocks are shared where the file system can. Fewer are copied only at the source's
    /// end, or of an unsized one, of which none are at its end. `most_bytes`: the source has holes,
    /// which are no bytes to be copied and stay holes; up to so many are passed in all. EBADF where
    /// the sender closed it meanwhile, as it does when it stops. Only with
    /// [`super::Carriage::Copies`].
    CopyRange {
        file: FileId,
        from: FileId,
        len_bytes: u64,
        most_bytes: Option<u64>,
    },
    /// Which object a directory is.
    StatDir { dir: DirId },
    /// Which objects a directory and those it lies in are, up to the root or to the first that may
    /// not be entered.
    DirsAbove { dir: DirId },
    /// Removes a stale journal or partial file of `name` left by a crash between rename and
    /// clean-up.
    CleanPart { dir: DirId, name: Name },

    // ---- either
    /// Nothing: answered when others had their turn, so that long reckoning is cut into slices.
    Yield,
}

/// What a disk operation found. An answer is moved from hand to hand a dozen times, by calls of
/// memcpy(3) if it is large: what is rare and large is boxed.
#[derive(Debug)]
pub enum DiskDone {
    /// `ResolveTarget`: `name` is the new name of the single source, if it is to be renamed.
    Target { name: Option<Name> },
    /// `ResolveSource`: `name` None is the root directory itself.
    Source {
        name: Option<Name>,
        meta: Box<Meta>,
        link: Option<Bytes>,
        /// Reads of all sources so far are made in place, on the way: a memory file system, or a
        /// backend that does no other.
        in_place: bool,
    },
    /// `List`; `end` when nothing follows. An entry that could not be looked at carries its error.
    Listed { entries: Vec<Listed>, end: bool },
    /// `ReadSmall`: at most `max_bytes` and the metadata after reading.
    Small { data: Bytes, after: Meta },
    /// `OpenRead`, `Stat`, `StatDir`.
    Meta(Meta),
    /// `LookUnfinished`: the name it is to get, and its metadata, with what is there of it as its
    /// size. None: there is none any more, or the file beside it tells.
    Unfinished(Option<(Bytes, Meta)>),
    /// `DirsAbove`, the directory itself first.
    Above(Vec<ObjectId>),
    /// `CopyRange`; holes included.
    Copied { bytes: u64 },
    /// `Map`.
    Mapped(DataMap),
    /// `Recall`. None: nothing of this file is remembered, nor is to be.
    Recalled(Option<Box<Recalled>>),
    /// `Read`, `ReadOn`, `ReadPart`.
    Read { data: Bytes },
    /// `Pipe`: all of it. None: that cannot be had now, for whatever reason; a `Read` may say more.
    Piped(Option<super::KernelData>),
    /// `AwaitInput`.
    Input { is_ready: bool },
    /// `Check`.
    Existing(Option<Box<Existing>>),
    /// `MakeDir`: what was there before.
    Directory { found: DirFound },
    /// `PutSmall`, `PutSymlink`, `CommitPart`, `SetDir`: it is done, but for these attributes.
    Placed(Lapses),
    /// `Check`, `MakeDir`, `PutSmall`, `PutSymlink`, `CommitPart`: nothing was done, since the file
    /// system takes the name for this one, which something else has.
    Taken { by: Bytes },
    /// `OpenPart`: the journal as found (empty when new), the partial file's length, whether it is
    /// the only holder's (`false`: another session holds it; this one got an anonymous file and
    /// cannot resume), what holds its data until that is on disk.
    Part {
        journal: Bytes,
        size_bytes: u64,
        resumable: bool,
        storage: Storage,
    },
    /// `Yield`: nothing was done.
    Yielded,
    /// Everything else.
    Done,
}

/// What is remembered of the chunks of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recalled {
    pub stamp: FileStamp,
    /// Of all its chunks; None: nothing yet.
    pub values: Option<Arc<[Digest]>>,
}

/// What a file was when its chunks were hashed: whatever is written to it later, one of these is
/// another. The device and inode say which file, the rest says whether it is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileStamp {
    pub device: u64,
    pub inode: u64,
    pub size_bytes: u64,
    pub mtime: Mtime,
    /// When the inode last changed: nobody can put that back.
    pub ctime: Mtime,
}

/// What stands at a name of the destination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Existing {
    pub meta: Meta,
    /// A symlink's target.
    pub link: Option<Bytes>,
    /// A file whose data may be gone though its size and time are right: it came with a kernel or
    /// mount that is no more, and is not known to have reached the disk.
    pub in_doubt: bool,
    /// Its mtime is what the file system makes of the one that `Check` named; where the file system
    /// keeps none, that it is not older.
    pub has_mtime: bool,
}

impl Existing {
    /// What a device or FIFO is to a session that writes into it.
    pub const WRITTEN_INTO: Existing = Existing {
        meta: Meta {
            kind: Kind::Special,
            mode: 0,
            mtime: Mtime {
                seconds: 0,
                nanoseconds: 0,
            },
            size_bytes: 0,
            allocated_bytes: 0,
            inode: 0,
            device: 0,
            lasting: Lasting::Nothing,
            links: 1,
            is_sized: true,
        },
        link: None,
        in_doubt: false,
        has_mtime: false,
    };

    /// Whether it is what would be sent: a symlink by its target, a file as far as size and mtime
    /// tell.
    pub fn is_same(&self, kind: Kind, size_bytes: u64, link: Option<&Bytes>) -> bool {
        let same = self.meta.kind == kind && self.has_mtime;
        match link {
            Some(_) => same && self.link.as_ref() == link,
            None => same && self.meta.size_bytes == size_bytes && !self.in_doubt,
        }
    }
}

#[derive(Debug)]
pub struct Listed {
    /// Raw bytes; the sender checks them (file systems may hold names we cannot send).
    pub name: Bytes,
    pub found: Result<(Meta, Option<Bytes>), DiskError>,
}

impl DiskOp {
    /// The name or path that it is about, as far as it has one.
    pub fn about(&self) -> Option<&[u8]> {
        match self {
            DiskOp::ResolveTarget { path, .. } | DiskOp::ResolveSource { path, .. } => Some(path),
            DiskOp::LookUnfinished { name, .. } => Some(name),
            DiskOp::OpenDir { name, .. } => name.as_ref().map(Name::as_bytes),
            DiskOp::ReadSmall { name, .. }
            | DiskOp::OpenRead { name, .. }
            | DiskOp::Check { name, .. }
            | DiskOp::MakeDir { name, .. }
            | DiskOp::PutSmall { name, .. }
            | DiskOp::PutSymlink { name, .. }
            | DiskOp::OpenPart { name, .. }
            | DiskOp::CleanPart { name, .. } => Some(name.as_bytes()),
            DiskOp::CloseDir { .. }
            | DiskOp::List { .. }
            | DiskOp::Read { .. }
            | DiskOp::Pipe { .. }
            | DiskOp::Map { .. }
            | DiskOp::Recall { .. }
            | DiskOp::Remember { .. }
            | DiskOp::AwaitInput { .. }
            | DiskOp::ReadOn { .. }
            | DiskOp::Stat { .. }
            | DiskOp::CloseRead { .. }
            | DiskOp::EnterTarget { .. }
            | DiskOp::SetDir { .. }
            | DiskOp::StartPart { .. }
            | DiskOp::Write { .. }
            | DiskOp::MakeHole { .. }
            | DiskOp::ReadPart { .. }
            | DiskOp::WriteJournal { .. }
            | DiskOp::CommitPart { .. }
            | DiskOp::ClosePart { .. }
            | DiskOp::CopyRange { .. }
            | DiskOp::StatDir { .. }
            | DiskOp::DirsAbove { .. }
            | DiskOp::Yield => None,
        }
    }
}

/// Why a disk operation failed. The errno is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskError {
    /// The system call that failed, e.g. `"openat2"`.
    pub call: &'static str,
    pub errno: i32,
}

impl DiskError {
    /// An unfinished file of some session (EBUSY).
    pub const UNFINISHED: DiskError = DiskError {
        call: "unfinished file",
        errno: EBUSY,
    };

    /// A name of the form that unfinished files have, where nothing but the name would tell it from
    /// one (EINVAL).
    pub const OUR_FORM: DiskError = DiskError {
        call: "name of our form",
        errno: EINVAL,
    };

    /// A symlink that may have come from a peer stands where one of the user's own would be
    /// followed (ELOOP).
    pub const RECEIVED_LINK: DiskError = DiskError {
        call: "received symlink",
        errno: ELOOP,
    };

    /// A file system without a free inode (ENOSPC, as where it has no free block).
    pub const NO_INODES: DiskError = DiskError {
        call: "no inodes",
        errno: ENOSPC,
    };

    /// A file system without a free inode and without a free block (ENOSPC).
    pub const NOTHING_LEFT: DiskError = DiskError {
        call: "no inodes, no blocks",
        errno: ENOSPC,
    };

    /// A file that is shorter behind close(2) than what was written to it without an error (EIO).
    pub const NOT_STORED: DiskError = DiskError {
        call: "fstat behind close",
        errno: EIO,
    };

    /// The call of [`DiskOp::CopyRange`] that failed, where it is the source that did.
    pub const COPY_READ: &str = "read";

    /// What stands for the call where the directory that a daemon serves cannot be opened.
    pub const ROOT: &str = "the served directory";

    /// The same of the directory that a peer is confined to.
    pub const CONFINED: &str = "the directory of the peer's path=";

    /// The file system that a daemon served is not mounted any more: what is there now is what it
    /// hid.
    pub const UNMOUNTED: DiskError = DiskError {
        call: "mount",
        errno: ENODEV,
    };

    /// Whether it is about what the daemon serves, and not about what was asked for in it.
    pub fn is_of_root(&self) -> bool {
        [
            DiskError::ROOT,
            DiskError::CONFINED,
            DiskError::UNMOUNTED.call,
        ]
        .contains(&self.call)
    }
}
