//! A black hole: a path that carried large packets carries small ones only, and nothing says so
//! (RFC 8899 §4.3).
//!
//! A route changes, or a tunnel gets in the way, and the routers' ICMP is filtered. What was sent
//! is then lost for ever however often it is repeated, since repeats are as large. quiche looks for
//! the path MTU once and never doubts it.

use std::time::{Duration, Instant};

use super::path::PathSnapshot;

/// Probe timeouts in a row with nothing acknowledged that was large: RFC 8899's MAX_PROBES. A path
/// that is away for as long looks the same; there small packets harm nothing, and one that is
/// acknowledged brings large ones back within two round trips.
const TIMEOUTS: usize = 3;

/// Or so many packets lost in a row, where small packets are acknowledged all the time, so that
/// nothing ever times out: half of the smallest window ...
const LOST_PACKETS: u64 = 16;

/// ... for so long, which a burst into a short queue is not.
const LOST_FOR: Duration = Duration::from_millis(30);
const LOST_ROUND_TRIPS: u32 = 3;

/// What was acknowledged since is more than small packets if it is as many bytes as so many large
/// ones have.
const CARRIED_PACKETS: u64 = 4;

/// What a path showed when it last carried large packets for certain.
#[derive(Default)]
pub(super) struct BlackHole {
    /// What it showed before is of no account: it has just proven to carry them.
    is_proven_anew: bool,
    acked_bytes: u64,
    timeouts: usize,
    lost_packets: u64,
    /// When a loss was first seen since.
    doubted_at: Option<Instant>,
}

impl BlackHole {
    /// The path has proven to carry packets of another size.
    pub fn prove(&mut self) {
        self.is_proven_anew = true;
    }

    /// Once per batch. `acked_bytes` is asked for only where something was lost. True: packets of
    /// `large_bytes` do not pass any more.
    pub fn is_found(
        &mut self,
        now: Instant,
        path: &PathSnapshot,
        large_bytes: usize,
        acked_bytes: impl FnOnce() -> u64,
    ) -> bool {
        let timeouts = path.probe_timeouts.saturating_sub(self.timeouts);
        let lost = path.lost_packets.saturating_sub(self.lost_packets);
        if timeouts == 0 && lost == 0 {
            return false;
        }
        let acked_bytes = acked_bytes();
        if self.is_proven_anew
            || acked_bytes - self.acked_bytes >= CARRIED_PACKETS * large_bytes as u64
        {
            self.begin(path, acked_bytes);
            return false;
        }
        let since = *self.doubted_at.get_or_insert(now);
        let sustained = LOST_FOR.max(path.rtt * LOST_ROUND_TRIPS);
        let found = timeouts >= TIMEOUTS || lost >= LOST_PACKETS && now >= since + sustained;
        if found {
            self.begin(path, acked_bytes);
        }
        found
    }

    fn begin(&mut self, path: &PathSnapshot, acked_bytes: u64) {
        *self = BlackHole {
            acked_bytes,
            timeouts: path.probe_timeouts,
            lost_packets: path.lost_packets,
            doubted_at: None,
            is_proven_anew: false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 1472;

    struct SeenLosses {
        hole: BlackHole,
        path: PathSnapshot,
        acked: u64,
        now: Instant,
    }

    impl SeenLosses {
        fn new() -> SeenLosses {
            let mut hole = BlackHole::default();
            let path = PathSnapshot {
                probe_timeouts: 2,
                lost_packets: 100,
                rtt: Duration::from_millis(1),
                ..PathSnapshot::default()
            };
            let now = crate::quic::tests::now();
            assert!(!hole.is_found(now, &path, LARGE, || 1 << 30));
            SeenLosses {
                hole,
                path,
                acked: 1 << 30,
                now,
            }
        }

        fn after(&mut self, ms: u64, timeouts: usize, lost: u64, acked: u64) -> bool {
            self.path.probe_timeouts += timeouts;
            self.path.lost_packets += lost;
            self.acked += acked;
            self.now += Duration::from_millis(ms);
            let acked = self.acked;
            self.hole.is_found(self.now, &self.path, LARGE, || acked)
        }
    }

    #[test]
    fn three_timeouts_in_a_row() {
        let mut seen = SeenLosses::new();
        assert!(!seen.after(7, 1, 0, 0) && !seen.after(14, 1, 0, 0));
        assert!(seen.after(28, 1, 0, 0));
        assert!(!seen.after(1, 0, 0, 0), "begun anew");
    }

    #[test]
    fn timeouts_of_a_path_that_carries_are_none() {
        let mut seen = SeenLosses::new();
        for _ in 0..20 {
            assert!(!seen.after(7, 1, 3, 4 * LARGE as u64));
        }
    }

    #[test]
    fn what_was_before_the_proof_does_not_count() {
        let mut seen = SeenLosses::new();
        seen.hole.prove();
        assert!(!seen.after(7, 4, 0, 0) && !seen.after(7, 1, 0, 0));
    }

    #[test]
    fn losses_while_small_packets_are_acknowledged() {
        let mut seen = SeenLosses::new();
        let found = (0..20).position(|_| seen.after(5, 0, 8, 60));
        assert!(found.is_some_and(|at| (2..10).contains(&at)), "{found:?}");
    }

    #[test]
    fn a_burst_that_is_lost_is_none() {
        let mut seen = SeenLosses::new();
        assert!(!seen.after(1, 0, 40, 0));
        assert!(!seen.after(1, 0, 0, 60), "nor what is heard of it later");
        assert!(!seen.after(40, 0, 2, 20 * LARGE as u64));
    }
}
