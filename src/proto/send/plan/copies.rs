//! Files of a copy within one host: one at a time is opened, named to the receiver range by range,
//! and looked at again behind the last.

use std::collections::VecDeque;
use std::time::Instant;

use super::{SendPlan, SendPlanOp, SentState};
use crate::ids::{EntryId, FileId};
use crate::proto::chunk::SMALL_MAX_BYTES;
use crate::proto::errors::{source_changed, source_error};
use crate::proto::parallel::TransferRate;
use crate::proto::ports::Ports;
use crate::proto::{Carriage, CopyStep, DiskDone, DiskError, DiskOp, EntryError, Event};

#[derive(Debug)]
pub(super) struct SentCopies {
    /// The longest range.
    range_bytes: u64,
    /// Wanted, not opened yet.
    queue: VecDeque<EntryId>,
    current: Option<CopySource>,
    last_file: u32,
    /// Of all files.
    copied_bytes: u64,
}

/// The file being copied.
#[derive(Debug)]
struct CopySource {
    entry: EntryId,
    id: FileId,
    size_bytes: u64,
    is_sparse: bool,
    copied_bytes: u64,
    state: CopySourceState,
}

#[derive(Debug, PartialEq, Eq)]
enum CopySourceState {
    /// Next: Ready, GivenUp.
    Opening,
    /// The next range may be named. Next: Named, Checking, GivenUp.
    Ready,
    /// The receiver copies a range of this length. Next: Ready, Ended, GivenUp.
    Named(u64),
    /// No more bytes come. Next: Checking, GivenUp.
    Ended,
    /// Whether it is still the same file is being asked. Next: GivenUp, or closed.
    Checking,
    /// Failed on either side. Closed once nothing of it is in flight.
    GivenUp { in_flight: bool },
}

impl SentCopies {
    pub(super) fn new(range_bytes: u64) -> SentCopies {
        SentCopies {
            range_bytes: range_bytes.max(1),
            queue: VecDeque::new(),
            current: None,
            last_file: 0,
            copied_bytes: 0,
        }
    }

    pub(super) fn want(&mut self, entry: EntryId) {
        self.queue.push_back(entry);
    }

    fn on_copied(&mut self, bytes: u64) {
        self.copied_bytes += bytes;
        let Some(file) = &mut self.current else {
            return;
        };
        let CopySourceState::Named(named_bytes) = file.state else {
            return;
        };
        file.copied_bytes += bytes;
        // A range that ends early is the end of the source.
        let ended = bytes < named_bytes || file.copied_bytes == file.size_bytes;
        file.state = match ended {
            true => CopySourceState::Ended,
            false => CopySourceState::Ready,
        };
    }

    /// While stopping: what was opened has to be closed.
    pub(super) fn opened_while_stopping(&mut self, opened: bool) {
        if !opened {
            self.current = None;
        } else if let Some(file) = &mut self.current {
            file.state = CopySourceState::GivenUp { in_flight: false };
        }
    }

    /// Gives up the file, which is to be closed.
    pub(super) fn take_open(&mut self) -> Option<FileId> {
        let file = self.current.take()?;
        (file.state != CopySourceState::Opening).then_some(file.id)
    }
}

impl SendPlan {
    /// Whether both sides are on this host.
    pub fn is_copied(&self) -> bool {
        self.carriage == Carriage::Copies
    }

    /// Bytes copied within this host, all in all.
    pub fn copied_bytes(&self) -> u64 {
        self.copies.copied_bytes
    }

    /// So many bytes of the range that was named last were copied.
    pub fn on_copied(&mut self, bytes: u64) {
        self.copies.on_copied(bytes);
    }

    /// Goes on with the file being copied, or with the next.
    pub fn copy_on(&mut self, now: Instant, ports: &mut Ports, rate: &mut TransferRate) {
        rate.begin_turn();
        let Some(file) = &mut self.copies.current else {
            return self.open_copied(ports);
        };
        match file.state {
            CopySourceState::Ready if !rate.lets(now, true) => {}
            CopySourceState::Ready => {
                let left_bytes = file.size_bytes - file.copied_bytes;
                let most_bytes = file.is_sparse.then_some(left_bytes);
                let len_bytes = rate.in_one_go(self.copies.range_bytes.min(left_bytes));
                rate.take(len_bytes);
                file.state = CopySourceState::Named(len_bytes);
                let (entry, from) = (file.entry, file.id);
                let range = CopyStep::Range {
                    entry,
                    from,
                    len_bytes,
                    most_bytes,
                };
                self.tell_copy(ports, range);
            }
            CopySourceState::Ended => {
                file.state = CopySourceState::Checking;
                let cmd = DiskOp::Stat { file: file.id };
                self.ops.start(ports, SendPlanOp::CheckCopied, cmd);
            }
            CopySourceState::GivenUp { in_flight: false } => self.close_copied(ports),
            CopySourceState::Opening
            | CopySourceState::Named(_)
            | CopySourceState::Checking
            | CopySourceState::GivenUp { in_flight: true } => {}
        }
    }

    fn open_copied(&mut self, ports: &mut Ports) {
        while let Some(id) = self.copies.queue.pop_front() {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let SentState::Wanted { dir, .. } = &mut entry.state else {
                continue;
            };
            let (Some(dir), Some(name)) = (dir.take(), entry.name.clone()) else {
                continue;
            };
            if entry.version.size_bytes > SMALL_MAX_BYTES {
                let path = entry.path();
                ports.event(Event::Begun { path });
            }
            entry.state = SentState::Copied;
            self.copies.last_file = self.copies.last_file.wrapping_add(1);
            let file = FileId(self.copies.last_file);
            self.copies.current = Some(CopySource {
                entry: id,
                id: file,
                size_bytes: entry.version.size_bytes,
                is_sparse: entry.is_sparse,
                copied_bytes: 0,
                state: CopySourceState::Opening,
            });
            let cmd = DiskOp::OpenRead {
                dir: self.dirs.open[dir].id,
                name,
                file,
            };
            self.ops.start(ports, SendPlanOp::OpenCopied { dir }, cmd);
            return;
        }
    }

    pub(super) fn copied_opened(
        &mut self,
        ports: &mut Ports,
        dir: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.release_dir(ports, dir);
        let Some(file) = &mut self.copies.current else {
            return;
        };
        let given_up = matches!(file.state, CopySourceState::GivenUp { .. });
        let id = file.entry;
        match result {
            Err(error) => {
                self.copies.current = None;
                if !given_up {
                    self.abort(ports, id, source_error(&error));
                }
            }
            Ok(_) if given_up => file.state = CopySourceState::GivenUp { in_flight: false },
            Ok(found) => {
                file.state = CopySourceState::Ready;
                if !self.is_as_announced(id, &found) {
                    self.fail_copied(ports, source_changed());
                }
            }
        }
    }

    /// The answer to the look behind the last byte.
    pub(super) fn copied_checked(
        &mut self,
        ports: &mut Ports,
        result: Result<DiskDone, DiskError>,
    ) {
        let Some(file) = &mut self.copies.current else {
            return;
        };
        if let CopySourceState::GivenUp { in_flight } = &mut file.state {
            *in_flight = false;
            return;
        }
        let (id, all_here) = (file.entry, file.copied_bytes == file.size_bytes);
        match result {
            Ok(found) if all_here && self.is_as_announced(id, &found) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.state = SentState::Emitted;
                }
                self.tell_copy(ports, CopyStep::Whole { entry: id });
                self.close_copied(ports);
            }
            Ok(_) => self.fail_copied(ports, source_changed()),
            Err(error) => self.fail_copied(ports, source_error(&error)),
        }
    }

    fn is_as_announced(&self, id: EntryId, found: &DiskDone) -> bool {
        match (self.entries.get(&id), found) {
            (Some(entry), DiskDone::Meta(meta)) => entry.version.is_still(meta),
            _ => false,
        }
    }

    /// The source failed: tells the receiver.
    fn fail_copied(&mut self, ports: &mut Ports, error: EntryError) {
        if let Some(file) = &mut self.copies.current {
            file.state = CopySourceState::GivenUp { in_flight: false };
            let id = file.entry;
            self.abort(ports, id, error);
        }
    }

    /// The receiver gave the file up.
    pub(super) fn cancel_copied(&mut self, id: EntryId) {
        if let Some(file) = self.copies.current.as_mut().filter(|file| file.entry == id) {
            let in_flight = matches!(
                file.state,
                CopySourceState::Opening | CopySourceState::Checking
            );
            file.state = CopySourceState::GivenUp { in_flight };
        }
    }

    fn close_copied(&mut self, ports: &mut Ports) {
        if let Some(file) = self.copies.current.take() {
            let cmd = DiskOp::CloseRead { file: file.id };
            self.ops.start(ports, SendPlanOp::Close, cmd);
        }
    }

    /// What it speaks of must have been announced before it.
    fn tell_copy(&mut self, ports: &mut Ports, step: CopyStep) {
        self.flush(ports);
        ports.copy(step);
    }
}
