//! Packets as they come, cut into runs: equal ones in a row, ended by at most one shorter.

use landro_sys::gso::{MAX_RUN_BYTES, Run};

/// The last run of a buffer, as far as it has come.
pub(super) struct Cut {
    max_segments: usize,
    segment_bytes: usize,
    segments: usize,
    /// The last packet was shorter, or stands alone: nothing may follow it in its message.
    ended: bool,
}

impl Cut {
    pub fn new(max_segments: usize) -> Cut {
        Cut {
            max_segments,
            segment_bytes: 0,
            segments: 0,
            ended: false,
        }
    }

    /// Adds the packet of `len` bytes that was built at `at` in the buffer, just behind its
    /// predecessor. A packet that is longer than the first of its run begins a new run, which
    /// really happens; so does one that is to stand `alone`.
    pub fn push(&mut self, runs: &mut Vec<Run>, at: usize, len: usize, alone: bool) {
        let fits = |run: &Run| {
            !self.ended
                && !alone
                && len <= self.segment_bytes
                && self.segments < self.max_segments
                && run.range.len() + len <= MAX_RUN_BYTES
        };
        match runs.last_mut() {
            Some(run) if fits(run) => {
                run.range.end += len;
                run.segment_bytes = Some(self.segment_bytes as u16);
                self.segments += 1;
                self.ended = len < self.segment_bytes;
            }
            Some(_) | None => {
                // A message of one packet carries no segment size: some virtio NICs answer EIO.
                runs.push(Run::single(at..at + len));
                *self = Cut {
                    segment_bytes: len,
                    segments: 1,
                    ended: alone,
                    ..*self
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use landro_sys::gso::MAX_SEGMENTS;

    use super::*;

    fn cut(lens: &[usize]) -> Vec<Run> {
        let (mut cut, mut runs, mut at) = (Cut::new(MAX_SEGMENTS), Vec::new(), 0);
        for len in lens {
            cut.push(&mut runs, at, *len, false);
            at += len;
        }
        runs
    }

    /// What the kernel makes of a run.
    fn segments(runs: &[Run]) -> Vec<usize> {
        let mut lens = Vec::new();
        for run in runs {
            let mut left = run.range.len();
            let segment = run.segment_bytes.map_or(left, usize::from);
            while left > 0 {
                lens.push(left.min(segment));
                left -= left.min(segment);
            }
        }
        lens
    }

    #[test]
    fn equal_packets_and_one_shorter_are_one_run() {
        assert_eq!(
            cut(&[1472, 1472, 1472]),
            [Run {
                range: 0..4416,
                segment_bytes: Some(1472)
            }]
        );
        assert_eq!(
            cut(&[1472, 1472, 99]),
            [Run {
                range: 0..3043,
                segment_bytes: Some(1472)
            }]
        );
        assert_eq!(
            cut(&[40]),
            [Run {
                range: 0..40,
                segment_bytes: None
            }]
        );
    }

    #[test]
    fn a_longer_packet_and_what_follows_a_shorter_one_start_runs() {
        let runs = cut(&[1200, 1472, 1472, 40, 40, 41]);
        let ranges = [0..1200, 1200..4184, 4184..4224, 4224..4265];
        assert_eq!(
            runs.iter().map(|run| run.range.clone()).collect::<Vec<_>>(),
            ranges
        );
        let segment_bytes = [None, Some(1472), None, None];
        assert_eq!(
            runs.iter().map(|run| run.segment_bytes).collect::<Vec<_>>(),
            segment_bytes
        );
        assert_eq!(segments(&runs), [1200, 1472, 1472, 40, 40, 41]);
    }

    #[test]
    fn a_probe_stands_alone() {
        let (mut cut, mut runs) = (Cut::new(MAX_SEGMENTS), Vec::new());
        for (at, len, alone) in [(0, 1200, false), (1200, 1472, true), (2672, 1200, false)] {
            cut.push(&mut runs, at, len, alone);
        }
        assert!(runs.iter().all(|run| run.segment_bytes.is_none()) && runs.len() == 3);
    }

    #[test]
    fn the_kernel_sees_the_packets_that_were_built() {
        for seed in 0..2_000u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let lens: Vec<usize> = (0..next(200))
                .map(|_| {
                    if next(10) > 0 {
                        1472
                    } else {
                        21 + next(9_000) as usize
                    }
                })
                .collect();
            let runs = cut(&lens);
            assert_eq!(segments(&runs), lens, "seed {seed}");
            assert!(
                runs.windows(2)
                    .all(|pair| pair[0].range.end == pair[1].range.start)
            );
            for run in &runs {
                assert!(run.range.len() <= MAX_RUN_BYTES);
                let count = run
                    .segment_bytes
                    .map_or(1, |s| run.range.len().div_ceil(usize::from(s)));
                assert!(
                    count <= MAX_SEGMENTS && run.segment_bytes.is_some() == (count > 1),
                    "seed {seed}"
                );
            }
        }
    }
}
