//! A chunk on its way out: its pieces in order, a few of them read ahead, and its digest at the
//! end.

use std::collections::VecDeque;

use super::chunks::{ChunkData, NeededChunk};
use crate::api::buffers::BufferPool;
use crate::api::file_reads::{
    FileReads, PIECE_BYTES, PieceError, PieceRead, PieceSource, PlaceOfPiece, ReadPiece, value_of,
};
use crate::api::permits::Permit;
use crate::ids::ChunkIndex;
use crate::proto::integrity::{Digest, Tree};

/// Pieces of a chunk that are read at a time: while one is written, the next is read.
const READ_AHEAD: usize = 3;

/// Of less, the digest is reckoned where it is needed: handing it to a thread takes as long.
const SMALL_BYTES: usize = 64 << 10;

/// Memory that a piece takes: what a pooled buffer of it is.
fn charge_of_piece(bytes: u64) -> usize {
    (bytes as usize)
        .next_power_of_two()
        .max(BufferPool::SMALLEST_BYTES)
}

/// Memory that a chunk takes while it is sent. Many small ones are no less than a page each: what
/// is kept beside their bytes is bounded, too.
pub(super) fn charge_of(size_bytes: u64) -> usize {
    let whole = size_bytes / PIECE_BYTES as u64 * PIECE_BYTES as u64;
    match size_bytes - whole {
        0 if whole > 0 => whole as usize,
        rest => whole as usize + charge_of_piece(rest),
    }
}

/// What reads, and into what.
#[derive(Clone, Copy)]
pub(super) struct Readers<'a> {
    pub reads: &'a FileReads,
    pub buffers: &'a BufferPool,
}

/// The pieces of one chunk.
pub(super) struct ChunkPieces<'a> {
    readers: Readers<'a>,
    data: ChunkData,
    size_bytes: u64,
    permit: Permit,
    /// Pieces that were begun, or need not be.
    begun: VecDeque<PieceAhead>,
    /// The next that is to be begun, and the next that is to be taken.
    next: u32,
    taken: u32,
    tree: Tree,
}

enum PieceAhead {
    Reads(PieceRead),
    Ready(ReadPiece),
}

impl<'a> ChunkPieces<'a> {
    /// Begins to read. The permit is that of [`charge_of`].
    pub fn begin(
        readers: Readers<'a>,
        chunk: NeededChunk,
        data: ChunkData,
        mut permit: Permit,
    ) -> Result<ChunkPieces<'a>, String> {
        let size_bytes = chunk.size_bytes;
        let (data, permit) = match data {
            ChunkData::Bytes(bytes) if bytes.len() as u64 != size_bytes => {
                let found = bytes.len();
                return Err(format!("the provider gave {found} bytes for {chunk}"));
            }
            ChunkData::FileRange { offset, .. } if offset.checked_add(size_bytes).is_none() => {
                return Err(format!("no file has {chunk} at {offset}"));
            }
            // One allocation, which is free when the last piece is: so is its permit.
            ChunkData::Bytes(bytes) => {
                let none = permit.split(0);
                (ChunkData::Bytes(permit.hold(bytes)), none)
            }
            ChunkData::FileRange { .. } => (data, permit),
        };
        let mut pieces = ChunkPieces {
            readers,
            data,
            size_bytes,
            permit,
            begun: VecDeque::new(),
            next: 0,
            taken: 0,
            tree: Tree::new(size_bytes),
        };
        if size_bytes == 0 {
            let whole = PlaceOfPiece {
                index: 0,
                whole_bytes: 0,
            };
            pieces.tree.insert(ChunkIndex(0), value_of(&[], whole));
        }
        pieces.read_ahead().map_err(|error| error.to_string())?;
        Ok(pieces)
    }

    fn read_ahead(&mut self) -> Result<(), PieceError> {
        while self.begun.len() < READ_AHEAD {
            let at = u64::from(self.next) * PIECE_BYTES as u64;
            let bytes = (self.size_bytes - at.min(self.size_bytes)).min(PIECE_BYTES as u64);
            if bytes == 0 {
                return Ok(());
            }
            let permit = self.permit.split(charge_of_piece(bytes));
            let begun = self.begin_piece(at, bytes as usize, permit)?;
            self.begun.push_back(begun);
            self.next += 1;
        }
        Ok(())
    }

    fn begin_piece(&self, at: u64, bytes: usize, permit: Permit) -> Result<PieceAhead, PieceError> {
        let place = PlaceOfPiece {
            index: self.next,
            whole_bytes: self.size_bytes,
        };
        let source = match &self.data {
            ChunkData::Bytes(data) => {
                let data = data.slice(at as usize..at as usize + bytes);
                if bytes <= SMALL_BYTES {
                    let value = Some(value_of(&data, place));
                    let bytes = permit.hold(data);
                    return Ok(PieceAhead::Ready(ReadPiece { bytes, value }));
                }
                PieceSource::Memory(data)
            }
            ChunkData::FileRange { file, offset } => PieceSource::File {
                file: file.clone(),
                offset: offset + at,
                bytes,
                buffers: self.readers.buffers.clone(),
            },
        };
        let reads = self.readers.reads.begin(source, Some(place), permit);
        reads.map(PieceAhead::Reads)
    }

    /// The next piece. `None`: there is no more.
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, String> {
        let piece = match self.begun.front() {
            None => return Ok(None),
            Some(PieceAhead::Reads(reads)) => Some(reads.done().await),
            Some(PieceAhead::Ready(_)) => None,
        };
        let piece = match (piece, self.begun.pop_front()) {
            (Some(piece), _) => piece.map_err(|error| error.to_string())?,
            (None, Some(PieceAhead::Ready(piece))) => piece,
            (None, Some(PieceAhead::Reads(_)) | None) => return Ok(None),
        };
        if let Some(value) = piece.value {
            self.tree.insert(ChunkIndex(self.taken), value);
        }
        self.taken += 1;
        self.read_ahead().map_err(|error| error.to_string())?;
        Ok(Some(piece.bytes))
    }

    /// The digest of the chunk, once all of it was taken.
    pub fn digest(&self) -> Option<Digest> {
        self.tree.root()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_charged_as_its_pieces_are() {
        for (bytes, charge) in [
            (0, 4 << 10),
            (1, 4 << 10),
            (5000, 8 << 10),
            (1 << 20, 1 << 20),
            ((1 << 20) + 1, (1 << 20) + (4 << 10)),
            (16 << 20, 16 << 20),
            ((3 << 20) + 700_000, 4 << 20),
        ] {
            assert_eq!(charge_of(bytes), charge, "{bytes}");
        }
    }
}
