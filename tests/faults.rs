//! What goes wrong on real hosts: processes killed, disks full, sources that change, impatient
//! users.

mod common;
#[path = "faults/sent.rs"]
mod sent;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{panic, thread};

use tempfile::TempDir;

use common::tree::{self, Rng, assert_no_leftovers, assert_same};
use common::{Daemon, Output, Running, Side, World, roomy_dir};
use sent::{kept_bytes, sent_bytes};

on_both_backends!(
    killed_pushes_resume,
    killed_pulls_resume,
    a_full_destination_is_exit_6,
    a_full_destination_that_is_given_room,
    a_full_destination_of_a_pull_is_exit_6,
    a_source_that_changes_fails_and_nothing_partial_appears,
    a_source_that_vanishes_is_named,
    interrupted_transfers_keep_their_state,
    a_second_signal_quits_at_once,
    a_daemon_told_to_stop_tells_its_clients,
    leftovers_of_another_version_of_a_file_are_not_mixed_in,
);

const MIB: u64 = 1 << 20;

/// The most a resumed transfer may send again, for each time it was interrupted.
const SENT_AGAIN_BYTES: u64 = 64 * MIB;

/// Large transfers take turns: their memory and their moments should not depend on each other.
fn big() -> (MutexGuard<'static, ()>, u64) {
    static TURN: Mutex<()> = Mutex::new(());
    let bytes = match std::env::var("LANDRO_TEST_BIG_BYTES") {
        Ok(typed) => typed
            .parse()
            .expect("LANDRO_TEST_BIG_BYTES is a number of bytes"),
        Err(_) if cfg!(debug_assertions) => 512 * MIB,
        Err(_) => 2048 * MIB,
    };
    (TURN.lock().unwrap_or_else(PoisonError::into_inner), bytes)
}

fn big_tree(root: &Path, bytes: u64, rng: &mut Rng) {
    fs::create_dir_all(root.join("small")).unwrap();
    for number in 0..400 {
        tree::write_file(
            &root.join("small").join(format!("{number}")),
            rng.below(20_000),
            rng,
        );
    }
    tree::write_file(&root.join("huge"), bytes / 4 * 3, rng);
    for number in 0..4 {
        tree::write_file(
            &root.join(format!("part {number}")),
            bytes / 16 + rng.below(3 * MIB),
            rng,
        );
    }
}

fn killed_pushes_resume(backend: &'static str) {
    killed_transfers_resume(backend, true);
}

fn killed_pulls_resume(backend: &'static str) {
    killed_transfers_resume(backend, false);
}

/// From one side of a world to the other.
struct Passage {
    from: PathBuf,
    /// The directory that the copy is to appear in.
    into: PathBuf,
    args: [OsString; 2],
}

impl Passage {
    fn new(world: &World, name: &str, push: bool) -> Passage {
        let (from, into) = match push {
            true => (world.here(name), world.root("")),
            false => (world.root(name), world.here("")),
        };
        let args = match push {
            true => [from.clone().into(), world.url("").into()],
            false => [world.url(name).into(), into.clone().into()],
        };
        Passage { from, into, args }
    }

    fn arrived(&self) -> PathBuf {
        self.into.join(self.from.file_name().unwrap())
    }

    /// What arrived under its final name is whole.
    fn assert_nothing_partial(&self) {
        let arrived = self.arrived();
        if !arrived.exists() {
            return;
        }
        for (path, record) in tree::records(&arrived) {
            if record.kind == 'f' && !is_temporary(&path) {
                let same = tree::same_content(&self.from.join(&path), &arrived.join(&path));
                assert!(same, "{path:?} is partial");
            }
        }
    }
}

/// Copies, and kills the client or the daemon after a while.
fn copy_and_kill(
    world: &mut World,
    passage: &Passage,
    (moment, lanes): (Duration, &str),
    daemon_dies: bool,
) -> Output {
    let options = ["--retry", "0", "--lanes", lanes].map(OsString::from);
    let args = [&options[..], &passage.args[..]].concat();
    let mut running = world.cp_start(&args);
    thread::sleep(moment);
    if daemon_dies {
        // The new daemon answers packets of connections it never had with a reset.
        world.restart();
    } else {
        running.kill();
    }
    running.wait()
}

#[allow(
    clippy::disallowed_methods,
    reason = "measures how long a whole transfer takes, to kill it within"
)]
fn killed_transfers_resume(backend: &'static str, push: bool) {
    let (_turn, bytes) = big();
    let mut rng = Rng::new(if push { "push" } else { "pull" });
    let mut world = World::within(backend, &[], roomy_dir(2 * bytes + bytes / 2));
    let passage = Passage::new(&world, "tree", push);
    let (from, arrived) = (&passage.from, passage.arrived());
    big_tree(from, bytes, &mut rng);
    let bytes = tree::count_files(from).1;
    // Undisturbed, to know which moments lie within a transfer.
    let began = Instant::now();
    world.cp(&passage.args).expect(0);
    let whole = began.elapsed();
    assert_same(from, &arrived);
    fs::remove_dir_all(&arrived).unwrap();

    let (mut kills, mut sent) = (0, 0);
    for round in 0..4 {
        // Somewhere in what is left of the transfer.
        let left = 1.0 - (sent as f64 / bytes as f64).min(0.9);
        let moment = whole.mul_f64(left * rng.below(1000) as f64 / 1000.0);
        let daemon_dies = (round + u64::from(push)) % 2 == 0;
        let kept = kept_bytes(&arrived);
        let lanes = if round % 3 == 0 { "1" } else { "4" };
        let output = copy_and_kill(&mut world, &passage, (moment, lanes), daemon_dies);
        let (bytes, code) = (sent_bytes(&output, kept), output.code);
        sent += bytes;
        let dies = if daemon_dies { "daemon" } else { "client" };
        println!(
            "round {round}, {lanes} lanes: {dies} killed after {moment:?}, {bytes} bytes, exit {code:?}"
        );
        if code == Some(0) {
            // Too late; from here it goes on with nothing left to do.
            continue;
        }
        kills += 1;
        match daemon_dies {
            true => assert_eq!(output.number("exit_code"), 5, "{output:?}"),
            false => assert_eq!(output.signal, Some(9), "{output:?}"),
        }
        passage.assert_nothing_partial();
    }
    let output = world.cp(&passage.args).expect(0);
    sent += output.number("sent_bytes");
    println!("{bytes} bytes, {sent} sent in all, killed {kills} times");
    assert_same(from, &arrived);
    assert_no_leftovers(&passage.into);
    let again = sent.saturating_sub(bytes);
    assert!(
        again <= kills * SENT_AGAIN_BYTES,
        "{again} bytes sent again after {kills} kills"
    );
}

fn is_temporary(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b".landro-"))
}

/// Runs a program with a small memory file system at a path nobody else sees; for those who may not
/// mount, in a user namespace of its own. None: this kernel lets us do neither.
fn with_small_disk(at: &Path, size: &str) -> Option<Vec<String>> {
    let script = format!("mount -t tmpfs -o size={size} none \"$0\" && exec \"$@\"");
    let unshare = if common::is_root() { "-m" } else { "-rm" };
    let prefix = [
        "unshare",
        unshare,
        "sh",
        "-c",
        &script,
        at.to_str().unwrap(),
    ]
    .map(String::from)
    .to_vec();
    let works = Command::new(&prefix[0])
        .args(&prefix[1..])
        .arg("true")
        .status()
        .is_ok_and(|s| s.success());
    if !works {
        common::skipped("no mount namespace can be made here");
    }
    works.then_some(prefix)
}

/// A daemon whose root is 24 MiB large, and a tree that is larger.
struct SmallRoot {
    backend: &'static str,
    client: Side,
    /// The daemon's own files stay as long as it does.
    _server: Side,
    daemon: Daemon,
    dir: TempDir,
    rng: Rng,
}

impl SmallRoot {
    fn new(backend: &'static str) -> Option<SmallRoot> {
        let dir = tempfile::tempdir().unwrap();
        let (root, tree) = (dir.path().join("root"), dir.path().join("tree"));
        fs::create_dir(&root).unwrap();
        let prefix = with_small_disk(&root, "24M")?;
        let mut rng = Rng::new(backend);
        fs::create_dir(&tree).unwrap();
        for (name, size_bytes) in [("fits", 3 * MIB), ("huge", 40 * MIB), ("medium", 9 * MIB)] {
            tree::write_file(&tree.join(name), size_bytes, &mut rng);
        }
        let (client, server) = (Side::new(), Side::new());
        let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
        let args = ["--backend", backend, "--allow", &client.id()];
        let daemon = Daemon::start_with(&server, &prefix, &root, &args);
        Some(SmallRoot {
            backend,
            client,
            _server: server,
            daemon,
            dir,
            rng,
        })
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// The daemon sees its own file system; so do we, through it.
    fn seen(&self) -> PathBuf {
        let root = self.dir.path().join("root");
        PathBuf::from(format!(
            "/proc/{}/root{}",
            self.daemon.pid(),
            root.display()
        ))
    }

    fn push(&self) -> Output {
        let peer = ["--peer", &self.daemon.fingerprint];
        let mut args: Vec<OsString> = ["cp", "--json", "--backend", self.backend]
            .into_iter()
            .chain(peer)
            .map(OsString::from)
            .collect();
        args.extend([self.tree().into(), self.daemon.url("").into()]);
        common::landro(&self.client, args)
    }

    fn grow(&self) {
        let pid = self.daemon.pid().to_string();
        let mut remount = Command::new("nsenter");
        remount
            .args(["-t", &pid, "-m"])
            .args(match common::is_root() {
                true => &[][..],
                false => &["-U", "--preserve-credentials"],
            });
        remount.args(["mount", "-o", "remount,size=200M"]);
        let made = remount.arg(self.dir.path().join("root")).status();
        assert!(made.unwrap().success());
    }
}

/// What does not fit is named; what fits arrives.
fn a_full_destination_is_exit_6(backend: &'static str) {
    let Some(small) = SmallRoot::new(backend) else {
        return;
    };
    let output = small.push().expect(6);
    let full: Vec<&str> = output
        .of("error")
        .filter(|e| e["code"] == "full")
        .filter_map(|e| e["path"].as_str())
        .collect();
    assert!(
        matches!(full[..], [path] if path.ends_with("tree/huge")),
        "{output:?}"
    );
    assert!(output.stderr.contains("tree/huge"));
    let (tree, seen) = (small.tree(), small.seen());
    for name in ["fits", "medium"] {
        assert_same(&tree.join(name), &seen.join("tree").join(name));
    }
    assert!(!seen.join("tree/huge").exists());
}

/// The same with hundreds of files; then room is made, and the same command finishes.
fn a_full_destination_that_is_given_room(backend: &'static str) {
    let Some(mut small) = SmallRoot::new(backend) else {
        return;
    };
    small.push().expect(6);
    let (tree, seen) = (small.tree(), small.seen());
    let many = tree.join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..600 {
        tree::write_file(&many.join(format!("{number}")), 30_000, &mut small.rng);
    }
    let output = small.push().expect(6);
    assert!(output.number("errors") > 50, "{output:?}");
    for (path, record) in tree::records(&seen)
        .into_iter()
        .filter(|(path, _)| !is_temporary(path))
    {
        let source = small.dir.path().join(&path);
        assert!(
            record.kind != 'f' || tree::same_content(&source, &seen.join(&path)),
            "{path:?} is partial"
        );
    }
    small.grow();
    small.push().expect(0);
    assert_same(&tree, &seen.join("tree"));
    assert_no_leftovers(&seen);
}

fn a_full_destination_of_a_pull_is_exit_6(backend: &'static str) {
    let world = World::new(backend);
    let to = world.here("to");
    fs::create_dir(&to).unwrap();
    let Some(prefix) = with_small_disk(&to, "8M") else {
        return;
    };
    let mut rng = Rng::new(backend);
    tree::write_file(&world.root("huge"), 20 * MIB, &mut rng);
    tree::write_file(&world.root("small"), 1000, &mut rng);
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let args: [OsString; 3] = [
        world.url("huge").into(),
        world.url("small").into(),
        to.clone().into(),
    ];
    let output = Running::spawn(world.cp_command(&prefix, &args))
        .wait()
        .expect(6);
    let error = output.of("error").next().unwrap();
    assert_eq!(
        (error["code"].as_str(), error["path"].as_str()),
        (Some("full"), Some("huge")),
        "{output:?}"
    );
    assert_eq!(output.number("files"), 1);
    // Local copies follow the same rule.
    let args = [world.root("huge"), world.root("small"), to];
    let output = Running::spawn(world.cp_command(&prefix, &args))
        .wait()
        .expect(6);
    assert!(
        output.of("error").any(|error| error["code"] == "full"),
        "{output:?}"
    );
}

/// Starts a transfer slow enough to be caught in the middle, and waits until it is there. It goes
/// on while this thread waits for its turn on a busy machine: 8 MiB behind the middle are two
/// seconds.
fn caught_midway(world: &World, args: &[OsString], after_bytes: u64) -> Running {
    let one_session = ["--retry", "0", "--bwlimit", "4M"].map(OsString::from);
    let running = world.cp_start(&[&one_session[..], args].concat());
    let midway = running.line(|line| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        event["event"] == "progress" && event["bytes"].as_u64().unwrap() >= after_bytes
    });
    assert!(
        midway.is_some(),
        "it ended before: {}{}",
        running.stdout(),
        running.stderr()
    );
    running
}

/// What is done to a source while it is sent.
type Tamper = fn(&Path, &mut Rng);

const TAMPERINGS: [(&str, Tamper); 4] = [
    ("truncated", |path, _| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(3 * MIB).unwrap()
    }),
    ("grown", |path, _| {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"more").unwrap()
    }),
    ("rewritten", |path, rng| {
        tree::write_file(path, 12 * MIB, rng)
    }),
    ("replaced", |path, rng| {
        let other = path.with_extension("other");
        tree::write_file(&other, 12 * MIB, rng);
        fs::rename(&other, path).unwrap();
    }),
];

fn a_source_that_changes_fails_and_nothing_partial_appears(backend: &'static str) {
    let mut rng = Rng::new(backend);
    for push in [true, false] {
        let world = World::new(backend);
        thread::scope(|scope| {
            for (way, change) in TAMPERINGS {
                let rng = Rng(rng.next());
                let passage = Passage::new(&world, way, push);
                let world = &world;
                scope.spawn(move || fails_when_changed(world, &passage, change, rng));
            }
        });
        assert_no_leftovers(&world.root(""));
        assert_no_leftovers(&world.here(""));
    }
}

fn fails_when_changed(world: &World, passage: &Passage, change: Tamper, mut rng: Rng) {
    let (from, to) = (&passage.from, passage.arrived());
    tree::write_file(from, 12 * MIB, &mut rng);
    let args = [&["--no-growing".into()], &passage.args[..]].concat();
    let running = caught_midway(world, &args, 4 * MIB);
    change(from, &mut rng);
    let output = running.wait();
    if from.ends_with("replaced") && output.code == Some(0) {
        // What was opened was read to its end; that it has no name any more is no fault.
        return;
    }
    let output = output.expect(1);
    let name = from.file_name().unwrap().to_str().unwrap();
    let error = output.of("error").find(|error| {
        error["path"]
            .as_str()
            .is_some_and(|path| path.ends_with(name))
    });
    assert_eq!(
        error.map(|error| &error["code"]),
        Some(&"source".into()),
        "{name}: {output:?}"
    );
    assert!(!to.exists(), "{name}");
    world.cp(&passage.args).expect(0);
    assert_same(from, &to);
}

fn a_source_that_vanishes_is_named(backend: &'static str) {
    let mut rng = Rng::new(backend);
    for push in [true, false] {
        let world = World::new(backend);
        let side = |name: &str| {
            if push {
                world.here(name)
            } else {
                world.root(name)
            }
        };
        // Behind the first one, which takes a while, the others are announced and wait.
        for (name, size_bytes) in [("first", 10 * MIB), ("large", 6 * MIB), ("last", 3 * MIB)] {
            tree::write_file(&side(name), size_bytes, &mut rng);
        }
        fs::create_dir(if push {
            world.root("to")
        } else {
            world.here("to")
        })
        .unwrap();
        let mut args: Vec<OsString> = ["first", "large", "last"]
            .map(|name| {
                if push {
                    side(name).into_os_string()
                } else {
                    world.url(name).into()
                }
            })
            .into();
        args.push(if push {
            world.url("to").into()
        } else {
            world.here("to").into()
        });
        let running = caught_midway(&world, &args, MIB);
        fs::remove_file(side("large")).unwrap();
        let output = running.wait();
        let to = if push {
            world.root("to")
        } else {
            world.here("to")
        };
        for name in ["first", "last"] {
            assert!(tree::same_content(&side(name), &to.join(name)), "{name}");
        }
        // It may have been open already: then it arrived whole.
        if !to.join("large").exists() {
            let output = output.expect(3);
            let error = output
                .of("error")
                .find(|error| {
                    error["path"]
                        .as_str()
                        .is_some_and(|path| path.ends_with("large"))
                })
                .unwrap();
            assert_eq!(error["code"], "source", "{output:?}");
        }
        assert_no_leftovers(&to);
    }
}

fn interrupted_transfers_keep_their_state(backend: &'static str) {
    let mut rng = Rng::new(backend);
    let world = World::new(backend);
    thread::scope(|scope| {
        for (signal, code) in [("INT", 130), ("TERM", 143)] {
            for push in [true, false] {
                let (world, mut rng) = (&world, Rng(rng.next()));
                let passage = Passage::new(world, &format!("{signal}-{push}"), push);
                scope.spawn(move || {
                    tree::write_file(&passage.from, 24 * MIB, &mut rng);
                    resumes_after(world, &passage, signal, code);
                });
            }
        }
    });
    assert_no_leftovers(&world.root(""));
    assert_no_leftovers(&world.here(""));
}

fn resumes_after(world: &World, passage: &Passage, signal: &str, code: i32) {
    let (from, to) = (&passage.from, passage.arrived());
    let running = caught_midway(world, &passage.args, 6 * MIB);
    running.signal(signal);
    let output = running.wait().expect(code);
    assert_eq!(output.number("exit_code"), code as u64);
    let first = output.number("sent_bytes");
    assert!(
        output.stderr.contains("resumes") && !to.exists(),
        "{}",
        output.stderr
    );
    let output = world.cp(&passage.args).expect(0);
    assert_same(from, &to);
    let (resumed, sent) = (output.number("resumed_bytes"), output.number("sent_bytes"));
    assert!(
        resumed >= 4 * MIB,
        "{from:?}: {resumed} of {first} bytes resumed"
    );
    assert_eq!(resumed + sent, 24 * MIB, "{from:?}");
}

fn a_second_signal_quits_at_once(backend: &'static str) {
    let world = World::new(backend);
    let mut rng = Rng::new(backend);
    tree::write_file(&world.here("file"), 24 * MIB, &mut rng);
    let args: [OsString; 2] = [world.here("file").into(), world.url("file").into()];
    let running = caught_midway(&world, &args, 2 * MIB);
    // A daemon that does not answer any more: the orderly end has to wait for it.
    common::signal(world.daemon.pid(), "STOP");
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        running.signal("INT");
        thread::sleep(Duration::from_millis(100));
        running.signal("INT");
        running.wait()
    }));
    // And one signal ends it in bounded time all the same.
    let running = world.cp_start(&args);
    running.signal("TERM");
    let alone = panic::catch_unwind(panic::AssertUnwindSafe(|| running.wait()));
    common::signal(world.daemon.pid(), "CONT");
    let outcome = outcome.unwrap();
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    let alone = alone.unwrap();
    assert!(
        alone.code == Some(143) || alone.signal == Some(15),
        "{alone:?}"
    );
    world.cp(&args).expect(0);
    assert_same(&world.here("file"), &world.root("file"));
    assert_no_leftovers(&world.root(""));
}

fn a_daemon_told_to_stop_tells_its_clients(backend: &'static str) {
    let mut rng = Rng::new(backend);
    for push in [true, false] {
        let mut world = World::new(backend);
        let passage = Passage::new(&world, "file", push);
        let (from, to) = (&passage.from, passage.arrived());
        tree::write_file(from, 24 * MIB, &mut rng);
        let running = caught_midway(&world, &passage.args, 6 * MIB);
        common::signal(world.daemon.pid(), "TERM");
        let output = running.wait().expect(5);
        assert_eq!(
            output.of("error").last().unwrap()["code"],
            "lost",
            "{output:?}"
        );
        world.daemon.wait_for_end();
        world.restart();
        let output = world.cp(&passage.args).expect(0);
        assert!(output.number("resumed_bytes") >= 4 * MIB, "{output:?}");
        assert_same(from, &to);
        assert_no_leftovers(to.parent().unwrap());
    }
}

fn leftovers_of_another_version_of_a_file_are_not_mixed_in(backend: &'static str) {
    let mut rng = Rng::new(backend);
    let world = World::new(backend);
    tree::write_file(&world.here("file"), 24 * MIB, &mut rng);
    let args: [OsString; 2] = [world.here("file").into(), world.url("file").into()];
    let running = caught_midway(&world, &args, 6 * MIB);
    running.signal("INT");
    running.wait().expect(130);
    assert!(
        !tree::leftovers(&world.root("")).is_empty(),
        "nothing was kept"
    );
    // Another file of the same size under the same name.
    tree::write_file(&world.here("file"), 24 * MIB, &mut rng);
    let output = world.cp(&args).expect(0);
    assert_eq!(
        (output.number("resumed_bytes"), output.number("sent_bytes")),
        (0, 24 * MIB)
    );
    assert_same(&world.here("file"), &world.root("file"));
    // And a journal of rubbish is no journal.
    let running = caught_midway(
        &world,
        &["--force".into(), args[0].clone(), args[1].clone()],
        6 * MIB,
    );
    running.signal("INT");
    running.wait().expect(130);
    for leftover in tree::leftovers(&world.root("")) {
        if leftover
            .extension()
            .is_some_and(|extension| extension == "journal")
        {
            fs::write(world.root("").join(leftover), rng.bytes(10_000)).unwrap();
        }
    }
    let output = world
        .cp(&["--force".into(), args[0].clone(), args[1].clone()])
        .expect(0);
    assert_eq!(output.number("resumed_bytes"), 0);
    assert_same(&world.here("file"), &world.root("file"));
    assert_no_leftovers(&world.root(""));
}
