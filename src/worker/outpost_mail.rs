//! Mail between a session and what of it is on another worker.

use std::net::SocketAddr;

use landro_sys::Bind;

use crate::disk::{SharedDir, SharedFile};
use crate::ids::{DirId, FileId, Fingerprint, SessionId, WorkerId};
use crate::proto::lanes::{ToHome, ToOutpost};

pub struct OutpostMail {
    pub(crate) session: SessionId,
    pub(crate) from: WorkerId,
    pub(crate) word: OutpostWord,
}

/// A session's peer, and where its newest lane goes.
#[derive(Clone)]
pub(crate) struct PeerAt {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) address: SocketAddr,
    /// Where packets to it leave from, and its number, if the command says so.
    pub(crate) bind: Option<(u8, Bind)>,
}

pub(crate) enum OutpostWord {
    ToOutpost {
        mail: ToOutpost,
        file: Option<(FileId, SharedFile)>,
        dirs: Vec<(DirId, SharedDir)>,
        /// With an order to dial: where to.
        dials: Option<PeerAt>,
    },
    ToHome(ToHome),
    /// Home has no such session any more.
    NoSuchSession,
    /// What the session's lanes on a command's other worker carried is counted, for it was told to
    /// end there.
    Counted,
}
