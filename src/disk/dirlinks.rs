//! Directories of a transfer that are symlinks at the destination: an error, or the user's own and
//! kept (`--keep-dirlinks`).
//!
//! A peer can have symlinks made here, with any target. If one of them were ever taken for a
//! directory, a later entry, or a later run, would write where it leads: beside what was asked for.
//! So only links that were made on this host are followed, and only when the user asks for it. The
//! file system tells the two apart: a link that was made here has the time of its making as its
//! time of modification, one that was received has the time its source had. (A link that was
//! restored from a backup looks received. That errs on the safe side.)

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::{FileDone, FileKind, FileOp, OpenHow, Statx};

use super::names::c_string;
use super::publish::sync;
use super::source::split_path;
use super::space::{Base, ModeFound, SETGID};
use super::{DiskDone, DiskError, Files};
use crate::ids::{CopyId, DirId, Name};
use crate::proto::DirFound;
use crate::proto::errno::{EEXIST, ELOOP, ENOENT, EXDEV};
use crate::proto::fs::UNFINISHED_MODE;

/// Symlinks on the way to one place, as many as the kernel follows (path_resolution(7)).
pub const LINKS_MAX: usize = 40;

/// Whether a symlink was made on this host, by this user or by root. Not known, and so not assumed,
/// where the file system keeps no times of making.
fn is_own(link: &Statx) -> bool {
    let by_us = link.uid == landro_sys::process::effective_uid() || link.uid == 0;
    by_us && link.btime == Some((link.mtime_s, link.mtime_ns))
}

/// Whether an earlier run of this user may have received it. Not assumed where it is not known: the
/// user typed its name.
fn may_be_received(link: &Statx) -> bool {
    let by_us = link.uid == landro_sys::process::effective_uid();
    by_us
        && link
            .btime
            .is_some_and(|made| made != (link.mtime_s, link.mtime_ns))
}

/// A directory of a transfer that is to be.
pub struct NewDir {
    pub parent: DirId,
    pub name: Name,
    pub dir: DirId,
    pub keep_dirlinks: bool,
    /// It is made for this copy, under a new name.
    pub copy: Option<CopyId>,
    /// It keeps the mode it is made with.
    pub is_plain: bool,
    pub fsync: bool,
}

/// Makes a directory of a transfer, or takes the one that is there.
pub async fn make_dir(files: &Files, new: &NewDir) -> Result<DiskDone, DiskError> {
    let NewDir {
        parent,
        ref name,
        dir,
        keep_dirlinks,
        is_plain,
        copy,
        fsync,
    } = *new;
    let place = files.space.child(parent, name.as_bytes())?;
    let parent_fd = files.dir(parent).await?;
    let mode = if is_plain { 0o777 } else { UNFINISHED_MODE };
    let existed = {
        // A file of the same name, spelt otherwise, may be on its way to it.
        let _naming = files.naming(parent, name).await;
        match copy {
            Some(copy) => !files.make_copy(&parent_fd, name, copy, mode).await?,
            None => !mkdir(files, &parent_fd, name, mode).await?,
        }
    };
    if existed && let Some(by) = taken_by(files, parent, &parent_fd, name).await? {
        return Ok(DiskDone::Taken { by });
    }
    let (place, fd) = match files.open_dir_below(&parent_fd, name.as_bytes()).await {
        Err(DiskError { errno: ELOOP, .. }) if existed && keep_dirlinks => {
            let fd = open_dirlink(files, parent, &parent_fd, name).await?;
            files.learn_file_system(&fd).await?;
            files.stand_behind_link(dir, parent, &fd).await?;
            (place.held_as(fd.clone()), fd)
        }
        other => {
            let fd = other?;
            files.stand_on(dir, parent, &fd, existed).await?;
            (place, fd)
        }
    };
    if fsync && !existed {
        sync(files, &parent_fd).await?;
    }
    let found = match existed {
        true => take_over(files, dir, &fd).await?,
        false => {
            files.has_named(parent, name);
            let setgid = files.space.mode_found(parent).setgid;
            let before = None;
            files
                .space
                .set_mode_found(dir, ModeFound { setgid, before });
            DirFound::Missing
        }
    };
    files.space.add_received_dir(parent, dir, place, fd);
    Ok(DiskDone::Directory { found })
}

/// What is there instead of a directory that is to be, if it is by another spelling of its name.
async fn taken_by(
    files: &Files,
    parent: DirId,
    parent_fd: &Arc<OwnedFd>,
    name: &Name,
) -> Result<Option<Bytes>, DiskError> {
    if !files.may_fold(parent, name) || files.is_known_exact(parent, name) {
        return Ok(None);
    }
    match files.lstat(parent_fd, name.as_bytes()).await {
        Ok(found) => files.taken_by(parent, parent_fd, name, &found).await,
        // It went away meanwhile.
        Err(DiskError { errno: ENOENT, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The target takes the place of a directory of the source: it is there, and is taken over.
pub async fn enter_target(files: &Files, dir: DirId) -> Result<DiskDone, DiskError> {
    take_over(files, dir, &files.dir(dir).await?).await?;
    Ok(DiskDone::Done)
}

/// A directory that was there: whose its attributes are; and, as with rsync, its owner may write in
/// it until all is in it that is to be.
async fn take_over(files: &Files, dir: DirId, fd: &Arc<OwnedFd>) -> Result<DirFound, DiskError> {
    const OWNER_WRITES: u32 = 0o300;
    let stat = files.fstat(fd).await?;
    let (mode, user) = (stat.mode & 0o7777, landro_sys::process::effective_uid());
    let setgid = mode & SETGID != 0;
    if stat.uid == user && mode & !SETGID == UNFINISHED_MODE {
        let before = None;
        files
            .space
            .set_mode_found(dir, ModeFound { setgid, before });
        return Ok(DirFound::Unfinished);
    }
    // Two sources may land in one directory.
    let mut before = files.space.mode_found(dir).before;
    // Root writes where it likes.
    if user != 0 && stat.uid == user && mode & OWNER_WRITES != OWNER_WRITES {
        let op = FileOp::SetMeta {
            file: fd.clone(),
            mode: Some(mode | OWNER_WRITES),
            mtime: None,
        };
        // Where it is refused, what is written there says so.
        let is_done = files.call("fchmod", op).await.is_ok();
        before = before.or(is_done.then_some(mode));
    }
    files
        .space
        .set_mode_found(dir, ModeFound { setgid, before });
    Ok(DirFound::Finished)
}

/// False: something has that name.
async fn mkdir(
    files: &Files,
    parent: &Arc<OwnedFd>,
    name: &Name,
    mode: u32,
) -> Result<bool, DiskError> {
    let op = FileOp::Mkdir {
        dir: Some(parent.clone()),
        path: c_string(name.as_bytes())?,
        mode,
    };
    match files.call("mkdirat", op).await {
        Ok(_) => Ok(true),
        Err(DiskError { errno: EEXIST, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens the directory behind a symlink of the user's own: for a command, wherever that is; on a
/// daemon, inside its root.
async fn open_dirlink(
    files: &Files,
    parent: DirId,
    parent_fd: &Arc<OwnedFd>,
    name: &Name,
) -> Result<Arc<OwnedFd>, DiskError> {
    // Looked at and read by its descriptor: the peer may be replacing it with one of its own just
    // now.
    let how = OpenHow {
        flags: flags::O_PATH | flags::O_NOFOLLOW,
        mode: 0,
        resolve: flags::RESOLVE_BENEATH,
    };
    let link = files.open(Some(parent_fd), name.as_bytes(), how).await?;
    let stat = files.fstat(&link).await?;
    if stat.kind != FileKind::Symlink || !is_own(&stat) {
        return Err(DiskError::RECEIVED_LINK);
    }
    let target = files.readlink(&link, b"").await?;
    match files.space.base() {
        Base::Served(_) if target.starts_with(b"/") => Err(DiskError {
            call: "openat2",
            errno: EXDEV,
        }),
        Base::Served(_) => {
            let path = [&files.space.path(parent)?[..], b"/", &target[..]].concat();
            files.open_asked(&path).await
        }
        Base::Local => walk(files, parent_fd.clone(), &target).await,
    }
}

/// Opens the directory that a path of the user's leads to, as the kernel would, but through none of
/// the symlinks that a peer may have put on the way: one of his own that leads to one of those
/// leads where the peer likes.
async fn walk(files: &Files, from: Arc<OwnedFd>, path: &[u8]) -> Result<Arc<OwnedFd>, DiskError> {
    let how = OpenHow {
        flags: flags::O_PATH | flags::O_NOFOLLOW,
        mode: 0,
        resolve: 0,
    };
    let (mut at, mut links) = (from, 0);
    // Innermost last: what a link stands for is walked before what follows the link.
    let mut left = vec![path.to_vec()];
    while let Some(path) = left.pop() {
        let end = path
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(path.len());
        let name = match end {
            0 if path.is_empty() => continue,
            0 => &b"/"[..],
            end => &path[..end],
        };
        let next = files.open((end > 0).then_some(&at), name, how).await?;
        left.push(
            path[path.len().min(end + 1)..]
                .iter()
                .copied()
                .skip_while(|&byte| byte == b'/')
                .collect(),
        );
        let stat = files.fstat(&next).await?;
        if stat.kind != FileKind::Symlink {
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(DiskError {
                call: "openat2",
                errno: ELOOP,
            });
        }
        if !is_harmless(&stat) {
            return Err(DiskError::RECEIVED_LINK);
        }
        left.push(files.readlink(&next, b"").await?.to_vec());
    }
    files.open_directory(Some(&at), b".", 0).await
}

/// Whether no run of this user can have received a symlink that he did not name.
fn is_harmless(link: &Statx) -> bool {
    let of_root_alone = link.uid == 0 && landro_sys::process::effective_uid() != 0;
    is_own(link) || of_root_alone
}

/// A command's destination that exists: when it is a symlink that an earlier run of the same
/// command may have received under that name, a server chose where it leads. A trailing slash says
/// that the directory behind it is meant.
pub async fn refuse_received_target(files: &Files, path: &[u8]) -> Result<(), DiskError> {
    let (Base::Local, (_, Some(_), false)) = (files.space.base(), split_path(path)) else {
        return Ok(());
    };
    let op = FileOp::Statx {
        dir: None,
        path: c_string(path)?,
        flags: flags::AT_SYMLINK_NOFOLLOW,
    };
    match files.call("statx", op).await? {
        FileDone::Stat(stat) if stat.kind == FileKind::Symlink && may_be_received(&stat) => {
            Err(DiskError::RECEIVED_LINK)
        }
        FileDone::Stat(_) => Ok(()),
        other => unreachable!("statx answered {other:?}"),
    }
}

/// A received symlink never looks as if it had been made here, even if its peer guesses the time of
/// its making.
pub async fn mark_received(
    files: &Files,
    dir: &Arc<OwnedFd>,
    path: &CString,
) -> Result<(), DiskError> {
    let op = FileOp::Statx {
        dir: Some(dir.clone()),
        path: path.clone(),
        flags: flags::AT_SYMLINK_NOFOLLOW,
    };
    match files.call("statx", op).await? {
        FileDone::Stat(stat) if stat.btime == Some((stat.mtime_s, stat.mtime_ns)) => {
            let mtime = (stat.mtime_s.saturating_sub(1), stat.mtime_ns);
            let op = FileOp::SetLinkTime {
                dir: Some(dir.clone()),
                path: path.clone(),
                mtime,
            };
            files.call("utimensat", op).await?;
            Ok(())
        }
        FileDone::Stat(_) => Ok(()),
        other => unreachable!("statx answered {other:?}"),
    }
}
