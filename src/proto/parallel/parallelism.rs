//! How many data streams pay off: climbs while measured goodput rises, steps back when it does not.

use std::time::{Duration, Instant};

use super::ParallelTransferConfig;

/// More streams must win at least 5 %: less is noise (the machine's own is about 7 % between runs,
/// but far less between neighbouring windows of one run).
const WORTH_PERCENT: u64 = 105;

/// Windows to stay after a step that did not pay before trying again: conditions change, but each
/// trial costs.
const HOLD_WINDOWS: u32 = 8;

/// The controller. Time comes with [`Parallelism::on_sent`], so an idle transfer decides nothing.
#[derive(Debug)]
pub struct Parallelism {
    target: usize,
    max: usize,
    window: Duration,
    window_began: Instant,
    window_bytes: u64,
    trend: Trend,
}

#[derive(Debug)]
enum Trend {
    /// Not adaptive, or nothing to choose from.
    Fixed,
    /// The last step up is being measured against what was before it. Next: itself or Holding.
    Climbing {
        before: usize,
        before_goodput_bps: u64,
    },
    /// The last step did not pay, or the maximum is reached. Next: Climbing.
    Holding { windows_left: u32 },
}

impl Parallelism {
    /// Starts with one stream if adaptive, else with all.
    pub fn new(now: Instant, config: &ParallelTransferConfig) -> Parallelism {
        let max = config.max_concurrent_streams.max(1);
        let adaptive = config.adaptive_parallelism && max > 1;
        Parallelism {
            target: if adaptive { 1 } else { max },
            max,
            // A window of nothing would divide by it.
            window: config.bandwidth_window.max(Duration::from_millis(1)),
            window_began: now,
            window_bytes: 0,
            trend: match adaptive {
                true => Trend::Climbing {
                    before: 1,
                    before_goodput_bps: 0,
                },
                false => Trend::Fixed,
            },
        }
    }

    /// Streams to use now, at least 1.
    pub fn target(&self) -> usize {
        self.target
    }

    /// The transport took `bytes`; decides at the end of each window.
    pub fn on_sent(&mut self, now: Instant, bytes: u64) {
        let elapsed = now.saturating_duration_since(self.window_began);
        if elapsed >= self.window {
            let goodput_bps =
                (u128::from(self.window_bytes) * 8 * 1_000_000_000 / elapsed.as_nanos()) as u64;
            // A pause (no file to send, a peer unplugged) says nothing about streams.
            if elapsed < self.window * 4 && self.window_bytes > 0 {
                self.decide(goodput_bps);
            }
            self.window_began = now;
            self.window_bytes = 0;
        }
        self.window_bytes += bytes;
    }

    fn decide(&mut self, goodput_bps: u64) {
        match &mut self.trend {
            Trend::Fixed => {}
            Trend::Climbing {
                before,
                before_goodput_bps,
            } => {
                if goodput_bps / 100 <= *before_goodput_bps / 10_000 * WORTH_PERCENT {
                    self.target = *before;
                    self.trend = Trend::Holding {
                        windows_left: HOLD_WINDOWS,
                    };
                } else {
                    self.climb(goodput_bps);
                }
            }
            Trend::Holding { windows_left } => {
                *windows_left -= 1;
                if *windows_left == 0 {
                    self.climb(goodput_bps);
                }
            }
        }
    }

    /// Doubles: 16 streams are four decisions away, and doubling shows a gain that one more would
    /// hide in noise.
    fn climb(&mut self, before_goodput_bps: u64) {
        if self.target == self.max {
            self.trend = Trend::Holding {
                windows_left: HOLD_WINDOWS,
            };
            return;
        }
        self.trend = Trend::Climbing {
            before: self.target,
            before_goodput_bps,
        };
        self.target = (self.target * 2).min(self.max);
    }
}
