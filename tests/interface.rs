//! What scripts rely on: exit codes, NDJSON, statistics, listings, identities, and what is printed
//! where.

mod common;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::UdpSocket;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;

use common::tree::{self, Rng};
use common::{Output, Running, Side, World, command, landro};
use serde_json::Value;

on_both_backends!(
    every_json_line_has_schema_and_event,
    statistics_are_complete,
    statistics_are_told_to_people,
    quiet_means_quiet,
    nobody_there_is_exit_5,
    what_the_daemon_refuses,
    a_local_destination_that_cannot_be_used,
    special_files_are_not_replaced,
    redirected_output_is_gone_on_with,
    errors_name_the_cause,
);

fn every_json_line_has_schema_and_event(backend: &'static str) {
    let world = World::new(backend);
    let mut rng = Rng::new(backend);
    let tree = world.here("tree");
    fs::create_dir(&tree).unwrap();
    tree::write_file(&tree.join("small"), 100, &mut rng);
    tree::write_file(&tree.join("large"), 3 << 20, &mut rng);
    symlink("small", tree.join("link")).unwrap();
    let (there, tree) = (OsString::from(world.url("tree")), tree.into_os_string());
    for args in [
        [tree.clone(), there.clone()],
        [there, world.here("back").into()],
        [tree, world.here("local").into()],
    ] {
        let output = world.cp(&args).expect(0);
        assert_eq!(
            output.events.len(),
            output.stdout.lines().count(),
            "stdout is NDJSON only: {}",
            output.stdout
        );
        assert_eq!(output.stderr, "", "nothing to say to people");
        for (line, event) in output.stdout.lines().zip(&output.events) {
            assert!(line.starts_with(r#"{"schema":1,"event":""#), "{line}");
            let known = [
                "start",
                "connected",
                "progress",
                "file",
                "warning",
                "error",
                "summary",
            ];
            assert!(
                event["event"]
                    .as_str()
                    .is_some_and(|name| known.contains(&name)),
                "{line}"
            );
        }
        assert_eq!(output.events[0]["event"], "start");
        assert_eq!(output.events.last().unwrap()["event"], "summary");
        the_summary_counts(&output);
        the_files_are_told(&output);
    }
}

/// Of a directory with two files, 100 bytes and 3 MiB, and a symlink.
fn the_summary_counts(output: &Output) {
    let summary = output.summary();
    for field in [
        "files",
        "bytes",
        "skipped",
        "resumed_bytes",
        "goodput_bps",
        "errors",
        "exit_code",
    ] {
        assert!(summary[field].is_u64(), "{field} in {summary}");
    }
    assert!(summary["seconds"].is_f64() && summary["stats"].is_null());
    assert_eq!(
        (output.number("files"), output.number("bytes")),
        (2, (3 << 20) + 100)
    );
    assert_eq!(
        (output.number("directories"), output.number("symlinks")),
        (1, 1),
        "{summary}"
    );
}

fn the_files_are_told(output: &Output) {
    let mut files: Vec<(&str, &str, u64)> = output
        .of("file")
        .map(|file| {
            assert_eq!(file["status"], "done", "{file}");
            (
                file["path"].as_str().unwrap(),
                file["kind"].as_str().unwrap(),
                file["size_bytes"].as_u64().unwrap(),
            )
        })
        .collect();
    files.sort();
    let names: Vec<&str> = files
        .iter()
        .map(|file| file.0.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(names[1..], ["large", "link", "small"], "{files:?}");
    let kinds: Vec<&str> = files.iter().map(|file| file.1).collect();
    assert_eq!(kinds, ["directory", "file", "symlink", "file"]);
    assert_eq!((files[1].2, files[3].2), (3 << 20, 100));
}

fn statistics_are_complete(backend: &'static str) {
    let world = World::over_quic(backend);
    let mut rng = Rng::new(backend);
    tree::write_file(&world.here("file"), 8 << 20, &mut rng);
    let push: [OsString; 3] = [
        "--stats".into(),
        world.here("file").into(),
        world.url("file").into(),
    ];
    let output = world.cp(&push).expect(0);
    let stats = &output.summary()["stats"];
    for field in [
        "rtt_us",
        "min_rtt_us",
        "sent_packets",
        "received_packets",
        "lost_packets",
        "retransmitted_packets",
        "cwnd_bytes",
        "keys_renewed",
        "peak_rss_bytes",
    ] {
        assert!(stats[field].is_u64(), "{field} in {stats}");
    }
    for field in [
        "gso_batch",
        "gro_batch",
        "cpu_user_seconds",
        "cpu_system_seconds",
    ] {
        assert!(stats[field].is_number(), "{field} in {stats}");
    }
    let number = |field: &str| stats[field].as_u64().unwrap();
    assert!(
        number("sent_packets") > 500,
        "8 MiB are more than 500 packets of 16 KiB: {stats}"
    );
    assert!(number("received_packets") > 0 && number("peak_rss_bytes") > 1 << 20);
    assert!(
        number("cwnd_bytes") > 10_000 && number("rtt_us") > 0,
        "{stats}"
    );
    assert_eq!(stats["backend"], backend);
    assert!(
        stats["peer"]
            .as_str()
            .is_some_and(|peer| peer.contains(&world.daemon.fingerprint)),
        "{stats}"
    );
}

fn statistics_are_told_to_people(backend: &'static str) {
    let world = World::new(backend);
    let mut rng = Rng::new(backend);
    tree::write_file(&world.here("file"), 8 << 20, &mut rng);
    let (from, to) = (world.here("file"), world.url("again"));
    let mut args = vec![OsStr::new("cp"), "--stats".as_ref()];
    args.extend(["--peer", &world.daemon.fingerprint, "--backend", backend].map(OsStr::new));
    args.extend([from.as_os_str(), to.as_ref()]);
    let output = landro(&world.client, args);
    assert_eq!(output.stdout, "");
    for word in [
        "backend",
        "rtt",
        "loss",
        "cwnd",
        "packets per send",
        "cpu",
        "memory",
        "1 file, ",
    ] {
        assert!(output.stderr.contains(word), "{word} in {}", output.stderr);
    }
}

fn quiet_means_quiet(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir(world.here("tree")).unwrap();
    fs::write(world.here("file"), "x").unwrap();
    tree::mkfifo(&world.here("tree/fifo"));
    let run = |options: &[&str], sources: &[&str]| {
        let mut args: Vec<OsString> = [
            "cp",
            "--peer",
            &world.daemon.fingerprint,
            "--backend",
            backend,
        ]
        .map(Into::into)
        .into();
        args.extend(options.iter().map(Into::into));
        args.extend(sources.iter().map(|name| world.here(name).into_os_string()));
        args.push(world.url("").into());
        landro(&world.client, args)
    };
    let output = run(&[], &["file"]).expect(0);
    assert_eq!(
        (output.stdout, output.stderr),
        (String::new(), String::new()),
        "not a terminal: nothing to draw"
    );
    let output = run(&[], &["tree"]).expect(0);
    assert!(
        output.stdout.is_empty()
            && output.stderr.contains("warning")
            && output.stderr.contains("fifo")
    );
    let output = run(&["--quiet"], &["file", "tree"]).expect(0);
    assert_eq!(
        (output.stdout, output.stderr),
        (String::new(), String::new())
    );
    let output = run(&["--quiet"], &["file", "missing"]).expect(3);
    assert!(
        output.stdout.is_empty() && output.stderr.contains("missing"),
        "errors are told anyway"
    );
}

fn nobody_there_is_exit_5(backend: &'static str) {
    let side = Side::new();
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("file"), "x").unwrap();
    let file = here.path().join("file");
    // A socket that never answers, and a port that answers as one nobody has: a connected socket
    // takes nothing from others. A free port would be the next daemon's of another test.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
    closed.connect("127.0.0.1:9").unwrap();
    std::thread::scope(|scope| {
        for address in [&silent, &closed].map(|socket| socket.local_addr().unwrap()) {
            let (side, file) = (&side, &file);
            scope.spawn(move || {
                let url = format!("landro://{address}/");
                let args = [
                    "cp",
                    "--json",
                    "--accept-new",
                    "--backend",
                    backend,
                    file.to_str().unwrap(),
                    &url,
                ];
                let output = landro(side, args).expect(5);
                assert_eq!(output.number("exit_code"), 5);
                assert_eq!(output.of("error").next().unwrap()["code"], "unreachable");
                assert!(
                    output.stderr.contains(&address.to_string()),
                    "{}",
                    output.stderr
                );
            });
        }
    });
    let args = [
        "cp",
        "--backend",
        backend,
        file.to_str().unwrap(),
        "landro://no-such-host.invalid/",
    ];
    assert!(
        landro(&side, args)
            .expect(5)
            .stderr
            .contains("no-such-host.invalid")
    );
}

fn what_the_daemon_refuses(backend: &'static str) {
    let world = World::new(backend);
    fs::write(world.here("file"), "x").unwrap();
    let output = world.push(world.here("file"), "no/such/place").expect(1);
    assert!(output.of("error").next().is_some() && output.number("exit_code") == 1);
    let output = world.pull("missing", world.here("")).expect(1);
    assert!(output.stderr.contains("missing"), "{}", output.stderr);
}

/// Nobody waits for anybody then: the daemon is told.
fn a_local_destination_that_cannot_be_used(backend: &'static str) {
    let world = World::new(backend);
    fs::write(world.root("file"), "x").unwrap();
    let output = world.pull("file", world.here("no/such")).expect(1);
    let error = output.of("error").next().unwrap()["message"]
        .as_str()
        .unwrap();
    assert!(
        error.contains(world.here("no/such").to_str().unwrap()),
        "{error}"
    );
    world.daemon.wait_for_log("session cancelled");
    let output = world.push(world.root("file"), "not/there/up").expect(1);
    let line = format!("{}: its parent directory", world.url("not/there/up"));
    assert!(output.stderr.contains(&line), "{output:?}");
}

/// `cp landro://h/file /dev/null` by root must not take the device away from the whole host.
fn special_files_are_not_replaced(backend: &'static str) {
    let world = World::new(backend);
    for at in [world.here(""), world.root("")] {
        fs::create_dir(at.join("tree")).unwrap();
        fs::write(at.join("tree/name"), "x").unwrap();
        symlink("x", at.join("link")).unwrap();
        for fifo in ["name", "to", "into/tree/name"] {
            fs::create_dir_all(at.join(fifo).parent().unwrap()).unwrap();
            tree::mkfifo(&at.join(fifo));
        }
    }
    let is_fifo = |path: &Path| fs::metadata(path).unwrap().file_type().is_fifo();
    for force in [&[][..], &["--force"]] {
        for (source, target, fifo) in [
            ("tree/name", "to", "to"),
            ("tree/name", "", "name"),
            ("link", "to", "to"),
        ]
        .into_iter()
        .chain([("tree", "into", "into/tree/name")])
        {
            let run = |from: OsString, to: OsString| {
                let args = force
                    .iter()
                    .map(OsString::from)
                    .chain(["-P".into(), from, to])
                    .collect::<Vec<_>>();
                let output = world.cp(&args);
                assert!(matches!(output.code, Some(1 | 3)), "{args:?}: {output:?}");
                // A file whose target is named goes into the FIFO, which nobody reads.
                let told = ["special file", "nobody reads"];
                let is_told = told.iter().any(|text| output.stderr.contains(text));
                assert!(is_told, "{output:?}");
            };
            run(world.here(source).into(), world.url(target).into());
            assert!(is_fifo(&world.root(fifo)), "{fifo}");
            run(world.url(source).into(), world.here(target).into());
            assert!(is_fifo(&world.here(fifo)), "{fifo}");
        }
    }
}

fn errors_name_the_cause(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir_all(world.here("up/sub")).unwrap();
    fs::create_dir_all(world.root("up")).unwrap();
    let said = |output: Output, words: &str| assert!(output.stderr.contains(words), "{output:?}");
    symlink(world.here("up"), world.root("out")).unwrap();
    said(
        world.push(world.here("up"), "out").expect(1),
        "leads out of the served directory",
    );
    said(
        world.pull("out/sub", world.here("")).expect(1),
        "leads out of the served directory",
    );
    said(
        world.push(world.here("up"), "../up").expect(1),
        "leads out of the served directory",
    );
    let ls = [
        "ls",
        "--backend",
        backend,
        "--peer",
        &world.daemon.fingerprint,
        &world.url("not/there"),
    ];
    said(
        landro(&world.client, ls).expect(1),
        "/not/there: no such file or directory",
    );
    symlink("gone", world.root("up/sub")).unwrap();
    let args: [OsString; 3] = [
        "--keep-dirlinks".into(),
        world.here("up").into(),
        world.url("").into(),
    ];
    said(world.cp(&args).expect(3), "a symlink that leads nowhere");
}

/// Who redirects to a file says where writing begins: at its end, or behind what is there already.
fn redirected_output_is_gone_on_with(backend: &'static str) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = World::within(backend, &[], dir);
    let mut rng = Rng::new(backend);
    for (name, size_bytes) in [("small", 100), ("large", 3 << 20)] {
        for source in [world.root(name), world.here(name)] {
            tree::write_file(&source, size_bytes, &mut rng);
        }
        for (from, source) in [
            (world.url(name).into(), world.root(name)),
            (world.here(name).into_os_string(), world.here(name)),
        ] {
            let expected = [b"before\n", &fs::read(source).unwrap()[..], b"behind\n"].concat();
            for script in [
                r#"echo before > "$0"; "$@" /dev/stdout >> "$0" && echo behind >> "$0""#,
                r#"{ echo before; "$@" /dev/fd/1 && echo behind; } > "$0""#,
            ] {
                let out = world.here("out").into_os_string();
                let prefix = ["sh", "-c", script, out.to_str().unwrap()];
                let mut command = command(&world.client, &prefix, ["cp", "--backend", backend]);
                command.arg("--peer").arg(&world.daemon.fingerprint);
                let output = Running::spawn({
                    command.arg(&from);
                    command
                });
                output.wait().expect(0);
                assert!(fs::read(&out).unwrap() == expected, "{name} {script}");
            }
        }
    }
}

#[test]
fn usage_errors_are_exit_2() {
    let side = Side::new();
    for args in [
        &[][..],
        &["cp"],
        &["cp", "one"],
        &["cp", "--no-such-option", "a", "b"],
        &["cp", "landro://a/x", "landro://b/y"],
        &["cp", "landro://a/x", "local", "there"],
        &["cp", "landro://a/x", "landro://b/x", "there"],
        &["cp", "landro://", "x"],
        &["cp", "landro://h:99999/x", "y"],
        &["cp", "landro://h/%zz", "y"],
        &["cp", "--bwlimit", "fast", "a", "b"],
        &["cp", "--peer", "SHA256:short", "a", "landro://h/"],
        &["ls", "not-a-url"],
        &["serve", "--read-only", "--write-only"],
        &["serve", "--listen", "nonsense"],
        &["serve", "--workers", "0"],
        &["serve", "--memory-budget", "1"],
        &["frobnicate"],
    ] {
        let output = landro(&side, args);
        assert_eq!(output.code, Some(2), "{args:?}: {output:?}");
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{args:?}"
        );
    }
    for args in [
        ["--help", ""],
        ["--version", ""],
        ["cp", "--help"],
        ["serve", "--help"],
    ] {
        let output = landro(&side, args.into_iter().filter(|arg| !arg.is_empty()));
        assert_eq!(
            (output.code, output.stderr.as_str()),
            (Some(0), ""),
            "{args:?}"
        );
    }
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let side = Side::new();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let root = tempfile::tempdir().unwrap();
    let root = root.path().to_str().unwrap();
    for (args, word) in [
        (
            &["serve", "/no/such/directory", "--listen", "127.0.0.1:0"][..],
            "/no/such/directory",
        ),
        (
            &["serve", "/etc/passwd", "--listen", "127.0.0.1:0"],
            "/etc/passwd",
        ),
        (&["serve", root, "--listen", &address], &address),
        (&["serve", root, "--listen", "192.0.2.1:0"], "192.0.2.1"),
    ] {
        for workers in ["1", "2"] {
            let output =
                landro(&side, args.iter().copied().chain(["--workers", workers])).expect(1);
            assert!(
                output.stderr.contains(word) && output.stdout.is_empty(),
                "{args:?} {output:?}"
            );
        }
    }
    // A second daemon must not share the first one's port.
    let daemon = common::Daemon::start(&side, Path::new(root), &["--workers", "2"]);
    let output = landro(
        &side,
        [
            "serve",
            root,
            "--listen",
            daemon.address(),
            "--workers",
            "2",
        ],
    )
    .expect(1);
    assert!(output.stderr.contains(daemon.address()), "{output:?}");
}

#[test]
fn identities_are_made_once_and_private() {
    let side = Side::new();
    let id = side.id();
    assert!(id.starts_with("SHA256:") && id.len() == 50, "{id}");
    assert_eq!(side.id(), id);
    let pem = side.path().join("identity.pem");
    assert_eq!(
        fs::metadata(&pem).unwrap().permissions().mode() & 0o777,
        0o600
    );
    fs::set_permissions(&pem, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(landro(&side, ["id"]).expect(1).stderr.contains("chmod 600"));
    // Where it is looked for: LANDRO_CONFIG_DIR, XDG_CONFIG_HOME, HOME.
    let home = tempfile::tempdir().unwrap();
    let run = |variables: &[(&str, &Path)]| {
        let mut id = command(&side, &[], ["id"]);
        for name in ["LANDRO_CONFIG_DIR", "XDG_CONFIG_HOME", "HOME"] {
            id.env_remove(name);
        }
        id.envs(variables.iter().copied());
        Running::spawn(id).wait().expect(0).stdout
    };
    let xdg = home.path().join("xdg");
    let by_home = run(&[("HOME", home.path())]);
    assert!(home.path().join(".config/landro/identity.pem").is_file());
    assert_ne!(
        run(&[("HOME", home.path()), ("XDG_CONFIG_HOME", &xdg)]),
        by_home
    );
    assert!(xdg.join("landro/identity.pem").is_file());
    assert_eq!(run(&[("HOME", home.path())]), by_home);
}

/// Two runs into a terminal: script(1) gives one. Progress is drawn and names cannot act on it.
#[test]
fn names_cannot_act_on_a_terminal() {
    let world = World::new("poll");
    let name = OsStr::from_bytes(b"evil\x1b]0;owned\x07\n\xff");
    let text = |stderr: &str, shown: &str| {
        assert!(
            !stderr.contains('\x1b') && !stderr.contains('\x07'),
            "{stderr:?}"
        );
        assert!(stderr.contains(shown), "{stderr:?}");
    };
    fs::create_dir_all(world.here("tree")).unwrap();
    fs::create_dir_all(world.root("tree").join(name)).unwrap();
    fs::write(world.here("tree").join(name), "x").unwrap();
    let output = world.push(world.here("tree"), "").expect(3);
    text(&output.stderr, "evil%1B]0;owned%07%0A%FF");
    let raw: &Value = output.of("error").next().unwrap();
    let expected: String = name
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(
        raw["path_hex"].as_str().unwrap().ends_with(&expected),
        "{raw}"
    );
    assert!(!output.stdout.contains('\x1b') && !output.stdout.contains('\x07'));
    let missing = world.here("").join(name);
    let output = world.push(&missing, "").expect(1);
    text(&output.stderr, r"evil\033]0;owned\007\n\377");
    assert!(!world.daemon.log().contains('\x1b'));
}
