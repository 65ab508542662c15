//! Two engines with a connection between them, and futures that end in time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_lite::future::{block_on, or, zip};
use landro::engine::BackendChoice;
use landro::{Connection, Engine, PeerTrust};

pub const BACKENDS: [BackendChoice; 2] = [BackendChoice::IoUring, BackendChoice::Poll];
const PROTOCOL: &str = "parallel-test/1";

/// A connection: ours, and the same at the peer.
pub struct Pair {
    pub here: Connection,
    pub there: Connection,
    _engines: [Engine; 2],
}

pub fn pair_by(backend: BackendChoice, relay: impl FnOnce(SocketAddr) -> SocketAddr) -> Pair {
    let builder = || Engine::builder().protocol(PROTOCOL).backend(backend);
    let accepting = builder().listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let accepting = accepting.accept(PeerTrust::Decide(Arc::new(|_| true)));
    let (there, here) = (accepting.start().unwrap(), builder().start().unwrap());
    let listener = there.listener();
    let at = relay(listener.addresses()[0]).to_string();
    let peer = PeerTrust::Pinned(there.fingerprint());
    let (connected, accepted) = block_on(zip(here.connect(&at, peer), listener.accept()));
    Pair {
        here: connected.unwrap(),
        there: accepted.unwrap(),
        _engines: [here, there],
    }
}

pub fn pair(backend: BackendChoice) -> Pair {
    pair_by(backend, |at| at)
}

/// Fails where something takes longer than anything here does.
pub fn soon<T>(future: impl Future<Output = T>) -> T {
    block_on(or(future, async {
        after(Duration::from_secs(90)).await;
        panic!("it took more than a minute and a half");
    }))
}

/// Resolves after so long.
pub async fn after(time: Duration) {
    let late = Arc::new((event_listener::Event::new(), AtomicBool::new(false)));
    let waits = late.0.listen();
    let tell = Arc::downgrade(&late);
    thread::spawn(move || {
        let until = landro::engine::now() + time;
        while landro::engine::now() < until && tell.strong_count() > 0 {
            thread::sleep(Duration::from_millis(10).min(time));
        }
        if let Some(late) = tell.upgrade() {
            late.1.store(true, Ordering::Release);
            late.0.notify(usize::MAX);
        }
    });
    if !late.1.load(Ordering::Acquire) {
        waits.await;
    }
}

pub fn made_up(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}
