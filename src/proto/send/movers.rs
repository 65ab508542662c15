//! The movers of a sender: one for each lane that carries data, begun and ended with it.

use std::time::Instant;

use super::mover::{MoverConfig, SendMover, SendMoverOp};
use super::orders::{SendCommand, SendReport};
use super::tail::others_are_sooner;
use super::{LOOKUP_LEAST, SenderConfig};
use crate::ids::{EntryId, MoverId, OpId};
use crate::proto::ports::Ports;
use crate::proto::{DiskDone, DiskError};

/// Read-aheads of a whole size that a session has at a time. Where it has more movers each has
/// less: what is read waits in buffers that all sessions share.
const WHOLE_READ_AHEADS: u64 = 4;

pub struct Movers {
    config: MoverConfig,
    /// Reads of small files at a time.
    lookups: usize,
    /// The first is that of the lanes that carry control, and is always there.
    all: Vec<SendMover>,
    is_in_place: bool,
    /// Of movers that are over.
    gone_emitted_bytes: u64,
    gone_hole_bytes: u64,
    /// What is emitted once more.
    again_bytes: u64,
}

impl Movers {
    pub fn new(now: Instant, config: &SenderConfig) -> Movers {
        let lookups = config.lookups.max(LOOKUP_LEAST);
        let config = MoverConfig {
            read_ahead_bytes: config.read_ahead_bytes,
            read_ahead_in_place_bytes: config.read_ahead_in_place_bytes,
            carriage: config.carriage,
            parallel: config.parallel.clone(),
            no_growing: config.no_growing,
        };
        let all = vec![SendMover::new(now, MoverId::CONTROL, &config)];
        Movers {
            config,
            lookups,
            all,
            is_in_place: false,
            gone_emitted_bytes: 0,
            gone_hole_bytes: 0,
            again_bytes: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn control(&mut self) -> &mut SendMover {
        &mut self.all[0]
    }

    pub fn at(&mut self, at: usize) -> &mut SendMover {
        &mut self.all[at]
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut SendMover> {
        self.all.iter_mut()
    }

    fn find(&mut self, id: MoverId) -> Option<&mut SendMover> {
        self.all.iter_mut().find(|mover| mover.id == id)
    }

    /// Whether a mover takes orders; one that is not there is begun.
    pub fn set_pulls(&mut self, now: Instant, id: MoverId, pulls: bool) {
        if let Some(mover) = self.find(id) {
            return mover.set_pulls(pulls);
        }
        let mut mover = SendMover::new(now, id, &self.config);
        mover.set_pulls(pulls);
        mover.set_in_place(self.is_in_place);
        self.all.push(mover);
    }

    pub fn retire(&mut self, id: MoverId) {
        if let Some(mover) = self.find(id) {
            mover.retire();
        }
    }

    pub fn lose(&mut self, id: MoverId) {
        if let Some(mover) = self.find(id) {
            mover.lose();
        }
    }

    pub fn on_sent(&mut self, now: Instant, id: MoverId, bytes: u64) {
        if let Some(mover) = self.find(id) {
            mover.on_sent(now, bytes);
        }
    }

    /// A command for whoever has such an order.
    pub fn obey(&mut self, ports: &mut Ports, command: SendCommand) {
        if let SendCommand::ReadInPlace(is_in_place) = command {
            self.is_in_place = is_in_place;
        }
        for mover in &mut self.all {
            mover.obey(ports, command);
        }
    }

    pub fn next_report(&mut self) -> Option<SendReport> {
        self.all.iter_mut().find_map(SendMover::next_report)
    }

    /// Takes what an operation was for out of the table it is in. Gives the place of its mover.
    pub fn finish(&mut self, op: OpId) -> Option<(usize, SendMoverOp)> {
        let mut all = self.all.iter_mut().enumerate();
        all.find_map(|(at, mover)| Some((at, mover.finish(op)?)))
    }

    pub fn on_disk(
        &mut self,
        ports: &mut Ports,
        (at, op): (usize, SendMoverOp),
        result: Result<DiskDone, DiskError>,
    ) {
        self.all[at].on_disk(ports, op, result);
    }

    pub fn in_flight(&self) -> usize {
        self.all.iter().map(SendMover::in_flight).sum()
    }

    /// Whether a mover may start another read, as far as its lane and buffers are concerned.
    pub fn has_room(&self, at: usize) -> bool {
        let share = (WHOLE_READ_AHEADS, self.all.len() as u64);
        self.all[at].has_room(share)
    }

    /// Whether the other movers that take orders will have moved `left_bytes` before this one has
    /// moved an order of so many bytes.
    pub fn are_sooner(
        &self,
        now: Instant,
        at: usize,
        (order_bytes, left_bytes): (u64, u64),
    ) -> bool {
        let others = self.all.iter().enumerate();
        let others = others.filter(|(other, mover)| *other != at && mover.pulls());
        let others = others.map(|(_, mover)| mover.load(now));
        others_are_sooner(self.all[at].load(now), order_bytes, left_bytes, others)
    }

    /// Whether another small file may be read: so many at a time.
    pub fn takes_wholes(&self) -> bool {
        let reading: usize = self.all.iter().map(SendMover::wholes).sum();
        reading < self.lookups
    }

    /// Ends those that have nothing left to do.
    pub fn settle(&mut self, ports: &mut Ports) {
        for mover in &mut self.all {
            mover.end_if_retired(ports);
        }
        let (emitted, holes) = (&mut self.gone_emitted_bytes, &mut self.gone_hole_bytes);
        self.all.retain(|mover| {
            if mover.is_over() {
                *emitted += mover.emitted_bytes();
                *holes += mover.hole_bytes();
            }
            !mover.is_over()
        });
    }

    /// So much file data is going to be emitted again.
    pub fn take_back(&mut self, bytes: u64) {
        self.again_bytes += bytes;
    }

    /// File bytes that the transport took; `last`: that it has or will have, for nothing follows.
    pub fn sent_bytes(&self, last: bool) -> u64 {
        let emitted: u64 = self.all.iter().map(SendMover::emitted_bytes).sum();
        let untaken: u64 = match last {
            true => 0,
            false => self.all.iter().map(SendMover::untaken_bytes).sum(),
        };
        (self.gone_emitted_bytes + emitted).saturating_sub(untaken + self.again_bytes)
    }

    /// Bytes of holes that were passed.
    pub fn hole_bytes(&self) -> u64 {
        self.gone_hole_bytes + self.all.iter().map(SendMover::hole_bytes).sum::<u64>()
    }

    /// The entry of a read that is under way longest in its mover.
    pub fn awaited(&self) -> Option<EntryId> {
        self.all.iter().find_map(SendMover::awaited)
    }

    /// When a pipe is looked at again.
    pub fn deadline(&self) -> Option<Instant> {
        self.all.iter().filter_map(SendMover::deadline).min()
    }

    #[cfg(test)]
    pub fn orders(&self) -> super::mover::Orders {
        let all: Vec<_> = self.all.iter().map(SendMover::orders).collect();
        super::mover::Orders {
            wholes: all.iter().map(|orders| orders.wholes).sum(),
            chunks: all.into_iter().flat_map(|orders| orders.chunks).collect(),
        }
    }

    #[cfg(test)]
    pub fn check(&self) {
        self.all.iter().for_each(SendMover::check);
        assert_eq!(self.all[0].id, MoverId::CONTROL);
    }
}
