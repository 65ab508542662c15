//! Lanes on other workers than their session's, and the mail between them: in order between two
//! workers, and at any time.

use std::collections::{BTreeMap, VecDeque};

use super::{Node, World};
use crate::ids::{DirId, FileId, OpId, WorkerId};
use crate::proto::DiskOp;
use crate::proto::lanes::{Lanes, LanesInput};
use crate::proto::lanes::{ToHome, ToOutpost};
use crate::proto::session::Session;
use crate::proto::sim::disk::Ino;

/// Beside that of the session.
const WORKERS: usize = 2;

#[derive(Debug)]
enum Word {
    /// With the descriptors that go along.
    ToOutpost(ToOutpost, Option<(FileId, usize)>, Vec<(DirId, Ino)>),
    ToHome(ToHome),
}

/// Which way mail goes: between a node and what of it is on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) home: usize,
    worker: WorkerId,
    is_to_home: bool,
}

#[derive(Debug, Default)]
pub(super) struct Mail(BTreeMap<Way, VecDeque<Word>>);

impl Mail {
    /// Ways on which something may arrive next.
    pub(super) fn ways(&self) -> impl Iterator<Item = Way> {
        let waits = self.0.iter().filter(|(_, words)| !words.is_empty());
        waits.map(|(way, _)| *way)
    }

    fn put(&mut self, way: Way, word: Word) {
        self.0.entry(way).or_default().push_back(word);
    }
}

impl World {
    /// Those that are whole, not what of them is on other workers.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.home.is_none())
    }

    /// Who takes a lane that joins a session to be added.
    pub(super) fn takes_added(&mut self, home: usize) -> usize {
        let is_away = self.nodes[home].opens.is_some() && self.troubles.away > 0;
        if !is_away || !self.rng.chance(self.troubles.away) {
            return home;
        }
        let worker = WorkerId(1 + self.rng.below(WORKERS) as u8);
        match self.outpost_at(home, worker) {
            Some(node) => node,
            None => self.begin_outpost(home, worker),
        }
    }

    fn begin_outpost(&mut self, home: usize, worker: WorkerId) -> usize {
        let limits = self.server_limits.clone();
        let sends = self.nodes[home].opens.unwrap_or(false);
        let session = Session::away(self.now, worker, sends, limits);
        let (id, side) = (self.nodes[home].id, self.nodes[home].side);
        let lanes = Lanes::outpost(self.now, session, sends, self.config(id));
        let node = Node {
            home: Some((home, worker)),
            ..Node::new(side, id, lanes)
        };
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn outpost_at(&self, home: usize, worker: WorkerId) -> Option<usize> {
        let is_it = |node: &Node| node.home == Some((home, worker)) && !node.over;
        self.nodes.iter().position(is_it)
    }

    pub(super) fn mail_outpost(&mut self, home: usize, worker: WorkerId, mail: ToOutpost) {
        let is_to_home = false;
        let way = Way {
            home,
            worker,
            is_to_home,
        };
        let handles = &self.nodes[home].handles;
        let descriptor = mail.file().map(|file| (file, handles.descriptor(file)));
        let dirs = mail.dirs().into_iter();
        let dirs = dirs.map(|dir| (dir, handles.directory(dir))).collect();
        self.mail.put(way, Word::ToOutpost(mail, descriptor, dirs));
    }

    pub(super) fn mail_home(&mut self, node: usize, mail: ToHome) {
        let (home, worker) = self.nodes[node].home.expect("an outpost says that");
        if let Some(file) = mail.lets_go() {
            let descriptor = self.nodes[node].descriptors.remove(&file);
            assert!(descriptor.is_some(), "{file:?} is let go of twice");
        }
        for dir in mail.lets_go_dirs() {
            let directory = self.nodes[node].directories.remove(dir);
            assert!(directory.is_some(), "{dir:?} is let go of twice");
        }
        let is_to_home = true;
        let way = Way {
            home,
            worker,
            is_to_home,
        };
        self.mail.put(way, Word::ToHome(mail));
    }

    /// The next word on a way arrives.
    pub(super) fn deliver(&mut self, way: Way) {
        let words = self.mail.0.get_mut(&way);
        let Some(word) = words.and_then(VecDeque::pop_front) else {
            return;
        };
        let Way { home, worker, .. } = way;
        match word {
            Word::ToOutpost(mail, descriptor, dirs) => {
                let mut node = self.outpost_at(home, worker);
                if let ToOutpost::Dial { .. } = mail {
                    node = node.or_else(|| Some(self.begin_outpost(home, worker)));
                }
                if let Some(node) = node {
                    self.nodes[node].descriptors.extend(descriptor);
                    self.nodes[node].directories.extend(dirs);
                    self.input(node, LanesInput::FromHome(mail));
                }
            }
            Word::ToHome(_) if self.nodes[home].over => {
                self.mail_outpost(home, worker, ToOutpost::Over);
            }
            Word::ToHome(mail) => self.input(home, LanesInput::FromOutpost(worker, mail)),
        }
    }

    /// An operation of a node: files are open at its session.
    pub(super) fn start_operation(&mut self, node: usize, op: OpId, cmd: DiskOp) {
        match self.nodes[node].home {
            Some((home, _)) => {
                let file = match cmd {
                    DiskOp::Read { file, .. }
                    | DiskOp::Pipe { file, .. }
                    | DiskOp::Map { file, .. }
                    | DiskOp::Write { file, .. }
                    | DiskOp::MakeHole { file, .. } => Some(file),
                    _ => None,
                };
                let dir = match cmd {
                    DiskOp::ReadSmall { dir, .. } => Some(dir),
                    _ => None,
                };
                self.nodes[node].wholes += usize::from(dir.is_some());
                let descriptor = file.map(|file| self.nodes[node].descriptors[&file]);
                let directory = dir.map(|dir| self.nodes[node].directories[&dir]);
                let handles = &mut self.nodes[home].handles;
                match (descriptor, directory) {
                    (Some(descriptor), _) => handles.start_on(op, cmd, descriptor),
                    (None, Some(directory)) => handles.start_in(op, cmd, directory),
                    (None, None) => handles.start(op, cmd),
                }
                let of_others = &mut self.nodes[home].operations_of_others;
                assert!(of_others.insert(op, node).is_none(), "two of one number");
            }
            None => self.nodes[node].handles.start(op, cmd),
        }
    }

    /// Whose an operation is that was done at a session.
    pub(super) fn operator(&mut self, home: usize, op: OpId) -> usize {
        let of_others = &mut self.nodes[home].operations_of_others;
        of_others.remove(&op).unwrap_or(home)
    }
}
