//! A server that lies to the real client, which is as suspicious of it as a server is of clients.

use std::ffi::OsString;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use landro::ids::EntryId;
use landro::proto::Kind;
use landro::proto::integrity::digest_of;
use landro::proto::wire::{Message, RecordHead, VerdictKind, Welcome};
use landro::quic::Identity;

use super::common::tree::leftovers;
use super::common::{self, Output, Running, Side};
use super::craft::Forge;
use super::memory::bytes_with_holes;
use super::peer::{Peer, directory, end, entry, file, link};

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
                    let agent = "hostile".to_owned();
                    peer.message(&Message::Welcome(Welcome {
                        version: 1,
                        agent,
                        entry_window: 1024,
                    }));
                    script(&mut peer);
                }
                // It does not even ask: its destination will not do.
                Some(Message::Cancel {}) | None => {}
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

pub fn that_lies(backend: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (to, outside) = (dir.path().join("to"), dir.path().join("outside"));
    for made in [&to, &outside] {
        fs::create_dir(made).unwrap();
    }
    let untouched = || {
        let found: Vec<_> = fs::read_dir(&outside).unwrap().collect();
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    };
    for name in ["..", ".", "../x", "/tmp/x", "a/b", "x\0y"] {
        for kind in [Kind::File, Kind::Directory] {
            let output = pull(backend, &to, |peer| {
                peer.entries(vec![entry(2, 1, name.as_bytes(), kind, 1)])
            });
            assert_eq!(output.code, Some(1), "{name:?}: {output:?}");
            assert_eq!(
                output.of("error").last().unwrap()["code"],
                "protocol",
                "{name:?}: {output:?}"
            );
        }
        untouched();
    }
    // A symlink out, then a directory of its name with a file in it.
    let target = outside.to_str().unwrap();
    let output = pull(backend, &to, |peer| {
        peer.entries(vec![link(2, 1, "l", target)]);
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
    untouched();
    // Digests that lie: exit code 7, and the file does not appear.
    let data = vec![9; 1 << 20];
    let output = pull(backend, &to, |peer| {
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
        peer.record(
            RecordHead::Whole {
                entry: EntryId(2),
                len_bytes: 3,
            },
            b"bad",
            [0; 32],
        );
        let chunk = landro::ids::ChunkIndex(0);
        peer.record(
            RecordHead::Chunk {
                entry: EntryId(3),
                chunk,
                len_bytes: 1 << 20,
            },
            &data,
            [1; 32],
        );
        peer.record(
            RecordHead::Whole {
                entry: EntryId(4),
                len_bytes: 3,
            },
            b"yes",
            digest_of(b"yes"),
        );
        peer.message(&Message::ManifestEnd { entries: 4 });
    });
    let output = output.expect(7);
    let failed: Vec<_> = output
        .of("error")
        .filter(|error| error["code"] == "integrity")
        .collect();
    assert!(failed.len() >= 2, "{output:?}");
    assert!(!to.join("small").exists() && !to.join("large").exists() && to.join("fine").is_file());
    assert!(leftovers(&to).is_empty());
    // What the user did not ask for.
    let output = pull(backend, &to, |peer| {
        peer.entries(vec![file(2, "another", 0)]);
        while peer.next_message().is_some() {}
    });
    assert_eq!(
        output.of("error").last().unwrap()["code"],
        "protocol",
        "{output:?}"
    );
    assert!(!to.join("another").exists());
    // What he asked for, twice.
    let output = pull_sources(&["--backend", backend], &["one", "two"], &to, |peer| {
        peer.entries(vec![link(1, 0, "one", ".."), directory(2, 0, "one")]);
        while peer.next_message().is_some() {}
    });
    assert_eq!(
        output.of("error").last().unwrap()["code"],
        "protocol",
        "{output:?}"
    );
    untouched();
    // Verdicts of a server that was asked to send, messages without end or sense.
    for bytes in [
        &[255u8, 255, 255, 255][..],
        &[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 3, 0x82, 9, 0x80],
    ] {
        let output = pull(backend, &to, |peer| peer.control(bytes));
        assert_eq!(output.code, Some(1), "{output:?}");
    }
    // Names that act on terminals, in texts too.
    let output = pull(backend, &to, |peer| {
        let path = Bytes::from_static(b"\x1b]0;owned\x07");
        peer.message(&Message::SourceWarning {
            path,
            text: "\x1b[2J\n".to_owned(),
        });
        peer.entries(vec![entry(2, 1, b"a\x1b[31m", Kind::File, 2 << 20), end(1)]);
        peer.verdict(2);
        let error = landro::proto::EntryError {
            code: landro::proto::EntryErrorCode::Source,
            errno: 0,
            text: "\x1b[2Jgone\r".to_owned(),
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
