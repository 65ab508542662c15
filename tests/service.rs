//! The systemd unit: how little it exposes, and that the daemon does all it does within it.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::manager::Manager;
use common::tree::{self, Rng, assert_same};
use common::{Daemon, Side, is_root, landro};

on_both_backends!(
    the_daemon_works_within_its_unit,
    a_worker_that_does_not_turn_is_not_vouched_for,
);

/// The exposure that is allowed, in the tenths of `systemd-analyze security`.
const EXPOSURE_TENTHS: &str = "20";

fn unit() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/landro.service"))
        .unwrap()
}

/// The values of one setting, in their order.
fn settings<'a>(unit: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    unit.lines()
        .filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
}

fn is_there(program: &str, asks: &str) -> bool {
    let found = Command::new(program)
        .arg(asks)
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        common::skipped(&format!(
            "{program} is not installed (scripts/setup.sh test)"
        ));
    }
    found
}

#[test]
fn the_unit_is_valid_and_exposes_little() {
    if !is_there("systemd-analyze", "--version") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("landro.service");
    // systemd looks whether the program and its page are there: packaging/check.sh has it look at
    // the installed ones.
    let program = format!("ExecStart={} serve", common::LANDRO);
    let here = unit()
        .replace("ExecStart=landro serve", &program)
        .replace("Documentation=man:landro-serve(1)\n", "");
    assert!(here.contains(&program) && !here.contains("Documentation"));
    fs::write(&path, here).unwrap();
    let analyze = |args: &[&str]| {
        Command::new("systemd-analyze")
            .args(args)
            .arg(&path)
            .output()
            .unwrap()
    };
    let verified = analyze(&["verify"]);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(
        verified.status.success() && !said.contains("landro.service:"),
        "{said}"
    );
    let threshold = format!("--threshold={EXPOSURE_TENTHS}");
    let security = analyze(&["security", "--offline=true", "--no-pager", &threshold]);
    assert!(
        security.status.success(),
        "{}",
        String::from_utf8_lossy(&security.stdout)
    );
    // What a crash, a hang or a leak may do.
    let unit = unit();
    for setting in ["MemoryMax", "WatchdogSec", "RestartSec", "StateDirectory"] {
        assert_eq!(settings(&unit, setting).count(), 1, "{setting}");
    }
    assert_eq!(
        settings(&unit, "StartLimitIntervalSec").collect::<Vec<_>>(),
        ["0"],
        "no crash is the last"
    );
    // A configuration without a `root` line serves the working directory.
    assert_eq!(
        settings(&unit, "WorkingDirectory").collect::<Vec<_>>(),
        ["%S/landro/files"]
    );
    // Either answers openat2 with ENOSYS, by which every path is confined.
    for setting in ["RestrictSUIDSGID", "DynamicUser"] {
        assert_eq!(settings(&unit, setting).count(), 0, "{setting}");
    }
}

/// System calls of a group, groups in it opened.
fn calls_of(word: &str, into: &mut BTreeSet<String>) {
    if !word.starts_with('@') {
        into.insert(word.to_owned());
        return;
    }
    let output = Command::new("systemd-analyze")
        .args(["syscall-filter", word])
        .output()
        .unwrap();
    assert!(output.status.success(), "{word}");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in text
        .lines()
        .skip(1)
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        calls_of(line, into);
    }
}

/// What the unit lets through: lists add up, those that begin with ~ take away.
fn allowed_calls() -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for list in settings(&unit(), "SystemCallFilter") {
        let mut named = BTreeSet::new();
        list.trim_start_matches('~')
            .split(' ')
            .for_each(|word| calls_of(word, &mut named));
        match list.starts_with('~') {
            true => allowed.retain(|call| !named.contains(call)),
            false => allowed.extend(named),
        }
    }
    allowed
}

/// Names of the system calls that strace saw the daemon make: those after it was executed.
fn calls_made(trace: &Path) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(&fs::read(trace).unwrap()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let started = lines
        .iter()
        .rposition(|line| line.contains("execve(") && line.contains(" = 0"));
    let lines = &lines[started.expect("it was executed") + 1..];
    // `PID name(...`; the rest are signals, ends, and calls that are gone on with.
    let name = |line: &&str| {
        let (_, call) = line.split_once(' ')?;
        let (name, _) = call.trim_start().split_once('(')?;
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        (is_name && !name.is_empty()).then(|| name.to_owned())
    };
    lines.iter().filter_map(name).collect()
}

/// A tree whose modes the unit's umask would change.
fn a_tree(tree: &Path, rng: &mut Rng) {
    fs::create_dir_all(tree.join("sub")).unwrap();
    tree::write_file(&tree.join("large"), 9 << 20, rng);
    tree::write_file(&tree.join("sub/small"), 500, rng);
    std::os::unix::fs::symlink("large", tree.join("link")).unwrap();
    for (name, mode) in [("large", 0o644), ("sub", 0o775), ("sub/small", 0o755)] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// As the unit starts it, as far as that goes without systemd, and with its system calls written
/// down.
fn start_as_the_unit(sides: [&Side; 2], dir: &Path, backend: &str) -> Daemon {
    let [client, server] = sides;
    let trace = dir.join("trace");
    let umask = format!(
        "umask {}; exec \"$0\" \"$@\"",
        settings(&unit(), "UMask").next().unwrap()
    );
    let mut prefix = vec!["strace", "-D", "-f", "-qq", "-o", trace.to_str().unwrap()];
    prefix.extend(["setpriv", "--no-new-privs"]);
    if is_root() {
        prefix.extend(["--bounding-set=-all", "--inh-caps=-all"]);
    }
    prefix.extend(["sh", "-c", &umask]);
    let id = client.id();
    let args = ["--backend", backend, "--workers", "2", "--allow", &id];
    Daemon::start_with(server, &prefix, &dir.join("root"), &args)
}

/// systemd cannot run in every place that tests do. So: no capabilities, no new ones, the unit's
/// umask; and of every system call that is made the unit's filter knows.
fn the_daemon_works_within_its_unit(backend: &'static str) {
    if !is_there("systemd-analyze", "--version") || !is_there("strace", "-V") {
        return;
    }
    let (client, server) = (Side::new(), Side::new());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("root")).unwrap();
    a_tree(&path("tree"), &mut Rng::new(backend));
    let daemon = start_as_the_unit([&client, &server], dir.path(), backend);
    let run = |command: &str, args: &[PathBuf]| {
        let options = [command, "--peer", &daemon.fingerprint].map(PathBuf::from);
        landro(&client, options.iter().chain(args)).expect(0);
    };
    let (root, there) = (daemon.url("").into(), daemon.url("tree").into());
    run("cp", &[path("tree"), PathBuf::clone(&root)]);
    run(
        "cp",
        &["--fsync".into(), "--force".into(), path("tree"), root],
    );
    run("cp", &[PathBuf::clone(&there), path("back")]);
    run("ls", &[there]);
    assert_same(&path("tree"), &path("root/tree"));
    assert_same(&path("tree"), &path("back"));
    common::signal(daemon.pid(), "HUP");
    daemon.wait_for_log_again("1 peer is authorised", 1);
    daemon.stop().expect(0);
    let (made, allowed) = (calls_made(&path("trace")), allowed_calls());
    println!("{} system calls: {made:?}", made.len());
    assert!(
        made.contains("openat2") && made.len() > 20,
        "strace saw the daemon: {made:?}"
    );
    assert_eq!(
        made.contains("io_uring_setup"),
        backend == "io_uring",
        "{made:?}"
    );
    let denied: Vec<_> = made.difference(&allowed).collect();
    assert!(
        denied.is_empty(),
        "the unit's SystemCallFilter= denies {denied:?}"
    );
}

/// Holds one thread of a process in its waits, each for a minute; dropped, lets it go.
struct Held(Child);

impl Held {
    /// Once strace has it; none where nobody may be traced by another (ptrace_scope).
    fn thread(pid: u32, tid: &str) -> Option<Held> {
        let waits =
            "inject=io_uring_enter,epoll_wait,epoll_pwait,epoll_pwait2:delay_enter=60000000";
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-e", waits, "-p", tid]);
        let mut held = Held(strace.stderr(Stdio::null()).spawn().unwrap());
        let tracer = format!("TracerPid:\t{}", held.0.id());
        for _ in 0..200 {
            let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap();
            if status.lines().any(|line| line == tracer) {
                return Some(held);
            }
            if held.0.try_wait().unwrap().is_some() {
                common::skipped("strace may not attach here (kernel.yama.ptrace_scope, seccomp)");
                return None;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("strace has not attached to {tid} within 10 s");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The kernel detaches what is traced by a process that ends.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The threads of a daemon that are its workers: `landro-0` and so on.
fn workers(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    let is_worker = |tid: &String| {
        let comm = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
        let number = comm.trim().strip_prefix("landro-");
        number.is_some_and(|number| number.parse::<u8>().is_ok())
    };
    tids.filter(is_worker).collect()
}

/// systemd then kills the daemon and starts another: `WatchdogSec=`, `Restart=on-failure`. One of
/// two workers is enough, and one that turns again is vouched for again.
fn a_worker_that_does_not_turn_is_not_vouched_for(backend: &'static str) {
    if !is_there("strace", "-V") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::at(&dir.path().join("notify"));
    let socket = format!("NOTIFY_SOCKET={}", dir.path().join("notify").display());
    let prefix = ["env", &socket, "WATCHDOG_USEC=400000"];
    let args = ["--backend", backend, "--workers", "2"];
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let daemon = Daemon::start_with(&Side::new(), &prefix, &root, &args);
    assert_eq!(manager.hear().as_deref(), Some("READY=1"));
    assert_eq!(manager.hear().as_deref(), Some("WATCHDOG=1"));

    let workers = workers(daemon.pid());
    assert_eq!(workers.len(), 2, "{workers:?}");
    let Some(held) = Held::thread(daemon.pid(), &workers[1]) else {
        daemon.stop().expect(0);
        return;
    };
    // Of what was said before it was held there may be a good deal to hear.
    let falls_silent = (0..200).any(|_| manager.hear_within(Duration::from_secs(2)).is_none());
    assert!(falls_silent, "the watchdog is fed on");
    drop(held);
    assert_eq!(manager.hear().as_deref(), Some("WATCHDOG=1"));
    daemon.stop().expect(0);
}
