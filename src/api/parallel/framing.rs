//! The bytes of chunks on streams: written, and read without belief in their writer.
//!
//! All numbers are big-endian. One stream that goes both ways carries *control*: the sender's
//! announcement, what became of each chunk, and the ends. Unidirectional streams carry *records*.
//!
//! ```text
//! announcement  "LDCK", version u8 = 1, streams u16, chunks u32, then of each: id u64, size u32
//! message       0                                           all is said
//!               1, index u32, outcome u8, text              what became of a chunk
//!               2, text                                     the transfer is refused
//!               3, streams u16                              so many streams at a time
//! text          length u16 (at most 512), UTF-8
//!
//! data stream   version u8 = 1, number of the control stream u64, then records
//! record        index u32, size u32, segments, digest (BLAKE3) of 32 bytes
//! segment       length u32, bytes; together they are as long as the chunk
//! given up      0xffff_ffff in place of a length, then a text: the chunk does not come
//! ```
//!
//! What became of a chunk is said when its end has been read, and not before: `missing` of one that
//! was given up, and of that nothing else.
//!
//! The index is the chunk's place in the announcement. A chunk of no bytes has one segment, of no
//! bytes: so it, too, can be given up.
//!
//! The receiver says how many streams it has memory for. Until it has, the sender opens none, so
//! that no stream comes before the transfer that it belongs to: one that was given up may still be
//! what the receiver is at. For each of these streams a second one may be under way: finished, and
//! not acknowledged so far. So whatever the receiver reads, it has a place in memory for, and no
//! stream holds up the credit of the connection that another one needs to go on.
//!
//! The receiver ends its direction first, when each chunk has an outcome; then the sender does.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::chunks::{ChunkOutcome, MAX_WORDS_BYTES, NeededChunk};
use crate::proto::integrity::Digest;

const MAGIC: [u8; 4] = *b"LDCK";
const VERSION: u8 = 1;

/// Bytes of an announcement before its chunks, and of each of these.
pub(super) const ANNOUNCEMENT_HEAD_BYTES: usize = 11;
pub(super) const ANNOUNCED_CHUNK_BYTES: usize = 12;

const STREAM_HEAD_BYTES: usize = 9;
const RECORD_HEAD_BYTES: usize = 8;
const DIGEST_BYTES: usize = size_of::<Digest>();

/// In place of a segment's length.
const GIVEN_UP: u32 = u32::MAX;

/// What the writer has done that no right one does, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Breach(pub String);

fn breach<T>(what: impl Into<String>) -> Result<T, Breach> {
    Err(Breach(what.into()))
}

/// How an announcement begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AnnouncementHead {
    pub streams: u16,
    pub chunks: u32,
}

/// The sender's first words; each chunk's size is below 4 GiB.
pub(super) fn announcement(streams: usize, chunks: &[NeededChunk]) -> Bytes {
    let bytes = ANNOUNCEMENT_HEAD_BYTES + chunks.len() * ANNOUNCED_CHUNK_BYTES;
    let mut written = BytesMut::with_capacity(bytes);
    written.put_slice(&MAGIC);
    written.put_u8(VERSION);
    written.put_u16(u16::try_from(streams).unwrap_or(u16::MAX));
    written.put_u32(chunks.len() as u32);
    for chunk in chunks {
        written.put_u64(chunk.id);
        written.put_u32(chunk.size_bytes as u32);
    }
    written.freeze()
}

pub(super) fn announcement_head(
    head: &[u8; ANNOUNCEMENT_HEAD_BYTES],
) -> Result<AnnouncementHead, Breach> {
    let Some(mut bytes) = head.strip_prefix(&MAGIC) else {
        return breach("it does not speak of chunks (another program, or another stream of it)");
    };
    match bytes.get_u8() {
        VERSION => {}
        other => return breach(format!("it speaks version {other}, and here is {VERSION}")),
    }
    Ok(AnnouncementHead {
        streams: bytes.get_u16(),
        chunks: bytes.get_u32(),
    })
}

pub(super) fn announced_chunk(bytes: &mut Bytes) -> NeededChunk {
    NeededChunk {
        id: bytes.get_u64(),
        size_bytes: u64::from(bytes.get_u32()),
    }
}

/// What is said on a control stream behind the announcement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ControlMessage {
    /// All is said.
    End,
    Outcome {
        index: u32,
        outcome: ChunkOutcome,
    },
    /// The transfer is not wanted, or the other side has broken a rule.
    Refused(String),
    /// So many streams may be in use.
    Streams(u16),
}

impl ControlMessage {
    pub fn write(&self, into: &mut BytesMut) {
        match self {
            ControlMessage::End => into.put_u8(0),
            ControlMessage::Outcome { index, outcome } => {
                into.put_u8(1);
                into.put_u32(*index);
                let (number, words) = match outcome {
                    ChunkOutcome::Delivered => (0, ""),
                    ChunkOutcome::Refused(why) => (1, &why[..]),
                    ChunkOutcome::Corrupt => (2, ""),
                    ChunkOutcome::Missing(why) => (3, &why[..]),
                };
                into.put_u8(number);
                put_text(into, words);
            }
            ControlMessage::Refused(why) => {
                into.put_u8(2);
                put_text(into, why);
            }
            ControlMessage::Streams(streams) => {
                into.put_u8(3);
                into.put_u16(*streams);
            }
        }
    }
}

fn put_text(into: &mut BytesMut, text: &str) {
    let text = &text[..text.floor_char_boundary(MAX_WORDS_BYTES)];
    into.put_u16(text.len() as u16);
    into.put_slice(text.as_bytes());
}

/// A text at the front, if all of it is there.
fn take_text(from: &mut BytesMut, before: usize) -> Result<Option<String>, Breach> {
    let Some(length) = from.get(before..before + 2) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length > MAX_WORDS_BYTES {
        return breach(format!(
            "a text has {length} bytes, more than {MAX_WORDS_BYTES}"
        ));
    }
    if from.len() < before + 2 + length {
        return Ok(None);
    }
    from.advance(before + 2);
    let text = from.split_to(length);
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// Control messages out of what arrives. What is not a whole message is kept; that is less than
/// one.
#[derive(Debug, Default)]
pub(super) struct ControlMessages(BytesMut);

impl ControlMessages {
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn next(&mut self) -> Result<Option<ControlMessage>, Breach> {
        let buffer = &mut self.0;
        match buffer.first() {
            None => Ok(None),
            Some(0) => {
                buffer.advance(1);
                Ok(Some(ControlMessage::End))
            }
            Some(1) => {
                let Some(head) = buffer.get(1..6) else {
                    return Ok(None);
                };
                let index = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
                let number = head[4];
                let Some(why) = take_text(buffer, 6)? else {
                    return Ok(None);
                };
                let outcome = match number {
                    0 => ChunkOutcome::Delivered,
                    1 => ChunkOutcome::Refused(why),
                    2 => ChunkOutcome::Corrupt,
                    3 => ChunkOutcome::Missing(why),
                    other => return breach(format!("there is no outcome {other}")),
                };
                Ok(Some(ControlMessage::Outcome { index, outcome }))
            }
            Some(2) => Ok(take_text(buffer, 1)?.map(ControlMessage::Refused)),
            Some(3) => {
                let Some(streams) = buffer.get(1..3) else {
                    return Ok(None);
                };
                let streams = u16::from_be_bytes([streams[0], streams[1]]);
                buffer.advance(3);
                Ok(Some(ControlMessage::Streams(streams)))
            }
            Some(other) => breach(format!("there is no message {other}")),
        }
    }
}

pub(super) fn stream_head(control: u64) -> [u8; STREAM_HEAD_BYTES] {
    let mut head = [VERSION; STREAM_HEAD_BYTES];
    head[1..].copy_from_slice(&control.to_be_bytes());
    head
}

pub(super) fn record_head(index: u32, size_bytes: u64) -> [u8; RECORD_HEAD_BYTES] {
    let mut head = [0; RECORD_HEAD_BYTES];
    head[..4].copy_from_slice(&index.to_be_bytes());
    head[4..].copy_from_slice(&(size_bytes as u32).to_be_bytes());
    head
}

pub(super) fn segment_head(bytes: usize) -> [u8; 4] {
    (bytes as u32).to_be_bytes()
}

pub(super) fn given_up(why: &str) -> Bytes {
    let mut written = BytesMut::new();
    written.put_u32(GIVEN_UP);
    put_text(&mut written, why);
    written.freeze()
}

/// What a data stream says next.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum DataEvent {
    /// It belongs to the transfer of this control stream.
    Begins {
        control: u64,
    },
    Chunk {
        index: u32,
        size_bytes: u64,
    },
    /// Of the chunk.
    Data(Bytes),
    /// The chunk is whole.
    Digest(Digest),
    /// The chunk does not come.
    GivenUp(String),
}

/// Reads a data stream.
#[derive(Debug, Default)]
pub(super) struct DataStreamParser {
    at: DataState,
    /// What is not a whole head: less than a text has.
    part: BytesMut,
}

#[derive(Clone, Copy, Debug, Default)]
enum DataState {
    /// Next: Record.
    #[default]
    Stream,
    /// Next: Segment.
    Record,
    /// So much of the chunk is to come. Next: Data, GivenUp; Digest where that is nothing.
    Segment { left_bytes: u32 },
    /// So much of the segment is to come, and of the chunk. Next: itself, Segment, Digest.
    Data { segment_bytes: u32, left_bytes: u32 },
    /// Next: Record.
    Digest,
    /// Next: Record.
    GivenUp,
}

impl DataStreamParser {
    /// Whether the stream may end here.
    pub fn may_end(&self) -> bool {
        matches!(self.at, DataState::Record) && self.part.is_empty()
    }

    /// Collects a head. `None`: there is less.
    fn head<const N: usize>(&mut self, input: &mut Bytes) -> Option<[u8; N]> {
        let missing = N - self.part.len();
        self.part.put(input.split_to(missing.min(input.len())));
        let head = <[u8; N]>::try_from(&self.part[..]).ok()?;
        self.part.clear();
        Some(head)
    }

    /// The next event of what is at the front of `input`. `None`: more is needed.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<DataEvent>, Breach> {
        loop {
            match self.at {
                DataState::Stream => {
                    let Some(head) = self.head::<STREAM_HEAD_BYTES>(input) else {
                        return Ok(None);
                    };
                    let mut head = &head[..];
                    match head.get_u8() {
                        VERSION => {}
                        other => return breach(format!("a stream is of version {other}")),
                    }
                    self.at = DataState::Record;
                    let control = head.get_u64();
                    return Ok(Some(DataEvent::Begins { control }));
                }
                DataState::Record => {
                    let Some(head) = self.head::<RECORD_HEAD_BYTES>(input) else {
                        return Ok(None);
                    };
                    let mut head = &head[..];
                    let (index, size) = (head.get_u32(), head.get_u32());
                    self.at = DataState::Segment { left_bytes: size };
                    let size_bytes = u64::from(size);
                    return Ok(Some(DataEvent::Chunk { index, size_bytes }));
                }
                DataState::Segment { left_bytes } => {
                    let Some(head) = self.head::<4>(input) else {
                        return Ok(None);
                    };
                    self.at = segment(u32::from_be_bytes(head), left_bytes)?;
                }
                DataState::Data {
                    segment_bytes,
                    left_bytes,
                } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let data = input.split_to(input.len().min(segment_bytes as usize));
                    let took = data.len() as u32;
                    self.at = match segment_bytes - took {
                        0 => after(left_bytes - took),
                        segment_bytes => DataState::Data {
                            segment_bytes,
                            left_bytes: left_bytes - took,
                        },
                    };
                    return Ok(Some(DataEvent::Data(data)));
                }
                DataState::Digest => {
                    let digest = self.head::<DIGEST_BYTES>(input);
                    return Ok(digest.map(|digest| {
                        self.at = DataState::Record;
                        DataEvent::Digest(digest)
                    }));
                }
                DataState::GivenUp => return self.given_up(input),
            }
        }
    }

    fn given_up(&mut self, input: &mut Bytes) -> Result<Option<DataEvent>, Breach> {
        while !input.is_empty() {
            // A byte more each time: a text is short, and what follows it is no part of it.
            self.part.put(input.split_to(1));
            if let Some(why) = take_text(&mut self.part, 0)? {
                self.at = DataState::Record;
                return Ok(Some(DataEvent::GivenUp(why)));
            }
        }
        Ok(None)
    }
}

/// What follows a segment where so much of the chunk is to come.
fn after(left_bytes: u32) -> DataState {
    match left_bytes {
        0 => DataState::Digest,
        left_bytes => DataState::Segment { left_bytes },
    }
}

fn segment(length: u32, left_bytes: u32) -> Result<DataState, Breach> {
    match length {
        GIVEN_UP => Ok(DataState::GivenUp),
        0 if left_bytes == 0 => Ok(DataState::Digest),
        0 => breach("a segment has no bytes"),
        length if length > left_bytes => breach(format!(
            "a chunk is longer than was said: {left_bytes} bytes are to come, and a segment has \
             {length}"
        )),
        segment_bytes => Ok(DataState::Data {
            segment_bytes,
            left_bytes,
        }),
    }
}

#[cfg(test)]
mod tests;
