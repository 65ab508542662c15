//! Who may do what: the text of `authorized_peers` turned into a table, options of the command line
//! on top.
//!
//! What is not understood takes rights away, never more than it: a peer on a bad line is let in by
//! no other line.

mod line;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::engine::{Grant, PeerAccess};
use crate::ids::Fingerprint;

use line::PeerLine;
pub use line::Problem;
pub use line::Rights;

/// More peers than this in one file is a mistake, not a list (it is read whole into memory).
pub const MAX_PEERS: usize = 100_000;

/// What the options of one run take away from everybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restrict {
    Nothing,
    ReadOnly,
    WriteOnly,
}

/// Peers and their rights.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Policy {
    peers: HashMap<Fingerprint, Rights>,
}

/// A line of `authorized_peers` that lets somebody in.
pub struct Line<'a> {
    pub peer: Fingerprint,
    pub rights: &'a Rights,
    /// Behind its `#`.
    pub comment: Option<&'a str>,
}

/// A line of `authorized_peers` that authorises nobody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
    pub problem: Problem,
    /// The earlier line whose peer is not let in either because of this one.
    pub voids: Option<usize>,
}

/// What the lines so far say of one peer.
struct Seen {
    line: usize,
    /// None: a line about this peer was bad, or two did not agree.
    rights: Option<Rights>,
}

/// All lines so far.
#[derive(Default)]
struct Table {
    peers: HashMap<Fingerprint, Seen>,
    /// The peer of the line just before, whose end a line that begins with no fingerprint may be.
    before: Option<Fingerprint>,
}

impl Policy {
    /// Reads `authorized_peers`: one `SHA256:...` a line; then options `ro`, `rw` (the default),
    /// `wo`, `clear`, `path=SUB` (percent-encoded as in URLs) and `expires=TIME` (RFC 3339, or a
    /// date, both UTC), separated by blanks or commas; a word that begins with `#` begins a
    /// comment. A bad line authorises nobody and is returned with its number.
    ///
    /// sshd takes the first of several lines of one key. Here lines that do not agree cancel each
    /// other: whoever adds `ro` below an older line wants less, not what was there.
    pub fn parse(text: &[u8]) -> (Policy, Vec<BadLine>) {
        let mut table = Table::default();
        let mut bad = Vec::new();
        for (index, bytes) in text.split(|&b| b == b'\n').enumerate() {
            let line = index + 1;
            if let Err((problem, voids)) = table.take(line, bytes) {
                bad.push(BadLine {
                    line,
                    problem,
                    voids,
                });
            }
        }
        let good = |(peer, seen): (Fingerprint, Seen)| Some((peer, seen.rights?));
        (
            Policy {
                peers: table.peers.into_iter().filter_map(good).collect(),
            },
            bad,
        )
    }

    /// Nobody but those of `--allow`.
    pub fn of(allow: &[Fingerprint]) -> Policy {
        let mut policy = Policy::default();
        allow.iter().for_each(|peer| policy.allow(*peer));
        policy
    }

    /// `--allow`: full rights below the whole root, whatever the file says of this peer; in the
    /// clear only if its line there says so.
    pub fn allow(&mut self, peer: Fingerprint) {
        let clear = self.peers.get(&peer).is_some_and(|rights| rights.clear);
        self.peers.insert(
            peer,
            Rights {
                read: true,
                write: true,
                path: None,
                clear,
                expires_unix_s: None,
            },
        );
    }

    /// When the next peer's time is over, in seconds since the epoch.
    pub fn next_expiry_unix_s(&self, now_unix_s: i64) -> Option<i64> {
        let all = self.peers.values();
        let ahead = all.filter_map(|rights| rights.expires_unix_s);
        ahead.filter(|at| *at > now_unix_s).min()
    }

    /// Whether a peer may come in, now or another day.
    pub fn knows(&self, peer: &Fingerprint) -> bool {
        self.peers.contains_key(peer)
    }

    /// The lines of a text that let somebody in, in their order; `self` is what it says in all.
    pub fn lines<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = Line<'a>> {
        let mut told = HashSet::new();
        text.split(|&b| b == b'\n').filter_map(move |bytes| {
            let PeerLine { peer, .. } = line::read(bytes).ok()??;
            let rights = self.peers.get(&peer)?;
            told.insert(peer).then_some(Line {
                peer,
                rights,
                comment: line::comment(bytes),
            })
        })
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// How many may come in, at a time in seconds since the epoch.
    pub fn len_at(&self, now_unix_s: i64) -> usize {
        let all = self.peers.values();
        all.filter(|rights| rights.expires_unix_s.is_none_or(|at| at > now_unix_s))
            .count()
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// What `peer` may do, if it may come in at all, at a time in seconds since the epoch.
    pub fn access(
        &self,
        peer: &Fingerprint,
        restrict: Restrict,
        now_unix_s: i64,
    ) -> Option<PeerAccess> {
        let rights = self.peers.get(peer)?;
        if rights.expires_unix_s.is_some_and(|at| at <= now_unix_s) {
            return None;
        }
        let access = Grant {
            read: rights.read && restrict != Restrict::WriteOnly,
            write: rights.write && restrict != Restrict::ReadOnly,
        };
        Some(PeerAccess {
            access,
            path: rights.path.clone(),
            clear: rights.clear,
        })
    }
}

impl Table {
    /// Takes one line; if it is bad, says why and which earlier line is void for it.
    fn take(&mut self, number: usize, bytes: &[u8]) -> Result<(), (Problem, Option<usize>)> {
        let before = self.before.take();
        match line::read(bytes) {
            Ok(None) => Ok(()),
            Ok(Some(line)) => {
                self.before = Some(line.peer);
                self.add(number, line).map_err(|problem| (problem, None))
            }
            Err(problem) => {
                let mut named = line::peers_named(bytes);
                if !line::is_about_a_peer(bytes) {
                    // An option that slipped onto a line of its own: the line above would let in
                    // more than was meant.
                    named.extend(before);
                }
                let voids = named
                    .into_iter()
                    .filter_map(|peer| self.void(number, peer))
                    .next();
                Err((problem, voids))
            }
        }
    }

    fn add(&mut self, number: usize, line: PeerLine) -> Result<(), Problem> {
        let full = self.peers.len() >= MAX_PEERS;
        match self.peers.entry(line.peer) {
            Entry::Vacant(_) if full => Err(Problem::TooMany),
            Entry::Vacant(free) => {
                free.insert(Seen {
                    line: number,
                    rights: Some(line.rights),
                });
                Ok(())
            }
            Entry::Occupied(seen) if seen.get().rights.as_ref() == Some(&line.rights) => Ok(()),
            Entry::Occupied(mut seen) => {
                seen.get_mut().rights = None;
                Err(Problem::Disagrees {
                    first_line: seen.get().line,
                })
            }
        }
    }

    /// Lets `peer` in by no line; gives the earlier line that would have.
    fn void(&mut self, number: usize, peer: Fingerprint) -> Option<usize> {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            return None;
        }
        let seen = self.peers.entry(peer).or_insert(Seen {
            line: number,
            rights: None,
        });
        seen.rights.take().map(|_| seen.line)
    }
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}: {}; this line authorises nobody",
            self.line, self.problem
        )?;
        match self.voids {
            Some(line) => write!(
                f,
                ", and line {line}, whose peer it may be about, does not either"
            ),
            None => Ok(()),
        }
    }
}
