//! Takes marks away once everything is on disk: one thread of a daemon, for syncfs(2) takes as long
//! as the disk does.
//!
//! A mark may go only if no session published anything since the sync began. Sessions hold the
//! marked directory's lock shared as long as they live, and give the mark a number of their own.
//! So: nobody holds the lock, the number is read, everything is synced, again nobody holds the
//! lock, and the number is still the same.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use landro_sys::file::flags;
use landro_sys::process::descriptor_path;
use landro_sys::{FileDone, FileOp, Flock, OpenHow, Statx, run};

use super::durable::{MARK, is_of, settled};
use super::names::c_string;
use crate::proto::journal::Storage;

/// Directories that wait. One that finds no room keeps its mark until a
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

/// A directory that is looked at later. Nothing of it is open until then: it can be unmounted, and
/// then keeps its mark, by which a later mount knows that data may be gone.
struct Pending {
    path: CString,
    stat: Statx,
    storage: Storage,
}

/// One that nobody works in, with its mark when that was seen.
struct QuietDir {
    pending: Pending,
    dir: Arc<OwnedFd>,
    seen: Vec<u8>,
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
        let mut quiet = Vec::new();
        for waiting in std::mem::take(&mut pending) {
            // Not there any more, or the mark is gone already.
            let Some((dir, seen)) = look_at(&waiting) else {
                continue;
            };
            if is_quiet(&dir) {
                let pending = waiting;
                quiet.push(QuietDir { pending, dir, seen });
            } else {
                pending.push(waiting);
            }
        }
        let mut synced: Vec<(u64, bool)> = Vec::new();
        for looked in quiet {
            let dev = looked.pending.stat.dev;
            let known = synced
                .iter()
                .find(|(other, _)| *other == dev)
                .map(|(_, ok)| *ok);
            let ok = known.unwrap_or_else(|| {
                let ok = run(FileOp::SyncFs {
                    file: looked.dir.clone(),
                })
                .is_ok();
                synced.push((dev, ok));
                ok
            });
            // Where the disk failed, the mark stays: a later kernel or mount has to look.
            if ok && !take_away(&looked) {
                pending.push(looked.pending);
            }
        }
    }
}

fn add(pending: &mut Vec<Pending>, top: &Arc<OwnedFd>, boot_id: [u8; 16]) {
    let Ok(FileDone::Stat(stat)) = run(FileOp::Fstat { file: top.clone() }) else {
        return;
    };
    let found = std::fs::read_link(descriptor_path(top));
    let Some(path) = found
        .ok()
        .and_then(|path| c_string(path.as_os_str().as_bytes()).ok())
    else {
        return;
    };
    let known = pending.iter().any(|other| is_one(&other.stat, &stat));
    if !known && pending.len() < PENDING_MAX {
        let storage = Storage {
            boot: boot_id,
            mount: stat.mount.unwrap_or_default(),
        };
        pending.push(Pending {
            path,
            stat,
            storage,
        });
    }
}

/// Whether two looks were at one directory of one mount.
fn is_one(one: &Statx, other: &Statx) -> bool {
    (one.dev, one.ino, one.mount) == (other.dev, other.ino, other.mount)
}

/// Opens a directory that bears a mark, if it is where it was.
fn look_at(waiting: &Pending) -> Option<(Arc<OwnedFd>, Vec<u8>)> {
    let op = FileOp::Open {
        dir: None,
        path: waiting.path.clone(),
        how: OpenHow {
            flags: flags::O_RDONLY | flags::O_DIRECTORY,
            mode: 0,
            resolve: flags::RESOLVE_NO_SYMLINKS,
        },
        waits: false,
    };
    let Ok(FileDone::Opened(dir)) = run(op) else {
        return None;
    };
    let dir = Arc::new(dir);
    match run(FileOp::Fstat { file: dir.clone() }) {
        Ok(FileDone::Stat(stat)) if is_one(&stat, &waiting.stat) => {
            mark_on(&dir).map(|seen| (dir, seen))
        }
        _ => None,
    }
}

/// Whether nobody works there.
fn is_quiet(dir: &Arc<OwnedFd>) -> bool {
    let free = lock(dir);
    unlock(dir);
    free
}

/// Whether the directory needs no further look.
fn take_away(QuietDir { pending, dir, seen }: &QuietDir) -> bool {
    if !lock(dir) {
        return false;
    }
    let now = mark_on(dir);
    let unchanged = now.as_ref() == Some(seen) && is_of(seen, &pending.storage);
    if unchanged {
        let (file, name) = (dir.clone(), MARK);
        let op = match settled(seen) {
            Some(value) => FileOp::SetXattr { file, name, value },
            None => FileOp::RemoveXattr { file, name },
        };
        // One that cannot be taken away costs later kernels a look at the files, no more.
        let _ = run(op);
    }
    unlock(dir);
    unchanged || now.is_none_or(|now| !is_of(&now, &pending.storage))
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
