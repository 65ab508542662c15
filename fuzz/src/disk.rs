//! An imagined disk: whatever is asked of it, the fuzzer's bytes say what it finds.

use std::sync::Arc;

use bytes::Bytes;
use landro::ids::Name;
use landro::proto::chunk::chunk_count;
use landro::proto::extents::DataMap;
use landro::proto::journal::Storage;
use landro::proto::{
    DirFound, DiskDone, DiskError, DiskOp, Existing, FileStamp, KernelData, Kind, Lapses, Lasting,
    Listed, Meta, Mtime, Recalled, TimeLapse,
};

use crate::Script;

const ERRNOS: [i32; 6] = [28, 13, 20, 21, 2, 5];

/// What an operation holds until it is written.
pub fn writing_bytes(cmd: &DiskOp) -> usize {
    match cmd {
        DiskOp::Write { data, .. } => data.len(),
        DiskOp::PutSmall { data, .. } => data.iter().map(Bytes::len).sum(),
        _ => 0,
    }
}

/// What an operation reads for the transport.
pub fn reading_bytes(cmd: &DiskOp) -> usize {
    match cmd {
        DiskOp::Read { len_bytes, .. } | DiskOp::Pipe { len_bytes, .. } => *len_bytes,
        DiskOp::ReadSmall { max_bytes, .. } => *max_bytes,
        _ => 0,
    }
}

/// All of it in the kernel, or nothing.
fn piped(how: u8, len_bytes: usize) -> DiskDone {
    let is_had = how & 8 != 0;
    DiskDone::Piped(is_had.then(|| KernelData::new(Arc::new(Bytes::from(vec![how; len_bytes])))))
}

/// An answer of the right kind.
pub fn answer(cmd: &DiskOp, script: &mut Script<'_>) -> Result<DiskDone, DiskError> {
    let how = script.byte();
    if how & 7 == 7 {
        let errno = ERRNOS[usize::from(how >> 3) % ERRNOS.len()];
        return Err(DiskError {
            call: "imagined",
            errno,
        });
    }
    Ok(match cmd {
        DiskOp::ResolveTarget { .. } => DiskDone::Target {
            name: (how & 8 != 0).then(|| name(b"renamed")),
        },
        DiskOp::ResolveSource { .. } => source(how, script),
        DiskOp::List { max_entries, .. } => listing(how, *max_entries, script),
        DiskOp::LookUnfinished { .. } => unfinished(how, script),
        DiskOp::ReadSmall { max_bytes, .. } => small(how, *max_bytes, script),
        DiskOp::OpenRead { .. } | DiskOp::Stat { .. } | DiskOp::StatDir { .. } => {
            DiskDone::Meta(meta(how, script))
        }
        DiskOp::Read { len_bytes, .. }
        | DiskOp::ReadPart { len_bytes, .. }
        | DiskOp::ReadOn { len_bytes, .. } => read(how, *len_bytes, script),
        DiskOp::Pipe { len_bytes, .. } => piped(how, *len_bytes),
        DiskOp::AwaitInput { .. } => input(how & 8 != 0),
        DiskOp::Check { .. }
        | DiskOp::MakeDir { .. }
        | DiskOp::PutSmall { .. }
        | DiskOp::PutSymlink { .. }
        | DiskOp::CommitPart { .. }
            if how & 0xf0 == 0xf0 =>
        {
            DiskDone::Taken {
                by: Bytes::from_static(b"taken"),
            }
        }
        DiskOp::Check { .. } => DiskDone::Existing((how & 8 != 0).then(|| existing(how, script))),
        DiskOp::OpenDir { .. } => DiskDone::Done,
        DiskOp::MakeDir { .. } => DiskDone::Directory {
            found: match how >> 3 & 3 {
                0 => DirFound::Missing,
                1 => DirFound::Unfinished,
                _ => DirFound::Finished,
            },
        },
        DiskOp::SetDir { .. }
        | DiskOp::PutSmall { .. }
        | DiskOp::PutSymlink { .. }
        | DiskOp::CommitPart { .. } => DiskDone::Placed(Lapses {
            mode: (how & 8 != 0).then_some(1),
            mtime: (how & 16 != 0).then_some(TimeLapse::OutOfRange),
        }),
        DiskOp::OpenPart { resumable, .. } => part(*resumable && how & 8 == 0, script),
        DiskOp::Map { offset, .. } => map(*offset, script),
        DiskOp::DirsAbove { .. } => DiskDone::Above(Vec::new()),
        DiskOp::Yield => DiskDone::Yielded,
        DiskOp::Recall { size_bytes, .. } => recalled(*size_bytes, script),
        DiskOp::CopyRange { len_bytes, .. } => DiskDone::Copied { bytes: *len_bytes },
        DiskOp::CloseDir { .. }
        | DiskOp::EnterTarget { .. }
        | DiskOp::CloseRead { .. }
        | DiskOp::Remember { .. }
        | DiskOp::StartPart { .. }
        | DiskOp::Write { .. }
        | DiskOp::MakeHole { .. }
        | DiskOp::WriteJournal { .. }
        | DiskOp::ClosePart { .. }
        | DiskOp::CleanPart { .. } => DiskDone::Done,
    })
}

fn input(is_ready: bool) -> DiskDone {
    DiskDone::Input { is_ready }
}

fn source(how: u8, script: &mut Script<'_>) -> DiskDone {
    let meta = meta(how, script);
    DiskDone::Source {
        name: (how & 8 == 0).then(|| name(b"source")),
        meta: Box::new(meta),
        link: link(&meta),
        in_place: how & 16 != 0,
    }
}

fn listing(how: u8, max_entries: usize, script: &mut Script<'_>) -> DiskDone {
    let count = usize::from(how >> 4).min(max_entries);
    DiskDone::Listed {
        entries: (0..count).map(|_| listed(script)).collect(),
        end: how & 8 == 0,
    }
}

fn small(how: u8, max_bytes: usize, script: &mut Script<'_>) -> DiskDone {
    let after = meta(how, script);
    let len = usize::try_from(after.size_bytes)
        .unwrap_or(usize::MAX)
        .min(max_bytes);
    DiskDone::Small {
        data: vec![0; len].into(),
        after,
    }
}

fn map(offset: u64, script: &mut Script<'_>) -> DiskDone {
    let mut at = offset;
    let ranges = (0..script.byte() % 4).map(|_| {
        let start = at.saturating_add(u64::from(script.byte()) << 12);
        at = start.saturating_add(1 + (u64::from(script.byte()) << 9));
        start..at
    });
    let ranges: Vec<_> = ranges.collect();
    let known_to = match script.byte() % 2 {
        0 if at > offset => at,
        _ => u64::MAX,
    };
    DiskDone::Mapped(DataMap::new(ranges, known_to))
}

fn unfinished(how: u8, script: &mut Script<'_>) -> DiskDone {
    let found = || (Bytes::from_static(b"unfinished"), meta(how, script));
    DiskDone::Unfinished((how & 8 != 0).then(found))
}

/// Values of all chunks, of too few, or none.
fn recalled(size_bytes: u64, script: &mut Script<'_>) -> DiskDone {
    let how = script.byte();
    let stamp = FileStamp {
        device: 1,
        inode: 1,
        size_bytes,
        mtime: Mtime::default(),
        ctime: Mtime::default(),
    };
    let chunks = chunk_count(size_bytes) as usize - usize::from(how & 4 != 0);
    let values = (how & 2 != 0).then(|| vec![[how; 32]; chunks].into());
    let recalled = Recalled { stamp, values };
    DiskDone::Recalled((how & 1 != 0).then(|| Box::new(recalled)))
}

fn read(how: u8, len_bytes: usize, script: &mut Script<'_>) -> DiskDone {
    let short = match how & 8 {
        0 => 0,
        _ => usize::from(script.byte()),
    };
    DiskDone::Read {
        data: vec![0; len_bytes.saturating_sub(short)].into(),
    }
}

fn existing(how: u8, script: &mut Script<'_>) -> Box<Existing> {
    let meta = meta(how, script);
    Box::new(Existing {
        meta,
        link: link(&meta),
        in_doubt: how & 16 != 0,
        has_mtime: how & 32 == 0,
    })
}

fn part(resumable: bool, script: &mut Script<'_>) -> DiskDone {
    DiskDone::Part {
        journal: script.short(),
        size_bytes: u64::from(script.byte()) << 16,
        resumable,
        storage: Storage {
            boot: [1; 16],
            mount: 1,
        },
    }
}

fn meta(how: u8, script: &mut Script<'_>) -> Meta {
    let kind = [
        Kind::Directory,
        Kind::File,
        Kind::File,
        Kind::Symlink,
        Kind::File,
        Kind::Special,
        Kind::File,
    ][usize::from(how & 7) % 7];
    let size_bytes = match kind {
        Kind::File => u64::from(script.byte()) << (script.byte() % 56),
        Kind::Directory | Kind::Symlink | Kind::Special => 0,
    };
    Meta {
        kind,
        mode: 0o644,
        mtime: Mtime {
            seconds: 1,
            nanoseconds: 2,
        },
        size_bytes,
        allocated_bytes: match how & 8 {
            0 => size_bytes,
            _ => size_bytes / 2,
        },
        inode: 3,
        device: 0,
        lasting: Lasting::Inode,
        links: 1,
        is_sized: true,
    }
}

fn link(meta: &Meta) -> Option<Bytes> {
    (meta.kind == Kind::Symlink).then(|| Bytes::from_static(b"to"))
}

fn listed(script: &mut Script<'_>) -> Listed {
    let how = script.byte();
    // File systems hold names that cannot be sent.
    let name = script.take(usize::from(how >> 4));
    if how & 7 == 7 {
        return Listed {
            name,
            found: Err(DiskError {
                call: "imagined",
                errno: ERRNOS[0],
            }),
        };
    }
    let meta = meta(how, script);
    Listed {
        name,
        found: Ok((meta, link(&meta))),
    }
}

fn name(bytes: &'static [u8]) -> Name {
    Name::new(Bytes::from_static(bytes)).expect("a good name")
}
