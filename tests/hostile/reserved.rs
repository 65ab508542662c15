//! Unfinished files: nobody may place, replace, read or list one, by whatever way the name comes.

use std::fs;
use std::os::unix::fs::symlink;

use landro::proto::Kind;
use landro::proto::wire::{Item, Message, VerdictKind, WireRequest};

use super::Scene;
use super::common::{landro, tree};
use super::peer::{self, directory, entry, link};

const SAYS: &str = "unfinished";

fn name() -> String {
    tree::temporary("a file", "part")
}

fn furnish(scene: &Scene) {
    let root = |path: &str| scene.world.root(path);
    for made in ["sub", "tree"] {
        fs::create_dir(root(made)).unwrap();
        tree::unfinished(&root(made), "a file");
    }
    symlink("sub", root("to-sub")).unwrap();
    symlink(format!("sub/{}", name()), root("to-it")).unwrap();
}

fn look(scene: &Scene) {
    for dir in ["sub", "tree"] {
        let dir = scene.world.root(dir);
        assert_eq!(fs::read(dir.join(name())).unwrap(), b"unfinished");
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
    }
}

/// A daemon holds its clients to it, whatever they are.
pub fn by_a_client(scene: &Scene) {
    furnish(scene);
    let paths = [
        format!("sub/{}", name()),
        format!("/sub//{}", name()),
        format!("to-sub/{}", name()),
        format!("tree/../sub/./{}", name()),
    ];
    for path in &paths {
        let mut peer = scene.connect();
        let mut request = peer::push_request(path);
        if let WireRequest::Push { single, .. } = &mut request {
            *single = true;
        }
        peer.open(request);
        assert!(matches!(peer.next_message(), Some(Message::Welcome(_))));
        peer.entries(vec![entry(1, 0, b"x", Kind::File, 1)]);
        expect_failed(peer.verdict(1), path);
        expect_no_source(scene, path);
        let mut peer = scene.connect();
        peer.open(WireRequest::List {
            path: path.clone().into(),
            partial: false,
        });
        assert!(matches!(peer.next_message(), Some(Message::Welcome(_))));
        match peer.next_message() {
            Some(Message::Error(error)) => assert!(error.text.contains(SAYS), "{path}: {error:?}"),
            other => panic!("listing of {path}: {other:?}"),
        }
    }
    expect_no_source(scene, "to-it");
    in_a_tree(scene);
    look(scene);
}

/// A symlink that a peer may have made leads no further than the name itself would.
fn expect_no_source(scene: &Scene, path: &str) {
    let mut peer = scene.connect();
    peer.open(WireRequest::Pull {
        sources: vec![path.to_owned().into()],
        follow_named: true,
        no_growing: false,
        place: None,
    });
    assert!(matches!(peer.next_message(), Some(Message::Welcome(_))));
    match peer.next_message() {
        Some(Message::SourceError { error, .. }) => {
            assert!(error.text.contains(SAYS), "{path}: {error:?}")
        }
        other => panic!("pull of {path}: {other:?}"),
    }
}

fn expect_failed(verdict: VerdictKind, what: &str) {
    match verdict {
        VerdictKind::Failed { error } => assert!(!error.text.is_empty(), "{what}"),
        other => panic!("{what}: {other:?}"),
    }
}

/// Of any kind, and of any size.
fn in_a_tree(scene: &Scene) {
    let items: [fn(&str) -> Item; 4] = [
        |name| entry(2, 1, name.as_bytes(), Kind::File, 1),
        |name| entry(2, 1, name.as_bytes(), Kind::File, 9 << 20),
        |name| directory(2, 1, name),
        |name| link(2, 1, name, "sub"),
    ];
    for item in items {
        let mut peer = scene.push();
        peer.entries(vec![directory(1, 0, "sub"), item(&name())]);
        expect_failed(peer.verdict(2), "an unfinished file's name, below");
    }
}

/// The command says so, and in a tree such files are left out with a warning.
pub fn by_a_command(scene: &Scene) {
    furnish(scene);
    let here = |path: &str| scene.world.here(path);
    let it = format!("sub/{}", name());
    let pulled = scene.world.pull(&it, here("got")).expect(1);
    assert!(
        pulled.stderr.contains(SAYS) && !here("got").exists(),
        "{pulled:?}"
    );
    fs::write(here("file"), "content").unwrap();
    let pushed = scene.world.push(here("file"), &it).expect(1);
    assert!(pushed.stderr.contains(SAYS), "{pushed:?}");
    let listed = ["ls", "--peer", &scene.world.daemon.fingerprint].map(String::from);
    let listed = listed.into_iter().chain([scene.world.url(&it)]);
    let listed = landro(&scene.world.client, listed).expect(1);
    assert!(
        listed.stderr.contains(SAYS) && listed.stdout.is_empty(),
        "{listed:?}"
    );
    let left_out = scene.world.pull("tree", here("all")).expect(0);
    assert_eq!(left_out.of("warning").count(), 1, "{left_out:?}");
    assert_eq!(fs::read_dir(here("all")).unwrap().count(), 0);
    look(scene);
}
