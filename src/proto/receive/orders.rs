//! What passes between the plan of a receiver and a mover: orders, commands, reports.
//!
//! An order says what may come and where it goes; a command is about orders that the mover has; all
//! that becomes of them is reported. All of them are small and own what they hold, so that they
//! travel to other workers as well: on the plan's own they are handed over by calls.

use std::sync::Arc;

use bytes::Bytes;

use crate::ids::{ChunkIndex, DirId, EntryId, FileId, Name};
use crate::proto::claims::Claims;
use crate::proto::integrity::Digest;
use crate::proto::stretches::InOrder;
use crate::proto::wire::{LaneAccount, RecordStatus};
use crate::proto::{Attributes, DiskDone, DiskError};

/// This small file was asked for. Ends with [`ReceiveReport::Published`] or
/// [`ReceiveReport::Corrupted`].
#[derive(Debug)]
pub struct TakeWhole {
    pub entry: EntryId,
    pub size_bytes: u64,
    pub dir: DirId,
    pub name: Name,
    pub attributes: Attributes,
    /// Something was seen at its name.
    pub replaces: bool,
}

/// Chunks of this partial file were asked for. Ends with [`ReceiveReport::Quiet`], when the plan
/// has had enough.
#[derive(Debug)]
pub struct TakePart {
    pub entry: EntryId,
    /// The plan's number of the partial file, the same in reports.
    pub part: usize,
    pub file: FileId,
    pub content: PartContent,
}

/// What may come of a file.
#[derive(Debug)]
pub enum PartContent {
    /// Chunks that are there are claimed: none of them may come. `is_sparse`: it was announced with
    /// holes.
    Chunks {
        size_bytes: u64,
        is_sparse: bool,
        claims: Arc<Claims>,
    },
    /// Stretches of an unsized file, each once.
    Stretches(InOrder<()>),
}

impl PartContent {
    pub fn is_sparse(&self) -> bool {
        match self {
            PartContent::Chunks { is_sparse, .. } => *is_sparse,
            PartContent::Stretches(_) => false,
        }
    }
}

/// What the plan tells a mover.
#[derive(Debug)]
pub enum ReceiveOrder {
    Whole(TakeWhole),
    Part(TakePart),
    /// The small file is given up: what still comes of it is dropped.
    Forget {
        entry: EntryId,
    },
    /// Nothing more goes into the partial file. What is being written ends first, and counts.
    Leave {
        entry: EntryId,
    },
}

/// What a mover has to say.
#[derive(Debug)]
pub enum ReceiveReport {
    /// A small file arrived whole, and is being put in place.
    Publishing {
        entry: EntryId,
        /// Fewer than announced where the sender's file system does not keep sizes.
        bytes: u64,
        has_grown: bool,
    },
    Published {
        entry: EntryId,
        result: Result<DiskDone, DiskError>,
    },
    /// A small file arrived, and its digest is another.
    Corrupted {
        entry: EntryId,
    },
    /// A chunk is written, or a hole; and its digest is right.
    Chunk {
        part: usize,
        chunk: ChunkIndex,
        value: Digest,
        has_grown: bool,
    },
    /// A stretch is written, and its digest is right.
    Stretch {
        part: usize,
        offset: u64,
        len_bytes: u64,
        digest: Digest,
    },
    /// A chunk arrived, and its digest is another.
    ChunkCorrupted {
        part: usize,
    },
    WriteFailed {
        part: usize,
        error: DiskError,
    },
    /// Behind `Leave`: nothing of the partial file is being written any more. `file`: as it was
    /// ordered, for another worker to let go of.
    Quiet {
        entry: EntryId,
        part: usize,
        file: FileId,
    },
}

/// What the plan's worker tells a mover on another one.
#[derive(Debug)]
pub enum AwayOrder {
    /// The answer to [`AwayReport::Asks`]. The file's descriptor goes with it.
    Part(TakePart),
    /// The other answer: what comes of the entry is dropped.
    Unwanted { entry: EntryId },
    /// As [`ReceiveOrder::Leave`].
    Leave { entry: EntryId },
    /// So much of the small files that were handed over is put in place, or dropped.
    Put { bytes: u64 },
}

/// What a mover on another worker tells that of the plan.
#[derive(Debug)]
pub enum AwayReport {
    /// A chunk comes of a file that the mover does not know. Its streams wait for the answer.
    Asks {
        entry: EntryId,
    },
    Small(SmallFile),
    Report(ReceiveReport),
    /// All in all, as far as it is not taken back: file data that came, and holes that passed.
    Moved {
        received_bytes: u64,
        hole_bytes: u64,
    },
    /// A lane there is no more, and this was taken of it.
    Account(Vec<LaneAccount>),
}

/// A small file that arrived on another worker, to be put in place on the plan's.
#[derive(Debug)]
pub struct SmallFile {
    pub entry: EntryId,
    pub data: Vec<Bytes>,
    pub status: RecordStatus,
    /// Its digest is that of the data.
    pub is_right: bool,
}

impl SmallFile {
    /// What it counts for until it is put in place.
    pub fn held_bytes(&self) -> u64 {
        let data = self.data.iter().map(|piece| piece.len() as u64);
        data.sum::<u64>() + SMALL_FILE_BYTES
    }
}

/// What a small file on its way to the plan's worker costs beside its data, about: an empty one is
/// mail, too.
const SMALL_FILE_BYTES: u64 = 512;
