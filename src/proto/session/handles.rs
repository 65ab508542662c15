//! Numbers of the files and directories that an answer has open.

use crate::ids::{DirId, FileId, MoverId};
use crate::proto::ports::OpOwner;

/// Numbers of what one answer has open, which no other answer of the session has had.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerHandles {
    pub(super) owner: OpOwner,
    pub(super) parent: DirId,
    /// Of a directory that is listed; where those below are listed, too, they follow.
    pub(super) listed: DirId,
    pub(super) file: FileId,
}

impl AnswerHandles {
    /// The session has no other answer.
    pub(super) const ALONE: AnswerHandles = AnswerHandles {
        owner: OpOwner::Plan,
        parent: DirId(0),
        listed: DirId(1),
        file: FileId(0),
    };

    /// Of the answer with this number among all of the session. Behind 2^31 of them those before
    /// are long closed.
    pub(super) fn of(slot: u8, number: u32) -> AnswerHandles {
        let parent = number.wrapping_mul(2);
        AnswerHandles {
            owner: OpOwner::Mover(MoverId(u32::from(slot))),
            parent: DirId(parent),
            listed: DirId(parent.wrapping_add(1)),
            file: FileId(number),
        }
    }
}
