//! Unsized files: read to their end one stretch after the other, each a record of its own.
//!
//! Before each read the source is looked at, for a pipe may have nothing now, and nothing waits in
//! a read. Stretches travel on one stream, so that they do not overtake each other, and that goes
//! on no added lane: what was read of a pipe cannot be read again.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::{Issued, SendMover, SendMoverOp};
use crate::ids::EntryId;
use crate::proto::errors::{source_changed, source_error};
use crate::proto::integrity::digest_of;
use crate::proto::ports::Ports;
use crate::proto::send::orders::{SendReport, StretchOrder};
use crate::proto::send::patience::Patience;
use crate::proto::stretches::StretchChain;
use crate::proto::wire::{RecordHead, RecordStatus, encode_record_tail};
use crate::proto::{DiskDone, DiskError, DiskOp, PIECE_BYTES};

#[derive(Debug, Default)]
pub(super) struct UnsizedJobs {
    all: Slab<UnsizedJob>,
}

/// An unsized file being read.
#[derive(Debug)]
struct UnsizedJob {
    order: StretchOrder,
    offset: u64,
    chain: StretchChain,
    state: UnsizedState,
}

#[derive(Clone, Copy, Debug)]
enum UnsizedState {
    /// Next: Looking.
    Fresh,
    /// Whether there is something to read is being asked. Next: Silent, Ready, gone.
    Looking(Patience),
    /// There was nothing. Next: Looking, gone.
    Silent(Patience),
    /// Next: Reading, gone.
    Ready,
    /// Next: Fresh, or gone.
    Reading,
    /// Nobody wants it any more, or it failed; an operation is in flight. Next: gone.
    GivenUp,
}

impl UnsizedJobs {
    /// When a silent source is looked at again.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let silent = self.all.iter().filter_map(|(_, job)| match job.state {
            UnsizedState::Silent(patience) => patience.until(),
            UnsizedState::Fresh
            | UnsizedState::Looking(_)
            | UnsizedState::Ready
            | UnsizedState::Reading
            | UnsizedState::GivenUp => None,
        });
        silent.min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn entry_of(&self, job: usize) -> Option<EntryId> {
        self.all.get(job).map(|job| job.order.entry)
    }

    fn ready(&self) -> Option<usize> {
        let is_ready = |(at, job): (usize, &UnsizedJob)| {
            matches!(job.state, UnsizedState::Ready).then_some(at)
        };
        self.all.iter().find_map(is_ready)
    }

    #[cfg(test)]
    pub(super) fn files(&self) -> Vec<usize> {
        self.all.iter().map(|(_, job)| job.order.file).collect()
    }
}

impl SendMover {
    pub fn take_unsized(&mut self, order: StretchOrder) {
        self.unsized_files.all.insert(UnsizedJob {
            order,
            offset: 0,
            chain: StretchChain::default(),
            state: UnsizedState::Fresh,
        });
    }

    /// Whether an unsized file may be read on.
    pub fn has_input(&self) -> bool {
        self.unsized_files.ready().is_some()
    }

    /// Asks of each unsized file whose time has come whether it has something to read.
    pub fn look_for_input(&mut self, now: Instant, ports: &mut Ports) {
        for (at, job) in &mut self.unsized_files.all {
            let patience = match &mut job.state {
                UnsizedState::Fresh => Patience::default(),
                UnsizedState::Silent(patience) => match patience.next_look(now) {
                    Some(patience) => patience,
                    None => continue,
                },
                UnsizedState::Looking(_)
                | UnsizedState::Ready
                | UnsizedState::Reading
                | UnsizedState::GivenUp => continue,
            };
            job.state = UnsizedState::Looking(patience);
            let cmd = DiskOp::AwaitInput { file: job.order.id };
            self.ops.start(ports, SendMoverOp::Input { job: at }, cmd);
        }
    }

    pub(super) fn input_looked_for(&mut self, at: usize, result: Result<DiskDone, DiskError>) {
        let job = &mut self.unsized_files.all[at];
        let UnsizedState::Looking(patience) = job.state else {
            return self.end_unsized(at);
        };
        match result {
            Ok(DiskDone::Input { is_ready: true }) => job.state = UnsizedState::Ready,
            Ok(_) => job.state = UnsizedState::Silent(patience),
            Err(error) => self.fail_unsized(at, &error),
        }
    }

    /// Starts the next read of an unsized file.
    pub fn read_stretch(&mut self, ports: &mut Ports) -> Issued {
        let Some(at) = self.unsized_files.ready() else {
            return Issued::Nothing;
        };
        let job = &mut self.unsized_files.all[at];
        job.state = UnsizedState::Reading;
        self.ahead.reading_bytes += PIECE_BYTES as u64;
        let cmd = DiskOp::ReadOn {
            file: job.order.id,
            len_bytes: PIECE_BYTES,
        };
        self.ops.start(ports, SendMoverOp::Stretch { job: at }, cmd);
        Issued::Bytes(PIECE_BYTES as u64)
    }

    pub(super) fn stretch_read(
        &mut self,
        ports: &mut Ports,
        at: usize,
        result: Result<DiskDone, DiskError>,
    ) {
        self.ahead.reading_bytes -= PIECE_BYTES as u64;
        let job = &mut self.unsized_files.all[at];
        if let UnsizedState::GivenUp = job.state {
            return self.end_unsized(at);
        }
        match result {
            Ok(DiskDone::Read { data }) if data.is_empty() => {
                let size_bytes = job.offset;
                if let Some(digest) = job.chain.digest(size_bytes) {
                    let file = job.order.file;
                    self.reports.push_back(SendReport::Ended {
                        file,
                        size_bytes,
                        digest,
                    });
                }
                self.end_unsized(at);
            }
            Ok(DiskDone::Read { data }) => self.emit_stretch(ports, at, data),
            Ok(_) => {
                let (file, error) = (job.order.file, source_changed());
                self.reports.push_back(SendReport::Failed { file, error });
                self.end_unsized(at);
            }
            Err(error) => self.fail_unsized(at, &error),
        }
    }

    fn emit_stretch(&mut self, ports: &mut Ports, at: usize, data: Bytes) {
        let job = &mut self.unsized_files.all[at];
        job.state = UnsizedState::Fresh;
        let (len_bytes, digest) = (data.len() as u64, digest_of(&data));
        job.chain.insert(job.offset, len_bytes, digest);
        let head = RecordHead::Stretch {
            entry: job.order.entry,
            offset: job.offset,
            len_bytes,
        };
        job.offset += len_bytes;
        let (mut begin, mut tail) = (BytesMut::new(), BytesMut::new());
        head.encode(&mut begin);
        encode_record_tail(RecordStatus::Valid, &digest, &mut tail);
        self.ahead.emitted_bytes += len_bytes;
        let bytes = len_bytes;
        self.reports.push_back(SendReport::Stretch { bytes });
        self.append_stretch(ports, [begin.freeze(), data, tail.freeze()]);
    }

    fn fail_unsized(&mut self, at: usize, error: &DiskError) {
        let file = self.unsized_files.all[at].order.file;
        let error = source_error(error);
        self.reports.push_back(SendReport::Failed { file, error });
        self.end_unsized(at);
    }

    /// An unsized file is over and nothing of it is in flight.
    fn end_unsized(&mut self, at: usize) {
        let file = self.unsized_files.all.remove(at).order.file;
        self.reports.push_back(SendReport::Over { file });
    }

    /// Ends what is under way for an unsized file, if this is one.
    pub(super) fn cancel_unsized(&mut self, file: usize) {
        let mut jobs = self.unsized_files.all.iter_mut();
        let Some((at, job)) = jobs.find(|(_, job)| job.order.file == file) else {
            return;
        };
        match job.state {
            UnsizedState::Fresh | UnsizedState::Silent(_) | UnsizedState::Ready => {
                self.end_unsized(at);
            }
            UnsizedState::Looking(_) | UnsizedState::Reading => job.state = UnsizedState::GivenUp,
            UnsizedState::GivenUp => {}
        }
    }
}
