//! Files with holes, and file systems that compress or share blocks: what is no data takes no room,
//! no time on the wire, and does not make a disk too small.

mod common;
#[allow(dead_code, reason = "its power is not cut here")]
#[path = "crash/disk.rs"]
mod disk;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::tree::{Rng, assert_no_leftovers, assert_same, leftovers};
use common::{Output, Running, Side, World, landro};
use disk::{Disk, FileSystem};
use landro_sys::{FileOp, run};
use tempfile::TempDir;

on_both_backends!(
    holes_stay_holes_in_all_directions,
    an_interrupted_copy_goes_on_and_finds_holes_where_they_belong,
    a_file_larger_than_the_disk_fits_if_it_is_mostly_hole,
    what_compresses_is_not_refused_for_its_size,
);

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// A directory on the disk the project is built on, which knows holes.
fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A file of this size with data at some places only.
fn sparse_file(path: &Path, size_bytes: u64, data: &[(u64, u64)], rng: &mut Rng) {
    let file = File::create(path).unwrap();
    file.set_len(size_bytes).unwrap();
    for (at, len) in data {
        file.write_all_at(&rng.bytes(*len as usize), *at).unwrap();
    }
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Files of every shape that holes have.
fn sparse_tree(dir: &Path, rng: &mut Rng) {
    fs::create_dir_all(dir).unwrap();
    let file = |name: &str, size_bytes: u64, data: &[(u64, u64)], rng: &mut Rng| {
        sparse_file(&dir.join(name), size_bytes, data, rng);
    };
    file("mostly", 200 * MIB, &[(150 * MIB, BLOCK)], rng);
    file("all", 9 * MIB + 77, &[], rng);
    file("one chunk", 700_000, &[(300_000, 10)], rng);
    file("one chunk, empty", 700_001, &[], rng);
    file("head", 5 * MIB, &[(0, MIB + 1)], rng);
    file("tail", 5 * MIB + 1, &[(5 * MIB, 1)], rng);
    let teeth: Vec<(u64, u64)> = (0..600).map(|tooth| (tooth * 2 * BLOCK, BLOCK)).collect();
    file("comb", 5 * MIB, &teeth, rng);
    file("dense", 3 * MIB, &[(0, 3 * MIB)], rng);
    file("small", 60_000, &[(8192, 4096)], rng);
    File::open(dir).unwrap().sync_all().unwrap();
}

/// Each file of a copy takes no more room than its source, or than a small one has bytes.
fn assert_no_larger(source: &Path, copy: &Path) {
    for entry in fs::read_dir(source).unwrap() {
        let (source, name) = {
            let entry = entry.unwrap();
            (entry.path(), entry.file_name())
        };
        let (size_bytes, before) = (fs::metadata(&source).unwrap().len(), allocated(&source));
        let after = allocated(&copy.join(&name));
        // File systems count blocks of their own trees, too.
        let most = match size_bytes {
            ..=65_536 => 65_536,
            _ => before + 16 * BLOCK,
        };
        assert!(after <= most, "{name:?}: {before} bytes became {after}");
    }
}

fn cp_here(side: &Side, from: &Path, to: &Path) -> Output {
    landro(
        side,
        [
            "cp".as_ref(),
            "--json".as_ref(),
            from.as_os_str(),
            to.as_os_str(),
        ],
    )
}

fn holes_stay_holes_in_all_directions(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    let source = world.here("t");
    sparse_tree(&source, &mut Rng::new("holes"));
    let data_bytes: u64 = fs::read_dir(&source)
        .unwrap()
        .map(|entry| allocated(&entry.unwrap().path()).max(BLOCK))
        .sum();
    let check = |output: Output, copy: PathBuf, is_sent: bool| {
        let output = output.expect(0);
        assert_same(&source, &copy);
        assert_no_larger(&source, &copy);
        assert_no_leftovers(copy.parent().unwrap());
        let sent_bytes = output.number("sent_bytes");
        assert!(
            !is_sent || sent_bytes <= data_bytes + 60_000,
            "{sent_bytes} of {data_bytes}"
        );
    };
    check(world.push(&source, "pushed"), world.root("pushed"), true);
    check(
        world.pull("pushed", world.here("pulled")),
        world.here("pulled"),
        true,
    );
    check(
        cp_here(&world.client, &source, &world.here("local")),
        world.here("local"),
        false,
    );
    // And over what is there: a file of data becomes one of holes.
    let filled = world.root("pushed").join("mostly");
    fs::write(&filled, vec![7; 3_000_000]).unwrap();
    world.push(source.join("mostly"), "pushed").expect(0);
    assert!(common::tree::same_content(&source.join("mostly"), &filled));
    assert_no_larger(&source, &world.root("pushed"));
}

/// The partial file below `dir`, and its journal.
fn partial(dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let all = leftovers(dir);
    let of = |what: &str| {
        all.iter()
            .find(|path| path.extension().is_some_and(|it| it == what))
    };
    Some((dir.join(of("part")?), dir.join(of("journal")?)))
}

fn an_interrupted_copy_goes_on_and_finds_holes_where_they_belong(backend: &'static str) {
    // The head, which says whose it is, and the header, which says of what.
    const HEADER: usize = 264 + 96;
    const RECORD: usize = 44;
    let mut world = World::within(backend, &[], disk_dir());
    let source = world.here("image");
    // Whole chunks of holes, and some within chunks.
    let data: Vec<(u64, u64)> = (0..40)
        .map(|at| (at * 3 * MIB + 9 * BLOCK, MIB / 2))
        .collect();
    sparse_file(&source, 130 * MIB, &data, &mut Rng::new("resume"));
    let url = world.url("copy");
    let args = ["--bwlimit", "8M"].map(Into::into);
    let mut running: Running =
        world.cp_start(&[&args[..], &[source.clone().into_os_string(), url.into()]].concat());
    // Some data is there, not all.
    let mut tries = 0;
    while partial(&world.root("")).is_none_or(|(_, journal)| {
        fs::metadata(journal).is_ok_and(|it| it.len() < (HEADER + 20 * RECORD) as u64)
    }) {
        assert!(
            tries < 600 && running.is_running(),
            "no journal: {}",
            running.stderr()
        );
        tries += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    running.kill();
    world.restart();
    // The journal forgets all but the first records, and what it does not name is rubbish.
    let (part, journal) = partial(&world.root("")).expect("a partial file is kept");
    let known = fs::read(&journal).unwrap()[..HEADER + 4 * RECORD].to_vec();
    fs::write(&journal, &known).unwrap();
    let chunk_of = |record: &[u8]| u32::from_be_bytes(record[..4].try_into().unwrap());
    let kept: Vec<u32> = known[HEADER..].chunks(RECORD).map(chunk_of).collect();
    let file = File::options().write(true).open(&part).unwrap();
    for chunk in (0..130).filter(|chunk| !kept.contains(chunk)) {
        let rubbish = vec![0xaa; MIB as usize];
        file.write_all_at(&rubbish, u64::from(chunk) * MIB).unwrap();
    }
    let output = world.push(&source, "copy").expect(0);
    assert_eq!(output.number("resumed_bytes"), 4 * MIB);
    assert!(common::tree::same_content(&source, &world.root("copy")));
    let (before, after) = (allocated(&source), allocated(&world.root("copy")));
    assert!(
        after <= before + 16 * BLOCK,
        "{before} bytes became {after}"
    );
    assert_no_leftovers(&world.root(""));
}

/// A small disk of its own. None, said why: it cannot be made here.
fn small_disk(kind: FileSystem, options: &'static str) -> Option<Disk> {
    let disk = Disk::new(kind, options);
    if let Err(error) = &disk {
        common::skipped(&format!("a disk cannot be made here: {error}"));
    }
    disk.ok()
}

fn a_file_larger_than_the_disk_fits_if_it_is_mostly_hole(backend: &'static str) {
    for kind in [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
        let Some(disk) = small_disk(kind, kind.options()[0]) else {
            return;
        };
        let world = World::within(backend, &[], tempfile::tempdir_in(disk.at()).unwrap());
        let source = world.here("image");
        sparse_file(
            &source,
            1 << 30,
            &[(777 * MIB, BLOCK)],
            &mut Rng::new("large"),
        );
        world.push(&source, "pushed").expect(0);
        world.pull("pushed", world.here("pulled")).expect(0);
        cp_here(&world.client, &source, &world.here("local")).expect(0);
        for copy in [
            world.root("pushed"),
            world.here("pulled"),
            world.here("local"),
        ] {
            assert!(common::tree::same_content(&source, &copy), "{kind:?}");
            assert!(
                allocated(&copy) <= 16 * BLOCK,
                "{kind:?}: {}",
                copy.display()
            );
        }
    }
}

fn what_compresses_is_not_refused_for_its_size(backend: &'static str) {
    const LARGE: usize = 700 << 20;
    let Some(disk) = small_disk(FileSystem::Btrfs, "compress=zstd") else {
        return;
    };
    let world = World::within(backend, &[], tempfile::tempdir_in(disk.at()).unwrap());
    let source = world.here("log");
    let line = b"all is well, nothing to report\n";
    fs::write(&source, line.repeat(LARGE / line.len())).unwrap();
    disk.sync();
    world.push(&source, "log").expect(0);
    assert!(common::tree::same_content(&source, &world.root("log")));
    // Within the host its blocks are shared.
    cp_here(&world.client, &source, &world.here("again")).expect(0);
    assert!(common::tree::same_content(&source, &world.here("again")));
}

#[test]
fn blocks_that_are_shared_need_no_room() {
    let Some(disk) = small_disk(FileSystem::Xfs, "nouuid") else {
        return;
    };
    let (dir, side) = (tempfile::tempdir_in(disk.at()).unwrap(), Side::new());
    let at = |name: &str| dir.path().join(name);
    fs::write(at("0"), Rng::new("shared").bytes(250 << 20)).unwrap();
    for copy in 1..4 {
        cp_here(&side, &at("0"), &at(&copy.to_string())).expect(0);
    }
    assert!(common::tree::same_content(&at("0"), &at("3")));
}

/// What surely does not fit is refused before its first byte.
#[test]
fn data_that_does_not_fit_is_refused_at_once() {
    let Some(disk) = small_disk(FileSystem::Ext4, "defaults") else {
        return;
    };
    let world = World::within("auto", &[], tempfile::tempdir_in(disk.at()).unwrap());
    let outside = disk_dir();
    let file = |name: &str, size_bytes: u64| {
        let path = outside.path().join(name);
        let file = File::create(&path).unwrap();
        file.set_len(size_bytes).unwrap();
        // Blocks without data are blocks, too.
        let (file, len) = (Arc::new(OwnedFd::from(file)), 500 << 20);
        run(FileOp::Reserve { file, len }).unwrap();
        path
    };
    let (large, sparse) = (file("large", 500 << 20), file("sparse", 2 << 30));
    for source in [large, sparse] {
        let output = world.push(&source, "").expect(6);
        assert_eq!(output.number("sent_bytes"), 0);
    }
}
