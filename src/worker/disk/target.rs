//! The receiver's disk operations: nothing appears under its final name before it is whole.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::{FileDone, FileOp, Flock, OpenHow, Slab};

use super::dirlinks;
use super::names::{self, c_string, refuse_reserved};
use super::source::{relative, split_path};
use super::space::{Base, History, OpenFile, Part};
use super::{DiskDone, DiskError, Files};
use crate::proto::{Existing, Kind, Mtime};
use crate::units::{DirId, FileId, Name};

const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const ELOOP: i32 = 40;
const EOPNOTSUPP: i32 = 95;

/// Mode bits a file gets. Never setuid or setgid: owners do not travel, so another user's setuid program would become
/// ours, and root's where root receives.
const FILE_MODE: u32 = 0o1777;

/// Mode bits a directory gets: on it setgid only hands down the group, and sticky protects.
const DIRECTORY_MODE: u32 = 0o3777;

/// Longest journal read back: the header and 65,536 records of 40 bytes.
const MAX_JOURNAL_BYTES: usize = 3 << 20;

/// Others who use the same temporary name at the same time are outrun this often.
const TRIES: usize = 8;

/// Data that will be waited for is written back in steps of this, while more arrives: a disk is kept busy by some MiB.
const WRITE_BACK_BYTES: u64 = 8 << 20;

/// What a file gets before it appears.
#[derive(Clone, Copy)]
pub struct Attributes {
    pub mode: u32,
    pub mtime: Mtime,
    pub fsync: bool,
}

pub async fn resolve(
    files: &Files,
    path: &[u8],
    must_be_dir: bool,
    dir: DirId,
) -> Result<DiskDone, DiskError> {
    refuse_reserved(path)?;
    match files.open_asked(path).await {
        Ok(fd) => {
            dirlinks::refuse_received_target(files, path).await?;
            add_target(files, path, fd, dir).await?;
            return Ok(DiskDone::Target { name: None });
        }
        Err(DiskError { errno: ENOENT | ENOTDIR, .. }) => {}
        // A symlink to nowhere, or around in circles, is a name like any other: rename replaces it.
        Err(DiskError { errno: ELOOP, .. }) => {}
        Err(error) => return Err(error),
    }
    let (parent_path, name, trailing_slash) = match files.space.base() {
        Base::Served(_) => split_path(relative(path)),
        Base::Local => split_path(path),
    };
    let Some(name) = name else { return Err(DiskError { call: "openat2", errno: ENOENT }) };
    let parent = files.open_asked(parent_path).await?;
    if must_be_dir || trailing_slash {
        let op = FileOp::Mkdir { dir: Some(parent.clone()), path: c_string(name)?, mode: 0o777 };
        match files.call("mkdirat", op).await {
            // Something that is no directory stands there.
            Err(DiskError { errno: EEXIST, .. }) => {
                return Err(DiskError { call: "openat2", errno: ENOTDIR });
            }
            other => other?,
        };
        let fd = files.open_dir_below(&parent, name).await?;
        add_target(files, path, fd, dir).await?;
        return Ok(DiskDone::Target { name: None });
    }
    let name = Name::new(Bytes::copy_from_slice(name)).map_err(|_| DiskError { call: "path", errno: 36 })?;
    add_target(files, parent_path, parent, dir).await?;
    Ok(DiskDone::Target { name: Some(name) })
}

/// Nothing of the transfer is looked for above the directory that the sources land in.
async fn add_target(files: &Files, path: &[u8], fd: Arc<OwnedFd>, dir: DirId) -> Result<(), DiskError> {
    files.learn_file_system(&fd).await?;
    files.stand_on_target(dir, &fd).await?;
    let path = match files.space.base() {
        Base::Served(_) => trim_slashes(relative(path)).to_vec(),
        Base::Local => Vec::new(),
    };
    files.space.add_target(dir, path, fd);
    Ok(())
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
    if &path[..end] == b"." { b"" } else { &path[..end] }
}

pub async fn check(files: &Files, dir: DirId, name: &Name) -> Result<DiskDone, DiskError> {
    let fd = files.dir(dir).await?;
    let meta = match files.lstat(&fd, name.as_bytes()).await {
        Ok(meta) => meta,
        Err(DiskError { errno: ENOENT, .. }) => return Ok(DiskDone::Existing(None)),
        Err(error) => return Err(error),
    };
    let link = match meta.kind {
        Kind::Symlink => Some(files.readlink(&fd, name.as_bytes()).await?),
        Kind::File | Kind::Directory | Kind::Special => None,
    };
    let in_doubt = meta.kind == Kind::File && !files.is_sound(dir, name, meta.size_bytes).await?;
    Ok(DiskDone::Existing(Some(Existing { meta, link, in_doubt })))
}

pub async fn set_dir(files: &Files, dir: DirId, attributes: Attributes) -> Result<DiskDone, DiskError> {
    let fd = files.dir(dir).await?;
    set_meta(files, &fd, Attributes { mode: attributes.mode & DIRECTORY_MODE, ..attributes }).await?;
    if attributes.fsync {
        sync(files, &fd).await?;
    }
    Ok(DiskDone::Done)
}

async fn set_meta(files: &Files, file: &Arc<OwnedFd>, attributes: Attributes) -> Result<(), DiskError> {
    let mtime = Some((attributes.mtime.seconds, attributes.mtime.nanoseconds));
    let op = FileOp::SetMeta { file: file.clone(), mode: Some(attributes.mode), mtime };
    files.call("fchmod, futimens", op).await?;
    Ok(())
}

/// fsync(2) of a file or directory.
pub(super) async fn sync(files: &Files, file: &Arc<OwnedFd>) -> Result<(), DiskError> {
    files.call("fsync", FileOp::Fsync { file: file.clone(), data_only: false }).await?;
    Ok(())
}

async fn write_all(
    files: &Files,
    file: &Arc<OwnedFd>,
    mut offset: u64,
    mut data: Bytes,
) -> Result<(), DiskError> {
    while !data.is_empty() {
        let op = FileOp::Write { file: file.clone(), offset, data: data.clone() };
        let FileDone::Written(bytes) = files.call("write", op).await? else {
            unreachable!("write answers Written")
        };
        if bytes == 0 {
            return Err(DiskError { call: "write", errno: super::libc_eio() });
        }
        offset += bytes as u64;
        data = data.slice(bytes..);
    }
    Ok(())
}

/// An unnamed file in `dir` (a crash leaves nothing), or a named one where the file system has no O_TMPFILE.
async fn temporary(
    files: &Files,
    dir: &Arc<OwnedFd>,
    name: &Name,
) -> Result<(Arc<OwnedFd>, Option<CString>), DiskError> {
    if !files.space.no_tmpfile.get() {
        let how = OpenHow { flags: flags::O_TMPFILE | flags::O_RDWR, mode: 0o600, resolve: 0 };
        match files.open(Some(dir), b".", how).await {
            Ok(fd) => return Ok((fd, None)),
            // NFS and FUSE: EOPNOTSUPP; kernels or layers that do not know the flag: EISDIR, EINVAL or ENOENT.
            Err(DiskError { errno: EOPNOTSUPP | EISDIR | EINVAL | ENOENT, .. }) => {
                files.space.no_tmpfile.set(true)
            }
            Err(error) => return Err(error),
        }
    }
    let part = names::part(name);
    match open_locked(files, dir, &part).await? {
        Some(fd) => {
            files.call("ftruncate", FileOp::Truncate { file: fd.clone(), len: 0 }).await?;
            Ok((fd, Some(part)))
        }
        // Another session is writing the same file: EBUSY.
        None => Err(DiskError { call: "flock", errno: 16 }),
    }
}

/// Opens or makes a temporary file and takes its lock. None: somebody else has the lock.
async fn open_locked(
    files: &Files,
    dir: &Arc<OwnedFd>,
    path: &CString,
) -> Result<Option<Arc<OwnedFd>>, DiskError> {
    for _ in 0..TRIES {
        let fd = open_own(files, dir, path).await?;
        match files.call("flock", FileOp::Lock { file: fd.clone(), how: Flock::Exclusive }).await? {
            FileDone::Locked(true) => {}
            _ => return Ok(None),
        }
        // The previous holder may have renamed or removed the file between our open and our lock.
        let ours = files.fstat(&fd).await?;
        match files.lstat(dir, path.as_bytes()).await {
            Ok(named) if named.inode == ours.ino && named.kind == Kind::File => return Ok(Some(fd)),
            Ok(named) if named.kind != Kind::File => {
                return Err(DiskError { call: "openat2", errno: EEXIST });
            }
            Ok(_) | Err(DiskError { errno: ENOENT, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Opens a temporary file that we made, or makes it. What somebody else put there under its name goes: whoever owns the
/// file, or has another name for it, could read or change what we publish, or have us overwrite a file of ours.
async fn open_own(files: &Files, dir: &Arc<OwnedFd>, path: &CString) -> Result<Arc<OwnedFd>, DiskError> {
    let how = |create| OpenHow {
        flags: create | flags::O_RDWR | flags::O_NOFOLLOW | flags::O_NONBLOCK,
        mode: 0o600,
        resolve: flags::RESOLVE_BENEATH,
    };
    for _ in 0..TRIES {
        match files.open(Some(dir), path.as_bytes(), how(flags::O_CREAT | flags::O_EXCL)).await {
            Err(DiskError { errno: EEXIST, .. }) => {}
            other => return other,
        }
        match files.open(Some(dir), path.as_bytes(), how(0)).await {
            Ok(fd) => {
                let found = files.fstat(&fd).await?;
                let ours = found.uid == landro_sys::process::effective_uid() && found.nlink <= 1;
                if ours && found.kind == landro_sys::FileKind::File {
                    return Ok(fd);
                }
            }
            Err(DiskError { errno: ENOENT, .. }) => continue,
            // A symlink; a file we may not open.
            Err(DiskError { errno: ELOOP | EACCES, .. }) => {}
            Err(error) => return Err(error),
        }
        unlink(files, dir, path).await?;
    }
    Err(DiskError { call: "openat2", errno: EEXIST })
}

/// A whole file that is to appear.
struct Arrival<'a> {
    dir_id: DirId,
    dir: &'a Arc<OwnedFd>,
    file: &'a Arc<OwnedFd>,
    /// Its temporary name, if it has one.
    temporary: Option<&'a CString>,
    name: &'a Name,
    /// This session wrote all of it.
    is_whole: bool,
    is_empty: bool,
}

/// Attributes, then durability if asked, then the name.
async fn finish(files: &Files, arrival: &Arrival<'_>, attributes: Attributes) -> Result<(), DiskError> {
    set_meta(files, arrival.file, Attributes { mode: attributes.mode & FILE_MODE, ..attributes }).await?;
    if attributes.fsync {
        sync(files, arrival.file).await?;
    }
    publish(files, arrival, attributes.fsync || arrival.is_empty).await?;
    if attributes.fsync {
        sync(files, arrival.dir).await?;
    }
    Ok(())
}

/// Gives a whole file its final name, replacing a file or symlink, never a directory. `is_safe`: a power cut cannot part
/// the name from the data.
async fn publish(files: &Files, arrival: &Arrival<'_>, is_safe: bool) -> Result<(), DiskError> {
    let to = c_string(arrival.name.as_bytes())?;
    if !is_safe {
        files.before_naming(arrival.dir_id, arrival.file, arrival.is_whole).await?;
    }
    let named = match arrival.temporary {
        Some(temporary) => rename(files, arrival.dir, temporary, &to, flags::RENAME_NOREPLACE).await,
        None => link(files, arrival.file, arrival.dir, &to).await,
    };
    match named {
        // RENAME_NOREPLACE is EINVAL where the file system does not know it.
        Err(DiskError { errno: EEXIST | EINVAL, .. }) => {}
        other => return other,
    }
    if !is_safe {
        files.before_replacing(arrival.dir_id, arrival.file).await?;
    }
    match arrival.temporary {
        Some(temporary) => rename(files, arrival.dir, temporary, &to, 0).await,
        None => replace(files, arrival, &to).await,
    }
}

/// linkat(2) cannot replace: a second name, then a rename. A crash between the two leaves that second name, which the next
/// transfer of this file replaces.
async fn replace(files: &Files, arrival: &Arrival<'_>, to: &CString) -> Result<(), DiskError> {
    let Arrival { dir, file, name, .. } = arrival;
    let replacement = names::replacement(name);
    for _ in 0..TRIES {
        match link(files, file, dir, &replacement).await {
            Ok(()) => {}
            Err(DiskError { errno: EEXIST, .. }) => {
                unlink(files, dir, &replacement).await?;
                continue;
            }
            Err(error) => return Err(error),
        }
        match rename(files, dir, &replacement, to, 0).await {
            Ok(()) => return Ok(()),
            // Another session replacing the same file took our second name away: again.
            Err(DiskError { errno: ENOENT, .. }) => {}
            Err(error) => {
                unlink(files, dir, &replacement).await?;
                return Err(error);
            }
        }
    }
    Err(DiskError { call: "renameat", errno: 16 })
}

async fn link(
    files: &Files,
    file: &Arc<OwnedFd>,
    to_dir: &Arc<OwnedFd>,
    to: &CString,
) -> Result<(), DiskError> {
    let op = FileOp::Link { file: file.clone(), to_dir: Some(to_dir.clone()), to: to.clone() };
    files.call("linkat", op).await?;
    Ok(())
}

async fn rename(
    files: &Files,
    dir: &Arc<OwnedFd>,
    from: &CString,
    to: &CString,
    flags: u32,
) -> Result<(), DiskError> {
    let op = FileOp::Rename {
        from_dir: Some(dir.clone()),
        from: from.clone(),
        to_dir: Some(dir.clone()),
        to: to.clone(),
        flags,
    };
    files.call("renameat", op).await?;
    Ok(())
}

async fn unlink(files: &Files, dir: &Arc<OwnedFd>, path: &CString) -> Result<(), DiskError> {
    let op = FileOp::Unlink { dir: Some(dir.clone()), path: path.clone(), is_dir: false };
    match files.call("unlinkat", op).await {
        Ok(_) | Err(DiskError { errno: ENOENT, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

pub async fn put_small(
    files: &Files,
    dir_id: DirId,
    name: &Name,
    data: Vec<Bytes>,
    attributes: Attributes,
) -> Result<DiskDone, DiskError> {
    let dir = files.dir(dir_id).await?;
    let (file, temporary) = temporary(files, &dir, name).await?;
    let result = async {
        let mut offset = 0;
        for piece in data {
            let len = piece.len() as u64;
            write_all(files, &file, offset, piece).await?;
            offset += len;
        }
        let arrival = Arrival {
            dir_id,
            dir: &dir,
            file: &file,
            temporary: temporary.as_ref(),
            name,
            is_whole: true,
            is_empty: offset == 0,
        };
        finish(files, &arrival, attributes).await
    };
    let result = result.await;
    if let (Err(_), Some(temporary)) = (&result, &temporary) {
        unlink(files, &dir, temporary).await?;
    }
    result.map(|()| DiskDone::Done)
}

pub async fn put_symlink(
    files: &Files,
    dir: DirId,
    name: &Name,
    target: &Bytes,
    mtime: Mtime,
    fsync: bool,
) -> Result<DiskDone, DiskError> {
    let dir = files.dir(dir).await?;
    let temporary = names::replacement(name);
    unlink(files, &dir, &temporary).await?;
    let op = FileOp::Symlink { target: c_string(target)?, dir: Some(dir.clone()), path: temporary.clone() };
    files.call("symlinkat", op).await?;
    let mtime = (mtime.seconds, mtime.nanoseconds);
    let time = FileOp::SetLinkTime { dir: Some(dir.clone()), path: temporary.clone(), mtime };
    let result = async {
        files.call("utimensat", time).await?;
        dirlinks::mark_received(files, &dir, &temporary, mtime).await?;
        rename(files, &dir, &temporary, &c_string(name.as_bytes())?, 0).await?;
        // A symlink cannot be opened to be synced; with its directory's new name the kernel writes the link itself.
        if fsync { sync(files, &dir).await } else { Ok(()) }
    };
    match result.await {
        Ok(()) => Ok(DiskDone::Done),
        Err(error) => {
            unlink(files, &dir, &temporary).await?;
            Err(error)
        }
    }
}

pub async fn open_part(
    files: &Files,
    dir_id: DirId,
    name: &Name,
    file: FileId,
    resumable: bool,
) -> Result<DiskDone, DiskError> {
    let dir = files.dir(dir_id).await?;
    let history = Rc::new(History::default());
    history.replaces.set(files.lstat(&dir, name.as_bytes()).await.is_ok());
    if resumable {
        let path = names::part(name);
        if let Some(data) = open_locked(files, &dir, &path).await? {
            files.space.allowance.keep(&data)?;
            let name = name.clone();
            let part = Part { data, dir, dir_id, name, journal: None, temporary: Some(path), history };
            return open_resumable(files, file, part).await;
        }
        // Another session is receiving the same file: this one goes on without a journal, the later rename wins.
    }
    let (data, temporary) = temporary(files, &dir, name).await?;
    files.space.allowance.keep(&data)?;
    let storage = files.storage_of(&files.fstat(&data).await?);
    let part = Part { data, dir, dir_id, name: name.clone(), journal: None, temporary, history };
    files.space.add_file(file, OpenFile::Part(part));
    Ok(DiskDone::Part { journal: Bytes::new(), size_bytes: 0, resumable: false, storage })
}

async fn open_resumable(files: &Files, file: FileId, mut part: Part) -> Result<DiskDone, DiskError> {
    let journal = open_own(files, &part.dir, &names::journal(&part.name)).await?;
    files.space.allowance.keep(&journal)?;
    let journal_bytes = files.fstat(&journal).await?.size as usize;
    let mut bytes = read_whole(files, &journal, journal_bytes.min(MAX_JOURNAL_BYTES)).await?;
    let found = files.fstat(&part.data).await?;
    // What the page cache still has may have failed to reach the disk since it was written: the error, if nobody saw it
    // yet, is told here, once (fsync(2)), and then nothing of the file is believed.
    let flush = FileOp::Fsync { file: part.data.clone(), data_only: true };
    if !bytes.is_empty() && files.call("fdatasync", flush).await.is_err() {
        bytes = Bytes::new();
    }
    part.journal = Some(journal);
    files.space.add_file(file, OpenFile::Part(part));
    let storage = files.storage_of(&found);
    Ok(DiskDone::Part { journal: bytes, size_bytes: found.size, resumable: true, storage })
}

async fn read_whole(files: &Files, file: &Arc<OwnedFd>, len_bytes: usize) -> Result<Bytes, DiskError> {
    let mut whole = Vec::with_capacity(len_bytes);
    while whole.len() < len_bytes {
        // One at a time: who waited for a second one holding a first could wait for others who do the same.
        let buffer = files.buffer().await;
        let len = (len_bytes - whole.len()).min(Slab::BUFFER_BYTES);
        let op = FileOp::Read { file: file.clone(), offset: whole.len() as u64, buffer, len };
        let FileDone::Read { mut buffer, bytes } = files.call("read", op).await? else {
            unreachable!("read answers Read")
        };
        buffer.advance(bytes);
        whole.extend_from_slice(&buffer.split());
        if bytes == 0 {
            break;
        }
    }
    Ok(whole.into())
}

fn part(files: &Files, file: FileId) -> Result<Part, DiskError> {
    match files.space.file(file)? {
        OpenFile::Part(part) => Ok(part),
        OpenFile::Source(_) => Err(DiskError { call: "file", errno: 9 }),
    }
}

pub async fn start_part(
    files: &Files,
    file: FileId,
    size_bytes: u64,
    journal: Bytes,
) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    if let Some(journal) = &part.journal {
        // The journal is emptied before the data: a crash in between must not leave records of data that is gone.
        files.call("ftruncate", FileOp::Truncate { file: journal.clone(), len: 0 }).await?;
    }
    files.call("ftruncate", FileOp::Truncate { file: part.data.clone(), len: 0 }).await?;
    part.history.whole.set(true);
    // Nothing is reserved: blocks of the full size would let a power cut leave zeros of that size, defeat ext4's and
    // btrfs's care of renamed files, and cost tmpfs its whole writing before the first byte. That a file cannot fit at
    // all is known for less.
    let found = files.call("fstatfs", FileOp::StatFs { file: part.data.clone() }).await?;
    // A file system without a limit says that it has no blocks at all.
    if let FileDone::FileSystem(found) = found
        && found.total_bytes > 0
        && found.free_bytes < size_bytes
    {
        return Err(DiskError { call: "fstatfs", errno: ENOSPC });
    }
    if let Some(file) = &part.journal {
        write_all(files, file, 0, journal).await?;
    }
    Ok(DiskDone::Done)
}

pub async fn write(files: &Files, file: FileId, offset: u64, data: Bytes) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    let bytes = data.len() as u64;
    write_all(files, &part.data, offset, data).await?;
    wrote(files, &part, bytes).await;
    Ok(DiskDone::Done)
}

/// So much more of a part was written: what the disk will be waited for begins to go there.
pub async fn wrote(files: &Files, part: &Part, bytes: u64) {
    let unwritten_bytes = part.history.unwritten_bytes.get() + bytes;
    part.history.unwritten_bytes.set(unwritten_bytes);
    if unwritten_bytes >= WRITE_BACK_BYTES
        && part.history.is_awaited()
        && !files.space.is_memory_file_system()
    {
        part.history.unwritten_bytes.set(0);
        // What fails here fails again, and is told, where it is waited for.
        let file = part.data.clone();
        let _ = files.call("sync_file_range", FileOp::SyncRange { file, wait: false }).await;
    }
}

pub async fn write_journal(
    files: &Files,
    file: FileId,
    offset: u64,
    bytes: Bytes,
) -> Result<DiskDone, DiskError> {
    if let Some(journal) = &part(files, file)?.journal {
        write_all(files, journal, offset, bytes).await?;
    }
    Ok(DiskDone::Done)
}

pub async fn commit_part(files: &Files, file: FileId, attributes: Attributes) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    let arrival = Arrival {
        dir_id: part.dir_id,
        dir: &part.dir,
        file: &part.data,
        temporary: part.temporary.as_ref(),
        name: &part.name,
        is_whole: part.history.whole.get(),
        is_empty: false,
    };
    finish(files, &arrival, attributes).await?;
    if part.journal.is_some() {
        // After the rename: a crash in between leaves an orphan journal, which `clean_part` removes when the
        // next run skips the finished file. The other order could lose the resume state of a whole file.
        unlink(files, &part.dir, &names::journal(&part.name)).await?;
    }
    files.space.forget_file(file);
    Ok(DiskDone::Done)
}

pub async fn close_part(files: &Files, file: FileId, keep: bool) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    files.space.forget_file(file);
    if let (false, Some(temporary)) = (keep && part.journal.is_some(), &part.temporary) {
        if part.journal.is_some() {
            unlink(files, &part.dir, &names::journal(&part.name)).await?;
        }
        unlink(files, &part.dir, temporary).await?;
    }
    Ok(DiskDone::Done)
}

pub async fn clean_part(files: &Files, dir: DirId, name: &Name) -> Result<DiskDone, DiskError> {
    let dir = files.dir(dir).await?;
    let path = names::part(name);
    let how = OpenHow {
        flags: flags::O_RDONLY | flags::O_NOFOLLOW | flags::O_NONBLOCK,
        mode: 0,
        resolve: flags::RESOLVE_BENEATH,
    };
    match files.open(Some(&dir), path.as_bytes(), how).await {
        Ok(fd) => {
            if !matches!(
                files.call("flock", FileOp::Lock { file: fd.clone(), how: Flock::Exclusive }).await?,
                FileDone::Locked(true)
            ) {
                return Ok(DiskDone::Done);
            }
            unlink(files, &dir, &names::journal(name)).await?;
            unlink(files, &dir, &path).await?;
        }
        Err(DiskError { errno: ENOENT, .. }) => unlink(files, &dir, &names::journal(name)).await?,
        Err(error) => return Err(error),
    }
    Ok(DiskDone::Done)
}
