//! Files of a daemon without copying them: listings, and pieces of files, over one session.

mod gather;
mod remote;
mod session;

use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::transfer::TransferError;
use crate::engine::Embedded;
use crate::proto::query::Query;
use crate::quic::Trust;
pub use gather::ListedEntry;
use gather::{FoundAnswer, wrong_kind};
use remote::Remote;

/// Bytes of a file, and which file that was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteRange {
    /// Fewer than were asked for where the file ends before.
    pub bytes: Bytes,
    /// What the whole file has, in bytes, as the daemon opened it.
    pub file_bytes: u64,
    /// When its content had changed last.
    pub modified: SystemTime,
}

/// The files of one daemon, to be listed and read. A clone shares the session of the original.
///
/// A session, with one connection and a worker of its own, is begun by the first question, so that
/// to make a handle costs nothing and cannot fail. It answers eight questions at a time, those
/// of all clones together; more wait their turn, in the order in which they were asked. Ten seconds
/// behind the last answer it is closed, and so it is when the last clone is dropped. Where it was
/// closed or lost the next question begins another. A question that was asked over a session that
/// had answered others, and was lost, is asked once more.
///
/// Answers are taken whether or not anybody polls, so that a future that is kept and not polled
/// holds nobody else up; what it was to give is kept in memory meanwhile.
///
/// ```no_run
/// # use landro::{Engine, PeerTrust};
/// # async fn example(trust: PeerTrust) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder().start()?;
/// let files = engine.remote_files("host:4433", trust);
/// for entry in files.list("images").await? {
///     println!("{} {}", entry.bytes, String::from_utf8_lossy(&entry.name));
/// }
/// let header = files.read_range("images/disk.img", 0..512).await?;
/// println!("of {} bytes", header.file_bytes);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RemoteFiles {
    handle: Arc<RemoteHandle>,
    refuses_symlinks: bool,
}

/// What all clones have: the session ends with it.
struct RemoteHandle(Arc<Remote>);

impl Drop for RemoteHandle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl RemoteFiles {
    pub(super) fn new(engine: &Arc<Embedded>, to: &str, trust: Trust) -> RemoteFiles {
        RemoteFiles {
            handle: Arc::new(RemoteHandle(Remote::new(engine.clone(), to, trust))),
            refuses_symlinks: false,
        }
    }

    /// Whether a path that ends at a symlink is no file to [`RemoteFiles::read_range`] of this
    /// handle. Default: what it leads to is read, as far as that is served. Symlinks before a
    /// path's end are followed so in any case.
    pub fn refuse_symlinks(mut self, refuses: bool) -> RemoteFiles {
        self.refuses_symlinks = refuses;
        self
    }

    /// What the daemon has at a path: the entries of a directory, in no order, or the one thing
    /// that it is. Of up to 2^20 entries, and 256 MiB of names.
    ///
    /// # Errors
    /// As of [`RunningTransfer::result`](super::RunningTransfer::result);
    /// [`TransferError::Stalled`] where nothing of the answer came for a minute. Answers share the
    /// link, with up to 1 MiB ahead of one: over a link of less than 20 kB/s, ask one thing at a
    /// time.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing over there. The daemon is told, and once it has heard of
    /// it, it has one question less.
    pub async fn list(&self, path: impl AsRef<Path>) -> Result<Vec<ListedEntry>, TransferError> {
        let path = bytes_of(path.as_ref());
        match session::ask(&self.handle.0, Query::List { path }).await? {
            FoundAnswer::Rows(rows) => Ok(rows),
            FoundAnswer::Range(_) => Err(wrong_kind()),
        }
    }

    /// A piece of a file, with the size and time that it had when the daemon opened it for this
    /// question. Nothing of the piece is of another version: a file that changes while it is read
    /// is an error. An empty range asks for size and time alone.
    ///
    /// Whole chunks (1 MiB, more in a file above 64 GiB) travel, and each is held against its
    /// BLAKE3 value, as the daemon read it, before any of it is handed over. All of the range is
    /// held in memory, which is the caller's to judge; a daemon cannot make it more.
    ///
    /// # Errors
    /// [`TransferError::NotFound`] where the range begins behind the file's end, or no file is
    /// there; else as of [`RemoteFiles::list`].
    ///
    /// # Cancel safety
    /// As of [`RemoteFiles::list`].
    pub async fn read_range(
        &self,
        path: impl AsRef<Path>,
        range: Range<u64>,
    ) -> Result<RemoteRange, TransferError> {
        let query = Query::Read {
            path: bytes_of(path.as_ref()),
            range,
            follow_named: !self.refuses_symlinks,
        };
        match session::ask(&self.handle.0, query).await? {
            FoundAnswer::Range(found) => Ok(found),
            FoundAnswer::Rows(_) => Err(wrong_kind()),
        }
    }
}

fn bytes_of(path: &Path) -> Bytes {
    Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

impl fmt::Debug for RemoteFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteFiles")
            .field(&self.handle.0.to())
            .finish()
    }
}
