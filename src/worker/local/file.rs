//! One file or symlink of a local copy: look, skip, copy in steps, publish.

use bytes::Bytes;

use super::{At, Copier, Found};
use crate::ids::{FileId, Name};
use crate::proto::errors::{
    HostSide, destination_error, is_a_directory, is_special, source_changed, source_error,
};
use crate::proto::manifest::is_resumable;
use crate::proto::{DiskDone, DiskError, DiskOp, EntryError, EntryResult, Kind, Meta};

/// One step of a big file: between two of them progress is shown and a signal is noticed.
const STEP_BYTES: u64 = 64 << 20;

/// How a step ended early.
enum Interrupted {
    Failed(EntryError),
    /// A signal came.
    Stopped,
}

impl From<EntryError> for Interrupted {
    fn from(error: EntryError) -> Interrupted {
        Interrupted::Failed(error)
    }
}

fn reading(error: DiskError) -> EntryError {
    source_error(HostSide::Only, &error)
}

fn writing(error: DiskError) -> EntryError {
    destination_error(HostSide::Only, &error)
}

impl Copier<'_> {
    /// Copies a regular file. None: stopped in the middle.
    pub(super) fn file(
        &mut self,
        at: &At,
        found: &Found,
    ) -> Option<Result<EntryResult, EntryError>> {
        let (Some(name), Some(landing)) = (&found.name, &found.landing) else {
            return None;
        };
        match self.is_there(at, found, landing) {
            Ok(true) => {
                self.clean(at, landing, &found.meta);
                return Some(Ok(EntryResult::Skipped));
            }
            Ok(false) => {}
            Err(error) => return Some(Err(error)),
        }
        match self.copy(at, name, landing, &found.meta) {
            Ok(()) => Some(Ok(EntryResult::Done { resumed_bytes: 0 })),
            Err(Interrupted::Failed(error)) => Some(Err(error)),
            Err(Interrupted::Stopped) => None,
        }
    }

    /// Copies a symlink as one.
    pub(super) fn symlink(&mut self, at: &At, found: &Found) -> Result<EntryResult, EntryError> {
        let (Some(name), Some(target)) = (found.landing.clone(), found.link.clone()) else {
            unreachable!("a symlink has a name and a target")
        };
        if self.is_there(at, found, &name)? {
            return Ok(EntryResult::Skipped);
        }
        let (mtime, fsync) = (found.meta.mtime, self.job.fsync);
        let put = DiskOp::PutSymlink {
            dir: at.target,
            name,
            target,
            mtime,
            fsync,
        };
        self.to.run(put).map_err(writing)?;
        Ok(EntryResult::Done { resumed_bytes: 0 })
    }

    /// Whether nothing has to be copied, because the same is there, or is the source itself.
    fn is_there(&self, at: &At, found: &Found, landing: &Name) -> Result<bool, EntryError> {
        if at.fresh {
            return Ok(false);
        }
        let check = DiskOp::Check {
            dir: at.target,
            name: landing.clone(),
        };
        match self.to.run(check).map_err(writing)? {
            DiskDone::Existing(None) => Ok(false),
            DiskDone::Existing(Some(there)) if there.meta.kind == Kind::Directory => {
                Err(is_a_directory(HostSide::Only))
            }
            DiskDone::Existing(Some(there)) if there.meta.kind == Kind::Special => {
                Err(is_special(HostSide::Only))
            }
            DiskDone::Existing(Some(there)) => {
                let Meta {
                    kind,
                    size_bytes,
                    mtime,
                    ..
                } = found.meta;
                let is_same = there.is_same(kind, size_bytes, mtime, found.link.as_ref());
                Ok(
                    self.is_source(at, found, landing, &there.meta)?
                        || (is_same && !self.job.force),
                )
            }
            other => unreachable!("Check was answered by {other:?}"),
        }
    }

    /// Whether the destination is the source: by another path, or another name of the same file.
    fn is_source(
        &self,
        at: &At,
        found: &Found,
        landing: &Name,
        there: &Meta,
    ) -> Result<bool, EntryError> {
        let Some(name) = &found.name else {
            return Ok(false);
        };
        if there.kind != Kind::File || there.inode != found.meta.inode {
            return Ok(false);
        }
        let source = self.from.identity_of(at.source, name).map_err(reading)?;
        Ok(source == self.to.identity_of(at.target, landing).map_err(writing)?)
    }

    fn copy(
        &mut self,
        at: &At,
        name: &Name,
        landing: &Name,
        meta: &Meta,
    ) -> Result<(), Interrupted> {
        self.last_id += 1;
        let file = FileId(self.last_id);
        let open = DiskOp::OpenRead {
            dir: at.source,
            name: name.clone(),
            file,
        };
        let opened = self.from.run(open).map_err(reading)?;
        let result = match is_unchanged(&opened, meta) {
            true => self.copy_open(at, landing, file, meta),
            false => Err(source_changed(HostSide::Only).into()),
        };
        // Forgetting cannot fail.
        let _ = self.from.run(DiskOp::CloseRead { file });
        result
    }

    /// Removes what an earlier transfer left of a file, which is of no use any more. Where it
    /// cannot be removed, it is in nobody's way.
    fn clean(&self, at: &At, landing: &Name, meta: &Meta) {
        if !at.fresh && is_resumable(meta.size_bytes) {
            let _ = self.to.run(DiskOp::CleanPart {
                dir: at.target,
                name: landing.clone(),
            });
        }
    }

    fn copy_open(
        &mut self,
        at: &At,
        landing: &Name,
        file: FileId,
        meta: &Meta,
    ) -> Result<(), Interrupted> {
        self.clean(at, landing, meta);
        // Without a name where the file system can do that: a crash leaves nothing.
        let open = DiskOp::OpenPart {
            dir: at.target,
            name: landing.clone(),
            file,
            resumable: false,
        };
        self.to.run(open).map_err(writing)?;
        // Begun anew; how much of its size has to be free is not known, for blocks may be shared.
        let start = DiskOp::StartPart {
            file,
            size_bytes: 0,
            journal: Bytes::new(),
        };
        let started = self
            .to
            .run(start)
            .map_err(|error| Interrupted::Failed(writing(error)));
        let result = started.and_then(|_| self.copy_part(file, meta));
        if result.is_err() {
            // The first error is the one to tell; what is left now is taken over by the next copy.
            let _ = self.to.run(DiskOp::ClosePart { file, keep: false });
        }
        result
    }

    fn copy_part(&mut self, file: FileId, meta: &Meta) -> Result<(), Interrupted> {
        let mut done_bytes = 0;
        while done_bytes < meta.size_bytes {
            if self.is_stopped() {
                return Err(Interrupted::Stopped);
            }
            let step_bytes = STEP_BYTES.min(meta.size_bytes - done_bytes);
            // One call reads and writes; only the destination runs full.
            let copied = self
                .to
                .copy_from(file, &self.from, file, step_bytes)
                .map_err(writing)?;
            if copied == 0 {
                break;
            }
            done_bytes += copied;
            self.copied_bytes += copied;
            self.report(false);
        }
        let after = self.from.run(DiskOp::Stat { file }).map_err(reading)?;
        if done_bytes != meta.size_bytes || !is_unchanged(&after, meta) {
            return Err(source_changed(HostSide::Only).into());
        }
        let (mode, mtime, fsync) = (meta.mode, meta.mtime, self.job.fsync);
        self.to
            .run(DiskOp::CommitPart {
                file,
                mode,
                mtime,
                fsync,
            })
            .map_err(writing)?;
        Ok(())
    }
}

/// Whether an open source is what the walk found.
fn is_unchanged(now: &DiskDone, then: &Meta) -> bool {
    let version = |meta: &Meta| (meta.kind, meta.size_bytes, meta.mtime, meta.inode);
    matches!(now, DiskDone::Meta(now) if version(now) == version(then))
}
