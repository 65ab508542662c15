//! When packets leave: on long paths at BBR2's release times, on a LAN at once, unless queues
//! overflow.
//!
//! A queue shorter than BBR2's smallest window and our bursts (a switch port, a qdisc of 64 kB)
//! loses packets for as long as BBR2 believes in a bandwidth that acknowledgements in clumps made
//! too high; so does one that a crowd of connections shares, each of which believes in more than
//! its share. Such a path is given what it was seen to carry and a little less, and tried again
//! later.

use std::time::{Duration, Instant};

use landro_sys::gso::MAX_SEGMENTS;

use crate::config::PACING_MIN_RTT;
use crate::quic::path::PathSnapshot;

/// How much time's worth of packets leaves at once on a long path, at least: the loop's timers are
/// this coarse, and a burst of it fits any router's queue.
const LONG_PATH_BURST: Duration = Duration::from_millis(1);

/// Bytes that leave at once on a long path that is slow, which 1 ms is at 100 Mbit/s: a hundred
/// connections that share 1 Gbit/s fill its queue, look like long paths, and would wake up for
/// every packet.
const SLOW_PATH_BURST_BYTES: u64 = 12_000;
const SLOW_PATH_BURST_MAX: Duration = Duration::from_millis(10);

/// How far ahead of BBR2's release times a long path stays besides. quiche does not make up for a
/// packet that leaves later than it might have, so timers that fire late (2 ms where cores are
/// busy) would slow a connection down for ever.
const LONG_PATH_AHEAD: Duration = Duration::from_millis(2);

/// What leaves at once where a queue overflows: 25 kB at 1 Gbit/s, well below a queue of 64 kB, and
/// few enough wake-ups; on slower paths as on long ones.
const SHORT_QUEUE_BURST: Duration = Duration::from_micros(200);

/// Packets of one message there. A qdisc above a card without USO takes or drops a message whole,
/// and 44 packets do not fit 64 kB at all.
const SHORT_QUEUE_SEGMENTS: usize = 8;

/// Packets over which loss and rate are measured: enough that a share of a few percent is no
/// accident, and that what a queue takes in without delay matters little.
const WINDOW_PACKETS: u64 = 512;

/// The same in a crowd, where 512 packets of one take half a second.
const CROWD_WINDOW_PACKETS: u64 = 256;

/// Or after this time and so many packets, while it is held back: what others leave is taken in a
/// second or two.
const CROWD_WINDOW: Duration = Duration::from_millis(100);
const CROWD_WINDOW_MIN_PACKETS: u64 = 64;

/// Lost of a crowd's window from which on its queue overflows, 10 %: windows of two of a hundred
/// lost 6 to 50 %. Not less, for where more than 1.5 % was lost whatever was sent, BBR2 did not win
/// back what it had been held back to: 20 Mbit/s with 6 % of random loss became 0.1 MB/s.
const CROWD_LOSSY_PACKETS: u64 = CROWD_WINDOW_PACKETS * 10 / 100;

/// A path with a longer round trip than this, when its queues are emptiest, is left to BBR2 alone,
/// as is every one with a router between: a full queue of 1.25 MB is 10.7 ms long at 1 Gbit/s. (Ten
/// connections that share 100 Mbit/s 10 ms away behind a queue of 100 kB brought 6 to 10 MB/s when
/// they were held back, 11.4 when not.)
const CROWD_MIN_RTT: Duration = Duration::from_millis(11);

/// Lost of these from which on a crowd's connection takes 2 % less, 3 %, and after each window with
/// fewer a little more: a hundred together then lose 4 % and leave nothing of the path unused.
const CROWD_STILL_LOSSY_PERCENT: u64 = 3;
const CROWD_REGAIN_PERCENT: u64 = 1;

/// Windows in a row that are lossy although less was sent from one to the next: then it is not for
/// a crowd's sake that packets are lost, and holding back is given up, longer each time.
const FUTILE_WINDOWS: u32 = 8;

/// A crowd's connections have less than this in their windows, 128 packets: of a hundred behind a
/// queue of 1.25 MB BBR2 gave each 32 to 70, where 8 had room.
const CROWD_CWND_BYTES: usize = 128 * 1_500;

/// Lost of these from which on a LAN's queue overflows, 3 %: twice what BBR2 itself takes for
/// congestion (`loss_threshold` 0.015), and above the random loss of a bad cable, where holding
/// back would win nothing.
const LOSSY_PACKETS: u64 = WINDOW_PACKETS * 3 / 100;

/// Lost of these from which on a rate that is kept is still too high.
const STILL_LOSSY_PACKETS: u64 = 3;

/// Kept below what was delivered, so that the queue drains; again after each window that still lost
/// packets.
const HEADROOM_PERCENT: u64 = 98;

/// Least share of the measured rate that is kept, whatever is lost.
const FLOOR_PERCENT: u64 = 60;

/// No rate below this is kept, a thousandth of 1 Gbit/s: packets that are due, probes among them,
/// wait 15 ms at most.
const LEAST_BYTES_PER_SECOND: u64 = 100_000;

/// Nor a share of the fastest of the last windows below one of so many: the last window may have
/// been an outage.
const MAX_CROWD: u64 = 128;

/// What a window that lost less wins back: a burst of ours that came late is no reason to be slow
/// for a minute. A twentieth of what a lossy window costs, so that at most one window in twenty is.
const REGAIN_PER_MILLE: u64 = 1;

/// Added after each window without loss until one has some: the first overflow comes while a
/// connection starts, when it was seen to deliver half of what the path carries.
const SEARCH_PERCENT: u64 = 10;

/// Windows of which the fastest counts: the others may have waited for the disk or the application.
/// In a crowd only the last counts: all connections at their fastest are more than the path
/// carries.
const WINDOWS: usize = 8;

/// How long a rate is kept; doubled each time the path is found as it was, since each trial loses
/// packets.
const KEPT_FIRST: Duration = Duration::from_secs(2);
const KEPT_MAX: Duration = Duration::from_secs(64);

/// From this round trip on a queue that overflows is a crowd's. One that is a quarter of it by now
/// was filled by others who are gone: of a crowd on one wire the last would go on at what had been
/// its share. Asked after an eighth of the time that a rate is kept, since the short queue of a
/// slow path empties as well once it is not overrun.
const CROWDED_RTT: Duration = PACING_MIN_RTT;
const DESERTED_SHARE: u32 = 4;
const DESERTED_AFTER_SHARE: u32 = 8;

/// Watches one path.
#[derive(Debug)]
pub(in crate::quic) struct Pace {
    /// False: the configuration does not want pacing anywhere.
    #[expect(dead_code)]
    wanted: bool,
    /// On a long path what leaves at once.
    long_path: Option<Duration>,
    start: Option<Window>,
    /// Bytes per second delivered in the last windows.
    delivered_bytes_per_second: [u64; WINDOWS],
    next_window: usize,
    shape: Option<Shape>,
    kept_next: Duration,
    /// Until when no crowd is believed in, and how long the next time, after one was that was none.
    no_crowd_until: Option<Instant>,
    no_crowd_next: Duration,
    /// Whether the peer is in a subnet of ours, once it was asked.
    on_link: Option<bool>,
}

/// The path's numbers at the start of a window.
#[derive(Debug)]
struct Window {
    at: Instant,
    sent_packets: u64,
    lost_packets: u64,
    delivered_bytes: u64,
}

/// A rate below what a short queue was seen to carry.
#[derive(Debug)]
struct Shape {
    bytes_per_second: u64,
    ceiling_bytes_per_second: u64,
    floor_bytes_per_second: u64,
    search: Search,
    until: Instant,
    /// From when on it is given up if the path's round trip fell to this.
    deserted: Option<(Instant, Duration)>,
    /// When the next packet is due.
    next: Instant,
    /// All that may leave at once has left: the next one waits until it is due, then as many may
    /// follow.
    spent: bool,
}

/// What a window of packets showed.
#[derive(Debug)]
struct Seen {
    /// At least one.
    sent_packets: u64,
    lost_packets: u64,
    bytes_per_second: u64,
    rtt: Duration,
    is_crowd: bool,
}

/// Whether a rate is known to be about what the path carries.
#[derive(Debug)]
enum Search {
    /// What was lost before the rate was kept is still being noticed; then `Rising`.
    Settling,
    /// No loss yet; then `Done`.
    Rising,
    Done,
    /// Shared with others, all of whom take less or more when this one does. How many windows in a
    /// row were lossy.
    Crowd {
        lossy_in_a_row: u32,
    },
}

impl Pace {
    pub fn new(wanted: bool) -> Pace {
        Pace {
            wanted,
            long_path: None,
            start: None,
            delivered_bytes_per_second: [0; WINDOWS],
            next_window: 0,
            shape: None,
            kept_next: KEPT_FIRST,
            no_crowd_until: None,
            no_crowd_next: KEPT_FIRST,
            on_link: None,
        }
    }

    /// When to send the next packets, if not yet. `bbr` is asked for BBR2's release time where that
    /// counts.
    pub fn release_time(
        &self,
        now: Instant,
        bbr: impl FnOnce() -> Option<Instant>,
    ) -> Option<Instant> {
        if let Some(shape) = &self.shape {
            return (shape.spent && shape.next > now).then_some(shape.next);
        }
        let burst = self.long_path?;
        let at = bbr()? - LONG_PATH_AHEAD;
        (at > now + burst).then_some(at)
    }

    /// Packets of one message.
    pub fn max_segments(&self) -> usize {
        if self.shape.is_some() {
            SHORT_QUEUE_SEGMENTS
        } else {
            MAX_SEGMENTS
        }
    }

    /// A packet was built.
    pub fn sent(&mut self, now: Instant, bytes: usize) {
        if let Some(shape) = &mut self.shape {
            let transfer =
                Duration::from_nanos(bytes as u64 * 1_000_000_000 / shape.bytes_per_second);
            shape.next = shape.next.max(now) + transfer;
            shape.spent =
                shape.next > now + slow_burst(shape.bytes_per_second).max(SHORT_QUEUE_BURST);
        }
    }

    /// Looks at the path's numbers, which only grow. Once per batch. `acked_bytes` counts what the
    /// peer acknowledged; it is asked for once per window, as quiche walks all streams for it.
    /// `is_on_link`: whether no router is between.
    pub fn observe(
        &mut self,
        now: Instant,
        path: &PathSnapshot,
        acked_bytes: impl FnOnce() -> u64,
        is_on_link: impl FnOnce() -> bool,
    ) {
        self.long_path = path
            .min_rtt
            .filter(|rtt| *rtt >= PACING_MIN_RTT)
            .map(|_| burst_of(path));
        if let Some(shape) = &self.shape
            && shape.is_over(now, path.rtt)
        {
            self.end_shape(now);
        }
        let is_crowd = path.rtt >= CROWDED_RTT
            && path.min_rtt.is_some_and(|rtt| rtt < CROWD_MIN_RTT)
            && path.cwnd_bytes < CROWD_CWND_BYTES
            && self.no_crowd_until.is_none_or(|until| until <= now)
            && *self.on_link.get_or_insert_with(is_on_link);
        let in_crowd = self.shape.as_ref().is_some_and(Shape::is_crowd);
        let due = |start: &Window| {
            let sent = path.sent_packets.saturating_sub(start.sent_packets);
            sent >= if is_crowd || in_crowd {
                CROWD_WINDOW_PACKETS
            } else {
                WINDOW_PACKETS
            } || in_crowd && sent >= CROWD_WINDOW_MIN_PACKETS && now >= start.at + CROWD_WINDOW
        };
        if self.start.as_ref().is_some_and(|start| !due(start)) {
            return;
        }
        let here = Window {
            at: now,
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            // Not what was sent less what was lost: in a window of overflow most of that is not
            // known to be lost yet.
            delivered_bytes: acked_bytes(),
        };
        let Some(start) = &self.start else {
            self.start = Some(here);
            return;
        };
        let sent_packets = here.sent_packets.saturating_sub(start.sent_packets).max(1);
        let lost_packets = here.lost_packets.saturating_sub(start.lost_packets);
        let delivered = here.delivered_bytes.saturating_sub(start.delivered_bytes);
        let elapsed_ns = (now - start.at).as_nanos().max(1);
        let rate = u128::from(delivered) * 1_000_000_000 / elapsed_ns;
        let bytes_per_second = u64::try_from(rate).unwrap_or(u64::MAX);
        self.delivered_bytes_per_second[self.next_window] = bytes_per_second;
        self.next_window = (self.next_window + 1) % WINDOWS;
        self.start = Some(here);
        self.judge(
            now,
            &Seen {
                sent_packets,
                lost_packets,
                bytes_per_second,
                rtt: path.rtt,
                is_crowd,
            },
        );
    }

    fn judge(&mut self, now: Instant, seen: &Seen) {
        let &Seen {
            lost_packets: lost,
            rtt,
            is_crowd,
            ..
        } = seen;
        let fastest = self
            .delivered_bytes_per_second
            .into_iter()
            .max()
            .unwrap_or(0);
        let carried = if is_crowd {
            seen.bytes_per_second.max(fastest / MAX_CROWD)
        } else {
            fastest
        };
        let overflows = match is_crowd {
            true => lost >= CROWD_LOSSY_PACKETS,
            false => lost >= LOSSY_PACKETS && self.long_path.is_none(),
        };
        match &mut self.shape {
            Some(shape) => {
                shape.judge(seen, carried);
                if shape.lossy_in_a_row() >= FUTILE_WINDOWS {
                    self.end_shape(now);
                }
            }
            None if overflows => {
                let mut shape = Shape {
                    bytes_per_second: LEAST_BYTES_PER_SECOND,
                    ceiling_bytes_per_second: LEAST_BYTES_PER_SECOND,
                    floor_bytes_per_second: LEAST_BYTES_PER_SECOND,
                    search: if is_crowd {
                        Search::Crowd { lossy_in_a_row: 0 }
                    } else {
                        Search::Settling
                    },
                    until: now + self.kept_next,
                    deserted: (rtt >= CROWDED_RTT).then(|| {
                        (
                            now + self.kept_next / DESERTED_AFTER_SHARE,
                            rtt / DESERTED_SHARE,
                        )
                    }),
                    next: now,
                    spent: false,
                };
                shape.keep_below(carried);
                let bytes_per_second = shape.bytes_per_second;
                tracing::debug!(lost, bytes_per_second, kept = ?self.kept_next, ?rtt, "a queue on the path overflows");
                self.shape = Some(shape);
                self.kept_next = (self.kept_next * 2).min(KEPT_MAX);
            }
            None => {}
        }
    }

    /// Holds nothing back any more, nor for a while if lossy windows in a row, half of what ends it
    /// early, say that it did not help.
    fn end_shape(&mut self, now: Instant) {
        let Some(shape) = self.shape.take() else {
            return;
        };
        if shape.lossy_in_a_row() >= FUTILE_WINDOWS / 2 {
            self.no_crowd_until = Some(now + self.no_crowd_next);
            self.no_crowd_next = (self.no_crowd_next * 2).min(KEPT_MAX);
        } else if shape.is_crowd() {
            self.no_crowd_next = KEPT_FIRST;
        }
    }
}

impl Shape {
    fn keep_below(&mut self, carried_bytes_per_second: u64) {
        self.bytes_per_second =
            (carried_bytes_per_second * HEADROOM_PERCENT / 100).max(LEAST_BYTES_PER_SECOND);
        self.ceiling_bytes_per_second = self.bytes_per_second;
        self.floor_bytes_per_second =
            (carried_bytes_per_second * FLOOR_PERCENT / 100).max(LEAST_BYTES_PER_SECOND);
    }

    /// A window ended that lost so many packets; the fastest of the last ones delivered `carried`
    /// bytes per second.
    fn judge(&mut self, seen: &Seen, carried: u64) {
        let is_lossy = seen.lost_packets >= STILL_LOSSY_PACKETS;
        match &mut self.search {
            Search::Crowd { lossy_in_a_row }
                if seen.lost_packets * 100 >= seen.sent_packets * CROWD_STILL_LOSSY_PERCENT =>
            {
                *lossy_in_a_row += 1;
                let lower = self.bytes_per_second * HEADROOM_PERCENT / 100;
                self.bytes_per_second = lower.max(self.floor_bytes_per_second);
            }
            Search::Crowd { lossy_in_a_row } => {
                *lossy_in_a_row = 0;
                if self.bytes_per_second / 2 <= seen.bytes_per_second {
                    self.bytes_per_second += self.bytes_per_second * CROWD_REGAIN_PERCENT / 100;
                }
            }
            Search::Settling => self.search = Search::Rising,
            Search::Rising if is_lossy => {
                let before = self.bytes_per_second * 100 / (100 + SEARCH_PERCENT);
                self.keep_below(carried.max(before));
                self.search = Search::Done;
            }
            // Twice what is delivered holds nothing back: the window or the application does.
            Search::Rising if self.bytes_per_second / 2 > carried => {}
            Search::Rising => {
                let more = self.bytes_per_second.saturating_mul(SEARCH_PERCENT) / 100;
                self.bytes_per_second = self.bytes_per_second.saturating_add(more);
            }
            Search::Done if is_lossy => {
                let lower = self.bytes_per_second * HEADROOM_PERCENT / 100;
                self.bytes_per_second = lower.max(self.floor_bytes_per_second);
            }
            Search::Done => {
                let higher =
                    self.bytes_per_second + self.bytes_per_second * REGAIN_PER_MILLE / 1_000;
                self.bytes_per_second = higher.min(self.ceiling_bytes_per_second);
            }
        }
    }

    fn is_crowd(&self) -> bool {
        matches!(self.search, Search::Crowd { .. })
    }

    /// The last so many windows of a crowd's connection were lossy.
    fn lossy_in_a_row(&self) -> u32 {
        match self.search {
            Search::Crowd { lossy_in_a_row } => lossy_in_a_row,
            Search::Settling | Search::Rising | Search::Done => 0,
        }
    }

    fn is_over(&self, now: Instant, rtt: Duration) -> bool {
        self.until <= now
            || self
                .deserted
                .is_some_and(|(from, short)| from <= now && rtt <= short)
    }
}

/// What leaves at once on a long path.
fn burst_of(path: &PathSnapshot) -> Duration {
    slow_burst(path.delivery_bytes_per_second).max(LONG_PATH_BURST)
}

/// How long a slow path takes for what leaves at once.
fn slow_burst(bytes_per_second: u64) -> Duration {
    let slow_ns = SLOW_PATH_BURST_BYTES * 1_000_000_000 / bytes_per_second.max(1);
    Duration::from_nanos(slow_ns).min(SLOW_PATH_BURST_MAX)
}
