//! Records of a store: what is remembered of one file, with a checksum over all of it.

use std::sync::Arc;

use crate::proto::chunk::chunk_count;
use crate::proto::integrity::Digest;
use crate::proto::{FileStamp, Mtime};

/// What a store begins with.
pub(super) const MAGIC: &[u8; 16] = b"landro digests 1";

/// Count of values, then the stamp.
const HEAD_BYTES: usize = 4 + 3 * 8 + 2 * 12;

const CHECKSUM_BYTES: usize = 32;

/// Values of all chunks of a file; none: it is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptRecord {
    pub(super) stamp: FileStamp,
    pub(super) values: Arc<[Digest]>,
}

impl KeptRecord {
    pub(super) fn len_bytes(&self) -> u64 {
        (HEAD_BYTES + self.values.len() * 32 + CHECKSUM_BYTES) as u64
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        let stamp = &self.stamp;
        out.extend_from_slice(&(self.values.len() as u32).to_le_bytes());
        for number in [stamp.device, stamp.inode, stamp.size_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for time in [stamp.mtime, stamp.ctime] {
            out.extend_from_slice(&time.seconds.to_le_bytes());
            out.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        out.extend_from_slice(self.values.as_flattened());
        let checksum = checksum(&out[begin..]);
        out.extend_from_slice(&checksum);
    }

    /// Takes a record off the front. None: what is there is none, or not all of one.
    pub(super) fn decode(bytes: &mut &[u8]) -> Option<KeptRecord> {
        let (count, _) = bytes.split_first_chunk::<4>()?;
        let values_bytes = (u32::from_le_bytes(*count) as usize).checked_mul(32)?;
        let (checked, rest) = bytes.split_at_checked(HEAD_BYTES.checked_add(values_bytes)?)?;
        let (sum, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
        if checksum(checked) != *sum {
            return None;
        }
        let (head, values) = checked.split_at(HEAD_BYTES);
        let mut fields = Fields(&head[4..]);
        let stamp = FileStamp {
            device: fields.number()?,
            inode: fields.number()?,
            size_bytes: fields.number()?,
            mtime: fields.time()?,
            ctime: fields.time()?,
        };
        let values: Arc<[Digest]> = values.as_chunks().0.into();
        let is_whole = values.is_empty() || values.len() == chunk_count(stamp.size_bytes) as usize;
        *bytes = rest;
        is_whole.then_some(KeptRecord { stamp, values })
    }
}

/// A checksum is no secret: whoever can write to a store can make one. It finds what a disk or a
/// power cut did.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key("landro 2026 record of kept digests");
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Mtime> {
        Some(Mtime {
            seconds: i64::from_le_bytes(self.take()?),
            nanoseconds: u32::from_le_bytes(self.take()?),
        })
    }
}

/// The records that are whole, from the front, and how many bytes those are.
pub(super) fn decode_all(bytes: &[u8]) -> (Vec<KeptRecord>, usize) {
    let (mut rest, mut records) = (bytes, Vec::new());
    while let Some(record) = KeptRecord::decode(&mut rest) {
        records.push(record);
    }
    (records, bytes.len() - rest.len())
}
