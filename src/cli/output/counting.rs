//! How much a copy will be, counted by a walk of its own over local sources: the transfer's walk
//! stops where its window is full.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};

use super::progress::Amount;

/// A transfer whose walk is over by then needs no other, and pays for none.
const COUNT_AFTER: Duration = Duration::from_secs(2);

/// As deep as a transfer goes; each level holds a descriptor.
const MAX_DEPTH: usize = 512;

/// A walk that waits to be needed, or runs on a thread of its own. The thread ends when this is
/// dropped, or with the process where a mount does not answer.
pub struct Counting {
    sources: Vec<PathBuf>,
    state: CountingState,
    stop: Arc<AtomicBool>,
}

enum CountingState {
    /// Next: Running, Over.
    Waiting,
    /// Next: Over.
    Running(Receiver<Amount>),
    Over,
}

impl Counting {
    pub fn of(sources: &[Vec<u8>]) -> Counting {
        let sources = sources.iter().map(|path| OsStr::from_bytes(path).into());
        Counting {
            sources: sources.collect(),
            state: CountingState::Waiting,
            stop: Arc::default(),
        }
    }

    /// What was counted, once. `elapsed`: since the transfer began; `all_announced`: what there is
    /// is known by other means.
    pub fn poll(&mut self, elapsed: Duration, all_announced: bool) -> Option<Amount> {
        match &self.state {
            CountingState::Waiting if all_announced => self.state = CountingState::Over,
            CountingState::Waiting if elapsed >= COUNT_AFTER => self.start(),
            CountingState::Running(_) if all_announced => self.state = CountingState::Over,
            CountingState::Running(counted) => {
                let counted = counted.try_recv().ok()?;
                self.state = CountingState::Over;
                return Some(counted);
            }
            CountingState::Waiting | CountingState::Over => {}
        }
        None
    }

    fn start(&mut self) {
        let (sender, receiver) = bounded(1);
        let (sources, stop) = (std::mem::take(&mut self.sources), self.stop.clone());
        let started = thread::Builder::new()
            .name("landro-count".to_owned())
            .spawn(move || {
                let mut amount = Amount::default();
                for source in &sources {
                    count(source, fs::metadata(source), 0, (&mut amount, &stop));
                }
                // Who has stopped listening has no use for it.
                let _ = sender.send(amount);
            });
        self.state = match started {
            Ok(_) => CountingState::Running(receiver),
            // It is a comfort, not a need.
            Err(_) => CountingState::Over,
        };
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What cannot be looked at counts nothing: the transfer says why.
fn count(
    path: &Path,
    meta: std::io::Result<Metadata>,
    depth: usize,
    (amount, stop): (&mut Amount, &AtomicBool),
) {
    let Ok(meta) = meta else { return };
    if meta.is_file() {
        amount.files += 1;
        amount.bytes = amount.bytes.saturating_add(meta.len());
    }
    if !meta.is_dir() || depth > MAX_DEPTH {
        return;
    }
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    for entry in entries.map_while(Result::ok) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let meta = entry.metadata();
        match meta.as_ref().is_ok_and(Metadata::is_dir) {
            true => count(&entry.path(), meta, depth + 1, (amount, stop)),
            false => count(Path::new(""), meta, depth + 1, (amount, stop)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_counted_and_links_are_not() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        for (name, size_bytes) in [("f", 10), ("a/g", 0), ("a/b/h", 5)] {
            fs::write(at(name), vec![0; size_bytes]).unwrap();
        }
        symlink("f", at("link")).unwrap();
        symlink(root.path(), at("a/loop")).unwrap();
        let source = root.path().as_os_str().as_bytes().to_vec();
        let mut counting = Counting::of(&[source, b"/no/such/file".to_vec()]);
        assert_eq!(counting.poll(Duration::ZERO, false), None, "not needed yet");
        assert_eq!(counting.poll(COUNT_AFTER, false), None, "it begins");
        let CountingState::Running(counted) = &counting.state else {
            panic!()
        };
        let counted = counted.recv().unwrap();
        assert_eq!((counted.files, counted.bytes), (3, 15));
    }

    #[test]
    fn what_is_announced_is_not_counted() {
        let mut counting = Counting::of(&[b"/".to_vec()]);
        assert_eq!(counting.poll(COUNT_AFTER, true), None);
        assert!(matches!(counting.state, CountingState::Over));
    }
}
