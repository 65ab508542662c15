//! The sending side: walks the sources, announces entries, reads what the receiver wants, tells how
//! each ended.
//!
//! Bounds: entries without a final verdict by the receiver's window, bytes read ahead of the
//! transport by `read_ahead_bytes`, directories and files held open by constants. All work is
//! started in [`Sender::pump`].

mod copies;
mod large;
mod small;
mod verdicts;
mod walk;

pub use walk::{SPECIAL_SKIPPED, TEMPORARY_SKIPPED, refusal};

use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use super::chunks::{ParallelTransferConfig, Parallelism, StreamSlots, TokenBucket};
use super::integrity::Tree;
use super::manifest::EntryMap;
use super::session::errors::{Host, Violation, violation};
use super::session::ports::{Ops, Ports, Reporter};
use super::wire::{Item, MAX_BATCH_BYTES, MAX_ITEMS, Message};
use super::{
    Carriage, DiskDone, DiskError, DiskOp, EntryError, EntryResult, Event, Kind, Meta, Mtime,
    Totals,
};
use crate::ids::{DirId, EntryId, Name, OpId};

/// After this many bytes of one class (packed small files, chunks) the other has its turn: neither
/// starves.
const TURN_BYTES: u64 = 256 * 1024;

/// Errors and warnings about things that never became entries are not covered by the window: a
/// client that never reads must not make a server pile up more. Those beyond are told as one sum at
/// the end.
const MAX_NOTES: u32 = 1024;

/// See [`Sender::held_bytes`].
const ENTRY_BYTES: u64 = 350;
const DIR_BYTES: u64 = 1000;

/// What a [`Sender`] is to do.
pub struct SenderConfig {
    pub client: bool,
    pub sources: Vec<Bytes>,
    /// Entries that may be without final verdict, directories still being walked not counted.
    pub window: u32,
    pub read_ahead_bytes: u64,
    pub read_ahead_in_place_bytes: u64,
    pub carriage: Carriage,
    pub lookups: usize,
    pub parallel: ParallelTransferConfig,
    pub bwlimit_bps: Option<u64>,
}

/// How far to read ahead: where reads take their time, and where they are made in place.
struct ReadAheads {
    awaited_bytes: u64,
    in_place_bytes: u64,
}

pub struct Sender {
    host: Host,
    client: bool,
    window: u32,
    lookups: usize,
    read_ahead_bytes: u64,
    /// Of which `read_ahead_bytes` is now the one or the other.
    read_aheads: ReadAheads,
    carriage: Carriage,
    ops: Ops<Op>,
    entries: EntryMap<Entry>,
    last_entry: u32,
    dirs: Slab<Dir>,
    last_dir: u32,
    walk: walk::Walk,
    small: small::Small,
    large: large::Large,
    copies: copies::Copies,
    streams: StreamSlots,
    parallelism: Parallelism,
    bucket: Option<TokenBucket>,
    /// The bucket was all that kept the last [`Sender::pump`] from starting a read.
    waits_for_bucket: bool,
    turn: Turn,
    /// Bytes asked from the disk or read, not emitted yet.
    reading_bytes: u64,
    /// Stream bytes emitted (or in the pack), not taken by the transport yet.
    unsent_bytes: u64,
    /// File bytes emitted, all in all.
    emitted_bytes: u64,
    items: Vec<Item>,
    items_bytes: usize,
    notes: u32,
    notes_left_out: u32,
    announced: (u64, u64),
    manifest_ended: bool,
    totals: Totals,
    reporter: Reporter,
    stop: Stop,
}

/// What a disk operation was for.
#[derive(Debug)]
enum Op {
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
    ReadSmall {
        entry: EntryId,
        dir: usize,
        charged_bytes: u64,
    },
    OpenRead {
        file: usize,
        dir: usize,
    },
    Read {
        job: usize,
        piece: u32,
        len: u32,
    },
    Stat {
        file: usize,
    },
    OpenCopied {
        dir: usize,
    },
    CheckCopied,
    Close,
}

/// A directory of the sources, open or being opened.
#[derive(Debug)]
struct Dir {
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
struct Entry {
    name: Option<Name>,
    dir_path: Bytes,
    kind: Kind,
    mtime: Mtime,
    size_bytes: u64,
    inode: u64,
    state: State,
}

/// Where an entry is. Only a final verdict ends it.
#[derive(Debug)]
enum State {
    /// Announced. `dir` is held for reading it (files). Next: Wanted, or resolved.
    Offered {
        dir: Option<usize>,
        resume: Option<Box<Resume>>,
    },
    /// In a queue or being read. Next: Emitted, Large, Aborted.
    Wanted {
        dir: Option<usize>,
        resume: Option<Box<Resume>>,
    },
    /// Open as this file of `Large`. Next: Emitted, Aborted.
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

/// Which class of reads goes on.
#[derive(Debug)]
struct Turn {
    small: bool,
    left_bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// Nothing new is started; operations in flight are waited for.
    Draining,
    /// What was open is being closed.
    Closing,
}

/// Sequence of tries in [`Sender::pump`]: what a class could do.
enum Pumped {
    Issued(u64),
    Nothing,
}

impl Sender {
    pub fn new(now: Instant, config: SenderConfig) -> Sender {
        let ceiling = config.parallel.max_buffer_size as u64;
        let awaited_bytes = config.read_ahead_bytes.min(ceiling).max(1);
        let read_aheads = ReadAheads {
            awaited_bytes,
            in_place_bytes: awaited_bytes.min(config.read_ahead_in_place_bytes).max(1),
        };
        Sender {
            host: Host::of(config.client, config.carriage),
            client: config.client,
            window: config.window.max(1),
            lookups: config.lookups.max(1),
            read_ahead_bytes: awaited_bytes,
            read_aheads,
            carriage: config.carriage,
            ops: Ops::default(),
            entries: EntryMap::default(),
            last_entry: 0,
            dirs: Slab::new(),
            last_dir: 0,
            walk: walk::Walk::new(config.sources),
            small: small::Small::default(),
            large: large::Large::default(),
            copies: copies::Copies::default(),
            streams: StreamSlots::new(&config.parallel),
            parallelism: Parallelism::new(now, &config.parallel),
            bucket: config.bwlimit_bps.map(|bps| TokenBucket::new(now, bps / 8)),
            waits_for_bucket: false,
            turn: Turn {
                small: true,
                left_bytes: TURN_BYTES,
            },
            reading_bytes: 0,
            unsent_bytes: 0,
            emitted_bytes: 0,
            items: Vec::new(),
            items_bytes: 0,
            notes: 0,
            notes_left_out: 0,
            announced: (0, 0),
            manifest_ended: false,
            totals: Totals::default(),
            reporter: Reporter::new(now),
            stop: Stop::No,
        }
    }

    /// A message of the receiver.
    ///
    /// # Errors
    /// When the receiver may not say that (now). `Finished` is the session's to handle.
    pub fn on_message(&mut self, ports: &mut Ports, message: Message) -> Result<(), Violation> {
        match message {
            Message::Verdicts(verdicts) => {
                for verdict in verdicts {
                    self.on_verdict(ports, verdict)?;
                }
                Ok(())
            }
            _ => violation("a receiver sends no such message"),
        }
    }

    /// Heap bytes kept for entries, directories and chunks that the receiver has, about.
    pub fn held_bytes(&self) -> u64 {
        let described =
            self.entries.len() as u64 * ENTRY_BYTES + self.dirs.len() as u64 * DIR_BYTES;
        described + self.large.held_bytes()
    }

    /// Whether `Finished` is true: everything was announced and resolved.
    pub fn is_complete(&self) -> bool {
        self.manifest_ended && self.entries.is_empty()
    }

    pub fn on_sent(&mut self, now: Instant, bytes: u64) {
        if self.carriage == Carriage::Copies {
            self.copies.on_copied(bytes);
            self.emitted_bytes += bytes;
            return;
        }
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
        self.parallelism.on_sent(now, bytes);
    }

    pub fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        let Some(op) = self.ops.finish(op) else {
            return;
        };
        if self.stop != Stop::No {
            return self.on_disk_stopping(&op, result.is_ok());
        }
        match op {
            Op::Source { source, dir } => self.source_found(ports, source, dir, result),
            Op::OpenDir { dir, parent } => self.dir_opened(ports, dir, parent, result),
            Op::List { dir } => self.listed(ports, dir, result),
            Op::ReadSmall {
                entry,
                dir,
                charged_bytes,
            } => self.small_read(ports, entry, dir, charged_bytes, result),
            Op::OpenRead { file, dir } => self.file_opened(ports, file, dir, result),
            Op::Read { job, piece, len } => self.piece_read(ports, job, piece, len, result),
            Op::Stat { file } => self.file_checked(ports, file, result),
            Op::OpenCopied { dir } => self.copied_opened(ports, dir, result),
            Op::CheckCopied => self.copied_checked(ports, result),
            Op::Close => {}
        }
    }

    /// Stopping: only what has to be closed later matters.
    fn on_disk_stopping(&mut self, op: &Op, done: bool) {
        match *op {
            Op::Source { dir, .. } | Op::OpenDir { dir, .. } => self.dirs[dir].open = done,
            Op::OpenRead { file, .. } => self.large.opened_while_stopping(file, done),
            Op::OpenCopied { .. } => self.copies.opened_while_stopping(done),
            Op::List { .. }
            | Op::ReadSmall { .. }
            | Op::Read { .. }
            | Op::Stat { .. }
            | Op::CheckCopied
            | Op::Close => {}
        }
    }

    /// Starts everything that may be started.
    pub fn pump(&mut self, now: Instant, ports: &mut Ports) {
        if self.stop != Stop::No {
            self.pump_stop(ports);
            return;
        }
        self.walk(ports);
        self.open_files(ports);
        self.copy_on(ports);
        self.waits_for_bucket = false;
        while self.has_room() {
            if self
                .bucket
                .as_mut()
                .is_some_and(|bucket| !bucket.ready(now))
            {
                self.waits_for_bucket = self.small.has_work() || self.large.has_work();
                break;
            }
            let first = self.issue(ports, self.turn.small);
            let issued = match first {
                Pumped::Nothing => {
                    self.turn = Turn {
                        small: !self.turn.small,
                        left_bytes: TURN_BYTES,
                    };
                    self.issue(ports, self.turn.small)
                }
                issued => issued,
            };
            let Pumped::Issued(bytes) = issued else { break };
            if let Some(bucket) = &mut self.bucket {
                bucket.take(bytes);
            }
            match self.turn.left_bytes.checked_sub(bytes) {
                Some(left_bytes) if left_bytes > 0 => self.turn.left_bytes = left_bytes,
                _ => {
                    self.turn = Turn {
                        small: !self.turn.small,
                        left_bytes: TURN_BYTES,
                    }
                }
            }
        }
        for stream in self.streams.retire_idle(self.stream_target()) {
            ports.end_data(stream);
        }
        self.report(now, ports, false);
    }

    fn issue(&mut self, ports: &mut Ports, small: bool) -> Pumped {
        if small {
            self.issue_small(ports)
        } else {
            self.issue_chunks(ports)
        }
    }

    /// Whether the read-ahead lets another read start.
    fn has_room(&self) -> bool {
        self.reading_bytes + self.unsent_bytes < self.read_ahead_bytes
    }

    /// Streams for chunks: the stream of small files, when there is one, counts towards the
    /// maximum.
    fn stream_target(&self) -> usize {
        let packed = usize::from(self.small.has_stream());
        self.parallelism.target().saturating_sub(packed).max(1)
    }

    /// When time alone changes something: the bandwidth limit lets more through. A read that waits
    /// for other reads waits for no time: a full bucket is no deadline.
    pub fn deadline(&self) -> Option<Instant> {
        let waits = self.waits_for_bucket && self.stop == Stop::No;
        self.bucket
            .as_ref()
            .filter(|_| waits)
            .map(TokenBucket::ready_at)
    }

    /// Sends what was held back to go together: manifest items, small files.
    pub fn flush(&mut self, ports: &mut Ports) {
        self.flush_items(ports);
        if self.small.may_flush() {
            self.flush_pack(ports, false);
        }
    }

    fn push_item(&mut self, ports: &mut Ports, item: Item) {
        let bytes = item.encoded_bound();
        if self.items.len() == MAX_ITEMS || self.items_bytes + bytes > MAX_BATCH_BYTES {
            self.flush_items(ports);
        }
        self.items_bytes += bytes;
        self.items.push(item);
    }

    fn flush_items(&mut self, ports: &mut Ports) {
        if !self.items.is_empty() {
            self.items_bytes = 0;
            ports.message(&Message::Entries(std::mem::take(&mut self.items)));
        }
    }

    /// Any other message: what it speaks of must have been announced before it.
    fn tell(&mut self, ports: &mut Ports, message: &Message) {
        self.flush_items(ports);
        ports.message(message);
    }

    /// Tells the receiver that the source of this entry failed. Its verdict resolves the entry.
    fn abort(&mut self, ports: &mut Ports, id: EntryId, error: EntryError) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = State::Aborted;
            self.tell(ports, &Message::Abort { entry: id, error });
        }
    }

    /// Something that never became an entry failed.
    fn note_error(&mut self, ports: &mut Ports, path: Bytes, error: EntryError) {
        self.totals.count_error(error.code);
        if self.client {
            let result = EntryResult::Failed(error);
            ports.event(Event::Entry {
                path,
                kind: Kind::File,
                size_bytes: 0,
                result,
            });
        } else if self.take_note() {
            let path = path.slice(..path.len().min(crate::ids::PATH_MAX_BYTES));
            self.tell(ports, &Message::SourceError { path, error });
        }
    }

    fn note_warning(&mut self, ports: &mut Ports, path: Bytes, text: String) {
        if self.client {
            ports.event(Event::Warning { path, text });
        } else if self.take_note() {
            let path = path.slice(..path.len().min(crate::ids::PATH_MAX_BYTES));
            self.tell(ports, &Message::SourceWarning { path, text });
        }
    }

    fn take_note(&mut self) -> bool {
        let room = self.notes < MAX_NOTES;
        match room {
            true => self.notes += 1,
            false => self.notes_left_out += 1,
        }
        room
    }

    fn report(&mut self, now: Instant, ports: &mut Ports, last: bool) {
        self.totals.sent_bytes = self
            .totals
            .sent_bytes
            .max(self.emitted_bytes.saturating_sub(match last {
                true => 0,
                false => self.unsent_bytes,
            }));
        self.reporter
            .progress(now, ports, self.totals.sent_bytes, last);
        let (files, bytes) = self.announced;
        self.reporter
            .announced(now, ports, files, bytes, self.manifest_ended);
    }

    /// Gives up a use of a directory and closes it after the last.
    fn release_dir(&mut self, ports: &mut Ports, dir: usize) {
        let Some(held) = self.dirs.get_mut(dir) else {
            return;
        };
        held.users -= 1;
        if held.users == 0 {
            let held = self.dirs.remove(dir);
            if held.open {
                self.ops
                    .start(ports, Op::Close, DiskOp::CloseDir { dir: held.id });
            }
        }
    }

    /// Everything is resolved: ends the open streams and tells the last progress.
    pub fn complete(&mut self, now: Instant, ports: &mut Ports) -> Totals {
        self.end_pack_stream(ports);
        for stream in self.streams.retire_idle(0) {
            ports.end_data(stream);
        }
        self.report(now, ports, true);
        self.totals
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Starts nothing more; [`Sender::is_drained`] once everything it held is closed.
    pub fn stop(&mut self, ports: &mut Ports) {
        if self.stop == Stop::No {
            self.stop = Stop::Draining;
            self.pump_stop(ports);
        }
    }

    fn pump_stop(&mut self, ports: &mut Ports) {
        if self.stop == Stop::Draining && self.ops.in_flight() == 0 {
            self.stop = Stop::Closing;
            let open = self.large.take_open().into_iter();
            for file in open.chain(self.copies.take_open()) {
                self.ops.start(ports, Op::Close, DiskOp::CloseRead { file });
            }
            for dir in std::mem::take(&mut self.dirs)
                .into_iter()
                .filter_map(|(_, dir)| dir.open.then_some(dir.id))
            {
                self.ops.start(ports, Op::Close, DiskOp::CloseDir { dir });
            }
        }
    }

    pub fn is_drained(&self) -> bool {
        self.stop == Stop::Closing && self.ops.in_flight() == 0
    }
}

impl Entry {
    /// Whether the source is still what was announced.
    fn is_unchanged(&self, meta: &Meta) -> bool {
        (meta.kind, meta.size_bytes, meta.mtime, meta.inode)
            == (self.kind, self.size_bytes, self.mtime, self.inode)
    }

    /// From the source's own name on; a source without one is `.`.
    fn path(&self) -> Bytes {
        let name = self.name.as_ref().map_or(&b""[..], Name::as_bytes);
        match join(&self.dir_path, name) {
            path if path.is_empty() => Bytes::from_static(b"."),
            path => path,
        }
    }
}

/// `dir/name` for people; either may be empty.
pub fn join(dir: &[u8], name: &[u8]) -> Bytes {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path.into()
}
