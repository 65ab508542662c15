//! Files and symlinks before and after their data: look, skip, ask the sender, publish.

use super::{ReceivePlan, ReceivePlanOp, ReceivedEntry, ReceivedState};
use crate::ids::EntryId;
use crate::proto::chunk::{SMALL_MAX_BYTES, is_resumable};
use crate::proto::errors::{Violation, destination_error, is_a_directory, is_special, violation};
use crate::proto::ports::Ports;
use crate::proto::receive::orders::{ReceiveOrder, TakeWhole};
use crate::proto::wire::VerdictKind;
use crate::proto::{
    Carriage, DiskDone, DiskError, DiskOp, EntryError, EntryResult, Existing, Kind,
};

impl ReceivePlan {
    /// Goes on with the next entry whose directory is there.
    pub(super) fn start_next_entry(&mut self, ports: &mut Ports) -> bool {
        let Some(id) = self.ready.pop_front() else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return true;
        };
        let dir = entry.dir;
        if self.is_fresh(dir) {
            self.want(ports, id);
            return true;
        }
        let dir = self.dir_id(dir);
        let Some(entry) = self.entries.get_mut(&id) else {
            return true;
        };
        let Some(name) = entry.name.clone() else {
            return true;
        };
        let sparse = entry.sparse.is_some();
        entry.state = ReceivedState::Looking;
        let op = ReceivePlanOp::Check { entry: id };
        self.look_up(ports, op, DiskOp::Check { dir, name, sparse });
        true
    }

    /// What is at the destination now.
    pub(super) fn checked(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        result: Result<DiskDone, DiskError>,
    ) {
        let Some(entry) = self.entries.get(&id).filter(|_| !self.is_stopped) else {
            return;
        };
        match result {
            Err(error) => self.fail(ports, id, destination_error(self.host, &error)),
            Ok(DiskDone::Existing(Some(there))) if there.meta.kind == Kind::Directory => {
                self.fail(ports, id, is_a_directory(self.host));
            }
            Ok(DiskDone::Existing(Some(there))) if there.meta.kind == Kind::Special => {
                self.fail(ports, id, is_special(self.host));
            }
            Ok(DiskDone::Existing(Some(there)))
                if is_source(entry, &there) || (!self.options.force && is_same(entry, &there)) =>
            {
                self.skip(ports, id)
            }
            Ok(_) => self.want(ports, id),
        }
    }

    /// Size and mtime match. A crash between rename and clean-up may have left a journal: it goes
    /// now.
    fn skip(&mut self, ports: &mut Ports, id: EntryId) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.conclude(ports, id, &entry, EntryResult::Skipped);
        match &entry.name {
            Some(name) if entry.kind == Kind::File && is_resumable(entry.size_bytes) => {
                let cmd = DiskOp::CleanPart {
                    dir: self.dir_id(entry.dir),
                    name: name.clone(),
                };
                self.ops
                    .start(ports, ReceivePlanOp::Clean { dir: entry.dir }, cmd);
            }
            _ => self.child_done(ports, entry.dir),
        }
    }

    /// Nothing speaks against this entry: asks for its data, or makes the symlink.
    fn want(&mut self, ports: &mut Ports, id: EntryId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.kind == Kind::Symlink {
            entry.state = ReceivedState::Publishing;
            let (Some(name), Some(target)) = (entry.name.clone(), entry.link.clone()) else {
                return;
            };
            let (dir, mtime) = (entry.dir, entry.mtime);
            let (dir, fsync) = (self.dir_id(dir), self.options.fsync);
            let cmd = DiskOp::PutSymlink {
                dir,
                name,
                target,
                mtime,
                fsync,
            };
            self.look_up(ports, ReceivePlanOp::PutSymlink { entry: id }, cmd);
        } else if self.carriage == Carriage::Copies {
            entry.state = ReceivedState::Wanted;
            self.push_verdict(ports, id, VerdictKind::Send {});
        } else if entry.size_bytes <= SMALL_MAX_BYTES {
            entry.state = ReceivedState::Wanted;
            self.order_whole(id);
            self.push_verdict(ports, id, VerdictKind::Send {});
        } else {
            entry.state = ReceivedState::Queued;
            self.parts.want(id);
        }
    }

    /// Lets a mover take a small file and put it in place.
    fn order_whole(&mut self, id: EntryId) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        if let Some(name) = entry.name.clone() {
            self.orders.push_back(ReceiveOrder::Whole(TakeWhole {
                entry: id,
                size_bytes: entry.size_bytes,
                dir: self.dir_id(entry.dir),
                name,
                mode: entry.mode,
                mtime: entry.mtime,
                fsync: self.options.fsync,
            }));
        }
    }

    /// A small file or symlink is in place, or is not.
    pub(super) fn published(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        result: Result<(), DiskError>,
    ) {
        match result {
            Ok(()) => self.resolve(ports, id, EntryResult::Done { resumed_bytes: 0 }),
            Err(error) => self.fail(ports, id, destination_error(self.host, &error)),
        }
    }

    /// The source of an entry failed at the sender.
    pub(super) fn on_abort(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        error: EntryError,
    ) -> Result<(), Violation> {
        let Some(entry) = self.entries.get(&id) else {
            // It failed here at the same time; that verdict is on its way.
            return self.known_or_violation(id);
        };
        match entry.state {
            ReceivedState::Directory(dir) => self.abort_dir(dir, error),
            ReceivedState::Wanted => {
                self.orders.push_back(ReceiveOrder::Forget { entry: id });
                self.fail(ports, id, error);
                Ok(())
            }
            ReceivedState::Part(part) => self.abort_part(ports, part, error),
            ReceivedState::Copy(copy) => self.abort_copy(ports, copy, error),
            ReceivedState::Queued | ReceivedState::Looking | ReceivedState::Publishing => {
                violation(format!("entry {} aborted in the wrong state", id.0))
            }
        }
    }
}

/// Whether the destination is the source: by another path, or another name of the same file.
fn is_source(entry: &ReceivedEntry, there: &Existing) -> bool {
    let are_files = entry.kind == Kind::File && there.meta.kind == Kind::File;
    are_files && entry.source == Some(there.meta.object())
}

fn is_same(entry: &ReceivedEntry, there: &Existing) -> bool {
    there.is_same(
        entry.kind,
        entry.size_bytes,
        entry.mtime,
        entry.link.as_ref(),
    )
}
