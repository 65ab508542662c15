//! Data streams: records are parsed as they come, data goes to the disk at once and is hashed on
//! the way.

use bytes::Bytes;

use super::{Op, Receiver, State};
use crate::ids::{ChunkIndex, EntryId, StreamKey};
use crate::proto::integrity::{ChunkHasher, Digest, digest_of};
use crate::proto::manifest::chunk_offset;
use crate::proto::session::errors::{Violation, corrupted, violation};
use crate::proto::session::ports::Ports;
use crate::proto::wire::{Record, RecordHead, RecordParser, RecordStatus};
use crate::proto::{DiskDone, DiskError, DiskOp, PIECE_BYTES};

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
pub(super) struct Stream {
    parser: RecordParser,
    body: Body,
    /// What the world was told is best handed over together next.
    piece: Option<usize>,
}

/// The record a stream is in.
#[derive(Debug, Default)]
enum Body {
    #[default]
    Between,
    /// Of an entry that is resolved already: parsed and dropped.
    Unwanted,
    Whole {
        entry: EntryId,
        data: Vec<Bytes>,
    },
    Chunk {
        write: usize,
        offset: u64,
        /// Where the chunk ends.
        end: u64,
        hasher: ChunkHasher,
    },
}

impl Body {
    /// Bytes that would end the aligned piece of a chunk. None where any length is as good.
    fn piece_bytes(&self) -> Option<usize> {
        match self {
            Body::Chunk { offset, end, .. } if offset < end => {
                let piece_bytes = PIECE_BYTES as u64;
                Some((piece_bytes - offset % piece_bytes).min(end - offset) as usize)
            }
            Body::Chunk { .. } | Body::Between | Body::Unwanted | Body::Whole { .. } => None,
        }
    }
}

/// A chunk that is arriving or being written.
#[derive(Debug)]
pub(super) struct ChunkWrite {
    part: usize,
    /// Tells a part from a later one in the same slot.
    entry: EntryId,
    chunk: ChunkIndex,
    writes: u32,
    end: End,
}

/// How the record of a chunk ended.
#[derive(Debug)]
enum End {
    NotYet,
    /// Its digest is right: once all writes are done the chunk is there.
    Valid(Digest),
    /// The source failed, or this side did: never counts.
    Worthless,
}

impl Receiver {
    /// Bytes of a data stream.
    ///
    /// # Errors
    /// When they are not records, or records of nothing that was asked for.
    pub fn on_data(
        &mut self,
        ports: &mut Ports,
        key: StreamKey,
        mut bytes: Bytes,
        fin: bool,
    ) -> Result<(), Violation> {
        if self.stop != super::Stop::No {
            return Ok(());
        }
        let mut stream = self.streams.remove(&key).unwrap_or_default();
        if self.streams.len() >= MAX_STREAMS {
            return violation("too many data streams at once");
        }
        while let Some(record) = stream
            .parser
            .next(&mut bytes)
            .map_err(|error| Violation(error.to_string()))?
        {
            match record {
                Record::Begin(head) => stream.body = self.begin(head)?,
                Record::Data(data) => self.take_data(ports, &mut stream.body, data),
                Record::End { status, digest } => {
                    let body = std::mem::take(&mut stream.body);
                    self.end_record(ports, body, status, digest);
                }
            }
        }
        if fin && !stream.parser.is_between_records() {
            return violation("a data stream ended inside a record");
        }
        let piece = stream.body.piece_bytes();
        if std::mem::replace(&mut stream.piece, piece) != piece {
            ports.piece(key, piece);
        }
        if !fin {
            self.streams.insert(key, stream);
        }
        Ok(())
    }

    /// The session stops: nothing of the streams is wanted any more.
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

    /// A record begins: it must be one that was asked for, of the length that was announced.
    fn begin(&mut self, head: RecordHead) -> Result<Body, Violation> {
        let id = head.entry();
        let Some(entry) = self.entries.get_mut(&id) else {
            self.known_or_violation(id)?;
            return Ok(Body::Unwanted);
        };
        match (head, entry.state) {
            (RecordHead::Whole { len_bytes, .. }, State::Wanted)
                if len_bytes == entry.size_bytes =>
            {
                entry.state = State::Arriving;
                self.wholes += 1;
                if self.wholes > MAX_WHOLES {
                    return violation("too many small files arriving at once");
                }
                Ok(Body::Whole {
                    entry: id,
                    data: Vec::new(),
                })
            }
            (
                RecordHead::Chunk {
                    chunk, len_bytes, ..
                },
                State::Part(part),
            ) => {
                let size_bytes = entry.size_bytes;
                self.claim_chunk(part, chunk, len_bytes)?;
                let write = ChunkWrite {
                    part,
                    entry: id,
                    chunk,
                    writes: 0,
                    end: End::NotYet,
                };
                let offset = chunk_offset(size_bytes, chunk);
                let hasher = ChunkHasher::new(chunk, size_bytes);
                let end = offset + len_bytes;
                Ok(Body::Chunk {
                    write: self.writes.insert(write),
                    offset,
                    end,
                    hasher,
                })
            }
            _ => violation(format!(
                "data of entry {} that was not asked for, or of another length",
                id.0
            )),
        }
    }

    fn take_data(&mut self, ports: &mut Ports, body: &mut Body, piece: Bytes) {
        let len = piece.len() as u64;
        self.received_bytes += len;
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
                self.arriving_bytes += len;
            }
            Body::Chunk {
                write,
                offset,
                hasher,
                ..
            } => {
                let at = &mut self.writes[*write];
                let Some(file) = self
                    .parts
                    .get_mut(at.part)
                    .and_then(|part| part.begin_write(at.entry))
                else {
                    return;
                };
                hasher.update(&piece);
                at.writes += 1;
                self.write_behind_bytes += len;
                let op = Op::Write {
                    part: at.part,
                    write: *write,
                    bytes: len,
                };
                self.ops.start(
                    ports,
                    op,
                    DiskOp::Write {
                        file,
                        offset: *offset,
                        data: piece,
                    },
                );
                *offset += len;
            }
            Body::Between | Body::Unwanted => {}
        }
    }

    fn end_record(&mut self, ports: &mut Ports, body: Body, status: RecordStatus, digest: Digest) {
        match body {
            Body::Between | Body::Unwanted => {}
            Body::Whole { entry, data } => {
                self.wholes -= 1;
                self.arriving_bytes -= data.iter().map(|piece| piece.len() as u64).sum::<u64>();
                self.end_whole(ports, entry, data, status, digest);
            }
            Body::Chunk { write, hasher, .. } => {
                let (part, entry) = (self.writes[write].part, self.writes[write].entry);
                let live = self.parts.get(part).is_some_and(|part| part.is_live(entry));
                self.writes[write].end = match status {
                    RecordStatus::Valid if live && hasher.finish() == digest => End::Valid(digest),
                    RecordStatus::Valid if live => {
                        self.fail_part(ports, part, corrupted(self.host), false);
                        End::Worthless
                    }
                    RecordStatus::Valid | RecordStatus::SourceFailed => End::Worthless,
                };
                self.settle_write(ports, write);
            }
        }
    }

    fn end_whole(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        data: Vec<Bytes>,
        status: RecordStatus,
        digest: Digest,
    ) {
        let arriving = self
            .entries
            .get(&id)
            .is_some_and(|entry| entry.state == State::Arriving);
        match (arriving, status) {
            (true, RecordStatus::Valid) if digest_of_pieces(&data) == digest => {
                self.write_behind_bytes += data.iter().map(|piece| piece.len() as u64).sum::<u64>();
                self.put_small(ports, id, data);
            }
            (true, RecordStatus::Valid) => self.fail(ports, id, corrupted(self.host)),
            (true, RecordStatus::SourceFailed) => {
                // Its abort comes on the control stream.
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.state = State::Wanted;
                }
            }
            (false, _) => {}
        }
    }

    /// A write of a chunk ended.
    pub(super) fn chunk_written(
        &mut self,
        ports: &mut Ports,
        part: usize,
        write: usize,
        bytes: u64,
        result: Result<DiskDone, DiskError>,
    ) {
        self.write_behind_bytes -= bytes;
        self.writes[write].writes -= 1;
        self.part_op_ended(part);
        if let Err(error) = result {
            self.writes[write].end = match self.writes[write].end {
                End::NotYet => End::NotYet,
                End::Valid(_) | End::Worthless => End::Worthless,
            };
            self.write_failed(ports, part, &error);
        }
        self.settle_write(ports, write);
        self.settle_part(ports, part);
    }

    /// Counts a chunk whose record ended well and whose writes are all done.
    fn settle_write(&mut self, ports: &mut Ports, at: usize) {
        let write = &self.writes[at];
        if write.writes > 0 || (matches!(write.end, End::NotYet) && self.stop == super::Stop::No) {
            return;
        }
        let write = self.writes.remove(at);
        if let End::Valid(digest) = write.end
            && self
                .parts
                .get(write.part)
                .is_some_and(|part| part.is_live(write.entry))
        {
            self.chunk_done(ports, write.part, write.chunk, digest);
        }
    }
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
