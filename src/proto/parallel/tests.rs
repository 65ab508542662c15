//! Unit tests of pacing, the parallelism controller and stream slots.

use std::time::{Duration, Instant};

use super::*;
use crate::ids::{MoverId, StreamKey};

fn epoch() -> Instant {
    #[allow(
        clippy::disallowed_methods,
        reason = "a test needs some instant to count from"
    )]
    Instant::now()
}

#[test]
fn bucket_keeps_the_mean_rate() {
    let mut now = epoch();
    let began = now;
    let mut bucket = TokenBucket::new(now, 1_000_000);
    let mut passed = 0u64;
    while now < began + Duration::from_secs(10) {
        while bucket.ready(now) {
            bucket.take(64 * 1024);
            passed += 64 * 1024;
        }
        let next = bucket.ready_at();
        assert!(next > now, "a bucket in debt is due later");
        now = next;
    }
    assert!(
        (10_000_000..10_400_000).contains(&passed),
        "{passed} bytes in 10 s at 1 MB/s"
    );
}

#[test]
fn bucket_at_a_crawl_loses_nothing_to_rounding() {
    let mut now = epoch();
    let mut bucket = TokenBucket::new(now, 3);
    bucket.take(64 * 1024 + 2);
    for _ in 0..999 {
        now += Duration::from_millis(1);
        assert!(!bucket.ready(now), "1 s earns the third token");
    }
    now += Duration::from_millis(2);
    assert!(bucket.ready(now));
    assert!(bucket.ready_at() <= now);
}

#[test]
fn bucket_does_not_save_up_beyond_the_burst() {
    let now = epoch();
    let mut bucket = TokenBucket::new(now, 10_000_000);
    let later = now + Duration::from_secs(3600);
    assert!(bucket.ready(later));
    bucket.take(1_000_000);
    assert!(!bucket.ready(later));
}

#[test]
fn bucket_takes_extremes() {
    let now = epoch();
    let mut bucket = TokenBucket::new(now, 0);
    bucket.take(u64::MAX);
    bucket.take(u64::MAX);
    assert!(!bucket.ready(now + Duration::from_secs(1)));
    assert!(bucket.ready_at() > now);
    assert!(TokenBucket::new(now, u64::MAX).ready(now));
}

/// Feeds `windows` windows of the goodput that `of` gives for the current target.
fn drive(
    parallelism: &mut Parallelism,
    now: &mut Instant,
    windows: u32,
    of: impl Fn(usize) -> u64,
) {
    for _ in 0..windows * 100 {
        *now += Duration::from_millis(10);
        parallelism.on_sent(*now, of(parallelism.target()) / 100);
    }
}

#[test]
fn parallelism_climbs_while_it_pays() {
    let mut now = epoch();
    let mut parallelism = Parallelism::new(now, &ParallelTransferConfig::default());
    assert_eq!(parallelism.target(), 1);
    drive(&mut parallelism, &mut now, 8, |streams| {
        streams as u64 * 10_000_000
    });
    assert_eq!(parallelism.target(), 16);
}

#[test]
fn parallelism_steps_back_when_it_does_not() {
    let mut now = epoch();
    let mut parallelism = Parallelism::new(now, &ParallelTransferConfig::default());
    drive(&mut parallelism, &mut now, 6, |streams| {
        (streams as u64).min(4) * 10_000_000
    });
    assert_eq!(parallelism.target(), 4);
    drive(&mut parallelism, &mut now, 3, |_| 40_000_000);
    assert_eq!(parallelism.target(), 4, "held for a while");
}

#[test]
fn parallelism_ignores_pauses() {
    let mut now = epoch();
    let mut parallelism = Parallelism::new(now, &ParallelTransferConfig::default());
    drive(&mut parallelism, &mut now, 3, |streams| {
        streams as u64 * 10_000_000
    });
    let before = parallelism.target();
    now += Duration::from_secs(20);
    parallelism.on_sent(now, 1);
    assert_eq!(parallelism.target(), before);
}

#[test]
fn parallelism_may_be_fixed() {
    let now = epoch();
    let config = ParallelTransferConfig {
        adaptive_parallelism: false,
        ..Default::default()
    };
    assert_eq!(Parallelism::new(now, &config).target(), 16);
    let config = ParallelTransferConfig {
        max_concurrent_streams: 0,
        ..Default::default()
    };
    assert_eq!(Parallelism::new(now, &config).target(), 1);
}

#[test]
fn slots_end_streams_by_chunks_and_by_bytes() {
    let config = ParallelTransferConfig {
        chunks_per_stream: 3,
        ..Default::default()
    };
    let mut slots = StreamSlots::new(MoverId::CONTROL, &config);
    let slot = slots.assign(7, 1);
    assert_eq!(
        (slot, slots.front(slot), slots.key(slot)),
        (0, Some(7), StreamKey(0))
    );
    assert!(!slots.record_ends(slot, 10));
    assert!(!slots.record_ends(slot, 10));
    assert!(slots.record_ends(slot, 10), "third chunk");
    assert_eq!(slots.key(slot), StreamKey(1));
    assert!(slots.record_ends(slot, 4 << 20), "bytes");
    assert_eq!(slots.key(slot), StreamKey(2));
    assert_eq!(slots.retire_idle(0), vec![], "busy");
    slots.pop(slot);
    assert_eq!(slots.retire_idle(0), vec![StreamKey(2)]);
    assert_eq!(slots.retire_idle(0), vec![]);
}

#[test]
fn slots_spread_jobs_over_the_target() {
    let mut slots = StreamSlots::new(MoverId::CONTROL, &ParallelTransferConfig::default());
    let used: Vec<usize> = (0..6).map(|job| slots.assign(job, 3)).collect();
    assert_eq!(used, [0, 1, 2, 0, 1, 2]);
    assert_eq!(
        slots.assign(9, 99),
        3,
        "more than there are slots means all"
    );
}
