//! The simulator's disk against the real one: a random sequence of operations has equal answers.
//!
//! Equal as far as a session sees: errno and call, what was read, kinds, modes, times, sizes. Left
//! out is what a kernel decides (inode numbers, sizes and times of directories, the order of names)
//! and what the simulator does not play: paths through symlinks, `keep_dirlinks`, what a special
//! file reads as. What lack of space and rights does to a session is the simulator's `Faults`.

mod executors;
mod script;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::{DirId, Name};
use crate::proto::errno::ESPIPE;
use crate::proto::fs::LIST_MIN;
use crate::proto::sim::Rng;
use crate::proto::sim::tests::for_seeds;
use crate::proto::{DirFound, DiskDone, DiskError, DiskOp, Kind, Lapses, Meta, Mtime};
use executors::{Imagined, Real};
use script::Script;

const SEEDS: u64 = 12;

const STEPS: usize = 250;

/// Names asked for at a time, so that most directories take more than one answer.
const LIST_ENTRIES: usize = 5;

/// What an answer says to a session.
#[derive(Debug, PartialEq, Eq)]
enum DiskAnswer {
    Failed(DiskError),
    Target(Option<Name>),
    Source(Option<Name>, SeenMeta, Option<Bytes>),
    Listed(BTreeMap<Bytes, Result<(SeenMeta, Option<Bytes>), DiskError>>),
    Small(Bytes, SeenMeta),
    Meta(SeenMeta),
    Read(Bytes),
    Existing(Option<(SeenMeta, Option<Bytes>, [bool; 2])>),
    Directory(DirFound),
    Placed(Lapses),
    Taken(Bytes),
    Part {
        journal: Bytes,
        size_bytes: u64,
        resumable: bool,
    },
    Done,
}

/// Metadata, less what the kernel decides.
#[derive(Debug, PartialEq, Eq)]
struct SeenMeta {
    kind: Kind,
    mode: Option<u32>,
    mtime: Option<Mtime>,
    size_bytes: Option<u64>,
}

impl SeenMeta {
    fn of(meta: &Meta) -> SeenMeta {
        let Meta {
            kind,
            mode,
            mtime,
            size_bytes,
            is_sized,
            ..
        } = *meta;
        // A FIFO that was named is a file to the user's own command.
        let kind = match is_sized {
            true => kind,
            false => Kind::Special,
        };
        let is_content = matches!(kind, Kind::File | Kind::Symlink);
        SeenMeta {
            kind,
            mode: (kind != Kind::Special).then_some(mode),
            mtime: is_content.then_some(mtime),
            size_bytes: is_content.then_some(size_bytes),
        }
    }
}

impl DiskAnswer {
    fn of(result: Result<DiskDone, DiskError>) -> DiskAnswer {
        match result {
            Err(error) => DiskAnswer::Failed(error),
            Ok(DiskDone::Target { name }) => DiskAnswer::Target(name),
            Ok(DiskDone::Source {
                name, meta, link, ..
            }) => DiskAnswer::Source(name, SeenMeta::of(&meta), link),
            Ok(DiskDone::Listed { .. }) => unreachable!("listings are asked for as a whole"),
            // A FIFO: a ring reads it, pread(2) does not. To a sender it is no file either way.
            Ok(DiskDone::Small { after, .. }) if after.kind == Kind::Special => {
                DiskAnswer::Failed(DiskError {
                    call: "read",
                    errno: ESPIPE,
                })
            }
            Ok(DiskDone::Small { data, after }) => DiskAnswer::Small(data, SeenMeta::of(&after)),
            Ok(DiskDone::Meta(meta)) => DiskAnswer::Meta(SeenMeta::of(&meta)),
            Ok(DiskDone::Read { data }) => DiskAnswer::Read(data),
            Ok(DiskDone::Existing(there)) => DiskAnswer::Existing(there.map(|there| {
                let is_content = matches!(there.meta.kind, Kind::File | Kind::Symlink);
                let known = [there.in_doubt, there.has_mtime && is_content];
                (SeenMeta::of(&there.meta), there.link, known)
            })),
            Ok(DiskDone::Directory { found }) => DiskAnswer::Directory(found),
            Ok(DiskDone::Placed(lapses)) => DiskAnswer::Placed(lapses),
            Ok(DiskDone::Taken { by }) => DiskAnswer::Taken(by),
            Ok(DiskDone::Part {
                journal,
                size_bytes,
                resumable,
                ..
            }) => DiskAnswer::Part {
                journal,
                size_bytes,
                resumable,
            },
            Ok(
                DiskDone::Above(_)
                | DiskDone::Piped(_)
                | DiskDone::Copied { .. }
                | DiskDone::Input { .. }
                | DiskDone::Unfinished(_),
            ) => {
                unreachable!("nothing was asked that has this answer")
            }
            // Where a hole is a hole is the file system's choice.
            // What is remembered is the simulator's to think up.
            Ok(
                DiskDone::Mapped(_) | DiskDone::Recalled(_) | DiskDone::Yielded | DiskDone::Done,
            ) => DiskAnswer::Done,
        }
    }
}

/// The names of a directory, asked for until there are no more. Temporary files, of which the
/// simulator has none in its directories, are left out.
fn listing(
    dir: DirId,
    mut run: impl FnMut(DiskOp) -> Result<DiskDone, DiskError>,
) -> Result<DiskAnswer, DiskError> {
    let mut names = BTreeMap::new();
    loop {
        let max_entries = LIST_ENTRIES;
        let DiskDone::Listed { entries, end } = run(DiskOp::List { dir, max_entries })? else {
            panic!("List is answered with a list")
        };
        let most = max_entries.max(LIST_MIN);
        assert!(entries.len() <= most, "{} names", entries.len());
        for listed in entries {
            if listed.found == Err(DiskError::UNFINISHED) {
                continue;
            }
            let found = listed.found.map(|(meta, link)| (SeenMeta::of(&meta), link));
            let twice = names.insert(listed.name, found);
            assert!(twice.is_none(), "a name is listed twice: {twice:?}");
        }
        if end {
            return Ok(DiskAnswer::Listed(names));
        }
    }
}

fn compare(seed: u64, mut real: Real) {
    let mut rng = Rng::new(seed);
    let mut imagined = Imagined::new(&mut rng);
    real.fill(&imagined.disk);
    let mut script = Script::new(rng, &imagined.disk);
    for step in 0..STEPS {
        let Some(cmd) = script.next(&mut imagined.disk, real.root()) else {
            continue;
        };
        both(step, &cmd, &mut script, &mut imagined, &mut real);
    }
    for cmd in script.close() {
        both(STEPS, &cmd, &mut script, &mut imagined, &mut real);
    }
    assert_eq!(imagined.handles.open_count(), (0, 0));
    real.check_closed();
    real.compare(&imagined.disk);
}

fn both(step: usize, cmd: &DiskOp, script: &mut Script, imagined: &mut Imagined, real: &mut Real) {
    let of_real = |cmd: DiskOp, real: &mut Real| real.run(cmd);
    let (expected, found) = match cmd {
        DiskOp::List { dir, .. } => (
            listing(*dir, |cmd| imagined.run(cmd)).unwrap_or_else(DiskAnswer::Failed),
            listing(*dir, |cmd| of_real(cmd, real)).unwrap_or_else(DiskAnswer::Failed),
        ),
        cmd => (
            DiskAnswer::of(imagined.run(cmd.clone())),
            DiskAnswer::of(of_real(cmd.clone(), real)),
        ),
    };
    assert_eq!(expected, found, "imagined and found, step {step}: {cmd:?}");
    script.learn(cmd, &found);
}

#[test]
fn disks_agree_in_place() {
    for_seeds("disks_agree_in_place", SEEDS, |seed| {
        compare(seed, Real::in_place());
    });
}

#[test]
fn disks_agree_by_ring() {
    for_seeds("disks_agree_by_ring", SEEDS, |seed| {
        if let Some(real) = Real::by_ring() {
            compare(seed, real);
        }
    });
}

#[test]
fn disks_agree_at_once() {
    for_seeds("disks_agree_at_once", SEEDS, |seed| {
        compare(seed, Real::at_once());
    });
}
