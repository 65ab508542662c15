//! The walk over the sources, depth first: every object becomes an entry, a warning or an error.
//!
//! It stops while the receiver's window is full. What counts is entries without a final verdict,
//! less the directories on the stack: those wait for the walk, all others only for the receiver, so
//! it never locks up.

use std::collections::VecDeque;

use bytes::Bytes;

use super::again::SentRecords;
use super::{SendPlan, SendPlanOp, SentEntry, SentState, SourceDir};
use crate::ids::{DirId, EntryId, Name, PATH_MAX_BYTES};
use crate::proto::EntryError;
use crate::proto::chunk::MAX_DEPTH;
use crate::proto::errors::{into_itself, source_error, special_source, unsendable};
use crate::proto::path::join;
use crate::proto::place::NearPlace;
use crate::proto::ports::Ports;
use crate::proto::send::orders::{SendCommand, Version};
use crate::proto::wire::{self, Item, MAX_FILE_BYTES, Message};
use crate::proto::{DiskDone, DiskError, DiskOp, Kind, Listed, Meta, ObjectId};

/// Names per listing. A directory being walked holds at most half of these and what one listing
/// brings.
const LIST_ENTRIES: usize = 64;

/// What is said of objects that are passed over.
const SPECIAL_SKIPPED: &str = "special file (socket, FIFO or device) skipped";
const UNFINISHED_SKIPPED: &str = "skipped: an unfinished file of a transfer";

/// Directories held open beyond those on the stack because their files are not read yet.
const HELD_DIRS: usize = 256;

#[derive(Debug)]
pub(super) struct Walk {
    sources: Vec<Bytes>,
    /// A source that is a symlink is what it leads to.
    pub(super) follow_named: bool,
    next_source: usize,
    resolving: bool,
    stack: Vec<Frame>,
}

/// A directory being walked.
#[derive(Debug)]
struct Frame {
    entry: EntryId,
    dir: usize,
    pending: VecDeque<Listed>,
    listing: Listing,
}

#[derive(Debug, PartialEq, Eq)]
enum Listing {
    /// The directory is being opened, or the next names are. Next: Idle, End.
    InFlight,
    /// More names may follow. Next: InFlight.
    Idle,
    /// All names are here.
    End,
}

/// Where an object was found.
struct Found {
    name: Option<Name>,
    meta: Meta,
    link: Option<Bytes>,
}

impl Walk {
    pub(super) fn new(sources: Vec<Bytes>, follow_named: bool) -> Walk {
        Walk {
            sources,
            follow_named,
            next_source: 0,
            resolving: false,
            stack: Vec::new(),
        }
    }

    pub(super) fn source(&self, number: usize) -> Option<Bytes> {
        self.sources.get(number).cloned()
    }

    #[cfg(test)]
    pub(super) fn depth(&self) -> usize {
        self.stack.len()
    }

    #[cfg(test)]
    pub(super) fn is_on_stack(&self, dir: usize) -> bool {
        self.stack.iter().any(|frame| frame.dir == dir)
    }
}

impl SendPlan {
    /// Goes on as far as the window and what is known allow.
    pub fn walk(&mut self, ports: &mut Ports) {
        while !self.manifest.ended {
            let Some(frame) = self.walk.stack.last_mut() else {
                if self.walk.resolving || !self.next_source(ports) {
                    return;
                }
                continue;
            };
            if frame.listing == Listing::Idle && frame.pending.len() <= LIST_ENTRIES / 2 {
                frame.listing = Listing::InFlight;
                let (dir, id) = (frame.dir, self.dirs.open[frame.dir].id);
                self.ops.start(
                    ports,
                    SendPlanOp::List { dir },
                    DiskOp::List {
                        dir: id,
                        max_entries: LIST_ENTRIES,
                    },
                );
                continue;
            }
            if frame.pending.is_empty() {
                if frame.listing != Listing::End {
                    return;
                }
                self.end_directory(ports);
                continue;
            }
            let (parent, dir) = (frame.entry, frame.dir);
            if !self.window_open() {
                return;
            }
            let Some(listed) = self
                .walk
                .stack
                .last_mut()
                .and_then(|frame| frame.pending.pop_front())
            else {
                return;
            };
            self.announce_listed(ports, parent, dir, listed);
        }
    }

    fn window_open(&self) -> bool {
        let stack = self.walk.stack.len();
        self.entries.len().saturating_sub(stack) < self.window as usize
            && self.dirs.open.len().saturating_sub(stack) < HELD_DIRS + 2
    }

    /// Looks the next source up; ends the manifest behind the last. `false` when there is nothing
    /// to do but wait.
    fn next_source(&mut self, ports: &mut Ports) -> bool {
        if !self.window_open() {
            return false;
        }
        let Some(path) = self.walk.sources.get(self.walk.next_source).cloned() else {
            self.end_manifest(ports);
            return false;
        };
        let source = self.walk.next_source;
        let dir = self.new_dir(Bytes::new(), 0, 0);
        self.walk.next_source += 1;
        self.walk.resolving = true;
        let id = self.dirs.open[dir].id;
        self.ops.start(
            ports,
            SendPlanOp::Source { source, dir },
            DiskOp::ResolveSource {
                path,
                follow: self.walk.follow_named,
                dir: id,
            },
        );
        true
    }

    pub(super) fn next_dir_id(&mut self) -> DirId {
        self.dirs.last = self.dirs.last.wrapping_add(1);
        DirId(self.dirs.last)
    }

    /// A directory slot with one user.
    fn new_dir(&mut self, path: Bytes, path_bytes: usize, depth: usize) -> usize {
        let id = self.next_dir_id();
        self.dirs.open.insert(SourceDir {
            id,
            open: false,
            users: 1,
            path,
            path_bytes,
            depth,
        })
    }

    pub(super) fn source_found(
        &mut self,
        ports: &mut Ports,
        source: usize,
        dir: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.walk.resolving = false;
        match result {
            Ok(DiskDone::Source {
                name,
                meta,
                link,
                in_place,
            }) => {
                self.commands.push_back(SendCommand::ReadInPlace(in_place));
                self.dirs.open[dir].open = true;
                let meta = *meta;
                self.announce(ports, EntryId(0), dir, Found { name, meta, link });
                self.release_dir(ports, dir);
            }
            Ok(_) => {
                debug_assert!(
                    false,
                    "the disk layer answered ResolveSource with something else"
                );
                self.release_dir(ports, dir);
            }
            Err(error) => {
                self.release_dir(ports, dir);
                let path = self.walk.sources[source].clone();
                let error = source_error(&error);
                self.note_error(ports, path, error);
            }
        }
    }

    pub(super) fn dir_opened(
        &mut self,
        ports: &mut Ports,
        dir: usize,
        parent: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.release_dir(ports, parent);
        if result.is_ok() {
            self.dirs.open[dir].open = true;
        }
        let Some(at) = self.walk.stack.iter().position(|frame| frame.dir == dir) else {
            // Pruned meanwhile; this was the last user.
            self.release_dir(ports, dir);
            return;
        };
        match result {
            Ok(_) => self.walk.stack[at].listing = Listing::Idle,
            Err(error) => self.cut_frame(ports, at, &error),
        }
    }

    pub(super) fn listed(
        &mut self,
        ports: &mut Ports,
        dir: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        let Some(at) = self.walk.stack.iter().position(|frame| frame.dir == dir) else {
            self.release_dir(ports, dir);
            return;
        };
        match result {
            Ok(DiskDone::Listed { entries, end }) => {
                let frame = &mut self.walk.stack[at];
                frame.pending.extend(entries);
                frame.listing = if end { Listing::End } else { Listing::Idle };
            }
            Ok(_) => debug_assert!(false, "the disk layer answered List with something else"),
            Err(error) => self.cut_frame(ports, at, &error),
        }
    }

    /// The directory cannot be read (further): what was found of it stays, the directory itself
    /// fails.
    fn cut_frame(&mut self, ports: &mut Ports, at: usize, error: &DiskError) {
        let frame = &mut self.walk.stack[at];
        frame.listing = Listing::End;
        let entry = frame.entry;
        let error = source_error(error);
        self.tell(ports, &Message::Abort { entry, error });
    }

    /// The innermost directory has no more children.
    fn end_directory(&mut self, ports: &mut Ports) {
        let Some(frame) = self.walk.stack.pop() else {
            return;
        };
        self.push_item(ports, Item::EndDirectory { id: frame.entry });
        if let Some(entry) = self.entries.get_mut(&frame.entry) {
            entry.state = SentState::Emitted;
        }
        // An operation in flight releases the directory when it ends.
        if frame.listing != Listing::InFlight {
            self.release_dir(ports, frame.dir);
        }
    }

    /// The receiver could not make a directory: its subtree is not walked further.
    pub(super) fn prune(&mut self, ports: &mut Ports, id: EntryId) {
        let Some(at) = self.walk.stack.iter().position(|frame| frame.entry == id) else {
            return;
        };
        while self.walk.stack.len() > at {
            self.end_directory(ports);
        }
    }

    fn announce_listed(&mut self, ports: &mut Ports, parent: EntryId, dir: usize, listed: Listed) {
        let path = |plan: &SendPlan| join(&plan.dirs.open[dir].path, &listed.name);
        match (Name::new(listed.name.clone()), listed.found) {
            (_, Err(DiskError::UNFINISHED)) => {
                self.note_warning(ports, path(self), UNFINISHED_SKIPPED.into())
            }
            (Ok(name), Ok((meta, link))) => self.announce(
                ports,
                parent,
                dir,
                Found {
                    name: Some(name),
                    meta,
                    link,
                },
            ),
            (Err(why), _) => {
                let error = unsendable(&why.to_string());
                self.note_error(ports, path(self), error);
            }
            (_, Err(error)) => {
                let error = source_error(&error);
                self.note_error(ports, path(self), error);
            }
        }
    }

    /// Why it may not become an entry.
    fn obstacle(
        &self,
        meta: &Meta,
        link: Option<&Bytes>,
        path_bytes: usize,
        depth: usize,
    ) -> Option<EntryError> {
        let refusal = match self.manifest.last_entry {
            u32::MAX => Some("more than 4294967295 entries in one transfer"),
            _ => refusal(meta, link, path_bytes, depth),
        };
        refusal.map(unsendable)
    }

    /// Makes an entry of what was found in `dir`, or says why not.
    fn announce(&mut self, ports: &mut Ports, parent: EntryId, dir: usize, found: Found) {
        let Found {
            name,
            mut meta,
            link,
        } = found;
        let is_unsized = meta.kind == Kind::File && !meta.is_sized;
        if is_unsized {
            meta.size_bytes = 0;
        }
        let at = &self.dirs.open[dir];
        let name_bytes = name.as_ref().map_or(Bytes::new(), Name::bytes);
        let path_bytes = at.path_bytes + name_bytes.len() + usize::from(at.path_bytes > 0);
        if meta.kind == Kind::Special || self.holds_target(&meta) {
            let path = join(&at.path, &name_bytes);
            return self.leave_out(ports, parent, path, meta.kind);
        }
        if let Some(error) = self.obstacle(&meta, link.as_ref(), path_bytes, at.depth) {
            let path = join(&at.path, &name_bytes);
            return self.note_error(ports, path, error);
        }
        self.manifest.last_entry += 1;
        let id = EntryId(self.manifest.last_entry);
        let dir_path = at.path.clone();
        let state = match meta.kind {
            Kind::File => self.offer_from(dir),
            Kind::Symlink | Kind::Special => SentState::Offered {
                dir: None,
                resume: None,
            },
            Kind::Directory => {
                self.descend(ports, id, dir, name.clone(), path_bytes);
                SentState::Open
            }
        };
        if meta.kind == Kind::File {
            self.manifest.count_file(meta.size_bytes);
            self.links.note(&meta, || join(&dir_path, &name_bytes));
        }
        let version = Version::of(&meta);
        let entry = SentEntry {
            name,
            dir_path,
            kind: meta.kind,
            version,
            is_sparse: meta.sparse().is_some(),
            is_unsized,
            sent: SentRecords::default(),
            state,
        };
        self.entries.insert(id, entry);
        let item = wire::Entry {
            id,
            parent,
            name: name_bytes,
            kind: meta.kind,
            mode: meta.mode & 0o7777,
            mtime: meta.mtime,
            size_bytes: version.size_bytes,
            source_tag: meta.tag(),
            link: link.filter(|_| meta.kind == Kind::Symlink),
            object: self.told_object(&meta),
            allocated_bytes: meta.sparse(),
            is_unsized,
        };
        self.push_item(ports, Item::Entry(item));
    }

    /// Which object an entry is, where the receiver is on the same host.
    fn told_object(&self, meta: &Meta) -> Option<ObjectId> {
        let is_near = self.is_copied() || self.near.is_some();
        let is_certain = meta.kind == Kind::Directory || meta.kept_inode().is_some();
        (is_near && is_certain).then(|| meta.object())
    }

    /// Whether the receiver's target is this directory, or lies in it.
    fn holds_target(&self, meta: &Meta) -> bool {
        let is_in = |near: &NearPlace| near.is_in(meta.object());
        meta.kind == Kind::Directory && self.near.as_ref().is_some_and(is_in)
    }

    /// A file whose directory is held until it is read.
    fn offer_from(&mut self, dir: usize) -> SentState {
        self.dirs.open[dir].users += 1;
        SentState::Offered {
            dir: Some(dir),
            resume: None,
        }
    }

    /// A special file: in a tree a warning, while what was asked for by name is not left out so. A
    /// directory that the copy would be led into: always an error.
    fn leave_out(&mut self, ports: &mut Ports, parent: EntryId, path: Bytes, kind: Kind) {
        match parent {
            _ if kind == Kind::Directory => self.note_error(ports, path, into_itself()),
            EntryId(0) => self.note_error(ports, path, special_source(self.client)),
            _ => self.note_warning(ports, path, SPECIAL_SKIPPED.into()),
        }
    }

    /// Opens a directory found in `dir` and walks it next.
    fn descend(
        &mut self,
        ports: &mut Ports,
        entry: EntryId,
        dir: usize,
        name: Option<Name>,
        path_bytes: usize,
    ) {
        let shown = name.as_ref().map_or(&b""[..], Name::as_bytes);
        let path = join(&self.dirs.open[dir].path, shown);
        let child = self.new_dir(path, path_bytes, self.dirs.open[dir].depth + 1);
        self.dirs.open[dir].users += 1;
        let cmd = DiskOp::OpenDir {
            parent: self.dirs.open[dir].id,
            name,
            dir: self.dirs.open[child].id,
        };
        let op = SendPlanOp::OpenDir {
            dir: child,
            parent: dir,
        };
        self.ops.start(ports, op, cmd);
        self.walk.stack.push(Frame {
            entry,
            dir: child,
            pending: VecDeque::new(),
            listing: Listing::InFlight,
        });
    }
}

/// Why an object found in a directory of this depth cannot be sent; `path_bytes` long is its path.
fn refusal(
    meta: &Meta,
    link: Option<&Bytes>,
    path_bytes: usize,
    depth: usize,
) -> Option<&'static str> {
    match meta.kind {
        _ if path_bytes > PATH_MAX_BYTES => Some("the path is longer than 4095 bytes"),
        Kind::Directory if depth >= MAX_DEPTH => Some("directories are nested deeper than 512"),
        Kind::Symlink if link.is_none_or(|to| to.is_empty() || to.len() > PATH_MAX_BYTES) => {
            Some("the symlink's target is empty or longer than 4095 bytes")
        }
        Kind::File if meta.size_bytes > MAX_FILE_BYTES => {
            Some("the file's size does not fit a signed 64-bit number")
        }
        Kind::File | Kind::Directory | Kind::Symlink | Kind::Special => None,
    }
}
