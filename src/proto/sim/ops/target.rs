//! The receiver's operations on a simulated disk, and what they hold the session to.

use bytes::Bytes;

use super::{
    EACCES, EISDIR, ELOOP, ENOENT, ENOSPC, ENOTDIR, Handles, OpenFile, OpenPart, fail, name_of,
    open_directory, split,
};
use crate::ids::{CopyId, DirId, FileId, Name};
use crate::proto::chunk::{chunk_len_bytes, chunk_offset};
use crate::proto::errno::EFBIG;
use crate::proto::extents::BLOCK_BYTES;
use crate::proto::fs::{DIRECTORY_MODE, FILE_MODE, UNFINISHED_MODE};
use crate::proto::integrity::ChunkHasher;
use crate::proto::journal::Journal;
use crate::proto::sim::disk::{Body, Disk, Ino, Node, Part};
use crate::proto::{
    Attributes, DirFound, DirMode, DiskDone, DiskError, DiskOp, Kind, Lapses, Mtime,
};

/// Handed down by a directory with its group.
const SETGID: u32 = 0o2000;

/// What this file system takes; liars announce more.
const LARGEST_FILE_BYTES: u64 = 1 << 28;

impl Handles {
    pub(super) fn run_for_target(
        &mut self,
        disk: &mut Disk,
        dir: Ino,
        cmd: DiskOp,
    ) -> Result<DiskDone, DiskError> {
        match cmd {
            DiskOp::MakeDir {
                name,
                dir: new,
                copy,
                ..
            } => {
                let made = self.make_dir(disk, dir, &name, new)?;
                let is_new = matches!(
                    made,
                    DiskDone::Directory {
                        found: DirFound::Missing
                    }
                );
                if let (true, Some(copy)) = (is_new, copy) {
                    disk.copies.insert(self.dirs[&new], copy);
                }
                Ok(made)
            }
            DiskOp::SetDir {
                mode,
                mtime,
                ends_copy,
                ..
            } => {
                if ends_copy.is_some() && disk.copies.get(&dir) == ends_copy.as_ref() {
                    disk.copies.remove(&dir);
                }
                Ok(set_dir(disk, dir, mode, mtime))
            }
            DiskOp::PutSmall {
                name,
                data,
                attributes,
                ..
            } => {
                let data = data.concat();
                room(disk, data.len() as u64, "write")?;
                publish(disk, dir, name.as_bytes(), (Body::File(data), attributes))
            }
            DiskOp::PutSymlink {
                name,
                target,
                attributes,
                ..
            } => {
                let body = Body::Symlink(target.to_vec());
                publish(disk, dir, name.as_bytes(), (body, attributes))
            }
            other => unreachable!("{other:?} is none of a destination"),
        }
    }

    pub(super) fn resolve_target(
        &mut self,
        disk: &mut Disk,
        cmd: &DiskOp,
    ) -> Result<DiskDone, DiskError> {
        let &DiskOp::ResolveTarget {
            ref path,
            must_be_dir,
            no_target_dir,
            copy,
            dir,
            ..
        } = cmd
        else {
            panic!("{cmd:?} resolves no target")
        };
        let (parent, name) = split(path);
        if !name.is_empty() && (no_target_dir || goes_on(disk, path, must_be_dir, copy)) {
            let parent = open_directory(disk, parent)?;
            let name = Some(name_of(name).map_err(|error| DiskError {
                call: "path",
                ..error
            })?);
            self.dirs.insert(dir, parent);
            return Ok(DiskDone::Target { name });
        }
        match open_directory(disk, path) {
            Ok(ino) => {
                self.dirs.insert(dir, ino);
                return Ok(DiskDone::Target { name: None });
            }
            Err(DiskError {
                errno: ENOENT | ENOTDIR,
                ..
            }) => {}
            Err(error) => return Err(error),
        }
        let (parent, name) = split(path);
        let parent = open_directory(disk, parent)?;
        if !must_be_dir && !path.ends_with(b"/") {
            let name = name_of(name)?;
            self.dirs.insert(dir, parent);
            return Ok(DiskDone::Target { name: Some(name) });
        }
        if disk.child(parent, name).is_some() {
            return fail("openat2", ENOTDIR);
        }
        let made = disk.make_dir(parent, name, 0o755);
        self.dirs.insert(dir, made);
        Ok(DiskDone::Target { name: None })
    }

    pub(super) fn make_dir(
        &mut self,
        disk: &mut Disk,
        parent: Ino,
        name: &Name,
        dir: DirId,
    ) -> Result<DiskDone, DiskError> {
        if disk.faults.unwritable.contains(name.as_bytes()) {
            return fail("mkdirat", EACCES);
        }
        if let Some(by) = disk.taken_by(parent, name.as_bytes()) {
            return Ok(DiskDone::Taken { by });
        }
        if let Some(ino) = disk.child(parent, name.as_bytes()) {
            let is_unfinished = disk.node(ino).mode & !SETGID == UNFINISHED_MODE;
            return match disk.node(ino).body {
                Body::Directory(_) => {
                    self.dirs.insert(dir, ino);
                    let found = match is_unfinished {
                        true => DirFound::Unfinished,
                        false => DirFound::Finished,
                    };
                    Ok(DiskDone::Directory { found })
                }
                Body::Symlink(_) => fail("openat2", ELOOP),
                Body::File(_) | Body::Special => fail("openat2", ENOTDIR),
            };
        }
        let made = disk.make_dir(parent, name.as_bytes(), UNFINISHED_MODE);
        self.dirs.insert(dir, made);
        let found = DirFound::Missing;
        Ok(DiskDone::Directory { found })
    }

    pub(super) fn open_part(
        &mut self,
        disk: &mut Disk,
        dir: Ino,
        name: &Name,
        file: FileId,
        resumable: bool,
    ) -> Result<DiskDone, DiskError> {
        if disk.faults.unwritable.contains(name.as_bytes()) {
            return fail("openat2", EACCES);
        }
        let name = name.as_bytes().to_vec();
        let named = resumable && !self.is_locked(dir, &name);
        let (journal, size_bytes) = match named {
            true => {
                let part = disk.parts.entry((dir, name.clone())).or_default();
                (
                    Bytes::copy_from_slice(&part.journal),
                    part.data.len() as u64,
                )
            }
            false => (Bytes::new(), 0),
        };
        let part = OpenPart {
            dir,
            name,
            named,
            anonymous: Part::default(),
            writes_under_way: 0,
            closed: false,
        };
        self.add_file(file, OpenFile::Part(part));
        Ok(DiskDone::Part {
            journal,
            size_bytes,
            resumable: named,
            storage: disk.storage,
        })
    }

    /// Whether a partial file of this name is open, and so locked.
    pub(super) fn is_locked(&self, dir: Ino, name: &[u8]) -> bool {
        self.open.iter().any(|open| match open {
            OpenFile::Part(part) => {
                part.named && !part.closed && part.dir == dir && part.name == name
            }
            OpenFile::Source { .. } => false,
        })
    }

    pub(super) fn part_data<'a>(&'a mut self, disk: &'a mut Disk, file: usize) -> &'a mut Part {
        let OpenFile::Part(part) = &mut self.open[file] else {
            panic!("a source is no partial file")
        };
        assert!(!part.closed, "operation on a closed partial file");
        match part.named {
            true => disk
                .parts
                .get_mut(&(part.dir, part.name.clone()))
                .expect("a locked part stays"),
            false => &mut part.anonymous,
        }
    }

    pub(super) fn start_part(
        &mut self,
        disk: &mut Disk,
        file: usize,
        (size_bytes, sparse): (u64, Option<u64>),
        journal: &[u8],
    ) -> Result<DiskDone, DiskError> {
        let OpenFile::Part(open) = &self.open[file] else {
            panic!("StartPart of a source")
        };
        assert_eq!(
            open.writes_under_way, 0,
            "StartPart while a write is under way"
        );
        let part = self.part_data(disk, file);
        *part = Part::default();
        if size_bytes > LARGEST_FILE_BYTES {
            return fail("ftruncate", EFBIG);
        }
        if !disk.faults.no_forecast {
            room(disk, sparse.unwrap_or(size_bytes), "fstatfs")?;
        }
        let part = self.part_data(disk, file);
        if sparse.is_some() {
            part.data = vec![0; size_bytes as usize];
        }
        part.journal = journal.to_vec();
        Ok(DiskDone::Done)
    }

    pub(super) fn write(
        &mut self,
        disk: &mut Disk,
        file: usize,
        offset: u64,
        data: &[u8],
    ) -> Result<DiskDone, DiskError> {
        if matches!(&self.open[file], OpenFile::Part(part) if part.closed) {
            return Ok(DiskDone::Done);
        }
        let end = offset as usize + data.len();
        let part = self.part_data(disk, file);
        let grow = end.saturating_sub(part.data.len());
        let block = BLOCK_BYTES as usize;
        let touched =
            offset as usize / block * block..part.data.len().min(end.next_multiple_of(block));
        let blocks = part.data.get(touched).unwrap_or_default().chunks(block);
        let holes = blocks.filter(|block| block.iter().all(|byte| *byte == 0));
        let more = grow + holes.map(<[u8]>::len).sum::<usize>();
        room(disk, more as u64, "write")?;
        let part = self.part_data(disk, file);
        part.data.resize(part.data.len() + grow, 0);
        part.data[offset as usize..end].copy_from_slice(data);
        Ok(DiskDone::Done)
    }

    pub(super) fn make_hole(
        &mut self,
        disk: &mut Disk,
        file: usize,
        offset: u64,
        len_bytes: u64,
    ) -> Result<DiskDone, DiskError> {
        if matches!(&self.open[file], OpenFile::Part(part) if part.closed) {
            return Ok(DiskDone::Done);
        }
        let part = self.part_data(disk, file);
        let end = part.data.len().min((offset + len_bytes) as usize);
        part.data[end.min(offset as usize)..end].fill(0);
        Ok(DiskDone::Done)
    }

    pub(super) fn write_journal(
        &mut self,
        disk: &mut Disk,
        file: usize,
        offset: u64,
        bytes: &[u8],
    ) -> Result<DiskDone, DiskError> {
        if matches!(&self.open[file], OpenFile::Part(part) if part.closed) {
            return Ok(DiskDone::Done);
        }
        let part = self.part_data(disk, file);
        let before = Journal::decode(&part.journal);
        let end = offset as usize + bytes.len();
        part.journal.resize(part.journal.len().max(end), 0);
        part.journal[offset as usize..end].copy_from_slice(bytes);
        let journal = Journal::decode(&part.journal).expect("a journal with a header");
        // Under another boot's header everything was looked at again and written anew.
        let known = before
            .filter(|before| before.header == journal.header)
            .map_or(Vec::new(), |before| before.records);
        assert!(
            known.iter().all(|record| journal.records.contains(record)),
            "a record was destroyed"
        );
        // Law 7: the journal never calls done what a reader of the file would not see.
        for (chunk, value) in journal
            .records
            .iter()
            .filter(|record| !known.contains(record))
        {
            let size = journal.header.size_bytes;
            let from = chunk_offset(size, *chunk) as usize;
            let to = from + chunk_len_bytes(size, *chunk) as usize;
            let mut hasher = ChunkHasher::new(*chunk, size);
            hasher.update(
                part.data
                    .get(from..to)
                    .unwrap_or_else(|| panic!("{chunk:?} is journaled, not written")),
            );
            assert_eq!(
                hasher.finish(),
                *value,
                "{chunk:?} is journaled and not what is in the file"
            );
        }
        Ok(DiskDone::Done)
    }

    pub(super) fn commit(
        &mut self,
        disk: &mut Disk,
        file: usize,
        id: FileId,
        attributes: Attributes,
    ) -> Result<DiskDone, DiskError> {
        let part = self.part_data(disk, file).clone();
        let OpenFile::Part(open) = &mut self.open[file] else {
            panic!("CommitPart of a source")
        };
        assert_eq!(
            open.writes_under_way, 0,
            "CommitPart while a write is under way"
        );
        let (dir, name, named) = (open.dir, open.name.clone(), open.named);
        let bytes = part.data.len() as u64;
        let body = Body::File(part.data);
        let done = publish(disk, dir, &name, (body, attributes))?;
        if let DiskDone::Taken { .. } = done {
            return Ok(done);
        }
        let OpenFile::Part(open) = &mut self.open[file] else {
            panic!("CommitPart of a source")
        };
        open.closed = true;
        self.committed_bytes += bytes;
        if named {
            disk.parts.remove(&(dir, name));
        }
        self.files.remove(&id);
        Ok(done)
    }
}

/// Whether a directory was made for this copy, which is not finished.
fn goes_on(disk: &Disk, path: &[u8], must_be_dir: bool, copy: Option<CopyId>) -> bool {
    let (parent, name) = split(path);
    let (Ok(there), Ok(parent), false) = (
        open_directory(disk, path),
        open_directory(disk, parent),
        must_be_dir,
    ) else {
        return false;
    };
    // Not by a symlink.
    copy.is_some()
        && disk.copies.get(&there) == copy.as_ref()
        && disk.child(parent, name) == Some(there)
}

/// Gives a directory what of its attributes this file system takes.
pub(super) fn set_dir(disk: &mut Disk, dir: Ino, mode: DirMode, mtime: Option<Mtime>) -> DiskDone {
    let handed_down = disk.node(dir).mode & SETGID;
    let mode = match mode {
        DirMode::Kept => None,
        DirMode::New(mode) => Some(mode & DIRECTORY_MODE | handed_down),
        DirMode::Exact(mode) => Some(mode & DIRECTORY_MODE),
    };
    let lapses = disk.faults.lapses(mode, mtime);
    let stored = mtime.filter(|_| lapses.mtime.is_none());
    let stored = stored.map(|mtime| disk.faults.stored(mtime));
    let node = disk.node_mut(dir);
    node.mode = mode.filter(|_| lapses.mode.is_none()).unwrap_or(node.mode);
    node.mtime = stored.unwrap_or(node.mtime);
    DiskDone::Placed(lapses)
}

/// ENOSPC when `more` bytes have no room.
pub(super) fn room(disk: &Disk, more: u64, call: &'static str) -> Result<(), DiskError> {
    match disk.faults.capacity_bytes {
        Some(capacity) if disk.used_bytes() + more > capacity => fail(call, ENOSPC),
        _ => Ok(()),
    }
}

/// Gives a whole node its final name; a directory of that name stays, and what has the name by
/// another spelling.
pub(super) fn publish(
    disk: &mut Disk,
    dir: Ino,
    name: &[u8],
    (body, attributes): (Body, Attributes),
) -> Result<DiskDone, DiskError> {
    if disk.faults.unwritable.contains(name) {
        return fail("renameat", EACCES);
    }
    if let Some(by) = disk.taken_by(dir, name) {
        return Ok(DiskDone::Taken { by });
    }
    match disk.child(dir, name).map(|ino| disk.meta(ino).kind) {
        Some(Kind::Directory) => return fail("renameat", EISDIR),
        // It was the target's own name, and is written into.
        Some(Kind::Special) => return Ok(DiskDone::Placed(Lapses::default())),
        _ => {}
    }
    let (mut mode, plain) = match &body {
        Body::Symlink(_) => (None, 0o777),
        _ => (attributes.mode.map(|mode| mode & FILE_MODE), 0o644),
    };
    let lapses = disk.faults.lapses(mode, attributes.mtime);
    if lapses.mode.is_some() {
        mode = Some(0o600);
    }
    let stored = attributes.mtime.filter(|_| lapses.mtime.is_none());
    let mtime = match stored {
        Some(mtime) => disk.faults.stored(mtime),
        None => disk.tick(),
    };
    let mode = mode.unwrap_or(plain);
    disk.publish_file(dir, name, Node { mode, mtime, body });
    Ok(DiskDone::Placed(lapses))
}
