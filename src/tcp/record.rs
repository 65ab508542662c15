//! TLS 1.3 records (RFC 8446 §5): sealed and opened in place, many in a row in one buffer.

use landro_sys::aead::{Aead, RecordKey, TAG_BYTES};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::AeadKey;

use super::fault::{Fault, alert};

/// RecordContent type, version and length.
pub(super) const HEADER_BYTES: usize = 5;

/// Most that one record says.
pub(super) const MAX_PLAIN_BYTES: usize = 1 << 14;

/// Longest body of a record: RFC 8446 §5.2 gives 256 bytes for type, tag and whatever else.
pub(super) const MAX_BODY_BYTES: usize = MAX_PLAIN_BYTES + 256;

/// What a sealed record has beyond what it says: header, content type, tag.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;

/// The message behind the handshake that says that the next record has the next key.
pub(super) const KEY_UPDATE: u8 = 24;

/// The whole message, which asks for none in return.
pub(super) const KEY_UPDATE_MESSAGE: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

/// What a sealed record is on the outside, whatever is inside.
const APPLICATION_DATA: u8 = 23;

// What is wrong with a record, whoever found it out.
pub(super) const NOT_AUTHENTIC: &str = "a record that is not authentic";
pub(super) const TOO_LONG: &str = "a record is too long";
pub(super) const NOT_TLS: &str = "what came is not TLS";

/// What a record carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RecordContent {
    Alert,
    Handshake,
    Data,
}

impl RecordContent {
    pub fn number(self) -> u8 {
        match self {
            RecordContent::Alert => 21,
            RecordContent::Handshake => 22,
            RecordContent::Data => APPLICATION_DATA,
        }
    }

    pub fn of_number(number: u8) -> Result<RecordContent, Fault> {
        match number {
            21 => Ok(RecordContent::Alert),
            22 => Ok(RecordContent::Handshake),
            APPLICATION_DATA => Ok(RecordContent::Data),
            _ => Err(Fault::tls(
                alert::UNEXPECTED_MESSAGE,
                "a record of unknown type",
            )),
        }
    }
}

/// One direction's key with its next nonce.
pub(super) struct TrafficKey {
    aead: Aead,
    /// Of 16 bytes; overwritten when this is dropped.
    key: AeadKey,
    iv: [u8; 12],
    sequence: u64,
}

impl TrafficKey {
    /// `None`: of a cipher suite that [`super::TcpSetup`] does not offer.
    pub fn new(sequence: u64, secrets: ConnectionTrafficSecrets) -> Option<TrafficKey> {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            return None;
        };
        Some(TrafficKey {
            aead: Aead::new(key.as_ref().try_into().ok()?),
            key,
            iv: iv.as_ref().try_into().ok()?,
            sequence,
        })
    }

    /// Records that this key has sealed or opened; where the kernel has sealed, not fewer than it
    /// has.
    pub fn records(&self) -> u64 {
        self.sequence
    }

    /// What the kernel has to know to go on from here.
    pub fn for_kernel(&self) -> RecordKey {
        let mut key = [0; 16];
        key.copy_from_slice(self.key.as_ref());
        RecordKey {
            key,
            iv: self.iv,
            sequence: self.sequence,
        }
    }

    /// The kernel sealed so many bytes of one call: it begins no more records than this.
    pub fn kernel_sealed(&mut self, bytes: usize) {
        self.sequence += (bytes / MAX_PLAIN_BYTES) as u64 + 1;
    }

    /// The next nonce: the sequence number, padded on the left, XOR the IV (RFC 8446 §5.3).
    fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        nonce
    }

    /// Seals what is said in `record` behind [`HEADER_BYTES`] bytes of room, to its end; header,
    /// type and tag are added.
    pub fn seal(&mut self, content: RecordContent, out: &mut Vec<u8>, record_at: usize) {
        out.push(content.number());
        let body_bytes = out.len() - record_at - HEADER_BYTES + TAG_BYTES;
        let header = header(body_bytes);
        out[record_at..record_at + HEADER_BYTES].copy_from_slice(&header);
        let nonce = self.nonce();
        let inner = &mut out[record_at + HEADER_BYTES..];
        let tag = self.aead.seal_in_place(&nonce, &header, inner);
        out.extend_from_slice(&tag);
    }

    /// Opens a whole record, header included: what it carries, and how many bytes it says, which
    /// are then behind its header.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(RecordContent, usize), Fault> {
        let (header, body) = record.split_at_mut(HEADER_BYTES);
        if header[0] != APPLICATION_DATA {
            return Err(Fault::tls(
                alert::UNEXPECTED_MESSAGE,
                "a record in the clear",
            ));
        }
        let nonce = self.nonce();
        let inner_bytes = self
            .aead
            .open_in_place(&nonce, header, body)
            .map_err(|_| Fault::tls(alert::BAD_RECORD_MAC, NOT_AUTHENTIC))?;
        // Zeros behind the type are padding.
        let inner = &body[..inner_bytes];
        let Some(type_at) = inner.iter().rposition(|&byte| byte != 0) else {
            return Err(Fault::tls(alert::UNEXPECTED_MESSAGE, "a record of no type"));
        };
        if type_at > MAX_PLAIN_BYTES {
            return Err(Fault::tls(alert::RECORD_OVERFLOW, TOO_LONG));
        }
        Ok((RecordContent::of_number(inner[type_at])?, type_at))
    }
}

fn header(body_bytes: usize) -> [u8; HEADER_BYTES] {
    let [high, low] = (body_bytes as u16).to_be_bytes();
    [APPLICATION_DATA, 3, 3, high, low]
}

/// Bytes of the record that `bytes` begin with, header included; `None`: the header is not whole.
pub(super) fn record_bytes(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let &[kind, major, _, high, low, ..] = bytes else {
        return Ok(None);
    };
    if !(20..=23).contains(&kind) || major != 3 {
        return Err(Fault::tls(alert::DECODE_ERROR, NOT_TLS));
    }
    let body_bytes = usize::from(u16::from_be_bytes([high, low]));
    if body_bytes > MAX_BODY_BYTES {
        return Err(Fault::tls(alert::RECORD_OVERFLOW, TOO_LONG));
    }
    Ok(Some(HEADER_BYTES + body_bytes))
}
