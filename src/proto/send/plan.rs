//! The plan of a sender: which entries there are, what the receiver decided, what is to be moved.

mod again;
mod awaited;
mod copies;
mod count;
mod files;
mod hard_links;
mod kept;
mod manifest;
mod verdicts;
mod walk;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use super::SenderConfig;
use super::orders::{EmittedWhole, SendCommand, SendReport, Version, WholeOrder};
use crate::ids::{ChunkIndex, DirId, EntryId, Name, OpId};
use crate::proto::chunk::SMALL_MAX_BYTES;
use crate::proto::entries::EntryMap;
use crate::proto::integrity::Tree;
use crate::proto::path::join;
use crate::proto::place::NearPlace;
use crate::proto::ports::{Announced, OddSizes, OpOwner, Ops, Ports};
use crate::proto::wire::Message;
use crate::proto::{Carriage, DiskDone, DiskError, DiskOp, EntryError, EntryResult, Kind, Totals};
use again::SentRecords;
use copies::SentCopies;
use count::SourceCount;
use files::SourceFiles;
use hard_links::HardLinks;
use manifest::SentManifest;
use walk::Walk;

/// See [`SendPlan::held_bytes`].
const ENTRY_BYTES: u64 = 350;
const DIR_BYTES: u64 = 1000;

/// Small files of an order for another worker, at most: enough that mail for them costs little,
/// and few enough that a lane which is lost before it read them gives back few.
const WHOLES_PER_ORDER: usize = 32;

/// An order ends with the file with which it has so many bytes, a turn of theirs, ...
const WHOLES_BYTES: u64 = 256 << 10;

/// ... or so many directories: each may be a descriptor.
const WHOLES_DIRS: usize = 4;

pub struct SendPlan {
    client: bool,
    carriage: Carriage,
    /// The receiver's target, if it is on this host.
    near: Option<NearPlace>,
    window: u32,
    ops: Ops<SendPlanOp>,
    entries: EntryMap<SentEntry>,
    dirs: SourceDirs,
    walk: Walk,
    manifest: SentManifest,
    /// Small files that the receiver wants.
    wholes: VecDeque<EntryId>,
    files: SourceFiles,
    /// Within one host, instead of `wholes` and `files`.
    copies: SentCopies,
    commands: VecDeque<SendCommand>,
    count: SourceCount,
    totals: Totals,
    no_growing: bool,
    /// What is sent may have to be sent again.
    moves_again: bool,
    /// The disk is asked for values of chunks.
    keeps_digests: bool,
    /// File data that was asked for again (`kept.rs`).
    again_bytes: u64,
    /// Of what entries without verdict keep of their records.
    sent_bytes: u64,
    odd_sizes: OddSizes,
    links: HardLinks,
}

/// What a disk operation was for.
#[derive(Debug)]
pub enum SendPlanOp {
    Source {
        source: usize,
        dir: usize,
    },
    OpenDir {
        dir: usize,
        parent: usize,
    },
    List {
        dir: usize,
    },
    OpenRead {
        file: usize,
        dir: usize,
    },
    Stat {
        file: usize,
    },
    Look {
        file: usize,
    },
    Recall {
        file: usize,
    },
    OpenCopied {
        dir: usize,
    },
    AwaitCopied,
    CheckCopied,
    /// Steps of the count.
    CountSource,
    CountOpen,
    CountList,
    Close,
}

#[derive(Default)]
struct SourceDirs {
    open: Slab<SourceDir>,
    last: u32,
}

/// A directory of the sources, open or being opened.
#[derive(Debug)]
struct SourceDir {
    id: DirId,
    open: bool,
    /// Who still needs the descriptor: the walk, an opening child, entries that may have to be
    /// read.
    users: u32,
    /// From the source's own name on.
    path: Bytes,
    /// Length of the path below the top-level entry's parent, as both sides count it.
    path_bytes: usize,
    depth: usize,
}

/// An entry announced and not resolved.
#[derive(Debug)]
struct SentEntry {
    name: Option<Name>,
    dir_path: Bytes,
    kind: Kind,
    version: Version,
    /// It was announced with holes.
    is_sparse: bool,
    /// It is read to its end, and only there `version` has its size.
    is_unsized: bool,
    sent: SentRecords,
    state: SentState,
}

/// Where an entry is. Only a final verdict ends it.
#[derive(Debug)]
enum SentState {
    /// Announced. `dir` is held for reading it (files). Next: Wanted, or resolved.
    Offered {
        dir: Option<usize>,
        resume: Option<Box<Resume>>,
    },
    /// In a queue. Next: Ordered (small), Large.
    Wanted {
        dir: Option<usize>,
        resume: Option<Box<Resume>>,
    },
    /// A mover reads the small file. `is_away`: on another worker. Next: Emitted, Aborted, Told.
    Ordered { is_away: bool },
    /// The receiver says that it has the small file, and it is still to be told that it left. Next:
    /// resolved.
    Told,
    /// Open as this file. Next: Emitted, Aborted.
    Large { file: usize },
    /// Being copied within this host. Next: Emitted, Aborted.
    Copied,
    /// All of it is on its way, or a symlink/ended directory whose verdict is due.
    Emitted,
    /// The receiver was told that the source failed; it will answer Failed.
    Aborted,
    /// A directory that is walked. Next: Emitted.
    Open,
}

/// Chunks the receiver says it has.
#[derive(Debug)]
struct Resume {
    tree: Tree,
    bytes: u64,
}

impl SendPlan {
    pub fn new(now: Instant, config: SenderConfig) -> SendPlan {
        SendPlan {
            client: config.client,
            carriage: config.carriage,
            near: config.near,
            window: config.window.max(1),
            ops: Ops::of(OpOwner::Plan),
            entries: EntryMap::default(),
            dirs: SourceDirs::default(),
            walk: Walk::new(config.sources, config.follow_named),
            manifest: SentManifest::default(),
            wholes: VecDeque::new(),
            files: SourceFiles::default(),
            copies: SentCopies::new(config.read_ahead_bytes),
            commands: VecDeque::new(),
            count: SourceCount::new(now, config.counts),
            totals: Totals::default(),
            no_growing: config.no_growing,
            moves_again: config.adds_lanes || config.keeps_digests,
            keeps_digests: config.keeps_digests,
            again_bytes: 0,
            sent_bytes: 0,
            odd_sizes: OddSizes::default(),
            links: HardLinks::default(),
        }
    }

    pub fn held_bytes(&self) -> u64 {
        let described =
            self.entries.len() as u64 * ENTRY_BYTES + self.dirs.open.len() as u64 * DIR_BYTES;
        described + self.files.held_bytes() + self.links.held_bytes() + self.sent_bytes
    }

    /// Whether everything was announced and resolved.
    pub fn is_resolved(&self) -> bool {
        self.manifest.ended && self.entries.is_empty()
    }

    /// Whether the receiver said that all are done of which that is not known here yet.
    pub fn is_told(&self) -> bool {
        let is_told = |entry: &SentEntry| matches!(entry.state, SentState::Told);
        self.manifest.ended && self.entries.values().all(is_told)
    }

    /// Whether it said so of this one.
    pub fn is_entry_told(&self, id: EntryId) -> bool {
        let entry = self.entries.get(&id);
        entry.is_some_and(|entry| matches!(entry.state, SentState::Told))
    }

    pub fn announced(&self) -> Announced {
        self.manifest.announced()
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// So much file data left, all in all; never less than was said before.
    pub fn count_sent(&mut self, bytes: u64) -> u64 {
        self.totals.sent_bytes = self.totals.sent_bytes.max(bytes);
        self.totals.sent_bytes
    }

    pub fn next_command(&mut self) -> Option<SendCommand> {
        self.commands.pop_front()
    }

    pub fn finish(&mut self, op: OpId) -> Option<SendPlanOp> {
        self.ops.finish(op)
    }

    pub fn in_flight(&self) -> usize {
        self.ops.in_flight()
    }

    pub fn on_disk(
        &mut self,
        ports: &mut Ports,
        op: SendPlanOp,
        result: Result<DiskDone, DiskError>,
    ) {
        match op {
            SendPlanOp::Source { source, dir } => self.source_found(ports, source, dir, result),
            SendPlanOp::OpenDir { dir, parent } => self.dir_opened(ports, dir, parent, result),
            SendPlanOp::List { dir } => self.listed(ports, dir, result),
            SendPlanOp::OpenRead { file, dir } => self.file_opened(ports, file, dir, result),
            SendPlanOp::Stat { file } => self.file_checked(ports, file, result),
            SendPlanOp::Look { file } => self.file_looked_at(ports, file, result),
            SendPlanOp::Recall { file } => self.file_recalled(ports, file, result),
            SendPlanOp::OpenCopied { dir } => self.copied_opened(ports, dir, result),
            SendPlanOp::AwaitCopied => self.copied_awaited(ports, result),
            SendPlanOp::CheckCopied => self.copied_checked(ports, result),
            SendPlanOp::CountSource | SendPlanOp::CountOpen | SendPlanOp::CountList => {
                self.counted(ports, &op, result);
            }
            SendPlanOp::Close => {}
        }
    }

    /// Stopping: only what has to be closed later matters.
    pub fn on_disk_stopping(&mut self, op: &SendPlanOp, done: bool) {
        match *op {
            SendPlanOp::Source { dir, .. } | SendPlanOp::OpenDir { dir, .. } => {
                self.dirs.open[dir].open = done;
            }
            SendPlanOp::OpenRead { file, .. } => self.files.opened_while_stopping(file, done),
            SendPlanOp::OpenCopied { .. } => self.copies.opened_while_stopping(done),
            SendPlanOp::CountSource | SendPlanOp::CountOpen => {
                self.count.opened_while_stopping(done);
            }
            SendPlanOp::List { .. }
            | SendPlanOp::Stat { .. }
            | SendPlanOp::Look { .. }
            | SendPlanOp::Recall { .. }
            | SendPlanOp::AwaitCopied
            | SendPlanOp::CheckCopied
            | SendPlanOp::CountList
            | SendPlanOp::Close => {}
        }
    }

    pub fn on_report(&mut self, ports: &mut Ports, report: SendReport) {
        match report {
            SendReport::Whole {
                entry,
                held,
                result,
            } => {
                self.keep_dir(ports, entry, held);
                match result {
                    Ok(emitted) => self.whole_emitted(ports, entry, emitted),
                    Err(error) => self.abort(ports, entry, error),
                }
            }
            SendReport::Unread { entry, held } => self.want_unread(ports, entry, held),
            SendReport::GivenBack { file, chunk } => {
                self.files.send_again(file, &[chunk]);
                self.kept_order_over(file, chunk);
            }
            SendReport::Held { file } => self.check_file(ports, file),
            SendReport::Stretch { bytes } => self.manifest.count_more(bytes),
            SendReport::Ended {
                file,
                size_bytes,
                digest,
            } => self.unsized_ended(ports, file, size_bytes, digest),
            SendReport::Chunk {
                file,
                chunk,
                value,
                is_kept,
                piped_bytes,
                at,
            } => {
                self.files.chunk_sent(file, chunk, value);
                self.totals.piped_bytes += piped_bytes;
                if self.note_value(file, chunk, value, is_kept) {
                    ports.altered();
                }
                self.note_chunk(file, chunk, at);
                self.kept_order_over(file, chunk);
            }
            SendReport::Torn { file, chunk, at } => {
                self.note_chunk(file, chunk, Some(at));
                self.kept_order_over(file, chunk);
            }
            SendReport::Failed { file, error } => self.fail_file(ports, file, error),
            SendReport::Over { file } => self.order_over(ports, file),
        }
    }

    fn whole_emitted(&mut self, ports: &mut Ports, id: EntryId, emitted: EmittedWhole) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let is_told = matches!(entry.state, SentState::Told);
        entry.state = SentState::Emitted;
        entry.sent.whole_bytes = Some(emitted.bytes);
        if let Some(odd) = emitted.odd_size.filter(|_| !entry.sent.is_again) {
            self.odd_sizes.note(odd, || entry.path());
        }
        if let Some(at) = emitted.at {
            self.note_sent(id, ChunkIndex(0), at);
        }
        if is_told {
            self.resolve(ports, id, EntryResult::Done { resumed_bytes: 0 });
        }
    }

    /// Tells of files that did not hold what was announced.
    pub fn tell_odd_sizes(&self, ports: &mut Ports) {
        if self.client {
            self.odd_sizes.tell(ports);
        }
    }

    /// Whether [`SendPlan::next_whole`] or [`SendPlan::next_chunk`] may have something.
    pub fn has_orders(&self) -> bool {
        !self.wholes.is_empty() || self.files.has_chunks()
    }

    /// Bytes that nobody was ordered to move, and of the next order, about. None: it is not known
    /// yet how much there is.
    pub fn left_bytes(&self) -> Option<(u64, u64)> {
        let (large_bytes, chunk_bytes) = self.files.left_bytes();
        let small_bytes = self.wholes.len() as u64 * SMALL_MAX_BYTES / 2;
        let order_bytes = chunk_bytes.max(SMALL_MAX_BYTES / 2);
        (self.manifest.ended).then_some((large_bytes.saturating_add(small_bytes), order_bytes))
    }

    /// The next small files for a mover on another worker.
    pub fn next_wholes(&mut self) -> Vec<WholeOrder> {
        let (mut orders, mut dirs, mut bytes) = (Vec::new(), 0, 0);
        while orders.len() < WHOLES_PER_ORDER && dirs < WHOLES_DIRS && bytes < WHOLES_BYTES {
            let Some(order) = self.next_whole(true) else {
                break;
            };
            let is_in = |other: &WholeOrder| other.dir == order.dir;
            dirs += usize::from(!orders.iter().rev().any(is_in));
            bytes += order.version.size_bytes;
            orders.push(order);
        }
        orders
    }

    /// The next small file to be moved. `is_away`: by a mover on another worker.
    pub fn next_whole(&mut self, is_away: bool) -> Option<WholeOrder> {
        while let Some(id) = self.wholes.pop_front() {
            // Gone: the receiver gave up on it in the meantime.
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let SentState::Wanted { dir, .. } = &mut entry.state else {
                continue;
            };
            let (Some(held), Some(name)) = (dir.take(), entry.name.clone()) else {
                continue;
            };
            entry.state = SentState::Ordered { is_away };
            return Some(WholeOrder {
                entry: id,
                held,
                dir: self.dirs.open[held].id,
                name,
                version: entry.version,
                no_growing: self.no_growing,
            });
        }
        None
    }

    /// The receiver asked for a file.
    fn want(&mut self, id: EntryId, size_bytes: u64, is_unsized: bool) {
        let is_small = size_bytes <= SMALL_MAX_BYTES && !is_unsized;
        match self.carriage {
            Carriage::Copies => self.copies.want(id),
            Carriage::Bytes if is_small => {
                self.wholes.push_back(id);
            }
            Carriage::Bytes => self.files.want(id),
        }
    }

    /// Tells the receiver that the source of this entry failed. Its verdict resolves the entry.
    fn abort(&mut self, ports: &mut Ports, id: EntryId, error: EntryError) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = SentState::Aborted;
            self.tell(ports, &Message::Abort { entry: id, error });
        }
    }

    /// Gives up a use of a directory and closes it after the last.
    fn release_dir(&mut self, ports: &mut Ports, dir: usize) {
        let Some(held) = self.dirs.open.get_mut(dir) else {
            return;
        };
        held.users -= 1;
        if held.users == 0 {
            let held = self.dirs.open.remove(dir);
            if held.open {
                let cmd = DiskOp::CloseDir { dir: held.id };
                self.ops.start(ports, SendPlanOp::Close, cmd);
            }
        }
    }

    /// Closes whatever is open; nothing is in flight.
    pub fn close_all(&mut self, ports: &mut Ports) {
        let open = self.files.take_open().into_iter();
        for file in open.chain(self.copies.take_open()) {
            let cmd = DiskOp::CloseRead { file };
            self.ops.start(ports, SendPlanOp::Close, cmd);
        }
        for dir in self.count.take_open() {
            let cmd = DiskOp::CloseDir { dir };
            self.ops.start(ports, SendPlanOp::Close, cmd);
        }
        for (_, dir) in std::mem::take(&mut self.dirs.open) {
            if dir.open {
                let cmd = DiskOp::CloseDir { dir: dir.id };
                self.ops.start(ports, SendPlanOp::Close, cmd);
            }
        }
    }

    /// Holds the counters against the tables; `orders` is what the mover has.
    #[cfg(test)]
    pub fn check(&self, orders: &super::mover::Orders) {
        self.manifest.check();
        self.check_sent();
        let resumed: u64 = self.entries.values().map(SentEntry::resumed_chunks).sum();
        self.files.check(resumed, &orders.chunks);
        // Each use of a directory has somebody who gives it up.
        let walked = |dir: &usize| self.walk.is_on_stack(*dir);
        let by_ops: usize = self
            .ops
            .iter()
            .map(|op| match op {
                SendPlanOp::Source { .. }
                | SendPlanOp::OpenRead { .. }
                | SendPlanOp::OpenCopied { .. } => 1,
                SendPlanOp::OpenDir { dir, .. } => 1 + usize::from(!walked(dir)),
                SendPlanOp::List { dir } => usize::from(!walked(dir)),
                SendPlanOp::Stat { .. }
                | SendPlanOp::Look { .. }
                | SendPlanOp::Recall { .. }
                | SendPlanOp::AwaitCopied
                | SendPlanOp::CheckCopied
                | SendPlanOp::CountSource
                | SendPlanOp::CountOpen
                | SendPlanOp::CountList
                | SendPlanOp::Close => 0,
            })
            .sum();
        let by_entries = self.entries.values().filter(|entry| entry.holds_dir());
        let kept = self.entries.values().filter(|entry| entry.sent.keeps_dir());
        let users: u32 = self.dirs.open.iter().map(|(_, dir)| dir.users).sum();
        let known = by_ops + by_entries.count() + kept.count() + self.walk.depth() + orders.wholes;
        assert_eq!(users as usize, known, "uses of directories");
    }
}

impl SentEntry {
    /// From the source's own name on; a source without one is `.`.
    fn path(&self) -> Bytes {
        let name = self.name.as_ref().map_or(&b""[..], Name::as_bytes);
        match join(&self.dir_path, name) {
            path if path.is_empty() => Bytes::from_static(b"."),
            path => path,
        }
    }

    #[cfg(test)]
    fn holds_dir(&self) -> bool {
        match self.state {
            SentState::Offered { dir, .. } | SentState::Wanted { dir, .. } => dir.is_some(),
            _ => false,
        }
    }

    #[cfg(test)]
    fn resumed_chunks(&self) -> u64 {
        match &self.state {
            SentState::Offered {
                resume: Some(_), ..
            }
            | SentState::Wanted {
                resume: Some(_), ..
            } => u64::from(crate::proto::chunk::chunk_count(self.version.size_bytes)),
            _ => 0,
        }
    }
}
