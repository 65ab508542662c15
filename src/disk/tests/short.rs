//! Operations that lack a descriptor: few try at a time, in order, and not for ever.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::super::descriptors::{Allowance, RETRY, STANDSTILL_ROUNDS};
use super::super::*;
use super::{Bench, TARGET};
use crate::ids::{FileId, Name};
use crate::proto::errno::{EMFILE, ENOENT};
use crate::proto::sim::start;

const OPERATIONS: u32 = 6;
/// Two of a worker's operations may try again at a time.
const LIMIT: u64 = 64;

/// A worker whose operations wait, and its clock.
struct Shortage {
    bench: Bench,
    now: Instant,
}

impl Shortage {
    fn new(target: &Path) -> Shortage {
        let mut bench = Bench::with_driver(target);
        Rc::get_mut(&mut bench.disk.shared).unwrap().allowance = Allowance::of(LIMIT);
        let mut shortage = Shortage {
            bench,
            now: start(),
        };
        for number in 0..OPERATIONS {
            let open = DiskOp::OpenRead {
                dir: TARGET,
                name: Name::new(Bytes::from(format!("{number}"))).unwrap(),
                file: FileId(number),
            };
            assert!(shortage.bench.start(open).is_none());
        }
        assert_eq!(shortage.refuse().len(), OPERATIONS as usize);
        shortage
    }

    /// Every call that is asked for finds the table full. What they were to open.
    fn refuse(&mut self) -> Vec<String> {
        let mut asked = Vec::new();
        while let Some((token, op)) = self.bench.disk.next_operation() {
            asked.push(name_of(&op));
            let refused = io::Error::from_raw_os_error(EMFILE);
            self.bench.disk.complete(token, Err(refused));
        }
        asked
    }

    /// How operations ended.
    fn ended(&mut self) -> Vec<i32> {
        let mut ended = Vec::new();
        self.bench.disk.take_finished(&mut ended);
        let errno = |finished: Finished| finished.result.unwrap_err().errno;
        ended.into_iter().map(errno).collect()
    }

    /// It is time to try again.
    fn round(&mut self) {
        self.bench.disk.feed_short(self.now);
        self.now += RETRY;
        self.bench.disk.feed_short(self.now);
    }
}

fn name_of(op: &FileOp) -> String {
    match op {
        FileOp::Open { path, .. } => path.to_str().unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn few_try_at_a_time_and_each_in_its_turn() {
    let root = tempfile::tempdir().unwrap();
    let mut shortage = Shortage::new(root.path());
    let mut tried = Vec::new();
    for _ in 0..OPERATIONS {
        shortage.round();
        let asked = shortage.refuse();
        assert_eq!(asked.len(), 2, "{asked:?}");
        tried.extend(asked);
    }
    // All of them once before any of them twice.
    for once in tried.chunks(OPERATIONS as usize) {
        assert_eq!(HashSet::<&String>::from_iter(once).len(), once.len());
    }
}

/// What they wait for, others have for as long as it takes them; nobody may have it for ever.
#[test]
fn operations_wait_as_long_as_others_get_on_and_a_minute() {
    let root = tempfile::tempdir().unwrap();
    let mut shortage = Shortage::new(root.path());
    let rounds = |shortage: &mut Shortage, count: u32| {
        for _ in 0..count {
            shortage.round();
            shortage.refuse();
        }
    };
    rounds(&mut shortage, STANDSTILL_ROUNDS - 10);
    shortage.round();
    let (token, _) = shortage.bench.disk.next_operation().unwrap();
    shortage
        .bench
        .disk
        .complete(token, Err(io::Error::from_raw_os_error(ENOENT)));
    assert_eq!(shortage.ended(), [ENOENT]);
    shortage.refuse();
    rounds(&mut shortage, STANDSTILL_ROUNDS);
    assert!(shortage.ended().is_empty());
    rounds(&mut shortage, OPERATIONS);
    assert_eq!(shortage.ended(), [EMFILE; OPERATIONS as usize - 1]);
}
