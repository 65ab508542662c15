//! What whoever may ask for metrics sends: it is judged within its bound, and what is known of its
//! beginning does not change when more comes.

#![no_main]

use landro::fuzzing::scrape_is_answered_with;
use libfuzzer_sys::fuzz_target;

/// What is answered.
const STATUSES: [&str; 5] = ["200", "400", "404", "405", "431"];

fuzz_target!(|bytes: &[u8]| {
    let whole = scrape_is_answered_with(bytes);
    if let Some(status) = &whole {
        assert!(STATUSES.contains(&status.as_str()), "{status}");
    }
    // The end of the head is found wherever a read ends.
    if let Some(status) = scrape_is_answered_with(&bytes[..bytes.len() / 2]) {
        assert_eq!(whole, Some(status));
    }
});
