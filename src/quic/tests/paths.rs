//! Paths that change under a connection: addresses that move, or are said to; black holes.

use super::*;
use crate::config::MIN_UDP_PAYLOAD_BYTES;

const ELSEWHERE: &str = "192.0.2.77:7777";
const DATA_BYTES: usize = 400_000;

/// One batch of a server, and where it goes.
fn batch(server: &mut Conn) -> Option<(SocketAddr, Vec<Vec<u8>>)> {
    let (mut out, mut runs) = (vec![0; 65_536], Vec::new());
    let filled = server.fill(now(), &mut out, 44, &mut runs)?;
    let cut = |run: &landro_sys::gso::Run| {
        let bytes = &out[run.range.clone()];
        let segment = run.segment_bytes.map_or(bytes.len(), usize::from);
        bytes
            .chunks(segment)
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
    };
    Some((filled.to, runs.iter().flat_map(cut).collect()))
}

/// A server that has data to send, and a client that reads it.
struct Download {
    world: World,
    stream: u64,
    unsent: Option<Bytes>,
    got_bytes: usize,
    /// What arrives where nobody is.
    astray_bytes: usize,
}

impl Download {
    fn new() -> Download {
        let mut world = Pair::new().world().established();
        let stream = world.server().open_uni().unwrap();
        Download {
            world,
            stream,
            unsent: Some(vec![7; DATA_BYTES].into()),
            got_bytes: 0,
            astray_bytes: 0,
        }
    }

    /// The server's packets of a moment, as far as `passes` lets them, to where the client is.
    fn down(&mut self, passes: impl Fn(&[u8]) -> bool) {
        if let Some(data) = self.unsent.take() {
            self.unsent = self.world.server().send(self.stream, data, true).unwrap();
        }
        let client = self.world.client_addr;
        while let Some((to, datagrams)) = batch(self.world.server()) {
            for datagram in datagrams {
                if to != client {
                    self.astray_bytes += datagram.len();
                } else if passes(&datagram) {
                    self.world.deliver_to_client(datagram);
                }
            }
        }
        let mut out = vec![0; 65_536];
        while let Ok(Some((bytes, _))) = self.world.client.read(3, &mut out) {
            self.got_bytes += bytes;
        }
    }

    /// Goes on until all is there, as time goes by.
    fn finish(&mut self, passes: impl Fn(&[u8]) -> bool) {
        for _ in 0..3_000 {
            self.world.client.keep_alive();
            self.world.carry_up();
            self.down(&passes);
            if self.got_bytes == DATA_BYTES {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
            self.world.client.on_timeout(now());
            self.world.server().on_timeout(now());
        }
        panic!("{} of {DATA_BYTES} bytes", self.got_bytes);
    }
}

#[test]
fn what_was_in_flight_to_an_address_that_is_gone_is_sent_again() {
    let mut download = Download::new();
    for number in 0..3 {
        download.down(|_| true);
        download.world.client_addr = SocketAddr::from(([192, 0, 2, 77], 7000 + number));
        // Into the void.
        download.world.carry_up();
        download.down(|_| true);
    }
    download.finish(|_| true);
    let peer = download.world.server().peer_address();
    assert_eq!(peer, download.world.client_addr);
    // None of it is missing from what is counted.
    let server = download.world.server();
    let (path, whole) = (server.snapshot(), server.quiche.stats());
    assert_eq!(
        (
            path.sent_packets,
            path.received_packets,
            path.lost_packets,
            path.retransmitted_frames,
            path.sent_bytes,
            path.received_bytes,
        ),
        (
            whole.sent as u64,
            whole.recv as u64,
            whole.lost as u64,
            whole.retrans as u64,
            whole.sent_bytes,
            whole.recv_bytes,
        )
    );
    assert!(path.sent_bytes as usize > DATA_BYTES && path.rtt > Duration::ZERO);
}

#[test]
fn a_copied_packet_moves_nothing_and_draws_little() {
    let mut download = Download::new();
    let (client, attacker) = (download.world.client_addr, addr(ELSEWHERE));
    let mut copied_bytes = 0;
    for _ in 0..20 {
        download.world.client.keep_alive();
        // The copy overtakes the original, which is then a duplicate.
        for datagram in datagrams(&mut download.world.client) {
            copied_bytes += datagram.len();
            let server = download.world.server.as_mut().unwrap();
            let _ = server.recv(&mut datagram.clone(), attacker);
            let mut original = datagram;
            let _ = server.recv(&mut original, client);
        }
        let before = download.got_bytes;
        download.down(|_| true);
        assert!(download.got_bytes >= before);
        assert_eq!(download.world.server().peer_address(), client);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(
        download.astray_bytes <= 3 * copied_bytes,
        "{} bytes for {copied_bytes}",
        download.astray_bytes
    );
    download.finish(|_| true);
}

#[test]
fn an_answer_from_elsewhere_moves_nothing() {
    let mut download = Download::new();
    let (client, attacker) = (download.world.client_addr, addr(ELSEWHERE));
    download.world.client.keep_alive();
    for mut datagram in datagrams(&mut download.world.client) {
        let _ = download.world.server().recv(&mut datagram, attacker);
    }
    // The question is passed on to the client, whose answer comes from where the client is.
    let (to, asked) = batch(download.world.server()).expect("a question");
    assert_eq!((to, asked.len()), (attacker, 1));
    for datagram in asked {
        download.world.deliver_to_client(datagram);
    }
    download.world.carry_up();
    assert_eq!(download.world.server().peer_address(), client);
    download.finish(|_| true);
    assert_eq!(download.world.server().peer_address(), client);
}

/// Ends a handshake whose first packet came from one address, and all others from another. Gives
/// where the server's packets went meanwhile.
fn moved_handshake(world: &mut World, first: SocketAddr, then: SocketAddr) -> Vec<SocketAddr> {
    world.client_addr = first;
    world.carry_up();
    // The server's first flight goes where nobody is any more.
    datagrams(world.server());
    world.client_addr = then;
    let mut went = Vec::new();
    for _ in 0..400 {
        if world.client.is_established() && world.server().is_established() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        world.client.on_timeout(now());
        world.server().on_timeout(now());
        world.carry_up();
        while let Some((to, datagrams)) = batch(world.server()) {
            went.push(to);
            for datagram in datagrams {
                if to == world.client_addr {
                    world.deliver_to_client(datagram);
                }
            }
        }
    }
    assert_eq!(world.client.state(), ConnState::Established);
    assert_eq!(world.server().state(), ConnState::Established);
    went
}

#[test]
fn a_handshake_is_followed_to_another_address() {
    let mut world = Pair::new().world();
    moved_handshake(&mut world, addr(CLIENT), addr(ELSEWHERE));
    world.pump();
    assert_eq!(world.server().peer_address(), addr(ELSEWHERE));
}

#[test]
fn a_handshake_begun_in_the_name_of_another_sends_him_nothing() {
    let (mut world, victim) = (Pair::new().world(), addr(ELSEWHERE));
    let mut went = moved_handshake(&mut world, victim, addr(CLIENT));
    let server = world.server();
    let stream = server.open_uni().unwrap();
    server
        .send(stream, vec![7; DATA_BYTES].into(), true)
        .unwrap();
    while let Some((to, _)) = batch(world.server()) {
        went.push(to);
    }
    let packets_of = |at| went.iter().filter(|to| **to == at).count();
    assert!(
        packets_of(victim) == 0 && packets_of(addr(CLIENT)) > 0,
        "{went:?}"
    );
}

#[test]
fn packets_shrink_where_large_ones_do_not_arrive_and_grow_again() {
    let mut download = Download::new();
    download.down(|_| true);
    download.world.pump();
    assert_eq!(download.world.server().snapshot().udp_payload_bytes, 1472);
    let narrow = |datagram: &[u8]| datagram.len() <= 1_300;
    download.finish(narrow);
    // What is narrower is found, though nothing is told.
    for _ in 0..4_000 {
        if download.world.server().snapshot().udp_payload_bytes == 1_300 {
            return;
        }
        download.world.client.keep_alive();
        download.world.server().keep_alive();
        download.world.carry_up();
        download.down(narrow);
        std::thread::sleep(Duration::from_millis(1));
        download.world.client.on_timeout(now());
        download.world.server().on_timeout(now());
    }
    panic!("{:?}", download.world.server().snapshot());
}

#[test]
fn a_path_that_only_was_away_is_as_wide_as_before() {
    let mut download = Download::new();
    download.down(|_| true);
    download.world.pump();
    let rounds = std::cell::Cell::new(0);
    download.finish(|_| {
        rounds.set(rounds.get() + 1);
        rounds.get() > 400
    });
    let bytes = download.world.server().snapshot().udp_payload_bytes;
    assert!([MIN_UDP_PAYLOAD_BYTES, 1472].contains(&bytes), "{bytes}");
    download.world.pump();
    assert_eq!(download.world.server().snapshot().udp_payload_bytes, 1472);
}

#[test]
fn what_the_kernel_says_is_obeyed_at_once() {
    let mut download = Download::new();
    download.down(|_| true);
    download.world.pump();
    download.world.server().limit_packets(now(), 1_450);
    download.down(|datagram| {
        assert!(
            datagram.len() <= MIN_UDP_PAYLOAD_BYTES || datagram.len() == 1472,
            "a probe"
        );
        true
    });
    download.finish(|_| true);
}
