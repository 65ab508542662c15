//! One copy onto a disk, several power cuts of it, and for each what a rerun on the next boot makes
//! of it.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use walkdir::WalkDir;

use crate::common::tree::{self, Rng};
use crate::common::{COMMAND_TIMEOUT, Running, Side, cut as end_of, roomy_dir};

use super::Tally;
use super::case::{Boot, Case, Moment, Nudge, Older, Plan};
use super::disk::{Disk, FileSystem, run};
use super::goods::{self, Found};
use super::site::Site;

const MIB: u64 = 1 << 20;

/// An image, and whether the copy had ended well before.
struct Cut {
    plan: Plan,
    image: PathBuf,
    reported: bool,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Plan {
            moment,
            nudge,
            boot,
            again_ms,
        } = self.plan;
        write!(out, "{moment:?}")?;
        out.write_str(if self.reported {
            " (after exit 0)"
        } else {
            " (before exit 0)"
        })?;
        write!(out, ", {nudge:?} written early, {boot:?} boot")?;
        again_ms.map_or(Ok(()), |ms| write!(out, ", again after {ms} ms"))
    }
}

/// Copies once and cuts the power `cuts` times; what went wrong is added to the tally.
pub fn copy_and_cut(kind: u64, cuts: u64, rng: &mut Rng, tally: &mut Tally) {
    let case = Case::by_chance(kind, cuts, rng);
    copy_and_cut_case(&case, rng, tally);
}

pub fn copy_and_lose_the_medium(file_system: FileSystem, rng: &mut Rng, tally: &mut Tally) {
    let case = Case::lost_medium(file_system, rng);
    copy_and_cut_case(&case, rng, tally);
}

fn copy_and_cut_case(case: &Case, rng: &mut Rng, tally: &mut Tally) {
    let work = roomy_dir(128 * MIB);
    let mut disk = Disk::new(case.file_system, case.options).unwrap();
    let mut site = prepare(case, &disk, &work, rng);
    // What is not down yet may be lost like the rest.
    let older = (case.older == Older::Durable).then(|| work.path().join("old/tree"));
    tally.context = case.to_string();

    site.start(&[]);
    if case.older == Older::JustCopied {
        site.version = "old";
        site.cp(&[], &[]).wait().expect(0);
        site.version = "new";
    }
    let cuts = cut_while_it_copies(case, &site, &mut disk, tally);
    site.kill_daemon();
    disk.turn_off();

    let mut to_do = VecDeque::from(cuts);
    while let Some(cut) = to_do.pop_front() {
        let boot_id = work.path().join("boot_id");
        fs::write(&boot_id, another_boot_id(rng)).unwrap();
        let next_boot = next_boot(&boot_id);
        let prefix: Vec<&str> = match cut.plan.boot {
            Boot::Next => next_boot.iter().map(String::as_str).collect(),
            Boot::Same => Vec::new(),
        };
        tally.cuts += 1;
        let faults_before = tally.faults.len();
        tally.context = format!("{case}; {cut}");
        println!("{}", tally.context);
        match disk.turn_on(cut.image.clone()) {
            Ok(()) => {
                look(case, &cut, &site, older.as_deref(), tally);
                site.start(&prefix);
                let running = site.cp(&prefix, &case.flags());
                to_do.extend(rerun(running, &cut, &site, &mut disk, tally));
                // It would hold the disk when the next image is mounted.
                site.kill_daemon();
            }
            Err(error) => tally.fault("the disk does not mount", &[error]),
        }
        disk.throw_away();
        tally.enter(case.sort(), faults_before);
    }
}

fn prepare(case: &Case, disk: &Disk, work: &TempDir, rng: &mut Rng) -> Site {
    let target = disk.at().join("root");
    for dir in [
        &target,
        &disk.at().join("config"),
        &work.path().join("new"),
        &work.path().join("old"),
    ] {
        fs::create_dir(dir).unwrap();
    }
    let (new, old) = (work.path().join("new/tree"), work.path().join("old/tree"));
    goods::build(&new, case.big_bytes, rng);
    if case.older != Older::Nothing {
        goods::build_older(&old, &new, rng);
    }
    if case.older == Older::Durable {
        run(Command::new("cp").arg("-a").args([&old, &target])).unwrap();
    }
    // What is not part of the transfer.
    fs::write(target.join("beside"), "beside").unwrap();
    let writer = Side::at(disk.at().join("config"));
    writer.id();
    disk.sync();
    Site::new(
        case.way,
        case.backends,
        writer,
        work.path().to_path_buf(),
        target,
    )
}

fn cut_while_it_copies(case: &Case, site: &Site, disk: &mut Disk, tally: &mut Tally) -> Vec<Cut> {
    let limit = case.limit.map(|limit| format!("{limit}M"));
    let mut flags = case.flags();
    flags.extend(limit.iter().flat_map(|limit| ["--bwlimit", limit]));
    let mut running = site.cp(&[], &flags);
    let (mut since_start_ms, mut since_exit_ms) = (0, 0);
    let (mut cuts, mut killed) = (Vec::new(), false);
    for (number, &plan) in case.cuts.iter().enumerate() {
        if case.kill_before == Some(number) && running.is_running() {
            running.kill();
            killed = true;
        }
        match plan.moment {
            Moment::WhileItRuns(at_ms) => {
                sleep_ms(at_ms - since_start_ms);
                since_start_ms = at_ms;
            }
            Moment::AtExit => wait_for_exit(&mut running),
            Moment::AfterExit(at_ms) => {
                wait_for_exit(&mut running);
                sleep_ms(at_ms - since_exit_ms);
                since_exit_ms = at_ms;
            }
            Moment::Rerun(_) => unreachable!("the first copy is none"),
        }
        write_early(plan.nudge, &disk.at());
        // In this order: what ended before the cut, ended before it.
        let reported = !running.is_running() && !killed;
        cuts.push(Cut {
            plan,
            image: disk.cut(),
            reported,
        });
    }
    let output = running.wait();
    if output.code != Some(0) && !killed {
        let how = format!("{:?}, {}", output.code, end_of(&output.stderr));
        tally.fault("the copy itself ended wrongly", &[how]);
        cuts.clear();
    }
    cuts
}

fn sleep_ms(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

/// Running::wait has the last word about what does not end.
fn wait_for_exit(running: &mut Running) {
    for _ in 0..COMMAND_TIMEOUT.as_millis() {
        if !running.is_running() {
            return;
        }
        sleep_ms(1);
    }
}

fn write_early(nudge: Nudge, disk: &Path) {
    // Things vanish while this looks: the copy goes on.
    let entries = WalkDir::new(disk.join("root"))
        .sort_by_file_name()
        .into_iter()
        .filter_map(Result::ok);
    let is_journal = |path: &Path| {
        path.extension()
            .is_some_and(|extension| extension == "journal")
    };
    let paths: Vec<PathBuf> = match nudge {
        Nudge::Nothing => return,
        Nudge::Journals => entries
            .map(walkdir::DirEntry::into_path)
            .filter(|path| is_journal(path))
            .collect(),
        Nudge::Directories => entries
            .filter(|entry| entry.file_type().is_dir())
            .map(walkdir::DirEntry::into_path)
            .collect(),
        Nudge::Files => entries
            .filter(|entry| entry.file_type().is_file())
            .step_by(2)
            .map(walkdir::DirEntry::into_path)
            .collect(),
    };
    if !paths.is_empty() {
        // Of those that are gone by now it complains.
        let _ = run(Command::new("sync").arg("--data").args(paths));
    }
}

/// What stands there right after the cut.
fn look(case: &Case, cut: &Cut, site: &Site, older: Option<&Path>, tally: &mut Tally) {
    let (mut new, mut old, mut nothing, mut unfinished) = (0, 0, 0, 0);
    let mut lost = Vec::new();
    for (path, found) in goods::look(&site.sent(), older, &site.arrived()) {
        let replaced = older.is_some_and(|older| older.join(&path).symlink_metadata().is_ok());
        match found {
            Found::New => new += 1,
            Found::Old => old += 1,
            Found::Nothing => nothing += 1,
            Found::Wrong(how) if replaced => lost.push(format!("{path:?}: {how}")),
            // A new file may be anything until a rerun.
            Found::Wrong(_) => unfinished += 1,
        }
    }
    println!(
        "   {new} new, {old} old, {nothing} missing, {unfinished} unfinished, {} lost",
        lost.len()
    );
    tally.fault("replaced and neither old nor new", &lost);
    if case.fsync && cut.reported {
        // Temporary files are not promised to be gone before the rerun.
        let mut all = differences(&site.sent(), &site.arrived());
        all.retain(|difference| {
            !(difference.contains(".landro-") && difference.ends_with("is extra"))
        });
        tally.fault("promised by --fsync", &all);
    }
}

/// The same command on the next boot: all is well in the end. If this is cut off, too: what the cut
/// left.
fn rerun(
    running: Running,
    cut: &Cut,
    site: &Site,
    disk: &mut Disk,
    tally: &mut Tally,
) -> Option<Cut> {
    let again = cut.plan.again_ms.map(|at_ms| {
        sleep_ms(at_ms);
        write_early(cut.plan.nudge, &disk.at());
        let plan = Plan {
            moment: Moment::Rerun(at_ms),
            again_ms: None,
            ..cut.plan
        };
        Cut {
            plan,
            image: disk.cut(),
            reported: cut.reported,
        }
    });
    let output = running.wait();
    if output.code != Some(0) {
        let log = site.daemon_log();
        let how = format!(
            "{:?}, {}\n{}",
            output.code,
            end_of(&output.stderr),
            end_of(&log)
        );
        tally.fault("the rerun ended wrongly", &[how]);
        return again;
    }
    tally.fault(
        "after the rerun",
        &differences(&site.sent(), &site.arrived()),
    );
    if fs::read(disk.at().join("root/beside")).ok().as_deref() != Some(b"beside") {
        tally.fault("not part of the transfer", &["beside".to_owned()]);
    }
    let left = super::leftovers_in_time(&disk.at());
    tally.fault(
        "left behind after the rerun",
        &left
            .iter()
            .map(|path| format!("{path:?}"))
            .collect::<Vec<_>>(),
    );
    // Whoever cleaned up in the background must have kept the times of directories.
    tally.fault(
        "after cleaning up",
        &differences(&site.sent(), &site.arrived()),
    );
    again
}

fn differences(one: &Path, other: &Path) -> Vec<String> {
    match other.symlink_metadata() {
        Ok(_) => tree::differences(one, other),
        Err(error) => vec![format!("{}: {error}", other.display())],
    }
}

/// In the form of /proc/sys/kernel/random/boot_id.
fn another_boot_id(rng: &mut Rng) -> String {
    let hex: String = rng
        .bytes(16)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "{}-{}-{}-{}-{}\n",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Runs a program that sees another boot id, in a mount namespace of its own.
fn next_boot(boot_id: &Path) -> Vec<String> {
    let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    [
        "unshare",
        "-m",
        "sh",
        "-c",
        script,
        boot_id.to_str().unwrap(),
    ]
    .map(String::from)
    .to_vec()
}
