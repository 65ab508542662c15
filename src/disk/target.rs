//! The receiver's destination: where the sources land, what stands there, small files, symlinks and
//! directories.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::{FileOp, OpenHow};

use super::dirlinks;
use super::names::{self, c_string, refuse_reserved};
use super::publish::{
    Arrival, Attributes, finish, rename, set_meta, sync, temporary, unlink, write_all,
};
use super::source::{meta_of, relative, split_path};
use super::space::Base;
use super::{DiskDone, DiskError, Files};
use crate::ids::{DirId, Name};
use crate::proto::errno::{EACCES, EEXIST, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR};
use crate::proto::fs::DIRECTORY_MODE;
use crate::proto::{Existing, Kind, Mtime};

pub async fn resolve(
    files: &Files,
    path: &[u8],
    must_be_dir: bool,
    dir: DirId,
    fsync: bool,
) -> Result<DiskDone, DiskError> {
    refuse_reserved(path)?;
    match files.open_asked(path).await {
        Ok(fd) => {
            dirlinks::refuse_received_target(files, path).await?;
            add_target(files, path, fd, dir).await?;
            return Ok(DiskDone::Target { name: None });
        }
        Err(DiskError {
            errno: ENOENT | ENOTDIR,
            ..
        }) => {}
        // A symlink to nowhere, or around in circles, is a name like any other: rename replaces it.
        Err(DiskError { errno: ELOOP, .. }) => {}
        Err(error) => return Err(error),
    }
    let (parent_path, name, trailing_slash) = match files.space.base() {
        Base::Served(_) => split_path(relative(path)),
        Base::Local => split_path(path),
    };
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
            other => other?,
        };
        let fd = files.open_dir_below(&parent, name).await?;
        if fsync {
            sync(files, &parent).await?;
        }
        add_target(files, path, fd, dir).await?;
        return Ok(DiskDone::Target { name: None });
    }
    let name = Name::new(Bytes::copy_from_slice(name)).map_err(|_| DiskError {
        call: "path",
        errno: ENAMETOOLONG,
    })?;
    add_target(files, parent_path, parent, dir).await?;
    Ok(DiskDone::Target { name: Some(name) })
}

/// Nothing of the transfer is looked for above the directory that the sources land in.
async fn add_target(
    files: &Files,
    path: &[u8],
    fd: Arc<OwnedFd>,
    dir: DirId,
) -> Result<(), DiskError> {
    files.learn_file_system(&fd).await?;
    files.stand_on_target(dir, &fd)?;
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
    sparse: bool,
) -> Result<DiskDone, DiskError> {
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
    let looks = (meta.size_bytes, sparse);
    let in_doubt = meta.kind == Kind::File && !files.is_sound(dir, name, looks).await?;
    Ok(DiskDone::Existing(Some(Existing {
        meta,
        link,
        in_doubt,
    })))
}

pub async fn set_dir(
    files: &Files,
    dir: DirId,
    attributes: Attributes,
) -> Result<DiskDone, DiskError> {
    let fd = files.dir(dir).await?;
    set_meta(
        files,
        &fd,
        Attributes {
            mode: attributes.mode & DIRECTORY_MODE,
            ..attributes
        },
    )
    .await?;
    if attributes.fsync {
        sync(files, &fd).await?;
    }
    Ok(DiskDone::Done)
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

/// A symlink that is to be.
pub struct NewLink {
    pub dir: DirId,
    pub name: Name,
    pub target: Bytes,
    pub mtime: Mtime,
    pub fsync: bool,
}

pub async fn put_symlink(files: &Files, new: &NewLink) -> Result<DiskDone, DiskError> {
    let NewLink {
        name,
        target,
        mtime,
        fsync,
        ..
    } = new;
    let dir = files.dir(new.dir).await?;
    let temporary = names::replacement(name);
    unlink(files, &dir, &temporary).await?;
    let op = FileOp::Symlink {
        target: c_string(target)?,
        dir: Some(dir.clone()),
        path: temporary.clone(),
    };
    files.call("symlinkat", op).await?;
    let mtime = (mtime.seconds, mtime.nanoseconds);
    let time = FileOp::SetLinkTime {
        dir: Some(dir.clone()),
        path: temporary.clone(),
        mtime,
    };
    let result = async {
        files.call("utimensat", time).await?;
        dirlinks::mark_received(files, &dir, &temporary, mtime).await?;
        rename(files, &dir, &temporary, &c_string(name.as_bytes())?, 0).await?;
        // A symlink cannot be opened to be synced; with its directory's new name the kernel writes
        // the link itself.
        if *fsync {
            sync(files, &dir).await
        } else {
            Ok(())
        }
    };
    match result.await {
        Ok(()) => Ok(DiskDone::Done),
        Err(error) => {
            unlink(files, &dir, &temporary).await?;
            Err(error)
        }
    }
}
