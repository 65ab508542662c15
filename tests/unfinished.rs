//! Unfinished files: what is one and what only looks so, who may see them, and how they go.

mod common;

use std::ffi::{CStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use landro_sys::{FileDone, FileOp, Flock};
use tempfile::TempDir;

use common::tree::{assert_same, mark, temporary};
use common::{Output, World, landro};

on_both_backends!(
    names_like_ours_are_names_like_any_other,
    what_stands_at_our_names_stays,
    a_file_named_as_ours_is_not_believed,
    unfinished_files_are_nobodys,
    leftovers_are_listed_and_cleaned,
    a_daemon_cleans_what_is_old,
);

const MARK: &CStr = c"user.landro.unfinished";
const MIB: u64 = 1 << 20;

/// On a disk: a `/tmp` may be in memory.
fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn world(backend: &'static str, args: &[&str]) -> World {
    World::within(backend, args, on_disk())
}

fn is_marked(path: &Path) -> bool {
    let op = FileOp::GetXattr {
        file: Arc::new(File::open(path).unwrap().into()),
        name: MARK,
    };
    matches!(landro_sys::run(op), Ok(FileDone::Xattr(Some(_))))
}

/// A tree of the user's, with every name that could be taken for one of ours.
fn look_alikes(at: &Path) {
    let form = ".landro-0123456789abcdef";
    fs::create_dir_all(at.join(".landro-dir/inner")).unwrap();
    fs::create_dir(at.join(format!("{form}.new"))).unwrap();
    for name in [
        ".landro-".to_owned(),
        ".landro-notes.txt".to_owned(),
        ".LANDRO-x".to_owned(),
        ".landro-dir/inner/file".to_owned(),
        format!("{form}.part"),
        format!("{form}.journal"),
        format!("{form}.part.bak"),
        format!("{form}.new/file"),
        temporary("big", "part"),
        temporary("big", "journal"),
    ] {
        fs::write(at.join(&name), format!("content of {name}")).unwrap();
    }
    symlink("nowhere", at.join(".landro-fedcba9876543210.new")).unwrap();
}

fn names_like_ours_are_names_like_any_other(backend: &'static str) {
    let world = world(backend, &[]);
    let source = world.here("tree");
    fs::create_dir(&source).unwrap();
    look_alikes(&source);
    let silent = |output: Output| {
        let output = output.expect(0);
        assert_eq!(output.of("warning").count(), 0, "{output:?}");
    };
    silent(world.push(&source, ""));
    assert_same(&source, &world.root("tree"));
    silent(world.pull("tree", world.here("pulled")));
    assert_same(&source, &world.here("pulled"));
    silent(world.cp(&[&source, &world.here("copied")]));
    assert_same(&source, &world.here("copied"));
    // Changed, and sent again: replaced as anything else.
    for name in [temporary("big", "part"), ".landro-notes.txt".into()] {
        fs::write(source.join(name), "changed, and longer than before").unwrap();
    }
    silent(world.push(&source, ""));
    assert_same(&source, &world.root("tree"));
    silent(world.cp(&[
        OsString::from("-T"),
        source.clone().into(),
        world.here("copied").into(),
    ]));
    assert_same(&source, &world.here("copied"));
    // Named directly, listed, and as the name of what is asked for.
    silent(world.push(source.join(".landro-0123456789abcdef.part"), "named"));
    silent(world.pull("tree/.landro-0123456789abcdef.journal", world.here("named")));
    fs::write(world.here("big"), vec![b'b'; 3 * MIB as usize]).unwrap();
    silent(world.push(world.here("big"), ".landro-new"));
    // Its own names are taken there by the user's files.
    silent(world.push(world.here("big"), "tree"));
    fs::remove_file(world.root("tree/big")).unwrap();
    silent(world.pull("tree/.landro-dir", world.here(".landro-got")));
    let url = world.url("tree");
    let pin = &world.daemon.fingerprint;
    let listed = landro(&world.client, ["ls", "-la", "--peer", pin, &url]).expect(0);
    for name in fs::read_dir(&source).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        assert!(
            listed.stdout.contains(&format!(" {name}")),
            "{name}: {listed:?}"
        );
    }
}

/// What is not ours is neither removed nor written to, and in nobody's way.
fn what_stands_at_our_names_stays(backend: &'static str) {
    let world = world(backend, &[]);
    let all = [("small", 10), ("big", 3 * MIB)];
    for (name, len) in all {
        fs::write(world.here(name), vec![b'n'; len as usize]).unwrap();
        for suffix in ["part", "journal", "new"] {
            let planted = world.root(&temporary(name, suffix));
            fs::write(&planted, "precious").unwrap();
            fs::set_permissions(&planted, PermissionsExt::from_mode(0o600)).unwrap();
        }
    }
    symlink("here", world.here("link")).unwrap();
    symlink("precious", world.root(&temporary("link", "new"))).unwrap();
    for old in [false, true] {
        for (name, _) in all {
            if old {
                fs::write(world.root(name), "old").unwrap();
            }
            world.push(world.here(name), "").expect(0);
            assert_eq!(
                fs::read(world.root(name)).unwrap(),
                fs::read(world.here(name)).unwrap()
            );
            for suffix in ["part", "journal", "new"] {
                let planted = world.root(&temporary(name, suffix));
                assert_eq!(fs::read(planted).unwrap(), b"precious", "{name}.{suffix}");
            }
        }
    }
    let link = [
        OsString::from("-P"),
        world.here("link").into(),
        world.url("").into(),
    ];
    world.cp(&link).expect(0);
    let read = |name: &str| fs::read_link(world.root(name)).unwrap();
    assert_eq!(read("link"), Path::new("here"));
    assert_eq!(read(&temporary("link", "new")), Path::new("precious"));
    assert_eq!(fs::read_dir(world.root("")).unwrap().count(), 3 + 6 + 1);
}

/// An interrupted push of `big`, whose part and journal are somebody's until it is finished.
fn interrupted(world: &World) -> PathBuf {
    fs::write(world.here("big"), vec![b'g'; 24 * MIB as usize]).unwrap();
    let args = ["--bwlimit", "8M"].map(OsString::from).to_vec();
    let all = [args, vec![world.here("big").into(), world.url("").into()]].concat();
    let mut running = world.cp_start(&all);
    let part = world.root(&temporary("big", "part"));
    let journal = world.root(&temporary("big", "journal"));
    // A head, a header and some chunks.
    while !fs::metadata(&journal).is_ok_and(|meta| meta.len() > 600) {
        assert!(running.is_running(), "it was not slow enough");
        thread::sleep(Duration::from_millis(20));
    }
    running.kill();
    drop(running);
    assert!(is_marked(&part) && is_marked(&journal));
    part
}

/// A peer that sends a journal and a part under our names plants nothing that is believed.
fn a_file_named_as_ours_is_not_believed(backend: &'static str) {
    let world = world(backend, &[]);
    let part = interrupted(&world);
    // A real pair, as files of the user's: without the mark.
    let stolen = world.here("stolen");
    fs::create_dir(&stolen).unwrap();
    for suffix in ["part", "journal"] {
        let name = temporary("big", suffix);
        fs::copy(part.with_extension(suffix), stolen.join(&name)).unwrap();
        assert!(!is_marked(&stolen.join(&name)));
    }
    fs::write(
        stolen.join(temporary("big", "part")),
        vec![b'X'; 24 * MIB as usize],
    )
    .unwrap();
    // Onto the unfinished one: refused, and that one goes on.
    let refused = world
        .push(stolen.join(temporary("big", "part")), "")
        .expect(1);
    assert!(refused.stderr.contains("unfinished"), "{refused:?}");
    assert!(is_marked(&part));
    let resumed = world.push(world.here("big"), "").expect(0);
    assert!(resumed.number("resumed_bytes") > 0, "{resumed:?}");
    assert_eq!(
        fs::read(world.root("big")).unwrap(),
        fs::read(world.here("big")).unwrap()
    );
    // Into a directory where nothing is: taken as files, and not gone on with.
    world.push(&stolen, "").expect(0);
    let sent = world.push(world.here("big"), "stolen/").expect(0);
    assert_eq!(sent.number("resumed_bytes"), 0);
    assert_eq!(
        fs::read(world.root("stolen/big")).unwrap(),
        fs::read(world.here("big")).unwrap()
    );
    assert_eq!(fs::read_dir(world.root("stolen")).unwrap().count(), 3);
    assert!(!is_marked(&world.root("big")) && !is_marked(&world.root("stolen/big")));
}

fn unfinished_files_are_nobodys(backend: &'static str) {
    let world = world(backend, &[]);
    let part = interrupted(&world);
    let name = part.file_name().unwrap().to_str().unwrap().to_owned();
    symlink(&name, world.root("to-it")).unwrap();
    let pulled = world.pull(&name, world.here("got")).expect(1);
    assert!(pulled.stderr.contains("unfinished") && !world.here("got").exists());
    let listed = |path: &str| {
        let (pin, url) = (&world.daemon.fingerprint, world.url(path));
        landro(&world.client, ["ls", "-la", "--peer", pin, &url])
    };
    let all = listed("").expect(0).stdout;
    assert!(
        all.contains(" to-it ") && !all.contains(&format!("Z {name}")),
        "{all}"
    );
    listed(&name).expect(1);
    // In a tree it is left out, with a word.
    let all = world.pull("", world.here("all")).expect(0);
    assert_eq!(all.of("warning").count(), 2, "{all:?}");
    assert!(!world.here("all").join(&name).exists());
}

fn age(path: &Path, days: u32) {
    let then = format!("{days} days ago");
    let status = Command::new("touch").args(["-d", &then]).arg(path).status();
    assert!(status.unwrap().success());
}

fn leftovers_are_listed_and_cleaned(backend: &'static str) {
    let world = world(backend, &[]);
    fs::create_dir_all(world.root("deep/er")).unwrap();
    let part = interrupted(&world);
    for suffix in ["part", "journal"] {
        let moved = world.root("deep/er").join(temporary("big", suffix));
        fs::rename(part.with_extension(suffix), moved).unwrap();
    }
    let part = world.root("deep/er").join(temporary("big", "part"));
    // The user's, of the very form and old.
    let theirs = world.root("deep").join(temporary("other", "part"));
    fs::write(&theirs, "precious").unwrap();
    age(&theirs, 100);
    let (pin, url) = (&world.daemon.fingerprint, world.url(""));
    let there = landro(&world.client, ["ls", "--partial", "--peer", pin, &url]).expect(0);
    let root = world.root("").into_os_string().into_string().unwrap();
    let here = landro(&world.client, ["ls", "--partial", &root]).expect(0);
    for listed in [&there.stdout, &here.stdout] {
        let rows: Vec<&str> = listed.lines().collect();
        assert!(
            rows.len() == 1 && rows[0].ends_with(" deep/er/big"),
            "{listed}"
        );
        let size: u64 = rows[0].split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(
            (MIB..24 * MIB).contains(&size) && size.is_multiple_of(MIB),
            "{listed}"
        );
    }
    let clean = |args: &[&str]| {
        let all = ["clean", &root].into_iter().chain(args.iter().copied());
        landro(&world.client, all).expect(0).stdout
    };
    assert_eq!(clean(&[]), "", "written just now");
    age(&part, 8);
    age(&part.with_extension("journal"), 8);
    assert!(clean(&["-n"]).starts_with("would remove "));
    assert!(part.exists());
    assert_eq!(clean(&["--older-than", "9d"]), "");
    // Somebody goes on with it.
    let lock: Arc<std::os::fd::OwnedFd> = Arc::new(File::open(&part).unwrap().into());
    let op = FileOp::Lock {
        file: lock.clone(),
        how: Flock::Exclusive,
    };
    assert!(matches!(landro_sys::run(op), Ok(FileDone::Locked(true))));
    assert_eq!(clean(&[]), "");
    drop(lock);
    assert!(clean(&[]).starts_with("removed ") && !part.exists());
    assert!(!part.with_extension("journal").exists());
    assert_eq!(fs::read(&theirs).unwrap(), b"precious");
    landro(&world.client, ["clean", "--older-than", "7", &root]).expect(2);
    landro(&world.client, ["clean", &format!("{root}/none")]).expect(1);
}

fn a_daemon_cleans_what_is_old(backend: &'static str) {
    let dir = on_disk();
    fs::create_dir_all(dir.path().join("old/sub")).unwrap();
    let old = dir.path().join("old/sub").join(temporary("f", "part"));
    let young = dir.path().join("old/sub").join(temporary("g", "part"));
    for (path, name) in [(&old, "f"), (&young, "g")] {
        fs::write(path, "begun").unwrap();
        mark(path, name);
    }
    age(&old, 31);
    let client = common::Side::new();
    let args = ["--backend", backend, "--partial-max-age", "30d"];
    let daemon = common::Daemon::start(&client, &dir.path().join("old"), &args);
    daemon.wait_for_log("sub/f");
    daemon.wait_for_log("looked for unfinished files");
    assert!(!old.exists() && young.exists());
    assert!(daemon.stop().code == Some(0));
    assert_eq!(fs::metadata(&young).unwrap().nlink(), 1);
}
