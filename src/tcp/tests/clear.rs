//! Lanes in the clear: who is let in, and what somebody on the wire can do to one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Pair, TIMES, WINDOWS, nobody, now, only, pattern, read_all};
use crate::carrier::{ALTERED, CloseReason, ConnState};
use crate::identity::Identity;
use crate::ids::{Fingerprint, SessionId};
use crate::tcp::clear::HEADER_BYTES;
use crate::tcp::conn::TcpPhase;
use crate::tcp::frame::TcpFrame;
use crate::tcp::{CONTROL_STREAM, ClearLane, ClearPass, ClearPasses, TcpConn, TcpSetup};

const SESSION: SessionId = SessionId([3; 16]);
const LANE: u32 = 5;
const CLIENT: Fingerprint = Fingerprint([1; 32]);
const SERVER: Fingerprint = Fingerprint([2; 32]);

/// What is said around the data of a file, and how much data there is.
const SAID: &[u8] = b"said, and under a code of its own";
const BULK_BYTES: usize = 3000;

fn pass(secret: [u8; 32], peer: Fingerprint) -> ClearPass {
    ClearPass {
        session: SESSION,
        lane: LANE,
        secret,
        peer,
    }
}

/// A server's passes: of one lane, once.
fn passes() -> ClearPasses {
    let was_used = AtomicBool::new(false);
    ClearPasses {
        find: Arc::new(|session, lane| {
            let is_it = session == SESSION && lane == LANE;
            is_it.then(|| pass([9; 32], CLIENT))
        }),
        take: Arc::new(move |_, _| !was_used.swap(true, Ordering::Relaxed)),
    }
}

fn clear_pair(client_pass: ClearPass) -> Pair {
    let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let ours = TcpSetup::client(&client, nobody(), TIMES).unwrap();
    let mut theirs = TcpSetup::server(&server, nobody(), TIMES).unwrap();
    theirs.admit_clear(passes());
    let now = now();
    Pair {
        client: TcpConn::connect_clear(&ours, client_pass, WINDOWS, now),
        server: TcpConn::accept(&theirs, WINDOWS, now),
        now,
        cuts: vec![usize::MAX],
        at: 0,
    }
}

/// What happens to the bytes of one direction, from some byte on.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    Flip(u8),
    Insert,
    Remove,
    /// So many bytes and those behind them change places.
    Swap(usize),
    Twice(usize),
}

/// One direction of the wire.
struct Wire {
    passed: usize,
    mischief: Option<(usize, Mischief)>,
}

impl Wire {
    fn pass(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let before = self.passed;
        self.passed += bytes.len();
        let Some((at, mischief)) = self.mischief.filter(|(at, _)| *at >= before) else {
            return bytes;
        };
        if at >= self.passed {
            return bytes;
        }
        let at = at - before;
        let most = bytes.len() - at;
        match mischief {
            Mischief::Flip(bits) => bytes[at] ^= bits,
            Mischief::Insert => bytes.insert(at, 0x5a),
            Mischief::Remove => drop(bytes.remove(at)),
            Mischief::Swap(len) => bytes[at..at + (2 * len).min(most)].rotate_left(len.min(most)),
            Mischief::Twice(len) => {
                let again = bytes[at..at + len.min(most)].to_vec();
                bytes.splice(at..at, again);
            }
        }
        bytes
    }
}

fn carry(now: std::time::Instant, from: &mut TcpConn, to: &mut TcpConn, wire: &mut Wire) -> bool {
    let out = from.outgoing(now).to_vec();
    from.sent(out.len());
    let is_something = !out.is_empty();
    let bytes = wire.pass(out);
    let mut rest = &bytes[..];
    while !rest.is_empty() && !to.is_closing() {
        let room = to.receive_buffer();
        let taken = rest.len().min(room.len());
        room[..taken].copy_from_slice(&rest[..taken]);
        to.received(now, taken);
        rest = &rest[taken..];
    }
    is_something
}

/// A client sends one stream over a wire on which something happens in one direction. Gives what
/// the server read, why either closed, and how many bytes crossed.
fn sends_through(
    mischief: Option<(usize, Mischief)>,
    is_to_server: bool,
) -> (Vec<u8>, [Option<CloseReason>; 2], usize) {
    let mut pair = clear_pair(pass([9; 32], SERVER));
    let wire = |is_it: bool| Wire {
        passed: 0,
        mischief: mischief.filter(|_| is_it),
    };
    let (mut there, mut back) = (wire(is_to_server), wire(!is_to_server));
    let (mut stream, mut got) = (None, Vec::new());
    loop {
        let Pair {
            client,
            server,
            now,
            ..
        } = &mut pair;
        if stream.is_none() {
            stream = client.open_uni();
            if let Some(stream) = stream {
                let (said, bulk) = (Bytes::from_static(SAID), Bytes::from(pattern(BULK_BYTES)));
                client.send(stream, said.clone(), false).unwrap();
                client.send_bulk(stream, bulk).unwrap();
                client.send(stream, said, true).unwrap();
            }
        }
        let is_carried = carry(*now, client, server, &mut there);
        while let Some(readable) = server.readable_next() {
            got.extend(read_all(server, readable).0);
        }
        if !carry(*now, server, client, &mut back) && !is_carried {
            break;
        }
    }
    let reasons = [pair.client.close_reason(), pair.server.close_reason()];
    (
        got,
        reasons,
        [there.passed, back.passed][usize::from(!is_to_server)],
    )
}

#[test]
fn both_prove_that_they_have_the_secret() {
    let mut pair = clear_pair(pass([9; 32], SERVER));
    assert_eq!(pair.server.peer_fingerprint(), None);
    pair.run();
    for (conn, peer) in [(&pair.client, SERVER), (&pair.server, CLIENT)] {
        assert_eq!(conn.state(), ConnState::Established);
        assert_eq!(conn.peer_fingerprint(), Some(peer));
        let lane = ClearLane {
            session: SESSION,
            lane: LANE,
        };
        assert_eq!(conn.clear_lane(), Some(lane));
    }
}

#[test]
fn without_the_secret_nobody_gets_in() {
    let wrong = [
        pass([8; 32], SERVER),
        ClearPass {
            lane: LANE + 1,
            ..pass([9; 32], SERVER)
        },
        ClearPass {
            session: SessionId([4; 16]),
            ..pass([9; 32], SERVER)
        },
    ];
    for pass in wrong {
        let mut pair = clear_pair(pass);
        pair.run();
        assert!(!pair.client.is_established() && !pair.server.is_established());
        assert_eq!(pair.server.peer_fingerprint(), None);
        assert_eq!(pair.server.open_uni(), None);
    }
}

#[test]
fn tls_is_what_it_was_where_both_may_come() {
    let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let trust = (only(&server), only(&client));
    let mut pair = Pair::of((&client, &server), trust, |setup| {
        setup.admit_clear(passes());
    });
    pair.run();
    assert_eq!(pair.server.peer_fingerprint(), Some(client.fingerprint()));
    assert_eq!(pair.server.clear_lane(), None);
}

#[test]
fn what_is_no_tls_is_refused_where_nothing_goes_in_the_clear() {
    let mut pair = clear_pair(pass([9; 32], SERVER));
    let server = Identity::generate().unwrap();
    let setup = TcpSetup::server(&server, nobody(), TIMES).unwrap();
    pair.server = TcpConn::accept(&setup, WINDOWS, pair.now);
    pair.run();
    assert!(!pair.server.is_established() && pair.server.is_closing());
    assert!(!pair.server.is_clear());
}

/// What was said before cannot be said again: to the same server, or back to who said it.
#[test]
fn a_handshake_cannot_be_replayed() {
    let mut pair = clear_pair(pass([9; 32], SERVER));
    let mut said = Vec::new();
    for _ in 0..4 {
        let out = pair.client.outgoing(pair.now).to_vec();
        pair.client.sent(out.len());
        said.extend(&out);
        let room = pair.server.receive_buffer();
        room[..out.len()].copy_from_slice(&out);
        pair.server.received(pair.now, out.len());
        super::cross(pair.now, &mut pair.server, &mut pair.client, usize::MAX);
    }
    assert!(pair.server.is_established());
    let mut again = clear_pair(pass([9; 32], SERVER)).server;
    again.receive_buffer()[..said.len()].copy_from_slice(&said);
    again.received(pair.now, said.len());
    assert!(again.is_closing() && again.peer_fingerprint().is_none());
}

/// Whatever one change does: what is said arrives as it was said or not at all, and both sides know
/// whose fault it is. Only bytes of files may be others, for which their digest is there.
#[test]
fn whatever_is_changed_on_the_wire_is_noticed() {
    let sent = [SAID, &pattern(BULK_BYTES), SAID].concat();
    let bulk = SAID.len()..SAID.len() + BULK_BYTES;
    let mischiefs = [
        Mischief::Flip(1),
        Mischief::Flip(0x80),
        Mischief::Insert,
        Mischief::Remove,
        Mischief::Swap(7),
        Mischief::Twice(30),
    ];
    let mut changed = 0;
    for is_to_server in [true, false] {
        let (got, _, bytes) = sends_through(None, is_to_server);
        assert_eq!(got, sent);
        for at in 0..bytes {
            for mischief in mischiefs {
                let (got, reasons, _) = sends_through(Some((at, mischief)), is_to_server);
                let what = format!("{mischief:?} at {at}: {reasons:?}");
                assert!(got.len() <= sent.len(), "{what}");
                let wrong = (0..got.len()).filter(|at| got[*at] != sent[*at]);
                let wrong: Vec<usize> = wrong.collect();
                assert!(wrong.iter().all(|at| bulk.contains(at)), "{what}");
                changed += usize::from(!wrong.is_empty());
                for reason in reasons.into_iter().flatten() {
                    assert!(is_of_the_wire(&reason), "{what}");
                }
            }
        }
    }
    assert!(changed > BULK_BYTES, "data goes without a code");
}

/// Of a lane that is lost by what others did, or of one that never came to be.
fn is_of_the_wire(reason: &CloseReason) -> bool {
    match reason {
        CloseReason::Local { code, .. } | CloseReason::PeerApp { code, .. } => *code == ALTERED,
        CloseReason::Transport(what) => {
            what.contains("without the secret") || what.contains("not TLS")
        }
        _ => false,
    }
}

/// Both hellos are answered, and the second who proves to have the secret is one too many.
#[test]
fn a_pass_lets_one_connection_in() {
    let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let ours = TcpSetup::client(&client, nobody(), TIMES).unwrap();
    let mut theirs = TcpSetup::server(&server, nobody(), TIMES).unwrap();
    theirs.admit_clear(passes());
    let now = now();
    let mut pairs = [(), ()].map(|()| Pair {
        client: TcpConn::connect_clear(&ours, pass([9; 32], SERVER), WINDOWS, now),
        server: TcpConn::accept(&theirs, WINDOWS, now),
        now,
        cuts: vec![usize::MAX],
        at: 0,
    });
    for pair in &mut pairs {
        super::cross(now, &mut pair.client, &mut pair.server, usize::MAX);
        super::cross(now, &mut pair.server, &mut pair.client, usize::MAX);
    }
    let [first, second] = &mut pairs;
    first.run();
    second.run();
    assert!(first.server.is_established());
    assert!(second.server.is_closing() && second.server.peer_fingerprint().is_none());
}

/// Who has said that the lane is over reads nothing more, and whoever is on the wire is not to.
#[test]
fn nothing_follows_the_peers_close() {
    let mut pair = clear_pair(pass([9; 32], SERVER));
    pair.run();
    let stream = pair.client.open_uni().unwrap();
    let data = Bytes::from(pattern(BULK_BYTES));
    pair.client.send_bulk(stream, data).unwrap();
    pair.server.close(pair.now, ALTERED, b"altered");
    super::cross(pair.now, &mut pair.server, &mut pair.client, usize::MAX);
    assert!(pair.client.is_closing());
    assert_eq!(pair.client.outgoing(pair.now), b"");
    assert!(matches!(pair.client.state(), ConnState::Closed(_)));
}

/// What a server says to a client with the secret that does not keep to the rules.
fn lies_with(said: &[u8], bulk: &[u8]) -> Option<CloseReason> {
    let mut pair = clear_pair(pass([9; 32], SERVER));
    pair.run();
    let TcpPhase::Clear(keys) = &mut pair.client.phase else {
        panic!("not admitted");
    };
    let mut record = vec![0; HEADER_BYTES];
    record.extend(said);
    keys.seal.end_said(&mut record, 0, bulk.len());
    record.extend(bulk);
    pair.server.receive_buffer()[..record.len()].copy_from_slice(&record);
    pair.server.received(pair.now, record.len());
    pair.server.close_reason()
}

#[test]
fn records_that_say_nothing_are_refused() {
    let refused = CloseReason::Transport("a record that says nothing".to_owned());
    assert_eq!(lies_with(b"", b""), Some(refused.clone()));
    assert_eq!(lies_with(b"", b"bulk"), Some(refused));
    let mut ping = Vec::new();
    TcpFrame::Ping.write(&mut ping);
    assert_eq!(lies_with(&ping, b""), None);
}

#[test]
fn bulk_is_data_of_a_data_stream_and_nothing_else() {
    let head = |stream, bytes| {
        let mut head = Vec::new();
        let ends = false;
        TcpFrame::Data {
            stream,
            bytes,
            ends,
        }
        .write(&mut head);
        head
    };
    // A client's first one-way stream.
    let data = 2;
    assert_eq!(lies_with(&head(data, 4), b"bulk"), None);
    let refused = [
        lies_with(&head(CONTROL_STREAM, 4), b"bulk"),
        lies_with(&head(data, 5), b"bulk"),
        lies_with(&head(data, 3), b"bulk"),
    ];
    for reason in refused {
        let is_it = matches!(&reason, Some(CloseReason::Transport(what)) if what.contains("bulk"));
        assert!(is_it, "{reason:?}");
    }
}

/// A pipe with so many bytes in it, and no other end.
fn piped(bytes: &[u8]) -> Arc<OwnedFd> {
    let (read, mut write) = std::io::pipe().unwrap();
    write.write_all(bytes).unwrap();
    Arc::new(read.into())
}

/// What is in pipes travels between what is said and bulk, in order, though the socket takes it in
/// parts.
#[test]
fn what_is_in_pipes_goes_beside_records() {
    let mut pair = clear_pair(pass([9; 32], SERVER));
    pair.run();
    let stream = pair.client.open_uni().unwrap();
    let (said, data) = (Bytes::from_static(SAID), pattern(50_000));
    let mut sent = Vec::new();
    for part in [&data[..20_000], &data[20_000..]] {
        let bulk = Bytes::from(pattern(300));
        pair.client.send(stream, said.clone(), false).unwrap();
        let taken = pair.client.send_piped(stream, piped(part), part.len());
        assert_eq!(taken, Ok(part.len()));
        pair.client.send_bulk(stream, bulk.clone()).unwrap();
        sent.extend([SAID, part, &bulk].concat());
    }
    pair.client.send(stream, said, true).unwrap();
    sent.extend(SAID);
    let (mut got, mut ended) = (Vec::new(), false);
    while !ended {
        let out = pair.client.outgoing(pair.now).to_vec();
        pair.client.sent(out.len());
        let mut parts = vec![out];
        if let Some((pipe, bytes)) = pair.client.outgoing_piped() {
            let mut part = vec![0; bytes.min(7_000)];
            File::from(pipe.try_clone().unwrap())
                .read_exact(&mut part)
                .unwrap();
            pair.client.sent_piped(part.len());
            parts.push(part);
        }
        for part in parts.iter().flat_map(|part| part.chunks(3_000)) {
            pair.server.receive_buffer()[..part.len()].copy_from_slice(part);
            pair.server.received(pair.now, part.len());
            while let Some(readable) = pair.server.readable_next() {
                let (read, is_end) = read_all(&mut pair.server, readable);
                got.extend(read);
                ended |= is_end;
            }
        }
        assert_eq!(pair.server.close_reason(), None);
    }
    assert!(got == sent);
    assert_eq!(pair.client.outgoing(pair.now), b"");
}

/// Who seals what it sends has to see it.
#[test]
fn pipes_are_for_lanes_in_the_clear() {
    let mut pair = Pair::established();
    let stream = pair.client.open_uni().unwrap();
    assert!(!pair.client.takes_pipes());
    assert!(pair.client.send_piped(stream, piped(b"data"), 4).is_err());
}

#[test]
fn a_slow_handshake_ends() {
    let mut pair = clear_pair(pass([9; 32], SERVER));
    pair.server.receive_buffer()[..9].copy_from_slice(b"landro:1\x03");
    pair.server.received(pair.now, 9);
    let until = pair.now + TIMES.handshake;
    pair.server.on_timeout(until - Duration::from_nanos(1));
    assert!(!pair.server.is_closing());
    pair.server.on_timeout(until);
    assert_eq!(
        pair.server.state(),
        ConnState::Closed(CloseReason::HandshakeTimeout)
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(24)
    })]

    /// Records and frames are cut anywhere, and have data of files in them, or not.
    #[test]
    fn data_arrives_in_the_clear_whatever_the_cuts(
        cuts in prop::collection::vec(prop_oneof![1..40_usize, 1_000..70_000_usize], 1..8),
        parts in prop::collection::vec((1..60_000_usize, any::<bool>()), 1..12),
    ) {
        let mut pair = clear_pair(pass([9; 32], SERVER));
        pair.cuts = cuts;
        pair.run();
        let stream = pair.client.open_uni().unwrap();
        let (mut sent, mut got) = (Vec::<u8>::new(), Vec::<u8>::new());
        for (bytes, is_bulk) in parts {
            let data = Bytes::from(pattern(bytes));
            sent.extend(&data);
            let mut rest = Some(data);
            while let Some(data) = rest.take() {
                rest = match is_bulk {
                    true => pair.client.send_bulk(stream, data).unwrap(),
                    false => pair.client.send(stream, data, false).unwrap(),
                };
                pair.run();
                while let Some(readable) = pair.server.readable_next() {
                    got.extend(read_all(&mut pair.server, readable).0);
                }
                pair.run();
            }
        }
        prop_assert!(got == sent);
        prop_assert_eq!(pair.server.close_reason(), None);
    }
}
