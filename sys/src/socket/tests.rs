//! Steering, buffer sizes and options of sockets.

use std::net::UdpSocket as StdSocket;
use std::time::Duration;

use super::*;

/// As workers have them: one has the port alone, and lets the others have it.
fn group(address: &str, count: usize) -> Vec<UdpSocket> {
    let options = |reuse_port| UdpOptions {
        recv_buffer_bytes: 1 << 20,
        send_buffer_bytes: 1 << 20,
        reuse_port,
    };
    let first = UdpSocket::bind(address.parse().unwrap(), &options(false)).unwrap();
    let bound = first.local_addr().unwrap();
    let joins = || UdpSocket::bind(bound, &options(true));
    let error = joins().expect_err("it is alone");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    first.share_port().unwrap();
    let mut sockets = vec![first];
    sockets.extend((1..count).map(|_| joins().unwrap()));
    sockets
}

/// Which socket of the group got the one datagram that is under way.
fn receiver(sockets: &[UdpSocket]) -> usize {
    for _ in 0..500 {
        for (index, socket) in sockets.iter().enumerate() {
            socket.socket.set_nonblocking(true).unwrap();
            let mut buffer = [std::mem::MaybeUninit::uninit(); 100];
            if socket.socket.recv(&mut buffer).is_ok() {
                return index;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the datagram is lost");
}

#[test]
fn packets_go_to_the_socket_their_connection_id_names() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let sockets = group(address, 4);
        sockets[2].steer_by_cid(4).unwrap();
        let to = sockets[0].local_addr().unwrap();
        for first in (0..=255u8).step_by(5) {
            // A client of its own port each time, so that the kernel's hash would spread them.
            let client = StdSocket::bind(address).unwrap();
            let short = [0x40, first, 9, 9];
            let long = [0xc3, 0, 0, 0, 1, 8, first, 9, 9];
            let empty_id = [0xc3, 0, 0, 0, 1, 0, first, 9, 9];
            for (packet, expected) in [
                (&short[..], first % 4),
                (&long[..], first % 4),
                (&empty_id[..], 0),
                (&[0x80], 0),
                (&[0x40], 0),
            ] {
                client.send_to(packet, to).unwrap();
                assert_eq!(receiver(&sockets), usize::from(expected), "{packet:?}");
            }
        }
    }
}

#[test]
fn steering_to_a_socket_not_bound_still_delivers() {
    let sockets = group("127.0.0.1:0", 2);
    sockets[0].steer_by_cid(8).unwrap();
    let client = StdSocket::bind("127.0.0.1:0").unwrap();
    client
        .send_to(&[0x40, 7], sockets[0].local_addr().unwrap())
        .unwrap();
    receiver(&sockets);
    assert!(sockets[0].steer_by_cid(0).is_err());
}

#[test]
fn buffer_sizes_are_in_the_unit_asked_for() {
    let options = UdpOptions {
        recv_buffer_bytes: 100_000,
        send_buffer_bytes: 50_000,
        reuse_port: false,
    };
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    assert_eq!(socket.buffer_sizes().unwrap(), (100_000, 50_000));
    let huge = UdpOptions {
        recv_buffer_bytes: usize::MAX,
        send_buffer_bytes: 0,
        reuse_port: false,
    };
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &huge).unwrap();
    assert!(socket.buffer_sizes().unwrap().0 > 100_000);
    assert!(socket.has_gro() && !socket.is_v6());
}

/// What is there already in a socket's buffer stays; what comes when it is full is counted.
#[test]
fn datagrams_that_find_no_room_are_counted() {
    let options = UdpOptions {
        recv_buffer_bytes: 0,
        send_buffer_bytes: 0,
        reuse_port: false,
    };
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    assert_eq!(socket.dropped_datagrams().unwrap(), 0);
    let client = StdSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..100 {
        let to = socket.local_addr().unwrap();
        client.send_to(&[0; 1200], to).unwrap();
    }
    let dropped = socket.dropped_datagrams().unwrap();
    assert!((1..=100).contains(&dropped), "{dropped}");
}

#[test]
fn only_one_may_bind_without_reuse_port() {
    let options = UdpOptions {
        recv_buffer_bytes: 100_000,
        send_buffer_bytes: 100_000,
        reuse_port: false,
    };
    let first = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let second = UdpSocket::bind(first.local_addr().unwrap(), &options);
    assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn our_own_subnets_are_on_link() {
    for ip in ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1"] {
        assert!(super::is_on_link(ip.parse().unwrap()), "{ip}");
    }
    // TEST-NET-3 and the documentation prefix (RFC 5737, RFC 3849) are nobody's.
    for ip in ["203.0.113.1", "2001:db8::1"] {
        assert!(!super::is_on_link(ip.parse().unwrap()), "{ip}");
    }
}
