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

/// A data stream of one session, counted from 0 by the sender; the worker maps it to (lane, stream id).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct StreamKey(pub u32);

/// A disk operation in flight, chosen by `proto`, unique within a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// A directory held open by the disk layer on behalf of a session. Chosen by `proto`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct DirId(pub u32);

/// A file held open by the disk layer on behalf of a session. Chosen by `proto`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// Random 128-bit name of a session; proves that a later lane belongs to it (the TLS identity must match too).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub [u8; 16]);

/// SHA-256 of an Ed25519 SubjectPublicKeyInfo; printed as OpenSSH prints fingerprints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

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
