//! What a benchmark measured, as an object of JSON and as people read it.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::stats::{Stats, TransportFigures};

/// Longer round trips count as this; a silent peer is given up before.
const MAX_ROUND_TRIP_NS: u64 = 60_000_000_000;

/// Three significant digits: 0.1 % of a round trip.
const DIGITS: u8 = 3;

/// The object of `--json`. What `cp` has, too, means the same there.
#[derive(Serialize)]
pub struct BenchSummary {
    /// `send`, `receive` or `latency`, as this host sees it.
    pub mode: &'static str,
    /// Both ends were on this host.
    pub local: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<u8>,
    /// Bytes of each message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<usize>,
    /// Bytes that arrived: filler, or messages, counted one way.
    pub sent_bytes: u64,
    pub seconds: f64,
    pub goodput_bps: u64,
    /// CPU time of this side for 10^9 bytes; with --local of the client, without the daemon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds_per_gb: Option<f64>,
    /// Of the daemon, with --local.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon_cpu_seconds_per_gb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<BenchLatency>,
    pub exit_code: u8,
    pub stats: Stats,
    /// The transport as the daemon saw it, with --local.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<TransportFigures>,
}

/// Round trips.
#[derive(Serialize)]
pub struct BenchLatency {
    count: u64,
    min_us: f64,
    mean_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

impl BenchLatency {
    pub fn of(histogram: &Histogram<u64>) -> BenchLatency {
        let us = |ns: u64| ns as f64 / 1000.0;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        BenchLatency {
            count: histogram.len(),
            min_us: us(histogram.min()),
            mean_us: histogram.mean() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(histogram.max()),
        }
    }
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_ROUND_TRIP_NS, DIGITS)
        .expect("bounds and digits are within its own")
}

/// As people read it.
pub fn text(summary: &BenchSummary) -> String {
    let mut text = String::new();
    let seconds = summary.seconds;
    // Writing to a String cannot fail.
    let _ = match (&summary.latency, summary.size_bytes) {
        (Some(latency), Some(size_bytes)) => writeln!(
            text,
            "latency   {}\n          {} round trips of {size_bytes} bytes in {seconds:.2} s",
            latency_line(latency),
            latency.count,
        ),
        _ => writeln!(
            text,
            "{:9} {} in {seconds:.2} s",
            if summary.mode == "send" {
                "sent"
            } else {
                "received"
            },
            throughput(summary.sent_bytes, seconds),
        ),
    };
    if let Some(cpu) = summary.cpu_seconds_per_gb {
        let daemon = summary
            .daemon_cpu_seconds_per_gb
            .map(|cpu| format!(" client, {cpu:.3} s daemon"));
        let _ = writeln!(text, "cpu/GB    {cpu:.3} s{}", daemon.unwrap_or_default());
    }
    let _ = writeln!(text, "{}", summary.stats);
    if let Some(daemon) = &summary.daemon {
        let _ = writeln!(
            text,
            "daemon    {} packets sent, {} lost; {:.1} packets per send, {:.1} per receive",
            daemon.sent_packets, daemon.lost_packets, daemon.gso_batch, daemon.gro_batch
        );
    }
    text
}

pub fn throughput(bytes: u64, seconds: f64) -> String {
    let gb = bytes as f64 / 1e9;
    let per_second = if seconds > 0.0 { gb / seconds } else { 0.0 };
    format!(
        "{gb:.3} GB  {:.3} Gbit/s  {:.1} MB/s",
        per_second * 8.0,
        per_second * 1000.0
    )
}

pub fn latency_line(latency: &BenchLatency) -> String {
    let BenchLatency {
        p50_us,
        p90_us,
        p99_us,
        p999_us,
        max_us,
        ..
    } = latency;
    format!(
        "p50 {p50_us:.1} us  p90 {p90_us:.1}  p99 {p99_us:.1}  p99.9 {p999_us:.1}  max {max_us:.1}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut histogram = histogram();
        (1..=1000u64).for_each(|us| histogram.saturating_record(us * 1000));
        histogram.saturating_record(MAX_ROUND_TRIP_NS);
        let latency = BenchLatency::of(&histogram);
        assert_eq!(latency.count, 1001);
        assert!((latency.p50_us - 501.0).abs() < 1.0, "{}", latency.p50_us);
        assert!((latency.p99_us - 991.0).abs() < 2.0, "{}", latency.p99_us);
        assert!(latency.max_us >= 6e7);
        assert_eq!(BenchLatency::of(&super::histogram()).max_us, 0.0);
    }

    #[test]
    fn rates() {
        assert_eq!(
            throughput(2_000_000_000, 2.0),
            "2.000 GB  8.000 Gbit/s  1000.0 MB/s"
        );
        assert_eq!(throughput(5, 0.0), "0.000 GB  0.000 Gbit/s  0.0 MB/s");
    }
}
