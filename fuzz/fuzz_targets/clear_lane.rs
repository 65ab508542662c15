//! Bytes of a lane in the clear, of somebody without its secret: before it is admitted nobody is
//! let in, behind that nothing is taken that its client did not say, and little is held in any
//! case.
#![no_main]

use landro::fuzzing::is_taken_in_the_clear;
use landro_fuzz::epoch;
use libfuzzer_sys::fuzz_target;

/// A connection, a record and what doubles of a buffer.
const MOST_BYTES: u64 = 128 << 10;

fuzz_target!(|data: &[u8]| {
    let [how, cut, said @ ..] = data else {
        return;
    };
    let cut = usize::from(*cut) * 16 + 1;
    let (is_taken, held_bytes) = is_taken_in_the_clear(epoch(), (said, cut), how % 2 == 1);
    assert!(!is_taken);
    assert!(held_bytes <= MOST_BYTES);
});
