//! A device, a FIFO or a pipe that the target of one file names: written into, never replaced.
//!
//! Data arrives in any order. What has offsets (block devices, `/dev/null`) takes it so. For what
//! has none the file is kept aside until it is whole and proven, and then written from its
//! beginning to its end. A copy within this host comes in order and needs no such thing.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use landro_sys::file::{flags, magic};
use landro_sys::process::{descriptor_path, duplicate};
use landro_sys::{FileDone, FileKind, FileOp, OpenHow, Pool};

use super::publish::{scratch, sync};
use super::source::{relative, split_path};
use super::space::{Base, NamedSink, OpenSink, SinkKind};
use super::workplace::TemporaryDir;
use super::{DiskError, Files, descriptors, dirlinks};
use crate::ids::{DirId, Name};
use crate::proto::errno::{EAGAIN, EINVAL, EIO, ESPIPE};

/// A daemon's FIFO whose reader takes nothing: tries, [`descriptors::RETRY`] apart, which is a
/// minute. A command has its user, who may look at the first page for as long as he likes.
const STALLS_MAX: u32 = 30_000;

/// Where a command keeps what such a target is to get, if somebody said so.
static ASIDE: OnceLock<PathBuf> = OnceLock::new();

/// Where else: a library does not look at its program's environment.
const ASIDE_BY_DEFAULT: &str = "/tmp";

/// Has what is kept aside for pipes, by copies to this host, be in `dir`. The first word counts.
pub fn keep_aside_in(dir: PathBuf) {
    let _ = ASIDE.set(dir);
}

impl Files {
    /// Looks whether a target that is no directory is something to write into.
    pub(super) async fn find_sink(
        &self,
        path: &[u8],
        dir: DirId,
        name: &Name,
    ) -> Result<(), DiskError> {
        let (at, path, resolve) = match self.space.base() {
            Base::Served(part) => {
                let root = self.root(part).await?;
                let resolve = flags::RESOLVE_BENEATH | flags::RESOLVE_NO_MAGICLINKS;
                (Some(root), relative(path), resolve)
            }
            Base::Local => (None, path, 0),
        };
        let how = OpenHow {
            flags: flags::O_PATH,
            mode: 0,
            resolve,
        };
        // A symlink to nowhere is none.
        let Ok(place) = self.open(at.as_ref(), path, how).await else {
            return Ok(());
        };
        let kind = match self.fstat(&place).await?.kind {
            FileKind::Special => Some(SinkKind::Special),
            FileKind::File if at.is_none() => self.behind_proc(path).await?,
            _ => None,
        };
        let Some(kind) = kind else {
            return Ok(());
        };
        // One that a server had an earlier run make would have its data written where it likes.
        dirlinks::refuse_received_target(self, path).await?;
        self.space.set_sink(NamedSink {
            dir,
            name: name.clone(),
            place,
            kind,
        });
        Ok(())
    }

    /// What a path of the user's leads to whose last symlink is one of procfs (`/dev/stdout`): a
    /// file that a program has open.
    async fn behind_proc(&self, path: &[u8]) -> Result<Option<SinkKind>, DiskError> {
        let mut path = path.to_vec();
        for _ in 0..dirlinks::LINKS_MAX {
            let (parent, Some(name), false) = split_path(&path) else {
                return Ok(None);
            };
            let parent_fd = self.open_asked(parent).await?;
            let Ok(target) = self.readlink(&parent_fd, name).await else {
                return Ok(None);
            };
            let op = FileOp::StatFs {
                file: parent_fd.clone(),
            };
            if let FileDone::FileSystem(found) = self.call("fstatfs", op).await?
                && found.magic == magic::PROC
            {
                let own = self.own_descriptor(&parent_fd, name);
                return Ok(Some(own.map_or(SinkKind::File, SinkKind::Own)));
            }
            path = match target.starts_with(b"/") {
                true => target.to_vec(),
                false => [parent, b"/", &target[..]].concat(),
            };
        }
        Ok(None)
    }

    /// What this process has open under a name in a directory of procfs, if that is its own. None:
    /// it is not, or there is no such number.
    fn own_descriptor(&self, dir: &Arc<OwnedFd>, name: &[u8]) -> Option<Arc<OwnedFd>> {
        let own = format!("/proc/{}/", std::process::id());
        let dir = self.real_path(dir).ok()?;
        let below = dir.strip_prefix(own.as_bytes())?;
        let is_own = below == b"fd" || below.starts_with(b"task/") && below.ends_with(b"/fd");
        let number = str::from_utf8(name).ok()?.parse().ok()?;
        is_own.then(|| duplicate(number).ok().map(Arc::new))?
    }

    /// Opens a sink for writing. A FIFO without a reader is ENXIO, at once.
    pub(super) async fn open_sink(&self, sink: &NamedSink) -> Result<OpenSink, DiskError> {
        if let SinkKind::Own(own) = &sink.kind {
            // Whoever opened it said where writing begins: `>>`, or behind what he wrote before.
            return Ok(match self.space.is_beside() {
                true => OpenSink::Direct(own.clone()),
                false => OpenSink::Sequential(own.clone()),
            });
        }
        let path = descriptor_path(&sink.place);
        let truncate = match sink.kind {
            SinkKind::File => flags::O_TRUNC,
            SinkKind::Special | SinkKind::Own(_) => 0,
        };
        let how = |more| OpenHow {
            flags: flags::O_WRONLY | flags::O_NOCTTY | truncate | more,
            mode: 0,
            resolve: 0,
        };
        let opened = self.open(None, path.as_bytes(), how(flags::O_NONBLOCK));
        let opened = opened.await?;
        if self.space.is_beside() {
            // Here nobody else waits while it waits.
            let waits = self.open(None, path.as_bytes(), how(0)).await?;
            return Ok(OpenSink::Direct(waits));
        }
        // ESPIPE where there are no offsets. A write at one does not tell: io_uring writes to a
        // pipe whatever the offset, pieces in the order in which they happen to come.
        let op = FileOp::FindData {
            file: opened.clone(),
            from: 0,
            max: 1,
        };
        match self.call("lseek", op).await {
            Ok(_) => Ok(OpenSink::Direct(opened)),
            Err(error) if error.errno == ESPIPE => Ok(OpenSink::Sequential(opened)),
            Err(error) => Err(error),
        }
    }

    /// A file without a name, for what a sink is to get in order.
    pub(super) async fn aside(&self, sink: &NamedSink) -> Result<Arc<OwnedFd>, DiskError> {
        let dir = match self.space.base() {
            Base::Served(_) => self.temporary_dir(sink.dir, &self.dir(sink.dir).await?),
            Base::Local => {
                let place = ASIDE.get().map(PathBuf::as_path);
                let place = place.unwrap_or(Path::new(ASIDE_BY_DEFAULT));
                let path = place.as_os_str().as_encoded_bytes();
                TemporaryDir {
                    fd: self.open_directory(None, path, 0).await?,
                    lacks: Rc::default(),
                }
            }
        };
        scratch(self, &dir, &sink.name).await
    }

    /// Writes all of `data` to a sink, in order.
    pub(super) async fn pour(&self, sink: &Arc<OwnedFd>, mut data: Bytes) -> Result<(), DiskError> {
        let mut stalls = 0;
        while !data.is_empty() {
            let op = FileOp::Append {
                file: sink.clone(),
                data: data.clone(),
            };
            match self.call("write", op).await {
                Ok(FileDone::Written(0)) => {
                    return Err(DiskError {
                        call: "write",
                        errno: EIO,
                    });
                }
                Ok(FileDone::Written(bytes)) => {
                    data = data.slice(bytes..);
                    stalls = 0;
                }
                Ok(other) => unreachable!("write answered {other:?}"),
                Err(error) if error.errno == EAGAIN && self.may_wait(stalls) => {
                    stalls += 1;
                    descriptors::pause(self).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn may_wait(&self, stalls: u32) -> bool {
        matches!(self.space.base(), Base::Local) || stalls < STALLS_MAX
    }

    /// Writes a file that was kept aside to a sink.
    pub(super) async fn pour_file(
        &self,
        sink: &Arc<OwnedFd>,
        aside: &Arc<OwnedFd>,
    ) -> Result<(), DiskError> {
        let mut offset = 0;
        loop {
            let buffer = self.buffer().await;
            let (mut buffer, bytes) = self.read(aside, offset, buffer, Pool::BUFFER_BYTES).await?;
            if bytes == 0 {
                return Ok(());
            }
            offset += bytes as u64;
            self.pour(sink, buffer.split()).await?;
        }
    }

    /// fsync(2), which pipes and terminals have no use for (EINVAL).
    pub(super) async fn sync_sink(&self, sink: &Arc<OwnedFd>) -> Result<(), DiskError> {
        match sync(self, sink).await {
            Err(DiskError { errno: EINVAL, .. }) => Ok(()),
            other => other,
        }
    }
}
