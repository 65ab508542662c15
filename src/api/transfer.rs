//! Copies of files between this host and a daemon, as `landro cp` makes them.

mod end;
mod follow;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::config::LaneKind;
use crate::engine::{Embedded, copy_id, local_part};
use crate::ids::{CopyId, Fingerprint};
use crate::proto::session::{Direction, Request, Transfer};
use crate::proto::{EntryPlace, EntryResult, Kind};
use crate::quic::Trust;

pub use end::{TransferError, TransferSummary};
pub(super) use end::{judge, refused};
use follow::Following;

/// What happens in a transfer. Names are bytes, as the kernel has them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TransferEvent {
    /// A daemon answered, and its key is trusted. Comes again after [`TransferEvent::Interrupted`].
    Connected {
        /// Its key.
        peer: Fingerprint,
        /// Where it is.
        address: SocketAddr,
        /// What carries the session; lanes of other kinds may be added.
        lane: LaneKind,
    },
    /// The daemon accepts what is asked for.
    Accepted,
    /// What was found at the source so far.
    Announced {
        /// Files.
        files: u64,
        /// Bytes of them.
        bytes: u64,
        /// There is no more.
        complete: bool,
    },
    /// So many bytes of files more left or arrived.
    Moved {
        /// Since the last event of this kind.
        bytes: u64,
    },
    /// So many bytes of a file need not travel, for they did before.
    Resumed {
        /// Of this file.
        bytes: u64,
    },
    /// A file, directory or symlink is where it is to be, or never will be.
    Entry {
        /// Below the source.
        path: Bytes,
        /// What it is.
        kind: Kind,
        /// Of a file.
        bytes: u64,
        /// What became of it.
        result: EntryResult,
    },
    /// Something that is to be known and is no error, such as a socket that is not copied.
    Warning {
        /// What it is about.
        path: Bytes,
        /// At which end of its way.
        place: EntryPlace,
        /// In words.
        text: String,
    },
    /// The connection is lost, or nothing was got on with; another is made after the pause, and
    /// goes on where this one ended.
    Interrupted {
        /// In words.
        why: String,
        /// Until then.
        pause: Duration,
    },
}

/// A transfer that goes on until it ends, by itself or since it is cancelled. It has workers of its
/// own: none of those of the engine waits for it.
///
/// Dropped, it is cancelled: what has arrived whole stays, of what has not the finished chunks are
/// kept for the same transfer to go on with, and no name ever shows half a file. Its end, which may
/// take a moment, is not waited for then; [`Engine::shut_down`](super::Engine::shut_down) does.
///
/// 4,096 events wait to be read; then the transfer waits for who reads them, which
/// [`RunningTransfer::result`] does, too. A reader that stays away for longer than the idle timeout
/// loses the session, and another one is begun when it is back.
#[must_use = "a transfer is cancelled when it is dropped"]
pub struct RunningTransfer {
    following: Arc<Following>,
}

impl RunningTransfer {
    pub(super) fn start(
        engine: &Arc<Embedded>,
        to: &str,
        trust: Trust,
        mut transfer: Transfer,
    ) -> RunningTransfer {
        transfer.options.copy.get_or_insert(copy_of(to, &transfer));
        let request = Request::Transfer(transfer);
        RunningTransfer {
            following: Following::start(engine.clone(), to.to_owned(), trust, request),
        }
    }

    /// What happened next; `None` when there is nothing more, and [`RunningTransfer::result`] has
    /// the rest.
    ///
    /// # Cancel safety
    /// No event is lost by dropping the future.
    pub async fn next_event(&mut self) -> Option<TransferEvent> {
        loop {
            let changed = self.following.listen();
            if let Some(event) = self.following.take_event() {
                return Some(event);
            }
            if self.following.is_over() {
                // One that came between the two is not the last to be told.
                return self.following.take_event();
            }
            changed.await;
        }
    }

    /// Has it end as soon as may be; its result is [`TransferError::Cancelled`] unless it ends
    /// otherwise before. Returns at once.
    pub fn cancel(&self) {
        self.following.cancel();
    }

    /// Waits for the end; events that were not read are dropped. `Ok` means that everything that
    /// was asked for is there.
    ///
    /// # Errors
    /// Why not all of it is.
    ///
    /// # Cancel safety
    /// The transfer is cancelled with the future, as when it is dropped.
    pub async fn result(self) -> Result<TransferSummary, TransferError> {
        self.following.drop_events();
        loop {
            let changed = self.following.listen();
            if let Some(result) = self.following.take_result() {
                return result;
            }
            changed.await;
        }
    }
}

/// Which copy this is, where the program does not say.
fn copy_of(to: &str, transfer: &Transfer) -> CopyId {
    let is_push = transfer.direction == Direction::Push;
    let part = |is_here: bool, path: &Bytes| match is_here {
        true => local_part(path),
        false => path.to_vec(),
    };
    let verb: &[u8] = if is_push { b"push" } else { b"pull" };
    let mut parts = vec![verb.to_vec(), to.as_bytes().to_vec()];
    let sources = transfer.sources.iter();
    parts.extend(sources.map(|source| part(is_push, source)));
    parts.push(part(!is_push, &transfer.target));
    copy_id(parts.iter().map(Vec::as_slice))
}

impl Drop for RunningTransfer {
    fn drop(&mut self) {
        self.following.drop_events();
        self.following.cancel();
    }
}

impl fmt::Debug for RunningTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunningTransfer(..)")
    }
}
