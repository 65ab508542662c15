//! Limits and sandboxes at the start: with less, on the other backend, or with a word on what to
//! raise.

mod common;

use std::fs;
use std::path::Path;

use common::tree::{self, Rng, assert_same};
use common::{Daemon, Output, Running, Side, World, command, is_root, landro};

on_both_backends!(descriptors_that_many_want_are_waited_for);

/// Runs without CAP_IPC_LOCK, and with so much locked memory as many systems give.
fn with_memlock(limit: &str) -> Vec<&str> {
    let mut prefix = vec!["prlimit", limit];
    if is_root() {
        prefix.extend(["setpriv", "--bounding-set", "-ipc_lock"]);
    }
    prefix
}

fn run(side: &Side, prefix: &[&str], args: &[&str]) -> Output {
    Running::spawn(command(side, prefix, args)).wait()
}

/// The kernel counts rings as locked memory (since 6.13), of all processes of a user together: what
/// was tried may be the last there is. Whoever asked for no backend gets the other, and hears why.
#[test]
fn locked_memory_that_is_not_enough_for_rings() {
    let (server, client, root) = (Side::new(), Side::new(), tempfile::tempdir().unwrap());
    fs::create_dir(root.path().join("served")).unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    let file = root.path().join("file");
    for (limit, workers) in [
        ("--memlock=65536", "2"),
        ("--memlock=65536", "4"),
        ("--memlock=0", "1"),
    ] {
        let prefix = with_memlock(limit);
        let args = ["--workers", workers, "--allow", &client.id()];
        let daemon = Daemon::start_with(&server, &prefix, &root.path().join("served"), &args);
        let to = daemon.url("");
        let cp = [
            "cp",
            "--json",
            "--stats",
            "--force",
            "--peer",
            &daemon.fingerprint,
        ];
        let cp = [&cp[..], &[file.to_str().unwrap(), &to]].concat();
        let output = run(&client, &prefix, &cp).expect(0);
        let stats = &output.summary()["stats"];
        let log = daemon.stop().expect(0).stderr;
        for told in [&log, &stats.to_string()] {
            let is_told = !told.contains("poll") || told.contains("RLIMIT_MEMLOCK");
            assert!(is_told, "{limit} {workers}: {told}");
        }
        // One that was asked for is not replaced by another.
        let asked = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--backend",
            "io_uring",
            "/no/such",
        ];
        let refused = run(&server, &prefix, &asked).expect(1);
        assert!(!refused.stderr.contains("memory") || refused.stderr.contains("RLIMIT_MEMLOCK"));
    }
}

#[test]
fn limits_are_named_that_nothing_works_below() {
    let (side, root) = (Side::new(), tempfile::tempdir().unwrap());
    let serve = [
        "serve",
        root.path().to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ];
    side.id();
    for (limit, words) in [
        ("--nofile=8:8", "ulimit -n"),
        ("--nofile=12:12", "ulimit -n"),
        ("--as=60000000", "ulimit -v"),
    ] {
        let output = run(&side, &["prlimit", limit], &serve).expect(1);
        assert!(output.stderr.contains(words), "{limit}: {}", output.stderr);
    }
}

/// With fewer descriptors than a tree has files, and shared by more clients than there are for.
fn descriptors_that_many_want_are_waited_for(backend: &'static str) {
    let (world, mut rng) = (World::new(backend), Rng::new("descriptors"));
    let source = world.here("tree");
    for dir in 0..10 {
        let dir = source.join(dir.to_string());
        fs::create_dir_all(&dir).unwrap();
        for number in 0..6 {
            let len = [100, 3000, 200_000][number % 3];
            tree::write_file(&dir.join(number.to_string()), len, &mut rng);
        }
    }
    let few = ["prlimit", "--nofile=32:32"];
    let (url, back) = (world.url("few"), world.here("back"));
    for args in [
        [source.as_os_str(), url.as_ref()],
        [url.as_ref(), back.as_os_str()],
    ] {
        Running::spawn(world.cp_command(&few, &args))
            .wait()
            .expect(0);
    }
    assert_same(&source, &world.root("few"));
    assert_same(&source, &back);

    let (server, root) = (Side::new(), tempfile::tempdir().unwrap());
    let args = ["--backend", backend, "--allow", &world.client.id()];
    let few = ["prlimit", "--nofile=64:64"];
    let daemon = Daemon::start_with(&server, &few, root.path(), &args);
    let copy = |number: usize| {
        let (from, to) = (source.to_str().unwrap(), daemon.url(&number.to_string()));
        let args = ["cp", "--backend", backend, "--peer", &daemon.fingerprint];
        let args = args.into_iter().chain([from, to.as_str()]);
        Running::spawn(command(&world.client, &[], args))
    };
    let copies: Vec<Running> = (0..20).map(copy).collect();
    for (number, copy) in copies.into_iter().enumerate() {
        copy.wait().expect(0);
        assert_same(&source, &root.path().join(number.to_string()));
    }
    daemon.stop().expect(0);
}

/// A sandbox that lets a system call not through that every file needs: nothing begins.
#[test]
fn forbidden_system_calls_are_named_at_the_start() {
    if std::process::Command::new("strace")
        .arg("-V")
        .output()
        .is_err()
    {
        common::skipped("no strace");
        return;
    }
    let (side, dir) = (Side::new(), tempfile::tempdir().unwrap());
    side.id();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, "x").unwrap();
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let serve = [
        "serve",
        dir.path().to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
    ];
    for (call, error) in [
        ("openat2", "EPERM"),
        ("openat2", "ENOSYS"),
        ("openat2", "EACCES"),
        ("renameat2", "EPERM"),
        ("statx", "EPERM"),
        ("linkat", "EPERM"),
        ("linkat", "ENOSYS"),
    ] {
        let inject = format!("inject={call}:error={error}");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        for backend in ["io_uring", "poll"] {
            if backend == "io_uring" && !common::has_io_uring() {
                continue;
            }
            let backend = ["--backend", backend];
            for args in [
                [&serve[..], &backend].concat(),
                [
                    &["cp", from, "landro://127.0.0.1:9/", "--accept-new"],
                    &backend[..],
                ]
                .concat(),
                vec!["cp", from, to],
            ] {
                let output = run(&side, &strace, &args).expect(1);
                let said = output.stderr.contains(call) && output.stderr.contains("sandbox");
                assert!(said, "{call} {error} {args:?}: {}", output.stderr);
                assert!(output.stdout.is_empty() && !Path::new(to).exists());
            }
        }
    }
    landro(&side, ["cp", from, to]).expect(0);
}
