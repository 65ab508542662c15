//! What every turn of a worker works with, whatever it is about: ring, time, buffers, timers, log.

use std::sync::Arc;
use std::time::Instant;

use landro_sys::{Driver, Pool, SendBuffer};

use super::last_look::LastLook;
use super::limits::SEND_BUFFERS;
use super::log::Log;

use super::shared::Shared;
use super::timers::Timers;
use crate::ids::WorkerId;
use crate::metrics::{Block, Recorder};

/// The part of a worker that all of its other parts are given.
pub(crate) struct Loop {
    pub(crate) id: WorkerId,
    /// Read once a turn.
    pub(crate) now: Instant,
    pub(crate) driver: Driver,
    pub(crate) pool: Pool,
    pub(crate) send_buffers: SendBuffers,
    pub(crate) timers: Timers,
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: Log,
    /// What this worker counts, of which anybody may read.
    pub(crate) numbers: Arc<Block>,
    /// Times that others cannot read yet.
    pub(crate) recorder: Recorder,
    pub(super) lookups: LastLook,
    /// The process is ending; when this worker does, at the latest.
    pub(crate) stopping: Option<Instant>,
    /// When free memory is given back to the kernel.
    pub(crate) trim_at: Option<Instant>,
    serials: u64,
}

impl Loop {
    pub(super) fn new(
        id: WorkerId,
        now: Instant,
        driver: Driver,
        pool: Pool,
        shared: Arc<Shared>,
    ) -> Loop {
        Loop {
            id,
            now,
            driver,
            pool,
            send_buffers: SendBuffers::default(),
            timers: Timers::default(),
            numbers: shared.metrics.block(id.0),
            recorder: Recorder::default(),
            lookups: LastLook::new(now),
            shared,
            log: Log::default(),
            stopping: None,
            trim_at: None,
            serials: 0,
        }
    }

    /// Says that the loop turned.
    pub(super) fn beat(&self) {
        if let Some(mailbox) = self.shared.mailboxes.get(self.id.0 as usize) {
            mailbox.pulse.beat();
        }
    }

    /// A number that tells the owner of a table's key from an earlier one.
    pub(crate) fn serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    /// Whether the pool has a buffer.
    pub(super) fn has_pool_buffer(&self) -> bool {
        self.pool.in_use() < self.pool.capacity()
    }

    /// More than half of the pool is in use: idle lanes then hold none of it, and pieces are not
    /// waited for, so that silent peers cannot keep it from others.
    pub(crate) fn is_pool_tight(&self) -> bool {
        self.pool.in_use() > self.pool.capacity() / 2
    }
}

/// What datagrams are sent from: up to [`SEND_BUFFERS`], made as they are needed.
#[derive(Default)]
pub(crate) struct SendBuffers {
    free: Vec<SendBuffer>,
    made: usize,
}

impl SendBuffers {
    /// How many may be taken.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + (SEND_BUFFERS - self.made)
    }

    pub(crate) fn take(&mut self) -> Option<SendBuffer> {
        if self.free.is_empty() && self.made < SEND_BUFFERS {
            self.made += 1;
            return Some(SendBuffer::new());
        }
        self.free.pop()
    }

    pub(crate) fn put_back(&mut self, buffer: SendBuffer) {
        self.free.push(buffer);
    }

    /// How many there are.
    pub(super) fn made(&self) -> usize {
        self.made
    }

    /// Whether the kernel has none.
    pub(super) fn are_all_back(&self) -> bool {
        self.free.len() == self.made
    }
}
