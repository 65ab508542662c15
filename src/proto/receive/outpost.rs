//! What of a receiver is on another worker than its plan: a mover, and what is told by mail.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::mover::ReceiveMover;
use super::orders::{AwayOrder, AwayReport, ReceiveReport};
use crate::ids::{OpId, StreamKey, WorkerId};
use crate::proto::MoverReport;
use crate::proto::errors::Violation;
use crate::proto::ports::{Ports, Stopping};
use crate::proto::{DiskDone, DiskError, LostLane};

/// How much moved is told when so much did, or after this time: mail wakes another worker.
const TELL_BYTES: u64 = 1 << 20;
const TELL_EVERY: Duration = Duration::from_millis(20);

pub struct ReceiveOutpost {
    mover: ReceiveMover,
    /// What home was told of what moved, and when.
    told_bytes: (u64, u64),
    told_at: Instant,
    stop: Stopping,
}

impl ReceiveOutpost {
    pub fn new(now: Instant, worker: WorkerId, write_behind_bytes: u64) -> ReceiveOutpost {
        ReceiveOutpost {
            mover: ReceiveMover::away(worker, write_behind_bytes),
            told_bytes: (0, 0),
            told_at: now,
            stop: Stopping::No,
        }
    }

    /// Whether data streams may be read: false while too much received waits, or an answer of home
    /// is waited for.
    pub fn takes_data(&self) -> bool {
        self.mover.takes_data()
    }

    /// Heap bytes, about.
    pub fn held_bytes(&self) -> u64 {
        self.mover.held_bytes()
    }

    /// Bytes of a data stream.
    ///
    /// # Errors
    /// When they are not records, or not of what was ordered.
    pub fn on_data(
        &mut self,
        ports: &mut Ports,
        (stream, bytes, fin): (StreamKey, Bytes, bool),
    ) -> Result<(), Violation> {
        let taken = self.mover.on_data(ports, stream, bytes, fin);
        self.tell(ports);
        taken
    }

    /// Home said something.
    ///
    /// # Errors
    /// When what waited for it is not what was ordered.
    pub fn on_order(&mut self, ports: &mut Ports, order: AwayOrder) -> Result<(), Violation> {
        let taken = self.mover.on_away_order(ports, order);
        self.tell(ports);
        taken
    }

    /// A lane is no more: what half arrived on it is dropped, and home is told what was taken.
    pub fn on_lane_lost(&mut self, ports: &mut Ports, lost: LostLane) {
        self.mover.lose(lost);
        self.tell(ports);
    }

    /// An operation ended.
    ///
    /// # Errors
    /// When what had to wait for it is not what was ordered.
    pub fn on_disk(
        &mut self,
        ports: &mut Ports,
        op: OpId,
        result: Result<DiskDone, DiskError>,
    ) -> Result<(), Violation> {
        let Some(op) = self.mover.finish(op) else {
            return Ok(());
        };
        self.mover.on_disk(op, result);
        let taken = self.mover.hash_holes(ports);
        self.tell(ports);
        taken
    }

    /// Tells home what happened, in order. What was taken of a lane is told behind all that was.
    fn tell(&mut self, ports: &mut Ports) {
        while let Some(report) = self.mover.next_away_report() {
            if let AwayReport::Report(ReceiveReport::Quiet { .. }) = report {
                // The file may be the last.
                self.tell_moved(ports);
            }
            ports.mail_home(MoverReport::Receive(report));
        }
        let mut account = Vec::new();
        while let Some(piece) = self.mover.next_account() {
            let is_last = !piece.more;
            account.push(piece);
            if is_last {
                self.tell_moved(ports);
                let account = AwayReport::Account(std::mem::take(&mut account));
                ports.mail_home(MoverReport::Receive(account));
            }
        }
    }

    /// Tells how much moved, when it is time to.
    pub fn pump(&mut self, now: Instant, ports: &mut Ports) {
        let is_due = self.deadline().is_some_and(|at| at <= now);
        let (told_bytes, _) = self.told_bytes;
        if is_due || self.mover.received_bytes() >= told_bytes + TELL_BYTES {
            self.told_at = now;
            self.tell_moved(ports);
        }
    }

    fn tell_moved(&mut self, ports: &mut Ports) {
        let moved = (self.mover.received_bytes(), self.mover.hole_bytes());
        if std::mem::replace(&mut self.told_bytes, moved) != moved {
            let (received_bytes, hole_bytes) = moved;
            ports.mail_home(MoverReport::Receive(AwayReport::Moved {
                received_bytes,
                hole_bytes,
            }));
        }
    }

    /// When it is to be told how much moved.
    pub fn deadline(&self) -> Option<Instant> {
        let moved = (self.mover.received_bytes(), self.mover.hole_bytes());
        let is_told = self.told_bytes == moved || self.stop != Stopping::No;
        (!is_told).then(|| self.told_at + TELL_EVERY)
    }

    /// Nothing is moved any more. [`ReceiveOutpost::is_drained`] once nothing is in flight.
    pub fn stop(&mut self, ports: &mut Ports) {
        if self.stop == Stopping::No {
            self.stop = Stopping::Closing;
            self.mover.stop(ports);
        }
    }

    pub fn is_drained(&self) -> bool {
        self.stop == Stopping::Closing && self.mover.in_flight() == 0
    }

    /// Holds the counters against the tables they count.
    #[cfg(test)]
    pub fn check(&self) {
        if self.stop == Stopping::No {
            self.mover.check();
            assert!(!self.mover.has_unasked(), "home alone judges of records");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::ids::EntryId;
    use crate::proto::sim::start;
    use crate::proto::wire::RecordHead;

    #[test]
    fn stretches_of_what_nobody_knows_are_a_breach_and_not_a_list() {
        let mut outpost = ReceiveOutpost::new(start(), WorkerId(1), 1 << 20);
        let (mut ports, mut bytes) = (Ports::default(), BytesMut::new());
        RecordHead::Stretch {
            entry: EntryId(7),
            offset: 0,
            len_bytes: 1,
        }
        .encode(&mut bytes);
        let data = (StreamKey(1), bytes.freeze(), false);
        let taken = outpost.on_data(&mut ports, data);
        assert!(matches!(taken, Err(Violation(text)) if text.contains("entry 7")));
    }
}
