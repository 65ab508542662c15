//! Takes marks away once everything is on disk: one thread of a daemon, for syncfs(2) takes as long
//! as the disk does.
//!
//! A mark may go only if no session published anything since the sync began. Sessions hold the
//! marked directory's lock shared as long as they live, and give the mark a number of their own.
//! So: nobody holds the lock, the number is read, everything is synced, again nobody holds the
//! lock, and the number is still the same.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use landro_sys::file::flags;
use landro_sys::{FileDone, FileOp, Flock, OpenHow, Statx, run};

use super::durable::{MARK, is_of, settled};
use crate::proto::journal::Storage;

/// Directories that wait, each with a descriptor. One that finds no room keeps its mark until a
/// later session there.
const PENDING_MAX: usize = 64;

/// Time between two looks: long enough to sync once for many sessions, as short as ext4's own
/// commits.
const PAUSE: Duration = Duration::from_secs(5);

/// Where sessions name the directories they marked.
pub type Settler = Sender<Arc<OwnedFd>>;

/// Starts the thread; it ends when the last [`Settler`] is dropped.
///
/// # Errors
/// When the system has no room for another thread.
pub fn start() -> std::io::Result<Settler> {
    let (sender, queue) = bounded(PENDING_MAX);
    let boot_id = landro_sys::boot_id().unwrap_or_default();
    std::thread::Builder::new()
        .name("landro-settle".to_owned())
        .spawn(move || settle(&queue, boot_id))?;
    Ok(sender)
}

struct Pending {
    dir: Arc<OwnedFd>,
    stat: Statx,
    storage: Storage,
    /// The mark when the sync began.
    seen: Option<Vec<u8>>,
}

fn settle(queue: &Receiver<Arc<OwnedFd>>, boot_id: [u8; 16]) {
    let mut pending: Vec<Pending> = Vec::new();
    loop {
        match queue.recv_timeout(if pending.is_empty() {
            Duration::MAX
        } else {
            PAUSE
        }) {
            Ok(top) => {
                add(&mut pending, &top, boot_id);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for waiting in &mut pending {
            waiting.seen = quiet(&waiting.dir).then(|| mark_on(&waiting.dir)).flatten();
        }
        let mut synced: Vec<(u64, bool)> = Vec::new();
        pending.retain(|waiting| {
            let Some(seen) = &waiting.seen else {
                // Somebody works there, or the mark is gone already.
                return mark_on(&waiting.dir).is_some();
            };
            let dev = waiting.stat.dev;
            let known = synced
                .iter()
                .find(|(other, _)| *other == dev)
                .map(|(_, ok)| *ok);
            let ok = known.unwrap_or_else(|| {
                let ok = run(FileOp::SyncFs {
                    file: waiting.dir.clone(),
                })
                .is_ok();
                synced.push((dev, ok));
                ok
            });
            // Where the disk failed, the mark stays: a later kernel or mount has to look.
            ok && !take_away(waiting, seen)
        });
    }
}

fn add(pending: &mut Vec<Pending>, top: &Arc<OwnedFd>, boot_id: [u8; 16]) {
    // A description of its own: the session's holds the session's lock.
    let how = OpenHow {
        flags: flags::O_RDONLY | flags::O_DIRECTORY,
        mode: 0,
        resolve: 0,
    };
    let op = FileOp::Open {
        dir: Some(top.clone()),
        path: c".".to_owned(),
        how,
        waits: false,
    };
    let Ok(FileDone::Opened(dir)) = run(op) else {
        return;
    };
    let dir = Arc::new(dir);
    let Ok(FileDone::Stat(stat)) = run(FileOp::Fstat { file: dir.clone() }) else {
        return;
    };
    let known = pending
        .iter()
        .any(|other| (other.stat.dev, other.stat.ino) == (stat.dev, stat.ino));
    if !known && pending.len() < PENDING_MAX {
        let storage = Storage {
            boot: boot_id,
            mount: stat.mount.unwrap_or_default(),
        };
        pending.push(Pending {
            dir,
            stat,
            storage,
            seen: None,
        });
    }
}

/// Nobody works there.
fn quiet(dir: &Arc<OwnedFd>) -> bool {
    let free = lock(dir);
    unlock(dir);
    free
}

/// Whether the directory needs no further look.
fn take_away(waiting: &Pending, seen: &[u8]) -> bool {
    if !lock(&waiting.dir) {
        return false;
    }
    let now = mark_on(&waiting.dir);
    let unchanged = now.as_deref() == Some(seen) && is_of(seen, &waiting.storage);
    if unchanged {
        let (file, name) = (waiting.dir.clone(), MARK);
        let op = match settled(seen) {
            Some(value) => FileOp::SetXattr { file, name, value },
            None => FileOp::RemoveXattr { file, name },
        };
        // One that cannot be taken away costs later kernels a look at the files, no more.
        let _ = run(op);
    }
    unlock(&waiting.dir);
    unchanged || now.is_none_or(|now| !is_of(&now, &waiting.storage))
}

fn lock(dir: &Arc<OwnedFd>) -> bool {
    matches!(
        run(FileOp::Lock {
            file: dir.clone(),
            how: Flock::Exclusive
        }),
        Ok(FileDone::Locked(true))
    )
}

fn unlock(dir: &Arc<OwnedFd>) {
    // What cannot be unlocked was not locked: there is nothing to do about it.
    let _ = run(FileOp::Lock {
        file: dir.clone(),
        how: Flock::Unlock,
    });
}

fn mark_on(dir: &Arc<OwnedFd>) -> Option<Vec<u8>> {
    match run(FileOp::GetXattr {
        file: dir.clone(),
        name: MARK,
    }) {
        Ok(FileDone::Xattr(value)) => value,
        _ => None,
    }
}
