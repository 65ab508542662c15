//! A copy within this host: the sender's walk and the receiver's steps on one thread, by the same
//! disk operations.
//!
//! What is between them in a transfer is left out (no chunks, no digests, no journal): the kernel
//! copies, or shares the blocks.

mod file;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use crate::disk::{ObjectIdentity, Side};
use crate::ids::{DirId, Name, NameError};
use crate::proto::errors::{
    Access, HostSide, destination_error, into_itself, session_error, source_error, unsendable,
};
use crate::proto::path::{dir_of, join};
use crate::proto::ports::{Announced, Ports, ProgressTeller};
use crate::proto::send::{SPECIAL_SKIPPED, TEMPORARY_SKIPPED, refusal};
use crate::proto::{
    DiskDone, DiskOp, EntryError, EntryResult, Event, Kind, Listed, Meta, Outcome, Output, Totals,
};

/// Names per listing, as many as a sender takes: held in memory for each directory from here up.
const LIST_ENTRIES: usize = 64;

/// The destination itself, on its side.
const TARGET: DirId = DirId(0);

/// What is to be copied, and how.
pub struct LocalCopy {
    pub sources: Vec<Bytes>,
    pub target: Bytes,
    pub must_be_dir: bool,
    pub force: bool,
    pub fsync: bool,
    pub keep_dirlinks: bool,
}

/// Copies; every entry is reported through `on`. `stop` is asked between files and between steps of
/// a big one.
///
/// # Errors
/// When there is no memory to begin with. What goes wrong with single entries is an event.
pub fn copy_locally(
    job: &LocalCopy,
    stop: &dyn Fn() -> bool,
    on: &mut dyn FnMut(Event),
) -> io::Result<Outcome> {
    let (from, to) = (Side::new()?, Side::new()?);
    let find = DiskOp::ResolveTarget {
        path: job.target.clone(),
        must_be_dir: job.must_be_dir,
        dir: TARGET,
        fsync: job.fsync,
    };
    let found = to
        .run(find)
        .and_then(|found| Ok((found, to.identities_up(TARGET)?)));
    let (rename, above) = match found {
        Ok((DiskDone::Target { name }, above)) => (name, above),
        Ok(_) => unreachable!("the disk layer answered ResolveTarget with something else"),
        Err(error) => {
            let what = format!("cannot use {}", shown(&job.target));
            return Ok(Outcome::Refused(session_error(
                Access::Write,
                &what,
                &error,
            )));
        }
    };
    let mut copier = Copier {
        job,
        from,
        to,
        rename,
        above,
        stop,
        on,
        stopped: false,
        stack: Vec::new(),
        last_id: 0,
        announced: (0, 0),
        copied_bytes: 0,
        totals: Totals::default(),
        ports: Ports::default(),
        reporter: ProgressTeller::new(super::now()),
    };
    for path in &job.sources {
        copier.source(path);
        copier.walk();
    }
    Ok(copier.end())
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

struct Copier<'a> {
    job: &'a LocalCopy,
    from: Side,
    to: Side,
    /// The new name of the only source.
    rename: Option<Name>,
    /// The destination and every directory it lies in.
    above: Vec<ObjectIdentity>,
    stop: &'a dyn Fn() -> bool,
    on: &'a mut dyn FnMut(Event),
    stopped: bool,
    stack: Vec<Frame>,
    /// Of directories and files, on both sides.
    last_id: u32,
    /// Files and bytes found so far.
    announced: (u64, u64),
    copied_bytes: u64,
    totals: Totals,
    ports: Ports,
    reporter: ProgressTeller,
}

/// A directory being copied.
struct Frame {
    at: At,
    /// As found at the source.
    meta: Meta,
    /// None: it is the destination itself, and nothing is set.
    made: Option<ObjectIdentity>,
    /// The source directory could not be read (further).
    error: Option<EntryError>,
    pending: VecDeque<Listed>,
    /// All names are here, or in `pending`.
    listed: bool,
}

/// A directory on both sides.
#[derive(Clone)]
struct At {
    source: DirId,
    target: DirId,
    /// We made it, so nothing in it has to be looked at.
    fresh: bool,
    /// For people: as typed, and below the destination.
    source_path: Bytes,
    landing: Bytes,
    path_bytes: usize,
    depth: usize,
}

/// Something found at the source.
struct Found {
    /// None: a source without a name (`/`), whose content lands in the destination.
    name: Option<Name>,
    /// Its name at the destination. None: the destination itself.
    landing: Option<Name>,
    meta: Meta,
    link: Option<Bytes>,
}

impl Copier<'_> {
    /// Looks a source up and begins with it.
    fn source(&mut self, path: &Bytes) {
        if self.is_stopped() {
            return;
        }
        let dir = self.next_dir();
        let (name, meta, link) = match self.from.run(DiskOp::ResolveSource {
            path: path.clone(),
            dir,
        }) {
            Ok(DiskDone::Source {
                name, meta, link, ..
            }) => (name, meta, link),
            Ok(_) => unreachable!("the disk layer answered ResolveSource with something else"),
            Err(error) => {
                return self.note_error(path.clone(), source_error(HostSide::Only, &error));
            }
        };
        let at = At {
            source: dir,
            target: TARGET,
            fresh: false,
            source_path: dir_of(path),
            landing: Bytes::new(),
            path_bytes: 0,
            depth: 0,
        };
        let landing = self.rename.clone().or_else(|| name.clone());
        self.entry(
            &at,
            Found {
                name,
                landing,
                meta,
                link,
            },
        );
        // A directory holds its own descriptors.
        self.close(&self.from, dir);
    }

    /// Copies what lies in the directories on the stack, depth first.
    fn walk(&mut self) {
        while !self.is_stopped()
            && let Some(frame) = self.stack.last_mut()
        {
            match frame.pending.pop_front() {
                Some(listed) => {
                    let at = frame.at.clone();
                    self.listed(&at, listed);
                }
                None if frame.listed => {
                    if let Some(frame) = self.stack.pop() {
                        self.leave(frame);
                    }
                }
                None => self.list(),
            }
        }
    }

    fn list(&mut self) {
        let Some(frame) = self.stack.last_mut() else {
            return;
        };
        match self.from.run(DiskOp::List {
            dir: frame.at.source,
            max_entries: LIST_ENTRIES,
        }) {
            Ok(DiskDone::Listed { entries, end }) => {
                frame.pending.extend(entries);
                frame.listed = end;
            }
            Ok(_) => unreachable!("the disk layer answered List with something else"),
            Err(error) => {
                frame.error = Some(source_error(HostSide::Only, &error));
                frame.listed = true;
            }
        }
    }

    fn listed(&mut self, at: &At, listed: Listed) {
        let path = join(&at.source_path, &listed.name);
        match (Name::new(listed.name), listed.found) {
            (Err(NameError::Reserved), _) => self.warn(path, TEMPORARY_SKIPPED),
            (Ok(name), Ok((meta, link))) => {
                self.entry(
                    at,
                    Found {
                        landing: Some(name.clone()),
                        name: Some(name),
                        meta,
                        link,
                    },
                );
            }
            (Err(why), _) => self.note_error(path, unsendable(HostSide::Only, &why.to_string())),
            (_, Err(error)) => self.note_error(path, source_error(HostSide::Only, &error)),
        }
    }

    /// Copies a file or symlink, or begins with a directory.
    fn entry(&mut self, at: &At, found: Found) {
        let name = found.name.as_ref().map_or(&b""[..], Name::as_bytes);
        let source_path = join(&at.source_path, name);
        if found.meta.kind == Kind::Special {
            return self.warn(source_path, SPECIAL_SKIPPED);
        }
        let path_bytes = at.path_bytes + name.len() + usize::from(at.path_bytes > 0);
        if let Some(why) = refusal(&found.meta, found.link.as_ref(), path_bytes, at.depth) {
            return self.note_error(source_path, unsendable(HostSide::Only, why));
        }
        let (kind, size_bytes) = (found.meta.kind, found.meta.size_bytes);
        let landing = join(
            &at.landing,
            found.landing.as_ref().map_or(b"", Name::as_bytes),
        );
        let result = match kind {
            Kind::Directory => {
                match self.enter(at, &found) {
                    Ok(mut frame) => {
                        frame.at = At {
                            source_path,
                            landing,
                            path_bytes,
                            depth: at.depth + 1,
                            ..frame.at
                        };
                        self.stack.push(frame);
                    }
                    Err(error) => self.conclude(landing, kind, 0, EntryResult::Failed(error)),
                }
                return;
            }
            Kind::Symlink => self.symlink(at, &found),
            Kind::File | Kind::Special => {
                self.announced = (
                    self.announced.0 + 1,
                    self.announced.1.saturating_add(size_bytes),
                );
                match self.file(at, &found) {
                    Some(result) => result,
                    // Stopped in the middle: nothing is to be said of it.
                    None => return,
                }
            }
        };
        let result = result.unwrap_or_else(EntryResult::Failed);
        self.conclude(
            landing,
            kind,
            if kind == Kind::File { size_bytes } else { 0 },
            result,
        );
    }

    /// Opens a directory of the source and makes the one it lands in.
    fn enter(&mut self, at: &At, found: &Found) -> Result<Frame, EntryError> {
        let (source, target) = (self.next_dir(), self.next_dir());
        let open = DiskOp::OpenDir {
            parent: at.source,
            name: found.name.clone(),
            dir: source,
        };
        let opened = self.from.run(open).and_then(|_| self.from.identity(source));
        let landed = self.land(at, found.landing.as_ref(), opened.as_ref().ok(), target);
        let (fresh, made) = landed.inspect_err(|_| {
            self.close(&self.from, source);
            self.close(&self.to, target);
        })?;
        let target = if made.is_some() { target } else { at.target };
        let error = opened
            .err()
            .map(|error| source_error(HostSide::Only, &error));
        Ok(Frame {
            at: At {
                source,
                target,
                fresh,
                ..at.clone()
            },
            meta: found.meta,
            made,
            listed: error.is_some(),
            error,
            pending: VecDeque::new(),
        })
    }

    /// Makes the directory that one of the source lands in, or takes what is there: whether it is
    /// new, and which it is.
    fn land(
        &self,
        at: &At,
        name: Option<&Name>,
        source: Option<&ObjectIdentity>,
        dir: DirId,
    ) -> Result<(bool, Option<ObjectIdentity>), EntryError> {
        // Also by another mount, or by another name on the way: a copy of what the destination lies
        // in has no end.
        let made = self.stack.iter().filter_map(|frame| frame.made.as_ref());
        if source.is_some_and(|source| self.above.iter().chain(made).any(|above| above == source)) {
            return Err(into_itself(HostSide::Only));
        }
        let Some(name) = name else {
            return Ok((false, None));
        };
        let fsync = self.job.fsync;
        let (parent, name, keep_dirlinks) = (at.target, name.clone(), self.job.keep_dirlinks);
        let make = DiskOp::MakeDir {
            parent,
            name,
            dir,
            keep_dirlinks,
            fsync,
        };
        let made = self
            .to
            .run(make)
            .and_then(|made| Ok((made, self.to.identity(dir)?)));
        let (made, identity) = made.map_err(|error| destination_error(HostSide::Only, &error))?;
        match source == Some(&identity) {
            true => Err(into_itself(HostSide::Only)),
            false => Ok((
                matches!(made, DiskDone::Directory { existed: false }),
                Some(identity),
            )),
        }
    }

    /// Behind the last of a directory: mode and time, which anything done in it would change.
    fn leave(&mut self, frame: Frame) {
        let At {
            source,
            target,
            landing,
            ..
        } = frame.at;
        let set = || {
            if frame.made.is_none() {
                return Ok(());
            }
            let (mode, mtime, fsync) = (frame.meta.mode, frame.meta.mtime, self.job.fsync);
            self.to
                .run(DiskOp::SetDir {
                    dir: target,
                    mode,
                    mtime,
                    fsync,
                })
                .map(|_| ())
        };
        let error = set()
            .err()
            .map(|error| destination_error(HostSide::Only, &error));
        self.close(&self.from, source);
        if frame.made.is_some() {
            self.close(&self.to, target);
        }
        let result = match frame.error.or(error) {
            Some(error) => EntryResult::Failed(error),
            None => EntryResult::Done { resumed_bytes: 0 },
        };
        self.conclude(landing, Kind::Directory, 0, result);
    }

    fn end(mut self) -> Outcome {
        self.report(!self.stopped);
        self.totals.sent_bytes = self.copied_bytes;
        if self.stopped {
            Outcome::Cancelled(self.totals)
        } else {
            Outcome::Complete(self.totals)
        }
    }

    fn is_stopped(&mut self) -> bool {
        self.stopped = self.stopped || (self.stop)();
        self.stopped
    }

    fn next_dir(&mut self) -> DirId {
        self.last_id += 1;
        DirId(self.last_id)
    }

    fn close(&self, place: &Side, dir: DirId) {
        // Forgetting cannot fail.
        let _ = place.run(DiskOp::CloseDir { dir });
    }

    /// The final state of an entry, under its path below the destination.
    fn conclude(&mut self, landing: Bytes, kind: Kind, size_bytes: u64, result: EntryResult) {
        self.totals.count(kind, size_bytes, &result);
        let path = if landing.is_empty() {
            Bytes::from_static(b".")
        } else {
            landing
        };
        self.ports.event(Event::Entry {
            path,
            kind,
            size_bytes,
            result,
        });
        self.report(false);
    }

    /// Of something that never became an entry, under its path at the source.
    fn note_error(&mut self, path: Bytes, error: EntryError) {
        self.totals.count_error(error.code);
        let result = EntryResult::Failed(error);
        self.ports.event(Event::Entry {
            path,
            kind: Kind::File,
            size_bytes: 0,
            result,
        });
        self.report(false);
    }

    fn warn(&mut self, path: Bytes, text: &str) {
        self.ports.event(Event::Warning {
            path,
            text: text.into(),
        });
        self.report(false);
    }

    /// Hands on what there is to tell. `last`: the walk is over.
    fn report(&mut self, last: bool) {
        let now = super::now();
        let (files, bytes) = self.announced;
        self.reporter.announced(
            now,
            &mut self.ports,
            Announced {
                files,
                bytes,
                complete: last,
            },
        );
        self.reporter
            .progress(now, &mut self.ports, self.copied_bytes, last);
        while let Some(output) = self.ports.pop() {
            if let Output::Event(event) = output {
                (self.on)(event);
            }
        }
    }
}
