//! Removes unfinished files of a served directory that nobody went on with for long
//! (`--partial-max-age`): one thread, beside the workers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::engine::{self, Fate, Removal, Sight};

/// Between the end of one search and the next: ages are days, and a search reads every directory.
const PAUSE: Duration = Duration::from_secs(3600);

/// Of one search, files and directories that the log names; the others are counted.
const TOLD_MAX: u64 = 100;

/// The thread; told to end when dropped.
pub struct Partials {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Partials {
    /// Starts searching.
    ///
    /// # Errors
    /// When the system has no room for another thread.
    pub fn start(root: PathBuf, max_age: Duration) -> std::io::Result<Partials> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("landro-partials".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    search(&root, max_age, &stopped);
                    thread::park_timeout(PAUSE);
                }
            })?;
        Ok(Partials {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Partials {
    /// Not waited for: a mount that does not answer may hold it, and it has nothing to finish.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
        }
    }
}

fn search(root: &PathBuf, max_age: Duration, stopped: &AtomicBool) {
    let removal = Removal::WrittenBefore {
        seconds: engine::before(max_age),
        rehearsal: false,
    };
    let (mut removed, mut removed_bytes, mut failed) = (0_u64, 0_u64, 0_u64);
    let searched = engine::search_leftovers(root, removal, &mut |sight| {
        match sight {
            Sight::File(left, Fate::Removed) => {
                removed += 1;
                removed_bytes += left.meta.size_bytes;
                if removed <= TOLD_MAX {
                    let path = String::from_utf8_lossy(&left.path);
                    tracing::info!(?path, "removed an unfinished file that is too old");
                }
            }
            Sight::File(left, Fate::Failed(error)) => {
                failed += 1;
                if failed <= TOLD_MAX {
                    let path = String::from_utf8_lossy(&left.path);
                    tracing::warn!(?path, ?error, "cannot remove an unfinished file");
                }
            }
            Sight::Unreadable(path, error) => {
                failed += 1;
                if failed <= TOLD_MAX {
                    let path = String::from_utf8_lossy(&path);
                    tracing::warn!(?path, ?error, "cannot look for unfinished files");
                }
            }
            Sight::File(_, Fate::Kept | Fate::Busy | Fate::Doomed) => {}
        }
        !stopped.load(Ordering::Relaxed)
    });
    if let Err(error) = searched {
        tracing::warn!(?root, ?error, "cannot look for unfinished files");
    }
    if removed + failed > 0 {
        tracing::info!(
            removed,
            removed_bytes,
            failed,
            "looked for unfinished files"
        );
    }
}
