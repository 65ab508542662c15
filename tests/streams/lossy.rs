//! Relays between a client and a peer: one that loses packets, one that is slow, one that becomes
//! narrow.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Where it listens for one client of `to`. It loses each packet with this probability, in percent,
/// by a seed.
pub fn lossy(to: SocketAddr, percent: u64, seed: u64) -> SocketAddr {
    let passes = |mut count: u64| {
        move |_| {
            count = count
                .wrapping_mul(6364136223846793005)
                .wrapping_add(seed | 1);
            (count >> 33) % 100 >= percent
        }
    };
    relay(to, passes(seed), passes(seed ^ 0x5eed))
}

/// One that carries so much to the peer and not more; what waits for it is in its socket's buffer.
pub fn slow(to: SocketAddr, bytes_per_second: u64) -> SocketAddr {
    let mut free_at = landro::engine::now();
    let waits = move |bytes: usize| {
        let now = landro::engine::now();
        free_at = free_at.max(now)
            + Duration::from_nanos(bytes as u64 * 1_000_000_000 / bytes_per_second);
        thread::sleep(free_at.saturating_duration_since(now));
        true
    };
    relay(to, waits, |_| true)
}

/// One that loses whatever has more bytes than it says at the time.
pub fn narrow(to: SocketAddr, most_bytes: Arc<AtomicUsize>) -> SocketAddr {
    relay(
        to,
        move |bytes| bytes <= most_bytes.load(Ordering::Relaxed),
        |_| true,
    )
}

/// Asks before each packet of so many bytes, up and down, whether it passes.
fn relay(
    to: SocketAddr,
    mut up: impl FnMut(usize) -> bool + Send + 'static,
    mut down: impl FnMut(usize) -> bool + Send + 'static,
) -> SocketAddr {
    let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = outside.local_addr().unwrap();
    inside.connect(to).unwrap();
    let (to_outside, to_inside) = (outside.try_clone().unwrap(), inside.try_clone().unwrap());
    let client = Arc::new(Mutex::new(None));
    let known = client.clone();
    thread::spawn(move || {
        let mut packet = [0; 65536];
        while let Ok((len, from)) = outside.recv_from(&mut packet) {
            *known.lock().unwrap() = Some(from);
            if up(len) {
                let _ = to_inside.send(&packet[..len]);
            }
        }
    });
    thread::spawn(move || {
        let mut packet = [0; 65536];
        while let Ok(len) = inside.recv(&mut packet) {
            let client = *client.lock().unwrap();
            if let (true, Some(client)) = (down(len), client) {
                let _ = to_outside.send_to(&packet[..len], client);
            }
        }
    });
    at
}
