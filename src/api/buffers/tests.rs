//! What a pool promises: bounds, numbers, and when it lets go of memory.

use std::fs;

use super::*;

const KIB: usize = 1 << 10;

/// A pool for which nothing tells of pressure.
fn calm_pool(most_bytes: usize) -> (BufferPool, tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    (BufferPool::below(most_bytes, root.path()), root)
}

fn write_pressure(root: &Path, percent: &str) {
    fs::create_dir_all(root.join("proc/pressure")).unwrap();
    let text = format!("some avg10={percent} avg60=0.00 avg300=0.00 total=1\n");
    fs::write(root.join("proc/pressure/memory"), text).unwrap();
}

#[test]
fn a_buffer_is_as_long_as_asked_for_and_counts_as_its_class() {
    let (pool, _root) = calm_pool(64 << 20);
    for (bytes, class) in [
        (0, 4 * KIB),
        (1, 4 * KIB),
        (4 * KIB, 4 * KIB),
        (4 * KIB + 1, 8 * KIB),
        (1 << 20, 1 << 20),
        (BufferPool::LARGEST_BYTES, 16 << 20),
    ] {
        let mut buffer = pool.take(bytes).unwrap();
        assert_eq!(buffer.len(), bytes);
        assert_eq!(pool.statistics().in_use_bytes, class);
        buffer.fill(7);
        assert!(buffer.iter().all(|&byte| byte == 7));
    }
    for bytes in [BufferPool::LARGEST_BYTES + 1, usize::MAX] {
        let error = pool.take(bytes).unwrap_err();
        assert_eq!(error, BufferPoolError::TooLarge { bytes });
    }
    assert_eq!(CLASSES, 13);
}

#[test]
fn a_buffer_is_used_again_whoever_drops_it() {
    let (pool, _root) = calm_pool(1 << 20);
    let buffer = pool.take(10_000).unwrap();
    let address = buffer.as_ptr();
    std::thread::spawn(move || drop(buffer)).join().unwrap();
    let again = pool.take(9_000).unwrap();
    assert_eq!(again.as_ptr(), address);
    let frozen = again.freeze();
    assert_eq!((frozen.as_ptr(), frozen.len()), (address, 9_000));
    let part = frozen.slice(100..101);
    drop(frozen);
    assert_eq!(pool.statistics().returned, 1);
    std::thread::spawn(move || drop(part)).join().unwrap();
    assert_eq!(
        pool.statistics(),
        BufferPoolStatistics {
            taken: 2,
            returned: 2,
            reused: 1,
            allocated: 1,
            idle_bytes: 16 * KIB,
            in_use_bytes: 0,
            high_water_bytes: 16 * KIB,
            trimmed_bytes: 0,
            pressure: MemoryPressure::Unknown,
        }
    );
}

#[test]
fn a_pool_holds_no_more_than_its_bound_idle_or_not() {
    let (pool, _root) = calm_pool(64 * KIB);
    let buffers: Vec<_> = (0..4).map(|_| pool.take(16 * KIB).unwrap()).collect();
    let error = pool.take(1).unwrap_err();
    let in_use_bytes = 64 * KIB;
    assert_eq!(
        error,
        BufferPoolError::AtBound {
            class_bytes: 4 * KIB,
            in_use_bytes,
            most_bytes: 64 * KIB
        }
    );
    assert!(error.to_string().contains("65536 of at most 65536 bytes"));
    drop(buffers);
    // What is idle makes room for another size, and only as much as it takes.
    let large = pool.take(32 * KIB).unwrap();
    let statistics = pool.statistics();
    assert_eq!(
        (statistics.idle_bytes, statistics.in_use_bytes),
        (32 * KIB, 32 * KIB)
    );
    assert_eq!(statistics.trimmed_bytes, 32 * KIB as u64);
    drop(large);
    assert!(pool.take(128 * KIB).is_err());
    assert_eq!(
        pool.statistics().idle_bytes,
        64 * KIB,
        "a refusal frees nothing"
    );
    assert!(BufferPool::new(0).take(0).is_err());
}

#[test]
fn what_was_not_used_for_an_interval_is_freed() {
    let (pool, _root) = calm_pool(1 << 20);
    let start = engine::now();
    let at = |intervals: u32| start + BufferPool::TRIM_INTERVAL * intervals;
    let four: Vec<_> = (0..4)
        .map(|_| pool.take_at(4 * KIB, start).unwrap())
        .collect();
    drop(four);
    // The four were in use at some time before this, which is what counts.
    let two: Vec<_> = (0..2)
        .map(|_| pool.take_at(4 * KIB, at(1)).unwrap())
        .collect();
    drop(two);
    assert_eq!(pool.statistics().trimmed_bytes, 0);
    let addresses: Vec<_> = pool.depot.stock().shelves[0]
        .idle
        .iter()
        .map(|m| m.as_ptr())
        .collect();
    // Since then never more than two were out at once.
    drop(pool.take_at(4 * KIB, at(2)).unwrap());
    let statistics = pool.statistics();
    assert_eq!(
        (statistics.trimmed_bytes, statistics.idle_bytes),
        (8 * KIB as u64, 8 * KIB)
    );
    let left: Vec<_> = pool.depot.stock().shelves[0]
        .idle
        .iter()
        .map(|m| m.as_ptr())
        .collect();
    assert_eq!(left, addresses[2..], "those used last are kept");
    // Within an interval nothing is freed.
    drop(
        pool.take_at(64 * KIB, at(3) - Duration::from_nanos(1))
            .unwrap(),
    );
    assert_eq!(pool.statistics().trimmed_bytes, 8 * KIB as u64);
}

#[test]
fn trimming_twice_frees_all_that_is_idle() {
    let (pool, _root) = calm_pool(1 << 20);
    let kept = pool.take(4 * KIB).unwrap();
    drop((pool.take(4 * KIB).unwrap(), pool.take(100 * KIB).unwrap()));
    assert_eq!(pool.trim(), 0);
    assert_eq!(pool.trim(), 132 * KIB);
    assert_eq!(pool.trim(), 0);
    let statistics = pool.statistics();
    assert_eq!(
        (statistics.idle_bytes, statistics.in_use_bytes),
        (0, 4 * KIB)
    );
    drop(kept);
    assert_eq!(pool.statistics().idle_bytes, 4 * KIB);
}

#[test]
fn while_memory_is_short_nothing_idle_is_kept() {
    let (pool, root) = calm_pool(1 << 20);
    let start = engine::now();
    let out = pool.take_at(4 * KIB, start).unwrap();
    drop(pool.take_at(64 * KIB, start).unwrap());
    assert_eq!(pool.statistics().idle_bytes, 64 * KIB);

    write_pressure(root.path(), "35.00");
    let soon = start + BufferPool::LOOK_INTERVAL - Duration::from_nanos(1);
    drop(pool.take_at(64 * KIB, soon).unwrap());
    assert_eq!(
        pool.statistics().pressure,
        MemoryPressure::Unknown,
        "looked too early"
    );

    let due = start + BufferPool::LOOK_INTERVAL;
    let small = pool.take_at(4 * KIB, due).unwrap();
    let statistics = pool.statistics();
    let some_avg10_percent = 35.0;
    assert_eq!(
        statistics.pressure,
        MemoryPressure::SystemStall { some_avg10_percent }
    );
    assert_eq!(
        (statistics.idle_bytes, statistics.trimmed_bytes),
        (0, 64 * KIB as u64)
    );
    drop((small, out));
    let statistics = pool.statistics();
    assert_eq!(
        (statistics.idle_bytes, statistics.trimmed_bytes),
        (0, 72 * KIB as u64)
    );

    write_pressure(root.path(), "0.50");
    assert_eq!(pool.trim_at(due + BufferPool::LOOK_INTERVAL), 0);
    drop(
        pool.take_at(4 * KIB, due + BufferPool::LOOK_INTERVAL)
            .unwrap(),
    );
    assert_eq!(pool.statistics().idle_bytes, 4 * KIB);
    assert!(!pool.statistics().pressure.is_high());
}

#[test]
fn buffers_outlive_their_pool() {
    let (pool, _root) = calm_pool(1 << 20);
    let clone = pool.clone();
    let bytes = pool.take(5).unwrap().freeze();
    drop(pool);
    assert_eq!(clone.statistics().in_use_bytes, 4 * KIB);
    let depot = Arc::downgrade(&clone.depot);
    drop(clone);
    assert!(depot.upgrade().is_none());
    assert_eq!(bytes.len(), 5);
}

#[test]
fn many_threads_keep_the_numbers_right() {
    let (pool, _root) = calm_pool(256 * KIB);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..2_000usize {
                    let wanted = (round * 7919) % (80 * KIB);
                    if let Ok(mut buffer) = pool.take(wanted) {
                        buffer.fill(thread);
                        assert!(buffer.iter().all(|&byte| byte == thread));
                        let bytes = buffer.freeze();
                        if round % 3 == 0 {
                            scope.spawn(move || drop(bytes));
                        }
                    }
                    if round % 500 == 0 {
                        pool.trim();
                    }
                    let held = pool.statistics();
                    assert!(held.idle_bytes + held.in_use_bytes <= 256 * KIB);
                }
            });
        }
    });
    let statistics = pool.statistics();
    assert_eq!(statistics.in_use_bytes, 0);
    assert_eq!(statistics.taken, statistics.returned);
    assert_eq!(statistics.taken, statistics.reused + statistics.allocated);
    assert!(statistics.reused > 0 && statistics.high_water_bytes <= 256 * KIB);
    let idle: usize = pool
        .depot
        .stock()
        .shelves
        .iter()
        .map(|shelf| sum_of_bytes(&shelf.idle))
        .sum();
    assert_eq!(statistics.idle_bytes, idle);
}

/// Other tests allocate meanwhile; they do not take as much each time.
#[test]
fn the_system_gets_its_memory_back() {
    let (pool, _root) = calm_pool(256 << 20);
    let rss = || landro_sys::cpu::rss_bytes().unwrap();
    let fell = (0..5).any(|_| {
        let buffers: Vec<_> = (0..256)
            .map(|_| {
                let mut buffer = pool.take(512 * KIB).unwrap();
                buffer.fill(1);
                buffer
            })
            .collect();
        drop(buffers);
        pool.trim();
        let before = rss();
        assert_eq!(pool.trim(), 128 << 20);
        before.saturating_sub(rss()) > 96 << 20
    });
    assert!(fell);
}
