//! The resume journal: which chunks of a partial file are written, and their chaining values.
//!
//! Append-only: one header, then one fixed-size record per finished chunk, each with a check of its
//! own keyed by the header. Whatever a crash tears or leaves out is simply not believed. No fsync
//! is needed against `kill -9`: the page cache survives it. It does not survive a reboot, nor a
//! medium that went away and came back: the header says which kernel and which mount took the
//! writes. Records of others say where to look, and the data is hashed again before it is trusted.

use bytes::{BufMut, Bytes, BytesMut};

use super::Mtime;
use super::chunk::{MAX_CHUNKS, chunk_count, chunk_log2_for};
use super::integrity::Digest;
use super::wire::MAX_FILE_BYTES;
use crate::ids::ChunkIndex;

/// Changes with the format, so that an older program's journal is ignored, not misread.
const MAGIC: [u8; 8] = *b"lndrjnl2";

/// Fields, then 32 bytes of BLAKE3 over them.
pub const HEADER_BYTES: usize = 8 + 16 + 8 + 8 + 8 + 4 + 8 + 4 + 32;

/// Chunk number, chaining value, check.
pub const RECORD_BYTES: usize = 4 + 32 + 8;

/// No journal is longer (a chunk is recorded once): what the disk layer may read back of one.
pub const MAX_JOURNAL_BYTES: usize = HEADER_BYTES + RECORD_BYTES * MAX_CHUNKS as usize;

/// What holds written data until it is on disk: when either changes, what was not on disk is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// `/proc/sys/kernel/random/boot_id`; zeros: unknown.
    pub boot: [u8; 16],
    /// The mount's number, never used twice by one kernel (`STATX_MNT_ID_UNIQUE`, Linux 6.8); 0:
    /// unknown.
    pub mount: u64,
}

impl Storage {
    /// Whether what was written then is certain to be there still.
    pub fn still_holds(&self, then: &Storage) -> bool {
        self == then && self.boot != [0; 16] && self.mount != 0
    }
}

/// What a journal was begun for. Equal headers (but for the storage) mean the same version of the
/// same source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What took the writes.
    pub storage: Storage,
    pub size_bytes: u64,
    pub mtime: Mtime,
    /// The source's inode number.
    pub source_tag: u64,
}

/// Makes records that belong to one header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordKey([u8; 32]);

/// What could be read of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    pub header: Header,
    pub key: RecordKey,
    /// In journal order, no chunk twice, all within the file.
    pub records: Vec<(ChunkIndex, Digest)>,
    /// Where the next record goes: behind the last whole slot, over a torn one.
    pub end_bytes: u64,
}

impl Header {
    /// The journal's first [`HEADER_BYTES`] bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES);
        out.put_slice(&MAGIC);
        out.put_slice(&self.storage.boot);
        out.put_u64(self.storage.mount);
        out.put_u64(self.size_bytes);
        out.put_i64(self.mtime.seconds);
        out.put_u32(self.mtime.nanoseconds);
        out.put_u64(self.source_tag);
        out.put_u32(u32::from(chunk_log2_for(self.size_bytes)));
        let check = *blake3::hash(&out).as_bytes();
        out.put_slice(&check);
        out.freeze()
    }

    pub fn key(&self) -> RecordKey {
        RecordKey(*blake3::hash(&self.encode()).as_bytes())
    }

    /// Whether both are about the same version of the same source.
    pub fn same_source(&self, other: &Header) -> bool {
        (self.size_bytes, self.mtime, self.source_tag)
            == (other.size_bytes, other.mtime, other.source_tag)
    }
}

impl RecordKey {
    /// Appends the record of a chunk whose data is completely written.
    pub fn encode_record(&self, chunk: ChunkIndex, value: &Digest, out: &mut BytesMut) {
        out.put_u32(chunk.0);
        out.put_slice(value);
        let start = out.len() - 36;
        let check = self.check(&out[start..]);
        out.put_slice(&check);
    }

    fn check(&self, record: &[u8]) -> [u8; 8] {
        let hash = blake3::keyed_hash(&self.0, record);
        let mut check = [0; 8];
        check.copy_from_slice(&hash.as_bytes()[..8]);
        check
    }
}

impl Journal {
    /// Reads a journal as found. `None` when it is none: empty, torn in the header, of another
    /// format, or cut into chunks of another size than this version would.
    pub fn decode(bytes: &[u8]) -> Option<Journal> {
        let header = decode_header(bytes.get(..HEADER_BYTES)?)?;
        let key = header.key();
        let chunks = chunk_count(header.size_bytes);
        let mut seen = vec![0u64; chunks.div_ceil(64) as usize];
        let mut records = Vec::new();
        let mut slots = 0u64;
        // Appends may reach the disk out of order, so a hole or torn record does not end the
        // journal.
        for slot in bytes[HEADER_BYTES..]
            .chunks_exact(RECORD_BYTES)
            .take(MAX_CHUNKS as usize)
        {
            slots += 1;
            if key.check(&slot[..36]) != slot[36..] {
                continue;
            }
            let chunk = u32::from_be_bytes([slot[0], slot[1], slot[2], slot[3]]);
            let (word, bit) = (chunk as usize / 64, 1 << (chunk % 64));
            if chunk >= chunks || seen[word] & bit != 0 {
                continue;
            }
            seen[word] |= bit;
            let mut value = [0; 32];
            value.copy_from_slice(&slot[4..36]);
            records.push((ChunkIndex(chunk), value));
        }
        let end_bytes = HEADER_BYTES as u64 + slots * RECORD_BYTES as u64;
        Some(Journal {
            header,
            key,
            records,
            end_bytes,
        })
    }
}

/// About how much of a file is there by its journal, of which the first bytes were read and which
/// is so long. None: it is none.
pub fn done_bytes(start: &[u8], len_bytes: u64) -> Option<u64> {
    let header = decode_header(start.get(..HEADER_BYTES)?)?;
    let records = len_bytes.saturating_sub(HEADER_BYTES as u64) / RECORD_BYTES as u64;
    let chunk_bytes = 1 << chunk_log2_for(header.size_bytes);
    Some(records.saturating_mul(chunk_bytes).min(header.size_bytes))
}

fn decode_header(bytes: &[u8]) -> Option<Header> {
    let (fields, check) = bytes.split_at(HEADER_BYTES - 32);
    if fields[..8] != MAGIC || blake3::hash(fields).as_bytes() != check {
        return None;
    }
    let u64_at = |at: usize| u64::from_be_bytes(fields[at..at + 8].try_into().unwrap_or_default());
    let u32_at = |at: usize| u32::from_be_bytes(fields[at..at + 4].try_into().unwrap_or_default());
    let header = Header {
        storage: Storage {
            boot: fields[8..24].try_into().ok()?,
            mount: u64_at(24),
        },
        size_bytes: u64_at(32),
        mtime: Mtime {
            seconds: u64_at(40) as i64,
            nanoseconds: u32_at(48),
        },
        source_tag: u64_at(52),
    };
    let known = header.size_bytes <= MAX_FILE_BYTES
        && u32_at(60) == u32::from(chunk_log2_for(header.size_bytes));
    known.then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let mtime = Mtime {
            seconds: -5,
            nanoseconds: 999_999_999,
        };
        Header {
            storage: Storage {
                boot: [3; 16],
                mount: 4,
            },
            size_bytes: 10 << 20,
            mtime,
            source_tag: 77,
        }
    }

    fn journal(chunks: &[u32]) -> BytesMut {
        let mut out = BytesMut::from(&header().encode()[..]);
        chunks.iter().for_each(|&c| {
            header()
                .key()
                .encode_record(ChunkIndex(c), &[c as u8; 32], &mut out)
        });
        out
    }

    fn chunks(journal: &Journal) -> Vec<u32> {
        journal.records.iter().map(|(chunk, _)| chunk.0).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = journal(&[4, 0, 9]);
        let read = Journal::decode(&bytes).unwrap();
        assert_eq!((read.header, chunks(&read)), (header(), vec![4, 0, 9]));
        assert_eq!(read.records[2].1, [9; 32]);
        assert_eq!(read.end_bytes, bytes.len() as u64);
        assert_eq!(read.key, header().key());
    }

    #[test]
    fn a_torn_tail_is_not_believed_and_written_over() {
        let whole = journal(&[0, 1]);
        for len in HEADER_BYTES + RECORD_BYTES..whole.len() {
            let read = Journal::decode(&whole[..len]).unwrap();
            assert_eq!(chunks(&read), vec![0]);
            assert_eq!(read.end_bytes, (HEADER_BYTES + RECORD_BYTES) as u64);
        }
        (0..HEADER_BYTES).for_each(|len| assert_eq!(Journal::decode(&whole[..len]), None));
    }

    #[test]
    fn holes_lies_and_repeats_are_left_out() {
        let mut bytes = journal(&[0, 1, 2, 2, 10]);
        let hole = HEADER_BYTES + RECORD_BYTES;
        bytes[hole..hole + RECORD_BYTES].fill(0);
        // Chunk 10 is outside: the file has 0..10.
        assert_eq!(chunks(&Journal::decode(&bytes).unwrap()), vec![0, 2]);
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let good = journal(&[0, 1, 2]);
        let read = Journal::decode(&good).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            match Journal::decode(&bad) {
                None => assert!(at < HEADER_BYTES),
                Some(got) => {
                    assert_eq!(got.records.len(), 2, "flip at {at}");
                    assert!(
                        got.records
                            .iter()
                            .all(|record| read.records.contains(record))
                    );
                }
            }
        }
    }

    #[test]
    fn records_of_another_journal_are_not_taken() {
        let other = Header {
            source_tag: 78,
            ..header()
        };
        let mut bytes = BytesMut::from(&header().encode()[..]);
        other
            .key()
            .encode_record(ChunkIndex(1), &[1; 32], &mut bytes);
        assert!(Journal::decode(&bytes).unwrap().records.is_empty());
        assert!(!other.same_source(&header()));
        assert!(
            Header {
                storage: Storage::default(),
                ..header()
            }
            .same_source(&header())
        );
    }

    #[test]
    fn only_a_known_storage_still_holds() {
        let then = header().storage;
        assert!(then.still_holds(&then));
        assert!(
            !Storage {
                boot: [4; 16],
                ..then
            }
            .still_holds(&then)
        );
        assert!(!Storage { mount: 5, ..then }.still_holds(&then));
        for unknown in [
            Storage { mount: 0, ..then },
            Storage {
                boot: [0; 16],
                ..then
            },
        ] {
            assert!(!unknown.still_holds(&unknown));
        }
    }

    #[test]
    fn lengths_are_not_trusted() {
        let mut huge = BytesMut::from(
            &Header {
                size_bytes: u64::MAX,
                ..header()
            }
            .encode()[..],
        );
        assert_eq!(Journal::decode(&huge), None);
        huge.resize(HEADER_BYTES, 0xff);
        assert_eq!(Journal::decode(&[0; 4096]), None);
    }
}
