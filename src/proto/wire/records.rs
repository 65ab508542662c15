//! Data stream records: whole small files and chunks of large ones, parsed as they arrive, data
//! never copied.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{WireError, get_varint, put_varint};
use crate::ids::{ChunkIndex, EntryId};
use crate::proto::PIECE_BYTES;
use crate::proto::chunk::SMALL_MAX_BYTES;
use crate::proto::extents::BLOCK_BYTES;
use crate::proto::integrity::Digest;

/// Longest record head: kind, then three varints of eight bytes.
const HEAD_MAX_BYTES: usize = 25;

/// Longest begin of a run: two varints of eight bytes.
const RUN_MAX_BYTES: usize = 16;

/// Status and digest behind the data.
const TAIL_BYTES: usize = 33;

/// What a record says before its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordHead {
    /// A whole small file of at most [`SMALL_MAX_BYTES`].
    Whole { entry: EntryId, len_bytes: u64 },
    /// One chunk of a larger file. The length is the peer's word: compare it with the chunk's true
    /// one. `has_holes`: the data comes in runs, with holes between them.
    Chunk {
        entry: EntryId,
        chunk: ChunkIndex,
        len_bytes: u64,
        has_holes: bool,
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
                has_holes,
            } => {
                out.put_u8(if has_holes { 3 } else { 2 });
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
            2..=4 => 3,
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
        if kind == 2 || kind == 3 {
            let chunk = ChunkIndex(narrow(values[1], "chunk number above 32 bits")?);
            return Ok(Some((
                RecordHead::Chunk {
                    entry,
                    chunk,
                    len_bytes: values[2],
                    has_holes: kind == 3,
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

/// Begins a run of a chunk with holes: so many zeros that are not sent, then so many bytes that
/// are. All are whole blocks, but for what ends with the chunk.
pub fn encode_run(hole_bytes: u64, data_bytes: u64, out: &mut BytesMut) {
    put_varint(out, hole_bytes);
    put_varint(out, data_bytes);
}

/// Reads the begin of a run off the front, where `left_bytes` of the chunk are to come; `None` when
/// more bytes are needed.
fn decode_run(bytes: &[u8], left_bytes: u64) -> Result<Option<(u64, u64, usize)>, WireError> {
    let Some((hole_bytes, hole_len)) = get_varint(bytes) else {
        return Ok(None);
    };
    let Some((data_bytes, data_len)) = get_varint(&bytes[hole_len..]) else {
        return Ok(None);
    };
    // Two values of 62 bits do not overflow.
    let run_bytes = hole_bytes + data_bytes;
    let is_whole = |bytes: u64, to: u64| bytes.is_multiple_of(BLOCK_BYTES) || to == left_bytes;
    match run_bytes {
        0 => Err(WireError::Record("run of nothing")),
        _ if run_bytes > left_bytes => Err(WireError::Record("run beyond the end of its chunk")),
        _ if is_whole(hole_bytes, hole_bytes) && is_whole(data_bytes, run_bytes) => {
            Ok(Some((hole_bytes, data_bytes, hole_len + data_len)))
        }
        _ => Err(WireError::Record("run of no whole blocks")),
    }
}

/// How the data of a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordStatus {
    Valid,
    /// Valid, of a small file, or the only chunk of a file, that grew while it was read: what it
    /// held as it was announced.
    ValidPrefix,
    /// Valid, of a chunk whose value the sender remembers and has not hashed now: it may be wrong.
    Kept,
    /// `Kept` and `ValidPrefix`.
    KeptPrefix,
    /// Valid, of a small file that holds less than was announced: all of it.
    ValidShort,
    /// The source failed while it was read; the rest of the data is filler and the digest means
    /// nothing.
    SourceFailed,
}

impl RecordStatus {
    /// Of a chunk that is valid.
    pub fn of_chunk(is_kept: bool, has_grown: bool) -> RecordStatus {
        match (is_kept, has_grown) {
            (false, false) => RecordStatus::Valid,
            (false, true) => RecordStatus::ValidPrefix,
            (true, false) => RecordStatus::Kept,
            (true, true) => RecordStatus::KeptPrefix,
        }
    }

    pub fn has_grown(self) -> bool {
        matches!(self, RecordStatus::ValidPrefix | RecordStatus::KeptPrefix)
    }

    pub fn is_kept(self) -> bool {
        matches!(self, RecordStatus::Kept | RecordStatus::KeptPrefix)
    }
}

/// Appends what follows a record's data.
pub fn encode_record_tail(status: RecordStatus, digest: &Digest, out: &mut BytesMut) {
    out.put_u8(match status {
        RecordStatus::Valid => 0,
        RecordStatus::SourceFailed => 1,
        RecordStatus::ValidPrefix => 2,
        RecordStatus::ValidShort => 3,
        RecordStatus::Kept => 4,
        RecordStatus::KeptPrefix => 5,
    });
    out.put_slice(digest);
}

/// A piece of a data stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Begin(RecordHead),
    /// The next bytes of the record begun; never empty, a slice of what was fed.
    Data(Bytes),
    /// So many zeros follow that are not sent; never 0.
    Hole(u64),
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
    /// Of a chunk with holes, before a run or within its begin; `left_bytes` of the chunk to come.
    /// Next: RunData, Run, Tail.
    Run {
        buf: [u8; RUN_MAX_BYTES],
        len: usize,
        left_bytes: u64,
    },
    /// `run_bytes` of data to come, and `left_bytes` of the chunk behind them. Next: Run, Tail.
    RunData { run_bytes: u64, left_bytes: u64 },
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

impl RecordState {
    /// Behind data or a hole of a chunk with holes.
    fn behind_run(left_bytes: u64) -> RecordState {
        match left_bytes {
            0 => RecordState::tail(),
            _ => RecordState::Run {
                buf: [0; RUN_MAX_BYTES],
                len: 0,
                left_bytes,
            },
        }
    }

    fn tail() -> RecordState {
        RecordState::Tail {
            buf: [0; TAIL_BYTES],
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
        while !input.is_empty() {
            let record = match &mut self.state {
                RecordState::Head { .. } => self.head(input)?,
                RecordState::Run { .. } => self.run(input)?,
                RecordState::Data { left_bytes } => {
                    let data = take(input, left_bytes);
                    if *left_bytes == 0 {
                        self.state = RecordState::tail();
                    }
                    Some(Record::Data(data))
                }
                RecordState::RunData {
                    run_bytes,
                    left_bytes,
                } => {
                    let data = take(input, run_bytes);
                    if *run_bytes == 0 {
                        self.state = RecordState::behind_run(*left_bytes);
                    }
                    Some(Record::Data(data))
                }
                RecordState::Tail { .. } => self.tail(input)?,
            };
            if record.is_some() {
                return Ok(record);
            }
        }
        Ok(None)
    }

    fn head(&mut self, input: &mut Bytes) -> Result<Option<Record>, WireError> {
        let RecordState::Head { buf, len } = &mut self.state else {
            return Ok(None);
        };
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
        self.state = match (head, head.len_bytes()) {
            (_, 0) => RecordState::tail(),
            (
                RecordHead::Chunk {
                    has_holes: true, ..
                },
                left_bytes,
            ) => RecordState::behind_run(left_bytes),
            (_, left_bytes) => RecordState::Data { left_bytes },
        };
        Ok(Some(Record::Begin(head)))
    }

    fn run(&mut self, input: &mut Bytes) -> Result<Option<Record>, WireError> {
        let RecordState::Run {
            buf,
            len,
            left_bytes,
        } = &mut self.state
        else {
            return Ok(None);
        };
        let had = *len;
        let take = input.len().min(RUN_MAX_BYTES - had);
        buf[had..had + take].copy_from_slice(&input[..take]);
        let Some((hole_bytes, run_bytes, used)) = decode_run(&buf[..had + take], *left_bytes)?
        else {
            // As a head, no run needs more than RUN_MAX_BYTES.
            *len += take;
            input.advance(take);
            return Ok(None);
        };
        input.advance(used - had);
        let left_bytes = *left_bytes - hole_bytes - run_bytes;
        self.state = match run_bytes {
            0 => RecordState::behind_run(left_bytes),
            _ => RecordState::RunData {
                run_bytes,
                left_bytes,
            },
        };
        Ok((hole_bytes > 0).then_some(Record::Hole(hole_bytes)))
    }

    fn tail(&mut self, input: &mut Bytes) -> Result<Option<Record>, WireError> {
        let RecordState::Tail { buf, len } = &mut self.state else {
            return Ok(None);
        };
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
            3 => RecordStatus::ValidShort,
            4 => RecordStatus::Kept,
            5 => RecordStatus::KeptPrefix,
            _ => return Err(WireError::Record("unknown record status")),
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(&buf[1..]);
        self.state = RecordState::default();
        Ok(Some(Record::End { status, digest }))
    }

    /// Bytes of data that come next, before anything else of the record.
    pub fn data_bytes(&self) -> u64 {
        match self.state {
            RecordState::Data { left_bytes } => left_bytes,
            RecordState::RunData { run_bytes, .. } => run_bytes,
            RecordState::Head { .. } | RecordState::Run { .. } | RecordState::Tail { .. } => 0,
        }
    }

    /// Whether the stream may end here: no record was cut short.
    pub fn is_between_records(&self) -> bool {
        matches!(self.state, RecordState::Head { len: 0, .. })
    }
}

/// The next of `left_bytes` bytes of data.
fn take(input: &mut Bytes, left_bytes: &mut u64) -> Bytes {
    let len = (input.len() as u64).min(*left_bytes);
    *left_bytes -= len;
    input.split_to(len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_lie_are_refused() {
        let first_of = |runs: &[(u64, u64)]| {
            let mut out = BytesMut::new();
            RecordHead::Chunk {
                entry: EntryId(1),
                chunk: ChunkIndex(0),
                len_bytes: 20_000,
                has_holes: true,
            }
            .encode(&mut out);
            for (hole, data) in runs {
                encode_run(*hole, *data, &mut out);
                out.put_bytes(1, (*data).min(30_000) as usize);
            }
            let (mut parser, mut input) = (RecordParser::default(), out.freeze());
            loop {
                match parser.next(&mut input) {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        for good in [
            &[(20_000, 0)][..],
            &[(0, 20_000)],
            &[(4096, 15_904)],
            &[(0, 4096), (15_904, 0)],
            &[(4096, 4096), (8192, 3616)],
        ] {
            assert_eq!(first_of(good), Ok(()), "{good:?}");
        }
        for bad in [
            &[(0, 0)][..],
            &[(20_001, 0)],
            &[(4096, 15_905)],
            &[(1 << 61, 1 << 61)],
            &[(4095, 15_905)],
            &[(0, 100), (19_900, 0)],
            &[(100, 4096)],
            &[(4096, 100)],
        ] {
            assert!(first_of(bad).is_err(), "{bad:?}");
        }
    }
}
