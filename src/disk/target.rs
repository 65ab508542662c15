//! The receiver's destination: where the sources land, what stands there, small files, symlinks and
//! directories.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::{FileOp, OpenHow};

use super::dirlinks;
use super::full::lacking_beside;
use super::names::{Use, c_string, free_names};
use super::publish::{
    Arrival, finish, may_replace, new_mode, refused, rename, set_meta, sync, temporary, unlink,
    write_all,
};
use super::source::{meta_of, relative, split_path};
use super::space::{Base, ModeFound, OpenSink, SETGID};
use super::{Attributes, DiskDone, DiskError, Files};
use crate::ids::{CopyId, DirId, Name};
use crate::proto::errno::{EACCES, EEXIST, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR};
use crate::proto::fs::DIRECTORY_MODE;
use crate::proto::{DirMode, Existing, Kind, Lapses, Mtime, TimeLapse};

/// Where the sources of a transfer are to land.
pub struct WantedTarget {
    pub path: Bytes,
    pub must_be_dir: bool,
    /// Nothing is put into what stands there: the one source takes its name.
    pub no_target_dir: bool,
    /// A directory that was made for this copy is not put into either.
    pub copy: Option<CopyId>,
    pub dir: DirId,
    pub fsync: bool,
}

pub async fn resolve(files: &Files, wanted: &WantedTarget) -> Result<DiskDone, DiskError> {
    let WantedTarget {
        ref path,
        must_be_dir,
        dir,
        fsync,
        ..
    } = *wanted;
    if let Some(named) = resolve_as_name(files, wanted).await? {
        return Ok(named);
    }
    match files.open_asked(path).await {
        Ok(fd) => {
            dirlinks::refuse_received_target(files, path).await?;
            add_target(files, path, fd, dir).await?;
            return Ok(DiskDone::Target { name: None });
        }
        Err(error) if error.is_of_root() => return Err(error),
        Err(DiskError {
            errno: ENOENT | ENOTDIR,
            ..
        }) => {}
        // A symlink to nowhere, or around in circles, is a name like any other: rename replaces it.
        Err(DiskError { errno: ELOOP, .. }) => {}
        Err(error) => return Err(error),
    }
    let (parent_path, name, trailing_slash) = split_target(files, path);
    let Some(name) = name else {
        return Err(DiskError {
            call: "openat2",
            errno: ENOENT,
        });
    };
    let parent = files.open_asked(parent_path).await?;
    if must_be_dir || trailing_slash {
        let op = FileOp::Mkdir {
            dir: Some(parent.clone()),
            path: c_string(name)?,
            mode: 0o777,
        };
        match files.call("mkdirat", op).await {
            // Something that is no directory stands there.
            Err(DiskError { errno: EEXIST, .. }) => {
                return Err(DiskError {
                    call: "openat2",
                    errno: ENOTDIR,
                });
            }
            Err(error) => return Err(lacking_beside(files, &parent, error).await),
            Ok(_) => {}
        }
        let fd = files.open_dir_below(&parent, name).await?;
        if fsync {
            sync(files, &parent).await?;
        }
        add_target(files, path, fd, dir).await?;
        return Ok(DiskDone::Target { name: None });
    }
    named_target(files, wanted, (parent_path, parent), name).await
}

fn split_target<'a>(files: &Files, path: &'a [u8]) -> (&'a [u8], Option<&'a [u8]>, bool) {
    match files.space.base() {
        Base::Served(_) => split_path(relative(path)),
        Base::Local => split_path(path),
    }
}

/// The directory `wanted` is in takes what is placed there under its name.
async fn named_target(
    files: &Files,
    wanted: &WantedTarget,
    (parent_path, parent): (&[u8], Arc<OwnedFd>),
    name: &[u8],
) -> Result<DiskDone, DiskError> {
    let name = Name::new(Bytes::copy_from_slice(name)).map_err(|_| DiskError {
        call: "path",
        errno: ENAMETOOLONG,
    })?;
    files.find_sink(&wanted.path, wanted.dir, &name).await?;
    add_target(files, parent_path, parent, wanted.dir).await?;
    Ok(DiskDone::Target { name: Some(name) })
}

/// The target as a name in its parent, whatever stands there, if that is what is asked for or if it
/// is a directory that an earlier run of this copy made and did not finish.
async fn resolve_as_name(
    files: &Files,
    wanted: &WantedTarget,
) -> Result<Option<DiskDone>, DiskError> {
    let (parent_path, Some(name), _) = split_target(files, &wanted.path) else {
        return Ok(None);
    };
    if !wanted.no_target_dir {
        let Some(copy) = wanted.copy.filter(|_| !wanted.must_be_dir) else {
            return Ok(None);
        };
        // What cannot be opened is none of ours; the ordinary way finds out what it is.
        let Ok(there) = files.open_asked(&wanted.path).await else {
            return Ok(None);
        };
        if !files.is_copy(&there, copy).await? {
            return Ok(None);
        }
        let parent = files.open_asked(parent_path).await?;
        if !files.is_named(&parent, name, &there).await? {
            return Ok(None);
        }
    }
    let parent = files.open_asked(parent_path).await?;
    let place = (parent_path, parent);
    named_target(files, wanted, place, name).await.map(Some)
}

/// Nothing of the transfer is looked for above the directory that the sources land in.
async fn add_target(
    files: &Files,
    path: &[u8],
    fd: Arc<OwnedFd>,
    dir: DirId,
) -> Result<(), DiskError> {
    files.admit(&fd)?;
    files.learn_file_system(&fd).await?;
    files.stand_on_target(dir, &fd).await?;
    let setgid = files.fstat(&fd).await?.mode & SETGID != 0;
    let before = None;
    files
        .space
        .set_mode_found(dir, ModeFound { setgid, before });
    let path = match files.space.base() {
        Base::Served(_) => trim_slashes(relative(path)).to_vec(),
        Base::Local => Vec::new(),
    };
    files.space.add_target(dir, path, fd);
    Ok(())
}

/// A directory and those it lies in, up to the root or to the first that may not be entered.
pub async fn dirs_above(files: &Files, dir: DirId) -> Result<DiskDone, DiskError> {
    let mut fd = files.dir(dir).await?;
    let mut found = vec![meta_of(&files.fstat(&fd).await?).object()];
    let how = OpenHow {
        flags: flags::O_PATH | flags::O_DIRECTORY,
        mode: 0,
        resolve: 0,
    };
    loop {
        let above = match files.open(Some(&fd), b"..", how).await {
            Err(DiskError { errno: EACCES, .. }) => return Ok(DiskDone::Above(found)),
            other => other?,
        };
        let object = meta_of(&files.fstat(&above).await?).object();
        // The root is above itself.
        if found.last() == Some(&object) {
            return Ok(DiskDone::Above(found));
        }
        found.push(object);
        fd = above;
    }
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let end = path
        .iter()
        .rposition(|&b| b != b'/')
        .map_or(0, |last| last + 1);
    if &path[..end] == b"." {
        b""
    } else {
        &path[..end]
    }
}

pub async fn check(
    files: &Files,
    dir: DirId,
    name: &Name,
    (mtime, sparse): (Mtime, bool),
) -> Result<DiskDone, DiskError> {
    let fd = files.dir(dir).await?;
    if files.space.sink(dir, name).is_some() {
        return Ok(DiskDone::Existing(Some(Box::new(Existing::WRITTEN_INTO))));
    }
    let meta = match files.lstat(&fd, name.as_bytes()).await {
        Ok(meta) => meta,
        Err(DiskError { errno: ENOENT, .. }) => return Ok(DiskDone::Existing(None)),
        Err(error) => return Err(error),
    };
    if let Some(by) = files.taken_by(dir, &fd, name, &meta).await? {
        return Ok(DiskDone::Taken { by });
    }
    let link = match meta.kind {
        Kind::Symlink => Some(files.readlink(&fd, name.as_bytes()).await?),
        Kind::File => {
            may_replace(files, &fd, name).await?;
            None
        }
        Kind::Directory | Kind::Special => None,
    };
    let looks = (meta.size_bytes, sparse);
    let in_doubt = meta.kind == Kind::File && !files.is_sound(dir, name, looks).await?;
    let has_mtime = match meta.kind {
        Kind::File | Kind::Symlink => files.has_time(dir, name, meta.mtime, mtime).await,
        Kind::Directory | Kind::Special => meta.mtime == mtime,
    };
    let there = Existing {
        meta,
        link,
        in_doubt,
        has_mtime,
    };
    Ok(DiskDone::Existing(Some(Box::new(there))))
}

/// The mode that a directory is to be given, if it is.
pub fn mode_of(files: &Files, dir: DirId, mode: DirMode) -> Option<u32> {
    let before = files.space.take_mode_before(dir);
    match mode {
        DirMode::Kept => before,
        // What mkdir(2) handed down would be taken away again.
        DirMode::New(mode) if files.space.mode_found(dir).setgid => {
            Some(mode & DIRECTORY_MODE | SETGID)
        }
        DirMode::New(mode) | DirMode::Exact(mode) => Some(mode & DIRECTORY_MODE),
    }
}

pub async fn set_dir(
    files: &Files,
    dir: DirId,
    attributes: Attributes,
) -> Result<DiskDone, DiskError> {
    let fd = files.dir(dir).await?;
    let lapses = set_meta(files, dir, &fd, attributes).await?;
    if attributes.fsync {
        sync(files, &fd).await?;
    }
    Ok(DiskDone::Placed(lapses))
}

/// Forgets a directory. One that was made writable, and has not been given a mode since, gets the
/// one it had.
pub async fn close_dir(files: &Files, dir: DirId) -> Result<DiskDone, DiskError> {
    if let Some(mode) = files.space.take_mode_before(dir)
        && let Ok(file) = files.dir(dir).await
    {
        let (mode, mtime) = (Some(mode), None);
        // Nobody is left to be told.
        let _ = files
            .call("fchmod", FileOp::SetMeta { file, mode, mtime })
            .await;
    }
    files.space.forget_dir(dir);
    Ok(DiskDone::Done)
}

/// A small file that is to be.
pub struct NewSmall {
    pub dir: DirId,
    pub name: Name,
    pub attributes: Attributes,
    pub replaces: bool,
}

pub async fn put_small(
    files: &Files,
    new: &NewSmall,
    data: Vec<Bytes>,
) -> Result<DiskDone, DiskError> {
    let NewSmall {
        dir: dir_id,
        ref name,
        attributes,
        replaces,
    } = *new;
    if let Some(sink) = files.space.sink(dir_id, name) {
        let (OpenSink::Direct(open) | OpenSink::Sequential(open)) = files.open_sink(&sink).await?;
        for piece in data {
            files.pour(&open, piece).await?;
        }
        if attributes.fsync {
            files.sync_sink(&open).await?;
        }
        return Ok(DiskDone::Placed(Lapses::default()));
    }
    let dir = files.dir(dir_id).await?;
    let mode = new_mode(attributes.mode.is_none());
    let (file, temporary) =
        temporary(files, &files.temporary_dir(dir_id, &dir), name, mode).await?;
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
            written_to: offset,
            replaces,
        };
        finish(files, &arrival, attributes).await
    };
    let result = result.await;
    if let (Err(_) | Ok(DiskDone::Taken { .. }), Some(temporary)) = (&result, &temporary) {
        unlink(files, &dir, &temporary.to_c()).await?;
    }
    result
}

/// A symlink that is to be.
pub struct NewLink {
    pub dir: DirId,
    pub name: Name,
    pub target: Bytes,
    pub attributes: Attributes,
    pub replaces: bool,
}

pub async fn put_symlink(files: &Files, new: &NewLink) -> Result<DiskDone, DiskError> {
    let NewLink { name, target, .. } = new;
    let dir = files.dir(new.dir).await?;
    let temporary = make_link(files, &dir, name, target).await?;
    let result = name_symlink(files, new, &dir, &temporary).await;
    if let Err(_) | Ok(DiskDone::Taken { .. }) = result {
        unlink(files, &dir, &temporary).await?;
    }
    result
}

async fn name_symlink(
    files: &Files,
    new: &NewLink,
    dir: &Arc<OwnedFd>,
    temporary: &CString,
) -> Result<DiskDone, DiskError> {
    let mut lapses = Lapses::default();
    if let Some(mtime) = new.attributes.mtime {
        let mtime = (mtime.seconds, mtime.nanoseconds);
        let time = FileOp::SetLinkTime {
            dir: Some(dir.clone()),
            path: temporary.clone(),
            mtime,
        };
        let set = files.call("utimensat", time).await.map(drop);
        lapses.mtime = refused(set)?.map(TimeLapse::Refused);
    }
    dirlinks::mark_received(files, dir, temporary).await?;
    let to = c_string(new.name.as_bytes())?;
    let named = match new.replaces {
        true => {
            may_replace(files, dir, &new.name).await?;
            rename(files, dir, temporary, &to, 0).await
        }
        false => rename(files, dir, temporary, &to, flags::RENAME_NOREPLACE).await,
    };
    match named {
        Ok(()) => {}
        // RENAME_NOREPLACE is EINVAL where the file system does not know it.
        Err(DiskError {
            errno: EEXIST | EINVAL,
            ..
        }) if !new.replaces => {
            let _naming = files.naming(new.dir, &new.name).await;
            if let Some(by) = files.taken_unseen(new.dir, dir, &new.name).await? {
                return Ok(DiskDone::Taken { by });
            }
            may_replace(files, dir, &new.name).await?;
            rename(files, dir, temporary, &to, 0).await?;
        }
        Err(error) => return Err(error),
    }
    files.has_named(new.dir, &new.name);
    // A symlink cannot be opened to be synced; with its directory's new name the kernel writes the
    // link itself.
    if new.attributes.fsync {
        sync(files, dir).await?;
    }
    Ok(DiskDone::Placed(lapses))
}

/// Makes a symlink under a temporary name. One that leads there already, under a name that belongs
/// to this one's, is what a crash left: a symlink takes no mark of ours, and this is all it could
/// say.
async fn make_link(
    files: &Files,
    dir: &Arc<OwnedFd>,
    name: &Name,
    target: &Bytes,
) -> Result<CString, DiskError> {
    for path in free_names(name, Use::New) {
        let path = path.to_c();
        let op = FileOp::Symlink {
            target: c_string(target)?,
            dir: Some(dir.clone()),
            path: path.clone(),
        };
        match files.call("symlinkat", op).await {
            Ok(_) => return Ok(path),
            Err(DiskError { errno: EEXIST, .. }) => {}
            Err(error) => return Err(error),
        }
        // EINVAL: what stands there is no symlink.
        if files
            .readlink(dir, path.as_bytes())
            .await
            .is_ok_and(|there| there == target)
        {
            return Ok(path);
        }
    }
    Err(DiskError {
        call: "symlinkat",
        errno: EEXIST,
    })
}
