//! One direction of the path as arithmetic: given when a packet arrives, what becomes of it. No
//! socket, no clock.

use serde::Serialize;

/// What Ethernet carries, in bytes of IP packet. Path MTU discovery must find this, not what
/// loopback carries.
pub const LINK_MTU_BYTES: u64 = 1500;

/// A reordered packet is overtaken by as many full packets as fit into the time of this many.
pub const REORDER_PACKETS: u64 = 8;

/// Which of the two directions; part of every random draw.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// From clients to the target.
    There = 0,
    Back = 1,
}

/// Loss in bursts, after Gilbert and Elliott. All are shares from 0 to 1, drawn per packet.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Burst {
    pub enter: f64,
    pub leave: f64,
    pub loss: f64,
}

/// What a direction is like. Shares are from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    pub rate_bps: u64,
    pub delay_ns: u64,
    pub jitter_ns: u64,
    pub queue_bytes: u64,
    pub loss: f64,
    pub burst: Option<Burst>,
    pub reorder: f64,
    pub duplicate: f64,
}

impl Shape {
    /// Time on the wire. Rounded up: the rate is never exceeded, and below 1 ns in 6,000 is missed.
    fn serialisation_ns(&self, bytes: u64) -> u64 {
        (u128::from(bytes) * 8_000_000_000).div_ceil(u128::from(self.rate_bps)) as u64
    }

    /// The most that can be on the way at once: in the queue, on the wire, and held back.
    pub fn held_bytes(&self) -> u64 {
        let longest_ns = self.delay_ns
            + self.jitter_ns
            + REORDER_PACKETS * self.serialisation_ns(LINK_MTU_BYTES);
        self.queue_bytes
            + (u128::from(self.rate_bps) * u128::from(longest_ns) / 8_000_000_000) as u64
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Dropped; the counts know why.
    Lost,
    /// Leaves the path at this time, `twice` if it was duplicated on the way.
    Passes { at_ns: u64, twice: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Dropped {
    pub queue_full: u64,
    pub random: u64,
    pub burst: u64,
    pub too_big: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Offered to the path, and their bytes of IP packet.
    pub packets: u64,
    pub bytes: u64,
    /// What came through, without duplicates.
    pub passed_packets: u64,
    pub passed_bytes: u64,
    pub dropped: Dropped,
    pub reordered: u64,
    pub duplicated: u64,
    pub queue_peak_bytes: u64,
}

/// What is drawn for a packet; each has its own randomness, so that more loss does not move the
/// duplicates.
#[derive(Clone, Copy)]
enum Draw {
    Random = 1,
    BurstState,
    BurstLoss,
    Jitter,
    Reorder,
    Duplicate,
}

/// One direction.
#[derive(Debug)]
pub struct Link {
    shape: Shape,
    seed: u64,
    way: Way,
    counts: Counts,
    /// When the wire has sent all that is queued.
    free_at_ns: u64,
    in_burst: bool,
    /// When the latest packet that kept its place leaves.
    last_ns: u64,
}

impl Link {
    pub fn new(shape: Shape, seed: u64, way: Way) -> Link {
        Link {
            shape,
            seed,
            way,
            counts: Counts::default(),
            free_at_ns: 0,
            in_burst: false,
            last_ns: 0,
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A packet of `bytes` (with its IP header) comes to the path.
    pub fn offer(&mut self, now_ns: u64, bytes: u64) -> Fate {
        let index = self.counts.packets;
        self.counts.packets += 1;
        self.counts.bytes += bytes;
        // Every packet moves the burst on, whatever else becomes of it: a decision hangs on seed
        // and index alone.
        let burst = self.burst_loses(index);
        if bytes > LINK_MTU_BYTES {
            self.counts.dropped.too_big += 1;
            return Fate::Lost;
        }
        let waiting_ns = self.free_at_ns.saturating_sub(now_ns);
        let queued_bytes =
            (u128::from(waiting_ns) * u128::from(self.shape.rate_bps) / 8_000_000_000) as u64;
        if queued_bytes > 0 && queued_bytes + bytes > self.shape.queue_bytes {
            self.counts.dropped.queue_full += 1;
            return Fate::Lost;
        }
        self.counts.queue_peak_bytes = self.counts.queue_peak_bytes.max(queued_bytes + bytes);
        self.free_at_ns = self.free_at_ns.max(now_ns) + self.shape.serialisation_ns(bytes);
        // Loss happens on the wire, so what is lost has used it.
        if self.happens(self.shape.loss, index, Draw::Random) {
            self.counts.dropped.random += 1;
            return Fate::Lost;
        }
        if burst {
            self.counts.dropped.burst += 1;
            return Fate::Lost;
        }
        self.counts.passed_packets += 1;
        self.counts.passed_bytes += bytes;
        let twice = self.happens(self.shape.duplicate, index, Draw::Duplicate);
        self.counts.duplicated += u64::from(twice);
        Fate::Passes {
            at_ns: self.leaves_at(index),
            twice,
        }
    }

    fn leaves_at(&mut self, index: u64) -> u64 {
        let jitter_ns = (self.draw(index, Draw::Jitter) * self.shape.jitter_ns as f64) as u64;
        // Jitter comes from queues elsewhere, and queues keep the order.
        let in_order_ns = self
            .last_ns
            .max(self.free_at_ns + self.shape.delay_ns + jitter_ns);
        if self.happens(self.shape.reorder, index, Draw::Reorder) {
            self.counts.reordered += 1;
            // Half a packet more, lest it leaves at the same time as the last that overtakes it.
            let packet_ns = self.shape.serialisation_ns(LINK_MTU_BYTES);
            return in_order_ns + REORDER_PACKETS * packet_ns + packet_ns / 2;
        }
        self.last_ns = in_order_ns;
        in_order_ns
    }

    fn burst_loses(&mut self, index: u64) -> bool {
        let Some(burst) = self.shape.burst else {
            return false;
        };
        let change = if self.in_burst {
            burst.leave
        } else {
            burst.enter
        };
        self.in_burst ^= self.happens(change, index, Draw::BurstState);
        self.in_burst && self.happens(burst.loss, index, Draw::BurstLoss)
    }

    fn happens(&self, share: f64, index: u64, draw: Draw) -> bool {
        share > 0.0 && self.draw(index, draw) < share
    }

    /// From 0 to 1 (excluded), by nothing but seed, direction, packet and purpose: any packet can
    /// be replayed alone.
    fn draw(&self, index: u64, draw: Draw) -> f64 {
        let purpose = (self.way as u64) << 8 | draw as u64;
        let bits = mixed(mixed(mixed(self.seed) ^ purpose).wrapping_add(index));
        // The upper 53 bits: what an f64 holds exactly.
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014): a step of the golden ratio, then
/// mixing.
fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MBIT: u64 = 1_000_000;
    const MS: u64 = 1_000_000;
    const PLAIN: Shape = Shape {
        rate_bps: 12 * MBIT, // a full packet takes 1 ms
        delay_ns: 10 * MS,
        jitter_ns: 0,
        queue_bytes: 15_000,
        loss: 0.0,
        burst: None,
        reorder: 0.0,
        duplicate: 0.0,
    };

    fn link(shape: Shape, seed: u64) -> Link {
        Link::new(shape, seed, Way::There)
    }

    /// The fates of packets that come at leisure: no queue.
    fn fates(shape: Shape, seed: u64, way: Way, packets: u64) -> (Vec<Fate>, Counts) {
        let mut link = Link::new(shape, seed, way);
        let fates = (0..packets).map(|n| link.offer(n * 2 * MS, 1500)).collect();
        (fates, link.counts())
    }

    #[test]
    fn the_rate_is_kept_to_the_nanosecond() {
        let mut link = link(
            Shape {
                queue_bytes: 1_500_000,
                ..PLAIN
            },
            1,
        );
        for n in 0..1000 {
            assert_eq!(
                link.offer(0, 1500),
                Fate::Passes {
                    at_ns: (n + 1) * MS + 10 * MS,
                    twice: false
                }
            );
        }
        // Idle time is not saved up.
        assert_eq!(
            link.offer(5000 * MS, 750),
            Fate::Passes {
                at_ns: 5010 * MS + MS / 2,
                twice: false
            }
        );
    }

    #[test]
    fn a_full_queue_drops_the_newcomer() {
        let mut link = link(PLAIN, 1);
        let passed = (0..30)
            .filter(|_| link.offer(0, 1500) != Fate::Lost)
            .count();
        assert_eq!((passed, link.counts().dropped.queue_full), (10, 20));
        assert_eq!(link.counts().queue_peak_bytes, 15_000);
        // One has left: there is room for one.
        assert_ne!(link.offer(MS, 1500), Fate::Lost);
        assert_eq!(link.offer(MS, 1500), Fate::Lost);
        // However short a queue is, an idle wire takes a packet.
        assert_ne!(
            super::Link::new(
                Shape {
                    queue_bytes: 1,
                    ..PLAIN
                },
                1,
                Way::There
            )
            .offer(0, 1500),
            Fate::Lost
        );
    }

    #[test]
    fn what_is_larger_than_the_mtu_does_not_pass() {
        let mut link = link(PLAIN, 1);
        assert_eq!(link.offer(0, LINK_MTU_BYTES + 1), Fate::Lost);
        assert_ne!(link.offer(0, LINK_MTU_BYTES), Fate::Lost);
        assert_eq!(link.counts().dropped.too_big, 1);
    }

    #[test]
    fn losses_are_those_of_the_seed_and_near_the_share() {
        let shape = Shape {
            loss: 0.01,
            ..PLAIN
        };
        let (one, counts) = fates(shape, 7, Way::There, 100_000);
        assert!((900..1100).contains(&counts.dropped.random), "{counts:?}");
        assert_eq!(one, fates(shape, 7, Way::There, 100_000).0);
        assert_ne!(one, fates(shape, 8, Way::There, 100_000).0);
        assert_ne!(one, fates(shape, 7, Way::Back, 100_000).0);
    }

    #[test]
    fn one_impairment_does_not_move_another() {
        let lost = |shape| -> Vec<bool> {
            fates(shape, 3, Way::There, 10_000)
                .0
                .into_iter()
                .map(|fate| fate == Fate::Lost)
                .collect()
        };
        let shape = Shape {
            loss: 0.02,
            ..PLAIN
        };
        assert_eq!(
            lost(shape),
            lost(Shape {
                duplicate: 0.5,
                reorder: 0.1,
                jitter_ns: MS,
                ..shape
            })
        );
    }

    #[test]
    fn bursts_are_as_long_as_they_are_left_rarely() {
        let burst = Burst {
            enter: 0.001,
            leave: 0.1,
            loss: 1.0,
        };
        let (fates, counts) = fates(
            Shape {
                burst: Some(burst),
                ..PLAIN
            },
            5,
            Way::There,
            200_000,
        );
        let lost: Vec<bool> = fates.into_iter().map(|fate| fate == Fate::Lost).collect();
        let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
        // A share of enter / (enter + leave), in bursts of 1 / leave on average.
        let share = counts.dropped.burst as f64 / 200_000.0;
        assert!((0.008..0.012).contains(&share), "{share}");
        assert!(
            (8.0..12.0).contains(&(counts.dropped.burst as f64 / bursts)),
            "{bursts}"
        );
    }

    #[test]
    fn only_reordering_reorders() {
        let times = |shape: Shape| -> (Vec<u64>, Counts) {
            let (fates, counts) = fates(shape, 9, Way::There, 10_000);
            let at = |fate| {
                if let Fate::Passes { at_ns, .. } = fate {
                    at_ns
                } else {
                    unreachable!()
                }
            };
            (fates.into_iter().map(at).collect(), counts)
        };
        let (jittered, _) = times(Shape {
            jitter_ns: 7 * MS,
            ..PLAIN
        });
        assert!(jittered.is_sorted());
        assert!(
            jittered
                .iter()
                .enumerate()
                .any(|(n, at)| *at != n as u64 * 2 * MS + 11 * MS)
        );
        let (reordered, counts) = times(Shape {
            reorder: 0.01,
            ..PLAIN
        });
        assert!((70..130).contains(&counts.reordered), "{counts:?}");
        assert!(!reordered.is_sorted());
    }

    #[test]
    fn duplicates_are_counted_and_use_no_wire() {
        let (fates, counts) = fates(
            Shape {
                duplicate: 0.1,
                ..PLAIN
            },
            2,
            Way::There,
            10_000,
        );
        let twice = fates
            .iter()
            .filter(|fate| matches!(fate, Fate::Passes { twice: true, .. }))
            .count() as u64;
        assert_eq!((counts.duplicated, counts.passed_packets), (twice, 10_000));
        assert!((900..1100).contains(&twice), "{twice}");
    }

    #[test]
    fn the_held_are_bounded() {
        assert_eq!(
            PLAIN.held_bytes(),
            15_000 + 12 * 1000 * 1000 / 8 * (10 + 8) / 1000
        );
    }
}
