//! Chaining values of chunks that this daemon hashed once (`--digest-cache`), by the file they are
//! of: looked up in memory, and kept in a store by a thread of its own.
//!
//! A worker never waits for the store. What is found wrong or cannot be written there costs hashing
//! again, nothing else ([ADR 44](../../docs/adr/0044-kept-digests.md)).

mod record;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};

use super::{DiskDone, DiskError, Files, space::OpenFile};
use crate::ids::FileId;
use crate::proto::integrity::Digest;
use crate::proto::{FileStamp, Lasting, Mtime, Recalled};
use landro_sys::Statx;
use record::KeptRecord;
use store::{Store, StoreChange};

/// What all values and the files they are of may take in memory: those of about 1 TB of large
/// files. The store takes no more than twice that.
pub(super) const MAX_BYTES: u64 = 32 << 20;

/// A file in the table, beside its record.
const SLOT_BYTES: u64 = 160;

/// Changes that wait for the store's thread. One that finds no room is not written this time: the
/// file is hashed once more after a restart.
const WAITING_MAX: usize = 256;

/// A daemon that starts waits so long for its store; what is read later is used from then on.
const LOAD_AT_MOST: Duration = Duration::from_secs(1);

/// A daemon that stops waits so long for what is to be written.
const FINISH_AT_MOST: Duration = Duration::from_secs(2);

/// Wrong values that the log names: a peer may say of each that it is.
const WRONG_TOLD: u64 = 16;

/// A file is not believed to be what its times say before they are so old. Whoever writes to it
/// later gets another ctime then, however coarsely its file system keeps times (ext3: seconds) and
/// however late the kernel's clock for files ticks (10 ms). git calls such files racily clean. One
/// second more, since the clock is asked in whole ones.
const RACY_SECONDS: i64 = 3;

/// Where warnings go, which are few whatever peers do.
pub type Say = fn(&str);

/// What a daemon remembers. All its workers have it.
pub struct Digests {
    table: Arc<Mutex<Table>>,
    store: Sender<StoreChange>,
    /// Seconds since the epoch.
    clock: fn() -> i64,
    say: Say,
    /// Values that were found wrong, by file.
    wrong: AtomicU64,
}

impl Digests {
    /// Takes up what the store in this directory has, which is made if it is missing. Whatever is
    /// wrong with it is said by its thread, and the daemon goes on without.
    ///
    /// # Errors
    /// When the system has no room for another thread.
    pub fn start(directory: &Path, clock: fn() -> i64, say: Say) -> std::io::Result<Digests> {
        Digests::bounded_to(MAX_BYTES, directory, clock, say)
    }

    fn bounded_to(
        max_bytes: u64,
        directory: &Path,
        clock: fn() -> i64,
        say: Say,
    ) -> std::io::Result<Digests> {
        let table = Arc::new(Mutex::new(Table::new(max_bytes)));
        let (store, changes) = bounded(WAITING_MAX);
        let (loaded, is_loaded) = bounded(1);
        let (directory, shared) = (directory.to_path_buf(), table.clone());
        std::thread::Builder::new()
            .name("landro-digests".to_owned())
            .spawn(move || {
                let store = Store::open(&directory, max_bytes, &shared, say);
                // Whoever started it may have waited long enough.
                let _ = loaded.send(());
                store::run(store, &changes, &shared, say);
            })?;
        // Later is as good: see `LOAD_AT_MOST`.
        let _ = is_loaded.recv_timeout(LOAD_AT_MOST);
        Ok(Digests {
            table,
            store,
            clock,
            say,
            wrong: AtomicU64::new(0),
        })
    }

    /// Has everything written that waits, or gives up.
    pub fn finish(&self) {
        let (done, is_done) = bounded(1);
        if self
            .store
            .send_timeout(StoreChange::Flush(done), FINISH_AT_MOST)
            .is_ok()
        {
            // What is not written by now costs hashing again.
            let _ = is_done.recv_timeout(FINISH_AT_MOST);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        locked(&self.table)
    }

    /// What is remembered of a file that is this now.
    fn recall(&self, stamp: FileStamp) -> Option<Recalled> {
        let values = match is_settled(&stamp, (self.clock)()) {
            true => self.table().find(&stamp),
            false => return None,
        };
        Some(Recalled { stamp, values })
    }

    /// A file that is this now has these values.
    fn remember(&self, stamp: FileStamp, values: Arc<[Digest]>) {
        if is_settled(&stamp, (self.clock)()) {
            let record = KeptRecord { stamp, values };
            self.table().insert(record.clone());
            // Without room it is not written this time.
            let _ = self.store.try_send(StoreChange::Kept(record));
        }
    }

    fn forget(&self, stamp: FileStamp) {
        let was_there = self.table().remove(file_of(&stamp));
        if was_there && self.wrong.fetch_add(1, Ordering::Relaxed) < WRONG_TOLD {
            (self.say)(&format!(
                "a kept digest was wrong: the file with inode {} on device {} is hashed anew; was it changed by way \
                 of mmap(2), or below its file system?",
                stamp.inode, stamp.device
            ));
        }
        let values = Arc::default();
        let record = KeptRecord { stamp, values };
        // Without room the wrong value is found once more after a restart.
        let _ = self.store.try_send(StoreChange::Kept(record));
    }
}

/// A poisoned table is whole: no change of it is made in steps that may panic in between.
fn locked(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether nobody can have changed a file since without its times telling. A time in the future
/// says that a clock was wrong.
fn is_settled(stamp: &FileStamp, now_seconds: i64) -> bool {
    let is_old = |time: Mtime| now_seconds.saturating_sub(time.seconds) > RACY_SECONDS;
    is_old(stamp.mtime) && is_old(stamp.ctime)
}

/// Which file it is: device and inode.
type WhichFile = (u64, u64);

fn file_of(stamp: &FileStamp) -> WhichFile {
    (stamp.device, stamp.inode)
}

/// What is remembered, in the order in which it was last used.
struct Table {
    max_bytes: u64,
    bytes: u64,
    files: HashMap<WhichFile, Slot>,
    order: BTreeMap<u64, WhichFile>,
    uses: u64,
}

struct Slot {
    record: KeptRecord,
    used: u64,
}

impl Table {
    fn new(max_bytes: u64) -> Table {
        Table {
            max_bytes,
            bytes: 0,
            files: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
        }
    }

    fn find(&mut self, stamp: &FileStamp) -> Option<Arc<[Digest]>> {
        let file = file_of(stamp);
        let slot = self.files.get_mut(&file)?;
        if slot.record.stamp != *stamp {
            return None;
        }
        self.order.remove(&slot.used);
        self.uses += 1;
        slot.used = self.uses;
        self.order.insert(self.uses, file);
        Some(slot.record.values.clone())
    }

    /// Takes a record, and lets those go that were not used for longest until all fit.
    fn insert(&mut self, record: KeptRecord) {
        let file = file_of(&record.stamp);
        self.remove(file);
        let bytes = cost(&record);
        if bytes > self.max_bytes {
            return;
        }
        while self.bytes + bytes > self.max_bytes
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            let oldest = *oldest;
            self.remove(oldest);
        }
        self.uses += 1;
        let used = self.uses;
        self.bytes += bytes;
        self.order.insert(used, file);
        self.files.insert(file, Slot { record, used });
    }

    fn remove(&mut self, file: WhichFile) -> bool {
        let Some(slot) = self.files.remove(&file) else {
            return false;
        };
        self.order.remove(&slot.used);
        self.bytes -= cost(&slot.record);
        true
    }

    /// From the one that was not used for longest.
    fn in_order(&self) -> impl Iterator<Item = &KeptRecord> {
        let files = self.order.values();
        files.filter_map(|file| self.files.get(file).map(|slot| &slot.record))
    }
}

fn cost(record: &KeptRecord) -> u64 {
    record.len_bytes() + SLOT_BYTES
}

fn stamp_of(stat: &Statx) -> FileStamp {
    let time = |(seconds, nanoseconds)| Mtime {
        seconds,
        nanoseconds,
    };
    FileStamp {
        device: stat.dev,
        inode: stat.ino,
        size_bytes: stat.size,
        mtime: time((stat.mtime_s, stat.mtime_ns)),
        ctime: time(stat.ctime),
    }
}

/// What is remembered of an open file. Nothing is, where its file system does not keep what a file
/// is told by: numbers, and a ctime of this host's clock.
pub(super) async fn recall(
    files: &Files,
    file: FileId,
    size_bytes: u64,
) -> Result<DiskDone, DiskError> {
    let (Some(digests), OpenFile::Source(open)) = (&files.shared.digests, files.space.file(file)?)
    else {
        return Ok(DiskDone::Recalled(None));
    };
    let stat = files.fstat(&open).await?;
    let keeps = files.keeps_of(&open, &stat).await?;
    let is_told = keeps.lasting(&stat) == Lasting::Inode && keeps.is_sized(stat.size);
    let recalled = match is_told && stat.size == size_bytes {
        true => digests.recall(stamp_of(&stat)),
        false => None,
    };
    Ok(DiskDone::Recalled(recalled.map(Box::new)))
}

/// See [`crate::proto::DiskOp::Remember`].
pub(super) async fn remember(
    files: &Files,
    file: FileId,
    stamp: FileStamp,
    values: Option<Arc<[Digest]>>,
) -> Result<DiskDone, DiskError> {
    let (Some(digests), OpenFile::Source(open)) = (&files.shared.digests, files.space.file(file)?)
    else {
        return Ok(DiskDone::Done);
    };
    match values {
        None => digests.forget(stamp),
        Some(values) => {
            let now = stamp_of(&files.fstat(&open).await?);
            if now == stamp {
                digests.remember(stamp, values);
            }
        }
    }
    Ok(DiskDone::Done)
}
