//! What a sender waits for, in case it waits for ever.

use bytes::Bytes;

use super::{SendPlan, SendPlanOp};
use crate::ids::EntryId;

impl SendPlan {
    /// What the oldest disk operation under way is about.
    pub fn awaited_of_disk(&self) -> Option<Bytes> {
        match *self.ops.oldest()? {
            SendPlanOp::Source { source, .. } => self.walk.source(source),
            SendPlanOp::OpenDir { dir, .. }
            | SendPlanOp::List { dir }
            | SendPlanOp::OpenCopied { dir } => Some(self.dirs.open.get(dir)?.path.clone()),
            SendPlanOp::OpenRead { file, .. }
            | SendPlanOp::Look { file }
            | SendPlanOp::Recall { file }
            | SendPlanOp::Stat { file } => self.path_of(self.files.entry_of(file)?),
            SendPlanOp::AwaitCopied
            | SendPlanOp::CheckCopied
            | SendPlanOp::CountSource
            | SendPlanOp::CountOpen
            | SendPlanOp::CountList
            | SendPlanOp::Close => None,
        }
    }

    /// The first entry that the receiver has not resolved.
    pub fn awaited_of_peer(&self) -> Option<Bytes> {
        self.path_of(*self.entries.keys().min()?)
    }

    pub fn path_of(&self, entry: EntryId) -> Option<Bytes> {
        Some(self.entries.get(&entry)?.path())
    }
}
