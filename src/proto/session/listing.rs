//! A server's answer to `ls`: the rows of one directory, or the one thing the path is.
//!
//! Rows go in batches; the client acknowledges each, and only so many are under way: a client that
//! never reads does not make the server hold a huge directory.

use bytes::Bytes;

use crate::ids::{DirId, OpId};
use crate::proto::errors::{Access, Violation, session_error, violation};
use crate::proto::ports::{OpOwner, Ops, Ports};
use crate::proto::wire::{ListItem, Message, MessageBatch};
use crate::proto::{DiskDone, DiskError, DiskOp, Kind, Listed, SessionError};

/// Batches sent and not acknowledged; with 64 KiB each, 512 KiB per session.
const BATCHES_AHEAD: u32 = 8;

/// Names asked of the disk at a time.
const LIST_ENTRIES: usize = 256;

const PARENT: DirId = DirId(0);
const LISTED: DirId = DirId(1);

/// What a disk operation was for.
#[derive(Debug)]
enum ListOp {
    Source,
    Open,
    List,
    Close,
}

#[derive(Debug)]
pub struct Lister {
    ops: Ops<ListOp>,
    state: ListState,
    rows: MessageBatch<ListItem>,
    ahead: u32,
    parent_open: bool,
    dir_open: bool,
    stopping: bool,
    closed: bool,
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
    pub fn new(ports: &mut Ports, path: Bytes) -> Lister {
        let mut lister = Lister {
            ops: Ops::of(OpOwner::Plan),
            state: ListState::Opening,
            rows: MessageBatch::default(),
            ahead: 0,
            parent_open: false,
            dir_open: false,
            stopping: false,
            closed: false,
        };
        lister.ops.start(
            ports,
            ListOp::Source,
            DiskOp::ResolveSource {
                path,
                follow: false,
                dir: PARENT,
            },
        );
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

    pub fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        let Some(op) = self.ops.finish(op) else {
            return;
        };
        if self.stopping {
            self.parent_open |= matches!(op, ListOp::Source) && result.is_ok();
            self.dir_open |= matches!(op, ListOp::Open) && result.is_ok();
            return;
        }
        match (op, result) {
            (_, Err(error)) => {
                self.state = ListState::Failed(session_error(Access::Read, &error));
            }
            (
                ListOp::Source,
                Ok(DiskDone::Source {
                    name, meta, link, ..
                }),
            ) => {
                self.parent_open = true;
                if meta.kind == Kind::Directory {
                    self.ops.start(
                        ports,
                        ListOp::Open,
                        DiskOp::OpenDir {
                            parent: PARENT,
                            name,
                            dir: LISTED,
                        },
                    );
                } else {
                    let name = name.map_or(Bytes::from_static(b"."), |name| name.bytes());
                    self.add(ports, ListItem { name, meta, link });
                    self.end(ports);
                }
            }
            (ListOp::Open, Ok(_)) => {
                self.dir_open = true;
                self.state = ListState::Reading;
                self.read_on(ports);
            }
            (ListOp::List, Ok(DiskDone::Listed { entries, end })) => {
                for Listed { name, found } in entries {
                    // What vanished between reading its name and looking at it is not there.
                    if let Ok((meta, link)) = found {
                        self.add(ports, ListItem { name, meta, link });
                    }
                }
                if end {
                    self.end(ports)
                } else {
                    self.read_on(ports)
                }
            }
            (ListOp::Source | ListOp::List, Ok(_)) => {
                debug_assert!(false, "the disk layer answered something else")
            }
            // Only stopping closes.
            (ListOp::Close, Ok(_)) => {}
        }
    }

    fn read_on(&mut self, ports: &mut Ports) {
        if self.state == ListState::Reading
            && !self.closed
            && self.ops.in_flight() == 0
            && self.ahead < BATCHES_AHEAD
        {
            let cmd = DiskOp::List {
                dir: LISTED,
                max_entries: LIST_ENTRIES,
            };
            self.ops.start(ports, ListOp::List, cmd);
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
        ports.message(&Message::ListEnd {});
        self.state = ListState::Over;
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
        for (dir, open) in [(PARENT, self.parent_open), (LISTED, self.dir_open)] {
            if open {
                self.ops
                    .start(ports, ListOp::Close, DiskOp::CloseDir { dir });
            }
        }
    }

    pub fn is_drained(&self) -> bool {
        self.closed && self.ops.in_flight() == 0
    }
}
