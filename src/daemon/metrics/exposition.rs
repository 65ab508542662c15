//! Numbers as OpenMetrics text (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::engine::DaemonNumbers;
use crate::metrics::{
    BATCH_BOUNDS, DISTRIBUTIONS, Definition, DistributionDefinition, METRICS, MetricShape,
    MetricUnit, Snapshot, TIME_BOUNDS, series,
};

/// All metrics of a daemon as of now.
pub(super) fn text(numbers: &DaemonNumbers) -> String {
    let (backend, reason) = numbers.backend();
    let collected = Collected {
        snapshot: numbers.snapshot(),
        backend: [
            ("backend", backend.to_string()),
            ("reason", reason.to_owned()),
        ],
    };
    let mut registry = Registry::with_prefix("landro");
    registry.register_collector(Box::new(collected));
    let mut text = String::new();
    match text::encode(&mut text, &registry) {
        Ok(()) => text,
        // A String takes whatever there is room for.
        Err(error) => format!("# {error}\n# EOF\n"),
    }
}

/// The crate's encoder is handed what was counted elsewhere: its own counters would be others.
#[derive(Debug)]
struct Collected {
    snapshot: Snapshot,
    backend: [(&'static str, String); 2],
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let help = "The version of the daemon.";
        encoder
            .encode_descriptor("build", help, None, MetricType::Info)?
            .encode_info(&version)?;
        let help = "What the daemon began on, and why: see landro_workers for what runs.";
        encoder
            .encode_descriptor("backend", help, None, MetricType::Info)?
            .encode_info(&self.backend)?;
        for of in METRICS {
            self.metric(&mut encoder, of)?;
        }
        for of in DISTRIBUTIONS {
            self.distribution(&mut encoder, of)?;
        }
        Ok(())
    }
}

impl Collected {
    fn metric(&self, encoder: &mut DescriptorEncoder, of: &Definition) -> fmt::Result {
        let kind = match of.shape {
            MetricShape::Counter => MetricType::Counter,
            MetricShape::Gauge => MetricType::Gauge,
            MetricShape::Batches => MetricType::Histogram,
        };
        let unit = match of.unit {
            MetricUnit::Things => None,
            MetricUnit::Bytes => Some(Unit::Bytes),
            MetricUnit::Seconds => Some(Unit::Seconds),
        };
        let mut metric = encoder.encode_descriptor(of.base, of.help(), unit.as_ref(), kind)?;
        if of.shape == MetricShape::Batches {
            return self.batches(&mut metric, of);
        }
        let workers = match of.is_by_worker {
            true => (0..self.snapshot.workers()).map(Some).collect(),
            false => vec![None],
        };
        for worker in workers {
            let values = self.snapshot.values(of, worker);
            for (labels, value) in series(of.labels).zip(values) {
                let mut labels: Vec<(&str, String)> = labels
                    .into_iter()
                    .map(|(name, value)| (name, value.to_owned()))
                    .collect();
                labels.extend(worker.map(|worker| ("worker", worker.to_string())));
                tell(&mut metric, of, &labels, value)?;
            }
        }
        Ok(())
    }

    fn batches(&self, metric: &mut MetricEncoder, of: &Definition) -> fmt::Result {
        let batches = self.snapshot.batches(of.metric);
        let bounds = BATCH_BOUNDS.iter().map(|bound| *bound as f64);
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(batches.counts).collect();
        let (sum, count) = (batches.sum as f64, batches.count());
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn distribution(
        &self,
        encoder: &mut DescriptorEncoder,
        of: &DistributionDefinition,
    ) -> fmt::Result {
        let (unit, kind) = (Unit::Seconds, MetricType::Histogram);
        let mut metric = encoder.encode_descriptor(of.base, of.help(), Some(&unit), kind)?;
        for (labels, times) in series(of.labels).zip(self.snapshot.all_times(of)) {
            let bounds = TIME_BOUNDS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(times.counts).collect();
            let (sum, count) = (times.sum.as_secs_f64(), times.count());
            match labels.is_empty() {
                true => metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
                false => metric
                    .encode_family(&labels)?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
            }
        }
        Ok(())
    }
}

/// One series.
fn tell(
    metric: &mut MetricEncoder,
    of: &Definition,
    labels: &Vec<(&str, String)>,
    value: u64,
) -> fmt::Result {
    let write = |metric: &mut MetricEncoder| match (of.shape, of.unit) {
        (MetricShape::Counter, MetricUnit::Seconds) => {
            metric.encode_counter::<NoLabelSet, _, f64>(&seconds(value), None)
        }
        (MetricShape::Counter, _) => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (_, MetricUnit::Seconds) => metric.encode_gauge(&seconds(value)),
        (_, _) => metric.encode_gauge(&value),
    };
    match labels.is_empty() {
        true => write(metric),
        false => write(&mut metric.encode_family(labels)?),
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}
