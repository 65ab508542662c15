//! The memory of a process as a sum: every user of it is an addend with a name.

use std::sync::atomic::{AtomicU64, Ordering};

/// Memory a process may use for transfers unless told otherwise. With two workers the parts below
/// add up to it.
pub const DEFAULT_MEMORY_BUDGET_BYTES: u64 = 64 << 20;

/// Below this nothing works: one worker's fixed buffers and a handful of windows.
pub const MIN_MEMORY_BUDGET_BYTES: u64 = 8 << 20;

/// Connections a worker accepts. An idle one costs quiche 24–62 kB, so 1,000 are affordable.
pub const MAX_CONNECTIONS_PER_WORKER: usize = 1024;

/// Lanes one identity may hold on one worker, so that one peer cannot take every place.
pub const MAX_LANES_PER_PEER: usize = 512;

/// Handshakes under way on a worker above which newcomers must prove their address with a Retry
/// first (RFC 9000 §8.1): a core does about 7,700 mutual handshakes a second, so this many is a few
/// milliseconds of work.
pub const RETRY_ABOVE_HANDSHAKES: usize = 64;

/// What all handshakes may hold together, with [`TLS_BYTES`] each: some 600 of honest weight.
/// Beyond it the oldest of the address that has most goes. A host on the other side of the earth
/// needs half a second, in which strangers have to come with hundreds of new handshakes, each from
/// another address that is theirs, to get it out.
pub const HANDSHAKES_BYTES: u64 = 24 << 20;

/// What BoringSSL keeps of a connection, which is not weighed, as it has C's allocator: 2,048
/// half-open handshakes were 37 kB each, of which 17 kB were weighed; with X25519MLKEM768 they are
/// 3 kB more, of which 1 kB is weighed.
pub const TLS_BYTES: u64 = 22 << 10;

/// Handshakes one address may have under way above that: a host without an authorised key could
/// otherwise take every place by starting handshakes and leaving them.
pub const MAX_HANDSHAKES_PER_ADDRESS: usize = MAX_CONNECTIONS_PER_WORKER / 4;

/// Window a connection gets when little is left: 32 KiB in 200 µs is still more than 1 Gbit/s.
pub const MIN_WINDOW_BYTES: u64 = 32 << 10;

/// What strangers' handshakes leave of the window a newcomer gets at first: 256 KiB in 200 µs are
/// more than 10 Gbit/s. Not more, as what is promised to many honest ones at once is beyond the
/// budget.
const NEWCOMER_WINDOW_BYTES: u64 = 256 << 10;

/// The same where little is left for all.
const NEWCOMER_SHARE: u64 = 32;

/// What all connections may make QUIC keep beyond half of the budget, before the one that takes
/// most has to go: unread data of all windows is 1.13 times itself, 100 connections are 62 kB each,
/// and what is in flight is 0.67 kB a packet.
const BESIDE_WINDOWS_BYTES: u64 = 12 << 20;

/// The least pool of a worker, 16 buffers: with many workers on a small budget the sum is a little
/// above it.
pub const MIN_SLAB_BYTES: u64 = 1 << 20;

/// The first connection's share of all windows, a half. On a long path that loses packets a sender
/// has two round trips in flight, a hole takes another to fill and holds back what is behind it,
/// and quiche gives credit again only when half of a window is used up: 500 Mbit/s at 50 ms (3 MB
/// on the way) with 1 % loss need 16 MB, with 4 MB they are half used.
const FIRST_SHARE: u64 = 2;

/// The least share of the windows that are left. Sixteen connections at once share well; hundreds
/// share the rest.
const LEAST_SHARE: u64 = 8;

/// How a process's memory is divided. What peers can make us hold is `windows` (unread and
/// out-of-order data, bounded by advertised flow control) and `slabs` (data being read, sent or
/// written). Beside the unread data QUIC keeps what has no size on the wire, so all that it holds
/// is weighed and bounded, too ([`Budget::is_overheld`]).
#[derive(Debug)]
pub struct Budget {
    total_bytes: u64,
    windows_bytes: u64,
    windows_free_bytes: AtomicU64,
    /// Windows promised in handshakes: not taken until the peer is authorised.
    promised_bytes: AtomicU64,
    /// What QUIC holds for all connections, and what their handshakes hold with TLS.
    held_bytes: AtomicU64,
    handshakes_bytes: AtomicU64,
    window_max_bytes: u64,
    pool_bytes_per_worker: u64,
}

impl Budget {
    /// `window_max_bytes`: the transport profile's connection window, an upper bound.
    pub fn new(total_bytes: u64, workers: u8, window_max_bytes: u64) -> Budget {
        let total_bytes = total_bytes.max(MIN_MEMORY_BUDGET_BYTES);
        // Half for windows, half for slabs: a byte is either unread in the transport or in our
        // hands.
        let windows = total_bytes / 2;
        let slabs = total_bytes / 2;
        Budget {
            total_bytes,
            windows_bytes: windows,
            windows_free_bytes: AtomicU64::new(windows),
            promised_bytes: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            handshakes_bytes: AtomicU64::new(0),
            window_max_bytes,
            pool_bytes_per_worker: (slabs / u64::from(workers.max(1))).max(MIN_SLAB_BYTES),
        }
    }

    /// Most pool memory of one worker; pages are used only when needed.
    pub fn pool_bytes_per_worker(&self) -> u64 {
        self.pool_bytes_per_worker
    }

    /// What all sessions of a worker may keep of what their peers announced or began. An honest one
    /// that pushes small files keeps 200 to 300 kB where many share the worker, so this is some 80
    /// of them.
    pub fn sessions_bytes(&self, workers: u8) -> u64 {
        self.total_bytes / 4 * 3 / u64::from(workers.max(1))
    }

    /// What a new connection is told it may send: a share of what is left, the smaller the more is
    /// taken. Its window may grow later if strangers' handshakes are all that made it small. Less
    /// than [`MIN_WINDOW_BYTES`] nobody gets, be it beyond the budget, which
    /// `MAX_CONNECTIONS_PER_WORKER` bounds to 32 MiB a worker.
    pub fn promise_window(&self) -> Promise {
        let free = self.windows_free_bytes.load(Ordering::Relaxed);
        let left = free.saturating_sub(self.promised_bytes.load(Ordering::Relaxed));
        let newcomer = (free / NEWCOMER_SHARE).min(NEWCOMER_WINDOW_BYTES);
        let first_bytes = self
            .share(left)
            .max(newcomer)
            .min(self.window_max_bytes)
            .max(MIN_WINDOW_BYTES);
        let most_bytes = (free / LEAST_SHARE)
            .min(self.window_max_bytes)
            .max(first_bytes);
        self.promised_bytes
            .fetch_add(first_bytes, Ordering::Relaxed);
        Promise {
            first_bytes,
            most_bytes,
        }
    }

    /// The handshake is over, either way.
    pub fn end_promise(&self, promise: Promise) {
        self.promised_bytes
            .fetch_sub(promise.first_bytes, Ordering::Relaxed);
    }

    /// The peer is authorised: takes what it was promised, or what is left of it. Gives what to
    /// return when it goes.
    pub fn grant_window(&self, promise: Promise) -> u64 {
        let mut granted = 0;
        let _ =
            self.windows_free_bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                    granted = promise.most_bytes.min(free);
                    Some(free - granted)
                });
        granted
    }

    /// The share shrinks in proportion to what is free: one connection has half, and many still
    /// find something.
    fn share(&self, free_bytes: u64) -> u64 {
        let part = u128::from(free_bytes).pow(2) / u128::from(self.windows_bytes * FIRST_SHARE);
        (part as u64).max(free_bytes / LEAST_SHARE)
    }

    /// Gives back what [`Budget::grant_window`] gave.
    pub fn return_window(&self, granted_bytes: u64) {
        self.windows_free_bytes
            .fetch_add(granted_bytes, Ordering::Relaxed);
    }

    /// A connection's weight changed.
    pub fn reweigh(&self, before_bytes: u64, now_bytes: u64) {
        change(&self.held_bytes, before_bytes, now_bytes);
    }

    /// A handshake's weight changed.
    pub fn reweigh_handshake(&self, before_bytes: u64, now_bytes: u64) {
        change(&self.handshakes_bytes, before_bytes, now_bytes);
    }

    fn held_limit_bytes(&self) -> u64 {
        self.windows_bytes + BESIDE_WINDOWS_BYTES
    }

    /// QUIC holds more than it may, and this worker's connections no less than their part: one of
    /// them has to go.
    pub fn is_overheld(&self, worker_bytes: u64, workers: u8) -> bool {
        is_over(
            &self.held_bytes,
            self.held_limit_bytes(),
            worker_bytes,
            workers,
        )
    }

    /// The same of handshakes.
    pub fn is_crowded(&self, worker_bytes: u64, workers: u8) -> bool {
        is_over(
            &self.handshakes_bytes,
            HANDSHAKES_BYTES,
            worker_bytes,
            workers,
        )
    }

    /// Near to that: what we send ourselves waits.
    pub fn is_nearly_overheld(&self) -> bool {
        self.held_bytes.load(Ordering::Relaxed) > self.held_limit_bytes() / 8 * 7
    }
}

/// How much of an addend is in use, and how much may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddendUse {
    pub used_bytes: u64,
    pub limit_bytes: u64,
}

/// What is told of the budget: those of its addends that all workers count together.
impl Budget {
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What peers were granted of windows.
    pub fn windows(&self) -> AddendUse {
        let free = self.windows_free_bytes.load(Ordering::Relaxed);
        AddendUse {
            used_bytes: self.windows_bytes.saturating_sub(free),
            limit_bytes: self.windows_bytes,
        }
    }

    /// What QUIC holds for all connections.
    pub fn held(&self) -> AddendUse {
        AddendUse {
            used_bytes: self.held_bytes.load(Ordering::Relaxed),
            limit_bytes: self.held_limit_bytes(),
        }
    }

    /// What handshakes of strangers hold, with TLS.
    pub fn handshakes(&self) -> AddendUse {
        AddendUse {
            used_bytes: self.handshakes_bytes.load(Ordering::Relaxed),
            limit_bytes: HANDSHAKES_BYTES,
        }
    }
}

fn change(sum: &AtomicU64, before_bytes: u64, now_bytes: u64) {
    if now_bytes >= before_bytes {
        sum.fetch_add(now_bytes - before_bytes, Ordering::Relaxed);
    } else {
        sum.fetch_sub(before_bytes - now_bytes, Ordering::Relaxed);
    }
}

/// Of workers that share too much, one at least has its part of the limit.
fn is_over(sum: &AtomicU64, limit_bytes: u64, worker_bytes: u64, workers: u8) -> bool {
    sum.load(Ordering::Relaxed) > limit_bytes
        && worker_bytes >= limit_bytes / u64::from(workers.max(1))
}

/// What a connection in its handshake is told about its window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// Advertised at once.
    pub first_bytes: u64,
    /// What it may grow to.
    pub most_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorise(budget: &Budget) -> (Promise, u64) {
        let promise = budget.promise_window();
        budget.end_promise(promise);
        (promise, budget.grant_window(promise))
    }

    #[test]
    fn grants_never_exceed_the_sum() {
        let budget = Budget::new(64 << 20, 2, 256 << 20);
        let grants: Vec<(Promise, u64)> = (0..200).map(|_| authorise(&budget)).collect();
        assert!(grants.iter().map(|(_, granted)| granted).sum::<u64>() <= 32 << 20);
        let (last, granted) = grants[199];
        assert_eq!(
            (last.first_bytes, granted),
            (MIN_WINDOW_BYTES, 0),
            "when nothing is left nothing is counted"
        );
        assert_eq!(
            grants[0].1,
            16 << 20,
            "one connection can fill a long path that loses packets"
        );
        assert_eq!(
            grants[1].1,
            4 << 20,
            "and so can the next, if nothing is lost"
        );
        assert!(grants[15].1 >= 200 << 10, "sixteen share well");
        assert!(
            grants
                .iter()
                .all(|(promise, _)| promise.first_bytes == promise.most_bytes),
            "all of it at once"
        );
        assert!(grants.is_sorted_by(|before, after| before.1 >= after.1));
        for (_, granted) in grants {
            budget.return_window(granted);
        }
        assert_eq!(budget.windows_free_bytes.load(Ordering::Relaxed), 32 << 20);
    }

    #[test]
    fn strangers_take_no_windows() {
        let budget = Budget::new(64 << 20, 2, 256 << 20);
        let half_open: Vec<Promise> = (0..2000).map(|_| budget.promise_window()).collect();
        let (promise, granted) = authorise(&budget);
        assert_eq!(
            promise.first_bytes, NEWCOMER_WINDOW_BYTES,
            "enough for a LAN"
        );
        assert_eq!(
            (promise.most_bytes, granted),
            (4 << 20, 4 << 20),
            "and it may grow"
        );
        half_open
            .into_iter()
            .for_each(|promise| budget.end_promise(promise));
        budget.return_window(granted);
        assert_eq!(authorise(&budget).1, 16 << 20);
    }

    #[test]
    fn what_is_held_comes_and_goes() {
        let budget = Budget::new(64 << 20, 2, 256 << 20);
        budget.reweigh(0, 60 << 20);
        assert!(budget.is_overheld(30 << 20, 2) && budget.is_nearly_overheld());
        assert!(
            !budget.is_overheld(20 << 20, 2),
            "the other worker's are more"
        );
        budget.reweigh(60 << 20, 42 << 20);
        assert!(!budget.is_overheld(42 << 20, 2) && budget.is_nearly_overheld());
        budget.reweigh_handshake(0, HANDSHAKES_BYTES + 1);
        assert!(
            budget.is_crowded(HANDSHAKES_BYTES / 64, 64)
                && !budget.is_crowded(HANDSHAKES_BYTES / 65, 64)
        );
        budget.reweigh_handshake(HANDSHAKES_BYTES + 1, 0);
        assert!(!budget.is_crowded(HANDSHAKES_BYTES, 1));
        budget.reweigh(42 << 20, 0);
        assert!(!budget.is_nearly_overheld());
    }
}
