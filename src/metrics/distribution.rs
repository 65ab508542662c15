//! Histograms of times: recorded by one worker each, added up where they are read.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::table::HISTOGRAMS;

/// What there are histograms of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Distribution {
    Handshake,
    FirstByte,
    Rtt,
    Disk,
}

/// Two digits are kept of times from here ...
const LEAST_NS: u64 = 1_000;
/// ... to here; what is longer counts as this long.
const MOST_NS: u64 = 100_000_000_000;
const DIGITS: u8 = 2;

/// Bounds of the buckets that are told, in seconds: three to a power of ten.
pub const TIME_BOUNDS: [f64; 20] = [
    5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1,
    0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// What one worker recorded of one thing.
#[derive(Debug)]
pub(super) struct Local {
    histogram: Histogram<u32>,
    sum_ns: u64,
}

impl Default for Local {
    fn default() -> Local {
        Local {
            histogram: within_bounds(),
            sum_ns: 0,
        }
    }
}

impl Local {
    #[inline]
    pub(super) fn record(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(ns.min(MOST_NS));
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }
}

fn within_bounds<T: hdrhistogram::Counter>() -> Histogram<T> {
    Histogram::new_with_bounds(LEAST_NS, MOST_NS, DIGITS)
        .expect("two digits of 1 µs to 100 s is what a histogram can have")
}

/// What all workers recorded.
#[derive(Clone, Debug)]
pub(super) struct Distributions {
    all: Vec<Option<(Histogram<u64>, u64)>>,
}

impl Default for Distributions {
    fn default() -> Distributions {
        Distributions {
            all: (0..HISTOGRAMS).map(|_| None).collect(),
        }
    }
}

impl Distributions {
    /// Empties what a worker has recorded into this.
    pub(super) fn take(&mut self, place: usize, from: &mut Local) {
        if from.histogram.is_empty() {
            return;
        }
        let (into, sum_ns) = self.all[place].get_or_insert_with(|| (within_bounds(), 0));
        for step in from.histogram.iter_recorded() {
            let (value, count) = (step.value_iterated_to(), step.count_at_value());
            into.saturating_record_n(value, u64::from(count));
        }
        *sum_ns = sum_ns.saturating_add(from.sum_ns);
        from.histogram.reset();
        from.sum_ns = 0;
    }

    pub(super) fn at(&self, place: usize) -> TimeCounts {
        let mut times = TimeCounts::default();
        let Some((histogram, sum_ns)) = &self.all[place] else {
            return times;
        };
        times.sum = Duration::from_nanos(*sum_ns);
        for step in histogram.iter_recorded() {
            // What was recorded is known to two digits: the middle is no more off than they are.
            let seconds = histogram.median_equivalent(step.value_iterated_to()) as f64 * 1e-9;
            let bucket = TIME_BOUNDS.partition_point(|bound| *bound < seconds);
            times.counts[bucket] += step.count_at_value();
        }
        times
    }
}

/// How often what took how long.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TimeCounts {
    /// In the buckets of [`TIME_BOUNDS`], each without what is in the one before; behind them what
    /// took longer.
    pub counts: [u64; TIME_BOUNDS.len() + 1],
    /// All of it together, exactly.
    pub sum: Duration,
}

impl TimeCounts {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, Recorder};

    #[test]
    fn times_of_workers_come_together() {
        let metrics = Metrics::new(2);
        let mut recorders = [Recorder::default(), Recorder::default()];
        for (recorder, ms) in recorders.iter_mut().zip([3, 30]) {
            recorder.record(Distribution::Rtt, [0], Duration::from_millis(ms));
            recorder.record(Distribution::FirstByte, [], Duration::from_secs(1000));
            metrics.take(recorder);
            // What was handed over is not handed over again.
            metrics.take(recorder);
        }
        let snapshot = metrics.snapshot();
        let rtt = snapshot.times(Distribution::Rtt, [0]);
        assert_eq!((rtt.count(), rtt.sum), (2, Duration::from_millis(33)));
        let bucket = |bound| TIME_BOUNDS.iter().position(|it| *it == bound).unwrap();
        assert_eq!((rtt.counts[bucket(5e-3)], rtt.counts[bucket(0.05)]), (1, 1));
        let first_byte = snapshot.times(Distribution::FirstByte, []);
        assert_eq!(first_byte.counts[TIME_BOUNDS.len()], 2, "longer than all");
        assert_eq!(
            snapshot.times(Distribution::Rtt, [1]),
            TimeCounts::default()
        );
    }

    #[test]
    fn no_time_at_all_is_the_shortest() {
        let (metrics, mut recorder) = (Metrics::new(1), Recorder::default());
        recorder.record(Distribution::Disk, [0], Duration::ZERO);
        metrics.take(&mut recorder);
        let disk = metrics.snapshot().times(Distribution::Disk, [0]);
        assert_eq!((disk.counts[0], disk.count()), (1, 1));
    }
}
