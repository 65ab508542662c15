//! The small types every layer shares: ids, ranges, fingerprints. No behaviour beyond conversion.

use std::fmt;

use bytes::Bytes;

/// Number of a worker thread, 0-based. Connection ids carry it, so it fits a byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct WorkerId(pub u8);

/// An entry (file, directory or symlink) of one session's manifest; the sender counts them from 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct EntryId(pub u32);

/// Number of a chunk in its file: `offset >> chunk_log2`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ChunkIndex(pub u32);

/// A data stream of one session: of the sender, which mover's it is and, below, counted from 0;
/// the worker maps it to (lane, stream id).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct StreamKey(pub u64);

/// No receiver counts so far.
const CLEAR_BIT: u64 = 1 << 63;

impl StreamKey {
    pub fn of(mover: MoverId, count: u32) -> StreamKey {
        StreamKey(u64::from(mover.0) << 32 | u64::from(count))
    }

    /// Of a receiver, which counts the streams that come: one of a lane in the clear.
    pub fn in_the_clear(self) -> StreamKey {
        StreamKey(self.0 | CLEAR_BIT)
    }

    /// Whether a receiver's stream came on a lane in the clear, where anybody may have changed it.
    pub fn came_in_the_clear(self) -> bool {
        self.0 & CLEAR_BIT != 0
    }

    /// Whose stream it is, and so on which lane it travels.
    pub fn mover(self) -> MoverId {
        MoverId((self.0 >> 32) as u32)
    }
}

/// A mover of a sender. Each lane that carries data has its own: 0 is that of the lanes that carry
/// control, one after the other, and n + 1 that of the added lane n.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct MoverId(pub u32);

impl MoverId {
    pub const CONTROL: MoverId = MoverId(0);

    pub const fn of_added(lane: u32) -> MoverId {
        // No lane has the greatest number.
        MoverId(lane.saturating_add(1))
    }
}

/// A disk operation in flight, chosen by `proto`, unique within a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// A directory held open by the disk layer on behalf of a session. Chosen by `proto`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct DirId(pub u32);

/// A file held open by the disk layer on behalf of a session. Chosen by `proto`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// Random 128-bit name of a session; proves that a later lane belongs to it (the TLS identity must
/// match too).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub [u8; 16]);

/// Which copy of which command a directory is: the same for the same source, target and user, and
/// no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CopyId(pub [u8; 16]);

/// SHA-256 of an Ed25519 SubjectPublicKeyInfo; printed as OpenSSH prints fingerprints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `SHA256:` and 43 characters of unpadded base64.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::from("SHA256:");
        for group in self.0.chunks(3) {
            let bits = group
                .iter()
                .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - group.len()));
            let digits =
                (0..=group.len()).map(|i| BASE64[(bits >> (18 - 6 * i)) as usize & 63] as char);
            text.extend(digits);
        }
        f.pad(&text)
    }
}

/// What [`Fingerprint`]'s `Display` prints, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FingerprintError;

impl fmt::Display for FingerprintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fingerprint is SHA256: followed by 43 characters of base64 without padding")
    }
}

impl std::error::Error for FingerprintError {}

impl std::str::FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Fingerprint, FingerprintError> {
        let digits = text.strip_prefix("SHA256:").ok_or(FingerprintError)?;
        if digits.len() != 43 {
            return Err(FingerprintError);
        }
        let (mut bytes, mut filled, mut bits, mut bit_count) = ([0; 32], 0, 0u32, 0);
        for digit in digits.bytes() {
            let value = BASE64
                .iter()
                .position(|b| *b == digit)
                .ok_or(FingerprintError)?;
            bits = (bits << 6 | value as u32) & 0xffff;
            bit_count += 6;
            if bit_count >= 8 {
                bit_count -= 8;
                bytes[filled] = (bits >> bit_count) as u8;
                filled += 1;
            }
        }
        // The last digit carries two bits of nothing; were they ignored, one key would have four
        // names.
        let fingerprint = Fingerprint(bytes);
        if bits & 0b11 != 0 {
            Err(FingerprintError)
        } else {
            Ok(fingerprint)
        }
    }
}

/// Longest file name Linux takes (NAME_MAX).
pub const NAME_MAX_BYTES: usize = 255;

/// Longest path below a root that one system call takes (PATH_MAX less its NUL).
pub const PATH_MAX_BYTES: usize = 4095;

/// One path component that is safe to create: 1–255 bytes, no `/`, no NUL, neither `.` nor `..`.
/// Names are bytes, not UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Name(Bytes);

/// Why bytes are not a [`Name`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    Empty,
    TooLong,
    Dots,
    Slash,
    Nul,
}

impl Name {
    /// # Errors
    /// Says which rule the bytes break.
    pub fn new(bytes: Bytes) -> Result<Name, NameError> {
        match &bytes[..] {
            b"" => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            b if b.len() > NAME_MAX_BYTES => Err(NameError::TooLong),
            b if b.contains(&b'/') => Err(NameError::Slash),
            b if b.contains(&0) => Err(NameError::Nul),
            _ => Ok(Name(bytes)),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::Empty => "empty name",
            NameError::TooLong => "name longer than 255 bytes",
            NameError::Dots => "name is . or ..",
            NameError::Slash => "name contains /",
            NameError::Nul => "name contains NUL",
        })
    }
}

impl std::error::Error for NameError {}

/// Undoes percent-encoding, strictly: `None` where a `%` is not followed by two hexadecimal digits,
/// because guessing would name another file.
pub fn percent_decode(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let mut decoded = Vec::with_capacity(bytes.len());
    while let [first, rest @ ..] = bytes {
        (bytes, _) = match (first, rest) {
            (b'%', [high, low, rest @ ..]) => (rest, decoded.push(hex(*high)? << 4 | hex(*low)?)),
            (b'%', _) => return None,
            (&byte, rest) => (rest, decoded.push(byte)),
        };
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_print_as_openssh_prints_them_and_parse_back() {
        let empty = Fingerprint([
            0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f,
            0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b,
            0x78, 0x52, 0xb8, 0x55,
        ]);
        let text = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        assert_eq!(empty.to_string(), text);
        assert_eq!(text.parse(), Ok(empty));
        for fill in [0, 1, 0x7f, 0x80, 0xff] {
            let print = Fingerprint([fill; 32]);
            assert_eq!(print.to_string().parse(), Ok(print));
        }
    }

    #[test]
    fn what_is_not_a_fingerprint_does_not_parse() {
        let good = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        for bad in [
            "",
            "SHA256:",
            &good[7..],
            &good[..49],
            &format!("{good}="),
            &good.replace('+', "-"),
        ] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(FingerprintError), "{bad}");
        }
        // Same 32 bytes, other trailing bits.
        assert_eq!(
            good.replace("SuFU", "SuFV").parse::<Fingerprint>(),
            Err(FingerprintError)
        );
    }
}
