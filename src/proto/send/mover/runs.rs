//! Which piece of a chunk is next: of data to be read, or of a hole that is only hashed.

use crate::proto::extents::{DataMap, DataOrHole};
use crate::proto::zeros::ZeroPace;
use crate::proto::{PIECE_BYTES, PIPED_BYTES};

/// How far the pieces of a chunk were started.
#[derive(Debug)]
pub(super) enum ChunkCourse {
    /// All of it is data.
    Dense,
    Sparse(SparseCourse),
}

/// Of a chunk with holes.
#[derive(Debug)]
pub(super) struct SparseCourse {
    map: DataMap,
    /// Where the file has data is being asked.
    pub(super) is_looking: bool,
    /// Of the run begun: zeros, then data, to come.
    hole_bytes: u64,
    data_bytes: u64,
}

/// What is to be started next of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextPiece {
    /// The begin of a run.
    Run {
        hole_bytes: u64,
        data_bytes: u64,
    },
    /// So much of its hole, which may be hashed now.
    Zeros(u64),
    Data(u64),
    /// Where data is has to be asked from here on.
    Look(u64),
    /// An answer is to come.
    Wait,
    /// So much was hashed that others have their turn first.
    Yield,
}

/// What becomes of a piece of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceUse {
    /// It is read, for it is hashed, or sealed here.
    IsRead,
    /// It stays in the kernel.
    Stays,
    /// The record is filled up: there is no data, and nobody hashes it.
    Fills,
}

impl PieceUse {
    fn most_bytes(self) -> u64 {
        match self {
            PieceUse::IsRead | PieceUse::Fills => PIECE_BYTES as u64,
            PieceUse::Stays => PIPED_BYTES as u64,
        }
    }
}

impl ChunkCourse {
    pub(super) fn new(map: Option<DataMap>) -> ChunkCourse {
        match map {
            None => ChunkCourse::Dense,
            Some(map) => ChunkCourse::Sparse(SparseCourse {
                map,
                is_looking: false,
                hole_bytes: 0,
                data_bytes: 0,
            }),
        }
    }

    pub(super) fn is_sparse(&self) -> bool {
        matches!(self, ChunkCourse::Sparse(_))
    }

    /// The next piece of a chunk of which `at..end` is to come.
    pub(super) fn next(
        &mut self,
        (at, end): (u64, u64),
        pace: &mut ZeroPace,
        use_of: PieceUse,
    ) -> NextPiece {
        match self {
            ChunkCourse::Dense => NextPiece::Data((end - at).min(use_of.most_bytes())),
            ChunkCourse::Sparse(course) => course.next((at, end), pace, use_of),
        }
    }

    /// More is known of where data is.
    pub(super) fn learn(&mut self, found: Option<DataMap>) {
        if let ChunkCourse::Sparse(course) = self {
            course.is_looking = false;
            course.map = found.unwrap_or_default();
        }
    }
}

impl SparseCourse {
    fn next(&mut self, (at, end): (u64, u64), pace: &mut ZeroPace, use_of: PieceUse) -> NextPiece {
        let is_filler = use_of == PieceUse::Fills;
        if self.is_looking {
            return NextPiece::Wait;
        }
        if self.hole_bytes > 0 {
            let bytes = match is_filler {
                true => self.hole_bytes,
                false => pace.take(self.hole_bytes),
            };
            self.hole_bytes -= bytes;
            return match bytes {
                0 => NextPiece::Yield,
                _ => NextPiece::Zeros(bytes),
            };
        }
        if self.data_bytes > 0 {
            let bytes = self.data_bytes.min(use_of.most_bytes());
            self.data_bytes -= bytes;
            return NextPiece::Data(bytes);
        }
        if is_filler {
            return self.begin_run(end - at, 0);
        }
        match self.map.stretch(at) {
            DataOrHole::Unknown => {
                self.is_looking = true;
                NextPiece::Look(DataMap::look_from(at))
            }
            DataOrHole::Data { end: to } => self.begin_run(0, to.min(end) - at),
            DataOrHole::Hole { end: to } => {
                let to = to.min(end);
                let data_bytes = match self.map.stretch(to) {
                    DataOrHole::Data { end: data_end } if to < end => data_end.min(end) - to,
                    DataOrHole::Data { .. } | DataOrHole::Hole { .. } | DataOrHole::Unknown => 0,
                };
                self.begin_run(to - at, data_bytes)
            }
        }
    }

    fn begin_run(&mut self, hole_bytes: u64, data_bytes: u64) -> NextPiece {
        self.hole_bytes = hole_bytes;
        self.data_bytes = data_bytes;
        NextPiece::Run {
            hole_bytes,
            data_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn pieces(mut course: ChunkCourse, from: u64, end: u64) -> Vec<NextPiece> {
        let (mut at, mut pace, mut all) = (from, ZeroPace::default(), Vec::new());
        while at < end {
            let piece = course.next((at, end), &mut pace, PieceUse::IsRead);
            match piece {
                NextPiece::Zeros(bytes) | NextPiece::Data(bytes) => at += bytes,
                NextPiece::Run { .. } => {}
                NextPiece::Yield => pace.renew(),
                NextPiece::Look(_) | NextPiece::Wait => return [all, vec![piece]].concat(),
            }
            all.push(piece);
        }
        all
    }

    #[test]
    fn runs_follow_the_map_and_holes_come_in_slices() {
        let map = DataMap::new([2000 * KIB..2100 * KIB, 2200 * KIB..2201 * KIB], u64::MAX);
        let run = |hole_bytes, data_bytes| NextPiece::Run {
            hole_bytes,
            data_bytes,
        };
        let (zeros, data) = (NextPiece::Zeros, NextPiece::Data);
        let expected = [
            run(2000 * KIB, 100 * KIB),
            zeros(1024 * KIB),
            NextPiece::Yield,
            zeros(976 * KIB),
            data(64 * KIB),
            data(36 * KIB),
            run(100 * KIB, 4 * KIB),
            zeros(48 * KIB),
            NextPiece::Yield,
            zeros(52 * KIB),
            data(4 * KIB),
            run(5 * KIB, 0),
            zeros(5 * KIB),
        ];
        assert_eq!(pieces(ChunkCourse::new(Some(map)), 0, 2209 * KIB), expected);
    }

    #[test]
    fn what_is_not_known_is_asked() {
        let map = DataMap::new(std::iter::once(4 * KIB..8 * KIB), 8 * KIB);
        let mut course = ChunkCourse::new(Some(map));
        let mut pace = ZeroPace::default();
        let mut next = |at, use_of| course.next((at, 100 * KIB), &mut pace, use_of);
        assert_eq!(
            next(6 * KIB, PieceUse::IsRead),
            NextPiece::Run {
                hole_bytes: 0,
                data_bytes: 2 * KIB
            }
        );
        assert_eq!(next(6 * KIB, PieceUse::IsRead), NextPiece::Data(2 * KIB));
        assert_eq!(next(8 * KIB, PieceUse::IsRead), NextPiece::Look(8 * KIB));
        assert_eq!(next(8 * KIB, PieceUse::Fills), NextPiece::Wait);
        course.learn(None);
        // The rest is filler: one hole.
        let mut next = |at| course.next((at, 100 * KIB), &mut pace, PieceUse::Fills);
        assert_eq!(
            next(8 * KIB),
            NextPiece::Run {
                hole_bytes: 92 * KIB,
                data_bytes: 0
            }
        );
        assert_eq!(next(8 * KIB), NextPiece::Zeros(92 * KIB));
    }
}
