//! One place for numbers: what happens is counted once, where it happens, and whoever tells of it
//! reads it here.
//!
//! Each worker has a block of its own, which it alone writes: relaxed stores, no lock, no cache
//! line that another thread writes. Times go into histograms of its own, which it hands over once
//! a second ([`Metrics::take`]); a scrape adds up blocks and reads what was handed over.

mod block;
mod distribution;
mod snapshot;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

pub use block::{Block, Recorder};
pub use distribution::{Distribution, TIME_BOUNDS};
pub use snapshot::Snapshot;
pub use table::{
    Addend, BATCH_BOUNDS, BackendKind, ConnectionFailure, ConnectionPhase, DISTRIBUTIONS,
    Definition, DiskWork, DistributionDefinition, EntryEnd, FlowDirection, FlowLevel, METRICS,
    Metric, MetricShape, MetricUnit, Origin, Party, Refusal, SessionEnd, SessionVerb, series,
};

use crate::config::LaneKind;
use distribution::Distributions;

/// What all workers of a process counted.
#[derive(Debug)]
pub struct Metrics {
    blocks: Vec<Arc<Block>>,
    /// Taken by a worker once a second at most, if nobody has it, and by a scrape.
    times: Mutex<Distributions>,
    path: Mutex<MeasuredPath>,
}

/// The path of the connection that was measured last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MeasuredPath {
    pub rtt: Duration,
    /// The least of all connections; None before the first measurement.
    pub min_rtt: Option<Duration>,
    pub cwnd_bytes: u64,
}

impl Metrics {
    /// For so many workers, which count from 0.
    pub fn new(workers: u8) -> Metrics {
        Metrics {
            blocks: (0..workers).map(|_| Arc::default()).collect(),
            times: Mutex::default(),
            path: Mutex::default(),
        }
    }

    /// The block of one worker. One that is not there is nobody's: what is counted in it is lost.
    pub fn block(&self, worker: u8) -> Arc<Block> {
        let block = self.blocks.get(usize::from(worker));
        debug_assert!(block.is_some());
        block.cloned().unwrap_or_default()
    }

    /// Takes over what a worker recorded, if that is to be had without waiting. False: it is not,
    /// as somebody reads what there is; the worker has it still.
    pub fn take(&self, recorder: &mut Recorder) -> bool {
        if !recorder.has_any() {
            return true;
        }
        let mut times = match self.times.try_lock() {
            Ok(times) => times,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        recorder.hand_over(&mut times);
        true
    }

    /// The same of a worker that ends, which waits.
    pub fn take_last(&self, recorder: &mut Recorder) {
        recorder.hand_over(&mut self.times());
    }

    /// A connection was measured.
    pub fn measured(&self, path: MeasuredPath) {
        let mut last = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        *last = MeasuredPath {
            min_rtt: last.min_rtt.into_iter().chain(path.min_rtt).min(),
            ..path
        };
    }

    /// One number, added up: what a worker itself wants to know.
    pub fn get<const N: usize>(&self, metric: Metric, labels: [usize; N]) -> u64 {
        let cell = metric.cell(labels);
        self.blocks.iter().map(|block| block.read(cell)).sum()
    }

    /// All of it, added up.
    pub fn snapshot(&self) -> Snapshot {
        let path = *self.path.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot::of(&self.blocks, self.times().clone(), path)
    }

    fn times(&self) -> MutexGuard<'_, Distributions> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A kind of lane as the value of its label.
pub fn of_kind(kind: LaneKind) -> usize {
    match kind {
        LaneKind::Quic => 0,
        LaneKind::Tls => 1,
        LaneKind::Clear => 2,
    }
}

/// A connection that came to nothing, in place of a kind.
pub const NO_KIND: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that has packets to send does not wait for who reads.
    #[test]
    fn what_is_recorded_while_somebody_reads_is_handed_over_later() {
        let (metrics, mut recorder) = (Metrics::new(1), Recorder::default());
        let count = || {
            metrics
                .snapshot()
                .times(Distribution::FirstByte, [])
                .count()
        };
        recorder.record(Distribution::FirstByte, [], Duration::from_millis(1));
        let reads = metrics.times();
        assert!(!metrics.take(&mut recorder));
        drop(reads);
        assert_eq!(count(), 0);
        assert!(metrics.take(&mut recorder));
        assert_eq!(count(), 1);
        assert!(metrics.take(&mut recorder), "there is nothing");
        recorder.record(Distribution::FirstByte, [], Duration::from_millis(1));
        metrics.take_last(&mut recorder);
        assert_eq!(count(), 2);
    }
}
