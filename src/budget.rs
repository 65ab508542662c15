//! The memory of a process as a sum: every user of it is an addend with a name.

use std::sync::atomic::{AtomicU64, Ordering};

/// Memory a process may use for transfers unless told otherwise. With two workers the parts below add up to it.
pub const DEFAULT_MEMORY_BUDGET_BYTES: u64 = 64 << 20;

/// Below this nothing works: one worker's fixed buffers and a handful of windows.
pub const MIN_MEMORY_BUDGET_BYTES: u64 = 8 << 20;

/// Connections a worker accepts. An idle one costs quiche 24–62 kB, so 1,000 are affordable.
pub const MAX_CONNECTIONS_PER_WORKER: usize = 1024;

/// Lanes one identity may hold on one worker, so that one peer cannot take every place.
pub const MAX_LANES_PER_PEER: usize = 512;

/// Handshakes under way on a worker above which newcomers must prove their address with a Retry first
/// (RFC 9000 §8.1): a core does about 7,700 mutual handshakes a second, so this many is a few milliseconds of work.
pub const RETRY_ABOVE_HANDSHAKES: usize = 64;

/// Handshakes one address may have under way above that: a host without an authorised key could otherwise take every
/// place by starting handshakes and leaving them.
pub const MAX_HANDSHAKES_PER_ADDRESS: usize = MAX_CONNECTIONS_PER_WORKER / 4;

/// Window a connection gets when little is left: 32 KiB in 200 µs is still more than 1 Gbit/s.
pub const MIN_WINDOW_BYTES: u64 = 32 << 10;

/// The least slab of a worker, 16 buffers: with many workers on a small budget the sum is a little above it.
pub const MIN_SLAB_BYTES: u64 = 1 << 20;

/// The first connection's share of all windows, a half. On a long path that loses packets a sender has two round trips
/// in flight, a hole takes another to fill and holds back what is behind it, and quiche gives credit again only when half
/// of a window is used up: 500 Mbit/s at 50 ms (3 MB on the way) with 1 % loss need 16 MB, with 4 MB they are half used.
const FIRST_SHARE: u64 = 2;

/// The least share of the windows that are left. Sixteen connections at once share well; hundreds share the rest.
const LEAST_SHARE: u64 = 8;

/// How a process's memory is divided. What peers can make us hold is `windows` (unread and out-of-order data,
/// bounded by advertised flow control) and `slabs` (data being read, sent or written).
#[derive(Debug)]
pub struct Budget {
    total_bytes: u64,
    windows_bytes: u64,
    windows_free_bytes: AtomicU64,
    window_max_bytes: u64,
    slab_bytes_per_worker: u64,
}

impl Budget {
    /// `window_max_bytes`: the transport profile's connection window, an upper bound.
    pub fn new(total_bytes: u64, workers: u8, window_max_bytes: u64) -> Budget {
        let total_bytes = total_bytes.max(MIN_MEMORY_BUDGET_BYTES);
        // Half for windows, half for slabs: a byte is either unread in the transport or in our hands.
        let windows = total_bytes / 2;
        let slabs = total_bytes / 2;
        Budget {
            total_bytes,
            windows_bytes: windows,
            windows_free_bytes: AtomicU64::new(windows),
            window_max_bytes,
            slab_bytes_per_worker: (slabs / u64::from(workers.max(1))).max(MIN_SLAB_BYTES),
        }
    }

    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Most slab memory of one worker; pages are used only when needed.
    pub fn slab_bytes_per_worker(&self) -> u64 {
        self.slab_bytes_per_worker
    }

    /// A share of what is left, the smaller the more is taken. 0: nothing is; the connection gets [`MIN_WINDOW_BYTES`]
    /// all the same, beyond the budget, which `MAX_CONNECTIONS_PER_WORKER` bounds to 32 MiB a worker.
    pub fn grant_window(&self) -> u64 {
        let mut granted = MIN_WINDOW_BYTES;
        let taken = self.windows_free_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
            granted = self.share(free).min(self.window_max_bytes).max(MIN_WINDOW_BYTES);
            free.checked_sub(granted)
        });
        if taken.is_ok() { granted } else { 0 }
    }

    /// The share shrinks in proportion to what is free: one connection has half, and many still find something.
    fn share(&self, free_bytes: u64) -> u64 {
        let part = u128::from(free_bytes).pow(2) / u128::from(self.windows_bytes * FIRST_SHARE);
        (part as u64).max(free_bytes / LEAST_SHARE)
    }

    /// Gives back what [`Budget::grant_window`] gave.
    pub fn return_window(&self, granted_bytes: u64) {
        self.windows_free_bytes.fetch_add(granted_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_never_exceed_the_sum() {
        let budget = Budget::new(64 << 20, 2, 256 << 20);
        let grants: Vec<u64> = (0..150).map(|_| budget.grant_window()).collect();
        assert!(grants.iter().sum::<u64>() <= 32 << 20);
        assert_eq!(budget.grant_window(), 0, "when nothing is left nothing is counted");
        assert_eq!(grants[0], 16 << 20, "one connection can fill a long path that loses packets");
        assert_eq!(grants[1], 4 << 20, "and so can the next, if nothing is lost");
        assert!(grants[15] >= 200 << 10, "sixteen share well");
        assert!(grants.is_sorted_by(|before, after| before >= after));
        for granted in grants {
            budget.return_window(granted);
        }
        assert_eq!(budget.windows_free_bytes.load(Ordering::Relaxed), 32 << 20);
    }
}
