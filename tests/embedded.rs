//! Transfers of programs that embed the library, and the directory that such a program serves.

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Daemon, Side, World, landro, within};
use futures_lite::future::{block_on, zip};
use landro::{
    BackendChoice, ConnectionError, Direction, Engine, EntryResult, Fingerprint, Grant, Identity,
    PeerTrust, RunningTransfer, Transfer, TransferError, TransferEvent, TransferOptions,
};
use tempfile::TempDir;

const BOTH: Grant = Grant {
    read: true,
    write: true,
};

fn backend(name: &str) -> BackendChoice {
    match name {
        "poll" => BackendChoice::Poll,
        _ => BackendChoice::IoUring,
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn bytes_of(path: &Path) -> Bytes {
    Bytes::from(path.to_str().unwrap().to_owned())
}

fn transfer(direction: Direction, sources: &[&Path], target: &Path) -> Transfer {
    Transfer {
        direction,
        sources: sources.iter().map(|path| bytes_of(path)).collect(),
        target: bytes_of(target),
        options: TransferOptions::default(),
    }
}

/// An engine that serves a directory, one that copies, and where the first is.
struct Both {
    serves: Engine,
    copies: Engine,
    at: String,
    root: TempDir,
    here: TempDir,
}

impl Both {
    fn new(name: &str) -> Both {
        let identity = Identity::generate().unwrap();
        let ours = identity.fingerprint();
        Both::with(name, identity, move |peer| (*peer == ours).then_some(BOTH))
    }

    fn with(
        name: &str,
        identity: Identity,
        access: impl Fn(&Fingerprint) -> Option<Grant> + Send + Sync + 'static,
    ) -> Both {
        let (root, here) = (on_disk(), on_disk());
        let ours = identity.fingerprint();
        let serves = Engine::builder()
            .backend(backend(name))
            .workers(2)
            .listen(loopback())
            .accept(PeerTrust::OneOf(vec![ours]))
            .serve(root.path(), access);
        let serves = serves.start().unwrap();
        let at = serves.listener().addresses()[0].to_string();
        let copies = Engine::builder().backend(backend(name)).identity(identity);
        Both {
            serves,
            copies: copies.start().unwrap(),
            at,
            root,
            here,
        }
    }

    fn begin(&self, transfer: Transfer) -> RunningTransfer {
        let trust = PeerTrust::Pinned(self.serves.fingerprint());
        self.copies.transfer(&self.at, trust, transfer)
    }

    fn push(&self, from: &str, to: &str) -> RunningTransfer {
        let from = self.here.path().join(from);
        self.begin(transfer(Direction::Push, &[&from], Path::new(to)))
    }

    fn write(&self, name: &str, bytes: usize) -> Vec<u8> {
        let data: Vec<u8> = (0..bytes as u64).map(|n| ((n * n) >> 5) as u8).collect();
        fs::write(self.here.path().join(name), &data).unwrap();
        data
    }
}

fn a_tree_goes_there_and_back(name: &'static str) {
    let both = Both::new(name);
    let from = both.here.path().join("tree");
    fs::create_dir_all(from.join("below")).unwrap();
    for file in 0..300 {
        fs::write(from.join(format!("below/{file}")), vec![file as u8; file]).unwrap();
    }
    let large = both.write("tree/large", 30 << 20);
    let mut pushes = both.push("tree", "copy");
    let (events, result) = block_on(async {
        let mut events = Vec::new();
        while let Some(event) = pushes.next_event().await {
            events.push(event);
        }
        (events, pushes.result().await)
    });
    let summary = result.unwrap();
    assert_eq!((summary.files, summary.directories), (301, 2));
    assert_eq!((summary.failed, summary.skipped), (0, 0));
    assert!(matches!(events[0], TransferEvent::Connected { peer, .. }
        if peer == both.serves.fingerprint()));
    let done = |event: &&TransferEvent| {
        let is_done = |result: &EntryResult| matches!(result, EntryResult::Done { .. });
        matches!(event, TransferEvent::Entry { result, .. } if is_done(result))
    };
    assert_eq!(events.iter().filter(done).count(), 303);
    let moved = events.iter().map(|event| match event {
        TransferEvent::Moved { bytes } => *bytes,
        _ => 0,
    });
    assert_eq!(moved.sum::<u64>(), summary.moved_bytes);
    assert!(fs::read(both.root.path().join("copy/large")).unwrap() == large);

    let back = both.here.path().join("back");
    let pulls = both.begin(transfer(Direction::Pull, &[Path::new("copy")], &back));
    assert_eq!(block_on(pulls.result()).unwrap().files, 301);
    assert!(fs::read(back.join("large")).unwrap() == large);
    let again = block_on(both.push("tree", "copy").result()).unwrap();
    // Into it, as cp does with a directory that is there.
    assert_eq!((again.files, again.skipped), (301, 0));
}

/// Each protocol of one port asks whom it trusts itself.
fn files_and_streams_share_a_port(name: &'static str) {
    let copier = Identity::generate().unwrap();
    let (of_files, talker) = (copier.fingerprint(), Identity::generate().unwrap());
    let root = on_disk();
    let serves = Engine::builder()
        .backend(backend(name))
        .workers(2)
        .listen(loopback())
        .accept(PeerTrust::OneOf(vec![talker.fingerprint()]))
        .serve(root.path(), move |peer| (*peer == of_files).then_some(BOTH))
        .start()
        .unwrap();
    let listener = serves.listener();
    let at = listener.addresses()[0].to_string();
    let trust = || PeerTrust::Pinned(serves.fingerprint());
    let start = |identity| {
        let engine = Engine::builder().backend(backend(name)).identity(identity);
        engine.start().unwrap()
    };
    let (copies, talks) = (start(copier), start(talker));
    let from = on_disk();
    fs::write(from.path().join("f"), b"text").unwrap();
    let source = from.path().join("f");
    let push = || transfer(Direction::Push, &[&source], Path::new("f"));
    block_on(async {
        let (ours, theirs) = zip(talks.connect(&at, trust()), listener.accept()).await;
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        let copied = copies.transfer(&at, trust(), push()).result();
        let talk = async {
            let mut sends = ours.open_uni().await.unwrap();
            sends.write_all(b"hello").await.unwrap();
            sends.finish().unwrap();
            let mut receives = theirs.accept_uni().await.unwrap();
            receives.read_to_end(100).await.unwrap()
        };
        let (copied, heard) = zip(copied, talk).await;
        assert_eq!((copied.unwrap().files, &heard[..]), (1, &b"hello"[..]));
        assert_eq!(fs::read(root.path().join("f")).unwrap(), b"text");

        let refused = talks.transfer(&at, trust(), push()).result().await;
        assert!(
            matches!(refused, Err(TransferError::Refused { .. })),
            "{refused:?}"
        );
        // Who may copy has completed a handshake before it is sent away.
        let stranger = copies.connect(&at, trust()).await.unwrap();
        let ended = stranger.closed().await;
        assert!(
            matches!(ended, ConnectionError::ClosedByPeer { .. }),
            "{ended:?}"
        );
    });
}

fn what_is_cut_short_is_gone_on_with(name: &'static str) {
    let both = Both::new(name);
    let data = both.write("large", 200 << 20);
    let target = both.root.path().join("large");
    for by_drop in [false, true] {
        let mut pushes = both.push("large", "large");
        block_on(async {
            let mut moved = 0;
            while moved < 20 << 20 {
                let event = pushes.next_event().await;
                if let TransferEvent::Moved { bytes } = event.expect("it ended before") {
                    moved += bytes;
                }
            }
            if by_drop {
                drop(pushes);
            } else {
                pushes.cancel();
                let ended = pushes.result().await.unwrap_err();
                assert!(matches!(ended, TransferError::Cancelled(_)), "{ended:?}");
                assert!(ended.resumable_bytes() >= 20 << 20 && ended.is_retryable());
            }
        });
        assert!(!target.exists(), "half a file has its name");
    }
    let summary = loop {
        // The end of the one that was dropped may not have reached the other side.
        match block_on(both.push("large", "large").result()) {
            Ok(summary) => break summary,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    };
    assert!(summary.resumed_bytes >= 16 << 20, "{summary:?}");
    assert!(fs::read(&target).unwrap() == data);
}

/// Not into what an earlier run made of it.
fn a_tree_that_was_cut_short_is_gone_on_with(name: &'static str) {
    let both = Both::new(name);
    fs::create_dir(both.here.path().join("tree")).unwrap();
    let files: Vec<Vec<u8>> = (0..40)
        .map(|file| both.write(&format!("tree/{file}"), (4 << 20) + file))
        .collect();
    let mut pushes = both.push("tree", "copy");
    block_on(async {
        let mut moved = 0;
        while moved < 20 << 20 {
            let event = pushes.next_event().await;
            if let TransferEvent::Moved { bytes } = event.expect("it ended before") {
                moved += bytes;
            }
        }
    });
    pushes.cancel();
    assert!(block_on(pushes.result()).is_err());
    let summary = block_on(both.push("tree", "copy").result()).unwrap();
    assert!(summary.skipped > 0, "{summary:?}");
    let copy = both.root.path().join("copy");
    for (file, data) in files.iter().enumerate() {
        assert!(fs::read(copy.join(file.to_string())).unwrap() == *data);
    }
    assert!(!copy.join("tree").exists());
}

fn errors_are_exit_codes(name: &'static str) {
    let both = Both::new(name);
    both.write("there", 100);
    let code = |result: Result<_, TransferError>| result.unwrap_err().exit_code();
    let (there, missing) = (
        both.here.path().join("there"),
        both.here.path().join("missing"),
    );
    let some = transfer(Direction::Push, &[&there, &missing], Path::new("d"));
    let some = block_on(both.begin(some).result());
    assert!(
        matches!(some, Err(TransferError::Partial(done)) if done.files == 1 && done.failed == 1)
    );
    assert_eq!(code(some), 3);
    let none = block_on(both.push("missing", "d").result());
    assert_eq!(code(none), 1);
    let pull = || transfer(Direction::Pull, &[Path::new("missing")], both.here.path());
    assert_eq!(code(block_on(both.begin(pull()).result())), 1);

    let other = PeerTrust::Pinned(both.copies.fingerprint());
    let not_trusted = both.copies.transfer(&both.at, other, pull());
    let not_trusted = block_on(not_trusted.result());
    assert!(
        matches!(not_trusted, Err(TransferError::NotTrusted { shown })
        if shown == both.serves.fingerprint())
    );
    let silent = UdpSocket::bind(loopback()).unwrap();
    let nobody = both.copies.transfer(
        &silent.local_addr().unwrap().to_string(),
        PeerTrust::OneOf(Vec::new()),
        pull(),
    );
    let mut nobody = block_on(async { nobody.result().await.unwrap_err() });
    assert!(
        matches!(nobody, TransferError::Unreachable(_)),
        "{nobody:?}"
    );
    let no_name = PeerTrust::OneOf(Vec::new());
    let no_name = both
        .copies
        .transfer("no.such.name.invalid:1", no_name, pull());
    nobody = block_on(no_name.result()).unwrap_err();
    assert_eq!(nobody.exit_code(), 5);
}

/// Rights are asked for again, and a transfer that has not the right for what it does ends.
fn rights_are_asked_for_again(name: &'static str) {
    let may = Arc::new(AtomicBool::new(true));
    let asked = may.clone();
    let both = Both::with(name, Identity::generate().unwrap(), move |_| {
        Some(Grant {
            read: true,
            write: asked.load(Ordering::Acquire),
        })
    });
    both.write("f", 300 << 20);
    let mut pushes = both.push("f", "f");
    let ended = block_on(async {
        while !matches!(pushes.next_event().await, Some(TransferEvent::Moved { .. })) {}
        may.store(false, Ordering::Release);
        both.serves.reauthorise();
        pushes.result().await
    });
    assert!(
        matches!(ended, Err(TransferError::Forbidden(_))),
        "{ended:?}"
    );
    let refused = block_on(both.push("f", "f").result());
    assert!(matches!(refused, Err(TransferError::Forbidden(_))));
}

fn a_shutdown_ends_transfers(name: &'static str) {
    let both = Both::new(name);
    both.write("f", 300 << 20);
    let pushes = both.push("f", "f");
    let silent = UdpSocket::bind(loopback()).unwrap().local_addr().unwrap();
    let nowhere = transfer(Direction::Push, &[both.here.path()], Path::new("x"));
    let waits = both
        .copies
        .transfer(&silent.to_string(), PeerTrust::OneOf(Vec::new()), nowhere);
    both.copies.shut_down();
    for ended in [block_on(pushes.result()), block_on(waits.result())] {
        assert!(
            matches!(ended, Err(TransferError::Cancelled(_))),
            "{ended:?}"
        );
    }
    let late = both.push("f", "f");
    assert!(block_on(late.result()).is_err());
}

/// The other half of each is the real command, and the real daemon.
fn the_command_is_the_same(name: &'static str) {
    let side = Side::new();
    let id: Fingerprint = side.id().parse().unwrap();
    let both = Both::with(name, Identity::generate().unwrap(), move |peer| {
        (*peer == id).then_some(BOTH)
    });
    let data = both.write("f", 5 << 20);
    let source = both.here.path().join("f");
    let url = format!("landro://{}/f", both.at);
    let trust = both.serves.fingerprint().to_string();
    landro(
        &side,
        [
            "cp",
            "--backend",
            name,
            "--peer",
            &trust,
            source.to_str().unwrap(),
            &url,
        ],
    )
    .expect(0);
    assert!(fs::read(both.root.path().join("f")).unwrap() == data);

    let world = World::new(name);
    let daemon: &Daemon = &world.daemon;
    fs::write(world.root("of-daemon"), b"text").unwrap();
    let known: Fingerprint = world.server.id().parse().unwrap();
    let identity = fs::read_to_string(world.client.path().join("identity.pem")).unwrap();
    let engine = Engine::builder()
        .backend(backend(name))
        .identity(Identity::from_pem(&identity).unwrap())
        .start()
        .unwrap();
    let to = both.here.path().join("of-daemon");
    let pull = transfer(Direction::Pull, &[Path::new("of-daemon")], &to);
    let pulled = engine.transfer(daemon.address(), PeerTrust::Pinned(known), pull);
    assert_eq!(block_on(pulled.result()).unwrap().files, 1);
    assert_eq!(fs::read(to).unwrap(), b"text");
}

fn pieces_of_files_are_read(name: &'static str) {
    let both = Both::new(name);
    let data = both.write("f", (5 << 20) + 77);
    fs::create_dir(both.root.path().join("d")).unwrap();
    fs::write(both.root.path().join("d/f"), &data).unwrap();
    fs::write(both.root.path().join("d/empty"), b"").unwrap();
    std::os::unix::fs::symlink("f", both.root.path().join("d/link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", both.root.path().join("d/out")).unwrap();
    let sparse = fs::File::create(both.root.path().join("d/sparse")).unwrap();
    sparse.set_len(3 << 30).unwrap();
    let trust = || PeerTrust::Pinned(both.serves.fingerprint());
    let read = |path: &str, range| block_on(both.copies.read_range(&both.at, trust(), path, range));
    let size = data.len() as u64;
    for (from, to) in [
        (0, 10),
        ((1 << 20) - 3, (2 << 20) + 9),
        (size - 5, size + 5),
        (0, u64::MAX),
        (size, size + 1),
        (7, 7),
    ] {
        let expected = &data[from as usize..to.min(size).max(from) as usize];
        assert!(read("d/f", from..to).unwrap() == expected, "{from}..{to}");
    }
    assert!(read("d/link", 0..100).unwrap() == data[..100]);
    assert!(read("d/empty", 0..100).unwrap().is_empty());
    let far = read("d/sparse", (2 << 30)..(2 << 30) + 100).unwrap();
    assert!(far == vec![0; 100]);
    for missing in [("d", 0..1), ("d/none", 0..1), ("d/f", size + 1..size + 2)] {
        let refused = read(missing.0, missing.1);
        assert!(
            matches!(refused, Err(TransferError::NotFound(_))),
            "{refused:?}"
        );
    }
    // Neither a symlink nor a path leads out of what is served.
    assert!(read("d/out", 0..1).is_err() && read("../x", 0..1).is_err());

    let list = |path: &str| block_on(both.copies.list(&both.at, trust(), path));
    let mut rows = list("d").unwrap();
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    let names: Vec<&[u8]> = rows.iter().map(|row| &row.name[..]).collect();
    assert_eq!(names, [&b"empty"[..], b"f", b"link", b"out", b"sparse"]);
    assert_eq!(rows[1].bytes, size);
    let modified = fs::metadata(both.root.path().join("d/f"))
        .unwrap()
        .modified();
    assert_eq!(rows[1].modified, modified.unwrap());
    assert_eq!(rows[2].link.as_deref(), Some(&b"f"[..]));
    assert!(matches!(list("none"), Err(TransferError::NotFound(_))));

    // Who may not read may not do this either.
    let blind = Both::with(name, Identity::generate().unwrap(), |_| {
        Some(Grant {
            read: false,
            write: true,
        })
    });
    let trust = || PeerTrust::Pinned(blind.serves.fingerprint());
    let read = block_on(blind.copies.read_range(&blind.at, trust(), "f", 0..1));
    assert!(matches!(read, Err(TransferError::Forbidden(_))), "{read:?}");
    let listed = block_on(blind.copies.list(&blind.at, trust(), ""));
    assert!(matches!(listed, Err(TransferError::Forbidden(_))));
}

/// A reader that does not come holds the transfer up, and nothing else; it ends when it is dropped.
fn events_that_nobody_reads_are_bounded(name: &'static str) {
    let both = Both::new(name);
    let many = both.here.path().join("many");
    fs::create_dir(&many).unwrap();
    for file in 0..12_000 {
        fs::write(many.join(file.to_string()), b"").unwrap();
    }
    let waits = both.push("many", "waits");
    let count = || fs::read_dir(both.root.path().join("waits")).map_or(0, Iterator::count);
    assert!(within(Duration::from_secs(20), || count() > 1000));
    let other = block_on(both.push("many", "other").result()).unwrap();
    assert_eq!(other.files, 12_000);
    assert!(count() < 12_001, "it does not wait for its reader");
    assert_eq!(block_on(waits.result()).unwrap().files, 12_000);
}

on_both_backends!(
    a_tree_goes_there_and_back,
    files_and_streams_share_a_port,
    what_is_cut_short_is_gone_on_with,
    a_tree_that_was_cut_short_is_gone_on_with,
    errors_are_exit_codes,
    rights_are_asked_for_again,
    a_shutdown_ends_transfers,
    the_command_is_the_same,
    pieces_of_files_are_read,
    events_that_nobody_reads_are_bounded,
);
