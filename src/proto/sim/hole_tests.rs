//! Files with holes: what is no data is neither sent nor written, and counts as passed.

use std::collections::BTreeMap;

use super::Rng;
use super::disk::{Body, Disk, Node};
use super::scenario::{Scenario, complete, directory};
use super::tests::for_seeds;
use super::tree::TreeShape;
use super::world::{CLIENT, Stop};
use crate::proto::extents::BLOCK_BYTES;
use crate::proto::sim::check::Strictness;
use crate::proto::{Event, Mtime};

const MIB: usize = 1 << 20;

/// A source of one file, with data in these blocks.
fn scenario(seed: u64, size: usize, blocks: &[usize]) -> Scenario {
    let shape = TreeShape {
        max_entries: 1,
        max_large: 0,
    };
    let mut scenario = Scenario::random(seed, shape);
    let mut rng = Rng::new(seed);
    let mut data = vec![0; size];
    for block in blocks {
        let at = block * BLOCK_BYTES as usize;
        let to = size.min(at + BLOCK_BYTES as usize);
        data[at..to].copy_from_slice(&rng.bytes(to - at));
    }
    let mut source = Disk::new();
    let root = source.put(Disk::ROOT, b"pub", directory());
    let mtime = Mtime::default();
    let body = Body::File(data);
    let mode = 0o644;
    source.put(root, b"holes", Node { mode, mtime, body });
    source.node_mut(root).mtime = mtime;
    scenario.source = source;
    scenario
}

fn sent_bytes(seed: u64, size: usize, blocks: &[usize]) -> u64 {
    let mut scenario = scenario(seed, size, blocks);
    let (source, before) = (scenario.source.clone(), scenario.target.clone());
    let mut world = scenario.world(super::start());
    assert_eq!(world.run(usize::MAX), Stop::Finished);
    let totals = complete(&world);
    let seen_bytes = world.tap.data_bytes - world.tap.again_bytes;
    assert_eq!(totals.sent_bytes, seen_bytes);
    assert_eq!(totals.bytes, size as u64);
    let events = world.sides[CLIENT].events.iter();
    let passed = events.map(|event| match event {
        Event::Progress { bytes } => *bytes,
        _ => 0,
    });
    assert_eq!(passed.sum::<u64>(), size as u64, "of a bar");
    scenario.keep(world);
    let none = BTreeMap::new();
    scenario.check(&source, &before, Strictness::Exact, none, Some(&totals));
    totals.sent_bytes
}

#[test]
fn holes_are_not_sent() {
    for_seeds("holes_are_not_sent", 40, |seed| {
        let last = (6 * MIB + 5000) / BLOCK_BYTES as usize;
        assert_eq!(sent_bytes(seed, 6 * MIB + 5000, &[700]), BLOCK_BYTES);
        assert_eq!(
            sent_bytes(seed, 6 * MIB + 5000, &[last]),
            5000 % BLOCK_BYTES
        );
        assert_eq!(sent_bytes(seed, 6 * MIB, &[]), 0);
        assert_eq!(sent_bytes(seed, 700_000, &[1, 3, 4]), 3 * BLOCK_BYTES);
        assert_eq!(sent_bytes(seed, 700_000, &[]), 0);
    });
}

/// A disk that has room for the data alone.
#[test]
fn holes_need_no_room() {
    for_seeds("holes_need_no_room", 20, |seed| {
        let mut scenario = scenario(seed, 5 * MIB, &[3, 1000]);
        let used = scenario.target.used_bytes();
        scenario.target.faults.capacity_bytes = Some(used + 2 * BLOCK_BYTES);
        let mut world = scenario.world(super::start());
        assert_eq!(world.run(usize::MAX), Stop::Finished);
        assert_eq!(complete(&world).errors, 0);
    });
}
