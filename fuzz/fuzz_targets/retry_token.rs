//! A Retry token is good for the address and ids it was made for; any other bytes are no token.
#![no_main]

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use landro::fuzzing::{check_retry_token, retry_token};
use landro::quic::Secrets;
use landro_fuzz::epoch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    static SECRETS: OnceLock<(Secrets, Instant)> = OnceLock::new();
    let (secrets, epoch) = SECRETS.get_or_init(|| {
        let now = epoch();
        (Secrets::of_daemon(&[7; 32], b"/srv", now), now)
    });
    let peer = SocketAddr::from(([192, 0, 2, 1], 1000));
    let (new_scid, now) = (b"newid", *epoch + Duration::from_secs(5));
    assert_eq!(
        check_retry_token(secrets, data, peer, new_scid, now),
        None,
        "forged"
    );
    // The fuzzer cannot make a token: it changes one of ours, at the place and by the bits that it
    // says.
    let Some(([at, bits, len], rest)) = data.split_first_chunk::<3>() else {
        return;
    };
    let original = &rest[..rest.len().min(usize::from(*len) % 21)];
    let mut token = retry_token(secrets, peer, original, new_scid, now);
    let check = |token: &[u8]| check_retry_token(secrets, token, peer, new_scid, now);
    assert_eq!(check(&token).as_deref(), Some(original));
    let at = usize::from(*at) % token.len();
    token[at] ^= bits;
    assert_eq!(check(&token).is_some(), *bits == 0);
    assert_eq!(check(&token[..at]), None);
});
