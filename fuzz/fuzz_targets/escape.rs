//! Whatever a name or a peer's text holds, nothing a terminal acts on is printed, and two names
//! never look the same.
#![no_main]

use landro::fuzzing::{acts_on_terminal, escaped_name, escaped_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let shown = escaped_name(data);
    assert!(!shown.chars().any(acts_on_terminal));
    assert_eq!(unescape(shown.as_bytes()), data);
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(!escaped_text(text).chars().any(acts_on_terminal));
    }
});

/// What a person who knows the rules reads.
fn unescape(mut shown: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let [first, rest @ ..] = shown {
        let (byte, rest) = match (first, rest) {
            (b'\\', [b'\\', rest @ ..]) => (b'\\', rest),
            (b'\\', [b'n', rest @ ..]) => (b'\n', rest),
            (b'\\', [b't', rest @ ..]) => (b'\t', rest),
            (b'\\', [b'r', rest @ ..]) => (b'\r', rest),
            (b'\\', [a, b, c, rest @ ..]) => ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), rest),
            (byte, rest) => (*byte, rest),
        };
        bytes.push(byte);
        shown = rest;
    }
    bytes
}
