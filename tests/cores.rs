//! Lanes of one session on several workers: each of them carries, whatever is lost, and files are
//! what they were.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::thread;
use std::time::Duration;

use common::World;
use common::tree::{self, Rng, assert_no_leftovers, assert_same};

on_both_backends!(
    several_workers_carry,
    trees_over_several_workers,
    small_files_over_several_workers,
    a_command_that_is_killed_resumes,
);

const MIB: u64 = 1 << 20;

const LANES: [&str; 4] = ["--workers", "4", "--lanes", "8"];

/// A thread that carries takes so much CPU time at least; one that only answers its mail has taken
/// 1 or 2 ms.
const CARRIES: Duration = Duration::from_millis(10);

/// A world whose files are where the build is, on a disk, and whose daemon has four workers.
fn world(backend: &'static str) -> World {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    World::within(backend, &["--workers", "4"], dir)
}

fn args(words: &[&str], from: impl Into<OsString>, to: impl Into<OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = LANES.iter().chain(words).map(OsString::from).collect();
    all.extend([from.into(), to.into()]);
    all
}

/// The CPU time of each worker of a process, by name.
fn worker_times(pid: u32) -> Vec<(String, Duration)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let time = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        // In ns, and exact; stat (proc(5)) has ticks of 10 ms.
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let ran_ns = stat.split_whitespace().next()?.parse().ok()?;
        Some((name.trim_end().to_owned(), Duration::from_nanos(ran_ns)))
    };
    let all = tasks.flatten().filter_map(time);
    all.filter(|(name, _)| name.starts_with("landro-"))
        .collect()
}

/// The workers that have carried since.
fn carried(before: &[(String, Duration)], now: &[(String, Duration)]) -> BTreeSet<String> {
    let was = |name: &String| before.iter().find(|(other, _)| other == name);
    let grew = |(name, time): &&(String, Duration)| {
        *time >= was(name).map_or(Duration::ZERO, |(_, time)| *time) + CARRIES
    };
    now.iter()
        .filter(grew)
        .map(|(name, _)| name.clone())
        .collect()
}

/// The names of workers.
fn workers(numbers: std::ops::Range<u8>) -> BTreeSet<String> {
    numbers.map(|number| format!("landro-{number}")).collect()
}

/// A file goes there and back, and several workers of both sides take part, whichever of them the
/// kernel gives the connections to.
fn several_workers_carry(backend: &'static str) {
    const FILE_BYTES: u64 = 384 * MIB;
    let world = world(backend);
    let (here, back) = (world.here("file"), world.here("back"));
    tree::write_file(&here, FILE_BYTES, &mut Rng::new("several workers"));
    let slowly = ["--bwlimit", "192M", "--stats"];
    let ways = [
        args(&slowly, &here, world.url("file")),
        args(&slowly, world.url("file"), &back),
    ];
    for way in ways {
        let before = worker_times(world.daemon.pid());
        let mut running = world.cp_start(&way);
        let pid = running.pid();
        let (mut seen, mut last) = (BTreeSet::new(), Vec::new());
        while running.is_running() {
            last = worker_times(pid);
            seen.extend(carried(&[], &last));
            thread::sleep(Duration::from_millis(20));
        }
        let output = running.wait().expect(0);
        let stats = &output.summary()["stats"];
        assert_eq!(stats["tls"]["lanes"], 8, "{output:?}");
        assert!(seen.len() > 1, "the command's workers: {last:?}");
        let daemons = carried(&before, &worker_times(world.daemon.pid()));
        assert!(daemons.len() > 1, "the daemon's workers: {daemons:?}");
    }
    assert_same(&here, &world.root("file"));
    assert_same(&here, &back);
    assert_no_leftovers(&world.root(""));
}

/// Small files, holes and files of a few chunks travel beside a large one.
fn trees_over_several_workers(backend: &'static str) {
    let world = world(backend);
    let (here, mut rng) = (world.here("tree"), Rng::new("trees over several workers"));
    for number in 0..300 {
        let dir = here.join(format!("dir{}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        let bytes = [0, 100, 5_000, 65_536, 65_537, 300_000][number % 6];
        tree::write_file(&dir.join(format!("file{number}")), bytes, &mut rng);
    }
    tree::write_file(&here.join("large"), 64 * MIB, &mut rng);
    let sparse = fs::File::create(here.join("sparse")).unwrap();
    sparse.set_len(32 * MIB).unwrap();
    let end = 20 * MIB;
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 100_000], end).unwrap();
    world.cp(&args(&[], &here, world.url("copy"))).expect(0);
    assert_same(&here, &world.root("copy"));
    world
        .cp(&args(&[], world.url("copy"), world.here("back")))
        .expect(0);
    assert_same(&here, &world.here("back"));
    let into = ["--no-target-directory"];
    let again = world.cp(&args(&into, &here, world.url("copy"))).expect(0);
    assert_eq!(again.number("files"), 0, "{again:?}");
    assert_no_leftovers(&world.root(""));
}

/// A tree of small files goes there and back, and leaves from several workers.
fn small_files_over_several_workers(backend: &'static str) {
    const FILES: usize = 8000;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = World::within(backend, &["--workers", "2"], dir);
    let (here, mut rng) = (world.here("tree"), Rng::new("small files"));
    for number in 0..FILES {
        let dir = here.join(format!("dir{}/below{}", number % 3, number % 60));
        if number < 60 {
            fs::create_dir_all(&dir).unwrap();
        }
        let bytes = [4096, 0, 9000, 100, 4000][number % 5];
        tree::write_file(&dir.join(format!("file{number}")), bytes, &mut rng);
    }
    let command = |from: OsString, to: OsString| {
        // Slow enough that it is not the lanes that are waited for, of which one kind may win then.
        let words = [
            "--workers",
            "2",
            "--lanes",
            "4",
            "--stats",
            "--bwlimit",
            "16M",
        ];
        let words = words.iter().map(OsString::from);
        words.chain([from, to]).collect::<Vec<_>>()
    };
    let (copy, back) = (world.url("copy"), world.here("back"));
    let is_whole = |output: &common::Output| {
        assert_eq!(output.number("files"), FILES as u64, "{output:?}");
        assert_eq!(output.summary()["stats"]["tls"]["lanes"], 4, "{output:?}");
    };
    let mut running = world.cp_start(&command(here.clone().into(), copy.clone().into()));
    let (pid, mut seen) = (running.pid(), BTreeSet::new());
    while running.is_running() {
        seen.extend(carried(&[], &worker_times(pid)));
        thread::sleep(Duration::from_millis(10));
    }
    is_whole(&running.wait().expect(0));
    assert!(seen.is_superset(&workers(0..2)), "the command's: {seen:?}");
    let before = worker_times(world.daemon.pid());
    is_whole(
        &world
            .cp(&command(copy.into(), back.clone().into()))
            .expect(0),
    );
    let daemons = carried(&before, &worker_times(world.daemon.pid()));
    assert!(daemons.is_superset(&workers(0..2)), "{daemons:?}");
    assert_same(&here, &world.root("copy"));
    assert_same(&here, &back);
    assert_no_leftovers(&world.root(""));
}

/// What was reported before the command was killed does not travel again.
fn a_command_that_is_killed_resumes(backend: &'static str) {
    let world = world(backend);
    let here = world.here("file");
    tree::write_file(&here, 192 * MIB, &mut Rng::new("killed"));
    let mut running = world.cp_start(&args(&["--bwlimit", "64M"], &here, world.url("file")));
    thread::sleep(Duration::from_millis(1500));
    running.kill();
    let output = world.cp(&args(&[], &here, world.url("file"))).expect(0);
    assert!(output.number("resumed_bytes") > 16 * MIB, "{output:?}");
    assert_same(&here, &world.root("file"));
    assert_no_leftovers(&world.root(""));
}
