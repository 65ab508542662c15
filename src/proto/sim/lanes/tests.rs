//! Transfers over lanes that are replaced, lost, refused and never heard of again.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::link::Link;
use super::troubles::Troubles;
use super::{CLIENT, NO_REQUEST, Node, SERVER, World};
use crate::proto::clear::ClearOff;
use crate::proto::lanes::DialKind;
use crate::proto::lanes::newcomer::WAIT_AT_MOST;
use crate::proto::session::{BenchWork, Request};
use crate::proto::sim::Rng;
use crate::proto::sim::check::Strictness;
use crate::proto::sim::disk::Disk;
use crate::proto::sim::scenario::{Scenario, Shape, directory};
use crate::proto::sim::tests::for_seeds;
use crate::proto::sim::tree::TreeShape;
use crate::proto::{Event, Outcome, SessionErrorCode, Totals};

const TREE: TreeShape = TreeShape {
    max_entries: 12,
    max_large: 0,
};
const LARGE: TreeShape = TreeShape {
    max_entries: 4,
    max_large: 1,
};

/// A window of goodput in which a few steps happen: data goes back and forth between lanes.
const WINDOW: Duration = Duration::from_millis(1);

/// A tree, and windows in which it does not take for ever.
fn scenario(seed: u64) -> (Scenario, &'static [usize]) {
    match seed % 5 {
        0 => (Scenario::random(seed, LARGE), &[100_000, 1_000_000]),
        _ => (Scenario::random(seed, TREE), &[300, 20_000, 300_000]),
    }
}

fn complete(node: &Node) -> Option<Totals> {
    match node.outcome {
        Some(Outcome::Complete(totals)) => Some(totals),
        _ => None,
    }
}

/// Runs to the end and checks what is on the disks then; the client's totals, if it says complete.
fn run(seed: u64, troubles: Troubles) -> (World, Option<Totals>) {
    let (scenario, windows) = scenario(seed);
    run_of(scenario, windows, troubles)
}

fn run_of(
    mut scenario: Scenario,
    windows: &'static [usize],
    troubles: Troubles,
) -> (World, Option<Totals>) {
    let (source, before) = (scenario.source.clone(), scenario.target.clone());
    let mut world = World::new(scenario.parts(), troubles, windows);
    world.run();
    let stalls = world.troubles.stalls > 0 || world.control_cuts > 0;
    let is_silent = world.cut_any || world.goodbye_lost || stalls;
    for node in world.sessions() {
        let (_, files) = node.handles.open_count();
        assert_eq!(files, 0, "files are left open");
        match &node.outcome {
            Some(Outcome::Complete(_) | Outcome::Lost(_)) => {}
            // A lane that was never heard of again is given up by its session, or by its transport.
            Some(Outcome::Stalled { .. }) if is_silent => {}
            // The other side's word of that, on a lane that lives.
            Some(Outcome::Refused(error))
                if error.code == SessionErrorCode::Stalled && is_silent => {}
            Some(Outcome::Violation(text)) if text == NO_REQUEST && is_silent => {}
            other => panic!("ended with {other:?}"),
        }
    }
    let totals = complete(&world.nodes[CLIENT]);
    scenario.keep_disks(std::mem::take(&mut world.disks));
    let strictness = match totals {
        Some(_) => Strictness::Exact,
        None => Strictness::Partial,
    };
    scenario.check(
        &source,
        &before,
        strictness,
        BTreeMap::new(),
        totals.as_ref(),
    );
    (world, totals)
}

#[test]
fn replaced_lanes_lose_nothing() {
    let (lanes, runs) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    for_seeds("replaced_lanes_lose_nothing", 1000, |seed| {
        let mut rng = Rng::new(seed ^ 0x1a9e);
        let troubles = Troubles {
            wear: rng.pick(&[2, 20, 200]),
            most_lanes: 12,
            dial_fails: rng.pick(&[0, 0, 30]),
            goodbyes_lost: rng.pick(&[0, 0, 30]),
            ..Troubles::default()
        };
        let (world, _) = run(seed, troubles);
        for node in world.sessions() {
            assert!(complete(node).is_some(), "{:?}", node.outcome);
        }
        assert_eq!(world.sessions().count(), 2);
        lanes.set(lanes.get() + world.links.len());
        runs.set(runs.get() + 1);
    });
    assert!(lanes.get() > 3 * runs.get() || runs.get() < 10);
}

/// Added lanes are lost, refused, worn and never heard of again, and nothing is lost with them.
#[test]
fn added_lanes_lose_nothing() {
    let (added, cut, runs) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let several = Cell::new(0);
    for_seeds("added_lanes_lose_nothing", 1500, |seed| {
        let mut rng = Rng::new(seed ^ 0xadd5);
        let troubles = Troubles {
            wear: rng.pick(&[0, 2, 20]),
            most_lanes: 12,
            dial_fails: rng.pick(&[0, 0, 30]),
            goodbyes_lost: rng.pick(&[0, 0, 30]),
            adds_from_bytes: Some(rng.pick(&[0, 0, 2_000, 50_000])),
            adds: rng.below(5),
            added_cuts: rng.pick(&[0, 2, 10, 40]),
            added_strays: rng.pick(&[0, 0, 30]),
            added_refusals: rng.pick(&[0, 0, 3]),
            goodput_window: rng.pick(&[None, Some(WINDOW), Some(WINDOW * 5)]),
            ..Troubles::default()
        };
        // Half of them with a large file.
        let (world, _) = run(seed * [5, 1][seed as usize % 2], troubles);
        for node in world.sessions() {
            assert!(complete(node).is_some(), "{:?}", node.outcome);
        }
        assert_eq!(world.sessions().count(), 2);
        let mut lanes = 0;
        for (link, kind) in world.links.iter().zip(&world.kinds) {
            if *kind == DialKind::Add && link.has_carried_data() {
                lanes += 1;
                cut.set(cut.get() + usize::from(link.cut));
            }
        }
        added.set(added.get() + lanes);
        several.set(several.get() + usize::from(lanes > 1));
        runs.set(runs.get() + 1);
    });
    let few = runs.get() < 100;
    assert!(few || added.get() > runs.get() / 4, "{added:?}");
    assert!(few || cut.get() > runs.get() / 20, "{cut:?}");
    assert!(few || several.get() > runs.get() / 10, "{several:?}");
}

/// Added lanes arrive at several workers and stay there, and mail between these takes as long as it
/// likes: whatever is lost, refused or over meanwhile, nothing is lost with it.
#[test]
fn lanes_on_several_workers_lose_nothing() {
    let (away, cut, runs) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let (several, small) = (Cell::new(0), Cell::new(0));
    for_seeds("lanes_on_several_workers_lose_nothing", 1500, |seed| {
        let mut rng = Rng::new(seed ^ 0x0a4a);
        let troubles = Troubles {
            wear: rng.pick(&[0, 2, 20]),
            most_lanes: 12,
            dial_fails: rng.pick(&[0, 0, 30]),
            goodbyes_lost: rng.pick(&[0, 0, 30]),
            adds_from_bytes: Some(rng.pick(&[0, 0, 2_000])),
            adds: 1 + rng.below(4),
            added_cuts: rng.pick(&[0, 2, 10, 40]),
            added_strays: rng.pick(&[0, 0, 30]),
            added_refusals: rng.pick(&[0, 0, 3]),
            goodput_window: rng.pick(&[None, Some(WINDOW), Some(WINDOW * 5)]),
            away: rng.pick(&[50, 100]),
            ..Troubles::default()
        };
        // Half of them with a large file.
        let (world, _) = run(seed * [5, 1][seed as usize % 2], troubles);
        for node in world.sessions() {
            assert!(complete(node).is_some(), "{:?}", node.outcome);
        }
        assert_eq!(world.sessions().count(), 2);
        let is_away = |link: &usize| {
            let owner = world.owners[*link];
            owner.is_some_and(|node| world.nodes[node].home.is_some())
        };
        let carried = (0..world.links.len())
            .filter(is_away)
            .filter(|link| world.links[*link].has_carried_data());
        let carried: Vec<usize> = carried.collect();
        let owners: BTreeSet<_> = carried.iter().map(|link| world.owners[*link]).collect();
        let cuts = carried.iter().filter(|link| world.links[**link].cut);
        cut.set(cut.get() + cuts.count());
        away.set(away.get() + carried.len());
        several.set(several.get() + usize::from(owners.len() > 1));
        small.set(small.get() + world.nodes.iter().map(|node| node.wholes).sum::<usize>());
        runs.set(runs.get() + 1);
    });
    let few = runs.get() < 100;
    assert!(few || small.get() > runs.get() / 4, "{small:?}");
    assert!(few || away.get() > runs.get() / 4, "{away:?}");
    assert!(few || cut.get() > runs.get() / 50, "{cut:?}");
    assert!(few || several.get() > runs.get() / 40, "{several:?}");
}

/// Values of chunks are remembered wrongly, and lanes are lost that carried such chunks, on several
/// workers: all of it arrives whole.
#[test]
fn what_is_remembered_wrongly_and_lost_comes_whole() {
    let (kept, cut, runs) = (Cell::new(0), Cell::new(0), Cell::new(0));
    for_seeds(
        "what_is_remembered_wrongly_and_lost_comes_whole",
        1000,
        |seed| {
            let mut rng = Rng::new(seed ^ 0x4e3b);
            let troubles = Troubles {
                most_lanes: 12,
                adds_from_bytes: Some(0),
                adds: 1 + rng.below(4),
                added_cuts: rng.pick(&[2, 10, 40]),
                away: rng.pick(&[0, 50, 100]),
                ..Troubles::default()
            };
            let shape = TreeShape {
                max_entries: 6,
                max_large: 3,
            };
            let mut scenario = Scenario::random(seed, shape);
            scenario.push = false;
            scenario.source_limits.keeps_digests = true;
            let (world, totals) = run_of(scenario, &[100_000, 1_000_000], troubles);
            for node in world.sessions() {
                assert!(complete(node).is_some(), "{:?}", node.outcome);
            }
            let totals = totals.map_or(0, |totals| totals.kept_chunks);
            kept.set(kept.get() + totals);
            let cuts = world.links.iter().filter(|link| link.cut).count() as u64;
            cut.set(cut.get() + u64::from(totals > 0) * cuts);
            runs.set(runs.get() + 1);
        },
    );
    let few = runs.get() < 100;
    assert!(few || kept.get() > runs.get() / 4, "{kept:?}");
    assert!(few || cut.get() > runs.get() / 20, "{cut:?}");
}

/// What lanes in the clear carry is changed on the wire, and what is changed comes again elsewhere:
/// nothing is lost, and nothing wrong stays.
#[test]
fn what_is_changed_in_the_clear_comes_again() {
    let (runs, altered, noticed) = (Cell::new(0), Cell::new(0), Cell::new(0));
    for_seeds("what_is_changed_in_the_clear_comes_again", 1500, |seed| {
        let mut rng = Rng::new(seed ^ 0xc1ea);
        let troubles = Troubles {
            wear: rng.pick(&[0, 2, 20]),
            most_lanes: 12,
            dial_fails: rng.pick(&[0, 0, 30]),
            goodbyes_lost: rng.pick(&[0, 0, 30]),
            adds_from_bytes: Some(rng.pick(&[0, 0, 2_000, 50_000])),
            adds: 1 + rng.below(4),
            added_cuts: rng.pick(&[0, 0, 5]),
            added_strays: rng.pick(&[0, 0, 30]),
            goodput_window: rng.pick(&[None, Some(WINDOW), Some(WINDOW * 5)]),
            is_clear: true,
            away: rng.pick(&[0, 50]),
            alters: rng.pick(&[0, 20, 200]),
            forges: rng.pick(&[0, 0, 1, 5]),
            unproven: rng.pick(&[0, 0, 0, 50]),
            ..Troubles::default()
        };
        let (world, totals) = run(seed * [5, 1][seed as usize % 2], troubles);
        for node in world.sessions() {
            assert!(complete(node).is_some(), "{:?}", node.outcome);
        }
        assert_eq!(totals.map(|totals| totals.integrity), Some(false));
        let sees = |node: &Node| hears(node, ClearOff::Altered);
        let both = world.sessions().map(sees).max();
        assert!(both <= Some(1), "said more than once");
        altered.set(altered.get() + usize::from(world.altered > 0));
        noticed.set(noticed.get() + both.unwrap_or(0));
        runs.set(runs.get() + 1);
    });
    let few = runs.get() < 100;
    assert!(few || altered.get() > runs.get() / 10, "{altered:?}");
    assert!(
        few || noticed.get() > altered.get() / 2,
        "{noticed:?} of {altered:?}"
    );
}

fn hears(node: &Node, why: ClearOff) -> usize {
    let is_it = |event: &&Event| matches!(event, Event::ClearOff(off) if *off == why);
    node.events.iter().filter(is_it).count()
}

/// A client whose lane in the clear the server never took, for somebody changed its proof, say,
/// hears it once, and has lanes that nobody can change.
#[test]
fn a_lane_in_the_clear_that_nobody_took_is_not_tried_again() {
    let (runs, noticed) = (Cell::new(0), Cell::new(0));
    for_seeds("a_lane_in_the_clear_that_nobody_took", 500, |seed| {
        let mut rng = Rng::new(seed ^ 0x0bad);
        let troubles = Troubles {
            most_lanes: 12,
            adds_from_bytes: Some(0),
            adds: 1 + rng.below(3),
            is_clear: true,
            unproven: 100,
            ..Troubles::default()
        };
        let (world, totals) = run(seed * [5, 1][seed as usize % 2], troubles);
        assert!(totals.is_some(), "{:?}", world.nodes[CLIENT].outcome);
        let client = &world.nodes[CLIENT];
        let not_had = hears(client, ClearOff::NotHad);
        assert!(not_had <= 1, "said more than once");
        assert_eq!(hears(client, ClearOff::Altered), 0);
        // Beside it others were under way, at most.
        let clear = world.kinds.iter().filter(|it| **it == DialKind::AddClear);
        assert!(clear.count() <= troubles.adds, "{:?}", world.kinds);
        noticed.set(noticed.get() + not_had);
        runs.set(runs.get() + 1);
    });
    assert!(
        runs.get() < 100 || noticed.get() > runs.get() / 4,
        "{noticed:?} of {runs:?}"
    );
}

/// A peer that says so of an encrypted lane is wrong, and its session has nothing to leave.
#[test]
fn an_encrypted_lane_is_not_altered() {
    let (runs, forged) = (Cell::new(0), Cell::new(0));
    for_seeds("an_encrypted_lane_is_not_altered", 300, |seed| {
        let mut rng = Rng::new(seed ^ 0x7a15);
        let troubles = Troubles {
            most_lanes: 12,
            adds_from_bytes: Some(rng.pick(&[0, 2_000])),
            adds: 1 + rng.below(3),
            forges: rng.pick(&[5, 20]),
            away: rng.pick(&[0, 50]),
            ..Troubles::default()
        };
        let (world, totals) = run(seed * [5, 1][seed as usize % 2], troubles);
        assert!(totals.is_some(), "{:?}", world.nodes[CLIENT].outcome);
        for node in world.sessions() {
            assert_eq!(hears(node, ClearOff::Altered), 0);
        }
        forged.set(forged.get() + usize::from(world.altered > 0));
        runs.set(runs.get() + 1);
    });
    assert!(
        runs.get() < 100 || forged.get() > runs.get() / 4,
        "{forged:?} of {runs:?}"
    );
}

/// The lane that carries control is cut without a word, again and again, beside several that are
/// added and lost, too: another takes over, and nothing is lost.
#[test]
fn a_silent_lane_is_taken_over_from() {
    let (cuts, runs, whole) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let several = Cell::new(0);
    for_seeds("a_silent_lane_is_taken_over_from", 1500, |seed| {
        let mut rng = Rng::new(seed ^ 0x51e7);
        let adds = 1 + rng.below(4);
        let troubles = Troubles {
            most_lanes: 12 * adds,
            control_cuts: rng.pick(&[1, 3, 10]),
            control_resets: rng.pick(&[0, 50, 100]),
            stalls: rng.pick(&[0, 3, 10]),
            dial_fails: 0,
            goodbyes_lost: rng.pick(&[0, 0, 30]),
            adds_from_bytes: Some(rng.pick(&[0, 2_000, 50_000])),
            adds,
            added_cuts: rng.pick(&[0, 0, 5]),
            added_strays: rng.pick(&[0, 0, 30]),
            added_refusals: rng.pick(&[0, 0, 3]),
            goodput_window: rng.pick(&[None, Some(WINDOW)]),
            away: rng.pick(&[0, 50]),
            ..Troubles::default()
        };
        let tree = seed * [5, 1][seed as usize % 2];
        let (world, totals) = run(tree, troubles);
        // What was read of a pipe cannot be read again.
        let has_pipes = !scenario(tree).0.source.unsized_files.is_empty();
        let outcome = &world.nodes[CLIENT].outcome;
        // The request was lost, and one lane after the other is silent: the server waits 10 s.
        let is_late = |node: &Node| matches!(&node.outcome, Some(Outcome::Violation(_)));
        let is_late = world.sessions().any(is_late);
        assert!(totals.is_some() || has_pipes || is_late, "{outcome:?}");
        whole.set(whole.get() + usize::from(totals.is_some()));
        cuts.set(cuts.get() + world.control_cuts);
        let lanes = world.links.iter().zip(&world.kinds);
        let lanes = lanes.filter(|(link, kind)| **kind == DialKind::Add && link.has_carried_data());
        let has_several = lanes.count() > 1 && world.control_cuts > 0;
        several.set(several.get() + usize::from(has_several));
        runs.set(runs.get() + 1);
    });
    assert!(
        runs.get() < 100 || several.get() > runs.get() / 10,
        "{several:?}"
    );
    assert!(runs.get() < 100 || cuts.get() > runs.get() / 2, "{cuts:?}");
    assert!(
        runs.get() < 100 || whole.get() > runs.get() * 3 / 4,
        "{whole:?}"
    );
}

/// A worker with many sessions keeps less of each. Nobody is told that he breaks the protocol,
/// which the world looks at.
#[test]
fn what_is_not_kept_any_more_is_nobodys_fault() {
    let (runs, lost) = (Cell::new(0), Cell::new(0));
    for_seeds("what_is_not_kept_any_more", 300, |seed| {
        let troubles = Troubles {
            most_lanes: 12,
            control_cuts: 10,
            control_resets: 50,
            adds_from_bytes: Some(2_000),
            forgets: true,
            ..Troubles::default()
        };
        let (_, totals) = run(seed, troubles);
        runs.set(runs.get() + 1);
        lost.set(lost.get() + usize::from(totals.is_none()));
    });
    assert!(runs.get() < 100 || lost.get() > 0, "{runs:?}");
}

#[test]
fn lost_lanes_end_in_a_word_or_in_all() {
    let (whole, lost) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    for_seeds("lost_lanes_end_in_a_word_or_in_all", 1500, |seed| {
        let mut rng = Rng::new(seed ^ 0x105e);
        let troubles = Troubles {
            wear: rng.pick(&[0, 5, 50]),
            most_lanes: 10,
            cuts: rng.pick(&[1, 1, 5]),
            control_cuts: 0,
            control_resets: 0,
            stalls: 0,
            dial_fails: rng.pick(&[0, 30]),
            spares_newest: rng.chance(40),
            goodbyes_lost: rng.pick(&[0, 30]),
            strays: rng.pick(&[0, 0, 30]),
            adds_from_bytes: rng.pick(&[None, Some(0), Some(5_000)]),
            adds: rng.below(5),
            added_cuts: rng.pick(&[0, 5]),
            added_strays: rng.pick(&[0, 30]),
            added_refusals: rng.pick(&[0, 3]),
            away: rng.pick(&[0, 50]),
            forgets: false,
            is_clear: false,
            alters: 0,
            forges: 0,
            unproven: 0,
            goodput_window: rng.pick(&[None, Some(WINDOW * 5)]),
        };
        let (world, totals) = run(seed, troubles);
        let served = world.nodes.iter().find(|node| node.side == SERVER);
        match (totals, served.and_then(complete)) {
            (Some(_), None) => {
                let receives = served.is_some();
                assert!(receives, "complete without a server");
                whole.set(whole.get() + 1);
            }
            (Some(_), Some(_)) => whole.set(whole.get() + 1),
            (None, _) => lost.set(lost.get() + 1),
        }
    });
    if whole.get() + lost.get() > 100 {
        assert!(whole.get() > 100 && lost.get() > 100, "{whole:?} {lost:?}");
    }
}

/// A replaced lane is lost while the others live on: what was under way on it is missed, though
/// both sides had said everything there.
#[test]
fn what_was_under_way_on_a_replaced_lane_is_missed() {
    let cut = std::cell::Cell::new(0);
    for_seeds(
        "what_was_under_way_on_a_replaced_lane_is_missed",
        400,
        |seed| {
            let mut scenario = Scenario::random(seed, LARGE);
            let troubles = Troubles {
                wear: 50,
                most_lanes: 12,
                ..Troubles::default()
            };
            let mut world = World::new(scenario.parts(), troubles, &[100_000, 1_000_000]);
            while world.step() {
                let ripe = world.links.iter().position(Link::has_data_under_way);
                if let (Some(link), false) = (ripe, world.cut_any) {
                    world.cut(link);
                    cut.set(cut.get() + 1);
                }
            }
        },
    );
    assert!(cut.get() > 20 || std::env::var("LANDRO_SIM_SEED").is_ok());
}

/// A client is killed in the middle, without a word to the server, and runs again: whatever its
/// older session still has in files goes over.
#[test]
fn a_rerun_takes_over_from_a_session_whose_client_died() {
    let resumed = std::cell::Cell::new(0);
    for_seeds(
        "a_rerun_takes_over_from_a_session_whose_client_died",
        150,
        |seed| {
            let mut rng = Rng::new(seed ^ 0xdead);
            let mut scenario = Scenario::random(seed, LARGE);
            scenario.push = true;
            if scenario.shape == Shape::Renamed {
                scenario.shape = Shape::IntoNew;
            }
            let (source, before) = (scenario.source.clone(), scenario.target.clone());
            let parts = scenario.parts();
            let (request, limits) = (parts.request.clone(), parts.limits[CLIENT].clone());
            let troubles = Troubles {
                wear: rng.pick(&[0, 20]),
                most_lanes: 6,
                ..Troubles::default()
            };
            let mut world = World::new(parts, troubles, &[100_000, 1_000_000]);
            for _ in 0..rng.below(1500) {
                if world.nodes[CLIENT].over || !world.step() {
                    break;
                }
            }
            world.kill_client();
            let rerun = world.begin_client(request, limits);
            let begun = world.now;
            world.run();
            let totals = complete(&world.nodes[rerun]).expect("nothing is in its way");
            resumed.set(resumed.get() + totals.resumed_bytes);
            let finished = world.nodes[rerun].finished_at.expect("it has an outcome");
            assert!(
                finished < begun + WAIT_AT_MOST + Duration::from_secs(5),
                "it waits for an idle timeout"
            );
            scenario.keep_disks(std::mem::take(&mut world.disks));
            let strictness = Strictness::Exact;
            scenario.check(&source, &before, strictness, BTreeMap::new(), None);
            assert!(scenario.target.parts.is_empty(), "partial files are left");
        },
    );
    assert!(resumed.get() > 0 || std::env::var("LANDRO_SIM_SEED").is_ok());
}

/// Two clients of one identity at the same time: neither takes the other for dead.
#[test]
fn a_second_session_waits_for_a_sign_of_life_and_no_longer() {
    for_seeds(
        "a_second_session_waits_for_a_sign_of_life_and_no_longer",
        150,
        |seed| {
            let mut rng = Rng::new(seed ^ 0x2222);
            let mut scenario = Scenario::random(seed, LARGE);
            (scenario.push, scenario.shape) = (true, Shape::IntoExisting);
            let other = directory();
            scenario.target.put(Disk::ROOT, b"other", other);
            let parts = scenario.parts();
            let (mut request, limits) = (parts.request.clone(), parts.limits[CLIENT].clone());
            if let Request::Transfer(transfer) = &mut request {
                transfer.target = Bytes::from_static(b"other");
            }
            let mut world = World::new(parts, Troubles::default(), &[100_000]);
            for _ in 0..rng.below(400) {
                world.step();
            }
            let second = world.begin_client(request, limits);
            world.run();
            for node in [CLIENT, second] {
                assert!(complete(&world.nodes[node]).is_some(), "{}", world.state());
            }
        },
    );
}

/// What moves no files is replaced, too: nobody has data there, or a server that has it.
#[test]
fn measurements_and_listings_go_on_over_replaced_lanes() {
    for_seeds(
        "measurements_and_listings_go_on_over_replaced_lanes",
        300,
        |seed| {
            let mut rng = Rng::new(seed ^ 0xbe7c);
            let (mut scenario, windows) = (Scenario::random(seed, TREE), &[20_000, 300_000]);
            let mut parts = scenario.parts();
            let duration = Duration::from_millis(rng.pick(&[1, 20, 100]));
            let work = rng.pick(&[
                BenchWork::Send,
                BenchWork::Receive,
                BenchWork::Echo { size_bytes: 100 },
                BenchWork::Echo { size_bytes: 60_000 },
            ]);
            parts.request = match rng.chance(30) {
                true => {
                    let path: &[u8] = if scenario.push { b"in" } else { b"pub" };
                    let path = Bytes::from_static(path);
                    Request::List {
                        path,
                        partial: false,
                    }
                }
                false => Request::Bench { work, duration },
            };
            let troubles = Troubles {
                wear: rng.pick(&[20, 200]),
                most_lanes: 12,
                ..Troubles::default()
            };
            let mut world = World::new(parts, troubles, windows);
            world.run();
            for node in &world.nodes {
                assert!(complete(node).is_some(), "{:?}", node.outcome);
            }
        },
    );
}
