//! The disk layer for a copy within this host: the same operations, each run to its end at once.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use landro_sys::file::flags;
use landro_sys::{FileDone, FileOp, OpenHow, Pool, Statx};

use super::descriptors::is_shortage;
use super::names::c_string;
use super::part::wrote;
use super::space::{Base, OpenFile, Space};
use super::{Disk, DiskDone, DiskError, DiskOp, Files, run};
use crate::ids::{DirId, FileId, Name};
use crate::proto::errno::{EACCES, EBADF, EIO, ENOMEM};

/// An operation holds one buffer at a time, and the last one of a pool is never given out.
const POOL_BUFFERS: usize = 4;

/// One side of a copy: its directories and files, worked on in place.
pub struct Side {
    files: Files,
}

/// Which object of this host something is, whatever names and mounts lead to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectIdentity {
    device: u64,
    inode: u64,
}

impl From<Statx> for ObjectIdentity {
    fn from(stat: Statx) -> ObjectIdentity {
        ObjectIdentity {
            device: stat.dev,
            inode: stat.ino,
        }
    }
}

impl Side {
    /// # Errors
    /// When there is no memory for buffers.
    pub fn new() -> io::Result<Side> {
        let Disk { shared, .. } = Disk::new(Pool::new(POOL_BUFFERS)?, None);
        Ok(Side {
            files: Files {
                shared,
                space: Rc::new(Space::new(Base::Local, true)),
            },
        })
    }

    pub fn run(&self, cmd: DiskOp) -> Result<DiskDone, DiskError> {
        self.at_once(async |files| run(files, cmd.clone()).await)
    }

    /// Which directory this is.
    pub fn identity(&self, dir: DirId) -> Result<ObjectIdentity, DiskError> {
        self.at_once(async |files| Ok(files.fstat(&files.dir(dir).await?).await?.into()))
    }

    /// Which object a name stands for; a symlink is one itself.
    pub fn identity_of(&self, dir: DirId, name: &Name) -> Result<ObjectIdentity, DiskError> {
        self.at_once(async |files| {
            let dir = Some(files.dir(dir).await?);
            let op = FileOp::Statx {
                dir,
                path: c_string(name.as_bytes())?,
                flags: flags::AT_SYMLINK_NOFOLLOW,
            };
            match files.call("statx", op).await? {
                FileDone::Stat(stat) => Ok(stat.into()),
                other => unreachable!("statx answered {other:?}"),
            }
        })
    }

    /// A directory and those it lies in, up to the root or to the first that may not be entered.
    pub fn identities_up(&self, dir: DirId) -> Result<Vec<ObjectIdentity>, DiskError> {
        self.at_once(async |files| {
            let mut fd = files.dir(dir).await?;
            let mut found: Vec<ObjectIdentity> = vec![files.fstat(&fd).await?.into()];
            let how = OpenHow {
                flags: flags::O_PATH | flags::O_DIRECTORY,
                mode: 0,
                resolve: 0,
            };
            loop {
                let above = match files.open(Some(&fd), b"..", how).await {
                    Err(DiskError { errno: EACCES, .. }) => return Ok(found),
                    other => other?,
                };
                let identity = files.fstat(&above).await?.into();
                // The root is above itself.
                if found.last() == Some(&identity) {
                    return Ok(found);
                }
                found.push(identity);
                fd = above;
            }
        })
    }

    /// Copies from where a source was read to, to where a partial file was written to, as a reflink
    /// where the file systems can. Fewer bytes than `len_bytes` only at the source's end.
    pub fn copy_from(
        &self,
        part: FileId,
        side: &Side,
        source: FileId,
        len_bytes: u64,
    ) -> Result<u64, DiskError> {
        let (OpenFile::Source(from), OpenFile::Part(part)) =
            (side.files.space.file(source)?, self.files.space.file(part)?)
        else {
            return Err(DiskError {
                call: "file",
                errno: EBADF,
            });
        };
        let copied_bytes =
            landro_sys::splice::copy_local(Arc::as_ref(&from), Arc::as_ref(&part.data), len_bytes)
                .map_err(|error| DiskError {
                    call: "copy_file_range",
                    errno: error.raw_os_error().unwrap_or(EIO),
                })?;
        self.at_once(async |files| {
            wrote(files, &part, copied_bytes).await;
            Ok(copied_bytes)
        })
    }

    /// The result of a task whose calls are all made in place. One that lacks a descriptor begins
    /// anew without those that can be opened again.
    fn at_once<T>(
        &self,
        task: impl AsyncFn(&Files) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        match first_poll(task(&self.files)) {
            Err(error) if is_shortage(&error) => {
                self.files.space.close_idle_directories();
                first_poll(task(&self.files))
            }
            other => other,
        }
    }
}

/// Nothing is waited for but a buffer, and one operation at a time finds one.
fn first_poll<T>(task: impl Future<Output = Result<T, DiskError>>) -> Result<T, DiskError> {
    match std::pin::pin!(task).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(DiskError {
            call: "buffer",
            errno: ENOMEM,
        }),
    }
}
