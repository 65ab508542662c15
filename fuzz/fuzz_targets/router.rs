//! Any datagram finds its connection, is dropped, or is answered with less than itself.
#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use landro::ids::WorkerId;
use landro::quic::{Route, Router, Secrets};
use landro_fuzz::epoch;
use libfuzzer_sys::fuzz_target;

const WORKERS: u8 = 3;

/// Shorter datagrams of strangers get no answer (RFC 9000, 14.1); a zero-filled rest is what a
/// client pads with.
const INITIAL_BYTES: usize = 1200;

fuzz_target!(|data: &[u8]| {
    static SECRETS: OnceLock<Arc<Secrets>> = OnceLock::new();
    let now = epoch();
    let secrets = SECRETS.get_or_init(|| Arc::new(Secrets::of_daemon(&[7; 32], b"/srv", now)));
    let Some((&how, datagram)) = data.split_first() else {
        return;
    };
    let (server, demand_retry) = (how & 1 == 0, how & 2 == 0);
    let from = SocketAddr::from(([192, 0, 2, 1], 1000));
    let to = SocketAddr::from(([192, 0, 2, 2], 4433));
    let mut datagram = datagram.to_vec();
    if how & 4 == 0 && datagram.len() < INITIAL_BYTES {
        datagram.resize(INITIAL_BYTES, 0);
    }
    let before = datagram.clone();
    let mut router = Router::new(WorkerId(1), WORKERS, Arc::clone(secrets), server);
    match router.route(&mut datagram, from, to, now, demand_retry) {
        Route::Conn(key) => panic!("connection {key} of none"),
        Route::New(new) => {
            assert!(server && before.len() >= INITIAL_BYTES);
            assert!(!new.address_proven(), "a guessed token");
            assert!(!demand_retry, "accepted an address that is not proven");
        }
        Route::Stray(worker) => assert!(server && worker.0 < WORKERS && worker != WorkerId(1)),
        Route::Reply(reply) => {
            assert!(server, "clients answer nobody");
            assert!(
                !reply.is_empty() && reply.len() < before.len(),
                "an amplifier"
            );
        }
        Route::Drop => {}
    }
    assert!(router.is_empty());
});
