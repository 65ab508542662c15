//! Relays between a client and a peer: one that loses packets, one that is slow, one that is far
//! away, one that becomes narrow, one that can be listened to.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Packets each way that pass anyhow: a handshake is given some seconds, and now and then that is
/// not enough where so much is lost.
const PASS_FIRST: usize = 20;

/// Where it listens for one client of `to`. It loses each packet with this probability, in percent,
/// by a seed.
pub fn lossy(to: SocketAddr, percent: u64, seed: u64) -> SocketAddr {
    let passes = |mut count: u64| {
        let mut seen = 0;
        move |_: &[u8]| {
            seen += 1;
            if seen <= PASS_FIRST {
                return true;
            }
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
    let waits = move |packet: &[u8]| {
        let bytes = packet.len();
        let now = landro::engine::now();
        free_at = free_at.max(now)
            + Duration::from_nanos(bytes as u64 * 1_000_000_000 / bytes_per_second);
        thread::sleep(free_at.saturating_duration_since(now));
        true
    };
    relay(to, waits, |_: &[u8]| true)
}

/// One that every packet takes so long to cross, either way.
pub fn far(to: SocketAddr, one_way: Duration) -> SocketAddr {
    let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = outside.local_addr().unwrap();
    inside.connect(to).unwrap();
    let client = Arc::new(Mutex::new(None));
    let (known, to_outside) = (client.clone(), outside.try_clone().unwrap());
    let to_inside = inside.try_clone().unwrap();
    let up = later(one_way, move |packet| {
        let _ = to_inside.send(&packet);
    });
    let down = later(one_way, move |packet| {
        if let Some(client) = *client.lock().unwrap() {
            let _ = to_outside.send_to(&packet, client);
        }
    });
    thread::spawn(move || {
        let mut packet = [0; 65536];
        while let Ok((len, from)) = outside.recv_from(&mut packet) {
            *known.lock().unwrap() = Some(from);
            up(packet[..len].to_vec());
        }
    });
    thread::spawn(move || {
        let mut packet = [0; 65536];
        while let Ok(len) = inside.recv(&mut packet) {
            down(packet[..len].to_vec());
        }
    });
    at
}

/// Does that with each packet it is given, so much later.
fn later(delay: Duration, act: impl Fn(Vec<u8>) + Send + 'static) -> impl Fn(Vec<u8>) {
    let (queue, packets) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((due, packet)) = packets.recv() {
            let due: Instant = due;
            thread::sleep(due.saturating_duration_since(landro::engine::now()));
            act(packet);
        }
    });
    move |packet| {
        let _ = queue.send((landro::engine::now() + delay, packet));
    }
}

/// One that loses whatever has more bytes than it says at the time.
pub fn narrow(to: SocketAddr, most_bytes: Arc<AtomicUsize>) -> SocketAddr {
    relay(
        to,
        move |packet: &[u8]| packet.len() <= most_bytes.load(Ordering::Relaxed),
        |_: &[u8]| true,
    )
}

/// What passes one that can be listened to.
#[derive(Default)]
pub struct Tapped {
    /// What went up.
    pub up: Mutex<Vec<Vec<u8>>>,
    /// What goes down waits.
    pub is_held: AtomicBool,
}

pub fn tapped(to: SocketAddr, tap: Arc<Tapped>) -> SocketAddr {
    let hold = tap.clone();
    relay(
        to,
        move |packet: &[u8]| {
            tap.up.lock().unwrap().push(packet.to_vec());
            true
        },
        move |_: &[u8]| {
            while hold.is_held.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(1));
            }
            true
        },
    )
}

/// Asks before each packet, up and down, whether it passes.
fn relay(
    to: SocketAddr,
    mut up: impl FnMut(&[u8]) -> bool + Send + 'static,
    mut down: impl FnMut(&[u8]) -> bool + Send + 'static,
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
            if up(&packet[..len]) {
                let _ = to_inside.send(&packet[..len]);
            }
        }
    });
    thread::spawn(move || {
        let mut packet = [0; 65536];
        while let Ok(len) = inside.recv(&mut packet) {
            let client = *client.lock().unwrap();
            if let (true, Some(client)) = (down(&packet[..len]), client) {
                let _ = to_outside.send_to(&packet[..len], client);
            }
        }
    });
    at
}
