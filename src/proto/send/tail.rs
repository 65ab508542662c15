//! The end of a transfer: a slow lane takes no order that the others would have moved sooner.
//!
//! Lanes pull orders as they have room, so each carries what it can. Only the last orders are
//! different: the transfer is over when the slowest lane has moved what it holds. So a mover lets
//! an order pass if the others, at the rates they were seen to have, will have moved all that is
//! left before it would have moved what it holds and the order, and if one of them alone would have
//! moved the order sooner. The lane that would have moved it soonest never lets it pass, so that
//! somebody takes it: an order goes over one lane, whatever several bring together.

use std::time::{Duration, Instant};

/// A rate is counted over so much time at least, in which there was something to send: a transport
/// takes data in bursts.
const WINDOW: Duration = Duration::from_millis(50);

/// After an order was let pass the rates are looked at again, should nothing else happen: the
/// others may have come to a halt.
pub const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How fast a lane takes what it is given while there is something.
#[derive(Debug, Default)]
pub struct LaneRate {
    /// None: nothing waits to be taken.
    busy_since: Option<Instant>,
    bytes: u64,
    bytes_per_second: Option<u64>,
}

/// What a lane has to do, and how fast it is.
#[derive(Clone, Copy, Debug)]
pub struct LaneLoad {
    /// It was given so much that it has not taken.
    pub held_bytes: u64,
    /// None: nobody knows yet.
    pub bytes_per_second: Option<u64>,
}

impl LaneRate {
    /// Something is given to a lane that had nothing.
    pub fn begin(&mut self, now: Instant) {
        if self.busy_since.is_none() {
            (self.busy_since, self.bytes) = (Some(now), 0);
        }
    }

    /// The lane took so much; `is_idle`: that was all it had.
    pub fn took(&mut self, now: Instant, bytes: u64, is_idle: bool) {
        let Some(since) = self.busy_since else { return };
        self.bytes += bytes;
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= WINDOW {
            self.bytes_per_second = Some(per_second(self.bytes, elapsed));
            (self.busy_since, self.bytes) = (Some(now), 0);
        }
        if is_idle {
            self.busy_since = None;
        }
    }

    /// Nothing is there to be taken, whatever became of what was given.
    pub fn rest(&mut self) {
        self.busy_since = None;
    }

    /// As it was seen last, or less if nothing was taken since for long.
    pub fn bytes_per_second(&self, now: Instant) -> Option<u64> {
        let known = self.bytes_per_second?;
        let elapsed = self
            .busy_since
            .map(|since| now.saturating_duration_since(since));
        Some(match elapsed {
            Some(elapsed) if elapsed > WINDOW => known.min(per_second(self.bytes, elapsed)),
            Some(_) | None => known,
        })
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let nanoseconds = elapsed.as_nanos().max(1);
    (u128::from(bytes) * 1_000_000_000 / nanoseconds) as u64
}

/// Whether an order is left to others: together they move `left_bytes`, which nobody has been given
/// yet and the order is among, before this lane has moved the order, and one of them alone would
/// have moved it sooner. What is not known speaks for taking it.
pub fn others_are_sooner(
    mine: LaneLoad,
    order_bytes: u64,
    left_bytes: u64,
    others: impl Iterator<Item = LaneLoad>,
) -> bool {
    let Some(my_rate) = mine.bytes_per_second else {
        return false;
    };
    let my_bytes = mine.held_bytes + order_bytes;
    let is_sooner = |bytes, rate| is_less((bytes, rate), (my_bytes, my_rate));
    let (mut theirs_bytes, mut their_rate, mut one_is) = (left_bytes.max(order_bytes), 0, false);
    for other in others {
        let rate = other.bytes_per_second.unwrap_or(0);
        // What is left may be as much as a number holds.
        theirs_bytes = theirs_bytes.saturating_add(other.held_bytes);
        their_rate += rate;
        one_is |= is_sooner(other.held_bytes + order_bytes, rate);
    }
    one_is && is_sooner(theirs_bytes, their_rate)
}

/// Whether so many bytes take less time at one rate than others at another: a / b < c / d, without
/// dividing by a rate of nothing, at which nothing comes to an end.
fn is_less((bytes, rate): (u64, u64), (other_bytes, other_rate): (u64, u64)) -> bool {
    let (product, other) = (
        u128::from(bytes) * u128::from(other_rate),
        u128::from(other_bytes) * u128::from(rate),
    );
    rate > 0 && product < other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::sim::{Rng, start};

    const MIB: u64 = 1 << 20;

    /// Lanes of these rates pull chunks of 1 MiB, each up to two at a time. Gives after how many
    /// milliseconds the last is through, and what it would be at best.
    fn race(rates: &[u64], chunks: u64, tail: bool) -> (u64, u64) {
        let mut held = vec![0; rates.len()];
        let (mut left, mut elapsed_ms) = (chunks * MIB, 0);
        while left > 0 || held.iter().any(|held| *held > 0) {
            assert!(elapsed_ms < 60_000, "{rates:?}: nobody takes what is left");
            for at in 0..rates.len() {
                let load = |at: usize| LaneLoad {
                    held_bytes: held[at],
                    bytes_per_second: Some(rates[at]),
                };
                let others = (0..rates.len()).filter(|other| *other != at).map(load);
                let passes = tail && others_are_sooner(load(at), MIB, left, others);
                if left > 0 && held[at] < MIB && !passes {
                    held[at] += MIB;
                    left -= MIB;
                }
            }
            for (held, rate) in held.iter_mut().zip(rates) {
                *held = held.saturating_sub(rate / 1000);
            }
            elapsed_ms += 1;
        }
        let all: u64 = rates.iter().sum();
        (elapsed_ms, chunks * MIB * 1000 / all)
    }

    #[test]
    fn a_slow_lane_does_not_hold_the_end() {
        for rates in [
            [100 * MIB, MIB],
            [100 * MIB, 30 * MIB],
            [50 * MIB, 50 * MIB],
            [MIB, 100 * MIB],
        ] {
            for chunks in [1, 2, 10, 200] {
                let (took_ms, best_ms) = race(&rates, chunks, true);
                let fastest = rates.iter().max().unwrap();
                // At most what the fast lane needs for two chunks more.
                let most_ms = best_ms + 2 * MIB * 1000 / fastest + 2;
                let passes = took_ms <= most_ms;
                assert!(passes, "{rates:?} {chunks}: {took_ms} ms of {best_ms}");
            }
        }
        let (took_ms, best_ms) = race(&[100 * MIB, MIB], 10, false);
        assert!(took_ms > 5 * best_ms, "what the rule is there for");
    }

    #[test]
    fn several_lanes_carry_more_than_one_until_the_end() {
        for chunks in [1, 2, 3, 5, 400] {
            let (took_ms, best_ms) = race(&[20 * MIB; 4], chunks, true);
            // Of the last chunks each goes over one lane.
            assert!(took_ms < best_ms + 60, "{took_ms} ms of {best_ms}");
        }
    }

    /// Whatever several lanes hold and bring, one of them takes the next order.
    #[test]
    fn somebody_takes_the_order() {
        let mut rng = Rng::new(35);
        for _ in 0..10_000 {
            let mut load = || LaneLoad {
                held_bytes: rng.pick(&[0, 0, 1, MIB, 3 * MIB]),
                bytes_per_second: rng.pick(&[None, Some(0), Some(MIB), Some(MIB), Some(9 * MIB)]),
            };
            let lanes: Vec<LaneLoad> = (0..5).map(|_| load()).collect();
            for count in 1..=lanes.len() {
                let lanes = &lanes[..count];
                let left_bytes = rng.pick(&[1, MIB, 2 * MIB, 50 * MIB]);
                let passes = |at: usize| {
                    let others = lanes.iter().enumerate();
                    let others = others.filter(|(other, _)| *other != at);
                    let others = others.map(|(_, load)| *load);
                    others_are_sooner(lanes[at], MIB, left_bytes, others)
                };
                assert!(!(0..count).all(passes), "{lanes:?} {left_bytes}");
            }
        }
    }

    #[test]
    fn what_is_not_known_speaks_for_taking() {
        let load = |bytes_per_second| LaneLoad {
            held_bytes: 0,
            bytes_per_second,
        };
        let fast = [load(Some(100 * MIB))].into_iter();
        assert!(!others_are_sooner(load(None), MIB, MIB, fast.clone()));
        assert!(others_are_sooner(load(Some(MIB)), MIB, MIB, fast));
        for others in [None, Some(load(None)), Some(load(Some(0)))] {
            let others = others.into_iter();
            assert!(!others_are_sooner(load(Some(1)), MIB, MIB, others));
        }
    }

    #[test]
    fn a_lane_that_stands_still_is_slow_after_a_while() {
        let (mut rate, now) = (LaneRate::default(), start());
        let later = |ms| now + Duration::from_millis(ms);
        assert_eq!(rate.bytes_per_second(now), None);
        rate.begin(now);
        rate.took(later(100), 10 * MIB, false);
        assert_eq!(rate.bytes_per_second(later(100)), Some(100 * MIB));
        assert_eq!(rate.bytes_per_second(later(140)), Some(100 * MIB));
        assert_eq!(rate.bytes_per_second(later(2100)), Some(0));
        rate.took(later(2100), MIB, true);
        let slow = rate.bytes_per_second(later(2100)).unwrap();
        assert!(slow < MIB);
        // Having nothing to do is no reason.
        assert_eq!(rate.bytes_per_second(later(60_000)), Some(slow));
        rate.begin(later(60_000));
        assert_eq!(rate.bytes_per_second(later(70_000)), Some(0));
        rate.rest();
        assert_eq!(rate.bytes_per_second(later(80_000)), Some(slow));
    }
}
