//! A relay on a long path: each packet takes its time.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Where it listens for one client of `to`. Each packet is under way for so long.
pub fn slow(to: SocketAddr, one_way: Duration) -> SocketAddr {
    let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = outside.local_addr().unwrap();
    inside.connect(to).unwrap();
    let client = Arc::new(Mutex::new(None));
    let known = client.clone();
    carry(
        outside.try_clone().unwrap(),
        one_way,
        {
            let inside = inside.try_clone().unwrap();
            move |packet| drop(inside.send(packet))
        },
        move |from| *known.lock().unwrap() = Some(from),
    );
    let back = move |packet: &[u8]| {
        let client = *client.lock().unwrap();
        if let Some(client) = client {
            drop(outside.send_to(packet, client));
        }
    };
    carry(inside, one_way, back, |_| {});
    at
}

fn carry(
    from: UdpSocket,
    one_way: Duration,
    send: impl Fn(&[u8]) + Send + 'static,
    heard: impl Fn(SocketAddr) + Send + 'static,
) {
    let (under_way, arrives) = channel::<(std::time::Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut packet = [0; 65536];
        while let Ok((len, peer)) = from.recv_from(&mut packet) {
            heard(peer);
            let at = landro::engine::now() + one_way;
            if under_way.send((at, packet[..len].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        while let Ok((at, packet)) = arrives.recv() {
            thread::sleep(at.saturating_duration_since(landro::engine::now()));
            send(&packet);
        }
    });
}
