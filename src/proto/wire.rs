//! The bytes two peers exchange: the lane preface, framed control messages and data stream records.
//!
//! Everything here is total: any input gives a value or a [`WireError`], never a panic, and every
//! length is checked against its cap before memory is taken for it. `docs/protocol.md` is the same
//! in words and CDDL.
//!
//! A session sees what stands between the first byte and the end of a stream. The rest is for
//! `proto/lanes`: the [`Preface`] of a lane, and what is in [`streams`].

mod batch;
mod cbor;
mod messages;
mod records;
pub mod streams;
#[cfg(test)]
mod tests;

pub use batch::MessageBatch;
pub use messages::*;
pub use records::*;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::ids::SessionId;

/// Version spoken here; both sides must name the same one.
pub const VERSION: u16 = 1;

/// Cap of one control message: a batch of entries with long names fits, a hostile length does not
/// hurt.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// What a batch (`Entries`, `Verdicts`, `Listing`) may add up to in `encoded_bound()`s: a message
/// less its kind and array heads.
pub const MAX_BATCH_BYTES: usize = MAX_MESSAGE_BYTES - 32;

/// Most items of one batch, so that a batch of empty items cannot decode to megabytes.
pub const MAX_ITEMS: usize = 512;

/// Most sources one pull may name.
pub const MAX_SOURCES: usize = 1024;

/// Longest text for people in a message (error texts, warnings); longer ones are cut when encoded.
pub const MAX_TEXT_BYTES: usize = 512;

/// Addresses that a `welcome` names: what a host with many interfaces has.
pub const MAX_ADDRESSES: usize = 32;

/// Most chaining values in one [`VerdictKind::Have`]: 32 KiB, so two fit a message.
pub const MAX_VALUES: usize = 1024;

/// Longest payload of an echo: a message less its heads.
pub const MAX_ECHO_BYTES: usize = MAX_BATCH_BYTES;

/// Bytes of a file in one message: half of what the disk reads at once.
pub const MAX_PART_BYTES: usize = MAX_MESSAGE_BYTES / 2;

/// Largest file that can be announced: `off_t` is signed.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// Why bytes from the peer are not the protocol. Ends the session as a violation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("control message of {len_bytes} bytes, the cap is {MAX_MESSAGE_BYTES}")]
    MessageTooLong { len_bytes: u64 },
    /// Well-formed or not, this is not a message of this version.
    #[error("malformed control message: {0}")]
    Malformed(String),
    /// A message kind or an enum value this version does not know: `Error { Unsupported }` is the
    /// answer.
    #[error("unknown message kind or value {0}")]
    Unknown(i64),
    #[error("preface of unknown kind {0}")]
    Preface(u8),
    #[error("stream of unknown type {0}")]
    StreamType(u8),
    #[error("malformed data stream: {0}")]
    Record(&'static str),
    #[error("a stream ended without its end byte")]
    StreamEnd,
    #[error("malformed lane end: {0}")]
    LaneEnd(&'static str),
    #[error("account of a lane: {0}")]
    LaneAccount(&'static str),
}

/// How a lane says what it is for: the first [`Preface::BYTES`] bytes of its control stream, client
/// to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    pub kind: PrefaceKind,
    pub session: SessionId,
    /// 0 for the first lane of a session, then counting up. Lanes that are added count by
    /// themselves, from 0.
    pub lane: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefaceKind {
    /// Starts a session of this id.
    New,
    /// Takes over from the newest lane of a session that lives.
    Join,
    /// Carries data of a session that lives beside its other lanes.
    Add,
    /// Takes over from the newest lane of a session, which is silent.
    TakeOver,
}

impl Preface {
    pub const BYTES: usize = 21;

    pub fn encode(&self) -> [u8; Preface::BYTES] {
        let mut out = [0; Preface::BYTES];
        out[0] = match self.kind {
            PrefaceKind::New => 0,
            PrefaceKind::Join => 1,
            PrefaceKind::Add => 2,
            PrefaceKind::TakeOver => 3,
        };
        out[1..17].copy_from_slice(&self.session.0);
        out[17..].copy_from_slice(&self.lane.to_be_bytes());
        out
    }

    /// # Errors
    /// [`WireError::Preface`] when the kind is unknown.
    pub fn decode(bytes: &[u8; Preface::BYTES]) -> Result<Preface, WireError> {
        let kind = match bytes[0] {
            0 => PrefaceKind::New,
            1 => PrefaceKind::Join,
            2 => PrefaceKind::Add,
            3 => PrefaceKind::TakeOver,
            other => return Err(WireError::Preface(other)),
        };
        let mut session = [0; 16];
        session.copy_from_slice(&bytes[1..17]);
        let lane = u32::from_be_bytes([bytes[17], bytes[18], bytes[19], bytes[20]]);
        Ok(Preface {
            kind,
            session: SessionId(session),
            lane,
        })
    }
}

/// Appends a QUIC variable-length integer (RFC 9000 §16). Values are below 2^62; the top bits are
/// cut.
pub(crate) fn put_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(0x4000 | value as u16),
        0x4000..=0x3fff_ffff => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value),
    }
}

/// Reads a variable-length integer off the front; gives it and its length, `None` when bytes are
/// missing.
pub(crate) fn get_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let len = 1usize << (bytes.first()? >> 6);
    let mut value = u64::from(bytes[0] & 0x3f);
    for byte in bytes.get(1..len)? {
        value = value << 8 | u64::from(*byte);
    }
    Some((value, len))
}

/// Appends one framed control message: `[len u32 BE][CBOR]`. Texts longer than [`MAX_TEXT_BYTES`]
/// are cut. Batches must respect [`MAX_BATCH_BYTES`]; a `Hello` is to be checked with [`fits`]
/// first.
///
/// # Panics
/// In debug builds when the message exceeds [`MAX_MESSAGE_BYTES`] (the peer would refuse it).
pub fn encode(message: &Message, out: &mut BytesMut) {
    let start = out.len();
    out.put_u32(0);
    let written: Result<(), minicbor::encode::Error<std::convert::Infallible>> =
        minicbor::encode(message, cbor::Sink(out));
    debug_assert!(
        written.is_ok(),
        "encoding to memory cannot fail: {written:?}"
    );
    let len_bytes = out.len() - start - 4;
    debug_assert!(
        len_bytes <= MAX_MESSAGE_BYTES,
        "a message of {len_bytes} bytes was built"
    );
    out[start..start + 4].copy_from_slice(&(len_bytes as u32).to_be_bytes());
}

/// Whether a message is below the cap; only a `Hello` with many sources can be above.
pub fn fits(message: &Message) -> bool {
    minicbor::to_vec(message).is_ok_and(|bytes| bytes.len() <= MAX_MESSAGE_BYTES)
}

/// Cuts the control stream into messages. Holds at most what was pushed and
/// not yet taken, so drain it with [`Decoder::next`] after each push and it holds less than one
/// message.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: BytesMut,
}

impl Decoder {
    pub fn new() -> Decoder {
        Decoder::default()
    }

    pub fn push(&mut self, bytes: Bytes) {
        self.pending.extend_from_slice(&bytes);
    }

    /// The next whole message, `None` when more bytes are needed.
    ///
    /// # Errors
    /// The stream is not the protocol; every later call may say anything, so end the session.
    #[allow(
        clippy::should_implement_trait,
        reason = "fallible, and None means not yet rather than the end"
    )]
    pub fn next(&mut self) -> Result<Option<Message>, WireError> {
        let Some(head) = self.pending.first_chunk::<4>() else {
            return Ok(None);
        };
        let len_bytes = u32::from_be_bytes(*head) as usize;
        if len_bytes > MAX_MESSAGE_BYTES {
            return Err(WireError::MessageTooLong {
                len_bytes: len_bytes as u64,
            });
        }
        if self.pending.len() < 4 + len_bytes {
            return Ok(None);
        }
        self.pending.advance(4);
        let body = self.pending.split_to(len_bytes);
        let mut decoder = minicbor::Decoder::new(&body);
        let message = decoder.decode::<Message>().map_err(cbor::wire_error)?;
        if decoder.position() != body.len() {
            return Err(WireError::Malformed("bytes after the message".into()));
        }
        Ok(Some(message))
    }

    /// What is here of a message that is not whole.
    pub fn held_bytes(&self) -> u64 {
        self.pending.len() as u64
    }

    /// Whether the stream may end here: no message was cut short.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}
