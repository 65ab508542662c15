//! The announced tree: entries are checked as they arrive, directories are made before what lies in
//! them.
//!
//! Directories hold descriptors, so not all announced ones are made at once. The rule of
//! [`ReceivePlan`]'s `make_next_dir` cannot lock up: the announced order is depth first, so every
//! directory made before the smallest unmade one that is not above it has its whole subtree made,
//! and resolves by itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;

use bytes::Bytes;
use slab::Slab;

use super::{ReceivePlan, ReceivePlanOp, ReceivedEntry, ReceivedState, Target, held};
use crate::ids::{CopyId, DirId, EntryId, Name, PATH_MAX_BYTES};
use crate::proto::chunk::MAX_DEPTH;
use crate::proto::errors::{
    Violation, destination_error, into_itself, is_a_directory, name_taken, no_parent,
    second_of_a_name, violation,
};
use crate::proto::path::join;
use crate::proto::ports::Ports;
use crate::proto::{
    Attributes, DirFound, DirMode, DiskDone, DiskError, DiskOp, EntryError, EntryResult, Kind,
    ObjectId, wire,
};

/// Directories held open freely.
const HELD_DIRS: u32 = 256;

/// With this many more, enough of them are not above the next to be made and resolve by themselves.
const HELD_DIRS_MAX: u32 = HELD_DIRS + MAX_DEPTH as u32 + 64;

/// The directories of the session, and the rules by which they are made.
pub(super) struct TargetTree {
    /// Slot 0 is the target directory.
    pub(super) dirs: Slab<TargetDir>,
    last: u32,
    /// Announced directories whose end was not announced.
    open: u32,
    /// Directories of the session with a descriptor, and those being made.
    held: u32,
    making: u32,
    top_level: u32,
    /// The own name of the only source, which lands under another.
    renamed: Option<Bytes>,
    /// As in `ReceiverConfig`, less those that were announced.
    expected: Option<Vec<Bytes>>,
    /// Directories whose parent is there, smallest id first.
    ready: BinaryHeap<Reverse<u32>>,
}

/// A directory of the session: the target (slot 0) or an announced one.
#[derive(Debug)]
pub(super) struct TargetDir {
    id: DirId,
    /// 0 for the target.
    pub(super) entry: EntryId,
    /// Slot of the directory it lies in.
    pub(super) parent: usize,
    /// From the source's own name on, as the sender counts and tells it.
    path: Bytes,
    depth: usize,
    state: TargetDirState,
    /// Children that wait for this directory to be made; bounded by the window.
    waiting: Vec<EntryId>,
    /// Children whose work in this directory is not over.
    children: u32,
    ended: bool,
    /// The sender could not read all of it.
    source_error: Option<EntryError>,
    /// Within one host, once it is made: which object it is.
    pub(super) object: Option<ObjectId>,
}

/// Where a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TargetDirState {
    /// Waits for its parent or its turn. Next: Making, Failed.
    Unmade,
    /// Next: Made, Failed.
    Making,
    /// Next: Setting, or gone. Unless it was missing, what lies in it has to be looked at before it
    /// is replaced.
    Made { found: DirFound },
    /// The target itself, which waits for being looked at. Next: Alias, Failed.
    Entering,
    /// The target under an entry's name: nothing to make or set. Next: gone.
    Alias,
    /// All children are over; mode and mtime are being set. Next: gone.
    Setting { found: DirFound },
    /// Could not be made; its verdict is out, its children fail. Next: gone, when it ended.
    Failed,
}

impl TargetTree {
    pub(super) const TARGET: DirId = DirId(0);

    /// With the target. It counts as one that existed, so what lies in it is looked at first.
    pub(super) fn new(expected: Option<Vec<Bytes>>) -> TargetTree {
        let mut dirs = Slab::new();
        dirs.insert(TargetDir {
            id: TargetTree::TARGET,
            entry: EntryId(0),
            parent: 0,
            path: Bytes::new(),
            depth: 0,
            state: TargetDirState::Made {
                found: DirFound::Finished,
            },
            waiting: Vec::new(),
            children: 0,
            ended: false,
            source_error: None,
            object: None,
        });
        TargetTree {
            dirs,
            last: 0,
            open: 0,
            held: 0,
            making: 0,
            top_level: 0,
            renamed: None,
            expected,
            ready: BinaryHeap::new(),
        }
    }

    /// Whether directories were announced and not ended.
    pub(super) fn has_open_dirs(&self) -> bool {
        self.open > 0
    }

    /// Gives up all directories; those with a descriptor.
    pub(super) fn take_open(&mut self, target: &Target) -> Vec<DirId> {
        let dirs = std::mem::take(&mut self.dirs);
        dirs.iter()
            .filter_map(|(_, dir)| dir.descriptor(target))
            .collect()
    }

    #[cfg(test)]
    pub(super) fn is_failed(&self, dir: usize) -> bool {
        self.dirs[dir].state == TargetDirState::Failed
    }

    #[cfg(test)]
    pub(super) fn described_bytes(&self) -> u64 {
        let announced = self.dirs.iter().skip(1);
        announced
            .map(|(_, dir)| held::of_directory(&dir.path))
            .sum()
    }
}

impl TargetDir {
    pub(super) fn path(&self) -> &Bytes {
        &self.path
    }

    /// The descriptor to close when the session stops.
    fn descriptor(&self, target: &Target) -> Option<DirId> {
        match self.state {
            TargetDirState::Made { .. } if self.entry == EntryId(0) => {
                matches!(target, Target::Ready { .. }).then_some(self.id)
            }
            TargetDirState::Made { .. } | TargetDirState::Setting { .. } => Some(self.id),
            TargetDirState::Unmade
            | TargetDirState::Making
            | TargetDirState::Entering
            | TargetDirState::Alias
            | TargetDirState::Failed => None,
        }
    }
}

/// Whether what is said of an entry can be true of its kind.
fn is_sendable(entry: &wire::Entry) -> bool {
    let link_fits = match (&entry.link, entry.kind) {
        (Some(link), Kind::Symlink) => !link.is_empty() && !link.contains(&0),
        (None, Kind::File | Kind::Directory) => true,
        _ => false,
    };
    let is_file = entry.kind == Kind::File;
    let size_fits = is_file && !entry.is_unsized || entry.size_bytes == 0;
    // Nothing tells a hole of what has no size.
    let is_stream_fit = !entry.is_unsized || is_file && entry.allocated_bytes.is_none();
    link_fits && size_fits && is_stream_fit && entry.mtime.nanoseconds < 1_000_000_000
}

impl ReceivePlan {
    /// An announced entry, held against every rule of the manifest.
    pub(super) fn on_entry(
        &mut self,
        ports: &mut Ports,
        entry: wire::Entry,
    ) -> Result<(), Violation> {
        let id = entry.id;
        if self.manifest.ended || self.manifest.last_entry.checked_add(1) != Some(id.0) {
            return violation(format!("entry {} announced out of order", id.0));
        }
        if self.manifest.unresolved >= self.window + MAX_DEPTH as u32 {
            return violation(format!("entry {} announced beyond the window", id.0));
        }
        let dir = self.open_parent(entry.parent)?;
        let name = self.name_of(&entry)?;
        if !is_sendable(&entry) {
            return violation(format!("entry {} is of no kind that can be sent", id.0));
        }
        self.manifest.last_entry = id.0;
        self.manifest.unresolved += 1;
        self.tree.dirs[dir].children += 1;
        if entry.kind == Kind::File {
            self.manifest.files += 1;
            self.manifest.bytes = self.manifest.bytes.saturating_add(entry.size_bytes);
        }
        let mut entry = ReceivedEntry {
            dir,
            name_key: self.name_key(dir, name.as_ref()),
            name,
            kind: entry.kind,
            mode: entry.mode & 0o7777,
            mtime: entry.mtime,
            size_bytes: entry.size_bytes,
            sparse: match entry.kind {
                Kind::File => entry.allocated_bytes,
                Kind::Directory | Kind::Symlink | Kind::Special => None,
            },
            source_tag: entry.source_tag,
            source: entry.object,
            link: entry.link,
            is_unsized: entry.is_unsized,
            odd_size: None,
            replaces: false,
            state: ReceivedState::Queued,
        };
        if entry.kind == Kind::Directory {
            entry.state = ReceivedState::Directory(self.add_dir(id, &entry)?);
        }
        self.manifest.described_bytes += held::of_entry(&entry);
        let is_second = self.is_second_of_its_name(id, &entry);
        let is_over_target = entry.name.is_none() && entry.kind != Kind::Directory;
        self.entries.insert(id, entry);
        if is_second {
            self.fail_announced(ports, id, second_of_a_name());
        } else if is_over_target {
            self.fail_announced(ports, id, is_a_directory());
        } else {
            self.enqueue(ports, id, dir);
        }
        Ok(())
    }

    /// Whether another entry of this name in this directory has no verdict yet. Those that have one
    /// are not remembered: there may be millions, and what stands there by then is looked at as
    /// anything else that does.
    fn is_second_of_its_name(&mut self, id: EntryId, entry: &ReceivedEntry) -> bool {
        *self.names.entries.entry(entry.name_key).or_insert(id) != id
    }

    /// Stands for a name in a directory. Directories are told apart by what they are on the disk,
    /// for an alias's children lie in the target.
    fn name_key(&self, dir: usize, name: Option<&Name>) -> u64 {
        self.names.hash.hash_one((self.tree.dirs[dir].id, name))
    }

    /// An entry has its verdict: its name may come again.
    pub(super) fn forget_name(&mut self, id: EntryId, entry: &ReceivedEntry) {
        if self.names.entries.get(&entry.name_key) == Some(&id) {
            self.names.entries.remove(&entry.name_key);
        }
    }

    /// The slot of a parent that may still get children.
    fn open_parent(&self, parent: EntryId) -> Result<usize, Violation> {
        if parent == EntryId(0) {
            return Ok(0);
        }
        match self.entries.get(&parent).map(|entry| entry.state) {
            Some(ReceivedState::Directory(dir)) if !self.tree.dirs[dir].ended => Ok(dir),
            _ => violation(format!("parent {} is not an open directory", parent.0)),
        }
    }

    /// The checked name under which an entry goes; `None`: the target itself.
    fn name_of(&mut self, entry: &wire::Entry) -> Result<Option<Name>, Violation> {
        let top_level = entry.parent == EntryId(0);
        let rename = match &self.target {
            Target::Ready { rename } if top_level => rename.clone(),
            _ => None,
        };
        if top_level {
            self.tree.top_level += 1;
            self.tree.renamed = rename.is_some().then(|| entry.name.clone());
            // What was asked for, once, and no more: a server may not choose to send `.bashrc` as
            // well.
            if let Some(expected) = &mut self.tree.expected {
                match expected.iter().position(|name| *name == entry.name) {
                    Some(at) => drop(expected.swap_remove(at)),
                    None => {
                        return violation(format!(
                            "entry {}: a source that was not asked for",
                            entry.id.0
                        ));
                    }
                }
            }
            if rename.is_some() && self.tree.top_level > 1 {
                return violation("a second source for a target that takes one name");
            }
            if entry.name.is_empty() && entry.kind == Kind::Directory {
                return Ok(rename);
            }
            // The target has no name to take: it is itself what the source becomes.
            if self.options.no_target_dir && rename.is_none() {
                return Ok(None);
            }
        }
        match Name::new(entry.name.clone()) {
            Ok(name) => Ok(Some(rename.unwrap_or(name))),
            Err(why) => violation(format!("entry {}: {why}", entry.id.0)),
        }
    }

    fn add_dir(&mut self, id: EntryId, entry: &ReceivedEntry) -> Result<usize, Violation> {
        let parent = &self.tree.dirs[entry.dir];
        let (depth, path) = (parent.depth + 1, self.source_path_of(entry));
        if depth > MAX_DEPTH || self.tree.open as usize >= MAX_DEPTH {
            return violation("directories are nested deeper than 512");
        }
        if path.len() > PATH_MAX_BYTES {
            return violation("a path is longer than 4095 bytes");
        }
        let (dir_id, state) = match &entry.name {
            Some(_) => {
                self.tree.last = self.tree.last.wrapping_add(1);
                (DirId(self.tree.last), TargetDirState::Unmade)
            }
            None => (self.tree.dirs[0].id, TargetDirState::Entering),
        };
        self.tree.open += 1;
        self.manifest.described_bytes += held::of_directory(&path);
        Ok(self.tree.dirs.insert(TargetDir {
            id: dir_id,
            entry: id,
            parent: entry.dir,
            path,
            depth,
            state,
            waiting: Vec::new(),
            children: 0,
            ended: false,
            source_error: None,
            object: None,
        }))
    }

    /// Puts an entry where it goes on: waiting for its directory, or ready.
    fn enqueue(&mut self, ports: &mut Ports, id: EntryId, dir: usize) {
        match self.tree.dirs[dir].state {
            TargetDirState::Unmade | TargetDirState::Making | TargetDirState::Entering => {
                self.tree.dirs[dir].waiting.push(id);
            }
            TargetDirState::Failed => self.fail_announced(ports, id, no_parent()),
            TargetDirState::Made { .. }
            | TargetDirState::Alias
            | TargetDirState::Setting { .. } => match self.entries.get(&id).map(|e| e.state) {
                Some(ReceivedState::Directory(child))
                    if self.tree.dirs[child].state == TargetDirState::Entering =>
                {
                    self.enter_target(ports, id, child);
                }
                Some(ReceivedState::Directory(_)) => self.tree.ready.push(Reverse(id.0)),
                Some(_) => self.ready.push_back(id),
                None => {}
            },
        }
    }

    /// The target is there already: nothing to be made.
    fn enter_target(&mut self, ports: &mut Ports, id: EntryId, dir: usize) {
        if self.leads_into_itself(id) {
            return self.fail_dir(ports, dir, into_itself());
        }
        let target = self.tree.dirs[dir].id;
        let cmd = DiskOp::EnterTarget { dir: target };
        let op = ReceivePlanOp::EnterTarget { dir };
        self.ops.start(ports, op, cmd);
    }

    /// What waits for the target goes on. Where it could not be entered, what is put there says so.
    pub(super) fn target_entered(&mut self, ports: &mut Ports, dir: usize) {
        self.tree.dirs[dir].state = TargetDirState::Alias;
        for id in std::mem::take(&mut self.tree.dirs[dir].waiting) {
            self.enqueue(ports, id, dir);
        }
        self.finish_dir(ports, dir);
    }

    /// Nothing was begun for this entry yet, nor will be.
    fn fail_announced(&mut self, ports: &mut Ports, id: EntryId, error: EntryError) {
        match self.entries.get(&id).map(|entry| entry.state) {
            Some(ReceivedState::Directory(dir)) => self.fail_dir(ports, dir, error),
            Some(_) => self.fail(ports, id, error),
            None => {}
        }
    }

    /// Makes the next directory if one is ready and descriptors are to be had.
    pub(super) fn make_next_dir(&mut self, ports: &mut Ports) -> bool {
        let allowed =
            self.tree.held < HELD_DIRS || (self.tree.making == 0 && self.tree.held < HELD_DIRS_MAX);
        if !allowed {
            return false;
        }
        let Some(Reverse(id)) = self.tree.ready.pop() else {
            return false;
        };
        let Some(entry) = self.entries.get(&EntryId(id)) else {
            return true;
        };
        let (ReceivedState::Directory(dir), Some(name)) = (entry.state, entry.name.clone()) else {
            return true;
        };
        let parent = self.tree.dirs[entry.dir].id;
        if self.leads_into_itself(EntryId(id)) {
            self.fail_dir(ports, dir, into_itself());
            return true;
        }
        self.tree.dirs[dir].state = TargetDirState::Making;
        self.tree.held += 1;
        self.tree.making += 1;
        let (keep_dirlinks, fsync) = (self.options.keep_dirlinks, self.options.fsync);
        let cmd = DiskOp::MakeDir {
            parent,
            name,
            dir: self.tree.dirs[dir].id,
            keep_dirlinks,
            is_plain: self.options.metadata.no_perms,
            copy: self.copy_of(dir),
            fsync,
        };
        self.look_up(ports, ReceivePlanOp::MakeDir { dir }, cmd);
        true
    }

    /// The copy that a directory is: it is what the one source is called at the target.
    fn copy_of(&self, dir: usize) -> Option<CopyId> {
        let is_renamed = matches!(self.target, Target::Ready { rename: Some(_) });
        let is_top = self.tree.dirs[dir].parent == 0;
        self.options.copy.filter(|_| is_renamed && is_top)
    }

    pub(super) fn dir_made(
        &mut self,
        ports: &mut Ports,
        dir: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        match result {
            Ok(DiskDone::Taken { by }) => {
                self.dir_not_made(ports, dir, name_taken(&by));
            }
            Ok(done) => {
                let found = match done {
                    DiskDone::Directory { found } => found,
                    _ => DirFound::Finished,
                };
                let entry = self.entries.get(&self.tree.dirs[dir].entry);
                match entry.and_then(|entry| entry.source) {
                    None => self.dir_ready(ports, dir, found),
                    Some(_) => self.identify_dir(ports, dir, found),
                }
            }
            Err(error) => self.dir_not_made(ports, dir, destination_error(&error)),
        }
    }

    /// A directory is there: what waits for it goes on.
    pub(super) fn dir_ready(&mut self, ports: &mut Ports, dir: usize, found: DirFound) {
        self.tree.making -= 1;
        self.tree.dirs[dir].state = TargetDirState::Made { found };
        for id in std::mem::take(&mut self.tree.dirs[dir].waiting) {
            self.enqueue(ports, id, dir);
        }
        self.finish_dir(ports, dir);
    }

    pub(super) fn dir_not_made(&mut self, ports: &mut Ports, dir: usize, error: EntryError) {
        self.tree.making -= 1;
        self.tree.held -= 1;
        self.fail_dir(ports, dir, error);
    }

    /// A directory cannot be made: it fails, and what waits for it. Its slot stays until it ends,
    /// for more children may be announced before the sender knows.
    fn fail_dir(&mut self, ports: &mut Ports, dir: usize, error: EntryError) {
        self.tree.dirs[dir].state = TargetDirState::Failed;
        let id = self.tree.dirs[dir].entry;
        if let Some(entry) = self.entries.remove(&id) {
            self.conclude(ports, id, &entry, EntryResult::failed(error));
            self.entries.insert(id, entry);
        }
        for child in std::mem::take(&mut self.tree.dirs[dir].waiting) {
            self.fail_announced(ports, child, no_parent());
        }
        self.finish_dir(ports, dir);
    }

    pub(super) fn on_end_directory(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
    ) -> Result<(), Violation> {
        match self.entries.get(&id).map(|entry| entry.state) {
            Some(ReceivedState::Directory(dir)) if !self.tree.dirs[dir].ended => {
                self.tree.dirs[dir].ended = true;
                self.tree.open -= 1;
                self.finish_dir(ports, dir);
                Ok(())
            }
            _ => violation(format!("end of {}, which is not an open directory", id.0)),
        }
    }

    /// The sender could not read a directory (further).
    pub(super) fn abort_dir(&mut self, dir: usize, error: EntryError) -> Result<(), Violation> {
        let dir = &mut self.tree.dirs[dir];
        if dir.ended || dir.source_error.is_some() {
            return violation(format!("directory {} aborted after its end", dir.entry.0));
        }
        dir.source_error = Some(error);
        Ok(())
    }

    /// A child's work in its directory is over.
    pub(super) fn child_done(&mut self, ports: &mut Ports, dir: usize) {
        // Stopping clears the table under operations that no longer matter.
        if let Some(parent) = self.tree.dirs.get_mut(dir) {
            parent.children -= 1;
            self.finish_dir(ports, dir);
        }
    }

    /// Behind the last child of an ended directory: mode and mtime, which anything done in it would
    /// change.
    fn finish_dir(&mut self, ports: &mut Ports, dir: usize) {
        let Some(at) = self.tree.dirs.get(dir) else {
            return;
        };
        if at.entry == EntryId(0) || !at.ended || at.children > 0 || self.is_stopped {
            return;
        }
        match at.state {
            TargetDirState::Made { found } => {
                let Some(entry) = self.entries.get(&at.entry) else {
                    return;
                };
                let Attributes { mode, mtime, fsync } = self.attributes(entry);
                let mode = match (mode, self.options.metadata.dir_modes, found) {
                    (None, ..) | (_, false, DirFound::Finished) => DirMode::Kept,
                    (Some(mode), true, _) => DirMode::Exact(mode),
                    (Some(mode), false, _) => DirMode::New(mode),
                };
                // What failed is missing, and the same command has to find its way back to it.
                let is_whole = self.totals.errors == 0 && at.source_error.is_none();
                let cmd = DiskOp::SetDir {
                    dir: at.id,
                    mode,
                    mtime,
                    ends_copy: self.copy_of(dir).filter(|_| is_whole),
                    fsync,
                };
                self.tree.dirs[dir].state = TargetDirState::Setting { found };
                self.ops.start(ports, ReceivePlanOp::SetDir { dir }, cmd);
            }
            TargetDirState::Alias => self.conclude_dir(ports, dir, None),
            TargetDirState::Failed => {
                self.entries.remove(&self.tree.dirs[dir].entry);
                self.forget_dir(ports, dir);
            }
            TargetDirState::Unmade | TargetDirState::Making => {}
            TargetDirState::Entering | TargetDirState::Setting { .. } => {}
        }
    }

    pub(super) fn dir_set(
        &mut self,
        ports: &mut Ports,
        dir: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        if self.is_stopped {
            return;
        }
        self.tree.held -= 1;
        self.close_dir(ports, self.tree.dirs[dir].id);
        let error = match result {
            // Nobody asked that a directory that was there be changed; its owner may be another.
            Ok(DiskDone::Placed(_)) if self.keeps_attributes(dir) => None,
            result => self.placed(self.tree.dirs[dir].entry, result).err(),
        };
        self.conclude_dir(ports, dir, error);
    }

    /// Whether the attributes of a directory are left to its owner; its time is that of what was
    /// done in it at least where he lets it be set.
    fn keeps_attributes(&self, dir: usize) -> bool {
        let is_finished = matches!(
            self.tree.dirs[dir].state,
            TargetDirState::Setting {
                found: DirFound::Finished
            }
        );
        is_finished && !self.options.metadata.dir_modes
    }

    /// The directory is over, with everything in it.
    fn conclude_dir(&mut self, ports: &mut Ports, dir: usize, error: Option<EntryError>) {
        let id = self.tree.dirs[dir].entry;
        let result = match self.tree.dirs[dir].source_error.take().or(error) {
            Some(error) => EntryResult::failed(error),
            None => EntryResult::Done { resumed_bytes: 0 },
        };
        if let Some(entry) = self.entries.remove(&id) {
            self.conclude(ports, id, &entry, result);
        }
        self.forget_dir(ports, dir);
    }

    fn forget_dir(&mut self, ports: &mut Ports, dir: usize) {
        let TargetDir { parent, path, .. } = self.tree.dirs.remove(dir);
        self.manifest.described_bytes -= held::of_directory(&path);
        self.child_done(ports, parent);
    }

    /// Whether the content of a directory is all ours, so that nothing in it needs to be looked at.
    pub(super) fn is_fresh(&self, dir: usize) -> bool {
        matches!(
            self.tree.dirs[dir].state,
            TargetDirState::Made {
                found: DirFound::Missing
            }
        )
    }

    pub(super) fn dir_id(&self, dir: usize) -> DirId {
        self.tree.dirs[dir].id
    }

    #[cfg(test)]
    pub(super) fn check_tree(&self) {
        let announced = || self.tree.dirs.iter().skip(1).map(|(_, dir)| dir);
        let open = announced().filter(|dir| !dir.ended).count();
        assert_eq!(self.tree.open as usize, open, "open directories");
        let is_making = |dir: &&TargetDir| dir.state == TargetDirState::Making;
        let making = announced().filter(is_making).count();
        assert_eq!(self.tree.making as usize, making, "directories being made");
        let is_made = |dir: &&TargetDir| {
            matches!(
                dir.state,
                TargetDirState::Made { .. } | TargetDirState::Setting { .. }
            )
        };
        let held = making + announced().filter(is_made).count();
        assert_eq!(self.tree.held as usize, held, "directories held");
        for (at, dir) in &self.tree.dirs {
            let entries = self.entries.values().filter(|entry| entry.dir == at);
            let is_clean = |op: &&ReceivePlanOp| match op {
                ReceivePlanOp::Clean { dir } => *dir == at,
                _ => false,
            };
            let cleaned = self.ops.iter().filter(is_clean).count();
            let closing = self.closing_parts(at) + self.closing_copies(at);
            let children = entries.count() + cleaned + closing;
            assert_eq!(dir.children as usize, children, "children of {dir:?}");
        }
    }

    /// An entry's path from the source's own name on, whatever name that lands under; a source
    /// without one is `.`.
    pub(super) fn path_of(&self, entry: &ReceivedEntry) -> Bytes {
        match self.source_path_of(entry) {
            path if path.is_empty() => Bytes::from_static(b"."),
            path => path,
        }
    }

    fn source_path_of(&self, entry: &ReceivedEntry) -> Bytes {
        if let (0, Some(own)) = (entry.dir, &self.tree.renamed) {
            return own.clone();
        }
        let dir = self.tree.dirs.get(entry.dir);
        let dir = dir.map_or(&b""[..], |dir| &dir.path[..]);
        join(dir, entry.name.as_ref().map_or(b"", Name::as_bytes))
    }
}
