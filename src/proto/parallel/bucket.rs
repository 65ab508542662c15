//! A token bucket in bytes: what `--bwlimit` lets through, with a burst too small to be seen on a
//! graph.

use std::time::{Duration, Instant};

/// Least burst: one read piece, so that the bucket never splits reads.
const MIN_BURST_BYTES: u64 = crate::proto::PIECE_BYTES as u64;

/// The burst in time at the limit's own rate.
const BURST: Duration = Duration::from_millis(100);

/// Lets `rate` bytes per second through. A take may leave it in debt, which later time pays: so
/// takes need not be split, and the mean is exact.
#[derive(Debug)]
pub struct TokenBucket {
    bytes_per_second: u64,
    burst_bytes: u64,
    /// Negative: in debt.
    tokens: i64,
    /// When `tokens` was true. Advanced only by whole tokens, so slow rates lose nothing to
    /// rounding.
    at: Instant,
}

impl TokenBucket {
    /// A full bucket. A rate of 0 is taken as 1 byte per second.
    pub fn new(now: Instant, bytes_per_second: u64) -> TokenBucket {
        let bytes_per_second = bytes_per_second.clamp(1, i64::MAX as u64 / 4);
        let burst_bytes = (bytes_per_second / 1000 * BURST.as_millis() as u64).max(MIN_BURST_BYTES);
        TokenBucket {
            bytes_per_second,
            burst_bytes,
            tokens: burst_bytes as i64,
            at: now,
        }
    }

    /// Whether anything may pass now.
    pub fn ready(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens > 0
    }

    /// Takes `bytes`, into debt if need be.
    pub fn take(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub_unsigned(bytes);
    }

    /// When [`TokenBucket::ready`] turns true if nothing more is taken; in the past when it is.
    pub fn ready_at(&self) -> Instant {
        if self.tokens > 0 {
            return self.at;
        }
        let wanted = self.tokens.unsigned_abs() + 1;
        let ns = (u128::from(wanted) * 1_000_000_000).div_ceil(u128::from(self.bytes_per_second));
        // A century is as good as never and cannot overflow an Instant.
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        self.at + u64::try_from(ns).map_or(century, |ns| Duration::from_nanos(ns).min(century))
    }

    fn refill(&mut self, now: Instant) {
        let elapsed_ns = now.saturating_duration_since(self.at).as_nanos();
        let earned = elapsed_ns * u128::from(self.bytes_per_second) / 1_000_000_000;
        if earned == 0 {
            return;
        }
        let room = (self.burst_bytes as i64).saturating_sub(self.tokens).max(0) as u64;
        if earned >= u128::from(room) {
            self.tokens = self.burst_bytes as i64;
            self.at = now;
            return;
        }
        self.tokens += earned as i64;
        let used_ns = (earned * 1_000_000_000).div_ceil(u128::from(self.bytes_per_second));
        self.at = (self.at + Duration::from_nanos(used_ns as u64)).min(now);
    }
}
