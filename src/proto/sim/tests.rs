//! Thousands of seeded transfers: whole ones, crashed and resumed ones, with full disks and
//! changing sources.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Rng;
use super::check::Strictness;
use super::disk::{Body, Disk, Ino};
use super::scenario::{Scenario, Shape, complete};
pub use super::start;
use super::tree::TreeShape;
use super::world::{CLIENT, SERVER, Stop, World};
use crate::ids::EntryId;
use crate::proto::errno::ENOSPC;
use crate::proto::session::PATIENCE;
use crate::proto::{
    CancelReason, EntryErrorCode, EntryResult, Event, Input, Outcome, SessionError,
    SessionErrorCode, Totals,
};

const SMALL_TREE: TreeShape = TreeShape {
    max_entries: 60,
    max_large: 0,
};
const LARGE_TREE: TreeShape = TreeShape {
    max_entries: 12,
    max_large: 3,
};
const WIDE_TREE: TreeShape = TreeShape {
    max_entries: 3000,
    max_large: 1,
};

const MANY_SMALL: TreeShape = TreeShape {
    max_entries: 800,
    max_large: 0,
};

/// Runs `test` for the seed of `LANDRO_SIM_SEED`, or for `count` seeds (times `LANDRO_SIM_FACTOR`).
pub fn for_seeds(name: &str, count: u64, test: impl Fn(u64)) {
    if let Some(seed) = std::env::var("LANDRO_SIM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        return test(seed);
    }
    let factor: u64 = std::env::var("LANDRO_SIM_FACTOR")
        .ok()
        .and_then(|factor| factor.parse().ok())
        .unwrap_or(1);
    for seed in 0..count * factor {
        let guard = Blame { name, seed };
        test(seed);
        std::mem::forget(guard);
    }
}

/// Says which seed it was when a test panics.
struct Blame<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        eprintln!(
            "replay with: LANDRO_SIM_SEED={} cargo test {}",
            self.seed, self.name
        );
    }
}

/// Each entry's final result is told once at the client, and the sums agree with what was told.
fn check_events(world: &World, totals: &Totals) {
    let mut results = 0;
    for event in &world.sides[CLIENT].events {
        results += u64::from(matches!(event, Event::Entry { .. }));
    }
    let counted =
        totals.files + totals.directories + totals.symlinks + totals.skipped + totals.errors;
    assert_eq!(results, counted, "results told, {totals:?}");
    let paths = world.sides[CLIENT]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Entry { path, .. } => Some(path.clone()),
            _ => None,
        });
    let mut paths: Vec<_> = paths.collect();
    let all = paths.len();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), all, "a path was told twice");
    let started = world.sides[CLIENT]
        .events
        .iter()
        .filter(|event| matches!(event, Event::Started))
        .count();
    assert_eq!(started, 1, "Started is told once");
}

fn run_whole(scenario: Scenario) -> Totals {
    run_and_tap(scenario).0
}

/// With how many chunks the receiver asked for again.
pub(super) fn run_and_tap(mut scenario: Scenario) -> (Totals, usize) {
    let (source, before) = (scenario.source.clone(), scenario.target.clone());
    let mut world = scenario.world(start());
    assert_eq!(world.run(usize::MAX), Stop::Finished);
    let totals = complete(&world);
    check_events(&world, &totals);
    let (useful, all) = (world.tap.valid_bytes, world.tap.data_bytes);
    let asked_again = world.tap.asked_again;
    assert!(
        (useful..=all).contains(&totals.sent_bytes),
        "{} sent, {useful} to {all} seen",
        totals.sent_bytes
    );
    scenario.keep(world);
    scenario.check(
        &source,
        &before,
        Strictness::Exact,
        BTreeMap::new(),
        Some(&totals),
    );
    scenario.check_leftovers(&totals);
    (totals, asked_again)
}

#[test]
fn small_trees_arrive_whole() {
    for_seeds("small_trees_arrive_whole", 600, |seed| {
        run_whole(Scenario::random(seed, SMALL_TREE));
    });
}

#[test]
fn large_files_arrive_whole() {
    for_seeds("large_files_arrive_whole", 200, |seed| {
        run_whole(Scenario::random(seed, LARGE_TREE));
    });
}

#[test]
fn wide_trees_arrive_whole() {
    for_seeds("wide_trees_arrive_whole", 15, |seed| {
        run_whole(Scenario::random(seed, WIDE_TREE));
    });
}

/// More small files than are read at a time, on a disk that takes its time, under a limit that lets
/// all of them through: what they wait for is the disk, and no deadline may say otherwise.
#[test]
fn a_bandwidth_limit_on_a_slow_disk_is_no_deadline_in_the_past() {
    for_seeds(
        "a_bandwidth_limit_on_a_slow_disk_is_no_deadline_in_the_past",
        60,
        |seed| {
            let mut scenario = Scenario::random(seed, MANY_SMALL);
            scenario.bwlimit_bps = Some(scenario.rng.pick(&[4_000_000, 80_000_000, 8_000_000_000]));
            let latency = Duration::from_micros(scenario.rng.pick(&[50, 2_000, 30_000]));
            let mut world = scenario.world(start());
            world.slow_disks(latency);
            assert_eq!(world.run(usize::MAX), Stop::Finished);
            complete(&world);
        },
    );
}

#[test]
fn disks_that_never_answer_end_both_sides() {
    let name = "disks_that_never_answer_end_both_sides";
    let stalled = std::cell::Cell::new(0);
    for_seeds(name, 300, |seed| {
        let mut rng = Rng::new(seed ^ 0x5741);
        let mut scenario = Scenario::random(seed, SMALL_TREE);
        let mut world = scenario.world(start());
        world.run(rng.below(200));
        world.hang_disks(rng.pick(&[1, 10, 100]));
        let before = world.now();
        assert_eq!(world.run(usize::MAX), Stop::Finished);
        let took = world.now() - before;
        assert!(took < 4 * PATIENCE, "it took {took:?}");
        for side in &world.sides {
            match &side.outcome {
                Some(Outcome::Complete(_) | Outcome::Lost(_)) => {}
                Some(Outcome::Stalled { .. }) => stalled.set(stalled.get() + 1),
                Some(Outcome::Refused(error)) if error.code == SessionErrorCode::Stalled => {}
                other => panic!("ended with {other:?}"),
            }
        }
    });
    assert!(stalled.get() > 100, "{} stalled", stalled.get());
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut scenario = Scenario::random(seed, LARGE_TREE);
        let mut world = scenario.world(start());
        world.run(usize::MAX);
        (world.steps, complete(&world))
    };
    for seed in 0..5 {
        assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn a_rerun_sends_nothing() {
    for_seeds("a_rerun_sends_nothing", 100, |seed| {
        let mut scenario = Scenario::random(seed, SMALL_TREE);
        // Of these nothing says that they are there.
        scenario.source.unsized_files.clear();
        // Renamed, a rerun goes inside the directory the first run made.
        scenario.force = false;
        if scenario.shape == Shape::Renamed {
            scenario.shape = Shape::IntoNew;
        }
        let mut world = scenario.world(start());
        world.run(usize::MAX);
        let first = complete(&world);
        scenario.keep(world);
        let mut world = scenario.world(start());
        world.run(usize::MAX);
        let second = complete(&world);
        assert_eq!(
            (second.files, second.sent_bytes),
            (0, 0),
            "first {first:?}, second {second:?}"
        );
        assert_eq!(second.skipped, first.skipped + first.files + first.symlinks);
    });
}

/// Ends a run early, somehow. Gives what must be in journals afterwards, if there is no verdict
/// after all.
fn end_early(world: &mut World, rng: &mut Rng) -> BTreeMap<EntryId, u64> {
    let arrived = world.tap.unfinished();
    match rng.below(4) {
        0 | 1 => {
            let side = rng.pick(&[CLIENT, SERVER]);
            world.kill(side);
            // What a killed receiver had not written down is lost.
            if side != world.sender {
                BTreeMap::new()
            } else {
                arrived
            }
        }
        2 => {
            world.cut();
            arrived
        }
        _ => {
            let side = rng.pick(&[CLIENT, SERVER]);
            let input = match side == SERVER && rng.chance(50) {
                true => Input::Refuse(no_longer_allowed()),
                false => Input::Cancel(rng.pick(&[
                    CancelReason::User,
                    CancelReason::Ending,
                    CancelReason::Stalled,
                ])),
            };
            world.input(side, input);
            arrived
        }
    }
}

fn no_longer_allowed() -> SessionError {
    SessionError::told(SessionErrorCode::Permission, "no longer allowed")
}

/// Runs for a while, and ends early, somehow.
fn run_partly(scenario: &mut Scenario, rng: &mut Rng) {
    let limit = rng.pick(&[20, 200, 2000]);
    let steps = rng.below(limit);
    run_steps(scenario, steps, &mut |world| end_early(world, rng));
}

/// Runs for so many steps, is ended, checks that nothing is half-done under a final name and that
/// nothing whole is forgotten. False: there were not so many.
fn run_steps(
    scenario: &mut Scenario,
    steps: usize,
    end: &mut dyn FnMut(&mut World) -> BTreeMap<EntryId, u64>,
) -> bool {
    let (source, before) = (scenario.source.clone(), scenario.target.clone());
    let mut world = scenario.world(start());
    let early = world.run(steps) == Stop::Reached;
    let receiver = 1 - world.sender;
    let committed_before = world.sides[receiver].handles.committed_bytes;
    let arrived = if early {
        end(&mut world)
    } else {
        BTreeMap::new()
    };
    assert_eq!(world.run(usize::MAX), Stop::Finished);
    for side in [CLIENT, SERVER] {
        match &world.sides[side].outcome {
            None | Some(Outcome::Complete(_) | Outcome::Cancelled { .. } | Outcome::Lost(_)) => {}
            // What the other side said, and why it did.
            Some(Outcome::Stopped { reason: said, .. }) => match &world.sides[1 - side].outcome {
                Some(Outcome::Cancelled { reason, .. }) => assert_eq!(said, reason),
                other => panic!("stopped by one that ended with {other:?}"),
            },
            Some(Outcome::Refused(error)) if *error == no_longer_allowed() => {}
            Some(other) => panic!("ended early with {other:?}"),
        }
        let (dirs, files) = world.sides[side].handles.open_count();
        assert_eq!(files, 0, "files are left open, {dirs} directories");
    }
    let unfinished = world.tap.unfinished();
    let kept: u64 = arrived
        .iter()
        .filter(|(id, _)| unfinished.contains_key(id))
        .map(|(_, bytes)| bytes)
        .sum();
    // What was being put in place when it ended may have got there without a verdict.
    let committed = world.sides[receiver]
        .handles
        .committed_bytes
        .saturating_sub(committed_before);
    scenario.keep(world);
    let journaled = committed + scenario.journaled_bytes();
    assert!(
        journaled >= kept,
        "{kept} bytes of whole chunks had arrived, {journaled} are in journals"
    );
    scenario.check(&source, &before, Strictness::Partial, BTreeMap::new(), None);
    early
}

/// The next transfer goes on with all that is in journals, and everything is there.
fn go_on(scenario: &mut Scenario) -> Totals {
    let expected = scenario.journaled_bytes();
    let (source, before) = (scenario.source.clone(), scenario.target.clone());
    let mut world = scenario.world(start());
    world.run(usize::MAX);
    let totals = complete(&world);
    check_events(&world, &totals);
    assert_eq!(
        world.tap.have_bytes, expected,
        "chunks the receiver said it had, and journaled ones"
    );
    assert_eq!(totals.resumed_bytes, expected, "resumed bytes as told");
    scenario.keep(world);
    scenario.check(
        &source,
        &before,
        Strictness::Exact,
        BTreeMap::new(),
        Some(&totals),
    );
    assert!(scenario.target.parts.is_empty(), "partial files are left");
    totals
}

fn tree_of(seed: u64, small_every: u64) -> Scenario {
    let tree = match seed.is_multiple_of(small_every) {
        true => SMALL_TREE,
        false => LARGE_TREE,
    };
    let mut scenario = Scenario::random(seed, tree);
    if scenario.shape == Shape::Renamed {
        scenario.shape = Shape::IntoNew;
    }
    scenario
}

fn one_seed_alone() -> bool {
    std::env::var("LANDRO_SIM_SEED").is_ok()
}

/// What becomes of a handle that is dropped, or told to cancel, before whichever step of its
/// transfer: nothing is half there, and the next one goes on where it was.
#[test]
fn a_transfer_that_is_dropped_at_each_step_is_gone_on_with() {
    let name = "a_transfer_that_is_dropped_at_each_step_is_gone_on_with";
    let dropped = std::cell::Cell::new(0);
    for_seeds(name, 6, |seed| {
        for step in 0.. {
            let mut scenario = tree_of(seed, 2);
            let was_early = run_steps(&mut scenario, step, &mut |world| {
                let arrived = world.tap.unfinished();
                world.input(CLIENT, Input::Cancel(CancelReason::User));
                arrived
            });
            if !was_early {
                break;
            }
            dropped.set(dropped.get() + 1);
            go_on(&mut scenario);
        }
    });
    let dropped = dropped.get();
    assert!(dropped > 1000 || one_seed_alone(), "{dropped} steps in all");
}

#[test]
fn crashed_transfers_resume() {
    let resumed = std::cell::Cell::new(0);
    for_seeds("crashed_transfers_resume", 500, |seed| {
        let mut rng = Rng::new(seed ^ 0xdead);
        let mut scenario = tree_of(seed, 4);
        for _ in 0..=rng.below(3) {
            run_partly(&mut scenario, &mut rng);
        }
        let totals = go_on(&mut scenario);
        resumed.set(resumed.get() + totals.resumed_bytes);
    });
    assert!(
        resumed.get() > 0 || one_seed_alone(),
        "no seed resumed anything"
    );
}

#[test]
fn a_reboot_is_survived() {
    for_seeds("a_reboot_is_survived", 200, |seed| {
        let mut rng = Rng::new(seed ^ 0xb007);
        let mut scenario = Scenario::random(seed, LARGE_TREE);
        if scenario.shape == Shape::Renamed {
            scenario.shape = Shape::IntoNew;
        }
        run_partly(&mut scenario, &mut rng);
        let journaled = scenario.journaled_bytes();
        scenario.target.power_cut(&mut rng);
        let (source, before) = (scenario.source.clone(), scenario.target.clone());
        let mut world = scenario.world(start());
        world.run(usize::MAX);
        let totals = complete(&world);
        assert!(
            totals.resumed_bytes <= journaled,
            "{} resumed of {journaled}",
            totals.resumed_bytes
        );
        scenario.keep(world);
        scenario.check(
            &source,
            &before,
            Strictness::Exact,
            BTreeMap::new(),
            Some(&totals),
        );
        assert!(scenario.target.parts.is_empty(), "partial files are left");
    });
}

fn full_events(events: &[Event]) -> usize {
    let is_full = |event: &&Event| match event {
        Event::Entry {
            result: EntryResult::Failed(error),
            ..
        } => error.code == EntryErrorCode::Full && error.errno == ENOSPC,
        _ => false,
    };
    events.iter().filter(is_full).count()
}

#[test]
fn a_full_disk_fails_files_and_nothing_else() {
    for_seeds("a_full_disk_fails_files_and_nothing_else", 300, |seed| {
        let mut rng = Rng::new(seed ^ 0xf011);
        let mut scenario = Scenario::random(
            seed,
            if seed % 2 == 0 {
                SMALL_TREE
            } else {
                LARGE_TREE
            },
        );
        let need = scenario.source.used_bytes();
        scenario.target.faults.capacity_bytes =
            Some(scenario.target.used_bytes() + rng.next() % (need + 1));
        scenario.target.faults.no_forecast = rng.chance(50);
        let (source, before) = (scenario.source.clone(), scenario.target.clone());
        let mut world = scenario.world(start());
        world.run(usize::MAX);
        let totals = complete(&world);
        check_events(&world, &totals);
        let world_events = std::mem::take(&mut world.sides[CLIENT].events);
        scenario.keep(world);
        scenario.check_leftovers(&totals);
        let found = scenario.check(
            &source,
            &before,
            Strictness::Full,
            BTreeMap::new(),
            Some(&totals),
        );
        assert!(
            !totals.full || found.failed > 0,
            "told of a full disk, and nothing is missing"
        );
        assert_eq!(totals.full, full_events(&world_events) > 0);
        // With room again, a rerun completes it.
        scenario.target.faults.capacity_bytes = None;
        if scenario.shape == Shape::Renamed {
            return;
        }
        let before = scenario.target.clone();
        let mut world = scenario.world(start());
        world.run(usize::MAX);
        let totals = complete(&world);
        scenario.keep(world);
        scenario.check(
            &source,
            &before,
            Strictness::Exact,
            BTreeMap::new(),
            Some(&totals),
        );
        assert!(scenario.target.parts.is_empty(), "partial files are left");
    });
}

#[test]
fn faulty_entries_fail_alone() {
    for_seeds("faulty_entries_fail_alone", 300, |seed| {
        let mut rng = Rng::new(seed ^ 0xfa17);
        let mut scenario = Scenario::random(
            seed,
            if seed % 3 == 0 {
                LARGE_TREE
            } else {
                SMALL_TREE
            },
        );
        let mut names = Vec::new();
        scenario.source.visit(scenario.root(), &mut |path, _| {
            names.push(path.rsplit(|&b| b == b'/').next().unwrap_or(path).to_vec());
        });
        for name in names {
            match rng.below(12) {
                0 => drop(scenario.source.faults.unreadable.insert(name)),
                1 => drop(scenario.source.faults.broken.insert(name)),
                2 => drop(scenario.target.faults.unwritable.insert(name)),
                _ => {}
            }
        }
        run_whole(scenario);
    });
}

/// Files below `root` that a test may change: (directory, name).
pub fn files_of(disk: &Disk, root: Ino) -> Vec<(Ino, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![root];
    disk.visit(root, &mut |_, ino| {
        dirs.extend(disk.children(ino).map(|_| ino))
    });
    for dir in dirs {
        for (name, ino) in disk.children(dir).into_iter().flatten() {
            let is_sized = !disk.unsized_files.contains(ino);
            if is_sized && matches!(disk.node(*ino).body, Body::File(_)) {
                files.push((dir, name.clone()));
            }
        }
    }
    files
}

#[test]
fn a_changing_source_never_arrives_mixed() {
    for_seeds("a_changing_source_never_arrives_mixed", 400, |seed| {
        let mut rng = Rng::new(seed ^ 0xc4a6);
        let mut scenario = Scenario::random(
            seed,
            if seed % 3 == 0 {
                SMALL_TREE
            } else {
                LARGE_TREE
            },
        );
        let (source, before, root) = (
            scenario.source.clone(),
            scenario.target.clone(),
            scenario.root(),
        );
        let mut files = files_of(&source, root);
        rng.shuffle(&mut files);
        files.truncate(1 + rng.below(3));
        let mut changed = BTreeMap::new();
        let mut world = scenario.world(start());
        for (dir, name) in files {
            world.run(rng.below(400));
            let sender = world.sender;
            let disk = &mut world.sides[sender].disk;
            disk.mutate(dir, &name, &mut rng);
            let now = disk
                .child(dir, &name)
                .map(|ino| disk.node(ino).body.clone());
            let now = match now {
                Some(Body::File(data)) => Some(data),
                _ => None,
            };
            changed.insert((dir, name), now);
        }
        world.run(usize::MAX);
        // A source named in the request may be gone before it is looked at; the rest is still sent.
        let totals = complete(&world);
        check_events(&world, &totals);
        scenario.keep(world);
        let dir_of_root = source.find(b"pub").expect("built with it");
        assert_eq!(dir_of_root, root);
        scenario.check(&source, &before, Strictness::Exact, changed, Some(&totals));
        scenario.check_leftovers(&totals);
    });
}

#[test]
fn a_growing_source_arrives_as_it_was() {
    for_seeds("a_growing_source_arrives_as_it_was", 300, |seed| {
        let mut rng = Rng::new(seed ^ 0x6706);
        let tree = rng.pick(&[SMALL_TREE, LARGE_TREE]);
        let mut scenario = Scenario::random(seed, tree);
        let (source, before) = (scenario.source.clone(), scenario.target.clone());
        let mut files = files_of(&source, scenario.root());
        rng.shuffle(&mut files);
        files.truncate(1 + rng.below(5));
        let mut changed = BTreeMap::new();
        let mut world = scenario.world(start());
        for (dir, name) in files {
            world.run(rng.below(300));
            let sender = world.sender;
            let now = world.sides[sender].disk.grow(dir, &name, &mut rng);
            changed.insert((dir, name), Some(now));
        }
        world.run(usize::MAX);
        let totals = complete(&world);
        check_events(&world, &totals);
        // Nothing but what is refused anyway, such as special files that were named.
        let is_changed = |event: &&Event| match event {
            Event::Entry {
                result: EntryResult::Failed(error),
                ..
            } => error.text.contains("changed"),
            _ => false,
        };
        let client = &world.sides[CLIENT];
        assert_eq!(client.events.iter().filter(is_changed).count(), 0);
        let warned = |event: &&Event| match event {
            Event::Warning { text, .. } => text.contains("grew"),
            _ => false,
        };
        assert!(client.events.iter().filter(warned).count() <= 1);
        scenario.keep(world);
        scenario.check(&source, &before, Strictness::Exact, changed, Some(&totals));
    });
}
