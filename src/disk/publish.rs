//! From a temporary file to its final name: nothing appears under one before it is whole.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::{FileDone, FileOp, OpenHow};

use super::names::{TemporaryName, Use, c_string, free_names};
use super::workplace::TemporaryDir;
use super::{DiskDone, DiskError, Files};
use crate::ids::{DirId, Name};
use crate::proto::errno::{
    EBUSY, EDQUOT, EEXIST, EINVAL, EIO, EISDIR, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, EOPNOTSUPP,
    EROFS,
};
use crate::proto::fs::FILE_MODE;
use crate::proto::{Attributes, Kind, Lapses, Mtime, TimeLapse};

/// Others who use the same temporary name at the same time are outrun this often.
pub const TRIES: usize = 8;

/// What a file that is to keep it is made with, of which umask(2) takes its part.
const PLAIN_MODE: u32 = 0o666;

/// What a file is made with that gets its mode when it is whole.
const PRIVATE_MODE: u32 = 0o600;

pub fn new_mode(is_plain: bool) -> u32 {
    if is_plain { PLAIN_MODE } else { PRIVATE_MODE }
}

/// Gives a file or directory its attributes; what is refused is told and no failure.
pub async fn set_meta(
    files: &Files,
    dir: DirId,
    file: &Arc<OwnedFd>,
    attributes: Attributes,
) -> Result<Lapses, DiskError> {
    let Attributes { mode, mtime, .. } = attributes;
    let set = |mode, mtime: Option<Mtime>| {
        let mtime = mtime.map(|mtime| (mtime.seconds, mtime.nanoseconds));
        let file = file.clone();
        files.call("fchmod, futimens", FileOp::SetMeta { file, mode, mtime })
    };
    let mut lapses = Lapses::default();
    if mode.is_none() && mtime.is_none() {
        return Ok(lapses);
    }
    match set(mode, mtime).await {
        Ok(_) => {}
        Err(error) if !is_refusal(error.errno) => return Err(error),
        Err(_) => {
            // Which of the two?
            lapses.mode = refused(set(mode, None).await.map(drop))?;
            lapses.mtime = refused(set(None, mtime).await.map(drop))?.map(TimeLapse::Refused);
        }
    }
    if let (Some(mtime), None) = (mtime, lapses.mtime) {
        lapses.mtime = files.stored_time(dir, file, mtime).await?;
    }
    Ok(lapses)
}

/// Whether an attribute was refused, rather than that something is wrong with the disk or this
/// process. ENOENT is what servers say that follow a symlink which is to be given a time itself;
/// what is not there any more, the rename to its name tells.
pub fn is_refusal(errno: i32) -> bool {
    !matches!(
        errno,
        EIO | ENOSPC | EDQUOT | EROFS | EMFILE | ENFILE | ENOMEM
    )
}

/// The errno of an attribute that was refused.
pub fn refused(result: Result<(), DiskError>) -> Result<Option<i32>, DiskError> {
    match result {
        Ok(()) => Ok(None),
        Err(error) if is_refusal(error.errno) => Ok(Some(error.errno)),
        Err(error) => Err(error),
    }
}

/// Has a file system that tells of errors late tell them now. A descriptor of its own is closed, so
/// that the file stays open: NFS, FUSE and AFS store what they took at the close(2) of any. What
/// says nothing there may have lost data all the same; then the file is shorter than it should be.
async fn flush(files: &Files, file: &Arc<OwnedFd>, written_to: u64) -> Result<(), DiskError> {
    let closed = file.try_clone().map_err(|error| DiskError {
        call: "dup",
        errno: error.raw_os_error().unwrap_or(EIO),
    })?;
    let op = FileOp::Close { file: closed };
    files.call("close", op).await?;
    match files.fstat(file).await?.size < written_to {
        true => Err(DiskError::NOT_STORED),
        false => Ok(()),
    }
}

/// fsync(2) of a file or directory.
pub async fn sync(files: &Files, file: &Arc<OwnedFd>) -> Result<(), DiskError> {
    files
        .call(
            "fsync",
            FileOp::Fsync {
                file: file.clone(),
                data_only: false,
            },
        )
        .await?;
    Ok(())
}

pub async fn write_all(
    files: &Files,
    file: &Arc<OwnedFd>,
    mut offset: u64,
    mut data: Bytes,
) -> Result<(), DiskError> {
    while !data.is_empty() {
        let op = FileOp::Write {
            file: file.clone(),
            offset,
            data: data.clone(),
        };
        let FileDone::Written(bytes) = files.call("write", op).await? else {
            unreachable!("write answers Written")
        };
        if bytes == 0 {
            return Err(DiskError {
                call: "write",
                errno: EIO,
            });
        }
        offset += bytes as u64;
        data = data.slice(bytes..);
    }
    Ok(())
}

/// An unnamed file in `dir`, of which a crash leaves nothing. None: the file system has none.
pub async fn unnamed(
    files: &Files,
    dir: &TemporaryDir,
    mode: u32,
) -> Result<Option<Arc<OwnedFd>>, DiskError> {
    if dir.lacks.tmpfile.get() {
        return Ok(None);
    }
    let how = OpenHow {
        flags: flags::O_TMPFILE | flags::O_RDWR,
        mode,
        resolve: 0,
    };
    match files.open(Some(&dir.fd), b".", how).await {
        Ok(file) => Ok(Some(file)),
        // NFS and FUSE: EOPNOTSUPP; kernels or layers that do not know the flag: EISDIR, EINVAL
        // or ENOENT.
        Err(DiskError {
            errno: EOPNOTSUPP | EISDIR | EINVAL | ENOENT,
            ..
        }) => {
            dir.lacks.tmpfile.set(true);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An unnamed file in `dir`, or a named one where the file system has no O_TMPFILE.
pub async fn temporary(
    files: &Files,
    dir: &TemporaryDir,
    name: &Name,
    mode: u32,
) -> Result<(Arc<OwnedFd>, Option<TemporaryName>), DiskError> {
    if let Some(file) = unnamed(files, dir, mode).await? {
        return Ok((file, None));
    }
    for path in free_names(name, Use::Part) {
        let file = match open_locked(files, dir, &path, name, mode).await? {
            Locked::Ours(file) => file,
            // Others' files, or leftovers where files cannot be marked.
            Locked::Taken => continue,
            // Another session is writing the same file.
            Locked::Busy => {
                return Err(DiskError {
                    call: "flock",
                    errno: EBUSY,
                });
            }
        };
        let op = FileOp::Truncate {
            file: file.clone(),
            len: 0,
        };
        files.call("ftruncate", op).await?;
        return Ok((file, Some(path)));
    }
    Err(DiskError {
        call: "openat2",
        errno: EEXIST,
    })
}

/// A file in `dir` that is to have no name, or none any more.
pub async fn scratch(
    files: &Files,
    dir: &TemporaryDir,
    name: &Name,
) -> Result<Arc<OwnedFd>, DiskError> {
    let (file, path) = apart(files, dir, name).await?;
    if let Some(path) = path {
        unlink(files, &dir.fd, &path.to_c()).await?;
    }
    Ok(file)
}

/// A file in `dir` that is no transfer's, and its name, if it has to have one.
pub async fn apart(
    files: &Files,
    dir: &TemporaryDir,
    name: &Name,
) -> Result<(Arc<OwnedFd>, Option<TemporaryName>), DiskError> {
    if let Some(file) = unnamed(files, dir, PRIVATE_MODE).await? {
        return Ok((file, None));
    }
    let path = TemporaryName::random(Use::New);
    match files.open_own(dir, &path, name, PRIVATE_MODE).await? {
        Some(file) => Ok((file, Some(path))),
        None => Err(DiskError {
            call: "openat2",
            errno: EEXIST,
        }),
    }
}

/// What stands at a temporary name that was to be opened.
pub enum Locked {
    /// Our file, made just now or before; nobody else works on it.
    Ours(Arc<OwnedFd>),
    /// Another session works on it.
    Busy,
    /// Something that is not ours: another name has to do.
    Taken,
}

/// Opens or makes a temporary file and takes its lock.
pub async fn open_locked(
    files: &Files,
    dir: &TemporaryDir,
    path: &TemporaryName,
    name: &Name,
    mode: u32,
) -> Result<Locked, DiskError> {
    let typed = path.to_c();
    for _ in 0..TRIES {
        let Some(fd) = files.open_own(dir, path, name, mode).await? else {
            return Ok(Locked::Taken);
        };
        if !files.lock(&fd).await? {
            return Ok(Locked::Busy);
        }
        // The previous holder may have renamed or removed the file between our open and our lock.
        let ours = files.fstat(&fd).await?;
        match files.lstat(&dir.fd, typed.as_bytes()).await {
            Ok(named) if named.inode == ours.ino && named.kind == Kind::File => {
                return Ok(Locked::Ours(fd));
            }
            // Inode numbers that are made up anew each time (sshfs, some NFS) tell nothing.
            Ok(named)
                if named.kind == Kind::File
                    && files
                        .lstat(&dir.fd, typed.as_bytes())
                        .await
                        .is_ok_and(|again| {
                            again.inode != named.inode && again.kind == Kind::File
                        }) =>
            {
                return Ok(Locked::Ours(fd));
            }
            Ok(_) | Err(DiskError { errno: ENOENT, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Locked::Busy)
}

/// A whole file that is to appear.
pub struct Arrival<'a> {
    pub dir_id: DirId,
    pub dir: &'a Arc<OwnedFd>,
    pub file: &'a Arc<OwnedFd>,
    /// Its temporary name, if it has one.
    pub temporary: Option<&'a TemporaryName>,
    pub name: &'a Name,
    /// This session wrote all of it.
    pub is_whole: bool,
    pub is_empty: bool,
    /// Where what this session wrote ends.
    pub written_to: u64,
    /// Something was seen at its name.
    pub replaces: bool,
}

/// Attributes, then durability if asked, then the name.
pub async fn finish(
    files: &Files,
    arrival: &Arrival<'_>,
    attributes: Attributes,
) -> Result<DiskDone, DiskError> {
    let of_files = Attributes {
        mode: attributes.mode.map(|mode| mode & FILE_MODE),
        ..attributes
    };
    let lapses = set_meta(files, arrival.dir_id, arrival.file, of_files).await?;
    if attributes.fsync {
        sync(files, arrival.file).await?;
    }
    if files.tells_late(arrival.dir_id) {
        flush(files, arrival.file, arrival.written_to).await?;
    }
    if let Some(by) = publish(files, arrival, attributes.fsync || arrival.is_empty).await? {
        return Ok(DiskDone::Taken { by });
    }
    if arrival.temporary.is_some() {
        let dir = files.temporary_dir(arrival.dir_id, arrival.dir);
        files.unmark_file(&dir, arrival.file).await;
    }
    if attributes.fsync {
        sync(files, arrival.dir).await?;
    }
    Ok(DiskDone::Placed(lapses))
}

/// Gives a whole file its final name, replacing a file or symlink, never a directory; unless the
/// name is taken. `is_safe`: a power cut cannot part the name from the data.
async fn publish(
    files: &Files,
    arrival: &Arrival<'_>,
    is_safe: bool,
) -> Result<Option<Bytes>, DiskError> {
    let to = c_string(arrival.name.as_bytes())?;
    may_have_name(files, arrival).await?;
    if !is_safe {
        files
            .before_naming(arrival.dir_id, arrival.file, arrival.is_whole)
            .await?;
    }
    let temporary = arrival.temporary.map(TemporaryName::to_c);
    let named = match &temporary {
        Some(temporary) => {
            rename(files, arrival.dir, temporary, &to, flags::RENAME_NOREPLACE).await
        }
        None => link(files, arrival.file, arrival.dir, &to).await,
    };
    match named {
        Ok(()) => {
            files.has_named(arrival.dir_id, arrival.name);
            return Ok(None);
        }
        Err(DiskError { errno: EEXIST, .. }) => {}
        // RENAME_NOREPLACE is EINVAL where the file system does not know it.
        Err(DiskError { errno: EINVAL, .. }) if !is_of_our_form(arrival.name) => {}
        Err(error) => return Err(error),
    }
    let _naming = files.naming(arrival.dir_id, arrival.name).await;
    if !arrival.replaces {
        let taken = files.taken_unseen(arrival.dir_id, arrival.dir, arrival.name);
        if let Some(by) = taken.await? {
            return Ok(Some(by));
        }
    }
    may_replace(files, arrival.dir, arrival.name).await?;
    if !is_safe {
        files.before_replacing(arrival.dir_id, arrival.file).await?;
    }
    match &temporary {
        Some(temporary) => rename(files, arrival.dir, temporary, &to, 0).await?,
        None => replace(files, arrival, &to).await?,
    }
    files.has_named(arrival.dir_id, arrival.name);
    Ok(None)
}

impl Files {
    /// Something has a name by now.
    pub(super) fn has_named(&self, dir: DirId, name: &Name) {
        self.space.with_names(dir, |names| {
            if let Some(names) = names {
                names.add(name);
            }
        });
    }

    /// Where nothing was seen at a name before, and there is something now: what has it, if it is
    /// by another spelling. By the same one it is another session's, and the later one counts.
    pub(super) async fn taken_unseen(
        &self,
        dir: DirId,
        fd: &Arc<OwnedFd>,
        name: &Name,
    ) -> Result<Option<Bytes>, DiskError> {
        if !self.may_fold(dir, name) {
            return Ok(None);
        }
        match self.lstat(fd, name.as_bytes()).await {
            Ok(found) => self.owner_of(dir, fd, name, &found).await,
            Err(DiskError { errno: ENOENT, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_of_our_form(name: &Name) -> bool {
    TemporaryName::parse(name.as_bytes()).is_some()
}

/// Where files cannot be marked, a peer that has one named as ours could have it taken for ours.
async fn may_have_name(files: &Files, arrival: &Arrival<'_>) -> Result<(), DiskError> {
    match is_of_our_form(arrival.name) && !files.keeps_attributes(arrival.dir).await {
        true => Err(DiskError::OUR_FORM),
        false => Ok(()),
    }
}

/// An unfinished file of a session is not replaced: that session would publish what stands there.
/// Between this look and the rename none can come, for the name is taken, and no session takes a
/// name from what is not its own.
pub async fn may_replace(files: &Files, dir: &Arc<OwnedFd>, name: &Name) -> Result<(), DiskError> {
    match is_of_our_form(name) && files.is_unfinished(dir, name.as_bytes()).await? {
        true => Err(DiskError::UNFINISHED),
        false => Ok(()),
    }
}

/// linkat(2) cannot replace: a second name, then a rename. A crash between the two leaves that
/// second name with our mark, and the next transfer of this file removes it.
async fn replace(files: &Files, arrival: &Arrival<'_>, to: &CString) -> Result<(), DiskError> {
    let dir = files.temporary_dir(arrival.dir_id, arrival.dir);
    files.mark_file(&dir, arrival.file, arrival.name).await?;
    rename_over(files, arrival, to).await?;
    files.unmark_file(&dir, arrival.file).await;
    Ok(())
}

/// The second name is this session's as long as the file is locked: one that another session took
/// away could not be had again (linkat(2) names no file whose last name is gone), and one that it
/// put its own file under would be renamed in place of ours.
async fn rename_over(files: &Files, arrival: &Arrival<'_>, to: &CString) -> Result<(), DiskError> {
    let Arrival {
        dir, file, name, ..
    } = arrival;
    // Nobody else has ever seen it. A file system without locks gives nobody else one either.
    let _ = files.lock(file).await;
    for path in free_names(name, Use::New) {
        let replacement = path.to_c();
        match link(files, file, dir, &replacement).await {
            Ok(()) => {}
            Err(DiskError { errno: EEXIST, .. }) => {
                if !remove_left(files, dir, &replacement).await? {
                    continue;
                }
                match link(files, file, dir, &replacement).await {
                    Err(DiskError { errno: EEXIST, .. }) => continue,
                    other => other?,
                }
            }
            Err(error) => return Err(error),
        }
        let named = rename(files, dir, &replacement, to, 0).await;
        if named.is_err() {
            // Where that fails, too, the file is still marked, and removed by the next one.
            let _ = unlink(files, dir, &replacement).await;
        }
        return named;
    }
    Err(DiskError {
        call: "renameat",
        errno: EBUSY,
    })
}

/// Removes a second name that a crash left. False: it is not ours, or a session is at work under
/// it.
async fn remove_left(files: &Files, dir: &Arc<OwnedFd>, path: &CString) -> Result<bool, DiskError> {
    let Some(left) = files.unfinished(dir, path.as_bytes()).await? else {
        return Ok(false);
    };
    // An error is that of a file system without locks, where a session may be at work.
    if !matches!(files.lock(&left.file).await, Ok(true)) {
        return Ok(false);
    }
    // Between our open and our lock its session may have renamed it, and another one begun here.
    let ours = files.fstat(&left.file).await?;
    match files.lstat(dir, path.as_bytes()).await {
        Ok(named) if named.inode == ours.ino => {}
        Ok(_) | Err(DiskError { errno: ENOENT, .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    unlink(files, dir, path).await?;
    Ok(true)
}

pub async fn link(
    files: &Files,
    file: &Arc<OwnedFd>,
    to_dir: &Arc<OwnedFd>,
    to: &CString,
) -> Result<(), DiskError> {
    let op = FileOp::Link {
        file: file.clone(),
        to_dir: Some(to_dir.clone()),
        to: to.clone(),
    };
    files.call("linkat", op).await?;
    Ok(())
}

pub async fn rename(
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

pub async fn unlink(files: &Files, dir: &Arc<OwnedFd>, path: &CString) -> Result<(), DiskError> {
    let op = FileOp::Unlink {
        dir: Some(dir.clone()),
        path: path.clone(),
        is_dir: false,
    };
    match files.call("unlinkat", op).await {
        Ok(_) | Err(DiskError { errno: ENOENT, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
