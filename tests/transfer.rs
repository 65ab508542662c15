//! Whole transfers by the real binary: what arrives is what was sent, wherever it is to land.

mod common;
#[path = "transfer/events.rs"]
mod events;
#[path = "transfer/left_out.rs"]
mod left_out;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use common::tree::{self, Rng, assert_no_leftovers, assert_same};
use common::{Output, Running, World};

on_both_backends!(
    a_tree_goes_there_and_back,
    a_tree_on_a_disk_without_shortcuts,
    thousands_of_small_files,
    sources_land_where_they_should,
    a_trailing_slash_follows_a_symlink,
    what_matches_is_skipped_and_force_sends_it,
    what_changed_is_sent_again,
    files_replace_files_and_links_but_never_directories,
    options_change_how_not_what,
    several_clients_at_once,
    several_addresses_and_ipv6,
    a_rate_limit_is_kept,
);

/// Every file system object of `from` arrives; running again moves nothing.
fn there_and_back(world: &World) {
    let mut rng = Rng::new(world.backend);
    let tree = world.here("tree");
    tree::build(&tree, &mut rng);
    let (files, bytes) = tree::count_files(&tree);

    let pushed = world.push(&tree, "copy").expect(0);
    assert_same(&tree, &world.root("copy"));
    assert_eq!(
        (
            pushed.number("files"),
            pushed.number("bytes"),
            pushed.number("errors")
        ),
        (files, bytes, 0)
    );
    assert_eq!(
        (pushed.number("sent_bytes"), pushed.number("resumed_bytes")),
        (bytes, 0)
    );

    let pulled = world.pull("copy", world.here("back")).expect(0);
    assert_same(&tree, &world.here("back"));
    assert_eq!(
        (
            pulled.number("files"),
            pulled.number("bytes"),
            pulled.number("errors")
        ),
        (files, bytes, 0)
    );

    // Into what is there already, hence by the parents' names.
    let again = world
        .cp(&[world.here("back").into_os_string(), world.url("").into()])
        .expect(0);
    assert_eq!(again.number("files"), files, "the name `back` is new there");
    let again = world
        .cp(&[world.here("back").into_os_string(), world.url("").into()])
        .expect(0);
    assert_eq!(
        (again.number("sent_bytes"), again.number("files")),
        (0, 0),
        "{again:?}"
    );
    assert!(again.number("skipped") >= files);
    let again = world.pull("back", world.here("")).expect(0);
    assert_eq!((again.number("sent_bytes"), again.number("files")), (0, 0));
    assert_same(&tree, &world.here("back"));
    assert_same(&tree, &world.root("back"));
    assert_no_leftovers(&world.root(""));
    assert_no_leftovers(&world.here(""));
}

fn a_tree_goes_there_and_back(backend: &'static str) {
    there_and_back(&World::within(backend, &[], common::roomy_dir(256 << 20)));
}

/// Memory file systems never block, so the engine treats them differently.
fn a_tree_on_a_disk_without_shortcuts(backend: &'static str) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    there_and_back(&World::within(backend, &["--workers", "1"], dir));
}

fn thousands_of_small_files(backend: &'static str) {
    let world = World::new(backend);
    let mut rng = Rng::new(backend);
    let tree = world.here("many");
    fs::create_dir(&tree).unwrap();
    for number in 0..4000 {
        let dir = tree.join(format!("d{}", number % 37));
        if number < 37 {
            fs::create_dir(&dir).unwrap();
        }
        fs::write(dir.join(format!("f{number}")), rng.bytes(number * 7 % 5000)).unwrap();
    }
    let pushed = world.push(&tree, "many").expect(0);
    assert_eq!(pushed.number("files"), 4000);
    assert_eq!(pushed.number("directories"), 38);
    assert_same(&tree, &world.root("many"));
    world.pull("many", world.here("back")).expect(0);
    assert_same(&tree, &world.here("back"));
    assert_no_leftovers(&world.root(""));
}

/// The three kinds of copy, which follow the same rules.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Push,
    Pull,
    Local,
}

struct Placement<'a> {
    world: &'a World,
    way: Way,
}

impl Placement<'_> {
    /// On the receiving side, a fresh directory for each way.
    fn to(&self, path: &str) -> PathBuf {
        match self.way {
            Way::Push => self.world.root("to").join(path),
            Way::Pull => self.world.here("pulled").join(path),
            Way::Local => self.world.here("copied").join(path),
        }
    }

    fn from(&self, path: &str) -> PathBuf {
        match self.way {
            Way::Push => self.world.here("from").join(path),
            Way::Local => self.world.here("copied-from").join(path),
            Way::Pull => self.world.root("from").join(path),
        }
    }

    fn cp(&self, sources: &[&str], target: &str) -> Output {
        let slash = |path: PathBuf, typed: &str| {
            let mut path = path.into_os_string();
            if typed.ends_with('/') && !path.as_bytes().ends_with(b"/") {
                path.push("/");
            }
            path
        };
        let mut args: Vec<OsString> = Vec::new();
        for source in sources {
            args.push(match self.way {
                _ if source.starts_with('-') => source.into(),
                Way::Pull => self.world.url(&format!("from/{source}")).into(),
                Way::Push | Way::Local => slash(self.from(source), source),
            });
        }
        args.push(match self.way {
            Way::Push => self.world.url(&format!("to/{target}")).into(),
            Way::Pull | Way::Local => slash(self.to(target), target),
        });
        self.world.cp(&args)
    }
}

fn sources_land_where_they_should(backend: &'static str) {
    let world = World::new(backend);
    let mut rng = Rng::new(backend);
    for way in [Way::Push, Way::Pull, Way::Local] {
        let at = Placement { world: &world, way };
        fs::create_dir_all(at.from("dir/sub")).unwrap();
        fs::create_dir_all(at.to("there")).unwrap();
        tree::write_file(&at.from("one"), 1000, &mut rng);
        tree::write_file(&at.from("two"), 2 << 20, &mut rng);
        tree::write_file(&at.from("dir/sub/inner"), 70_000, &mut rng);
        let (one, two, dir) = (at.from("one"), at.from("two"), at.from("dir"));

        at.cp(&["one"], "renamed").expect(0);
        assert_same(&one, &at.to("renamed"));
        at.cp(&["two"], "there").expect(0);
        assert_same(&two, &at.to("there/two"));
        at.cp(&["one"], "there/").expect(0);
        assert_same(&one, &at.to("there/one"));
        at.cp(&["one"], "made/").expect(0);
        assert_same(&one, &at.to("made/one"));
        at.cp(&["one", "two"], "several").expect(0);
        assert_same(&one, &at.to("several/one"));
        assert_same(&two, &at.to("several/two"));
        at.cp(&["one", "dir"], "there").expect(0);
        assert_same(&dir, &at.to("there/dir"));
        at.cp(&["dir"], "newdir").expect(0);
        assert_same(&dir, &at.to("newdir"));
        at.cp(&["dir"], "newdir").expect(0);
        assert_same(&dir, &at.to("newdir/dir"));
        at.cp(&["dir/"], "slashed").expect(0);
        assert_same(&dir, &at.to("slashed"));
        at.cp(&["dir/"], "there/").expect(0);

        // Parents of the destination are not invented; a file is no directory.
        for (sources, target) in [
            (&["one"][..], "no/such/parent"),
            (&["one"], "no/such/"),
            (&["dir"], "no/such"),
            (&["one", "two"], "no/such"),
            (&["one", "two"], "renamed"),
            (&["one"], "renamed/"),
            (&["one"], "renamed/below"),
        ] {
            let refused = at.cp(sources, target).expect(1);
            assert!(!refused.stderr.is_empty(), "{way:?} {sources:?} {target}");
        }
        assert!(!at.to("no").exists(), "{way:?}");
        assert_same(&one, &at.to("renamed"));

        // A missing source is one error; the others arrive.
        let partly = at.cp(&["one", "missing"], "partly").expect(3);
        assert!(partly.of("error").any(|error| {
            error["path"]
                .as_str()
                .is_some_and(|p| p.contains("missing"))
        }));
        assert_same(&one, &at.to("partly/one"));
        at.cp(&["missing"], "there").expect(1);
        assert_no_leftovers(&at.to(""));
    }
    // The root itself: everything in it, under no name of its own.
    world.pull("", world.here("everything")).expect(0);
    assert_same(&world.root("from"), &world.here("everything/from"));
}

fn a_trailing_slash_follows_a_symlink(backend: &'static str) {
    let world = World::new(backend);
    for way in [Way::Push, Way::Pull, Way::Local] {
        let at = Placement { world: &world, way };
        fs::create_dir_all(at.from("dir")).unwrap();
        fs::create_dir_all(at.to("")).unwrap();
        fs::write(at.from("dir/file"), "x").unwrap();
        symlink("dir", at.from("link")).unwrap();
        at.cp(&["-P", "link"], "as-link").expect(0);
        assert_eq!(
            fs::read_link(at.to("as-link")).unwrap(),
            Path::new("dir"),
            "{way:?}"
        );
        at.cp(&["link/"], "as-dir").expect(0);
        assert_same(&at.from("dir"), &at.to("as-dir"));
    }
}

fn what_matches_is_skipped_and_force_sends_it(backend: &'static str) {
    let world = World::new(backend);
    let mut rng = Rng::new(backend);
    for way in [Way::Push, Way::Pull, Way::Local] {
        let at = Placement { world: &world, way };
        fs::create_dir_all(at.from("")).unwrap();
        fs::create_dir_all(at.to("")).unwrap();
        for (name, size_bytes) in [("small", 5000), ("large", 3 << 20)] {
            tree::write_file(&at.from(name), size_bytes, &mut rng);
            at.cp(&[name], "").expect(0);
            // Same size, same time, other content: by the rule it is the same.
            let time = fs::metadata(at.from(name)).unwrap().modified().unwrap();
            tree::write_file(&at.from(name), size_bytes, &mut rng);
            tree::set_mtime(&at.from(name), time);
            let skipped = at.cp(&[name], "").expect(0);
            assert_eq!(
                (skipped.number("skipped"), skipped.number("sent_bytes")),
                (1, 0),
                "{way:?}"
            );
            assert_eq!(skipped.of("file").next().unwrap()["status"], "skipped");
            assert!(!tree::same_content(&at.from(name), &at.to(name)));
            let mut forced: Vec<OsString> = vec!["--force".into()];
            forced.push(match way {
                Way::Pull => world.url(&format!("from/{name}")).into(),
                _ => at.from(name).into(),
            });
            forced.push(match way {
                Way::Push => world.url("to/").into(),
                _ => at.to("").into(),
            });
            let forced = world.cp(&forced).expect(0);
            assert_eq!(
                (forced.number("files"), forced.number("sent_bytes")),
                (1, size_bytes),
                "{way:?}"
            );
            assert_same(&at.from(name), &at.to(name));
        }
        assert_no_leftovers(&at.to(""));
    }
}

fn what_changed_is_sent_again(backend: &'static str) {
    let world = World::new(backend);
    let mut rng = Rng::new(backend);
    let tree = world.here("tree");
    fs::create_dir(&tree).unwrap();
    for (name, size_bytes) in [
        ("a", 100),
        ("b", 100_000),
        ("c", 2_500_000),
        ("same", 1_500_000),
    ] {
        tree::write_file(&tree.join(name), size_bytes, &mut rng);
    }
    world.push(&tree, "").expect(0);
    tree::write_file(&tree.join("a"), 101, &mut rng);
    tree::set_mtime(&tree.join("b"), UNIX_EPOCH + Duration::from_nanos(1));
    tree::write_file(&tree.join("c"), 2_400_000, &mut rng);
    tree::write_file(&tree.join("new"), 7, &mut rng);
    fs::remove_file(world.root("tree/same")).unwrap();
    let again = world.push(&tree, "").expect(0);
    assert_eq!(again.number("files"), 5);
    assert_same(&tree, &world.root("tree"));
    tree::write_file(&tree.join("c"), 2_500_001, &mut rng);
    let again = world.push(&tree, "").expect(0);
    assert_eq!(
        (again.number("files"), again.number("sent_bytes")),
        (1, 2_500_001)
    );
    assert_same(&tree, &world.root("tree"));
    assert_no_leftovers(&world.root(""));
}

fn files_replace_files_and_links_but_never_directories(backend: &'static str) {
    let world = World::new(backend);
    let mut rng = Rng::new(backend);
    for way in [Way::Push, Way::Pull, Way::Local] {
        let at = Placement { world: &world, way };
        fs::create_dir_all(at.from("tree/d")).unwrap();
        fs::create_dir_all(at.to("tree/small/keep")).unwrap();
        fs::create_dir_all(at.to("tree/large/keep")).unwrap();
        fs::create_dir_all(at.to("tree/link/keep")).unwrap();
        fs::write(at.to("outside"), "untouched").unwrap();
        symlink("../outside", at.to("tree/through")).unwrap();
        symlink("../outside", at.to("tree/through-large")).unwrap();
        fs::write(at.to("tree/d"), "a file where a directory is to be").unwrap();
        for (name, size_bytes) in [
            ("small", 10),
            ("large", 2 << 20),
            ("through", 10),
            ("through-large", 2 << 20),
            ("d/below", 10),
        ] {
            tree::write_file(&at.from("tree").join(name), size_bytes, &mut rng);
        }
        symlink("target", at.from("tree/link")).unwrap();
        let output = at.cp(&["tree"], "").expect(3);
        let failed: Vec<&str> = output
            .of("error")
            .filter_map(|error| error["path"].as_str())
            .collect();
        for name in ["tree/small", "tree/large", "tree/link", "tree/d"] {
            // Sources are named as they were typed.
            assert!(
                failed.iter().any(|path| path.ends_with(name)),
                "{way:?}: {name} is missing in {failed:?}"
            );
        }
        for name in ["small", "large", "link"] {
            assert!(
                at.to("tree").join(name).join("keep").is_dir(),
                "{way:?} {name}"
            );
        }
        assert_same(&at.from("tree/through"), &at.to("tree/through"));
        assert_same(&at.from("tree/through-large"), &at.to("tree/through-large"));
        assert_eq!(
            fs::read(at.to("outside")).unwrap(),
            b"untouched",
            "{way:?} wrote through a symlink"
        );
        assert_no_leftovers(&at.to(""));
    }
}

fn options_change_how_not_what(backend: &'static str) {
    let world = World::with(backend, &["--profile", "lan", "--memory-budget", "16M"]);
    let mut rng = Rng::new(backend);
    tree::write_file(&world.here("file"), (20 << 20) + 5, &mut rng);
    tree::write_file(&world.here("small"), 5000, &mut rng);
    let all = [
        &["--fsync"][..],
        &["--streams", "1"],
        &["--streams", "64"],
        &["--profile", "lan"],
        &["--profile", "wan"],
        &["--bwlimit", "1G"],
        &["--bwlimit", "0", "--quiet", "--stats"],
    ];
    for (number, options) in all.into_iter().enumerate() {
        let mut push: Vec<OsString> = options.iter().map(Into::into).collect();
        let mut pull = push.clone();
        push.extend([
            world.here("file").into(),
            world.here("small").into(),
            world.url(&format!("{number}/")).into(),
        ]);
        world.cp(&push).expect(0);
        assert_same(&world.here("file"), &world.root(&format!("{number}/file")));
        pull.extend([
            world.url(&format!("{number}")).into(),
            world.here("back").join(format!("{number}")).into(),
        ]);
        fs::create_dir_all(world.here("back")).unwrap();
        world.cp(&pull).expect(0);
        assert_same(
            &world.root(&format!("{number}")),
            &world.here("back").join(format!("{number}")),
        );
    }
}

fn several_clients_at_once(backend: &'static str) {
    let world = World::with(backend, &["--workers", "2"]);
    let mut rng = Rng::new(backend);
    let names: Vec<String> = (0..6).map(|number| format!("t{number}")).collect();
    for name in &names {
        let tree = world.here(name);
        fs::create_dir(&tree).unwrap();
        tree::write_file(&tree.join("large"), 6 << 20, &mut rng);
        for number in 0..200 {
            tree::write_file(&tree.join(format!("{number}")), rng.below(3000), &mut rng);
        }
    }
    let start = |args: &[OsString]| world.cp_start(args);
    let pushes: Vec<Running> = names
        .iter()
        .map(|name| start(&[world.here(name).into(), world.url(name).into()]))
        .collect();
    pushes
        .into_iter()
        .for_each(|push| drop(push.wait().expect(0)));
    // Both directions at once, and three who write the same file.
    let mut mixed: Vec<Running> = names[..3]
        .iter()
        .map(|name| {
            start(&[
                world.url(name).into(),
                world.here(&format!("back-{name}")).into(),
            ])
        })
        .collect();
    mixed.extend((0..3).map(|_| {
        start(&[
            "--force".into(),
            world.here("t0/large").into(),
            world.url("same").into(),
        ])
    }));
    mixed.into_iter().for_each(|one| drop(one.wait().expect(0)));
    for name in &names {
        assert_same(&world.here(name), &world.root(name));
    }
    for name in &names[..3] {
        assert_same(&world.here(name), &world.here(&format!("back-{name}")));
    }
    assert_same(&world.here("t0/large"), &world.root("same"));
    assert_no_leftovers(&world.root(""));
}

fn several_addresses_and_ipv6(backend: &'static str) {
    let world = World::with(
        backend,
        &[
            "--listen",
            "[::1]:0",
            "--listen",
            "127.0.0.1:0",
            "--workers",
            "2",
        ],
    );
    fs::write(world.here("file"), "x").unwrap();
    assert_eq!(world.daemon.addresses.len(), 2);
    assert!(
        world.daemon.addresses[0].starts_with("[::1]:"),
        "{:?}",
        world.daemon.addresses
    );
    for (number, address) in world.daemon.addresses.iter().enumerate() {
        assert!(!address.ends_with(":0"), "port 0 takes a free one");
        let url = format!("landro://{address}/{number}");
        world
            .cp(&[world.here("file").into_os_string(), url.into()])
            .expect(0);
        assert_same(&world.here("file"), &world.root(&number.to_string()));
    }
    // All addresses of both families through one socket.
    let any = World::with(backend, &["--listen", "[::]:0"]);
    fs::write(any.here("file"), "x").unwrap();
    let port = any.daemon.address().rsplit(':').next().unwrap();
    for (number, host) in ["127.0.0.1", "[::1]", "localhost"].into_iter().enumerate() {
        let url = format!("landro://{host}:{port}/{number}");
        any.cp(&[any.here("file").into_os_string(), url.into()])
            .expect(0);
        assert_same(&any.here("file"), &any.root(&number.to_string()));
    }
}

fn a_rate_limit_is_kept(backend: &'static str) {
    let world = World::new(backend);
    let mut rng = Rng::new(backend);
    tree::write_file(&world.here("file"), 3 << 20, &mut rng);
    let push: [OsString; 4] = [
        "--bwlimit".into(),
        "2M".into(),
        world.here("file").into(),
        world.url("file").into(),
    ];
    let pull = [
        "--bwlimit".into(),
        "2M".into(),
        world.url("file").into(),
        world.here("back").into(),
    ];
    for args in [push, pull] {
        let output = world.cp(&args).expect(0);
        // A burst may go first; more than that would be faster than the limit.
        let seconds = output.summary()["seconds"].as_f64().unwrap();
        assert!(seconds > 1.0, "3 MiB at 2 MiB/s took {seconds} s");
    }
    assert_same(&world.here("file"), &world.here("back"));
}

/// Names of any bytes through a URL, which is where they need encoding.
#[test]
fn odd_names_in_urls() {
    let world = World::new("poll");
    for (number, name) in tree::odd_names().into_iter().enumerate() {
        File::create(world.here("").join(&name)).unwrap();
        let encoded: String = name
            .as_bytes()
            .iter()
            .map(|byte| format!("%{byte:02x}"))
            .collect();
        // Behind a ./ no name is taken for an option or a URL.
        let typed = OsString::from_vec(
            [
                world.here("").as_os_str().as_bytes(),
                b"/./",
                name.as_bytes(),
            ]
            .concat(),
        );
        let pushed = world
            .cp(&[&typed, OsStr::new(&world.url(&encoded))])
            .expect(0);
        assert!(world.root("").join(&name).is_file(), "{name:?}");
        let path = pushed.of("file").next().unwrap();
        let exact = path["path_hex"].as_str().map_or_else(
            || path["path"].as_str().unwrap().as_bytes().to_vec(),
            |hex| {
                (0..hex.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                    .collect()
            },
        );
        assert!(exact.ends_with(name.as_bytes()), "{number}");
        fs::remove_file(world.here("").join(&name)).unwrap();
        world.pull(&encoded, world.here("")).expect(0);
        assert!(world.here("").join(&name).is_file(), "{name:?}");
    }
}
