//! Starts the workers, hands them their work, and joins them: the process behind a daemon or a
//! command.

mod client;
mod server;
mod sockets;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::leftovers;
use crate::worker;

pub use crate::disk::leftovers::{Fate, Leftover, Removal, Sight};
pub use crate::ids::Fingerprint;
pub use crate::proto::DiskError;
pub use crate::proto::session::{BenchWork, Direction, Grant, Request, Transfer, TransferOptions};
pub use crate::proto::{
    EntryError, EntryErrorCode, EntryResult, Event, Kind, Meta, Mtime, Outcome, SessionError,
    SessionErrorCode, Totals,
};
pub use crate::quic::{Identity, QuicError};
pub use crate::worker::{Authorize, ClientEvent, Ended, PeerAccess, TransportStats};
pub use client::{Client, ClientConfig};
pub use server::{ServeConfig, Server, ShutdownError};

/// Which I/O backend to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// io_uring where the kernel allows it, else poll.
    #[default]
    Auto,
    IoUring,
    Poll,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot listen on {addr}: {source}")]
    Bind { addr: SocketAddr, source: io::Error },
    #[error("cannot serve {path}: {source}", path = path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("the io_uring backend was asked for, but: {0}")]
    Backend(String),
    #[error("identity: {0}")]
    Identity(#[from] crate::quic::QuicError),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Copies within this host, on this thread; every entry is reported through `on`. `stop` is asked
/// between two operations on files, of which the longest copies 64 MiB.
///
/// # Errors
/// When there is no memory to begin with. What goes wrong with single entries is an event.
pub fn copy_locally(
    transfer: &Transfer,
    stop: &dyn Fn() -> bool,
    on: &mut dyn FnMut(Event),
) -> io::Result<Outcome> {
    workers::raise_open_files();
    worker::copy_locally(transfer, stop, on)
}

/// Looks for unfinished files of transfers in a directory and all below it. `on` is told what is
/// found and what became of it; when it says false, the search ends.
///
/// # Errors
/// When the directory cannot be opened.
pub fn search_leftovers(
    path: &Path,
    removal: Removal,
    on: &mut dyn FnMut(Sight) -> bool,
) -> Result<(), DiskError> {
    leftovers::search(path.as_os_str().as_bytes(), removal, on)
}

/// So long ago, in seconds since the epoch.
pub fn before(age: Duration) -> i64 {
    worker::before(age)
}

/// Reads the clock through its owner, for callers that time a whole run.
pub fn now() -> std::time::Instant {
    worker::now()
}
