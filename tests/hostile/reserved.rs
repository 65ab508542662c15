//! Names of unfinished files: nobody may place, read or list one, by whatever way the name comes.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;

use landro::proto::Kind;
use landro::proto::wire::{Item, Message, WireRequest};

use super::Scene;
use super::common::landro;
use super::peer::{self, directory, entry, file, link};

const SAYS: &str = "reserved";

/// Everything that may be asked of a daemon by a path with such a name in it.
const PATHS: [&str; 9] = [
    ".landro-foo",
    ".LANDRO-foo",
    ".landro-0123456789abcdef.part",
    "/.landro-foo",
    "sub/.landro-foo/",
    ".landro-d",
    ".landro-d/inside",
    ".landro-d/../sub",
    "sub/../.landro-d/new",
];

/// Links in the root that lead to a directory of such a name: only the daemon can see that.
const LINKED: [&str; 3] = ["to-reserved/", "to-reserved/inside", "sub/up/.//new"];

fn furnish(scene: &Scene) {
    let root = |path: &str| scene.world.root(path);
    for made in [".landro-d", "sub", "tree", "tree/.landro-d"] {
        fs::create_dir(root(made)).unwrap();
    }
    fs::write(root("tree/.landro-0123456789abcdef.part"), "precious").unwrap();
    fs::write(root(".landro-d/inside"), "precious").unwrap();
    fs::write(root(".landro-0123456789abcdef.part"), "precious").unwrap();
    symlink(".landro-d", root("to-reserved")).unwrap();
    symlink("../to-reserved", root("sub/up")).unwrap();
}

fn look(scene: &Scene) {
    let kept = |path: &str| fs::read(scene.world.root(path)).unwrap() == b"precious";
    assert!(kept(".landro-d/inside") && kept(".landro-0123456789abcdef.part"));
    assert!(kept("tree/.landro-0123456789abcdef.part"));
    let mut planted = scene.planted();
    planted.sort();
    assert_eq!(
        planted,
        [
            ".landro-0123456789abcdef.part",
            ".landro-d",
            "sub",
            "to-reserved",
            "tree"
        ]
    );
    assert_eq!(
        fs::read_dir(scene.world.root(".landro-d")).unwrap().count(),
        1
    );
    assert_eq!(fs::read_dir(scene.world.root("sub")).unwrap().count(), 1);
}

/// A daemon holds its clients to it, whatever they are.
pub fn by_a_client(scene: &Scene) {
    furnish(scene);
    for path in PATHS.into_iter().chain(LINKED) {
        for (directory, one) in [(false, false), (false, true), (true, true)] {
            let mut peer = scene.connect();
            let mut request = peer::push_request(path);
            if let WireRequest::Push {
                must_be_dir,
                single,
                ..
            } = &mut request
            {
                (*must_be_dir, *single) = (directory, one);
            }
            peer.open(request);
            match peer.next_message() {
                Some(Message::Error(error)) => {
                    assert!(error.text.contains(SAYS), "{path}: {error:?}")
                }
                other => panic!("push to {path}: {other:?}"),
            }
        }
        let mut peer = scene.connect();
        peer.open(WireRequest::Pull {
            sources: vec![path.to_owned().into()],
            follow_named: false,
            no_growing: false,
        });
        assert!(matches!(peer.next_message(), Some(Message::Welcome(_))));
        match peer.next_message() {
            Some(Message::SourceError { error, .. }) => {
                assert!(error.text.contains(SAYS), "{path}: {error:?}")
            }
            other => panic!("pull of {path}: {other:?}"),
        }
        let mut peer = scene.connect();
        peer.open(WireRequest::List {
            path: path.to_owned().into(),
        });
        assert!(matches!(peer.next_message(), Some(Message::Welcome(_))));
        match peer.next_message() {
            Some(Message::Error(error)) => assert!(error.text.contains(SAYS), "{path}: {error:?}"),
            other => panic!("listing of {path}: {other:?}"),
        }
    }
    // In the tree, at any depth and of any kind.
    for name in [".landro-x", ".Landro-0123456789abcdef.journal"] {
        let items: [fn(u32, &str) -> Item; 3] = [
            |parent, name| entry(2, parent, name.as_bytes(), Kind::File, 1),
            |parent, name| directory(2, parent, name),
            |parent, name| link(2, parent, name, "sub"),
        ];
        for item in items {
            let mut peer = scene.push();
            peer.entries(vec![directory(1, 0, "sub"), item(1, name)]);
            assert!(
                peer.expect_violation("a name of ours, below")
                    .contains(SAYS)
            );
            let mut peer = scene.push();
            peer.entries(vec![file(1, "sub", 1), item(0, name)]);
            assert!(peer.expect_violation("a name of ours").contains(SAYS));
        }
    }
    look(scene);
}

/// The command says so before it asks anybody.
pub fn by_a_command(scene: &Scene) {
    furnish(scene);
    let here = |path: &str| scene.world.here(path);
    fs::create_dir(here("sub")).unwrap();
    fs::create_dir(here(".landro-d")).unwrap();
    for file in ["file", ".landro-foo", ".landro-d/file"] {
        fs::write(here(file), "content").unwrap();
    }
    seen_by_the_command(scene);
    seen_later(scene);
    // In a tree such files are left out, with a warning. (A tree of its own: in the whole root, the
    // good client's files come and go.)
    let left_out = scene.world.pull("tree", here("all")).expect(0);
    assert_eq!(left_out.of("warning").count(), 2, "{left_out:?}");
    assert_eq!(fs::read_dir(here("all")).unwrap().count(), 0);
    assert!(!here("got").exists());
    look(scene);
}

/// Errors of usage, before anything is done.
fn seen_by_the_command(scene: &Scene) {
    let here = |path: &str| scene.world.here("").join(path).into_os_string();
    let url = |path: &str| OsString::from(scene.world.url(path));
    let usage = |args: &[OsString]| {
        let output = scene.world.cp(args).expect(2);
        assert!(output.stderr.contains(SAYS), "{args:?}: {output:?}");
    };
    let written = ["sub/%2elandro-foo", "%2Elandro%2Dfoo"];
    for path in PATHS.into_iter().chain(written) {
        usage(&[here("file"), url(path)]);
        usage(&[url(path), here("got")]);
        usage(&[url("good-0"), url(path), here("sub")]);
        let pin = OsString::from(&scene.world.daemon.fingerprint);
        let ls = ["ls".into(), "--peer".into(), pin, url(path)];
        let listed = landro(&scene.world.client, ls).expect(2);
        assert!(
            listed.stderr.contains(SAYS) && listed.stdout.is_empty(),
            "{listed:?}"
        );
    }
    for own in [
        ".landro-foo",
        "sub/.landro-new",
        ".landro-d/",
        ".LANDRO-new",
    ] {
        usage(&[url("sub"), here(own)]);
        usage(&[here(own), url("sub")]);
        usage(&[here("file"), here(own)]);
        usage(&[here(own), here("sub")]);
    }
}

/// What a command cannot see, the daemon does; what has its name from where it lies, the command
/// sees later.
fn seen_later(scene: &Scene) {
    let here = |path: &str| scene.world.here(path);
    for path in LINKED {
        let pushed = scene.world.push(here("file"), path).expect(1);
        let pulled = scene.world.pull(path, here("got")).expect(1);
        assert!(
            pushed.stderr.contains(SAYS) && pulled.stderr.contains(SAYS),
            "{pushed:?} {pulled:?}"
        );
    }
    let dotted = here(".landro-d").join("../sub/../.landro-d/.");
    let dotted = scene.world.push(dotted, "sub");
    assert!(
        matches!(dotted.code, Some(1 | 2)) && dotted.stderr.contains(SAYS),
        "{dotted:?}"
    );
    let args = [OsString::from("."), scene.world.url("sub").into()];
    let mut from_within = scene.world.cp_command(&[], &args);
    from_within.current_dir(here(".landro-d"));
    let within = super::common::Running::spawn(from_within).wait().expect(1);
    assert!(within.stderr.contains(SAYS), "{within:?}");
}
