//! Streams and datagrams of programs that embed the library: two engines over loopback, both
//! backends.

#[path = "streams/early.rs"]
mod early;
#[path = "streams/ends.rs"]
mod ends;
#[path = "streams/events.rs"]
mod events;
#[path = "streams/lossy.rs"]
mod lossy;
#[path = "streams/priorities.rs"]
mod priorities;
#[path = "streams/rates.rs"]
mod rates;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{block_on, or, zip};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use landro::config::QuicConfig;
use landro::engine::{BackendChoice, Identity};
use landro::{
    ConnectError, Connection, ConnectionError, DatagramError, Engine, PeerTrust, ReadError,
    WriteError,
};

const PROTOCOL: &str = "streams-test/1";
const BACKENDS: [BackendChoice; 2] = [BackendChoice::IoUring, BackendChoice::Poll];
const MIB: usize = 1 << 20;

fn anyone() -> PeerTrust {
    PeerTrust::Decide(Arc::new(|_| true))
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn accepting(backend: BackendChoice, quic: QuicConfig) -> Engine {
    let engine = Engine::builder()
        .protocol(PROTOCOL)
        .backend(backend)
        .workers(2);
    let engine = engine.quic(quic).listen(loopback()).accept(anyone());
    engine.start().unwrap()
}

fn connecting(backend: BackendChoice) -> Engine {
    let engine = Engine::builder().protocol(PROTOCOL).backend(backend);
    engine.start().unwrap()
}

/// Two engines and a connection between them: ours, and the same at the peer.
struct Pair {
    here: Connection,
    there: Connection,
    _engines: [Engine; 2],
}

fn pair_by(backend: BackendChoice, relay: impl FnOnce(SocketAddr) -> SocketAddr) -> Pair {
    let (there, here) = (accepting(backend, QuicConfig::auto()), connecting(backend));
    let at = relay(there.listener().addresses()[0]).to_string();
    let listener = there.listener();
    let peer = PeerTrust::Pinned(there.fingerprint());
    // Where the one fails, the other waits in vain.
    let connects = async { here.connect(&at, peer).await.unwrap() };
    let (connected, accepted) = soon(zip(connects, listener.accept()));
    Pair {
        here: connected,
        there: accepted.unwrap(),
        _engines: [here, there],
    }
}

fn pair(backend: BackendChoice) -> Pair {
    pair_by(backend, |at| at)
}

/// Fails where something takes longer than anything here does.
fn soon<T>(future: impl Future<Output = T>) -> T {
    let late = Arc::new((event_listener::Event::new(), AtomicBool::new(false)));
    let (tell, over) = (late.clone(), Arc::new(AtomicBool::new(false)));
    let is_over = over.clone();
    thread::spawn(move || {
        let until = landro::engine::now() + Duration::from_secs(60);
        while landro::engine::now() < until && !is_over.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(20));
        }
        tell.1.store(true, Ordering::Release);
        tell.0.notify(usize::MAX);
    });
    let found = block_on(or(async { Some(future.await) }, async {
        let waits = late.0.listen();
        if !late.1.load(Ordering::Acquire) {
            waits.await;
        }
        None
    }));
    over.store(true, Ordering::Release);
    found.expect("it took more than a minute")
}

fn made_up(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn streams_carry_everything_both_ways() {
    for backend in BACKENDS {
        let pair = pair(backend);
        let data = made_up(20 * MIB + 17, 1);
        soon(async {
            let ours = async {
                let (mut send, mut receive) = pair.here.open_bi().await.unwrap();
                let sends = async {
                    send.write_all(&data).await.unwrap();
                    send.finish().unwrap();
                };
                let (_, back) = zip(sends, receive.read_to_end(usize::MAX)).await;
                assert!(back.unwrap() == data, "what came back is something else");
                send.delivered().await.unwrap();
            };
            let theirs = async {
                let (mut send, mut receive) = pair.there.accept_bi().await.unwrap();
                while let Some(bytes) = receive.read_bytes(usize::MAX).await.unwrap() {
                    send.write_bytes(bytes).await.unwrap();
                }
                send.finish().unwrap();
                send.delivered().await.unwrap();
            };
            zip(ours, theirs).await;
        });
        assert_eq!(pair.here.protocol(), PROTOCOL.as_bytes());
        assert!(pair.there.is_accepted() && !pair.here.is_accepted());
        // Nothing more happens, and they are told all the same.
        soon(async {
            while pair.here.statistics().sent_packets <= 100 {
                thread::sleep(Duration::from_millis(10));
                futures_lite::future::yield_now().await;
            }
        });
        let node = landro_sys::numa::current_node();
        assert_eq!(pair.here.statistics().numa_node.is_some(), node.is_some());
    }
}

#[test]
fn the_traits_of_futures_work() {
    let pair = pair(BackendChoice::Auto);
    let data = made_up(3 * MIB, 2);
    soon(async {
        let ours = async {
            let mut send = pair.here.open_uni().await.unwrap();
            AsyncWriteExt::write_all(&mut send, &data).await.unwrap();
            send.close().await.unwrap();
            send.delivered().await.unwrap();
        };
        let theirs = async {
            let mut receive = pair.there.accept_uni().await.unwrap();
            let mut all = Vec::new();
            AsyncReadExt::read_to_end(&mut receive, &mut all)
                .await
                .unwrap();
            assert!(all == data);
        };
        zip(ours, theirs).await;
    });
}

/// More streams than the peer allows at a time, of which each waits for the ones before.
#[test]
fn many_streams_one_after_the_other() {
    const STREAMS: u64 = 2000;
    for backend in BACKENDS {
        let pair = pair(backend);
        soon(async {
            let ours = async {
                for number in 0..STREAMS {
                    let mut send = pair.here.open_uni().await.unwrap();
                    send.write_all(&number.to_be_bytes()).await.unwrap();
                    send.finish().unwrap();
                }
            };
            let theirs = async {
                let mut sum = 0;
                for _ in 0..STREAMS {
                    let mut receive = pair.there.accept_uni().await.unwrap();
                    let bytes = receive.read_to_end(8).await.unwrap();
                    sum += u64::from_be_bytes(bytes[..].try_into().unwrap());
                }
                assert_eq!(sum, STREAMS * (STREAMS - 1) / 2);
            };
            zip(ours, theirs).await;
        });
    }
}

/// A peer that sends streams that are accepted and not read: it has to wait, however often they
/// end.
#[test]
fn streams_that_nobody_reads_are_bounded() {
    const EACH: usize = 100 << 10;
    let pair = pair(BackendChoice::Auto);
    let (peer, sent) = (pair.there.clone(), Arc::new(AtomicU64::new(0)));
    let count = sent.clone();
    let floods = thread::spawn(move || {
        block_on(async {
            let data = Bytes::from(made_up(EACH, 11));
            while let Ok(mut send) = peer.open_uni().await {
                let written = send.write_bytes(data.clone()).await;
                if written.is_err() || send.finish().is_err() || send.delivered().await.is_err() {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    const FAR_TOO_MANY: u64 = 2_000;
    let mut accepted = Vec::new();
    let mut before = 0;
    while before < FAR_TOO_MANY {
        let now = sent.load(Ordering::Relaxed);
        if before > 0 && now == before {
            break;
        }
        before = now;
        let until = landro::engine::now() + Duration::from_millis(500);
        while landro::engine::now() < until {
            let accepts = async { Some(pair.here.accept_uni().await) };
            let found = block_on(or(accepts, async { None }));
            accepted.extend(found.map(Result::unwrap));
            thread::sleep(Duration::from_millis(1));
        }
    }
    // What is delivered is here, and then what the window holds of those that are not.
    assert!((40..600).contains(&before), "{before}");
    // Each is whole when somebody reads it, and the peer goes on.
    for mut receive in accepted {
        let all = soon(receive.read_to_end(usize::MAX)).unwrap();
        assert!(all == made_up(EACH, 11));
    }
    let until = landro::engine::now() + Duration::from_secs(20);
    while sent.load(Ordering::Relaxed) < before + 20 && landro::engine::now() < until {
        let mut receive = soon(pair.here.accept_uni()).unwrap();
        assert_eq!(soon(receive.read_to_end(usize::MAX)).unwrap().len(), EACH);
    }
    assert!(
        sent.load(Ordering::Relaxed) >= before + 20,
        "the peer did not go on"
    );
    pair.here.close(0, "");
    floods.join().unwrap();
}

/// However a stream ends, its place is free again: more of each kind than may be open at a time.
#[test]
fn each_way_to_end_frees_the_place() {
    for way in 0..6 {
        let pair = pair(BackendChoice::Auto);
        // Of the first 64 stops of a connection the peer is told for certain.
        let rounds = if matches!(way, 1 | 4) { 64 } else { 600 };
        soon(async {
            for _ in 0..rounds {
                // Each is heard of before it ends.
                let (mut send, mut receive) = pair.here.open_bi().await.unwrap();
                send.write_all(b"x").await.unwrap();
                let (mut back, mut there) = pair.there.accept_bi().await.unwrap();
                assert_eq!(there.read(&mut [0; 9]).await, Ok(Some(1)));
                match way {
                    // Both dropped as they are.
                    0 => {}
                    // The peer's reader is gone before the end, and the other way round.
                    1 => {
                        drop(there);
                        send.stopped().await.unwrap();
                        back.finish().unwrap();
                        assert_eq!(receive.read(&mut [0; 9]).await, Ok(None));
                    }
                    // Reset on both sides.
                    2 => {
                        send.reset(1);
                        back.reset(2);
                        assert_eq!(there.read(&mut [0]).await, Err(ReadError::Reset(1)));
                        assert_eq!(receive.read(&mut [0]).await, Err(ReadError::Reset(2)));
                    }
                    // Finished, and the end is never read.
                    3 => {
                        send.finish().unwrap();
                        back.write_all(b"y").await.unwrap();
                        back.finish().unwrap();
                    }
                    // Stopped here, while the peer goes on.
                    4 => {
                        receive.stop(3);
                        assert_eq!(back.stopped().await, Ok(Some(3)));
                        send.finish().unwrap();
                        assert_eq!(there.read(&mut [0; 9]).await, Ok(None));
                    }
                    // Both ends are read.
                    _ => {
                        send.finish().unwrap();
                        assert_eq!(there.read(&mut [0; 9]).await, Ok(None));
                        back.finish().unwrap();
                        assert_eq!(receive.read(&mut [0; 9]).await, Ok(None));
                    }
                }
            }
        });
    }
}

/// A peer that opens streams and finishes them, and here nobody accepts any: it has to wait, and
/// what is here stays little.
#[test]
fn streams_that_nobody_accepts_are_bounded() {
    let pair = pair(BackendChoice::Auto);
    let opened = Arc::new(AtomicU64::new(0));
    let (peer, count) = (pair.there.clone(), opened.clone());
    let floods = thread::spawn(move || {
        block_on(async {
            while let Ok(mut send) = peer.open_uni().await {
                if send.write_all(b"x").await.is_err() || send.finish().is_err() {
                    return;
                }
                // Dropped, a finished stream goes on.
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    let mut before = u64::MAX;
    while opened.load(Ordering::Relaxed) != before {
        before = opened.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(500));
    }
    // 256 at a time, and as many again for those 64 that were taken in and have ended.
    assert!((200..800).contains(&before), "{before}");
    // They come all the same, once somebody wants them.
    soon(async {
        for _ in 0..before {
            let mut receive = pair.here.accept_uni().await.unwrap();
            assert_eq!(&receive.read_to_end(1).await.unwrap()[..], b"x");
        }
    });
    pair.here.close(0, "");
    floods.join().unwrap();
}

/// Who writes waits for who reads.
#[test]
fn a_reader_that_does_not_read_stops_the_writer() {
    for backend in BACKENDS {
        let pair = pair(backend);
        let written = Arc::new(AtomicU64::new(0));
        let (there, count) = (pair.there.clone(), written.clone());
        let writes = thread::spawn(move || {
            block_on(async {
                let mut send = there.open_uni().await.unwrap();
                for _ in 0..1024 {
                    send.write_all(&made_up(64 << 10, 3)).await.unwrap();
                    count.fetch_add(64 << 10, Ordering::Relaxed);
                }
                send.finish().unwrap();
                send.delivered().await.unwrap();
            });
        });
        let mut receive = soon(pair.here.accept_uni()).unwrap();
        let mut before = u64::MAX;
        while written.load(Ordering::Relaxed) != before {
            before = written.load(Ordering::Relaxed);
            thread::sleep(Duration::from_millis(500));
        }
        // The window that the memory budget grants, and what either side keeps ahead.
        assert!(before < 40 << 20, "{before}");
        let all = soon(receive.read_to_end(usize::MAX)).unwrap();
        assert_eq!(all.len(), 64 << 20);
        writes.join().unwrap();
    }
}

#[test]
fn codes_reach_the_peer() {
    for backend in BACKENDS {
        let pair = pair(backend);
        soon(async {
            // Stopped by who reads.
            let (mut send, _receive) = pair.here.open_bi().await.unwrap();
            send.write_all(b"begin").await.unwrap();
            let (mut back, mut receive) = pair.there.accept_bi().await.unwrap();
            receive.stop(71);
            assert_eq!(send.stopped().await, Ok(Some(71)));
            let refused = send.write_all(b"more").await;
            assert_eq!(refused, Err(WriteError::Stopped(71)));
            assert_eq!(receive.read_bytes(1).await, Err(ReadError::Closed));
            // Reset by who writes; what was not read is lost with it.
            back.write_all(b"half").await.unwrap();
            back.reset(72);
            let (mut send, receive) = pair.here.open_bi().await.unwrap();
            send.write_all(b"x").await.unwrap();
            drop(receive);
            let (mut back, _) = pair.there.accept_bi().await.unwrap();
            // Dropped unread, it is stopped.
            assert_eq!(back.stopped().await, Ok(Some(0)));
            // Dropped unfinished, it is reset.
            let mut unfinished = pair.here.open_uni().await.unwrap();
            unfinished.write_all(b"half").await.unwrap();
            let mut receive = pair.there.accept_uni().await.unwrap();
            drop(unfinished);
            let ended = receive.read_to_end(usize::MAX).await;
            assert_eq!(ended, Err(ReadError::Reset(0)));
            // Too long for who reads.
            let mut long = pair.here.open_uni().await.unwrap();
            long.write_all(&[0; 100]).await.unwrap();
            long.finish().unwrap();
            let mut receive = pair.there.accept_uni().await.unwrap();
            assert_eq!(receive.read_to_end(99).await, Err(ReadError::TooLong(99)));
            assert_eq!(long.write(b"more").await, Err(WriteError::Closed));
        });
        pair.there.close(4711, "enough");
        let closed = soon(pair.here.closed());
        let expected = ConnectionError::ClosedByPeer {
            code: 4711,
            reason: "enough".to_owned(),
        };
        assert_eq!(closed, expected);
        let late = soon(pair.here.open_bi()).map(|_| ());
        assert_eq!(late, Err(expected));
        let reason = "enough".to_owned();
        let here = ConnectionError::ClosedHere { code: 4711, reason };
        assert_eq!(soon(pair.there.closed()), here);
    }
}

/// A stream that is reset behind its end, while its reader has not come so far: it is told
/// something, whichever came first.
#[test]
fn a_reset_behind_the_end_ends_the_reader() {
    let pair = pair(BackendChoice::Auto);
    soon(async {
        for _ in 0..20 {
            let (mut send, _back) = pair.here.open_bi().await.unwrap();
            let data = Bytes::from(made_up(2 * MIB, 9));
            send.write_bytes(data).await.unwrap();
            send.finish().unwrap();
            let (_answer, mut receive) = pair.there.accept_bi().await.unwrap();
            thread::sleep(Duration::from_millis(20));
            send.reset(5);
            let read = receive.read_to_end(usize::MAX).await;
            let is_told = matches!(&read, Ok(all) if all.len() == 2 * MIB)
                || matches!(read, Err(ReadError::Reset(5) | ReadError::Lost(_)));
            assert!(is_told, "{:?}", read.map(|all| all.len()));
        }
    });
}

#[test]
fn the_last_handle_closes() {
    let pair = pair(BackendChoice::Auto);
    let (send, receive) = soon(pair.here.open_bi()).unwrap();
    drop(pair.here);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(pair.there.close_reason(), None, "its streams hold it");
    drop((send, receive));
    let closed = soon(pair.there.closed());
    let reason = String::new();
    assert_eq!(closed, ConnectionError::ClosedByPeer { code: 0, reason });
}

#[test]
fn an_engine_that_ends_closes_what_it_has() {
    for backend in BACKENDS {
        let pair = pair(backend);
        let [here, there] = &pair._engines;
        here.shut_down();
        let closed = soon(pair.there.closed());
        let is_ours = matches!(closed, ConnectionError::ClosedByPeer { code: 0, .. });
        assert!(is_ours, "{closed:?}");
        let late = soon(here.connect("127.0.0.1:1", anyone()));
        assert_eq!(late.err(), Some(ConnectError::ShutDown));
        let listener = there.listener();
        there.shut_down();
        assert!(soon(listener.accept()).is_none());
    }
}

#[test]
fn datagrams_arrive() {
    for backend in BACKENDS {
        let pair = pair(backend);
        soon(async {
            let most = pair.here.most_datagram_bytes();
            // Loopback carries the largest packets there are.
            assert!((1100..16_400).contains(&most), "{most}");
            let largest = Bytes::from(made_up(most, 5));
            pair.here.send_datagram(largest.clone()).unwrap();
            assert_eq!(pair.there.receive_datagram().await.unwrap(), largest);
            pair.there
                .send_datagram(Bytes::from_static(b"back"))
                .unwrap();
            assert_eq!(&pair.here.receive_datagram().await.unwrap()[..], b"back");
            let bytes = 20_000;
            let large = pair.here.send_datagram(Bytes::from(vec![0; bytes]));
            assert!(matches!(large, Err(DatagramError::TooLarge { .. })));
        });
        // What nobody takes is dropped, and the newest stays.
        for number in 0..500_u32 {
            let datagram = Bytes::copy_from_slice(&number.to_be_bytes());
            pair.here.send_datagram(datagram).unwrap();
            if number % 10 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let mut last = 0;
        let mut count = 0;
        while last != 499 {
            let bytes = soon(pair.there.receive_datagram()).unwrap();
            last = u32::from_be_bytes(bytes[..].try_into().unwrap());
            count += 1;
        }
        assert!(count <= 200, "{count}");
    }
}

#[test]
fn who_is_not_trusted_is_told_from_who_is_not_there() {
    let peer = accepting(BackendChoice::Auto, QuicConfig::auto());
    let at = peer.listener().addresses()[0].to_string();
    let here = connecting(BackendChoice::Auto);
    let other = Identity::generate().unwrap().fingerprint();
    let wrong = soon(here.connect(&at, PeerTrust::Pinned(other))).unwrap_err();
    let shown = Some(peer.fingerprint());
    let name = at.clone();
    assert_eq!(wrong, ConnectError::NotTrusted { name, shown });
    let strict = Engine::builder().protocol(PROTOCOL).listen(loopback());
    let strict = strict
        .accept(PeerTrust::OneOf(vec![other]))
        .start()
        .unwrap();
    let at = strict.listener().addresses()[0].to_string();
    // The handshake is complete here before the peer has said no.
    let refused = match soon(here.connect(&at, anyone())) {
        Ok(connection) => soon(connection.closed()).to_string(),
        Err(error) => error.to_string(),
    };
    assert!(
        refused.contains("refused our identity") || refused.contains("does not let"),
        "{refused}"
    );
    let speaks_else = Engine::builder().protocol("other/1").start().unwrap();
    let at = peer.listener().addresses()[0].to_string();
    let none = soon(speaks_else.connect(&at, anyone())).unwrap_err();
    assert!(
        none.is_retryable() && none.to_string().contains("does not answer"),
        "{none}"
    );
    let unknown = soon(here.connect("no-such-host.invalid:1", anyone())).unwrap_err();
    assert!(matches!(unknown, ConnectError::Name { .. }), "{unknown:?}");
    let nonsense = soon(here.connect("nonsense", anyone())).unwrap_err();
    assert!(
        matches!(nonsense, ConnectError::Name { .. }),
        "{nonsense:?}"
    );
    // Nobody answers: as long as the handshake may take.
    let begun = landro::engine::now();
    let silent = UdpSocket::bind(loopback()).unwrap();
    let at = silent.local_addr().unwrap().to_string();
    let silence = soon(here.connect(&at, anyone())).unwrap_err();
    assert!(
        matches!(silence, ConnectError::NoAnswer { .. }),
        "{silence:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_protocol_needs_a_name() {
    for names in [
        vec!["".to_owned()],
        vec!["landro/1".to_owned()],
        vec!["x".repeat(256)],
    ] {
        let mut engine = Engine::builder();
        for name in &names {
            engine = engine.protocol(name.as_str());
        }
        assert!(engine.start().is_err(), "{names:?}");
    }
    // Who needs none has that of all such.
    let (there, here) = (Engine::builder(), Engine::builder().start().unwrap());
    let there = there.listen(loopback()).accept(anyone()).start().unwrap();
    let at = there.listener().addresses()[0].to_string();
    let peer = PeerTrust::Pinned(there.fingerprint());
    let connection = soon(here.connect(&at, peer)).unwrap();
    assert_eq!(connection.protocol(), b"landro-streams/1");
}

/// Futures that are dropped half-way lose nothing.
#[test]
fn dropped_futures_lose_nothing() {
    let pair = pair(BackendChoice::Auto);
    let mut unused = Vec::new();
    soon(async {
        for round in 0..30_u32 {
            // Polled once, and dropped. One that is there is kept: it is not sent in, and so nobody
            // hears of it.
            for _ in 0..3 {
                let now = async { Some(pair.here.open_uni().await) };
                unused.extend(or(now, async { None }).await);
                let now = async { Some(pair.there.accept_uni().await) };
                let accepted = or(now, async { None }).await;
                assert!(accepted.is_none(), "nothing was sent");
            }
            let mut send = pair.here.open_uni().await.unwrap();
            send.write_all(&round.to_be_bytes()).await.unwrap();
            send.finish().unwrap();
            let mut receive = pair.there.accept_uni().await.unwrap();
            let mut all = Vec::new();
            loop {
                let read = async { Some(receive.read_bytes(1).await) };
                match or(read, async { None }).await {
                    Some(Ok(Some(bytes))) => all.extend_from_slice(&bytes),
                    Some(Ok(None)) => break,
                    Some(Err(error)) => panic!("{error}"),
                    None => futures_lite::future::yield_now().await,
                }
            }
            assert_eq!(all, round.to_be_bytes());
        }
    });
}
