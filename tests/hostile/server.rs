//! A server that lies to the real client, which is as suspicious of it as a server is of clients.

use std::ffi::OsString;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use landro::ids::{ChunkIndex, EntryId};
use landro::proto::integrity::digest_of;
use landro::proto::wire::{Message, RecordHead, VerdictKind};
use landro::proto::{EntryError, EntryErrorCode, EntryPlace, Kind};
use landro::quic::Identity;
use tempfile::TempDir;

use super::common::tree::leftovers;
use super::common::{self, Output, Running, Side};
use super::craft::Forge;
use super::frames::bytes_with_holes;
use super::peer::{Peer, directory, end, entry, file, link, welcome};

/// Lets the real client pull everything from a server that does what `script` says once it has read
/// the request.
fn pull(backend: &str, to: &Path, script: impl FnOnce(&mut Peer) + Send) -> Output {
    pull_sources(&["--backend", backend], &[""], to, |peer| {
        // The served root itself is what was asked for: entry 1, without a name.
        peer.entries(vec![entry(1, 0, b"", Kind::Directory, 0)]);
        script(peer);
    })
}

/// The same with any options of `cp` and any sources; a client that asks for nothing hears nothing.
pub fn pull_sources(
    options: &[&str],
    sources: &[&str],
    to: &Path,
    script: impl FnOnce(&mut Peer) + Send,
) -> Output {
    let identity = Identity::generate().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let side = Side::new();
    let pin = identity.fingerprint().to_string();
    let mut args: Vec<OsString> = ["cp", "--json", "--peer", &pin].map(Into::into).into();
    args.extend(options.iter().map(OsString::from));
    args.extend(
        sources
            .iter()
            .map(|source| format!("landro://{address}/{source}").into()),
    );
    args.push(to.into());
    let running = Running::spawn(common::command(&side, &[], args));
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut peer = Peer::accept(socket, &identity);
            match peer.next_message() {
                Some(Message::Hello(_)) => {
                    peer.message(&welcome());
                    script(&mut peer);
                }
                // It does not even ask: its destination will not do.
                Some(Message::Cancel { .. }) | None => {}
                other => panic!("no hello: {other:?}"),
            }
            // Stays until the client hangs up.
            peer.turn_until_closed();
        });
        let output = running.wait();
        server.join().unwrap();
        output
    })
}

/// The client closes the connection instead of keeping range after range.
pub fn that_leaves_holes(backend: &str) {
    let dir = tempfile::tempdir().unwrap();
    let output = pull(backend, dir.path(), |peer| {
        peer.entries(vec![entry(2, 1, b"holes", Kind::File, 1 << 30)]);
        peer.verdict(2);
        let mut forge = Forge::of(peer);
        let mut offset = 1;
        for packet in 0..3000 {
            let frames = bytes_with_holes(3, &mut offset);
            peer.throw(&forge.packet(&frames));
            if packet % 100 == 99 {
                thread::sleep(Duration::from_millis(2));
            }
        }
    });
    assert_eq!(output.code, Some(1), "{output:?}");
    let said = output.of("error").last().unwrap().to_string();
    assert!(said.contains("more than its share"), "{said}");
}

/// Where the client pulls to, beside a directory that nothing may touch.
struct Destination<'a> {
    backend: &'a str,
    dir: TempDir,
    to: PathBuf,
}

impl Destination<'_> {
    fn new(backend: &str) -> Destination<'_> {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        Destination { backend, dir, to }
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    #[track_caller]
    fn assert_nothing_outside(&self) {
        let found: Vec<_> = fs::read_dir(self.outside()).unwrap().collect();
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2);
    }

    fn pull(&self, script: impl FnOnce(&mut Peer) + Send) -> Output {
        pull(self.backend, &self.to, script)
    }
}

#[track_caller]
fn assert_protocol_error(output: &Output) {
    let last = output.of("error").last().unwrap();
    assert_eq!(last["code"], "protocol", "{output:?}");
}

pub fn that_lies(backend: &str) {
    let at = Destination::new(backend);
    names_that_lead_elsewhere(&at);
    a_link_and_a_directory_of_one_name(&at);
    digests_that_lie(&at);
    what_nobody_asked_for(&at);
    messages_without_end_or_sense(&at);
    texts_that_act_on_terminals(&at);
    amounts_beyond_all(&at);
}

fn names_that_lead_elsewhere(at: &Destination) {
    for name in ["..", ".", "../x", "/tmp/x", "a/b", "x\0y"] {
        for kind in [Kind::File, Kind::Directory] {
            let output = at.pull(|peer| peer.entries(vec![entry(2, 1, name.as_bytes(), kind, 1)]));
            assert_eq!(output.code, Some(1), "{name:?}: {output:?}");
            assert_protocol_error(&output);
        }
        at.assert_nothing_outside();
    }
}

/// A symlink out, then a directory of its name with a file in it.
fn a_link_and_a_directory_of_one_name(at: &Destination) {
    let outside = at.outside();
    let output = at.pull(|peer| {
        peer.entries(vec![link(2, 1, "l", outside.to_str().unwrap())]);
        peer.verdict(2);
        peer.entries(vec![
            directory(3, 1, "l"),
            entry(4, 3, b"inside", Kind::File, 0),
            end(3),
            end(1),
        ]);
        assert!(matches!(peer.verdict(3), VerdictKind::Failed { .. }));
        peer.message(&Message::ManifestEnd { entries: 4 });
    });
    assert_eq!(output.code, Some(3), "{output:?}");
    at.assert_nothing_outside();
}

/// Exit code 7, and the file does not appear.
fn digests_that_lie(at: &Destination) {
    let whole = |entry| RecordHead::Whole {
        entry: EntryId(entry),
        len_bytes: 3,
    };
    let chunk = RecordHead::Chunk {
        entry: EntryId(3),
        chunk: ChunkIndex(0),
        len_bytes: 1 << 20,
        has_holes: false,
    };
    let output = at.pull(|peer| {
        let child =
            |id, name: &str, size_bytes| entry(id, 1, name.as_bytes(), Kind::File, size_bytes);
        peer.entries(vec![
            child(2, "small", 3),
            child(3, "large", 1 << 20),
            child(4, "fine", 3),
            end(1),
        ]);
        for id in 2..=4 {
            assert_eq!(peer.verdict(id), VerdictKind::Send {});
        }
        peer.record(whole(2), b"bad", [0; 32]);
        peer.record(chunk, &vec![9; 1 << 20], [1; 32]);
        peer.record(whole(4), b"yes", digest_of(b"yes"));
        peer.message(&Message::ManifestEnd { entries: 4 });
    });
    let output = output.expect(7);
    let failed: Vec<_> = output
        .of("error")
        .filter(|error| error["code"] == "integrity")
        .collect();
    assert!(failed.len() >= 2, "{output:?}");
    let to = &at.to;
    assert!(!to.join("small").exists() && !to.join("large").exists() && to.join("fine").is_file());
    assert!(leftovers(to).is_empty());
}

fn what_nobody_asked_for(at: &Destination) {
    let output = at.pull(|peer| {
        peer.entries(vec![file(2, "another", 0)]);
        while peer.next_message().is_some() {}
    });
    assert_protocol_error(&output);
    assert!(!at.to.join("another").exists());
    // What was asked for, twice.
    let options = ["--backend", at.backend];
    let output = pull_sources(&options, &["one", "two"], &at.to, |peer| {
        peer.entries(vec![link(1, 0, "one", ".."), directory(2, 0, "one")]);
        while peer.next_message().is_some() {}
    });
    assert_protocol_error(&output);
    at.assert_nothing_outside();
}

/// Lengths beyond any message, bytes that are none, verdicts of a server that was asked to send.
fn messages_without_end_or_sense(at: &Destination) {
    for bytes in [
        &[255u8, 255, 255, 255][..],
        &[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 3, 0x82, 9, 0x80],
    ] {
        let output = at.pull(|peer| peer.control(bytes));
        assert_eq!(output.code, Some(1), "{output:?}");
    }
}

/// Names and texts.
fn texts_that_act_on_terminals(at: &Destination) {
    let output = at.pull(|peer| {
        let path = Bytes::from_static(b"\x1b]0;owned\x07");
        peer.message(&Message::SourceWarning {
            path,
            text: "\x1b[2J\n".to_owned(),
        });
        peer.entries(vec![entry(2, 1, b"a\x1b[31m", Kind::File, 2 << 20), end(1)]);
        peer.verdict(2);
        let error = EntryError {
            code: EntryErrorCode::Source,
            errno: 0,
            text: "\x1b[2Jgone\r".to_owned(),
            place: EntryPlace::Source,
            call: "read".into(),
            advice: "wait".into(),
        };
        peer.message(&Message::Abort {
            entry: EntryId(2),
            error,
        });
        peer.message(&Message::ManifestEnd { entries: 2 });
    });
    assert!(
        !output.stderr.contains('\x1b') && !output.stdout.contains('\x1b'),
        "{output:?}"
    );
    assert!(
        !output.stderr.contains('\r') && output.stderr.contains("gone"),
        "{output:?}"
    );
    assert_eq!(output.number("errors"), 1, "{output:?}");
}

/// Sizes that no sum of them can hold.
fn amounts_beyond_all(at: &Destination) {
    const MOST: u64 = i64::MAX as u64;
    let output = at.pull(|peer| {
        peer.message(&Message::Counted {
            files: u64::MAX,
            bytes: u64::MAX,
        });
        let huge = (2..8).map(|id| entry(id, 1, format!("h{id}").as_bytes(), Kind::File, MOST));
        peer.entries(huge.collect());
        thread::sleep(Duration::from_millis(1500));
        peer.message(&Message::Working { finished: u64::MAX });
        peer.message(&Message::Counted { files: 1, bytes: 1 });
    });
    assert_protocol_error(&output);
    assert!(!output.stderr.contains("panicked"), "{output:?}");
}
