//! Going on with a partial file of an earlier session: whom to believe, what to hash again, what to
//! tell.

use bytes::{Bytes, BytesMut};

use super::{JournalWriter, PartState, PartStep};
use crate::ids::ChunkIndex;
use crate::proto::chunk::{chunk_len_bytes, chunk_offset};
use crate::proto::integrity::{ChunkHasher, Digest};
use crate::proto::journal::Journal;
use crate::proto::ports::Ports;
use crate::proto::receive::plan::ReceivePlan;
use crate::proto::wire::{MAX_VALUES, VerdictKind};
use crate::proto::{DiskDone, DiskError, DiskOp, Event, PIECE_BYTES};

/// Chunks that may be gone, being read and hashed one after the other.
#[derive(Debug)]
pub(super) struct Rehash {
    records: std::vec::IntoIter<(ChunkIndex, Digest)>,
    current: Option<(ChunkIndex, Digest, ChunkHasher)>,
    read_bytes: u64,
    kept: Vec<(ChunkIndex, Digest)>,
}

impl ReceivePlan {
    /// Decides what a partial file as found is worth.
    pub(super) fn resume_or_start(
        &mut self,
        ports: &mut Ports,
        at: usize,
        journal: &[u8],
        found_bytes: u64,
    ) {
        let part = &mut self.parts.open[at];
        let header = part.header;
        let journal = match part.resumable {
            true => Journal::decode(journal).filter(|journal| journal.header.same_source(&header)),
            false => None,
        };
        let Some(mut journal) = journal else {
            return self.start_part(ports, at);
        };
        let size_bytes = header.size_bytes;
        journal.records.retain(|(chunk, _)| {
            chunk_offset(size_bytes, *chunk) + chunk_len_bytes(size_bytes, *chunk) <= found_bytes
        });
        journal.records.sort_unstable_by_key(|(chunk, _)| *chunk);
        if journal.records.is_empty() {
            return self.start_part(ports, at);
        }
        // Of another storage, it goes on under that one's name, and is not believed the next time
        // either: to write it anew would put it at risk.
        let (key, at_bytes) = (journal.key, journal.end_bytes);
        part.journal = Some(JournalWriter {
            key,
            at_bytes,
            pending: BytesMut::new(),
            writing: false,
        });
        part.journaled = true;
        if header.storage.still_holds(&journal.header.storage) {
            return self.resume_part(ports, at, &journal.records);
        }
        let records = journal.records.into_iter();
        part.state = PartState::Rehashing(Box::new(Rehash {
            records,
            current: None,
            read_bytes: 0,
            kept: Vec::new(),
        }));
        self.rehash(ports, at);
    }

    /// Reads the next piece to be hashed again, or goes on with what proved right.
    fn rehash(&mut self, ports: &mut Ports, at: usize) {
        let part = &mut self.parts.open[at];
        let PartState::Rehashing(rehash) = &mut part.state else {
            return;
        };
        let size_bytes = part.header.size_bytes;
        if rehash.current.is_none() {
            rehash.read_bytes = 0;
            rehash.current = rehash
                .records
                .next()
                .map(|(chunk, digest)| (chunk, digest, ChunkHasher::new(chunk, size_bytes)));
        }
        let Some((chunk, _, _)) = &rehash.current else {
            let kept = std::mem::take(&mut rehash.kept);
            return match kept.is_empty() {
                true => self.start_part(ports, at),
                false => self.resume_part(ports, at, &kept),
            };
        };
        let left_bytes = chunk_len_bytes(size_bytes, *chunk) - rehash.read_bytes;
        let cmd = DiskOp::ReadPart {
            file: part.file,
            offset: chunk_offset(size_bytes, *chunk) + rehash.read_bytes,
            len_bytes: left_bytes.min(PIECE_BYTES as u64) as usize,
        };
        self.part_op(ports, at, PartStep::Read, cmd);
    }

    pub(super) fn part_read(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        if self.is_stopped {
            return;
        }
        let part = &mut self.parts.open[at];
        let size_bytes = part.header.size_bytes;
        let PartState::Rehashing(rehash) = &mut part.state else {
            return;
        };
        let Some((chunk, digest, mut hasher)) = rehash.current.take() else {
            return;
        };
        // What cannot be read, or is shorter than it was, is fetched again.
        if let Ok(DiskDone::Read { data }) = result
            && !data.is_empty()
        {
            let left_bytes = chunk_len_bytes(size_bytes, chunk) - rehash.read_bytes;
            let data = data.slice(..data.len().min(left_bytes as usize));
            hasher.update(&data);
            rehash.read_bytes += data.len() as u64;
            if rehash.read_bytes < chunk_len_bytes(size_bytes, chunk) {
                rehash.current = Some((chunk, digest, hasher));
            } else if hasher.finish() == digest {
                rehash.kept.push((chunk, digest));
            }
        }
        self.rehash(ports, at);
    }

    /// Tells the sender which chunks are here (sorted), and asks for the others.
    fn resume_part(&mut self, ports: &mut Ports, at: usize, records: &[(ChunkIndex, Digest)]) {
        let part = &mut self.parts.open[at];
        let entry = part.entry;
        for (chunk, digest) in records {
            part.tree.insert(*chunk, *digest);
            part.resumed_bytes += chunk_len_bytes(part.header.size_bytes, *chunk);
        }
        if self.client {
            let bytes = part.resumed_bytes;
            ports.event(Event::Resumed { bytes });
        }
        for run in records
            .chunk_by(|(a, _), (b, _)| a.0 + 1 == b.0)
            .flat_map(|run| run.chunks(MAX_VALUES))
        {
            let values: Vec<u8> = run.iter().flat_map(|(_, digest)| *digest).collect();
            self.push_verdict(
                ports,
                entry,
                VerdictKind::Have {
                    first: run[0].0.0,
                    values: Bytes::from(values),
                },
            );
        }
        self.receive_part(ports, at);
    }
}
