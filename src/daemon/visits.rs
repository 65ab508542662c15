//! The file `visits`: when each authorised peer came last, and from where, for `landro peers`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use landro_sys::trusted::{self, Others};

use super::policy::{MAX_PEERS, Policy};
use crate::engine::{self, Visit};
use crate::ids::Fingerprint;

/// Lines of as many peers as there may be.
const FILE_MAX_BYTES: u64 = 128 * MAX_PEERS as u64;

/// How often the file is written at most: a crash loses what came since.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);

/// Its name beside `authorized_peers`.
pub const NAME: &str = "visits";

/// What is known of visits, and what of it is not written yet.
pub struct VisitBook {
    path: PathBuf,
    visits: HashMap<Fingerprint, Visit>,
    /// When something new is written.
    due: Option<Instant>,
    /// It was said that the file cannot be written.
    is_told: bool,
}

impl VisitBook {
    /// Goes on with what a file in this directory says.
    pub fn open(dir: &Path) -> VisitBook {
        let path = dir.join(NAME);
        VisitBook {
            visits: read(&path, Others::MayRead),
            path,
            due: None,
            is_told: false,
        }
    }

    /// Takes what is new, and writes it when that is due.
    pub fn look(&mut self, new: HashMap<Fingerprint, Visit>, policy: &Policy) {
        let now = engine::now();
        if !new.is_empty() {
            self.visits.extend(new);
            self.due.get_or_insert(now + WRITTEN_EVERY);
        }
        if self.due.is_some_and(|at| at <= now) {
            self.write(policy);
        }
    }

    /// Writes what is not written yet.
    pub fn finish(&mut self, new: HashMap<Fingerprint, Visit>, policy: &Policy) {
        self.visits.extend(new);
        self.write(policy);
    }

    /// Those who may come no more are forgotten.
    fn write(&mut self, policy: &Policy) {
        self.due = None;
        self.visits.retain(|peer, _| policy.knows(peer));
        let lines = self.visits.iter().map(|(peer, visit)| {
            let Visit { at_unix_s, from } = visit;
            format!("{peer} {at_unix_s} {from}\n")
        });
        if let Err(error) = replace(&self.path, lines.collect::<String>().as_bytes())
            && !std::mem::replace(&mut self.is_told, true)
        {
            tracing::warn!(
                "{}: {error}; landro peers does not know who came since",
                self.path.display()
            );
        }
    }
}

/// A reader sees the file of before or that of now. Nothing is lost with it but what it says, so it
/// is not waited for until it is on disk.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(contents)?;
    fs::rename(&new, path)
}

/// What a file says; one that cannot be used says nothing, nor does a line that is not understood.
pub fn read(path: &Path, others: Others) -> HashMap<Fingerprint, Visit> {
    let bytes = trusted::read(path, others, FILE_MAX_BYTES).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let (peer, at, from) = (next()?, next()?, next()?);
        let visit = Visit {
            at_unix_s: at.parse().ok()?,
            from: from.parse().ok()?,
        };
        Some((peer.parse().ok()?, visit))
    });
    lines.take(MAX_PEERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_who_may_not_come_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (known, gone) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        let visit = |at_unix_s| Visit {
            at_unix_s,
            from: "2001:db8::1".parse().unwrap(),
        };
        let policy = Policy::of(&[known]);
        let mut book = VisitBook::open(dir.path());
        book.look([(known, visit(1))].into(), &policy);
        assert!(!dir.path().join(NAME).exists(), "not yet");
        book.finish([(gone, visit(2))].into(), &policy);
        let path = dir.path().join(NAME);
        assert_eq!(read(&path, Others::MayRead), [(known, visit(1))].into());
        let odd = format!("{known} x y\n\nnothing\n{known} 5 192.0.2.1\n");
        fs::write(&path, odd).unwrap();
        assert_eq!(read(&path, Others::MayRead)[&known].at_unix_s, 5);
        assert!(read(&dir.path().join("none"), Others::MayRead).is_empty());
    }
}
