//! The plan of a receiver: what was announced, what stands at the destination, what is asked for,
//! how each entry ended.

mod awaited;
mod copies;
mod files;
mod held;
mod itself;
mod lapses;
mod parts;
mod tree;
mod verdicts;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, RandomState};

use bytes::Bytes;

use super::orders::{ReceiveOrder, ReceiveReport};
use super::{MetadataOptions, ReceiverConfig};
use crate::ids::{CopyId, DirId, EntryId, Name, OpId};
use crate::proto::entries::{EntryMap, IdHasher};
use crate::proto::errors::{Violation, corrupted, violation};
use crate::proto::ports::{Announced, OddSize, OddSizes, OpOwner, Ops, Ports};
use crate::proto::wire::{Item, Message, MessageBatch, Verdict};
use crate::proto::{
    Attributes, Carriage, DirFound, DiskDone, DiskError, DiskOp, EntryError, EntryPlace,
    EntryResult, Event, Kind, Mtime, ObjectId, Totals,
};
use copies::ReceivedCopies;
use lapses::LapseCounts;
use parts::{Stretch, TargetParts};
use tree::TargetTree;

pub struct ReceivePlan {
    client: bool,
    carriage: Carriage,
    options: PutOptions,
    window: u32,
    target: Target,
    /// What the target is, and every directory it lies in.
    above: Vec<ObjectId>,
    ops: Ops<ReceivePlanOp>,
    lookups: Lookups,
    entries: EntryMap<ReceivedEntry>,
    names: LiveNames,
    manifest: ReceivedManifest,
    tree: TargetTree,
    /// Files and symlinks whose directory is there.
    ready: VecDeque<EntryId>,
    parts: TargetParts,
    /// Within one host, instead of `parts`.
    copies: ReceivedCopies,
    /// Held back to go together.
    verdicts: MessageBatch<Verdict>,
    orders: VecDeque<ReceiveOrder>,
    totals: Totals,
    odd_sizes: OddSizes,
    lapses: LapseCounts,
    /// A lane was lost: what was sent may be sent again.
    sends_again: bool,
    is_stopped: bool,
}

/// How things are to be put in place.
struct PutOptions {
    force: bool,
    fsync: bool,
    keep_dirlinks: bool,
    no_target_dir: bool,
    copy: Option<CopyId>,
    /// A count may come, which is once.
    counts: bool,
    metadata: MetadataOptions,
}

/// Looking, making and opening operations: in flight, and how many may be.
struct Lookups {
    in_flight: usize,
    max: usize,
}

/// Names in their directories, of entries without a final verdict, as keyed hashes: of 64 bits no
/// two are equal by chance, and without the key none by intent.
#[derive(Default)]
struct LiveNames {
    entries: HashMap<u64, EntryId, BuildHasherDefault<IdHasher>>,
    hash: RandomState,
}

/// What was announced so far.
#[derive(Default)]
struct ReceivedManifest {
    last_entry: u32,
    /// Entries without a final verdict.
    unresolved: u32,
    files: u64,
    bytes: u64,
    ended: bool,
    /// Heap bytes of entries and directories, about.
    described_bytes: u64,
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
pub enum ReceivePlanOp {
    Target,
    /// Behind `Target`.
    Above {
        rename: Option<Name>,
    },
    MakeDir {
        dir: usize,
    },
    /// The target itself, where what is in a directory comes into it.
    EnterTarget {
        dir: usize,
    },
    /// Behind `MakeDir`, where both sides are on one host.
    StatDir {
        dir: usize,
        found: DirFound,
    },
    SetDir {
        dir: usize,
    },
    Check {
        entry: EntryId,
    },
    PutSymlink {
        entry: EntryId,
    },
    /// Removes leftovers of a skipped file; its directory waits, for that changes the directory's
    /// mtime.
    Clean {
        dir: usize,
    },
    Part {
        part: usize,
        step: parts::PartStep,
    },
    Copy {
        copy: usize,
    },
    CloseCopy {
        copy: usize,
    },
    Close,
}

impl ReceivePlanOp {
    /// Whether it counts among the lookups.
    fn is_lookup(&self) -> bool {
        match self {
            ReceivePlanOp::MakeDir { .. }
            | ReceivePlanOp::Check { .. }
            | ReceivePlanOp::PutSymlink { .. } => true,
            ReceivePlanOp::Part { step, .. } => *step == parts::PartStep::Open,
            ReceivePlanOp::Target
            | ReceivePlanOp::Above { .. }
            | ReceivePlanOp::EnterTarget { .. }
            | ReceivePlanOp::StatDir { .. }
            | ReceivePlanOp::SetDir { .. }
            | ReceivePlanOp::Clean { .. }
            | ReceivePlanOp::Copy { .. }
            | ReceivePlanOp::CloseCopy { .. }
            | ReceivePlanOp::Close => false,
        }
    }
}

/// An entry announced; directories stay until they are ended and resolved, others until resolved.
#[derive(Debug)]
struct ReceivedEntry {
    /// Slot of the directory it lies in.
    dir: usize,
    /// `None`: the target itself (a served root whose content goes straight into it).
    name: Option<Name>,
    /// Of `dir` and `name`, in [`LiveNames`].
    name_key: u64,
    kind: Kind,
    mode: u32,
    mtime: Mtime,
    size_bytes: u64,
    /// Of a file with holes: how much of it is data.
    sparse: Option<u64>,
    source_tag: u64,
    /// Within one host: which object the source is.
    source: Option<ObjectId>,
    link: Option<Bytes>,
    /// `size_bytes` is known at its end.
    is_unsized: bool,
    /// What came of it is not all, or less than it said.
    odd_size: Option<OddSize>,
    /// Something was seen at its name.
    replaces: bool,
    state: ReceivedState,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReceivedState {
    /// Waits for its directory or for its turn. Next: Looking, Wanted, Part.
    Queued,
    /// Its destination is being looked at. Next: Wanted, Queued (large), Publishing (symlink),
    /// resolved.
    Looking,
    /// The sender was asked for a small file, and a mover takes it; within one host for any file.
    /// Next: Publishing, Copy, resolved.
    Wanted,
    /// It is being put in place. Next: resolved.
    Publishing,
    /// A large file.
    Part(usize),
    /// A file that is copied within this host.
    Copy(usize),
    /// A directory.
    Directory(usize),
}

impl ReceivePlan {
    /// Starts with looking at the target.
    pub fn new(ports: &mut Ports, config: ReceiverConfig) -> ReceivePlan {
        let options = PutOptions {
            force: config.force,
            fsync: config.fsync,
            keep_dirlinks: config.keep_dirlinks,
            no_target_dir: config.no_target_dir,
            copy: config.copy,
            counts: config.counts,
            metadata: config.metadata,
        };
        let mut plan = ReceivePlan {
            client: config.client,
            carriage: config.carriage,
            options,
            window: config.window.max(1),
            target: Target::Resolving,
            above: Vec::new(),
            ops: Ops::of(OpOwner::Plan),
            lookups: Lookups {
                in_flight: 0,
                max: config.lookups.max(1),
            },
            entries: EntryMap::default(),
            names: LiveNames::default(),
            manifest: ReceivedManifest::default(),
            tree: TargetTree::new(config.expected),
            ready: VecDeque::new(),
            parts: TargetParts::default(),
            copies: ReceivedCopies::default(),
            verdicts: MessageBatch::default(),
            orders: VecDeque::new(),
            totals: Totals::default(),
            odd_sizes: OddSizes::default(),
            lapses: LapseCounts::default(),
            sends_again: false,
            is_stopped: false,
        };
        let cmd = DiskOp::ResolveTarget {
            path: config.target,
            must_be_dir: config.must_be_dir,
            no_target_dir: config.no_target_dir,
            copy: config.copy,
            dir: TargetTree::TARGET,
            fsync: config.fsync,
        };
        plan.ops.start(ports, ReceivePlanOp::Target, cmd);
        plan
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn above(&self) -> &[ObjectId] {
        &self.above
    }

    pub fn announced(&self) -> Announced {
        Announced {
            files: self.manifest.files,
            bytes: self.manifest.bytes,
            complete: self.manifest.ended,
        }
    }

    /// Tells of files that did not hold what was announced.
    pub fn tell_odd_sizes(&self, ports: &mut Ports) {
        if self.client {
            self.odd_sizes.tell(ports);
        }
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// So much file data came, all in all.
    pub fn count_received(&mut self, bytes: u64) {
        self.totals.sent_bytes = bytes;
    }

    /// Chunks may come, and fail, behind the digest of their file.
    pub fn expect_again(&mut self) {
        self.sends_again = true;
    }

    pub fn next_order(&mut self) -> Option<ReceiveOrder> {
        self.orders.pop_front()
    }

    pub fn finish(&mut self, op: OpId) -> Option<ReceivePlanOp> {
        self.ops.finish(op)
    }

    pub fn in_flight(&self) -> usize {
        self.ops.in_flight()
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
                let manifest = &mut self.manifest;
                if manifest.ended
                    || entries != u64::from(manifest.last_entry)
                    || self.tree.has_open_dirs()
                {
                    return violation(
                        "manifest ended twice, too early, or with another count than announced",
                    );
                }
                manifest.ended = true;
                Ok(())
            }
            Message::Counted { files, bytes } => {
                if !std::mem::take(&mut self.options.counts) || self.manifest.ended {
                    return violation("a count that was not asked for, or comes too late");
                }
                ports.event(Event::Counted { files, bytes });
                Ok(())
            }
            Message::Root {
                entry,
                digest,
                has_grown,
            } => self.on_root(ports, entry, digest, has_grown),
            Message::End {
                entry,
                size_bytes,
                digest,
            } => self.on_end(ports, entry, size_bytes, digest),
            Message::Abort { entry, error } => self.on_abort(ports, entry, error),
            Message::SourceError { path, error } => {
                self.totals.count_error(error.code);
                let result = EntryResult::failed(error);
                ports.event(Event::Entry {
                    path,
                    kind: Kind::File,
                    size_bytes: 0,
                    result,
                });
                Ok(())
            }
            Message::SourceWarning { path, text } => {
                let place = EntryPlace::Source;
                ports.event(Event::Warning { path, place, text });
                Ok(())
            }
            _ => violation("a sender sends no such message"),
        }
    }

    pub fn on_disk(
        &mut self,
        ports: &mut Ports,
        op: ReceivePlanOp,
        result: Result<DiskDone, DiskError>,
    ) {
        if op.is_lookup() {
            self.lookups.in_flight -= 1;
        }
        match op {
            ReceivePlanOp::Target => self.target_resolved(ports, result),
            ReceivePlanOp::Above { rename } => self.above_found(ports, rename, result),
            ReceivePlanOp::StatDir { dir, found } => {
                self.dir_identified(ports, dir, found, result);
            }
            ReceivePlanOp::MakeDir { dir } => self.dir_made(ports, dir, result),
            ReceivePlanOp::EnterTarget { dir } => self.target_entered(ports, dir),
            ReceivePlanOp::SetDir { dir } => self.dir_set(ports, dir, result),
            ReceivePlanOp::Check { entry } => self.checked(ports, entry, result),
            ReceivePlanOp::PutSymlink { entry } => {
                self.published(ports, entry, result);
            }
            ReceivePlanOp::Clean { dir } => self.child_done(ports, dir),
            ReceivePlanOp::Part { part, step } => self.part_moved_on(ports, part, step, result),
            ReceivePlanOp::Copy { copy } => self.copy_went_on(ports, copy, result),
            ReceivePlanOp::CloseCopy { copy } => self.copy_closed(ports, copy),
            ReceivePlanOp::Close => {}
        }
    }

    pub fn on_report(&mut self, ports: &mut Ports, report: ReceiveReport) {
        match report {
            ReceiveReport::Publishing {
                entry,
                bytes,
                has_grown,
            } => {
                if let Some(entry) = self.entries.get_mut(&entry) {
                    entry.state = ReceivedState::Publishing;
                    entry.odd_size = OddSize::of(has_grown, bytes, entry.size_bytes);
                    entry.size_bytes = bytes;
                }
            }
            ReceiveReport::Published { entry, result } => self.published(ports, entry, result),
            ReceiveReport::Corrupted { entry } => self.fail(ports, entry, corrupted()),
            ReceiveReport::Chunk {
                part,
                chunk,
                value,
                has_grown,
            } => self.chunk_done(ports, part, (chunk, value), has_grown),
            ReceiveReport::Stretch {
                part,
                offset,
                len_bytes,
                digest,
            } => {
                let stretch = Stretch {
                    offset,
                    len_bytes,
                    digest,
                };
                self.stretch_done(ports, part, &stretch);
            }
            ReceiveReport::ChunkCorrupted { part } => {
                self.fail_part(ports, part, corrupted(), false);
            }
            ReceiveReport::WriteFailed { part, error } => self.write_failed(ports, part, &error),
            ReceiveReport::Quiet { part, .. } => self.part_is_quiet(ports, part),
        }
    }

    /// Starts everything that may be started.
    pub fn start_all(&mut self, ports: &mut Ports) {
        while self.lookups.in_flight < self.lookups.max
            && (self.make_next_dir(ports)
                || self.start_next_entry(ports)
                || self.open_next_part(ports))
        {}
    }

    fn look_up(&mut self, ports: &mut Ports, op: ReceivePlanOp, cmd: DiskOp) {
        self.lookups.in_flight += 1;
        self.ops.start(ports, op, cmd);
    }

    /// Whether everything announced is resolved and nothing is in flight any more.
    pub fn is_resolved(&self) -> bool {
        self.manifest.ended
            && self.manifest.unresolved == 0
            && self.in_flight() == 0
            && self.has_no_parts()
            && self.has_no_copies()
    }

    /// What an entry is to have besides its data.
    fn attributes(&self, entry: &ReceivedEntry) -> Attributes {
        let MetadataOptions {
            no_perms, no_times, ..
        } = self.options.metadata;
        Attributes {
            mode: (!no_perms).then_some(entry.mode),
            mtime: (!no_times).then_some(entry.mtime),
            fsync: self.options.fsync,
        }
    }

    /// What is told at the end of everything: once of each kind, not of each entry.
    pub fn tell_lapses(&mut self, ports: &mut Ports) {
        for warning in self.lapses.take() {
            let (path, text) = (warning.path, warning.text);
            let place = EntryPlace::Destination;
            match self.client {
                true => ports.event(Event::Warning { path, place, text }),
                false => ports.message(&Message::DestinationWarning { path, text }),
            }
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
        self.resolve(ports, id, EntryResult::failed(error));
    }

    /// An entry that is not in the table is one that was resolved; others never were announced.
    ///
    /// # Errors
    /// When what was said of it cannot merely be late.
    fn known_or_violation(&self, id: EntryId) -> Result<(), Violation> {
        if id.0 == 0 || id.0 > self.manifest.last_entry {
            return violation(format!("entry {} was never announced", id.0));
        }
        Ok(())
    }

    /// Data came that there is no order for.
    ///
    /// # Errors
    /// When it cannot merely be late: its entry is not resolved, or never was announced.
    pub fn judge_unasked(&self, id: EntryId) -> Result<(), Violation> {
        if self.entries.contains_key(&id) {
            return violation(format!(
                "data of entry {} that was not asked for, or of another length",
                id.0
            ));
        }
        self.known_or_violation(id)
    }

    /// Starts nothing more. What is being written ends; partial files close behind it.
    pub fn stop(&mut self, received_bytes: u64) {
        self.count_received(received_bytes);
        self.is_stopped = true;
    }

    /// Closes whatever is open; nothing is in flight.
    pub fn close_all(&mut self, ports: &mut Ports) {
        for dir in self.tree.take_open(&self.target) {
            self.close_dir(ports, dir);
        }
    }

    fn close_dir(&mut self, ports: &mut Ports, dir: DirId) {
        let cmd = DiskOp::CloseDir { dir };
        self.ops.start(ports, ReceivePlanOp::Close, cmd);
    }

    /// Holds the counters against the tables.
    #[cfg(test)]
    pub fn check(&self) {
        assert!(self.orders.is_empty(), "{:?}", self.orders);
        let lookups = self.ops.iter().filter(|op| op.is_lookup()).count();
        assert_eq!(self.lookups.in_flight, lookups, "lookups");
        let is_live = |entry: &&ReceivedEntry| match entry.state {
            ReceivedState::Directory(dir) => !self.tree.is_failed(dir),
            _ => true,
        };
        let live: Vec<_> = self.entries.values().filter(is_live).collect();
        assert_eq!(self.manifest.unresolved as usize, live.len(), "unresolved");
        let described: u64 = live.iter().map(|entry| held::of_entry(entry)).sum();
        let described = described + self.tree.described_bytes();
        assert_eq!(self.manifest.described_bytes, described, "described bytes");
        assert!(self.names.entries.len() <= live.len(), "names of resolved");
        self.verdicts.check(Verdict::encoded_bound);
        self.check_parts();
        self.check_tree();
    }
}
