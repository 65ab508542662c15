//! Peers that are let in over TLS, and then break it, join what is not theirs, or stay for nothing.

use std::fs;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use landro::engine::now;
use landro::ids::{EntryId, SessionId};
use landro::proto::integrity::digest_of;
use landro::proto::wire::{
    LaneAccount, Message, PrefaceKind, RecordHead, RecordStatus, VerdictKind, WireRequest,
    encode_record_tail,
};
use landro::quic::Identity;

use super::peer::{APPLICATION_DATA, HANDSHAKE, PING, TcpEnd, TlsPeer, credit_frame};
use crate::Scene;
use crate::common::tree::{self, Rng};
use crate::peer::{file, push_request};

/// Alerts of RFC 8446 §6.
const UNEXPECTED_MESSAGE: TcpEnd = TcpEnd::Alert(10);
const BAD_RECORD_MAC: TcpEnd = TcpEnd::Alert(20);
const RECORD_OVERFLOW: TcpEnd = TcpEnd::Alert(22);

/// Codes of CLOSE.
pub(super) const VIOLATION: u64 = 1;
pub(super) const NO_SESSION: u64 = 5;

pub(super) fn id(number: u8) -> SessionId {
    SessionId([number; 16])
}

impl Scene {
    pub(super) fn tls(&self) -> TlsPeer {
        TlsPeer::connect(self.world.daemon.address(), &self.villain)
    }

    /// A push into the root that was welcomed, to which lanes may be added.
    pub(super) fn tls_push(&self, session: SessionId) -> TlsPeer {
        let mut peer = self.tls();
        peer.begin(session, push_request(""));
        peer
    }
}

/// Each is found out at once and told.
pub fn broken_records(scene: &Scene) {
    type Breaks = fn(&mut TlsPeer) -> Vec<u8>;
    let broken: [(&str, Breaks, TcpEnd); 13] = [
        ("a flipped bit", flipped, BAD_RECORD_MAC),
        ("a record twice", twice, BAD_RECORD_MAC),
        (
            "a record in the clear",
            |_| vec![23, 3, 3, 0, 1, 7],
            BAD_RECORD_MAC,
        ),
        (
            "a handshake in the clear",
            |_| vec![22, 3, 3, 0, 1, 7],
            UNEXPECTED_MESSAGE,
        ),
        (
            "a record too long",
            |_| vec![23, 3, 3, 0x41, 1],
            RECORD_OVERFLOW,
        ),
        (
            "no record",
            |_| b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            TcpEnd::Alert(50),
        ),
        (
            "a record of no type",
            |peer| peer.sealed(0, &[0; 9]),
            UNEXPECTED_MESSAGE,
        ),
        (
            "a record of type 99",
            |peer| peer.sealed(99, &[1]),
            UNEXPECTED_MESSAGE,
        ),
        ("a second handshake", renegotiation, UNEXPECTED_MESSAGE),
        ("half a message", half_a_message, UNEXPECTED_MESSAGE),
        (
            "KeyUpdates beyond data",
            more_key_updates,
            UNEXPECTED_MESSAGE,
        ),
        ("KeyUpdates", key_updates, UNEXPECTED_MESSAGE),
        ("empty records", empty_records, UNEXPECTED_MESSAGE),
    ];
    for (number, (what, breaks, end)) in broken.into_iter().enumerate() {
        let mut peer = scene.tls_push(id(number as u8));
        let bytes = breaks(&mut peer);
        peer.throw(&bytes);
        assert_eq!(peer.wait_end(), end, "{what}");
    }
    // What ends within a record is lost, and nobody waits for its rest.
    let mut peer = scene.tls_push(id(99));
    let record = peer.sealed(APPLICATION_DATA, &[PING]);
    peer.throw(&record[..record.len() - 3]);
    peer.shut();
    peer.wait_end();
    let mut peer = scene.tls_push(id(98));
    peer.say(&[99]);
    peer.expect_close(VIOLATION, "a frame of unknown kind");
}

fn flipped(peer: &mut TlsPeer) -> Vec<u8> {
    let mut record = peer.sealed(APPLICATION_DATA, &[PING]);
    record[9] ^= 4;
    record
}

fn twice(peer: &mut TlsPeer) -> Vec<u8> {
    peer.sealed(APPLICATION_DATA, &[PING]).repeat(2)
}

fn renegotiation(peer: &mut TlsPeer) -> Vec<u8> {
    let hello = [&[1, 0, 0, 100][..], &[3; 100]].concat();
    peer.sealed(HANDSHAKE, &hello)
}

fn half_a_message(peer: &mut TlsPeer) -> Vec<u8> {
    let half = peer.sealed(HANDSHAKE, &[24, 0, 0]);
    [half, peer.sealed(APPLICATION_DATA, &[PING])].concat()
}

fn key_updates(peer: &mut TlsPeer) -> Vec<u8> {
    (0..40).flat_map(|_| peer.renewed()).collect()
}

/// Two of them for each record that says something.
fn more_key_updates(peer: &mut TlsPeer) -> Vec<u8> {
    let mut all = Vec::new();
    for more in 1..40 {
        all.extend(peer.renewed());
        all.extend(peer.renewed());
        all.extend(peer.sealed(APPLICATION_DATA, &credit_frame((1 << 40) + more)));
    }
    all
}

fn empty_records(peer: &mut TlsPeer) -> Vec<u8> {
    (0..40)
        .flat_map(|_| peer.sealed(APPLICATION_DATA, &[]))
        .collect()
}

/// What is allowed and no honest peer does: it is served, and costs no more than its share.
pub fn odd_records(scene: &Scene) {
    let mut peer = scene.tls();
    peer.record_bytes = 1;
    peer.begin(id(1), push_request(""));
    a_file_arrives(scene, &mut peer, "in-records-of-a-byte");
    // A new key before every record, asked for in both directions.
    let mut peer = scene.tls_push(id(2));
    let mut limit = 1 << 41;
    let mut updates = 0;
    let until = now() + Duration::from_secs(3);
    while now() < until {
        let mut flood = Vec::new();
        for _ in 0..200 {
            flood.extend(peer.renewed());
            flood.extend(peer.sealed(APPLICATION_DATA, &credit_frame(limit)));
            (limit, updates) = (limit + 1, updates + 1);
        }
        peer.throw(&flood);
        peer.turn();
        assert!(!peer.is_over(), "{:?}", peer.wait_end());
    }
    println!("{updates} keys in 3 s");
    a_file_arrives(scene, &mut peer, "with-many-keys");
}

/// Moves a file of three bytes to its end.
pub(super) fn a_file_arrives(scene: &Scene, peer: &mut TlsPeer, name: &str) {
    peer.message(&Message::Entries(vec![file(1, name, 3)]));
    assert_eq!(verdict(peer), VerdictKind::Send {});
    let mut bytes = bytes::BytesMut::from(&[1][..]);
    let head = RecordHead::Whole {
        entry: EntryId(1),
        len_bytes: 3,
    };
    head.encode(&mut bytes);
    bytes.extend_from_slice(b"yes");
    encode_record_tail(RecordStatus::Valid, &digest_of(b"yes"), &mut bytes);
    bytes.extend_from_slice(&[0]);
    peer.data(2, &bytes, true);
    assert!(matches!(verdict(peer), VerdictKind::Done { .. }));
    let path = scene.world.root(name);
    assert_eq!(fs::read(&path).unwrap(), b"yes");
    fs::remove_file(path).unwrap();
}

/// Of the one entry that there is.
fn verdict(peer: &mut TlsPeer) -> VerdictKind {
    loop {
        match peer.next_message() {
            Some(Message::Verdicts(mut verdicts)) => return verdicts.remove(0).kind,
            Some(_) => {}
            None => panic!("closed before a verdict: {:?}", peer.wait_end()),
        }
    }
}

/// Sessions that are there and sessions that are not look the same to whom they do not belong to.
pub fn joins_of_others(scene: &Scene) {
    let address = scene.world.daemon.address();
    let pem = fs::read_to_string(scene.world.client.path().join("identity.pem")).unwrap();
    let other = Identity::from_pem(&pem).unwrap();
    let mut owner = scene.tls_push(id(7));
    let mut said = Vec::new();
    for kind in [PrefaceKind::Join, PrefaceKind::Add, PrefaceKind::TakeOver] {
        for (who, session) in [(&other, id(7)), (&other, id(8)), (&scene.villain, id(8))] {
            for number in [0, 1] {
                let mut peer = TlsPeer::connect(address, who);
                peer.preface(kind, session, number);
                said.push(peer.expect_close(NO_SESSION, "somebody else's session"));
            }
        }
    }
    said.dedup();
    assert_eq!(
        said.len(),
        1,
        "who asks learns which sessions there are: {said:?}"
    );
    // Its own, but not as it is due.
    let mut again = scene.tls();
    again.preface(PrefaceKind::New, id(7), 0);
    again.expect_close(VIOLATION, "a session of this id");
    let mut early = scene.tls();
    early.preface(PrefaceKind::Join, id(7), 9);
    early.expect_close(VIOLATION, "the ninth lane");
    replayed(scene, &mut owner);
    a_file_arrives(scene, &mut owner, "of-the-owner");
}

/// An added lane that comes twice: by the same words of its peer, and by the same bytes of somebody
/// who recorded them.
fn replayed(scene: &Scene, owner: &mut TlsPeer) {
    let mut added = scene.tls();
    added.preface(PrefaceKind::Add, id(7), 0);
    (0..20).for_each(|_| added.turn());
    assert!(!added.is_over(), "{:?}", added.wait_end());
    let mut second = scene.tls();
    second.preface(PrefaceKind::Add, id(7), 0);
    second.expect_close(NO_SESSION, "a lane that there was");
    let mut stream = super::peer::dial(scene.world.daemon.address(), 5);
    let recorded = added.sent.clone();
    let said = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let _ = stream.write_all(&recorded);
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let is_late = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(
            !ended.is_err_and(is_late),
            "what was recorded is waited for"
        );
    });
    said.join().unwrap();
    assert!(!owner.is_over() && !added.is_over());
}

/// Lanes that come and never go, that begin and never end, that are never read from.
pub fn lanes_that_stay(scene: &Scene) {
    const ADDED: u32 = 120;
    let mut owner = scene.tls_push(id(1));
    owner.message(&Message::Entries(vec![file(1, "begun", 8 << 20)]));
    verdict(&mut owner);
    let mut lanes = Vec::new();
    for number in 0..ADDED {
        let mut lane = scene.tls();
        lane.preface(PrefaceKind::Add, id(1), number);
        // A stream that begins with half a head.
        lane.data(2, &[1, 1], false);
        lane.turn();
        lanes.push(lane);
    }
    lanes.iter_mut().for_each(TlsPeer::turn);
    let refused = lanes.iter().filter(|lane| lane.is_over()).count();
    println!("{refused} of {ADDED} added lanes were refused");
    assert!(refused > 0, "there is no end of lanes");
    (0..20).for_each(|_| owner.turn());
    assert!(!owner.is_over(), "{:?}", owner.wait_end());
    unread_pulls(scene);
}

/// Everything is granted, and nothing is taken from the socket.
fn unread_pulls(scene: &Scene) {
    let big = scene.world.root("good-big");
    tree::write_file(&big, 32 << 20, &mut Rng::new("pulls that are not read"));
    let mut pulls = Vec::new();
    for number in 100..112 {
        let mut peer = scene.tls();
        peer.begin(
            id(number),
            WireRequest::Pull {
                sources: vec![Bytes::from_static(b"good-big")],
                follow_named: false,
                no_growing: false,
                place: None,
            },
        );
        let send = landro::proto::wire::Verdict {
            entry: EntryId(1),
            kind: VerdictKind::Send {},
        };
        while !matches!(peer.next_message(), Some(Message::Entries(_))) {}
        peer.message(&Message::Verdicts(vec![send]));
        pulls.push(peer);
    }
    thread::sleep(Duration::from_secs(2));
    println!(
        "12 pulls that are not read: {} MiB",
        scene.world.daemon.rss_bytes() >> 20
    );
    drop(pulls);
    fs::remove_file(big).unwrap();
}

/// Words about lanes that never were, without an end; what is answered is not read.
pub fn accounts(scene: &Scene) {
    const WORDS: u32 = 200_000;
    // A receiver is told that lanes are over, and answers each with an account.
    let mut peer = scene.tls_push(id(1));
    let over = |lane| Message::LaneOver {
        lane,
        altered: false,
    };
    flood(&mut peer, WORDS, over);
    println!(
        "lanes that are over: {} MiB",
        scene.world.daemon.rss_bytes() >> 20
    );
    // A sender is told what was taken of them.
    let source = scene.world.root("good-source");
    fs::write(&source, "of no interest").unwrap();
    let mut peer = scene.tls();
    peer.begin(
        id(2),
        WireRequest::Pull {
            sources: vec![Bytes::from_static(b"good-source")],
            follow_named: false,
            no_growing: false,
            place: None,
        },
    );
    let account = |lane| {
        Message::LaneAccount(LaneAccount {
            lane,
            below: 0,
            parts: Vec::new(),
            more: false,
            altered: false,
        })
    };
    flood(&mut peer, WORDS, account);
    println!("accounts: {} MiB", scene.world.daemon.rss_bytes() >> 20);
    fs::remove_file(source).unwrap();
    // Of a lane far ahead, and twice of one.
    for lanes in [&[0, 1_000_000][..], &[3, 3]] {
        let mut peer = scene.tls_push(id(3 + lanes[0] as u8));
        lanes.iter().for_each(|lane| peer.message(&over(*lane)));
        peer.expect_close(VIOLATION, "words about lanes that never were");
    }
}

/// As many as are taken in some seconds: nothing is read but credit, which comes with the answers.
fn flood(peer: &mut TlsPeer, words: u32, word: impl Fn(u32) -> Message) {
    let until = now() + Duration::from_secs(5);
    for lane in 0..words {
        peer.message(&word(lane));
        let is_late = now() > until;
        if peer.is_over() || is_late {
            println!("after {lane} words");
            return;
        }
    }
}
