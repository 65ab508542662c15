//! The same command again: an unfinished copy under a new name is gone on with, a finished one is
//! copied into, as coreutils does; contents of a directory, and what is never copied into itself.

mod common;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use common::tree::{assert_same, records};
use common::{Output, Side, World};

on_both_backends!(
    an_interrupted_copy_is_gone_on_with,
    the_copy_of_another_is_not,
    an_entry_that_failed_is_tried_again,
    contents_and_names_are_as_with_cp,
    a_tree_is_not_copied_into_itself,
);

fn world(backend: &'static str) -> World {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    World::within(backend, &[], dir)
}

fn fill(at: &Path) {
    fs::create_dir_all(at.join("sub")).unwrap();
    for number in 0..40 {
        fs::write(
            at.join(format!("sub/{number}")),
            vec![b'x'; 100_000 + number],
        )
        .unwrap();
    }
}

/// A slow copy, stopped by a signal when some of it is there; what it said.
fn stop_early(world: &World, args: &[OsString], there: &Path, signal: &str) -> Output {
    let slow = ["--bwlimit", "2M"].map(OsString::from).to_vec();
    let mut running = world.cp_start(&[slow, args.to_vec()].concat());
    while !fs::read_dir(there.join("sub")).is_ok_and(|names| names.count() > 3) {
        assert!(running.is_running(), "it was not slow enough");
        thread::sleep(Duration::from_millis(5));
    }
    running.signal(signal);
    running.wait()
}

fn an_interrupted_copy_is_gone_on_with(backend: &'static str) {
    let world = world(backend);
    let source = world.here("tree");
    fill(&source);
    fill(&world.root("tree"));
    let push = [source.clone().into(), OsString::from(world.url("new name"))];
    let pull = [
        OsString::from(world.url("tree")),
        world.here("new name").into(),
    ];
    for (args, from, to) in [
        (&push, &source, world.root("new name")),
        (&pull, &world.root("tree"), world.here("new name")),
    ] {
        let stopped = stop_early(&world, args, &to, "INT");
        assert_eq!(stopped.code, Some(130));
        let command = stopped
            .stderr
            .split("resumes it: ")
            .nth(1)
            .unwrap_or_default();
        let from_url = args.iter().map(|arg| arg.to_str().unwrap());
        for word in from_url {
            assert!(command.contains(word), "{word}: {command}");
        }
        stop_early(&world, args, &to, "KILL");
        let again = world.cp(args).expect(0);
        assert!(again.number("skipped") > 3, "{again:?}");
        assert_same(from, &to);
        // Finished: copied into, as with cp.
        world.cp(args).expect(0);
        assert_same(from, &to.join("tree"));
    }
}

fn the_copy_of_another_is_not(backend: &'static str) {
    let mut world = world(backend);
    let source = world.here("tree");
    fill(&source);
    let push = |name: &str| [source.clone().into(), OsString::from(world.url(name))];
    stop_early(&world, &push("new"), &world.root("new"), "INT");
    // Another command of the same user.
    let other = world.here("other");
    fill(&other);
    world.push(&other, "new").expect(0);
    assert_same(&other, &world.root("new/other"));
    // The same command of another client.
    let stranger = Side::new();
    let id = stranger.id();
    let file = world.server.path().join("authorized_peers");
    fs::write(&file, format!("{id}\n{}\n", world.client.id())).unwrap();
    world.restart();
    let before = std::mem::replace(&mut world.client, stranger);
    world.push(&source, "new").expect(0);
    assert_same(&source, &world.root("new/tree"));
    fs::remove_dir_all(world.root("new/tree")).unwrap();
    fs::remove_dir_all(world.root("new/other")).unwrap();
    // And of the first.
    world.client = before;
    world.push(&source, "new").expect(0);
    assert_same(&source, &world.root("new"));
}

/// What could not be copied is missing, so that the same command has to come back to it.
fn an_entry_that_failed_is_tried_again(backend: &'static str) {
    let world = world(backend);
    let source = world.here("tree");
    fill(&source);
    let name = "n".repeat(255);
    fs::write(source.join(&name), "long").unwrap();
    // A name that cannot be sent: the walk says so.
    let mut deep = source.join("deep");
    for _ in 0..18 {
        deep.push("d".repeat(230));
    }
    let made = Command::new("python3")
        .args(["-c", "import os,sys\nfor n in sys.argv[1].split('/'):\n os.path.isdir(n or '/') or os.mkdir(n)\n os.chdir(n or '/')"])
        .arg(&deep)
        .status()
        .unwrap();
    assert!(made.success());
    world.push(&source, "new").expect(3);
    fs::remove_dir_all(source.join("deep")).unwrap();
    let again = world.push(&source, "new").expect(0);
    assert!(again.number("skipped") > 39, "{again:?}");
    assert!(!world.root("new/tree").exists());
    world.push(&source, "new").expect(0);
    assert!(world.root("new/tree").exists());
}

/// What each command line copies is what coreutils' cp copies, in every direction.
fn contents_and_names_are_as_with_cp(backend: &'static str) {
    let commands: [(&[&str], &str, &str); 12] = [
        (&[], "a/.", "b"),
        (&[], "a/.", "there"),
        (&[], "a", "b"),
        (&[], "a", "there"),
        (&["-T"], "a", "b"),
        (&["-T"], "a", "there"),
        (&["-T"], "a/.", "there"),
        (&["-T"], "a/", "there"),
        (&["-T"], "a/file", "there/file"),
        (&[], "a/sub/..", "there"),
        (&["--no-target-directory"], "a", "there/sub"),
        (&[], "a/sub/.", "there/a"),
    ];
    let world = world(backend);
    for (number, command) in commands.into_iter().enumerate() {
        as_with_cp(&world, number, command);
    }
    let here = world.here("0-cp");
    let two = [here.join("a"), here.join("there"), here.join("c")];
    let args = [vec![OsString::from("-T")], two.map(Into::into).to_vec()].concat();
    world.cp(&args).expect(2);
    let dotted = OsString::from(format!("{}/.", here.join("a").display()));
    world
        .cp(&[dotted, here.join("there").into(), here.join("c").into()])
        .expect(2);
    // A file is not put over a directory, be it the root itself.
    let over = [
        OsString::from("-T"),
        here.join("a/file").into(),
        world.url("").into(),
    ];
    world.cp(&over).expect(1);
}

fn furnish(at: &Path) {
    fs::create_dir_all(at.join("a/sub/deep")).unwrap();
    fs::create_dir_all(at.join("there/a")).unwrap();
    fs::write(at.join("a/file"), "new content").unwrap();
    fs::write(at.join("a/sub/deep/f"), "f").unwrap();
    fs::write(at.join("there/file"), "old").unwrap();
    fs::write(at.join("there/kept"), "kept").unwrap();
}

/// All names below, and what is in the file that may be replaced.
fn seen(place: &Path) -> (Vec<PathBuf>, Vec<u8>) {
    let names = records(place).into_keys();
    // A source stays as it is, wherever it is.
    let copied = names.filter(|name| !name.starts_with("a")).collect();
    (copied, fs::read(place.join("there/file")).unwrap())
}

fn as_with_cp(world: &World, number: usize, (options, source, target): (&[&str], &str, &str)) {
    let told = format!("cp -r {options:?} {source} {target}");
    let expected = world.here(&format!("{number}-cp"));
    furnish(&expected);
    let status = Command::new("cp")
        .arg("-r")
        .args(options)
        .args([source, target])
        .current_dir(&expected)
        .status();
    assert!(status.unwrap().success(), "{told}");
    let run = |from: OsString, to: OsString| {
        let options: Vec<OsString> = options.iter().map(OsString::from).collect();
        world.cp(&[options, vec![from, to]].concat()).expect(0);
    };
    // `join` would take dots away.
    let below = |base: &Path, path: &str| OsString::from(format!("{}/{path}", base.display()));
    let place = format!("{number}-landro");
    let (here, there) = (world.here(&place), world.root(&place));
    for way in ["local", "push", "pull"] {
        for at in [&here, &there] {
            let _ = fs::remove_dir_all(at);
            furnish(at);
        }
        let url = |path: &str| OsString::from(world.url(&format!("{place}/{path}")));
        let landed = match way {
            "local" => {
                run(below(&here, source), below(&here, target));
                &here
            }
            "push" => {
                run(below(&here, source), url(target));
                &there
            }
            _ => {
                run(url(source), below(&here, target));
                &here
            }
        };
        assert_eq!(seen(landed), seen(&expected), "{way}: {told}");
    }
}

/// Source and daemon on one host: 300 files stay 300.
fn a_tree_is_not_copied_into_itself(backend: &'static str) {
    let dir: TempDir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = World::within(backend, &[], dir);
    let root = world.root("");
    let above = root.parent().unwrap().to_owned();
    fs::create_dir_all(world.root("tree/sub")).unwrap();
    for number in 0..300 {
        fs::write(world.root(&format!("tree/{number}")), "x").unwrap();
    }
    let before = records(&root);
    let refused = |output: Output| {
        let output = output.expect(1);
        assert!(
            output.stderr.contains("cannot be copied into itself"),
            "{output:?}"
        );
        assert_eq!(records(&root), before);
    };
    // Pushes of what contains the target, or is it.
    for target in ["", "tree", "tree/sub", "tree/sub/new", "tree/new"] {
        refused(world.push(&above, target));
    }
    for target in ["tree", "tree/sub", "tree/sub/new", "tree/new", ""] {
        refused(world.push(world.root("tree"), target));
        refused(world.cp(&[world.root("tree"), world.root(target)]));
    }
    // Pulls into what is served.
    for target in ["tree", "tree/sub", "tree/sub/new", "tree/new", ""] {
        refused(world.pull("tree", world.root(target)));
        if !target.is_empty() {
            refused(world.pull("", world.root(target)));
        }
    }
    // Another tree of the same host is none of its own.
    fs::create_dir(world.here("other")).unwrap();
    fs::write(world.here("other/file"), "x").unwrap();
    world.push(world.here("other"), "tree").expect(0);
    assert!(world.root("tree/other/file").exists());
}
