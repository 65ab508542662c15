//! Where a file has data and where holes, in whole blocks, as far as it was looked at.

use std::collections::VecDeque;
use std::ops::Range;

/// Holes begin and end at multiples of this (or where the file ends): a page, and the block of most
/// file systems. What is less of a hole is sent as zeros.
pub const BLOCK_BYTES: u64 = 4096;

/// Ranges of data that one look gives at most: enough that looking costs little, few enough to be
/// kept for every file being read.
pub const MAP_RANGES: usize = 64;

/// Up to [`MAP_RANGES`] ranges of data, in order and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataMap {
    ranges: VecDeque<Range<u64>>,
    /// What is before is known.
    known_to: u64,
}

/// What a file has from some place on, up to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataOrHole {
    Hole { end: u64 },
    Data { end: u64 },
    Unknown,
}

impl DataMap {
    /// From what the file system says, to the byte; `known_to` may be `u64::MAX`.
    pub fn new(found: impl IntoIterator<Item = Range<u64>>, known_to: u64) -> DataMap {
        let mut ranges: VecDeque<Range<u64>> = VecDeque::new();
        for range in found {
            let (start, end) = (
                range.start / BLOCK_BYTES * BLOCK_BYTES,
                block_end(range.end),
            );
            match ranges.back_mut().filter(|last| start <= last.end) {
                Some(last) => last.end = last.end.max(end),
                None => ranges.push_back(start..end),
            }
        }
        let known_to = block_end(known_to);
        DataMap { ranges, known_to }
    }

    /// Everything is data.
    #[cfg(test)]
    pub fn full() -> DataMap {
        DataMap::new(std::iter::once(0..u64::MAX), u64::MAX)
    }

    /// What there is from `at` on. What lies before it is forgotten.
    pub fn stretch(&mut self, at: u64) -> DataOrHole {
        while self.ranges.front().is_some_and(|range| range.end <= at) {
            self.ranges.pop_front();
        }
        match self.ranges.front() {
            Some(range) if range.start <= at => DataOrHole::Data { end: range.end },
            Some(range) => DataOrHole::Hole { end: range.start },
            None if at < self.known_to => DataOrHole::Hole { end: self.known_to },
            None => DataOrHole::Unknown,
        }
    }

    /// Where looking goes on for what is unknown at `at`.
    pub fn look_from(at: u64) -> u64 {
        at / BLOCK_BYTES * BLOCK_BYTES
    }
}

/// The next end of a block; `u64::MAX` is no place in a file and stays.
fn block_end(at: u64) -> u64 {
    at.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_whole_blocks() {
        let found = [100..200, 4096..4097, 20_000..21_000, 24_575..24_576];
        let mut map = DataMap::new(found, 30_000);
        assert_eq!(map.stretch(0), DataOrHole::Data { end: 8192 });
        assert_eq!(map.stretch(8191), DataOrHole::Data { end: 8192 });
        assert_eq!(map.stretch(8192), DataOrHole::Hole { end: 16_384 });
        assert_eq!(map.stretch(16_384), DataOrHole::Data { end: 24_576 });
        assert_eq!(map.stretch(24_576), DataOrHole::Hole { end: 32_768 });
        assert_eq!(map.stretch(32_768), DataOrHole::Unknown);
        let mut map = DataMap::new([], u64::MAX);
        assert_eq!(map.stretch(1 << 62), DataOrHole::Hole { end: u64::MAX });
        assert_eq!(
            DataMap::full().stretch(5),
            DataOrHole::Data { end: u64::MAX }
        );
        assert_eq!(DataMap::default().stretch(0), DataOrHole::Unknown);
    }
}
