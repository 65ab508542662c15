//! One tree, copied by processes that are killed at random moments until one of them comes to the
//! end.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::tree::{self, Rng};
use crate::common::{Running, Side, cut as end_of, roomy_dir};

use super::disk::run;
use super::goods::{self, Found};
use super::site::{Site, Way};
use super::{Tally, a_backend, a_moment_ms};

const MIB: u64 = 1 << 20;

/// A client notices the death of its daemon when the next one resets its connection. Not waited for
/// longer than this: it is killed, too.
const NOTICING: Duration = Duration::from_secs(2);

/// Three ways, to a new place and over older files.
pub const KINDS: u64 = 6;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Client,
    Daemon,
    Both,
}

/// Copies until the end with up to `kills` kills on the way; what went wrong is added to the tally.
pub fn copy_and_kill(kind: u64, kills: u64, rng: &mut Rng, tally: &mut Tally) {
    let way = Way::ALL[(kind % KINDS / 2) as usize];
    let work = a_place(rng);
    let path = |name: &str| work.path().join(name);
    for dir in ["new", "old", "root", "config"] {
        fs::create_dir(path(dir)).unwrap();
    }
    let big_bytes = (8 + rng.below(40)) * MIB + rng.below(MIB);
    goods::build(&path("new/tree"), big_bytes, rng);
    let older = (kind % 2 == 1).then(|| path("old/tree"));
    if let Some(older) = &older {
        goods::build_older(older, &path("new/tree"), rng);
        run(Command::new("cp").arg("-a").args([older, &path("root")])).unwrap();
    }
    let backends = [a_backend(rng), a_backend(rng)];
    let mut site = Site::new(
        way,
        backends,
        Side::at(path("config")),
        path(""),
        path("root"),
    );
    let flags: &[&str] = if rng.below(6) == 0 { &["--fsync"] } else { &[] };
    let sort = format!(
        "{way:?}, {}",
        if older.is_some() {
            "old replaced"
        } else {
            "new"
        }
    );
    let [daemon, client] = backends;
    let place = work.path().display();
    let case = format!(
        "{sort}; {daemon} and {client}, {} MiB, {flags:?}, in {place}",
        big_bytes / MIB
    );
    site.start(&[]);
    for _ in 0..kills {
        let blow = Blow::random(way, big_bytes, rng);
        let limit = blow.limit.iter().flat_map(|limit| ["--bwlimit", limit]);
        let limited: Vec<&str> = flags.iter().copied().chain(limit).collect();
        let Blow { victim, .. } = blow;
        let after = format!("killed after {} ms {limited:?}", blow.moment_ms);
        tally.context = format!("{case}; {victim:?} {after}");
        let mut running = site.cp(&[], &limited);
        thread::sleep(Duration::from_millis(blow.moment_ms));
        if !running.is_running() {
            // The final run below has nothing to do but to find that out.
            expect_success(running, tally);
            break;
        }
        kill(&mut site, victim, running);
        tally.kills += 1;
        let faults_before = tally.faults.len();
        look(&site, older.as_deref(), tally);
        tally.enter(format!("{sort}, {victim:?}"), faults_before);
    }
    tally.context = case;
    finish(&site, flags, &path("root"), tally);
}

/// Who dies, and when; the copy may be slowed down for it.
struct Blow {
    victim: Victim,
    limit: Option<String>,
    moment_ms: u64,
}

impl Blow {
    fn random(way: Way, big_bytes: u64, rng: &mut Rng) -> Blow {
        let victim = match way {
            Way::Local => Victim::Client,
            Way::Push | Way::Pull => *rng.pick(&[Victim::Client, Victim::Daemon, Victim::Both]),
        };
        // Slowed down by half of them, as over a network: there is more time within the big file.
        let limit = 16 + rng.below(100);
        let (limit, moment_ms) = match way != Way::Local && rng.below(2) == 0 {
            true => (
                Some(format!("{limit}M")),
                rng.below(big_bytes * 1100 / (limit * MIB)),
            ),
            false => (None, a_moment_ms(rng)),
        };
        Blow {
            victim,
            limit,
            moment_ms,
        }
    }
}

/// A copy that was over before its blow fell.
fn expect_success(running: Running, tally: &mut Tally) {
    let output = running.wait();
    if output.code != Some(0) {
        let how = format!("{:?}, {}", output.code, output.stderr);
        tally.fault("ended by itself", &[how]);
    }
}

/// In memory or on the disk: partial files are reserved and written differently there.
fn a_place(rng: &mut Rng) -> TempDir {
    match rng.below(2) {
        0 => roomy_dir(256 * MIB),
        _ => tempfile::tempdir().unwrap(),
    }
}

fn kill(site: &mut Site, victim: Victim, mut running: Running) {
    if victim != Victim::Daemon {
        running.kill();
    }
    if victim != Victim::Client {
        site.kill_daemon();
        site.start(&[]);
    }
    const STEP: Duration = Duration::from_millis(5);
    for _ in 0..NOTICING.as_millis() / STEP.as_millis() {
        if !running.is_running() {
            break;
        }
        thread::sleep(STEP);
    }
    running.kill();
    running.wait();
}

/// The page cache outlives processes: every name is new or old, whole, or not there yet.
fn look(site: &Site, older: Option<&Path>, tally: &mut Tally) {
    let wrong = goods::look(&site.sent(), older, &site.arrived())
        .into_iter()
        .filter_map(|(path, found)| match found {
            Found::Wrong(how) => Some(format!("{path:?}: {how}")),
            Found::New | Found::Old | Found::Nothing => None,
        });
    tally.fault("neither old nor new", &wrong.collect::<Vec<_>>());
}

fn finish(site: &Site, flags: &[&str], root: &Path, tally: &mut Tally) {
    let output = site.cp(&[], flags).wait();
    if output.code != Some(0) {
        let log = site.daemon_log();
        let how = format!(
            "{:?}, {}\n{}",
            output.code,
            end_of(&output.stderr),
            end_of(&log)
        );
        tally.fault("the rerun ended wrongly", &[how]);
        return;
    }
    println!(
        "{}: {} bytes resumed in the end",
        tally.context,
        output.number("resumed_bytes")
    );
    tally.fault(
        "after the rerun",
        &tree::differences(&site.sent(), &site.arrived()),
    );
    let left = super::leftovers_in_time(root);
    tally.fault(
        "left behind after the rerun",
        &left
            .iter()
            .map(|path| format!("{path:?}"))
            .collect::<Vec<_>>(),
    );
}
