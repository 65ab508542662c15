//! Sockets whose buffer is full: sends wait for room and keep their order. Needs a queue that
//! drains slowly, so it builds one (tbf on the loopback of a network namespace of its own) where it
//! may.

use std::ops::Range;
use std::process::{Command, Stdio};

use super::*;

/// Send runs of the test, of 16 datagrams each.
const RUNS: u32 = 40;

/// Moves this thread to an empty network namespace whose loopback passes 5 Mbit/s: so little that a
/// machine which is busy with something else still fills the buffer faster. `false`: not root, or
/// no tc.
fn slow_loopback() -> bool {
    if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
        return false;
    }
    // Children inherit the thread's namespace.
    let works = |program: &str, arguments: &str| {
        let mut command = Command::new(program);
        let status = command
            .args(arguments.split(' '))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    works("ip", "link set lo up")
        && works("tc", "qdisc add dev lo root tbf rate 5mbit burst 70k limit 10m")
        // tbf cuts what is larger than its burst; a whole run of 44 packets fits.
        && works("ip", "link set lo gso_max_size 65536")
}

/// A run of 16 datagrams in two messages, each datagram with its number among all.
fn numbered(socket: SocketId, to: SocketAddr, token: u32) -> SendRun {
    let mut buffer = SendBuffer::new();
    for (i, datagram) in buffer[..16_000].chunks_mut(1_000).enumerate() {
        datagram[..4].copy_from_slice(&(token * 16 + i as u32).to_ne_bytes());
    }
    SendRun {
        socket,
        buffer,
        runs: [0..8_000, 8_000..16_000].map(thousands).to_vec(),
        to,
        from: None,
    }
}

/// Datagrams of 1,000 bytes.
fn thousands(range: Range<usize>) -> Run {
    Run {
        range,
        segment_bytes: Some(1_000),
    }
}

/// Receives the datagrams of all [`RUNS`] in order.
fn expect_in_order(peer: &std::net::UdpSocket) {
    let mut buffer = [0; 2_000];
    for number in 0..RUNS * 16 {
        assert_eq!(peer.recv(&mut buffer).unwrap(), 1_000);
        assert_eq!(buffer[..4], number.to_ne_bytes());
    }
}

fn fill_and_drop(backend: Backend) {
    if !slow_loopback() {
        eprintln!("skipped: needs root and tc to make a slow network");
        return;
    }
    let (_pool, mut driver) = pool_and_driver(backend);
    let options = UdpOptions {
        send_buffer_bytes: 64 * 1024,
        ..options()
    };
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let socket = driver.add_socket(socket).unwrap();
    let (peer, to) = std_socket("127.0.0.1:0");
    // Room for all of it, since a reader that is kept waiting must lose nothing. Root may
    // have that.
    nix::sys::socket::setsockopt(&peer, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20))
        .unwrap();
    let reader = std::thread::spawn(move || expect_in_order(&peer));
    // 640 KB into a buffer of 128 KB (the kernel doubles it) that drains at 0.6 MB/s.
    for token in 0..RUNS {
        driver.send(token.into(), numbered(socket, to, token));
    }
    driver.submit_and_wait(Some(Duration::ZERO)).unwrap();
    assert!(driver.in_flight() > 0, "the socket was never full");
    let mut tokens = Vec::new();
    while tokens.len() < RUNS as usize {
        let Completion::Sent { token, result, .. } = next(&mut driver) else {
            panic!()
        };
        assert_eq!(result.unwrap(), 16_000);
        tokens.push(token);
    }
    assert!(tokens.is_sorted());
    reader.join().unwrap();
    // Sends that are still waiting when the driver goes.
    for token in 0..100 {
        driver.send(
            token,
            SendRun {
                socket,
                buffer: SendBuffer::new(),
                runs: vec![thousands(0..60_000)],
                to,
                from: None,
            },
        );
    }
    driver.submit_and_wait(Some(Duration::ZERO)).unwrap();
    assert!(driver.in_flight() > 0);
    // Cancelling does not wait ten seconds for the queue to drain.
    #[allow(clippy::disallowed_methods)]
    let start = std::time::Instant::now();
    drop(driver);
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_full_socket_makes_sends_wait_in_order() {
    for backend in backends() {
        // A thread of its own, as the network namespace is the thread's.
        let worker = std::thread::spawn(move || fill_and_drop(backend));
        worker.join().unwrap();
    }
}
