//! Percent-encoded bytes decode to what they say, or not at all.
#![no_main]

use landro::ids::percent_decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let percents = data.iter().filter(|&&byte| byte == b'%').count();
    match percent_decode(data) {
        Some(decoded) => assert_eq!(decoded.len(), data.len() - 2 * percents),
        None => assert!(percents > 0),
    }
    let encoded: String = data.iter().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(percent_decode(encoded.as_bytes()).as_deref(), Some(data));
});
