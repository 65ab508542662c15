//! Identities, refusals, resumption, Retry, timeouts and reasons.

use super::*;
use crate::config::Diagnostics;

const REFUSED_BY_PEER: CloseReason = CloseReason::IdentityRefused {
    by_peer: true,
    alert: 49,
};
const REFUSED_BY_US: CloseReason = CloseReason::IdentityRefused {
    by_peer: false,
    alert: 49,
};

#[test]
fn both_sides_know_each_other() {
    let pair = Pair::new();
    let mut world = pair.world().established();
    assert_eq!(
        world.client.peer_fingerprint(),
        Some(pair.server.fingerprint())
    );
    assert_eq!(
        world.server().peer_fingerprint(),
        Some(pair.client.fingerprint())
    );
    assert_eq!((pair.of_server.asked(), pair.of_client.asked()), (1, 1));
    assert!(!world.client.is_resumed());
    assert_eq!(world.client.quiche.source_id().len(), CLIENT_CID_BYTES);
    assert_eq!(world.client.quiche.destination_id().len(), SERVER_CID_BYTES);
    assert_eq!(world.client.quiche.application_proto(), ALPN);
    assert!(world.client.is_established() && world.client.close_reason().is_none());
}

#[test]
fn an_unauthorised_client_is_refused_and_told() {
    let pair = Pair::new();
    pair.of_client.set(false);
    let mut world = pair.world();
    assert_eq!(world.reasons(), (REFUSED_BY_PEER, REFUSED_BY_US));
    assert_eq!(
        world.server().peer_fingerprint(),
        None,
        "it did not get to prove it"
    );
    assert_eq!(world.server().open_uni(), None);
}

#[test]
fn an_unknown_server_is_refused_and_told() {
    let pair = Pair::new();
    pair.of_server.set(false);
    let mut world = pair.world();
    assert_eq!(world.reasons(), (REFUSED_BY_US, REFUSED_BY_PEER));
    assert_eq!(
        world.client.peer_fingerprint(),
        None,
        "it did not get to prove it"
    );
    assert_eq!(world.client.open_uni(), None);
}

/// A ticket from a first connection.
fn ticket(pair: &Pair) -> Vec<u8> {
    let world = pair.world().established();
    world
        .client
        .session_ticket()
        .expect("the server sends tickets")
        .to_vec()
}

#[test]
fn a_ticket_resumes_at_another_worker_and_trust_is_asked_again() {
    let pair = Pair::new();
    let ticket = ticket(&pair);
    // A new server setup: another worker, the same ticket keys.
    let mut world = pair
        .world_with(Some(&ticket), pair.client_setup(), pair.server_setup())
        .established();
    assert!(world.client.is_resumed() && world.server().is_resumed());
    assert_eq!(
        world.client.peer_fingerprint(),
        Some(pair.server.fingerprint())
    );
    assert_eq!(
        world.server().peer_fingerprint(),
        Some(pair.client.fingerprint())
    );
    assert_eq!((pair.of_server.asked(), pair.of_client.asked()), (2, 2));
}

#[test]
fn trust_lost_since_the_ticket_refuses_the_resumed_connection() {
    let pair = Pair::new();
    let ticket = ticket(&pair);
    pair.of_client.set(false);
    let mut world = pair.world_with(Some(&ticket), pair.client_setup(), pair.server_setup());
    assert_eq!(world.reasons(), (REFUSED_BY_PEER, REFUSED_BY_US));

    pair.of_client.set(true);
    pair.of_server.set(false);
    let mut world = pair.world_with(Some(&ticket), pair.client_setup(), pair.server_setup());
    assert_eq!(world.reasons(), (REFUSED_BY_US, REFUSED_BY_PEER));
}

#[test]
fn nothing_is_read_of_a_refused_client() {
    let pair = Pair::new();
    let ticket = ticket(&pair);
    pair.of_client.set(false);
    for ticket in [None, Some(&ticket[..])] {
        let mut world = pair.world_with(ticket, pair.client_setup(), pair.server_setup());
        while world.client.state() == ConnState::Handshaking {
            world.carry_up();
            world.carry_down();
        }
        // The client has not heard yet: its data leaves together with the end of its handshake.
        let stream = world.client.open_bidi().unwrap();
        assert_eq!(
            world
                .client
                .send(stream, Bytes::from_static(b"let me in"), true),
            Ok(None)
        );
        assert_eq!(world.reasons(), (REFUSED_BY_PEER, REFUSED_BY_US));
        assert_eq!(
            (
                world.server().readable_next(),
                world.server().is_readable(stream)
            ),
            (None, false)
        );
        assert_eq!(world.server().read(stream, &mut [0; 9]), Ok(None));
    }
}

#[test]
fn what_came_before_the_close_is_still_read() {
    let mut world = Pair::new().world().established();
    let stream = world.client.open_bidi().unwrap();
    world
        .client
        .send(stream, Bytes::from_static(b"last words"), true)
        .unwrap();
    world.carry_up();
    world.client.close(0, b"");
    world.pump();
    assert_eq!(world.server().state(), ConnState::Closing);
    assert_eq!(world.server().readable_next(), Some(stream));
    assert_eq!(
        world.server().read(stream, &mut [0; 20]),
        Ok(Some((10, true)))
    );
}

#[test]
fn a_client_whose_address_changes_is_followed() {
    let mut world = Pair::new().world().established();
    let stream = world.client.open_uni().unwrap();
    // A NAT forgot it, say: the client notices nothing.
    world.client_addr = addr("192.0.2.77:7777");
    for _ in 0..10 {
        world
            .client
            .send(stream, Bytes::from(vec![0; 10_000]), false)
            .unwrap();
        world.pump();
    }
    let (mut out, mut runs) = ([0; 65_536], Vec::new());
    world.server().keep_alive();
    let filled = world
        .server()
        .fill(now(), &mut out, 10, &mut runs)
        .expect("a keep-alive");
    assert_eq!(filled.to, world.client_addr);
}

#[test]
fn tickets_of_another_process_or_nonsense_mean_a_full_handshake() {
    let mut pair = Pair::new();
    let ticket = ticket(&pair);
    pair.tickets = TicketKeys::random().unwrap();
    for ticket in [&ticket[..], b"nonsense", b""] {
        let world = pair
            .world_with(Some(ticket), pair.client_setup(), pair.server_setup())
            .established();
        assert!(!world.client.is_resumed());
    }
}

#[test]
fn retry_proves_the_address_first() {
    let pair = Pair::new();
    let mut world = pair.world();
    world.demand_retry = true;
    let mut world = world.established();
    // One for each datagram of the first flight, of which the client follows the first.
    assert_eq!(world.retries, 2);
    assert_eq!(world.server_router.len(), 1);
    world.server_router.remove(3);
    assert!(world.server_router.is_empty());
}

#[test]
fn a_peer_that_never_answers_ends_the_handshake() {
    let mut pair = Pair::new();
    pair.quic.handshake_timeout = Duration::from_millis(20);
    let mut world = pair.world();
    let deadline = world.client.timeout().unwrap();
    assert!(deadline <= now() + Duration::from_millis(20));
    datagrams(&mut world.client);
    world.client.on_timeout(deadline - Duration::from_millis(1));
    assert_eq!(world.client.state(), ConnState::Handshaking);
    world.client.on_timeout(deadline);
    assert_eq!(
        world.client.state(),
        ConnState::Closed(CloseReason::HandshakeTimeout)
    );
}

#[test]
fn silence_ends_a_connection() {
    let mut pair = Pair::new();
    pair.quic.idle_timeout = Duration::from_millis(30);
    // quiche stretches idle timeouts to three probe timeouts: let them be short.
    pair.quic.max_ack_delay = Duration::from_millis(1);
    let mut world = pair.world().established();
    let mut waited = 0;
    while world.client.state() == ConnState::Established {
        std::thread::sleep(Duration::from_millis(10));
        world.client.on_timeout(now());
        waited += 1;
        assert!(waited < 500, "idle timeout never came");
    }
    assert_eq!(
        world.client.state(),
        ConnState::Closed(CloseReason::IdleTimeout)
    );
}

#[test]
fn both_learn_why_one_closed() {
    let mut world = Pair::new().world().established();
    world.client.close(42, b"enough");
    assert_eq!(world.client.state(), ConnState::Closing);
    let (client, server) = world.reasons();
    assert_eq!(
        client,
        CloseReason::Local {
            code: 42,
            reason: "enough".to_owned()
        }
    );
    assert_eq!(
        server,
        CloseReason::PeerApp {
            code: 42,
            reason: "enough".to_owned()
        }
    );
    assert!(!world.server().is_established());
    // Closing twice changes nothing; a long reason still leaves.
    world.client.close(1, b"other");
    assert_eq!(world.reasons().0, client);

    let mut world = Pair::new().world().established();
    world.server().close(7, &[b'x'; 5_000]);
    assert!(
        matches!(world.reasons().0, CloseReason::PeerApp { code: 7, reason } if reason.len() == 256)
    );

    // Before the peer is known nothing may be told, but our own reason stands.
    let mut world = Pair::new().world();
    world.client.close(3, b"changed my mind");
    assert_eq!(
        world.client.state(),
        ConnState::Closed(CloseReason::Local {
            code: 3,
            reason: "changed my mind".to_owned()
        })
    );
}

#[test]
fn a_drained_connection_is_closed() {
    let mut world = Pair::new().world().established();
    world.client.close(0, b"");
    world.pump();
    for conn in [&mut world.client, world.server.as_mut().unwrap()] {
        let mut waited = 0;
        while conn.state() == ConnState::Closing {
            std::thread::sleep(Duration::from_millis(5));
            conn.on_timeout(now());
            waited += 1;
            assert!(waited < 1_000, "draining never ended");
        }
        assert!(matches!(conn.state(), ConnState::Closed(_)));
    }
}

#[test]
fn diagnostics_are_written_where_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::new();
    let keys = std::fs::File::create(dir.path().join("keys")).unwrap();
    let qlog = std::fs::File::open(dir.path()).unwrap();
    pair.quic.diagnostics = Some(Arc::new(Diagnostics::new(Some(keys), Some(qlog))));
    drop(pair.world().established());
    let keys = std::fs::read_to_string(dir.path().join("keys")).unwrap();
    assert!(keys.contains("CLIENT_TRAFFIC_SECRET_0") && keys.contains("SERVER_TRAFFIC_SECRET_0"));
    let mut logs = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().ends_with(".sqlog") {
            logs += 1;
            assert!(
                std::fs::read_to_string(entry.path())
                    .unwrap()
                    .contains("packet_sent")
            );
        }
    }
    assert_eq!(logs, 2);
}
