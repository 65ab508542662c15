//! Symlinks at the destination: what the user typed is followed, what stands where a directory is
//! to be is not, unless he says so and made it himself.

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::tree::{self, assert_no_leftovers, assert_same};
use common::{Output, World};

on_both_backends!(
    a_destination_that_is_a_link_is_followed,
    a_link_where_a_directory_is_to_be_is_an_error,
    links_of_the_users_own_are_kept_if_he_says_so,
    received_links_are_never_kept,
    a_received_link_is_no_destination,
    a_daemon_keeps_links_inside_its_root,
    a_source_named_through_a_link_elsewhere,
    what_is_no_file_is_not_replaced,
);

/// A tree on the daemon: `photos/2024/one`, and `photos/top`.
fn photos(world: &World) -> PathBuf {
    let tree = world.root("photos");
    fs::create_dir_all(tree.join("2024")).unwrap();
    fs::write(tree.join("2024/one"), "one").unwrap();
    fs::write(tree.join("top"), "top").unwrap();
    tree
}

fn pull(world: &World, options: &[&str], path: &str, to: &Path) -> Output {
    let mut args: Vec<OsString> = options.iter().map(OsString::from).collect();
    args.extend([world.url(path).into(), to.into()]);
    world.cp(&args)
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

fn with_slash(path: &Path) -> PathBuf {
    path.join("")
}

fn a_destination_that_is_a_link_is_followed(backend: &'static str) {
    let world = World::new(backend);
    let tree = photos(&world);
    fs::create_dir_all(world.here("far/away")).unwrap();
    symlink("far/away", world.here("link")).unwrap();
    symlink(world.here("far"), world.here("absolute")).unwrap();
    pull(&world, &[], "photos", &world.here("link")).expect(0);
    assert_same(&tree, &world.here("far/away/photos"));
    pull(&world, &[], "photos", &world.here("absolute/away/renamed")).expect(0);
    assert_same(&tree, &world.here("far/away/renamed"));
    pull(&world, &[], "photos", &with_slash(&world.here("absolute"))).expect(0);
    assert_same(&tree, &world.here("far/photos"));
    // On a daemon, inside its root.
    fs::create_dir_all(world.root("in/deep")).unwrap();
    symlink("in/deep", world.root("link")).unwrap();
    world.push(world.here("far/photos"), "link").expect(0);
    world
        .push(world.here("far/photos"), "link/renamed")
        .expect(0);
    assert_same(&tree, &world.root("in/deep/photos"));
    assert_same(&tree, &world.root("in/deep/renamed"));
}

fn a_link_where_a_directory_is_to_be_is_an_error(backend: &'static str) {
    let world = World::new(backend);
    let tree = photos(&world);
    let elsewhere = world.here("elsewhere");
    for linked in ["photos/2024", "photos"] {
        fs::create_dir_all(&elsewhere).unwrap();
        fs::create_dir_all(world.here("to/photos")).unwrap();
        if linked == "photos" {
            fs::remove_dir(world.here("to/photos")).unwrap();
        }
        symlink(&elsewhere, world.here("to").join(linked)).unwrap();
        let before = tree::records(&elsewhere);
        let output = pull(&world, &[], "photos", &world.here("to"));
        // Whatever is not below the link arrives.
        assert_eq!(
            output.code,
            Some(if linked == "photos" { 1 } else { 3 }),
            "{output:?}"
        );
        assert!(output.stderr.contains("--keep-dirlinks"), "{output:?}");
        assert_eq!(before, tree::records(&elsewhere));
        assert_eq!(world.here("to/photos/top").is_file(), linked != "photos");
        // The same on a daemon, which says so to the client.
        fs::create_dir_all(world.root("to/photos")).unwrap();
        fs::create_dir_all(world.root("elsewhere")).unwrap();
        if linked == "photos" {
            fs::remove_dir(world.root("to/photos")).unwrap();
        }
        let up = if linked == "photos" {
            "../elsewhere"
        } else {
            "../../elsewhere"
        };
        symlink(up, world.root("to").join(linked)).unwrap();
        let output = world.push(&tree, "to/");
        assert!(output.stderr.contains("--keep-dirlinks"), "{output:?}");
        assert!(names(&world.root("elsewhere")).is_empty());
        fs::remove_dir_all(world.here("to")).unwrap();
        fs::remove_dir_all(world.root("to")).unwrap();
    }
}

fn links_of_the_users_own_are_kept_if_he_says_so(backend: &'static str) {
    let world = World::new(backend);
    let tree = photos(&world);
    let elsewhere = world.here("elsewhere");
    let absolute = elsewhere.to_str().unwrap().to_owned();
    for (linked, target) in [
        ("photos/2024", &absolute[..]),
        ("photos/2024", "../../elsewhere"),
        ("photos/2024", "real"),
        ("photos", &absolute),
        ("photos", "../elsewhere"),
    ] {
        fs::create_dir_all(world.here("to/photos/real")).unwrap();
        fs::create_dir_all(&elsewhere).unwrap();
        if linked == "photos" {
            fs::remove_dir_all(world.here("to/photos")).unwrap();
        }
        let link = world.here("to").join(linked);
        symlink(target, &link).unwrap();
        for _ in 0..2 {
            pull(&world, &["--keep-dirlinks"], "photos", &world.here("to")).expect(0);
        }
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        let behind = link.canonicalize().unwrap();
        assert_same(
            &tree.join(
                linked
                    .strip_prefix("photos")
                    .unwrap()
                    .trim_start_matches('/'),
            ),
            &behind,
        );
        assert_no_leftovers(&world.here(""));
        fs::remove_dir_all(world.here("to")).unwrap();
        fs::remove_dir_all(&elsewhere).unwrap();
    }
    // One that leads nowhere, or to a file, is an error as before.
    for target in ["nowhere", "file"] {
        fs::create_dir_all(world.here("to/photos")).unwrap();
        fs::write(world.here("to/photos/file"), "x").unwrap();
        symlink(target, world.here("to/photos/2024")).unwrap();
        pull(&world, &["--keep-dirlinks"], "photos", &world.here("to")).expect(3);
        assert!(!world.here("to/photos/nowhere").exists());
        fs::remove_dir_all(world.here("to")).unwrap();
    }
}

/// What one run brings as a link the next does not follow, however it is asked.
fn received_links_are_never_kept(backend: &'static str) {
    let world = World::new(backend);
    let elsewhere = world.here("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for linked in ["photos", "photos/2024"] {
        for (number, target) in ["elsewhere", "..", ".", elsewhere.to_str().unwrap()]
            .iter()
            .enumerate()
        {
            let to = world.here(&format!("to-{}-{number}", linked.len()));
            fs::create_dir(&to).unwrap();
            let _ = fs::remove_dir_all(world.root("photos"));
            if linked == "photos/2024" {
                fs::create_dir(world.root("photos")).unwrap();
            }
            symlink(target, world.root(linked)).unwrap();
            pull(&world, &["-P"], "photos", &to).expect(0);
            fs::remove_file(world.root(linked)).unwrap();
            photos(&world);
            let output = pull(&world, &["--keep-dirlinks"], "photos", &to);
            assert!(matches!(output.code, Some(1 | 3)), "{output:?}");
            assert!(output.stderr.contains("ln -sfn"), "{output:?}");
            assert!(names(&elsewhere).is_empty() && names(&to) == ["photos"]);
            assert_eq!(fs::read_link(to.join(linked)).unwrap(), Path::new(target));
        }
    }
}

/// The same command twice: the first time its new name becomes a link, which the second does not
/// take for its destination.
fn a_received_link_is_no_destination(backend: &'static str) {
    let world = World::new(backend);
    fs::create_dir_all(world.here("home/secret")).unwrap();
    let new = world.here("home/new");
    symlink("secret", world.root("photos")).unwrap();
    pull(&world, &["-P"], "photos", &new).expect(0);
    assert_eq!(fs::read_link(&new).unwrap(), Path::new("secret"));
    fs::remove_file(world.root("photos")).unwrap();
    let tree = photos(&world);
    let output = pull(&world, &["--keep-dirlinks"], "photos", &new).expect(1);
    assert!(
        output.stderr.contains("end the destination with /"),
        "{output:?}"
    );
    let several: [OsString; 3] = [
        world.url("photos/2024").into(),
        world.url("photos").into(),
        new.clone().into(),
    ];
    world.cp(&several).expect(1);
    assert!(names(&world.here("home/secret")).is_empty());
    // A slash says that what is behind it is meant.
    pull(&world, &[], "photos", &with_slash(&new)).expect(0);
    assert_same(&tree, &world.here("home/secret/photos"));
    // A link to nowhere, or to a file, is no file that could be replaced.
    for target in ["nowhere", "file"] {
        let _ = fs::remove_dir_all(world.root("photos"));
        let _ = fs::remove_file(world.root("photos"));
        symlink(target, world.root("photos")).unwrap();
        fs::write(world.here("home/file"), "x").unwrap();
        let named = world.here("home/named");
        pull(&world, &["-P"], "photos", &named).expect(0);
        fs::remove_file(world.root("photos")).unwrap();
        fs::write(world.root("photos"), "now a file").unwrap();
        // Neither written into what it leads to, nor replaced.
        pull(&world, &[], "photos", &named).expect(1);
        assert_eq!(fs::read_link(&named).unwrap(), Path::new(target));
        assert_eq!(fs::read(world.here("home/file")).unwrap(), b"x");
    }
}

fn a_daemon_keeps_links_inside_its_root(backend: &'static str) {
    let world = World::new(backend);
    let tree = photos(&world);
    let source = world.here("photos");
    fs::rename(&tree, &source).unwrap();
    let push = |options: &[&str]| {
        let mut args: Vec<OsString> = options.iter().map(OsString::from).collect();
        args.extend([source.clone().into(), world.url("to/").into()]);
        world.cp(&args)
    };
    fs::create_dir_all(world.root("to/photos")).unwrap();
    fs::create_dir_all(world.root("elsewhere")).unwrap();
    symlink("../../elsewhere", world.root("to/photos/2024")).unwrap();
    push(&["--keep-dirlinks"]).expect(0);
    assert_same(&source.join("2024"), &world.root("elsewhere"));
    // Behind a link that is kept, another one.
    fs::create_dir_all(source.join("2024/deep")).unwrap();
    fs::write(source.join("2024/deep/two"), "two").unwrap();
    fs::create_dir_all(world.root("other")).unwrap();
    symlink("../other", world.root("elsewhere/deep")).unwrap();
    push(&["--keep-dirlinks"]).expect(0);
    assert_same(&source.join("2024/deep"), &world.root("other"));
    // Out of the root, by whatever way.
    fs::create_dir(world.here("outside")).unwrap();
    fs::write(source.join("2024/new"), "new").unwrap();
    let outside = world.here("outside").to_str().unwrap().to_owned();
    let within = world.root("elsewhere").to_str().unwrap().to_owned();
    for target in ["../../../here/outside", "../../..", &outside, &within] {
        fs::remove_file(world.root("to/photos/2024")).unwrap();
        symlink(target, world.root("to/photos/2024")).unwrap();
        let output = push(&["--keep-dirlinks"]);
        assert_eq!(output.code, Some(3), "{target}: {output:?}");
        assert!(names(&world.here("outside")).is_empty(), "{target}");
    }
    assert!(!world.root("elsewhere/new").exists());
}

/// `link/` means the directory behind the link, wherever in the root that is.
fn a_source_named_through_a_link_elsewhere(backend: &'static str) {
    let world = World::new(backend);
    let tree = photos(&world);
    fs::create_dir(world.root("links")).unwrap();
    symlink("../photos", world.root("links/photos")).unwrap();
    world.pull("links/photos/", world.here("got")).expect(0);
    assert_same(&tree, &world.here("got"));
    let ls = common::landro(
        &world.client,
        [
            "ls",
            "--peer",
            &world.daemon.fingerprint,
            &world.url("links/photos/"),
        ],
    );
    assert!(ls.code == Some(0) && ls.stdout.contains("2024"), "{ls:?}");
}

/// `landro cp landro://h/x /dev/null` as root would take that device from everybody.
fn what_is_no_file_is_not_replaced(backend: &'static str) {
    let world = World::new(backend);
    let fifo = |path: PathBuf| {
        tree::mkfifo(&path);
        path
    };
    let (here, there) = (fifo(world.here("special")), fifo(world.root("special")));
    for (name, size_bytes) in [("small", 10), ("large", 3 << 20)] {
        tree::write_file(&world.here(name), size_bytes, &mut tree::Rng::new(name));
        world.push(world.here(name), name).expect(0);
        for output in [
            world.push(world.here(name), "special"),
            world.pull(name, &here),
            world.cp(&[world.here(name), here.clone()]),
        ] {
            assert!(matches!(output.code, Some(1 | 3)), "{output:?}");
            assert!(output.stderr.contains("nobody reads"), "{output:?}");
        }
    }
    for path in [&here, &there] {
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(
            &fs::symlink_metadata(path).unwrap().file_type()
        ));
    }
    assert_no_leftovers(&world.here(""));
}
