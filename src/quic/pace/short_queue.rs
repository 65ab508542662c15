//! A short queue: a LAN whose queue overflows is given a little less than it carries.
//!
//! A *short queue* holds less than what leaves at once and BBR2's smallest congestion window (a
//! switch port, or a qdisc of 64 kB). BBR2 goes on overrunning it, since acknowledgements that come
//! in clumps make it believe in more bandwidth than there is. What is delivered meanwhile is what
//! the path carries.
//!
//! The first overflow comes while a connection starts and was not seen at its fastest yet, so the
//! rate is first searched for from below:
//!
//! | state      | the window before lost | then                                        | next     |
//! |------------|------------------------|---------------------------------------------|----------|
//! | `Settling` | whatever it lost       | the rate stays: it was lost before          | `Rising` |
//! | `Rising`   | less than 3 packets    | 10 % more, unless the rate holds nothing up | `Rising` |
//! | `Rising`   | 3 packets or more      | 98 % of what the path carries               | `Found`  |
//! | `Found`    | 3 packets or more      | 2 % less, down to the floor                 | `Found`  |
//! | `Found`    | less than 3 packets    | 0.1 % more, up to where it was found        | `Found`  |

use super::rate::{KeptRate, Rate};
use super::window::{Seen, WindowEnd};

/// Packets of one message while the rate is kept. A qdisc above a card without USO takes or drops a
/// message whole, and 44 packets do not fit 64 kB at all.
pub(super) const SHORT_QUEUE_SEGMENTS: usize = 8;

/// Packets over which loss and rate are measured: enough that a share of a few percent is no
/// accident, and that what a queue takes in without delay matters little.
pub(super) const WINDOW_PACKETS: u64 = 512;

/// Lost packets of a window from which on the queue overflows, 3 %: twice what BBR2 itself takes
/// for congestion (`loss_threshold` 0.015), and above the random loss of a bad cable, where holding
/// back would win nothing.
const LOSSY_PACKETS: u64 = WINDOW_PACKETS * 3 / 100;

/// Lost packets of a window from which on a rate that is kept is still too high.
const STILL_LOSSY_PACKETS: u64 = 3;

/// Added after each window without loss until one has some.
const SEARCH_PERCENT: u64 = 10;

/// What a window that lost less wins back: a burst of ours that came late is no reason to be slow
/// for a minute. A twentieth of what a lossy window costs, so that at most one window in twenty is.
const REGAIN_PER_MILLE: u64 = 1;

/// A rate below what a short queue was seen to carry.
#[derive(Debug)]
pub(super) struct ShortQueue {
    kept: KeptRate,
    /// What the rate was when it was last measured.
    ceiling_bytes_per_second: u64,
    search: Search,
}

/// Whether the rate is known to be about what the path carries. The table above says what comes
/// before and after.
#[derive(Debug)]
enum Search {
    Settling,
    Rising,
    Found,
}

impl ShortQueue {
    pub const WINDOW: WindowEnd = WindowEnd {
        packets: WINDOW_PACKETS,
        early: None,
    };

    /// A rate for the path, if the window that was seen overflowed its queue.
    pub fn find(seen: &Seen) -> Option<ShortQueue> {
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

    pub fn rate(&self) -> Rate {
        self.kept.rate()
    }

    /// A window ended while the rate was kept.
    pub fn judge(&mut self, seen: &Seen) {
        let is_lossy = seen.lost_packets >= STILL_LOSSY_PACKETS;
        let carried = seen.carried_bytes_per_second;
        let now = self.kept.bytes_per_second;
        match self.search {
            Search::Settling => self.search = Search::Rising,
            Search::Rising if is_lossy => {
                let before = now * 100 / (100 + SEARCH_PERCENT);
                *self = ShortQueue::below(carried.max(before), Search::Found);
            }
            // Twice what is delivered holds nothing back: the window or the application does.
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
