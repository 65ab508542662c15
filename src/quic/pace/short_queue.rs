//! A short queue: a LAN whose queue overflows is given a little less than it carries.
//!
//! A *short queue* holds less than a connection sends at once: a message of 44 packets, or BBR2's
//! smallest congestion window. Switch ports have such queues, and qdiscs of 64 kB. BBR2 overruns
//! a short queue for ever, since the acknowledgements behind it come in clumps and make BBR2
//! believe in a bandwidth that is not there.
//!
//! The first overflow comes while a connection starts, when the path was not seen at its fastest
//! yet. So the first rate may be too low, and the right one is searched for from below. After each
//! window:
//!
//! | state      | if the window lost  | then the rate                               | next state |
//! |------------|---------------------|---------------------------------------------|------------|
//! | `Settling` | any                 | stays: what is lost now was sent before     | `Rising`   |
//! | `Rising`   | less than 3 packets | rises by 10 %, unless it holds nothing back | `Rising`   |
//! | `Rising`   | 3 packets or more   | becomes 98 % of what the path carries       | `Found`    |
//! | `Found`    | 3 packets or more   | falls by 2 %, down to 60 % of what it was   | `Found`    |
//! | `Found`    | less than 3 packets | rises by 0.1 %, up to what was found        | `Found`    |

use super::rate::KeptRate;
use super::window::{WindowEnd, WindowSeen};

/// Packets of one message behind such a queue. If a card cannot segment UDP (USO), the qdisc above
/// it takes or drops a message whole, and 44 packets do not fit 64 kB at all.
pub(super) const SHORT_QUEUE_SEGMENTS: usize = 8;

/// Packets of a window: so many that a loss of a few percent is no accident, and that what a queue
/// takes in at first matters little.
pub(super) const WINDOW_PACKETS: u64 = 512;

/// If so many packets of a window are lost, the queue overflows: 3 %, twice what BBR2 itself takes
/// for congestion (`loss_threshold` 0.015), and more than a bad cable loses, where holding back
/// would win nothing.
const LOSSY_PACKETS: u64 = WINDOW_PACKETS * 3 / 100;

/// If so many packets of a window are lost, the rate is still too high.
const STILL_LOSSY_PACKETS: u64 = 3;

/// What the rate rises by while it is searched for.
const SEARCH_PERCENT: u64 = 10;

/// What a window that lost less wins back: if one burst came late, the rate need not stay lower for
/// a minute. It is a twentieth of what a lossy window costs, so that at most one window in twenty
/// is lossy.
const REGAIN_PER_MILLE: u64 = 1;

/// A rate a little below what the path behind a short queue carries.
#[derive(Debug)]
pub(super) struct ShortQueue {
    kept: KeptRate,
    /// The rate when it was last measured.
    ceiling_bytes_per_second: u64,
    search: Search,
}

/// How far the search for the rate is; the table above says what comes before and after.
#[derive(Debug)]
enum Search {
    Settling,
    Rising,
    Found,
}

impl ShortQueue {
    /// While nothing holds back: what is found in it is the first rate.
    pub const WINDOW: WindowEnd = WindowEnd {
        packets: WINDOW_PACKETS,
        early: None,
        is_cut_by_pauses: true,
    };

    /// While a rate is kept: of several such windows the fastest counts.
    pub const HELD_WINDOW: WindowEnd = WindowEnd {
        is_cut_by_pauses: false,
        ..ShortQueue::WINDOW
    };

    /// A rate for the path, if its queue overflowed during the window.
    pub fn find(seen: &WindowSeen) -> Option<ShortQueue> {
        let overflows = seen.lost_packets >= LOSSY_PACKETS;
        overflows.then(|| ShortQueue::below(seen.carried_bytes_per_second, Search::Settling))
    }

    fn below(carried_bytes_per_second: u64, search: Search) -> ShortQueue {
        let kept = KeptRate::below(carried_bytes_per_second);
        ShortQueue {
            ceiling_bytes_per_second: kept.bytes_per_second,
            kept,
            search,
        }
    }

    pub fn bytes_per_second(&self) -> u64 {
        self.kept.bytes_per_second
    }

    /// A window ended while the rate was kept.
    pub fn judge(&mut self, seen: &WindowSeen) {
        let is_lossy = seen.lost_packets >= STILL_LOSSY_PACKETS;
        let carried = seen.carried_bytes_per_second;
        let now = self.kept.bytes_per_second;
        match self.search {
            Search::Settling => self.search = Search::Rising,
            Search::Rising if is_lossy => {
                let before = now * 100 / (100 + SEARCH_PERCENT);
                *self = ShortQueue::below(carried.max(before), Search::Found);
            }
            // A rate of twice what is delivered holds nothing back: the congestion window or the
            // application does.
            Search::Rising if now / 2 > carried => {}
            Search::Rising => {
                let more = now.saturating_mul(SEARCH_PERCENT) / 100;
                self.kept.bytes_per_second = now.saturating_add(more);
            }
            Search::Found if is_lossy => self.kept.lower(),
            Search::Found => {
                let higher = now + now * REGAIN_PER_MILLE / 1_000;
                self.kept.bytes_per_second = higher.min(self.ceiling_bytes_per_second);
            }
        }
    }
}
