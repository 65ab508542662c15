//! Datagrams that are no QUIC, or were once.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use super::Scene;
use super::common::tree::Rng;
use super::peer::Peer;

pub fn at_the_port(scene: &Scene) {
    let mut rng = Rng::new("noise");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(scene.world.daemon.address()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut sent_bytes = 0u64;
    let (mut answered_bytes, mut paused_at_bytes) = (0u64, 0u64);
    let mut buffer = [0; 65_536];
    let mut throw = |datagram: &[u8]| {
        // The daemon's socket may be full: then it is lost, as all of this may be.
        if socket.send(datagram).is_ok() {
            sent_bytes += datagram.len() as u64;
        }
        while let Ok(len) = socket.recv(&mut buffer) {
            answered_bytes += len as u64;
        }
        // Most of it must arrive: the daemon's socket holds some megabytes.
        if sent_bytes - paused_at_bytes > 256 << 10 {
            paused_at_bytes = sent_bytes;
            thread::sleep(Duration::from_millis(5));
        }
    };
    for round in 0..3000 {
        let len = rng.below(if round % 10 == 0 { 60_000 } else { 1600 }) as usize;
        throw(&rng.bytes(len));
    }
    // Long headers of other versions, short ones of nobody, coalesced rubbish.
    for _ in 0..500 {
        let mut datagram = rng.bytes(1200);
        datagram[0] |= 0xc0;
        datagram[5] = rng.below(30) as u8;
        throw(&datagram);
        datagram[0] &= 0x7f;
        throw(&datagram);
        datagram[0] |= 0xc0;
        datagram[1..5].copy_from_slice(&[0, 0, 0, 1]);
        throw(&datagram);
    }
    // A real first flight: every beginning of it, bits turned over, tails cut.
    let mut flight = Peer::dial(scene.world.daemon.address(), &scene.villain).first_flight();
    let first = flight.remove(0);
    for len in 0..first.len() {
        throw(&first[..len]);
    }
    for _ in 0..1500 {
        let mut bent = Peer::dial(scene.world.daemon.address(), &scene.villain)
            .first_flight()
            .remove(0);
        for _ in 0..=rng.below(8) {
            let at = rng.below(bent.len() as u64) as usize;
            bent[at] ^= 1 << rng.below(8);
        }
        throw(&bent);
    }
    println!("{sent_bytes} bytes of noise, {answered_bytes} bytes of answers");
    assert!(answered_bytes < 3 * sent_bytes, "it amplifies");
    // The connection that noise of its own is thrown at survives: AEAD sees to that.
    let mut peer = Peer::connect(scene.world.daemon.address(), &scene.villain);
    peer.push("");
    peer.message(&landro::proto::wire::Message::ManifestEnd { entries: 0 });
    while !matches!(
        peer.next_message(),
        Some(landro::proto::wire::Message::Finished {})
    ) {}
}
