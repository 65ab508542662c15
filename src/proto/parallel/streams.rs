//! The data streams in use: which chunk goes onto which, in which order, and when a stream has
//! carried enough.

use std::collections::VecDeque;

use super::ParallelTransferConfig;
use crate::ids::{MoverId, StreamKey};

/// A fixed number of places, each with at most one open stream and a queue of jobs for it. Records
/// on a stream follow each other, so only the front job of a slot may emit; the others read ahead
/// meanwhile.
#[derive(Debug)]
pub struct StreamSlots {
    slots: Vec<Slot>,
    limits: StreamLimits,
    mover: MoverId,
    next_key: u32,
}

#[derive(Debug, Default)]
struct Slot {
    key: Option<StreamKey>,
    load: StreamLoad,
    jobs: VecDeque<usize>,
}

/// How much one stream carries before another takes its place.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    chunks_per_stream: u32,
    bytes_per_stream_target: u64,
}

impl StreamLimits {
    pub fn new(config: &ParallelTransferConfig) -> StreamLimits {
        StreamLimits {
            chunks_per_stream: config.chunks_per_stream.max(1),
            bytes_per_stream_target: config.bytes_per_stream_target.max(1),
        }
    }
}

/// What a stream has carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamLoad {
    chunks: u32,
    bytes: u64,
}

impl StreamLoad {
    /// A record of `bytes` ends on the stream. `true`: the stream is to end with it.
    pub fn record_ends(&mut self, bytes: u64, limits: StreamLimits) -> bool {
        self.chunks += 1;
        self.bytes += bytes;
        self.chunks >= limits.chunks_per_stream || self.bytes >= limits.bytes_per_stream_target
    }
}

impl StreamSlots {
    /// Those of this mover.
    pub fn new(mover: MoverId, config: &ParallelTransferConfig) -> StreamSlots {
        StreamSlots {
            slots: (0..config.max_concurrent_streams.max(1))
                .map(|_| Slot::default())
                .collect(),
            limits: StreamLimits::new(config),
            mover,
            next_key: 0,
        }
    }

    /// Streams at a time.
    pub fn most(&self) -> usize {
        self.slots.len()
    }

    /// Queues a job on the least busy of the first `target` slots and names the slot.
    pub fn assign(&mut self, job: usize, target: usize) -> usize {
        let usable = target.clamp(1, self.slots.len());
        let slot = (0..usable)
            .min_by_key(|at| self.slots[*at].jobs.len())
            .unwrap_or(0);
        self.slots[slot].jobs.push_back(job);
        slot
    }

    /// The job whose record may be emitted on this slot now.
    pub fn front(&self, slot: usize) -> Option<usize> {
        self.slots[slot].jobs.front().copied()
    }

    /// Takes the front job off.
    pub fn pop(&mut self, slot: usize) {
        self.slots[slot].jobs.pop_front();
    }

    /// Takes a job that emitted nothing out of a slot's queue.
    pub fn remove(&mut self, slot: usize, job: usize) {
        self.slots[slot].jobs.retain(|other| *other != job);
    }

    /// The open stream of a slot; a new one if there is none.
    pub fn key(&mut self, slot: usize) -> StreamKey {
        if let Some(key) = self.slots[slot].key {
            return key;
        }
        let key = self.fresh_key();
        let slot = &mut self.slots[slot];
        (slot.key, slot.load) = (Some(key), StreamLoad::default());
        key
    }

    /// A stream outside the slots (small files are packed on one).
    pub fn fresh_key(&mut self) -> StreamKey {
        let key = StreamKey::of(self.mover, self.next_key);
        self.next_key = self.next_key.wrapping_add(1);
        key
    }

    /// A record of `bytes` ends on this slot's stream. `true`: the stream is to end with it.
    pub fn record_ends(&mut self, slot: usize, bytes: u64) -> bool {
        let slot = &mut self.slots[slot];
        let full = slot.load.record_ends(bytes, self.limits);
        if full {
            slot.key = None;
        }
        full
    }

    /// How many records ended on the stream of a slot.
    pub fn records(&self, slot: usize) -> u32 {
        let slot = &self.slots[slot];
        slot.key.map_or(0, |_| slot.load.chunks)
    }

    /// Streams that do not go on: the slots that had one of them, with it and its whole records.
    pub fn lose(&mut self, is_lost: impl Fn(StreamKey) -> bool) -> Vec<(usize, StreamKey, u32)> {
        let mut lost = Vec::new();
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if let Some(key) = slot.key.take_if(|key| is_lost(*key)) {
                lost.push((at, key, slot.load.chunks));
            }
        }
        lost
    }

    /// Streams that are open in slots without work, from slot `target` on; they are closed by this
    /// call, and the caller sends their FIN.
    pub fn retire_idle(&mut self, target: usize) -> Vec<StreamKey> {
        let idle = self
            .slots
            .iter_mut()
            .skip(target)
            .filter(|slot| slot.jobs.is_empty());
        idle.filter_map(|slot| slot.key.take()).collect()
    }
}
