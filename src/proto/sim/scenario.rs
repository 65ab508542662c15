//! Builds transfers out of seeds: trees, what stands at the destination already, request, limits;
//! and judges them.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use super::Rng;
use super::check::{Check, Found, Strictness};
use super::disk::{Body, Disk, Ino, Node};
use super::tree::{TreeShape, random_tree};
use super::world::{CLIENT, SERVER, World};
use crate::ids::CopyId;
use crate::proto::Carriage;
use crate::proto::chunk::chunk_len_bytes;
use crate::proto::clear::ClearLanes;
use crate::proto::integrity::Tree;
use crate::proto::journal::Journal;
use crate::proto::parallel::ParallelTransferConfig;
use crate::proto::place::HostKey;
use crate::proto::session::{
    Direction, Grant, Limits, PATIENCE, Request, Transfer, TransferOptions,
};
use crate::proto::{Outcome, Totals};

/// Where the sources land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All children of `pub` into the existing directory `in`.
    IntoExisting,
    /// All children of `pub` into `in/new`, which is made.
    IntoNew,
    /// `pub` itself as `in/new`.
    Renamed,
}

/// A transfer to run, perhaps several times in a row on the same disks.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub push: bool,
    pub force: bool,
    pub shape: Shape,
    pub source: Disk,
    pub target: Disk,
    pub source_limits: Limits,
    pub target_limits: Limits,
    pub bwlimit_bps: Option<u64>,
    /// A command that says whose copy it makes.
    pub copy: Option<CopyId>,
    pub rng: Rng,
}

/// One run of a scenario; client first.
pub struct Parts {
    pub rng: Rng,
    pub request: Request,
    pub limits: [Limits; 2],
    pub disks: [Disk; 2],
}

impl Scenario {
    pub fn random(seed: u64, tree: TreeShape) -> Scenario {
        let mut rng = Rng::new(seed);
        let mut source = Disk::new();
        let root = source.put(Disk::ROOT, b"pub", directory());
        random_tree(&mut source, root, tree, &mut rng);
        let shape = rng.pick(&[
            Shape::IntoExisting,
            Shape::IntoExisting,
            Shape::IntoNew,
            Shape::Renamed,
        ]);
        let mut target = Disk::new();
        // Both may be on one host.
        target.device = 1;
        let into = target.put(Disk::ROOT, b"in", directory());
        target.put(
            into,
            b"unrelated \xff",
            Node {
                body: Body::File(b"stays".to_vec()),
                ..directory()
            },
        );
        if shape == Shape::IntoExisting && rng.chance(60) {
            stand_in_the_way(&source, root, &mut target, into, &mut rng);
        }
        let (mut source_limits, mut target_limits) = (limits(&mut rng), limits(&mut rng));
        if rng.chance(50) {
            source_limits.host_key = HostKey::of_boot([9; 16]);
            target_limits.host_key = HostKey::of_boot([9; 16]);
        }
        let bwlimit_bps = rng.chance(10).then(|| 1_000_000 + rng.next() % 100_000_000);
        let (push, force) = (rng.chance(50), rng.chance(20));
        let copy = rng.chance(50).then_some(CopyId([7; 16]));
        Scenario {
            push,
            force,
            shape,
            source,
            target,
            source_limits,
            target_limits,
            bwlimit_bps,
            copy,
            rng,
        }
    }

    /// The directory whose children are sent, and the node that is sent under another name if one
    /// is.
    pub fn root(&self) -> Ino {
        self.source.find(b"pub").expect("built with it")
    }

    pub fn request(&self) -> Request {
        let sources: Vec<Bytes> = match self.shape {
            Shape::Renamed => vec![Bytes::from_static(b"pub")],
            Shape::IntoExisting | Shape::IntoNew => {
                let children = self
                    .source
                    .children(self.root())
                    .into_iter()
                    .flat_map(|children| children.keys());
                children
                    .map(|name| [b"pub/", &name[..]].concat().into())
                    .collect()
            }
        };
        let (target, must_be_dir) = match self.shape {
            // `in` exists: that alone puts a single source inside it.
            Shape::IntoExisting => (&b"in"[..], sources.len() != 1),
            Shape::IntoNew => (&b"in/new"[..], true),
            Shape::Renamed => (&b"in/new"[..], false),
        };
        let direction = if self.push {
            Direction::Push
        } else {
            Direction::Pull
        };
        let (force, bwlimit_bps) = (self.force, self.bwlimit_bps);
        let options = TransferOptions {
            copy: self.copy,
            must_be_dir,
            force,
            bwlimit_bps,
            counts: !self.push,
            ..TransferOptions::default()
        };
        let target = Bytes::from_static(target);
        Request::Transfer(Transfer {
            direction,
            sources,
            target,
            options,
        })
    }

    pub fn world(&mut self, start: Instant) -> World {
        let parts = self.parts();
        let grant = Grant {
            read: true,
            write: true,
        };
        World::new(
            parts.rng,
            start,
            (parts.request, grant),
            parts.limits,
            parts.disks,
        )
    }

    /// What a world is made of; the disks come back with [`Scenario::keep_disks`].
    pub fn parts(&mut self) -> Parts {
        let (rng, request) = (Rng::new(self.rng.next()), self.request());
        let source = (self.source_limits.clone(), std::mem::take(&mut self.source));
        let target = (self.target_limits.clone(), std::mem::take(&mut self.target));
        let (client, server) = if self.push {
            (source, target)
        } else {
            (target, source)
        };
        Parts {
            rng,
            request,
            limits: [client.0, server.0],
            disks: [client.1, server.1],
        }
    }

    /// Takes the disks back after a run.
    pub fn keep(&mut self, world: World) {
        self.keep_disks(world.into_disks());
    }

    pub fn keep_disks(&mut self, [client, server]: [Disk; 2]) {
        (self.source, self.target) = if self.push {
            (client, server)
        } else {
            (server, client)
        };
    }

    /// Compares the destination with what it was before; `changed` as in [`Check`].
    pub fn check(
        &self,
        source: &Disk,
        before: &Disk,
        strictness: Strictness,
        changed: BTreeMap<(Ino, Vec<u8>), Option<Vec<u8>>>,
        totals: Option<&Totals>,
    ) -> Found {
        let after = &self.target;
        let found = Found::default();
        let mut check = Check {
            source,
            before,
            after,
            force: self.force,
            strictness,
            changed,
            named_in: (self.shape != Shape::Renamed).then(|| self.root()),
            found,
        };
        let root = self.root();
        let (was_in, is_in) = (
            before.find(b"in").expect("built with it"),
            after.find(b"in").expect("built with it"),
        );
        let (was, is) = (before.child(was_in, b"new"), after.child(is_in, b"new"));
        match self.shape {
            Shape::IntoExisting => check.children(root, Some(was_in), is_in, b"in"),
            // On a rerun `in/new` is an existing directory, so `pub` goes inside it under its own
            // name, unless the same copy made it and was not finished.
            Shape::Renamed
                if was.is_some() && !was.is_some_and(|was| self.goes_on(before, was)) =>
            {
                let below =
                    |disk: &Disk, ino: Option<Ino>| ino.and_then(|ino| disk.child(ino, b"pub"));
                check.entry(
                    (Disk::ROOT, b"pub"),
                    root,
                    below(before, was),
                    below(after, is),
                    b"in/new/pub",
                );
            }
            Shape::Renamed => check.entry((Disk::ROOT, b"pub"), root, was, is, b"in/new"),
            Shape::IntoNew => match is {
                Some(is) => check.children(root, was, is, b"in/new"),
                None => assert_eq!(strictness, Strictness::Partial, "in/new is not there"),
            },
        }
        if let Some(totals) = totals {
            check.compare(totals);
        }
        check.found
    }

    fn goes_on(&self, before: &Disk, new: Ino) -> bool {
        self.copy.is_some() && before.copies.get(&new) == self.copy.as_ref()
    }

    /// Nothing temporary is left, but what a failed file can be resumed from.
    pub fn check_leftovers(&self, totals: &Totals) {
        let parts = &self.target.parts;
        assert!(
            parts.len() as u64 <= totals.errors,
            "{} partial files are left, {totals:?}",
            parts.len()
        );
        for ((_, name), part) in parts {
            let resumable =
                Journal::decode(&part.journal).is_some_and(|journal| !journal.records.is_empty());
            assert!(
                resumable,
                "{} is left and cannot be resumed",
                name.escape_ascii()
            );
        }
    }

    /// Bytes of finished chunks that journals on the target disk speak of.
    pub fn journaled_bytes(&self) -> u64 {
        let journals = self
            .target
            .parts
            .values()
            .filter_map(|part| Journal::decode(&part.journal));
        journals
            .map(|journal| {
                let size = journal.header.size_bytes;
                assert_eq!(journal.header.storage, self.target.storage);
                assert!(journal.records.len() <= Tree::new(size).chunks() as usize);
                journal
                    .records
                    .iter()
                    .map(|(chunk, _)| chunk_len_bytes(size, *chunk))
                    .sum::<u64>()
            })
            .sum()
    }
}

/// The totals of a client that ran to the end.
///
/// # Panics
/// When either side ended otherwise.
pub fn complete(world: &World) -> Totals {
    assert!(
        matches!(world.sides[SERVER].outcome, Some(Outcome::Complete(_))),
        "{}",
        world.state()
    );
    match world.sides[CLIENT].outcome {
        Some(Outcome::Complete(totals)) => totals,
        _ => panic!("{}", world.state()),
    }
}

pub fn directory() -> Node {
    let mtime = crate::proto::Mtime {
        seconds: 1_600_000_000,
        nanoseconds: 5,
    };
    Node {
        mode: 0o755,
        mtime,
        body: Body::Directory(BTreeMap::new()),
    }
}

pub fn limits(rng: &mut Rng) -> Limits {
    let parallel = ParallelTransferConfig {
        max_concurrent_streams: rng.pick(&[1, 2, 16]),
        chunks_per_stream: rng.pick(&[1, 8]),
        adaptive_parallelism: rng.chance(50),
        ..ParallelTransferConfig::default()
    };
    // Of a generator of its own, so that seeds are what they were.
    let keeps_digests = rng.clone().chance(40);
    Limits {
        host_key: None,
        entry_window: rng.pick(&[1, 4, 64, 1024]),
        write_behind_bytes: rng.pick(&[1, 300_000, 8 << 20]),
        read_ahead_bytes: rng.pick(&[1, 300_000, 8 << 20]),
        read_ahead_in_place_bytes: 100_000,
        read_ahead_all_bytes: 9 << 20,
        carriage: Carriage::Bytes,
        parallel,
        lookups: {
            // Nothing depends on this draw any more, but which trees the seeds are of.
            rng.chance(30);
            rng.pick(&[1, 8, 64])
        },
        patience: Some(PATIENCE),
        adds_lanes: false,
        keeps_digests,
        asks_addresses: false,
        addresses: std::sync::Arc::default(),
        clear: ClearLanes::Off,
    }
}

/// Puts things at the destination where sources will land: equal, older, of another kind.
fn stand_in_the_way(source: &Disk, from: Ino, target: &mut Disk, into: Ino, rng: &mut Rng) {
    for (name, ino) in source.children(from).into_iter().flatten() {
        if !rng.chance(35) {
            continue;
        }
        let node = source.node(*ino).clone();
        let other = Node {
            body: Body::File(rng.bytes(50)),
            ..directory()
        };
        let placed = match (&node.body, rng.below(6)) {
            (Body::File(_), 0..3) => node,
            (Body::File(_), 3) => other,
            (Body::File(_), 4) => Node {
                body: Body::Symlink(b"elsewhere".to_vec()),
                ..directory()
            },
            (Body::Symlink(_), 0..2) => other,
            // Another link of the same length and time.
            (Body::Symlink(target), 2) => Node {
                body: Body::Symlink(target.iter().map(|byte| byte ^ 1).collect()),
                ..node
            },
            (Body::Symlink(_), 3) => node,
            (Body::Directory(_), 0) => other,
            (Body::Directory(_), _) => {
                let made = target.put(into, name, directory());
                stand_in_the_way(source, *ino, target, made, rng);
                continue;
            }
            (Body::File(_) | Body::Symlink(_) | Body::Special, _) => directory(),
        };
        target.put(into, name, placed);
    }
}
