//! Who comes to the TCP port and is let in by nobody: no TLS, another TLS, no end of a handshake.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use boring::ssl::{SslConnector, SslMethod, SslVerifyMode, SslVersion};
use landro::engine::now;
use landro::quic::Identity;

use super::peer::{HANDSHAKE, TcpEnd, TlsPeer, client_hello, dial};
use crate::Scene;
use crate::common::tree::Rng;

/// A handshake has 10 s, and its end is waited for 3 s more; the rest is for a busy machine.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(20);

/// What is no handshake at all is not waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Reads until the daemon has enough.
#[track_caller]
fn is_ended_within(mut stream: &TcpStream, limit: Duration, what: &str) {
    #[allow(
        clippy::disallowed_methods,
        reason = "how long it takes is what is looked at"
    )]
    let began = now();
    let mut out = [0; 4096];
    while began.elapsed() < limit {
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        match stream.read(&mut out) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    panic!("{what}: the daemon still waits after {limit:?}");
}

/// A record of a handshake in the clear.
fn record(part: &[u8]) -> Vec<u8> {
    let bytes = (part.len() as u16).to_be_bytes();
    [&[HANDSHAKE, 3, 1][..], &bytes, part].concat()
}

pub fn who_are_no_peers(scene: &Scene) {
    let address = scene.world.daemon.address();
    let hello = &client_hello(&scene.villain);
    let say = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    thread::scope(|scope| {
        scope.spawn(|| is_ended_within(&say(&[]), GIVEN_UP_AFTER, "silence"));
        scope.spawn(|| is_ended_within(&say(&hello[..3]), GIVEN_UP_AFTER, "half a header"));
        scope.spawn(|| is_ended_within(&say(&hello[..90]), GIVEN_UP_AFTER, "half a hello"));
        scope.spawn(|| is_ended_within(&say(hello), GIVEN_UP_AFTER, "a hello and no more"));
        scope.spawn(|| a_byte_a_second(say(&[]), hello));
        scope.spawn(|| {
            let half = say(&hello[..90]);
            half.shutdown(std::net::Shutdown::Write).unwrap();
            is_ended_within(&half, AT_ONCE, "half a hello and the end");
        });
        scope.spawn(|| {
            let http = say(b"GET / HTTP/1.1\r\nHost: landro\r\n\r\n");
            is_ended_within(&http, AT_ONCE, "HTTP");
            is_ended_within(&say(&[22, 3, 1, 0xff, 0xff]), AT_ONCE, "a record too long");
            is_ended_within(&say(&[0; 5000]), AT_ONCE, "zeros");
            a_hello_in_pieces(say(&[]), hello);
            a_hello_without_end(say(&[]));
            tls_of_1_2(address);
            noise(scene, hello);
        });
    });
    who_offers_something_else(scene);
}

/// It is a hello, and it is no excuse.
fn a_byte_a_second(mut stream: TcpStream, hello: &[u8]) {
    let mut waited = Duration::ZERO;
    for byte in hello {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_secs(1));
        waited += Duration::from_secs(1);
        assert!(waited < GIVEN_UP_AFTER, "it may go on for ever");
    }
}

/// Records of one byte are allowed, and answered.
fn a_hello_in_pieces(mut stream: TcpStream, hello: &[u8]) {
    let parts = hello[5..].iter().flat_map(|byte| record(&[*byte]));
    stream.write_all(&parts.collect::<Vec<u8>>()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut answer = [0; 1];
    assert_eq!(stream.read(&mut answer).unwrap(), 1);
    assert_eq!(answer, [HANDSHAKE], "no server hello");
}

/// A message of 16 MiB is announced, in records of one byte.
fn a_hello_without_end(mut stream: TcpStream) {
    let begin = [
        record(&[1]),
        record(&[0xff]),
        record(&[0xff]),
        record(&[0xff]),
    ]
    .concat();
    let mut sent = 0;
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut more = begin;
    while sent < 1 << 20 && stream.write_all(&more).is_ok() {
        sent += more.len();
        more = record(&[7]).repeat(100);
    }
    // What it had room for may be on its way; a handshake takes 32 KiB.
    is_ended_within(&stream, AT_ONCE, "a hello without an end");
}

fn tls_of_1_2(address: &str) {
    let mut tls = SslConnector::builder(SslMethod::tls()).unwrap();
    tls.set_verify(SslVerifyMode::NONE);
    tls.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(AT_ONCE)).unwrap();
    let refused = tls.build().connect("landro.invalid", stream);
    let said = refused.expect_err("TLS 1.2 is no TLS here").to_string();
    assert!(said.to_uppercase().contains("ALERT"), "{said}");
}

/// Bits turned over, and bytes that are nothing: whatever comes of it, the daemon goes on.
fn noise(scene: &Scene, hello: &[u8]) {
    let mut rng = Rng::new("noise at the TCP port");
    for round in 0..200 {
        let bytes = match round % 4 {
            0 => rng.bytes(1 + round),
            _ => {
                let mut bent = hello.to_vec();
                for _ in 0..=rng.below(4) {
                    let at = rng.below(bent.len() as u64) as usize;
                    bent[at] ^= 1 << rng.below(8);
                }
                bent
            }
        };
        let mut stream = TcpStream::connect(scene.world.daemon.address()).unwrap();
        // The daemon may have enough before all is said.
        let _ = stream.write_all(&bytes);
    }
}

/// Its TLS is right, and it is still nobody.
fn who_offers_something_else(scene: &Scene) {
    let stranger = Identity::generate().unwrap();
    let landro: &[&[u8]] = &[b"landro/1"];
    for (what, identity, alpn, alert) in [
        (
            "another protocol",
            Some(&scene.villain),
            &[&b"h2"[..]][..],
            Some(120),
        ),
        ("no protocol", Some(&scene.villain), &[], None),
        ("no certificate", None, landro, Some(116)),
        ("nobody's friend", Some(&stranger), landro, Some(49)),
    ] {
        let stream = dial(scene.world.daemon.address(), 1);
        let end = match TlsPeer::shaken(stream, identity, alpn) {
            Ok(mut peer) => peer.wait_end(),
            Err(end) => end,
        };
        match alert {
            Some(alert) => assert_eq!(end, TcpEnd::Alert(alert), "{what}"),
            None => println!("{what}: {end:?}"),
        }
    }
    scene.world.daemon.wait_for_log("not in authorized_peers");
}

/// More handshakes than one address may have under way, and as many from others; nobody who is
/// known is kept out by them.
pub fn crowds(scene: &Scene) {
    landro_sys::process::raise_open_files().unwrap();
    let address = scene.world.daemon.address();
    let hello = client_hello(&scene.villain);
    let mut crowd: Vec<TcpStream> = Vec::new();
    for number in 0..1200 {
        let from = if number % 2 == 0 {
            1
        } else {
            2 + (number / 2 % 100) as u8
        };
        let mut stream = dial(address, from);
        // Half of them are silent, which holds least.
        if number % 4 < 2 {
            let _ = stream.write_all(&hello);
        }
        crowd.push(stream);
        if number % 100 == 99 {
            let mut peer = TlsPeer::connect(address, &scene.villain);
            peer.preface(
                landro::proto::wire::PrefaceKind::New,
                landro::ids::SessionId([number as u8; 16]),
                0,
            );
            peer.turn();
            assert!(!peer.is_over(), "{number} strangers keep it out");
        }
    }
    println!(
        "1200 handshakes over TCP: {} MiB",
        scene.world.daemon.rss_bytes() >> 20
    );
}
