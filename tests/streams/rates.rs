//! Rate policies over connections: what leaves keeps to them, on a short path and on a long one.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::{block_on, zip};
use landro::engine::now;
use landro::{
    Connection, Engine, FixedRate, PathView, PeerTrust, QuicConfig, RateBound, RatePolicy,
};

use super::{BACKENDS, BackendChoice, MIB, PROTOCOL, accepting, made_up, soon};

/// A rate that a busy machine carries, in seconds that a test has.
const BYTES_PER_SECOND: u64 = 6_000_000;

/// Of what leaves, headers and tags of packets of 1,472 bytes are 3 %.
const PAYLOAD_PERCENT: u64 = 97;

/// How far off a rate may be.
const OFF_PERCENT: u32 = 10;

type Held = (Instant, Vec<u8>);

/// Where a relay listens that holds each packet for so long, in either direction.
fn delaying(to: SocketAddr, one_way: Duration) -> SocketAddr {
    let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = outside.local_addr().unwrap();
    inside.connect(to).unwrap();
    let client = Arc::new(Mutex::new(None));
    let takes = |socket: UdpSocket, client: Option<Arc<Mutex<Option<SocketAddr>>>>| {
        let (hold, held): (Sender<Held>, Receiver<Held>) = channel();
        thread::spawn(move || {
            let mut packet = [0; 65536];
            while let Ok((len, from)) = socket.recv_from(&mut packet) {
                if let Some(client) = &client {
                    *client.lock().unwrap() = Some(from);
                }
                let _ = hold.send((now() + one_way, packet[..len].to_vec()));
            }
        });
        held
    };
    let from_client = takes(outside.try_clone().unwrap(), Some(client.clone()));
    let from_server = takes(inside.try_clone().unwrap(), None);
    give(from_client, move |packet| {
        let _ = inside.send(packet);
    });
    give(from_server, move |packet| {
        if let Some(client) = *client.lock().unwrap() {
            let _ = outside.send_to(packet, client);
        }
    });
    at
}

/// Sends each packet when its time has come.
fn give(held: Receiver<Held>, send: impl Fn(&[u8]) + Send + 'static) {
    thread::spawn(move || {
        while let Ok((due, packet)) = held.recv() {
            thread::sleep(due.saturating_duration_since(now()));
            send(&packet);
        }
    });
}

/// An engine whose connections keep to `quic`, and a connection of it to another engine.
struct Bounded {
    here: Connection,
    there: Connection,
    _engines: [Engine; 2],
}

fn bounded(backend: BackendChoice, quic: QuicConfig, one_way: Option<Duration>) -> Bounded {
    let there = accepting(backend, QuicConfig::auto());
    let here = Engine::builder().protocol(PROTOCOL).backend(backend);
    let here = here.quic(quic).start().unwrap();
    let to = there.listener().addresses()[0];
    let at = one_way.map_or(to, |one_way| delaying(to, one_way));
    let (listener, peer) = (there.listener(), PeerTrust::Pinned(there.fingerprint()));
    let (at, accepted) = (at.to_string(), listener.accept());
    let (connected, accepted) = block_on(zip(here.connect(&at, peer), accepted));
    Bounded {
        here: connected.unwrap(),
        there: accepted.unwrap(),
        _engines: [here, there],
    }
}

/// How long it takes until the peer has so many bytes.
fn carried(from: &Connection, to: &Connection, bytes: usize) -> Duration {
    let data = made_up(bytes, 9);
    soon(async {
        let sends = async {
            let mut send = from.open_uni().await.unwrap();
            send.write_all(&data).await.unwrap();
            send.finish().unwrap();
        };
        let reads = async {
            let mut receive = to.accept_uni().await.unwrap();
            let start = now();
            let all = receive.read_to_end(usize::MAX).await.unwrap();
            assert!(all == data);
            now() - start
        };
        zip(sends, reads).await.1
    })
}

/// Never takes less, and no more one of three times: a busy machine may be slower.
fn takes(wanted: RangeInclusive<Duration>, carry: impl Fn() -> Duration) {
    for tries_left in (0..3).rev() {
        let took = carry();
        println!("{took:?} of {wanted:?}");
        assert!(took >= *wanted.start(), "{took:?}, not {wanted:?}");
        if took <= *wanted.end() {
            return;
        }
        assert!(tries_left > 0, "{took:?}, not {wanted:?}");
    }
}

fn keeps_to(rate: u64, bytes: usize, carry: impl Fn() -> Duration) {
    let wanted = Duration::from_millis(bytes as u64 * 1000 * 100 / PAYLOAD_PERCENT / rate);
    let off = wanted * OFF_PERCENT / 100;
    takes(wanted - off..=wanted + off, carry);
}

fn fixed() -> QuicConfig {
    QuicConfig::auto().rate_policy(|| FixedRate::bytes_per_second(BYTES_PER_SECOND))
}

#[test]
fn a_fixed_rate_is_kept_to() {
    const BYTES: usize = 12 * MIB;
    for backend in BACKENDS {
        for one_way in [None, Some(Duration::ZERO), Some(Duration::from_millis(10))] {
            let pair = bounded(backend, fixed(), one_way);
            println!("{backend:?} {one_way:?}");
            let carry = || carried(&pair.here, &pair.there, BYTES);
            keeps_to(BYTES_PER_SECOND, BYTES, carry);
        }
    }
}

#[test]
fn whoever_accepts_has_a_policy_too_and_the_peer_has_none() {
    const BYTES: usize = 8 * MIB;
    let there = accepting(BackendChoice::Auto, fixed());
    let here = Engine::builder().protocol(PROTOCOL).start().unwrap();
    let at = there.listener().addresses()[0].to_string();
    let (listener, peer) = (there.listener(), PeerTrust::Pinned(there.fingerprint()));
    let (ours, theirs) = block_on(zip(here.connect(&at, peer), listener.accept()));
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    keeps_to(BYTES_PER_SECOND, BYTES, || carried(&theirs, &ours, BYTES));
    let unbounded = Duration::ZERO..=Duration::from_millis(900);
    takes(unbounded, || carried(&ours, &theirs, BYTES));
}

/// CUBIC, which is not paced at all otherwise.
#[test]
fn a_lan_profile_keeps_to_a_rate() {
    const BYTES: usize = 6 * MIB;
    let lan = QuicConfig::lan_optimized();
    let lan = lan.rate_policy(|| FixedRate::bytes_per_second(BYTES_PER_SECOND));
    let pair = bounded(BackendChoice::Auto, lan, None);
    let carry = || carried(&pair.here, &pair.there, BYTES);
    keeps_to(BYTES_PER_SECOND, BYTES, carry);
}

/// About so many bytes are on the way at a time, whatever is let through per second.
#[test]
fn a_policy_bounds_what_is_in_flight() {
    const BYTES: usize = 4 * MIB;
    const IN_FLIGHT_BYTES: u64 = 100_000;
    struct Window;
    impl RatePolicy for Window {
        fn bound(&mut self, _: Instant, _: &PathView<'_>) -> RateBound {
            RateBound::none().in_flight(IN_FLIGHT_BYTES)
        }
    }
    let quic = QuicConfig::auto().rate_policy(|| Window);
    let pair = bounded(BackendChoice::Auto, quic, Some(Duration::from_millis(15)));
    // The round trip is 30 ms, and some more on a busy machine: 3.3 MB/s, and never more.
    let at = |bytes: u64| Duration::from_millis(BYTES as u64 * 30 / bytes);
    let wanted = at(IN_FLIGHT_BYTES * 11 / 10)..=at(IN_FLIGHT_BYTES / 2);
    takes(wanted, || carried(&pair.here, &pair.there, BYTES));
}

/// What a policy of a program is shown, and that the worst one stalls nothing.
#[test]
fn a_policy_sees_its_path_and_cannot_stop_it() {
    #[derive(Default)]
    struct Seen {
        asked: AtomicU64,
        sent_packets: AtomicU64,
        acked_bytes: AtomicU64,
        policies: AtomicU64,
    }
    struct Stopping(Arc<Seen>);
    impl RatePolicy for Stopping {
        fn bound(&mut self, _: Instant, path: &PathView<'_>) -> RateBound {
            self.0.asked.fetch_add(1, Ordering::Relaxed);
            let before = self
                .0
                .sent_packets
                .fetch_max(path.sent_packets, Ordering::Relaxed);
            assert!(path.sent_packets >= before && path.sent_bytes >= path.sent_packets);
            let acked_bytes = (path.acked_bytes)();
            self.0.acked_bytes.fetch_max(acked_bytes, Ordering::Relaxed);
            RateBound::rate(0)
        }
    }
    const BYTES: usize = 200_000;
    let seen = Arc::<Seen>::default();
    let (counts, makes) = (seen.clone(), seen.clone());
    let quic = QuicConfig::auto().rate_policy(move || {
        makes.policies.fetch_add(1, Ordering::Relaxed);
        Stopping(counts.clone())
    });
    let pair = bounded(BackendChoice::Auto, quic, None);
    let carry = || carried(&pair.here, &pair.there, BYTES);
    keeps_to(RateBound::LEAST_BYTES_PER_SECOND, BYTES, carry);
    assert_eq!(seen.policies.load(Ordering::Relaxed), 1);
    assert!(seen.asked.load(Ordering::Relaxed) > 10);
    // Over loopback they have 16 KB.
    assert!(seen.sent_packets.load(Ordering::Relaxed) > BYTES as u64 / 20_000);
    assert!(seen.acked_bytes.load(Ordering::Relaxed) > BYTES as u64 / 2);
}
