//! What happened, as one JSON line at the end.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::link::Counts;

/// Lateness of the hundredth packet beyond which a run says nothing about the path. A tenth of the
/// shortest delay that is worth emulating in user space.
pub const LATENESS_BOUND_US: u64 = 1000;

/// Lateness is kept up to this; more is this.
const LONGEST_US: u64 = 60_000_000;

/// How much later than the model says packets left.
pub struct Lateness(Histogram<u32>);

impl Lateness {
    pub fn new() -> Lateness {
        Lateness(
            Histogram::new_with_bounds(1, LONGEST_US, 2)
                .expect("the bounds are constants that are right"),
        )
    }

    pub fn record(&mut self, late_ns: u64) {
        self.0.saturating_record((late_ns / 1000).min(LONGEST_US));
    }

    fn percentiles(&self) -> Percentiles {
        Percentiles {
            p50: self.0.value_at_quantile(0.5),
            p99: self.0.value_at_quantile(0.99),
            max: self.0.max(),
        }
    }
}

#[derive(Clone, Copy, Serialize)]
struct Percentiles {
    p50: u64,
    p99: u64,
    max: u64,
}

/// What the relay lost or refused by itself: none of it belongs to the path.
#[derive(Clone, Copy, Default, Serialize)]
pub struct OwnDrops {
    /// The kernel had no room in the receive buffers because the relay was late.
    pub receive_buffer: u64,
    /// The kernel did not take it: send buffer full, or nobody listens at the other end.
    pub not_sent: u64,
    /// For a client that had to make room for a newer one.
    pub client_gone: u64,
}

#[derive(Serialize)]
pub struct Report {
    pub seed: u64,
    pub clients: u64,
    pub there: Counts,
    pub back: Counts,
    pub own_drops: OwnDrops,
    lateness_us: Percentiles,
    warnings: Vec<String>,
}

impl Report {
    pub fn new(
        seed: u64,
        clients: u64,
        there: Counts,
        back: Counts,
        own_drops: OwnDrops,
        lateness: &Lateness,
    ) -> Report {
        let lateness_us = lateness.percentiles();
        let mut warnings = Vec::new();
        if lateness_us.p99 > LATENESS_BOUND_US {
            warnings.push(format!(
                "1 % of the packets left {} µs late or more (bound: {LATENESS_BOUND_US} µs): this machine was too busy \
                 to emulate the path",
                lateness_us.p99
            ));
        }
        if own_drops.receive_buffer > 0 {
            warnings.push(format!(
                "{} packets were lost before the path, in receive buffers: raise net.core.rmem_max or run as root",
                own_drops.receive_buffer
            ));
        }
        Report {
            seed,
            clients,
            there,
            back,
            own_drops,
            lateness_us,
            warnings,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_timers_are_told() {
        let report = |late_ns| {
            let mut lateness = Lateness::new();
            (0..200).for_each(|_| lateness.record(late_ns));
            let counts = Counts::default();
            Report::new(7, 1, counts, counts, OwnDrops::default(), &lateness).to_string()
        };
        assert!(report(100_000).contains(r#""warnings":[]"#));
        assert!(report(2_000_000).contains("too busy"));
    }
}
