//! Files and symlinks before and after their data: look, skip, ask the sender, publish.

use bytes::Bytes;

use super::{Entry, Op, Receiver, State};
use crate::ids::EntryId;
use crate::proto::manifest::{SMALL_MAX_BYTES, is_resumable};
use crate::proto::session::errors::{
    Violation, destination_error, is_a_directory, is_special, violation,
};
use crate::proto::session::ports::Ports;
use crate::proto::wire::VerdictKind;
use crate::proto::{
    Carriage, DiskDone, DiskError, DiskOp, EntryError, EntryResult, Existing, Kind,
};

impl Receiver {
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
        entry.state = State::Looking;
        self.lookups += 1;
        self.ops
            .start(ports, Op::Check { entry: id }, DiskOp::Check { dir, name });
        true
    }

    /// What is at the destination now.
    pub(super) fn checked(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        result: Result<DiskDone, DiskError>,
    ) {
        let Some(entry) = self
            .entries
            .get(&id)
            .filter(|_| self.stop == super::Stop::No)
        else {
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
                if is_source(entry, &there) || (!self.force && is_same(entry, &there)) =>
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
                self.ops.start(ports, Op::Clean { dir: entry.dir }, cmd);
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
            entry.state = State::Publishing;
            let (Some(name), Some(target)) = (entry.name.clone(), entry.link.clone()) else {
                return;
            };
            let (dir, mtime) = (entry.dir, entry.mtime);
            self.lookups += 1;
            let (dir, fsync) = (self.dir_id(dir), self.fsync);
            let cmd = DiskOp::PutSymlink {
                dir,
                name,
                target,
                mtime,
                fsync,
            };
            self.ops.start(ports, Op::PutSymlink { entry: id }, cmd);
        } else if entry.size_bytes <= SMALL_MAX_BYTES || self.carriage == Carriage::Copies {
            entry.state = State::Wanted;
            self.push_verdict(ports, id, VerdictKind::Send {});
        } else {
            entry.state = State::Queued;
            self.ready_parts.push_back(id);
        }
    }

    /// A small file arrived whole and its digest is right.
    pub(super) fn put_small(&mut self, ports: &mut Ports, id: EntryId, data: Vec<Bytes>) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let Some(name) = entry.name.clone() else {
            return;
        };
        entry.state = State::Publishing;
        let (dir, mode, mtime, bytes) = (entry.dir, entry.mode, entry.mtime, entry.size_bytes);
        let cmd = DiskOp::PutSmall {
            dir: self.dir_id(dir),
            name,
            data,
            mode,
            mtime,
            fsync: self.fsync,
        };
        self.ops
            .start(ports, Op::PutSmall { entry: id, bytes }, cmd);
    }

    /// A small file or symlink is in place, or is not.
    pub(super) fn published(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        result: Result<DiskDone, DiskError>,
    ) {
        match result {
            Ok(_) => self.resolve(ports, id, EntryResult::Done { resumed_bytes: 0 }),
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
            State::Directory(dir) => self.abort_dir(dir, error),
            State::Wanted | State::Arriving => {
                self.fail(ports, id, error);
                Ok(())
            }
            State::Part(part) => self.abort_part(ports, part, error),
            State::Copy(copy) => self.abort_copy(ports, copy, error),
            State::Queued | State::Looking | State::Publishing => {
                violation(format!("entry {} aborted in the wrong state", id.0))
            }
        }
    }

    /// An entry that is not in the table is one that was resolved; others never were announced.
    pub(super) fn known_or_violation(&self, id: EntryId) -> Result<(), Violation> {
        if id.0 == 0 || id.0 > self.last_entry {
            return violation(format!("entry {} was never announced", id.0));
        }
        Ok(())
    }
}

/// Whether the destination is the source: by another path, or another name of the same file.
fn is_source(entry: &Entry, there: &Existing) -> bool {
    let are_files = entry.kind == Kind::File && there.meta.kind == Kind::File;
    are_files && entry.source == Some(there.meta.object())
}

fn is_same(entry: &Entry, there: &Existing) -> bool {
    there.is_same(
        entry.kind,
        entry.size_bytes,
        entry.mtime,
        entry.link.as_ref(),
    )
}
