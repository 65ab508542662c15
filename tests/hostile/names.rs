//! Names, targets and symlinks that try to leave the root.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use landro::ids::{ChunkIndex, EntryId};
use landro::proto::Kind;
use landro::proto::integrity::digest_of;
use landro::proto::wire::{Message, RecordHead, VerdictKind, WireRequest};

use super::Scene;
use super::peer::{self, directory, end, entry, file, link};

pub fn that_lead_elsewhere(scene: &Scene) {
    let absolute = scene.outside.join("x").to_str().unwrap().to_owned();
    let (long, too_long, much_too_long) = ("n".repeat(256), "n".repeat(300), "n".repeat(60_000));
    let names = [
        "..",
        ".",
        "",
        "/",
        "../x",
        "../../x",
        "a/b",
        "/etc/x",
        &absolute,
        "a/../../x",
        "x\0y",
        "\0",
        "..\0",
        &long,
        &too_long,
        &much_too_long,
    ];
    for name in names {
        for kind in [Kind::File, Kind::Directory, Kind::Special] {
            let mut peer = scene.push();
            peer.entries(vec![entry(1, 0, name.as_bytes(), kind, 1)]);
            peer.expect_violation(&format!("{kind:?} {:?}", &name[..name.len().min(40)]));
        }
        let mut peer = scene.push();
        peer.entries(vec![link(1, 0, name, "target")]);
        peer.expect_violation("a symlink");
        // Below a directory, too.
        let mut peer = scene.push();
        peer.entries(vec![
            directory(1, 0, "dir"),
            entry(2, 1, name.as_bytes(), Kind::File, 1),
        ]);
        peer.expect_violation("a child");
    }
    // Symlinks whose target is none.
    for target in ["", "x\0y"] {
        let mut peer = scene.push();
        peer.entries(vec![link(1, 0, "link", target), file(2, "after", 0)]);
        let closed_or_failed = loop {
            match peer.next_message() {
                None => break true,
                Some(Message::Verdicts(verdicts)) => {
                    let Some(verdict) = verdicts.into_iter().find(|v| v.entry == EntryId(1)) else {
                        continue;
                    };
                    break matches!(verdict.kind, VerdictKind::Failed { .. });
                }
                Some(_) => {}
            }
        };
        assert!(closed_or_failed, "{target:?}");
    }
    for name in scene.planted() {
        assert!(name == "dir", "{name:?} was made");
    }
}

/// Links in the root that lead out of it, by an absolute path and by a relative one.
pub fn targets(scene: &Scene) {
    let outside = scene.outside.to_str().unwrap();
    symlink(outside, scene.world.root("out")).unwrap();
    symlink("../here/outside", scene.world.root("up")).unwrap();
    pushed_to(scene);
    pulled_or_listed(scene);
    let _ = fs::remove_file(scene.world.root("out"));
    let _ = fs::remove_file(scene.world.root("up"));
}

fn pushed_to(scene: &Scene) {
    let long = "d/".repeat(3000);
    for target in [
        "..",
        "../",
        "../here/outside",
        "../here/outside/x",
        "/../here",
        "a/../../here",
        "out",
        "out/",
        "out/x",
        "up/x",
        "up",
        "x\0y",
        &long,
        scene.outside.to_str().unwrap(),
    ] {
        for directory in [false, true] {
            let mut peer = scene.connect();
            let mut request = peer::push_request(target);
            if let WireRequest::Push { must_be_dir, .. } = &mut request {
                *must_be_dir = directory;
            }
            peer.open(request);
            match peer.next_message() {
                None | Some(Message::Error(_)) => {}
                // `out` itself may be taken for the name of the one thing to come: a symlink that
                // is replaced.
                Some(Message::Welcome(_)) if !directory && matches!(target, "out" | "up") => {
                    peer.entries(vec![file(1, "x", 3)]);
                    if peer.verdict(1) == (VerdictKind::Send {}) {
                        peer.record(whole(1, 3), b"bad", digest_of(b"bad"));
                        peer.verdict(1);
                    }
                }
                other => panic!("{target:?} {directory}: {other:?}"),
            }
        }
    }
}

fn pulled_or_listed(scene: &Scene) {
    for path in [
        "..",
        "../here/outside/witness",
        "out/witness",
        "up/witness",
        "out/",
        "/../here/outside",
        "x\0y",
    ] {
        let mut peer = scene.connect();
        let sources = vec![path.to_owned().into()];
        peer.open(WireRequest::Pull {
            sources,
            follow_named: false,
            no_growing: false,
            place: None,
        });
        loop {
            match peer.next_message() {
                Some(Message::Entries(items)) => panic!("{path:?} is sent: {items:?}"),
                Some(Message::ManifestEnd { entries }) => break assert_eq!(entries, 0, "{path:?}"),
                Some(Message::Error(_)) | None => break,
                Some(_) => {}
            }
        }
        let mut peer = scene.connect();
        let path_bytes = path.to_owned().into();
        peer.open(WireRequest::List {
            path: path_bytes,
            partial: false,
        });
        loop {
            match peer.next_message() {
                Some(Message::Listing(rows)) => panic!("{path:?} is listed: {rows:?}"),
                Some(Message::Error(_)) | None => break,
                Some(Message::ListEnd {}) => panic!("{path:?} is an empty directory?"),
                Some(_) => {}
            }
        }
    }
}

fn whole(entry: u32, len_bytes: u64) -> RecordHead {
    RecordHead::Whole {
        entry: EntryId(entry),
        len_bytes,
    }
}

pub fn symlinks_written_through(scene: &Scene) {
    let outside = scene.outside.to_str().unwrap();
    let levels = [
        "../here/outside",
        "../../../../../../../../../../../../tmp",
        outside,
    ];
    for (number, target) in levels.into_iter().enumerate() {
        links_to_directories(scene, &format!("l{number}"), target);
    }
    links_to_files(scene, &format!("{outside}/witness"));
}

fn links_to_directories(scene: &Scene, name: &str, target: &str) {
    // In one session: a link, then a directory of its name with a child.
    let mut peer = scene.push();
    peer.entries(vec![link(1, 0, name, target)]);
    assert!(matches!(peer.verdict(1), VerdictKind::Done { .. }));
    peer.entries(vec![directory(2, 0, name), file(3, "inside", 0), end(2)]);
    let verdict = peer.verdict(2);
    assert!(matches!(verdict, VerdictKind::Failed { .. }), "{target}");
    // In another: below it, as its parent.
    let mut peer = scene.push();
    let child = entry(2, 1, b"sub", Kind::File, 3);
    peer.entries(vec![directory(1, 0, name), child, end(1)]);
    let verdict = peer.verdict(1);
    assert!(matches!(verdict, VerdictKind::Failed { .. }), "{target}");
    // As the target of a push.
    let mut peer = scene.connect();
    peer.open(peer::push_request(&format!("{name}/x")));
    let answer = peer.next_message();
    assert!(!matches!(answer, Some(Message::Welcome(_))), "{target}");
    // A parent that is a link was announced as one: links have no children.
    let mut peer = scene.push();
    let child = entry(2, 1, b"child", Kind::File, 0);
    peer.entries(vec![link(1, 0, name, target), child]);
    peer.expect_violation("a child of a symlink");
}

/// Data of that name replaces the link, small and large.
fn links_to_files(scene: &Scene, target: &str) {
    let large = RecordHead::Chunk {
        entry: EntryId(2),
        chunk: ChunkIndex(0),
        len_bytes: 70_000,
        has_holes: false,
    };
    for (name, size_bytes, head) in [("file1", 3, whole(2, 3)), ("file2", 70_000, large)] {
        let mut peer = scene.push();
        peer.entries(vec![link(1, 0, name, target)]);
        assert!(matches!(peer.verdict(1), VerdictKind::Done { .. }));
        peer.entries(vec![file(2, name, size_bytes)]);
        assert_eq!(peer.verdict(2), VerdictKind::Send {});
        let data = vec![b'x'; size_bytes as usize];
        peer.record(head, &data, digest_of(&data));
        assert!(matches!(peer.verdict(2), VerdictKind::Done { .. }));
        let meta = fs::symlink_metadata(scene.world.root(name)).unwrap();
        assert!(meta.is_file() && meta.len() == size_bytes);
    }
}

/// The real client sends files into a directory that somebody on the daemon's host swaps for a
/// symlink, over and over: some of them may fail, none may land outside.
pub fn symlinks_swapped(scene: &Scene) {
    let tree = scene.world.here("swap");
    fs::create_dir_all(tree.join("dir/sub")).unwrap();
    for number in 0..300 {
        fs::write(
            tree.join("dir").join(format!("{number}")),
            vec![1; number * 10],
        )
        .unwrap();
        fs::write(tree.join("dir/sub").join(format!("{number}")), vec![2; 10]).unwrap();
    }
    fs::write(tree.join("dir/large"), vec![3; 3 << 20]).unwrap();
    let (dir, away) = (scene.world.root("swap/dir"), scene.world.root("swap/away"));
    fs::create_dir_all(&dir).unwrap();
    let over = AtomicBool::new(false);
    let args: [OsString; 3] = [
        "--force".into(),
        tree.clone().into(),
        scene.world.url("").into(),
    ];
    let outputs = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                // Any step may meet what the daemon has just made there.
                if fs::rename(&dir, &away).is_ok() {
                    let _ = symlink(&scene.outside, &dir);
                    thread::yield_now();
                    let _ = fs::remove_file(&dir);
                    let _ = fs::remove_dir_all(&dir);
                    let _ = fs::rename(&away, &dir);
                }
            }
        });
        let client = scope
            .spawn(|| (0..12).map(|_| scene.world.cp(&args)).collect::<Vec<_>>())
            .join();
        // Also if a client hangs: a scope waits for its threads before it lets anything fail.
        over.store(true, Ordering::SeqCst);
        client.unwrap()
    });
    for output in outputs {
        assert!(matches!(output.code, Some(0 | 1 | 3)), "{output:?}");
    }
    let _ = fs::remove_file(&dir);
}

pub fn too_deep(scene: &Scene) {
    // All in one breath, and level by level as an honest sender would.
    for wait in [false, true] {
        let mut peer = scene.push();
        let mut id = 1;
        let closed = loop {
            let batch: Vec<_> = (id..id + 100)
                .map(|id| directory(id, id - 1, "d"))
                .collect();
            peer.entries(batch);
            id += 100;
            if wait {
                peer.turn();
            }
            if peer.is_closed() || id > 10_000 {
                break peer.expect_violation("10,000 directories deep");
            }
        };
        println!("at {id}: {closed}");
    }
    // Long names add up to a path nobody can name sooner than that.
    let mut peer = scene.push();
    let name = "n".repeat(255);
    peer.entries((1..=40).map(|id| directory(id, id - 1, &name)).collect());
    match peer.next_message() {
        None => drop(peer.expect_violation("a path of 10,000 bytes")),
        Some(Message::Verdicts(verdicts)) => {
            assert!(
                matches!(verdicts[0].kind, VerdictKind::Failed { .. }),
                "{verdicts:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}
