//! The file `visits`: when each authorised peer came last, and from where, for `landro peers`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use landro_sys::trusted::{self, Others};

use super::policy::MAX_PEERS;
use crate::engine::{Visit, Visits};
use crate::ids::Fingerprint;

/// Lines of as many peers as there may be.
const FILE_MAX_BYTES: u64 = 128 * MAX_PEERS as u64;

/// How often the file is written at most: a crash loses what came since.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);

/// Its name beside `authorized_peers`.
pub const NAME: &str = "visits";

/// How long the end of the daemon waits for the last of it: a disk may not answer.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// Who may come, now or another day.
type Knows = Box<dyn Fn(&Fingerprint) -> bool + Send>;

/// The thread that writes them down: nobody else is to wait for that disk.
pub struct VisitKeeper {
    stop: Option<Sender<()>>,
    done: Receiver<()>,
}

impl VisitKeeper {
    /// Goes on with what a file in this directory says.
    ///
    /// # Errors
    /// When the system has no room for another thread.
    pub fn start(dir: &Path, visits: Arc<Visits>, knows: Knows) -> io::Result<VisitKeeper> {
        let path = dir.join(NAME);
        let ((stop, stopped), (ended, done)) = (mpsc::channel::<()>(), mpsc::channel());
        thread::Builder::new()
            .name("landro-visits".to_owned())
            .spawn(move || {
                let mut book = VisitBook {
                    visits: read(&path, Others::MayRead),
                    path,
                    is_told: false,
                };
                while stopped.recv_timeout(WRITTEN_EVERY) == Err(RecvTimeoutError::Timeout) {
                    book.write(visits.take(), &knows);
                }
                book.write(visits.take(), &knows);
                let _ = ended.send(());
            })?;
        Ok(VisitKeeper {
            stop: Some(stop),
            done,
        })
    }
}

impl Drop for VisitKeeper {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.done.recv_timeout(LAST_WITHIN);
    }
}

/// What is known of visits.
struct VisitBook {
    path: PathBuf,
    visits: HashMap<Fingerprint, Visit>,
    /// It was said that the file cannot be written.
    is_told: bool,
}

impl VisitBook {
    /// Those who may come no more are forgotten.
    fn write(&mut self, new: HashMap<Fingerprint, Visit>, knows: &Knows) {
        let before = self.visits.len();
        let is_new = !new.is_empty();
        self.visits.extend(new);
        self.visits.retain(|peer, _| knows(peer));
        if !is_new && self.visits.len() == before {
            return;
        }
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
        let visits = Arc::<Visits>::default();
        let start = || {
            let knows = Box::new(move |peer: &Fingerprint| *peer == known);
            VisitKeeper::start(dir.path(), visits.clone(), knows).unwrap()
        };
        let keeper = start();
        visits.note(known, visit(1));
        visits.note(gone, visit(2));
        drop(keeper);
        let path = dir.path().join(NAME);
        let found = || read(&path, Others::MayRead);
        assert_eq!(found(), [(known, visit(1))].into());
        drop(start());
        assert_eq!(found(), [(known, visit(1))].into(), "nothing new");
        let odd = format!("{known} x y\n\nnothing\n{known} 5 192.0.2.1\n");
        fs::write(&path, odd).unwrap();
        assert_eq!(found()[&known].at_unix_s, 5);
        assert!(read(&dir.path().join("none"), Others::MayRead).is_empty());
    }
}
