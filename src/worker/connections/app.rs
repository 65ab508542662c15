//! What runs on a connection: the protocol that its ALPN named.

use crate::budget::Promise;
use crate::worker::handles::StreamsApp;
use crate::worker::lane::{Errand, TransferLane};

/// The states of a connection beyond QUIC's own.
pub(crate) enum App {
    /// The handshake is not complete, and its ALPN with it. Next: one of the others.
    Undecided(Handshake),
    /// Of `landro/1`: a lane of a transfer.
    Transfer(Box<TransferLane>),
    /// Of a protocol of the embedding program.
    Streams(Box<StreamsApp>),
}

/// Who began a connection, and what for.
pub(crate) enum Handshake {
    /// A peer did; `promise` is the window it was told of, until it is authorised. What runs on it
    /// already, if its first flight brings something for a program: it is a stranger's all the
    /// same, for whoever recorded that flight can send it.
    Accepted {
        promise: Promise,
        early: Option<Box<StreamsApp>>,
    },
    /// We did, to go on with a transfer.
    Dialled(Errand),
    /// We did, for a handle that waits.
    Connecting { dial: u64 },
}

impl App {
    pub(crate) fn is_undecided(&self) -> bool {
        match self {
            App::Undecided(_) => true,
            App::Transfer(_) | App::Streams(_) => false,
        }
    }

    /// A handshake of a peer that is a stranger still.
    pub(crate) fn is_of_stranger(&self) -> bool {
        match self {
            App::Undecided(Handshake::Accepted { .. }) => true,
            App::Undecided(Handshake::Dialled(_) | Handshake::Connecting { .. })
            | App::Transfer(_)
            | App::Streams(_) => false,
        }
    }

    /// Nothing more is read from the connection.
    pub(crate) fn stop_reading(&mut self) {
        if let App::Transfer(lane) = self {
            lane.readable.clear();
        }
        if let Some(app) = self.streams_mut() {
            app.stop_reading();
        }
    }

    /// The program's streams, if there are any.
    pub(crate) fn streams(&self) -> Option<&StreamsApp> {
        match self {
            App::Streams(app)
            | App::Undecided(Handshake::Accepted {
                early: Some(app), ..
            }) => Some(app),
            App::Undecided(_) | App::Transfer(_) => None,
        }
    }

    pub(crate) fn streams_mut(&mut self) -> Option<&mut StreamsApp> {
        match self {
            App::Streams(app)
            | App::Undecided(Handshake::Accepted {
                early: Some(app), ..
            }) => Some(app),
            App::Undecided(_) | App::Transfer(_) => None,
        }
    }

    /// The session that this connection serves, if it does.
    pub(crate) fn session(&self) -> Option<usize> {
        match self {
            App::Undecided(_) | App::Streams(_) => None,
            App::Transfer(lane) => lane.session(),
        }
    }

    /// Established, and its peer has not begun anything yet.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            // Who holds its handles says when it is over.
            App::Undecided(_) | App::Streams(_) => false,
            App::Transfer(lane) => lane.is_idle(),
        }
    }

    /// What a connection of ours is for, until its handshake is complete.
    pub(crate) fn dialled_for(&self) -> Option<Errand> {
        match self {
            App::Undecided(Handshake::Dialled(errand)) => Some(*errand),
            App::Undecided(Handshake::Accepted { .. } | Handshake::Connecting { .. })
            | App::Transfer(_)
            | App::Streams(_) => None,
        }
    }

    /// The dial that this connection is for, until its handshake is complete.
    pub(crate) fn connects_for(&self) -> Option<u64> {
        match self {
            App::Undecided(Handshake::Connecting { dial }) => Some(*dial),
            App::Undecided(Handshake::Accepted { .. } | Handshake::Dialled(_))
            | App::Transfer(_)
            | App::Streams(_) => None,
        }
    }

    /// Whether it is of a transfer, or is to be.
    pub(crate) fn is_of_transfer(&self) -> bool {
        match self {
            App::Undecided(Handshake::Accepted { .. } | Handshake::Dialled(_))
            | App::Transfer(_) => true,
            App::Undecided(Handshake::Connecting { .. }) | App::Streams(_) => false,
        }
    }
}
