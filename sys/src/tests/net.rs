//! Sockets: sizes, errors, sources, steering, and what happens when buffers run out.

use super::*;

fn one(range: std::ops::Range<usize>) -> Vec<Run> {
    vec![Run {
        range,
        segment_bytes: None,
    }]
}

#[test]
fn errors_of_a_send_are_results_and_the_socket_goes_on() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (v4, v4_address) = add(&mut driver, "127.0.0.1:0");
        let (peer, to) = std_socket("127.0.0.1:0");
        let errno = |result: std::io::Result<usize>| result.unwrap_err().raw_os_error();
        assert_eq!(
            errno(send(&mut driver, v4, &[], one(0..65_530), to)),
            Some(libc::EMSGSIZE)
        );
        let v6 = "[::1]:9".parse().unwrap();
        assert_eq!(
            errno(send(&mut driver, v4, &[], one(0..10), v6)),
            Some(libc::EAFNOSUPPORT)
        );
        // Nothing to send, and runs that are none.
        assert_eq!(send(&mut driver, v4, &[], vec![], to).unwrap(), 0);
        assert_eq!(send(&mut driver, v4, &[], one(7..7), to).unwrap(), 0);
        assert!(send(&mut driver, v4, &[], one(0..SendBuffer::BYTES + 1), to).is_err());
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = one(9..7);
        assert!(send(&mut driver, v4, &[], backwards, to).is_err());
        let zero = vec![Run {
            range: 0..10,
            segment_bytes: Some(0),
        }];
        assert!(send(&mut driver, v4, &[], zero, to).is_err());
        // The first error counts, the rest is sent all the same.
        let runs = [0..3, 0..65_530, 3..5]
            .map(|range| Run {
                range,
                segment_bytes: None,
            })
            .to_vec();
        assert_eq!(
            errno(send(&mut driver, v4, b"hello", runs, to)),
            Some(libc::EMSGSIZE)
        );
        let mut buffer = [0; 100];
        assert_eq!(peer.recv(&mut buffer).unwrap(), 3);
        assert_eq!(peer.recv(&mut buffer).unwrap(), 2);
        assert_eq!(driver.in_flight(), 0);
        // A port nobody listens on answers with ICMP; receiving goes on.
        let (_held, closed) = closed_port();
        for _ in 0..3 {
            let _ = send(&mut driver, v4, b"nobody", one(0..6), closed);
        }
        peer.send_to(b"still here", v4_address).unwrap();
        assert_eq!(receive(&mut driver, 1), [b"still here"]);
    }
}

#[test]
fn more_segments_than_the_kernel_takes_go_one_by_one() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (socket, _) = add(&mut driver, "127.0.0.1:0");
        let (peer, to) = std_socket("127.0.0.1:0");
        // 200 segments: over UDP_MAX_SEGMENTS of every kernel (64, then 128), so it answers EINVAL.
        let payload: Vec<u8> = (0..2_000u32).map(|i| (i / 10) as u8).collect();
        let runs = vec![Run {
            range: 0..1_995,
            segment_bytes: Some(10),
        }];
        assert_eq!(
            send(&mut driver, socket, &payload, runs, to).unwrap(),
            1_995
        );
        let mut buffer = [0; 100];
        for i in 0..200usize {
            let len = peer.recv(&mut buffer).unwrap();
            assert_eq!((len, buffer[0]), (if i == 199 { 5 } else { 10 }, i as u8));
        }
    }
}

#[test]
fn a_dual_stack_socket_shows_and_takes_plain_v4() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (socket, address) = add(&mut driver, "[::]:0");
        let (peer, peer_address) = std_socket("127.0.0.1:0");
        peer.send_to(
            b"over v4",
            (std::net::Ipv4Addr::new(127, 0, 0, 2), address.port()),
        )
        .unwrap();
        let Completion::Received(received) = next(&mut driver) else {
            panic!()
        };
        assert_eq!(
            (received.from(), received.to()),
            (peer_address, Some("127.0.0.2".parse().unwrap()))
        );
        assert_eq!(
            (received.payload(), received.truncated(), received.socket()),
            (&b"over v4"[..], false, socket)
        );
        // The answer must come from the address that was asked.
        let mut buffer = SendBuffer::new();
        buffer[..6].copy_from_slice(b"answer");
        driver.send(
            1,
            SendRun {
                socket,
                buffer,
                runs: one(0..6),
                to: received.from(),
                from: received.to(),
            },
        );
        driver.recycle(received);
        let Completion::Sent {
            token: 1,
            result: Ok(6),
            ..
        } = next(&mut driver)
        else {
            panic!()
        };
        let mut buffer = [0; 100];
        let (len, from) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..len], from),
            (&b"answer"[..], ([127, 0, 0, 2], address.port()).into())
        );
        // And v6 on the same socket.
        let (peer, peer_address) = std_socket("[::1]:0");
        peer.send_to(b"over v6", (std::net::Ipv6Addr::LOCALHOST, address.port()))
            .unwrap();
        let Completion::Received(received) = next(&mut driver) else {
            panic!()
        };
        assert_eq!(
            (received.from(), received.to()),
            (peer_address, Some("::1".parse().unwrap()))
        );
        assert!(route_to(peer_address, None).unwrap().local.is_loopback());
        assert!(
            route_to("127.0.0.1:9".parse().unwrap(), None)
                .unwrap()
                .mtu_bytes
                > 1500
        );
    }
}

#[test]
fn receiving_goes_on_when_buffers_come_back() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (_, address) = add(&mut driver, "127.0.0.1:0");
        let (peer, _) = std_socket("127.0.0.1:0");
        // More messages than the 8 receive buffers; sizes that GRO cannot join, as loopback does
        // not do it anyway.
        for i in 0..30u8 {
            peer.send_to(&vec![i; 100 + usize::from(i)], address)
                .unwrap();
        }
        let mut held = Vec::new();
        while held.len() < 8 {
            if let Completion::Received(received) = next(&mut driver) {
                held.push(received);
            }
        }
        driver
            .submit_and_wait(Some(Duration::from_millis(5)))
            .unwrap();
        assert!(
            driver.next_completion().is_none(),
            "no buffer is left to receive into"
        );
        let first: Vec<u8> = held
            .drain(..)
            .map(|received| received.payload()[0])
            .collect();
        assert_eq!(first, (0..8).collect::<Vec<u8>>());
        let rest = receive(&mut driver, 22);
        assert!(
            rest.iter()
                .zip(8u8..)
                .all(|(datagram, i)| *datagram == vec![i; 100 + usize::from(i)])
        );
    }
}

#[test]
fn a_run_arrives_as_one_message() {
    for backend in backends() {
        for (from, to) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:0", "[::1]:0"),
            ("[::]:0", "127.0.0.1:0"),
        ] {
            let (_pool, mut driver) = pool_and_driver(backend);
            let (sender, _) = add(&mut driver, from);
            let (_, to) = add(&mut driver, to);
            let mut buffer = SendBuffer::new();
            for (i, segment) in buffer.chunks_mut(1_472).enumerate() {
                segment.fill(i as u8);
            }
            // What QUIC sends: 44 full packets; then 30 and a shorter one.
            let runs = vec![
                Run {
                    range: 0..44 * 1_472,
                    segment_bytes: Some(1_472),
                },
                Run {
                    range: 0..30 * 1_472 + 100,
                    segment_bytes: Some(1_472),
                },
            ];
            driver.send(
                0,
                SendRun {
                    socket: sender,
                    buffer,
                    runs,
                    to,
                    from: None,
                },
            );
            let (mut messages, mut sent) = (Vec::new(), 0);
            while messages.len() < 2 || sent == 0 {
                match next(&mut driver) {
                    Completion::Received(received) => messages.push(received),
                    Completion::Sent { result, .. } => sent = result.unwrap(),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(sent, 74 * 1_472 + 100);
            for (message, len) in messages.iter_mut().zip([44 * 1_472, 30 * 1_472 + 100]) {
                assert_eq!(
                    (message.payload().len(), message.segment_bytes()),
                    (len, 1_472)
                );
                let mut segments = message.payload_mut().chunks(1_472).zip(0u8..);
                assert!(segments.all(|(segment, i)| segment.iter().all(|&byte| byte == i)));
            }
        }
    }
}

#[test]
fn empty_datagrams_are_skipped() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (_, address) = add(&mut driver, "127.0.0.1:0");
        let (peer, _) = std_socket("127.0.0.1:0");
        for _ in 0..50 {
            peer.send_to(b"", address).unwrap();
        }
        peer.send_to(b"x", address).unwrap();
        assert_eq!(receive(&mut driver, 1), [b"x"]);
    }
}

#[test]
fn datagrams_to_one_peer_keep_their_order() {
    for backend in backends() {
        let (_pool, mut driver) = pool_and_driver(backend);
        let (socket, _) = add(&mut driver, "127.0.0.1:0");
        let peers = [std_socket("127.0.0.1:0"), std_socket("127.0.0.1:0")];
        // More runs than the queue has entries.
        for i in 0..200u64 {
            let mut buffer = SendBuffer::new();
            buffer[0] = i as u8;
            let to = peers[(i % 2) as usize].1;
            driver.send(
                i,
                SendRun {
                    socket,
                    buffer,
                    runs: one(0..1),
                    to,
                    from: None,
                },
            );
        }
        assert_eq!(driver.in_flight(), 200);
        let mut tokens = [Vec::new(), Vec::new()];
        for _ in 0..200 {
            let Completion::Sent {
                token,
                result: Ok(1),
                ..
            } = next(&mut driver)
            else {
                panic!()
            };
            tokens[(token % 2) as usize].push(token);
        }
        assert!(tokens.iter().all(|tokens| tokens.is_sorted()));
        for (odd, (peer, _)) in peers.iter().enumerate() {
            let mut buffer = [0; 10];
            for i in 0..100 {
                peer.recv(&mut buffer).unwrap();
                assert_eq!(usize::from(buffer[0]), i * 2 + odd);
            }
        }
    }
}

#[test]
fn a_connected_socket_tells_of_a_closed_port_and_receives_on() {
    for backend in backends() {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let (_pool, mut driver) = pool_and_driver(backend);
            let any = if ip.starts_with('[') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any.parse().unwrap(), &options()).unwrap();
            let (peer, peer_address) = std_socket(ip);
            socket.connect(peer_address).unwrap();
            let own = socket.local_addr().unwrap();
            assert!(
                own.ip().is_loopback(),
                "the address that packets leave from is known now"
            );
            let id = driver.add_socket(socket).unwrap();
            drop(peer);
            // Either the receive gets it or the next send; which is the kernel's affair.
            let mut sent_refused = false;
            for token in 0.. {
                assert!(token < 1_000, "nobody tells");
                let runs = one(0..6);
                driver.send(
                    token,
                    SendRun {
                        socket: id,
                        buffer: SendBuffer::new(),
                        runs,
                        to: peer_address,
                        from: None,
                    },
                );
                match next(&mut driver) {
                    Completion::Refused { socket, error } => {
                        assert_eq!(
                            (socket, error.raw_os_error()),
                            (id, Some(libc::ECONNREFUSED))
                        );
                        break;
                    }
                    Completion::Sent {
                        result: Err(error), ..
                    } => {
                        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
                        sent_refused = true;
                        break;
                    }
                    _ => {}
                }
            }
            println!(
                "{backend} {ip}: {}",
                if sent_refused {
                    "the send"
                } else {
                    "the receive"
                }
            );
            let peer = std::net::UdpSocket::bind(peer_address).unwrap();
            peer.send_to(b"back", own).unwrap();
            assert_eq!(receive(&mut driver, 1), [b"back"]);
        }
    }
}
