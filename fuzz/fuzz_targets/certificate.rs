//! Any bytes are the certificate of an Ed25519 key, or of none that a peer could be known by.
#![no_main]

use landro::fuzzing::fingerprint_of_der;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let fingerprint = fingerprint_of_der(data);
    assert_eq!(fingerprint, fingerprint_of_der(data));
});
