//! The receiving side: checks what is announced, makes directories, takes data, verifies,
//! publishes, answers.
//!
//! The [`ReceivePlan`] knows entries, directories, partial files and verdicts, and never sees a
//! byte of them. The [`ReceiveMover`] takes records apart, hashes and writes what the plan ordered,
//! and knows nothing of directories. Both trust the sender no more than needed, whichever side
//! dialled: every id, name, length and order is held against what was agreed, and every queue has a
//! bound (the entry window, open directories, write-behind bytes, open partial files).

mod mover;
mod orders;
mod outpost;
mod plan;
mod shares;

pub use orders::{AwayOrder, AwayReport, ReceiveReport};
pub use outpost::ReceiveOutpost;
pub use plan::Target;

use std::time::Instant;

use bytes::Bytes;

use super::errors::Violation;
use super::ports::{Ports, ProgressTeller, Stopping};
use super::wire::Message;
use super::{Carriage, CopyStep, DiskDone, DiskError, LostLane, MoverOrder, ObjectId, Totals};
use crate::ids::{CopyId, EntryId, OpId, StreamKey, WorkerId};
use mover::ReceiveMover;
use orders::ReceiveOrder;
use plan::ReceivePlan;
use shares::Shares;

/// What becomes of modes and times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataOptions {
    /// No mode is set: new files and directories have what umask(2) leaves them.
    pub no_perms: bool,
    /// No time is set.
    pub no_times: bool,
    /// Directories that are there already get the modes of their sources, too.
    pub dir_modes: bool,
}

/// What a [`Receiver`] is to do.
pub struct ReceiverConfig {
    pub client: bool,
    pub target: Bytes,
    pub must_be_dir: bool,
    pub force: bool,
    pub fsync: bool,
    /// Symlinks to directories that are there are taken for directories, if they were made on this
    /// host.
    pub keep_dirlinks: bool,
    /// The one source takes the target's name, even if a directory stands there.
    pub no_target_dir: bool,
    /// Which copy this is, if it has one source.
    pub copy: Option<CopyId>,
    pub metadata: MetadataOptions,
    pub window: u32,
    pub write_behind_bytes: u64,
    pub lookups: usize,
    pub carriage: Carriage,
    /// Names the sender may put into the target, each once; empty: the target itself. None: any,
    /// the sender chooses.
    pub expected: Option<Vec<Bytes>>,
    /// The sender was asked how much there is.
    pub counts: bool,
}

pub struct Receiver {
    plan: ReceivePlan,
    /// That of the lanes on the plan's worker.
    mover: ReceiveMover,
    /// What those of other workers have.
    shares: Shares,
    reporter: ProgressTeller,
    stop: Stopping,
}

impl Receiver {
    /// Starts with looking at the target.
    pub fn new(now: Instant, ports: &mut Ports, config: ReceiverConfig) -> Receiver {
        let mover = ReceiveMover::new(config.write_behind_bytes);
        Receiver {
            plan: ReceivePlan::new(ports, config),
            mover,
            shares: Shares::default(),
            reporter: ProgressTeller::new(now),
            stop: Stopping::No,
        }
    }

    pub fn target(&self) -> &Target {
        self.plan.target()
    }

    /// What the target is, and every directory it lies in, once it is found.
    pub fn above(&self) -> &[ObjectId] {
        self.plan.above()
    }

    /// Whether data streams may be read: false while too much received waits for the disk.
    pub fn takes_data(&self) -> bool {
        self.mover.takes_data()
    }

    /// Heap bytes, about.
    pub fn held_bytes(&self) -> u64 {
        self.plan.held_bytes() + self.mover.held_bytes() + self.shares.held_bytes()
    }

    /// A message of the sender.
    ///
    /// # Errors
    /// When the sender may not say that (now).
    pub fn on_message(&mut self, ports: &mut Ports, message: Message) -> Result<(), Violation> {
        if let Message::Holes {
            entry,
            first,
            count,
        } = message
        {
            let ordered = self.mover.on_holes(ports, entry, (first, count));
            let taken = ordered.and_then(|()| self.mover.hash_holes(ports));
            return self.judge(ports, taken);
        }
        let allowed = self.plan.on_message(ports, message);
        self.exchange(ports);
        allowed
    }

    /// Bytes of a data stream.
    ///
    /// # Errors
    /// When they are not records, or records of nothing that was asked for.
    pub fn on_data(
        &mut self,
        ports: &mut Ports,
        stream: StreamKey,
        bytes: Bytes,
        fin: bool,
    ) -> Result<(), Violation> {
        let taken = self.mover.on_data(ports, stream, bytes, fin);
        self.judge(ports, taken)
    }

    /// What a mover found of what came, and what came unasked.
    fn judge(&mut self, ports: &mut Ports, taken: Result<(), Violation>) -> Result<(), Violation> {
        let unasked = self.mover.take_unasked();
        let judged = unasked
            .into_iter()
            .try_for_each(|entry| self.plan.judge_unasked(entry));
        // What came before a violation counts.
        self.exchange(ports);
        judged.and(taken)
    }

    /// An added lane is no more: what half arrived on it is dropped, and the sender is told what
    /// was taken, for it to move the rest again.
    pub fn on_lane_lost(&mut self, ports: &mut Ports, lost: LostLane) {
        if self.stop == Stopping::No {
            self.plan.expect_again();
            self.mover.lose(lost);
            self.give_accounts(ports);
        }
    }

    fn give_accounts(&mut self, ports: &mut Ports) {
        while let Some(account) = self.mover.next_account() {
            ports.message(&Message::LaneAccount(account));
        }
    }

    /// The mover on another worker said something. Gives how many file bytes came that had not been
    /// told.
    ///
    /// # Errors
    /// When something came there that was not asked for.
    pub fn on_outpost(
        &mut self,
        ports: &mut Ports,
        from: WorkerId,
        report: AwayReport,
    ) -> Result<u64, Violation> {
        let (mut more_bytes, mut taken) = (0, Ok(()));
        match report {
            AwayReport::Asks { entry } => taken = self.answer(ports, from, entry),
            AwayReport::Small(small) => taken = self.mover.take_small(ports, small, from),
            AwayReport::Report(ReceiveReport::Quiet { entry, .. }) => {
                if let Some(quiet) = self.shares.quiet_at(entry, from) {
                    self.plan.on_report(ports, quiet);
                }
            }
            AwayReport::Report(report) => self.plan.on_report(ports, report),
            AwayReport::Moved {
                received_bytes,
                hole_bytes,
            } => more_bytes = self.shares.moved(from, received_bytes, hole_bytes),
            AwayReport::Account(account) => {
                self.plan.expect_again();
                let pieces = account.into_iter().map(Message::LaneAccount);
                pieces.for_each(|piece| ports.message(&piece));
            }
        }
        self.judge(ports, taken).map(|()| more_bytes)
    }

    /// What was on another worker is gone, with all that it had.
    pub fn on_outpost_gone(&mut self, ports: &mut Ports, from: WorkerId) {
        for quiet in self.shares.gone(from) {
            self.plan.on_report(ports, quiet);
        }
        self.exchange(ports);
    }

    /// Chunks of a file came to another worker, which does not know it.
    fn answer(&mut self, ports: &mut Ports, to: WorkerId, entry: EntryId) -> Result<(), Violation> {
        let order = match self.stop {
            Stopping::No => self.mover.share(entry)?,
            Stopping::Draining | Stopping::Closing => None,
        };
        let answer = match order {
            Some(order) => {
                self.shares.add(&order, to);
                AwayOrder::Part(order)
            }
            None => AwayOrder::Unwanted { entry },
        };
        ports.mail_outpost(to, MoverOrder::Receive(answer));
        Ok(())
    }

    /// Within one host: what the sender says of a file that it was asked for.
    ///
    /// # Errors
    /// When it was not asked for, or not now.
    pub fn on_copy(&mut self, ports: &mut Ports, step: CopyStep) -> Result<(), Violation> {
        self.plan.on_copy(ports, step)
    }

    /// An operation of this side ended.
    ///
    /// # Errors
    /// When what had to wait for it is not what was ordered.
    pub fn on_disk(
        &mut self,
        ports: &mut Ports,
        op: OpId,
        result: Result<DiskDone, DiskError>,
    ) -> Result<(), Violation> {
        let mut taken = Ok(());
        if let Some(op) = self.mover.finish(op) {
            self.mover.on_disk(op, result);
            taken = self.mover.hash_holes(ports);
        } else if let Some(op) = self.plan.finish(op) {
            self.plan.on_disk(ports, op, result);
        }
        self.judge(ports, taken)
    }

    /// Hands reports to the plan and orders to the mover until neither has any.
    fn exchange(&mut self, ports: &mut Ports) {
        loop {
            if let Some(report) = self.mover.next_report() {
                match report {
                    ReceiveReport::Quiet { entry, .. } if !self.shares.quiet_here(entry) => {}
                    report => self.plan.on_report(ports, report),
                }
            } else if let Some(order) = self.plan.next_order() {
                if let ReceiveOrder::Leave { entry } = order {
                    for worker in self.shares.of(entry) {
                        let leave = AwayOrder::Leave { entry };
                        ports.mail_outpost(*worker, MoverOrder::Receive(leave));
                    }
                }
                self.mover.obey(order);
            } else {
                break;
            }
        }
        while let Some((worker, bytes)) = self.mover.next_put() {
            let put = AwayOrder::Put { bytes };
            ports.mail_outpost(worker, MoverOrder::Receive(put));
        }
    }

    /// Starts everything that may be started.
    pub fn pump(&mut self, now: Instant, ports: &mut Ports) {
        if self.stop != Stopping::No {
            return self.pump_stop(ports);
        }
        self.plan.start_all(ports);
        self.exchange(ports);
        self.give_accounts(ports);
        self.report(now, ports, false);
    }

    /// What the disk is asked about, or the sender.
    pub fn awaited(&self, of_disk: bool) -> Option<Bytes> {
        match of_disk {
            true => {
                let written = self.mover.awaited();
                let written = written.and_then(|entry| self.plan.path_of_id(entry));
                written.or_else(|| self.plan.awaited_of_disk())
            }
            false => self.plan.awaited_of_peer(),
        }
    }

    /// Whether everything announced is resolved and nothing is in flight any more.
    pub fn is_complete(&self) -> bool {
        self.plan.is_resolved() && self.mover.in_flight() == 0
    }

    /// Everything is resolved: tells the last progress.
    pub fn complete(&mut self, now: Instant, ports: &mut Ports) -> Totals {
        self.report(now, ports, true);
        self.plan.tell_odd_sizes(ports);
        self.plan.tell_lapses(ports);
        self.plan.totals()
    }

    pub fn totals(&self) -> Totals {
        self.plan.totals()
    }

    fn received_bytes(&self) -> u64 {
        let here_bytes = self.mover.received_bytes() + self.plan.copied_bytes();
        here_bytes + self.shares.received_bytes()
    }

    fn report(&mut self, now: Instant, ports: &mut Ports, last: bool) {
        let received_bytes = self.received_bytes();
        self.plan.count_received(received_bytes);
        let hole_bytes = self.mover.hole_bytes() + self.shares.hole_bytes();
        let passed_bytes = received_bytes + hole_bytes;
        self.reporter.progress(now, ports, passed_bytes, last);
        let announced = self.plan.announced();
        self.reporter.announced(now, ports, announced, last);
    }

    /// Sends the verdicts held back to go together.
    pub fn flush(&mut self, ports: &mut Ports) {
        self.plan.flush(ports);
    }

    /// Starts nothing more; keeps what can be resumed. [`Receiver::is_drained`] once everything is
    /// closed.
    pub fn stop(&mut self, ports: &mut Ports) {
        if self.stop == Stopping::No {
            self.stop = Stopping::Draining;
            self.plan.stop(self.received_bytes());
            self.mover.stop(ports);
            self.pump_stop(ports);
        }
    }

    fn pump_stop(&mut self, ports: &mut Ports) {
        if self.stop != Stopping::Draining {
            return;
        }
        self.plan.stop_parts(ports);
        self.plan.stop_copies(ports);
        self.exchange(ports);
        if self.in_flight() == 0 && self.plan.has_no_parts() && self.plan.has_no_copies() {
            self.stop = Stopping::Closing;
            self.plan.close_all(ports);
        }
    }

    fn in_flight(&self) -> usize {
        self.plan.in_flight() + self.mover.in_flight()
    }

    pub fn is_drained(&self) -> bool {
        self.stop == Stopping::Closing && self.in_flight() == 0
    }

    /// Holds the counters against the tables they count.
    ///
    /// # Panics
    /// When one is wrong.
    #[cfg(test)]
    pub fn check(&self) {
        if self.stop == Stopping::No {
            self.mover.check();
            self.plan.check();
        }
    }
}
