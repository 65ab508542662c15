//! Files of a copy within one host: what the sender names is copied from file to file, and
//! published once the sender says that it was all.

use slab::Slab;

use super::{ReceivePlan, ReceivePlanOp, ReceivedState};
use crate::ids::{EntryId, FileId};
use crate::proto::chunk::is_resumable;
use crate::proto::errors::{Violation, destination_error, source_error, violation};
use crate::proto::ports::Ports;
use crate::proto::{CopyStep, DiskDone, DiskError, DiskOp, EntryError, EntryResult};

#[derive(Default)]
pub(super) struct ReceivedCopies {
    open: Slab<CopyPart>,
    last_file: u32,
    /// Of all files.
    copied_bytes: u64,
}

/// A file being copied; it has no name yet.
#[derive(Debug)]
struct CopyPart {
    entry: EntryId,
    dir: usize,
    file: FileId,
    copied_bytes: u64,
    state: CopyState,
}

/// A range that waits for the file it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    from: FileId,
    len_bytes: u64,
    most_bytes: Option<u64>,
}

/// Where a copy is. An operation is in flight in all states but `Waiting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyState {
    /// What an earlier transfer left of the file is of no use and goes. Next: Opening.
    Cleaning(Named),
    /// Next: Copying, gone.
    Opening(Named),
    /// A range is being copied. Next: Waiting, Closing.
    Copying,
    /// The sender names the next range, or says that it was the last. Next: Copying, Committing,
    /// Closing.
    Waiting,
    /// Next: gone, Closing.
    Committing,
    /// Next: gone.
    Closing,
}

impl ReceivePlan {
    /// What the sender says of a file that it was asked for.
    ///
    /// # Errors
    /// When it was not asked for, or not now.
    pub fn on_copy(&mut self, ports: &mut Ports, step: CopyStep) -> Result<(), Violation> {
        let (CopyStep::Range { entry: id, .. } | CopyStep::Whole { entry: id }) = step;
        let Some(entry) = self.entries.get(&id) else {
            // It failed here at the same time; that verdict is on its way.
            return self.known_or_violation(id);
        };
        match (entry.state, step) {
            (
                ReceivedState::Wanted,
                CopyStep::Range {
                    from,
                    len_bytes,
                    most_bytes,
                    ..
                },
            ) => {
                let named = Named {
                    from,
                    len_bytes,
                    most_bytes,
                };
                self.begin_copy(ports, id, named);
                Ok(())
            }
            (ReceivedState::Copy(at), step) if self.copies.open[at].state == CopyState::Waiting => {
                match step {
                    CopyStep::Range {
                        from,
                        len_bytes,
                        most_bytes,
                        ..
                    } => {
                        let named = Named {
                            from,
                            len_bytes,
                            most_bytes,
                        };
                        self.copy_range(ports, at, named);
                    }
                    CopyStep::Whole { .. } => self.commit_copy(ports, at),
                }
                Ok(())
            }
            _ => violation(format!("copy of entry {} in the wrong state", id.0)),
        }
    }

    fn begin_copy(&mut self, ports: &mut Ports, id: EntryId, named: Named) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        self.copies.last_file = self.copies.last_file.wrapping_add(1);
        let (dir, size_bytes, name) = (entry.dir, entry.size_bytes, entry.name.clone());
        let at = self.copies.open.insert(CopyPart {
            entry: id,
            dir,
            file: FileId(self.copies.last_file),
            copied_bytes: 0,
            state: CopyState::Opening(named),
        });
        entry.state = ReceivedState::Copy(at);
        match name {
            Some(name) if is_resumable(size_bytes) && !self.is_fresh(dir) => {
                self.copies.open[at].state = CopyState::Cleaning(named);
                let dir = self.dir_id(dir);
                let cmd = DiskOp::CleanPart { dir, name };
                self.ops.start(ports, ReceivePlanOp::Copy { copy: at }, cmd);
            }
            _ => self.open_copy(ports, at, named),
        }
    }

    /// Without a name where the file system can do that: a crash leaves nothing.
    fn open_copy(&mut self, ports: &mut Ports, at: usize, named: Named) {
        let copy = &mut self.copies.open[at];
        copy.state = CopyState::Opening(named);
        let (dir, file) = (copy.dir, copy.file);
        let Some(name) = self
            .entries
            .get(&copy.entry)
            .and_then(|entry| entry.name.clone())
        else {
            return;
        };
        let cmd = DiskOp::OpenPart {
            dir: self.dir_id(dir),
            name,
            file,
            resumable: false,
            is_plain: self.options.metadata.no_perms,
        };
        self.ops.start(ports, ReceivePlanOp::Copy { copy: at }, cmd);
    }

    fn copy_range(&mut self, ports: &mut Ports, at: usize, named: Named) {
        let copy = &mut self.copies.open[at];
        copy.state = CopyState::Copying;
        let cmd = DiskOp::CopyRange {
            file: copy.file,
            from: named.from,
            len_bytes: named.len_bytes,
            most_bytes: named.most_bytes,
        };
        self.ops.start(ports, ReceivePlanOp::Copy { copy: at }, cmd);
    }

    fn commit_copy(&mut self, ports: &mut Ports, at: usize) {
        let copy = &self.copies.open[at];
        let Some(entry) = self.entries.get(&copy.entry) else {
            return;
        };
        let cmd = DiskOp::CommitPart {
            file: copy.file,
            attributes: self.attributes(entry),
            replaces: entry.replaces,
        };
        self.copies.open[at].state = CopyState::Committing;
        self.ops.start(ports, ReceivePlanOp::Copy { copy: at }, cmd);
    }

    /// The operation in flight of a copy ended.
    pub(super) fn copy_went_on(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        let stopping = self.is_stopped;
        match (self.copies.open[at].state, result) {
            (CopyState::Cleaning(_), _) if stopping => self.copy_closed(ports, at),
            // A leftover that cannot be removed is in nobody's way.
            (CopyState::Cleaning(named), _) => self.open_copy(ports, at, named),
            (CopyState::Opening(_), Ok(_)) if stopping => self.close_copy(ports, at),
            (CopyState::Opening(named), Ok(_)) => self.copy_range(ports, at, named),
            (CopyState::Opening(_), Err(error)) => {
                self.conclude_copy(ports, at, EntryResult::failed(destination_error(&error)));
                self.copy_closed(ports, at);
            }
            (CopyState::Copying, Ok(done)) => {
                if let DiskDone::Copied { bytes } = done {
                    self.copies.copied_bytes += bytes;
                    self.copies.open[at].copied_bytes += bytes;
                }
                self.copies.open[at].state = CopyState::Waiting;
                if stopping {
                    self.close_copy(ports, at);
                }
            }
            (CopyState::Committing, result) => {
                let CopyPart {
                    entry,
                    copied_bytes,
                    ..
                } = self.copies.open[at];
                if let Some(entry) = self.entries.get_mut(&entry) {
                    entry.size_bytes = copied_bytes;
                }
                match self.placed(entry, result) {
                    Ok(()) => {
                        self.conclude_copy(ports, at, EntryResult::Done { resumed_bytes: 0 });
                        self.copy_closed(ports, at);
                    }
                    Err(error) => self.fail_copy(ports, at, error),
                }
            }
            (CopyState::Copying, Err(error)) => {
                let error = match error.call {
                    DiskError::COPY_READ => source_error(&error),
                    _ => destination_error(&error),
                };
                self.fail_copy(ports, at, error);
            }
            (CopyState::Waiting | CopyState::Closing, _) => {}
        }
    }

    /// The sender's source failed.
    pub(super) fn abort_copy(
        &mut self,
        ports: &mut Ports,
        at: usize,
        error: EntryError,
    ) -> Result<(), Violation> {
        let copy = &self.copies.open[at];
        if copy.state != CopyState::Waiting {
            return violation(format!("entry {} aborted in the wrong state", copy.entry.0));
        }
        self.fail_copy(ports, at, error);
        Ok(())
    }

    fn fail_copy(&mut self, ports: &mut Ports, at: usize, error: EntryError) {
        self.conclude_copy(ports, at, EntryResult::failed(error));
        self.close_copy(ports, at);
    }

    fn conclude_copy(&mut self, ports: &mut Ports, at: usize, result: EntryResult) {
        let id = self.copies.open[at].entry;
        if let Some(entry) = self.entries.remove(&id) {
            self.conclude(ports, id, &entry, result);
        }
    }

    /// Gives up what was copied.
    fn close_copy(&mut self, ports: &mut Ports, at: usize) {
        let copy = &mut self.copies.open[at];
        copy.state = CopyState::Closing;
        let cmd = DiskOp::ClosePart {
            file: copy.file,
            keep: false,
        };
        self.ops
            .start(ports, ReceivePlanOp::CloseCopy { copy: at }, cmd);
    }

    pub(super) fn copy_closed(&mut self, ports: &mut Ports, at: usize) {
        let copy = self.copies.open.remove(at);
        self.child_done(ports, copy.dir);
    }

    /// Bytes copied, all in all.
    pub fn copied_bytes(&self) -> u64 {
        self.copies.copied_bytes
    }

    pub fn has_no_copies(&self) -> bool {
        self.copies.open.is_empty()
    }

    /// ReceivedCopies in a directory that have their verdict and close.
    #[cfg(test)]
    pub(super) fn closing_copies(&self, dir: usize) -> usize {
        let copies = self.copies.open.iter();
        copies
            .filter(|(_, copy)| copy.dir == dir && !self.entries.contains_key(&copy.entry))
            .count()
    }

    /// The session stops: what waits for the sender closes; the rest does when its operation ends.
    pub fn stop_copies(&mut self, ports: &mut Ports) {
        let waiting: Vec<usize> = self
            .copies
            .open
            .iter()
            .filter(|(_, copy)| copy.state == CopyState::Waiting)
            .map(|(at, _)| at)
            .collect();
        waiting
            .into_iter()
            .for_each(|at| self.close_copy(ports, at));
    }
}
