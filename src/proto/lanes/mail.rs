//! What a session and its parts on other workers tell each other, by mail: in order between two
//! workers, and at any time.

use super::ledger::OwnStreams;
use crate::ids::{DirId, FileId, Fingerprint};
use crate::proto::{MoverOrder, MoverReport};

/// What the session's own worker says to its part on another one.
#[derive(Debug)]
pub enum ToOutpost {
    /// The lane of this number is one of the session's.
    Admit { number: u32 },
    /// It is none.
    Refuse,
    /// Client: dial a lane to be added. `has_lost`: lanes were lost, so that the path may be one
    /// that swallows large packets.
    Dial { has_lost: bool },
    /// The peer says that this lane is no more.
    LaneOver { number: u32 },
    /// For the movers there.
    Movers(Box<MoverOrder>),
    /// The session is over, or goes on without that worker.
    Over,
}

/// What the part of a session says to the session's own worker.
#[derive(Debug)]
pub enum ToHome {
    /// A connection of `peer` asks to be the lane of this number, beside the one that carries
    /// control; None: it was dialled here, and asks for one. Answered by [`ToOutpost::Admit`] or
    /// [`ToOutpost::Refuse`], in order.
    Joins {
        number: Option<u32>,
        peer: Fingerprint,
    },
    /// Client: no lane came of [`ToOutpost::Dial`].
    DialFailed,
    /// A lane is no more.
    LaneGone { number: u32, end: LaneEnd },
    /// Of the movers there.
    Movers(Box<MoverReport>),
    /// The peer broke the protocol there. Nothing is in flight there any more, and nothing follows.
    Broken(String),
}

/// How a lane on another worker than its session's ended.
#[derive(Debug, Default)]
pub struct LaneEnd {
    /// Otherwise than by running empty.
    pub has_failed: bool,
    /// Sender: what was sent there. (A receiver tells what was taken when it is known.)
    pub ours: OwnStreams,
    /// Sender: the receiver may not know.
    pub tell_peer: bool,
}

impl ToOutpost {
    /// The directories that go along, each once.
    pub fn dirs(&self) -> Vec<DirId> {
        match self {
            ToOutpost::Movers(order) => order.dirs(),
            ToOutpost::Admit { .. }
            | ToOutpost::Refuse
            | ToOutpost::Dial { .. }
            | ToOutpost::LaneOver { .. }
            | ToOutpost::Over => Vec::new(),
        }
    }

    /// The file whose descriptor goes along.
    pub fn file(&self) -> Option<FileId> {
        match self {
            ToOutpost::Movers(order) => order.file(),
            ToOutpost::Admit { .. }
            | ToOutpost::Refuse
            | ToOutpost::Dial { .. }
            | ToOutpost::LaneOver { .. }
            | ToOutpost::Over => None,
        }
    }
}

impl ToHome {
    /// The directories that are let go of before this is told.
    pub fn lets_go_dirs(&self) -> &[DirId] {
        match self {
            ToHome::Movers(report) => report.lets_go_dirs(),
            ToHome::Joins { .. }
            | ToHome::DialFailed
            | ToHome::LaneGone { .. }
            | ToHome::Broken(_) => &[],
        }
    }

    /// The file that is let go of before this is told.
    pub fn lets_go(&self) -> Option<FileId> {
        match self {
            ToHome::Movers(report) => report.lets_go(),
            ToHome::Joins { .. }
            | ToHome::DialFailed
            | ToHome::LaneGone { .. }
            | ToHome::Broken(_) => None,
        }
    }
}
