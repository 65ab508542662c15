//! Files and symlinks before and after their data: look, skip, ask the sender, publish.

use super::{ReceivePlan, ReceivePlanOp, ReceivedEntry, ReceivedState, Target};
use crate::ids::EntryId;
use crate::proto::chunk::{SMALL_MAX_BYTES, is_resumable};
use crate::proto::errors::{
    Violation, destination_error, is_a_directory, is_a_symlink, is_special, name_taken, violation,
};
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
        let (op, mtime) = (ReceivePlanOp::Check { entry: id }, entry.mtime);
        self.look_up(
            ports,
            op,
            DiskOp::Check {
                dir,
                name,
                mtime,
                sparse,
            },
        );
        true
    }

    /// What is at the destination now.
    pub(super) fn checked(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        result: Result<DiskDone, DiskError>,
    ) {
        let no_times = self.options.metadata.no_times;
        let is_named = self.is_named(id);
        let Some(entry) = self.entries.get_mut(&id).filter(|_| !self.is_stopped) else {
            return;
        };
        entry.replaces = matches!(result, Ok(DiskDone::Existing(Some(_))));
        match result {
            Ok(DiskDone::Taken { by }) => self.fail(ports, id, name_taken(&by)),
            Err(error) => self.fail(ports, id, destination_error(&error)),
            Ok(DiskDone::Existing(Some(there))) if there.meta.kind == Kind::Directory => {
                self.fail(ports, id, is_a_directory());
            }
            Ok(DiskDone::Existing(Some(there)))
                if there.meta.kind == Kind::Special && !(is_named && entry.kind == Kind::File) =>
            {
                self.fail(ports, id, is_special());
            }
            Ok(DiskDone::Existing(Some(there)))
                if there.meta.kind == Kind::Symlink && is_named && entry.kind == Kind::File =>
            {
                self.fail(ports, id, is_a_symlink(there.link.as_deref()));
            }
            Ok(DiskDone::Existing(Some(there)))
                if is_source(entry, &there)
                    || (!self.options.force && is_same(entry, &there, no_times)) =>
            {
                self.skip(ports, id)
            }
            Ok(_) => self.want(ports, id),
        }
    }

    /// Whether the user gave an entry its name, and so meant what stands there.
    fn is_named(&self, id: EntryId) -> bool {
        let renames = matches!(self.target, Target::Ready { rename: Some(_) });
        renames && self.entries.get(&id).is_some_and(|entry| entry.dir == 0)
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
            let (dir, replaces) = (entry.dir, entry.replaces);
            let Some(entry) = self.entries.get(&id) else {
                return;
            };
            let cmd = DiskOp::PutSymlink {
                dir: self.dir_id(dir),
                name,
                target,
                attributes: self.attributes(entry),
                replaces,
            };
            self.look_up(ports, ReceivePlanOp::PutSymlink { entry: id }, cmd);
        } else if self.carriage == Carriage::Copies {
            entry.state = ReceivedState::Wanted;
            self.push_verdict(ports, id, VerdictKind::Send {});
        } else if entry.size_bytes <= SMALL_MAX_BYTES && !entry.is_unsized {
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
                attributes: self.attributes(entry),
                replaces: entry.replaces,
            }));
        }
    }

    /// A small file or symlink is in place, or is not.
    pub(super) fn published(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        result: Result<DiskDone, DiskError>,
    ) {
        match self.placed(id, result) {
            Ok(()) => self.resolve(ports, id, EntryResult::Done { resumed_bytes: 0 }),
            Err(error) => self.fail(ports, id, error),
        }
    }

    /// Whether an entry got its name; what it did not get with it is counted.
    pub(super) fn placed(
        &mut self,
        id: EntryId,
        result: Result<DiskDone, DiskError>,
    ) -> Result<(), EntryError> {
        match result {
            Ok(DiskDone::Taken { by }) => Err(name_taken(&by)),
            Ok(DiskDone::Placed(lapses)) if lapses.any() => {
                if let Some(entry) = self.entries.get(&id) {
                    let path = self.path_of(entry);
                    self.lapses.count(lapses, path);
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(destination_error(&error)),
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

/// `no_times`: what was copied has the time of that; it is the same unless the source is younger.
fn is_same(entry: &ReceivedEntry, there: &Existing, no_times: bool) -> bool {
    let is_later = no_times && there.meta.mtime >= entry.mtime;
    let there = Existing {
        has_mtime: there.has_mtime || is_later,
        ..there.clone()
    };
    there.is_same(entry.kind, entry.size_bytes, entry.link.as_ref())
}
