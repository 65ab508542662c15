//! How much there is, counted for a client that wants to know before the window lets the walk get
//! there: a second walk, one operation at a time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{SendPlan, SendPlanOp};
use crate::ids::{DirId, Name};
use crate::proto::ports::Ports;
use crate::proto::wire::Message;
use crate::proto::{DiskDone, DiskError, DiskOp, Kind, Meta};

/// A transfer that is over by then pays nothing for it; for any longer one this is soon enough.
#[cfg(not(test))]
const COUNT_AFTER: Duration = Duration::from_secs(2);
/// Simulated transfers take milliseconds.
#[cfg(test)]
const COUNT_AFTER: Duration = Duration::from_millis(2);

/// Names per listing: what a directory on the stack may hold.
const LIST_ENTRIES: usize = 128;

/// Deeper directories are left out, so that what the stack holds stays small.
const DEPTH_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct SourceCount {
    state: CountState,
    next_source: usize,
    files: u64,
    bytes: u64,
    /// The directory that the current source lies in.
    parent: Option<DirId>,
    stack: Vec<CountedDir>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CountState {
    /// Next: Idle, Over.
    Waiting { until: Instant },
    /// The next step may be taken. Next: InFlight, Over.
    Idle,
    /// A step is being taken; what it opens is this. Next: Idle, Over.
    InFlight { opens: Option<DirId> },
    /// Counted, or of no use any more, or never wanted.
    Over,
}

/// A directory being counted.
#[derive(Debug)]
struct CountedDir {
    id: DirId,
    /// Directories found in it and not entered yet.
    inside: VecDeque<Name>,
    ended: bool,
}

impl SourceCount {
    /// `wanted`: a client asks for it.
    pub(super) fn new(now: Instant, wanted: bool) -> SourceCount {
        let until = now + COUNT_AFTER;
        SourceCount {
            state: match wanted {
                true => CountState::Waiting { until },
                false => CountState::Over,
            },
            next_source: 0,
            files: 0,
            bytes: 0,
            parent: None,
            stack: Vec::new(),
        }
    }

    fn add(&mut self, meta: &Meta) {
        if meta.kind == Kind::File {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(meta.size_bytes);
        }
    }

    /// Gives up all directories that are open.
    pub(super) fn take_open(&mut self) -> impl Iterator<Item = DirId> + use<> {
        self.state = CountState::Over;
        let stack = std::mem::take(&mut self.stack);
        stack
            .into_iter()
            .map(|dir| dir.id)
            .chain(self.parent.take())
    }

    /// While stopping: what was opened has to be closed.
    pub(super) fn opened_while_stopping(&mut self, done: bool) {
        if let CountState::InFlight { opens: Some(id) } = self.state
            && done
        {
            self.stack.push(CountedDir::new(id));
        }
    }
}

impl CountedDir {
    fn new(id: DirId) -> CountedDir {
        CountedDir {
            id,
            inside: VecDeque::new(),
            ended: false,
        }
    }
}

impl SendPlan {
    /// Takes the next step, if it is time to.
    pub fn count_on(&mut self, now: Instant, ports: &mut Ports) {
        match self.count.state {
            CountState::Over | CountState::InFlight { .. } => return,
            // The manifest's own sums are better.
            _ if self.manifest.ended => return self.stop_counting(ports),
            CountState::Waiting { until } if now < until => return,
            CountState::Waiting { .. } | CountState::Idle => {}
        }
        while let Some(dir) = self.count.stack.last_mut() {
            let id = dir.id;
            if let Some(name) = dir.inside.pop_front() {
                return self.enter_counted(ports, id, Some(name));
            }
            if !dir.ended {
                let max_entries = LIST_ENTRIES;
                let cmd = DiskOp::List {
                    dir: id,
                    max_entries,
                };
                return self.count_step(ports, SendPlanOp::CountList, None, cmd);
            }
            self.count.stack.pop();
            self.close_counted(ports, id);
        }
        if let Some(parent) = self.count.parent.take() {
            self.close_counted(ports, parent);
        }
        let Some(path) = self.walk.source(self.count.next_source) else {
            let (files, bytes) = (self.count.files, self.count.bytes);
            self.count.state = CountState::Over;
            return self.tell(ports, &Message::Counted { files, bytes });
        };
        self.count.next_source += 1;
        let dir = self.next_dir_id();
        let follow = self.walk.follow_named;
        let cmd = DiskOp::ResolveSource { path, follow, dir };
        self.count_step(ports, SendPlanOp::CountSource, Some(dir), cmd);
    }

    /// Opens a directory that was found in `parent`; without a name the parent itself.
    fn enter_counted(&mut self, ports: &mut Ports, parent: DirId, name: Option<Name>) {
        let dir = self.next_dir_id();
        let cmd = DiskOp::OpenDir { parent, name, dir };
        self.count_step(ports, SendPlanOp::CountOpen, Some(dir), cmd);
    }

    fn count_step(&mut self, ports: &mut Ports, op: SendPlanOp, opens: Option<DirId>, cmd: DiskOp) {
        self.count.state = CountState::InFlight { opens };
        self.ops.start(ports, op, cmd);
    }

    fn close_counted(&mut self, ports: &mut Ports, dir: DirId) {
        let cmd = DiskOp::CloseDir { dir };
        self.ops.start(ports, SendPlanOp::Close, cmd);
    }

    fn stop_counting(&mut self, ports: &mut Ports) {
        for dir in self.count.take_open() {
            self.close_counted(ports, dir);
        }
    }

    /// A step ended. What cannot be looked at counts nothing: the walk says why.
    pub(super) fn counted(
        &mut self,
        ports: &mut Ports,
        op: &SendPlanOp,
        result: Result<DiskDone, DiskError>,
    ) {
        let opened = match self.count.state {
            CountState::InFlight { opens } => opens.filter(|_| result.is_ok()),
            CountState::Waiting { .. } | CountState::Idle | CountState::Over => None,
        };
        self.count.state = CountState::Idle;
        match (op, result) {
            (SendPlanOp::CountSource, Ok(DiskDone::Source { name, meta, .. })) => {
                self.count.parent = opened;
                self.count.add(&meta);
                if let (Kind::Directory, Some(parent)) = (meta.kind, opened) {
                    self.enter_counted(ports, parent, name);
                }
            }
            (SendPlanOp::CountOpen, Ok(_)) => {
                self.count.stack.extend(opened.map(CountedDir::new));
            }
            (SendPlanOp::CountList, Ok(DiskDone::Listed { entries, end })) => {
                let may_enter = self.count.stack.len() < DEPTH_MAX;
                for listed in entries {
                    let (Ok(name), Ok((meta, _))) = (Name::new(listed.name), listed.found) else {
                        continue;
                    };
                    self.count.add(&meta);
                    if let (Kind::Directory, true, Some(dir)) =
                        (meta.kind, may_enter, self.count.stack.last_mut())
                    {
                        dir.inside.push_back(name);
                    }
                }
                self.end_listing(end);
            }
            (SendPlanOp::CountList, _) => self.end_listing(true),
            _ => {}
        }
    }

    fn end_listing(&mut self, end: bool) {
        if let Some(dir) = self.count.stack.last_mut() {
            dir.ended = end;
        }
    }
}
