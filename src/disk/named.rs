//! Sources as they were named: what a symlink leads to, and pipes and devices, which are read to
//! their end.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::{FileDone, FileKind, FileOp, OpenHow, Statx, pipe};

use super::behind::{Behind, NamedSource};
use super::source::{relative, source_meta, split_path};
use super::space::{Base, DirPlace, OpenFile, Space};
use super::{DiskDone, DiskError, Files};
use crate::ids::{DirId, FileId, Name};
use crate::proto::errno::{EAGAIN, EIO, ENAMETOOLONG};
use crate::proto::{Kind, Meta};

/// Never blocking on a FIFO, be it that it took a file's place.
const READ_FLAGS: i32 = flags::O_RDONLY | flags::O_NONBLOCK;

/// What is asked of `ResolveSource`.
pub struct SourceAsked<'a> {
    pub path: &'a [u8],
    pub follow: bool,
    pub dir: DirId,
}

/// What a session opens first, until that is open: those that it asks for beside it are more.
struct FirstSource<'a>(&'a Space);

impl FirstSource<'_> {
    /// None: something is open, or about to be.
    fn of(space: &Space) -> Option<FirstSource<'_>> {
        let is_first = !space.has_directories() && !space.is_beginning.replace(true);
        is_first.then(|| FirstSource(space))
    }
}

impl Drop for FirstSource<'_> {
    fn drop(&mut self) {
        self.0.is_beginning.set(false);
    }
}

pub async fn resolve(files: &Files, asked: &SourceAsked<'_>) -> Result<DiskDone, DiskError> {
    let path = match files.space.base() {
        Base::Served(_) => relative(asked.path),
        Base::Local => asked.path,
    };
    let (parent, name, trailing_slash) = split_path(path);
    let fd = files.open_asked(parent).await?;
    // Held as long as the source is. One a session has in any case, and more if there is room; it
    // is the peer's affair when it lets go of it.
    let first = FirstSource::of(&files.space);
    match first {
        Some(_) => files.admit(&fd)?,
        None => files.keep(&fd)?,
    }
    files.learn_file_system(&fd).await?;
    let place = DirPlace::held(fd.clone(), Vec::new());
    let Some(name) = name else {
        let stat = files.fstat(&fd).await?;
        let meta = source_meta(&stat, files.keeps_of(&fd, &stat).await?);
        files.space.add_dir(asked.dir, place, fd);
        return Ok(DiskDone::Source {
            name: None,
            meta: Box::new(meta),
            link: None,
            in_place: files.space.in_place(),
        });
    };
    let name = Name::new(Bytes::copy_from_slice(name)).map_err(|_| DiskError {
        call: "path",
        errno: ENAMETOOLONG,
    })?;
    let stat = files.lstatx(&fd, name.as_bytes()).await?;
    let (meta, link) = match stat.kind {
        // As with cp and rsync, `link/` means the directory behind the link.
        FileKind::Symlink if trailing_slash || asked.follow => {
            let (meta, behind) = files.behind_link(path, trailing_slash).await?;
            let name = name.clone();
            files
                .space
                .add_named(asked.dir, behind.map(|behind| NamedSource { name, behind }));
            (meta, None)
        }
        FileKind::Special if files.is_stream(&stat) => {
            let behind = Behind::Stream {
                path: Bytes::copy_from_slice(path),
            };
            let name = name.clone();
            files
                .space
                .add_named(asked.dir, Some(NamedSource { name, behind }));
            (stream_meta(&stat), None)
        }
        _ => files.described(&fd, name.as_bytes(), &stat).await?,
    };
    // Only now: of a source that failed, nothing is closed.
    files.space.add_dir(asked.dir, place, fd);
    Ok(DiskDone::Source {
        name: Some(name),
        meta: Box::new(meta),
        link,
        in_place: files.space.in_place(),
    })
}

/// A pipe or device is a file of which nobody knows how much it holds.
fn stream_meta(stat: &Statx) -> Meta {
    Meta {
        kind: Kind::File,
        size_bytes: 0,
        is_sized: false,
        links: 1,
        ..super::source::meta_of(stat)
    }
}

impl Files {
    /// Whether it is a special file that may be read: never on a daemon, which would wait for
    /// whoever writes, or act on a device.
    fn is_stream(&self, stat: &Statx) -> bool {
        let is_own = matches!(self.space.base(), Base::Local);
        is_own && stat.kind == FileKind::Special && !stat.is_socket()
    }

    /// What a named symlink leads to. None: something that is not sent.
    async fn behind_link(
        &self,
        path: &[u8],
        is_directory: bool,
    ) -> Result<(Meta, Option<Behind>), DiskError> {
        let fd = match is_directory {
            true => self.open_asked(path).await?,
            false => self.open_named(path, flags::O_PATH).await?,
        };
        self.learn_file_system(&fd).await?;
        let stat = self.fstat(&fd).await?;
        let meta = source_meta(&stat, self.keeps_of(&fd, &stat).await?);
        let path = Bytes::copy_from_slice(path);
        Ok(match meta.kind {
            Kind::Directory if is_directory => (meta, Some(Behind::Directory(fd))),
            Kind::Directory => {
                let behind = Behind::Directory(self.open_asked(&path).await?);
                (meta, Some(behind))
            }
            Kind::File => (meta, Some(Behind::File { path })),
            Kind::Special if self.is_stream(&stat) => {
                (stream_meta(&stat), Some(Behind::Stream { path }))
            }
            Kind::Special | Kind::Symlink => (meta, None),
        })
    }

    /// Opens what the user named, through symlinks: on a daemon those that stay inside its root and
    /// lead to no unfinished file.
    async fn open_named(&self, path: &[u8], flags: i32) -> Result<Arc<OwnedFd>, DiskError> {
        let how = |resolve| OpenHow {
            flags,
            mode: 0,
            resolve,
        };
        match self.space.base() {
            Base::Local => self.open(None, path, how(0)).await,
            Base::Served(part) => {
                let root = self.root(part).await?;
                let confined = flags::RESOLVE_BENEATH | flags::RESOLVE_NO_MAGICLINKS;
                let path = relative(path);
                let fd = self.open(Some(&root), path, how(confined)).await?;
                self.refuse_led_astray(&fd).await?;
                Ok(fd)
            }
        }
    }

    /// The directory behind a source that is a symlink, once.
    pub(super) fn named_directory(
        &self,
        parent: DirId,
        name: Option<&Name>,
    ) -> Option<Arc<OwnedFd>> {
        match self.space.named(parent, name?)?.behind {
            Behind::Directory(fd) => Some(fd),
            Behind::File { .. } | Behind::Stream { .. } => None,
        }
    }

    /// Opens a source for reading: a name of a directory never through a symlink, what was named as
    /// it was found.
    pub(super) async fn open_source(
        &self,
        dir: DirId,
        name: &Name,
    ) -> Result<Arc<OwnedFd>, DiskError> {
        match self.space.named(dir, name).map(|named| named.behind) {
            Some(Behind::File { path }) => self.open_named(&path, READ_FLAGS).await,
            Some(Behind::Stream { path }) => {
                let file = self.open_named(&path, READ_FLAGS).await?;
                pipe::widen(&*file);
                Ok(file)
            }
            Some(Behind::Directory(_)) | None => {
                let how = OpenHow {
                    flags: READ_FLAGS | flags::O_NOFOLLOW,
                    mode: 0,
                    resolve: 0,
                };
                let parent = self.dir(dir).await?;
                self.refuse_unfinished(&parent, name.as_bytes()).await?;
                self.open(Some(&parent), name.as_bytes(), how).await
            }
        }
    }

    /// What an open source is now.
    pub(super) async fn opened_meta(&self, file: &Arc<OwnedFd>) -> Result<Meta, DiskError> {
        let stat = self.fstat(file).await?;
        Ok(source_meta(&stat, self.keeps_of(file, &stat).await?))
    }
}

/// Whether the next read of a source would not wait. On a daemon, and in a tree, nothing is waited
/// for that is not the user's own pipe.
pub async fn await_input(files: &Files, file: FileId) -> Result<DiskDone, DiskError> {
    let OpenFile::Source(open) = files.space.file(file)? else {
        unreachable!("a sender awaits input of a source")
    };
    let is_ready = pipe::has_input(&*open).map_err(|error| DiskError {
        call: "poll",
        errno: error.raw_os_error().unwrap_or(EIO),
    })?;
    if !is_ready && !files.is_stream(&files.fstat(&open).await?) {
        return Err(DiskError {
            call: "read",
            errno: EAGAIN,
        });
    }
    Ok(DiskDone::Input { is_ready })
}

/// The next bytes of a source; none at its end.
pub async fn read_on(files: &Files, file: FileId, len_bytes: usize) -> Result<DiskDone, DiskError> {
    let OpenFile::Source(open) = files.space.file(file)? else {
        unreachable!("a sender reads on in a source")
    };
    let op = FileOp::ReadOn {
        file: open,
        buffer: files.buffer().await,
        len: len_bytes,
    };
    let FileDone::Read { mut buffer, bytes } = files.call("read", op).await? else {
        unreachable!("read answers Read")
    };
    buffer.advance(bytes);
    Ok(DiskDone::Read {
        data: files.pin(buffer.split()),
    })
}
