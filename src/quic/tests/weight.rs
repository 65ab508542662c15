//! What a connection makes us keep: little if the peer is honest, whatever the path does; a bound
//! if not.

use super::super::share::{HANDSHAKE_HEAP_BYTES, MAX_HANDSHAKE_DATAGRAMS, limit_bytes};
use super::*;

/// Small random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Carries everything once, each datagram lost with this chance, neighbours swapped as often.
fn carry_badly(world: &mut World, dice: &mut Dice, lost_percent: u64) -> bool {
    let up = datagrams(&mut world.client);
    let down = world.server.as_mut().map(datagrams).unwrap_or_default();
    let moved = !up.is_empty() || !down.is_empty();
    for (mut sent, to_server) in [(up, true), (down, false)] {
        for at in 1..sent.len() {
            if dice.below(100) < lost_percent {
                sent.swap(at - 1, at);
            }
        }
        for datagram in sent {
            match (dice.below(100) < lost_percent, to_server) {
                (true, _) => {}
                (false, true) => world.deliver_to_server(datagram),
                (false, false) => world.deliver_to_client(datagram),
            }
        }
    }
    moved
}

#[test]
fn a_handshake_is_light_whatever_the_path_does() {
    for seed in 1..=20 {
        let mut dice = Dice(seed);
        let mut world = Pair::new().world();
        let (mut most_client, mut most_server) = (0, 0);
        // Everything arrives twice: what was sent again because an answer was late.
        for _ in 0..200 {
            if world.client.is_established()
                && world.server.as_ref().is_some_and(Conn::is_established)
            {
                break;
            }
            for datagram in datagrams(&mut world.client) {
                for _ in 0..1 + dice.below(2) {
                    world.deliver_to_server(datagram.clone());
                }
            }
            for datagram in world.server.as_mut().map(datagrams).unwrap_or_default() {
                for _ in 0..1 + dice.below(2) {
                    world.deliver_to_client(datagram.clone());
                }
            }
            most_client = most_client.max(world.client.held_bytes());
            most_server = most_server.max(world.server.as_ref().map_or(0, Conn::held_bytes));
        }
        assert!(
            world.client.is_established() && world.server().is_established(),
            "seed {seed}"
        );
        println!("client {most_client} bytes, server {most_server}");
        assert!(
            most_client > 1000 && most_client < HANDSHAKE_HEAP_BYTES / 2,
            "{most_client}"
        );
        assert!(
            most_server > 1000 && most_server < HANDSHAKE_HEAP_BYTES / 2,
            "{most_server}"
        );
        assert!(
            world
                .client
                .share
                .long_headers
                .max(world.server().share.long_headers)
                < MAX_HANDSHAKE_DATAGRAMS / 2
        );
    }
}

/// Reads whatever there is.
fn read_all(conn: &mut Conn, out: &mut [u8]) {
    while let Some(id) = conn.readable_next() {
        while let Ok(Some(_)) = conn.read(id, out) {}
    }
}

#[test]
fn an_honest_transfer_stays_light_and_leaves_nothing() {
    for (lost_percent, seed) in [(0, 1), (2, 2), (5, 3)] {
        let mut dice = Dice(seed);
        let mut world = Pair::new().world().established();
        let (client_idle, server_idle) = (world.client.held_bytes(), world.server().held_bytes());
        let control = world.client.open_bidi().unwrap();
        let (mut sent, mut streams, mut most_client, mut most_server) = (0usize, 0u64, 0, 0);
        let mut stream = None;
        let mut out = vec![0; 64 << 10];
        // 300 streams one after the other, and a control message with each.
        while streams < 300 {
            // Else it would try for ever.
            let closed = (world.client.close_reason(), world.server().close_reason());
            assert!(
                matches!(closed, (None, None)),
                "{lost_percent} % lost, stream {streams}: {closed:?}"
            );
            let fresh = |id| (id, Bytes::from(vec![1; 48 << 10]));
            stream = stream.or_else(|| world.client.open_uni().map(fresh));
            if let Some((id, data)) = stream.take() {
                let before = data.len();
                // What the window has no room for is kept: all of it at once may never fit.
                let rest = world.client.send(id, data, true).unwrap();
                sent += before - rest.as_ref().map_or(0, Bytes::len);
                stream = rest.map(|rest| (id, rest));
                if stream.is_none() {
                    streams += 1;
                    let _ = world
                        .client
                        .send(control, Bytes::from(vec![2; 1000]), false);
                }
            }
            if !carry_badly(&mut world, &mut dice, lost_percent) {
                std::thread::sleep(Duration::from_millis(1));
                world.client.on_timeout(now());
                world.server().on_timeout(now());
            }
            most_client = most_client.max(world.client.held_bytes());
            most_server = most_server.max(world.server().held_bytes());
            read_all(world.server(), &mut out);
        }
        for _ in 0..2000 {
            read_all(world.server(), &mut out);
            if !carry_badly(&mut world, &mut dice, 0) {
                world.client.keep_alive();
                world.server().keep_alive();
                std::thread::sleep(Duration::from_millis(1));
                world.client.on_timeout(now());
                world.server().on_timeout(now());
            }
        }
        let client = &mut world.client;
        client.sending.outgoing.forget_delivered(&mut client.quiche);
        let (client, server) = (world.client.held_bytes(), world.server().held_bytes());
        println!(
            "{lost_percent} % lost: {sent} bytes; client {client_idle}, {most_client} at most, {client}"
        );
        println!("server {server_idle}, {most_server} at most, {server}");
        assert!(sent > 1 << 20);
        assert!(
            most_client < limit_bytes(0) && most_server < limit_bytes(0),
            "far from any bound"
        );
        assert!(
            client < client_idle + (256 << 10) && server < server_idle + (64 << 10),
            "it adds up"
        );
    }
}

#[test]
fn unread_data_of_a_whole_window_is_no_offence() {
    let mut pair = Pair::new();
    pair.quic.pacing = false;
    let mut setup = pair.server_setup();
    setup.set_windows(8 << 20, 8 << 20);
    let mut world = pair
        .world_with(None, pair.client_setup(), setup)
        .established();
    let stream = world.client.open_uni().unwrap();
    let mut dice = Dice(7);
    let mut sent = 0;
    // Pieces of 300 bytes, each a packet of its own, one in twenty late.
    while sent < 8 << 20 {
        match world
            .client
            .send(stream, Bytes::from(vec![0; 300]), false)
            .unwrap()
        {
            None => sent += 300,
            Some(_)
                if world.client.capacity(stream) == Ok(0)
                    && !carry_badly(&mut world, &mut dice, 5) =>
            {
                std::thread::sleep(Duration::from_millis(1));
                world.client.on_timeout(now());
                if world.server().held_bytes() > 8 << 20 {
                    break;
                }
            }
            Some(_) => {}
        }
        carry_badly(&mut world, &mut dice, 5);
    }
    println!("{sent} bytes unread: {} kept", world.server().held_bytes());
    assert!(world.server().held_bytes() > sent && !world.server().is_too_heavy());
}

#[test]
fn packets_that_are_never_acknowledged_are_too_heavy() {
    let mut pair = Pair::new();
    pair.quic.pacing = false;
    // Congestion control is not what bounds it.
    pair.quic.initial_window_packets = 1_000_000;
    let mut setup = pair.server_setup();
    setup.set_windows(0, 0);
    let mut world = pair
        .world_with(None, pair.client_setup(), setup)
        .established();
    let mut packets = 0;
    while !world.server().is_too_heavy() {
        assert!(
            packets < 200_000,
            "{} bytes kept",
            world.server().held_bytes()
        );
        packets += 1;
        // Every second packet arrives, and each answer has one range more.
        for arrives in [false, true] {
            world.client.keep_alive();
            for datagram in datagrams(&mut world.client).into_iter().filter(|_| arrives) {
                world.deliver_to_server(datagram);
            }
        }
        let _ = datagrams(world.server());
    }
    let held = world.server().held_bytes();
    println!("{packets} packets");
    assert!(
        packets > 1000 && held < limit_bytes(0) + (64 << 10),
        "{packets} packets, {held} bytes"
    );
}

#[test]
fn data_waits_while_what_is_in_flight_weighs_too_much() {
    let mut world = Pair::new().world().established();
    let stream = world.client.open_uni().unwrap();
    world.client.share.window_bytes = 0;
    assert_eq!(
        world
            .client
            .send(stream, Bytes::from_static(b"some"), false),
        Ok(None)
    );
    let ballast = limit_bytes(0) as i64;
    {
        let _scale = world.client.quiche.act();
        landro_sys::weigh::add(ballast / 8 * 7);
    }
    assert!(!world.client.is_too_heavy());
    let rest = world
        .client
        .send(stream, Bytes::from_static(b"more"), true)
        .unwrap();
    assert_eq!(rest, Some(Bytes::from_static(b"more")), "comes back whole");
    {
        let _scale = world.client.quiche.act();
        landro_sys::weigh::add(-ballast / 8 * 7);
    }
    assert_eq!(
        world.client.send(stream, Bytes::from_static(b"more"), true),
        Ok(None)
    );
}

#[test]
fn control_messages_weigh_until_they_are_acknowledged() {
    let mut world = Pair::new().world().established();
    let control = world.client.open_bidi().unwrap();
    let before = world.client.held_bytes();
    let mut out = vec![0; 64 << 10];
    for _ in 0..200 {
        let idle = world.client.held_bytes();
        assert_eq!(
            world
                .client
                .send(control, Bytes::from(vec![0; 5_000]), false),
            Ok(None)
        );
        assert!(
            world.client.held_bytes() >= idle + 5_000,
            "it weighs what it is long"
        );
        for _ in 0..3 {
            world.pump();
            while let Ok(Some(_)) = world.server().read(control, &mut out) {}
            world.server().keep_alive();
        }
    }
    let held = world.client.held_bytes();
    assert!(
        held < before + (32 << 10),
        "{held} bytes after a megabyte, {before} before"
    );
}

#[test]
fn a_window_grows_for_who_fills_it_and_is_read() {
    let mut pair = Pair::new();
    pair.quic.pacing = false;
    pair.quic.initial_window_packets = 10_000;
    let mut setup = pair.server_setup();
    setup.set_windows(64 << 10, 1 << 20);
    let mut world = pair
        .world_with(None, pair.client_setup(), setup)
        .established();
    let stream = world.client.open_uni().unwrap();
    let mut out = vec![0; 64 << 10];
    let mut most = 0;
    let mut way_back = Duration::from_millis(10);
    for _ in 0..200 {
        let round = now();
        while world
            .client
            .send(stream, Bytes::from(vec![0; 64 << 10]), false)
            .unwrap()
            .is_none()
        {}
        world.carry_up();
        let mut unread = 0;
        while let Ok(Some((bytes, _))) = world.server().read(stream, &mut out) {
            unread += bytes;
        }
        most = most.max(unread);
        // The windows of stream and connection, both a megabyte, are renewed when less than half is
        // left, and may take turns at that: each round carries half of them then.
        if most >= 512 << 10 {
            break;
        }
        // A window grows where its updates are less than two round trips apart, of which an average
        // is known. So the way back takes much longer than what both sides ever computed in a
        // round: a busy machine interrupts some of them.
        let on_the_way = datagrams(world.server());
        way_back = way_back.max(4 * (now() - round));
        std::thread::sleep(way_back);
        for datagram in on_the_way {
            world.deliver_to_client(datagram);
        }
    }
    assert!(
        (512 << 10..=1 << 20).contains(&most),
        "{most} bytes at a time"
    );
}
