//! A crowd: each of many connections on one wire is given what it was last seen to deliver.
//!
//! A *crowd* is a number of connections that share one wire and the queue before it. BBR2 takes the
//! fastest delivery it saw for the bandwidth, so that each connection believes in more than its
//! share, and the queue overflows for as long as the crowd lasts. One connection cannot see the
//! others. It takes itself for one of a crowd if four signs come together: the round trip is 2 ms
//! or more, so the queue is long; the congestion window is small; the shortest round trip was below
//! 11 ms, so the path is short; and no router is between. What all of a crowd deliver at one time
//! is what the wire carries, so that the last window counts and not the fastest.
//!
//! After each window of a connection:
//!
//! | state   | if                                       | then                        | next    |
//! |---------|------------------------------------------|-----------------------------|---------|
//! | free    | the signs are there and 10 % were lost   | 98 % of what was delivered  | held    |
//! | held    | 3 % or more were lost                    | 2 % less, down to 60 %      | held    |
//! | held    | less was lost                            | 1 % more                    | held    |
//! | held    | 8 windows in a row were lossy            | holding back does not help  | doubted |
//! | held    | the term ends, the last 4 or more lossy  | holding back does not help  | doubted |
//! | held    | the term ends otherwise                  |                             | free    |
//! | doubted | 2 s, the next time 4 s, up to 64 s, pass | the signs count again       | free    |
//!
//! [`Crowd`] is the state `held`, [`Belief`] tells `free` from `doubted`.

use std::time::{Duration, Instant};

use super::rate::KeptRate;
use super::term::{CROWDED_RTT, KEPT_FIRST, doubled};
use super::window::{WindowEnd, WindowSeen};
use crate::config::PathView;

/// If the shortest round trip is this or more, the path is left to BBR2 alone, as is every path
/// with a router between. Four of five of a crowd meet a full queue when they come, and 1.25 MB are
/// 10.7 ms at 1 Gbit/s. (Ten connections that share 100 Mbit/s 10 ms away, behind a queue of 100
/// kB, brought 6 to 10 MB/s when they were held back, 11.4 when not.)
pub(super) const CROWD_MIN_RTT: Duration = Duration::from_millis(11);

/// If the congestion window is this or more, 128 packets, the connection is not one of a crowd: of
/// a hundred connections behind a queue of 1.25 MB BBR2 gave each 32 to 70, where 8 had room.
pub(super) const CROWD_CWND_BYTES: usize = 128 * 1_500;

/// Packets of a crowd's window: 512 of one connection would take half a second.
const CROWD_WINDOW_PACKETS: u64 = 256;

/// While a connection is held back, a window also ends after this time, if so many packets were
/// sent: so what others leave is taken in a second or two.
const CROWD_WINDOW: Duration = Duration::from_millis(100);
const CROWD_WINDOW_MIN_PACKETS: u64 = 64;

/// If so many packets of a window are lost, the crowd's queue overflows: 10 %, where windows of a
/// hundred connections lost 6 to 50 %. With less, a path with random loss would be taken for a
/// crowd's, and BBR2 does not win back what it was held back to where more than 1.5 % is lost
/// whatever is sent: 20 Mbit/s with 6 % of random loss became 0.1 MB/s.
const CROWD_LOSSY_PACKETS: u64 = CROWD_WINDOW_PACKETS * 10 / 100;

/// If this share of a window is lost, the connection takes less; otherwise it takes so much more. A
/// hundred connections together then lose 4 % and leave nothing of the path unused.
const CROWD_STILL_LOSSY_PERCENT: u64 = 3;
const CROWD_REGAIN_PERCENT: u64 = 1;

/// If so many windows in a row are lossy although each sent less than the one before, no crowd is
/// the reason, and holding back is given up.
pub(super) const FUTILE_WINDOWS: u32 = 8;

/// Whether the signs of a crowd count.
#[derive(Debug)]
pub(super) struct Belief {
    /// None: holding back always helped.
    doubted_until: Option<Instant>,
    /// How long the signs do not count, the next time that holding back did not help.
    doubt_next: Duration,
    /// Whether the peer is in a subnet of ours, once it was asked.
    on_link: Option<bool>,
}

impl Belief {
    pub fn new() -> Belief {
        Belief {
            doubted_until: None,
            doubt_next: KEPT_FIRST,
            on_link: None,
        }
    }

    /// Whether the signs of a crowd are there, and count. Whether no router is between is asked at
    /// most once.
    pub fn is_crowd(&mut self, now: Instant, path: &PathView<'_>) -> bool {
        path.rtt >= CROWDED_RTT
            && path.min_rtt.is_some_and(|rtt| rtt < CROWD_MIN_RTT)
            && path.cwnd_bytes < CROWD_CWND_BYTES
            && self.doubted_until.is_none_or(|until| until <= now)
            && *self.on_link.get_or_insert_with(|| (path.is_on_link)())
    }

    /// The connection is no longer held back.
    pub fn ended(&mut self, now: Instant, crowd: &Crowd) {
        if crowd.lossy_in_a_row >= FUTILE_WINDOWS / 2 {
            self.doubted_until = Some(now + self.doubt_next);
            self.doubt_next = doubled(self.doubt_next);
        } else {
            self.doubt_next = KEPT_FIRST;
        }
    }
}

/// A connection of a crowd that is held back. The others do the same: they take less or more when
/// this one does.
#[derive(Debug)]
pub(super) struct Crowd {
    kept: KeptRate,
    lossy_in_a_row: u32,
}

impl Crowd {
    /// The window of a connection with the signs.
    pub const WINDOW: WindowEnd = WindowEnd {
        packets: CROWD_WINDOW_PACKETS,
        early: None,
        is_cut_by_pauses: false,
    };

    /// The window of a connection that is held back.
    pub const HELD_WINDOW: WindowEnd = WindowEnd {
        packets: CROWD_WINDOW_PACKETS,
        early: Some((CROWD_WINDOW_MIN_PACKETS, CROWD_WINDOW)),
        is_cut_by_pauses: false,
    };

    /// A rate for one of a crowd, if the queue overflowed during the window.
    pub fn find(seen: &WindowSeen) -> Option<Crowd> {
        let overflows = seen.lost_packets >= CROWD_LOSSY_PACKETS;
        overflows.then(|| Crowd {
            kept: KeptRate::below(seen.carried_bytes_per_second),
            lossy_in_a_row: 0,
        })
    }

    /// None: holding back does not help.
    pub fn bytes_per_second(&self) -> Option<u64> {
        (self.lossy_in_a_row < FUTILE_WINDOWS).then_some(self.kept.bytes_per_second)
    }

    /// A window ended while the rate was kept.
    pub fn judge(&mut self, seen: &WindowSeen) {
        if seen.lost_packets * 100 >= seen.sent_packets * CROWD_STILL_LOSSY_PERCENT {
            self.lossy_in_a_row += 1;
            self.kept.lower();
            return;
        }
        self.lossy_in_a_row = 0;
        let rate = &mut self.kept.bytes_per_second;
        // A rate of twice what is delivered holds nothing back: more of it would mean nothing.
        if *rate / 2 <= seen.bytes_per_second {
            *rate += *rate * CROWD_REGAIN_PERCENT / 100;
        }
    }
}
