//! What a connection tells of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::{block_on, or, zip};
use landro::config::QuicConfig;
use landro::engine::BackendChoice;
use landro::{ConnectionError, ConnectionEvent, ConnectionEvents, Engine, StreamDirection};

use super::lossy::narrow;
use super::{BACKENDS, PROTOCOL, anyone, connecting, loopback, pair, pair_by, soon};

/// The next event that is none of a datagram's size, for the path's is found meanwhile.
async fn next(events: &mut ConnectionEvents) -> Result<ConnectionEvent, ConnectionError> {
    loop {
        match events.next().await {
            Ok(ConnectionEvent::DatagramSize { .. }) => {}
            other => return other,
        }
    }
}

#[test]
fn credit_is_told_of_when_it_is_used_up_and_when_there_is_some() {
    for backend in BACKENDS {
        let pair = pair(backend);
        let (mut events, mut other) = (pair.here.events(), pair.there.events());
        soon(async {
            let mut held = Vec::new();
            let exhausted = loop {
                let opens = async { Err(pair.here.open_uni().await.unwrap()) };
                let tells = async { Ok(next(&mut events).await) };
                match or(opens, tells).await {
                    Ok(event) => break event,
                    Err(mut send) => {
                        send.write_all(b"x").await.unwrap();
                        held.push(send);
                    }
                }
            };
            let direction = StreamDirection::Unidirectional;
            let expected = ConnectionEvent::StreamsExhausted(direction);
            assert_eq!(exhausted, Ok(expected));
            assert!(held.len() >= 256, "{}", held.len());
            // All that are open end, and the peer allows others.
            let ends = async {
                for mut send in held.drain(..) {
                    send.finish().unwrap();
                    let mut receive = pair.there.accept_uni().await.unwrap();
                    receive.read_to_end(1).await.unwrap();
                }
            };
            let opens = async { pair.here.open_uni().await.unwrap() };
            let (_opened, ()) = zip(opens, ends).await;
            let expected = ConnectionEvent::StreamsAvailable(direction);
            assert_eq!(next(&mut events).await, Ok(expected));
            pair.here.close(7, "enough");
            let reason = "enough".to_owned();
            let here = ConnectionError::ClosedHere {
                code: 7,
                reason: reason.clone(),
            };
            assert_eq!(next(&mut events).await, Err(here));
            let there = ConnectionError::ClosedByPeer { code: 7, reason };
            assert_eq!(next(&mut other).await, Err(there));
        });
    }
}

#[test]
fn datagrams_that_are_dropped_are_told_of() {
    let pair = pair(BackendChoice::Auto);
    let mut events = pair.there.events();
    for number in 0..500_u32 {
        let datagram = Bytes::copy_from_slice(&number.to_be_bytes());
        pair.here.send_datagram(datagram).unwrap();
        thread::sleep(Duration::from_micros(200));
    }
    let mut dropped = 0;
    while dropped < 100 {
        match soon(next(&mut events)) {
            Ok(ConnectionEvent::DatagramsDropped { count }) => dropped += count,
            other => panic!("{other:?}"),
        }
    }
    assert!(dropped < 500, "{dropped}");
}

#[test]
fn a_path_that_carries_less_is_told_of() {
    let most_bytes = Arc::new(AtomicUsize::new(usize::MAX));
    let limit = most_bytes.clone();
    let pair = pair_by(BackendChoice::Auto, |at| narrow(at, limit));
    let (here, there) = (pair.here.clone(), pair.there.clone());
    let sends = thread::spawn(move || {
        block_on(async {
            let mut send = here.open_uni().await.unwrap();
            while send.write_all(&[0; 20_000]).await.is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        });
    });
    let reads = thread::spawn(move || {
        block_on(async {
            let mut receive = there.accept_uni().await.unwrap();
            while let Ok(Some(_)) = receive.read_bytes(usize::MAX).await {}
        });
    });
    const NARROW: usize = 1250;
    while pair.here.most_datagram_bytes() < NARROW {
        thread::sleep(Duration::from_millis(1));
    }
    let mut events = pair.here.events();
    most_bytes.store(NARROW, Ordering::Relaxed);
    // Whatever it found before is told of, too.
    while !matches!(
        soon(events.next()),
        Ok(ConnectionEvent::DatagramSize { most_bytes }) if (1000..NARROW).contains(&most_bytes)
    ) {}
    assert!(pair.here.most_datagram_bytes() < NARROW);
    pair.here.close(0, "");
    sends.join().unwrap();
    reads.join().unwrap();
}

/// Who only listens does not keep a connection open.
#[test]
fn a_listener_is_no_handle() {
    let pair = pair(BackendChoice::Auto);
    let mut events = pair.here.events();
    drop(pair.here);
    let reason = String::new();
    let closed = ConnectionError::ClosedHere { code: 0, reason };
    assert_eq!(soon(next(&mut events)), Err(closed));
}

#[test]
fn a_key_that_is_nearly_spent_is_told_of_once() {
    let quic = QuicConfig::auto()
        .lane_packet_limit(200)
        .key_packet_limit(4000);
    let there = Engine::builder().protocol(PROTOCOL).listen(loopback());
    let there = there.quic(quic).accept(anyone()).start().unwrap();
    let here = connecting(BackendChoice::Auto);
    let at = there.listener().addresses()[0].to_string();
    let listener = there.listener();
    let (here, there) = block_on(zip(here.connect(&at, anyone()), listener.accept()));
    let (here, there) = (here.unwrap(), there.unwrap());
    let mut events = there.events();
    soon(async {
        let sends = async {
            let mut send = here.open_uni().await.unwrap();
            while send.write_all(&[0; 60_000]).await.is_ok() {}
        };
        let reads = async {
            let mut receive = there.accept_uni().await.unwrap();
            while let Ok(Some(_)) = receive.read_bytes(usize::MAX).await {}
        };
        let listens = async {
            assert_eq!(next(&mut events).await, Ok(ConnectionEvent::KeyNearlySpent));
            there.close(0, "");
            assert!(next(&mut events).await.is_err());
        };
        zip(zip(sends, reads), listens).await;
    });
}
