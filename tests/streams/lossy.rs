//! A relay that loses packets.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;

/// Where it listens for one client of `to`. It loses each packet with this probability, in percent,
/// by a seed.
pub fn lossy(to: SocketAddr, percent: u64, seed: u64) -> SocketAddr {
    let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = outside.local_addr().unwrap();
    inside.connect(to).unwrap();
    let (to_outside, to_inside) = (outside.try_clone().unwrap(), inside.try_clone().unwrap());
    let client = Arc::new(std::sync::Mutex::new(None));
    let known = client.clone();
    let loses = move |count: &mut u64| {
        *count = count
            .wrapping_mul(6364136223846793005)
            .wrapping_add(seed | 1);
        (*count >> 33) % 100 < percent
    };
    thread::spawn(move || {
        let (mut packet, mut count) = ([0; 65536], seed);
        while let Ok((len, from)) = outside.recv_from(&mut packet) {
            *known.lock().unwrap() = Some(from);
            if !loses(&mut count) {
                let _ = to_inside.send(&packet[..len]);
            }
        }
    });
    thread::spawn(move || {
        let (mut packet, mut count) = ([0; 65536], seed ^ 0x5eed);
        while let Ok(len) = inside.recv(&mut packet) {
            let client = *client.lock().unwrap();
            if let (false, Some(client)) = (loses(&mut count), client) {
                let _ = to_outside.send_to(&packet[..len], client);
            }
        }
    });
    at
}
