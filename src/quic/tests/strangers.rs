//! Routing: steering, strays, version negotiation, stateless reset, garbage.

use super::*;

fn secrets() -> Arc<Secrets> {
    Arc::new(Secrets::fresh(now()))
}

/// The beginning of a long-header packet.
fn long(first: u8, version: u32, dcid: &[u8], scid: &[u8], len: usize) -> Vec<u8> {
    let mut packet = vec![first];
    packet.extend(version.to_be_bytes());
    packet.push(dcid.len() as u8);
    packet.extend(dcid);
    packet.push(scid.len() as u8);
    packet.extend(scid);
    packet.resize(len.max(packet.len()), 0);
    packet
}

/// An id that worker 0 of any number of workers owns.
const FIRST_DCID: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

#[test]
fn ids_carry_their_worker() {
    for workers in [1, 2, 3, 7, 64, 255] {
        for worker in [0, workers / 2, workers - 1] {
            let mut router = Router::new(WorkerId(worker), workers, secrets(), true);
            let mut firsts = std::collections::HashSet::new();
            for key in 0..300 {
                let cid = router.new_cid(key);
                assert_eq!(cid.len(), SERVER_CID_BYTES);
                assert_eq!(cid[0] % workers, worker, "{workers} workers");
                firsts.insert(cid[0]);
            }
            assert!(
                workers > 7 || firsts.len() > 10,
                "the rest of the byte is random"
            );
        }
    }
}

#[test]
fn the_table_finds_and_forgets() {
    let mut router = Router::new(WorkerId(1), 2, secrets(), true);
    let cids: Vec<_> = (0..1_000).map(|key| router.new_cid(key)).collect();
    assert_eq!(router.len(), 1_000);
    let short = |router: &mut Router, cid: &[u8]| {
        let mut packet = [&[0x40], cid, &[0; 12]].concat();
        router.route(&mut packet, addr(CLIENT), addr(SERVER), now(), false)
    };
    for (key, cid) in cids.iter().enumerate() {
        assert!(matches!(short(&mut router, cid), Route::Conn(found) if found == key));
        let mut packet = long(0xe0, 1, cid, b"peer", 50);
        let route = router.route(&mut packet, addr(CLIENT), addr(SERVER), now(), false);
        assert!(matches!(route, Route::Conn(found) if found == key));
    }
    router.remove(999);
    assert!(
        matches!(short(&mut router, &cids[999]), Route::Drop),
        "too short for a reset"
    );
    assert!(matches!(short(&mut router, &cids[998]), Route::Conn(998)));
    let stray = [0; SERVER_CID_BYTES];
    assert!(matches!(
        short(&mut router, &stray),
        Route::Stray(WorkerId(0))
    ));
    assert!(matches!(short(&mut router, &[3; 5]), Route::Drop));
}

#[test]
fn a_second_lane_meets_the_same_worker() {
    let pair = Pair::new();
    let secrets = Arc::clone(&pair.secrets);
    let mut workers: Vec<_> = (0..3)
        .map(|w| Router::new(WorkerId(w), 3, Arc::clone(&secrets), true))
        .collect();
    let mut setup = pair.client_setup();
    let mut client_router = Router::new(WorkerId(2), 9, secrets, false);
    for steer in [0, 1, 2, 77, 255] {
        let (local, peer) = (addr(CLIENT), addr(SERVER));
        let connect = Connect {
            key: 0,
            local,
            peer,
            steer: Some(steer),
            ticket: None,
            now: now(),
        };
        let mut conn = Conn::connect(&mut setup, &mut client_router, connect).unwrap();
        assert_eq!(conn.peer_cid_first_byte(), Some(steer));
        let mut first = datagrams(&mut conn).remove(0);
        for worker in 0..3 {
            let route = workers[usize::from(worker)].route(&mut first, local, peer, now(), false);
            match route {
                Route::New(_) => assert_eq!(worker, steer % 3),
                Route::Stray(owner) => assert_eq!(owner, WorkerId(steer % 3)),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn unknown_versions_are_told_ours_if_they_pay_for_it() {
    let mut router = Router::new(WorkerId(0), 1, secrets(), true);
    let mut short = long(0xc0, 0x1a2a_3a4a, &FIRST_DCID, b"peer", 1_199);
    assert!(matches!(
        router.route(&mut short, addr(CLIENT), addr(SERVER), now(), false),
        Route::Drop
    ));
    let mut full = long(0xc0, 0x1a2a_3a4a, &FIRST_DCID, b"peer", 1_200);
    let Route::Reply(reply) = router.route(&mut full, addr(CLIENT), addr(SERVER), now(), false)
    else {
        panic!("no version negotiation")
    };
    assert!(reply.len() < 100 && reply[0] & 0x80 != 0);
    assert_eq!(reply[1..5], [0; 4]);
    assert_eq!(reply[5..10], *b"\x04peer");
    assert_eq!(reply[10], 8);
    assert_eq!(reply[11..19], FIRST_DCID);
    assert!(reply[19..].chunks(4).any(|version| version == [0, 0, 0, 1]));
    // A negotiation is never answered, and not for ever.
    let mut negotiation = long(0xc0, 0, &FIRST_DCID, b"peer", 1_200);
    assert!(matches!(
        router.route(&mut negotiation, addr(CLIENT), addr(SERVER), now(), false),
        Route::Drop
    ));
    let at = now();
    let replies = (0..1_000)
        .filter(|_| {
            matches!(
                router.route(&mut full.clone(), addr(CLIENT), addr(SERVER), at, false),
                Route::Reply(_)
            )
        })
        .count();
    assert!(replies <= 200, "{replies}");
}

#[test]
fn a_server_of_other_versions_ends_the_connection() {
    let pair = Pair::new();
    let mut world = pair.world();
    let first = datagrams(&mut world.client).remove(0);
    // Same ids, a version we do not speak.
    let (dcid, scid) = (&first[6..22], &first[23..27]);
    let mut negotiation = long(0xc0, 0, scid, dcid, 0);
    negotiation.extend(0xfaceb00c_u32.to_be_bytes());
    world.deliver_to_client(negotiation);
    let ConnState::Closed(CloseReason::Transport(text)) = world.client.state() else {
        panic!("{:?}", world.client.state())
    };
    assert!(text.contains("UnknownVersion"), "{text}");
}

#[test]
fn a_restarted_server_resets_what_it_forgot() {
    let pair = Pair::new();
    let mut world = pair.world().established();
    // The connection is gone, the secrets are not: as when an idle timeout passed unseen.
    world.server_router.remove(3);
    let stream = world.client.open_uni().unwrap();
    world
        .client
        .send(stream, Bytes::from(vec![1; 500]), true)
        .unwrap();
    let mut packet = datagrams(&mut world.client).remove(0);
    let Route::Reply(reset) =
        world
            .server_router
            .route(&mut packet, addr(CLIENT), addr(SERVER), now(), false)
    else {
        panic!("no reset")
    };
    assert!(reset.len() < packet.len() && reset.len() >= 21 && reset[0] & 0xc0 == 0x40);
    // Another id's token is not believed.
    let mut forged = reset.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(
        world
            .client_router
            .route(&mut forged, addr(SERVER), addr(CLIENT), now(), false),
        Route::Drop
    ));
    world.deliver_to_client(reset);
    assert_eq!(
        world.client.state(),
        ConnState::Closed(CloseReason::StatelessReset)
    );
}

#[test]
fn resets_answer_less_than_they_are_asked() {
    let mut router = Router::new(WorkerId(0), 1, secrets(), true);
    let at = now();
    for len in 0..22 {
        assert!(matches!(
            router.route(&mut vec![0x40; len], addr(CLIENT), addr(SERVER), at, false),
            Route::Drop
        ));
    }
    for len in [22, 30, 42, 43, 60, 1_472] {
        let Route::Reply(reset) =
            router.route(&mut vec![0x40; len], addr(CLIENT), addr(SERVER), at, false)
        else {
            panic!("no reset for {len}")
        };
        assert!(reset.len() < len);
        // Two hosts that forgot each other fall silent.
        let mut echo = reset;
        let mut answers = 0;
        while let Route::Reply(next) =
            router.route(&mut echo, addr(CLIENT), addr(SERVER), at, false)
        {
            echo = next;
            answers += 1;
        }
        assert!(answers <= 2);
    }
    let replies = (0..1_000)
        .filter(|_| {
            matches!(
                router.route(&mut [0x40; 100], addr(CLIENT), addr(SERVER), at, false),
                Route::Reply(_)
            )
        })
        .count();
    assert!(replies <= 200, "{replies}");
}

#[test]
fn retry_tokens_are_not_transferable() {
    let pair = Pair::new();
    let mut world = pair.world();
    let mut first = datagrams(&mut world.client).remove(0);
    let Route::Reply(retry) =
        world
            .server_router
            .route(&mut first, addr(CLIENT), addr(SERVER), now(), true)
    else {
        panic!("no Retry")
    };
    assert!(world.server_router.is_empty(), "Retry costs no state");
    world.deliver_to_client(retry);
    let second = datagrams(&mut world.client).remove(0);
    let mut route = |from: &str, after: Duration, demand: bool| {
        world.server_router.route(
            &mut second.clone(),
            addr(from),
            addr(SERVER),
            now() + after,
            demand,
        )
    };
    assert!(matches!(
        route("192.0.2.9:1111", Duration::ZERO, true),
        Route::Drop
    ));
    assert!(matches!(
        route(CLIENT, Duration::from_secs(40), true),
        Route::Drop
    ));
    // Honoured even when the load has gone since.
    assert!(
        matches!(route(CLIENT, Duration::ZERO, false), Route::New(new) if new.address_proven())
    );
    // A server that started since knows nothing of it.
    let mut other = Router::new(WorkerId(0), 1, secrets(), true);
    assert!(matches!(
        other.route(&mut second.clone(), addr(CLIENT), addr(SERVER), now(), true),
        Route::Drop
    ));
}

#[test]
fn garbage_is_dropped() {
    for server in [false, true] {
        let mut router = Router::new(WorkerId(0), 1, secrets(), server);
        let mut random = 0x1234_5678_9abc_def1_u64;
        for round in 0..20_000 {
            let mut packet: Vec<u8> = (0..round % 1_400)
                .map(|_| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random as u8
                })
                .collect();
            let route = router.route(
                &mut packet,
                addr(CLIENT),
                addr(SERVER),
                now(),
                round % 2 == 0,
            );
            assert!(matches!(route, Route::Drop | Route::Reply(_)), "{route:?}");
        }
        assert!(router.is_empty());
    }
    let mut router = Router::new(WorkerId(0), 1, secrets(), true);
    let cases = [
        long(0xc0, 1, &FIRST_DCID[..7], b"peer", 1_200), // id too short for a first flight
        long(0xc0, 1, &FIRST_DCID, b"peer", 1_199),      // too small
        long(0xe0, 1, &FIRST_DCID, b"peer", 1_200),      // Handshake
        long(0xd0, 1, &FIRST_DCID, b"peer", 1_200),      // 0-RTT
        long(0xf0, 1, &FIRST_DCID, b"peer", 1_200),      // Retry
        vec![0xc0, 0, 0, 0, 1, 255],
    ];
    for mut packet in cases {
        assert!(matches!(
            router.route(&mut packet, addr(CLIENT), addr(SERVER), now(), false),
            Route::Drop
        ));
    }
}

#[test]
fn garbage_does_not_harm_an_established_connection() {
    let mut world = Pair::new().world().established();
    let stream = world.client.open_uni().unwrap();
    world
        .client
        .send(stream, Bytes::from_static(b"hello"), true)
        .unwrap();
    let good = datagrams(&mut world.client);
    for at in 0..good[0].len() {
        let mut bad = good[0].clone();
        bad[at] ^= 0x55;
        let _ = world.server().recv(&mut bad, addr(CLIENT));
        let _ = world
            .server()
            .recv(&mut good[0][..at].to_vec(), addr(CLIENT));
    }
    for packet in good {
        world.deliver_to_server(packet);
    }
    let mut out = [0; 10];
    assert_eq!(world.server().read(stream, &mut out), Ok(Some((5, true))));
    assert_eq!(world.server().state(), ConnState::Established);
}
