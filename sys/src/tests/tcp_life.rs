//! TCP sockets that come and go while they are watched: taken out, handed to other threads, never
//! answered, a thousand at once.

use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use super::tcp::{accept, fill, listen, nothing, pair, ready, submit};
use super::*;

/// Dropping a driver waits 2 s for what does not end; a watch is to end at once.
const AT_ONCE: Duration = Duration::from_millis(1_000);

#[allow(clippy::disallowed_methods)] // Measures the drop itself.
fn drop_at_once(driver: Driver) {
    let start = Instant::now();
    drop(driver);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[test]
fn nothing_comes_of_a_socket_that_was_removed() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        // Removed before the kernel knows of the watch; while it waits; when it has answered; when
        // the answer is queued.
        for step in 0..4 {
            let (id, mut peer) = pair(&mut driver);
            driver.watch(id, Interest::READ);
            match step {
                0 => {}
                1 => submit(&mut driver),
                2 => {
                    submit(&mut driver);
                    peer.write_all(b"1").unwrap();
                }
                _ => {
                    peer.write_all(b"1").unwrap();
                    driver.submit_and_wait(Some(GIVE_UP)).unwrap();
                }
            }
            let stream = driver.remove_stream(id);
            // Another socket in its place has nothing to read, and is told nothing.
            let (other, mut other_peer) = pair(&mut driver);
            assert_ne!(other, id);
            driver.watch(other, Interest::READ);
            nothing(&mut driver);
            peer.write_all(b"2").unwrap();
            nothing(&mut driver);
            let expected = if step < 2 { &b"2"[..] } else { b"12" };
            let mut buffer = [0; 10];
            let got = stream.receive(&mut buffer).unwrap().unwrap();
            assert_eq!(&buffer[..got], expected);
            other_peer.write_all(b"3").unwrap();
            assert_eq!(ready(&mut driver), (other, true, false));
        }
        assert_eq!(driver.in_flight(), 0);
    }
}

#[test]
fn a_removed_stream_goes_on_in_another_thread() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (id, mut peer) = pair(&mut driver);
        driver.watch(id, Interest::BOTH);
        assert_eq!(ready(&mut driver), (id, false, true));
        driver.watch(id, Interest::READ);
        submit(&mut driver);
        let stream = driver.remove_stream(id);
        let other = std::thread::spawn(move || {
            let (_pool, mut driver) = pool_and_driver(backend);
            let id = driver.add_stream(stream).unwrap();
            driver.watch(id, Interest::READ);
            assert_eq!(ready(&mut driver), (id, true, false));
            let mut buffer = [0; 100];
            let got = driver.stream(id).receive(&mut buffer).unwrap().unwrap();
            let parts = [IoSlice::new(b"heard "), IoSlice::new(&buffer[..got])];
            assert_eq!(driver.stream(id).send(&parts).unwrap(), Some(6 + got));
            driver.watch(id, Interest::READ);
            assert_eq!(ready(&mut driver), (id, true, true));
            drop_at_once(driver);
        });
        peer.write_all(b"hello").unwrap();
        let mut answer = [0; 11];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"heard hello");
        nothing(&mut driver);
        peer.shutdown(Shutdown::Write).unwrap();
        other.join().unwrap();
        nothing(&mut driver);
    }
}

#[test]
fn a_dropped_stream_tells_its_peer() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (id, mut peer) = pair(&mut driver);
        driver.watch(id, Interest::READ);
        submit(&mut driver);
        drop(driver.remove_stream(id));
        nothing(&mut driver);
        assert_eq!(peer.read(&mut [0; 10]).unwrap(), 0);
    }
}

#[test]
fn a_dropped_listener_is_gone() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (listener, address) = listen(&mut driver, "127.0.0.1:0");
        driver.watch(listener, Interest::READ);
        submit(&mut driver);
        let peer = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(ready(&mut driver), (listener, true, false));
        let (stream, _) = accept(&mut driver, listener);
        driver.watch(listener, Interest::READ);
        submit(&mut driver);
        drop(driver.remove_listener(listener));
        nothing(&mut driver);
        let error = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        // Connections it took go on, and the port can be had again all the same.
        let again = TcpListener::bind(address, false).unwrap();
        (&peer).write_all(b"still here").unwrap();
        let id = driver.add_stream(stream).unwrap();
        driver.watch(id, Interest::READ);
        assert_eq!(ready(&mut driver), (id, true, false));
        // With the driver goes what it was given.
        let id = driver.add_listener(again).unwrap();
        driver.watch(id, Interest::READ);
        submit(&mut driver);
        drop_at_once(driver);
        TcpListener::bind(address, false).unwrap();
    }
}

#[test]
fn a_peer_that_never_answers_holds_nothing() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        // Once more wait to be accepted than it was told, the kernel answers no SYN.
        let mute = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        mute.bind(&any.into()).unwrap();
        mute.listen(1).unwrap();
        let address = mute.local_addr().unwrap().as_socket().unwrap();
        let _waiting = [(); 2].map(|()| std::net::TcpStream::connect(address).unwrap());
        let connect = |driver: &mut Driver| {
            let stream = TcpStream::connect(address, None, None).unwrap();
            driver.add_stream(stream).unwrap()
        };
        let id = connect(&mut driver);
        driver.watch(id, Interest::WRITE);
        nothing(&mut driver);
        assert!(!driver.stream(id).finish_connect().unwrap());
        assert_eq!(driver.in_flight(), 0);
        drop(driver.remove_stream(id));
        nothing(&mut driver);
        // And when the driver goes.
        let id = connect(&mut driver);
        driver.watch(id, Interest::BOTH);
        submit(&mut driver);
        drop_at_once(driver);
    }
}

#[test]
fn a_thousand_streams_are_each_told_once() {
    const STREAMS: usize = 1_000;
    process::raise_open_files().unwrap();
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let mut pairs: Vec<_> = (0..STREAMS).map(|_| pair(&mut driver)).collect();
        for round in 0..3u8 {
            for (id, _) in &pairs {
                driver.watch(*id, Interest::READ);
            }
            submit(&mut driver);
            for (_, peer) in &mut pairs {
                peer.write_all(&[round]).unwrap();
            }
            let mut told: Vec<TcpId> = (0..STREAMS)
                .map(|_| {
                    let (id, readable, writable) = ready(&mut driver);
                    assert!(readable && !writable);
                    let mut byte = [9];
                    assert_eq!(driver.stream(id).receive(&mut byte).unwrap(), Some(1));
                    assert_eq!(byte, [round]);
                    id
                })
                .collect();
            told.sort_unstable();
            told.dedup();
            assert_eq!(told.len(), STREAMS);
            nothing(&mut driver);
        }
        for (id, _) in &pairs {
            driver.watch(*id, Interest::READ);
        }
        submit(&mut driver);
        // Half of them are taken out, half go with the driver.
        for (id, _) in &pairs[..STREAMS / 2] {
            driver.remove_stream(*id);
        }
        nothing(&mut driver);
        drop_at_once(driver);
        for (_, peer) in &mut pairs {
            assert_eq!(peer.read(&mut [0; 10]).unwrap(), 0);
        }
    }
}

#[test]
fn watches_hold_no_driver() {
    for backend in backends() {
        let (pool, mut driver) = pool_and_driver(backend);
        let (reading, _peer) = pair(&mut driver);
        let (writing, _other_peer) = pair(&mut driver);
        let (listener, _) = listen(&mut driver, "127.0.0.1:0");
        fill(driver.stream(writing));
        driver.watch(reading, Interest::READ);
        driver.watch(writing, Interest::WRITE);
        driver.watch(listener, Interest::READ);
        submit(&mut driver);
        // One that is being replaced, one that is being cancelled, one that nobody knows of.
        driver.watch(writing, Interest::READ);
        driver.remove_stream(reading);
        let (unknown, _unknown_peer) = pair(&mut driver);
        driver.watch(unknown, Interest::READ);
        assert_eq!(driver.in_flight(), 0);
        drop_at_once(driver);
        assert_eq!(pool.in_use(), 0);
    }
}

#[test]
#[should_panic(expected = "no TCP socket of this driver")]
fn an_id_that_was_removed_is_none() {
    let (_pool, mut driver) = pool_and_driver(Backend::Poll);
    let (id, _peer) = pair(&mut driver);
    driver.remove_stream(id);
    let _other = pair(&mut driver);
    driver.watch(id, Interest::READ);
}
