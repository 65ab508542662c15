//! Data of a first flight: who reads it, and who never does.

use super::*;

/// Of a program's protocol: a transfer's is never spoken early.
fn speaking(mut setup: Setup) -> Setup {
    setup.speak(&[b"example/1".to_vec()]).unwrap();
    setup
}

/// A server that allows early data, or not.
fn server_setup(pair: &Pair, allows: bool) -> Setup {
    let mut setup = speaking(pair.server_setup());
    if allows {
        setup.allow_early();
    }
    setup
}

fn early_client(pair: &Pair) -> Setup {
    let mut setup = speaking(pair.client_setup());
    setup.allow_early();
    setup
}

/// What a client gets from such a server.
fn ticket_of(pair: &Pair, allows: bool) -> Vec<u8> {
    let server = server_setup(pair, allows);
    let world = pair.world_with(None, speaking(pair.client_setup()), server);
    let world = world.established();
    world.client.session_ticket().unwrap().to_vec()
}

/// A client that has sent its first flight with a request in it, and that flight.
fn first_flight(pair: &Pair, server: Setup) -> (World, Vec<Vec<u8>>) {
    let ticket = ticket_of(pair, true);
    let mut world = pair.world_with(Some(&ticket), early_client(pair), server);
    let mut flight = datagrams(&mut world.client);
    assert!(world.client.is_early());
    let stream = world.client.open(StreamDirection::Unidirectional).unwrap();
    let request = Bytes::from_static(b"request");
    assert_eq!(world.client.send(stream, request, true), Ok(None));
    flight.extend(datagrams(&mut world.client));
    (world, flight)
}

#[test]
fn a_server_that_allows_it_reads_the_first_flight_as_often_as_it_comes() {
    let pair = Pair::new();
    let (mut world, flight) = first_flight(&pair, server_setup(&pair, true));
    for datagram in flight.clone() {
        world.deliver_to_server(datagram);
    }
    assert!(world.server().is_early());
    assert_eq!(world.server().early_peer(), Some(pair.client.fingerprint()));
    // Nobody's, as far as it is counted.
    assert_eq!(world.server().peer_fingerprint(), None);
    let stream = world.server().readable_next().unwrap();
    let mut out = [0; 16];
    assert_eq!(world.server().read(stream, &mut out), Ok(Some((7, true))));
    let mut world = world.established();
    assert_eq!(world.client.took_early(), Some(true));
    assert_eq!(world.server().took_early(), Some(true));
    // A recording is read again, and gets no further than that.
    let mut world = World {
        server: None,
        server_router: Router::new(WorkerId(0), 1, Arc::clone(&pair.secrets), true),
        server_setup: server_setup(&pair, true),
        ..world
    };
    for datagram in flight {
        world.deliver_to_server(datagram);
    }
    assert!(world.server().is_early() && world.server().readable_next().is_some());
    assert_eq!(world.server().took_early(), None);
}

/// A daemon is such a server.
#[test]
fn a_server_that_does_not_allow_it_reads_nothing_early() {
    let pair = Pair::new();
    let none = ticket_of(&pair, false);
    let server = server_setup(&pair, false);
    let mut world = pair.world_with(Some(&none), early_client(&pair), server);
    datagrams(&mut world.client);
    assert!(!world.client.is_early(), "its tickets are for later");
    // Nor by a ticket of one that does, of the same keys.
    let (mut world, flight) = first_flight(&pair, server_setup(&pair, false));
    for datagram in flight {
        world.deliver_to_server(datagram);
    }
    assert!(!world.server().is_early());
    assert_eq!(world.server().readable_next(), None);
    world.pump();
    // It comes all the same, when the handshake is complete.
    for _ in 0..1_000 {
        if world.server().readable_next().is_some() {
            assert_eq!(world.client.took_early(), Some(false));
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
        world.client.on_timeout(now());
        world.pump();
    }
    panic!("it was lost");
}

#[test]
fn who_is_not_trusted_any_more_is_not_read_early() {
    let pair = Pair::new();
    let (mut world, flight) = first_flight(&pair, server_setup(&pair, true));
    pair.of_client.set(false);
    let asked = pair.of_client.asked();
    for datagram in flight {
        world.deliver_to_server(datagram);
    }
    assert!(pair.of_client.asked() > asked, "trust is asked at once");
    assert!(!world.server().is_early());
    assert_eq!(world.server().readable_next(), None);
    world.pump();
    assert_eq!(world.server().readable_next(), None);
    let refused = world.server().close_reason();
    assert!(matches!(
        refused,
        Some(CloseReason::IdentityRefused { by_peer: false, .. })
    ));
    // And a client sends nothing early to whom it does not trust.
    pair.of_client.set(true);
    let ticket = ticket_of(&pair, true);
    pair.of_server.set(false);
    let server = server_setup(&pair, true);
    let mut world = pair.world_with(Some(&ticket), early_client(&pair), server);
    datagrams(&mut world.client);
    assert!(!world.client.is_early());
    assert_eq!(world.client.open(StreamDirection::Unidirectional), None);
}

#[test]
fn what_leaves_early_is_bounded() {
    let pair = Pair::new();
    let (mut world, _) = first_flight(&pair, server_setup(&pair, true));
    let stream = world.client.open(StreamDirection::Unidirectional).unwrap();
    let data = Bytes::from(vec![0; 1 << 20]);
    let rest = world.client.send(stream, data, true).unwrap().unwrap();
    assert_eq!((1 << 20) - rest.len() + b"request".len(), EARLY_BYTES_MAX);
}

/// One packet for each byte, of which a server looks at so many.
#[test]
fn a_client_that_writes_byte_by_byte_is_let_in() {
    let pair = Pair::new();
    let (mut world, mut flight) = first_flight(&pair, server_setup(&pair, true));
    let stream = world.client.open(StreamDirection::Unidirectional).unwrap();
    let mut taken = 0;
    for _ in 0..100 {
        let rest = world.client.send(stream, Bytes::from_static(b"x"), false);
        taken += usize::from(rest == Ok(None));
        flight.extend(datagrams(&mut world.client));
    }
    assert!(taken < 16, "{taken} writes left early");
    for datagram in flight {
        world.deliver_to_server(datagram);
    }
    assert!(world.server().is_early());
    let mut world = world.established();
    for _ in taken..100 {
        let byte = Bytes::from_static(b"x");
        assert_eq!(world.client.send(stream, byte, false), Ok(None));
    }
    world.pump();
    let mut out = [0; 200];
    assert_eq!(
        world.server().read(stream, &mut out),
        Ok(Some((100, false)))
    );
}

/// A peer that breaks its word loses no more than its early data.
#[test]
fn early_packets_are_not_counted_with_those_of_the_handshake() {
    let pair = Pair::new();
    let (mut world, flight) = first_flight(&pair, server_setup(&pair, true));
    for datagram in flight.clone() {
        world.deliver_to_server(datagram);
    }
    let early = flight.iter().find(|packet| packet[0] & 0x30 == 0x10);
    let early = early.expect("a packet of early data").clone();
    for _ in 0..1_000 {
        world.deliver_to_server(early.clone());
    }
    world.established();
}

#[test]
fn eight_streams_are_opened_early_and_the_others_later() {
    let pair = Pair::new();
    let (mut world, mut flight) = first_flight(&pair, server_setup(&pair, true));
    let request = || Bytes::from(vec![7; 100]);
    for _ in 1..EARLY_STREAMS_MAX {
        let stream = world.client.open(StreamDirection::Bidirectional).unwrap();
        assert_eq!(world.client.send(stream, request(), true), Ok(None));
        flight.extend(datagrams(&mut world.client));
    }
    for direction in [
        StreamDirection::Bidirectional,
        StreamDirection::Unidirectional,
    ] {
        assert_eq!(world.client.open(direction), None);
    }
    let is_refused = |client: &mut Conn| client.send_datagram(b"x") == Err(DatagramRefusal::Full);
    assert!(is_refused(&mut world.client), "a datagram would be lost");
    assert!(!world.client.is_too_heavy() && !world.client.is_full());
    for datagram in flight {
        world.deliver_to_server(datagram);
    }
    assert!(world.server().is_early() && !world.server().is_too_heavy());
    let mut world = world.established();
    assert!(!is_refused(&mut world.client));
    for _ in 0..60 {
        let stream = world.client.open(StreamDirection::Bidirectional).unwrap();
        assert_eq!(world.client.send(stream, request(), true), Ok(None));
    }
    world.pump();
    let readable = std::iter::from_fn(|| world.server().readable_next()).count();
    assert_eq!(readable, EARLY_STREAMS_MAX as usize + 60);
}

/// In words that may be said to who is not known yet (RFC 9000 §10.2.3).
#[test]
fn a_close_before_the_handshake_is_complete_is_told() {
    let pair = Pair::new();
    let (mut world, flight) = first_flight(&pair, server_setup(&pair, true));
    for datagram in flight {
        world.deliver_to_server(datagram);
    }
    // The client has the keys of the handshake then, and the server has not heard from it again.
    world.carry_down();
    assert!(world.server().is_early());
    world.server().close(7, b"not you");
    world.pump();
    let told = world.client.close_reason();
    assert!(
        matches!(told, Some(CloseReason::PeerTransport { code: 0xc, .. })),
        "{told:?}"
    );
    let ours = world.server().close_reason();
    assert!(
        matches!(ours, Some(CloseReason::Local { code: 7, .. })),
        "{ours:?}"
    );
}

/// A transfer's protocol is not spoken early, though another of the same server is.
#[test]
fn a_transfer_never_begins_early() {
    let pair = Pair::new();
    let transfers = |mut setup: Setup| {
        setup
            .speak(&[crate::quic::TRANSFER_PROTOCOL.to_vec()])
            .unwrap();
        setup.allow_early();
        setup
    };
    let server = transfers(pair.server_setup());
    let world = pair.world_with(None, pair.client_setup(), server);
    let ticket = world
        .established()
        .client
        .session_ticket()
        .unwrap()
        .to_vec();
    let server = transfers(pair.server_setup());
    let client = transfers(pair.client_setup());
    let mut world = pair.world_with(Some(&ticket), client, server);
    for datagram in datagrams(&mut world.client) {
        world.deliver_to_server(datagram);
    }
    assert!(!world.client.is_early() && !world.server().is_early());
    let world = world.established();
    assert!(world.client.is_resumed());
}
