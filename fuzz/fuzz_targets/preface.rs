//! The first bytes of a lane are a preface that is written again as it came, or an error; so is a
//! note.
#![no_main]

use landro::fuzzing::note_again;
use landro::proto::wire::Preface;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    assert!(note_again(data).is_none_or(|again| again == data));
    let Some(head) = data.first_chunk::<{ Preface::BYTES }>() else {
        return;
    };
    match Preface::decode(head) {
        Ok(preface) => assert_eq!(&preface.encode(), head),
        Err(_) => assert!(head[0] > 1, "a known kind is refused"),
    }
});
