//! Data: big transfers by reference, partial writes, windows, resets, packet sizes, lane wear.

use super::*;
use crate::config::PACING_MIN_RTT;

const PIECE_BYTES: usize = 64 * 1024;

/// 64 KiB of which no two are alike in the first bytes.
fn piece(number: usize) -> Bytes {
    let mut bytes = vec![(number % 251) as u8; PIECE_BYTES];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    bytes.into()
}

/// One direction of a transfer: what is still to be offered, what has arrived.
struct Flow {
    stream: u64,
    pieces: usize,
    next: usize,
    waiting: Option<Bytes>,
    received: Vec<u8>,
    checked: usize,
    ended: bool,
    partial_writes: usize,
}

impl Flow {
    fn new(stream: u64, pieces: usize) -> Flow {
        Flow {
            stream,
            pieces,
            next: 0,
            waiting: None,
            received: Vec::new(),
            checked: 0,
            ended: false,
            partial_writes: 0,
        }
    }

    fn push(&mut self, conn: &mut Conn) {
        while self.waiting.is_some() || self.next < self.pieces {
            let data = self.waiting.take().unwrap_or_else(|| {
                self.next += 1;
                piece(self.next - 1)
            });
            let offered = data.len();
            self.waiting = conn
                .send(self.stream, data, self.next == self.pieces)
                .unwrap();
            if let Some(rest) = &self.waiting {
                self.partial_writes += usize::from(rest.len() < offered);
                return;
            }
        }
    }

    fn pull(&mut self, conn: &mut Conn) {
        let mut out = vec![0; PIECE_BYTES];
        while !self.ended {
            let Some((len, fin)) = conn.read(self.stream, &mut out).unwrap_or(None) else {
                return;
            };
            self.received.extend(&out[..len]);
            self.ended = fin;
            while self.received.len() >= PIECE_BYTES {
                assert!(
                    self.received[..PIECE_BYTES] == piece(self.checked),
                    "piece {}",
                    self.checked
                );
                self.received.drain(..PIECE_BYTES);
                self.checked += 1;
            }
        }
    }
}

#[test]
fn a_hundred_megabytes_both_ways_by_reference() {
    let mut world = Pair::new().world().established();
    let pieces = 100_000_000 / PIECE_BYTES;
    let mut up = Flow::new(world.client.open_uni().unwrap(), pieces);
    let mut down = Flow::new(world.server().open_uni().unwrap(), pieces);
    let mut idle = 0;
    while !(up.ended && down.ended) {
        up.push(&mut world.client);
        down.push(world.server());
        let moved = world.carry_up() | world.carry_down();
        up.pull(world.server());
        down.pull(&mut world.client);
        if !moved {
            idle += 1;
            assert!(
                idle < 1_000,
                "stuck at {} and {} pieces",
                up.checked,
                down.checked
            );
            std::thread::sleep(Duration::from_millis(1));
            world.client.on_timeout(now());
            world.server().on_timeout(now());
        }
    }
    assert_eq!((up.checked, down.checked), (pieces, pieces));
    assert!(up.received.is_empty() && down.received.is_empty());
    assert!(up.partial_writes > 10, "{}", up.partial_writes);
    assert_eq!(world.largest, 1472);
    let snapshot = world.client.snapshot();
    assert!(
        snapshot.sent_bytes > 100_000_000 && snapshot.lost_packets < snapshot.sent_packets / 100
    );
    assert!(world.client.packets_sent() > 65_000 && world.client.received_packets() > 65_000);
}

#[test]
fn refused_data_comes_back_whole() {
    let mut world = Pair::new().world().established();
    let stream = world.client.open_uni().unwrap();
    let data = Bytes::from(vec![5; 1 << 20]);
    let rest = world
        .client
        .send(stream, data.clone(), true)
        .unwrap()
        .expect("a window is smaller");
    assert_eq!(world.client.capacity(stream), Ok(0));
    // By reference: what comes back, and what was taken, is the same memory.
    assert_eq!(rest.as_ptr(), data[data.len() - rest.len()..].as_ptr());
    let again = world
        .client
        .send(stream, rest.clone(), true)
        .unwrap()
        .expect("nothing was taken");
    assert_eq!((again.len(), again.as_ptr()), (rest.len(), rest.as_ptr()));
    assert_eq!(world.client.quiche.stats().data_blocked_sent_count, 0);
    assert_eq!(
        world.client.quiche.stats().stream_data_blocked_sent_count,
        0
    );
}

#[test]
fn an_empty_end_and_the_control_stream() {
    let mut world = Pair::new().world().established();
    let control = world.client.open_bidi().unwrap();
    let data = world.client.open_uni().unwrap();
    assert_eq!((control, data), (0, 2));
    assert_eq!(world.client.open_uni(), Some(6));
    assert_eq!(
        world
            .client
            .send(control, Bytes::from_static(b"ask"), false),
        Ok(None)
    );
    assert_eq!(world.client.send(data, Bytes::new(), true), Ok(None));
    world.pump();
    let server = world.server();
    // Control first.
    assert_eq!(
        (server.readable_next(), server.readable_next()),
        (Some(control), Some(data))
    );
    assert_eq!(server.readable_next(), None);
    assert!(server.is_readable(control));
    let mut out = [0; 8];
    assert_eq!(server.read(data, &mut out), Ok(Some((0, true))));
    assert_eq!(server.read(control, &mut out[..1]), Ok(Some((1, false))));
    assert_eq!(server.read(control, &mut out), Ok(Some((2, false))));
    assert_eq!(server.read(control, &mut out), Ok(None));
    assert_eq!(
        server.send(control, Bytes::from_static(b"answer"), true),
        Ok(None)
    );
    world.pump();
    assert_eq!(world.client.read(control, &mut out), Ok(Some((6, true))));
    assert_eq!(
        world.client.send(99 * 4 + 2, Bytes::new(), true),
        Err(StreamError::Unknown)
    );
}

#[test]
fn stops_and_resets_arrive_with_their_codes() {
    let mut world = Pair::new().world().established();
    let (stopped, reset) = (
        world.client.open_uni().unwrap(),
        world.client.open_uni().unwrap(),
    );
    for stream in [stopped, reset] {
        world
            .client
            .send(stream, Bytes::from_static(b"data"), false)
            .unwrap();
    }
    world.pump();
    world.server().shutdown_read(stopped, 17);
    world.client.shutdown_write(reset, 18);
    world.pump();
    assert_eq!(
        world.client.capacity(stopped),
        Err(StreamError::Stopped(17))
    );
    let mut out = [0; 8];
    assert!(world.server().is_readable(reset));
    assert_eq!(
        world.server().read(reset, &mut out),
        Err(StreamError::Reset(18))
    );
    // Again, and on streams that never were: nothing happens.
    world.server().shutdown_read(stopped, 17);
    world.client.shutdown_write(reset, 18);
    world.client.shutdown_write(4_002, 1);
    world.pump();
    assert!(world.client.is_established() && world.server().is_established());
}

/// Bytes a client gets rid of while the server reads nothing. Without pacing: where this machine
/// was so slow that the path looks long, a paced client would wait for a time that nobody here
/// waits for.
fn unread_bytes(world: &mut World, streams: usize) -> usize {
    let streams: Vec<_> = (0..streams)
        .map(|_| world.client.open_uni().unwrap())
        .collect();
    let mut taken = 0;
    loop {
        let before = taken;
        for stream in &streams {
            let data = Bytes::from(vec![0; 1 << 20]);
            let rest = world
                .client
                .send(*stream, data, false)
                .unwrap()
                .map_or(0, |rest| rest.len());
            taken += (1 << 20) - rest;
        }
        world.pump();
        if taken == before {
            return taken;
        }
    }
}

#[test]
fn a_peer_holds_no_more_than_the_grant() {
    for (profile, granted, expected) in [
        (
            QuicConfig::lan_optimized(),
            (1 << 20, 3 << 20),
            (1 << 20, 1 << 20),
        ),
        (QuicConfig::auto(), (16 << 20, 1 << 20), (1 << 20, 1 << 20)),
        (
            QuicConfig::auto(),
            (64 << 20, 64 << 20),
            (32 << 20, 16 << 20),
        ),
        (
            QuicConfig::lan_optimized(),
            (64 << 20, 64 << 20),
            (64 << 20, 16 << 20),
        ),
    ] {
        for (streams, expected) in [(1, expected.1), (8, expected.0)] {
            let mut pair = Pair::new();
            pair.quic = profile.clone();
            pair.quic.pacing = false;
            let mut setup = pair.server_setup();
            setup.set_windows(granted.0, granted.1);
            let mut world = pair
                .world_with(None, pair.client_setup(), setup)
                .established();
            assert_eq!(
                unread_bytes(&mut world, streams),
                expected,
                "{streams} streams of {granted:?}"
            );
        }
    }
}

#[test]
fn what_is_unsent_is_known_again_when_nothing_is_left() {
    let mut pair = Pair::new();
    pair.quic.pacing = false;
    let mut world = pair.world().established();
    let (control, data) = (
        world.client.open_bidi().unwrap(),
        world.client.open_uni().unwrap(),
    );
    world
        .client
        .send(control, Bytes::from_static(b"hello"), false)
        .unwrap();
    world.pump();
    let mut most_bytes = 0;
    for _ in 0..64 {
        let rest = world
            .client
            .send(data, Bytes::from(vec![0; 16 << 10]), false)
            .unwrap();
        assert_eq!(rest, None, "the window is larger than what is on its way");
        most_bytes = most_bytes.max(world.client.unsent_bytes());
        world.pump();
        // Headers are taken for larger than they are: without the look at the window this would
        // grow.
        assert_eq!(world.client.unsent_bytes(), 0);
    }
    assert_eq!(most_bytes, 16 << 10);
}

#[test]
fn packets_grow_to_what_the_path_carries() {
    let grown = |mut quic: QuicConfig, ipv6: bool, interface: Option<usize>, is_on_link| {
        quic.pacing = false;
        let mut pair = Pair::new();
        pair.quic = quic;
        let (local, peer) = match ipv6 {
            true => (addr("[2001:db8::1]:1"), addr("[2001:db8::2]:4433")),
            false => (addr(CLIENT), addr(SERVER)),
        };
        let mut client = pair.client_setup();
        client.tell_on_link(is_on_link);
        if let Some(bytes) = interface {
            client.set_interface_payload(bytes);
        }
        let mut world = pair
            .dial(local, peer, None, &mut client, pair.server_setup())
            .established();
        world.largest = 0;
        unread_bytes(&mut world, 1);
        assert_eq!(world.client.snapshot().udp_payload_bytes, world.largest);
        world.largest
    };
    let full = |quic, ipv6, interface| grown(quic, ipv6, interface, |_| false);
    assert_eq!(full(QuicConfig::auto(), false, None), 1472);
    assert_eq!(full(QuicConfig::auto(), true, None), 1452);
    assert_eq!(
        grown(QuicConfig::lan_optimized(), false, Some(8_972), |_| true),
        8_972
    );
    assert_eq!(
        full(QuicConfig::auto(), true, Some(8_972)),
        1452,
        "across the Internet nothing larger passes"
    );
    assert_eq!(
        grown(QuicConfig::auto(), true, Some(8_972), |_| true),
        8_952,
        "on the same wire it does"
    );
    assert_eq!(full(QuicConfig::wan_optimized(), false, None), 1472);
    let mut fixed = QuicConfig::wan_optimized();
    fixed.mtu_discovery = false;
    assert_eq!(full(fixed, false, None), 1200);
}

#[test]
fn a_path_narrower_than_the_interface_is_found() {
    let pair = Pair::new();
    let mut world = pair.world();
    let mut rounds = 0;
    let stream = loop {
        // A wire that loses every datagram above 1300 bytes.
        for datagram in datagrams(&mut world.client)
            .into_iter()
            .filter(|d| d.len() <= 1_300)
        {
            world.deliver_to_server(datagram);
        }
        for datagram in datagrams(world.server())
            .into_iter()
            .filter(|d| d.len() <= 1_300)
        {
            world.deliver_to_client(datagram);
        }
        if world.client.quiche.pmtu().is_some() {
            break world.client.open_uni().unwrap();
        }
        rounds += 1;
        assert!(rounds < 20_000, "never found");
        world.client.keep_alive();
        std::thread::sleep(Duration::from_micros(200));
        world.client.on_timeout(now());
        world.server().on_timeout(now());
    };
    world
        .client
        .send(stream, Bytes::from(vec![0; 20_000]), true)
        .unwrap();
    let largest = datagrams(&mut world.client).iter().map(Vec::len).max();
    assert_eq!(largest, Some(1_300));
}

#[test]
fn a_lane_wears_out() {
    let mut pair = Pair::new();
    pair.quic.lane_packet_limit = 100;
    pair.quic.pacing = false;
    let mut world = pair.world().established();
    assert!(!world.client.is_worn() && !world.server().is_worn());
    unread_bytes(&mut world, 1);
    assert!(world.client.is_worn() && world.server().is_worn());
}

#[test]
fn a_lane_that_nothing_replaces_closes_before_its_key_is_spent() {
    let mut pair = Pair::new();
    pair.quic.key_packet_limit = 400;
    pair.quic.pacing = false;
    let mut world = pair.world().established();
    let stream = world.client.open_uni().unwrap();
    while !world.client.is_closing() {
        let data = Bytes::from(vec![0; 20_000]);
        world.client.send(stream, data, false).unwrap();
        world.pump();
        assert!(world.client.packets_sent() <= 400);
    }
    assert!(world.client.packets_sent() > 300, "not long before");
    for _ in 0..100 {
        world.client.keep_alive();
        world.pump();
    }
    assert!(world.client.packets_sent() <= 400, "and nothing after");
    assert!(matches!(
        world.client.close_reason(),
        Some(CloseReason::GivenUp(_))
    ));
    assert!(matches!(
        world.server().close_reason(),
        Some(CloseReason::PeerApp {
            code: KEY_SPENT,
            ..
        })
    ));
}

#[test]
fn a_quiet_connection_can_ask_for_a_sign_of_life() {
    let mut world = Pair::new().world().established();
    assert!(datagrams(&mut world.client).is_empty());
    world.client.keep_alive();
    assert_eq!(datagrams(&mut world.client).len(), 1);
}

/// A world whose handshake crossed a path of this delay.
fn handshaken(one_way_ms: u64) -> World {
    let mut world = Pair::new().world();
    while world.carry_up() {
        std::thread::sleep(Duration::from_millis(one_way_ms));
        world.carry_down();
        std::thread::sleep(Duration::from_millis(one_way_ms));
    }
    world
}

#[test]
fn keep_alives_alone_are_no_reason_to_look_for_stuck_streams() {
    let mut world = Pair::new().world().established();
    let stream = world.client.open_bidi().unwrap();
    world
        .client
        .send(stream, Bytes::from_static(b"a request"), false)
        .unwrap();
    world.pump();
    let (mut out, mut runs, mut looks) = (vec![0; 65_536], Vec::new(), 0);
    let (begun, every) = (now(), crate::config::KEEP_ALIVE);
    for keep_alive in 1..=12 {
        let at = begun + every * keep_alive;
        while let Some(due) = world.client.stuck_check().filter(|due| *due < at) {
            assert_eq!(world.client.fill(due, &mut out, 10, &mut runs), None);
            looks += 1;
        }
        world.client.keep_alive();
        let filled = world.client.fill(at, &mut out, 10, &mut runs).unwrap();
        world.deliver_to_server(out[..filled.bytes].to_vec());
        world.carry_down();
    }
    assert!((8..=20).contains(&looks), "{looks}");
    // What is written may get stuck: soon again.
    let at = begun + every * 13;
    world
        .client
        .send(stream, Bytes::from_static(b"another"), false)
        .unwrap();
    world.client.fill(at, &mut out, 10, &mut runs).unwrap();
    assert!(
        world
            .client
            .stuck_check()
            .is_some_and(|due| due < at + Duration::from_millis(30))
    );
}

#[test]
fn slow_paths_are_paced_and_fast_ones_are_not() {
    let is_fast = |world: &World| {
        world
            .client
            .snapshot()
            .min_rtt
            .is_some_and(|rtt| rtt < PACING_MIN_RTT)
    };
    for (one_way_ms, paced) in [(0, false), (10, true)] {
        // A machine that was busy with something else during the handshake made a slow path of the
        // fast one.
        let mut worlds = std::iter::repeat_with(|| handshaken(one_way_ms)).take(1_000);
        let mut world = worlds
            .find(|world| is_fast(world) != paced)
            .expect("no path of that kind");
        let stream = world.client.open_uni().unwrap();
        let mut held = false;
        for _ in 0..5 {
            world
                .client
                .send(stream, Bytes::from(vec![0; 1 << 20]), false)
                .unwrap();
            let packets = datagrams(&mut world.client);
            held |= world.client.release_time(now()).is_some();
            packets
                .into_iter()
                .for_each(|packet| world.deliver_to_server(packet));
            std::thread::sleep(Duration::from_millis(one_way_ms));
            world.carry_down();
        }
        assert_eq!(held, paced, "{one_way_ms} ms");
    }
}

fn written(world: &mut World, stream: u64, bytes: usize) {
    let data = Bytes::from(vec![0; bytes]);
    assert_eq!(world.client.send(stream, data, false), Ok(None));
}

/// A client's stream that is stuck: what it was to send again is acknowledged after all, before its
/// turn, which another had.
fn stuck_stream(world: &mut World, urgency: u8, other: u64) -> u64 {
    let stream = world.client.open_uni().unwrap();
    world.client.prioritise(stream, urgency);
    written(world, stream, 1000);
    let late = datagrams(&mut world.client).remove(0);
    // The peer is busy for so long that what was sent is sent again.
    while world.client.snapshot().probe_timeouts == 0 {
        std::thread::sleep(Duration::from_millis(1));
        world.client.on_timeout(now());
    }
    written(world, other, 1);
    let (mut out, mut runs) = (vec![0; 65_536], Vec::new());
    let filled = world.client.fill(now(), &mut out, 1, &mut runs).unwrap();
    assert!(filled.bytes < 200, "{filled:?}");
    world.deliver_to_server(late);
    world.deliver_to_server(out[..filled.bytes].to_vec());
    world.carry_down();
    stream
}

/// Reads what there is, and gives whose it was.
fn read_all(conn: &mut Conn) -> Vec<u64> {
    let mut streams = Vec::new();
    while let Some(stream) = conn.readable_next() {
        while conn.read(stream, &mut [0; 2048]).unwrap().is_some() {}
        streams.push(stream);
    }
    streams
}

#[test]
fn looking_for_a_stuck_stream_leaves_urgencies_alone() {
    let mut pair = Pair::new();
    (pair.quic.pacing, pair.quic.mtu_discovery) = (false, false);
    let mut world = pair.world().established();
    // It is looked at first, and has nothing to do with it.
    let urgent = world.client.open_uni().unwrap();
    world.client.prioritise(urgent, 1);
    let stuck = stuck_stream(&mut world, 5, urgent);
    let bulk = world.client.open_uni().unwrap();
    world.client.prioritise(bulk, 7);
    written(&mut world, bulk, 1000);
    let (mut out, mut runs) = (vec![0; 65_536], Vec::new());
    assert_eq!(world.client.fill(now(), &mut out, 1, &mut runs), None);
    let due = world.client.stuck_check().unwrap();
    let filled = world.client.fill(due, &mut out, 1, &mut runs).unwrap();
    world.deliver_to_server(out[..filled.bytes].to_vec());
    world.pump();
    read_all(world.server());
    // Each goes where its urgency says, the one that was stuck included.
    for stream in [bulk, stuck, urgent] {
        written(&mut world, stream, 100);
    }
    let mut order = Vec::new();
    for datagram in datagrams(&mut world.client) {
        world.deliver_to_server(datagram);
        order.extend(read_all(world.server()));
    }
    assert_eq!(order, [urgent, stuck, bulk]);
}
