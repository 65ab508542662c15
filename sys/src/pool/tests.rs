//! The pool's promises: splitting, counting, giving memory back.

use super::*;

#[test]
fn splits_share_one_buffer_until_the_last_is_dropped() {
    let pool = Pool::new(2).unwrap();
    let mut buffer = pool.take().unwrap();
    assert_eq!(buffer.spare_len(), Pool::BUFFER_BYTES);
    buffer.spare_mut()[..3].copy_from_slice(b"abc");
    buffer.advance(3);
    assert_eq!(buffer.filled(), b"abc");
    let first = buffer.split();
    assert!(buffer.split().is_empty());
    buffer.spare_mut().fill(b'z');
    let rest = buffer.spare_len();
    buffer.advance(rest);
    let second = buffer.split();
    assert_eq!(
        (&first[..], second.len(), buffer.spare_len()),
        (&b"abc"[..], Pool::BUFFER_BYTES - 3, 0)
    );
    drop(buffer);
    assert_eq!(pool.in_use(), 1);
    let piece = second.slice(10..20);
    std::thread::spawn(move || drop((first, second)))
        .join()
        .unwrap();
    assert_eq!(pool.in_use(), 1);
    assert_eq!(&piece[..], &[b'z'; 10]);
    drop(piece);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn takes_the_most_recently_freed_and_says_none_when_empty() {
    let pool = Pool::new(3).unwrap();
    let (a, b, c) = (
        pool.take().unwrap(),
        pool.take().unwrap(),
        pool.take().unwrap(),
    );
    assert!(pool.take().is_none());
    let (ib, ic) = (b.index(), c.index());
    drop(c);
    drop(b);
    assert_eq!(pool.take().unwrap().index(), ib);
    let again = pool.take().unwrap();
    assert_eq!(again.index(), ib);
    assert_eq!(pool.take().unwrap().index(), ic);
    drop(a);
}

#[test]
#[should_panic(expected = "past the end")]
fn advancing_past_the_end_panics() {
    let mut buffer = Pool::new(1).unwrap().take().unwrap();
    buffer.advance(Pool::BUFFER_BYTES + 1);
}

#[test]
fn trim_zeroes_free_buffers_and_leaves_those_in_use() {
    let pool = Pool::new(4).unwrap();
    let mut kept = pool.take().unwrap();
    kept.spare_mut().fill(7);
    let (mut a, mut b) = (pool.take().unwrap(), pool.take().unwrap());
    a.spare_mut().fill(1);
    b.spare_mut().fill(2);
    let index = a.index();
    let before = pool.epoch(index);
    drop((a, b));
    pool.trim();
    assert_eq!(pool.epoch(index), before + 1);
    assert_eq!(pool.in_use(), 1);
    let mut all: Vec<Buffer> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(all.len(), 3);
    assert!(
        all.iter_mut()
            .all(|buffer| buffer.spare_mut().iter().all(|&byte| byte == 0))
    );
    assert!(kept.spare_mut().iter().all(|&byte| byte == 7));
}

#[test]
fn unused_buffers_are_not_resident() {
    let before = crate::cpu::rss_bytes().unwrap();
    let pool = Pool::new(16_384).unwrap();
    let mut buffer = pool.take().unwrap();
    buffer.spare_mut()[0] = 1;
    // 1 GiB of address space; the slack is for the free list and for tests running in other
    // threads.
    assert!(crate::cpu::rss_bytes().unwrap() < before + (256 << 20));
}

#[test]
fn finds_its_own_memory_only() {
    let pool = Pool::new(2).unwrap();
    let other = Pool::new(1).unwrap();
    let mut buffer = pool.take().unwrap();
    buffer.advance(100);
    let bytes = buffer.split();
    assert_eq!(pool.index_of(&bytes[50..]), Some(buffer.index()));
    assert_eq!(other.index_of(&bytes), None);
    assert_eq!(pool.index_of(b"static"), None);
    assert!(buffer.is_of(&pool) && !buffer.is_of(&other));
}

#[test]
fn threads_share_one_pool() {
    let pool = Pool::new(8).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let pool = pool.clone();
            scope.spawn(move || {
                for round in 0..2_000u32 {
                    let Some(mut buffer) = pool.take() else {
                        continue;
                    };
                    buffer.spare_mut()[..64].fill(thread);
                    buffer.advance(64);
                    let bytes = buffer.split();
                    if round % 97 == 0 {
                        pool.trim();
                    }
                    assert!(bytes.iter().all(|&byte| byte == thread));
                }
            });
        }
    });
    assert_eq!(pool.in_use(), 0);
}
