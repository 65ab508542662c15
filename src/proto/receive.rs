//! The receiving side: checks what is announced, makes directories, takes data, verifies,
//! publishes, answers.
//!
//! It trusts the sender no more than needed, whichever side dialled: every id, name, length and
//! order is held against what was agreed, and every queue has a bound (the entry window, open
//! directories, write-behind bytes, open partial files).

mod copies;
mod data;
mod files;
mod held;
mod parts;
mod tree;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, RandomState};
use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use super::manifest::{EntryMap, IdHasher};
use super::session::errors::{Host, Violation, violation};
use super::session::ports::{Ops, Ports, Reporter};
use super::wire::{Item, MAX_BATCH_BYTES, MAX_ITEMS, Message, Verdict, VerdictKind};
use super::{
    Carriage, DiskDone, DiskError, DiskOp, EntryError, EntryResult, Event, Kind, Mtime, ObjectId,
    Totals,
};
use crate::ids::{DirId, EntryId, Name, OpId, StreamKey};

/// What a [`Receiver`] is to do.
pub struct ReceiverConfig {
    pub client: bool,
    pub target: Bytes,
    pub must_be_dir: bool,
    pub force: bool,
    pub fsync: bool,
    /// Symlinks to directories that are there are taken for directories, if they were made on this
    /// host.
    pub keep_dirlinks: bool,
    pub window: u32,
    pub write_behind_bytes: u64,
    pub lookups: usize,
    pub carriage: Carriage,
    /// Names the sender may put into the target, each once; empty: the target itself. None: any,
    /// the sender chooses.
    pub expected: Option<Vec<Bytes>>,
}

pub struct Receiver {
    host: Host,
    client: bool,
    force: bool,
    fsync: bool,
    keep_dirlinks: bool,
    window: u32,
    write_behind_max: u64,
    lookups_max: usize,
    carriage: Carriage,
    target: Target,
    /// Within one host: what the target is, and every directory it lies in.
    above: Vec<ObjectId>,
    ops: Ops<Op>,
    /// Looking, making and opening operations in flight.
    lookups: usize,
    entries: EntryMap<Entry>,
    /// Names in their directories, of entries without a final verdict, as keyed hashes: of 64 bits
    /// no two are equal by chance, and without the key none by intent.
    live_names: HashMap<u64, EntryId, BuildHasherDefault<IdHasher>>,
    name_hash: RandomState,
    last_entry: u32,
    /// Entries without a final verdict.
    unresolved: u32,
    /// Slot 0 is the target directory.
    dirs: Slab<tree::Dir>,
    last_dir: u32,
    /// Announced directories whose end was not announced.
    open_dirs: u32,
    /// Directories of the session with a descriptor, and those being made.
    held_dirs: u32,
    making_dirs: u32,
    top_level: u32,
    /// The own name of the only source, which lands under another.
    renamed: Option<Bytes>,
    /// As in [`ReceiverConfig`], less those that were announced.
    expected: Option<Vec<Bytes>>,
    /// Directories whose parent is there, smallest id first.
    ready_dirs: BinaryHeap<Reverse<u32>>,
    /// Files and symlinks whose directory is there.
    ready: VecDeque<EntryId>,
    /// Large files wanted but not opened.
    ready_parts: VecDeque<EntryId>,
    parts: Slab<parts::Part>,
    /// Files that are copied within this host.
    copies: Slab<copies::CopyPart>,
    /// Chunks of all open parts together.
    part_chunks: u64,
    last_file: u32,
    streams: HashMap<StreamKey, data::Stream>,
    writes: Slab<data::ChunkWrite>,
    /// Small files whose record has begun and not ended.
    wholes: usize,
    /// Bytes given to the disk and not written yet.
    write_behind_bytes: u64,
    /// Of [`Receiver::held_bytes`]: entries and directories, and what is here of small files that
    /// are not whole.
    described_bytes: u64,
    arriving_bytes: u64,
    received_bytes: u64,
    verdicts: Vec<Verdict>,
    verdicts_bytes: usize,
    announced: (u64, u64),
    manifest_ended: bool,
    totals: Totals,
    reporter: Reporter,
    stop: Stop,
}

/// Where everything goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Resolving,
    /// `rename`: the one top-level entry takes this name.
    Ready {
        rename: Option<Name>,
    },
    Failed(DiskError),
}

/// What a disk operation was for.
#[derive(Debug)]
enum Op {
    Target,
    /// Within one host, behind `Target`.
    Above {
        rename: Option<Name>,
    },
    MakeDir {
        dir: usize,
    },
    /// Within one host, behind `MakeDir`.
    StatDir {
        dir: usize,
        existed: bool,
    },
    SetDir {
        dir: usize,
    },
    Check {
        entry: EntryId,
    },
    PutSmall {
        entry: EntryId,
        bytes: u64,
    },
    PutSymlink {
        entry: EntryId,
    },
    /// Removes leftovers of a skipped file; its directory waits, for that changes the directory's
    /// mtime.
    Clean {
        dir: usize,
    },
    OpenPart {
        part: usize,
    },
    StartPart {
        part: usize,
    },
    ReadPart {
        part: usize,
    },
    Write {
        part: usize,
        write: usize,
        bytes: u64,
    },
    Journal {
        part: usize,
    },
    Commit {
        part: usize,
    },
    ClosePart {
        part: usize,
    },
    Copy {
        copy: usize,
    },
    CloseCopy {
        copy: usize,
    },
    Close,
}

/// An entry announced; directories stay until they are ended and resolved, others until resolved.
#[derive(Debug)]
struct Entry {
    /// Slot of the directory it lies in.
    dir: usize,
    /// `None`: the target itself (a served root whose content goes straight into it).
    name: Option<Name>,
    /// Of `dir` and `name`, in [`Receiver`]'s `live_names`.
    name_key: u64,
    kind: Kind,
    mode: u32,
    mtime: Mtime,
    size_bytes: u64,
    source_tag: u64,
    /// Within one host: which object the source is.
    source: Option<ObjectId>,
    link: Option<Bytes>,
    state: State,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for its directory or for its turn. Next: Looking, Wanted, Part.
    Queued,
    /// Its destination is being looked at. Next: Wanted, Queued (large), Publishing (symlink),
    /// resolved.
    Looking,
    /// The sender was asked for a small file, or within one host for any. Next: Arriving, Copy,
    /// resolved.
    Wanted,
    /// Its record has begun. Next: Publishing, Wanted.
    Arriving,
    /// It is being put in place. Next: resolved.
    Publishing,
    /// A large file.
    Part(usize),
    /// A file that is copied within this host.
    Copy(usize),
    /// A directory.
    Directory(usize),
}

#[derive(Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// Nothing new is started; partial files close once nothing of theirs is in flight.
    Draining,
    /// Directories are being closed.
    Closing,
}

impl Receiver {
    /// Starts with looking at the target.
    pub fn new(now: Instant, ports: &mut Ports, config: ReceiverConfig) -> Receiver {
        let mut receiver = Receiver {
            host: Host::of(config.client, config.carriage),
            client: config.client,
            force: config.force,
            fsync: config.fsync,
            keep_dirlinks: config.keep_dirlinks,
            window: config.window.max(1),
            write_behind_max: config.write_behind_bytes.max(1),
            lookups_max: config.lookups.max(1),
            carriage: config.carriage,
            target: Target::Resolving,
            above: Vec::new(),
            ops: Ops::default(),
            lookups: 0,
            entries: EntryMap::default(),
            live_names: HashMap::default(),
            name_hash: RandomState::new(),
            last_entry: 0,
            unresolved: 0,
            dirs: Slab::new(),
            last_dir: 0,
            open_dirs: 0,
            held_dirs: 0,
            making_dirs: 0,
            top_level: 0,
            renamed: None,
            expected: config.expected,
            ready_dirs: BinaryHeap::new(),
            ready: VecDeque::new(),
            ready_parts: VecDeque::new(),
            parts: Slab::new(),
            copies: Slab::new(),
            part_chunks: 0,
            last_file: 0,
            streams: HashMap::new(),
            writes: Slab::new(),
            wholes: 0,
            write_behind_bytes: 0,
            described_bytes: 0,
            arriving_bytes: 0,
            received_bytes: 0,
            verdicts: Vec::new(),
            verdicts_bytes: 0,
            announced: (0, 0),
            manifest_ended: false,
            totals: Totals::default(),
            reporter: Reporter::new(now),
            stop: Stop::No,
        };
        let dir = receiver.add_target();
        let ReceiverConfig {
            target: path,
            must_be_dir,
            fsync,
            ..
        } = config;
        let cmd = DiskOp::ResolveTarget {
            path,
            must_be_dir,
            dir,
            fsync,
        };
        receiver.ops.start(ports, Op::Target, cmd);
        receiver
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether data streams may be read: false while too much received waits for the disk.
    pub fn reads_allowed(&self) -> bool {
        self.write_behind_bytes < self.write_behind_max || self.stop != Stop::No
    }

    /// A message of the sender.
    ///
    /// # Errors
    /// When the sender may not say that (now).
    pub fn on_message(&mut self, ports: &mut Ports, message: Message) -> Result<(), Violation> {
        match message {
            Message::Entries(items) => {
                for item in items {
                    match item {
                        Item::Entry(entry) => self.on_entry(ports, entry)?,
                        Item::EndDirectory { id } => self.on_end_directory(ports, id)?,
                    }
                }
                Ok(())
            }
            Message::ManifestEnd { entries } => {
                if self.manifest_ended
                    || entries != u64::from(self.last_entry)
                    || self.open_dirs > 0
                {
                    return violation(
                        "manifest ended twice, too early, or with another count than announced",
                    );
                }
                self.manifest_ended = true;
                Ok(())
            }
            Message::Root { entry, digest } => self.on_root(ports, entry, digest),
            Message::Abort { entry, error } => self.on_abort(ports, entry, error),
            Message::SourceError { path, error } => {
                self.totals.count_error(error.code);
                let result = EntryResult::Failed(error);
                ports.event(Event::Entry {
                    path,
                    kind: Kind::File,
                    size_bytes: 0,
                    result,
                });
                Ok(())
            }
            Message::SourceWarning { path, text } => {
                ports.event(Event::Warning { path, text });
                Ok(())
            }
            _ => violation("a sender sends no such message"),
        }
    }

    pub fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        let Some(op) = self.ops.finish(op) else {
            return;
        };
        if let Op::MakeDir { .. } | Op::Check { .. } | Op::PutSymlink { .. } | Op::OpenPart { .. } =
            op
        {
            self.lookups -= 1;
        }
        match op {
            Op::Target => self.target_resolved(ports, result),
            Op::Above { rename } => self.above_found(rename, result),
            Op::MakeDir { dir } => self.dir_made(ports, dir, result),
            Op::StatDir { dir, existed } => self.dir_identified(ports, dir, existed, result),
            Op::SetDir { dir } => self.dir_set(ports, dir, result),
            Op::Check { entry } => self.checked(ports, entry, result),
            Op::PutSmall { entry, bytes } => {
                self.write_behind_bytes -= bytes;
                self.published(ports, entry, result);
            }
            Op::PutSymlink { entry } => self.published(ports, entry, result),
            Op::Clean { dir } => self.child_done(ports, dir),
            Op::OpenPart { part } => self.part_opened(ports, part, result),
            Op::StartPart { part } => self.part_started(ports, part, result),
            Op::ReadPart { part } => self.part_read(ports, part, result),
            Op::Write { part, write, bytes } => {
                self.chunk_written(ports, part, write, bytes, result)
            }
            Op::Journal { part } => self.journal_written(ports, part, result),
            Op::Commit { part } => self.part_committed(ports, part, result),
            Op::ClosePart { part } => self.part_closed(ports, part),
            Op::Copy { copy } => self.copy_went_on(ports, copy, result),
            Op::CloseCopy { copy } => self.copy_closed(ports, copy),
            Op::Close => {}
        }
    }

    /// Starts everything that may be started.
    pub fn pump(&mut self, now: Instant, ports: &mut Ports) {
        if self.stop != Stop::No {
            self.pump_stop(ports);
            return;
        }
        while self.lookups < self.lookups_max
            && (self.make_next_dir(ports)
                || self.start_next_entry(ports)
                || self.open_next_part(ports))
        {}
        self.report(now, ports, false);
    }

    /// Whether everything announced is resolved and nothing is in flight any more.
    pub fn is_complete(&self) -> bool {
        self.manifest_ended
            && self.unresolved == 0
            && self.ops.in_flight() == 0
            && self.parts.is_empty()
            && self.copies.is_empty()
    }

    /// Everything is resolved: tells the last progress.
    pub fn complete(&mut self, now: Instant, ports: &mut Ports) -> Totals {
        self.report(now, ports, true);
        self.totals
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn report(&mut self, now: Instant, ports: &mut Ports, last: bool) {
        self.totals.sent_bytes = self.received_bytes;
        self.reporter
            .progress(now, ports, self.received_bytes, last);
        let (files, bytes) = self.announced;
        self.reporter
            .announced(now, ports, files, bytes, self.manifest_ended);
    }

    /// Sends the verdicts held back to go together.
    pub fn flush(&mut self, ports: &mut Ports) {
        if !self.verdicts.is_empty() {
            self.verdicts_bytes = 0;
            ports.message(&Message::Verdicts(std::mem::take(&mut self.verdicts)));
        }
    }

    fn push_verdict(&mut self, ports: &mut Ports, entry: EntryId, kind: VerdictKind) {
        let verdict = Verdict { entry, kind };
        let bytes = verdict.encoded_bound();
        if self.verdicts.len() == MAX_ITEMS || self.verdicts_bytes + bytes > MAX_BATCH_BYTES {
            self.flush(ports);
        }
        self.verdicts_bytes += bytes;
        self.verdicts.push(verdict);
    }

    /// The final verdict on an entry: told to the sender (and here, if this is the client),
    /// counted. The caller takes the entry out of the table and, when its directory is quiet, calls
    /// [`Receiver::child_done`].
    fn conclude(&mut self, ports: &mut Ports, id: EntryId, entry: &Entry, result: EntryResult) {
        self.unresolved -= 1;
        self.described_bytes -= held::of_entry(entry);
        self.forget_name(id, entry);
        self.totals.count(entry.kind, entry.size_bytes, &result);
        let kind = match &result {
            EntryResult::Done { resumed_bytes } => VerdictKind::Done {
                resumed_bytes: *resumed_bytes,
            },
            EntryResult::Skipped => VerdictKind::Skipped {},
            EntryResult::Failed(error) => VerdictKind::Failed {
                error: error.clone(),
            },
        };
        self.push_verdict(ports, id, kind);
        // A daemon's log wants to know what failed, not each of a million files that did not.
        if self.client || matches!(result, EntryResult::Failed(_)) {
            let path = self.path_of(entry);
            ports.event(Event::Entry {
                path,
                kind: entry.kind,
                size_bytes: entry.size_bytes,
                result,
            });
        }
    }

    /// Concludes a file or symlink that holds nothing any more.
    fn resolve(&mut self, ports: &mut Ports, id: EntryId, result: EntryResult) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.conclude(ports, id, &entry, result);
        self.child_done(ports, entry.dir);
    }

    fn fail(&mut self, ports: &mut Ports, id: EntryId, error: EntryError) {
        self.resolve(ports, id, EntryResult::Failed(error));
    }

    /// Starts nothing more; keeps what can be resumed. [`Receiver::is_drained`] once everything is
    /// closed.
    pub fn stop(&mut self, ports: &mut Ports) {
        if self.stop == Stop::No {
            self.totals.sent_bytes = self.received_bytes;
            self.stop = Stop::Draining;
            self.drop_streams(ports);
            self.arriving_bytes = 0;
            self.pump_stop(ports);
        }
    }

    fn pump_stop(&mut self, ports: &mut Ports) {
        if self.stop != Stop::Draining {
            return;
        }
        let parts: Vec<usize> = self.parts.iter().map(|(at, _)| at).collect();
        for part in parts {
            self.stop_part(ports, part);
        }
        self.stop_copies(ports);
        if self.ops.in_flight() == 0 && self.parts.is_empty() && self.copies.is_empty() {
            self.stop = Stop::Closing;
            let open: Vec<DirId> = self
                .dirs
                .iter()
                .filter_map(|(_, dir)| dir.descriptor(&self.target))
                .collect();
            for dir in open {
                self.ops.start(ports, Op::Close, DiskOp::CloseDir { dir });
            }
            self.dirs.clear();
        }
    }

    pub fn is_drained(&self) -> bool {
        self.stop == Stop::Closing && self.ops.in_flight() == 0
    }
}
