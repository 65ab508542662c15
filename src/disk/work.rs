//! What operations of sessions are for, as they are counted.

use crate::metrics::DiskWork;
use crate::proto::DiskOp;

/// What an operation is for.
pub(super) fn of(op: &DiskOp) -> DiskWork {
    match op {
        DiskOp::ResolveTarget { .. }
        | DiskOp::ResolveSource { .. }
        | DiskOp::List { .. }
        | DiskOp::LookUnfinished { .. }
        | DiskOp::Map { .. }
        | DiskOp::AwaitInput { .. }
        | DiskOp::Stat { .. }
        | DiskOp::Recall { .. }
        | DiskOp::Remember { .. }
        | DiskOp::Check { .. }
        | DiskOp::StatDir { .. }
        | DiskOp::DirsAbove { .. }
        | DiskOp::Yield => DiskWork::Look,
        DiskOp::OpenDir { .. }
        | DiskOp::OpenRead { .. }
        | DiskOp::MakeDir { .. }
        | DiskOp::EnterTarget { .. }
        | DiskOp::OpenPart { .. } => DiskWork::Open,
        DiskOp::ReadSmall { .. }
        | DiskOp::Read { .. }
        | DiskOp::Pipe { .. }
        | DiskOp::ReadOn { .. }
        | DiskOp::ReadPart { .. } => DiskWork::Read,
        DiskOp::Write { .. } | DiskOp::MakeHole { .. } | DiskOp::CopyRange { .. } => {
            DiskWork::Write
        }
        DiskOp::StartPart { .. } | DiskOp::WriteJournal { .. } => DiskWork::Journal,
        DiskOp::PutSmall { .. }
        | DiskOp::PutSymlink { .. }
        | DiskOp::CommitPart { .. }
        | DiskOp::SetDir { .. } => DiskWork::Publish,
        DiskOp::CloseDir { .. }
        | DiskOp::CloseRead { .. }
        | DiskOp::ClosePart { .. }
        | DiskOp::CleanPart { .. } => DiskWork::Close,
    }
}
