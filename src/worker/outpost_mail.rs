//! Mail between a session and what of it is on another worker.

use std::net::SocketAddr;

use crate::disk::SharedFile;
use crate::ids::{FileId, Fingerprint, SessionId, WorkerId};
use crate::proto::lanes::{ToHome, ToOutpost};
use crate::worker::stats::TransportStats;

pub struct OutpostMail {
    pub(crate) session: SessionId,
    pub(crate) from: WorkerId,
    pub(crate) word: OutpostWord,
}

pub(crate) enum OutpostWord {
    ToOutpost {
        mail: ToOutpost,
        file: Option<(FileId, SharedFile)>,
        /// The session's peer, and where it is, for who does not know the session.
        peer: (Fingerprint, SocketAddr),
    },
    ToHome(ToHome),
    /// Home has no such session any more.
    NoSuchSession,
    /// What the session's lanes on a command's other worker carried, once it is told to end there.
    Carried(Box<TransportStats>),
}
