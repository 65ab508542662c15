//! Chunk scheduling: slots, measured parallelism, the rate limit.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use landro::engine::now;
use landro::ids::MoverId;
use landro::proto::parallel::{ParallelTransferConfig, Parallelism, StreamSlots, TokenBucket};

use super::{MIB, PIECE_BYTES};

/// A file of 1 GiB.
const CHUNKS: usize = 1_024;

/// Chunks of which pieces are read at once.
const JOBS_AT_ONCE: usize = 32;

/// Assigns every chunk, emits its record when its turn comes, ends streams that carried enough.
fn schedule(slots: &mut StreamSlots, streams: usize) -> usize {
    let mut ended = 0;
    for first in (0..CHUNKS).step_by(JOBS_AT_ONCE) {
        let slot_of: Vec<usize> = (first..first + JOBS_AT_ONCE)
            .map(|job| slots.assign(job, streams))
            .collect();
        for (job, slot) in (first..).zip(slot_of) {
            assert_eq!(slots.front(slot), Some(job));
            black_box(slots.key(slot));
            slots.pop(slot);
            ended += usize::from(slots.record_ends(slot, MIB as u64));
        }
    }
    ended
}

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunks");
    let config = ParallelTransferConfig::default();
    group.throughput(Throughput::Elements(CHUNKS as u64));
    for streams in [1, config.max_concurrent_streams] {
        group.bench_function(
            BenchmarkId::new("schedule", format!("{streams}-streams")),
            |bencher| {
                bencher
                    .iter(|| schedule(&mut StreamSlots::new(MoverId::CONTROL, &config), streams));
            },
        );
    }

    group.throughput(Throughput::Elements(1));
    let mut at = now();
    // 64 KiB every 50 µs are 10 Gbit/s: a decision in 20,000 calls, as in a transfer.
    let step = Duration::from_micros(50);
    let mut parallelism = Parallelism::new(at, &config);
    group.bench_function("measure a piece", |bencher| {
        bencher.iter(|| {
            at += step;
            parallelism.on_sent(at, PIECE_BYTES as u64);
            parallelism.target()
        });
    });
    let mut bucket = TokenBucket::new(at, 10_000_000_000 / 8);
    group.bench_function("limit a piece", |bencher| {
        bencher.iter(|| {
            at += step;
            if bucket.ready(at) {
                bucket.take(PIECE_BYTES as u64);
            }
            bucket.ready_at()
        });
    });
    group.finish();
}
