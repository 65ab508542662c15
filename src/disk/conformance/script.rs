//! What is asked of both disks: a random sequence that a session could ask for.
//!
//! A session's promises are kept (only what is open is used, numbers are not used again, a journal
//! names only what was written): the simulator's disk panics where they are broken.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::executors::{path_below, set};
use super::{DiskAnswer, LIST_ENTRIES};
use crate::ids::{ChunkIndex, CopyId, DirId, FileId, Name};
use crate::proto::chunk::{chunk_count, chunk_len_bytes, chunk_offset, is_resumable};
use crate::proto::extents::BLOCK_BYTES;
use crate::proto::integrity::ChunkHasher;
use crate::proto::journal::{Header, RecordKey, Storage};
use crate::proto::sim::Rng;
use crate::proto::sim::disk::{Body, Disk, Ino};
use crate::proto::sim::tree::random_name;
use crate::proto::{Attributes, DirMode, DiskOp, FileStamp, Kind, Mtime, PIECE_BYTES};

/// Where symlinks lead: nowhere, so that no path goes through one.
const NOWHERE: &[u8] = b"nowhere/at-all";

pub struct Script {
    rng: Rng,
    /// Of what is on the disk, and a few that are not.
    names: Vec<Name>,
    last_dir: u32,
    last_file: u32,
    /// Opened to be read from, and to be written to.
    sources: Vec<DirId>,
    targets: Vec<DirId>,
    /// Opened just now: listed next, for what is made in it later may be named or not.
    unlisted: Option<DirId>,
    files: Vec<(FileId, Kind)>,
    parts: BTreeMap<FileId, Receiving>,
}

/// A partial file that is open.
struct Receiving {
    header: Header,
    resumable: bool,
    journal: Option<(RecordKey, u64)>,
    /// So many chunks the journal names.
    recorded: u32,
    /// The next one was written, and nothing over it.
    is_written: bool,
    /// Its commit failed: only to be closed.
    has_failed: bool,
}

impl Script {
    pub fn new(mut rng: Rng, disk: &Disk) -> Script {
        let mut names: Vec<Name> = Vec::new();
        disk.visit(Disk::ROOT, &mut |path, _| {
            let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
            names.push(Name::new(Bytes::copy_from_slice(last)).unwrap());
        });
        for _ in 0..8 {
            names.extend(Name::new(random_name(&mut rng).into()));
        }
        Script {
            rng,
            names,
            last_dir: 0,
            last_file: 0,
            sources: Vec::new(),
            targets: Vec::new(),
            unlisted: None,
            files: Vec::new(),
            parts: BTreeMap::new(),
        }
    }

    /// The next operation, or a change that another program makes to both disks.
    pub fn next(&mut self, disk: &mut Disk, root: &Path) -> Option<DiskOp> {
        if let Some(dir) = self.unlisted.take() {
            let max_entries = LIST_ENTRIES;
            return Some(DiskOp::List { dir, max_entries });
        }
        match self.rng.below(31) {
            0 | 1 => Some(self.resolve_source(disk)),
            2 => Some(self.resolve_target(disk)),
            3..8 => self.open_dir(),
            8 | 9 => self.read_small(),
            10 => self.open_read(),
            11 | 12 => self.read(),
            13 if self.rng.chance(50) => {
                let offset = self.offset() / BLOCK_BYTES * BLOCK_BYTES;
                self.file().map(|file| DiskOp::Map { file, offset })
            }
            13 if self.rng.chance(30) => {
                let file = self.file()?;
                Some(match self.rng.chance(50) {
                    true => DiskOp::Recall {
                        file,
                        size_bytes: self.offset(),
                    },
                    false => DiskOp::Remember {
                        file,
                        stamp: FileStamp::default(),
                        values: None,
                    },
                })
            }
            13 => self.file().map(|file| DiskOp::Stat { file }),
            14 => {
                let dir = self.target()?;
                let name = self.name();
                let (mtime, sparse) = (self.mtime(), self.rng.chance(20));
                Some(DiskOp::Check {
                    dir,
                    name,
                    mtime,
                    sparse,
                })
            }
            15..18 => self.make_dir(),
            18 => self.put(),
            19 => self.put_symlink(),
            20 | 21 => self.open_part(),
            22..27 => self.work_on_part(),
            27 => {
                let dir = self.target()?;
                let name = self.name();
                Some(DiskOp::CleanPart { dir, name })
            }
            28 => self.close_one(),
            29 => {
                let dir = if self.rng.chance(50) {
                    self.source()
                } else {
                    self.target()
                };
                dir.map(|dir| DiskOp::StatDir { dir })
            }
            _ => {
                self.change(disk, root);
                None
            }
        }
    }

    /// What follows from an answer: what is open now, and what no longer is.
    pub fn learn(&mut self, cmd: &DiskOp, answer: &DiskAnswer) {
        match (cmd, answer) {
            (DiskOp::ResolveSource { dir, .. }, DiskAnswer::Source(..)) => self.sources.push(*dir),
            (DiskOp::OpenDir { dir, .. }, DiskAnswer::Done) => {
                self.sources.push(*dir);
                self.unlisted = Some(*dir);
            }
            (DiskOp::ResolveTarget { dir, .. }, DiskAnswer::Target(_))
            | (DiskOp::MakeDir { dir, .. }, DiskAnswer::Directory { .. }) => {
                self.targets.push(*dir)
            }
            (DiskOp::OpenRead { file, .. }, DiskAnswer::Meta(seen)) => {
                self.files.push((*file, seen.kind));
            }
            (DiskOp::OpenPart { file, .. }, DiskAnswer::Part { resumable, .. }) => {
                let size_bytes = self.rng.pick(&[70_000, 1 << 20, 3_000_000]);
                let header = Header {
                    storage: Storage::default(),
                    size_bytes,
                    mtime: Mtime::default(),
                    source_tag: 1,
                };
                let receiving = Receiving {
                    header,
                    resumable: *resumable,
                    journal: None,
                    recorded: 0,
                    is_written: false,
                    has_failed: false,
                };
                self.parts.insert(*file, receiving);
            }
            (
                DiskOp::CommitPart { file, .. } | DiskOp::ClosePart { file, .. },
                DiskAnswer::Done | DiskAnswer::Placed(_),
            ) => {
                self.parts.remove(file);
            }
            (DiskOp::CommitPart { file, .. }, DiskAnswer::Failed(_)) => {
                if let Some(part) = self.parts.get_mut(file) {
                    part.has_failed = true;
                }
            }
            _ => {}
        }
    }

    /// Closes everything.
    pub fn close(&mut self) -> Vec<DiskOp> {
        let dirs = self.sources.drain(..).chain(self.targets.drain(..));
        let dirs = dirs.map(|dir| DiskOp::CloseDir { dir });
        let files = self.files.drain(..);
        let files = files.map(|(file, _)| DiskOp::CloseRead { file });
        let keep = self.rng.chance(50);
        let parts = self.parts.keys();
        let parts = parts.map(|&file| DiskOp::ClosePart { file, keep });
        dirs.chain(files).chain(parts).collect()
    }

    fn name(&mut self) -> Name {
        self.names[self.rng.below(self.names.len())].clone()
    }

    fn new_dir(&mut self) -> DirId {
        self.last_dir += 1;
        DirId(self.last_dir)
    }

    fn new_file(&mut self) -> FileId {
        self.last_file += 1;
        FileId(self.last_file)
    }

    fn source(&mut self) -> Option<DirId> {
        (!self.sources.is_empty()).then(|| self.rng.pick(&self.sources))
    }

    fn target(&mut self) -> Option<DirId> {
        (!self.targets.is_empty()).then(|| self.rng.pick(&self.targets))
    }

    fn file(&mut self) -> Option<FileId> {
        (!self.files.is_empty()).then(|| self.rng.pick(&self.files).0)
    }

    /// A path of real directories, and one more component that is or is not there.
    fn path(&mut self, disk: &Disk) -> Bytes {
        let (mut path, mut at) = (Vec::new(), Disk::ROOT);
        while self.rng.chance(50) {
            let below: Vec<(Vec<u8>, Ino)> = disk
                .children(at)
                .into_iter()
                .flatten()
                .filter(|(_, ino)| disk.children(**ino).is_some())
                .map(|(name, ino)| (name.clone(), *ino))
                .collect();
            let Some((name, ino)) = below.get(self.rng.below(below.len())) else {
                break;
            };
            path.extend_from_slice(name);
            path.push(b'/');
            at = *ino;
        }
        let last = match self.rng.below(8) {
            0 => Vec::new(),
            1 => b".".to_vec(),
            2 => vec![b'x'; 256],
            _ => {
                let here = disk.children(at).into_iter().flatten();
                let here: Vec<&Vec<u8>> = here.map(|(name, _)| name).collect();
                match here.is_empty() || self.rng.chance(20) {
                    true => self.name().as_bytes().to_vec(),
                    false => here[self.rng.below(here.len())].clone(),
                }
            }
        };
        path.extend_from_slice(&last);
        let kind = disk.find(&path).map(|ino| &disk.node(ino).body);
        match kind {
            // Through a file there is no way; through a symlink there may be.
            Some(Body::File(_)) if self.rng.chance(20) => path.extend_from_slice(b"/below"),
            Some(Body::Directory(_)) | None if self.rng.chance(20) => path.push(b'/'),
            _ => {}
        }
        path.into()
    }

    fn resolve_source(&mut self, disk: &Disk) -> DiskOp {
        let path = self.path(disk);
        DiskOp::ResolveSource {
            path,
            dir: self.new_dir(),
            follow: false,
        }
    }

    fn resolve_target(&mut self, disk: &Disk) -> DiskOp {
        let mut path = self.path(disk);
        let is_known = |path: &[u8]| match disk.find(path).map(|ino| &disk.node(ino).body) {
            Some(Body::Symlink(target)) => target == NOWHERE,
            _ => true,
        };
        while !is_known(&path) {
            path = self.path(disk);
        }
        DiskOp::ResolveTarget {
            path,
            must_be_dir: self.rng.chance(50),
            no_target_dir: self.rng.chance(10),
            copy: self.copy(),
            dir: self.new_dir(),
            fsync: false,
        }
    }

    /// Few, so that they meet again.
    fn copy(&mut self) -> Option<CopyId> {
        self.rng
            .pick(&[None, Some(CopyId([1; 16])), Some(CopyId([2; 16]))])
    }

    fn open_dir(&mut self) -> Option<DiskOp> {
        let parent = self.source()?;
        let name = self.name();
        Some(DiskOp::OpenDir {
            parent,
            name: (!self.rng.chance(10)).then_some(name),
            dir: self.new_dir(),
        })
    }

    fn read_small(&mut self) -> Option<DiskOp> {
        let dir = self.source()?;
        let max_bytes = self.rng.pick(&[1, 1000, PIECE_BYTES]);
        Some(DiskOp::ReadSmall {
            dir,
            name: self.name(),
            max_bytes,
        })
    }

    fn open_read(&mut self) -> Option<DiskOp> {
        Some(DiskOp::OpenRead {
            dir: self.source()?,
            name: self.name(),
            file: self.new_file(),
        })
    }

    /// Anywhere around the sizes that files have.
    fn offset(&mut self) -> u64 {
        let near = self.rng.pick(&[0, 0, 1000, 65_536, 1 << 20, 3_000_000]);
        near + self.rng.next() % 2000
    }

    fn read(&mut self) -> Option<DiskOp> {
        let (file, kind) = match self.files.is_empty() {
            true => return None,
            false => self.rng.pick(&self.files),
        };
        let (offset, len_bytes) = (self.offset(), self.rng.pick(&[1, 1000, PIECE_BYTES]));
        (kind != Kind::Special).then_some(DiskOp::Read {
            file,
            offset,
            len_bytes,
        })
    }

    fn make_dir(&mut self) -> Option<DiskOp> {
        Some(DiskOp::MakeDir {
            parent: self.target()?,
            name: self.name(),
            dir: self.new_dir(),
            keep_dirlinks: false,
            is_plain: false,
            copy: self.copy(),
            fsync: false,
        })
    }

    fn mode(&mut self) -> u32 {
        self.rng.pick(&[0o644, 0o600, 0o4755, 0o2750, 0o1777, 0])
    }

    fn attributes(&mut self) -> Attributes {
        Attributes {
            mode: Some(self.mode()),
            mtime: Some(self.mtime()),
            fsync: self.rng.chance(10),
        }
    }

    fn mtime(&mut self) -> Mtime {
        Mtime {
            seconds: self.rng.pick(&[0, -1, 1_700_000_000, -2_000_000_000]),
            nanoseconds: (self.rng.next() % 1_000_000_000) as u32,
        }
    }

    fn put(&mut self) -> Option<DiskOp> {
        let dir = self.target()?;
        if self.rng.chance(30) {
            let mode = match self.rng.chance(30) {
                true => DirMode::Kept,
                false => DirMode::Exact(self.mode() | 0o700),
            };
            let mtime = self.rng.chance(80).then(|| self.mtime());
            return Some(DiskOp::SetDir {
                dir,
                mode,
                mtime,
                ends_copy: self.copy(),
                fsync: false,
            });
        }
        let pieces = self.rng.below(4);
        let data = (0..pieces)
            .map(|_| {
                let len = self.rng.below(20_000);
                self.rng.bytes(len).into()
            })
            .collect();
        Some(DiskOp::PutSmall {
            dir,
            name: self.name(),
            data,
            attributes: self.attributes(),
            replaces: self.rng.chance(50),
        })
    }

    fn put_symlink(&mut self) -> Option<DiskOp> {
        Some(DiskOp::PutSymlink {
            dir: self.target()?,
            name: self.name(),
            target: Bytes::from_static(NOWHERE),
            attributes: self.attributes(),
            replaces: self.rng.chance(50),
        })
    }

    fn open_part(&mut self) -> Option<DiskOp> {
        Some(DiskOp::OpenPart {
            dir: self.target()?,
            name: self.name(),
            file: self.new_file(),
            resumable: self.rng.chance(70),
            is_plain: false,
        })
    }

    fn work_on_part(&mut self) -> Option<DiskOp> {
        let open: Vec<FileId> = self.parts.keys().copied().collect();
        let file = *open.get(self.rng.below(open.len()))?;
        let (attributes, offset) = (self.attributes(), self.offset());
        let part = self.parts.get_mut(&file)?;
        Some(match self.rng.below(10) {
            _ if part.has_failed => DiskOp::ClosePart { file, keep: false },
            0..2 => {
                (part.recorded, part.is_written) = (0, false);
                let mut journal = Bytes::new();
                if part.resumable && is_resumable(part.header.size_bytes) {
                    journal = part.header.encode();
                    part.journal = Some((part.header.key(), journal.len() as u64));
                }
                DiskOp::StartPart {
                    file,
                    size_bytes: part.header.size_bytes,
                    sparse: self.rng.chance(30).then_some(0),
                    journal,
                }
            }
            2 => {
                let len = self.rng.below(PIECE_BYTES);
                let data = self.rng.bytes(len).into();
                // What a journal names is not written again.
                if part.recorded > 0 {
                    return None;
                }
                part.is_written = false;
                DiskOp::Write { file, offset, data }
            }
            3 if part.recorded == 0 && self.rng.chance(50) => {
                part.is_written = false;
                DiskOp::MakeHole {
                    file,
                    offset,
                    len_bytes: 1 + self.rng.next() % 200_000,
                }
            }
            3 => DiskOp::ReadPart {
                file,
                offset,
                len_bytes: self.rng.pick(&[1, PIECE_BYTES]),
            },
            4..7 => return self.write_chunk(file),
            7 => DiskOp::CommitPart {
                file,
                attributes,
                replaces: self.rng.chance(50),
            },
            _ => DiskOp::ClosePart {
                file,
                keep: self.rng.chance(70),
            },
        })
    }

    /// The next chunk, of zeros, then what the journal says of it.
    fn write_chunk(&mut self, file: FileId) -> Option<DiskOp> {
        let part = self.parts.get_mut(&file)?;
        let size_bytes = part.header.size_bytes;
        let chunk = part.recorded;
        let (key, at_bytes) = part.journal.as_mut()?;
        if chunk >= chunk_count(size_bytes) {
            return None;
        }
        let chunk = ChunkIndex(chunk);
        let data = vec![0; chunk_len_bytes(size_bytes, chunk) as usize];
        if !std::mem::replace(&mut part.is_written, true) {
            return Some(DiskOp::Write {
                file,
                offset: chunk_offset(size_bytes, chunk),
                data: data.into(),
            });
        }
        let mut hasher = ChunkHasher::new(chunk, size_bytes);
        hasher.update(&data);
        let mut record = BytesMut::new();
        key.encode_record(chunk, &hasher.finish(), &mut record);
        let offset = *at_bytes;
        *at_bytes += record.len() as u64;
        part.recorded += 1;
        part.is_written = false;
        Some(DiskOp::WriteJournal {
            file,
            offset,
            bytes: record.freeze(),
        })
    }

    fn close_one(&mut self) -> Option<DiskOp> {
        let at = self.rng.next() as usize;
        match self.rng.below(3) {
            0 if !self.files.is_empty() => {
                let (file, _) = self.files.swap_remove(at % self.files.len());
                Some(DiskOp::CloseRead { file })
            }
            1 if self.sources.len() > 1 => {
                let dir = self.sources.swap_remove(at % self.sources.len());
                Some(DiskOp::CloseDir { dir })
            }
            2 if self.targets.len() > 3 => {
                let dir = self.targets.swap_remove(at % self.targets.len());
                Some(DiskOp::CloseDir { dir })
            }
            _ => None,
        }
    }

    /// Another program changes a file, or takes its name away.
    fn change(&mut self, disk: &mut Disk, root: &Path) {
        let mut files = Vec::new();
        disk.visit(Disk::ROOT, &mut |path, ino| {
            if let Body::File(_) = disk.node(ino).body {
                files.push((path.to_vec(), ino));
            }
        });
        let Some((path, ino)) = files.get(self.rng.below(files.len())).cloned() else {
            return;
        };
        let at = path_below(root, &path);
        if self.rng.chance(30) {
            fs::remove_file(&at).unwrap();
            let slash = path.iter().rposition(|&byte| byte == b'/');
            let (dir, name) = match slash {
                Some(slash) => (disk.find(&path[..slash]).unwrap(), &path[slash + 1..]),
                None => (Disk::ROOT, &path[..]),
            };
            disk.remove(dir, name);
            return;
        }
        let len = self.rng.below(100_000);
        let mtime = disk.tick();
        let node = disk.node_mut(ino);
        let Body::File(data) = &mut node.body else {
            return;
        };
        data.resize(len, b'c');
        node.mtime = mtime;
        fs::write(&at, &*data).unwrap();
        set(&at, disk, ino);
    }
}
