//! What is remembered: bound to all that tells one file from another, bounded, and never believed
//! where the store is damaged.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use landro_sys::{FileDone, FileOp, Flock, run};

use super::record::MAGIC;
use super::*;

/// Seconds at which all files of these tests were last changed.
const CHANGED: i64 = 1_000_000;

fn late() -> i64 {
    CHANGED + 3600
}

fn say(said: &str) {
    println!("{said}");
}

fn stamp(inode: u64) -> FileStamp {
    let time = Mtime {
        seconds: CHANGED,
        nanoseconds: 5,
    };
    FileStamp {
        device: 7,
        inode,
        size_bytes: 3 << 20,
        mtime: time,
        ctime: time,
    }
}

/// Of a file of three chunks.
fn values(inode: u64) -> Arc<[Digest]> {
    [[inode as u8; 32], [2; 32], [3; 32]].into()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap()
}

fn store_of(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("digests")
}

fn start(directory: &tempfile::TempDir) -> Digests {
    Digests::start(directory.path(), late, say).unwrap()
}

fn recalled(digests: &Digests, stamp: FileStamp) -> Option<Arc<[Digest]>> {
    digests.recall(stamp)?.values
}

/// A store of so many files.
fn filled(files: u64) -> tempfile::TempDir {
    let directory = directory();
    let digests = start(&directory);
    (1..=files).for_each(|inode| digests.remember(stamp(inode), values(inode)));
    digests.finish();
    drop(digests);
    directory
}

#[test]
fn any_field_that_differs_is_a_miss() {
    let directory = filled(1);
    let digests = once_free(&directory);
    let known = stamp(1);
    let mut others = vec![known; 9];
    others[0].device += 1;
    others[1].inode += 1;
    others[2].size_bytes += 1;
    others[3].mtime.seconds -= 1;
    others[4].mtime.nanoseconds += 1;
    others[5].ctime.seconds -= 1;
    others[6].ctime.nanoseconds += 1;
    others[7].ctime.nanoseconds -= 1;
    others[8].mtime.nanoseconds = 0;
    for other in others {
        assert_eq!(recalled(&digests, other), None, "{other:?}");
        assert!(digests.recall(other).is_some(), "it may be remembered");
    }
    assert_eq!(recalled(&digests, known), Some(values(1)));
}

#[test]
fn young_files_are_neither_believed_nor_remembered() {
    static NOW: AtomicI64 = AtomicI64::new(0);
    let directory = filled(1);
    let clock = || NOW.load(Ordering::Relaxed);
    await_free(&directory);
    let digests = Digests::start(directory.path(), clock, say).unwrap();
    for (later, is_old) in [
        (-10, false),
        (0, false),
        (RACY_SECONDS, false),
        (RACY_SECONDS + 1, true),
    ] {
        NOW.store(CHANGED + later, Ordering::Relaxed);
        assert_eq!(
            digests.recall(stamp(1)).is_some(),
            is_old,
            "{later} s later"
        );
        digests.remember(stamp(2), values(2));
        assert_eq!(digests.table().files.len(), 1 + usize::from(is_old));
    }
    // Either time counts: mtime is anybody's to set, and ctime moves with renames.
    let (mut young_mtime, mut young_ctime) = (stamp(1), stamp(1));
    young_mtime.mtime.seconds += 1;
    young_ctime.ctime.seconds += 1;
    assert!(digests.recall(young_mtime).is_none());
    assert!(digests.recall(young_ctime).is_none());
}

#[test]
fn what_was_not_used_for_longest_goes() {
    let directory = directory();
    let one = cost(&KeptRecord {
        stamp: stamp(1),
        values: values(1),
    });
    let digests = Digests::bounded_to(3 * one, directory.path(), late, say).unwrap();
    (1..=3).for_each(|inode| digests.remember(stamp(inode), values(inode)));
    assert!(recalled(&digests, stamp(1)).is_some());
    digests.remember(stamp(4), values(4));
    let has = |digests: &Digests| {
        let mut table = digests.table();
        [1, 2, 3, 4].map(|inode| table.find(&stamp(inode)).is_some())
    };
    assert_eq!(has(&digests), [true, false, true, true]);
    assert_eq!(digests.table().bytes, 3 * one);
    // A newer version of a file takes the place of the older one.
    let mut newer = stamp(3);
    newer.ctime.nanoseconds += 1;
    digests.remember(newer, values(3));
    assert_eq!(has(&digests), [true, false, false, true]);
    assert_eq!(digests.table().files.len(), 3);
    // One that is larger than all may be is not taken.
    let many: Arc<[Digest]> = vec![[0; 32]; 1000].into();
    let mut large = stamp(9);
    large.size_bytes = 1000 << 20;
    digests.remember(large, many);
    assert_eq!(recalled(&digests, large), None);
    assert_eq!(digests.table().files.len(), 3);
}

#[test]
fn a_store_outlives_its_daemon_and_is_written_anew() {
    let directory = directory();
    let digests = Digests::bounded_to(20_000, directory.path(), late, say).unwrap();
    for round in 0..30_000 {
        digests.remember(stamp(round % 40), values(round % 40));
        // The thread may be slower than this one.
        if round % 100 == 0 {
            digests.finish();
        }
    }
    digests.forget(stamp(39));
    digests.finish();
    let written = fs::metadata(store_of(&directory)).unwrap().len();
    assert!(written < 100_000, "{written} bytes");
    assert!(!directory.path().join("digests.new").exists());
    drop(digests);
    let digests = once_free(&directory);
    for inode in 0..39 {
        assert_eq!(
            recalled(&digests, stamp(inode)),
            Some(values(inode)),
            "{inode}"
        );
    }
    assert_eq!(recalled(&digests, stamp(39)), None);
}

/// A daemon on a store that another had before.
fn once_free(directory: &tempfile::TempDir) -> Digests {
    await_free(directory);
    start(directory)
}

/// The thread of a daemon that is no more may take a moment to let go of its store.
fn await_free(directory: &tempfile::TempDir) {
    let opened: Arc<OwnedFd> = Arc::new(File::open(directory.path()).unwrap().into());
    let is_free = || {
        let lock = |how| {
            let file = opened.clone();
            run(FileOp::Lock { file, how }).unwrap()
        };
        let is_free = matches!(lock(Flock::Exclusive), FileDone::Locked(true));
        lock(Flock::Unlock);
        is_free
    };
    for _ in 0..500 {
        if is_free() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the store is not let go of");
}

#[test]
fn two_daemons_do_not_write_to_one_store() {
    let directory = filled(2);
    let first = once_free(&directory);
    let second = start(&directory);
    assert_eq!(recalled(&second, stamp(1)), None);
    second.remember(stamp(3), values(3));
    second.finish();
    assert_eq!(recalled(&second, stamp(3)), Some(values(3)), "in memory");
    drop(second);
    drop(first);
    let third = once_free(&directory);
    assert_eq!(recalled(&third, stamp(2)), Some(values(2)));
    assert_eq!(recalled(&third, stamp(3)), None);
}

/// What is read is a part of what was written, and never anything else.
#[test]
fn no_damage_of_any_byte_is_believed() {
    let directory = filled(3);
    await_free(&directory);
    let whole = fs::read(store_of(&directory)).unwrap();
    let read = |bytes: &[u8]| record::decode_all(&bytes[MAGIC.len()..]).0;
    let all = read(&whole);
    assert_eq!(all.len(), 3);
    for at in MAGIC.len()..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            let got = read(&damaged);
            assert!(got.len() < 3, "byte {at}");
            assert_eq!(got, all[..got.len()], "byte {at}");
        }
        let got = read(&whole[..at]);
        assert_eq!(got, all[..got.len()], "cut off at {at}");
        let mut zeros = whole.clone();
        zeros[at..].fill(0);
        let got = read(&zeros);
        assert_eq!(got, all[..got.len()], "zeros from {at} on");
    }
}

#[test]
fn a_damaged_store_is_mended_and_a_foreign_one_left_alone() {
    let directory = filled(3);
    await_free(&directory);
    let path = store_of(&directory);
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    let middle = whole.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let digests = once_free(&directory);
    assert_eq!(recalled(&digests, stamp(1)), Some(values(1)));
    assert_eq!(recalled(&digests, stamp(2)), None);
    digests.remember(stamp(4), values(4));
    digests.finish();
    drop(digests);
    let digests = once_free(&directory);
    assert_eq!(
        recalled(&digests, stamp(4)),
        Some(values(4)),
        "behind what was damaged"
    );
    drop(digests);
    for foreign in [&b"#!/bin/sh\nsomebody's\n"[..], &whole[1..], b"l@"] {
        let directory = self::directory();
        fs::write(store_of(&directory), foreign).unwrap();
        let digests = start(&directory);
        digests.remember(stamp(1), values(1));
        digests.finish();
        assert_eq!(recalled(&digests, stamp(1)), Some(values(1)), "in memory");
        assert_eq!(fs::read(store_of(&directory)).unwrap(), foreign);
    }
}

#[test]
fn what_cannot_be_a_store_is_none_and_the_daemon_goes_on() {
    let directory = directory();
    let (a_file, open, led_away) = (
        directory.path().join("a file"),
        directory.path().join("open to all"),
        directory.path().join("led away"),
    );
    fs::write(&a_file, b"x").unwrap();
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(&led_away).unwrap();
    // Symlinks are not followed, wherever they lead.
    std::os::unix::fs::symlink("/dev/full", led_away.join("digests")).unwrap();
    for place in [a_file, open, led_away] {
        let digests = Digests::start(&place, late, say).unwrap();
        digests.remember(stamp(1), values(1));
        digests.finish();
        assert_eq!(recalled(&digests, stamp(1)), Some(values(1)), "{place:?}");
        assert!(!place.join("digests").is_file());
    }
}
