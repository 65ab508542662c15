//! The walk over the sources, depth first: every object becomes an entry, a warning or an error.
//!
//! It stops while the receiver's window is full. What counts is entries without a final verdict,
//! less the directories on the stack: those wait for the walk, all others only for the receiver, so
//! it never locks up.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Dir, Entry, Op, Sender, State, join};
use crate::ids::{DirId, EntryId, Name, NameError, PATH_MAX_BYTES};
use crate::proto::manifest::MAX_DEPTH;
use crate::proto::session::errors::{source_error, unsendable};
use crate::proto::session::ports::Ports;
use crate::proto::wire::{self, Item, MAX_FILE_BYTES, Message};
use crate::proto::{Carriage, DiskDone, DiskError, DiskOp, Kind, Listed, Meta};

/// Names per listing. A directory being walked holds at most one and a half of these.
const LIST_ENTRIES: usize = 64;

/// What is said of objects that are passed over.
pub const SPECIAL_SKIPPED: &str = "special file (socket, FIFO or device) skipped";
pub const TEMPORARY_SKIPPED: &str = "skipped: a temporary file of an unfinished transfer";

/// Directories held open beyond those on the stack because their files are not read yet.
const HELD_DIRS: usize = 256;

#[derive(Debug)]
pub(super) struct Walk {
    sources: Vec<Bytes>,
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
    pub(super) fn new(sources: Vec<Bytes>) -> Walk {
        Walk {
            sources,
            next_source: 0,
            resolving: false,
            stack: Vec::new(),
        }
    }
}

impl Sender {
    /// Goes on as far as the window and what is known allow.
    pub(super) fn walk(&mut self, ports: &mut Ports) {
        while !self.manifest_ended {
            let Some(frame) = self.walk.stack.last_mut() else {
                if self.walk.resolving || !self.next_source(ports) {
                    return;
                }
                continue;
            };
            if frame.listing == Listing::Idle && frame.pending.len() <= LIST_ENTRIES / 2 {
                frame.listing = Listing::InFlight;
                let (dir, id) = (frame.dir, self.dirs[frame.dir].id);
                self.ops.start(
                    ports,
                    Op::List { dir },
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
            && self.dirs.len().saturating_sub(stack) < HELD_DIRS + 2
    }

    /// Looks the next source up; ends the manifest behind the last. `false` when there is nothing
    /// to do but wait.
    fn next_source(&mut self, ports: &mut Ports) -> bool {
        if !self.window_open() {
            return false;
        }
        let Some(path) = self.walk.sources.get(self.walk.next_source).cloned() else {
            if self.notes_left_out > 0 {
                let text = format!(
                    "{} more messages like these were left out",
                    self.notes_left_out
                );
                self.tell(
                    ports,
                    &Message::SourceWarning {
                        path: Bytes::new(),
                        text,
                    },
                );
            }
            self.manifest_ended = true;
            let entries = u64::from(self.last_entry);
            self.tell(ports, &Message::ManifestEnd { entries });
            return false;
        };
        let source = self.walk.next_source;
        let dir = self.new_dir(Bytes::new(), 0, 0);
        self.walk.next_source += 1;
        self.walk.resolving = true;
        let id = self.dirs[dir].id;
        self.ops.start(
            ports,
            Op::Source { source, dir },
            DiskOp::ResolveSource { path, dir: id },
        );
        true
    }

    /// A directory slot with one user.
    fn new_dir(&mut self, path: Bytes, path_bytes: usize, depth: usize) -> usize {
        self.last_dir = self.last_dir.wrapping_add(1);
        self.dirs.insert(Dir {
            id: DirId(self.last_dir),
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
                self.read_ahead_bytes = match in_place {
                    true => self.read_aheads.in_place_bytes,
                    false => self.read_aheads.awaited_bytes,
                };
                self.dirs[dir].open = true;
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
                let error = source_error(self.host, &error);
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
            self.dirs[dir].open = true;
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
        let error = source_error(self.host, error);
        self.tell(ports, &Message::Abort { entry, error });
    }

    /// The innermost directory has no more children.
    fn end_directory(&mut self, ports: &mut Ports) {
        let Some(frame) = self.walk.stack.pop() else {
            return;
        };
        self.push_item(ports, Item::EndDirectory { id: frame.entry });
        if let Some(entry) = self.entries.get_mut(&frame.entry) {
            entry.state = State::Emitted;
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
        let path = |sender: &Sender| join(&sender.dirs[dir].path, &listed.name);
        match (Name::new(listed.name.clone()), listed.found) {
            (Err(NameError::Reserved), _) => {
                self.note_warning(ports, path(self), TEMPORARY_SKIPPED.into())
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
                let error = unsendable(self.host, &why.to_string());
                self.note_error(ports, path(self), error);
            }
            (_, Err(error)) => {
                let error = source_error(self.host, &error);
                self.note_error(ports, path(self), error);
            }
        }
    }

    /// Makes an entry of what was found in `dir`, or says why not.
    fn announce(&mut self, ports: &mut Ports, parent: EntryId, dir: usize, found: Found) {
        let Found { name, meta, link } = found;
        let at = &self.dirs[dir];
        let name_bytes = name.as_ref().map_or(Bytes::new(), Name::bytes);
        let path_bytes = at.path_bytes + name_bytes.len() + usize::from(at.path_bytes > 0);
        if meta.kind == Kind::Special {
            let path = join(&at.path, &name_bytes);
            self.note_warning(ports, path, SPECIAL_SKIPPED.into());
            return;
        }
        let refusal = match self.last_entry {
            u32::MAX => Some("more than 4294967295 entries in one transfer"),
            _ => refusal(&meta, link.as_ref(), path_bytes, at.depth),
        };
        if let Some(why) = refusal {
            let (path, error) = (join(&at.path, &name_bytes), unsendable(self.host, why));
            self.note_error(ports, path, error);
            return;
        }
        self.last_entry += 1;
        let id = EntryId(self.last_entry);
        let dir_path = at.path.clone();
        let state = self.take_up(ports, id, dir, name.clone(), meta.kind, path_bytes);
        if meta.kind == Kind::File {
            // Three sparse files of 8 EiB are more than there are numbers for.
            self.announced = (
                self.announced.0 + 1,
                self.announced.1.saturating_add(meta.size_bytes),
            );
        }
        // Of directories and symlinks file systems say what they like.
        let size_bytes = match meta.kind {
            Kind::File => meta.size_bytes,
            Kind::Directory | Kind::Symlink | Kind::Special => 0,
        };
        let (mtime, inode) = (meta.mtime, meta.inode);
        self.entries.insert(
            id,
            Entry {
                name,
                dir_path,
                kind: meta.kind,
                mtime,
                size_bytes,
                inode,
                state,
            },
        );
        let item = wire::Entry {
            id,
            parent,
            name: name_bytes,
            kind: meta.kind,
            mode: meta.mode & 0o7777,
            mtime,
            size_bytes,
            source_tag: inode,
            link: link.filter(|_| meta.kind == Kind::Symlink),
            device: (self.carriage == Carriage::Copies).then_some(meta.device),
        };
        self.push_item(ports, Item::Entry(item));
    }

    /// The first state of an entry: files hold their directory for reading, directories are opened
    /// and walked.
    fn take_up(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        dir: usize,
        name: Option<Name>,
        kind: Kind,
        path_bytes: usize,
    ) -> State {
        match kind {
            Kind::File => {
                self.dirs[dir].users += 1;
                State::Offered {
                    dir: Some(dir),
                    resume: None,
                }
            }
            Kind::Symlink | Kind::Special => State::Offered {
                dir: None,
                resume: None,
            },
            Kind::Directory => {
                let path = join(
                    &self.dirs[dir].path,
                    name.as_ref().map_or(b"", Name::as_bytes),
                );
                let child = self.new_dir(path, path_bytes, self.dirs[dir].depth + 1);
                self.dirs[dir].users += 1;
                let (parent_id, child_id) = (self.dirs[dir].id, self.dirs[child].id);
                let cmd = DiskOp::OpenDir {
                    parent: parent_id,
                    name,
                    dir: child_id,
                };
                self.ops.start(
                    ports,
                    Op::OpenDir {
                        dir: child,
                        parent: dir,
                    },
                    cmd,
                );
                let frame = Frame {
                    entry: id,
                    dir: child,
                    pending: VecDeque::new(),
                    listing: Listing::InFlight,
                };
                self.walk.stack.push(frame);
                State::Open
            }
        }
    }
}

/// Why an object found in a directory of this depth cannot be sent; `path_bytes` long is its path.
pub fn refusal(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_adds_no_slash() {
        assert_eq!(&join(b"", b"x")[..], b"x");
        assert_eq!(&join(b"a", b"")[..], b"a");
        assert_eq!(&join(b"a/b", b"x")[..], b"a/b/x");
    }
}
