//! Power cuts and kill -9 at random moments: a rerun ends with the right bytes, and what was
//! replaced is old or new.
//!
//! A few of them in each run of the tests; `scripts/soak.sh power` and `scripts/soak.sh kills` are
//! the long runs of the same code. The seed decides all but what the scheduler does, which is where
//! a moment falls.

#[path = "crash/case.rs"]
mod case;
mod common;
#[path = "crash/disk.rs"]
mod disk;
#[path = "crash/goods.rs"]
mod goods;
#[path = "crash/kills.rs"]
mod kills;
#[path = "crash/power.rs"]
mod power;
#[path = "crash/site.rs"]
mod site;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use walkdir::WalkDir;

use common::has_io_uring;
use common::tree::Rng;
use disk::FileSystem;

/// Cuts of one copy, in the long run: one while it copies for each one after.
const CUTS_OF_A_COPY: u64 = 4;

/// Kills of one tree at most, in the long run.
const KILLS_OF_A_TREE: u64 = 7;

/// What is left behind may be removed in the background for this long, once all is down.
const CLEANING: Duration = Duration::from_secs(30);

/// What a campaign found.
#[derive(Default)]
struct Tally {
    /// What is being done.
    context: String,
    cuts: u64,
    kills: u64,
    faults: Vec<String>,
    /// For each sort of case: how many cuts or kills there were, and how many faults.
    table: BTreeMap<String, (u64, u64)>,
}

impl Tally {
    /// `entries` have one fault in common; nothing if there are none.
    fn fault(&mut self, what: &str, entries: &[String]) {
        if entries.is_empty() {
            return;
        }
        let first = entries[..entries.len().min(4)].join("; ");
        println!("   FAULT {what}: {} entries: {first}", entries.len());
        self.faults.push(format!(
            "{}: {what}: {} entries: {first}",
            self.context,
            entries.len()
        ));
    }

    /// After each of its rounds; `faults_before` it.
    fn enter(&mut self, sort: String, faults_before: usize) {
        let line = self.table.entry(sort).or_default();
        line.0 += 1;
        line.1 += u64::from(self.faults.len() > faults_before);
    }

    fn assert_none(self) {
        for (sort, (rounds, faulty)) in &self.table {
            println!("{sort}: {rounds} rounds, {faulty} with faults");
        }
        let shown = &self.faults[..self.faults.len().min(20)];
        assert!(
            shown.is_empty(),
            "{} faults:\n{}",
            self.faults.len(),
            shown.join("\n")
        );
    }
}

/// A moment within a copy that lasts nobody knows how long: each doubling is as likely, up to a
/// quarter of a second.
fn a_moment_ms(rng: &mut Rng) -> u64 {
    let below = 8 << rng.below(6);
    rng.below(below)
}

/// Disks take turns: a daemon's mount namespace would hold the disk of another test, too.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn a_backend(rng: &mut Rng) -> &'static str {
    if rng.below(2) == 0 && has_io_uring() {
        "io_uring"
    } else {
        "poll"
    }
}

fn is_ours(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b".landro-"))
}

/// Temporary files below a directory that nobody removes.
fn leftovers_in_time(root: &Path) -> Vec<PathBuf> {
    const STEP: Duration = Duration::from_millis(20);
    // Read while a daemon may be cleaning up: what cannot be read is gone.
    let leftovers = || -> Vec<PathBuf> {
        let entries = WalkDir::new(root).into_iter().filter_map(Result::ok);
        entries
            .map(walkdir::DirEntry::into_path)
            .filter(|path| is_ours(path))
            .collect()
    };
    for _ in 0..CLEANING.as_millis() / STEP.as_millis() {
        if leftovers().is_empty() {
            break;
        }
        thread::sleep(STEP);
    }
    leftovers()
}

/// Three copies with two cuts each: over older files, with `--fsync`, and with the medium lost
/// while it is written.
fn a_few_cuts(file_system: FileSystem) {
    let _turn = turn();
    if !disk::possible(&[file_system]) {
        return;
    }
    let mut rng = Rng::new(file_system.name());
    let mut tally = Tally::default();
    for (older, fsync) in [(true, false), (false, true)] {
        let kinds: Vec<u64> = case::kinds(file_system, older, fsync).collect();
        power::copy_and_cut(*rng.pick(&kinds), 2, &mut rng, &mut tally);
    }
    power::copy_and_lose_the_medium(file_system, &mut rng, &mut tally);
    tally.assert_none();
}

#[test]
fn a_few_power_cuts_of_ext4() {
    a_few_cuts(FileSystem::Ext4);
}

#[test]
fn a_few_power_cuts_of_xfs() {
    a_few_cuts(FileSystem::Xfs);
}

#[test]
fn a_few_power_cuts_of_btrfs() {
    a_few_cuts(FileSystem::Btrfs);
}

#[test]
fn a_few_kills() {
    let _turn = turn();
    let mut rng = Rng::new("kills");
    let mut tally = Tally::default();
    for kind in 0..kills::KINDS {
        kills::copy_and_kill(kind, 2, &mut rng, &mut tally);
    }
    tally.assert_none();
}

#[test]
#[ignore = "scripts/soak.sh power"]
fn soak_power() {
    assert!(
        disk::possible(&FileSystem::ALL),
        "no disks can be made here"
    );
    campaign(
        "power",
        |tally| tally.cuts,
        |seed, rng, tally| {
            power::copy_and_cut(seed % case::KINDS, CUTS_OF_A_COPY, rng, tally);
        },
    );
}

#[test]
#[ignore = "scripts/soak.sh kills"]
fn soak_kills() {
    campaign(
        "kills",
        |tally| tally.kills,
        |seed, rng, tally| {
            let kills = 1 + rng.below(KILLS_OF_A_TREE);
            kills::copy_and_kill(seed % kills::KINDS, kills, rng, tally);
        },
    );
}

/// Goes on until `LANDRO_SOAK_ROUNDS` are done, or a few more. Each copy has the seed after that of
/// the one before, and is repeated by `scripts/soak.sh PART 1 SEED`.
#[allow(clippy::disallowed_methods, reason = "says how long a round takes")]
fn campaign(part: &str, done: impl Fn(&Tally) -> u64, copy: impl Fn(u64, &mut Rng, &mut Tally)) {
    let rounds: u64 = std::env::var("LANDRO_SOAK_ROUNDS")
        .ok()
        .and_then(|typed| typed.parse().ok())
        .expect("LANDRO_SOAK_ROUNDS is a number of rounds");
    let first = Rng::new(part).0;
    let mut tally = Tally::default();
    let began = Instant::now();
    for seed in first.. {
        if done(&tally) >= rounds {
            break;
        }
        println!("-- seed {seed}");
        copy(seed, &mut Rng(seed), &mut tally);
        println!(
            "-- {} of {rounds} done, {} faults, {:?}",
            done(&tally),
            tally.faults.len(),
            began.elapsed()
        );
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{part}: {} rounds from seed {first}, {} faults, {seconds:.0} s, {:.2} s a round",
        done(&tally),
        tally.faults.len(),
        seconds / done(&tally) as f64
    );
    tally.assert_none();
}
