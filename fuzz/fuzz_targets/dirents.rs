//! A getdents64 buffer, whole or not, holds names that are one component each, and no more than
//! fit.
#![no_main]

use landro_sys::fuzzing::directory_entries;
use libfuzzer_sys::fuzz_target;

/// linux_dirent64 before the name.
const HEADER_BYTES: usize = 19;

fuzz_target!(|data: &[u8]| {
    check(data);
    // The same bytes as names behind headers that are right, so that the fuzzer need not find
    // lengths.
    let (mut raw, mut count) = (Vec::new(), 0);
    for name in data.split(|&byte| byte == 0) {
        let record = (HEADER_BYTES + name.len() + 1).next_multiple_of(8);
        let Ok(record_bytes) = u16::try_from(record) else {
            return;
        };
        let start = raw.len();
        raw.extend_from_slice(&7u64.to_ne_bytes());
        raw.extend_from_slice(&9u64.to_ne_bytes());
        raw.extend_from_slice(&record_bytes.to_ne_bytes());
        raw.push(8);
        raw.extend_from_slice(name);
        raw.resize(start + record, 0);
        count += usize::from(!matches!(name, b"" | b"." | b".."));
    }
    assert_eq!(check(&raw), count);
});

fn check(raw: &[u8]) -> usize {
    let (entries, next) = directory_entries(raw);
    assert!(entries.is_empty() || next.is_some());
    let mut bytes = 0;
    for entry in &entries {
        assert!(!matches!(&entry.name[..], b"" | b"." | b"..") && !entry.name.contains(&0));
        bytes += HEADER_BYTES + entry.name.len();
    }
    assert!(bytes <= raw.len());
    entries.len()
}
