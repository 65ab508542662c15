//! Any text is an identity that is written again as the same one, or an error.
#![no_main]

use landro::quic::Identity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(pem) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(identity) = Identity::from_pem(pem) {
        let again =
            Identity::from_pem(&identity.to_pem().expect("it was read")).expect("it was written");
        assert_eq!(again.fingerprint(), identity.fingerprint());
    }
});
