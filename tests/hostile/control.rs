//! Control streams that are not the protocol.

use bytes::Bytes;
use landro::ids::EntryId;
use landro::proto::wire::{self, Message, Verdict, VerdictKind, WireRequest, streams};
use landro::proto::{EntryError, EntryErrorCode, EntryPlace, Kind, Mtime};

use super::Scene;
use super::common::tree::Rng;
use super::peer::{self, Peer, VIOLATION, directory, end, entry, file};

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

fn verdict(entry: u32, kind: VerdictKind) -> Message {
    Message::Verdicts(vec![Verdict {
        entry: EntryId(entry),
        kind,
    }])
}

pub fn messages(scene: &Scene) {
    prefaces(scene);
    bytes_that_are_no_message(scene);
    out_of_place(scene);
    entries_out_of_order(scene);
    verdicts_out_of_place(scene);
    bytes_at_random(scene);
    a_version_from_the_future(scene);
}

/// What no message may be: over the cap, garbage, cut short, of absurd lengths inside.
fn no_messages() -> [(&'static str, Vec<u8>); 11] {
    let over_the_cap = [&70_000u32.to_be_bytes()[..], &[0; 70_000]].concat();
    let behind = [framed(&[]), framed(&[0xff; 1000])].concat();
    let immense = |kind: u8| framed(&[&[0x82, 2, 0x81, kind][..], &[255; 8]].concat());
    [
        ("a message over the cap", over_the_cap),
        ("a message of 4 GiB", u32::MAX.to_be_bytes().to_vec()),
        ("garbage behind a filler", behind),
        ("garbage", framed(&[0xff; 1000])),
        ("an array without end", framed(&[0x9f; 60_000])),
        ("nested arrays", framed(&[0x81; 60_000])),
        ("a string of 2^64 bytes", immense(0x5b)),
        ("an array of 2^64 items", immense(0x9b)),
        ("a message nobody knows", framed(&[0x82, 0x18, 99, 0x80])),
        ("bytes behind the message", framed(&[0x82, 13, 0x80, 0])),
        (
            "no text but bytes",
            framed(&[0x82, 12, 0x82, 5, 0x41, 0x41]),
        ),
    ]
}

fn bytes_that_are_no_message(scene: &Scene) {
    for (what, bytes) in &no_messages() {
        for welcomed in [false, true] {
            let mut peer = scene.connect();
            if welcomed {
                peer.push("");
            } else {
                peer.preface();
            }
            peer.control(bytes);
            peer.expect_violation(what);
        }
    }
}

fn bytes_at_random(scene: &Scene) {
    let mut rng = Rng::new("random control bytes");
    for _ in 0..40 {
        let mut peer = scene.push();
        let len = 1 + rng.below(2000) as usize;
        let mut bytes = rng.bytes(len);
        if rng.below(2) == 0 {
            bytes = framed(&bytes);
        }
        peer.control(&bytes);
        // A length that was not reached yet is waited for; ending the stream ends the wait.
        peer.send(0, &streams::END, true);
        while !peer.is_closed() {
            if peer.next_message().is_none() || peer.conn.stream_finished(0) {
                break;
            }
        }
    }
}

/// It is told so.
fn a_version_from_the_future(scene: &Scene) {
    let mut peer = scene.connect();
    peer.preface();
    let mut hello = peer::hello(peer::push_request(""));
    if let Message::Hello(hello) = &mut hello {
        hello.version = 9;
    }
    peer.message(&hello);
    assert!(matches!(
        peer.next_message(),
        Some(Message::Error(_)) | None
    ));
}

fn prefaces(scene: &Scene) {
    let mut peer = scene.connect();
    peer.control(&[9; 21]);
    peer.expect_violation("a preface of another kind");
    let mut peer = scene.connect();
    peer.send(0, &[0; 10], true);
    peer.expect_violation("a preface cut short");
    // A session of somebody else, or of nobody, cannot be joined.
    let mut peer = scene.connect();
    peer.control(&[1; 21]);
    assert_ne!(peer.wait_closed().code, 0);
    // A lane of one's own session comes when it is its turn.
    let (mut first, mut second) = (scene.connect(), scene.connect());
    first.control(&[&[0][..], &[5; 16], &[0; 4]].concat());
    first.message(&peer::hello(peer::push_request("")));
    assert!(matches!(first.next_message(), Some(Message::Welcome(_))));
    second.control(&[&[1][..], &[5; 16], &[0, 0, 0, 7]].concat());
    // Or it met another worker, which knows no such session.
    let closed = second.wait_closed();
    assert!([VIOLATION, 5].contains(&closed.code), "{closed:?}");
    let mut peer = scene.connect();
    peer.control(&[&[0][..], &[6; 16], &[0, 0, 0, 1]].concat());
    peer.expect_violation("a first lane that is not the first");
    // An end without the byte that ends every stream.
    let mut peer = scene.push();
    peer.send(0, &[], true);
    peer.expect_violation("a lone end");
    // Nor can two have the same name.
    let (mut first, mut second) = (scene.connect(), scene.connect());
    let preface = [&[0][..], &[7; 16], &[0; 4]].concat();
    for peer in [&mut first, &mut second] {
        peer.control(&preface);
        peer.message(&peer::hello(peer::push_request("")));
    }
    // They may have met different workers, which do not know each other's sessions.
    for peer in [&mut first, &mut second] {
        assert!(matches!(
            peer.next_message(),
            None | Some(Message::Welcome(_))
        ));
    }
    // Data before anything was said.
    let mut peer = scene.connect();
    peer.raw_data(&[1, 1, 1, 3, 1, 2, 3, 0], true);
    peer.preface();
    peer.message(&peer::hello(peer::push_request("")));
    while peer.next_message().is_some() {}
    assert_eq!(peer.wait_closed().code, VIOLATION, "data of nothing");
}

/// Every message of the other role, and those of this role at the wrong time.
fn out_of_place(scene: &Scene) {
    let error = EntryError {
        code: EntryErrorCode::Source,
        errno: 5,
        text: "x".into(),
        place: EntryPlace::Source,
        call: "read".into(),
        advice: "wait".into(),
    };
    let welcome = wire::Welcome {
        version: 1,
        entry_window: 1 << 30,
        inside: false,
        place: None,
        adds_lanes: false,
        addresses: Vec::new(),
        clear: None,
    };
    let all = [
        peer::hello(peer::push_request("")),
        Message::Welcome(welcome),
        Message::Finished {},
        Message::Listing(vec![]),
        Message::ListEnd {},
        verdict(1, VerdictKind::Send {}),
        verdict(
            1,
            VerdictKind::Done {
                resumed_bytes: u64::MAX,
            },
        ),
        Message::ManifestEnd { entries: 5 },
        Message::Root {
            entry: EntryId(1),
            digest: [0; 32],
            has_grown: false,
            agains: 0,
        },
        Message::Abort {
            entry: EntryId(1),
            error,
        },
    ];
    for message in &all {
        let mut peer = scene.push();
        peer.message(message);
        peer.expect_violation(&format!("{message:?}"));
        let is_hello = matches!(message, Message::Hello(_));
        if !is_hello {
            let mut peer = scene.connect();
            peer.preface();
            peer.message(message);
            peer.expect_violation(&format!("first of all {message:?}"));
        }
    }
}

fn entries_out_of_order(scene: &Scene) {
    let mut future = file(1, "x", 1);
    if let wire::Item::Entry(entry) = &mut future {
        entry.mtime = Mtime {
            seconds: 0,
            nanoseconds: u32::MAX,
        };
    }
    let mut mode = file(1, "x", 1);
    if let wire::Item::Entry(entry) = &mut mode {
        entry.mode = u32::MAX;
    }
    let cases = [
        ("entry 0", vec![file(0, "x", 1)]),
        ("entry 2 first", vec![file(2, "x", 1)]),
        ("the last entry first", vec![file(u32::MAX, "x", 1)]),
        (
            "an entry twice",
            vec![directory(1, 0, "d"), directory(1, 0, "e")],
        ),
        ("an unknown parent", vec![entry(1, 7, b"x", Kind::File, 1)]),
        (
            "its own parent",
            vec![entry(1, 1, b"x", Kind::Directory, 0)],
        ),
        (
            "a file as parent",
            vec![file(1, "x", 0), entry(2, 1, b"y", Kind::File, 0)],
        ),
        (
            "a parent that ended",
            vec![
                directory(1, 0, "d"),
                end(1),
                entry(2, 1, b"y", Kind::File, 0),
            ],
        ),
        ("the end of nothing", vec![end(1)]),
        ("the end of a file", vec![file(1, "x", 0), end(1)]),
        ("the end of the target", vec![end(0)]),
        ("nanoseconds of four seconds", vec![future]),
        ("a mode with more bits", vec![mode]),
        ("a special file", vec![entry(1, 0, b"x", Kind::Special, 0)]),
        (
            "a symlink without target",
            vec![entry(1, 0, b"x", Kind::Symlink, 0)],
        ),
    ];
    for (what, items) in cases {
        let mut peer = scene.push();
        peer.entries(items);
        peer.expect_violation(what);
    }
    // After the end there is nothing more.
    let mut peer = scene.push();
    peer.message(&Message::ManifestEnd { entries: 0 });
    peer.entries(vec![file(1, "x", 1)]);
    while peer.next_message().is_some() {}
    assert!(
        peer.closed()
            .is_none_or(|closed| closed.code == VIOLATION || closed.code == 0)
    );
    assert!(!scene.world.root("x").exists());
}

/// A client that receives may lie to a sending server, too.
fn verdicts_out_of_place(scene: &Scene) {
    std::fs::write(scene.world.root("served"), vec![1; 3 << 20]).unwrap();
    let pull = |scene: &Scene| -> Peer {
        let mut peer = scene.connect();
        peer.open(WireRequest::Pull {
            sources: vec![Bytes::from_static(b"served")],
            follow_named: false,
            no_growing: false,
            place: None,
        });
        while !matches!(peer.next_message(), Some(Message::Entries(_))) {}
        peer
    };
    let have = |first, chunks: usize| VerdictKind::Have {
        first,
        values: vec![9; 32 * chunks].into(),
    };
    let cases = [
        (
            "a verdict about nothing",
            vec![verdict(9, VerdictKind::Send {})],
        ),
        (
            "a verdict about entry 0",
            vec![verdict(0, VerdictKind::Send {})],
        ),
        (
            "asked for twice",
            vec![
                verdict(1, VerdictKind::Send {}),
                verdict(1, VerdictKind::Send {}),
            ],
        ),
        (
            "done twice",
            vec![
                verdict(1, VerdictKind::Skipped {}),
                verdict(1, VerdictKind::Skipped {}),
            ],
        ),
        ("chunks outside", vec![verdict(1, have(2, 5))]),
        ("chunks far outside", vec![verdict(1, have(u32::MAX, 1))]),
        (
            "chunks twice",
            vec![verdict(1, have(0, 2)), verdict(1, have(1, 1))],
        ),
        ("finished before anything", vec![Message::Finished {}]),
        (
            "entries of a receiver",
            vec![Message::Entries(vec![file(1, "x", 1)])],
        ),
    ];
    for (what, messages) in cases {
        let mut peer = pull(scene);
        messages.iter().for_each(|message| peer.message(message));
        while peer.next_message().is_some() {}
        assert_eq!(peer.wait_closed().code, VIOLATION, "{what}");
    }
    // Data from a receiver.
    let mut peer = pull(scene);
    peer.raw_data(&[1, 1, 1, 3, 1, 2, 3, 0], true);
    while peer.next_message().is_some() {}
    assert_eq!(peer.wait_closed().code, VIOLATION, "data from a receiver");
    std::fs::remove_file(scene.world.root("served")).unwrap();
}
