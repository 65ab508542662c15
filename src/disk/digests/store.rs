//! The store: a file of records in a directory of its own, to which one thread appends, and which
//! it writes anew once half of it is of no use.
//!
//! Nothing is synced. What a power cut takes or leaves half-written has no right checksum, and the
//! records up to there count.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crossbeam::channel::{Receiver, Sender};
use landro_sys::file::flags;
use landro_sys::{FileDone, FileOp, Flock, run as call};

use super::record::{KeptRecord, MAGIC, decode_all};
use super::{Say, Table, locked};

const NAME: &str = "digests";

/// The next one, until it has all.
const NEW_NAME: &str = "digests.new";

/// A store is not written anew before so much of it is of no use.
const WASTE_BYTES: u64 = 1 << 20;

/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// What the thread is told.
pub(super) enum StoreChange {
    Kept(KeptRecord),
    /// Everything that was told before is written.
    Flush(Sender<()>),
}

/// A store that is ours to write.
pub(super) struct Store {
    directory: PathBuf,
    /// Open, and locked, as long as this process lives.
    _lock: Arc<OwnedFd>,
    file: File,
    /// Whole records.
    len_bytes: u64,
    max_bytes: u64,
}

/// Writes what it is told until the last sender is gone. Without a store it only listens.
pub(super) fn run(
    mut store: Option<Store>,
    changes: &Receiver<StoreChange>,
    table: &Mutex<Table>,
    say: Say,
) {
    for change in changes {
        match change {
            StoreChange::Kept(record) => {
                if let Some(open) = &mut store
                    && let Err(error) = open.append(&record, table)
                {
                    let path = open.directory.join(NAME).display().to_string();
                    say(&format!(
                        "--digest-cache: cannot write {path}: {error}; digests are kept in memory alone until this \
                         daemon is started anew"
                    ));
                    store = None;
                }
            }
            // Whoever waits may have given up.
            StoreChange::Flush(done) => drop(done.send(())),
        }
    }
}

impl Store {
    /// Opens a store and takes what it has into the table. None, and a word: it cannot be used.
    pub(super) fn open(
        directory: &Path,
        max_bytes: u64,
        table: &Mutex<Table>,
        say: Say,
    ) -> Option<Store> {
        let (why, advice) = match open(directory, max_bytes, table, say) {
            Ok(store) => return Some(store),
            Err(StoreError::Io(call, error)) => (format!("{call}: {error}"), ""),
            Err(StoreError::Taken) => (
                "another daemon has it".to_owned(),
                "; give each daemon a directory of its own",
            ),
            Err(StoreError::Foreign) => (
                format!("the file {NAME} there is none of landro's, and is left as it is"),
                "",
            ),
            Err(StoreError::Others) => (
                "others may write there, or it is another user's".to_owned(),
                "; see chmod(1) and chown(1)",
            ),
        };
        let directory = directory.display();
        say(&format!(
            "--digest-cache {directory}: {why}; digests are kept in memory alone{advice}"
        ));
        None
    }

    fn append(&mut self, record: &KeptRecord, table: &Mutex<Table>) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(record.len_bytes() as usize);
        record.encode(&mut bytes);
        self.file.write_all(&bytes).inspect_err(|_| {
            // Half a record: what cannot be cut off here is found and cut off by the next start.
            let _ = self.file.set_len(self.len_bytes);
        })?;
        self.len_bytes += bytes.len() as u64;
        let live_bytes = locked(table).bytes;
        match self.len_bytes > 2 * live_bytes + WASTE_BYTES || self.len_bytes > 2 * self.max_bytes {
            true => self.write_anew(table),
            false => Ok(()),
        }
    }

    /// Writes what the table has to another file, which takes the place of this one.
    fn write_anew(&mut self, table: &Mutex<Table>) -> io::Result<()> {
        // A copy of what is referred to, so that no worker waits for the disk.
        let records: Vec<KeptRecord> = locked(table).in_order().cloned().collect();
        let new = self.directory.join(NEW_NAME);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = file_options().create_new(true).open(&new)?;
        file.write_all(MAGIC)?;
        let mut len_bytes = MAGIC.len() as u64;
        let mut bytes = Vec::new();
        for record in records {
            bytes.clear();
            record.encode(&mut bytes);
            file.write_all(&bytes)?;
            len_bytes += bytes.len() as u64;
        }
        std::fs::rename(&new, self.directory.join(NAME))?;
        (self.file, self.len_bytes) = (file, len_bytes);
        Ok(())
    }
}

enum StoreError {
    Io(&'static str, io::Error),
    /// Another process has it.
    Taken,
    /// What is there was not written by landro.
    Foreign,
    /// Somebody else could put files there.
    Others,
}

/// What is to be read and appended to, never through a symlink, and never waiting for a FIFO.
fn file_options() -> OpenOptions {
    let mut options = File::options();
    options.read(true).append(true).mode(0o600);
    options.custom_flags(flags::O_NOFOLLOW | flags::O_NONBLOCK);
    options
}

fn open(
    directory: &Path,
    max_bytes: u64,
    table: &Mutex<Table>,
    say: Say,
) -> Result<Store, StoreError> {
    let io = |call| move |error| StoreError::Io(call, error);
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(directory);
    made.map_err(io("making the directory"))?;
    let opened = File::open(directory).map_err(io("opening the directory"))?;
    let found = opened.metadata().map_err(io("looking at the directory"))?;
    let uid = landro_sys::process::effective_uid();
    if found.mode() & OTHERS_WRITE != 0 || ![0, uid].contains(&found.uid()) {
        return Err(StoreError::Others);
    }
    let lock: Arc<OwnedFd> = Arc::new(opened.into());
    let how = Flock::Exclusive;
    let file = lock.clone();
    match call(FileOp::Lock { file, how }).map_err(io("locking the directory"))? {
        FileDone::Locked(true) => {}
        _ => return Err(StoreError::Taken),
    }
    let path = directory.join(NAME);
    let file = file_options().create(true).open(&path);
    let file = file.map_err(io("opening the file"))?;
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err(StoreError::Foreign);
    }
    // Never longer than that, of this landro.
    let most_bytes = 3 * max_bytes + WASTE_BYTES;
    let mut bytes = Vec::new();
    let read = (&file).take(most_bytes).read_to_end(&mut bytes);
    read.map_err(io("reading the file"))?;
    let begins = bytes.len().min(MAGIC.len());
    if bytes[..begins] != MAGIC[..begins] {
        return Err(StoreError::Foreign);
    }
    let (records, whole_bytes) = decode_all(bytes.get(MAGIC.len()..).unwrap_or_default());
    let mut store = Store {
        directory: directory.to_path_buf(),
        _lock: lock,
        file,
        len_bytes: (MAGIC.len() + whole_bytes) as u64,
        max_bytes,
    };
    take_up(records, table);
    let is_damaged = bytes.len() as u64 != store.len_bytes;
    if is_damaged && bytes.len() > MAGIC.len() {
        say(&format!(
            "--digest-cache: {} is damaged behind its first {} bytes; what was there is hashed again",
            path.display(),
            store.len_bytes
        ));
    }
    if is_damaged {
        store.write_anew(table).map_err(io("writing the file"))?;
    }
    Ok(store)
}

/// Younger records are of younger use. What was hashed since this daemon started counts more.
fn take_up(records: Vec<KeptRecord>, table: &Mutex<Table>) {
    let mut table = locked(table);
    let newer: Vec<KeptRecord> = table.in_order().cloned().collect();
    for record in records.into_iter().chain(newer) {
        match record.values.is_empty() {
            true => drop(table.remove(super::file_of(&record.stamp))),
            false => table.insert(record),
        }
    }
}
