//! The sender's disk operations: finding, listing and reading sources, never through a symlink.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use landro_sys::file::{FoundData, flags};
use landro_sys::process::descriptor_path;
use landro_sys::{Buffer, FileDone, FileOp, OpenHow, Pool, Statx};

use super::names::{TemporaryName, c_string};
use super::root::ServedPart;
use super::space::{Base, DirPlace, OpenFile};
use super::systems::Keeps;
use super::{DiskDone, DiskError, Files};
use crate::ids::{DirId, FileId, Name};
use crate::proto::errno::{EACCES, EBADF};
use crate::proto::extents::{DataMap, MAP_RANGES};
use crate::proto::{KernelData, Kind, Lasting, Listed, Meta, Mtime, PIPED_BYTES};

/// As far as it is the same on every file system.
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
        lasting: Lasting::Nothing,
        links: stat.nlink,
        is_sized: true,
    }
}

/// With what its file system keeps of it.
pub fn source_meta(stat: &Statx, keeps: Keeps) -> Meta {
    let meta = meta_of(stat);
    Meta {
        lasting: keeps.lasting(stat),
        is_sized: meta.kind != Kind::File || keeps.is_sized(meta.size_bytes),
        ..meta
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
            Base::Served(part) => {
                let root = self.root(part).await?;
                let resolve = flags::RESOLVE_BENEATH | flags::RESOLVE_NO_MAGICLINKS;
                let below = match relative(path) {
                    b"" => b".",
                    below => below,
                };
                self.open_directory(Some(&root), below, resolve).await
            }
            Base::Local => self.open_directory(None, path, 0).await,
        }
    }

    /// What symlinks led to is no unfinished file.
    pub(super) async fn refuse_led_astray(&self, fd: &Arc<OwnedFd>) -> Result<(), DiskError> {
        let led_to = self.real_path(fd)?;
        match split_path(&led_to) {
            (parent, Some(name), false) if TemporaryName::parse(name).is_some() => {
                let parent = self.open_directory(None, parent, 0).await?;
                self.refuse_unfinished(&parent, name).await
            }
            _ => Ok(()),
        }
    }

    /// Where an open file or directory is, as proc(5) tells: from the names that the kernel has in
    /// memory, without a question to the file system, so that nothing waits.
    pub(super) fn real_path(&self, fd: &Arc<OwnedFd>) -> Result<Bytes, DiskError> {
        let op = FileOp::Readlink {
            dir: None,
            path: c_string(descriptor_path(fd).as_bytes())?,
        };
        match self.call_in_place("readlink /proc/thread-self/fd", op)? {
            FileDone::Link(path) => Ok(path.into()),
            other => unreachable!("readlinkat answered {other:?}"),
        }
    }

    pub(super) async fn lstat(&self, dir: &Arc<OwnedFd>, name: &[u8]) -> Result<Meta, DiskError> {
        Ok(meta_of(&self.lstatx(dir, name).await?))
    }

    /// The same, as the kernel tells it.
    pub(super) async fn lstatx(&self, dir: &Arc<OwnedFd>, name: &[u8]) -> Result<Statx, DiskError> {
        let op = FileOp::Statx {
            dir: Some(dir.clone()),
            path: c_string(name)?,
            flags: flags::AT_SYMLINK_NOFOLLOW,
        };
        match self.call("statx", op).await? {
            FileDone::Stat(stat) => Ok(stat),
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
            waits: self.space.asking_waits(),
        };
        match self.call("read", op).await? {
            FileDone::Read { mut buffer, bytes } => {
                buffer.advance(bytes);
                Ok((buffer, bytes))
            }
            other => unreachable!("read answered {other:?}"),
        }
    }

    /// Where a file has data, as far as one look goes.
    pub(super) async fn find_data(
        &self,
        file: &Arc<OwnedFd>,
        from: u64,
    ) -> Result<FoundData, DiskError> {
        let op = FileOp::FindData {
            file: file.clone(),
            from,
            max: MAP_RANGES,
        };
        match self.call("lseek", op).await? {
            FileDone::Data(found) => Ok(found),
            other => unreachable!("lseek answered {other:?}"),
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

    /// An unfinished file is nobody's to read.
    pub(super) async fn refuse_unfinished(
        &self,
        dir: &Arc<OwnedFd>,
        name: &[u8],
    ) -> Result<(), DiskError> {
        match self.is_unfinished(dir, name).await? {
            true => Err(DiskError::UNFINISHED),
            false => Ok(()),
        }
    }

    /// A name of a directory, with a symlink's target.
    pub(super) async fn described(
        &self,
        dir: &Arc<OwnedFd>,
        name: &[u8],
        stat: &Statx,
    ) -> Result<(Meta, Option<Bytes>), DiskError> {
        let meta = source_meta(stat, self.keeps_of_name(dir, name, stat).await?);
        let link = match meta.kind {
            Kind::Symlink => Some(self.readlink(dir, name).await?),
            Kind::File => {
                self.refuse_unfinished(dir, name).await?;
                None
            }
            Kind::Directory | Kind::Special => None,
        };
        Ok((meta, link))
    }

    async fn look_at(&self, dir: Arc<OwnedFd>, name: Bytes) -> Listed {
        let found = async {
            let stat = self.lstatx(&dir, &name).await?;
            self.described(&dir, &name, &stat).await
        };
        let found = found.await;
        Listed { name, found }
    }
}

impl Files {
    /// Opens what the daemon serves to this session, at its first use.
    pub(super) async fn root(&self, part: &ServedPart) -> Result<Arc<OwnedFd>, DiskError> {
        if let Some(open) = &*self.space.root.borrow() {
            return Ok(open.clone());
        }
        let path = part.root.path.as_os_str().as_bytes();
        let gone = |error: DiskError| DiskError {
            call: DiskError::ROOT,
            ..error
        };
        let mut open = self.open(None, path, root_how(0)).await.map_err(gone)?;
        let below = part.below.as_deref().unwrap_or_default();
        if !below.is_empty() {
            let resolve = flags::RESOLVE_BENEATH | flags::RESOLVE_NO_MAGICLINKS;
            let path = match relative(below) {
                b"" => b".",
                path => path,
            };
            let confined = |error: DiskError| DiskError {
                call: DiskError::CONFINED,
                ..error
            };
            let opened = self.open(Some(&open), path, root_how(resolve)).await;
            open = opened.map_err(confined)?;
        }
        let found = self.real_path(&open)?;
        if !part.root.is_where_it_was(below, &found) {
            return Err(DiskError::UNMOUNTED);
        }
        if self.space.allowance.may_cache(&open) {
            self.space.root.replace(Some(open.clone()));
        }
        Ok(open)
    }
}

/// Not opened for reading, which a file system would be asked for.
fn root_how(resolve: u64) -> OpenHow {
    OpenHow {
        flags: flags::O_DIRECTORY | flags::O_PATH,
        mode: 0,
        resolve,
    }
}

/// A path of a URL is relative to the served root, however it begins.
pub fn relative(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
    &path[start..]
}

pub async fn open_dir(
    files: &Files,
    parent: DirId,
    name: Option<&Name>,
    dir: DirId,
) -> Result<DiskDone, DiskError> {
    let behind = files.named_directory(parent, name);
    let (place, fd) = match (behind, name) {
        (Some(fd), _) => (DirPlace::held(fd.clone(), Vec::new()), fd),
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
    let count = entries.len();
    let looks = entries
        .into_iter()
        .map(|entry| files.look_at(fd.clone(), entry.name.into()));
    let entries = if files.space.in_place() {
        let mut listed = Vec::with_capacity(count);
        for look in looks {
            listed.push(look.await);
        }
        listed
    } else {
        // All at once: on a ring each look is a trip to an io-wq thread.
        join_all(looks).await
    };
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
    let file = files.open_source(dir, name).await?;
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
        let meta = files.opened_meta(&file).await?;
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

pub async fn open_read(
    files: &Files,
    dir: DirId,
    name: &Name,
    file: FileId,
) -> Result<DiskDone, DiskError> {
    let open = files.open_source(dir, name).await?;
    files.keep(&open)?;
    let meta = files.opened_meta(&open).await?;
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

// More would come short, and be read.
const _: () = assert!(PIPED_BYTES <= landro_sys::pipe::MAX_PIPED_BYTES);

/// A part of a source in a pipe; None: for whatever reason that cannot be.
pub async fn pipe(
    files: &Files,
    file: FileId,
    offset: u64,
    len_bytes: usize,
) -> Result<DiskDone, DiskError> {
    let OpenFile::Source(file) = files.space.file(file)? else {
        return Ok(DiskDone::Piped(None));
    };
    let op = FileOp::Pipe {
        file,
        offset,
        len: len_bytes,
    };
    let piped = match files.call("splice", op).await {
        // Descriptors that are kept only for speed leave most of the table to others.
        Ok(FileDone::Piped(pipe, bytes))
            if bytes == len_bytes && files.space.allowance.may_cache(&pipe) =>
        {
            Some(KernelData::new(Arc::new(pipe)))
        }
        Ok(_) | Err(_) => None,
    };
    Ok(DiskDone::Piped(piped))
}

/// Where a source has data.
pub async fn map(files: &Files, file: FileId, offset: u64) -> Result<DiskDone, DiskError> {
    let OpenFile::Source(file) = files.space.file(file)? else {
        return Err(DiskError {
            call: "file",
            errno: EBADF,
        });
    };
    let found = files.find_data(&file, offset).await?;
    Ok(DiskDone::Mapped(DataMap::new(found.ranges, found.known_to)))
}

pub async fn stat_dir(files: &Files, dir: DirId) -> Result<DiskDone, DiskError> {
    let dir = files.dir(dir).await?;
    Ok(DiskDone::Meta(meta_of(&files.fstat(&dir).await?)))
}

pub async fn stat(files: &Files, file: FileId) -> Result<DiskDone, DiskError> {
    match files.space.file(file)? {
        OpenFile::Source(fd) => Ok(DiskDone::Meta(files.opened_meta(&fd).await?)),
        OpenFile::Part(part) => Ok(DiskDone::Meta(meta_of(&files.fstat(&part.data).await?))),
    }
}

/// Waits for all of some futures of one task; each is polled whenever any of them may have moved.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    JoinAll {
        futures: futures
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
