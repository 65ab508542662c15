//! A server's answer to `ls`: the rows of one directory, or the one thing the path is; or all
//! unfinished files below.
//!
//! Rows go in batches; the client acknowledges each, and only so many are under way: a client that
//! never reads does not make the server hold a huge directory.

use std::collections::VecDeque;

use bytes::Bytes;

use super::handles::AnswerHandles;
use crate::ids::{DirId, Name, OpId};
use crate::proto::chunk::MAX_DEPTH;
use crate::proto::errno::ENOENT;
use crate::proto::errors::{Access, Violation, not_all_listed, session_error, violation};
use crate::proto::path::join;
use crate::proto::ports::{Ops, Ports};
use crate::proto::wire::{ListItem, Message, MessageBatch};
use crate::proto::{DiskDone, DiskError, DiskOp, Kind, Listed, SessionError};

/// Batches sent and not acknowledged; with 64 KiB each, 512 KiB of one answer.
pub(super) const BATCHES_AHEAD: u32 = 8;

/// Names asked of the disk at a time, where the answer has all that may be under way: with long
/// symlinks they are a MiB.
const LIST_ENTRIES: usize = 256;

/// What a disk operation was for.
#[derive(Debug)]
enum ListOp {
    Source,
    /// A directory, by its path from the listed one.
    Open {
        dir: DirId,
        path: Bytes,
    },
    List,
    /// An unfinished file in the innermost directory.
    Look,
    Close,
}

#[derive(Debug)]
pub struct Lister {
    ops: Ops<ListOp>,
    state: ListState,
    rows: MessageBatch<ListItem>,
    ahead: u32,
    ahead_max: u32,
    handles: AnswerHandles,
    /// Unfinished files are listed, and looked for below.
    partial: bool,
    parent_open: bool,
    /// Open, the innermost last; more than one only where unfinished files are looked for.
    dirs: Vec<ListedDir>,
    last_dir: u32,
    /// The first name that could not be looked at, and how many there were.
    unseen: Option<(Bytes, DiskError)>,
    unseen_names: u64,
    stopping: bool,
    closed: bool,
}

/// A directory that is being listed.
#[derive(Debug)]
struct ListedDir {
    id: DirId,
    path: Bytes,
    /// Of one batch of names, those that are yet to be said, looked at or looked into. With what
    /// symlinks lead to they are more than one message, which is why they wait.
    pending: VecDeque<Listed>,
    ended: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum ListState {
    /// The path is looked up or opened. Next: Reading, Over, Failed.
    Opening,
    /// Names are read. Next: Over, Failed.
    Reading,
    /// All rows were sent.
    Over,
    Failed(SessionError),
}

impl Lister {
    pub(super) fn new(
        ports: &mut Ports,
        handles: AnswerHandles,
        path: Bytes,
        partial: bool,
    ) -> Lister {
        let mut lister = Lister {
            ops: Ops::of(handles.owner),
            state: ListState::Opening,
            rows: MessageBatch::default(),
            ahead: 0,
            ahead_max: BATCHES_AHEAD,
            handles,
            partial,
            parent_open: false,
            dirs: Vec::new(),
            last_dir: handles.listed.0,
            unseen: None,
            unseen_names: 0,
            stopping: false,
            closed: false,
        };
        let cmd = DiskOp::ResolveSource {
            path,
            follow: false,
            dir: handles.parent,
        };
        lister.ops.start(ports, ListOp::Source, cmd);
        lister
    }

    /// A batch arrived at the client.
    ///
    /// # Errors
    /// When none was under way.
    pub fn on_acknowledged(&mut self, ports: &mut Ports) -> Result<(), Violation> {
        if self.ahead == 0 {
            return violation("acknowledged a listing that was not sent");
        }
        self.ahead -= 1;
        self.read_on(ports);
        Ok(())
    }

    /// So many batches may be under way from now on.
    pub(super) fn share(&mut self, ports: &mut Ports, ahead_max: u32) {
        self.ahead_max = ahead_max;
        if !self.stopping {
            self.read_on(ports);
        }
    }

    /// Batches that were not acknowledged.
    pub(super) fn ahead(&self) -> u32 {
        self.ahead
    }

    /// The same, with the one that is being read.
    pub(super) fn ahead_or_read(&self) -> u32 {
        self.ahead + u32::from(self.ops.in_flight() > 0)
    }

    pub fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        let Some(op) = self.ops.finish(op) else {
            return;
        };
        if self.stopping {
            match op {
                ListOp::Source => self.parent_open |= result.is_ok(),
                ListOp::Open { dir, path } if result.is_ok() => self.enter(dir, path),
                ListOp::Open { .. } | ListOp::List | ListOp::Look | ListOp::Close => {}
            }
            return;
        }
        match (op, result) {
            // What is below and cannot be looked into is not what was asked for.
            (ListOp::Open { .. } | ListOp::List | ListOp::Look, Err(_))
                if self.partial && !self.dirs.is_empty() =>
            {
                self.pass_over();
                self.read_on(ports);
            }
            (_, Err(error)) => {
                self.state = ListState::Failed(session_error(Access::Read, &error));
            }
            (ListOp::Source, Ok(done)) => self.source_found(ports, done),
            (ListOp::Open { dir, path }, Ok(_)) => {
                self.enter(dir, path);
                self.state = ListState::Reading;
                self.read_on(ports);
            }
            (ListOp::List, Ok(DiskDone::Listed { entries, end })) => {
                self.listed(ports, entries, end);
            }
            (ListOp::Look, Ok(DiskDone::Unfinished(found))) => {
                if let (Some((name, meta)), Some(dir)) = (found, self.dirs.last()) {
                    let (name, link) = (join(&dir.path, &name), None);
                    self.add(ports, ListItem { name, meta, link });
                }
                self.read_on(ports);
            }
            (ListOp::List | ListOp::Look, Ok(_)) => {
                debug_assert!(false, "the disk layer answered something else")
            }
            // Behind a directory below; else only stopping closes.
            (ListOp::Close, Ok(_)) => self.read_on(ports),
        }
    }

    fn source_found(&mut self, ports: &mut Ports, done: DiskDone) {
        let DiskDone::Source {
            name, meta, link, ..
        } = done
        else {
            debug_assert!(false, "the disk layer answered something else");
            return;
        };
        self.parent_open = true;
        if meta.kind == Kind::Directory {
            return self.open(ports, self.handles.parent, name, Bytes::new());
        }
        if !self.partial {
            let name = name.map_or(Bytes::from_static(b"."), |name| name.bytes());
            let meta = *meta;
            self.add(ports, ListItem { name, meta, link });
        }
        self.end(ports);
    }

    fn open(&mut self, ports: &mut Ports, parent: DirId, name: Option<Name>, path: Bytes) {
        let dir = DirId(self.last_dir);
        self.last_dir = self.last_dir.wrapping_add(1);
        let cmd = DiskOp::OpenDir { parent, name, dir };
        self.ops.start(ports, ListOp::Open { dir, path }, cmd);
    }

    fn enter(&mut self, id: DirId, path: Bytes) {
        self.dirs.push(ListedDir {
            id,
            path,
            pending: VecDeque::new(),
            ended: false,
        });
    }

    fn listed(&mut self, ports: &mut Ports, entries: Vec<Listed>, end: bool) {
        let Some(dir) = self.dirs.last_mut() else {
            return;
        };
        dir.ended = end;
        if self.partial {
            let is_wanted = |listed: &Listed| match &listed.found {
                Ok((meta, _)) => meta.kind == Kind::Directory,
                Err(error) => *error == DiskError::UNFINISHED,
            };
            dir.pending.extend(entries.into_iter().filter(is_wanted));
        } else {
            dir.pending.extend(entries);
        }
        self.read_on(ports);
    }

    fn row(&mut self, ports: &mut Ports, Listed { name, found }: Listed) {
        match found {
            Ok((meta, link)) => self.add(ports, ListItem { name, meta, link }),
            // An unfinished file is nobody's to see.
            Err(DiskError::UNFINISHED) => {}
            // It vanished between reading its name and looking at it.
            Err(error) if error.errno == ENOENT => {}
            Err(error) => {
                self.unseen_names += 1;
                self.unseen.get_or_insert((name, error));
            }
        }
    }

    /// A directory below that cannot be read (further).
    fn pass_over(&mut self) {
        if let Some(dir) = self.dirs.last_mut()
            && dir.pending.is_empty()
        {
            dir.ended = true;
        }
    }

    fn read_on(&mut self, ports: &mut Ports) {
        while self.state == ListState::Reading
            && !self.closed
            && self.ops.in_flight() == 0
            && self.ahead < self.ahead_max
        {
            let depth = self.dirs.len();
            let Some(dir) = self.dirs.last_mut() else {
                return self.end(ports);
            };
            let id = dir.id;
            match dir.pending.pop_front() {
                Some(listed) if !self.partial => self.row(ports, listed),
                Some(Listed { name, found: Ok(_) }) => {
                    let path = join(&dir.path, &name);
                    if let (Ok(name), true) = (Name::new(name), depth < MAX_DEPTH) {
                        self.open(ports, id, Some(name), path);
                    }
                }
                Some(Listed { name, .. }) => {
                    let cmd = DiskOp::LookUnfinished { dir: id, name };
                    self.ops.start(ports, ListOp::Look, cmd);
                }
                // The listed directory itself is closed at the end.
                None if dir.ended && depth == 1 => return self.end(ports),
                None if dir.ended => {
                    self.dirs.pop();
                    let cmd = DiskOp::CloseDir { dir: id };
                    self.ops.start(ports, ListOp::Close, cmd);
                }
                None => {
                    // They are kept until they are said: fewer where others have their share.
                    let share = self.ahead_max.min(BATCHES_AHEAD);
                    let max_entries = LIST_ENTRIES * share as usize / BATCHES_AHEAD as usize;
                    let cmd = DiskOp::List {
                        dir: id,
                        max_entries,
                    };
                    self.ops.start(ports, ListOp::List, cmd);
                }
            }
        }
    }

    fn add(&mut self, ports: &mut Ports, row: ListItem) {
        let most_bytes = row.encoded_bound();
        let full = self.rows.push(row, most_bytes);
        self.send(ports, full);
    }

    fn send(&mut self, ports: &mut Ports, rows: Option<Vec<ListItem>>) {
        if let Some(rows) = rows {
            self.ahead += 1;
            ports.message(&Message::Listing(rows));
        }
    }

    fn end(&mut self, ports: &mut Ports) {
        let rest = self.rows.take();
        self.send(ports, rest);
        self.state = match &self.unseen {
            None => {
                ports.message(&Message::ListEnd {});
                ListState::Over
            }
            Some((first, error)) => {
                ListState::Failed(not_all_listed(first, self.unseen_names, error))
            }
        };
    }

    /// `Some` when everything was said: the reason, if it failed.
    pub fn result(&self) -> Option<Result<(), SessionError>> {
        match &self.state {
            ListState::Opening | ListState::Reading => None,
            ListState::Over => Some(Ok(())),
            ListState::Failed(error) => Some(Err(error.clone())),
        }
    }

    /// Closes what is open once nothing is in flight.
    pub fn stop(&mut self, ports: &mut Ports) {
        self.stopping = true;
        if self.ops.in_flight() > 0 || self.closed {
            return;
        }
        self.closed = true;
        let parent = self.parent_open.then_some(self.handles.parent);
        let dirs = self.dirs.drain(..).map(|dir| dir.id);
        for dir in parent.into_iter().chain(dirs) {
            self.ops
                .start(ports, ListOp::Close, DiskOp::CloseDir { dir });
        }
    }

    pub fn is_drained(&self) -> bool {
        self.closed && self.ops.in_flight() == 0
    }
}
