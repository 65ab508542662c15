//! A number of bytes as typed is a number, or an error; a larger unit never makes it smaller.
#![no_main]

use landro::fuzzing::byte_count;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(typed) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(bytes) = byte_count(typed) else { return };
    if let Ok(plain) = typed.parse::<u64>() {
        assert_eq!(bytes, plain);
    }
    let number = typed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if let (Ok(kilo), Ok(kibi)) = (
        byte_count(&format!("{number}KB")),
        byte_count(&format!("{number}K")),
    ) {
        assert!(kilo <= kibi);
    }
});
