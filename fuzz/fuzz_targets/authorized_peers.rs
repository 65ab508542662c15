//! Any bytes are an `authorized_peers`: each line authorises the peer it begins with, or nobody and
//! is reported.
#![no_main]

use landro::fuzzing::{BadLine, Policy, Restrict};
use landro::ids::Fingerprint;
use libfuzzer_sys::fuzz_target;

/// Bytes from here on stand for a whole fingerprint, which no fuzzer finds.
const PEERS: u8 = 0xf8;

/// When most have time left.
const NOW_UNIX_S: i64 = 0;

fn peer(number: u8) -> Fingerprint {
    Fingerprint([number; 32])
}

fuzz_target!(|data: &[u8]| {
    let mut text = Vec::new();
    for &byte in data {
        match byte.checked_sub(PEERS) {
            Some(number) => text.extend_from_slice(peer(number).to_string().as_bytes()),
            None => text.push(byte),
        }
    }
    let (policy, bad) = Policy::parse(&text);
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    assert!(policy.len_at(NOW_UNIX_S) + bad.len() <= lines.len());
    assert!(bad.is_sorted_by_key(|bad| bad.line));
    for BadLine { line, .. } in &bad {
        assert!(
            (1..=lines.len()).contains(line),
            "line {line} of {}",
            lines.len()
        );
    }
    for number in 0..=u8::MAX - PEERS {
        granted(&policy, number, &lines);
    }
});

/// What a peer was granted stands on a line that begins with it and holds nothing unknown before
/// its comment, and no option takes it further.
fn granted(policy: &Policy, number: u8, lines: &[&[u8]]) {
    let peer = peer(number);
    let Some(all) = policy.access(&peer, Restrict::Nothing, NOW_UNIX_S) else {
        return;
    };
    let named = peer.to_string();
    let has_value = |option: &str| option.starts_with("path=") || option.starts_with("expires=");
    let grants = |line: &&[u8]| {
        let mut words = std::str::from_utf8(line).unwrap_or("").split_whitespace();
        let named = words.next() == Some(&named);
        let mut options = words
            .take_while(|word| !word.starts_with('#'))
            .flat_map(|word| word.split(','));
        named
            && options
                .all(|option| matches!(option, "ro" | "rw" | "wo" | "clear") || has_value(option))
    };
    assert!(
        lines.iter().any(grants),
        "authorised by no line, or by one with a word that is no option"
    );
    let expired = policy.access(&peer, Restrict::Nothing, i64::MAX);
    let expires = |line: &&[u8]| line.windows(8).any(|word| word == b"expires=");
    assert!(expired.is_some() || lines.iter().any(expires));
    if let Some(path) = &all.path {
        assert!(!path.is_empty() && !path.contains(&0) && path.first() != Some(&b'/'));
        assert!(
            path.split(|&byte| byte == b'/')
                .all(|part| !matches!(part, b"" | b"." | b".."))
        );
    }
    for (restrict, read, write) in [
        (Restrict::ReadOnly, all.access.read, false),
        (Restrict::WriteOnly, false, all.access.write),
    ] {
        let some = policy
            .access(&peer, restrict, NOW_UNIX_S)
            .expect("restricted, not shut out");
        assert_eq!((some.access.read, some.access.write), (read, write));
        assert_eq!(some.path, all.path);
    }
}
