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

/// The limit of one transfer, if it has one, and whether something waits for it.
#[derive(Debug)]
pub struct TransferRate {
    bucket: Option<TokenBucket>,
    /// The bucket was all that kept the last turn from going on. What waits for something else
    /// waits for no time: a full bucket is no deadline.
    is_awaited: bool,
}

impl TransferRate {
    pub fn new(now: Instant, bits_per_second: Option<u64>) -> TransferRate {
        TransferRate {
            bucket: bits_per_second.map(|bps| TokenBucket::new(now, bps / 8)),
            is_awaited: false,
        }
    }

    /// A new turn begins: so far nothing waits.
    pub fn begin_turn(&mut self) {
        self.is_awaited = false;
    }

    /// Whether anything may pass now. `has_work`: there is something that would.
    pub fn lets(&mut self, now: Instant, has_work: bool) -> bool {
        let ready = |bucket: &mut TokenBucket| bucket.ready(now);
        let is_ready = self.bucket.as_mut().is_none_or(ready);
        self.is_awaited = !is_ready && has_work;
        is_ready
    }

    pub fn take(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(bytes);
        }
    }

    /// How much of `bytes` may pass in one go, if anything may: whole pieces, of about one burst.
    pub fn in_one_go(&self, bytes: u64) -> u64 {
        let most = |bucket: &TokenBucket| bucket.burst_bytes / MIN_BURST_BYTES * MIN_BURST_BYTES;
        self.bucket
            .as_ref()
            .map_or(bytes, |bucket| bytes.min(most(bucket)))
    }

    /// When more may pass, if something waits for that.
    pub fn deadline(&self) -> Option<Instant> {
        let bucket = self.bucket.as_ref().filter(|_| self.is_awaited);
        bucket.map(TokenBucket::ready_at)
    }
}
