//! Two connections against each other without sockets: any split of bytes, closes, memory.

mod clear;
mod interop;
mod lies;
mod memory;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::conn::TcpWindows;
use super::hands::Hands;
use super::write_streams::MAX_UNSENT_BYTES;
use super::{CONTROL_STREAM, KernelStep, TcpConn, TcpLimits, TcpSetup};
use crate::carrier::{ACCESS_DENIED, CloseReason, ConnState};
use crate::identity::{Identity, Trust};

const TIMES: TcpLimits = TcpLimits {
    handshake: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    linger: Duration::from_secs(3),
    key_records: 1 << 24,
};

const WINDOWS: TcpWindows = TcpWindows {
    connection_bytes: 1 << 20,
    stream_bytes: 512 << 10,
};

#[allow(clippy::disallowed_methods, reason = "any time would do")]
fn now() -> Instant {
    Instant::now()
}

fn only(whom: &Identity) -> Trust {
    let whom = whom.fingerprint();
    Arc::new(move |peer| *peer == whom)
}

fn nobody() -> Trust {
    Arc::new(|_| false)
}

/// Client and server with a wire in between that cuts as it likes.
struct Pair {
    client: TcpConn,
    server: TcpConn,
    now: Instant,
    /// Bytes that cross at a time, in turn.
    cuts: Vec<usize>,
    at: usize,
}

impl Pair {
    fn new() -> Pair {
        let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let trust = (only(&server), only(&client));
        Pair::of((&client, &server), trust, |_| {})
    }

    fn of(
        (client, server): (&Identity, &Identity),
        (client_trust, server_trust): (Trust, Trust),
        change: impl Fn(&mut TcpSetup),
    ) -> Pair {
        let mut ours = TcpSetup::client(client, client_trust, TIMES).unwrap();
        let mut theirs = TcpSetup::server(server, server_trust, TIMES).unwrap();
        change(&mut ours);
        change(&mut theirs);
        let now = now();
        Pair {
            client: TcpConn::connect(&ours, WINDOWS, now),
            server: TcpConn::accept(&theirs, WINDOWS, now),
            now,
            cuts: vec![usize::MAX],
            at: 0,
        }
    }

    fn established() -> Pair {
        let mut pair = Pair::new();
        pair.run();
        assert_eq!(pair.client.state(), ConnState::Established);
        assert_eq!(pair.server.state(), ConnState::Established);
        pair
    }

    fn cut(&mut self) -> usize {
        self.at += 1;
        self.cuts[self.at % self.cuts.len()].max(1)
    }

    /// Until neither has anything to send.
    fn run(&mut self) {
        loop {
            let cut = self.cut();
            let there = cross(self.now, &mut self.client, &mut self.server, cut);
            let cut = self.cut();
            let back = cross(self.now, &mut self.server, &mut self.client, cut);
            if there + back == 0 {
                return;
            }
        }
    }
}

/// Moves at most so many bytes; how many.
fn cross(now: Instant, from: &mut TcpConn, to: &mut TcpConn, most: usize) -> usize {
    let out = from.outgoing(now);
    let room = to.receive_buffer();
    let bytes = out.len().min(room.len()).min(most);
    room[..bytes].copy_from_slice(&out[..bytes]);
    from.sent(bytes);
    if bytes > 0 {
        to.received(now, bytes);
    }
    bytes
}

/// All that is there of a stream, and whether it ended.
fn read_all(conn: &mut TcpConn, stream: u64) -> (Vec<u8>, bool) {
    let (mut all, mut out) = (Vec::new(), [0; 10_000]);
    while let Ok(Some((bytes, is_end))) = conn.read(stream, &mut out) {
        all.extend_from_slice(&out[..bytes]);
        if is_end {
            return (all, true);
        }
    }
    (all, false)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Sends all of it and reads it at the other side.
fn transfer(pair: &mut Pair, data: &[u8], to_server: bool) -> Vec<u8> {
    let mut stream = None;
    let (mut rest, mut got) = (Some(Bytes::copy_from_slice(data)), Vec::new());
    let mut still = 0;
    loop {
        let (from, to) = match to_server {
            true => (&mut pair.client, &mut pair.server),
            false => (&mut pair.server, &mut pair.client),
        };
        if stream.is_none() {
            stream = from.open_uni();
        }
        if let Some(stream) = stream
            && let Some(data) = rest.take()
        {
            rest = from.send(stream, data, true).unwrap();
        }
        let before = got.len();
        while let Some(readable) = to.readable_next() {
            let (more, is_end) = read_all(to, readable);
            got.extend(more);
            if is_end {
                return got;
            }
        }
        let moved = {
            let cuts = (pair.cut(), pair.cut());
            cross(pair.now, &mut pair.client, &mut pair.server, cuts.0)
                + cross(pair.now, &mut pair.server, &mut pair.client, cuts.1)
        };
        still = if moved > 0 || got.len() > before {
            0
        } else {
            still + 1
        };
        assert!(still < 3, "{} of {}", got.len(), data.len());
    }
}

#[test]
fn both_prove_their_keys() {
    let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let trust = (only(&server), only(&client));
    let mut pair = Pair::of((&client, &server), trust, |_| {});
    assert_eq!(pair.client.open_uni(), None);
    pair.run();
    assert_eq!(pair.client.peer_fingerprint(), Some(server.fingerprint()));
    assert_eq!(pair.server.peer_fingerprint(), Some(client.fingerprint()));
    assert_eq!(pair.client.open_uni(), Some(2));
    assert_eq!(pair.server.open_uni(), Some(3));
    assert_eq!(pair.client.open_uni(), Some(6));
}

#[test]
fn who_is_not_trusted_is_told_so() {
    let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let refused = |by_peer| CloseReason::IdentityRefused {
        by_peer,
        alert: ACCESS_DENIED,
    };
    for server_refuses in [true, false] {
        let trust = match server_refuses {
            true => (only(&server), nobody()),
            false => (nobody(), only(&client)),
        };
        let mut pair = Pair::of((&client, &server), trust, |_| {});
        pair.run();
        let by_client = pair.client.close_reason().unwrap();
        let by_server = pair.server.close_reason().unwrap();
        assert_eq!(by_client, refused(server_refuses));
        assert_eq!(by_server, refused(!server_refuses));
        let (refuser, stranger) = match server_refuses {
            true => (&pair.server, &client),
            false => (&pair.client, &server),
        };
        assert_eq!(refuser.shown_fingerprint(), Some(stranger.fingerprint()));
        assert_eq!(refuser.peer_fingerprint(), None);
        // Nothing is left to be done but to drop it.
        pair.client.ended(pair.now);
        pair.server.ended(pair.now);
        assert!(matches!(pair.client.state(), ConnState::Closed(_)));
        assert!(matches!(pair.server.state(), ConnState::Closed(_)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(24)
    })]

    /// Records and frames are cut anywhere.
    #[test]
    fn data_arrives_whatever_the_cuts(
        cuts in prop::collection::vec(prop_oneof![1..40_usize, 1_000..70_000_usize], 1..8),
        bytes in 0..300_000_usize,
        to_server: bool,
    ) {
        let mut pair = Pair::new();
        pair.cuts = cuts;
        let data = pattern(bytes);
        prop_assert!(transfer(&mut pair, &data, to_server) == data);
    }
}

#[test]
fn more_than_the_windows_arrives_in_both_directions() {
    let mut pair = Pair::established();
    let data = pattern(5 << 20);
    assert!(transfer(&mut pair, &data, true) == data);
    assert!(transfer(&mut pair, &data, false) == data);
    let counters = pair.client.counters();
    // Bulk goes in full records: 16 KiB each.
    assert!(counters.records_sealed < 450, "{counters:?}");
}

#[test]
fn what_waits_leaves_in_one_batch() {
    let mut pair = Pair::established();
    let stream = pair.client.open_uni().unwrap();
    let data = Bytes::from(pattern(MAX_UNSENT_BYTES));
    assert!(pair.client.send(stream, data, false).unwrap().is_none());
    let bytes = pair.client.outgoing(pair.now).len();
    assert!(bytes > MAX_UNSENT_BYTES);
    pair.client.sent(bytes);
    assert_eq!(pair.client.outgoing(pair.now).len(), 0);
}

#[test]
fn what_came_is_in_the_receive_buffer_until_it_is_read() {
    let mut pair = Pair::established();
    let stream = pair.client.open_uni().unwrap();
    let data = Bytes::from(pattern(3_000));
    assert!(pair.client.send(stream, data, false).unwrap().is_none());
    assert!(!pair.server.reads_buffer());
    cross(pair.now, &mut pair.client, &mut pair.server, usize::MAX);
    assert!(pair.server.reads_buffer());
    assert_eq!(read_all(&mut pair.server, stream).0, pattern(3_000));
    assert!(!pair.server.reads_buffer());
}

#[test]
fn keys_are_renewed_under_way() {
    let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let trust = (only(&server), only(&client));
    let mut pair = Pair::of((&client, &server), trust, |setup| {
        setup.limits.key_records = 8
    });
    let data = pattern(3 << 20);
    assert!(transfer(&mut pair, &data, true) == data);
    assert!(transfer(&mut pair, &data, false) == data);
    assert!(pair.client.counters().keys_renewed > 40);
    assert!(pair.server.counters().keys_renewed > 40);
}

#[test]
fn a_kernel_that_takes_no_keys_changes_nothing() {
    for takes_layer in [false, true] {
        let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let trust = (only(&server), only(&client));
        let mut pair = Pair::of((&client, &server), trust, TcpSetup::use_kernel);
        pair.run();
        for conn in [&mut pair.client, &mut pair.server] {
            let mut steps = 0;
            while let Some(step) = conn.kernel_step(pair.now) {
                let takes = takes_layer && matches!(step, KernelStep::Layer);
                assert!(conn.kernel_answered(step, takes));
                steps += 1;
            }
            assert_eq!(steps, if takes_layer { 3 } else { 1 });
            assert!(!conn.is_sealed_by_kernel() && !conn.is_opened_by_kernel());
        }
        let data = pattern(1 << 20);
        assert!(transfer(&mut pair, &data, true) == data);
        assert!(transfer(&mut pair, &data, false) == data);
    }
}

#[test]
fn records_that_the_kernel_has_are_not_taken_back() {
    let mut hands = Hands::Wanted;
    assert!(hands.answered(true) && hands == Hands::Kernel);
    hands = Hands::Due;
    assert!(!hands.answered(false));
}

#[test]
fn control_goes_before_data_and_needs_no_credit_of_it() {
    let mut pair = Pair::established();
    let stream = pair.client.open_uni().unwrap();
    // Nobody reads the data: all of the stream's credit is used up.
    loop {
        let rest = pair
            .client
            .send(stream, Bytes::from(pattern(64 << 10)), false);
        let is_full = rest.unwrap().is_some() && pair.client.unsent_bytes() == 0;
        pair.run();
        if is_full {
            break;
        }
    }
    let message = Bytes::from_static(b"verdict");
    assert_eq!(pair.client.send(CONTROL_STREAM, message, false), Ok(None));
    pair.run();
    assert_eq!(read_all(&mut pair.server, CONTROL_STREAM).0, b"verdict");
    assert_eq!(read_all(&mut pair.server, stream).0.len(), 512 << 10);
    // Reading gives credit again.
    pair.run();
    let more = Bytes::from(pattern(64 << 10));
    assert_eq!(pair.client.send(stream, more, false), Ok(None));
}

#[test]
fn control_is_sealed_before_data_that_waits() {
    let mut pair = Pair::established();
    let stream = pair.client.open_uni().unwrap();
    let data = Bytes::from(pattern(200 << 10));
    assert_eq!(pair.client.send(stream, data, false), Ok(None));
    let message = Bytes::from_static(b"first");
    assert_eq!(pair.client.send(CONTROL_STREAM, message, false), Ok(None));
    // One record and a bit of the next.
    let mut left = 17_000;
    while left > 0 {
        left -= cross(pair.now, &mut pair.client, &mut pair.server, left);
    }
    assert_eq!(read_all(&mut pair.server, CONTROL_STREAM).0, b"first");
}

#[test]
fn delivered_is_what_was_read() {
    let mut pair = Pair::established();
    let stream = pair.client.open_uni().unwrap();
    pair.client
        .send(stream, Bytes::from_static(b"x"), true)
        .unwrap();
    pair.client
        .send(CONTROL_STREAM, Bytes::from_static(b"\0"), true)
        .unwrap();
    assert!(pair.client.send(stream, Bytes::new(), false).is_err());
    pair.run();
    assert!(!pair.client.is_delivered(stream) && !pair.client.is_delivered(CONTROL_STREAM));
    assert_eq!(read_all(&mut pair.server, stream), (vec![b'x'], true));
    assert!(pair.server.read(stream, &mut [0]).is_err());
    pair.run();
    assert!(pair.client.is_delivered(stream));
    assert_eq!(read_all(&mut pair.server, CONTROL_STREAM), (vec![0], true));
    pair.run();
    // Until both directions of it are.
    assert!(!pair.client.is_delivered(CONTROL_STREAM));
    pair.server
        .send(CONTROL_STREAM, Bytes::from_static(b"\0"), true)
        .unwrap();
    pair.run();
    assert_eq!(read_all(&mut pair.client, CONTROL_STREAM), (vec![0], true));
    pair.run();
    assert!(pair.client.is_delivered(CONTROL_STREAM));
    assert!(pair.server.is_delivered(CONTROL_STREAM));
}

#[test]
fn sixty_four_streams_are_open_at_a_time() {
    let mut pair = Pair::established();
    let open: Vec<u64> = std::iter::from_fn(|| pair.client.open_uni()).collect();
    assert_eq!(open.len(), 64);
    for &stream in &open {
        pair.client
            .send(stream, Bytes::from_static(b"ab"), true)
            .unwrap();
    }
    pair.run();
    assert_eq!(pair.client.open_uni(), None);
    assert!(read_all(&mut pair.server, open[7]).1);
    pair.run();
    assert_eq!(pair.client.open_uni(), Some(258));
    assert_eq!(pair.client.open_uni(), None);
}

#[test]
fn a_close_is_told_with_its_words() {
    let mut pair = Pair::established();
    pair.client.close(pair.now, 4, b"shutdown");
    pair.run();
    let told = CloseReason::PeerApp {
        code: 4,
        reason: "shutdown".to_owned(),
    };
    assert_eq!(pair.server.state(), ConnState::Closed(told));
    // The client waits for the server's end, but not for ever.
    assert_eq!(pair.client.state(), ConnState::Closing);
    let linger = pair.client.deadline().unwrap();
    assert!(linger <= pair.now + TIMES.linger);
    pair.client.on_timeout(pair.now + TIMES.linger);
    assert!(matches!(
        pair.client.state(),
        ConnState::Closed(CloseReason::Local { code: 4, .. })
    ));
    assert_eq!(pair.client.deadline(), None);
}

#[test]
fn the_close_of_a_replaced_lane_is_told_behind_its_data() {
    for code in [7, 1] {
        let mut pair = Pair::established();
        let stream = pair.client.open_uni().unwrap();
        let data = Bytes::from(pattern(9_000));
        pair.client.send(stream, data.clone(), true).unwrap();
        cross(pair.now, &mut pair.client, &mut pair.server, usize::MAX);
        pair.client.close(pair.now, code, b"replaced");
        pair.run();
        pair.server.ended(pair.now);
        assert_eq!(pair.server.is_closing(), code != 7);
        assert_eq!(read_all(&mut pair.server, stream), (data.to_vec(), true));
        let told = CloseReason::PeerApp {
            code,
            reason: "replaced".to_owned(),
        };
        assert_eq!(pair.server.state(), ConnState::Closed(told));
    }
}

#[test]
fn what_was_read_is_told_before_the_close() {
    let mut pair = Pair::established();
    let stream = pair.client.open_uni().unwrap();
    pair.client
        .send(stream, Bytes::from_static(b"x"), true)
        .unwrap();
    pair.run();
    assert!(read_all(&mut pair.server, stream).1);
    pair.server.close(pair.now, 7, b"replaced");
    pair.run();
    assert!(pair.client.is_delivered(stream));
}

#[test]
fn an_end_without_a_close_is_a_loss() {
    let mut pair = Pair::established();
    pair.server.ended(pair.now);
    let state = pair.server.state();
    assert!(
        matches!(state, ConnState::Closed(CloseReason::GivenUp(_))),
        "{state:?}"
    );
}

#[test]
fn silence_ends_a_connection_and_a_sign_of_life_keeps_it() {
    let mut pair = Pair::established();
    let start = pair.now;
    pair.now = start + Duration::from_secs(50);
    pair.client.keep_alive();
    pair.run();
    assert_eq!(pair.client.heard_at(), pair.now);
    pair.client.on_timeout(start + Duration::from_secs(70));
    assert!(pair.client.is_established());
    pair.now = start + Duration::from_secs(111);
    pair.client.on_timeout(pair.now);
    let lost = ConnState::Closed(CloseReason::IdleTimeout);
    assert_eq!(pair.client.state(), lost);
}

#[test]
fn a_handshake_ends_in_time() {
    let mut pair = Pair::new();
    pair.server.on_timeout(pair.now + Duration::from_secs(9));
    assert_eq!(pair.server.state(), ConnState::Handshaking);
    assert_eq!(pair.server.deadline(), Some(pair.now + TIMES.handshake));
    pair.server.on_timeout(pair.now + TIMES.handshake);
    let late = ConnState::Closed(CloseReason::HandshakeTimeout);
    assert_eq!(pair.server.state(), late);
}
