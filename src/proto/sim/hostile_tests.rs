//! Liars of every role, thousands of seeds each.

use super::Rng;
use super::disk::{Body, Disk, Node};
use super::hostile::{Hostile, Role};
use super::scenario::limits;
use super::tests::{for_seeds, start};
use super::tree::{TreeShape, random_tree};
use crate::proto::session::{Direction, Grant, Request, Session, Transfer, TransferOptions};
use crate::proto::{Mtime, Outcome};
use bytes::Bytes;

const TREE: TreeShape = TreeShape {
    max_entries: 40,
    max_large: 1,
};

fn disk(rng: &mut Rng) -> Disk {
    let mut disk = Disk::new();
    let directory = || Node {
        mode: 0o755,
        mtime: Mtime::default(),
        body: Body::Directory(Default::default()),
    };
    let root = disk.put(Disk::ROOT, b"pub", directory());
    random_tree(&mut disk, root, TREE, rng);
    disk.put(Disk::ROOT, b"in", directory());
    disk
}

fn lie(role: Role, seed: u64) -> Outcome {
    let mut rng = Rng::new(seed ^ 0x11a5);
    let mut limits = limits(&mut rng);
    limits.adds_lanes = rng.chance(50);
    let now = start();
    let (force, must_be_dir) = (rng.chance(50), rng.chance(50));
    let asked = |direction| {
        let request = Request::Transfer(Transfer {
            direction,
            sources: vec![Bytes::from_static(b"pub")],
            target: Bytes::from_static(b"in"),
            options: TransferOptions {
                must_be_dir,
                force,
                ..TransferOptions::default()
            },
        });
        Session::client(now, request, limits.clone())
    };
    let session = match role {
        Role::PushingClient | Role::PullingClient => Session::server(
            now,
            Grant {
                read: true,
                write: true,
            },
            limits.clone(),
        ),
        Role::SendingServer => asked(Direction::Pull),
        Role::ReceivingServer => asked(Direction::Push),
    };
    let disk = disk(&mut rng);
    let steps = rng.pick(&[10, 100, 600]);
    Hostile::new(role, (session, limits), disk, now, rng).run(steps)
}

fn all_seeds(name: &str, role: Role) {
    let ends = std::cell::RefCell::new(std::collections::BTreeMap::new());
    for_seeds(name, 1000, |seed| {
        let end = match lie(role, seed) {
            Outcome::Complete(_) => "complete",
            Outcome::Cancelled { .. } => "cancelled",
            Outcome::Stopped { .. } => "stopped",
            Outcome::Refused(_) => "refused",
            Outcome::CalledOff(_) => "called off",
            Outcome::Violation(_) => "violation",
            Outcome::Lost(_) => "lost",
            Outcome::Stalled { .. } => "stalled",
        };
        *ends.borrow_mut().entry(end).or_insert(0) += 1;
    });
    eprintln!("{name}: {:?}", ends.borrow());
}

#[test]
fn a_lying_pusher_harms_nobody() {
    all_seeds("a_lying_pusher_harms_nobody", Role::PushingClient);
}

#[test]
fn a_lying_source_harms_nobody() {
    all_seeds("a_lying_source_harms_nobody", Role::SendingServer);
}

#[test]
fn a_lying_puller_harms_nobody() {
    all_seeds("a_lying_puller_harms_nobody", Role::PullingClient);
}

#[test]
fn a_lying_target_harms_nobody() {
    all_seeds("a_lying_target_harms_nobody", Role::ReceivingServer);
}

fn only(grant: Grant, role: Role) -> Outcome {
    let mut rng = Rng::new(1);
    let (limits, now, disk) = (limits(&mut rng), start(), disk(&mut rng));
    Hostile::new(
        role,
        (Session::server(now, grant, limits.clone()), limits),
        disk,
        now,
        Rng::new(2),
    )
    .run(0)
}

#[test]
fn rights_are_kept() {
    let read_only = only(
        Grant {
            read: true,
            write: false,
        },
        Role::PushingClient,
    );
    assert!(matches!(read_only, Outcome::Refused(_)), "{read_only:?}");
    let write_only = only(
        Grant {
            read: false,
            write: true,
        },
        Role::PullingClient,
    );
    assert!(matches!(write_only, Outcome::Refused(_)), "{write_only:?}");
}
