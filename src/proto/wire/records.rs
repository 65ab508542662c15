//! Data stream records: whole small files and chunks of large ones, parsed as they arrive, data
//! never copied.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{WireError, get_varint, put_varint};
use crate::ids::{ChunkIndex, EntryId};
use crate::proto::PIECE_BYTES;
use crate::proto::chunk::SMALL_MAX_BYTES;
use crate::proto::integrity::Digest;

/// Longest record head: kind, then three varints of eight bytes.
const HEAD_MAX_BYTES: usize = 25;

/// Status and digest behind the data.
const TAIL_BYTES: usize = 33;

/// What a record says before its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordHead {
    /// A whole small file of at most [`SMALL_MAX_BYTES`].
    Whole { entry: EntryId, len_bytes: u64 },
    /// One chunk of a larger file. The length is the peer's word: compare it with the chunk's true
    /// one.
    Chunk {
        entry: EntryId,
        chunk: ChunkIndex,
        len_bytes: u64,
    },
    /// What one read of an unsized file brought, at most [`PIECE_BYTES`] of it.
    Stretch {
        entry: EntryId,
        offset: u64,
        len_bytes: u64,
    },
}

impl RecordHead {
    pub fn entry(&self) -> EntryId {
        match *self {
            RecordHead::Whole { entry, .. }
            | RecordHead::Chunk { entry, .. }
            | RecordHead::Stretch { entry, .. } => entry,
        }
    }

    pub fn len_bytes(&self) -> u64 {
        match *self {
            RecordHead::Whole { len_bytes, .. }
            | RecordHead::Chunk { len_bytes, .. }
            | RecordHead::Stretch { len_bytes, .. } => len_bytes,
        }
    }

    pub fn encode(&self, out: &mut BytesMut) {
        match *self {
            RecordHead::Whole { entry, len_bytes } => {
                out.put_u8(1);
                put_varint(out, u64::from(entry.0));
                put_varint(out, len_bytes);
            }
            RecordHead::Chunk {
                entry,
                chunk,
                len_bytes,
            } => {
                out.put_u8(2);
                put_varint(out, u64::from(entry.0));
                put_varint(out, u64::from(chunk.0));
                put_varint(out, len_bytes);
            }
            RecordHead::Stretch {
                entry,
                offset,
                len_bytes,
            } => {
                out.put_u8(4);
                put_varint(out, u64::from(entry.0));
                put_varint(out, offset);
                put_varint(out, len_bytes);
            }
        }
    }

    /// Reads a head off the front; `None` when more bytes are needed.
    fn decode(bytes: &[u8]) -> Result<Option<(RecordHead, usize)>, WireError> {
        let Some(&kind) = bytes.first() else {
            return Ok(None);
        };
        let count = match kind {
            1 => 2,
            2 | 4 => 3,
            _ => return Err(WireError::Record("unknown record kind")),
        };
        let (mut at, mut values) = (1, [0u64; 3]);
        for value in &mut values[..count] {
            let Some((got, len)) = get_varint(&bytes[at..]) else {
                return Ok(None);
            };
            *value = got;
            at += len;
        }
        let narrow = |value: u64, what| u32::try_from(value).map_err(|_| WireError::Record(what));
        let entry = EntryId(narrow(values[0], "entry number above 32 bits")?);
        if kind == 2 {
            let chunk = ChunkIndex(narrow(values[1], "chunk number above 32 bits")?);
            return Ok(Some((
                RecordHead::Chunk {
                    entry,
                    chunk,
                    len_bytes: values[2],
                },
                at,
            )));
        }
        if kind == 4 {
            let (offset, len_bytes) = (values[1], values[2]);
            if !(1..=PIECE_BYTES as u64).contains(&len_bytes) {
                return Err(WireError::Record("a stretch of no bytes, or of too many"));
            }
            return Ok(Some((
                RecordHead::Stretch {
                    entry,
                    offset,
                    len_bytes,
                },
                at,
            )));
        }
        if values[1] > SMALL_MAX_BYTES {
            return Err(WireError::Record("whole file above the size of small ones"));
        }
        Ok(Some((
            RecordHead::Whole {
                entry,
                len_bytes: values[1],
            },
            at,
        )))
    }
}

/// How the data of a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordStatus {
    Valid,
    /// Valid, of a small file, or the only chunk of a file, that grew while it was read: what it
    /// held as it was announced.
    ValidPrefix,
    /// The source failed while it was read; the rest of the data is filler and the digest means
    /// nothing.
    SourceFailed,
}

/// Appends what follows a record's data.
pub fn encode_record_tail(status: RecordStatus, digest: &Digest, out: &mut BytesMut) {
    out.put_u8(match status {
        RecordStatus::Valid => 0,
        RecordStatus::SourceFailed => 1,
        RecordStatus::ValidPrefix => 2,
    });
    out.put_slice(digest);
}

/// A piece of a data stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Begin(RecordHead),
    /// The next bytes of the record begun; never empty, a slice of what was fed.
    Data(Bytes),
    /// The root digest of a whole file, single-chunk file or stretch, else the chunk's chaining
    /// value.
    End {
        status: RecordStatus,
        digest: Digest,
    },
}

/// Parses one data stream. Holds at most a partial head or tail.
#[derive(Debug, Default)]
pub struct RecordParser {
    state: RecordState,
}

#[derive(Debug)]
enum RecordState {
    /// Before a record (`len` 0) or within its head. Next: Data.
    Head {
        buf: [u8; HEAD_MAX_BYTES],
        len: usize,
    },
    /// `left_bytes` of data to come. Next: Tail.
    Data { left_bytes: u64 },
    /// Within status and digest. Next: Head.
    Tail { buf: [u8; TAIL_BYTES], len: usize },
}

impl Default for RecordState {
    fn default() -> RecordState {
        RecordState::Head {
            buf: [0; HEAD_MAX_BYTES],
            len: 0,
        }
    }
}

impl RecordParser {
    /// Takes the next piece off the front of `input`; `None` when all of `input` is used up and
    /// more is needed.
    ///
    /// # Errors
    /// [`WireError::Record`]; the stream cannot be parsed further.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Record>, WireError> {
        match &mut self.state {
            RecordState::Head { buf, len } => {
                if input.is_empty() {
                    return Ok(None);
                }
                let had = *len;
                let take = input.len().min(HEAD_MAX_BYTES - had);
                buf[had..had + take].copy_from_slice(&input[..take]);
                let Some((head, used)) = RecordHead::decode(&buf[..had + take])? else {
                    // A head never needs more than HEAD_MAX_BYTES, so all of the input was taken.
                    *len += take;
                    input.advance(take);
                    return Ok(None);
                };
                input.advance(used - had);
                self.state = match head.len_bytes() {
                    0 => RecordState::Tail {
                        buf: [0; TAIL_BYTES],
                        len: 0,
                    },
                    left_bytes => RecordState::Data { left_bytes },
                };
                Ok(Some(Record::Begin(head)))
            }
            RecordState::Data { left_bytes } => {
                if input.is_empty() {
                    return Ok(None);
                }
                let take = (input.len() as u64).min(*left_bytes);
                let data = input.split_to(take as usize);
                *left_bytes -= take;
                if *left_bytes == 0 {
                    self.state = RecordState::Tail {
                        buf: [0; TAIL_BYTES],
                        len: 0,
                    };
                }
                Ok(Some(Record::Data(data)))
            }
            RecordState::Tail { buf, len } => {
                let take = input.len().min(TAIL_BYTES - *len);
                buf[*len..*len + take].copy_from_slice(&input[..take]);
                *len += take;
                input.advance(take);
                if *len < TAIL_BYTES {
                    return Ok(None);
                }
                let status = match buf[0] {
                    0 => RecordStatus::Valid,
                    1 => RecordStatus::SourceFailed,
                    2 => RecordStatus::ValidPrefix,
                    _ => return Err(WireError::Record("unknown record status")),
                };
                let mut digest = [0; 32];
                digest.copy_from_slice(&buf[1..]);
                self.state = RecordState::default();
                Ok(Some(Record::End { status, digest }))
            }
        }
    }

    /// Whether the stream may end here: no record was cut short.
    pub fn is_between_records(&self) -> bool {
        matches!(self.state, RecordState::Head { len: 0, .. })
    }
}
