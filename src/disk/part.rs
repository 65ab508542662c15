//! Partial files: opened with their journal, filled in any order, committed or kept for a later
//! session.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use landro_sys::file::magic;
use landro_sys::splice::{copy_local, copy_sparse};
use landro_sys::{FileDone, FileOp, FileSystem, Pool};

use super::history::History;
use super::marks::HEAD_BYTES;
use super::names::{TemporaryName, Use, turns};
use super::publish::{
    Arrival, Locked, finish, new_mode, open_locked, temporary, unlink, write_all,
};
use super::source::meta_of;
use super::space::{OpenFile, OpenSink, Part};
use super::workplace::TemporaryDir;
use super::{Attributes, DiskDone, DiskError, Files};
use crate::ids::{DirId, FileId, Name};
use crate::proto::Lapses;
use crate::proto::errno::{EBADF, EINVAL, EIO, ENODEV, ENOSPC, EOPNOTSUPP, ESPIPE};
use crate::proto::integrity::ZEROS;
use crate::proto::journal::{HEADER_BYTES, MAX_JOURNAL_BYTES, Storage, done_bytes};

/// What is waited for at a time: a disk of 1 MB/s has it in some seconds.
const WRITE_BACK_STEP_BYTES: u32 = 8 << 20;

/// Data that will be waited for is written back in steps of this, while more arrives: a disk is
/// kept busy by some MiB.
const WRITE_BACK_BYTES: u64 = 8 << 20;

/// A partial file that is wanted.
pub struct NewPart {
    pub dir: DirId,
    pub name: Name,
    pub file: FileId,
    pub resumable: bool,
    /// What it is made with.
    pub mode: u32,
}

pub async fn open_part(files: &Files, new: NewPart) -> Result<DiskDone, DiskError> {
    let NewPart {
        dir: dir_id,
        ref name,
        file,
        resumable,
        mode,
    } = new;
    let dir = files.dir(dir_id).await?;
    let history = Arc::new(History::default());
    if let Some(sink) = files.space.sink(dir_id, name) {
        let sink_open = files.open_sink(&sink).await?;
        let data = match &sink_open {
            OpenSink::Direct(open) => open.clone(),
            OpenSink::Sequential(_) => files.aside(&sink).await?,
        };
        history.whole.store(true, Ordering::Relaxed);
        history.set_replaces(false);
        let part = Part {
            data,
            dir,
            dir_id,
            name: name.clone(),
            journal: None,
            temporary: None,
            history,
            is_awaited: false,
            sink: Some(sink_open),
        };
        return Ok(add_anonymous(files, file, part));
    }
    files.expect_to_keep()?;
    let made_in = files.temporary_dir(dir_id, &dir);
    if resumable && let Some(pair) = open_pair(files, &made_in, name, mode).await? {
        files.keep(&pair.data)?;
        let part = Part {
            data: pair.data,
            dir,
            dir_id,
            name: name.clone(),
            journal: Some(pair.journal),
            temporary: Some(pair.path),
            history,
            is_awaited: false,
            sink: None,
        };
        return open_resumable(files, file, part).await;
    }
    // Another session is receiving the same file, or its names are taken: this one goes on without
    // a journal, the later rename wins.
    let (data, temporary) = temporary(files, &made_in, name, mode).await?;
    files.keep(&data)?;
    // It begins empty.
    history.whole.store(true, Ordering::Relaxed);
    let part = Part {
        data,
        dir,
        dir_id,
        name: name.clone(),
        journal: None,
        temporary,
        history,
        is_awaited: false,
        sink: None,
    };
    Ok(add_anonymous(files, file, part))
}

fn add_anonymous(files: &Files, file: FileId, part: Part) -> DiskDone {
    files.space.add_file(file, OpenFile::Part(part));
    DiskDone::Part {
        journal: Bytes::new(),
        size_bytes: 0,
        resumable: false,
        // Nobody finds it again to ask.
        storage: Storage::default(),
    }
}

/// A partial file and its journal.
struct Pair {
    data: Arc<OwnedFd>,
    journal: Arc<OwnedFd>,
    /// The name of the first.
    path: TemporaryName,
}

/// Opens or makes a partial file and its journal, under the first names that nothing of others has.
/// None: another session has the file, or there is no such name.
async fn open_pair(
    files: &Files,
    dir: &TemporaryDir,
    name: &Name,
    mode: u32,
) -> Result<Option<Pair>, DiskError> {
    let of_journal = new_mode(false);
    for path in turns(name, Use::Part) {
        let beside = path.with(Use::Journal);
        // Where nothing else tells that the part is ours, the journal is there before it.
        if dir.lacks.attributes.get() {
            let journal = files.open_own(dir, &beside, name, of_journal).await?;
            if journal.is_none() {
                continue;
            }
        }
        let data = match open_locked(files, dir, &path, name, mode).await? {
            Locked::Ours(data) => data,
            Locked::Busy => return Ok(None),
            Locked::Taken => continue,
        };
        // Opened behind the lock: who had it before may have taken the journal with the part.
        match files.open_own(dir, &beside, name, of_journal).await? {
            Some(journal) => {
                return Ok(Some(Pair {
                    data,
                    journal,
                    path,
                }));
            }
            None => unlink(files, &dir.fd, &path.to_c()).await?,
        }
    }
    Ok(None)
}

async fn open_resumable(files: &Files, file: FileId, part: Part) -> Result<DiskDone, DiskError> {
    let Some(journal) = part.journal.clone() else {
        unreachable!("a pair has a journal")
    };
    files.keep(&journal)?;
    let journal_bytes = files.fstat(&journal).await?.size.saturating_sub(HEAD_BYTES) as usize;
    let mut bytes = read_journal(files, &journal, journal_bytes.min(MAX_JOURNAL_BYTES)).await?;
    let found = files.fstat(&part.data).await?;
    // What the page cache still has may have failed to reach the disk since it was written: the
    // error, if nobody saw it yet, is told here, once (fsync(2)), and then nothing of the file is
    // believed.
    let flush = FileOp::Fsync {
        file: part.data.clone(),
        data_only: true,
    };
    if !bytes.is_empty() && files.call("fdatasync", flush).await.is_err() {
        bytes = Bytes::new();
    }
    // What a server took was not stored for certain, and whoever was told so may be gone: nothing
    // of it is believed before it was read again.
    let storage = if files.tells_late(part.dir_id) {
        Storage::default()
    } else {
        files.storage_of(&found)
    };
    files.space.add_file(file, OpenFile::Part(part));
    Ok(DiskDone::Part {
        journal: bytes,
        size_bytes: found.size,
        resumable: true,
        storage,
    })
}

/// What `proto` wrote behind the head.
async fn read_journal(
    files: &Files,
    file: &Arc<OwnedFd>,
    len_bytes: usize,
) -> Result<Bytes, DiskError> {
    let mut whole = Vec::with_capacity(len_bytes);
    while whole.len() < len_bytes {
        // One at a time: who waited for a second one holding a first could wait for others who do
        // the same.
        let buffer = files.buffer().await;
        let len = (len_bytes - whole.len()).min(Pool::BUFFER_BYTES);
        let at = HEAD_BYTES + whole.len() as u64;
        let (mut buffer, bytes) = files.read(file, at, buffer, len).await?;
        whole.extend_from_slice(&buffer.split());
        if bytes == 0 {
            break;
        }
    }
    Ok(whole.into())
}

fn part(files: &Files, file: FileId) -> Result<Part, DiskError> {
    match files.space.file(file)? {
        OpenFile::Part(part) => Ok(part),
        OpenFile::Source(_) => Err(DiskError {
            call: "file",
            errno: EBADF,
        }),
    }
}

/// Starts a partial file over. `sparse`: its source has holes, and so much data.
///
/// One with holes begins as one hole of its full size, so that what is never written reads as zeros
/// up to the end. Then neither its size nor a gap in its extents says what of it was written:
/// before it appears, the disk is waited for, as for a part that is not all of this session's.
pub async fn start_part(
    files: &Files,
    file: FileId,
    (size_bytes, sparse): (u64, Option<u64>),
    journal: Bytes,
) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    if let Some(OpenSink::Direct(_)) = part.sink {
        // A device has the size that it has, and tells at its end.
        return Ok(DiskDone::Done);
    }
    if let Some(journal) = &part.journal {
        // The journal is emptied before the data: a crash in between must not leave records of data
        // that is gone.
        truncate(files, journal, HEAD_BYTES).await?;
    }
    truncate(files, &part.data, 0).await?;
    part.history
        .whole
        .store(sparse.is_none(), Ordering::Relaxed);
    part.history.fresh.store(true, Ordering::Relaxed);
    // Whether a file can fit at all is known before its first byte, and so before its blocks are
    // reserved: of a disk that is too small nothing is taken from others.
    let op = FileOp::StatFs {
        file: part.data.clone(),
    };
    let found = files.call("fstatfs", op).await?;
    // A file system without a limit says that it has no blocks at all.
    if let FileDone::FileSystem(found) = found
        && found.total_bytes > 0
        && found.free_bytes < least_bytes(&found, size_bytes, sparse)
    {
        return Err(DiskError {
            call: "fstatfs",
            errno: ENOSPC,
        });
    }
    match sparse {
        Some(_) => truncate(files, &part.data, size_bytes).await?,
        None if size_bytes > 0 && files.reserves(part.dir_id) => {
            let op = FileOp::Reserve {
                file: part.data.clone(),
                len: size_bytes,
            };
            match files.call("fallocate", op).await {
                Err(DiskError {
                    errno: EOPNOTSUPP, ..
                }) => {}
                other => drop(other?),
            }
        }
        None => {}
    }
    if let Some(file) = &part.journal {
        write_all(files, file, HEAD_BYTES, journal).await?;
    }
    Ok(DiskDone::Done)
}

async fn truncate(files: &Files, file: &Arc<OwnedFd>, len: u64) -> Result<(), DiskError> {
    let file = file.clone();
    files
        .call("ftruncate", FileOp::Truncate { file, len })
        .await?;
    Ok(())
}

/// What of the free space a file takes in any case. Where a file system may compress, or keeps its
/// bytes who knows where (btrfs, ZFS, bcachefs, f2fs, NFS, FUSE, …), only writing tells.
fn least_bytes(found: &FileSystem, size_bytes: u64, sparse: Option<u64>) -> u64 {
    match found.magic {
        magic::EXT | magic::XFS => sparse.unwrap_or(size_bytes),
        _ if found.is_memory => sparse.unwrap_or(size_bytes),
        // Without holes.
        magic::FAT | magic::EXFAT => size_bytes,
        _ => 0,
    }
}

/// Zeros in place of whatever a partial file, or a device, has there; of one that was begun anew
/// nothing is. Blocks go where the file system can do that.
pub async fn make_hole(
    files: &Files,
    file: FileId,
    mut offset: u64,
    len_bytes: u64,
) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    if part.history.fresh.load(Ordering::Relaxed) {
        return Ok(DiskDone::Done);
    }
    let op = FileOp::Punch {
        file: part.data.clone(),
        offset,
        len: len_bytes,
    };
    match files.call("fallocate", op).await {
        // A file system without holes; a device that is none of blocks, or of larger ones.
        Err(DiskError {
            errno: EOPNOTSUPP | ENODEV | EINVAL,
            ..
        }) => {}
        other => return other.map(|_| DiskDone::Done),
    }
    let end = offset + len_bytes;
    while offset < end {
        let data = Bytes::from_static(&ZEROS).slice(..ZEROS.len().min((end - offset) as usize));
        let bytes = data.len() as u64;
        write_all(files, &part.data, offset, data).await?;
        offset += bytes;
    }
    Ok(DiskDone::Done)
}

pub async fn write(
    files: &Files,
    file: FileId,
    offset: u64,
    data: Bytes,
) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    let bytes = data.len() as u64;
    write_all(files, &part.data, offset, data).await?;
    let written_to = &part.history.written_to;
    written_to.fetch_max(offset + bytes, Ordering::Relaxed);
    wrote(files, &part, bytes).await;
    Ok(DiskDone::Done)
}

/// Copies from where a file of the other side's was read to, to where a part was written to, as a
/// reflink where the file systems can; of a file with holes at most so many bytes, holes included.
pub async fn copy_range(
    files: &Files,
    file: FileId,
    from: FileId,
    (len_bytes, most_bytes): (u64, Option<u64>),
) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    let from = files.space.beside(from)?;
    let sharing = &files.lacks(part.dir_id).sharing;
    let copied = match most_bytes {
        Some(most_bytes) if part.sink.is_none() => {
            // As for one that arrives: see `start_part`.
            part.history.whole.store(false, Ordering::Relaxed);
            copy_sparse(&from, &part.data, sharing, (len_bytes, most_bytes))
        }
        // A device has no holes, and a pipe no places.
        Some(_) | None => copy_local(&from, &part.data, sharing, len_bytes),
    };
    let bytes = copied.map_err(|fault| DiskError {
        call: match fault.at_source {
            true => DiskError::COPY_READ,
            false => "copy_file_range",
        },
        errno: fault.error.raw_os_error().unwrap_or(EIO),
    })?;
    part.history.written_to.fetch_add(bytes, Ordering::Relaxed);
    wrote(files, &part, bytes).await;
    Ok(DiskDone::Copied { bytes })
}

/// Whether the disk is waited for before a part appears. `replaces`: something has its name.
fn is_awaited(files: &Files, part: &Part, replaces: bool) -> bool {
    let is_whole = part.history.whole.load(Ordering::Relaxed);
    let is_asked = part.is_awaited || files.space.waits_for_data(part.dir_id);
    let waits = replaces || !is_whole || is_asked;
    waits && !files.space.is_memory_file_system()
}

/// Whether something has the name that a part is to get. It is looked at once, and only of a part
/// that is large enough for this to matter before its end.
async fn has_taken_name(files: &Files, part: &Part) -> bool {
    if let Some(known) = part.history.replaces() {
        return known;
    }
    let found = files.lstat(&part.dir, part.name.as_bytes()).await.is_ok();
    part.history.set_replaces(found);
    found
}

/// So much more of a part was written: what the disk will be waited for begins to go there.
async fn wrote(files: &Files, part: &Part, bytes: u64) {
    let unwritten_bytes = &part.history.unwritten_bytes;
    if unwritten_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes < WRITE_BACK_BYTES {
        return;
    }
    unwritten_bytes.store(0, Ordering::Relaxed);
    if is_awaited(files, part, has_taken_name(files, part).await) {
        // What fails here fails again, and is told, where it is waited for.
        let file = part.data.clone();
        let _ = files
            .call(
                "sync_file_range",
                FileOp::SyncRange {
                    file,
                    range: (0, 0),
                    wait: false,
                },
            )
            .await;
    }
}

/// What the disk will be waited for goes there in steps, each of which is seen to end: minutes of a
/// slow disk are not taken for one that does not answer. Holes, of which there may be terabytes,
/// take no steps.
async fn write_back(files: &Files, file: &Arc<OwnedFd>) -> Result<(), DiskError> {
    let size_bytes = files.fstat(file).await?.size;
    let (mut known_to, mut from) = (0, 0);
    while known_to < size_bytes {
        let found = files.find_data(file, known_to).await?;
        known_to = found.known_to;
        for data in found.ranges {
            // What is near lies in the step before.
            from = data.start.max(from);
            while from < data.end.min(size_bytes) {
                let op = FileOp::SyncRange {
                    file: file.clone(),
                    range: (from, WRITE_BACK_STEP_BYTES),
                    wait: true,
                };
                match files.call("sync_file_range", op).await {
                    Ok(_) => from += u64::from(WRITE_BACK_STEP_BYTES),
                    // Not every file system has pages to write back.
                    Err(DiskError {
                        errno: EINVAL | ESPIPE | EOPNOTSUPP,
                        ..
                    }) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

pub async fn write_journal(
    files: &Files,
    file: FileId,
    offset: u64,
    bytes: Bytes,
) -> Result<DiskDone, DiskError> {
    if let Some(journal) = &part(files, file)?.journal {
        write_all(files, journal, HEAD_BYTES + offset, bytes).await?;
    }
    Ok(DiskDone::Done)
}

pub async fn commit_part(
    files: &Files,
    file: FileId,
    attributes: Attributes,
    replaces: bool,
) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    if let Some(sink) = &part.sink {
        let (OpenSink::Direct(open) | OpenSink::Sequential(open)) = sink;
        if let OpenSink::Sequential(_) = sink {
            files.pour_file(open, &part.data).await?;
        }
        if attributes.fsync {
            files.sync_sink(open).await?;
        }
        files.space.forget_file(file);
        return Ok(DiskDone::Placed(Lapses::default()));
    }
    let arrival = Arrival {
        dir_id: part.dir_id,
        dir: &part.dir,
        file: &part.data,
        temporary: part.temporary.as_ref(),
        name: &part.name,
        is_whole: part.history.whole.load(Ordering::Relaxed),
        is_empty: false,
        written_to: part.history.written_to.load(Ordering::Relaxed),
        replaces,
    };
    let replaces_any = replaces || part.history.replaces() == Some(true);
    if attributes.fsync || is_awaited(files, &part, replaces_any) {
        write_back(files, &part.data).await?;
    }
    let done = finish(files, &arrival, attributes).await?;
    if let DiskDone::Taken { .. } = done {
        return Ok(done);
    }
    // After the rename: a crash in between leaves an orphan journal, which `clean_part` removes
    // when the next run skips the finished file. The other order could lose the resume state of a
    // whole file.
    unlink_journal(files, &part).await?;
    files.space.forget_file(file);
    Ok(done)
}

pub async fn close_part(files: &Files, file: FileId, keep: bool) -> Result<DiskDone, DiskError> {
    let part = part(files, file)?;
    files.space.forget_file(file);
    if let (false, Some(temporary)) = (keep && part.journal.is_some(), &part.temporary) {
        unlink_journal(files, &part).await?;
        unlink(files, &part.dir, &temporary.to_c()).await?;
    }
    Ok(DiskDone::Done)
}

async fn unlink_journal(files: &Files, part: &Part) -> Result<(), DiskError> {
    match (&part.journal, &part.temporary) {
        (Some(_), Some(path)) => unlink(files, &part.dir, &path.with(Use::Journal).to_c()).await,
        _ => Ok(()),
    }
}

/// Removes what a crash left of a file that is whole by now, unless another session works on it.
pub async fn clean_part(files: &Files, dir: DirId, name: &Name) -> Result<DiskDone, DiskError> {
    let dir = files.dir(dir).await?;
    for path in turns(name, Use::Part) {
        let beside = path.with(Use::Journal);
        let stands = |path: &TemporaryName| {
            let (dir, path) = (dir.clone(), path.to_c());
            async move { files.lstat(&dir, path.as_bytes()).await }
        };
        let (part, journal) = (stands(&path).await, stands(&beside).await);
        if part.is_err() && journal.is_err() {
            return Ok(DiskDone::Done);
        }
        let data = files.unfinished(&dir, path.to_c().as_bytes()).await?;
        if let Some(data) = &data
            && !files.lock(&data.file).await?
        {
            return Ok(DiskDone::Done);
        }
        if files.is_unfinished(&dir, beside.to_c().as_bytes()).await? {
            unlink(files, &dir, &beside.to_c()).await?;
        }
        if data.is_some() {
            unlink(files, &dir, &path.to_c()).await?;
        }
    }
    Ok(DiskDone::Done)
}

/// What is there of an unfinished file. Of a part and its journal the part is told.
pub async fn look_unfinished(
    files: &Files,
    dir: DirId,
    name: &[u8],
) -> Result<DiskDone, DiskError> {
    let dir = files.dir(dir).await?;
    let Some(of_form) = TemporaryName::parse(name) else {
        return Ok(DiskDone::Unfinished(None));
    };
    let found = match of_form.purpose {
        Use::Part | Use::New => files.unfinished(&dir, name).await?,
        Use::Journal => None,
    };
    let Some(found) = found else {
        return Ok(DiskDone::Unfinished(None));
    };
    let mut meta = meta_of(&files.fstat(&found.file).await?);
    let beside = of_form.with(Use::Journal).to_c();
    if let Some(journal) = files.unfinished(&dir, beside.as_bytes()).await? {
        let len_bytes = files
            .fstat(&journal.file)
            .await?
            .size
            .saturating_sub(HEAD_BYTES);
        let start = read_journal(files, &journal.file, HEADER_BYTES).await?;
        // The file is as long as its last chunk says, whatever is missing before that.
        if let Some(done_bytes) = done_bytes(&start, len_bytes) {
            meta.size_bytes = done_bytes;
        }
    }
    Ok(DiskDone::Unfinished(Some((found.name, meta))))
}
