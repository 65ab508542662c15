//! Data before the handshake is complete: taken, not taken, of who is not trusted any more, and
//! recorded.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_lite::future::{or, zip};
use landro::config::QuicConfig;
use landro::engine::{BackendChoice, Identity};
use landro::{Connection, ConnectionError, Engine, PeerTrust, StartError};

use super::lossy::{Tapped, tapped};
use super::{BACKENDS, PROTOCOL, anyone, connecting, loopback, soon};

const REQUEST: &[u8] = b"what is there?";

/// An engine that takes early data of whoever is trusted at the time.
struct Server {
    engine: Engine,
    trusts: Arc<AtomicBool>,
}

fn server(identity: Identity, at: SocketAddr) -> Server {
    let trusts = Arc::new(AtomicBool::new(true));
    let judge = trusts.clone();
    let trust = PeerTrust::Decide(Arc::new(move |_| judge.load(Ordering::Acquire)));
    let quic = QuicConfig::auto().handshake_timeout(Duration::from_secs(2));
    let engine = Engine::builder()
        .protocol(PROTOCOL)
        .identity(identity)
        .quic(quic)
        .listen(at)
        .accept(trust)
        .accept_early(true);
    let engine = engine.start().unwrap();
    Server { engine, trusts }
}

impl Server {
    fn at(&self) -> SocketAddr {
        self.engine.listener().addresses()[0]
    }

    async fn accept(&self) -> Connection {
        self.engine.listener().accept().await.unwrap()
    }

    /// Whether somebody waits to be accepted.
    fn has_somebody(&self) -> bool {
        let listener = self.engine.listener();
        let accepts = async { listener.accept().await.is_some() };
        soon(or(accepts, async { false }))
    }
}

async fn ask(connection: &Connection) -> Vec<u8> {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(REQUEST).await.unwrap();
    send.finish().unwrap();
    receive.read_to_end(100).await.unwrap().to_vec()
}

/// Answers one request with itself. Gives whether it was early.
async fn answer(connection: &Connection) -> bool {
    let (mut send, mut receive) = connection.accept_bi().await.unwrap();
    let request = receive.read_to_end(100).await.unwrap();
    assert_eq!(&request[..], REQUEST);
    send.write_bytes(request).await.unwrap();
    send.finish().unwrap();
    receive.is_early()
}

/// Connects and gets a ticket.
fn meet(here: &Engine, to: &str, server: &Server) {
    soon(async {
        let (connected, accepted) = zip(here.connect(to, anyone()), server.accept()).await;
        let connected = connected.unwrap();
        assert_eq!(connected.early_data_accepted().await, Ok(false));
        assert!(!connected.is_early() && !accepted.is_early());
        let (asked, early) = zip(ask(&connected), answer(&accepted)).await;
        assert!(asked == REQUEST && !early);
        connected.close(0, "");
        accepted.closed().await;
    });
}

#[test]
fn a_request_travels_with_the_first_flight() {
    for backend in BACKENDS {
        let server = server(Identity::generate().unwrap(), loopback());
        let tap = Arc::new(Tapped::default());
        let to = tapped(server.at(), tap.clone()).to_string();
        let here = connecting(backend);
        meet(&here, &to, &server);
        // Nothing comes back: all that the server has is the first flight.
        tap.is_held.store(true, Ordering::Release);
        soon(async {
            let connected = here.connect_early(&to, anyone()).await.unwrap();
            assert!(connected.is_early());
            let theirs = async {
                let accepted = server.accept().await;
                assert!(accepted.is_early() && accepted.peer() == here.fingerprint());
                assert!(answer(&accepted).await);
                assert!(accepted.is_early());
                tap.is_held.store(false, Ordering::Release);
                assert_eq!(accepted.early_data_accepted().await, Ok(true));
                accepted
            };
            let (asked, _accepted) = zip(ask(&connected), theirs).await;
            assert_eq!(asked, REQUEST);
            assert_eq!(connected.early_data_accepted().await, Ok(true));
            assert_eq!(connected.peer(), server.engine.fingerprint());
        });
    }
}

/// A server that was started anew knows no ticket of before.
#[test]
fn what_is_not_taken_early_is_read_later() {
    let identity = Identity::generate().unwrap();
    let first = server(identity.clone(), loopback());
    let (at, here) = (first.at(), connecting(BackendChoice::Auto));
    let to = at.to_string();
    meet(&here, &to, &first);
    first.engine.shut_down();
    let second = server(identity, at);
    soon(async {
        let connected = here.connect_early(&to, anyone()).await.unwrap();
        let theirs = async {
            let accepted = second.accept().await;
            assert!(!answer(&accepted).await);
            accepted
        };
        let (asked, _accepted) = zip(ask(&connected), theirs).await;
        assert_eq!(asked, REQUEST);
        assert_eq!(connected.early_data_accepted().await, Ok(false));
    });
}

#[test]
fn who_is_not_trusted_any_more_is_not_read() {
    let server = server(Identity::generate().unwrap(), loopback());
    let (to, here) = (server.at().to_string(), connecting(BackendChoice::Auto));
    meet(&here, &to, &server);
    server.trusts.store(false, Ordering::Release);
    soon(async {
        let connected = here.connect_early(&to, anyone()).await.unwrap();
        let (mut send, _receive) = connected.open_bi().await.unwrap();
        let _ = send.write_all(REQUEST).await;
        // The handshake is complete here before the peer has said no.
        let over = connected.closed().await;
        assert!(matches!(over, ConnectionError::Transport(_)), "{over:?}");
    });
    assert!(!server.has_somebody(), "it was let in");
    // And the other way round: nothing is sent to whom we do not trust.
    server.trusts.store(true, Ordering::Release);
    meet(&here, &to, &server);
    let nobody = PeerTrust::OneOf(Vec::new());
    let refused = soon(here.connect_early(&to, nobody)).unwrap_err();
    assert!(!refused.is_retryable(), "{refused}");
}

/// A recorded first flight is read again, and told from what is not; it never becomes a connection.
#[test]
fn a_recorded_flight_is_known_as_one() {
    let server = server(Identity::generate().unwrap(), loopback());
    let tap = Arc::new(Tapped::default());
    let to = tapped(server.at(), tap.clone()).to_string();
    let here = connecting(BackendChoice::Auto);
    meet(&here, &to, &server);
    tap.up.lock().unwrap().clear();
    tap.is_held.store(true, Ordering::Release);
    let recorded = soon(async {
        let connected = here.connect_early(&to, anyone()).await.unwrap();
        let theirs = async {
            let accepted = server.accept().await;
            assert!(answer(&accepted).await);
            let recorded = tap.up.lock().unwrap().clone();
            tap.is_held.store(false, Ordering::Release);
            accepted.closed().await;
            recorded
        };
        let ours = async {
            ask(&connected).await;
            connected.close(0, "");
        };
        zip(ours, theirs).await.1
    });
    // Until the server has forgotten the connection, the flight is one of its own packets.
    let (at, is_read) = (server.at(), Arc::new(AtomicBool::new(false)));
    let stop = is_read.clone();
    let attacks = thread::spawn(move || {
        let attacker = UdpSocket::bind(loopback()).unwrap();
        while !stop.load(Ordering::Acquire) {
            for packet in &recorded {
                attacker.send_to(packet, at).unwrap();
            }
            thread::sleep(Duration::from_millis(300));
        }
    });
    soon(async {
        let accepted = server.accept().await;
        is_read.store(true, Ordering::Release);
        assert!(answer(&accepted).await && accepted.is_early());
        let over = accepted.early_data_accepted().await;
        assert!(over.is_err() && accepted.is_early(), "{over:?}");
    });
    attacks.join().unwrap();
}

/// More than what may leave early is asked at once, and byte by byte: all of it is answered.
#[test]
fn what_is_beyond_the_bounds_follows_the_handshake() {
    for backend in BACKENDS {
        let server = server(Identity::generate().unwrap(), loopback());
        let (to, here) = (server.at().to_string(), connecting(backend));
        meet(&here, &to, &server);
        soon(async {
            // Its handshake may be complete by now; whether it was early is said below.
            let connected = here.connect_early(&to, anyone()).await.unwrap();
            let (mut chatty, mut chatted) = connected.open_bi().await.unwrap();
            let ours = async {
                for _ in 0..100 {
                    chatty.write_all(b"x").await.unwrap();
                    futures_lite::future::yield_now().await;
                }
                chatty.finish().unwrap();
                for _ in 0..68 {
                    assert_eq!(ask(&connected).await, REQUEST);
                }
                assert_eq!(chatted.read_to_end(200).await.unwrap().len(), 100);
            };
            let theirs = async {
                let accepted = server.accept().await;
                for _ in 0..69 {
                    let (mut send, mut receive) = accepted.accept_bi().await.unwrap();
                    let request = receive.read_to_end(200).await.unwrap();
                    send.write_bytes(request).await.unwrap();
                    send.finish().unwrap();
                }
                accepted
            };
            let (_, _accepted) = zip(ours, theirs).await;
            assert_eq!(connected.early_data_accepted().await, Ok(true));
        });
    }
}

#[test]
fn less_than_peers_send_early_is_refused_at_the_start() {
    for quic in [
        QuicConfig::auto().receive_window(8 << 10),
        QuicConfig::auto().stream_receive_window(8 << 10),
        QuicConfig::auto().max_bidi_streams(7),
    ] {
        let start = |accepts| {
            Engine::builder()
                .quic(quic.clone())
                .accept_early(accepts)
                .start()
        };
        let refused = start(true).err();
        assert!(
            matches!(refused, Some(StartError::Config(_))),
            "{refused:?}"
        );
        assert!(start(false).is_ok());
    }
}
