//! A relay that lets so many bytes a second through.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Where it listens for one client of `to`. The client's direction is narrow; what the queue of the
/// socket does not hold is lost.
pub fn narrow(to: SocketAddr, bytes_per_second: u64) -> SocketAddr {
    let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = outside.local_addr().unwrap();
    inside.connect(to).unwrap();
    let (to_outside, to_inside) = (outside.try_clone().unwrap(), inside.try_clone().unwrap());
    let client = Arc::new(Mutex::new(None));
    let known = client.clone();
    thread::spawn(move || {
        let mut packet = [0; 65536];
        let mut free_at = landro::engine::now();
        while let Ok((len, from)) = outside.recv_from(&mut packet) {
            *known.lock().unwrap() = Some(from);
            let now = landro::engine::now();
            free_at = free_at.max(now)
                + Duration::from_nanos(len as u64 * 1_000_000_000 / bytes_per_second);
            thread::sleep(free_at.saturating_duration_since(now));
            let _ = to_inside.send(&packet[..len]);
        }
    });
    thread::spawn(move || {
        let mut packet = [0; 65536];
        while let Ok(len) = inside.recv(&mut packet) {
            let client = *client.lock().unwrap();
            if let Some(client) = client {
                let _ = to_outside.send_to(&packet[..len], client);
            }
        }
    });
    at
}
