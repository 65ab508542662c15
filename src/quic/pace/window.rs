//! What a window of packets showed: how many were lost, and how fast data was delivered.
//!
//! A *window* of this directory is a number of packets that were sent in a row; the congestion
//! window is always called so. If a queue on the path overflowed during a window, the rate at which
//! the peer acknowledged data is what the path carries. A sender can measure nothing better.

use std::time::{Duration, Instant};

use crate::config::PathView;

/// Of so many windows the fastest counts: during the others the sender may have waited for the disk
/// or the application.
pub(super) const WINDOWS: usize = 8;

/// A crowd has at most so many members. A connection is given this share of its fastest window at
/// least, since the last window may have been an outage.
const MAX_CROWD: u64 = 128;

/// A sender that sent next to nothing for so long had nothing to send: ten round trips of any path
/// that is not long.
const PAUSE: Duration = Duration::from_millis(20);

/// Of acknowledgements and control messages there are fewer in that time.
const PAUSE_PACKETS: u64 = 4;

/// When a window is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowEnd {
    pub packets: u64,
    /// Or when these many packets were sent and this time has passed.
    pub early: Option<(u64, Duration)>,
    /// It begins anew behind a pause, in which nothing shows what the path carries.
    pub is_cut_by_pauses: bool,
}

/// The path's numbers when a window began.
#[derive(Debug)]
struct WindowStart {
    at: Instant,
    sent_packets: u64,
    lost_packets: u64,
    delivered_bytes: u64,
}

/// How much was sent at a moment.
#[derive(Clone, Copy, Debug)]
struct SentThen {
    at: Instant,
    packets: u64,
}

/// The window under way, and what the last ones delivered.
#[derive(Debug)]
pub(super) struct Windows {
    /// None: nothing was looked at yet.
    start: Option<WindowStart>,
    /// When the numbers were last looked at, and when [`PAUSE`] ago or more.
    last: Option<SentThen>,
    mark: Option<SentThen>,
    delivered_bytes_per_second: [u64; WINDOWS],
    next: usize,
}

/// What a window of packets showed.
#[derive(Debug)]
pub(super) struct WindowSeen {
    /// At least one.
    pub sent_packets: u64,
    pub lost_packets: u64,
    /// What was delivered in this window.
    pub bytes_per_second: u64,
    /// What the path is taken to carry for this connection. For a connection alone, the fastest of
    /// the last [`WINDOWS`] counts. For one of a crowd the last window counts: all connections at
    /// their fastest are more than the path carries.
    pub carried_bytes_per_second: u64,
    pub rtt: Duration,
}

impl Windows {
    pub fn new() -> Windows {
        Windows {
            start: None,
            last: None,
            mark: None,
            delivered_bytes_per_second: [0; WINDOWS],
            next: 0,
        }
    }

    /// Whether next to nothing was sent of late, but for what made somebody look now.
    fn ends_a_pause(&mut self, now: Instant, path: &PathView<'_>) -> bool {
        let here = SentThen {
            at: now,
            packets: path.sent_packets,
        };
        let last = self.last.replace(here).unwrap_or(here);
        let mark = *self.mark.get_or_insert(here);
        if now.saturating_duration_since(mark.at) < PAUSE {
            return false;
        }
        self.mark = Some(here);
        let is_silent = now.saturating_duration_since(last.at) >= PAUSE;
        is_silent || last.packets.saturating_sub(mark.packets) < PAUSE_PACKETS
    }

    /// Looks at the path's numbers, which only grow. If the window is over, gives what it showed.
    pub fn observe(
        &mut self,
        now: Instant,
        path: &PathView<'_>,
        end: WindowEnd,
        in_crowd: bool,
    ) -> Option<WindowSeen> {
        let ends_a_pause = self.ends_a_pause(now, path) && end.is_cut_by_pauses;
        let is_over = |start: &WindowStart| start.is_over(now, path, end) || ends_a_pause;
        if self.start.as_ref().is_some_and(|start| !is_over(start)) {
            return None;
        }
        let here = WindowStart {
            at: now,
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            // Not what was sent less what was lost: while a queue overflows, most of what is lost
            // is not known to be lost yet.
            delivered_bytes: (path.acked_bytes)(),
        };
        let start = self.start.replace(here).filter(|_| !ends_a_pause)?;
        let here = self.start.as_ref()?;
        let sent_packets = here.sent_packets.saturating_sub(start.sent_packets).max(1);
        let lost_packets = here.lost_packets.saturating_sub(start.lost_packets);
        let delivered = here.delivered_bytes.saturating_sub(start.delivered_bytes);
        let elapsed_ns = (now - start.at).as_nanos().max(1);
        let rate = u128::from(delivered) * 1_000_000_000 / elapsed_ns;
        let bytes_per_second = u64::try_from(rate).unwrap_or(u64::MAX);
        self.delivered_bytes_per_second[self.next] = bytes_per_second;
        self.next = (self.next + 1) % WINDOWS;
        let fastest = self.fastest_bytes_per_second();
        Some(WindowSeen {
            sent_packets,
            lost_packets,
            bytes_per_second,
            carried_bytes_per_second: if in_crowd {
                bytes_per_second.max(fastest / MAX_CROWD)
            } else {
                fastest
            },
            rtt: path.rtt,
        })
    }

    fn fastest_bytes_per_second(&self) -> u64 {
        self.delivered_bytes_per_second
            .into_iter()
            .max()
            .unwrap_or(0)
    }
}

impl WindowStart {
    fn is_over(&self, now: Instant, path: &PathView<'_>, end: WindowEnd) -> bool {
        let sent = path.sent_packets.saturating_sub(self.sent_packets);
        sent >= end.packets
            || end
                .early
                .is_some_and(|(packets, time)| sent >= packets && now >= self.at + time)
    }
}
