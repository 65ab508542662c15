//! What a session holds open on a simulated disk, and every `DiskOp` done on it, in whatever order
//! the world picks.
//!
//! Handles are resolved when an operation starts, as descriptors are; the effect happens when it
//! completes. Broken promises of the session (an operation on a directory not yet open, a commit
//! while a write is under way, a journal record of data that is not there) are panics.

mod source;
mod target;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Rng;
use super::disk::{Body, Disk, Ino, Part, data_map};
use crate::ids::{ChunkIndex, DirId, FileId, Name, OpId};
use crate::proto::chunk::{chunk_count, chunk_len_bytes, chunk_offset};
use crate::proto::errno::{
    EACCES, EBADF, EIO, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, ESPIPE,
};
use crate::proto::extents::{BLOCK_BYTES, DataMap, MAP_RANGES};
use crate::proto::integrity::{ChunkHasher, Digest};
use crate::proto::{
    DiskDone, DiskError, DiskOp, FileStamp, KernelData, Listed, PIECE_BYTES, PIPED_BYTES, Recalled,
};
use source::{read_small, source_file};

/// Most entries one `List` answers with, whatever was asked: getdents64 has its own idea, too.
const LIST_MAX: usize = 64;

/// An operation under way.
#[derive(Debug)]
pub struct Pending {
    pub op: OpId,
    pub cmd: DiskOp,
    dir: Option<Ino>,
    file: Option<usize>,
    /// A disk that takes its time answers no sooner. None: whenever the world picks it.
    pub ready_at: Option<Instant>,
}

impl Pending {
    pub fn is_ready(&self, now: Instant) -> bool {
        self.ready_at.is_none_or(|at| at <= now)
    }
}

#[derive(Debug)]
enum OpenFile {
    /// `at`: where the next `ReadOn` begins.
    Source {
        ino: Ino,
        broken: bool,
        at: usize,
    },
    Part(OpenPart),
}

#[derive(Debug)]
struct OpenPart {
    dir: Ino,
    name: Vec<u8>,
    /// Kept under its name on the disk; otherwise `anonymous` is all there is.
    named: bool,
    anonymous: Part,
    writes_under_way: usize,
    closed: bool,
}

/// One session's open directories and files, and its operations under way.
#[derive(Debug, Default)]
pub struct Handles {
    dirs: HashMap<DirId, Ino>,
    listings: HashMap<DirId, VecDeque<Vec<u8>>>,
    files: HashMap<FileId, usize>,
    open: Vec<OpenFile>,
    used_dirs: HashSet<DirId>,
    used_files: HashSet<FileId>,
    pub pending: Vec<Pending>,
    /// Bytes of writes under way, and the most there ever were.
    pub writing_bytes: usize,
    /// Bytes of partial files that got their final name.
    pub committed_bytes: u64,
    pub most_writing_bytes: usize,
}

fn fail<T>(call: &'static str, errno: i32) -> Result<T, DiskError> {
    Err(DiskError { call, errno })
}

/// What an operation works on, and what it opens.
#[derive(Default)]
struct About {
    dir: Option<DirId>,
    file: Option<FileId>,
    new_dir: Option<DirId>,
    new_file: Option<FileId>,
}

fn about(cmd: &DiskOp) -> About {
    match cmd {
        DiskOp::ResolveTarget { dir, .. } | DiskOp::ResolveSource { dir, .. } => About {
            new_dir: Some(*dir),
            ..About::default()
        },
        DiskOp::OpenDir { parent, dir, .. } | DiskOp::MakeDir { parent, dir, .. } => About {
            dir: Some(*parent),
            new_dir: Some(*dir),
            ..About::default()
        },
        DiskOp::OpenRead { dir, file, .. } | DiskOp::OpenPart { dir, file, .. } => About {
            dir: Some(*dir),
            new_file: Some(*file),
            ..About::default()
        },
        DiskOp::CloseDir { dir }
        | DiskOp::EnterTarget { dir }
        | DiskOp::List { dir, .. }
        | DiskOp::LookUnfinished { dir, .. }
        | DiskOp::ReadSmall { dir, .. }
        | DiskOp::Check { dir, .. }
        | DiskOp::SetDir { dir, .. }
        | DiskOp::PutSmall { dir, .. }
        | DiskOp::PutSymlink { dir, .. }
        | DiskOp::CleanPart { dir, .. }
        | DiskOp::StatDir { dir }
        | DiskOp::DirsAbove { dir } => About {
            dir: Some(*dir),
            ..About::default()
        },
        DiskOp::Read { file, .. }
        | DiskOp::Pipe { file, .. }
        | DiskOp::Map { file, .. }
        | DiskOp::Recall { file, .. }
        | DiskOp::Remember { file, .. }
        | DiskOp::AwaitInput { file }
        | DiskOp::ReadOn { file, .. }
        | DiskOp::Stat { file }
        | DiskOp::CloseRead { file }
        | DiskOp::StartPart { file, .. }
        | DiskOp::Write { file, .. }
        | DiskOp::MakeHole { file, .. }
        | DiskOp::ReadPart { file, .. }
        | DiskOp::WriteJournal { file, .. }
        | DiskOp::CopyRange { file, .. }
        | DiskOp::CommitPart { file, .. }
        | DiskOp::ClosePart { file, .. } => About {
            file: Some(*file),
            ..About::default()
        },
        DiskOp::Yield => About::default(),
    }
}

fn write_len(cmd: &DiskOp) -> usize {
    match cmd {
        DiskOp::Write { data, .. } => data.len(),
        DiskOp::PutSmall { data, .. } => data.iter().map(Bytes::len).sum(),
        _ => 0,
    }
}

/// What a transport takes of what stays in the kernel: so many bytes are left of it.
pub fn in_kernel(data: &KernelData, len_bytes: u64) -> Bytes {
    let bytes = data.get::<Bytes>().expect("it is of this disk");
    bytes.slice(bytes.len() - len_bytes as usize..)
}

impl Handles {
    /// Directories and files the session holds open.
    pub fn open_count(&self) -> (usize, usize) {
        (self.dirs.len(), self.files.len())
    }

    /// Which node a transport that was given a range of this file reads from.
    pub fn source_of(&self, file: FileId) -> Ino {
        match self.files.get(&file).map(|at| &self.open[*at]) {
            Some(OpenFile::Source { ino, .. }) => *ino,
            other => panic!("a range of {file:?}, which is {other:?}"),
        }
    }

    /// Bytes that reads under way may bring.
    pub fn reading_bytes(&self) -> usize {
        let read = |pending: &Pending| match pending.cmd {
            DiskOp::Read { len_bytes, .. }
            | DiskOp::Pipe { len_bytes, .. }
            | DiskOp::ReadOn { len_bytes, .. } => len_bytes,
            _ => 0,
        };
        self.pending.iter().map(read).sum()
    }

    /// Operations under way that look, make or open something, or read a small file.
    pub fn lookups_under_way(&self) -> usize {
        let is_lookup = |pending: &&Pending| {
            matches!(
                pending.cmd,
                DiskOp::OpenDir { .. }
                    | DiskOp::List { .. }
                    | DiskOp::ReadSmall { .. }
                    | DiskOp::OpenRead { .. }
                    | DiskOp::Check { .. }
                    | DiskOp::MakeDir { .. }
                    | DiskOp::PutSymlink { .. }
                    | DiskOp::OpenPart { .. }
            )
        };
        self.pending.iter().filter(is_lookup).count()
    }

    pub fn start(&mut self, op: OpId, cmd: DiskOp) {
        assert!(
            self.pending.iter().all(|other| other.op != op),
            "{op:?} is used twice"
        );
        let About {
            dir,
            file,
            new_dir,
            new_file,
        } = about(&cmd);
        new_dir.iter().for_each(|dir| {
            assert!(
                self.used_dirs.insert(*dir),
                "{dir:?} is used again by {cmd:?}"
            )
        });
        new_file.iter().for_each(|file| {
            assert!(
                self.used_files.insert(*file),
                "{file:?} is used again by {cmd:?}"
            )
        });
        let dir = dir.map(|dir| {
            *self
                .dirs
                .get(&dir)
                .unwrap_or_else(|| panic!("{dir:?} is not open: {cmd:?}"))
        });
        let file = file.map(|file| {
            *self
                .files
                .get(&file)
                .unwrap_or_else(|| panic!("{file:?} is not open: {cmd:?}"))
        });
        self.begin(op, cmd, dir, file);
    }

    /// What stands for the descriptor of an open file.
    pub fn descriptor(&self, file: FileId) -> usize {
        self.files[&file]
    }

    /// What stands for the descriptor of an open directory.
    pub fn directory(&self, dir: DirId) -> Ino {
        self.dirs[&dir]
    }

    /// The same as [`Handles::start_on`], in a directory.
    pub fn start_in(&mut self, op: OpId, cmd: DiskOp, directory: Ino) {
        self.begin(op, cmd, Some(directory), None);
    }

    /// Starts an operation on a descriptor that was given to another worker, which may outlive the
    /// session's own. What is written there is written before the session closes the file.
    pub fn start_on(&mut self, op: OpId, cmd: DiskOp, descriptor: usize) {
        let is_open = self.files.values().any(|open| *open == descriptor);
        let writes = matches!(cmd, DiskOp::Write { .. } | DiskOp::MakeHole { .. });
        assert!(is_open || !writes, "{cmd:?} behind the end of its file");
        self.begin(op, cmd, None, Some(descriptor));
    }

    fn begin(&mut self, op: OpId, cmd: DiskOp, dir: Option<Ino>, file: Option<usize>) {
        self.writing_bytes += write_len(&cmd);
        self.most_writing_bytes = self.most_writing_bytes.max(self.writing_bytes);
        if let (DiskOp::Write { .. } | DiskOp::MakeHole { .. }, Some(file)) = (&cmd, file) {
            let OpenFile::Part(part) = &mut self.open[file] else {
                panic!("write to a source")
            };
            part.writes_under_way += 1;
        }
        self.pending.push(Pending {
            op,
            cmd,
            dir,
            file,
            ready_at: None,
        });
    }

    /// Completes the operation at `at` of `pending`.
    pub fn complete(
        &mut self,
        at: usize,
        disk: &mut Disk,
        rng: &mut Rng,
    ) -> (OpId, Result<DiskDone, DiskError>) {
        let pending = self.pending.swap_remove(at);
        self.writing_bytes -= write_len(&pending.cmd);
        if let (DiskOp::Write { .. } | DiskOp::MakeHole { .. }, Some(file)) =
            (&pending.cmd, pending.file)
            && let OpenFile::Part(part) = &mut self.open[file]
        {
            part.writes_under_way -= 1;
        }
        (pending.op, self.run(pending, disk, rng))
    }

    /// Whether a source is still open.
    pub fn has_source(&self, file: FileId) -> bool {
        self.files.contains_key(&file)
    }

    /// Completes the `CopyRange` at `at` of `pending`, for which the source has `data`; None: its
    /// sender closed it.
    pub fn copy(
        &mut self,
        at: usize,
        disk: &mut Disk,
        data: Option<&[u8]>,
    ) -> (OpId, Result<DiskDone, DiskError>) {
        let pending = self.pending.swap_remove(at);
        let file = pending.file.expect("CopyRange names a file");
        let Some(data) = data else {
            return (pending.op, fail("file", EBADF));
        };
        let offset = self.part_data(disk, file).data.len() as u64;
        let written = self.write(disk, file, offset, data);
        let bytes = data.len() as u64;
        (pending.op, written.map(|_| DiskDone::Copied { bytes }))
    }

    /// The process died: each operation under way happened, did not, or (a write) stopped half-way.
    pub fn crash(mut self, disk: &mut Disk, rng: &mut Rng) {
        while !self.pending.is_empty() {
            let at = rng.below(self.pending.len());
            match rng.below(3) {
                0 => drop(self.complete(at, disk, rng)),
                1 => drop(self.pending.swap_remove(at)),
                _ => {
                    if let DiskOp::Write { data, .. } = &mut self.pending[at].cmd {
                        let torn = data.split_to(rng.below(data.len()));
                        self.writing_bytes -= data.len();
                        *data = torn;
                    }
                    if let DiskOp::WriteJournal { bytes, .. } = &mut self.pending[at].cmd {
                        *bytes = bytes.split_to(rng.below(bytes.len()));
                    }
                    if matches!(
                        self.pending[at].cmd,
                        DiskOp::Write { .. } | DiskOp::WriteJournal { .. }
                    ) {
                        drop(self.complete(at, disk, rng));
                    } else {
                        drop(self.pending.swap_remove(at));
                    }
                }
            }
        }
    }

    fn run(
        &mut self,
        pending: Pending,
        disk: &mut Disk,
        rng: &mut Rng,
    ) -> Result<DiskDone, DiskError> {
        let dir = pending.dir.unwrap_or(Disk::ROOT);
        let file = pending.file.unwrap_or(usize::MAX);
        match pending.cmd {
            cmd @ DiskOp::ResolveTarget { .. } => self.resolve_target(disk, &cmd),
            DiskOp::ResolveSource { path, dir, .. } => self.resolve_source(disk, &path, dir),
            DiskOp::CloseDir { dir } => {
                self.dirs.remove(&dir);
                self.listings.remove(&dir);
                Ok(DiskDone::Done)
            }
            DiskOp::OpenDir { name, dir: new, .. } => self.open_dir(disk, dir, name, new, rng),
            DiskOp::List {
                dir: id,
                max_entries,
            } => self.list(disk, dir, id, max_entries, rng),
            // What is unfinished is in none of its directories.
            DiskOp::LookUnfinished { .. } => Ok(DiskDone::Unfinished(None)),
            DiskOp::ReadSmall {
                name, max_bytes, ..
            } => read_small(disk, dir, &name, max_bytes),
            DiskOp::OpenRead { name, file, .. } => {
                let ino = source_file(disk, dir, &name)?;
                let broken = disk.faults.broken.contains(name.as_bytes());
                self.add_file(file, OpenFile::Source { ino, broken, at: 0 });
                Ok(DiskDone::Meta(disk.meta(ino)))
            }
            cmd @ (DiskOp::Read { .. } | DiskOp::Pipe { .. }) => {
                self.read_or_pipe(disk, file, &cmd, rng)
            }
            DiskOp::Map { offset, .. } => self.map(disk, file, offset, rng),
            cmd @ (DiskOp::Recall { .. } | DiskOp::Remember { .. }) => {
                Ok(self.run_for_kept(disk, file, cmd, rng))
            }
            DiskOp::Yield => Ok(DiskDone::Yielded),
            DiskOp::AwaitInput { .. } => Ok(rng.input()),
            DiskOp::ReadOn { len_bytes, .. } => self.read_on(disk, file, len_bytes, rng),
            DiskOp::Stat { .. } => match &self.open[file] {
                OpenFile::Source { ino, .. } => Ok(DiskDone::Meta(disk.meta(*ino))),
                OpenFile::Part(_) => panic!("Stat of a partial file"),
            },
            DiskOp::CloseRead { file } => Ok(self.close_read(file)),
            DiskOp::Check { name, mtime, .. } => Ok(match disk.taken_by(dir, name.as_bytes()) {
                Some(by) => DiskDone::Taken { by },
                None => DiskDone::Existing(disk.existing(dir, name.as_bytes(), mtime)),
            }),
            DiskOp::CopyRange { .. } => panic!("the source is on another disk: see `copy`"),
            DiskOp::EnterTarget { .. } => Ok(DiskDone::Done),
            DiskOp::StatDir { .. } => Ok(DiskDone::Meta(disk.meta(dir))),
            DiskOp::DirsAbove { .. } => Ok(DiskDone::Above(vec![disk.meta(dir).object()])),
            cmd @ (DiskOp::MakeDir { .. }
            | DiskOp::SetDir { .. }
            | DiskOp::PutSmall { .. }
            | DiskOp::PutSymlink { .. }) => self.run_for_target(disk, dir, cmd),
            cmd @ (DiskOp::CleanPart { .. }
            | DiskOp::OpenPart { .. }
            | DiskOp::StartPart { .. }
            | DiskOp::Write { .. }
            | DiskOp::MakeHole { .. }
            | DiskOp::ReadPart { .. }
            | DiskOp::WriteJournal { .. }
            | DiskOp::CommitPart { .. }
            | DiskOp::ClosePart { .. }) => self.run_for_part(disk, (dir, file), cmd),
        }
    }

    /// `at`: the directory or the file it is about.
    fn run_for_part(
        &mut self,
        disk: &mut Disk,
        at: (Ino, usize),
        cmd: DiskOp,
    ) -> Result<DiskDone, DiskError> {
        let (dir, file) = at;
        match cmd {
            DiskOp::CleanPart { name, .. } => {
                // Whoever receives that file now has its lock.
                if !self.is_locked(dir, name.as_bytes()) {
                    disk.parts.remove(&(dir, name.as_bytes().to_vec()));
                }
                Ok(DiskDone::Done)
            }
            DiskOp::OpenPart {
                name,
                file,
                resumable,
                ..
            } => self.open_part(disk, dir, &name, file, resumable),
            DiskOp::StartPart {
                size_bytes,
                sparse,
                journal,
                ..
            } => self.start_part(disk, file, (size_bytes, sparse), &journal),
            DiskOp::MakeHole {
                offset, len_bytes, ..
            } => self.make_hole(disk, file, offset, len_bytes),
            DiskOp::Write { offset, data, .. } => self.write(disk, file, offset, &data),
            DiskOp::ReadPart {
                offset, len_bytes, ..
            } => {
                let data = &self.part_data(disk, file).data;
                let from = data.len().min(offset as usize);
                let to = data.len().min(from + len_bytes);
                Ok(DiskDone::Read {
                    data: Bytes::copy_from_slice(&data[from..to]),
                })
            }
            DiskOp::WriteJournal { offset, bytes, .. } => {
                self.write_journal(disk, file, offset, &bytes)
            }
            DiskOp::CommitPart {
                file: id,
                attributes,
                ..
            } => self.commit(disk, file, id, attributes),
            DiskOp::ClosePart { file: id, keep } => {
                let OpenFile::Part(part) = &mut self.open[file] else {
                    panic!("ClosePart of a source")
                };
                part.closed = true;
                if part.named && !keep {
                    disk.parts.remove(&(part.dir, part.name.clone()));
                }
                self.files.remove(&id);
                Ok(DiskDone::Done)
            }
            other => unreachable!("{other:?} is none of a partial file"),
        }
    }

    fn add_file(&mut self, id: FileId, file: OpenFile) {
        self.files.insert(id, self.open.len());
        self.open.push(file);
    }
}

/// A path's directory, opened as openat2(2) would.
fn open_directory(disk: &Disk, path: &[u8]) -> Result<Ino, DiskError> {
    match disk.look_up(path) {
        Ok(ino) if disk.children(ino).is_some() => Ok(ino),
        Ok(_) => fail("openat2", ENOTDIR),
        Err(errno) => fail("openat2", errno),
    }
}

fn name_of(bytes: &[u8]) -> Result<Name, DiskError> {
    Name::new(Bytes::copy_from_slice(bytes)).or(fail("path", ENAMETOOLONG))
}

/// Parent and last component of a path; `.` is no name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path
        .iter()
        .rposition(|&b| b != b'/')
        .map_or(0, |last| last + 1);
    let path = &path[..end];
    if path == b"." || path.ends_with(b"/.") {
        return (path, b"");
    }
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn link_of(disk: &Disk, ino: Ino) -> Option<Bytes> {
    match &disk.node(ino).body {
        Body::Symlink(target) => Some(Bytes::copy_from_slice(target)),
        Body::File(_) | Body::Directory(_) | Body::Special => None,
    }
}
