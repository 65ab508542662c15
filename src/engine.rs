//! Starts the workers, hands them their work, and joins them: the process behind a daemon or a
//! command.

mod client;
mod embedded;
mod host;
mod local;
mod numbers;
mod pursuit;
mod server;
mod sockets;
mod workers;

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landro_sys::Availability;

use crate::config::{ConfigError, QuicConfig};
use crate::disk::leftovers;
use crate::ids::CopyId;
use crate::tcp::TcpLimits;
use crate::worker;

#[cfg(feature = "command")]
pub use crate::disk::keep_aside_in;
#[cfg(feature = "internals")]
pub use crate::disk::leftovers::Leftover;
pub use crate::disk::leftovers::{Fate, Removal, Sight};
#[cfg(feature = "internals")]
pub use crate::ids::Fingerprint;
#[cfg(feature = "internals")]
pub use crate::proto::session::{BenchWork, Direction, Request, Transfer, TransferOptions};
pub use crate::proto::{DiskError, session::Grant};
#[cfg(feature = "internals")]
pub use crate::proto::{
    EntryError, EntryErrorCode, EntryResult, Event, Kind, Meta, Mtime, Outcome, SessionError,
    SessionErrorCode, Totals,
};
pub use crate::quic::Identity;
#[cfg(feature = "internals")]
pub use crate::quic::QuicError;
#[cfg(feature = "internals")]
pub use crate::worker::Authorize;
pub use crate::worker::{Carried, ClientEvent, Ended, PeerAccess, TransportStats, Visit, Visits};
pub(crate) use client::Asker;
pub use client::{Client, ClientConfig};
pub(crate) use embedded::{Embedded, EmbeddedConfig, RunningCount, ServedDirectory};
pub use local::LocalCopy;
pub use numbers::DaemonNumbers;
pub use pursuit::Persistence;
pub use server::{ServeConfig, Server, ShutdownError};

/// Data streams of one transfer (`ParallelTransferConfig`'s default).
pub const DEFAULT_STREAMS: u8 = 16;

/// Which copy this is: the same for the same parts of the same user, and for no others. A part is
/// what somebody asked for, with local paths absolute.
pub(crate) fn copy_id<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> CopyId {
    let mut hasher = blake3::Hasher::new_derive_key("landro 2026-11 id of a copy");
    let mut add = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    };
    add(&landro_sys::process::effective_uid().to_be_bytes());
    for part in parts {
        add(part);
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    CopyId(id)
}

/// A local path as a part of [`copy_id`]: without what slashes and dots are at its end.
pub(crate) fn local_part(path: &[u8]) -> Vec<u8> {
    let path = Path::new(OsStr::from_bytes(path));
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let plain: PathBuf = absolute.components().collect();
    plain.into_os_string().into_encoded_bytes()
}

/// Workers where nobody says how many.
pub fn one_per_core() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(255))
}

/// Which I/O backend to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// io_uring where the kernel allows it, else poll.
    #[default]
    Auto,
    /// io_uring, or an error where the kernel does not allow it.
    IoUring,
    /// epoll(7) and a thread for files: slower, and allowed everywhere.
    Poll,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot listen on {addr}: {source}{}", bind_hint(source))]
    Bind { addr: SocketAddr, source: io::Error },
    #[error("cannot serve {path}: {source}{}", root_hint(source), path = path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("the io_uring backend was asked for, but: {0}")]
    Backend(String),
    #[error(
        "{0}; no file can be copied without it: have the sandbox let it through (a seccomp filter \
         of before 2020 knows no openat2, and systemd's RestrictSUIDSGID= hides it)"
    )]
    Forbidden(String),
    #[error(
        "cannot start a thread: {0}; are the processes of this user or cgroup used up (ulimit -u, \
         TasksMax=), or its memory (ulimit -v)? A daemon needs fewer with --workers 1"
    )]
    Thread(io::Error),
    #[error("cannot start the thread of --digest-cache: {0}")]
    Digests(io::Error),
    #[error("configuration of QUIC: {0}")]
    Config(#[from] ConfigError),
    #[error("TCP: {0}")]
    Congestion(io::Error),
    #[error(transparent)]
    Worker(#[from] worker::WorkerStartError),
    #[error("identity: {0}")]
    Identity(#[from] crate::quic::QuicError),
    #[error("identity: {0}")]
    TcpIdentity(#[from] crate::tcp::TcpSetupError),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; who has it is told by ss -tulpn",
        io::ErrorKind::AddrNotAvailable => "; no interface here has it (ip address)",
        io::ErrorKind::PermissionDenied => "; ports below 1024 are root's",
        io::ErrorKind::InvalidInput => {
            "; an IPv4 address is written by itself (192.0.2.1), a link-local one with its \
             interface (fe80::1%eth0)"
        }
        _ if landro_sys::process::is_out_of_descriptors(error) => {
            "; raise the limit of open files (ulimit -n, LimitNOFILE= of a unit)"
        }
        _ => "",
    }
}

fn root_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make it first (mkdir -p), or correct the path",
        io::ErrorKind::NotADirectory => {
            "; only a directory is served: name the one that it lies in"
        }
        io::ErrorKind::PermissionDenied => "; let the user that runs landro serve enter it",
        _ => "",
    }
}

/// Whether the kernel can seal and open the records of TLS, where it is asked to.
fn tls_in_kernel(is_wanted: bool) -> Option<Availability> {
    let found = is_wanted.then(landro_sys::ktls::probe)?;
    tracing::info!("TLS in the kernel: {found}");
    Some(found)
}

/// The configuration as it is used; what is not as it was asked for is logged.
fn checked(quic: QuicConfig) -> Result<QuicConfig, ConfigError> {
    let (quic, corrections) = quic.checked()?;
    for correction in corrections {
        tracing::warn!("configuration of QUIC: {correction}");
    }
    Ok(quic)
}

/// What connections over TCP are held to: they wait as long as those over QUIC.
fn tcp_limits(quic: &QuicConfig) -> TcpLimits {
    TcpLimits {
        handshake: quic.handshake_timeout,
        idle: quic.idle_timeout,
        linger: worker::LINGER,
        key_records: quic.key_record_limit,
    }
}

/// Refuses to begin where every file would fail.
fn demand_calls() -> Result<(), EngineError> {
    match landro_sys::probe::needed_calls() {
        Availability::Yes => Ok(()),
        Availability::No(why) => Err(EngineError::Forbidden(why)),
    }
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
