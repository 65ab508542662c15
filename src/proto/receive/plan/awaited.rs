//! What a receiver waits for, in case it waits for ever.

use bytes::Bytes;

use super::{ReceivePlan, ReceivePlanOp};
use crate::ids::EntryId;

impl ReceivePlan {
    /// What the oldest disk operation under way is about.
    pub fn awaited_of_disk(&self) -> Option<Bytes> {
        match *self.ops.oldest()? {
            ReceivePlanOp::MakeDir { dir }
            | ReceivePlanOp::EnterTarget { dir }
            | ReceivePlanOp::StatDir { dir, .. }
            | ReceivePlanOp::SetDir { dir }
            | ReceivePlanOp::Clean { dir } => Some(self.tree.dirs.get(dir)?.path().clone()),
            ReceivePlanOp::Check { entry } | ReceivePlanOp::PutSymlink { entry } => {
                self.path_of_id(entry)
            }
            ReceivePlanOp::Part { part, .. } => self.path_of_id(self.parts.entry_of(part)?),
            ReceivePlanOp::Target
            | ReceivePlanOp::Above { .. }
            | ReceivePlanOp::Copy { .. }
            | ReceivePlanOp::CloseCopy { .. }
            | ReceivePlanOp::Close => None,
        }
    }

    /// The first entry that has no final verdict.
    pub fn awaited_of_peer(&self) -> Option<Bytes> {
        self.path_of_id(*self.entries.keys().min()?)
    }

    pub fn path_of_id(&self, entry: EntryId) -> Option<Bytes> {
        self.entries.get(&entry).map(|entry| self.path_of(entry))
    }
}
