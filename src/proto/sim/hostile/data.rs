//! The data that a liar sends: records that are honest each for itself, and others.

use bytes::{BufMut, BytesMut};

use super::Hostile;
use crate::ids::{ChunkIndex, EntryId};
use crate::proto::chunk::{SMALL_MAX_BYTES, chunk_count, chunk_len_bytes};
use crate::proto::extents::BLOCK_BYTES;
use crate::proto::integrity::{ChunkHasher, digest_of};
use crate::proto::sim::root;
use crate::proto::wire::{Message, RecordHead, RecordStatus, encode_record_tail, encode_run};

impl Hostile {
    /// Data of something the session asked for, honest as far as this one record goes.
    pub(super) fn send_data(&mut self) {
        if self.asked.is_empty() || !self.takes_data {
            return;
        }
        let at = self.rng.below(self.asked.len());
        let id = self.asked[at];
        let Some(entry) = self.entries.get(id.0 as usize - 1).cloned() else {
            return;
        };
        if entry.size_bytes <= SMALL_MAX_BYTES {
            self.asked.swap_remove(at);
            let data = vec![id.0 as u8; entry.size_bytes as usize];
            let head = RecordHead::Whole {
                entry: id,
                len_bytes: entry.size_bytes,
            };
            return self.send_record(head, &data, digest_of(&data));
        }
        let size = entry.size_bytes;
        let Some(chunk) = (0..chunk_count(size)).find(|chunk| !self.sent.contains(&(id, *chunk)))
        else {
            self.asked.swap_remove(at);
            let digest = digest_of(&vec![id.0 as u8; size as usize]);
            return match chunk_count(size) {
                1 => {}
                _ => self.say(&root(id, digest)),
            };
        };
        self.sent.insert((id, chunk));
        let is_sparse = entry.allocated_bytes.is_some();
        if is_sparse && chunk_count(size) > 1 && self.rng.chance(30) {
            let (entry, first, count) = (id, chunk, 1);
            return self.say(&Message::Holes {
                entry,
                first,
                count,
            });
        }
        let chunk = ChunkIndex(chunk);
        let mut data = vec![id.0 as u8; chunk_len_bytes(size, chunk) as usize];
        let hole = BLOCK_BYTES as usize * self.rng.pick(&[0, 1, 15]);
        let has_holes = is_sparse && self.rng.chance(50);
        if has_holes {
            data[..hole].fill(0);
        }
        let mut hasher = ChunkHasher::new(chunk, size);
        hasher.update(&data);
        let head = RecordHead::Chunk {
            entry: id,
            chunk,
            len_bytes: data.len() as u64,
            has_holes,
        };
        if has_holes {
            let mut run = BytesMut::new();
            encode_run(hole as u64, (data.len() - hole) as u64, &mut run);
            data = [&run[..], &data[hole..]].concat();
        }
        self.send_record(head, &data, hasher.finish());
    }

    fn send_record(&mut self, head: RecordHead, data: &[u8], digest: [u8; 32]) {
        let mut bytes = BytesMut::new();
        head.encode(&mut bytes);
        bytes.put_slice(data);
        let status = if self.rng.chance(self.lie_percent) {
            let lies = [
                RecordStatus::SourceFailed,
                RecordStatus::ValidPrefix,
                RecordStatus::ValidShort,
                RecordStatus::Kept,
            ];
            self.rng.pick(&lies)
        } else {
            RecordStatus::Valid
        };
        let is_whole = matches!(head, RecordHead::Whole { .. });
        let is_lie = status == RecordStatus::ValidShort || status.is_kept() && is_whole;
        self.lies += usize::from(is_lie);
        encode_record_tail(status, &digest, &mut bytes);
        self.stream(bytes.freeze(), true);
    }

    pub(super) fn send_wrongly(&mut self, entry: EntryId) {
        let entry = if self.asked.is_empty() || self.rng.chance(30) {
            entry
        } else {
            self.rng.pick(&self.asked)
        };
        let chunk = ChunkIndex(self.rng.pick(&[0, 1, 65_535, u32::MAX]));
        let len_bytes = self
            .rng
            .pick(&[0, 1, 10, SMALL_MAX_BYTES, 1 << 20, 1 << 40]);
        let head = match self.rng.chance(50) && len_bytes <= SMALL_MAX_BYTES {
            true => RecordHead::Whole { entry, len_bytes },
            false => RecordHead::Chunk {
                entry,
                chunk,
                len_bytes,
                has_holes: self.rng.chance(30),
            },
        };
        let mut data = vec![0; len_bytes.min(2 << 20) as usize];
        if let RecordHead::Chunk {
            has_holes: true, ..
        } = head
        {
            let holes = [0, 1, 4096, len_bytes, 1 << 40];
            let mut run = BytesMut::new();
            encode_run(self.rng.pick(&holes), self.rng.pick(&holes), &mut run);
            data.splice(..0, run);
        }
        match self.rng.chance(50) {
            true => self.send_record(head, &data, [0; 32]),
            false => {
                let mut bytes = BytesMut::new();
                head.encode(&mut bytes);
                bytes.put_slice(&data[..data.len() / 2]);
                let fin = self.rng.chance(50);
                self.stream(bytes.freeze(), fin);
            }
        }
    }
}
