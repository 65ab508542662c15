//! Destinations that refuse attributes, keep times coarsely, or take two names for one: data
//! arrives, and a second run changes nothing.

use std::collections::BTreeSet;

use super::disk::{Body, Disk, Ino, Node};
use super::scenario::{Scenario, Shape, complete};
use super::start;
use super::tests::for_seeds;
use super::tree::TreeShape;
use super::world::{CLIENT, Stop};
use crate::proto::{Event, Mtime, Totals};

const TREE: TreeShape = TreeShape {
    max_entries: 40,
    max_large: 1,
};

/// A transfer that comes to the same place when it is run again.
fn twice(seed: u64) -> Scenario {
    let scenario = Scenario::random(seed, TREE);
    let shape = match scenario.shape {
        Shape::Renamed => Shape::IntoNew,
        other => other,
    };
    Scenario { shape, ..scenario }
}

/// Runs a transfer to its end; what it came to, and what was warned of at the client.
fn run(scenario: &mut Scenario) -> (Totals, Vec<String>) {
    let mut world = scenario.world(start());
    assert_eq!(world.run(usize::MAX), Stop::Finished);
    let totals = complete(&world);
    let events = world.sides[CLIENT].events.iter();
    let warnings = events.filter_map(|event| match event {
        Event::Warning { text, .. } => Some(text.clone()),
        _ => None,
    });
    let warnings = warnings.collect();
    scenario.keep(world);
    (totals, warnings)
}

#[test]
fn metadata_that_is_refused_is_not_data() {
    for_seeds("metadata_that_is_refused_is_not_data", 200, |seed| {
        let mut scenario = twice(seed);
        scenario.force = false;
        let faults = &mut scenario.target.faults;
        faults.no_modes = scenario.rng.chance(50);
        faults.no_times = scenario.rng.chance(30);
        faults.coarse_times = scenario.rng.chance(50);
        let (no_modes, no_times) = (faults.no_modes, faults.no_times);
        let (first, warnings) = run(&mut scenario);
        let told = |what: &str| warnings.iter().filter(|text| text.contains(what)).count();
        let placed = first.files > 0;
        assert_eq!(told("mode not set"), usize::from(no_modes && placed));
        let times = usize::from(no_times && (placed || first.symlinks > 0));
        assert!((times..=1).contains(&told("modification not set")));
        let (second, _) = run(&mut scenario);
        let again = (second.files, second.symlinks, second.errors > 0);
        assert_eq!(again, (0, 0, first.errors > 0), "{first:?}");
    });
}

#[test]
fn of_two_spellings_the_first_stays() {
    for_seeds("of_two_spellings_the_first_stays", 200, |seed| {
        let mut scenario = twice(seed);
        scenario.force = scenario.rng.chance(30);
        scenario.target.faults.folds_case = true;
        for dir in directories(&scenario.source, scenario.root()) {
            respell(&mut scenario, dir);
        }
        let (first, _) = run(&mut scenario);
        check_spellings(&scenario.target);
        let (second, _) = run(&mut scenario);
        check_spellings(&scenario.target);
        if !scenario.force {
            // What lies in a directory that fails may be announced by then, or not any more.
            let again = (second.files, second.errors > 0);
            assert_eq!(again, (0, first.errors > 0));
        }
    });
}

fn directories(disk: &Disk, from: Ino) -> Vec<Ino> {
    let mut found = vec![from];
    disk.visit(from, &mut |_, ino| {
        if disk.children(ino).is_some() {
            found.push(ino);
        }
    });
    found
}

/// Puts files beside some entries of a directory whose names differ in case alone.
fn respell(scenario: &mut Scenario, dir: Ino) {
    let names = scenario.source.children(dir).into_iter().flatten();
    let names: Vec<Vec<u8>> = names.map(|(name, _)| name.clone()).collect();
    for name in names {
        let other = match scenario.rng.chance(50) {
            true => name.to_ascii_uppercase(),
            false => name.to_ascii_lowercase(),
        };
        if other == name || scenario.source.child(dir, &other).is_some() {
            continue;
        }
        let node = Node {
            mode: 0o644,
            mtime: Mtime::default(),
            body: Body::File(b"another".to_vec()),
        };
        scenario.source.put(dir, &other, node);
    }
}

fn check_spellings(disk: &Disk) {
    for dir in directories(disk, Disk::ROOT) {
        let mut seen = BTreeSet::new();
        for name in disk
            .children(dir)
            .into_iter()
            .flat_map(|names| names.keys())
        {
            let text = name.escape_ascii();
            assert!(
                seen.insert(name.to_ascii_lowercase()),
                "{text} is there twice"
            );
        }
    }
}
