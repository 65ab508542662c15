//! Large files as the plan knows them: opened a few ahead, cut into chunks to be ordered, checked
//! behind the last, their trees.

use std::collections::VecDeque;

use slab::Slab;

use super::{SendPlan, SendPlanOp, SentState};
use crate::ids::{ChunkIndex, EntryId, FileId};
use crate::proto::chunk::{SMALL_MAX_BYTES, chunk_count, chunk_len_bytes, chunk_offset};
use crate::proto::errors::source_error;
use crate::proto::extents::{DataMap, DataOrHole};
use crate::proto::integrity::{Digest, Tree};
use crate::proto::ports::{OddSize, Ports};
use crate::proto::send::orders::{
    ChunkOrder, Drift, HolesOrder, LargeOrder, SendCommand, StretchOrder,
};
use crate::proto::wire::Message;
use crate::proto::zeros::ZeroChunks;
use crate::proto::{DiskDone, DiskError, DiskOp, EntryError, Event};

/// Files open at a time: enough that opening and checking one hides behind the others.
const OPEN_FILES: usize = 8;

/// Of a chunk of a file with a gap behind each: half a node of its tree, 47 bytes while it grows.
const RESUMED_CHUNK_BYTES: u64 = 48;

#[derive(Debug, Default)]
pub(super) struct SourceFiles {
    /// Wanted, not opened yet.
    queue: VecDeque<EntryId>,
    open: Slab<SourceFile>,
    /// Open files that may have chunks not ordered yet, oldest first.
    active: VecDeque<usize>,
    /// Open unsized files that are not ordered yet.
    unsized_ones: VecDeque<usize>,
    last: u32,
    /// Chunks of files the receiver resumes that were not opened yet.
    pub(super) resumed_chunks: u64,
}

#[derive(Debug)]
struct SourceFile {
    entry: EntryId,
    id: FileId,
    is_unsized: bool,
    size_bytes: u64,
    /// The next chunk to look at; those the receiver has are passed over.
    next: u32,
    tree: Tree,
    /// Orders a mover has of it.
    orders: usize,
    /// Whether a `Stat` is in flight.
    checking: bool,
    /// Of a file with holes: where it has data, as far as is known.
    map: Option<DataMap>,
    /// Whether a `Map` or `Recall` is in flight.
    is_looking: bool,
    has_grown: bool,
    /// It was checked behind the last byte, and is what was announced.
    is_vouched: bool,
    /// Chunks that were sent and are to be sent again.
    again: Vec<ChunkIndex>,
    /// All was sent before, and the root was said: only `again` is to be moved.
    is_rooted: bool,
    state: SourceFileState,
}

#[derive(Debug, PartialEq, Eq)]
enum SourceFileState {
    /// Next: Reading, Over.
    Opening,
    /// Next: Checking, Over.
    Reading,
    /// All data was read; whether it is still the same file is being asked. Next: Over.
    Checking,
    /// Sent, aborted or given up; closed when its last order is over.
    Over,
}

impl SourceFile {
    fn is_read(&self) -> bool {
        self.state == SourceFileState::Reading
    }

    /// Nothing of it was moved, here or by an earlier session.
    fn is_whole(&self) -> bool {
        !self.is_rooted && self.tree.missing() == self.tree.chunks()
    }

    /// Nothing is left to be ordered, once the orders under way are over.
    fn is_sent(&self) -> bool {
        self.again.is_empty() && (self.is_rooted || self.tree.missing() == 0)
    }
}

impl SourceFiles {
    pub(super) fn entry_of(&self, file: usize) -> Option<EntryId> {
        self.open.get(file).map(|file| file.entry)
    }

    /// All of it was sent before, and the receiver may have all by now.
    pub(super) fn is_rooted(&self, file: usize) -> bool {
        self.open.get(file).is_some_and(|file| file.is_rooted)
    }

    /// Chunks of an open file are to be sent again; while the file is being checked they wait.
    pub(super) fn send_again(&mut self, at: usize, chunks: &[ChunkIndex]) {
        let file = &mut self.open[at];
        file.again.extend_from_slice(chunks);
        if file.is_read() && !self.active.contains(&at) {
            self.active.push_back(at);
        }
    }

    pub(super) fn want(&mut self, entry: EntryId) {
        self.queue.push_back(entry);
    }

    /// Of trees: those of open files, and what the receiver says that it has of others.
    pub(super) fn held_bytes(&self) -> u64 {
        let of_open: u64 = self
            .open
            .iter()
            .map(|(_, file)| file.tree.held_bytes())
            .sum();
        of_open + self.resumed_chunks * RESUMED_CHUNK_BYTES
    }

    pub(super) fn has_chunks(&self) -> bool {
        !self.active.is_empty()
    }

    /// Bytes of open files that nobody was ordered to move, and of the next chunk, about.
    pub(super) fn left_bytes(&self) -> (u64, u64) {
        let (mut left_bytes, mut next_bytes) = (0, 0);
        for file in self.active.iter().filter_map(|at| self.open.get(*at)) {
            let chunk_bytes = chunk_len_bytes(file.size_bytes, ChunkIndex(0));
            let chunks = match file.is_rooted {
                true => 0,
                false => u64::from(file.tree.chunks().saturating_sub(file.next)),
            };
            // Sparse files may be of any size together.
            let file_bytes = (chunks + file.again.len() as u64).saturating_mul(chunk_bytes);
            left_bytes = file_bytes.saturating_add(left_bytes);
            next_bytes = if next_bytes == 0 {
                chunk_bytes
            } else {
                next_bytes
            };
        }
        (
            left_bytes.saturating_add(self.queue.len() as u64 * SMALL_MAX_BYTES),
            next_bytes,
        )
    }

    /// While stopping: remembers what has to be closed.
    pub(super) fn opened_while_stopping(&mut self, at: usize, opened: bool) {
        if opened {
            self.open[at].state = SourceFileState::Over;
        } else {
            self.open.remove(at);
        }
    }

    /// Gives up all files; those to be closed.
    pub(super) fn take_open(&mut self) -> Vec<FileId> {
        let files = std::mem::take(&mut self.open);
        files
            .into_iter()
            .filter(|(_, file)| file.state != SourceFileState::Opening)
            .map(|(_, file)| file.id)
            .collect()
    }

    /// A chunk's record is out.
    pub(super) fn chunk_sent(&mut self, at: usize, chunk: ChunkIndex, value: Digest) {
        self.open[at].tree.insert(chunk, value);
    }

    /// `resumed`: chunks of entries that wait with what the receiver has; `orders`: the file of
    /// each chunk a mover has.
    #[cfg(test)]
    pub(super) fn check(&self, resumed: u64, orders: &[usize]) {
        assert_eq!(self.resumed_chunks, resumed, "chunks of resumed files");
        for (at, file) in &self.open {
            let under_way = orders.iter().filter(|file| **file == at).count();
            assert_eq!(file.orders, under_way, "orders of file {at}: {file:?}");
        }
    }
}

/// What is next of a file.
enum NextChunks {
    Chunk(ChunkOrder),
    /// Chunks `first..end` are all hole.
    Holes {
        first: u32,
        end: u32,
    },
    /// Whether the next one is, has to be asked.
    Unknown,
    End,
}

impl SourceFile {
    /// Passes over what the receiver has, and gives the next that is missing.
    fn next(&mut self, file: usize) -> NextChunks {
        if let Some(chunk) = self.again.pop() {
            // What is known of its data was passed.
            let map = self.map.as_ref().map(|_| DataMap::default());
            return NextChunks::Chunk(self.order(file, chunk, map));
        }
        if self.is_rooted {
            return NextChunks::End;
        }
        while self.tree.has(ChunkIndex(self.next)) {
            self.next += 1;
        }
        let first = self.next;
        if first >= self.tree.chunks() {
            return NextChunks::End;
        }
        let start = chunk_offset(self.size_bytes, ChunkIndex(first));
        let stretch = self.map.as_mut().map(|map| map.stretch(start));
        let hole_end = match stretch {
            Some(DataOrHole::Unknown) => return NextChunks::Unknown,
            Some(DataOrHole::Hole { end }) if self.tree.chunks() > 1 => end,
            Some(DataOrHole::Hole { .. } | DataOrHole::Data { .. }) | None => start,
        };
        while self.is_hole(ChunkIndex(self.next), hole_end) {
            self.next += 1;
        }
        if self.next > first {
            self.orders += 1;
            let end = self.next;
            return NextChunks::Holes { first, end };
        }
        self.next += 1;
        let map = self.map.clone();
        NextChunks::Chunk(self.order(file, ChunkIndex(first), map))
    }

    fn order(&mut self, file: usize, chunk: ChunkIndex, map: Option<DataMap>) -> ChunkOrder {
        self.orders += 1;
        ChunkOrder {
            file,
            id: self.id,
            entry: self.entry,
            size_bytes: self.size_bytes,
            chunk,
            is_only: self.tree.chunks() == 1,
            map,
            kept: None,
        }
    }

    /// Whether a chunk is missing and lies before the end of a hole.
    fn is_hole(&self, chunk: ChunkIndex, hole_end: u64) -> bool {
        let len_bytes = chunk_len_bytes(self.size_bytes, chunk);
        let end = chunk_offset(self.size_bytes, chunk) + len_bytes;
        len_bytes > 0 && end <= hole_end && !self.tree.has(chunk)
    }
}

impl SendPlan {
    /// Opens the next wanted files.
    pub fn open_files(&mut self, ports: &mut Ports) {
        while self.files.open.len() < OPEN_FILES {
            let Some(id) = self.files.queue.pop_front() else {
                return;
            };
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let SentState::Wanted { dir, resume } = &mut entry.state else {
                continue;
            };
            let (Some(dir), Some(name)) = (dir.take(), entry.name.clone()) else {
                continue;
            };
            let resume = resume.take();
            let size_bytes = entry.version.size_bytes;
            let (again, is_rooted) = entry.sent.take_again(size_bytes);
            if self.client && !entry.sent.is_again {
                let path = entry.path();
                ports.event(Event::Begun { path });
            }
            if resume.is_some() {
                self.files.resumed_chunks -= u64::from(chunk_count(size_bytes));
            }
            self.files.last = self.files.last.wrapping_add(1);
            let file_id = FileId(self.files.last);
            let file = self.files.open.insert(SourceFile {
                entry: id,
                id: file_id,
                is_unsized: entry.is_unsized,
                size_bytes,
                next: 0,
                tree: resume.map_or_else(|| Tree::new(size_bytes), |resume| resume.tree),
                orders: 0,
                checking: false,
                map: entry.is_sparse.then(DataMap::default),
                is_looking: false,
                has_grown: false,
                is_vouched: false,
                again,
                is_rooted,
                state: SourceFileState::Opening,
            });
            entry.state = SentState::Large { file };
            let cmd = DiskOp::OpenRead {
                dir: self.dirs.open[dir].id,
                name,
                file: file_id,
            };
            self.ops
                .start(ports, SendPlanOp::OpenRead { file, dir }, cmd);
        }
    }

    pub(super) fn file_opened(
        &mut self,
        ports: &mut Ports,
        at: usize,
        dir: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        let entry = self.files.open[at].entry;
        self.keep_dir(ports, entry, dir);
        let file = &mut self.files.open[at];
        let given_up = file.state == SourceFileState::Over;
        match result {
            Err(error) => {
                let file = self.files.open.remove(at);
                if !given_up {
                    self.abort(ports, file.entry, source_error(&error));
                }
            }
            Ok(_) if given_up => self.settle_file(ports, at),
            Ok(done) => {
                file.state = SourceFileState::Reading;
                let is_unsized = file.is_unsized;
                match self.judge_file(at, &done) {
                    Ok(()) if is_unsized => self.files.unsized_ones.push_back(at),
                    Ok(()) if self.recalls(at) => self.recall_file(ports, at),
                    Ok(()) => self.read_file(ports, at),
                    Err(error) => self.fail_file(ports, at, error),
                }
            }
        }
    }

    /// An open file is what was announced: its chunks may be ordered.
    fn read_file(&mut self, ports: &mut Ports, at: usize) {
        if !self.files.active.contains(&at) {
            self.files.active.push_back(at);
        }
        // A file resumed with nothing missing has no order that would ask for the check.
        self.settle_file(ports, at);
    }

    /// Whether the disk is asked for the values of an open file's chunks: of one that is moved
    /// whole and for the first time. What the receiver has of others, it has hashed.
    fn recalls(&self, at: usize) -> bool {
        let file = &self.files.open[at];
        let entry = self.entries.get(&file.entry);
        let is_first = entry.is_some_and(|entry| !entry.sent.is_again);
        self.keeps_digests && is_first && file.is_whole() && !file.has_grown
    }

    fn recall_file(&mut self, ports: &mut Ports, at: usize) {
        let file = &mut self.files.open[at];
        file.is_looking = true;
        let cmd = DiskOp::Recall {
            file: file.id,
            size_bytes: file.size_bytes,
        };
        self.ops.start(ports, SendPlanOp::Recall { file: at }, cmd);
    }

    /// What is remembered of a file is known.
    pub(super) fn file_recalled(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        let file = &mut self.files.open[at];
        file.is_looking = false;
        if !file.is_read() {
            return self.settle_file(ports, at);
        }
        let (entry, size_bytes) = (file.entry, file.size_bytes);
        // What cannot be had is hashed.
        if let Ok(DiskDone::Recalled(Some(recalled))) = result {
            self.lean_on(entry, size_bytes, *recalled);
        }
        self.read_file(ports, at);
    }

    /// Has the values of a file's chunks remembered, or forgotten, before it is closed.
    fn remember_file(&mut self, ports: &mut Ports, at: usize) {
        let file = &self.files.open[at];
        let is_sure = file.is_vouched && !file.has_grown && !file.is_rooted;
        let kept = self
            .entries
            .get(&file.entry)
            .and_then(|entry| entry.sent.kept.as_ref());
        if let Some((stamp, values)) = kept.and_then(|kept| kept.to_remember(is_sure)) {
            let cmd = DiskOp::Remember {
                file: file.id,
                stamp,
                values,
            };
            self.ops.start(ports, SendPlanOp::Close, cmd);
        }
    }

    /// Holds an open file against what was announced.
    ///
    /// # Errors
    /// When it is not that any more, or grew and was not to.
    fn judge_file(&mut self, at: usize, found: &DiskDone) -> Result<(), EntryError> {
        let file = &mut self.files.open[at];
        let drift = match (found, self.entries.get(&file.entry)) {
            // Its time is that of the look, on proc, or of the last byte, in a pipe.
            (DiskDone::Meta(_), Some(_)) if file.is_unsized => Drift::Still,
            (DiskDone::Meta(meta), Some(entry)) => entry.version.drift(meta),
            _ => Drift::Changed,
        };
        file.has_grown |= drift.judge(self.no_growing)?;
        Ok(())
    }

    /// The next unsized file to be read to its end.
    pub fn next_unsized(&mut self) -> Option<StretchOrder> {
        while let Some(at) = self.files.unsized_ones.pop_front() {
            let file = self.files.open.get_mut(at);
            let is_new =
                |file: &&mut SourceFile| file.is_read() && file.is_unsized && file.orders == 0;
            if let Some(file) = file.filter(is_new) {
                file.orders += 1;
                return Some(StretchOrder {
                    file: at,
                    id: file.id,
                    entry: file.entry,
                });
            }
        }
        None
    }

    /// An unsized file was read to its end.
    pub(super) fn unsized_ended(
        &mut self,
        ports: &mut Ports,
        at: usize,
        size_bytes: u64,
        digest: Digest,
    ) {
        let file = &mut self.files.open[at];
        if file.state == SourceFileState::Over {
            return;
        }
        file.state = SourceFileState::Over;
        let id = file.entry;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = SentState::Emitted;
            entry.version.size_bytes = size_bytes;
        }
        self.tell(
            ports,
            &Message::End {
                entry: id,
                size_bytes,
                digest,
            },
        );
    }

    /// The next chunks that the receiver misses; those that are hole are said to be at once.
    pub fn next_large(&mut self, ports: &mut Ports) -> Option<LargeOrder> {
        let mut turn = 0;
        while let Some(&at) = self.files.active.get(turn) {
            let file = self.files.open.get_mut(at);
            // The number may be that of another file by now.
            let Some(file) = file.filter(|file| file.is_read() && !file.is_unsized) else {
                self.files.active.remove(turn);
                continue;
            };
            match file.next(at) {
                NextChunks::End => drop(self.files.active.remove(turn)),
                NextChunks::Unknown if file.is_looking => turn += 1,
                NextChunks::Unknown => {
                    file.is_looking = true;
                    let offset = chunk_offset(file.size_bytes, ChunkIndex(file.next));
                    let cmd = DiskOp::Map {
                        file: file.id,
                        offset,
                    };
                    self.ops.start(ports, SendPlanOp::Look { file: at }, cmd);
                    turn += 1;
                }
                NextChunks::Chunk(mut order) => {
                    order.kept = self.order_kept(order.entry, order.chunk);
                    return Some(LargeOrder::Chunk(order));
                }
                NextChunks::Holes { first, end } => {
                    let (entry, count) = (file.entry, end - first);
                    let chunks = ZeroChunks::new(file.size_bytes, first, end);
                    let holes = Message::Holes {
                        entry,
                        first,
                        count,
                    };
                    self.tell(ports, &holes);
                    return Some(LargeOrder::Holes(HolesOrder { file: at, chunks }));
                }
            }
        }
        None
    }

    /// It is known where a file has data.
    pub(super) fn file_looked_at(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        let file = &mut self.files.open[at];
        file.is_looking = false;
        match result {
            Ok(DiskDone::Mapped(map)) => file.map = Some(map),
            Ok(_) => debug_assert!(false, "the disk layer answered Map with something else"),
            Err(error) => self.fail_file(ports, at, source_error(&error)),
        }
        self.settle_file(ports, at);
    }

    pub(super) fn order_over(&mut self, ports: &mut Ports, at: usize) {
        self.files.open[at].orders -= 1;
        self.settle_file(ports, at);
    }

    /// Behind the last chunk: asks whether the source is still the same, or closes what is over.
    fn settle_file(&mut self, ports: &mut Ports, at: usize) {
        let Some(file) = self.files.open.get(at).filter(|file| file.orders == 0) else {
            return;
        };
        match file.state {
            SourceFileState::Reading if file.is_sent() => self.check_file(ports, at),
            SourceFileState::Over if !file.checking && !file.is_looking => {
                self.remember_file(ports, at);
                let file = self.files.open.remove(at);
                let cmd = DiskOp::CloseRead { file: file.id };
                self.ops.start(ports, SendPlanOp::Close, cmd);
            }
            SourceFileState::Opening
            | SourceFileState::Reading
            | SourceFileState::Checking
            | SourceFileState::Over => {}
        }
    }

    pub(super) fn check_file(&mut self, ports: &mut Ports, at: usize) {
        let file = &mut self.files.open[at];
        if file.state == SourceFileState::Reading {
            file.state = SourceFileState::Checking;
            file.checking = true;
            let cmd = DiskOp::Stat { file: file.id };
            self.ops.start(ports, SendPlanOp::Stat { file: at }, cmd);
        }
    }

    /// The answer to the check behind the last byte.
    pub(super) fn file_checked(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        let file = &mut self.files.open[at];
        file.checking = false;
        if file.state == SourceFileState::Over {
            return self.settle_file(ports, at);
        }
        if !file.again.is_empty() {
            file.state = SourceFileState::Reading;
            return self.files.active.push_back(at);
        }
        let id = file.entry;
        let judged = match result {
            Ok(done) => self.judge_file(at, &done),
            Err(error) => Err(source_error(&error)),
        };
        if let Err(error) = judged {
            return self.fail_file(ports, at, error);
        }
        let file = &mut self.files.open[at];
        file.state = SourceFileState::Over;
        file.is_vouched = true;
        let (has_grown, is_rooted) = (file.has_grown, file.is_rooted);
        let (mut root, mut agains, mut is_said) = (file.tree.root(), 0, is_rooted);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = SentState::Emitted;
            if has_grown && !is_rooted {
                self.odd_sizes.note(OddSize::Grown, || entry.path());
            }
            if let Some(kept) = &mut entry.sent.kept {
                is_said &= !kept.owes_root();
                (root, agains) = kept.say_root(file.size_bytes, root);
            }
        }
        match root {
            _ if is_said => {}
            Some(digest) => {
                let entry = id;
                let root = Message::Root {
                    entry,
                    digest,
                    has_grown,
                    agains,
                };
                self.tell(ports, &root);
            }
            None => {
                let file = at;
                self.commands
                    .push_back(SendCommand::Vouch { file, has_grown });
            }
        }
        self.settle_file(ports, at);
    }

    /// The source failed: tells the receiver and ends what is under way.
    pub(super) fn fail_file(&mut self, ports: &mut Ports, at: usize, error: EntryError) {
        if self.files.open[at].state != SourceFileState::Over {
            self.abort(ports, self.files.open[at].entry, error);
            self.cancel_file(ports, at);
        }
    }

    /// Ends what is under way for a file.
    pub(super) fn cancel_file(&mut self, ports: &mut Ports, at: usize) {
        let file = &mut self.files.open[at];
        let opening = file.state == SourceFileState::Opening;
        file.state = SourceFileState::Over;
        match (opening, file.orders) {
            (true, _) => {}
            (false, 0) => self.settle_file(ports, at),
            (false, _) => self.commands.push_back(SendCommand::Cancel { file: at }),
        }
    }
}
