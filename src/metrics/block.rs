//! The counters of one worker, and the histograms that it has not handed over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::distribution::{Distribution, Distributions, Local};
use super::table::{BATCH_BOUNDS, CELLS, HISTOGRAMS, Metric};

/// Counters and gauges of one worker. It alone writes them, anybody reads them; on cache lines that
/// nothing else is on (128 bytes: processors fetch them in pairs).
#[derive(Debug)]
#[repr(align(128))]
pub struct Block {
    cells: [AtomicU64; CELLS],
}

impl Default for Block {
    fn default() -> Block {
        Block {
            cells: [const { AtomicU64::new(0) }; CELLS],
        }
    }
}

impl Block {
    /// Counts so many more; gives how many there are now.
    #[inline]
    pub fn add<const N: usize>(&self, metric: Metric, labels: [usize; N], more: u64) -> u64 {
        self.add_to(metric.cell(labels), more)
    }

    /// No read-modify-write: nobody else writes.
    #[inline]
    fn add_to(&self, cell: usize, more: u64) -> u64 {
        let now = self.cells[cell].load(Ordering::Relaxed).wrapping_add(more);
        self.cells[cell].store(now, Ordering::Relaxed);
        now
    }

    /// A gauge is this now.
    #[inline]
    pub fn set<const N: usize>(&self, metric: Metric, labels: [usize; N], now: u64) {
        self.cells[metric.cell(labels)].store(now, Ordering::Relaxed);
    }

    /// One more batch of so many.
    #[inline]
    pub fn batch(&self, metric: Metric, size: u64) {
        let cells = metric.batch_cells();
        let bucket = BATCH_BOUNDS.partition_point(|bound| *bound < size);
        self.add_to(cells.start + bucket, 1);
        self.add_to(cells.end - 1, size);
    }

    pub(super) fn read(&self, cell: usize) -> u64 {
        self.cells[cell].load(Ordering::Relaxed)
    }
}

/// Times that a worker has recorded since it last handed them over.
#[derive(Debug)]
pub struct Recorder {
    /// Made when they are needed, some 10 KiB each.
    histograms: [Option<Box<Local>>; HISTOGRAMS],
    has_any: bool,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            histograms: [const { None }; HISTOGRAMS],
            has_any: false,
        }
    }
}

impl Recorder {
    #[inline]
    pub fn record<const N: usize>(
        &mut self,
        distribution: Distribution,
        labels: [usize; N],
        took: Duration,
    ) {
        let histogram = &mut self.histograms[distribution.place(labels)];
        histogram.get_or_insert_default().record(took);
        self.has_any = true;
    }

    pub(super) fn has_any(&self) -> bool {
        self.has_any
    }

    pub(super) fn hand_over(&mut self, to: &mut Distributions) {
        let recorded = self.histograms.iter_mut().enumerate();
        for (place, histogram) in recorded.filter_map(|(at, it)| Some((at, it.as_mut()?))) {
            to.take(place, histogram);
        }
        self.has_any = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{FlowDirection, Metrics};

    #[test]
    fn batches_fall_into_their_buckets() {
        let metrics = Metrics::new(2);
        for (worker, sizes) in [(0, [1, 1, 2]), (1, [3, 64, 65])] {
            let block = metrics.block(worker);
            sizes
                .into_iter()
                .for_each(|size| block.batch(Metric::GsoPackets, size));
        }
        let batches = metrics.snapshot().batches(Metric::GsoPackets);
        assert_eq!(batches.counts, [2, 1, 1, 0, 0, 0, 1, 1]);
        assert_eq!((batches.sum, batches.count()), (136, 6));
    }

    #[test]
    fn blocks_add_up() {
        let metrics = Metrics::new(3);
        for worker in 0..3 {
            let block = metrics.block(worker);
            block.set(Metric::Sessions, [], 2);
            let labels = [1, FlowDirection::Sent as usize];
            assert_eq!(block.add(Metric::TransportBytes, labels, 10), 10);
            assert_eq!(block.add(Metric::TransportBytes, labels, 5), 15);
        }
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.get(Metric::Sessions, []), 6);
        assert_eq!(snapshot.get(Metric::TransportBytes, [1, 0]), 45);
        assert_eq!(snapshot.get(Metric::TransportBytes, [0, 0]), 0);
        assert_eq!(metrics.get(Metric::TransportBytes, [1, 0]), 45);
    }

    /// Some gauges are what peers say.
    #[test]
    fn sums_do_not_overflow() {
        let metrics = Metrics::new(2);
        for worker in 0..2 {
            metrics
                .block(worker)
                .set(Metric::StreamCredit, [], u64::MAX - 1);
        }
        assert_eq!(metrics.snapshot().get(Metric::StreamCredit, []), u64::MAX);
    }
}
