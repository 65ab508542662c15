//! `landro ls`: sorted, with and without what is hidden, for people and for programs.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use common::{Daemon, Output, Running, Side, World, is_root, landro, tree, without_override};

on_both_backends!(
    rows_for_people,
    names_are_sorted_and_dots_are_hidden,
    rows_for_programs,
    listings_that_are_long,
    directories_that_may_not_be_read,
    names_that_cannot_be_looked_at,
);

fn ls(world: &World, options: &[&str], path: &str) -> Output {
    let url = world.url(path);
    let peer = &world.daemon.fingerprint;
    let args = ["ls", "--peer", peer, "--backend", world.backend, &url];
    landro(&world.client, [&args[..], options].concat())
}

fn rows_for_people(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir_all(world.root("dir/sub")).unwrap();
    let file = world.root("dir/file");
    fs::write(&file, "12345").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    tree::set_mtime(&file, UNIX_EPOCH + Duration::from_secs(86_400));
    symlink("file", world.root("dir/link")).unwrap();
    let odd = OsStr::from_bytes(b"a\x1b[2J\nb\xff");
    fs::write(world.root("dir").join(odd), "").unwrap();
    let stdout = |options: &[&str], path: &str| ls(&world, options, path).expect(0).stdout;
    let long = stdout(&["-l"], "dir");
    let rows: Vec<&str> = long.lines().collect();
    assert_eq!(rows.len(), 4, "{long}");
    for (row, start, end) in [
        (0, "-", r" a\033[2J\nb\377"),
        (1, "-rw-r-----            5 1970-01-02T00:00:00Z file", ""),
        (2, "l", " link -> file"),
        (3, "d", " sub"),
    ] {
        assert!(
            rows[row].starts_with(start) && rows[row].ends_with(end),
            "{long}"
        );
    }
    assert_eq!(stdout(&[], "dir"), "a\\033[2J\\nb\\377\nfile\nlink\nsub\n");
    assert!(stdout(&["-la"], "dir/file").ends_with(" file\n"));
    assert_eq!(
        (&stdout(&[], "")[..], &stdout(&[], "dir/sub")[..]),
        ("dir\n", "")
    );
    let stderr = ls(&world, &[], "missing").expect(1).stderr;
    assert!(stderr.contains("missing"), "{stderr}");
    let stderr = ls(&world, &[], "../").expect(1).stderr;
    assert!(stderr.contains("leads out"), "{stderr}");
    assert!(
        ls(&world, &["-h"], "")
            .expect(2)
            .stderr
            .contains("in bytes")
    );
    assert!(
        ls(&world, &["--help"], "")
            .expect(0)
            .stdout
            .contains("--long")
    );
}

/// By bytes, as `LC_ALL=C ls` sorts; of what begins with a dot only what is asked for by name.
fn names_are_sorted_and_dots_are_hidden(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir_all(world.root("dir/.sub")).unwrap();
    for name in ["b", "a", "B", "ä", "a b", "10", "9", ".hidden", "z"] {
        fs::write(world.root("dir").join(name), "").unwrap();
    }
    fs::write(world.root("dir/.sub/.x"), "").unwrap();
    fs::write(world.root("dir/.sub/x"), "").unwrap();
    let names = |options: &[&str], path: &str| ls(&world, options, path).expect(0).stdout;
    let seen = "10\n9\nB\na\na b\nb\nz\nä\n";
    assert_eq!(names(&[], "dir"), seen);
    assert_eq!(names(&["-a"], "dir"), format!(".hidden\n.sub\n{seen}"));
    assert_eq!(names(&["--all"], "dir/.sub"), ".x\nx\n");
    assert_eq!(names(&[], "dir/.sub"), "x\n");
    assert_eq!(names(&[], "dir/.hidden"), ".hidden\n");
}

fn rows_for_programs(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir_all(world.root("dir/sub")).unwrap();
    let file = world.root("dir").join(OsStr::from_bytes(b"f\xff"));
    fs::write(&file, "12345").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    tree::set_mtime(&file, UNIX_EPOCH + Duration::new(86_400, 5));
    symlink("a\nb", world.root("dir/link")).unwrap();
    let output = ls(&world, &["--json", "-l"], "dir").expect(0);
    assert_eq!(
        output.stdout.lines().count(),
        output.events.len(),
        "nothing but JSON"
    );
    let rows: Vec<_> = output.of("entry").collect();
    let kinds: Vec<_> = rows
        .iter()
        .map(|row| row["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["file", "symlink", "directory"], "{rows:?}");
    let file = rows[0];
    assert_eq!(
        (&file["schema"], &file["path_hex"]),
        (&1.into(), &"66ff".into())
    );
    assert_eq!(
        (&file["mode"], &file["size_bytes"]),
        (&"0640".into(), &5.into())
    );
    assert_eq!(file["modified"], "1970-01-02T00:00:00Z");
    let exact = (&file["modified_seconds"], &file["modified_nanoseconds"]);
    assert_eq!(exact, (&86_400.into(), &5.into()));
    assert_eq!(rows[1]["link"]["path"], "a\nb");
    assert_eq!(
        (output.number("entries"), output.number("exit_code")),
        (3, 0)
    );
    let missing = ls(&world, &["--json"], "missing").expect(1);
    assert_eq!(missing.of("error").next().unwrap()["code"], "not_found");
    assert_eq!(
        (missing.number("entries"), missing.number("exit_code")),
        (0, 1)
    );
}

fn listings_that_are_long(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir(world.root("many")).unwrap();
    for number in 0..3000 {
        let name = format!("many/{number}-{}", "x".repeat(200));
        fs::write(world.root(&name), "").unwrap();
    }
    let output = ls(&world, &[], "many").expect(0);
    let names: Vec<&str> = output.stdout.lines().collect();
    assert!(names.len() == 3000 && names.is_sorted());
    // A reader that goes away is no failure.
    for format in ["-l", "--json"] {
        let script = "\"$0\" \"$@\" | head -n1; exit ${PIPESTATUS[0]}";
        let mut piped = Command::new("bash");
        piped.args(["-c", script, common::LANDRO, "ls", format]);
        piped.args(["--peer", &world.daemon.fingerprint, &world.url("many")]);
        piped.env("LANDRO_CONFIG_DIR", world.client.path());
        Running::spawn(piped).wait().expect(0);
    }
}

/// One that may be entered but not read is opened all the same, for what is named below it; whoever
/// lists or copies it hears what is not permitted, and on which side.
/// A directory that may be read and not entered has names of which nothing can be said: they are
/// not left out without a word, and what can be seen is shown.
fn names_that_cannot_be_looked_at(backend: &'static str) {
    let (client, server, dir) = (Side::new(), Side::new(), tempfile::tempdir().unwrap());
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    for name in ["a", "b"] {
        fs::write(closed.join(name), "x").unwrap();
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o444)).unwrap();
    let prefix = without_override();
    let args = ["--backend", backend, "--allow", &client.id()];
    let daemon = Daemon::start_with(&server, prefix, dir.path(), &args);
    let ls = |option: &str| {
        let url = daemon.url("closed");
        let args = ["ls", "--peer", &daemon.fingerprint, option, &url];
        landro(&client, args).expect(4)
    };
    let json = ls("--json").stdout;
    assert!(json.contains("\"errno\":13,"), "{json}");
    for option in ["--long", "--json"] {
        let output = ls(option);
        for words in [
            "/closed: ",
            " and 1 more in it could not be looked at: permission denied",
        ] {
            assert!(output.stderr.contains(words), "{}", output.stderr);
        }
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

fn directories_that_may_not_be_read(backend: &'static str) {
    let (client, server, dir) = (Side::new(), Side::new(), tempfile::tempdir().unwrap());
    let unreadable = [("none", 0o000), ("enter", 0o311)];
    let set = |name: &str, mode| {
        let path = dir.path().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (name, mode) in unreadable {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("file"), "x").unwrap();
        set(name, mode);
    }
    let prefix = without_override();
    assert!(!is_root() || !prefix.is_empty());
    let args = ["--backend", backend, "--allow", &client.id()];
    let daemon = Daemon::start_with(&server, prefix, dir.path(), &args);
    let run = |args: &[&str]| {
        let peer = ["--peer", &daemon.fingerprint, "--backend", backend];
        let args = [args, &peer].concat();
        Running::spawn(common::command(&client, prefix, args)).wait()
    };
    fs::create_dir(dir.path().join("into")).unwrap();
    let to = tempfile::tempdir().unwrap();
    let here = to.path().to_str().unwrap();
    for (name, _) in unreadable {
        let (local, url) = (dir.path().join(name), daemon.url(name));
        let local = local.to_str().unwrap();
        for (args, side) in [
            (vec!["ls", &url], "landro://"),
            (vec!["cp", &url, here], "landro://"),
            (vec!["cp", local, &daemon.url("into/")], ""),
            (vec!["cp", local, here], ""),
        ] {
            // 4: it is the peer that refuses.
            let output = run(&args).expect(if args[0] == "ls" { 4 } else { 1 });
            let stderr = output.stderr.to_lowercase();
            let said = stderr.contains("permission denied") && stderr.contains(side);
            assert!(said && !stderr.contains("bad file"), "{args:?}: {stderr}");
        }
    }
    run(&["cp", &daemon.url("enter/file"), here]).expect(0);
    for (name, _) in unreadable {
        set(name, 0o755);
    }
}
