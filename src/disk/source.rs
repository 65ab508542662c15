//! The sender's disk operations: finding, listing and reading sources, never through a symlink.

use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use landro_sys::file::flags;
use landro_sys::{Buffer, FileDone, FileOp, OpenHow, Pool, Statx};

use super::names::{c_string, refuse_reserved};
use super::space::{Base, DirPlace, OpenFile};
use super::{DiskDone, DiskError, Files};
use crate::ids::{DirId, FileId, Name, is_reserved_path};
use crate::proto::errno::{EACCES, EBADF, ELOOP, ENAMETOOLONG};
use crate::proto::extents::{DataMap, MAP_RANGES};
use crate::proto::{Kind, Listed, Meta, Mtime};

pub fn meta_of(stat: &Statx) -> Meta {
    let kind = match stat.kind {
        landro_sys::FileKind::File => Kind::File,
        landro_sys::FileKind::Dir => Kind::Directory,
        landro_sys::FileKind::Symlink => Kind::Symlink,
        landro_sys::FileKind::Special | landro_sys::FileKind::Unknown => Kind::Special,
    };
    Meta {
        kind,
        mode: stat.mode & 0o7777,
        mtime: Mtime {
            seconds: stat.mtime_s,
            nanoseconds: stat.mtime_ns,
        },
        size_bytes: stat.size,
        allocated_bytes: stat.allocated,
        inode: stat.ino,
        device: stat.dev,
    }
}

/// Splits a typed path into what to open as parent and the last component (None: `.`, `..`, `/` or
/// nothing).
pub fn split_path(path: &[u8]) -> (&[u8], Option<&[u8]>, bool) {
    let trimmed_end = path
        .iter()
        .rposition(|&b| b != b'/')
        .map_or(0, |last| last + 1);
    let trailing_slash = trimmed_end < path.len() && trimmed_end > 0;
    let trimmed = &path[..trimmed_end];
    let (parent, last) = match trimmed.iter().rposition(|&b| b == b'/') {
        Some(0) => (&path[..1], &trimmed[1..]),
        Some(slash) => (&trimmed[..slash], &trimmed[slash + 1..]),
        None if path.starts_with(b"/") => (&path[..1], trimmed),
        None => (&b"."[..], trimmed),
    };
    match last {
        b"" => (
            if path.starts_with(b"/") {
                &path[..1]
            } else {
                b"."
            },
            None,
            trailing_slash,
        ),
        b"." | b".." => (trimmed, None, trailing_slash),
        name => (parent, Some(name), trailing_slash),
    }
}

impl Files {
    /// Opens a directory the session was asked for by path: confined on a daemon, free for the
    /// user's command.
    pub(super) async fn open_asked(&self, path: &[u8]) -> Result<Arc<OwnedFd>, DiskError> {
        match self.space.base() {
            Base::Served(root) => self.open_served(root, relative(path)).await,
            Base::Local => self.open_directory(None, path, 0).await,
        }
    }

    /// Opens a directory of a daemon by the path that a client named: symlinks inside the root
    /// work, but lead to none that is reserved.
    async fn open_served(
        &self,
        root: &Arc<OwnedFd>,
        below: &[u8],
    ) -> Result<Arc<OwnedFd>, DiskError> {
        match self.open_dir_below(root, below).await {
            Err(DiskError { errno: ELOOP, .. }) => {}
            other => return other,
        }
        let resolve = flags::RESOLVE_BENEATH | flags::RESOLVE_NO_MAGICLINKS;
        let fd = self.open_directory(Some(root), below, resolve).await?;
        let (root, led_to) = (self.real_path(root).await?, self.real_path(&fd).await?);
        match led_to.strip_prefix(&root[..]) {
            Some(below) if is_reserved_path(below) => Err(DiskError::RESERVED_NAME),
            _ => Ok(fd),
        }
    }

    /// Where an open directory is, as proc(5) tells.
    async fn real_path(&self, fd: &Arc<OwnedFd>) -> Result<Bytes, DiskError> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let op = FileOp::Readlink {
            dir: None,
            path: c_string(path.as_bytes())?,
        };
        match self.call("readlink /proc/self/fd", op).await? {
            FileDone::Link(path) => Ok(path.into()),
            other => unreachable!("readlinkat answered {other:?}"),
        }
    }

    pub(super) async fn lstat(&self, dir: &Arc<OwnedFd>, name: &[u8]) -> Result<Meta, DiskError> {
        let op = FileOp::Statx {
            dir: Some(dir.clone()),
            path: c_string(name)?,
            flags: flags::AT_SYMLINK_NOFOLLOW,
        };
        match self.call("statx", op).await? {
            FileDone::Stat(stat) => Ok(meta_of(&stat)),
            other => unreachable!("statx answered {other:?}"),
        }
    }

    pub(super) async fn fstat(&self, file: &Arc<OwnedFd>) -> Result<Statx, DiskError> {
        match self
            .call("fstat", FileOp::Fstat { file: file.clone() })
            .await?
        {
            FileDone::Stat(stat) => Ok(stat),
            other => unreachable!("fstat answered {other:?}"),
        }
    }

    /// One read(2), which may be short, into the rest of a buffer; gives the buffer and how much
    /// came.
    pub(super) async fn read(
        &self,
        file: &Arc<OwnedFd>,
        offset: u64,
        buffer: Buffer,
        len: usize,
    ) -> Result<(Buffer, usize), DiskError> {
        let file = file.clone();
        let op = FileOp::Read {
            file,
            offset,
            buffer,
            len,
        };
        match self.call("read", op).await? {
            FileDone::Read { mut buffer, bytes } => {
                buffer.advance(bytes);
                Ok((buffer, bytes))
            }
            other => unreachable!("read answered {other:?}"),
        }
    }

    /// An empty `name`: `dir` is the symlink itself, opened with O_PATH.
    pub(super) async fn readlink(
        &self,
        dir: &Arc<OwnedFd>,
        name: &[u8],
    ) -> Result<Bytes, DiskError> {
        let op = FileOp::Readlink {
            dir: Some(dir.clone()),
            path: c_string(name)?,
        };
        match self.call("readlinkat", op).await? {
            FileDone::Link(target) => Ok(target.into()),
            other => unreachable!("readlinkat answered {other:?}"),
        }
    }

    async fn look_at(&self, dir: Arc<OwnedFd>, name: Bytes) -> Listed {
        let found = async {
            let meta = self.lstat(&dir, &name).await?;
            let link = match meta.kind {
                Kind::Symlink => Some(self.readlink(&dir, &name).await?),
                Kind::File | Kind::Directory | Kind::Special => None,
            };
            Ok((meta, link))
        };
        let found = found.await;
        Listed { name, found }
    }
}

/// A path of a URL is relative to the served root, however it begins.
pub fn relative(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
    &path[start..]
}

pub async fn resolve(files: &Files, path: &[u8], dir: DirId) -> Result<DiskDone, DiskError> {
    refuse_reserved(path)?;
    let path = match files.space.base() {
        Base::Served(_) => relative(path),
        Base::Local => path,
    };
    let (parent, name, trailing_slash) = split_path(path);
    let fd = files.open_asked(parent).await?;
    // Held as long as the source is. One a session has in any case; it is the peer's affair when it
    // lets go of it.
    if files.space.has_directories() {
        files.space.allowance.keep(&fd)?;
    }
    files.learn_file_system(&fd).await?;
    let place = DirPlace::held(fd.clone(), Vec::new());
    let Some(name) = name else {
        let meta = meta_of(&files.fstat(&fd).await?);
        files.space.add_dir(dir, place, fd);
        return Ok(DiskDone::Source {
            name: None,
            meta,
            link: None,
            in_place: files.space.in_memory(),
        });
    };
    let name = Name::new(Bytes::copy_from_slice(name)).map_err(|_| DiskError {
        call: "path",
        errno: ENAMETOOLONG,
    })?;
    let mut listed = files.look_at(fd.clone(), name.bytes()).await;
    if trailing_slash
        && matches!(
            listed.found,
            Ok((
                Meta {
                    kind: Kind::Symlink,
                    ..
                },
                _
            ))
        )
    {
        // As with cp and rsync, `link/` means the directory behind the link.
        let behind = files.open_asked(path).await?;
        listed.found = Ok((meta_of(&files.fstat(&behind).await?), None));
        files
            .space
            .followed
            .replace(Some((dir, name.clone(), behind)));
    }
    let (meta, link) = listed.found?;
    // Only now: of a source that failed, nothing is closed.
    files.space.add_dir(dir, place, fd);
    Ok(DiskDone::Source {
        name: Some(name),
        meta,
        link,
        in_place: files.space.in_memory(),
    })
}

pub async fn open_dir(
    files: &Files,
    parent: DirId,
    name: Option<&Name>,
    dir: DirId,
) -> Result<DiskDone, DiskError> {
    let behind = files
        .space
        .followed
        .borrow_mut()
        .take_if(|(d, n, _)| *d == parent && Some(&*n) == name);
    let (place, fd) = match (behind, name) {
        (Some((_, _, fd)), _) => (DirPlace::held(fd.clone(), Vec::new()), fd),
        (None, Some(name)) => {
            let place = files.space.child(parent, name.as_bytes())?;
            let fd = files.open_place(&place).await?;
            (place, fd)
        }
        (None, None) => {
            // A descriptor of its own: listing keeps its position in the open file description.
            let fd = files.open_dir_below(&files.dir(parent).await?, b"").await?;
            (DirPlace::held(fd.clone(), Vec::new()), fd)
        }
    };
    files.space.add_dir(dir, place, fd);
    Ok(DiskDone::Done)
}

pub async fn list(files: &Files, dir: DirId, max_entries: usize) -> Result<DiskDone, DiskError> {
    let fd = files.dir(dir).await?;
    let op = FileOp::List {
        file: fd.clone(),
        cursor: files.space.list_cursor(dir),
        max: max_entries,
    };
    let FileDone::Listed { entries, next } =
        files.call("getdents64", op).await.map_err(may_not_list)?
    else {
        unreachable!("getdents64 answers Listed")
    };
    files.space.set_list_cursor(dir, next.unwrap_or(0));
    let end = next.is_none();
    let looks: Vec<_> = entries
        .into_iter()
        .map(|entry| files.look_at(fd.clone(), entry.name.into()))
        .collect();
    // All at once: on a ring each look is a trip to an io-wq thread.
    let entries = join_all(looks).await;
    Ok(DiskDone::Listed { entries, end })
}

/// A directory that may be entered but not read was opened with O_PATH, of which the kernel says
/// EBADF.
fn may_not_list(error: DiskError) -> DiskError {
    match error.errno {
        EBADF => DiskError {
            errno: EACCES,
            ..error
        },
        _ => error,
    }
}

/// A small file of this size or more counts as a pool buffer held until it is acknowledged.
const PINNED_BYTES: usize = 16 * 1024;

pub async fn read_small(
    files: &Files,
    dir: DirId,
    name: &Name,
    max_bytes: usize,
) -> Result<DiskDone, DiskError> {
    let fd = files.dir(dir).await?;
    let file = files.open(Some(&fd), name.as_bytes(), read_how()).await?;
    // Small files share a buffer: the next one is read behind the last.
    let shared = files
        .space
        .small_reads
        .take()
        .filter(|buffer| buffer.spare_len() >= max_bytes);
    let mut buffer = match shared {
        Some(buffer) => buffer,
        None => files.buffer().await,
    };
    let mut filled = 0;
    // Asked behind each read, its size says whether that was all: no read only to find the end.
    let after = loop {
        let bytes;
        (buffer, bytes) = files
            .read(&file, filled as u64, buffer, max_bytes - filled)
            .await?;
        filled += bytes;
        let meta = meta_of(&files.fstat(&file).await?);
        if bytes == 0 || filled >= max_bytes || filled as u64 >= meta.size_bytes {
            break meta;
        }
    };
    let data = buffer.split();
    // Smaller ones are copied into a pack at once; larger ones travel as they are.
    let data = if data.len() >= PINNED_BYTES {
        files.pin(data)
    } else {
        data
    };
    files.space.small_reads.replace(Some(buffer));
    Ok(DiskDone::Small { data, after })
}

/// Never through a symlink, and never blocking on a FIFO that took the file's place.
fn read_how() -> OpenHow {
    OpenHow {
        flags: flags::O_RDONLY | flags::O_NOFOLLOW | flags::O_NONBLOCK,
        mode: 0,
        resolve: 0,
    }
}

pub async fn open_read(
    files: &Files,
    dir: DirId,
    name: &Name,
    file: FileId,
) -> Result<DiskDone, DiskError> {
    let fd = files.dir(dir).await?;
    let open = files.open(Some(&fd), name.as_bytes(), read_how()).await?;
    files.space.allowance.keep(&open)?;
    let meta = meta_of(&files.fstat(&open).await?);
    files.space.add_file(file, OpenFile::Source(open));
    Ok(DiskDone::Meta(meta))
}

pub async fn read(
    files: &Files,
    file: FileId,
    offset: u64,
    len_bytes: usize,
) -> Result<DiskDone, DiskError> {
    let file = match files.space.file(file)? {
        OpenFile::Source(fd) => fd,
        OpenFile::Part(part) => part.data,
    };
    let len_bytes = len_bytes.min(Pool::BUFFER_BYTES);
    let mut buffer = files.buffer().await;
    let mut filled = 0;
    while filled < len_bytes {
        let (at, len) = (offset + filled as u64, len_bytes - filled);
        let bytes;
        (buffer, bytes) = files.read(&file, at, buffer, len).await?;
        filled += bytes;
        if bytes == 0 {
            break;
        }
    }
    Ok(DiskDone::Read {
        data: files.pin(buffer.split()),
    })
}

/// Where a source has data.
pub async fn map(files: &Files, file: FileId, offset: u64) -> Result<DiskDone, DiskError> {
    let OpenFile::Source(file) = files.space.file(file)? else {
        return Err(DiskError {
            call: "file",
            errno: EBADF,
        });
    };
    let op = FileOp::FindData {
        file,
        from: offset,
        max: MAP_RANGES,
    };
    match files.call("lseek", op).await? {
        FileDone::Data(found) => Ok(DiskDone::Mapped(DataMap::new(found.ranges, found.known_to))),
        other => unreachable!("lseek answered {other:?}"),
    }
}

pub async fn stat_dir(files: &Files, dir: DirId) -> Result<DiskDone, DiskError> {
    let dir = files.dir(dir).await?;
    Ok(DiskDone::Meta(meta_of(&files.fstat(&dir).await?)))
}

pub async fn stat(files: &Files, file: FileId) -> Result<DiskDone, DiskError> {
    match files.space.file(file)? {
        OpenFile::Source(fd) => Ok(DiskDone::Meta(meta_of(&files.fstat(&fd).await?))),
        OpenFile::Part(part) => Ok(DiskDone::Meta(meta_of(&files.fstat(&part.data).await?))),
    }
}

/// Waits for all of some futures of one task; each is polled whenever any of them may have moved.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    JoinAll {
        futures: futures
            .into_iter()
            .map(|future| Joined::Running(Box::pin(future)))
            .collect(),
    }
    .await
}

enum Joined<F: Future> {
    Running(Pin<Box<F>>),
    Done(Option<F::Output>),
}

struct JoinAll<F: Future> {
    futures: Vec<Joined<F>>,
}

// The futures are boxed: nothing in here is pinned in place.
impl<F: Future> Unpin for JoinAll<F> {}

impl<F: Future> Future for JoinAll<F> {
    type Output = Vec<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut pending = false;
        for joined in &mut self.futures {
            if let Joined::Running(future) = joined {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *joined = Joined::Done(Some(output)),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return Poll::Pending;
        }
        let done = self.futures.iter_mut().map(|joined| match joined {
            Joined::Done(output) => output.take().expect("a finished join is polled once"),
            Joined::Running(_) => unreachable!("nothing is pending"),
        });
        Poll::Ready(done.collect())
    }
}
