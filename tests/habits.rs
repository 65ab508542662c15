//! The command line as people type it who come from scp, rsync and cp.

mod common;

use std::fs;
use std::net::UdpSocket;
use std::path::Path;

use common::{Daemon, Running, Side, World, command, landro};

on_both_backends!(options_anywhere, what_is_done_anyway_is_accepted);

/// Runs in a directory of its own, where wrong files would appear.
fn landro_in(dir: &Path, side: &Side, args: &[&str]) -> common::Output {
    let mut command = command(side, &[], args);
    command.current_dir(dir);
    Running::spawn(command).wait()
}

#[test]
fn other_hosts_as_scp_and_rsync_name_them() {
    let (side, dir) = (Side::new(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("vm"), "x").unwrap();
    fs::write(dir.path().join("12:30.log"), "y").unwrap();
    for (args, url) in [
        (&["cp", "vm", "host:/"][..], "landro://host/"),
        (&["cp", "vm", "host:"], "landro://host/"),
        (&["cp", "-r", "me@host:a/b", "."], "landro://host/a/b"),
        (&["cp", "me@[::1]:/x", "."], "landro://[::1]/x"),
        (&["cp", "vm", "host::module/x"], "landro://host/module/x"),
        (&["cp", "rsync://host/x", "."], "landro://host/x"),
        (&["cp", "12:30.log", "other"], "./12:30.log"),
        (
            &["cp", "vm", "landro://h/", "--quiet", "b:c"],
            "landro://b/c",
        ),
        (&["ls", "host:/x"], "landro://host/x"),
        (&["bench", "host:"], "landro://host/"),
    ] {
        let output = landro_in(dir.path(), &side, args).expect(2);
        assert!(output.stderr.contains(url), "{args:?}: {}", output.stderr);
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "nothing was made"
    );
    landro_in(dir.path(), &side, &["cp", "vm", "./host:"]).expect(0);
    landro_in(dir.path(), &side, &["cp", "./12:30.log", ":z"]).expect(0);
    assert_eq!(fs::read(dir.path().join("host:")).unwrap(), b"x");
    assert_eq!(fs::read(dir.path().join(":z")).unwrap(), b"y");
}

#[test]
fn options_that_only_others_have() {
    let side = Side::new();
    for (args, word) in [
        (&["cp", "-rz", "a", "b"][..], "-z: nothing is compressed"),
        (&["cp", "-n", "a", "b"], "-n: there is neither"),
        (
            &["cp", "--delete", "a", "b"],
            "--delete: nothing is ever deleted",
        ),
        (
            &["cp", "--exclude=x", "a", "b"],
            "--exclude: nothing is filtered",
        ),
        (&["cp", "-o", "Port=2", "a", "b"], "landro://HOST:PORT/PATH"),
        (&["cp", "-u", "a", "b"], "skipped anyway"),
        (&["cp", "-d", "a", "b"], "with -P those that are named"),
        (&["cp", "-P22", "a", "b"], "landro://HOST:PORT/PATH"),
        (&["cp", "--ignore-existing", "a", "b"], "skipped anyway"),
        (&["cp", "--parents", "a/b", "c"], "make the directories"),
        (&["cp", "--preserve=all", "a", "b"], "without being asked"),
        (&["cp", "--limit-rate=1M", "a", "b"], "--bwlimit"),
        (&["cp", "-j4", "a", "b"], "leave it out"),
        (&["ls", "-1", "landro://h/"], "a line of its own"),
        (&["ls", "-d", "landro://h/"], "that it lies in"),
        (&["id", "--json"], "leave it out"),
        (&["serve", "-p", "99", "."], "--listen"),
        (&["cp", "a"], "landro cp SRC... DST"),
    ] {
        let output = landro(&side, args).expect(2);
        assert!(output.stderr.contains(word), "{args:?}: {}", output.stderr);
        assert!(output.stderr.lines().count() < 3 && output.stdout.is_empty());
    }
}

/// URLs that stand for no daemon, and places that a command cannot have.
#[test]
fn places_of_another_kind() {
    let (side, dir) = (Side::new(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("vm"), "x").unwrap();
    for (args, words) in [
        (&["cp", "vm", "file:///srv/x%20y"][..], ": /srv/x y"),
        (&["cp", "FILE://localhost/srv/x", "."], ": /srv/x"),
        (&["cp", "https://h/x", "."], "does not speak https"),
        (&["cp", "vm", "s3://bucket/x"], "does not speak s3"),
        (&["ls", "."], "is not the URL of a daemon"),
        (&["ls", "h"], "write landro://HOST[:PORT]/PATH"),
        (&["bench", "h"], "is not the URL of a daemon"),
        (&["clean", "host:/srv"], "on another host"),
        (&["clean", "landro://host/srv"], "on another host"),
    ] {
        let output = landro_in(dir.path(), &side, args).expect(2);
        assert!(output.stderr.contains(words), "{args:?}: {}", output.stderr);
        assert!(!output.stderr.contains("scp"), "{}", output.stderr);
    }
    // A directory of that name is one like any other.
    fs::create_dir(dir.path().join("12:30")).unwrap();
    landro_in(dir.path(), &side, &["clean", "12:30"]).expect(0);
    for (root, words) in [("nosuch", "make it first"), ("vm", "only a directory")] {
        let args = ["serve", "--listen", "127.0.0.1:0", root];
        let output = landro_in(dir.path(), &side, &args).expect(1);
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
}

fn options_anywhere(backend: &'static str) {
    let world = World::new(backend);
    for name in ["a", "b"] {
        fs::write(world.here(name), name).unwrap();
    }
    let (a, b, to) = (world.here("a"), world.here("b"), world.url("new/"));
    let line = [
        a.as_os_str(),
        "--fsync".as_ref(),
        b.as_os_str(),
        "--force".as_ref(),
        to.as_ref(),
    ];
    world.cp(&line).expect(0);
    let line = [a.as_os_str(), b.as_os_str(), "--".as_ref(), to.as_ref()];
    assert_eq!(world.cp(&line).expect(0).number("skipped"), 2);
    let back = world.here("back");
    world
        .cp(&[
            world.url("new").as_ref(),
            "--force".as_ref(),
            back.as_os_str(),
        ])
        .expect(0);
    assert_eq!(fs::read(back.join("b")).unwrap(), b"b");
}

/// `-r` is what is done without it, too, and of `-a` what there is; what of it there is not is said
/// once, and is no failure.
fn what_is_done_anyway_is_accepted(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir(world.here("tree")).unwrap();
    fs::write(world.here("tree/file"), "x").unwrap();
    let tree = world.here("tree");
    for (option, warnings) in [
        ("-r", 0),
        ("-R", 0),
        ("--recursive", 0),
        ("-a", 1),
        ("-ra", 1),
        ("-rp", 0),
    ] {
        for to in [
            world.url(""),
            world.here("local").to_str().unwrap().to_owned(),
        ] {
            let line = [option.as_ref(), tree.as_os_str(), to.as_ref()];
            let output = world.cp(&line).expect(0);
            assert_eq!(
                output.of("warning").count(),
                warnings,
                "{option}: {output:?}"
            );
        }
    }
    assert!(world.root("tree/file").exists());
}

#[test]
fn where_a_daemon_listens() {
    let (side, root) = (Side::new(), tempfile::tempdir().unwrap());
    let free = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for (typed, shown) in [
        ("127.0.0.1:0".to_owned(), "127.0.0.1:"),
        ("localhost:0".to_owned(), "1:"),
        (":0".to_owned(), "[::]:"),
        ("[::]:0".to_owned(), "[::]:"),
        (format!(":{free}"), &format!(":{free}")),
    ] {
        let daemon = Daemon::start(&side, root.path(), &["--listen", &typed, "--workers", "2"]);
        assert!(
            daemon.address().contains(shown),
            "{typed}: {}",
            daemon.address()
        );
        daemon.stop().expect(0);
    }
    for (typed, word) in [
        ("4433", ":4433"),
        ("127.0.0.1:99999", "port"),
        ("fe80::1", "interface"),
        ("[fe80::1%no-such]:4433", "no-such"),
    ] {
        let output = landro(&side, ["serve", "--listen", typed]).expect(2);
        assert!(output.stderr.contains(word), "{typed}: {}", output.stderr);
    }
}

/// Another configuration directory is another identity: its daemon tells which, and whoever may
/// read it can ask, without making one.
#[test]
fn whose_identity_it_is() {
    let (daemon_side, side) = (Side::new(), Side::new());
    let none = side.path().join("none");
    let of = |dir: &Path| landro(&side, ["id", "--of", dir.to_str().unwrap()]);
    assert!(of(&none).expect(1).stderr.contains("there is no identity"));
    assert!(!none.exists() && !side.path().join("identity.pem").exists());
    let root = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&daemon_side, root.path(), &[]);
    daemon.wait_for_log(&daemon.fingerprint);
    let shown = of(daemon_side.path()).expect(0);
    assert_eq!(
        (shown.stdout.trim(), shown.stderr.as_str()),
        (&daemon.fingerprint[..], "")
    );
    let made = landro(&side, ["id"]).expect(0);
    assert!(
        made.stderr.contains("made a new identity"),
        "{}",
        made.stderr
    );
    assert_ne!(made.stdout, shown.stdout);
    assert_eq!(landro(&side, ["id"]).expect(0).stderr, "");
    if common::is_root() {
        // As a daemon's directory is, which runs as another user.
        let pem = daemon_side.path().join("identity.pem");
        std::os::unix::fs::chown(&pem, Some(65_534), Some(65_534)).unwrap();
        assert_eq!(of(daemon_side.path()).expect(0).stdout, shown.stdout);
        assert!(
            landro(&daemon_side, ["id"])
                .expect(1)
                .stderr
                .contains("identity.pem")
        );
    }
}
