//! Any bytes are a `known_hosts` that knows what its lines say, or the number of a line that is
//! wrong.
#![no_main]

use std::net::Ipv6Addr;

use landro::fuzzing::{DaemonName, Known, TrustError, known_hosts};
use landro::ids::Fingerprint;
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
            assert!(
                (1..=lines.len()).contains(&line),
                "line {line} of {}",
                lines.len()
            );
            return;
        }
        Err(error) => panic!("{error} without a file"),
    };
    let text = std::str::from_utf8(&text).expect("it was understood");
    let heads: Vec<&str> = text
        .split('\n')
        .map(|line| line.split_whitespace().next().unwrap_or(""))
        .collect();
    for name in ["h", "h.example", "::1", "fe80::1%Eth0"] {
        let host = DaemonName {
            name: name.into(),
            port: 1,
        };
        let key = host.to_string();
        match known.find(&host) {
            // A host taken for one never met is not protected.
            Known::Never => assert!(!heads.contains(&&*key), "{key} is there and not found"),
            Known::As { fingerprints, line } => {
                assert!(
                    is_spelling(heads[line - 1], &key),
                    "{} is not {key}",
                    heads[line - 1]
                );
                assert!(
                    !fingerprints.is_empty() && fingerprints.iter().all(|found| *found == peer)
                );
            }
        }
    }
});

/// Whether two heads name one host and port: in other capitals, as another spelling of an address
/// (`[0::1]:1`), or of the port (`h:01`).
fn is_spelling(head: &str, key: &str) -> bool {
    let parts = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let (address, zone) = host.split_once('%').unwrap_or((&host, ""));
        let address = address.parse::<Ipv6Addr>().ok();
        let zone = zone.to_owned();
        Some((
            host,
            address.map(|address| (address, zone)),
            port.parse::<u16>().ok()?,
        ))
    };
    let (Some(head), Some(key)) = (parts(head), parts(key)) else {
        return false;
    };
    head.2 == key.2 && (head.0 == key.0 || head.1.is_some() && head.1 == key.1)
}
