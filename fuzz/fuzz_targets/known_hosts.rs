//! Any bytes are a `known_hosts` that knows what its lines say, or the number of a line that is wrong.
#![no_main]

use landro::fuzzing::{Host, Known, TrustError, known_hosts};
use landro::units::Fingerprint;
use libfuzzer_sys::fuzz_target;

/// This byte stands for a whole fingerprint, which no fuzzer finds.
const PEER: u8 = 0xff;

fuzz_target!(|data: &[u8]| {
    let peer = Fingerprint([7; 32]);
    let mut text = Vec::new();
    for &byte in data {
        match byte {
            PEER => text.extend_from_slice(peer.to_string().as_bytes()),
            _ => text.push(byte),
        }
    }
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    let known = match known_hosts(&text) {
        Ok(known) => known,
        Err(TrustError::BadLine { line, .. }) => {
            assert!((1..=lines.len()).contains(&line), "line {line} of {}", lines.len());
            return;
        }
        Err(error) => panic!("{error} without a file"),
    };
    // `find` of a host on some line gives that line's fingerprint, and none for a host on no line.
    for name in ["h", "h.example", "::1"] {
        let host = Host { name: name.into(), port: 1 };
        let key = host.to_string();
        let stands = lines.iter().any(|line| {
            let word = line.split(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty());
            word.is_some_and(|word| word.eq_ignore_ascii_case(key.as_bytes()))
        });
        match known.find(&host) {
            Known::Never => {}
            Known::As { fingerprints, line } => {
                assert!(stands && !fingerprints.is_empty() && (1..=lines.len()).contains(&line));
                assert!(
                    lines[line - 1].to_ascii_lowercase().windows(key.len()).any(|at| at == key.as_bytes())
                );
            }
        }
    }
});
