//! What a session has open: its root, directories and files, confined to where it may work.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use landro_sys::file::flags;
use landro_sys::{Buffer, FileDone, FileOp, OpenHow};

use super::behind::NamedSource;
use super::descriptors::Allowance;
use super::durable::Footing;
use super::history::History;
use super::mounts::{Ground, Mounts};
use super::names::{TemporaryName, c_string};
use super::root::ServedPart;
use super::spelling::{ANY_SPELLING, DirNames};
use super::systems::Systems;
use super::{DiskError, Files};
use crate::ids::{DirId, FileId, Fingerprint, Name, PATH_MAX_BYTES};
use crate::proto::entries::IdHasher;
use crate::proto::errno::{EACCES, EBADF, ENAMETOOLONG};

/// Directory descriptors a session keeps open at once; older ones are reopened by path when needed.
/// 150 sessions then hold 9,600, below the usual hard limit of 20,000 and more. What of a session
/// is on another worker has some of these, and few of its own: those of the orders it has.
const MAX_OPEN_DIRECTORIES: usize = 64;

/// File operations of one session that are with the driver at a time: enough for a disk's queue.
/// Where a file system does not answer, so many of the driver's threads are held, which leaves room
/// for the sessions of others.
const OPERATIONS_MAX: usize = 16;

/// A map by numbers that the session's own machine gives: no peer chooses them, so nothing keyed
/// spreads them.
type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Where a session's paths begin.
#[derive(Clone)]
pub enum Base {
    /// A daemon's root, or the part of it that the peer may see: every path stays beneath it.
    Served(ServedPart),
    /// The user's own command: the paths typed resolve as in any program; what comes from the peer
    /// stays below the entries that were asked for.
    Local,
}

/// The directories and files of one session.
pub struct Space {
    base: Base,
    /// Every call is made in place, whatever the file system.
    at_once: bool,
    /// The directory that a daemon serves to this session, once it was opened.
    pub(super) root: RefCell<Option<Arc<OwnedFd>>>,
    pub(super) allowance: Allowance,
    pub(super) ground: Cell<Option<Ground>>,
    /// File operations with the driver, and those that wait for one of them to end.
    under_way: Cell<usize>,
    waiting: RefCell<VecDeque<(usize, FileOp)>>,
    /// Since this was last asked, and since an operation of the session last ended, one of them got
    /// on.
    has_moved: Cell<bool>,
    dirs: RefCell<NumberMap<DirId, Dir>>,
    files: RefCell<NumberMap<FileId, OpenFile>>,
    /// How the directories of a destination stand.
    footings: RefCell<NumberMap<DirId, Footing>>,
    /// How directories of a destination tell names apart, where that is known.
    names: RefCell<NumberMap<DirId, DirNames>>,
    /// Names that are being given, where that takes two steps.
    naming: RefCell<HashSet<(DirId, Vec<u8>)>>,
    /// What their modes mean for what is made in them, and for them.
    modes: RefCell<NumberMap<DirId, ModeFound>>,
    clock: Cell<u64>,
    /// A partly filled buffer that small reads share.
    pub(super) small_reads: RefCell<Option<Buffer>>,
    /// Pool buffers this session's reads hold until their bytes are acknowledged.
    pub(super) pinned: Arc<AtomicUsize>,
    /// Who copies: on a daemon the key of the peer.
    pub(super) copier: [u8; 32],
    /// Sources that are not what their names are, by the directory each was resolved to.
    pub(super) named: RefCell<NumberMap<DirId, NamedSource>>,
    /// What the file systems that were come across keep.
    pub(super) systems: Systems,
    /// Where the sources land.
    target: Cell<Option<DirId>>,
    /// A source is looked for while nothing is open.
    pub(super) is_beginning: Cell<bool>,
    /// What the one source is written into.
    sink: RefCell<Option<NamedSink>>,
    /// What the other side of a copy within this host has open.
    beside: Option<Rc<Space>>,
}

struct Dir {
    place: DirPlace,
    open: Option<Arc<OwnedFd>>,
    /// Where the next batch of names begins (a directory offset of this file system, stable across
    /// reopening).
    list_cursor: u64,
    used: u64,
}

/// Where a directory of a transfer is found again: below a descriptor, by a path without symlinks.
#[derive(Clone)]
pub struct DirPlace {
    root: Arc<OwnedFd>,
    /// From where the session's paths begin: a daemon's root, or the directory the sources land in
    /// or lie in.
    path: Vec<u8>,
    /// `path` behind here is below `root`.
    from: usize,
}

impl DirPlace {
    /// A directory that is held, at `path`.
    pub fn held(root: Arc<OwnedFd>, path: Vec<u8>) -> DirPlace {
        let from = path.len();
        DirPlace { root, path, from }
    }

    /// The same place, which is held as this descriptor from now on.
    pub fn held_as(self, root: Arc<OwnedFd>) -> DirPlace {
        DirPlace::held(root, self.path)
    }

    fn below(&self) -> &[u8] {
        let below = &self.path[self.from..];
        below.strip_prefix(b"/").unwrap_or(below)
    }

    fn is_held(&self) -> bool {
        self.from == self.path.len()
    }
}

/// Where a directory is, and its descriptor if it is open.
type DirAt = (DirPlace, Option<Arc<OwnedFd>>);

/// Handed down by a directory with its group (inode(7)).
pub const SETGID: u32 = 0o2000;

/// What matters of a directory's mode.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ModeFound {
    /// Its group, and this bit, are handed down to directories made in it.
    pub setgid: bool,
    /// It was made writable for the time being; this was its mode.
    pub before: Option<u32>,
}

/// A file of a session.
#[derive(Clone)]
pub enum OpenFile {
    Source(Arc<OwnedFd>),
    Part(Part),
}

/// A file being received.
#[derive(Clone)]
pub struct Part {
    pub data: Arc<OwnedFd>,
    pub dir: Arc<OwnedFd>,
    pub dir_id: DirId,
    pub name: Name,
    /// None: anonymous (O_TMPFILE), cannot be resumed.
    pub journal: Option<Arc<OwnedFd>>,
    /// Its temporary name, if it has one.
    pub temporary: Option<TemporaryName>,
    pub history: Arc<History>,
    /// On another worker than the one that names it: its data is to be on disk by then.
    pub is_awaited: bool,
    /// It has no name to get: this is what it is written into. `data` is that itself, unless data
    /// has to come in order.
    pub sink: Option<OpenSink>,
}

/// What the target of one file names.
#[derive(Clone)]
pub struct NamedSink {
    pub dir: DirId,
    pub name: Name,
    /// By O_PATH: opened for writing when there is something to write.
    pub place: Arc<OwnedFd>,
    pub kind: SinkKind,
}

#[derive(Clone)]
pub enum SinkKind {
    /// A device, a FIFO or a pipe.
    Special,
    /// A file that procfs leads to: what a program's standard output was redirected to.
    File,
    /// The same of this program: as it was opened, with its position and whether it appends.
    Own(Arc<OwnedFd>),
}

/// A sink that is open.
#[derive(Clone)]
pub enum OpenSink {
    /// It takes data at any offset.
    Direct(Arc<OwnedFd>),
    /// It takes data once, in order.
    Sequential(Arc<OwnedFd>),
}

impl Space {
    pub fn new(base: Base) -> Space {
        Space {
            base,
            at_once: false,
            root: RefCell::default(),
            allowance: Allowance::of_this_process(),
            ground: Cell::new(None),
            under_way: Cell::new(0),
            waiting: RefCell::default(),
            has_moved: Cell::new(false),
            dirs: RefCell::default(),
            files: RefCell::default(),
            footings: RefCell::default(),
            names: RefCell::default(),
            naming: RefCell::default(),
            modes: RefCell::default(),
            clock: Cell::new(0),
            small_reads: RefCell::default(),
            pinned: Arc::default(),
            copier: [0; 32],
            named: RefCell::default(),
            systems: Systems::default(),
            target: Cell::default(),
            is_beginning: Cell::default(),
            sink: RefCell::default(),
            beside: None,
        }
    }

    /// The files of a daemon's peer.
    pub fn of_peer(self, peer: &Fingerprint) -> Space {
        Space {
            copier: peer.0,
            ..self
        }
    }

    /// A session on a thread of its own, whose calls may take as long as they like.
    pub fn at_once(base: Base) -> Space {
        Space {
            at_once: true,
            ..Space::new(base)
        }
    }

    /// The receiving side of a copy within this host.
    pub fn beside_sender(sender: Rc<Space>) -> Space {
        Space {
            beside: Some(sender),
            ..Space::at_once(Base::Local)
        }
    }

    /// A file that the other side of a copy within this host reads.
    ///
    /// # Errors
    /// EBADF when it never opened it, or there is no such side.
    pub fn beside(&self, file: FileId) -> Result<Arc<OwnedFd>, DiskError> {
        match self.beside.as_ref().map(|space| space.file(file)) {
            Some(Ok(OpenFile::Source(open))) => Ok(open),
            _ => Err(DiskError {
                call: "file",
                errno: EBADF,
            }),
        }
    }

    pub fn is_beside(&self) -> bool {
        self.beside.is_some()
    }

    pub fn set_sink(&self, sink: NamedSink) {
        *self.sink.borrow_mut() = Some(sink);
    }

    /// The device or FIFO that has a name, if that was named as the target.
    pub fn sink(&self, dir: DirId, name: &Name) -> Option<NamedSink> {
        let sink = self.sink.borrow();
        let named = sink.as_ref();
        named
            .filter(|sink| sink.dir == dir && sink.name == *name)
            .cloned()
    }

    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Whether file operations of this session are made in place: where nothing but memory is, no
    /// call waits for anybody.
    pub fn in_place(&self) -> bool {
        self.at_once || self.is_memory_file_system()
    }

    /// Whether the session's files are on tmpfs or ramfs, and nothing else is mounted among them.
    pub fn is_memory_file_system(&self) -> bool {
        self.ground.get().is_some_and(|ground| ground.in_memory)
    }

    /// Whether closing a file may wait, and is to be done elsewhere.
    pub(super) fn closing_waits(&self) -> bool {
        !self.at_once && self.ground.get().is_some_and(|ground| ground.closing_waits)
    }

    /// Whether opening or reading a file may wait for a server, or it is not known yet.
    pub(super) fn asking_waits(&self) -> bool {
        self.ground.get().is_none_or(|ground| ground.closing_waits)
    }

    /// Whether a file operation may go to the driver now; one that may not waits here.
    pub(super) fn admit(&self, slot: usize, op: FileOp) -> Option<FileOp> {
        if self.under_way.get() < OPERATIONS_MAX {
            self.under_way.set(self.under_way.get() + 1);
            return Some(op);
        }
        self.waiting.borrow_mut().push_back((slot, op));
        None
    }

    /// Whether operations of the session that are under way got on since this was last asked.
    pub fn take_moved(&self) -> bool {
        self.has_moved.take()
    }

    pub(super) fn set_moved(&self, has_moved: bool) {
        self.has_moved.set(has_moved);
    }

    /// An operation came back from the driver: the next one that may go there.
    pub(super) fn next_admitted(&self) -> Option<(usize, FileOp)> {
        self.under_way.set(self.under_way.get().saturating_sub(1));
        let next = self.waiting.borrow_mut().pop_front()?;
        self.under_way.set(self.under_way.get() + 1);
        Some(next)
    }

    pub fn forget_dir(&self, dir: DirId) {
        self.dirs.borrow_mut().remove(&dir);
        self.footings.borrow_mut().remove(&dir);
        self.named.borrow_mut().remove(&dir);
        self.names.borrow_mut().remove(&dir);
        self.modes.borrow_mut().remove(&dir);
    }

    pub fn with_names<T>(&self, dir: DirId, see: impl FnOnce(Option<&mut DirNames>) -> T) -> T {
        see(self.names.borrow_mut().get_mut(&dir))
    }

    pub fn set_names(&self, dir: DirId, names: DirNames) {
        self.names.borrow_mut().insert(dir, names);
    }

    /// False: somebody else is at it.
    /// False: a name that may be the same one is being given.
    pub fn begin_naming(&self, key: &(DirId, Vec<u8>)) -> bool {
        let mut naming = self.naming.borrow_mut();
        let is_free = match key.1.as_slice() {
            ANY_SPELLING => naming.iter().all(|(dir, _)| *dir != key.0),
            _ => !naming.contains(&(key.0, ANY_SPELLING.to_vec())),
        };
        is_free && naming.insert(key.clone())
    }

    pub fn end_naming(&self, key: &(DirId, Vec<u8>)) {
        self.naming.borrow_mut().remove(key);
    }

    pub fn mode_found(&self, dir: DirId) -> ModeFound {
        self.modes.borrow().get(&dir).copied().unwrap_or_default()
    }

    /// Remembers what is not as it mostly is.
    pub fn set_mode_found(&self, dir: DirId, found: ModeFound) {
        if found != ModeFound::default() {
            self.modes.borrow_mut().insert(dir, found);
        }
    }

    /// The mode to give back to a directory that was made writable; it is told once.
    pub fn take_mode_before(&self, dir: DirId) -> Option<u32> {
        self.modes.borrow_mut().get_mut(&dir)?.before.take()
    }

    pub fn set_footing(&self, dir: DirId, footing: Footing) {
        self.footings.borrow_mut().insert(dir, footing);
    }

    /// Whether data in a directory may be gone that an earlier kernel or mount held.
    pub fn is_in_doubt(&self, dir: DirId) -> bool {
        self.footings
            .borrow()
            .get(&dir)
            .is_some_and(|footing| footing.in_doubt)
    }

    pub fn footing(&self, dir: DirId) -> Option<Footing> {
        self.footings.borrow().get(&dir).cloned()
    }

    pub fn forget_file(&self, file: FileId) {
        self.files.borrow_mut().remove(&file);
    }

    /// Descriptors of files that stay open.
    pub(super) fn held_files(&self) -> usize {
        let files = self.files.borrow();
        let held = files.values().map(|file| match file {
            OpenFile::Part(Part {
                journal: Some(_), ..
            }) => 2,
            OpenFile::Part(_) | OpenFile::Source(_) => 1,
        });
        held.sum()
    }

    /// Whether partial files are open, and so locked.
    pub fn holds_parts(&self) -> bool {
        self.files
            .borrow()
            .values()
            .any(|file| matches!(file, OpenFile::Part(_)))
    }

    pub fn add_file(&self, file: FileId, open: OpenFile) {
        self.files.borrow_mut().insert(file, open);
    }

    /// # Errors
    /// EBADF when the session never opened it (a slip of our own state machine, kept from becoming
    /// a panic).
    pub fn file(&self, file: FileId) -> Result<OpenFile, DiskError> {
        self.files.borrow().get(&file).cloned().ok_or(DiskError {
            call: "file",
            errno: EBADF,
        })
    }

    /// Remembers where the sources land: `path` from where the session's paths begin.
    pub fn add_target(&self, dir: DirId, path: Vec<u8>, fd: Arc<OwnedFd>) {
        self.target.set(Some(dir));
        self.add_dir(dir, DirPlace::held(fd.clone(), path), fd);
    }

    /// Remembers an open directory that was received in `parent`. What was asked for by itself, the
    /// top entry, is held from then on, so that nothing below it is ever found from above it.
    pub fn add_received_dir(&self, parent: DirId, dir: DirId, place: DirPlace, open: Arc<OwnedFd>) {
        let is_top = self.target.get() == Some(parent);
        // So many top entries cost a descriptor each; more are found from the directory they lie
        // in.
        let held = || {
            self.dirs
                .borrow()
                .values()
                .filter(|dir| dir.place.is_held())
                .count()
        };
        match is_top && self.allowance.may_cache(&open) && held() < MAX_OPEN_DIRECTORIES {
            true => self.add_dir(dir, place.held_as(open.clone()), open),
            false => self.add_dir(dir, place, open),
        }
    }

    pub fn has_directories(&self) -> bool {
        !self.dirs.borrow().is_empty()
    }

    /// Remembers an open directory under its number.
    pub fn add_dir(&self, dir: DirId, place: DirPlace, open: Arc<OwnedFd>) {
        let open = self.allowance.may_cache(&open).then_some(open);
        self.add_dir_at(dir, place, open);
    }

    /// The same of one that may have to be opened first.
    pub(super) fn add_dir_at(&self, dir: DirId, place: DirPlace, open: Option<Arc<OwnedFd>>) {
        let used = self.tick();
        let mut dirs = self.dirs.borrow_mut();
        let before = dirs.remove(&dir).and_then(|before| before.open);
        let open = open.or(before);
        dirs.insert(
            dir,
            Dir {
                place,
                open,
                list_cursor: 0,
                used,
            },
        );
        if dirs.len() > MAX_OPEN_DIRECTORIES {
            Self::close_oldest(&mut dirs);
        }
    }

    /// Where a directory's child is, for opening or remembering it.
    pub fn child(&self, parent: DirId, name: &[u8]) -> Result<DirPlace, DiskError> {
        let mut place = self.place(parent)?;
        if !place.path.is_empty() {
            place.path.push(b'/');
        }
        place.path.extend_from_slice(name);
        if place.below().len() > PATH_MAX_BYTES {
            return Err(DiskError {
                call: "path",
                errno: ENAMETOOLONG,
            });
        }
        Ok(place)
    }

    /// A directory's path from where the session's paths begin.
    pub fn path(&self, dir: DirId) -> Result<Vec<u8>, DiskError> {
        Ok(self.place(dir)?.path)
    }

    fn place(&self, dir: DirId) -> Result<DirPlace, DiskError> {
        Ok(self.dir_at(dir)?.0)
    }

    /// Where a directory is, and its descriptor if it is open.
    pub(super) fn dir_at(&self, dir: DirId) -> Result<DirAt, DiskError> {
        let dirs = self.dirs.borrow();
        let found = dirs.get(&dir).ok_or(DiskError {
            call: "directory",
            errno: EBADF,
        })?;
        Ok((found.place.clone(), found.open.clone()))
    }

    pub fn list_cursor(&self, dir: DirId) -> u64 {
        self.dirs
            .borrow()
            .get(&dir)
            .map_or(0, |dir| dir.list_cursor)
    }

    pub fn set_list_cursor(&self, dir: DirId, cursor: u64) {
        if let Some(dir) = self.dirs.borrow_mut().get_mut(&dir) {
            dir.list_cursor = cursor;
        }
    }

    /// Closes every directory that nothing works in right now; each is opened again when it is
    /// needed.
    pub fn close_idle_directories(&self) {
        for dir in self.dirs.borrow_mut().values_mut() {
            dir.open.take_if(|open| Arc::strong_count(open) == 1);
        }
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    fn close_oldest(dirs: &mut NumberMap<DirId, Dir>) {
        let mut open: Vec<_> = dirs
            .iter()
            .filter(|(_, dir)| dir.open.is_some())
            .map(|(id, dir)| (dir.used, *id))
            .collect();
        if open.len() <= MAX_OPEN_DIRECTORIES {
            return;
        }
        // A quarter at once, so that the scan is paid once in many insertions.
        open.sort_unstable();
        for (_, id) in &open[..MAX_OPEN_DIRECTORIES / 4] {
            if let Some(dir) = dirs.get_mut(id) {
                dir.open = None;
            }
        }
    }
}

impl Files {
    /// The descriptor of a directory of this session, reopened if it was closed for lack of room.
    pub(super) async fn dir(&self, dir: DirId) -> Result<Arc<OwnedFd>, DiskError> {
        let place = {
            let mut dirs = self.space.dirs.borrow_mut();
            let used = self.space.tick();
            let found = dirs.get_mut(&dir).ok_or(DiskError {
                call: "directory",
                errno: EBADF,
            })?;
            found.used = used;
            if let Some(open) = &found.open {
                return Ok(open.clone());
            }
            found.place.clone()
        };
        let open = self.open_place(&place).await?;
        let mut dirs = self.space.dirs.borrow_mut();
        if let Some(found) = dirs
            .get_mut(&dir)
            .filter(|_| self.space.allowance.may_cache(&open))
        {
            found.open = Some(open.clone());
        }
        Space::close_oldest(&mut dirs);
        Ok(open)
    }

    pub(super) async fn open_place(&self, place: &DirPlace) -> Result<Arc<OwnedFd>, DiskError> {
        self.open_dir_below(&place.root, place.below()).await
    }

    /// Opens a directory of a transfer: below `root`, never through a symlink. `path` may be empty.
    pub(super) async fn open_dir_below(
        &self,
        root: &Arc<OwnedFd>,
        path: &[u8],
    ) -> Result<Arc<OwnedFd>, DiskError> {
        let path = if path.is_empty() { &b"."[..] } else { path };
        let resolve = flags::RESOLVE_BENEATH | flags::RESOLVE_NO_SYMLINKS;
        self.open_directory(Some(root), path, resolve).await
    }

    /// Opens a directory by openat2(2); without `dir` the path is the user's own.
    pub(super) async fn open_directory(
        &self,
        dir: Option<&Arc<OwnedFd>>,
        path: &[u8],
        resolve: u64,
    ) -> Result<Arc<OwnedFd>, DiskError> {
        let how = |flags| OpenHow {
            flags: flags::O_DIRECTORY | flags,
            mode: 0,
            resolve,
        };
        match self.open(dir, path, how(flags::O_RDONLY)).await {
            // A directory one may enter but not list (mode 0311): O_PATH is enough for the *at
            // calls.
            Err(DiskError { errno: EACCES, .. }) => self.open(dir, path, how(flags::O_PATH)).await,
            other => other,
        }
    }

    /// openat2(2); without `dir` the path is the user's own.
    pub(super) async fn open(
        &self,
        dir: Option<&Arc<OwnedFd>>,
        path: &[u8],
        how: OpenHow,
    ) -> Result<Arc<OwnedFd>, DiskError> {
        let op = FileOp::Open {
            dir: dir.cloned(),
            path: c_string(path)?,
            how,
            waits: self.space.asking_waits(),
        };
        match self.call("openat2", op).await? {
            FileDone::Opened(fd) => {
                let fd = Arc::new(fd);
                if self.space.closing_waits() && how.flags & flags::O_DIRECTORY == 0 {
                    self.shared.kept.borrow_mut().push(fd.clone());
                }
                Ok(fd)
            }
            other => unreachable!("openat2 answered {other:?}"),
        }
    }

    /// Learns whether calls may wait below a directory that the session works in.
    pub(super) async fn learn_file_system(&self, fd: &Arc<OwnedFd>) -> Result<(), DiskError> {
        // Without /proc nothing is known of what is mounted there.
        let place = Mounts::of_this_process().ok().zip(self.real_path(fd).ok());
        let waits = place
            .as_ref()
            .is_none_or(|(mounts, path)| mounts.may_wait_at(path));
        let op = FileOp::StatFs { file: fd.clone() };
        // A thread for it would cost a small transfer more than all its other calls.
        let found = match waits {
            true => self.call("fstatfs", op).await?,
            false => self.call_in_place("fstatfs", op)?,
        };
        if let FileDone::FileSystem(found) = found {
            let ground = place.map_or(Ground::UNKNOWN, |(mounts, path)| {
                mounts.ground(&path, &found)
            });
            let before = self.space.ground.get().unwrap_or(ground);
            self.space.ground.set(Some(before.and(ground)));
        }
        Ok(())
    }
}
