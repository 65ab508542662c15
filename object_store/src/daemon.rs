//! What is asked of a daemon: listings and ranges of files, over one session, and files that are
//! put, each by a transfer on a thread of the store.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use landro::{
    Direction, Engine, EntryError, EntryResult, Kind, ListedEntry, MetadataOptions, PeerTrust,
    RemoteFiles, RemoteRange, Transfer, TransferError, TransferEvent, TransferOptions,
};
use object_store::Error;
use object_store::path::Path;

use crate::errors::{RequestError, StagingError, local};
use crate::names::split;
use crate::threads::{Caller, StoreThreads, ThreadError, block_on};

/// Puts that are under way at once, of a store and its clones. Each is a session with workers of
/// its own, at both ends.
pub(crate) const PUTS_MAX: usize = 8;

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    Request(RequestError),
    Staging(StagingError),
    Thread(ThreadError),
}

impl Failure {
    /// As the store's error about this object.
    pub(crate) fn about(self, location: &Path) -> Error {
        match self {
            Failure::Request(error) => error.about(location),
            Failure::Staging(error) => local(location, error),
            Failure::Thread(error) => local(location, error),
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self.transfer_error(), Some(TransferError::NotFound(_)))
    }

    /// Whether what was read may have been changed meanwhile: a daemon says so in words.
    pub(crate) fn may_be_of_change(&self) -> bool {
        let error = self.transfer_error();
        matches!(
            error,
            Some(TransferError::NotFound(_) | TransferError::Failed(_))
        )
    }

    fn transfer_error(&self) -> Option<&TransferError> {
        match self {
            Failure::Request(error) => Some(error.transfer_error()),
            Failure::Staging(_) | Failure::Thread(_) => None,
        }
    }
}

/// A daemon, what reads of it, and the threads that put.
pub(crate) struct Daemon {
    engine: Engine,
    files: RemoteFiles,
    address: String,
    trust: PeerTrust,
    threads: StoreThreads,
}

impl Daemon {
    pub(crate) fn new(engine: Engine, address: &str, trust: PeerTrust) -> Daemon {
        let files = engine.remote_files(address, trust.clone());
        Daemon {
            // A symlink is no object.
            files: files.refuse_symlinks(true),
            engine,
            address: address.to_owned(),
            trust,
            threads: StoreThreads::new("landro-puts", PUTS_MAX),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Has it done on a thread of the puts.
    pub(crate) async fn run<T, W>(self: &Arc<Self>, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(&Daemon, &mut Caller<Result<T, Failure>>) -> Option<Result<T, Failure>>
            + Send
            + 'static,
    {
        let daemon = self.clone();
        let run = self.threads.run(move |caller| work(&daemon, caller)).await;
        run.map_err(Failure::Thread)?
    }

    fn failed(&self, doing: &'static str, error: TransferError) -> Failure {
        Failure::Request(RequestError::new(doing, &self.address, error))
    }

    /// The rows of a directory, or the one of what else is there.
    async fn rows(&self, path: &[u8]) -> Result<Vec<ListedEntry>, Failure> {
        let rows = self.files.list(OsStr::from_bytes(path)).await;
        rows.map_err(|error| self.failed("listing", error))
    }

    /// What a directory has. `None`: there is none.
    pub(crate) async fn directory(&self, path: &[u8]) -> Result<Option<Vec<ListedEntry>>, Failure> {
        let rows = match self.rows(path).await {
            Err(error) if error.is_not_found() => return Ok(None),
            rows => rows?,
        };
        let is_directory = match only_row(&rows, path) {
            Some(Kind::File) => self.is_directory(path).await?,
            Some(Kind::Symlink | Kind::Special) => false,
            Some(Kind::Directory) | None => true,
        };
        Ok(is_directory.then_some(rows))
    }

    /// Whether what looks like a file is a directory with a file of its own name.
    async fn is_directory(&self, path: &[u8]) -> Result<bool, Failure> {
        let (_, name) = split(path);
        let within = [path, b"/", name].concat();
        match self.rows(&within).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A range of a file, less where the file ends before, and which file that is.
    pub(crate) async fn read(
        &self,
        path: &[u8],
        range: Range<u64>,
    ) -> Result<RemoteRange, Failure> {
        let found = self.files.read_range(OsStr::from_bytes(path), range).await;
        found.map_err(|error| self.failed("reading", error))
    }

    /// Sends what a path of this host is, on this thread, and keeps its thread until nothing of
    /// it is looked at any more, be it that the caller has gone. True: the daemon kept it as it
    /// was sent, without a warning.
    pub(crate) fn push<T>(
        &self,
        caller: &mut Caller<T>,
        from: &FilePath,
        target: &[u8],
        options: TransferOptions,
    ) -> Option<Result<bool, Failure>> {
        let transfer = Transfer {
            direction: Direction::Push,
            sources: vec![Bytes::copy_from_slice(from.as_os_str().as_bytes())],
            target: Bytes::copy_from_slice(target),
            options,
        };
        let trust = self.trust.clone();
        let mut running = self.engine.transfer(&self.address, trust, transfer);
        let (mut entry, mut is_exact) = (None, true);
        let ended = caller.wait(async {
            while let Some(event) = running.next_event().await {
                note(event, &mut entry, &mut is_exact);
            }
        });
        if ended.is_none() {
            running.cancel();
        }
        let result = block_on(running.result());
        ended?;
        Some(match result {
            Ok(_) => Ok(is_exact),
            Err(error) => {
                let error = RequestError::new("putting", &self.address, error);
                Err(Failure::Request(error.with_entry(entry)))
            }
        })
    }
}

/// Keeps the first failure, and that something was warned of.
fn note(event: TransferEvent, entry: &mut Option<Box<EntryError>>, is_exact: &mut bool) {
    match event {
        TransferEvent::Entry {
            result: EntryResult::Failed(error),
            ..
        } => {
            entry.get_or_insert(error);
        }
        TransferEvent::Warning { .. } => *is_exact = false,
        _ => {}
    }
}

/// What all puts have in common: modes are the daemon's affair, and nothing that looks the same is
/// taken for it.
pub(crate) fn put_options(fsync: bool) -> TransferOptions {
    TransferOptions {
        force: true,
        fsync,
        follow_named: true,
        no_growing: true,
        metadata: MetadataOptions {
            no_perms: true,
            ..MetadataOptions::default()
        },
        ..TransferOptions::default()
    }
}

/// The kind of the one row that a listing has, if it has the name of what was listed.
fn only_row(rows: &[ListedEntry], path: &[u8]) -> Option<Kind> {
    match rows {
        [row] if row.name == split(path).1 => Some(row.kind),
        _ => None,
    }
}
