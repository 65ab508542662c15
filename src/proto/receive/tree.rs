//! The announced tree: entries are checked as they arrive, directories are made before what lies in
//! them.
//!
//! Directories hold descriptors, so not all announced ones are made at once. The rule of
//! [`Receiver`]'s `make_next_dir` cannot lock up: the announced order is depth first, so every
//! directory made before the smallest unmade one that is not above it has its whole subtree made,
//! and resolves by itself.

use std::cmp::Reverse;
use std::hash::BuildHasher;

use bytes::Bytes;

use super::{Entry, Op, Receiver, State, Target, held};
use crate::ids::{DirId, EntryId, Name, PATH_MAX_BYTES};
use crate::proto::manifest::MAX_DEPTH;
use crate::proto::send::join;
use crate::proto::session::errors::{
    Violation, destination_error, into_itself, no_parent, second_of_a_name, violation,
};
use crate::proto::session::ports::Ports;
use crate::proto::{
    Carriage, DiskDone, DiskError, DiskOp, EntryError, EntryResult, Kind, ObjectId, wire,
};

/// Directories held open freely.
const HELD_DIRS: u32 = 256;

/// With this many more, enough of them are not above the next to be made and resolve by themselves.
const HELD_DIRS_MAX: u32 = HELD_DIRS + MAX_DEPTH as u32 + 64;

/// A directory of the session: the target (slot 0) or an announced one.
#[derive(Debug)]
pub(super) struct Dir {
    id: DirId,
    /// 0 for the target.
    entry: EntryId,
    /// Slot of the directory it lies in.
    parent: usize,
    /// From the source's own name on, as the sender counts and tells it.
    path: Bytes,
    depth: usize,
    state: DirState,
    /// Children that wait for this directory to be made; bounded by the window.
    waiting: Vec<EntryId>,
    /// Children whose work in this directory is not over.
    children: u32,
    ended: bool,
    /// The sender could not read all of it.
    source_error: Option<EntryError>,
    /// Within one host, once it is made: which object it is.
    object: Option<ObjectId>,
}

/// Where a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DirState {
    /// Waits for its parent or its turn. Next: Making, Failed.
    Unmade,
    /// Next: Made, Failed.
    Making,
    /// Next: Setting, or gone. `existed`: what lies in it has to be looked at before it is
    /// replaced.
    Made { existed: bool },
    /// The target under an entry's name: nothing to make or set. Next: gone.
    Alias,
    /// All children are over; mode and mtime are being set. Next: gone.
    Setting,
    /// Could not be made; its verdict is out, its children fail. Next: gone, when it ended.
    Failed,
}

impl Dir {
    /// The descriptor to close when the session stops.
    pub(super) fn descriptor(&self, target: &Target) -> Option<DirId> {
        match self.state {
            DirState::Made { .. } if self.entry == EntryId(0) => {
                matches!(target, Target::Ready { .. }).then_some(self.id)
            }
            DirState::Made { .. } | DirState::Setting => Some(self.id),
            DirState::Unmade | DirState::Making | DirState::Alias | DirState::Failed => None,
        }
    }
}

impl Receiver {
    /// Slot 0: the target. It counts as one that existed, so what lies in it is looked at first.
    pub(super) fn add_target(&mut self) -> DirId {
        let id = DirId(0);
        self.dirs.insert(Dir {
            id,
            entry: EntryId(0),
            parent: 0,
            path: Bytes::new(),
            depth: 0,
            state: DirState::Made { existed: true },
            waiting: Vec::new(),
            children: 0,
            ended: false,
            source_error: None,
            object: None,
        });
        id
    }

    /// An announced entry, held against every rule of the manifest.
    pub(super) fn on_entry(
        &mut self,
        ports: &mut Ports,
        entry: wire::Entry,
    ) -> Result<(), Violation> {
        let id = entry.id;
        if self.manifest_ended || self.last_entry.checked_add(1) != Some(id.0) {
            return violation(format!("entry {} announced out of order", id.0));
        }
        if self.unresolved >= self.window + MAX_DEPTH as u32 {
            return violation(format!("entry {} announced beyond the window", id.0));
        }
        let dir = self.open_parent(entry.parent)?;
        let name = self.name_of(&entry)?;
        let link_fits = match (&entry.link, entry.kind) {
            (Some(link), Kind::Symlink) => !link.is_empty() && !link.contains(&0),
            (None, Kind::File | Kind::Directory) => true,
            _ => false,
        };
        let size_fits = entry.kind == Kind::File || entry.size_bytes == 0;
        if !link_fits || !size_fits || entry.mtime.nanoseconds >= 1_000_000_000 {
            return violation(format!("entry {} is of no kind that can be sent", id.0));
        }
        self.last_entry = id.0;
        self.unresolved += 1;
        self.dirs[dir].children += 1;
        if entry.kind == Kind::File {
            self.announced = (
                self.announced.0 + 1,
                self.announced.1.saturating_add(entry.size_bytes),
            );
        }
        let mut entry = Entry {
            dir,
            name_key: self.name_key(dir, name.as_ref()),
            name,
            kind: entry.kind,
            mode: entry.mode & 0o7777,
            mtime: entry.mtime,
            size_bytes: entry.size_bytes,
            source_tag: entry.source_tag,
            source: entry.device.map(|device| ObjectId {
                device,
                inode: entry.source_tag,
            }),
            link: entry.link,
            state: State::Queued,
        };
        if entry.kind == Kind::Directory {
            entry.state = State::Directory(self.add_dir(id, &entry)?);
        }
        self.described_bytes += held::of_entry(&entry);
        let is_second = self.is_second_of_its_name(id, &entry);
        self.entries.insert(id, entry);
        if is_second {
            self.fail_announced(ports, id, second_of_a_name(self.host));
        } else {
            self.enqueue(ports, id, dir);
        }
        Ok(())
    }

    /// Whether another entry of this name in this directory has no verdict yet. Those that have one
    /// are not remembered: there may be millions, and what stands there by then is looked at as
    /// anything else that does.
    fn is_second_of_its_name(&mut self, id: EntryId, entry: &Entry) -> bool {
        *self.live_names.entry(entry.name_key).or_insert(id) != id
    }

    /// Stands for a name in a directory. Directories are told apart by what they are on the disk,
    /// for an alias's children lie in the target.
    fn name_key(&self, dir: usize, name: Option<&Name>) -> u64 {
        self.name_hash.hash_one((self.dirs[dir].id, name))
    }

    /// An entry has its verdict: its name may come again.
    pub(super) fn forget_name(&mut self, id: EntryId, entry: &Entry) {
        if self.live_names.get(&entry.name_key) == Some(&id) {
            self.live_names.remove(&entry.name_key);
        }
    }

    /// The slot of a parent that may still get children.
    fn open_parent(&self, parent: EntryId) -> Result<usize, Violation> {
        if parent == EntryId(0) {
            return Ok(0);
        }
        match self.entries.get(&parent).map(|entry| entry.state) {
            Some(State::Directory(dir)) if !self.dirs[dir].ended => Ok(dir),
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
            self.top_level += 1;
            // What was asked for, once, and no more: a server may not choose to send `.bashrc` as
            // well.
            if let Some(expected) = &mut self.expected {
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
            if rename.is_some() && self.top_level > 1 {
                return violation("a second source for a target that takes one name");
            }
            self.renamed = rename.is_some().then(|| entry.name.clone());
            if entry.name.is_empty() && entry.kind == Kind::Directory {
                return Ok(rename);
            }
        }
        match Name::new(entry.name.clone()) {
            Ok(name) => Ok(Some(rename.unwrap_or(name))),
            Err(why) => violation(format!("entry {}: {why}", entry.id.0)),
        }
    }

    fn add_dir(&mut self, id: EntryId, entry: &Entry) -> Result<usize, Violation> {
        let parent = &self.dirs[entry.dir];
        let (depth, path) = (parent.depth + 1, self.source_path_of(entry));
        if depth > MAX_DEPTH || self.open_dirs as usize >= MAX_DEPTH {
            return violation("directories are nested deeper than 512");
        }
        if path.len() > PATH_MAX_BYTES {
            return violation("a path is longer than 4095 bytes");
        }
        let (dir_id, state) = match &entry.name {
            Some(_) => {
                self.last_dir = self.last_dir.wrapping_add(1);
                (DirId(self.last_dir), DirState::Unmade)
            }
            None => (self.dirs[0].id, DirState::Alias),
        };
        self.open_dirs += 1;
        self.described_bytes += held::of_directory(&path);
        Ok(self.dirs.insert(Dir {
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
        match self.dirs[dir].state {
            DirState::Unmade | DirState::Making => self.dirs[dir].waiting.push(id),
            DirState::Failed => self.fail_announced(ports, id, no_parent(self.host)),
            DirState::Made { .. } | DirState::Alias | DirState::Setting => {
                match self.entries.get(&id).map(|e| e.state) {
                    Some(State::Directory(child)) if self.dirs[child].state == DirState::Alias => {
                        self.enter_alias(ports, id, child);
                    }
                    Some(State::Directory(_)) => self.ready_dirs.push(Reverse(id.0)),
                    Some(_) => self.ready.push_back(id),
                    None => {}
                }
            }
        }
    }

    /// An alias is there already: nothing to be made.
    fn enter_alias(&mut self, ports: &mut Ports, id: EntryId, dir: usize) {
        if self.leads_into_itself(id) {
            self.fail_dir(ports, dir, into_itself(self.host));
        }
    }

    /// Nothing was begun for this entry yet, nor will be.
    fn fail_announced(&mut self, ports: &mut Ports, id: EntryId, error: EntryError) {
        match self.entries.get(&id).map(|entry| entry.state) {
            Some(State::Directory(dir)) => self.fail_dir(ports, dir, error),
            Some(_) => self.fail(ports, id, error),
            None => {}
        }
    }

    /// Makes the next directory if one is ready and descriptors are to be had.
    pub(super) fn make_next_dir(&mut self, ports: &mut Ports) -> bool {
        let allowed =
            self.held_dirs < HELD_DIRS || (self.making_dirs == 0 && self.held_dirs < HELD_DIRS_MAX);
        if !allowed {
            return false;
        }
        let Some(Reverse(id)) = self.ready_dirs.pop() else {
            return false;
        };
        let Some(entry) = self.entries.get(&EntryId(id)) else {
            return true;
        };
        let (State::Directory(dir), Some(name)) = (entry.state, entry.name.clone()) else {
            return true;
        };
        let parent = self.dirs[entry.dir].id;
        if self.leads_into_itself(EntryId(id)) {
            self.fail_dir(ports, dir, into_itself(self.host));
            return true;
        }
        self.dirs[dir].state = DirState::Making;
        self.held_dirs += 1;
        self.making_dirs += 1;
        self.lookups += 1;
        let (keep_dirlinks, fsync) = (self.keep_dirlinks, self.fsync);
        let cmd = DiskOp::MakeDir {
            parent,
            name,
            dir: self.dirs[dir].id,
            keep_dirlinks,
            fsync,
        };
        self.ops.start(ports, Op::MakeDir { dir }, cmd);
        true
    }

    pub(super) fn dir_made(
        &mut self,
        ports: &mut Ports,
        dir: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.making_dirs -= 1;
        match result {
            Ok(done) => {
                let existed = matches!(done, DiskDone::Directory { existed: true });
                match self.carriage {
                    Carriage::Bytes | Carriage::Ranges => self.dir_ready(ports, dir, existed),
                    Carriage::Copies => {
                        let cmd = DiskOp::StatDir {
                            dir: self.dirs[dir].id,
                        };
                        self.ops.start(ports, Op::StatDir { dir, existed }, cmd);
                    }
                }
            }
            Err(error) => {
                self.held_dirs -= 1;
                self.fail_dir(ports, dir, destination_error(self.host, &error));
            }
        }
    }

    /// A directory is there: what waits for it goes on.
    fn dir_ready(&mut self, ports: &mut Ports, dir: usize, existed: bool) {
        self.dirs[dir].state = DirState::Made { existed };
        for id in std::mem::take(&mut self.dirs[dir].waiting) {
            self.enqueue(ports, id, dir);
        }
        self.finish_dir(ports, dir);
    }

    /// Within one host: which object a directory is that was made or found.
    pub(super) fn dir_identified(
        &mut self,
        ports: &mut Ports,
        dir: usize,
        existed: bool,
        result: Result<DiskDone, DiskError>,
    ) {
        let source = self
            .entries
            .get(&self.dirs[dir].entry)
            .and_then(|entry| entry.source);
        let error = match result {
            Ok(DiskDone::Meta(meta)) if source != Some(meta.object()) => {
                self.dirs[dir].object = Some(meta.object());
                return self.dir_ready(ports, dir, existed);
            }
            Ok(_) => into_itself(self.host),
            Err(error) => destination_error(self.host, &error),
        };
        self.held_dirs -= 1;
        let id = self.dirs[dir].id;
        self.ops
            .start(ports, Op::Close, DiskOp::CloseDir { dir: id });
        self.fail_dir(ports, dir, error);
    }

    /// Within one host: whether a directory is one that its copy lies in, be it by another mount or
    /// by another name on the way. Such a copy has no end.
    fn leads_into_itself(&self, id: EntryId) -> bool {
        let Some(entry) = self.entries.get(&id) else {
            return false;
        };
        let Some(source) = entry.source else {
            return false;
        };
        let mut at = entry.dir;
        while at != 0 {
            if self.dirs[at].object == Some(source) {
                return true;
            }
            at = self.dirs[at].parent;
        }
        self.above.contains(&source)
    }

    /// The target was looked up.
    pub(super) fn target_resolved(
        &mut self,
        ports: &mut Ports,
        result: Result<DiskDone, DiskError>,
    ) {
        let rename = match result {
            Ok(DiskDone::Target { name }) => name,
            Ok(_) => None,
            Err(error) => {
                self.target = Target::Failed(error);
                return;
            }
        };
        match self.carriage {
            Carriage::Bytes | Carriage::Ranges => self.target = Target::Ready { rename },
            Carriage::Copies => {
                let dir = self.dirs[0].id;
                self.ops
                    .start(ports, Op::Above { rename }, DiskOp::DirsAbove { dir });
            }
        }
    }

    pub(super) fn above_found(
        &mut self,
        rename: Option<Name>,
        result: Result<DiskDone, DiskError>,
    ) {
        self.target = match result {
            Ok(DiskDone::Above(objects)) => {
                self.above = objects;
                Target::Ready { rename }
            }
            Ok(_) => Target::Ready { rename },
            Err(error) => Target::Failed(error),
        };
    }

    /// A directory cannot be made: it fails, and what waits for it. Its slot stays until it ends,
    /// for more children may be announced before the sender knows.
    fn fail_dir(&mut self, ports: &mut Ports, dir: usize, error: EntryError) {
        self.dirs[dir].state = DirState::Failed;
        let id = self.dirs[dir].entry;
        if let Some(entry) = self.entries.remove(&id) {
            self.conclude(ports, id, &entry, EntryResult::Failed(error));
            self.entries.insert(id, entry);
        }
        for child in std::mem::take(&mut self.dirs[dir].waiting) {
            self.fail_announced(ports, child, no_parent(self.host));
        }
        self.finish_dir(ports, dir);
    }

    pub(super) fn on_end_directory(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
    ) -> Result<(), Violation> {
        match self.entries.get(&id).map(|entry| entry.state) {
            Some(State::Directory(dir)) if !self.dirs[dir].ended => {
                self.dirs[dir].ended = true;
                self.open_dirs -= 1;
                self.finish_dir(ports, dir);
                Ok(())
            }
            _ => violation(format!("end of {}, which is not an open directory", id.0)),
        }
    }

    /// The sender could not read a directory (further).
    pub(super) fn abort_dir(&mut self, dir: usize, error: EntryError) -> Result<(), Violation> {
        let dir = &mut self.dirs[dir];
        if dir.ended || dir.source_error.is_some() {
            return violation(format!("directory {} aborted after its end", dir.entry.0));
        }
        dir.source_error = Some(error);
        Ok(())
    }

    /// A child's work in its directory is over.
    pub(super) fn child_done(&mut self, ports: &mut Ports, dir: usize) {
        // Stopping clears the table under operations that no longer matter.
        if let Some(parent) = self.dirs.get_mut(dir) {
            parent.children -= 1;
            self.finish_dir(ports, dir);
        }
    }

    /// Behind the last child of an ended directory: mode and mtime, which anything done in it would
    /// change.
    fn finish_dir(&mut self, ports: &mut Ports, dir: usize) {
        let Some(at) = self.dirs.get(dir) else { return };
        if at.entry == EntryId(0) || !at.ended || at.children > 0 || self.stop != super::Stop::No {
            return;
        }
        match at.state {
            DirState::Made { .. } => {
                let Some(entry) = self.entries.get(&at.entry) else {
                    return;
                };
                let (mode, mtime, fsync) = (entry.mode, entry.mtime, self.fsync);
                let cmd = DiskOp::SetDir {
                    dir: at.id,
                    mode,
                    mtime,
                    fsync,
                };
                self.dirs[dir].state = DirState::Setting;
                self.ops.start(ports, Op::SetDir { dir }, cmd);
            }
            DirState::Alias => self.conclude_dir(ports, dir, None),
            DirState::Failed => {
                self.entries.remove(&self.dirs[dir].entry);
                self.forget_dir(ports, dir);
            }
            DirState::Unmade | DirState::Making | DirState::Setting => {}
        }
    }

    pub(super) fn dir_set(
        &mut self,
        ports: &mut Ports,
        dir: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        if self.stop != super::Stop::No {
            return;
        }
        self.held_dirs -= 1;
        self.ops.start(
            ports,
            Op::Close,
            DiskOp::CloseDir {
                dir: self.dirs[dir].id,
            },
        );
        let error = result
            .err()
            .map(|error| destination_error(self.host, &error));
        self.conclude_dir(ports, dir, error);
    }

    /// The directory is over, with everything in it.
    fn conclude_dir(&mut self, ports: &mut Ports, dir: usize, error: Option<EntryError>) {
        let id = self.dirs[dir].entry;
        let result = match self.dirs[dir].source_error.take().or(error) {
            Some(error) => EntryResult::Failed(error),
            None => EntryResult::Done { resumed_bytes: 0 },
        };
        if let Some(entry) = self.entries.remove(&id) {
            self.conclude(ports, id, &entry, result);
        }
        self.forget_dir(ports, dir);
    }

    fn forget_dir(&mut self, ports: &mut Ports, dir: usize) {
        let Dir { parent, path, .. } = self.dirs.remove(dir);
        self.described_bytes -= held::of_directory(&path);
        self.child_done(ports, parent);
    }

    /// Whether the content of a directory is all ours, so that nothing in it needs to be looked at.
    pub(super) fn is_fresh(&self, dir: usize) -> bool {
        matches!(self.dirs[dir].state, DirState::Made { existed: false })
    }

    pub(super) fn dir_id(&self, dir: usize) -> DirId {
        self.dirs[dir].id
    }

    /// An entry's path from the source's own name on, whatever name that lands under; a source
    /// without one is `.`.
    pub(super) fn path_of(&self, entry: &Entry) -> Bytes {
        match self.source_path_of(entry) {
            path if path.is_empty() => Bytes::from_static(b"."),
            path => path,
        }
    }

    fn source_path_of(&self, entry: &Entry) -> Bytes {
        if let (0, Some(own)) = (entry.dir, &self.renamed) {
            return own.clone();
        }
        let dir = self
            .dirs
            .get(entry.dir)
            .map_or(&b""[..], |dir| &dir.path[..]);
        join(dir, entry.name.as_ref().map_or(b"", Name::as_bytes))
    }
}
