//! A server over TCP that lies to the real client: whatever it does, the command ends soon, and
//! says why.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use landro::engine::now;
use landro::proto::wire::{Message, Welcome};
use landro::quic::Identity;

use super::peer::{APPLICATION_DATA, TlsPeer, credit_frame};
use crate::common::{self, Output, Running, Side};

/// What a handshake has, and a session that does not get on with `--timeout 5`, and a busy machine.
const SOON: Duration = Duration::from_secs(25);

/// What need not be waited for.
const AT_ONCE: Duration = Duration::from_secs(8);

/// Ends the server, whatever becomes of the client.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Pulls from a server that does `script` with each connection; how it ended, and after how long.
fn pull(backend: &str, pin: &Identity, script: impl Fn(TcpStream) + Sync) -> (Output, Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("landro://{}/file", listener.local_addr().unwrap());
    let (side, dir) = (Side::new(), tempfile::tempdir().unwrap());
    let pin = pin.fingerprint().to_string();
    let to = dir.path().join("to");
    let args = [
        "cp",
        "--json",
        "--backend",
        backend,
        "--lane-kinds",
        "tls",
        "--timeout",
        "5",
        "--peer",
        &pin,
        &url,
        to.to_str().unwrap(),
    ];
    #[allow(
        clippy::disallowed_methods,
        reason = "how long it takes is what is looked at"
    )]
    let began = now();
    let running = Running::spawn(common::command(&side, &[], args));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            listener.set_nonblocking(true).unwrap();
            while !is_over.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        script(stream);
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        let _over = Over(&is_over);
        (running.wait(), began.elapsed())
    })
}

/// What a lie looks like, how soon the command ends, and with what code and words.
struct Lie<'a> {
    what: &'a str,
    script: &'a (dyn Fn(TcpStream) + Sync),
    within: Duration,
    code: i32,
    says: &'a str,
}

pub fn that_lies(backend: &'static str) {
    let (identity, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let lie = |what, within, code, says, script| Lie {
        what,
        script,
        within,
        code,
        says,
    };
    let wrong = |stream| drop(TlsPeer::accept(stream, &other));
    let silent_after = |stream| silent_after_the_handshake(stream, &identity);
    let key_updates = |stream| floods(stream, &identity, |peer| peer.renewed());
    let with_data = |stream| floods_with_data(stream, &identity);
    let empty = |stream| floods(stream, &identity, |peer| peer.sealed(APPLICATION_DATA, &[]));
    let frames = |stream| {
        floods(stream, &identity, |peer| {
            peer.sealed(APPLICATION_DATA, &[99])
        })
    };
    let welcomes = |stream| welcomes_and_does_nothing(stream, &identity);
    let lies = [
        lie("hangs up", AT_ONCE, 5, "was reset", &|stream| drop(stream)),
        lie("never answers", SOON, 5, "10 s", &until_closed),
        lie("speaks HTTP", AT_ONCE, 5, "not TLS", &speaks_http),
        lie(
            "a handshake without end",
            AT_ONCE,
            5,
            "",
            &hello_without_end,
        ),
        lie(
            "another identity",
            AT_ONCE,
            4,
            "not what --peer demands",
            &wrong,
        ),
        lie(
            "nothing after the handshake",
            SOON,
            5,
            "--timeout",
            &silent_after,
        ),
        lie("KeyUpdates alone", AT_ONCE, 5, "say nothing", &key_updates),
        lie("KeyUpdates for ever", SOON, 5, "--timeout", &with_data),
        lie("empty records", AT_ONCE, 5, "say nothing", &empty),
        lie("unknown frames", AT_ONCE, 5, "unknown kind", &frames),
        lie("a welcome and no more", SOON, 5, "--timeout", &welcomes),
    ];
    thread::scope(|scope| {
        for lie in &lies {
            let identity = &identity;
            scope.spawn(move || {
                let (output, took) = pull(backend, identity, lie.script);
                let what = lie.what;
                println!("{what}: {took:?}, {:?}, {}", output.code, output.stderr);
                assert_eq!(output.code, Some(lie.code), "{what}: {output:?}");
                assert!(took < lie.within, "{what}: {took:?}");
                assert!(output.stderr.contains(lie.says), "{what}: {output:?}");
                assert!(!output.stderr.contains("panicked"), "{what}: {output:?}");
            });
        }
    });
}

/// Reads and says nothing, until the client hangs up.
fn until_closed(mut stream: TcpStream) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut out = [0; 4096];
    while let Ok(1..) = stream.read(&mut out) {}
}

fn speaks_http(mut stream: TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    until_closed(stream);
}

/// A server hello that announces 16 MiB, a byte in each record.
fn hello_without_end(mut stream: TcpStream) {
    let piece = |byte: u8| [22, 3, 3, 0, 1, byte];
    let mut more = [2, 0xff, 0xff, 0xff].map(piece).concat();
    while stream.write_all(&more).is_ok() {
        more = piece(7).repeat(100);
    }
}

fn silent_after_the_handshake(stream: TcpStream, identity: &Identity) {
    if let Ok(mut peer) = TlsPeer::accept(stream, identity) {
        while !peer.is_over() {
            peer.turn();
        }
    }
}

/// One kind of record, until the client has enough.
fn floods(stream: TcpStream, identity: &Identity, record: impl Fn(&mut TlsPeer) -> Vec<u8>) {
    if let Ok(mut peer) = TlsPeer::accept(stream, identity) {
        while !peer.is_over() {
            let flood: Vec<u8> = (0..100).flat_map(|_| record(&mut peer)).collect();
            peer.throw(&flood);
            peer.turn();
        }
    }
}

/// Keys that are renewed all the time, with just enough said in between to be allowed; of the
/// session nothing is.
fn floods_with_data(stream: TcpStream, identity: &Identity) {
    let Ok(mut peer) = TlsPeer::accept(stream, identity) else {
        return;
    };
    let mut limit = 1 << 40;
    while !peer.is_over() {
        let mut flood = Vec::new();
        for _ in 0..100 {
            flood.extend(peer.renewed());
            flood.extend(peer.sealed(APPLICATION_DATA, &credit_frame(limit)));
            limit += 1;
        }
        peer.throw(&flood);
        peer.turn();
    }
}

/// The session begins, and nothing ever comes of it; the connection answers all the time.
fn welcomes_and_does_nothing(stream: TcpStream, identity: &Identity) {
    let Ok(mut peer) = TlsPeer::accept(stream, identity) else {
        return;
    };
    peer.credit(1 << 20);
    if let Some(Message::Hello(_)) = peer.next_message() {
        peer.message(&Message::Welcome(Welcome {
            version: 1,
            entry_window: 1024,
            inside: false,
            place: None,
            adds_lanes: false,
            addresses: Vec::new(),
            clear: None,
        }));
    }
    while !peer.is_over() {
        peer.ask();
        thread::sleep(Duration::from_millis(100));
        peer.turn();
    }
}
