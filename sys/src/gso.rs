//! Datagrams of one size in a row: the kernel takes them as one message and cuts it (UDP_SEGMENT).

use std::ops::Range;

/// Datagrams the kernel cuts one message into: UDP_MAX_SEGMENTS, 64 until Linux 6.9 raised it to
/// 128.
pub const MAX_SEGMENTS: usize = 64;

/// Bytes of one message: the largest UDP payload over IPv4 (over IPv6 it is 65,487). The kernel
/// checks this before it cuts.
pub const MAX_RUN_BYTES: usize = 65_507;

/// A stretch of a buffer that leaves as one message. A message beyond the two limits above is
/// refused as a whole; its datagrams are then sent one by one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Its bytes in the buffer.
    pub range: Range<usize>,
    /// Length of each datagram but the last, which may be shorter; `None` for a single datagram.
    pub segment_bytes: Option<u16>,
}

impl Run {
    /// A datagram of its own.
    pub fn single(range: Range<usize>) -> Run {
        Run {
            range,
            segment_bytes: None,
        }
    }

    /// Whether the kernel has something to cut.
    pub fn is_segmented(&self) -> bool {
        self.segment_bytes
            .is_some_and(|size| self.range.len() > usize::from(size))
    }

    /// Where each datagram lies in the buffer.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let (start, end) = (self.range.start, self.range.end);
        let step = self.segment_bytes.map_or(end - start, usize::from).max(1);
        (0..(end - start).div_ceil(step)).map(move |number| {
            let at = start + number * step;
            at..(at + step).min(end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_cut_into_equal_datagrams_and_a_rest() {
        let cut = |range, segment_bytes| {
            let run = Run {
                range,
                segment_bytes,
            };
            (run.is_segmented(), run.datagrams().collect::<Vec<_>>())
        };
        assert_eq!(cut(5..30, Some(10)), (true, vec![5..15, 15..25, 25..30]));
        assert_eq!(cut(5..15, Some(10)), (false, vec![5..15; 1]));
        assert_eq!(cut(5..15, None), (false, vec![5..15; 1]));
        assert_eq!(cut(5..5, None), (false, vec![]));
        assert_eq!(Run::single(2..4).datagrams().len(), 1);
    }
}
