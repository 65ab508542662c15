//! A crowd: many connections on one wire, each of which is given what it was last seen to deliver.
//!
//! A *crowd* is a number of connections that share one wire and the queue before it, and each of
//! which believes in more than its share: the largest sample of the bandwidth counts for BBR2, and
//! all at their fastest are more than the wire carries. One of them cannot know the others. It
//! takes the path for a crowd's if the queue is long (a round trip of 2 ms or more), its own
//! congestion window is small, the path itself is short, and no router is between.
//!
//! | state                   | what happens                        | next                          |
//! |-------------------------|-------------------------------------|-------------------------------|
//! | open                    | a crowd's window lost 10 % or more  | held: 98 % of what came across|
//! | held                    | a window lost 3 % or more           | held: 2 % less, to the floor  |
//! | held                    | a window lost less                  | held: 1 % more                |
//! | held                    | 8 windows in a row lost 3 % or more | doubted: it does not help     |
//! | held, 4 of them so far  | the term is over                    | doubted                       |
//! | held                    | the term is over                    | open                          |
//! | doubted                 | 2 s pass, then 4 s and so on        | open                          |
//!
//! [`Crowd`] is what is held; [`Belief`] is the rest.

use std::time::{Duration, Instant};

use super::rate::{KeptRate, Rate};
use super::term::{CROWDED_RTT, KEPT_FIRST, doubled};
use super::window::{Seen, WindowEnd};
use crate::quic::path::PathSnapshot;

/// A path with a longer round trip than this, when its queues are emptiest, is left to BBR2 alone,
/// as is every one with a router between: a full queue of 1.25 MB is 10.7 ms long at 1 Gbit/s. (Ten
/// connections that share 100 Mbit/s 10 ms away behind a queue of 100 kB brought 6 to 10 MB/s when
/// they were held back, 11.4 when not.)
pub(super) const CROWD_MIN_RTT: Duration = Duration::from_millis(11);

/// A crowd's connections have less than this in their congestion windows, 128 packets: of a hundred
/// behind a queue of 1.25 MB BBR2 gave each 32 to 70, where 8 had room.
pub(super) const CROWD_CWND_BYTES: usize = 128 * 1_500;

/// Packets over which a crowd's loss and rate are measured: 512 of one connection take half a
/// second there.
const CROWD_WINDOW_PACKETS: u64 = 256;

/// While a crowd's connection is held back, this time ends a window too, after so many packets:
/// what others leave is taken in a second or two.
const CROWD_WINDOW: Duration = Duration::from_millis(100);
const CROWD_WINDOW_MIN_PACKETS: u64 = 64;

/// Lost packets of a crowd's window from which on its queue overflows, 10 %: windows of two of a
/// hundred lost 6 to 50 %. Not less, for where more than 1.5 % was lost whatever was sent, BBR2 did
/// not win back what it had been held back to: 20 Mbit/s with 6 % of random loss became 0.1 MB/s.
const CROWD_LOSSY_PACKETS: u64 = CROWD_WINDOW_PACKETS * 10 / 100;

/// Share of a window that is lost from which on a crowd's connection takes less, and what one that
/// lost less wins: a hundred together then lose 4 % and leave nothing of the path unused.
const CROWD_STILL_LOSSY_PERCENT: u64 = 3;
const CROWD_REGAIN_PERCENT: u64 = 1;

/// Windows in a row that are lossy although less was sent from one to the next: then it is not for
/// a crowd's sake that packets are lost, and holding back is given up.
pub(super) const FUTILE_WINDOWS: u32 = 8;

/// Whether a path may be a crowd's.
#[derive(Debug)]
pub(super) struct Belief {
    doubted_until: Option<Instant>,
    /// How long no crowd is believed in the next time that holding back did not help.
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

    /// Whether the path looks like a crowd's now. `is_on_link`: whether no router is between,
    /// asked at most once.
    pub fn is_crowd(
        &mut self,
        now: Instant,
        path: &PathSnapshot,
        is_on_link: impl FnOnce() -> bool,
    ) -> bool {
        path.rtt >= CROWDED_RTT
            && path.min_rtt.is_some_and(|rtt| rtt < CROWD_MIN_RTT)
            && path.cwnd_bytes < CROWD_CWND_BYTES
            && self.doubted_until.is_none_or(|until| until <= now)
            && *self.on_link.get_or_insert_with(is_on_link)
    }

    /// A crowd's connection is no longer held back.
    pub fn ended(&mut self, now: Instant, crowd: &Crowd) {
        if crowd.lossy_in_a_row >= FUTILE_WINDOWS / 2 {
            self.doubted_until = Some(now + self.doubt_next);
            self.doubt_next = doubled(self.doubt_next);
        } else {
            self.doubt_next = KEPT_FIRST;
        }
    }
}

/// One of a crowd, held back. All others take less or more when this one does.
#[derive(Debug)]
pub(super) struct Crowd {
    kept: KeptRate,
    lossy_in_a_row: u32,
}

impl Crowd {
    /// The window of a connection that looks like one of a crowd.
    pub const WINDOW: WindowEnd = WindowEnd {
        packets: CROWD_WINDOW_PACKETS,
        early: None,
    };

    /// The window of one that is held back.
    pub const HELD_WINDOW: WindowEnd = WindowEnd {
        packets: CROWD_WINDOW_PACKETS,
        early: Some((CROWD_WINDOW_MIN_PACKETS, CROWD_WINDOW)),
    };

    /// A rate for one of a crowd, if the window that was seen overflowed the queue.
    pub fn find(seen: &Seen) -> Option<Crowd> {
        let overflows = seen.lost_packets >= CROWD_LOSSY_PACKETS;
        overflows.then(|| Crowd {
            kept: KeptRate::below(seen.carried_bytes_per_second),
            lossy_in_a_row: 0,
        })
    }

    /// None: holding back does not help.
    pub fn rate(&self) -> Option<Rate> {
        (self.lossy_in_a_row < FUTILE_WINDOWS).then(|| self.kept.rate())
    }

    /// A window ended while the rate was kept.
    pub fn judge(&mut self, seen: &Seen) {
        if seen.lost_packets * 100 >= seen.sent_packets * CROWD_STILL_LOSSY_PERCENT {
            self.lossy_in_a_row += 1;
            self.kept.lower();
            return;
        }
        self.lossy_in_a_row = 0;
        let rate = &mut self.kept.bytes_per_second;
        // Twice what is delivered holds nothing back.
        if *rate / 2 <= seen.bytes_per_second {
            *rate += *rate * CROWD_REGAIN_PERCENT / 100;
        }
    }
}
