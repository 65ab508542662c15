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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Taken by a worker once a second at most, and by a scrape.
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

    /// Takes over what a worker recorded.
    pub fn take(&self, recorder: &mut Recorder) {
        if recorder.has_any() {
            recorder.hand_over(&mut self.times());
        }
    }

    /// A connection was measured.
    pub fn measured(&self, path: MeasuredPath) {
        let mut last = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        *last = MeasuredPath {
            min_rtt: last.min_rtt.into_iter().chain(path.min_rtt).min(),
            ..path
        };
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
