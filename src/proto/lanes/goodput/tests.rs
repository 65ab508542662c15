//! A sender over two lanes whose rates are set, change, and are disturbed: how long a transfer
//! takes against the better lane alone.

use std::time::Duration;

use super::{Choice, DataWay, GOODPUT_WINDOW};
use crate::proto::sim::{Rng, start as sim_start};

const STEP: Duration = Duration::from_millis(1);
const MB: u64 = 1_000_000;
const STREAM_BYTES: u64 = 4 << 20;

/// What the kernel takes of a TCP stream before anything of it has arrived, and what QUIC does.
const BUFFER_BYTES: [u64; 2] = [512 << 10, 3 << 20];

/// Bytes per millisecond of the carrying and of the added lane at this time, each alone.
type Rates<'a> = &'a dyn Fn(Duration) -> [u64; 2];

/// A transfer in which something always waits, unless a limit is set.
struct Run<'a> {
    rates: Rates<'a>,
    size_bytes: u64,
    /// Data streams at a time.
    slots: usize,
    /// So many bytes per millisecond are there to be sent, from then on.
    limit: Option<(Duration, u64)>,
    /// Data streams begin there, whatever goodput says.
    alone: Option<DataWay>,
    /// Both are of one kind.
    is_alike: bool,
}

#[derive(Debug)]
struct Course {
    took: Duration,
    delivered_bytes: [u64; 2],
    switches: usize,
}

#[derive(Clone, Copy)]
struct Stream {
    lane: usize,
    left_bytes: u64,
}

impl Run<'_> {
    fn course(&self) -> Course {
        let mut choice = Choice::new(sim_start(), GOODPUT_WINDOW, self.is_alike);
        let (mut streams, mut buffered) = (vec![None::<Stream>; self.slots], [0u64; 2]);
        let (mut unsent_bytes, mut allowed_bytes) = (self.size_bytes, 0);
        let mut course = Course {
            took: Duration::ZERO,
            delivered_bytes: [0; 2],
            switches: 0,
        };
        let mut preferred = choice.prefers_added();
        while course.delivered_bytes.iter().sum::<u64>() < self.size_bytes {
            let now = sim_start() + course.took;
            // A lane is added after 60 ms.
            let is_usable = course.took > Duration::from_millis(60);
            allowed_bytes = match self.limit {
                Some((from, bytes)) if course.took >= from => allowed_bytes.min(bytes) + bytes,
                Some(_) | None => u64::MAX / 1_000_000,
            };
            let mut waits = [false; 2];
            for stream in &mut streams {
                let lane = match self.alone {
                    None => usize::from(choice.prefers_added() && is_usable),
                    Some(way) => usize::from(way == DataWay::Added),
                };
                if stream.is_none() && unsent_bytes > 0 {
                    let left_bytes = STREAM_BYTES.min(unsent_bytes);
                    unsent_bytes -= left_bytes;
                    *stream = Some(Stream { lane, left_bytes });
                }
                let Some(it) = stream else { continue };
                let room = BUFFER_BYTES[it.lane].saturating_sub(buffered[it.lane]);
                let taken = room.min(it.left_bytes).min(allowed_bytes);
                (buffered[it.lane], it.left_bytes) =
                    (buffered[it.lane] + taken, it.left_bytes - taken);
                allowed_bytes -= taken;
                choice.took([DataWay::Carrying, DataWay::Added][it.lane], taken);
                waits[it.lane] |= it.left_bytes > 0 && allowed_bytes > 0;
                if it.left_bytes == 0 {
                    *stream = None;
                }
            }
            choice.look(now, is_usable, |way| {
                waits[usize::from(way == DataWay::Added)]
            });
            if choice.prefers_added() != preferred {
                preferred = !preferred;
                course.switches += 1;
            }
            // They share a wire that carries as much as the better of them brings.
            let rates = (self.rates)(course.took);
            let most = rates[0].max(rates[1]);
            let mut left = most;
            let slower = usize::from(rates[1] < rates[0]);
            for lane in [slower, 1 - slower] {
                let share = match buffered[1 - lane] > 0 && lane == slower {
                    true => most / 2,
                    false => left,
                };
                let bytes = rates[lane].min(share).min(buffered[lane]);
                left -= bytes;
                buffered[lane] -= bytes;
                course.delivered_bytes[lane] += bytes;
            }
            course.took += STEP;
            assert!(course.took < Duration::from_secs(600), "no end: {choice:?}");
        }
        course
    }
}

/// How long it takes against the better lane of each moment alone, and how.
fn against_the_better(rates: Rates, size_bytes: u64, slots: usize) -> (f64, Course) {
    let run = |rates, alone| Run {
        rates,
        size_bytes,
        slots,
        limit: None,
        alone,
        is_alike: false,
    };
    let better = |at: Duration| [rates(at)[0].max(rates(at)[1]); 2];
    let ideal = run(&better, Some(DataWay::Added)).course();
    let course = run(rates, None).course();
    (ideal.took.as_secs_f64() / course.took.as_secs_f64(), course)
}

#[test]
fn it_brings_what_the_better_lane_brings() {
    let cases: [(&str, [u64; 2]); 5] = [
        (
            "one packet in a hundred is lost, and TCP has CUBIC",
            [112, 42],
        ),
        ("a little is lost", [112, 95]),
        ("a clean wire", [114, 117]),
        ("UDP is throttled", [20, 117]),
        ("a fast wire", [600, 1300]),
    ];
    for (name, [carrying, added]) in cases {
        for slots in [1, 2, 4] {
            let rates = move |_| [carrying * 1000, added * 1000];
            let size_bytes = carrying.max(added) * MB * 20;
            let (ratio, course) = against_the_better(&rates, size_bytes, slots);
            assert!(ratio > 0.97, "{name}, {slots}: {ratio:.3}, {course:?}");
            let [by_carrying, by_added] = course.delivered_bytes;
            let prefers = [by_carrying > by_added, by_added > by_carrying];
            let is_as_good = added * 100 >= carrying * 97;
            assert!(prefers[usize::from(is_as_good)], "{name}: {course:?}");
        }
    }
}

/// All streams there may be are on a lane that brings next to nothing: the other has little to show
/// what it could bring.
#[test]
fn many_streams_on_a_slow_lane() {
    let rates = |_| [95_000, 8_000];
    let (ratio, course) = against_the_better(&rates, 2000 * MB, 16);
    let [by_carrying, by_added] = course.delivered_bytes;
    assert!(by_carrying > by_added * 8, "{ratio:.3}, {course:?}");
}

#[test]
fn what_changes_midway_is_noticed() {
    let cases: [(&str, [u64; 2], [u64; 2]); 4] = [
        ("loss sets in", [112, 117], [112, 42]),
        ("UDP is throttled", [112, 42], [10, 42]),
        ("TCP is throttled", [112, 117], [112, 20]),
        ("the wire is shared with others", [112, 117], [56, 58]),
    ];
    for (name, before, after) in cases {
        for slots in [2, 4] {
            let rates = move |at: Duration| {
                let now = if at < Duration::from_secs(10) {
                    before
                } else {
                    after
                };
                now.map(|rate| rate * 1000)
            };
            let size_bytes = 10 * MB * (before[0].max(before[1]) + after[0].max(after[1]));
            let (ratio, course) = against_the_better(&rates, size_bytes, slots);
            assert!(ratio > 0.9, "{name}, {slots}: {ratio:.3}, {course:?}");
        }
    }
}

/// Rates of both lanes that stand and fall together, at random.
fn busy_host(seed: u64, rates: [u64; 2]) -> impl Fn(Duration) -> [u64; 2] {
    let mut rng = Rng::new(seed);
    let mut percents = Vec::new();
    while percents.len() < 120_000 {
        let percent = 20 + rng.below(81) as u64;
        percents.extend(std::iter::repeat_n(percent, 10 + rng.below(400)));
    }
    move |at| rates.map(|rate| rate * 10 * percents[at.as_millis() as usize % percents.len()])
}

/// On one path what differs is how busy the hosts are: all of it goes over the added lanes, but for
/// what went before they were there. One that is throttled is left.
#[test]
fn lanes_of_one_kind_are_left_only_for_a_fall() {
    let course = |rates: Rates, size_bytes| {
        let run = Run {
            rates,
            size_bytes,
            slots: 4,
            limit: None,
            alone: None,
            is_alike: true,
        };
        run.course()
    };
    for seed in 0..20 {
        let busy = busy_host(seed, [1, 1]);
        // Between 60 % and all of what it is on a quiet host.
        let rates = |at: Duration| busy(at).map(|percent| (500 + percent / 2) * 600);
        let course = course(&rates, 3000 * MB);
        let [by_carrying, by_added] = course.delivered_bytes;
        assert!(by_carrying * 5 < by_added, "{seed}: {course:?}");
    }
    let course = course(&|_| [600_000, 100_000], 6000 * MB);
    let [by_carrying, by_added] = course.delivered_bytes;
    assert!(by_carrying > by_added * 4, "{course:?}");
}

#[test]
fn a_busy_host_does_not_make_it_oscillate() {
    let (mut sum, mut soon_wrong) = (0.0, 0);
    for seed in 0..60 {
        let rates = busy_host(seed, [60, 120]);
        let (ratio, course) = against_the_better(&rates, 2000 * MB, 2);
        sum += ratio;
        // 30 s. A try that fails is two.
        assert!(course.switches < 20, "{seed}: {ratio:.3}, {course:?}");
        let (_, course) = against_the_better(&rates, 67 * MB, 2);
        let [by_carrying, by_added] = course.delivered_bytes;
        soon_wrong += usize::from(by_carrying > by_added);
    }
    assert!(sum / 60.0 > 0.9, "{sum}");
    assert!(soon_wrong < 4, "{soon_wrong}");
}

#[test]
fn a_bandwidth_limit_says_nothing_of_lanes() {
    let rates = |_| [112_000, 117_000];
    let run = Run {
        rates: &rates,
        size_bytes: 200 * MB,
        slots: 2,
        limit: Some((Duration::ZERO, 10_000)),
        alone: None,
        is_alike: false,
    };
    let course = run.course();
    assert_eq!(course.switches, 0, "{course:?}");
    assert!(course.delivered_bytes[1] > course.delivered_bytes[0] * 20);
}

/// A source slows down: whichever way is tried just then, what brings all that there is and costs
/// least is used soon.
#[test]
fn a_source_that_slows_down_leaves_the_cheaper_lanes_in_use() {
    for step in 0..120 {
        let from = Duration::from_millis(50 * step);
        let rates = |_| [112_000, 117_000];
        let mut run = Run {
            rates: &rates,
            size_bytes: 900 * MB,
            slots: 2,
            limit: Some((from, 80_000)),
            alone: None,
            is_alike: false,
        };
        let course = run.course();
        assert!(
            course.delivered_bytes[0] < 200 * MB,
            "from {from:?} on: {course:?}"
        );
        // Where the cheaper lanes bring less than that, they are not in its way.
        let rates = |_| [112_000, 42_000];
        run.rates = &rates;
        let course = run.course();
        assert!(
            course.took < Duration::from_secs(13),
            "from {from:?} on: {course:?}"
        );
    }
}

/// Lanes that were left because a wire was out are used again when it is back, though a limit by
/// then leaves nothing waiting.
#[test]
fn cheaper_lanes_that_are_back_are_used_again_under_a_limit() {
    for step in 0..40 {
        let back = Duration::from_millis(5_000 + 50 * step);
        let is_out = |at: Duration| at >= Duration::from_secs(3) && at < back;
        let rates = |at| [112_000, if is_out(at) { 5_000 } else { 117_000 }];
        let run = Run {
            rates: &rates,
            size_bytes: 1_600 * MB,
            slots: 2,
            limit: Some((Duration::from_secs(5), 80_000)),
            alone: None,
            is_alike: false,
        };
        let course = run.course();
        assert!(
            course.delivered_bytes[0] < 750 * MB,
            "back after {back:?}: {course:?}"
        );
    }
}
