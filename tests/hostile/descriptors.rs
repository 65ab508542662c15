//! Peers that have a daemon open more than it may, and leave it open: others get on.

use std::fs;

use bytes::Bytes;
use landro::proto::wire::{Message, WireRequest};
use landro::quic::Identity;

use super::common::{Daemon, Running, Side, command};
use super::peer::{Peer, directory};

/// Of the daemon; what it needs for itself is a third of it.
const LIMIT: &str = "--nofile=128:128";

pub struct Scene {
    pub daemon: Daemon,
    pub villain: Identity,
    client: Side,
    backend: &'static str,
    dir: tempfile::TempDir,
    _server: Side,
}

impl Scene {
    pub fn new(backend: &'static str) -> Scene {
        let (client, server, dir) = (Side::new(), Side::new(), tempfile::tempdir().unwrap());
        let villain = Identity::generate().unwrap();
        fs::create_dir_all(dir.path().join("root")).unwrap();
        let (own, other) = (client.id(), villain.fingerprint().to_string());
        let args = [
            "--backend",
            backend,
            "--workers",
            "1",
            "--allow",
            &own,
            "--allow",
            &other,
        ];
        let daemon = Daemon::start_with(
            &server,
            &["prlimit", LIMIT],
            &dir.path().join("root"),
            &args,
        );
        Scene {
            daemon,
            villain,
            client,
            backend,
            dir,
            _server: server,
        }
    }

    /// What stays open leaves a part of the table to what does not.
    fn look(&self) {
        let open = self.open();
        println!("{open} descriptors");
        assert!(open < 128 / 8 * 7, "{open} descriptors are held");
    }

    /// Descriptors that the daemon has.
    pub fn open(&self) -> usize {
        let all = fs::read_dir(format!("/proc/{}/fd", self.daemon.pid()));
        all.unwrap().count()
    }

    /// An honest client comes and goes.
    fn works(&self) {
        self.works_over(&[]);
    }

    /// The same with more options.
    pub fn works_over(&self, options: &[&str]) {
        let tree = self.dir.path().join("tree");
        for number in 0..5 {
            let below = tree.join(format!("{number}/below"));
            fs::create_dir_all(&below).unwrap();
            fs::write(below.join("file"), "file").unwrap();
        }
        let (from, to) = (tree.to_str().unwrap(), self.daemon.url("tree"));
        let fixed = [
            "cp",
            "--json",
            "--backend",
            self.backend,
            "--peer",
            &self.daemon.fingerprint,
        ];
        let args = [&fixed, options, &[from, &to]].concat();
        Running::spawn(command(&self.client, &[], args))
            .wait()
            .expect(0);
    }
}

/// Directories of pushes, none of which ever ends.
pub fn of_directories(backend: &'static str) {
    let scene = Scene::new(backend);
    let mut peers = Vec::new();
    for session in 0..6 {
        let mut peer = Peer::connect(scene.daemon.address(), &scene.villain);
        peer.push("");
        peer.entries(
            (1..=64)
                .map(|id| directory(id, 0, &format!("d{session}-{id}")))
                .collect(),
        );
        (0..20).for_each(|_| peer.turn());
        peers.push(peer);
    }
    scene.look();
    scene.works();
    assert!(peers.iter().all(|peer| !peer.is_closed()));
}

/// Sources of pulls, none of which is ever said to be wanted or not.
pub fn of_sources(backend: &'static str) {
    let scene = Scene::new(backend);
    let names: Vec<String> = (0..60).map(|number| format!("s{number}")).collect();
    for name in &names {
        fs::create_dir(scene.dir.path().join("root").join(name)).unwrap();
        fs::write(
            scene.dir.path().join("root").join(name).join("file"),
            "file",
        )
        .unwrap();
    }
    let mut peers = Vec::new();
    for _ in 0..6 {
        let mut peer = Peer::connect(scene.daemon.address(), &scene.villain);
        let sources = names
            .iter()
            .map(|name| Bytes::from(format!("{name}/file")))
            .collect();
        peer.open(WireRequest::Pull {
            sources,
            follow_named: false,
            no_growing: false,
            place: None,
        });
        assert!(matches!(peer.next_message(), Some(Message::Welcome(_))));
        (0..20).for_each(|_| peer.turn());
        peers.push(peer);
    }
    scene.look();
    scene.works();
    assert!(peers.iter().all(|peer| !peer.is_closed()));
}
