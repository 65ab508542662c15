//! The sending side: walks the sources, announces entries, reads what the receiver wants, tells how
//! each ended.
//!
//! The [`SendPlan`] knows entries, directories, files and verdicts, and never sees a byte of them.
//! The [`SendMover`] reads, hashes and emits what the plan orders, and knows nothing of entries.
//! Within one host nothing is ordered: the plan names what is to be copied, and the lane moves it.
//! Bounds: entries without a final verdict by the receiver's window, bytes read ahead of the
//! transport by the mover's read-ahead, directories and files held open by constants. All work is
//! started in [`Sender::pump`].

mod mover;
mod orders;
mod patience;
mod plan;

use std::time::Instant;

use bytes::Bytes;

use super::EntryPlace;
use super::errors::{Violation, violation};
use super::parallel::ParallelTransferConfig;
use super::place::NearPlace;
use super::ports::{Ports, ProgressTeller, Stopping};
use super::wire::Message;
use super::{Carriage, DiskDone, DiskError, Event, LostLane, Totals};
use crate::ids::{OpId, StreamKey};
use mover::{Issued, SendMover};
use orders::LargeOrder;
use plan::SendPlan;

/// What a [`Sender`] is to do.
pub struct SenderConfig {
    pub client: bool,
    pub sources: Vec<Bytes>,
    /// The receiver's target, if it is on this host.
    pub near: Option<NearPlace>,
    /// Entries that may be without final verdict, directories still being walked not counted.
    pub window: u32,
    pub read_ahead_bytes: u64,
    pub read_ahead_in_place_bytes: u64,
    pub carriage: Carriage,
    pub lookups: usize,
    pub parallel: ParallelTransferConfig,
    pub bwlimit_bps: Option<u64>,
    /// Sources that are symlinks are what they lead to.
    pub follow_named: bool,
    /// Files that grow while they are read fail.
    pub no_growing: bool,
    /// The receiver wants to know how much there is before all is announced.
    pub counts: bool,
    /// Lanes may be added: what is sent may have to be sent again.
    pub adds_lanes: bool,
}

pub struct Sender {
    plan: SendPlan,
    mover: SendMover,
    reporter: ProgressTeller,
    stop: Stopping,
}

impl Sender {
    pub fn new(now: Instant, config: SenderConfig) -> Sender {
        let mover = SendMover::new(now, &config);
        Sender {
            plan: SendPlan::new(now, config),
            mover,
            reporter: ProgressTeller::new(now),
            stop: Stopping::No,
        }
    }

    /// A message of the receiver.
    ///
    /// # Errors
    /// When the receiver may not say that (now). `Finished` is the session's to handle.
    pub fn on_message(&mut self, ports: &mut Ports, message: Message) -> Result<(), Violation> {
        match message {
            Message::Verdicts(verdicts) => {
                for verdict in verdicts {
                    self.plan.on_verdict(ports, verdict)?;
                    self.exchange(ports);
                }
                Ok(())
            }
            Message::DestinationWarning { path, text } => {
                let place = EntryPlace::Destination;
                ports.event(Event::Warning { path, place, text });
                Ok(())
            }
            _ => violation("a receiver sends no such message"),
        }
    }

    /// Heap bytes kept for entries, directories and chunks that the receiver has, about.
    pub fn held_bytes(&self) -> u64 {
        self.plan.held_bytes()
    }

    /// Whether `Finished` is true: everything was announced and resolved.
    pub fn is_complete(&self) -> bool {
        self.plan.is_resolved()
    }

    /// An added lane is no more. What it carried waits for the receiver's account.
    pub fn on_lane_lost(&mut self, ports: &mut Ports, lost: &LostLane) {
        if self.stop == Stopping::No {
            self.mover
                .lose_streams(ports, &lost.ours, lost.untaken_bytes);
            self.exchange(ports);
        }
        if lost.tell_peer {
            let lane = lost.number;
            ports.message(&Message::LaneOver { lane });
        }
    }

    /// Moves again what the receiver did not take of an added lane.
    pub fn on_lane_accounted(&mut self, ports: &mut Ports, missing: &[(StreamKey, u32)]) {
        if self.stop == Stopping::No {
            let bytes = self.plan.move_again(missing);
            self.mover.take_back(bytes);
            self.exchange(ports);
        }
    }

    pub fn on_sent(&mut self, now: Instant, bytes: u64) {
        match self.plan.is_copied() {
            true => self.plan.on_copied(bytes),
            false => self.mover.on_sent(now, bytes),
        }
    }

    pub fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        if let Some(op) = self.mover.finish(op) {
            if self.stop == Stopping::No {
                self.mover.on_disk(ports, op, result);
            }
        } else if let Some(op) = self.plan.finish(op) {
            match self.stop {
                Stopping::No => self.plan.on_disk(ports, op, result),
                Stopping::Draining | Stopping::Closing => {
                    self.plan.on_disk_stopping(&op, result.is_ok());
                }
            }
        }
        self.exchange(ports);
    }

    /// Hands reports to the plan and commands to the mover until neither has any.
    fn exchange(&mut self, ports: &mut Ports) {
        loop {
            if let Some(report) = self.mover.next_report() {
                self.plan.on_report(ports, report);
            } else if let Some(command) = self.plan.next_command() {
                self.mover.obey(ports, command);
            } else {
                return;
            }
        }
    }

    /// Starts everything that may be started.
    pub fn pump(&mut self, now: Instant, ports: &mut Ports) {
        if self.stop != Stopping::No {
            self.pump_stop(ports);
            return;
        }
        self.plan.walk(ports);
        self.plan.open_files(ports);
        self.plan.count_on(now, ports);
        match self.plan.is_copied() {
            true => self.plan.copy_on(now, ports, self.mover.rate()),
            false => {
                self.read_on(now, ports);
                self.mover.retire_idle(ports);
            }
        }
        self.report(now, ports, false);
    }

    /// Starts the reads that may be started.
    fn read_on(&mut self, now: Instant, ports: &mut Ports) {
        self.exchange(ports);
        while let Some(order) = self.plan.next_unsized() {
            self.mover.take_unsized(order);
        }
        self.mover.look_for_input(now, ports);
        loop {
            let has_work =
                self.plan.has_orders() || self.mover.has_reads() || self.mover.has_input();
            if !self.mover.may_issue(now, has_work) {
                break;
            }
            let whole_first = self.mover.is_wholes_turn();
            let mut issued = self.issue(ports, whole_first);
            if issued == Issued::Nothing {
                self.mover.pass_turn();
                issued = self.issue(ports, !whole_first);
            }
            let Issued::Bytes(bytes) = issued else { break };
            self.mover.count(bytes);
            self.exchange(ports);
        }
        self.mover.hash_holes(ports);
        self.exchange(ports);
    }

    /// Starts the next read: of a small file, or of a chunk.
    fn issue(&mut self, ports: &mut Ports, whole: bool) -> Issued {
        if whole {
            let order = match self.mover.takes_wholes() {
                true => self.plan.next_whole(),
                false => None,
            };
            return match order {
                Some(order) => self.mover.read_whole(ports, order),
                None => self.mover.read_stretch(ports),
            };
        }
        while !self.mover.has_reads() {
            match self.plan.next_large(ports) {
                Some(LargeOrder::Chunk(order)) => self.mover.take_chunk(order),
                Some(LargeOrder::Holes(order)) => self.mover.take_holes(order),
                None => break,
            }
        }
        self.mover.read_chunk(ports)
    }

    /// What the disk is asked about, or the receiver.
    pub fn awaited(&self, of_disk: bool) -> Option<Bytes> {
        match of_disk {
            true => {
                let read = self.mover.awaited();
                let read = read.and_then(|entry| self.plan.path_of(entry));
                read.or_else(|| self.plan.awaited_of_disk())
            }
            false => self.plan.awaited_of_peer(),
        }
    }

    /// When time alone changes something: the bandwidth limit lets more through.
    pub fn deadline(&self) -> Option<Instant> {
        match self.stop {
            Stopping::No => {
                let deadlines = [self.mover.deadline(), self.plan.deadline()];
                deadlines.into_iter().flatten().min()
            }
            Stopping::Draining | Stopping::Closing => None,
        }
    }

    /// Sends what was held back to go together: manifest items, small files.
    pub fn flush(&mut self, ports: &mut Ports) {
        self.plan.flush(ports);
        self.mover.flush(ports);
    }

    fn report(&mut self, now: Instant, ports: &mut Ports, last: bool) {
        let sent_bytes = self.mover.sent_bytes(last) + self.plan.copied_bytes();
        let sent_bytes = self.plan.count_sent(sent_bytes);
        let passed_bytes = sent_bytes + self.mover.hole_bytes();
        self.reporter.progress(now, ports, passed_bytes, last);
        let announced = self.plan.announced();
        self.reporter.announced(now, ports, announced, last);
    }

    /// Everything is resolved: ends the open streams and tells the last progress.
    pub fn complete(&mut self, now: Instant, ports: &mut Ports) -> Totals {
        self.mover.end_streams(ports);
        self.report(now, ports, true);
        self.plan.tell_odd_sizes(ports);
        self.plan.totals()
    }

    pub fn totals(&self) -> Totals {
        self.plan.totals()
    }

    /// Starts nothing more; [`Sender::is_drained`] once everything it held is closed.
    pub fn stop(&mut self, ports: &mut Ports) {
        if self.stop == Stopping::No {
            self.stop = Stopping::Draining;
            self.pump_stop(ports);
        }
    }

    fn in_flight(&self) -> usize {
        self.plan.in_flight() + self.mover.in_flight()
    }

    fn pump_stop(&mut self, ports: &mut Ports) {
        if self.stop == Stopping::Draining && self.in_flight() == 0 {
            self.stop = Stopping::Closing;
            self.plan.close_all(ports);
        }
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
            self.plan.check(&self.mover.orders());
        }
    }
}
