//! What runs on a connection: the protocol that its ALPN named.

use crate::budget::Promise;
use crate::worker::lane::{Errand, TransferLane};

/// The states of a connection beyond QUIC's own.
pub(crate) enum App {
    /// The handshake is not complete, and its ALPN with it. Next: one of the others.
    Undecided(Handshake),
    /// Of `landro/1`: a lane of a transfer.
    Transfer(Box<TransferLane>),
}

/// Who began a connection, and what for.
pub(crate) enum Handshake {
    /// A peer did; `promise` is the window it was told of, until it is authorised.
    Accepted { promise: Promise },
    /// We did, to go on with a transfer.
    Dialled(Errand),
}

impl App {
    pub(crate) fn is_undecided(&self) -> bool {
        match self {
            App::Undecided(_) => true,
            App::Transfer(_) => false,
        }
    }

    /// A handshake of a peer that is a stranger still.
    pub(crate) fn is_of_stranger(&self) -> bool {
        match self {
            App::Undecided(Handshake::Accepted { .. }) => true,
            App::Undecided(Handshake::Dialled(_)) | App::Transfer(_) => false,
        }
    }

    /// Nothing more is read from the connection.
    pub(crate) fn stop_reading(&mut self) {
        match self {
            App::Undecided(_) => {}
            App::Transfer(lane) => lane.readable.clear(),
        }
    }

    /// The session that this connection serves, if it does.
    pub(crate) fn session(&self) -> Option<usize> {
        match self {
            App::Undecided(_) => None,
            App::Transfer(lane) => lane.session(),
        }
    }

    /// Established, and its peer has not begun anything yet.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            App::Undecided(_) => false,
            App::Transfer(lane) => lane.is_idle(),
        }
    }

    /// What a connection of ours is for, until its handshake is complete.
    pub(crate) fn dialled_for(&self) -> Option<Errand> {
        match self {
            App::Undecided(Handshake::Dialled(errand)) => Some(*errand),
            App::Undecided(Handshake::Accepted { .. }) | App::Transfer(_) => None,
        }
    }
}
