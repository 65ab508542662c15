//! Data streams: records are parsed as they come, data goes to the disk at once and is hashed on
//! the way.

use bytes::Bytes;

use super::{
    ArrivingChunk, ChunkEnd, ReceiveMover, ReceiveMoverOp, RecordPlace, Taking, TakingPart,
    WholeState,
};
use crate::ids::{ChunkIndex, EntryId, StreamKey, WorkerId};
use crate::proto::chunk::chunk_offset;
use crate::proto::errors::{Violation, violation};
use crate::proto::integrity::{ChunkHasher, Digest, digest_of};
use crate::proto::ports::Ports;
use crate::proto::receive::orders::{ReceiveReport, SmallFile};
use crate::proto::wire::{Record, RecordHead, RecordParser, RecordStatus};
use crate::proto::{DiskOp, PIECE_BYTES};

/// Chunks of a session that came in the clear and are asked for again, for the sender may remember
/// them wrongly. More than that are the wire's doing: an answer that somebody delays would else
/// have the sender be asked for more than it takes ([`crate::proto::send`]: 8,192 of a file).
const DOUBTED_MAX: u32 = 4096;

/// Data streams with unfinished business at a time. A sender uses 16 and may have as many more
/// ended but not arrived; a lane advertises 512, and state per stream is what a hostile one could
/// pile up.
const MAX_STREAMS: usize = 512;

/// Small files arriving at a time. They are not write-behind until they are whole, for if that
/// stopped the reading they would never be; so this bounds them, to 4 MiB. A sender packs them on
/// one stream at a time, of 4 MiB each, and of those only a few can be under way at once.
const MAX_WHOLES: usize = 64;

/// Pieces of a small file before they are copied together; it usually comes in one or two.
const WHOLE_PIECES_MAX: usize = 32;

/// One data stream of the sender.
#[derive(Debug, Default)]
pub(super) struct DataStream {
    parser: RecordParser,
    body: Body,
    /// What the world was told is best handed over together next.
    piece: Option<usize>,
    /// Whole ones so far.
    records: u32,
    /// What came of the record that it is in is not what was sent: nothing more of it counts.
    is_altered: bool,
}

/// Bytes of a data stream.
#[derive(Debug)]
pub(super) struct Arrived {
    key: StreamKey,
    pub(super) bytes: Bytes,
    fin: bool,
}

/// What became of the beginning of a record.
enum Begun {
    Body(Body),
    /// Whether it is wanted is not known here.
    Asked,
}

/// The record a stream is in.
#[derive(Debug, Default)]
enum Body {
    #[default]
    Between,
    /// Of an entry that there is no order for: parsed and dropped.
    Unwanted,
    Whole {
        entry: EntryId,
        data: Vec<Bytes>,
    },
    Chunk {
        /// Of `ReceiveMover::chunks`.
        chunk: usize,
        offset: u64,
        /// That came of it, and of its holes.
        bytes: u64,
        hole_bytes: u64,
        hasher: ChunkHasher,
    },
}

impl DataStream {
    /// Bytes here of a small file that is arriving.
    #[cfg(test)]
    pub(super) fn arriving(&self) -> Option<u64> {
        match &self.body {
            Body::Whole { data, .. } => Some(bytes_of(data)),
            Body::Between | Body::Unwanted | Body::Chunk { .. } => None,
        }
    }
}

impl Body {
    /// Bytes that would end the aligned piece of a chunk, of `next_bytes` that come. None where any
    /// length is as good.
    fn piece_bytes(&self, next_bytes: u64) -> Option<usize> {
        match self {
            Body::Chunk { offset, .. } if next_bytes > 0 => {
                let piece_bytes = PIECE_BYTES as u64;
                Some((piece_bytes - offset % piece_bytes).min(next_bytes) as usize)
            }
            Body::Chunk { .. } | Body::Between | Body::Unwanted | Body::Whole { .. } => None,
        }
    }
}

impl ReceiveMover {
    /// Bytes of a data stream.
    ///
    /// # Errors
    /// When they are not records, or not of what was ordered.
    pub fn on_data(
        &mut self,
        ports: &mut Ports,
        key: StreamKey,
        bytes: Bytes,
        fin: bool,
    ) -> Result<(), Violation> {
        if self.is_stopped {
            return Ok(());
        }
        self.flow.backlog_bytes += bytes.len() as u64;
        self.backlog.push_back(Arrived { key, bytes, fin });
        if self.is_held_up() {
            return Ok(());
        }
        self.go_on(ports)
    }

    /// Takes what waits, as far as that goes.
    pub(super) fn go_on(&mut self, ports: &mut Ports) -> Result<(), Violation> {
        self.take_arrived(ports)?;
        self.hash_hole_in_chunk(ports)
    }

    /// Takes what arrived, in order, up to a hole, or to what is not known to be wanted.
    pub(super) fn take_arrived(&mut self, ports: &mut Ports) -> Result<(), Violation> {
        while !self.is_held_up()
            && let Some(arrived) = self.backlog.pop_front()
        {
            self.flow.backlog_bytes -= arrived.bytes.len() as u64;
            self.take_stream(ports, arrived)?;
        }
        Ok(())
    }

    fn take_stream(&mut self, ports: &mut Ports, arrived: Arrived) -> Result<(), Violation> {
        let Arrived {
            key,
            mut bytes,
            fin,
        } = arrived;
        let mut stream = self.streams.remove(&key).unwrap_or_default();
        if stream.is_altered {
            self.streams.insert(key, stream);
            return Ok(());
        }
        if self.streams.len() >= MAX_STREAMS {
            return violation("too many data streams at once");
        }
        while let Some(record) = stream
            .parser
            .next(&mut bytes)
            .map_err(|error| Violation(error.to_string()))?
        {
            match record {
                Record::Begin(head) => match self.begin(head)? {
                    Begun::Body(body) => stream.body = body,
                    Begun::Asked => {
                        self.await_answer(key, head);
                        self.put_back((key, stream), bytes, fin);
                        return Ok(());
                    }
                },
                Record::Data(data) => self.take_data(ports, &mut stream.body, data),
                Record::Hole(len_bytes) => {
                    self.put_back((key, stream), bytes, fin);
                    self.begin_hole(ports, key, len_bytes);
                    return Ok(());
                }
                Record::End { status, digest }
                    if key.came_in_the_clear() && self.is_altered(&stream.body, status, digest) =>
                {
                    stream.is_altered = true;
                    self.streams.insert(key, stream);
                    ports.altered();
                    return Ok(());
                }
                Record::End { status, digest } => {
                    stream.records += 1;
                    ports.received_record();
                    let body = std::mem::take(&mut stream.body);
                    self.end_record(ports, body, status, digest)?;
                }
            }
        }
        if fin && !stream.parser.is_between_records() {
            return violation("a data stream ended inside a record");
        }
        let next_bytes = stream.parser.data_bytes();
        let piece = stream.body.piece_bytes(next_bytes);
        if std::mem::replace(&mut stream.piece, piece) != piece {
            ports.piece(key, piece);
        }
        if !fin {
            self.streams.insert(key, stream);
        }
        Ok(())
    }

    /// Whether data of a file is not what its sender sent.
    fn is_altered(&mut self, body: &Body, status: RecordStatus, digest: Digest) -> bool {
        let Body::Chunk { chunk, hasher, .. } = body else {
            return false;
        };
        // Data that nobody wants any more is not hashed.
        let entry = self.chunks[*chunk].entry;
        let is_open = self.is_part_open(entry);
        let is_wrong = is_open && status != RecordStatus::SourceFailed && hasher.finish() != digest;
        // It may be the sender that remembers a wrong value: it tells which of the two it was, once
        // it was asked for the chunk again.
        let is_doubted = is_wrong && status.is_kept() && self.doubted < DOUBTED_MAX;
        self.doubted += u32::from(is_doubted);
        is_wrong && !is_doubted
    }

    /// What came on a stream is not what was sent.
    pub(super) fn was_altered(&self, key: StreamKey) -> bool {
        self.streams
            .get(&key)
            .is_some_and(|stream| stream.is_altered)
    }

    /// What a stream brought waits.
    fn put_back(&mut self, (key, stream): (StreamKey, DataStream), bytes: Bytes, fin: bool) {
        self.streams.insert(key, stream);
        self.flow.backlog_bytes += bytes.len() as u64;
        self.backlog.push_front(Arrived { key, bytes, fin });
    }

    /// The record that a stream waits to begin is one of this, or of nothing that is wanted.
    pub(super) fn begin_answered(
        &mut self,
        key: StreamKey,
        head: RecordHead,
        is_wanted: bool,
    ) -> Result<(), Violation> {
        let body = match is_wanted {
            true => self.begin(head)?,
            false => Begun::Body(Body::Unwanted),
        };
        if let (Some(stream), Begun::Body(body)) = (self.streams.get_mut(&key), body) {
            stream.body = body;
        }
        Ok(())
    }

    /// The chunk that a stream is in, and how far.
    pub(super) fn chunk_of(&self, key: StreamKey) -> Option<(usize, u64)> {
        match self.streams.get(&key).map(|stream| &stream.body) {
            Some(Body::Chunk { chunk, offset, .. }) => Some((*chunk, *offset)),
            _ => None,
        }
    }

    /// So many zeros of a hole in the chunk that a stream is in.
    pub(super) fn pass_zeros(&mut self, key: StreamKey, len_bytes: u64) {
        let stream = self.streams.get_mut(&key);
        if let Some(Body::Chunk {
            offset,
            hole_bytes,
            hasher,
            ..
        }) = stream.map(|stream| &mut stream.body)
        {
            hasher.update_zeros(len_bytes);
            *offset += len_bytes;
            *hole_bytes += len_bytes;
        }
    }

    /// A stream does not go on. What half arrived on it is dropped, and may come again. Gives how
    /// many whole records were taken of it.
    pub(super) fn drop_stream(&mut self, key: StreamKey) -> u32 {
        let Some(stream) = self.streams.remove(&key) else {
            return 0;
        };
        match stream.body {
            Body::Between | Body::Unwanted => {}
            Body::Whole { entry, data } => {
                let bytes = bytes_of(&data);
                self.wholes -= 1;
                self.flow.arriving_bytes -= bytes;
                self.flow.received_bytes -= bytes;
                if let Some(Taking::Whole(_, state @ WholeState::Arriving)) =
                    self.taking.get_mut(&entry)
                {
                    *state = WholeState::Asked;
                }
            }
            Body::Chunk {
                chunk,
                bytes,
                hole_bytes,
                ..
            } => {
                self.flow.received_bytes -= bytes;
                self.flow.hole_bytes -= hole_bytes;
                self.chunks[chunk].end = ChunkEnd::Dropped;
                self.dropped += 1;
                self.settle_chunk(chunk);
            }
        }
        stream.records
    }

    /// Nothing of the streams is wanted any more.
    pub(super) fn drop_streams(&mut self, ports: &mut Ports) {
        let mut asked: Vec<StreamKey> = self
            .streams
            .drain()
            .filter_map(|(key, stream)| stream.piece.and(Some(key)))
            .collect();
        // In an order that does not hang on how the table hashes.
        asked.sort_unstable_by_key(|key| key.0);
        asked.into_iter().for_each(|key| ports.piece(key, None));
    }

    /// A record begins: it must be one that was ordered, of the length that was announced.
    fn begin(&mut self, head: RecordHead) -> Result<Begun, Violation> {
        let entry = head.entry();
        let body = match (head, self.taking.get_mut(&entry)) {
            (RecordHead::Whole { .. }, None) if self.away.is_some() => {
                let data = Vec::new();
                self.count_whole()?;
                Body::Whole { entry, data }
            }
            (RecordHead::Chunk { .. }, None) if self.away.is_some() => return Ok(Begun::Asked),
            // None travels on an added lane.
            (RecordHead::Stretch { .. }, None) if self.away.is_some() => {
                return not_asked_for(entry);
            }
            (_, None) => {
                self.unasked.push(entry);
                Body::Unwanted
            }
            (_, Some(Taking::Part(TakingPart { is_left: true, .. }))) => Body::Unwanted,
            (
                RecordHead::Whole { len_bytes, .. },
                Some(Taking::Whole(order, state @ WholeState::Asked)),
            ) if len_bytes <= order.size_bytes => {
                *state = WholeState::Arriving;
                let data = Vec::new();
                self.count_whole()?;
                Body::Whole { entry, data }
            }
            (
                RecordHead::Chunk {
                    chunk,
                    len_bytes,
                    has_holes,
                    ..
                },
                Some(Taking::Part(taking)),
            ) if taking.order.content.is_sparse() || !has_holes => {
                let size_bytes = taking.claim(chunk, len_bytes)?;
                let offset = chunk_offset(size_bytes, chunk);
                let hasher = ChunkHasher::new(chunk, size_bytes);
                let part = taking.order.part;
                self.arrive((entry, part), RecordPlace::Chunk(chunk), offset, hasher)
            }
            (
                RecordHead::Stretch {
                    offset, len_bytes, ..
                },
                Some(Taking::Part(taking)),
            ) => {
                taking.claim_stretch(offset, len_bytes)?;
                // As the only chunk of a file of its own.
                let hasher = ChunkHasher::new(ChunkIndex(0), len_bytes);
                let (part, place) = (
                    taking.order.part,
                    RecordPlace::Stretch { offset, len_bytes },
                );
                self.arrive((entry, part), place, offset, hasher)
            }
            _ => return not_asked_for(entry),
        };
        Ok(Begun::Body(body))
    }

    /// A small file begins to arrive.
    fn count_whole(&mut self) -> Result<(), Violation> {
        self.wholes += 1;
        match self.wholes > MAX_WHOLES {
            true => violation("too many small files arriving at once"),
            false => Ok(()),
        }
    }

    /// The data of a chunk or stretch begins.
    fn arrive(
        &mut self,
        (entry, part): (EntryId, usize),
        place: RecordPlace,
        offset: u64,
        hasher: ChunkHasher,
    ) -> Body {
        let chunk = self.chunks.insert(ArrivingChunk {
            entry,
            part,
            place,
            writes: 0,
            end: ChunkEnd::NotYet,
        });
        Body::Chunk {
            chunk,
            offset,
            bytes: 0,
            hole_bytes: 0,
            hasher,
        }
    }

    fn is_part_open(&self, entry: EntryId) -> bool {
        matches!(self.taking.get(&entry), Some(Taking::Part(taking)) if !taking.is_left)
    }

    /// The partial file that data of an entry still goes into.
    pub(super) fn open_part(&mut self, entry: EntryId) -> Option<&mut TakingPart> {
        match self.taking.get_mut(&entry) {
            Some(Taking::Part(taking)) if !taking.is_left => Some(taking),
            _ => None,
        }
    }

    fn take_data(&mut self, ports: &mut Ports, body: &mut Body, piece: Bytes) {
        let len = piece.len() as u64;
        self.flow.received_bytes += len;
        match body {
            Body::Whole { data, .. } => {
                // Arriving byte by byte, a file must not cost a hundred times its size in
                // bookkeeping, nor hold a buffer per byte.
                if data.len() == WHOLE_PIECES_MAX {
                    let joined = Bytes::from(data.concat());
                    data.clear();
                    data.push(joined);
                }
                data.push(piece);
                self.flow.arriving_bytes += len;
            }
            Body::Chunk {
                chunk,
                offset,
                bytes,
                hasher,
                ..
            } => {
                *bytes += len;
                let entry = self.chunks[*chunk].entry;
                let Some(taking) = self.open_part(entry) else {
                    return;
                };
                taking.writes += 1;
                let file = taking.order.file;
                hasher.update(&piece);
                self.chunks[*chunk].writes += 1;
                self.flow.begin_write(len);
                let op = ReceiveMoverOp::Write {
                    entry,
                    chunk: *chunk,
                    bytes: len,
                };
                let cmd = DiskOp::Write {
                    file,
                    offset: *offset,
                    data: piece,
                };
                self.ops.start(ports, op, cmd);
                *offset += len;
            }
            Body::Between | Body::Unwanted => {}
        }
    }

    fn end_record(
        &mut self,
        ports: &mut Ports,
        body: Body,
        status: RecordStatus,
        digest: Digest,
    ) -> Result<(), Violation> {
        match body {
            Body::Between | Body::Unwanted => {}
            Body::Chunk { .. } if status == RecordStatus::ValidShort => {
                return violation("a chunk that is said to be a short file");
            }
            Body::Whole { .. } if status.is_kept() => {
                return violation("a small file that is said to be remembered");
            }
            Body::Chunk { chunk, .. }
                if status.is_kept()
                    && !matches!(self.chunks[chunk].place, RecordPlace::Chunk(_)) =>
            {
                return violation("a stretch that is said to be remembered");
            }
            Body::Whole { entry, data } => {
                self.wholes -= 1;
                self.flow.arriving_bytes -= bytes_of(&data);
                return self.end_whole(ports, entry, data, (status, digest));
            }
            Body::Chunk {
                chunk,
                hasher,
                bytes,
                hole_bytes,
                ..
            } => {
                let ArrivingChunk { entry, part, .. } = self.chunks[chunk];
                let is_open = self.open_part(entry).is_some();
                let (has_grown, is_kept) = (status.has_grown(), status.is_kept());
                self.chunks[chunk].end = match is_open && status != RecordStatus::SourceFailed {
                    true if hasher.finish() == digest => {
                        let value = digest;
                        ChunkEnd::Valid {
                            value,
                            has_grown,
                            is_kept,
                        }
                    }
                    true if is_kept => {
                        self.flow.received_bytes -= bytes;
                        self.flow.hole_bytes -= hole_bytes;
                        ChunkEnd::Mistaken
                    }
                    true => {
                        self.reports
                            .push_back(ReceiveReport::ChunkCorrupted { part });
                        ChunkEnd::Worthless
                    }
                    false => ChunkEnd::Worthless,
                };
                self.settle_chunk(chunk);
            }
        }
        Ok(())
    }

    fn end_whole(
        &mut self,
        ports: &mut Ports,
        entry: EntryId,
        data: Vec<Bytes>,
        (status, digest): (RecordStatus, Digest),
    ) -> Result<(), Violation> {
        // Its abort comes on the control stream.
        let has_failed = status == RecordStatus::SourceFailed;
        let small = SmallFile {
            entry,
            is_right: !has_failed && digest_of_pieces(&data) == digest,
            data,
            status,
        };
        if self.away.is_some() {
            if !has_failed {
                self.hand_over(small);
            }
            return Ok(());
        }
        match self.taking.get_mut(&entry) {
            Some(Taking::Whole(_, state @ WholeState::Arriving)) if has_failed => {
                *state = WholeState::Asked;
                Ok(())
            }
            Some(Taking::Whole(_, WholeState::Arriving)) => self.settle_whole(ports, small, None),
            _ => Ok(()),
        }
    }

    /// All of a small file that was ordered is here. `from`: where it arrived, if not here.
    pub(super) fn settle_whole(
        &mut self,
        ports: &mut Ports,
        small: SmallFile,
        from: Option<(WorkerId, u64)>,
    ) -> Result<(), Violation> {
        let SmallFile {
            entry,
            data,
            status,
            is_right,
        } = small;
        let Some(Taking::Whole(order, _)) = self.taking.get(&entry) else {
            return Ok(());
        };
        // A file that lost its end on the way must not pass for one.
        let is_short = bytes_of(&data) < order.size_bytes;
        if is_short != (status == RecordStatus::ValidShort) {
            return violation(format!("data of entry {} of another length", entry.0));
        }
        if is_right {
            let has_grown = status.has_grown();
            self.put(ports, entry, (data, has_grown), from);
        } else {
            from.into_iter()
                .for_each(|(worker, bytes)| self.from_away.put(worker, bytes));
            self.taking.remove(&entry);
            self.reports.push_back(ReceiveReport::Corrupted { entry });
        }
        Ok(())
    }
}

/// A record of what may not come.
pub(super) fn not_asked_for<T>(entry: EntryId) -> Result<T, Violation> {
    violation(format!(
        "data of entry {} that was not asked for, or of another length",
        entry.0
    ))
}

pub(super) fn bytes_of(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

fn digest_of_pieces(pieces: &[Bytes]) -> Digest {
    match pieces {
        [] => digest_of(&[]),
        [whole] => digest_of(whole),
        several => {
            let mut hasher = blake3::Hasher::new();
            several.iter().for_each(|piece| {
                hasher.update(piece);
            });
            *hasher.finalize().as_bytes()
        }
    }
}
