//! What all workers counted, as of one moment.

use std::sync::Arc;

use super::MeasuredPath;
use super::block::Block;
#[cfg(test)]
use super::distribution::Distribution;
use super::distribution::{Distributions, TimeCounts};
use super::table::{BATCH_BOUNDS, CELLS, Definition, DistributionDefinition, METRICS, Metric};

/// All numbers of a process, added up over its workers. Each is as it was when it was read, not all
/// of the same instant.
#[derive(Clone, Debug)]
pub struct Snapshot {
    workers: Vec<Vec<u64>>,
    /// What nobody counts but is looked up for the moment.
    looked_up: Vec<u64>,
    times: Distributions,
    path: MeasuredPath,
}

/// How large batches were.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BatchSizes {
    /// In the buckets of [`BATCH_BOUNDS`], each without what is in the one before; behind them what
    /// is larger.
    pub counts: [u64; BATCH_BOUNDS.len() + 1],
    pub sum: u64,
}

impl BatchSizes {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// 0 where there are none.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count().max(1) as f64
    }
}

impl Snapshot {
    pub(super) fn of(blocks: &[Arc<Block>], times: Distributions, path: MeasuredPath) -> Snapshot {
        let read = |block: &Arc<Block>| (0..CELLS).map(|cell| block.read(cell)).collect();
        Snapshot {
            workers: blocks.iter().map(read).collect(),
            looked_up: vec![0; CELLS],
            times,
            path,
        }
    }

    /// The path that was measured last.
    pub fn path(&self) -> MeasuredPath {
        self.path
    }

    /// Adds what is known of the moment and counted by nobody.
    pub fn look_up<const N: usize>(&mut self, metric: Metric, labels: [usize; N], now: u64) {
        self.looked_up[metric.cell(labels)] = now;
    }

    /// The same of one worker.
    pub fn look_up_of<const N: usize>(
        &mut self,
        worker: usize,
        metric: Metric,
        labels: [usize; N],
        now: u64,
    ) {
        if let Some(cells) = self.workers.get_mut(worker) {
            cells[metric.cell(labels)] = now;
        }
    }

    /// Workers that there are numbers of.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The sum over all workers.
    pub fn get<const N: usize>(&self, metric: Metric, labels: [usize; N]) -> u64 {
        self.sum(metric.cell(labels))
    }

    fn sum(&self, cell: usize) -> u64 {
        let of_workers = self.workers.iter().map(|cells| cells[cell]);
        of_workers.fold(self.looked_up[cell], u64::saturating_add)
    }

    /// The value of each series of a metric, in the order of [`super::series`]; of one worker, or
    /// of all.
    pub fn values(&self, of: &Definition, worker: Option<usize>) -> Vec<u64> {
        let first = of.first_cell();
        let count = super::series(of.labels).count();
        (first..first + count)
            .map(|cell| match worker {
                None => self.sum(cell),
                Some(worker) => self.workers.get(worker).map_or(0, |cells| cells[cell]),
            })
            .collect()
    }

    /// All batches of a metric that counts such.
    pub fn batches(&self, metric: Metric) -> BatchSizes {
        let cells = METRICS[metric as usize].metric.batch_cells();
        let mut batches = BatchSizes::default();
        for (count, cell) in batches.counts.iter_mut().zip(cells.clone()) {
            *count = self.sum(cell);
        }
        batches.sum = self.sum(cells.end - 1);
        batches
    }

    /// One histogram.
    #[cfg(test)]
    pub fn times<const N: usize>(&self, of: Distribution, labels: [usize; N]) -> TimeCounts {
        self.times.at(of.place(labels))
    }

    /// All histograms of one kind, in the order of [`super::series`].
    pub fn all_times(&self, of: &DistributionDefinition) -> Vec<TimeCounts> {
        let first = of.first_place();
        let count = super::series(of.labels).count();
        let all = first..first + count;
        all.map(|place| self.times.at(place)).collect()
    }
}
