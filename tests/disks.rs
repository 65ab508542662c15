//! What only a real disk shows: data that may not be down yet, files believed or doubted,
//! descriptors that run out.

mod common;

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::tree::{self, Rng, assert_no_leftovers, assert_same};
use common::{Daemon, Running, Side, World, command, is_root};
use landro_sys::{FileDone, FileOp, run};
use tempfile::TempDir;

on_both_backends!(
    a_mark_says_that_data_is_not_down_and_goes_when_it_is,
    what_another_kernel_left_is_believed_only_if_it_was_written,
    a_mark_above_the_target_and_one_below_are_seen,
    a_pull_doubts_as_a_push_does,
    a_mark_above_where_a_kept_link_leads_is_seen,
    a_link_that_changed_only_its_target_is_replaced,
    an_overlay_is_marked_and_doubted_as_its_upper_layer,
    sessions_wait_for_descriptors,
);

const MARK: &CStr = c"user.landro.unsynced";

/// A directory on the disk the project is built on: tmpfs loses everything, so nothing there is
/// marked or doubted.
fn disk_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn mark_of(dir: &Path) -> Option<Vec<u8>> {
    let file = Arc::new(OwnedFd::from(File::open(dir).unwrap()));
    match run(FileOp::GetXattr { file, name: MARK }).unwrap() {
        FileDone::Xattr(value) => value,
        other => panic!("{other:?}"),
    }
}

/// A mark as another kernel would have left it.
fn mark_of_another_boot(dir: &Path) {
    let file = Arc::new(OwnedFd::from(File::open(dir).unwrap()));
    let value = [
        &[0x5a; 16][..],
        &1u64.to_be_bytes(),
        &2u64.to_be_bytes(),
        &[0],
    ]
    .concat();
    run(FileOp::SetXattr {
        file,
        name: MARK,
        value,
    })
    .unwrap();
}

/// Whether a mark says that one was there before it.
fn is_of_an_earlier_one_too(mark: &[u8]) -> bool {
    mark[32] == 1
}

/// A file as a power cut leaves one: size and time are there, the data is not.
fn emptied(path: &Path, like: &Path) {
    let meta = fs::metadata(like).unwrap();
    let file = File::create(path).unwrap();
    file.set_len(meta.len()).unwrap();
    file.set_permissions(meta.permissions()).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    file.sync_all().unwrap();
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not within a minute: {what}");
}

fn files(dir: &Path, rng: &mut Rng) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    for (number, size_bytes) in [1, 4096, 70_000, 1 << 20, 5 << 20].into_iter().enumerate() {
        tree::write_file(&dir.join(format!("{number}")), size_bytes, rng);
        tree::write_file(
            &dir.join("sub").join(format!("{number}")),
            size_bytes + 1,
            rng,
        );
    }
}

fn a_mark_says_that_data_is_not_down_and_goes_when_it_is(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    let mut rng = Rng::new("marks");
    files(&world.here("t"), &mut rng);
    world.push(world.here("t"), "").expect(0);
    // Taken away by the daemon once everything is on disk.
    until("the mark is taken away", || {
        mark_of(&world.root("")).is_none()
    });
    assert_eq!(
        world.push(world.here("t"), "").expect(0).number("skipped"),
        10
    );
    assert_eq!(
        mark_of(&world.root("")),
        None,
        "nothing was written, and it was marked"
    );
    // A command is gone before its data is down: its mark stays, and is not doubted by the same
    // kernel.
    world.pull("t", world.here("back")).expect(0);
    assert!(mark_of(&world.here("")).is_some_and(|mark| !is_of_an_earlier_one_too(&mark)));
    assert_eq!(
        world
            .pull("t", world.here("back"))
            .expect(0)
            .number("skipped"),
        0,
        "t went into back"
    );
    assert_eq!(
        world
            .pull("t", world.here("back"))
            .expect(0)
            .number("skipped"),
        10
    );
    // What waits for the disk needs no mark.
    tree::write_file(&world.here("one"), 70_000, &mut rng);
    let fsync = [
        "--fsync".into(),
        world.here("one").into_os_string(),
        world.url("").into(),
    ];
    world.cp(&fsync).expect(0);
    assert_eq!(mark_of(&world.root("")), None);
}

fn what_another_kernel_left_is_believed_only_if_it_was_written(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    let mut rng = Rng::new("doubts");
    files(&world.here("t"), &mut rng);
    world.push(world.here("t"), "").expect(0);
    until("the mark is taken away", || {
        mark_of(&world.root("")).is_none()
    });
    for name in ["2", "4", "sub/0"] {
        emptied(&world.root("t").join(name), &world.here("t").join(name));
    }
    assert_eq!(
        world.push(world.here("t"), "").expect(0).number("skipped"),
        10,
        "without a mark size and time count"
    );
    mark_of_another_boot(&world.root(""));
    let output = world.push(world.here("t"), "").expect(0);
    assert_eq!((output.number("files"), output.number("skipped")), (3, 7));
    assert_same(&world.here("t"), &world.root("t"));
    // What came just now under a new name is not down, and not lost.
    fs::remove_file(world.root("t/3")).unwrap();
    world.push(world.here("t"), "").expect(0);
    assert_eq!(
        world.push(world.here("t"), "").expect(0).number("skipped"),
        10
    );
    // Others below that directory may be in doubt still.
    until("the mark of this kernel is taken away", || {
        mark_of(&world.root(""))
            .is_some_and(|mark| mark[..16] == [0; 16] && is_of_an_earlier_one_too(&mark))
    });
    assert_eq!(
        world.push(world.here("t"), "").expect(0).number("skipped"),
        10
    );
}

fn a_mark_above_the_target_and_one_below_are_seen(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    let mut rng = Rng::new("above and below");
    files(&world.here("t"), &mut rng);
    fs::create_dir_all(world.root("a/b")).unwrap();
    world.push(world.here("t"), "a/b/").expect(0);
    let lost = |name: &str| emptied(&world.root("a/b/t").join(name), &world.here("t").join(name));
    for marked in ["a", "", "a/b/t/sub"] {
        until("no mark", || {
            mark_of(&world.root("a/b")).is_none_or(|mark| mark[..16] == [0; 16])
        });
        lost("sub/3");
        mark_of_another_boot(&world.root(marked));
        assert_eq!(
            world
                .push(world.here("t"), "a/b/")
                .expect(0)
                .number("files"),
            1,
            "marked: {marked}"
        );
        assert_same(&world.here("t"), &world.root("a/b/t"));
    }
}

fn a_pull_doubts_as_a_push_does(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    files(&world.root("t"), &mut Rng::new("pulled"));
    world.pull("t", world.here("")).expect(0);
    File::open(world.here("t/sub/3"))
        .unwrap()
        .sync_all()
        .unwrap();
    emptied(&world.here("t/3"), &world.root("t/3"));
    mark_of_another_boot(&world.here(""));
    world.pull("t", world.here("")).expect(0);
    assert_same(&world.root("t"), &world.here("t"));
}

/// What containers have as their root.
fn an_overlay_is_marked_and_doubted_as_its_upper_layer(backend: &'static str) {
    if !is_root() {
        common::skipped("only root may mount an overlay");
        return;
    }
    let layers = disk_dir();
    let place = layers.path().to_str().unwrap().to_owned();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(layers.path().join(name)).unwrap();
    }
    let options = format!("lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work");
    let merged = layers.path().join("merged");
    let mount = |args: &[&str]| {
        Command::new("mount")
            .args(args)
            .arg(&merged)
            .status()
            .unwrap()
            .success()
    };
    assert!(mount(&["-t", "overlay", "none", "-o", &options]));
    let unmount = Unmount(&merged);
    {
        let world = World::within(backend, &[], tempfile::tempdir_in(&merged).unwrap());
        files(&world.here("t"), &mut Rng::new("overlay"));
        world.push(world.here("t"), "").expect(0);
        assert!(
            mark_of(&world.root("")).is_some(),
            "an overlay takes no mark"
        );
        until("the mark is taken away", || {
            mark_of(&world.root("")).is_none()
        });
        emptied(&world.root("t/3"), &world.here("t/3"));
        mark_of_another_boot(&world.root(""));
        let output = world.push(world.here("t"), "").expect(0);
        assert_eq!((output.number("files"), output.number("skipped")), (1, 9));
        assert_same(&world.here("t"), &world.root("t"));
    }
    drop(unmount);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// What lies behind a link of the user's own may be in doubt by marks that are not above that link.
fn a_mark_above_where_a_kept_link_leads_is_seen(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    files(&world.root("t"), &mut Rng::new("behind a link"));
    let pull = || {
        let options = ["--keep-dirlinks".into()];
        let paths = [world.url("t").into(), world.here("dst").into_os_string()];
        world.cp(&[&options[..], &paths].concat()).expect(0)
    };
    for marked in ["real", "real/deep", "dst"] {
        fs::create_dir_all(world.here("real/deep/sub")).unwrap();
        fs::create_dir_all(world.here("dst/t")).unwrap();
        symlink("../../real/deep/sub", world.here("dst/t/sub")).unwrap();
        pull();
        File::open(world.here("real/deep/sub/4"))
            .unwrap()
            .sync_all()
            .unwrap();
        emptied(&world.here("real/deep/sub/3"), &world.root("t/sub/3"));
        mark_of_another_boot(&world.here(marked));
        pull();
        assert_same(&world.root("t/sub"), &world.here("real/deep/sub"));
        assert!(
            fs::symlink_metadata(world.here("dst/t/sub"))
                .unwrap()
                .is_symlink()
        );
        fs::remove_dir_all(world.here("real")).unwrap();
        fs::remove_dir_all(world.here("dst")).unwrap();
    }
}

fn a_link_that_changed_only_its_target_is_replaced(backend: &'static str) {
    let world = World::within(backend, &[], disk_dir());
    fs::create_dir(world.here("t")).unwrap();
    let put = |target: &str| {
        let _ = fs::remove_file(world.here("t/current"));
        symlink(target, world.here("t/current")).unwrap();
        let path = CString::new(
            world
                .here("t/current")
                .into_os_string()
                .into_encoded_bytes(),
        )
        .unwrap();
        run(FileOp::SetLinkTime {
            dir: None,
            path,
            mtime: (1_000_000_000, 7),
        })
        .unwrap();
    };
    put("v1");
    world.push(world.here("t"), "").expect(0);
    put("v2");
    world.push(world.here("t"), "").expect(0);
    assert_eq!(
        fs::read_link(world.root("t/current")).unwrap(),
        Path::new("v2")
    );
    world.pull("t", world.here("back")).expect(0);
    put("v3");
    world.push(world.here("t"), "").expect(0);
    let as_link = || {
        let (from, to) = (world.url("t/current"), world.here("back/"));
        world.cp(&["-P".as_ref(), from.as_ref(), to.as_os_str()])
    };
    as_link().expect(0);
    assert_eq!(
        fs::read_link(world.here("back/current")).unwrap(),
        Path::new("v3")
    );
    assert_eq!(as_link().expect(0).number("skipped"), 1);
}

fn sessions_wait_for_descriptors(backend: &'static str) {
    const CLIENTS: usize = 20;
    let dir = disk_dir();
    let (server, clients): (Side, Vec<Side>) =
        (Side::new(), (0..CLIENTS).map(|_| Side::new()).collect());
    let (source, root) = (dir.path().join("wide"), dir.path().join("root"));
    fs::create_dir(&root).unwrap();
    let mut rng = Rng::new("descriptors");
    for number in 0..40 {
        let below = source.join(format!("d{number}"));
        fs::create_dir_all(&below).unwrap();
        tree::write_file(&below.join("small"), 1000, &mut rng);
        tree::write_file(&below.join("middle"), 100_000, &mut rng);
        tree::write_file(&below.join("large"), 1_100_000, &mut rng);
    }
    let allowed: Vec<String> = clients.iter().map(Side::id).collect();
    let mut args = vec!["--backend", backend, "--workers", "2"];
    allowed.iter().for_each(|id| args.extend(["--allow", id]));
    let daemon = Daemon::start_with(&server, &["prlimit", "--nofile=64:64"], &root, &args);
    let copy = |client: &Side, from: &str, to: &str| {
        let args = [
            "cp",
            "--json",
            "--backend",
            backend,
            "--peer",
            &daemon.fingerprint,
            from,
            to,
        ];
        Running::spawn(command(client, &["prlimit", "--nofile=64:64"], args))
    };
    let ends = |started: Vec<Running>| {
        started
            .into_iter()
            .for_each(|running| drop(running.wait().expect(0)))
    };
    let to = |number: usize| daemon.url(&format!("k{number}/"));
    let at = |number: usize| root.join(format!("k{number}")).join("wide");
    let from = source.to_str().unwrap();
    ends(
        clients
            .iter()
            .enumerate()
            .map(|(number, client)| copy(client, from, &to(number)))
            .collect(),
    );
    (0..CLIENTS).for_each(|number| assert_same(&source, &at(number)));
    let back = |number: usize| dir.path().join(format!("back{number}"));
    ends(
        clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let from = daemon.url(&format!("k{number}/wide"));
                copy(client, &from, back(number).to_str().unwrap())
            })
            .collect(),
    );
    (0..CLIENTS).for_each(|number| assert_same(&source, &back(number)));
    assert_no_leftovers(dir.path());
}

/// The tests above need files whose blocks are asked for: not one of them passes by chance.
#[test]
fn the_disk_of_these_tests_tells_of_its_blocks() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, vec![1; 70_000]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    let file = Arc::new(OwnedFd::from(file));
    let written = |len| {
        run(FileOp::Extents {
            has_holes: false,
            file: file.clone(),
            len,
        })
    };
    assert!(matches!(written(70_000), Ok(FileDone::Allocated(true))));
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(b"x", 300_000)
        .unwrap();
    assert!(matches!(written(300_001), Ok(FileDone::Allocated(false))));
}
