//! Sessions of queries: a client that asks on and on, and a server that lies to one that asks.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::block_on;
use landro::engine::now;
use landro::ids::ChunkIndex;
use landro::proto::integrity::ChunkHasher;
use landro::proto::wire::{ListItem, Message, WireQuery, WireRequest};
use landro::proto::{Kind, Lasting, Meta, Mtime, SessionErrorCode};
use landro::quic::Identity;
use landro::{
    BackendChoice, Engine, ListedEntry, PeerTrust, RemoteFiles, RemoteRange, TransferError,
};

use super::memory::Watched;
use super::peer::{Peer, hello, welcome};

/// What one session of a client that reads nothing may make a daemon keep: what waits for the
/// transport, and what that and the heap have beside it.
const KEPT_BYTES: u64 = 8 << 20;

/// Queries of one session, thousands.
const QUERIES: usize = 5000;

/// How long a peer that reads nothing waits before it asks in the same slots again: a query that
/// fails takes less, unless the machine is busy.
const TURN: Duration = Duration::from_millis(4);

/// A daemon that has taken nothing for so long will take nothing: it is otherwise busy, or its
/// machine is, for less.
const STUCK: Duration = Duration::from_secs(10);

/// What a symlink may lead to, in bytes, and how many of them one look at a directory finds.
const LINK_BYTES: usize = 4095;
const LINKS: usize = 256;

fn read(slot: usize, path: &'static str) -> Message {
    let query = WireQuery::Read {
        path: Bytes::from_static(path.as_bytes()),
        from: 0,
        to: u64::MAX,
        follow_named: true,
    };
    let slot = slot as u8;
    Message::Query { slot, query }
}

fn list(slot: usize, path: &'static str) -> Message {
    let path = Bytes::from_static(path.as_bytes());
    let (slot, query) = (slot as u8, WireQuery::List { path });
    Message::Query { slot, query }
}

pub fn without_end(backend: &'static str) {
    let watched = Watched::start(backend);
    let large = fs::File::create(watched.world.root("large")).unwrap();
    large.set_len(1 << 30).unwrap();
    fs::create_dir(watched.world.root("d")).unwrap();
    for number in 0..2000 {
        let name = format!("d/{number}-{}", "x".repeat(200));
        fs::write(watched.world.root(&name), b"").unwrap();
    }
    fs::create_dir(watched.world.root("l")).unwrap();
    for number in 0..LINKS {
        let link = watched.world.root(&format!("l/{number}"));
        symlink("x".repeat(LINK_BYTES), link).unwrap();
    }
    long_rows_that_are_not_read(&watched);
    that_are_not_read(&watched);
    that_are_forgotten(&watched);
    out_of_turn(&watched);
    watched.end();
}

fn begin(watched: &Watched, window_bytes: u64) -> Peer {
    let mut peer = Peer::connect_narrow(watched.address(), &watched.villain, window_bytes);
    peer.open(WireRequest::Queries {});
    peer
}

/// What one look at a directory finds may be a MiB.
fn long_rows_that_are_not_read(watched: &Watched) {
    let before = watched.world.daemon.rss_bytes();
    let mut peer = begin(watched, 10_000);
    peer.reads = false;
    (0..8).for_each(|slot| peer.message(&list(slot, "l")));
    (0..200).for_each(|_| peer.turn());
    assert!(!peer.is_closed(), "{:?}", peer.closed());
    let kept = watched.world.daemon.rss_bytes().saturating_sub(before);
    println!("long rows that are not read: {} KiB kept", kept >> 10);
    assert!(kept < KEPT_BYTES, "{} MiB kept", kept >> 20);
    peer.hang_up();
}

/// Nothing of the answers is taken, and thousands are asked for: those that cannot be had, each
/// with an answer of its own, until the daemon reads no more. Who asks where an answer is under way
/// is sent away, which bounds it, too: whoever reads nothing cannot know. How many are asked for
/// before either is a matter of how busy the machine is.
fn that_are_not_read(watched: &Watched) {
    let before = watched.world.daemon.rss_bytes();
    let (mut peer, mut sessions) = (begin(watched, 10_000), 1);
    let (mut asked, mut taken_at) = (0, now());
    while taken_at.elapsed() < STUCK && asked < 4 * QUERIES {
        if peer.is_closed() {
            sessions += 1;
            peer = begin(watched, 10_000);
        }
        peer.reads = false;
        peer.wait = Duration::from_millis(1);
        peer.turn();
        thread::sleep(TURN);
        for slot in 0..8 {
            if peer.backlog().is_some_and(|bytes| bytes < 5000) {
                peer.message(&read(slot, "d"));
                (asked, taken_at) = (asked + 1, now());
            }
        }
    }
    let kept = watched.world.daemon.rss_bytes().saturating_sub(before);
    println!(
        "{asked} queries in {sessions} sessions, whose answers are not read: {} KiB kept",
        kept >> 10
    );
    assert!(kept < KEPT_BYTES, "{} MiB kept", kept >> 20);
    // Others are served meanwhile.
    let to = watched.world.here("beside");
    watched.world.pull("first", &to).expect(0);
    peer.hang_up();

    // What is under way of large answers is little.
    let before = watched.world.daemon.rss_bytes();
    let mut peer = begin(watched, 10_000);
    peer.reads = false;
    for slot in 0..4 {
        peer.message(&read(slot, "large"));
        peer.message(&list(slot + 4, "d"));
    }
    (0..100).for_each(|_| peer.turn());
    assert!(!peer.is_closed(), "{:?}", peer.closed());
    let kept = watched.world.daemon.rss_bytes().saturating_sub(before);
    println!("large answers that are not read: {} KiB kept", kept >> 10);
    assert!(kept < KEPT_BYTES, "{} MiB kept", kept >> 20);
    peer.hang_up();
}

/// Thousands in one session, each called off before its end, and each answered by that.
fn that_are_forgotten(watched: &Watched) {
    let open = || {
        let open = fs::read_dir(format!("/proc/{}/fd", watched.world.daemon.pid()));
        open.unwrap().count()
    };
    let before = open();
    let mut peer = begin(watched, 1 << 20);
    let (mut ends, mut most, mut about, mut taken) = (0, 0, 0, 0);
    for slot in 0..8 {
        peer.message(&read(slot, "large"));
    }
    while ends < QUERIES / 5 {
        match peer.next_message().expect("it is a client's right") {
            Message::About { slot } => about = usize::from(slot),
            Message::FilePart { data } => {
                taken += data.len();
                peer.message(&Message::About { slot: about as u8 });
                peer.message(&Message::ListAck {});
                peer.message(&Message::Forget { slot: about as u8 });
            }
            Message::ListEnd {} => {
                ends += 1;
                peer.message(&read(about, "large"));
                if ends % 100 == 0 {
                    most = open().max(most);
                    watched.look();
                }
            }
            Message::Welcome(_) | Message::FileSize { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(
        taken > 0 && most <= before + 40,
        "{most} files are open, {before} before"
    );
    peer.hang_up();
}

fn out_of_turn(watched: &Watched) {
    for (what, said) in [
        ("a slot twice", vec![read(1, "large"), read(1, "large")]),
        ("a slot too many", vec![read(8, "large")]),
        ("another hello", vec![hello(WireRequest::Queries {})]),
        ("an answer", vec![Message::ListEnd {}]),
        ("an acknowledgement", vec![Message::ListAck {}]),
    ] {
        let mut peer = begin(watched, 1 << 20);
        said.iter().for_each(|said| peer.message(said));
        peer.expect_violation(what);
    }
}

/// An engine asks a server that does what `script` says once it has read the first query.
fn ask<T: Send>(
    backend: &str,
    asks: impl Fn(&RemoteFiles) -> T + Sync,
    script: impl FnOnce(&mut Peer) + Send,
) -> T {
    let backend = match backend {
        "poll" => BackendChoice::Poll,
        _ => BackendChoice::IoUring,
    };
    let identity = Identity::generate().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let engine = Engine::builder().backend(backend).start().unwrap();
    let files = engine.remote_files(&address, PeerTrust::Pinned(identity.fingerprint()));
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut peer = Peer::accept(socket, &identity);
            assert!(matches!(peer.next_message(), Some(Message::Hello(_))));
            peer.message(&welcome());
            assert!(matches!(peer.next_message(), Some(Message::Query { .. })));
            script(&mut peer);
            peer.turn_until_closed();
        });
        let answered = asks(&files);
        drop(files);
        server.join().unwrap();
        answered
    })
}

fn size(size_bytes: u64) -> Message {
    let mtime = Mtime::default();
    Message::FileSize { size_bytes, mtime }
}

fn part(bytes: &'static [u8]) -> Message {
    let data = Bytes::from_static(bytes);
    Message::FilePart { data }
}

/// Neither sizes nor counts make the client keep more than it asked for, and no byte is handed over
/// that is not what a value says.
pub fn a_server_that_lies(backend: &'static str) {
    let mut hasher = ChunkHasher::new(ChunkIndex(0), 4);
    hasher.update(b"text");
    let value = hasher.finish();
    let read = |said: Vec<Message>| -> Result<RemoteRange, TransferError> {
        let asks = |files: &RemoteFiles| block_on(files.read_range("f", 0..100));
        ask(backend, asks, move |peer| {
            said.iter().for_each(|said| peer.message(said));
        })
    };
    let honest = vec![
        size(4),
        part(b"text"),
        Message::ChunkValue { value },
        Message::ListEnd {},
    ];
    assert_eq!(read(honest).unwrap().bytes, "text");
    for said in [
        vec![size(1 << 62)],
        vec![size(u64::MAX >> 1)],
        vec![size(4), part(b"text and more")],
        vec![size(4), part(b"tex"), Message::ChunkValue { value }],
        vec![size(4), Message::ListEnd {}],
        vec![size(4), part(b"texT"), Message::ChunkValue { value }],
        vec![size(100 << 20), part(b"text"), Message::ListEnd {}],
        vec![Message::About { slot: 200 }],
        vec![Message::About { slot: 3 }, size(4)],
        vec![Message::ListEnd {}],
    ] {
        let shown = format!("{said:?}");
        let error = read(said).unwrap_err();
        assert!(
            matches!(error, TransferError::Failed(_) | TransferError::Corrupt(_)),
            "{shown}: {error:?}"
        );
    }
    let told = landro::proto::SessionError::told(SessionErrorCode::NotFound, "not today");
    let refused = read(vec![Message::Unanswered(told)]);
    assert!(
        matches!(refused, Err(TransferError::NotFound(_))),
        "{refused:?}"
    );
    a_listing_without_end(backend);
}

fn a_listing_without_end(backend: &'static str) {
    let row = ListItem {
        name: Bytes::from(vec![b'n'; 100]),
        meta: Meta {
            kind: Kind::File,
            mode: 0o644,
            mtime: Mtime::default(),
            size_bytes: u64::MAX >> 1,
            allocated_bytes: 0,
            inode: 1,
            device: 0,
            lasting: Lasting::Inode,
            links: 1,
            is_sized: true,
        },
        link: None,
    };
    let listed: Result<Vec<ListedEntry>, TransferError> = ask(
        backend,
        |files| block_on(files.list("")),
        |peer| {
            let rows = Message::Listing(vec![row; 400]);
            let (mut ahead, mut said) = (0, 0);
            loop {
                while ahead < 8 {
                    peer.message(&rows);
                    (ahead, said) = (ahead + 1, said + 1);
                }
                match peer.next_message() {
                    Some(Message::ListAck {}) => ahead -= 1,
                    Some(Message::Forget { slot: 0 }) => break,
                    Some(Message::About { .. }) => {}
                    other => panic!("{other:?}"),
                }
                assert!(said < 4000, "it takes more and more");
            }
            peer.message(&Message::ListEnd {});
        },
    );
    let error = listed.unwrap_err();
    assert!(error.to_string().contains("is not kept"), "{error}");
}
