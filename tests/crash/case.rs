//! One copy and its power cuts as a seed decides them.

use crate::common::tree::Rng;

use super::disk::FileSystem;
use super::site::Way;
use super::{a_backend, a_moment_ms};

const MIB: u64 = 1 << 20;

/// Longest wait after the end of a copy. ext4 commits names, sizes and times every 5 s, and xfs not
/// much later; data that nobody asks for waits for 30 s.
const LONGEST_AFTER_MS: u64 = 8_000;

/// All that the seed decides.
pub struct Case {
    pub file_system: FileSystem,
    pub options: &'static str,
    pub way: Way,
    pub older: Older,
    pub fsync: bool,
    pub backends: [&'static str; 2],
    pub big_bytes: u64,
    /// MiB/s: a slow copy lasts longer than the file system's interval between commits.
    pub limit: Option<u64>,
    /// The client is killed before this of the cuts.
    pub kill_before: Option<usize>,
    pub cuts: Vec<Plan>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Older {
    Nothing,
    /// Most files are there in another version, for long.
    Durable,
    /// They were copied there right before, by the same daemon: little of them is down.
    JustCopied,
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub moment: Moment,
    pub nudge: Nudge,
    pub boot: Boot,
    /// The rerun is cut off as well, after so many milliseconds.
    pub again_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Moment {
    /// Milliseconds after its start, if it still runs then.
    WhileItRuns(u64),
    AtExit,
    /// Milliseconds.
    AfterExit(u64),
    /// Milliseconds after the start of what repaired an earlier cut.
    Rerun(u64),
}

/// What the system happens to write early, as it may: any program's fsync or the kernel's own
/// choice can do that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nudge {
    Nothing,
    /// The journals of unfinished files; the files themselves not.
    Journals,
    /// Directories, and on ext4 and xfs with them all metadata so far; data of files not.
    Directories,
    /// Every second file.
    Files,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Boot {
    /// The machine lost power: there is another boot id.
    Next,
    /// The medium alone did: pulled out and plugged in, or a virtual disk rolled back.
    Same,
}

/// Every file system, way, with and without older files, with and without `--fsync`; seeds walk
/// through them.
pub const KINDS: u64 = 36;

fn older(kind: u64) -> bool {
    kind / 9 % 2 == 1
}

fn fsync(kind: u64) -> bool {
    kind / 18 % 2 == 1
}

fn file_system(kind: u64) -> FileSystem {
    FileSystem::ALL[(kind % 3) as usize]
}

/// Those of a sort; the ways are left.
pub fn kinds(of: FileSystem, with_older: bool, with_fsync: bool) -> impl Iterator<Item = u64> {
    let wanted = (of, with_older, with_fsync);
    (0..KINDS).filter(move |&kind| (file_system(kind), older(kind), fsync(kind)) == wanted)
}

impl Case {
    pub fn by_chance(kind: u64, cuts: u64, rng: &mut Rng) -> Case {
        let file_system = file_system(kind);
        let way = Way::ALL[(kind / 3 % 3) as usize];
        let big_bytes = (12 + rng.below(24)) * MIB + rng.below(MIB);
        let limit = (way != Way::Local && rng.below(2) == 0).then(|| 8 + rng.below(24));
        let while_it_runs = |rng: &mut Rng| match limit {
            Some(limit) => rng.below(big_bytes * 1250 / (limit * MIB)),
            None => a_moment_ms(rng),
        };
        let mut cuts: Vec<Plan> = (0..cuts)
            .map(|number| Plan {
                // Of each kind of moment about as many.
                moment: match number % 4 {
                    0 | 2 => Moment::WhileItRuns(while_it_runs(rng)),
                    1 => Moment::AfterExit(rng.below(LONGEST_AFTER_MS)),
                    _ => Moment::AtExit,
                },
                nudge: *rng.pick(&[
                    Nudge::Nothing,
                    Nudge::Nothing,
                    Nudge::Journals,
                    Nudge::Directories,
                    Nudge::Files,
                ]),
                boot: if rng.below(4) == 0 {
                    Boot::Same
                } else {
                    Boot::Next
                },
                again_ms: (rng.below(5) == 0).then(|| a_moment_ms(rng)),
            })
            .collect();
        cuts.sort_by_key(|plan| plan.moment);
        Case {
            file_system,
            options: rng.pick::<&'static str>(file_system.options()),
            way,
            older: match (older(kind), rng.below(3)) {
                (false, _) => Older::Nothing,
                (true, 0) => Older::JustCopied,
                (true, _) => Older::Durable,
            },
            fsync: fsync(kind),
            backends: [a_backend(rng), a_backend(rng)],
            big_bytes,
            limit,
            kill_before: (rng.below(5) == 0).then_some(1),
            cuts,
        }
    }

    /// A medium that goes away with the page cache above it while the machine runs on; the journals
    /// are on it already.
    pub fn lost_medium(file_system: FileSystem, rng: &mut Rng) -> Case {
        let cut_at = |ms| Plan {
            moment: Moment::WhileItRuns(ms),
            nudge: Nudge::Journals,
            boot: Boot::Same,
            again_ms: None,
        };
        Case {
            file_system,
            options: file_system.options()[0],
            way: *rng.pick(&[Way::Push, Way::Pull]),
            older: Older::Nothing,
            fsync: false,
            backends: [a_backend(rng), a_backend(rng)],
            big_bytes: 24 * MIB,
            limit: Some(16),
            kill_before: None,
            cuts: [700, 1100].map(cut_at).into(),
        }
    }

    /// What distinguishes it from others in the table.
    pub fn sort(&self) -> String {
        let older = match self.older {
            Older::Nothing => "new",
            Older::Durable => "old replaced",
            Older::JustCopied => "copied again",
        };
        let fsync = if self.fsync { ", --fsync" } else { "" };
        format!("{} {:?}, {older}{fsync}", self.file_system.name(), self.way)
    }

    pub fn flags(&self) -> Vec<&str> {
        if self.fsync {
            vec!["--fsync"]
        } else {
            Vec::new()
        }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [daemon, client] = self.backends;
        write!(
            out,
            "{}; {daemon} and {client}, mounted with {}",
            self.sort(),
            self.options
        )?;
        self.limit
            .map_or(Ok(()), |limit| write!(out, ", at {limit} MiB/s"))?;
        out.write_str(if self.kill_before.is_some() {
            ", client killed"
        } else {
            ""
        })
    }
}
