//! How much memory a large object takes on its way, in a process that does nothing else: both ends
//! are in it, and what both hold counts.

#[path = "objects/common.rs"]
mod common;

use std::fs;
use std::io::Write;

use bytes::Bytes;
use futures_lite::future::block_on;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use common::{Served, data};

const MIB: usize = 1 << 20;
const OBJECT_BYTES: usize = 200 * MIB;
const PART_BYTES: usize = 5 * MIB;

/// What may come on top of what was there: four pieces of 4 MiB of a stream, and what the workers
/// of eight sessions hold at both ends, which the allocator keeps. Half of the object.
const MOST_BYTES: usize = 100 * MIB;

/// Bytes of this process's memory at their most since the last call of [`forget_most`].
fn most_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() * 1024
}

/// See proc(5), clear_refs.
fn forget_most() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// What something takes at its most, on top of what was there before.
fn takes<T>(what: &str, does: impl FnOnce() -> T) -> T {
    forget_most();
    let before = most_bytes();
    let result = does();
    let taken = most_bytes().saturating_sub(before);
    println!("{what}: {} MiB", taken / MIB);
    assert!(taken < MOST_BYTES, "{what} took {} MiB", taken / MIB);
    result
}

/// Compares without holding the whole.
struct Expected {
    at: usize,
}

impl Expected {
    fn take(&mut self, bytes: &Bytes) {
        for (number, byte) in bytes.iter().enumerate() {
            assert_eq!(*byte, byte_at(self.at + number), "at {}", self.at + number);
        }
        self.at += bytes.len();
    }
}

/// Parts differ from each other.
fn byte_at(at: usize) -> u8 {
    (at % 251) as u8 ^ (at / PART_BYTES) as u8
}

fn part(number: usize) -> Vec<u8> {
    let from = number * PART_BYTES;
    (from..from + PART_BYTES).map(byte_at).collect()
}

#[test]
fn an_object_of_200_mb_goes_through_little_memory() {
    let served = Served::new();
    let (uploaded, written) = (Path::from("uploaded"), Path::from("written"));
    // Threads, rings and buffers that stay are there before anything is counted.
    block_on(served.store.put(&Path::from("warm"), data(MIB, 1).into())).unwrap();
    served.get(&Path::from("warm")).unwrap();

    takes("an upload in parts", || {
        let mut upload = block_on(served.store.put_multipart(&uploaded)).unwrap();
        for number in 0..OBJECT_BYTES / PART_BYTES {
            block_on(upload.put_part(PutPayload::from(part(number)))).unwrap();
        }
        block_on(upload.complete()).unwrap();
    });
    let mut file = fs::File::create(served.file(&written)).unwrap();
    for number in 0..OBJECT_BYTES / PART_BYTES {
        file.write_all(&part(number)).unwrap();
    }
    for location in [&uploaded, &written] {
        takes("a stream", || {
            let mut expected = Expected { at: 0 };
            let mut stream = block_on(served.store.get(location)).unwrap().into_stream();
            while let Some(piece) = block_on(stream.next()) {
                expected.take(&piece.unwrap());
            }
            assert_eq!(expected.at, OBJECT_BYTES);
        });
    }
    takes("ranges", || {
        let mut expected = Expected { at: 0 };
        for from in (0..OBJECT_BYTES as u64).step_by(PART_BYTES * 2) {
            let range = from..from + PART_BYTES as u64 * 2;
            expected.take(&block_on(served.store.get_range(&written, range)).unwrap());
        }
        assert_eq!(expected.at, OBJECT_BYTES);
    });
    takes("a stream that nobody reads on", || {
        let mut stream = block_on(served.store.get(&written)).unwrap().into_stream();
        block_on(stream.next()).unwrap().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(block_on(stream.next()).unwrap().is_ok());
    });
}
