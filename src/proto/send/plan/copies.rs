//! Files of a copy within one host: one at a time is opened, named to the receiver range by range,
//! and looked at again behind the last.

use std::collections::VecDeque;
use std::time::Instant;

use super::{SendPlan, SendPlanOp, SentState};
use crate::ids::{EntryId, FileId};
use crate::proto::chunk::SMALL_MAX_BYTES;
use crate::proto::errors::{source_changed, source_error};
use crate::proto::parallel::TransferRate;
use crate::proto::ports::{OddSize, Ports};
use crate::proto::send::orders::Drift;
use crate::proto::send::patience::Patience;
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
    /// None: it is copied to its end.
    size_bytes: Option<u64>,
    is_sparse: bool,
    copied_bytes: u64,
    has_grown: bool,
    state: CopySourceState,
}

#[derive(Debug, PartialEq, Eq)]
enum CopySourceState {
    /// Next: Ready, Fresh, GivenUp.
    Opening,
    /// An unsized file may have something to copy. Next: Looking, GivenUp.
    Fresh,
    /// Whether it has is being asked. Next: Silent, Ready, GivenUp.
    Looking(Patience),
    /// It had nothing. Next: Looking, GivenUp.
    Silent(Patience),
    /// The next range may be named. Next: Named, Checking, GivenUp.
    Ready,
    /// The receiver copies a range of this length. Next: Ready, Fresh, Ended, GivenUp.
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
        file.state = match file.size_bytes {
            // A range that ends early is the end of the source.
            Some(size_bytes) if bytes < named_bytes || file.copied_bytes == size_bytes => {
                CopySourceState::Ended
            }
            Some(_) => CopySourceState::Ready,
            // A pipe gives what it has.
            None if bytes == 0 => CopySourceState::Ended,
            None => CopySourceState::Fresh,
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
        let patience = match &mut file.state {
            CopySourceState::Fresh => Some(Patience::default()),
            CopySourceState::Silent(patience) => patience.next_look(now),
            _ => None,
        };
        if let Some(patience) = patience {
            file.state = CopySourceState::Looking(patience);
            let cmd = DiskOp::AwaitInput { file: file.id };
            return self.ops.start(ports, SendPlanOp::AwaitCopied, cmd);
        }
        match file.state {
            CopySourceState::Ready if !rate.lets(now, true) => {}
            CopySourceState::Ready => {
                let size_bytes = file.size_bytes.unwrap_or(u64::MAX);
                let left_bytes = size_bytes - file.copied_bytes;
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
            | CopySourceState::Fresh
            | CopySourceState::Looking(_)
            | CopySourceState::Silent(_)
            | CopySourceState::Named(_)
            | CopySourceState::Checking
            | CopySourceState::GivenUp { in_flight: true } => {}
        }
    }

    /// When a silent source is looked at again.
    pub fn deadline(&self) -> Option<Instant> {
        match self.copies.current.as_ref()?.state {
            CopySourceState::Silent(patience) => patience.until(),
            _ => None,
        }
    }

    pub(super) fn copied_awaited(
        &mut self,
        ports: &mut Ports,
        result: Result<DiskDone, DiskError>,
    ) {
        let Some(file) = &mut self.copies.current else {
            return;
        };
        match (&mut file.state, result) {
            (CopySourceState::Looking(_), Ok(DiskDone::Input { is_ready: true })) => {
                file.state = CopySourceState::Ready;
            }
            (CopySourceState::Looking(patience), Ok(_)) => {
                file.state = CopySourceState::Silent(*patience);
            }
            (CopySourceState::GivenUp { in_flight }, _) => *in_flight = false,
            (_, Ok(_)) => {}
            (_, Err(error)) => self.fail_copied(ports, source_error(&error)),
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
                size_bytes: (!entry.is_unsized).then_some(entry.version.size_bytes),
                is_sparse: entry.is_sparse,
                copied_bytes: 0,
                has_grown: false,
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
                file.state = match file.size_bytes {
                    Some(_) => CopySourceState::Ready,
                    None => CopySourceState::Fresh,
                };
                if let Err(error) = self.judge_copied(id, &found) {
                    self.fail_copied(ports, error);
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
        let (id, copied_bytes) = (file.entry, file.copied_bytes);
        let judged = match result {
            Ok(found) => self.judge_copied(id, &found),
            Err(error) => Err(source_error(&error)),
        };
        if let Err(error) = judged {
            return self.fail_copied(ports, error);
        }
        let has_grown = self
            .copies
            .current
            .as_ref()
            .is_some_and(|file| file.has_grown);
        let announced = self.entries.get(&id).map(|entry| entry.version.size_bytes);
        // What it has now came after it was shorter.
        if has_grown && announced.is_some_and(|announced| copied_bytes < announced) {
            return self.fail_copied(ports, source_changed());
        }
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = SentState::Emitted;
            let odd = OddSize::of(has_grown, copied_bytes, entry.version.size_bytes);
            // Fewer than announced where a file system does not keep sizes.
            entry.version.size_bytes = copied_bytes;
            if let Some(odd) = odd {
                self.odd_sizes.note(odd, || entry.path());
            }
        }
        self.tell_copy(ports, CopyStep::Whole { entry: id });
        self.close_copied(ports);
    }

    /// Holds the file against what was announced.
    ///
    /// # Errors
    /// When it is not that any more, or grew and was not to.
    fn judge_copied(&mut self, id: EntryId, found: &DiskDone) -> Result<(), EntryError> {
        let drift = match (found, self.entries.get(&id)) {
            (DiskDone::Meta(_), Some(entry)) if entry.is_unsized => Drift::Still,
            (DiskDone::Meta(meta), Some(entry)) => entry.version.drift(meta),
            _ => Drift::Changed,
        };
        let has_grown = drift.judge(self.no_growing)?;
        if let Some(file) = &mut self.copies.current {
            file.has_grown |= has_grown;
        }
        Ok(())
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
                CopySourceState::Opening | CopySourceState::Looking(_) | CopySourceState::Checking
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
