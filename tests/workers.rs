//! Workers that have much to wait for: the disk, a bandwidth limit, a mount that never answers.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::World;
use common::tree::{self, Rng, assert_same};

on_both_backends!(a_bandwidth_limit_over_many_small_files_on_a_disk);

/// More than a session has operations under way at a time (64).
const MANY_FILES: usize = 300;

/// A directory whose files are on a disk: on tmpfs operations are done in place, and nothing waits.
fn on_disk() -> Option<tempfile::TempDir> {
    for place in [env!("CARGO_TARGET_TMPDIR"), "/var/tmp"] {
        let kind = Command::new("stat").args(["-f", "-c", "%T", place]).output().unwrap().stdout;
        let kind = String::from_utf8_lossy(&kind);
        if Path::new(place).is_dir() && !["tmpfs", "ramfs"].contains(&kind.trim()) {
            return Some(tempfile::tempdir_in(place).unwrap());
        }
    }
    println!("skipped: no file system here is on a disk");
    None
}

fn a_bandwidth_limit_over_many_small_files_on_a_disk(backend: &'static str) {
    let Some(dir) = on_disk() else { return };
    let world = World::within(backend, &["--workers", "1"], dir);
    let mut rng = Rng::new("many small files under a limit");
    let source = world.here("many");
    fs::create_dir(&source).unwrap();
    for number in 0..MANY_FILES {
        tree::write_file(&source.join(format!("{number}")), rng.below(6_000), &mut rng);
    }
    world.cp(&["--bwlimit".as_ref(), "20M".as_ref(), source.as_os_str(), world.url("").as_ref()]).expect(0);
    assert_same(&source, &world.root("many"));
    let back = world.here("back");
    world.cp(&["--bwlimit".as_ref(), "20M".as_ref(), world.url("many").as_ref(), back.as_os_str()]).expect(0);
    assert_same(&source, &back);
    assert_eq!(world.daemon.stop().code, Some(0), "it hears SIGTERM");
}
