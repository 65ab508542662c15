//! Frames of a TCP lane, cut anywhere: no panic, and never more held than the windows allow.
#![no_main]

use landro::fuzzing::held_after_frames;
use libfuzzer_sys::fuzz_target;

const WINDOW_BYTES: u64 = 64 << 10;

/// The control stream's window, and what the heap rounds up: pieces double.
const MOST_BYTES: usize = 2 * (WINDOW_BYTES as usize + (32 << 10)) + (64 << 10);

fuzz_target!(|data: &[u8]| {
    let Some((&cut, frames)) = data.split_first() else {
        return;
    };
    // From single bytes to more than a kilobyte, which stays where it arrived.
    let cut = usize::from(cut) * 16 + 1;
    assert!(held_after_frames(frames, cut, WINDOW_BYTES) <= MOST_BYTES);
});
