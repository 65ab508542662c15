//! What people are told: each situation with its words, progress, repeated errors, one line in a
//! cron log, terminals of any width and locale.

mod common;
#[path = "told/ends.rs"]
mod ends;
#[path = "told/terminals.rs"]
mod terminals;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use common::tree::{self, Rng};
use common::{Daemon, Output, Running, Side, World, command, landro};
use serde_json::Value;
use tempfile::TempDir;

on_both_backends!(
    every_situation_has_its_words,
    calls_are_for_those_who_want_to_know,
    what_stalls_is_said_to_stall,
    what_only_some_may_do_has_its_words,
    a_missing_path_of_a_peer_is_said_to_be_missing,
    inodes_are_told_from_blocks,
    a_quota_or_a_full_disk_is_no_matter_of_inodes,
    what_no_rerun_resumes_is_begun_anew,
    a_symlinked_directory_has_advice,
    a_stop_is_told_as_what_it_is_with_what_was_done,
    a_resumed_transfer_begins_where_it_is,
    a_tree_beyond_the_window_has_a_total,
    many_alike_are_five_and_a_count,
    one_line_at_the_end_and_one_for_each_entry,
);

/// A directory on the disk that the project is built on.
fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// `cp` as people type it, without `--json`, in the directory of the client's files.
fn people(world: &World, options: &[&str], args: &[&str]) -> Output {
    Running::spawn(typed(world, &[], options, args)).wait()
}

fn typed(world: &World, prefix: &[&str], options: &[&str], args: &[&str]) -> Command {
    let peer = ["cp", "--peer", &world.daemon.fingerprint];
    let words = peer.into_iter().chain(["--backend", world.backend]);
    let words = words
        .chain(options.iter().copied())
        .chain(args.iter().copied());
    let mut command = command(&world.client, prefix, words);
    command.current_dir(world.here("")).env("LC_ALL", "C.UTF-8");
    command
}

#[track_caller]
fn says(output: &Output, code: i32, line: &str) {
    let found = output.stderr.lines().any(|said| said == line);
    assert!(
        output.code == Some(code) && found,
        "expected {code} and {line:?}, got {:?} and\n{}",
        output.code,
        output.stderr
    );
}

const LEADS_OUT: &str =
    "leads out of the served directory; a bind mount over there can bring it in";

/// A file and a directory on both sides, what is in the way, and a symlink that leads out.
fn places(world: &World) {
    for at in [world.here(""), world.root("")] {
        fs::create_dir_all(at.join("dir")).unwrap();
        fs::write(at.join("file"), "x").unwrap();
        fs::create_dir_all(at.join("taken/file")).unwrap();
    }
    symlink("/", world.root("two")).unwrap();
}

/// A command's source and destination, and its line.
type Situation = ([String; 2], String);

/// The source is here, the destination over there.
fn of_a_push(world: &World) -> Vec<Situation> {
    let at = |path: &str| world.url(path);
    let case = |from: &str, to: &str, line: String| ([from.to_owned(), at(to)], line);
    vec![
        case(
            "nosuch",
            "",
            "nosuch: no such file or directory (here)".into(),
        ),
        case(
            "./x/no",
            "",
            "./x/no: no such file or directory (here)".into(),
        ),
        case("file", "two/", format!("{}: {LEADS_OUT}", at("two/"))),
        case(
            "file",
            "no/such/x",
            format!(
                "{}: its parent directory does not exist; make it first (mkdir -p), or correct \
                 the path",
                at("no/such/x")
            ),
        ),
        case(
            "dir",
            "file",
            format!(
                "{}: something that is not a directory is in the way; move it",
                at("file")
            ),
        ),
        case(
            "file",
            "taken",
            format!(
                "{}: is a directory; move it away, or copy into it",
                at("taken/file")
            ),
        ),
    ]
}

/// The other way round.
fn of_a_pull(world: &World) -> Vec<Situation> {
    let at = |path: &str| world.url(path);
    let case = |from: &str, to: &str, line: String| ([at(from), to.to_owned()], line);
    vec![
        case(
            "nosuch",
            ".",
            format!("{}: no such file or directory", at("nosuch")),
        ),
        case(
            "a b",
            ".",
            format!("{}: no such file or directory", at("a%20b")),
        ),
        case("two/", ".", format!("{}: {LEADS_OUT}", at("two/"))),
        case(
            "file",
            "no/such/x",
            "no/such/x: its parent directory does not exist (here); make it first (mkdir -p), or \
             correct the path"
                .into(),
        ),
        case(
            "dir",
            "file",
            "file: something that is not a directory is in the way (here); move it".into(),
        ),
        case(
            "file",
            "taken",
            "taken/file: is a directory (here); move it away, or copy into it".into(),
        ),
    ]
}

/// There is one side.
fn of_a_local_copy() -> Vec<Situation> {
    [
        ("nosuch", "there", "nosuch: no such file or directory"),
        (
            "file",
            "no/such/x",
            "no/such/x: its parent directory does not exist; make it first (mkdir -p), or correct \
             the path",
        ),
        (
            "dir",
            "dir/in",
            "dir: a directory cannot be copied into itself; choose a destination outside of it",
        ),
        (
            "file",
            "taken",
            "taken/file: is a directory; move it away, or copy into it",
        ),
    ]
    .map(|(from, to, line)| ([from, to].map(String::from), line.to_owned()))
    .into()
}

/// Each error names the path as it was typed, the side, and the next step; no system call.
fn every_situation_has_its_words(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    places(&world);
    let situations = [of_a_push(&world), of_a_pull(&world), of_a_local_copy()];
    for (args, line) in situations.into_iter().flatten() {
        let output = people(&world, &[], &[&args[0], &args[1]]);
        says(&output, 1, &format!("landro: {line}"));
        for call in ["os error", "openat2", "statx"] {
            assert!(!output.stderr.contains(call), "{args:?}: {}", output.stderr);
        }
    }
    let ls = |path: &str| {
        let args = ["ls", "--peer", &world.daemon.fingerprint, &world.url(path)];
        landro(&world.client, args)
    };
    let (gone, two) = (world.url("nosuch"), world.url("two/"));
    let line = format!("landro: {gone}: no such file or directory");
    says(&ls("nosuch"), 1, &line);
    says(&ls("two/"), 1, &format!("landro: {two}: {LEADS_OUT}"));
}

/// System calls and numbers are for those who ask.
fn calls_are_for_those_who_want_to_know(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    let output = people(&world, &["--verbose"], &["nosuch", &world.url("")]);
    let call = ": No such file or directory (os error 2))";
    assert!(output.stderr.contains(call), "{}", output.stderr);
    let output = world.pull("nosuch", world.here("")).expect(1);
    let error = output.of("error").next().unwrap();
    let of = |field: &str| error[field].as_str().unwrap().to_owned();
    assert_eq!((of("path"), of("side")), ("nosuch".into(), "server".into()));
    assert_eq!(
        (of("place"), error["errno"].as_i64()),
        ("source".into(), Some(2))
    );
    assert!(error["call"].is_string(), "{error}");
    assert_eq!(of("message"), "no such file or directory (on the server)");
    let output = world.push(world.root(""), "no/such/place").expect(1);
    let error = output.of("error").next().unwrap();
    assert_eq!(error["errno"].as_i64(), Some(2), "{error}");
}

/// A daemon that was stopped in the middle (SIGSTOP) does not answer, and the client says so.
fn what_stalls_is_said_to_stall(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    big(&world.root("big"));
    let (from, to) = (world.url("big"), world.here(""));
    let running = slow(&world, &[from.as_ref(), to.as_os_str()]);
    common::signal(world.daemon.pid(), "STOP");
    let stalled = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        event["stalled_seconds"].as_f64() >= Some(5.0) && event["current"] == "big"
    };
    running.line(stalled).expect("it is told");
    common::signal(world.daemon.pid(), "CONT");
    running.wait().expect(0);
}

/// Nobody there, nobody known.
fn what_only_some_may_do_has_its_words(backend: &'static str) {
    let world = World::within(backend, &["--read-only"], disk_dir());
    fs::write(world.here("file"), "x").unwrap();
    let root = world.url("");
    let refused = format!(
        "landro: {root}: this client may not write to this server; over there, landro serve \
         --read-only or ro in its line of authorized_peers says so"
    );
    says(&people(&world, &[], &["file", &root]), 4, &refused);
    let stranger = Side::new();
    let fingerprint = &world.daemon.fingerprint;
    let args = ["cp", "--peer", fingerprint, "file", &root];
    let mut unknown = command(&stranger, &[], args);
    unknown.current_dir(world.here(""));
    let output = Running::spawn(unknown).wait().expect(4);
    let line = format!(
        "{root} does not know this host. Over there: echo '{}' >> ",
        stranger.id()
    );
    assert!(output.stderr.contains(&line), "{}", output.stderr);
    assert!(
        output.stderr.contains("&& systemctl reload landro"),
        "{}",
        output.stderr
    );
    // Silence.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("landro://127.0.0.1:{port}/");
    let output = people(&world, &[], &["file", &url]);
    assert_eq!(output.code, Some(5), "{output:?}");
    let line = format!("no answer from 127.0.0.1, UDP port {port}, in 10 s");
    assert!(output.stderr.contains(&line), "{}", output.stderr);
    let ask = ": is landro serve running there, does a firewall drop UDP?";
    assert!(output.stderr.contains(ask), "{}", output.stderr);
    // A port that is refused was not dropped.
    drop(silent);
    let output = people(&world, &[], &["file", &url]);
    let line = format!(
        "landro: no answer from 127.0.0.1, UDP port {port}, because nobody listens on the peer's \
         UDP port (127.0.0.1:{port}), nor over TCP, because nobody listens on the peer's TCP port \
         (127.0.0.1:{port}): is landro serve running there, and on this port, or does a firewall refuse it?"
    );
    says(&output, 5, &line);
    let output = people(&world, &[], &["file", "landro://no-such-name.invalid/"]);
    let said = &output.stderr;
    assert_eq!(output.code, Some(5), "{said}");
    assert!(!said.contains("failed to lookup"), "{said}");
}

/// It is no stranger, and still it is not told where.
fn a_missing_path_of_a_peer_is_said_to_be_missing(backend: &'static str) {
    let (client, server, dir) = (Side::new(), Side::new(), disk_dir());
    let line = format!("{} path=in/secret-box\n", client.id());
    let peers = server.path().join("authorized_peers");
    fs::write(&peers, line).unwrap();
    fs::set_permissions(&peers, fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = Daemon::start(&server, dir.path(), &["--backend", backend]);
    let ls = || {
        landro(
            &client,
            ["ls", "--peer", &daemon.fingerprint, &daemon.url("")],
        )
    };
    let output = ls().expect(1);
    for words in ["path=", "no such file or directory"] {
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
    for words in ["secret-box", "does not know", "echo"] {
        assert!(!output.stderr.contains(words), "{}", output.stderr);
    }
    daemon.wait_for_log("cannot be opened over there");
    daemon.wait_for_log("verb=list path=\"\" confined_to=\"in/secret-box\" code=");
    daemon.wait_for_log("call=\"openat2\" errno=2");
    fs::create_dir(dir.path().join("in")).unwrap();
    for (made, words) in [
        (Path::new("/etc"), "path= leads out of the served directory"),
        (Path::new("../file"), "path= is not a directory over there"),
    ] {
        fs::write(dir.path().join("file"), "x").unwrap();
        let at = dir.path().join("in/secret-box");
        symlink(made, &at).unwrap();
        let said = ls().expect(1).stderr;
        assert!(said.contains(words), "{said}");
        assert!(!said.contains("cross-device"), "{said}");
        fs::remove_file(at).unwrap();
    }
    fs::create_dir_all(dir.path().join("in/secret-box")).unwrap();
    ls().expect(0);
}

/// Runs a program where a small ext4 with so many inodes is mounted at `at`. None: not here.
fn with_few_inodes(image: &Path, at: &Path, inodes: &str) -> Option<Vec<String>> {
    fs::File::create(image).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-N", inodes])
        .arg(image)
        .status();
    let script = format!("mount -o loop {} \"$0\" && exec \"$@\"", image.display());
    let prefix = ["unshare", "-m", "sh", "-c", &script, at.to_str().unwrap()].map(String::from);
    let works = made.is_ok_and(|status| status.success())
        && Command::new(&prefix[0])
            .args(&prefix[1..])
            .arg("true")
            .status()
            .is_ok_and(|status| status.success());
    if !works {
        common::skipped("no file system can be mounted here");
    }
    works.then(|| prefix.to_vec())
}

fn inodes_are_told_from_blocks(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    fs::create_dir(world.here("disk")).unwrap();
    for tree in [world.here("tree"), world.root("tree")] {
        fs::create_dir(&tree).unwrap();
        for number in 0..40 {
            fs::write(tree.join(number.to_string()), "x").unwrap();
        }
        tree::write_file(&tree.join("large"), 100_000, &mut Rng::new(backend));
    }
    let image = world.here("image");
    let Some(prefix) = with_few_inodes(&image, &world.here("disk"), "24") else {
        return;
    };
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let pull = typed(&world, &prefix, &[], &[&world.url("tree"), "disk/"]);
    let local = typed(&world, &prefix, &[], &["tree", "disk/"]);
    for command in [pull, local] {
        let output = Running::spawn(command).wait().expect(6);
        assert!(
            output.stderr.contains("no inodes left"),
            "{}",
            output.stderr
        );
        assert!(!output.stderr.contains("free some"), "{}", output.stderr);
    }
    // The daemon's, too.
    let (server, root) = (Side::new(), world.here("disk"));
    let args = ["--backend", backend, "--allow", &world.client.id()];
    let daemon = Daemon::start_with(&server, &prefix, &root, &args);
    let args = ["cp", "--peer", &daemon.fingerprint, "tree", &daemon.url("")];
    let mut push = command(&world.client, &[], args);
    push.current_dir(world.here(""));
    let output = Running::spawn(push).wait().expect(6);
    assert!(
        output.stderr.contains("no inodes left"),
        "{}",
        output.stderr
    );
}

fn a_quota_or_a_full_disk_is_no_matter_of_inodes(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    fs::create_dir(world.here("disk")).unwrap();
    tree::write_file(&world.root("big"), 30 << 20, &mut Rng::new(backend));
    let image = world.here("image");
    let Some(prefix) = with_few_inodes(&image, &world.here("disk"), "1024") else {
        return;
    };
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let pull = typed(&world, &prefix, &[], &[&world.url("big"), "disk/"]);
    let output = Running::spawn(pull).wait();
    let words = "landro: disk/big: no space left (here); free some and run the same command again";
    says(&output, 6, words);
}

fn what_no_rerun_resumes_is_begun_anew(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    let url = world.url("zero");
    for target in [OsStr::new(&url), world.here("zero").as_os_str()] {
        let all = ["--bwlimit", "4M", "/dev/zero"].map(OsStr::new);
        let all = [&all[..], &[target]].concat();
        let running = world.cp_start(&all);
        let moves = |line: &str| line.contains(r#""progress""#);
        assert!(running.line(moves).is_some(), "it ended");
        running.signal("INT");
        let output = running.wait().expect(130);
        let words = "the same command again begins anew: ";
        assert!(output.stderr.contains(words), "{}", output.stderr);
    }
}

fn a_symlinked_directory_has_advice(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    for at in [world.here(""), world.root("")] {
        for dir in ["from/tree/sub", "elsewhere", "to/tree"] {
            fs::create_dir_all(at.join(dir)).unwrap();
        }
        fs::write(at.join("from/tree/sub/file"), "x").unwrap();
        symlink(at.join("elsewhere"), at.join("to/tree/sub")).unwrap();
    }
    let (from, to) = (world.url("from/tree"), world.url("to"));
    for (args, path) in [
        ([from.as_str(), "to"], "to/tree/sub".to_owned()),
        (["from/tree", "to"], "to/tree/sub".to_owned()),
        (["from/tree", &to], format!("{to}/tree/sub")),
    ] {
        let output = people(&world, &[], &args).expect(3);
        let line = output.stderr.lines().next().unwrap();
        let why = format!("landro: {path}: a symlink stands where a directory is to be");
        assert!(line.starts_with(&why), "{line}");
        assert!(
            line.contains("give --keep-dirlinks if it is yours"),
            "{line}"
        );
    }
}

/// A file of random bytes, for a sparse one may travel as what it is.
fn big(path: &Path) {
    tree::write_file(path, 24 << 20, &mut Rng::new("told"));
}

/// Starts a slow copy with `--json` and waits until data flows.
fn slow(world: &World, args: &[&OsStr]) -> Running {
    let mut all: Vec<&OsStr> = ["--retry", "0", "--bwlimit", "4M", "--stats"]
        .map(OsStr::new)
        .into();
    all.extend(args);
    let running = world.cp_start(&all);
    let moved = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        event["event"] == "progress" && event["bytes"].as_u64() > Some(4 << 20)
    };
    running.line(moved).expect("data flows");
    running
}

fn a_stop_is_told_as_what_it_is_with_what_was_done(backend: &'static str) {
    for (pull, stop) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut world = World::within(backend, &[], disk_dir());
        fs::write(world.here("small"), "x").unwrap();
        fs::write(world.root("small"), "x").unwrap();
        big(&world.here("big"));
        big(&world.root("big"));
        let urls = ["small", "big", "into/"].map(|path| OsString::from(world.url(path)));
        let here = ["small", "big", "into/"].map(|path| world.here(path));
        fs::create_dir(world.here("into")).unwrap();
        let running = match pull {
            true => slow(&world, &[&urls[0], &urls[1], here[2].as_os_str()]),
            false => slow(
                &world,
                &[here[0].as_os_str(), here[1].as_os_str(), &urls[2]],
            ),
        };
        let root = world.url("");
        if stop {
            common::signal(world.daemon.pid(), "TERM");
        } else {
            world.restart();
        }
        let output = running.wait().expect(5);
        let message = output.of("error").last().unwrap()["message"].clone();
        let message = message.as_str().unwrap();
        let what = match stop {
            true => format!("{root}: the daemon is stopping; 1 file done, "),
            false => format!("{root}: connection lost: "),
        };
        assert!(message.starts_with(&what), "{message}");
        assert!(
            message.contains("1 file done, ") && message.contains(" MB moved"),
            "{message}"
        );
        assert!(message.contains("the same command again"), "{message}");
        let summary = output.summary();
        assert_eq!(summary["files"], 1, "{summary}");
        assert!(summary["sent_bytes"].as_u64() > Some(1 << 20), "{summary}");
        for field in ["sent_packets", "received_packets", "rtt_us"] {
            assert!(
                summary["stats"][field].as_u64() > Some(0),
                "{field}: {summary}"
            );
        }
    }
}

fn a_resumed_transfer_begins_where_it_is(backend: &'static str) {
    for pull in [false, true] {
        let world = World::within(backend, &[], disk_dir());
        let (from, to) = match pull {
            true => (OsString::from(world.url("tree")), world.here("").into()),
            false => (world.here("tree").into(), OsString::from(world.url(""))),
        };
        let tree = if pull {
            world.root("tree")
        } else {
            world.here("tree")
        };
        fs::create_dir(&tree).unwrap();
        tree::write_file(&tree.join("a"), 1 << 20, &mut Rng::new("a"));
        big(&tree.join("big"));
        let running = slow(&world, &[&from, &to]);
        running.signal("INT");
        running.wait().expect(130);
        let again = world
            .cp(&["--bwlimit".into(), "4M".into(), from, to])
            .expect(0);
        let (skipped, resumed) = (1 << 20, again.number("resumed_bytes"));
        assert!(resumed >= 1 << 20, "{}", again.summary());
        let told: Vec<&Value> = again.of("progress").collect();
        let number = |event: &Value, field: &str| event[field].as_u64().unwrap();
        let first = told[0];
        assert!(number(first, "bytes") >= skipped + resumed, "{first}");
        assert!(
            number(first, "bytes") < 25 << 20,
            "it was over before it was told: {first}"
        );
        let fast = told.iter().map(|event| number(event, "rate_bps")).max();
        assert!(
            fast < Some(200_000_000),
            "what was there did not move: {fast:?}"
        );
        assert_eq!(number(told.last().unwrap(), "bytes"), 25 << 20);
    }
}

/// The window is a few thousand entries; the total is known long before it gets there.
fn a_tree_beyond_the_window_has_a_total(backend: &'static str) {
    const FILES: u64 = 8_000;
    let world = World::within(backend, &[], disk_dir());
    for tree in [world.here("tree"), world.root("tree")] {
        for dir in 0..8 {
            fs::create_dir_all(tree.join(format!("{dir}/deep"))).unwrap();
            for file in 0..FILES / 8 {
                fs::write(tree.join(format!("{dir}/deep/{file}")), [7; 1_000]).unwrap();
            }
        }
        symlink("0", tree.join("link")).unwrap();
    }
    let (up, down) = (world.url("up"), world.url("tree"));
    let (tree, back) = (world.here("tree"), world.here("back"));
    for [from, to] in [
        [tree.as_os_str(), up.as_ref()],
        [down.as_ref(), back.as_os_str()],
    ] {
        let running = world.cp_start(&["--bwlimit".as_ref(), "1M".as_ref(), from, to]);
        let ahead = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            event["event"] == "progress"
                && event["all_announced"] == false
                && event["files_total"] == FILES
                && event["bytes_total"] == FILES * 1_000
                && event["seconds_left"].is_number()
        };
        running
            .line(ahead)
            .expect("a total before all is announced");
        running.signal("INT");
        running.wait().expect(130);
    }
}

fn many_alike_are_five_and_a_count(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    fs::create_dir_all(world.here("tree/fifos")).unwrap();
    fs::create_dir(world.root("tree")).unwrap();
    for number in 0..575 {
        fs::write(world.here(&format!("tree/{number}")), "x").unwrap();
        fs::create_dir(world.root(&format!("tree/{number}"))).unwrap();
    }
    for number in 0..30 {
        tree::mkfifo(&world.here(&format!("tree/fifos/{number}")));
    }
    let output = people(&world, &[], &["tree", &world.url("")]).expect(3);
    let kind = "is a directory; move it away, or copy into it";
    let lines = |words: &str| {
        output
            .stderr
            .lines()
            .filter(|line| line.contains(words))
            .count()
    };
    assert_eq!(lines(kind), 5, "{}", output.stderr);
    let count = "landro: 570 more: is a directory (over there); move it away, or copy into it";
    says(&output, 3, count);
    says(
        &output,
        3,
        "landro: 575 entries failed; the rest is complete",
    );
    let warnings = output
        .stderr
        .lines()
        .filter(|line| line.contains("warning: "));
    assert_eq!(warnings.count(), 6, "{}", output.stderr);
    assert!(
        output.stderr.contains("landro: warning: 25 more: "),
        "{}",
        output.stderr
    );
    // JSON keeps all.
    let output = world.push(world.here("tree"), "").expect(3);
    let of = |event| {
        output
            .of(event)
            .filter(|event| !event["path"].is_null())
            .count()
    };
    assert_eq!((of("error"), of("warning")), (575, 30));
}

fn one_line_at_the_end_and_one_for_each_entry(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    fs::create_dir(world.here("tree")).unwrap();
    fs::write(world.here("tree/file"), [0; 1_500]).unwrap();
    let to = world.url("");
    let output = people(&world, &["-v", "--summary"], &["tree", &to]).expect(0);
    assert_eq!(output.stderr, "");
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "tree/file", "{}", output.stdout);
    assert!(
        lines[1].starts_with("1 file, 1.50 kB in "),
        "{}",
        output.stdout
    );
    assert_eq!(lines.len(), 2, "{}", output.stdout);
    let output = people(&world, &["-v", "--summary"], &["tree", &to]).expect(0);
    let line = output.stdout.lines().next().unwrap();
    assert!(
        line.contains("0 files, ") && line.ends_with(", 1 unchanged"),
        "{}",
        output.stdout
    );
    let output = people(&world, &["--quiet", "--summary"], &["tree", "nosuch", &to]).expect(3);
    assert!(
        output.stdout.trim_end().ends_with(", 1 failed"),
        "{}",
        output.stdout
    );
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);
    let from = world.url("tree");
    let output = people(&world, &["-v"], &[&from, "back"]).expect(0);
    assert_eq!(output.stdout, format!("{from}/file\n"));
}
