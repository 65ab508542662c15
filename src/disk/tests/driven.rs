//! The disk layer with a driver: which calls it asks for.

use std::fs;
use std::path::Path;

use super::super::*;
use super::{Bench, FILE, TARGET, attributes, name, resolve};
use crate::proto::Mtime;

const MIB: u64 = 1 << 20;

impl Bench {
    /// One whose calls are made by whoever is asked for the next operation.
    pub(super) fn with_driver(target: &Path) -> Bench {
        let bench = Bench::new(target, 16);
        let space = Rc::new(Space::new(Base::Local));
        let mut bench = Bench { space, ..bench };
        bench.drive(resolve(target));
        bench
    }

    /// Runs an operation to its end; gives the steps in which the disk was waited for.
    fn drive(&mut self, cmd: DiskOp) -> Vec<u64> {
        let mut waits = Vec::new();
        let mut done = self.start(cmd);
        while done.is_none() {
            let (token, op) = self.disk.next_operation().expect("it waits for the driver");
            if let FileOp::SyncRange {
                range, wait: true, ..
            } = op
            {
                waits.push(range.0);
            }
            self.disk.complete(token, landro_sys::run(op));
            done = self.finished();
        }
        done.unwrap().unwrap();
        waits
    }

    /// Receives a file with data at these places; gives the steps in which the disk was waited for.
    fn wait_for(
        &mut self,
        size_bytes: u64,
        sparse: Option<u64>,
        data: &[(u64, usize)],
    ) -> Vec<u64> {
        self.drive(DiskOp::OpenPart {
            dir: TARGET,
            name: name(),
            file: FILE,
            resumable: false,
            is_plain: false,
        });
        self.drive(DiskOp::StartPart {
            file: FILE,
            size_bytes,
            sparse,
            journal: Bytes::new(),
        });
        for &(offset, len) in data {
            self.drive(DiskOp::Write {
                file: FILE,
                offset,
                data: vec![7; len].into(),
            });
        }
        self.drive(DiskOp::CommitPart {
            file: FILE,
            attributes: attributes(0o600, Mtime::default()),
            replaces: false,
        })
    }
}

/// In memory nothing is waited for.
fn on_disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

#[test]
fn holes_are_not_waited_for() {
    let root = on_disk();
    let mut bench = Bench::with_driver(root.path());
    let data = [(0, 1), (3 * MIB, 9 * MIB as usize), (1 << 40, 4096)];
    let waits = bench.wait_for((1 << 40) + MIB, Some(10 * MIB), &data);
    // And once for all of it, before it is named.
    assert_eq!(waits, [0, 8 * MIB, 1 << 40, 0]);
}

#[test]
fn a_disk_that_is_waited_for_is_waited_for_in_steps() {
    let root = on_disk();
    let mut bench = Bench::with_driver(root.path());
    let data = [(0, 20 * MIB as usize)];
    assert!(bench.wait_for(20 * MIB, None, &data).is_empty());
    fs::remove_file(root.path().join("big")).unwrap();
    let footing = bench.space.footing(TARGET).unwrap();
    bench.space.set_footing(TARGET, footing.on_unknown());
    assert_eq!(
        bench.wait_for(20 * MIB, None, &data),
        [0, 8 * MIB, 16 * MIB]
    );
}

/// What is opened for a session that is over may be on a server that does not answer a close(2).
#[test]
fn what_is_opened_for_nobody_is_closed_by_the_driver() {
    let root = on_disk();
    fs::write(root.path().join("big"), "data").unwrap();
    let mut bench = Bench::with_driver(root.path());
    let open = DiskOp::OpenRead {
        dir: TARGET,
        name: name(),
        file: FILE,
    };
    assert!(bench.start(open).is_none());
    let (token, op) = bench.disk.next_operation().unwrap();
    bench.disk.abandon(0, 0);
    bench.disk.complete(token, landro_sys::run(op));
    assert_eq!(bench.disk.hung(), 0);
    let left = bench.disk.next_operation();
    assert!(
        matches!(left, Some((NOBODY, FileOp::Close { .. }))),
        "{left:?}"
    );
}
