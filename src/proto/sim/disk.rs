//! The simulated disk's lasting state: a tree of nodes, partial files with journals, a capacity,
//! faults.
//!
//! What is here survives a crash of the session; what a session holds open does not (see `ops.rs`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Rng;
use crate::ids::{CopyId, NAME_MAX_BYTES};
use crate::proto::errno::{ENAMETOOLONG, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM};
use crate::proto::extents::{BLOCK_BYTES, DataMap};
use crate::proto::journal::Storage;
use crate::proto::{Existing, Kind, Lapses, Lasting, Meta, Mtime, TimeLapse};

/// Number of a node; index into the disk's table, never reused.
pub type Ino = usize;

#[derive(Clone, Debug)]
pub struct Node {
    pub mode: u32,
    pub mtime: Mtime,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Ino>),
    Symlink(Vec<u8>),
    Special,
}

/// A partial file. Named ones survive a crash, anonymous ones do not.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub data: Vec<u8>,
    pub journal: Vec<u8>,
}

/// What goes wrong on a disk, by rule rather than by chance, so that a test knows what to expect.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Space for file data; `None` is endless.
    pub capacity_bytes: Option<u64>,
    /// How much is free is not told: ENOSPC shows in writes instead.
    pub no_forecast: bool,
    /// Names that cannot be opened for reading or listed (EACCES).
    pub unreadable: BTreeSet<Vec<u8>>,
    /// Names that cannot be made or replaced (EACCES).
    pub unwritable: BTreeSet<Vec<u8>>,
    /// Names whose data cannot be read beyond the first bytes (EIO).
    pub broken: BTreeSet<Vec<u8>>,
    /// Names that differ in case are one.
    pub folds_case: bool,
    /// Modes are not set (EPERM).
    pub no_modes: bool,
    /// Times are not set (EOPNOTSUPP): a file has that of its writing.
    pub no_times: bool,
    /// Times are stored to two seconds.
    pub coarse_times: bool,
}

impl Faults {
    /// What of attributes is refused.
    pub fn lapses(&self, mode: Option<u32>, mtime: Option<Mtime>) -> Lapses {
        let time = mtime.filter(|_| self.no_times);
        Lapses {
            mode: mode.filter(|_| self.no_modes).map(|_| EPERM),
            mtime: time.map(|_| TimeLapse::Refused(EOPNOTSUPP)),
        }
    }

    /// What is stored for a time.
    pub fn stored(&self, mtime: Mtime) -> Mtime {
        match self.coarse_times {
            true => Mtime {
                seconds: mtime.seconds.div_euclid(2) * 2,
                nanoseconds: 0,
            },
            false => mtime,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Disk {
    pub(super) nodes: Vec<Node>,
    /// Directories of copies that were not finished.
    pub copies: BTreeMap<Ino, CopyId>,
    /// Named partial files by (directory, final name).
    pub parts: BTreeMap<(Ino, Vec<u8>), Part>,
    pub faults: Faults,
    /// Tells its nodes from those of another disk on the same host.
    pub device: u64,
    /// Reads are made in place.
    pub in_place: bool,
    /// What holds what was written until it is on disk.
    pub storage: Storage,
    /// Files whose data may not have been on disk when their names were: under new names, since the
    /// last power cut.
    unsynced: BTreeSet<Ino>,
    /// Files that a power cut may have changed.
    pub(super) doubtful: BTreeSet<Ino>,
    /// Files that say they are empty and are read to their ends.
    pub unsized_files: BTreeSet<Ino>,
    /// Counts up with every change: mtimes a change leaves behind are unlike any before.
    clock: i64,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk::new()
    }
}

impl Disk {
    pub const ROOT: Ino = 0;

    pub fn new() -> Disk {
        let root = Node {
            mode: 0o755,
            mtime: Mtime::default(),
            body: Body::Directory(BTreeMap::new()),
        };
        Disk {
            nodes: vec![root],
            copies: BTreeMap::new(),
            parts: BTreeMap::new(),
            faults: Faults::default(),
            device: 0,
            in_place: false,
            storage: Storage {
                boot: [7; 16],
                mount: 1,
            },
            unsynced: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            unsized_files: BTreeSet::new(),
            clock: 4_000_000_000,
        }
    }

    pub fn node(&self, ino: Ino) -> &Node {
        &self.nodes[ino]
    }

    pub fn node_mut(&mut self, ino: Ino) -> &mut Node {
        &mut self.nodes[ino]
    }

    pub fn children(&self, dir: Ino) -> Option<&BTreeMap<Vec<u8>, Ino>> {
        match &self.nodes[dir].body {
            Body::Directory(children) => Some(children),
            Body::File(_) | Body::Symlink(_) | Body::Special => None,
        }
    }

    pub fn child(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.children(dir)?.get(name).copied()
    }

    /// What has a name by another spelling.
    pub fn taken_by(&self, dir: Ino, name: &[u8]) -> Option<Bytes> {
        let folded = |name: &[u8]| name.to_ascii_lowercase();
        let children = self.children(dir).filter(|_| self.faults.folds_case)?;
        let mut others = children.keys().filter(|other| *other != name);
        let other = others.find(|other| folded(other) == folded(name))?;
        Some(Bytes::copy_from_slice(other))
    }

    /// Puts a node under a name, replacing what is there, and changes the directory's mtime as a
    /// kernel does.
    ///
    /// # Panics
    /// When `dir` is no directory.
    pub fn put(&mut self, dir: Ino, name: &[u8], node: Node) -> Ino {
        let ino = self.nodes.len();
        self.nodes.push(node);
        let now = self.tick();
        let Body::Directory(children) = &mut self.nodes[dir].body else {
            panic!("put below no directory")
        };
        children.insert(name.to_vec(), ino);
        self.nodes[dir].mtime = now;
        ino
    }

    /// mkdir(2): setgid is inherited.
    pub fn make_dir(&mut self, dir: Ino, name: &[u8], mode: u32) -> Ino {
        let node = Node {
            mode: mode | self.nodes[dir].mode & 0o2000,
            mtime: self.tick(),
            body: Body::Directory(BTreeMap::new()),
        };
        self.put(dir, name, node)
    }

    pub fn remove(&mut self, dir: Ino, name: &[u8]) {
        let now = self.tick();
        if let Body::Directory(children) = &mut self.nodes[dir].body {
            children.remove(name);
            self.nodes[dir].mtime = now;
        }
    }

    /// An mtime no node had before.
    pub fn tick(&mut self) -> Mtime {
        self.clock += 1;
        Mtime {
            seconds: self.clock,
            nanoseconds: 123_456_789,
        }
    }

    pub fn meta(&self, ino: Ino) -> Meta {
        let node = &self.nodes[ino];
        let (kind, size_bytes) = match &node.body {
            Body::File(_) if self.unsized_files.contains(&ino) => (Kind::File, 0),
            Body::File(data) => (Kind::File, data.len()),
            Body::Directory(_) => (Kind::Directory, 4096),
            Body::Symlink(target) => (Kind::Symlink, target.len()),
            Body::Special => (Kind::Special, 0),
        };
        Meta {
            kind,
            mode: node.mode,
            mtime: node.mtime,
            size_bytes: size_bytes as u64,
            allocated_bytes: match &node.body {
                Body::File(data) => allocated_bytes(data),
                Body::Directory(_) | Body::Symlink(_) | Body::Special => 0,
            },
            inode: ino as u64,
            device: self.device,
            lasting: Lasting::Inode,
            links: 1,
            is_sized: !self.unsized_files.contains(&ino),
        }
    }

    /// The node at a path of real directories.
    pub fn find(&self, path: &[u8]) -> Option<Ino> {
        self.look_up(path).ok()
    }

    /// The same, or the errno of a kernel that found none.
    pub fn look_up(&self, path: &[u8]) -> Result<Ino, i32> {
        path.split(|&b| b == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .try_fold(Disk::ROOT, |dir, part| match self.children(dir) {
                None => Err(ENOTDIR),
                Some(_) if part.len() > NAME_MAX_BYTES => Err(ENAMETOOLONG),
                Some(children) => children.get(part).copied().ok_or(ENOENT),
            })
    }

    /// Bytes that count against the capacity.
    pub fn used_bytes(&self) -> u64 {
        let parts = self.parts.values();
        let mut used = parts.map(|part| allocated_bytes(&part.data)).sum();
        self.visit(Disk::ROOT, &mut |_, ino| {
            if let Body::File(data) = &self.nodes[ino].body {
                used += allocated_bytes(data);
            }
        });
        used
    }

    /// Calls `see` with the path below `from` and the node, for everything below `from`, parents
    /// first.
    pub fn visit(&self, from: Ino, see: &mut impl FnMut(&[u8], Ino)) {
        let mut stack = vec![(Vec::new(), from)];
        while let Some((path, dir)) = stack.pop() {
            for (name, &ino) in self.children(dir).into_iter().flatten() {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name);
                see(&below, ino);
                stack.push((below, ino));
            }
        }
    }

    /// What stands at a name, as the receiver is told of it.
    pub fn existing(&self, dir: Ino, name: &[u8], mtime: Mtime) -> Option<Box<Existing>> {
        let ino = self.child(dir, name)?;
        let link = match &self.nodes[ino].body {
            Body::Symlink(target) => Some(Bytes::copy_from_slice(target)),
            Body::File(_) | Body::Directory(_) | Body::Special => None,
        };
        Some(Box::new(Existing {
            meta: self.meta(ino),
            link,
            in_doubt: self.doubtful.contains(&ino),
            has_mtime: match self.faults.no_times {
                true => self.nodes[ino].mtime >= mtime,
                false => self.nodes[ino].mtime == self.faults.stored(mtime),
            },
        }))
    }

    /// Puts a file that a session wrote under a name; what it replaces was waited for.
    pub fn publish_file(&mut self, dir: Ino, name: &[u8], node: Node) {
        let is_new = self.child(dir, name).is_none();
        let ino = self.put(dir, name, node);
        if is_new {
            self.unsynced.insert(ino);
        }
    }

    /// What a power cut does that `kill -9` does not: data that was not synced may be lost while
    /// the name or the journal that speaks of it is there. Ranges of it become zeros.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        self.storage.boot[0] += 1;
        for ino in std::mem::take(&mut self.unsynced) {
            if let Body::File(data) = &mut self.nodes[ino].body
                && rng.chance(50)
            {
                let from = rng.below(data.len());
                data[from..].fill(0);
                self.doubtful.insert(ino);
            }
        }
        for part in self.parts.values_mut() {
            for _ in 0..rng.below(4) {
                let from = rng.below(part.data.len());
                let to = part.data.len().min(from + rng.below(200_000));
                // Or whatever the blocks held before.
                part.data[from..to].fill(rng.pick(&[0, 0xaa]));
            }
            if rng.chance(20) {
                part.journal.truncate(rng.below(part.journal.len()));
            }
            if rng.chance(10) {
                part.data.truncate(rng.below(part.data.len()));
            }
        }
    }

    /// Appends to a file, as another program would; gives what it holds then.
    pub fn grow(&mut self, dir: Ino, name: &[u8], rng: &mut Rng) -> Vec<u8> {
        let ino = self.child(dir, name).expect("a file that is there");
        let mtime = self.tick();
        let len = 1 + rng.below(100_000);
        let more = rng.bytes(len);
        let Body::File(data) = &mut self.nodes[ino].body else {
            panic!("what grows is a file")
        };
        data.extend_from_slice(&more);
        let now = data.clone();
        self.nodes[ino].mtime = mtime;
        now
    }

    /// Changes a file as another program would. The mtime always moves (a change that leaves size,
    /// mtime and inode alone is beyond what the protocol promises to see). Gives the name of what
    /// was done.
    pub fn mutate(&mut self, dir: Ino, name: &[u8], rng: &mut Rng) -> &'static str {
        let Some(ino) = self.child(dir, name) else {
            return "nothing";
        };
        let (Body::File(data), mode) = (self.nodes[ino].body.clone(), self.nodes[ino].mode) else {
            return "nothing";
        };
        let mtime = self.tick();
        let dir_mtime = self.nodes[dir].mtime;
        let mut changed = data;
        let what = match rng.below(5) {
            0 => {
                changed.truncate(rng.below(changed.len()));
                "truncated"
            }
            1 => {
                let len = 1 + rng.below(100_000);
                let more = rng.bytes(len);
                changed.extend_from_slice(&more);
                "grown"
            }
            2 => {
                changed.iter_mut().for_each(|b| *b ^= 0x55);
                "rewritten"
            }
            3 => {
                let len = changed.len();
                changed = rng.bytes(len);
                self.put(
                    dir,
                    name,
                    Node {
                        mode,
                        mtime,
                        body: Body::File(changed),
                    },
                );
                // The test compares directory times; this one is not under test.
                self.nodes[dir].mtime = dir_mtime;
                return "replaced";
            }
            _ => {
                self.remove(dir, name);
                self.nodes[dir].mtime = dir_mtime;
                return "removed";
            }
        };
        self.nodes[ino].body = Body::File(changed);
        self.nodes[ino].mtime = mtime;
        what
    }
}

/// Blocks of zeros are holes here, whoever wrote them. Blocks are compared and not searched byte by
/// byte: this is asked for every file of the disk, again and again.
fn data_blocks(data: &[u8]) -> impl Iterator<Item = std::ops::Range<u64>> {
    static HOLE: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
    let block = HOLE.len();
    let blocks = data.chunks(block).enumerate();
    let is_data = |(_, bytes): &(usize, &[u8])| **bytes != HOLE[..bytes.len()];
    blocks.filter(is_data).map(move |(at, bytes)| {
        let start = (at * block) as u64;
        start..start + bytes.len() as u64
    })
}

fn allocated_bytes(data: &[u8]) -> u64 {
    data_blocks(data).map(|block| block.end - block.start).sum()
}

/// Where a file has data, a few ranges at a time.
pub fn data_map(data: &[u8], offset: u64, most_ranges: usize) -> DataMap {
    let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
    for block in data_blocks(data).filter(|block| block.end > offset) {
        match ranges.last_mut().filter(|last| last.end == block.start) {
            Some(last) => last.end = block.end,
            None => ranges.push(block),
        }
    }
    let known_to = match ranges.get(most_ranges.max(1) - 1) {
        Some(last) => last.end,
        None => u64::MAX,
    };
    ranges.truncate(most_ranges.max(1));
    DataMap::new(ranges, known_to)
}
