//! Which keys are exchanged, whoever the other side is, and a first flight of two datagrams.

use super::*;

const HYBRID: &str = "X25519MLKEM768";
const CLASSICAL: &str = "X25519";

/// An initial RTT by which probes come soon.
const SOON: Duration = Duration::from_millis(1);

/// What both sides agreed on.
fn agreed(world: &mut World) -> [Option<&'static str>; 2] {
    let server = world.server.as_mut().expect("the server accepted");
    [&mut world.client, server].map(|conn| {
        let mut quiche = conn.quiche.act();
        let tls: &mut boring::ssl::SslRef = quiche.as_mut();
        assert!(!tls.used_hello_retry_request(), "a round trip more");
        tls.curve_name()
    })
}

/// Setups of a client and a server that have these alone.
fn setups(pair: &Pair, client: Option<&str>, server: Option<&str>) -> (Setup, Setup) {
    let mut setups = (pair.client_setup(), pair.server_setup());
    for (setup, curves) in [(&mut setups.0, client), (&mut setups.1, server)] {
        if let Some(curves) = curves {
            setup.quiche.set_curves_list(curves).unwrap();
        }
    }
    setups
}

#[test]
fn two_of_ours_agree_on_what_a_quantum_computer_does_not_open() {
    let pair = Pair::new();
    let mut world = pair.world().established();
    assert_eq!(agreed(&mut world), [Some(HYBRID); 2]);
    // A resumed session exchanges keys anew.
    let ticket = world.client.session_ticket().unwrap().to_vec();
    let mut world = pair
        .world_with(Some(&ticket), pair.client_setup(), pair.server_setup())
        .established();
    assert!(world.client.is_resumed());
    assert_eq!(agreed(&mut world), [Some(HYBRID); 2]);
}

#[test]
fn a_peer_that_has_only_x25519_connects_without_a_further_round_trip() {
    let pair = Pair::new();
    for (client, server) in [(Some(CLASSICAL), None), (None, Some(CLASSICAL))] {
        let (client, server) = setups(&pair, client, server);
        let mut world = pair.world_with(None, client, server).established();
        assert_eq!(agreed(&mut world), [Some(CLASSICAL); 2]);
    }
}

#[test]
fn a_first_flight_of_two_datagrams_may_arrive_in_any_order() {
    let pair = Pair::new();
    let mut world = pair.world();
    let first = datagrams(&mut world.client);
    assert_eq!(first.len(), 2);
    assert!(first.iter().all(|datagram| datagram.len() == 1_200));
    for order in [&[0, 1][..], &[1, 0], &[0, 0, 1], &[1, 1, 0]] {
        let mut world = pair.world();
        let first = datagrams(&mut world.client);
        for at in order {
            world.deliver_to_server(first[*at].clone());
            // An answer to half of it: no more than it may cost, and nothing that breaks.
            world.carry_down();
        }
        let mut world = world.established();
        assert_eq!(world.server_router.len(), 1, "{order:?}");
        assert_eq!(agreed(&mut world), [Some(HYBRID); 2]);
    }
}

/// The half that arrives is acknowledged, which tells the path's RTT and what is missing: nobody
/// waits for a probe timeout that was guessed, as for a first flight that is lost whole.
#[test]
fn half_a_first_flight_that_is_lost_is_soon_sent_again() {
    for lost in 0..2 {
        let mut world = Pair::new().world();
        let first = datagrams(&mut world.client);
        world.deliver_to_server(first[1 - lost].clone());
        let begun = now();
        while !(world.client.is_established() && world.server().is_established()) {
            world.pump();
            let server = world.server.as_mut().unwrap();
            for conn in [&mut world.client, server] {
                if conn.timeout().is_some_and(|at| at <= now()) {
                    conn.on_timeout(now());
                }
            }
            std::thread::sleep(Duration::from_millis(1));
            let waited = now() - begun;
            assert!(waited < Duration::from_millis(900), "{lost} was lost");
        }
        println!("{lost} was lost: {:?}", now() - begun);
    }
}

#[test]
fn half_a_first_flight_gets_no_more_than_three_times_itself() {
    let mut pair = Pair::new();
    pair.quic.initial_rtt = SOON;
    for half in 0..2 {
        let mut world = pair.world();
        let first = datagrams(&mut world.client).swap_remove(half);
        world.deliver_to_server(first);
        let mut answered = 0;
        // With nothing more from the client, and each probe that is due.
        for _ in 0..60 {
            let server = world.server();
            answered += datagrams(server).iter().map(Vec::len).sum::<usize>();
            server.on_timeout(now());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(answered <= 3 * 1_200, "{answered} bytes for 1,200");
    }
}

/// What a handshake was.
#[derive(Default)]
struct Cost {
    bytes: [usize; 2],
    datagrams: [usize; 2],
    took: [Duration; 2],
}

fn measured(pair: &Pair, curves: &str, ticket: Option<&[u8]>) -> (Cost, World) {
    let (client, server) = setups(pair, Some(curves), Some(curves));
    let mut cost = Cost::default();
    let begun = now();
    let mut world = pair.world_with(ticket, client, server);
    cost.took[0] += now() - begun;
    loop {
        let begun = now();
        let up = datagrams(&mut world.client);
        cost.took[0] += now() - begun;
        let begun = now();
        for datagram in &up {
            world.deliver_to_server(datagram.clone());
        }
        let down = datagrams(world.server());
        cost.took[1] += now() - begun;
        let begun = now();
        for datagram in &down {
            world.deliver_to_client(datagram.clone());
        }
        cost.took[0] += now() - begun;
        for (side, sent) in [&up, &down].into_iter().enumerate() {
            cost.datagrams[side] += sent.len();
            cost.bytes[side] += sent.iter().map(Vec::len).sum::<usize>();
        }
        // Probes for larger packets come behind it.
        if world.client.is_established() && world.server().is_established() {
            return (cost, world);
        }
    }
}

/// Prints what docs/performance.md says of the key exchange.
#[test]
#[ignore = "prints figures: cargo test -p landro --lib what_a_key_exchange_costs -- --ignored --nocapture"]
fn what_a_key_exchange_costs() {
    const ROUNDS: usize = 400;
    let mut pair = Pair::new();
    pair.quic.mtu_discovery = false;
    pair.quic.udp_payload_bytes = 1_200;
    for is_resumed in [false, true] {
        let mut took: Vec<[Vec<Duration>; 2]> = vec![Default::default(); 2];
        for round in 0..ROUNDS {
            for (at, curves) in [CLASSICAL, HYBRID].into_iter().enumerate() {
                let (_, mut world) = measured(&pair, curves, None);
                world.pump();
                let ticket = world.client.session_ticket().unwrap().to_vec();
                let (cost, _) = measured(&pair, curves, is_resumed.then_some(&ticket[..]));
                for (times, took) in took[at].iter_mut().zip(cost.took) {
                    times.push(took);
                }
                if round == 0 {
                    println!(
                        "{curves}, resumed {is_resumed}: bytes {:?}, datagrams {:?}",
                        cost.bytes, cost.datagrams
                    );
                }
            }
        }
        for (curves, took) in [CLASSICAL, HYBRID].into_iter().zip(&mut took) {
            for (side, took) in ["client", "server"].into_iter().zip(took) {
                took.sort_unstable();
                let quarters = [1, 2, 3].map(|quarter| took[ROUNDS * quarter / 4]);
                println!("{curves}, resumed {is_resumed}, {side}: quartiles {quarters:?}");
            }
        }
    }
}

/// Prints what a daemon holds for each handshake of a stranger who says no more.
#[test]
#[ignore = "prints figures: cargo test -p landro --lib what_half_a_handshake_holds -- --ignored --nocapture"]
fn what_half_a_handshake_holds() {
    const EACH: usize = 1_000;
    let pair = Pair::new();
    let mut router = Router::new(WorkerId(0), 1, Arc::clone(&pair.secrets), true);
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        4_096 * pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    let mut held: Vec<Conn> = Vec::new();
    for (curves, is_measured) in [
        (CLASSICAL, false),
        (HYBRID, false),
        (CLASSICAL, true),
        (HYBRID, true),
    ] {
        let (mut client, mut server) = setups(&pair, Some(curves), Some(curves));
        let before = resident();
        let at = held.len();
        for _ in 0..EACH {
            let key = held.len();
            let secrets = Arc::clone(&pair.secrets);
            let mut client_router = Router::new(WorkerId(0), 1, secrets, false);
            let (local, peer) = (addr(SERVER), addr(CLIENT));
            let connect = Connect {
                key: 0,
                local: peer,
                peer: local,
                steer: None,
                ticket: None,
                now: now(),
            };
            let mut dialled = Conn::connect(&mut client, &mut client_router, connect).unwrap();
            for mut datagram in datagrams(&mut dialled) {
                if let Route::New(new) = router.route(&mut datagram, peer, local, now(), false) {
                    let accept = Accept {
                        key,
                        new,
                        local,
                        peer,
                        now: now(),
                    };
                    held.push(Conn::accept(&mut server, &mut router, accept).unwrap());
                }
                held[key].recv(&mut datagram, peer).unwrap();
            }
            datagrams(&mut held[key]);
        }
        if is_measured {
            let weighed: u64 = held[at..].iter().map(Conn::held_bytes).sum();
            let (grown, weighed) = ((resident() - before) / EACH, weighed / EACH as u64);
            println!("{curves}: {grown} bytes each, of which {weighed} are weighed");
        }
    }
}
