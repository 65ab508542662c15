//! Peers that plant a symlink and then write through it as a directory: nothing beside what was
//! asked for changes.
//!
//! A server against the real client, and a client against the real daemon, in one session or two,
//! and where the user has a link of that kind himself.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use landro::ids::EntryId;
use landro::proto::Kind;
use landro::proto::integrity::digest_of;
use landro::proto::wire::{Item, Message, RecordHead, Verdict, VerdictKind, WireRequest, streams};

use super::Scene;
use super::common::tree::{self, Record, assert_no_leftovers};
use super::peer::{self, Peer, directory, end, entry, file, link};
use super::server::pull_sources;

/// When the link comes to be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Planted {
    /// Announced in the same session.
    Now,
    /// Announced in an earlier one.
    Before,
    /// The user made it.
    ByUser,
}

/// What is asked for, and where the link stands: `photos/x`, or `photos` itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Below,
    Top,
}

/// Where the sources are to land.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Into {
    Existing,
    NewName,
    Several,
}

/// Two directories that nobody asked for, beside and above the one where all is to happen.
struct Surroundings {
    dir: PathBuf,
}

const WITNESS: &str = "untouched";

const TARGETS: usize = 5;

impl Surroundings {
    /// `dir/home/dst` is where everything goes.
    fn new(dir: &Path) -> Surroundings {
        for made in [
            "home/dst",
            "home/sibling/a",
            "home/dst/sibling",
            "home/dst/a",
            "outside",
        ] {
            fs::create_dir_all(dir.join(made)).unwrap();
            fs::write(dir.join(made).join("witness"), WITNESS).unwrap();
            fs::set_permissions(dir.join(made), Permissions::from_mode(0o751)).unwrap();
        }
        Surroundings {
            dir: dir.to_path_buf(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// All there is but what was asked for. Making the top entry moves the mtime of the directory
    /// it lies in.
    fn record(&self, asked: &Path, lands_in: &Path) -> BTreeMap<PathBuf, (Record, Vec<u8>)> {
        let records = tree::records(&self.dir).into_iter();
        let others = records.filter(|(path, _)| !self.dir.join(path).starts_with(asked));
        let with_content = others.map(|(path, mut record)| {
            let whole = self.dir.join(&path);
            if whole.components().eq(lands_in.components()) {
                record.mtime = (0, 0);
            }
            let content = if record.kind == 'f' {
                fs::read(&whole).unwrap()
            } else {
                Vec::new()
            };
            (path, (record, content))
        });
        with_content.collect()
    }

    /// Where links may lead: the same names stand beside the top entry, in it and above it.
    fn link_targets(&self) -> [String; TARGETS] {
        [
            "..",
            ".",
            "../sibling",
            "a/../..",
            self.path("outside").to_str().unwrap(),
        ]
        .map(String::from)
    }
}

/// Verdicts as they come; the other side may hang up at any time.
#[derive(Default)]
struct Verdicts(BTreeMap<u32, VerdictKind>);

impl Verdicts {
    fn of<'a>(&'a mut self, peer: &mut Peer, id: u32) -> Option<&'a VerdictKind> {
        while !self.0.contains_key(&id) {
            let Message::Verdicts(verdicts) = peer.next_message()? else {
                continue;
            };
            self.0.extend(
                verdicts
                    .into_iter()
                    .map(|Verdict { entry, kind }| (entry.0, kind)),
            );
        }
        self.0.get(&id)
    }

    /// Sends a small file, if it is wanted.
    fn send(&mut self, peer: &mut Peer, id: u32, data: &[u8]) {
        if self.of(peer, id) == Some(&VerdictKind::Send {}) {
            self.0.remove(&id);
            let head = RecordHead::Whole {
                entry: EntryId(id),
                len_bytes: data.len() as u64,
            };
            peer.record(head, data, digest_of(data));
            self.of(peer, id);
        }
    }
}

fn open_to_all(mut made: Item) -> Item {
    if let Item::Entry(made) = &mut made {
        made.mode = 0o777;
    }
    made
}

/// Announces a link, and nothing else.
fn plant(peer: &mut Peer, place: Place, target: &str) {
    match place {
        Place::Below => {
            peer.entries(vec![
                directory(1, 0, "photos"),
                directory(2, 1, "a"),
                end(2),
            ]);
            peer.entries(vec![link(3, 1, "x", target), end(1)]);
            peer.message(&Message::ManifestEnd { entries: 3 });
        }
        Place::Top => {
            peer.entries(vec![link(1, 0, "photos", target)]);
            peer.message(&Message::ManifestEnd { entries: 1 });
        }
    }
    finish(peer);
}

/// Announces a directory where a link stands, of a mode that nobody wants, and all kinds of things
/// in it.
fn write_through(peer: &mut Peer, place: Place, link_first: Option<&str>) {
    let mut verdicts = Verdicts::default();
    let mut next = 1;
    let mut parents = Vec::new();
    if place == Place::Below {
        peer.entries(vec![
            directory(1, 0, "photos"),
            directory(2, 1, "a"),
            end(2),
        ]);
        parents.push(1);
        next = 3;
    }
    let (parent, name) = if place == Place::Below {
        (1, "x")
    } else {
        (0, "photos")
    };
    if let Some(target) = link_first {
        peer.entries(vec![link(next, parent, name, target)]);
        verdicts.of(peer, next);
        next += 1;
    }
    let (x, rc, ssh, key, up) = (next, next + 1, next + 2, next + 3, next + 4);
    peer.entries(vec![
        open_to_all(directory(x, parent, name)),
        entry(rc, x, b".bashrc", Kind::File, 6),
        open_to_all(directory(ssh, x, ".ssh")),
        entry(key, ssh, b"authorized_keys", Kind::File, 7),
        link(up, x, "witness", "/etc"),
    ]);
    verdicts.send(peer, rc, b"owned\n");
    verdicts.send(peer, key, b"ssh-ed\n");
    parents.extend([x, ssh]);
    peer.entries(parents.into_iter().rev().map(end).collect());
    peer.message(&Message::ManifestEnd {
        entries: u64::from(up),
    });
    finish(peer);
}

/// Waits for the end of an honest session, or of one that was cut off.
fn finish(peer: &mut Peer) {
    while !matches!(peer.next_message(), Some(Message::Finished {}) | None) {}
    peer.send(0, &streams::END, true);
}

fn each_case(case: &(impl Fn(Planted, Place, usize) + Sync)) {
    // Most of the time somebody waits for somebody.
    thread::scope(|scope| {
        for planted in [Planted::Now, Planted::Before, Planted::ByUser] {
            scope.spawn(move || {
                for place in [Place::Below, Place::Top] {
                    (0..TARGETS).for_each(|number| case(planted, place, number));
                }
            });
        }
    });
}

pub fn of_a_server(backend: &str) {
    for into in [Into::Existing, Into::NewName, Into::Several] {
        each_case(&|planted, place, number| {
            let dir = tempfile::tempdir().unwrap();
            let around = Surroundings::new(dir.path());
            let target = around.link_targets()[number].clone();
            let what = format!("{into:?} {planted:?} {place:?} {target}");
            pull_case(backend, &around, (into, planted, place), &target, &what);
        });
    }
}

fn pull_case(
    backend: &str,
    around: &Surroundings,
    (into, planted, place): (Into, Planted, Place),
    target: &str,
    what: &str,
) {
    let (to, asked) = match into {
        Into::Existing => ("home/dst", "home/dst/photos"),
        // Where a user has a link already, what was new is there.
        Into::NewName if planted == Planted::ByUser => ("home/dst", "home/dst/photos"),
        Into::NewName => ("home/dst/new", "home/dst/new"),
        Into::Several => ("home/dst", "home/dst/photos"),
    };
    let (to, asked) = (around.path(to), around.path(asked));
    let sources = if into == Into::Several {
        &["movies", "sub/photos"][..]
    } else {
        &["photos"]
    };
    let place_of_link = match place {
        Place::Below => asked.join("x"),
        Place::Top => asked.clone(),
    };
    if planted == Planted::ByUser {
        fs::create_dir_all(place_of_link.parent().unwrap()).unwrap();
        symlink(target, &place_of_link).unwrap();
    }
    let options = ["--backend", backend];
    let lands_in = asked.parent().unwrap();
    let before = around.record(&asked, lands_in);
    if planted == Planted::Before {
        pull_sources(&options, sources, &to, |peer| plant(peer, place, target));
        assert_eq!(
            fs::read_link(&place_of_link).unwrap().to_str(),
            Some(target),
            "{what}"
        );
        assert_eq!(
            before,
            around.record(&asked, lands_in),
            "{what}: the first run"
        );
    }
    let link_first = (planted == Planted::Now).then_some(target);
    for option in ["--force", "--keep-dirlinks"] {
        // A link of the user's own is followed if he says so.
        if option == "--keep-dirlinks" && planted == Planted::ByUser {
            continue;
        }
        let output = pull_sources(&[&options[..], &[option]].concat(), sources, &to, |peer| {
            write_through(peer, place, link_first)
        });
        let unlinked = into == Into::NewName && (planted, place) == (Planted::Before, Place::Below);
        // Now that it is there, the new name is a directory that `photos` goes into.
        let made_there =
            into == Into::NewName && place == Place::Below && option == "--keep-dirlinks";
        assert!(
            output.code == Some(1) || output.code == Some(3) || unlinked || made_there,
            "{what}: {output:?}"
        );
        assert_eq!(before, around.record(&asked, lands_in), "{what} {option}");
    }
    assert_no_leftovers(&around.dir);
}

pub fn of_a_client(scene: &Scene) {
    each_case(&|planted, place, number| {
        let name = format!("around-{planted:?}");
        let around = Surroundings::new(&scene.world.root(&name));
        let target = around.link_targets()[number].clone();
        let what = format!("{planted:?} {place:?} {target}");
        let asked = around.path("home/dst/photos");
        let place_of_link = if place == Place::Below {
            asked.join("x")
        } else {
            asked.clone()
        };
        if planted == Planted::ByUser {
            fs::create_dir_all(place_of_link.parent().unwrap()).unwrap();
            symlink(&target, &place_of_link).unwrap();
        }
        let before = around.record(&asked, &around.path("home/dst"));
        if planted == Planted::Before {
            plant(&mut pusher(scene, &name, false), place, &target);
            assert_eq!(
                fs::read_link(&place_of_link).unwrap().to_str(),
                Some(&target[..]),
                "{what}"
            );
        }
        let link_first = (planted == Planted::Now).then_some(&target[..]);
        for keep_dirlinks in [false, true] {
            if keep_dirlinks && planted == Planted::ByUser {
                continue;
            }
            let mut peer = pusher(scene, &name, keep_dirlinks);
            write_through(&mut peer, place, link_first);
            assert_eq!(
                before,
                around.record(&asked, &around.path("home/dst")),
                "{what} {keep_dirlinks}"
            );
        }
        assert_no_leftovers(&around.dir);
        fs::remove_dir_all(&around.dir).unwrap();
    });
}

/// A push into `home/dst` of some surroundings in the root that was welcomed.
fn pusher(scene: &Scene, around: &str, keep: bool) -> Peer {
    let mut peer = scene.connect();
    let mut request = peer::push_request(&format!("{around}/home/dst"));
    if let WireRequest::Push { keep_dirlinks, .. } = &mut request {
        *keep_dirlinks = keep;
    }
    peer.open(request);
    assert!(
        matches!(peer.next_message(), Some(Message::Welcome(_))),
        "{:?}",
        peer.closed()
    );
    peer
}

/// A second entry of a name that is in the works fails; one of a name that was finished does not.
pub fn twice_of_one_name(scene: &Scene) {
    let name_error = |kind: &VerdictKind| matches!(kind, VerdictKind::Failed { error } if error.code == landro::proto::EntryErrorCode::Name);
    let mut peer = scene.push();
    let mut verdicts = Verdicts::default();
    peer.entries(vec![
        file(1, "one", 3),
        file(2, "one", 3),
        link(3, 0, "one", ".."),
        directory(4, 0, "one"),
    ]);
    for id in 2..=4 {
        assert!(name_error(verdicts.of(&mut peer, id).unwrap()), "{id}");
    }
    // A child of the one that failed.
    peer.entries(vec![entry(5, 4, b"child", Kind::File, 3), end(4)]);
    assert!(matches!(
        verdicts.of(&mut peer, 5),
        Some(VerdictKind::Failed { .. })
    ));
    verdicts.send(&mut peer, 1, b"yes");
    peer.entries(vec![file(6, "one", 2)]);
    verdicts.send(&mut peer, 6, b"no");
    assert!(matches!(
        verdicts.of(&mut peer, 6),
        Some(VerdictKind::Done { .. })
    ));
    // Directories that are open, and what lies in them under one name.
    peer.entries(vec![
        directory(7, 0, "two"),
        directory(8, 0, "two"),
        end(8),
        directory(9, 7, "two"),
    ]);
    assert!(name_error(verdicts.of(&mut peer, 8).unwrap()));
    peer.entries(vec![
        entry(10, 9, b"x", Kind::File, 1),
        entry(11, 7, b"x", Kind::File, 1),
        end(9),
        end(7),
    ]);
    verdicts.send(&mut peer, 10, b"a");
    verdicts.send(&mut peer, 11, b"b");
    for id in [7, 9, 10, 11] {
        assert!(
            matches!(verdicts.of(&mut peer, id), Some(VerdictKind::Done { .. })),
            "{id}"
        );
    }
    peer.message(&Message::ManifestEnd { entries: 11 });
    finish(&mut peer);
    assert_eq!(fs::read(scene.world.root("one")).unwrap(), b"no");
}

/// `--keep-dirlinks`: a link of the user's own is his word, but for what the server put where that
/// link leads.
pub fn through_own_links(backend: &str) {
    let cases = [
        ("latest", ""),
        ("latest/", ""),
        ("latest/deep", ""),
        ("./latest/../latest", ""),
        ("via", "latest"),
        ("v/../latest", ""),
    ];
    for (number, (own, second)) in cases.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let around = Surroundings::new(dir.path());
        let asked = around.path("home/dst/photos");
        fs::create_dir_all(asked.join("v")).unwrap();
        fs::create_dir(around.path("outside/deep")).unwrap();
        symlink(own, asked.join("current")).unwrap();
        if !second.is_empty() {
            symlink(second, asked.join(own)).unwrap();
        }
        let before = around.record(&asked, &around.path("home/dst"));
        let outside = around.path("outside").to_str().unwrap().to_owned();
        let output = pull_sources(
            &["--backend", backend, "--keep-dirlinks"],
            &["photos"],
            &around.path("home/dst"),
            |peer| {
                let mut verdicts = Verdicts::default();
                peer.entries(vec![
                    directory(1, 0, "photos"),
                    link(2, 1, "latest", &outside),
                ]);
                verdicts.of(peer, 2);
                peer.entries(vec![
                    open_to_all(directory(3, 1, "current")),
                    entry(4, 3, b".bashrc", Kind::File, 6),
                ]);
                verdicts.send(peer, 4, b"owned\n");
                peer.entries(vec![end(3), end(1)]);
                peer.message(&Message::ManifestEnd { entries: 4 });
                finish(peer);
            },
        );
        assert_eq!(output.code, Some(3), "{number}: {output:?}");
        assert!(output.stderr.contains("ln -sfn"), "{output:?}");
        assert_eq!(
            before,
            around.record(&asked, &around.path("home/dst")),
            "{own}"
        );
    }
}
