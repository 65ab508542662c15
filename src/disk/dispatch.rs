//! Which function carries out which disk operation.

use super::{Attributes, DiskDone, DiskError, DiskOp, Files};
use super::{descriptors, digests, dirlinks, full, named, part, publish, source, target};
use crate::proto::errno::ENOSPC;

/// Runs an operation, again and again while it lacks a descriptor.
pub(super) async fn run_with_descriptors(files: Files, cmd: DiskOp) -> Result<DiskDone, DiskError> {
    let mut wait = None;
    loop {
        match run(&files, cmd.clone()).await {
            Err(error) if descriptors::is_shortage(&error) => {
                let wait = wait.get_or_insert_with(|| descriptors::Wait::begin(&files));
                if wait.is_over() {
                    return Err(error);
                }
                wait.for_a_turn().await;
            }
            other => {
                if let Some(wait) = wait {
                    wait.has_ended_well();
                }
                return other;
            }
        }
    }
}

pub(super) async fn run(files: &Files, cmd: DiskOp) -> Result<DiskDone, DiskError> {
    let made_in = full::makes_in(&cmd);
    match (run_by_kind(files, cmd).await, made_in) {
        (Err(error), Some(dir)) if error.errno == ENOSPC => {
            Err(full::lacking(files, dir, error).await)
        }
        (result, _) => result,
    }
}

async fn run_by_kind(files: &Files, cmd: DiskOp) -> Result<DiskDone, DiskError> {
    match cmd {
        DiskOp::CloseDir { dir } => target::close_dir(files, dir).await,
        DiskOp::Yield => Ok(DiskDone::Yielded),
        cmd @ (DiskOp::ResolveSource { .. }
        | DiskOp::OpenDir { .. }
        | DiskOp::List { .. }
        | DiskOp::LookUnfinished { .. }
        | DiskOp::ReadSmall { .. }
        | DiskOp::OpenRead { .. }
        | DiskOp::Read { .. }
        | DiskOp::Pipe { .. }
        | DiskOp::Map { .. }
        | DiskOp::Recall { .. }
        | DiskOp::Remember { .. }
        | DiskOp::AwaitInput { .. }
        | DiskOp::ReadOn { .. }
        | DiskOp::Stat { .. }
        | DiskOp::CloseRead { .. }) => run_for_sender(files, cmd).await,
        cmd @ (DiskOp::OpenPart { .. }
        | DiskOp::StartPart { .. }
        | DiskOp::Write { .. }
        | DiskOp::MakeHole { .. }
        | DiskOp::ReadPart { .. }
        | DiskOp::WriteJournal { .. }
        | DiskOp::CommitPart { .. }
        | DiskOp::ClosePart { .. }
        | DiskOp::CopyRange { .. }
        | DiskOp::CleanPart { .. }) => run_for_part(files, cmd).await,
        cmd @ (DiskOp::ResolveTarget { .. }
        | DiskOp::StatDir { .. }
        | DiskOp::DirsAbove { .. }
        | DiskOp::EnterTarget { .. }
        | DiskOp::Check { .. }
        | DiskOp::MakeDir { .. }
        | DiskOp::SetDir { .. }
        | DiskOp::PutSmall { .. }
        | DiskOp::PutSymlink { .. }) => run_for_target(files, cmd).await,
    }
}

/// Finding, listing and reading sources.
async fn run_for_sender(files: &Files, cmd: DiskOp) -> Result<DiskDone, DiskError> {
    match cmd {
        DiskOp::ResolveSource { path, follow, dir } => {
            let path = &path;
            named::resolve(files, &named::SourceAsked { path, follow, dir }).await
        }
        DiskOp::OpenDir { parent, name, dir } => {
            source::open_dir(files, parent, name.as_ref(), dir).await
        }
        DiskOp::List { dir, max_entries } => source::list(files, dir, max_entries).await,
        DiskOp::LookUnfinished { dir, name } => part::look_unfinished(files, dir, &name).await,
        DiskOp::ReadSmall {
            dir,
            name,
            max_bytes,
        } => source::read_small(files, dir, &name, max_bytes).await,
        DiskOp::OpenRead { dir, name, file } => source::open_read(files, dir, &name, file).await,
        DiskOp::Read {
            file,
            offset,
            len_bytes,
        } => source::read(files, file, offset, len_bytes).await,
        DiskOp::Pipe {
            file,
            offset,
            len_bytes,
        } => source::pipe(files, file, offset, len_bytes).await,
        DiskOp::Map { file, offset } => source::map(files, file, offset).await,
        DiskOp::Recall { file, size_bytes } => digests::recall(files, file, size_bytes).await,
        DiskOp::Remember {
            file,
            stamp,
            values,
        } => digests::remember(files, file, stamp, values).await,
        DiskOp::AwaitInput { file } => named::await_input(files, file).await,
        DiskOp::ReadOn { file, len_bytes } => named::read_on(files, file, len_bytes).await,
        DiskOp::Stat { file } => source::stat(files, file).await,
        DiskOp::CloseRead { file } => {
            files.space.forget_file(file);
            Ok(DiskDone::Done)
        }
        other => unreachable!("{other:?} is none of a sender"),
    }
}

/// Partial files.
async fn run_for_part(files: &Files, cmd: DiskOp) -> Result<DiskDone, DiskError> {
    match cmd {
        DiskOp::OpenPart {
            dir,
            name,
            file,
            resumable,
            is_plain,
        } => {
            let new = part::NewPart {
                dir,
                name,
                file,
                resumable,
                mode: publish::new_mode(is_plain),
            };
            part::open_part(files, new).await
        }
        DiskOp::StartPart {
            file,
            size_bytes,
            sparse,
            journal,
        } => part::start_part(files, file, (size_bytes, sparse), journal).await,
        DiskOp::Write { file, offset, data } => part::write(files, file, offset, data).await,
        DiskOp::MakeHole {
            file,
            offset,
            len_bytes,
        } => part::make_hole(files, file, offset, len_bytes).await,
        DiskOp::ReadPart {
            file,
            offset,
            len_bytes,
        } => source::read(files, file, offset, len_bytes).await,
        DiskOp::WriteJournal {
            file,
            offset,
            bytes,
        } => part::write_journal(files, file, offset, bytes).await,
        DiskOp::CommitPart {
            file,
            attributes,
            replaces,
        } => part::commit_part(files, file, attributes, replaces).await,
        DiskOp::ClosePart { file, keep } => part::close_part(files, file, keep).await,
        DiskOp::CopyRange {
            file,
            from,
            len_bytes,
            most_bytes,
        } => part::copy_range(files, file, from, (len_bytes, most_bytes)).await,
        DiskOp::CleanPart { dir, name } => part::clean_part(files, dir, &name).await,
        other => unreachable!("{other:?} is none of a partial file"),
    }
}

/// What stands at the destination, and what is put there whole.
async fn run_for_target(files: &Files, cmd: DiskOp) -> Result<DiskDone, DiskError> {
    match cmd {
        cmd @ (DiskOp::ResolveTarget { .. }
        | DiskOp::StatDir { .. }
        | DiskOp::DirsAbove { .. }
        | DiskOp::EnterTarget { .. }
        | DiskOp::MakeDir { .. }
        | DiskOp::SetDir { .. }) => run_for_target_dir(files, cmd).await,
        DiskOp::Check {
            dir,
            name,
            mtime,
            sparse,
        } => target::check(files, dir, &name, (mtime, sparse)).await,
        DiskOp::PutSmall {
            dir,
            name,
            data,
            attributes,
            replaces,
        } => {
            let new = target::NewSmall {
                dir,
                name,
                attributes,
                replaces,
            };
            target::put_small(files, &new, data).await
        }
        DiskOp::PutSymlink {
            dir,
            name,
            target,
            attributes,
            replaces,
        } => {
            let new = target::NewLink {
                dir,
                name,
                target,
                attributes,
                replaces,
            };
            target::put_symlink(files, &new).await
        }
        other => unreachable!("{other:?} is put nowhere"),
    }
}

/// The directories of the destination.
async fn run_for_target_dir(files: &Files, cmd: DiskOp) -> Result<DiskDone, DiskError> {
    match cmd {
        DiskOp::ResolveTarget {
            path,
            must_be_dir,
            no_target_dir,
            copy,
            dir,
            fsync,
        } => {
            let wanted = target::WantedTarget {
                path,
                must_be_dir,
                no_target_dir,
                copy,
                dir,
                fsync,
            };
            target::resolve(files, &wanted).await
        }
        DiskOp::StatDir { dir } => source::stat_dir(files, dir).await,
        DiskOp::DirsAbove { dir } => target::dirs_above(files, dir).await,
        DiskOp::EnterTarget { dir } => dirlinks::enter_target(files, dir).await,
        DiskOp::MakeDir {
            parent,
            name,
            dir,
            keep_dirlinks,
            is_plain,
            copy,
            fsync,
        } => {
            let new = dirlinks::NewDir {
                parent,
                name,
                dir,
                keep_dirlinks,
                is_plain,
                copy,
                fsync,
            };
            dirlinks::make_dir(files, &new).await
        }
        DiskOp::SetDir {
            dir,
            mode,
            mtime,
            ends_copy,
            fsync,
        } => {
            if let Some(copy) = ends_copy {
                files.end_copy(&files.dir(dir).await?, copy).await?;
            }
            let mode = target::mode_of(files, dir, mode);
            let attributes = Attributes { mode, mtime, fsync };
            target::set_dir(files, dir, attributes).await
        }
        other => unreachable!("{other:?} is about no directory of a destination"),
    }
}
