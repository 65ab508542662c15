//! Copies under a new name that are not finished: the directory made for one bears a marker that
//! says whose copy it is, so that the same command goes on instead of copying into it.
//!
//! The marker is an extended attribute; where a file system keeps none, a file in the directory,
//! with a name of our form. It is there before the directory has its name, and goes when nothing is
//! missing. Its value follows from who copies (on a daemon the key of its peer) and from what the
//! command says of source and target, so nobody goes on with the copy of another.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::{FileDone, FileOp, OpenHow};

use super::marks::{HEAD_BYTES, head};
use super::names::{TemporaryName, Use, c_string, free_names};
use super::publish::{rename, unlink, write_all};
use super::{DiskError, Files};
use crate::ids::{CopyId, Name};
use crate::proto::errno::{EEXIST, EINVAL, ENOENT, EOPNOTSUPP, EPERM};
use crate::proto::{Kind, ObjectId};

const MARKER: &CStr = c"user.landro.copy";

/// What the marker file's head names: no file can be called so.
const MARKER_HEAD: &[u8] = b"/copy";

const MARKER_BYTES: usize = 16;

/// What a directory bears as long as its copy is not finished.
type Marker = [u8; MARKER_BYTES];

fn marker_file() -> CString {
    TemporaryName::of(MARKER_HEAD, Use::Journal, 0).to_c()
}

impl Files {
    fn marker_of(&self, copy: CopyId) -> Marker {
        let hash = blake3::keyed_hash(&self.space.copier, &copy.0);
        let mut marker = [0; MARKER_BYTES];
        marker.copy_from_slice(&hash.as_bytes()[..MARKER_BYTES]);
        marker
    }

    /// Whether a directory was made for this copy, which was not finished.
    pub(super) async fn is_copy(
        &self,
        dir: &Arc<OwnedFd>,
        copy: CopyId,
    ) -> Result<bool, DiskError> {
        let op = FileOp::GetXattr {
            file: dir.clone(),
            name: MARKER,
        };
        let found = match self.call("fgetxattr", op).await {
            Ok(FileDone::Xattr(value)) => value.map(Bytes::from),
            Ok(other) => unreachable!("fgetxattr answered {other:?}"),
            Err(DiskError {
                errno: EOPNOTSUPP, ..
            }) => self.in_marker_file(dir).await?,
            // A directory that may not be read tells nobody whose it is.
            Err(_) => None,
        };
        Ok(found.is_some_and(|found| found[..] == self.marker_of(copy)))
    }

    async fn in_marker_file(&self, dir: &Arc<OwnedFd>) -> Result<Option<Bytes>, DiskError> {
        let how = OpenHow {
            flags: flags::O_RDONLY | flags::O_NOFOLLOW | flags::O_NONBLOCK,
            mode: 0,
            resolve: flags::RESOLVE_BENEATH,
        };
        let Ok(file) = self.open(Some(dir), marker_file().as_bytes(), how).await else {
            return Ok(None);
        };
        let buffer = self.buffer().await;
        let len = HEAD_BYTES as usize + MARKER_BYTES;
        let (mut buffer, _) = self.read(&file, 0, buffer, len).await?;
        let read = buffer.split();
        Ok(read
            .strip_prefix(&head(MARKER_HEAD)[..])
            .map(Bytes::copy_from_slice))
    }

    async fn set_marker(&self, dir: &Arc<OwnedFd>, copy: CopyId) -> Result<(), DiskError> {
        let marker = self.marker_of(copy);
        let op = FileOp::SetXattr {
            file: dir.clone(),
            name: MARKER,
            value: marker.to_vec(),
        };
        match self.call("fsetxattr", op).await {
            Err(DiskError {
                errno: EOPNOTSUPP | EPERM,
                ..
            }) => {}
            other => return other.map(drop),
        }
        let how = OpenHow {
            flags: flags::O_CREAT | flags::O_WRONLY | flags::O_NOFOLLOW,
            mode: 0o600,
            resolve: flags::RESOLVE_BENEATH,
        };
        let file = self.open(Some(dir), marker_file().as_bytes(), how).await?;
        let content = [&head(MARKER_HEAD)[..], &marker].concat();
        write_all(self, &file, 0, content.into()).await
    }

    /// Nothing of this copy is missing any more.
    pub(super) async fn end_copy(&self, dir: &Arc<OwnedFd>, copy: CopyId) -> Result<(), DiskError> {
        if !self.is_copy(dir, copy).await? {
            return Ok(());
        }
        let op = FileOp::RemoveXattr {
            file: dir.clone(),
            name: MARKER,
        };
        match self.call("fremovexattr", op).await {
            Ok(_) => Ok(()),
            Err(DiskError {
                errno: EOPNOTSUPP | EPERM,
                ..
            }) => unlink(self, dir, &marker_file()).await,
            Err(error) => Err(error),
        }
    }

    /// Makes the directory of a copy, which bears its marker before it has its name. False:
    /// something has that name.
    pub(super) async fn make_copy(
        &self,
        parent: &Arc<OwnedFd>,
        name: &Name,
        copy: CopyId,
        mode: u32,
    ) -> Result<bool, DiskError> {
        match self.lstat(parent, name.as_bytes()).await {
            Err(DiskError { errno: ENOENT, .. }) => {}
            other => return other.map(|_| false),
        }
        let (temporary, made) = self.make_unnamed_copy(parent, name, copy, mode).await?;
        let to = c_string(name.as_bytes())?;
        let named = match rename(self, parent, &temporary, &to, flags::RENAME_NOREPLACE).await {
            // Where the file system does not know the flag: it replaces an empty directory at most.
            Err(DiskError { errno: EINVAL, .. }) => rename(self, parent, &temporary, &to, 0).await,
            other => other,
        };
        if named.is_ok() {
            return Ok(true);
        }
        self.end_copy(&made, copy).await?;
        let op = FileOp::Unlink {
            dir: Some(parent.clone()),
            path: temporary,
            is_dir: true,
        };
        self.call("unlinkat", op).await?;
        match named {
            Err(DiskError { errno: EEXIST, .. }) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// One that a crash left between making and naming is taken as it is.
    async fn make_unnamed_copy(
        &self,
        parent: &Arc<OwnedFd>,
        name: &Name,
        copy: CopyId,
        mode: u32,
    ) -> Result<(CString, Arc<OwnedFd>), DiskError> {
        for path in free_names(name, Use::New) {
            let path = path.to_c();
            let op = FileOp::Mkdir {
                dir: Some(parent.clone()),
                path: path.clone(),
                mode,
            };
            let is_new = match self.call("mkdirat", op).await {
                Ok(_) => true,
                Err(DiskError { errno: EEXIST, .. }) => false,
                Err(error) => return Err(error),
            };
            match self.open_dir_below(parent, path.as_bytes()).await {
                Ok(dir) if is_new => {
                    self.set_marker(&dir, copy).await?;
                    return Ok((path, dir));
                }
                Ok(dir) if self.is_copy(&dir, copy).await? => return Ok((path, dir)),
                Err(error) if is_new => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Err(DiskError {
            call: "mkdirat",
            errno: EEXIST,
        })
    }

    /// Whether a name stands for this very directory, and not for a symlink that leads there.
    pub(super) async fn is_named(
        &self,
        parent: &Arc<OwnedFd>,
        name: &[u8],
        dir: &Arc<OwnedFd>,
    ) -> Result<bool, DiskError> {
        let dir = self.fstat(dir).await?;
        let there = self.lstat(parent, name).await?;
        let object = ObjectId {
            device: dir.dev,
            inode: dir.ino,
        };
        Ok(there.kind == Kind::Directory && there.object() == object)
    }
}
