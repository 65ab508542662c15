//! The sending side: walks the sources, announces entries, reads what the receiver wants, tells how
//! each ended.
//!
//! The [`SendPlan`] knows entries, directories, files and verdicts, and never sees a byte of them.
//! Each [`mover::SendMover`] reads, hashes and emits what the plan orders, and knows nothing of
//! entries; each lane that carries data has one.
//! Within one host nothing is ordered: the plan names what is to be copied, and the lane moves it.
//! Bounds: entries without a final verdict by the receiver's window, bytes read ahead of the
//! transport by the mover's read-ahead, directories and files held open by constants. All work is
//! started in [`Sender::pump`].

mod away;
mod giving;
mod mover;
mod movers;
mod orders;
mod outpost;
mod patience;
mod plan;
mod tail;

pub use orders::{AwaySendOrder, AwaySendReport};
pub use outpost::SendOutpost;

use std::time::Instant;

use bytes::Bytes;

use super::EntryPlace;
use super::errors::{Violation, violation};
use super::parallel::{ParallelTransferConfig, TransferRate};
use super::place::NearPlace;
use super::ports::{Ports, ProgressTeller, Stopping};
use super::wire::Message;
use super::{Carriage, DiskDone, DiskError, Event, LostLane, MoverOrder, Totals};
use crate::ids::{ChunkIndex, MoverId, OpId, StreamKey, WorkerId};
use away::AwayMovers;
use mover::Issued;
use movers::Movers;
use orders::{LargeOrder, SendCommand};
use plan::SendPlan;
use tail::{LaneLoad, others_are_sooner};

/// What counts as of late: a few chunks, and more of files whose chunks are larger.
const LEAD_MAX_BYTES: i64 = 64 << 20;

/// Small files that are read at a time, at least.
const LOOKUP_LEAST: usize = 1;

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
    /// What all lanes together may have read ahead.
    pub read_ahead_all_bytes: u64,
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
    /// The disk remembers values of chunks, and the receiver takes chunks with them.
    pub keeps_digests: bool,
}

/// Which orders a mover leaves to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LetsPass {
    wholes: bool,
    /// That of the lanes that carry control leaves all to movers on other workers, while these take
    /// orders.
    chunks: bool,
}

pub struct Sender {
    plan: SendPlan,
    /// Those of the lanes on the plan's worker.
    movers: Movers,
    away: AwayMovers,
    /// The mover whose turn comes first next time: none is always the last to pull.
    first: usize,
    /// So much more movers on other workers were given of late than those of this one: where a
    /// bandwidth limit lets little through, who had less comes first.
    away_lead_bytes: i64,
    /// A mover let an order pass; when that is thought over, if nothing happens before.
    look_again: Option<Instant>,
    rate: TransferRate,
    reporter: ProgressTeller,
    /// The receiver said that everything is resolved.
    has_finished: bool,
    stop: Stopping,
}

impl Sender {
    pub fn new(now: Instant, config: SenderConfig) -> Sender {
        Sender {
            movers: Movers::new(now, &config),
            away: AwayMovers::default(),
            first: 0,
            away_lead_bytes: 0,
            look_again: None,
            rate: TransferRate::new(now, config.bwlimit_bps),
            plan: SendPlan::new(now, config),
            reporter: ProgressTeller::new(now),
            has_finished: false,
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
            Message::Again { entry, chunk } => {
                self.plan.on_again(entry, ChunkIndex(chunk))?;
                self.exchange(ports);
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

    /// The receiver says that everything is resolved. False: it is not known yet that all of it
    /// left from other workers.
    ///
    /// # Errors
    /// When something was not announced, or is not resolved.
    pub fn on_finished(&mut self) -> Result<bool, Violation> {
        if self.has_finished || !self.plan.is_told() {
            return violation("finished before everything was resolved");
        }
        self.has_finished = true;
        Ok(self.is_complete())
    }

    /// The receiver has said its last word.
    pub fn has_finished(&self) -> bool {
        self.has_finished
    }

    /// Everything is resolved, as the receiver said.
    pub fn is_complete(&self) -> bool {
        self.has_finished && self.plan.is_resolved()
    }

    /// Whether the mover of a lane takes orders. At first mention it begins.
    pub fn set_pulls(&mut self, now: Instant, mover: MoverId, pulls: bool) {
        if self.stop == Stopping::No {
            self.movers.set_pulls(now, mover, pulls);
        }
    }

    /// The lane of a mover carries what stays in the kernel. Where a bandwidth limit is kept, reads
    /// stay small.
    pub fn take_pipes(&mut self, mover: MoverId) {
        if !self.rate.is_limited() {
            self.movers.take_pipes(mover);
        }
    }

    /// Whether movers on other workers are given orders.
    pub fn set_pulls_away(&mut self, pulls: bool) {
        self.away.set_pulls(pulls);
    }

    /// The mover of an added lane is to end.
    pub fn retire(&mut self, ports: &mut Ports, mover: MoverId) {
        if self.stop == Stopping::No {
            self.movers.retire(mover);
            self.exchange(ports);
        }
    }

    /// A lane is no more. What it carried waits for the receiver's account. What an added one was
    /// to carry goes to others; what one that carried control was to, goes on the next of these.
    pub fn on_lane_lost(&mut self, ports: &mut Ports, lost: &LostLane) {
        if self.stop == Stopping::No {
            match lost.mover() {
                MoverId::CONTROL => {
                    let control = self.movers.control();
                    control.lose_streams(ports, &lost.ours, lost.untaken_bytes);
                }
                added => self.movers.lose(added),
            }
            self.exchange(ports);
        }
        if lost.tell_peer {
            let lane = lost.number;
            let altered = lost.altered;
            ports.message(&Message::LaneOver { lane, altered });
        }
    }

    /// Moves again what the receiver did not take of a lane that is no more.
    pub fn on_lane_accounted(&mut self, ports: &mut Ports, missing: &[(StreamKey, u32)]) {
        if self.stop == Stopping::No {
            let bytes = self.plan.move_again(missing);
            self.movers.take_back(bytes);
            self.exchange(ports);
        }
    }

    pub fn on_sent(&mut self, now: Instant, mover: MoverId, bytes: u64) {
        match self.plan.is_copied() {
            true => self.plan.on_copied(bytes),
            false => self.movers.on_sent(now, mover, bytes),
        }
    }

    pub fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        if let Some(op) = self.movers.finish(op) {
            if self.stop == Stopping::No {
                self.movers.on_disk(ports, op, result);
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

    /// Hands reports to the plan and commands to the movers until nobody has any.
    fn exchange(&mut self, ports: &mut Ports) {
        loop {
            if let Some((_, report)) = self.movers.next_report() {
                self.plan.on_report(ports, report);
            } else if let Some(command) = self.plan.next_command() {
                for worker in self.away.workers() {
                    command_away(ports, worker, command);
                }
                self.movers.obey(ports, command);
            } else {
                break;
            }
        }
        let again_bytes = self.plan.take_again_bytes();
        self.movers.take_back(again_bytes);
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
            true => self.plan.copy_on(now, ports, &mut self.rate),
            false => {
                self.read_on(now, ports);
                let leaves_chunks = self.away.pulls();
                for (at, mover) in self.movers.iter_mut().enumerate() {
                    mover.retire_idle(ports, at > 0 || !leaves_chunks);
                }
                self.movers.settle(ports);
            }
        }
        self.report(now, ports, false);
    }

    /// Starts the reads that may be started.
    fn read_on(&mut self, now: Instant, ports: &mut Ports) {
        self.exchange(ports);
        while let Some(order) = self.plan.next_unsized() {
            self.movers.control().take_unsized(order);
        }
        self.movers.control().look_for_input(now, ports);
        self.movers.share_streams();
        self.rate.begin_turn();
        self.look_again = None;
        match self.away_lead_bytes < 0 {
            true => {
                self.order_away(now, ports);
                self.read_here(now, ports);
            }
            false => {
                self.read_here(now, ports);
                self.order_away(now, ports);
            }
        }
        self.movers.control().hash_holes(ports);
        self.exchange(ports);
    }

    /// Has the movers of this worker read, in turn.
    fn read_here(&mut self, now: Instant, ports: &mut Ports) {
        self.first = (self.first + 1) % self.movers.len();
        let (mut at, mut idle) = (self.first, 0);
        while idle < self.movers.len() {
            idle = match self.read_one(now, ports, at) {
                true => 0,
                false => idle + 1,
            };
            at = (at + 1) % self.movers.len();
        }
    }

    /// Some were given so much more of late.
    fn note_lead(&mut self, away_bytes: i64) {
        let lead_bytes = self.away_lead_bytes.saturating_add(away_bytes);
        self.away_lead_bytes = lead_bytes.clamp(-LEAD_MAX_BYTES, LEAD_MAX_BYTES);
    }

    /// Who else takes orders, of chunks or of small files, than one of the plan's worker, or one of
    /// another.
    fn rivals(
        &self,
        now: Instant,
        (here, away): (Option<usize>, Option<usize>),
        of_chunks: bool,
    ) -> Vec<LaneLoad> {
        // That of control leaves chunks to those of other workers.
        let leaves = |at: usize| of_chunks && at == 0 && self.away.pulls();
        let here = self.movers.loads(now, here);
        let here = here.filter(|(at, _)| !leaves(*at));
        let here = here.map(|(_, load)| load);
        here.chain(self.away.loads(now, away)).collect()
    }

    /// Whether others will have moved all that is left before a lane has moved an order.
    fn leaves(&mut self, now: Instant, mine: LaneLoad, others: Vec<LaneLoad>) -> bool {
        let Some((left_bytes, order_bytes)) = self.plan.left_bytes() else {
            return false;
        };
        let leaves = others_are_sooner(mine, order_bytes, left_bytes, others.into_iter());
        if leaves && self.plan.has_orders() {
            self.look_again = Some(now + tail::LOOK_AGAIN);
        }
        leaves
    }

    /// Starts the next read of a mover. False: it has no room, or there is nothing for it.
    fn read_one(&mut self, now: Instant, ports: &mut Ports, at: usize) -> bool {
        if !self.movers.has_room(at) {
            return false;
        }
        let lets_pass = self.lets_pass(now, at);
        let mover = self.movers.at(at);
        let takes_any = !(lets_pass.wholes && lets_pass.chunks);
        let is_served = mover.pulls() && self.plan.has_orders() && takes_any;
        let has_work = is_served || mover.has_reads() || mover.has_input();
        if !has_work || !self.rate.lets(now, has_work) {
            return false;
        }
        let whole_first = mover.is_wholes_turn();
        let mut issued = self.issue(ports, (at, lets_pass), whole_first);
        if issued == Issued::Nothing {
            self.movers.at(at).pass_turn();
            issued = self.issue(ports, (at, lets_pass), !whole_first);
        }
        let mover = self.movers.at(at);
        // Behind the read, for nothing may have come of it.
        mover.keep_rate(now);
        let Issued::Bytes(bytes) = issued else {
            return false;
        };
        mover.count(bytes);
        self.rate.take(bytes);
        self.note_lead(-(bytes as i64));
        self.exchange(ports);
        true
    }

    /// Whether a mover leaves the next order to the others, which will have moved all that is left
    /// sooner.
    fn lets_pass(&mut self, now: Instant, at: usize) -> LetsPass {
        self.movers.at(at).keep_rate(now);
        if !self.movers.at(at).pulls() {
            return LetsPass::default();
        }
        let mine = self.movers.at(at).load(now);
        let others = self.rivals(now, (Some(at), None), false);
        let wholes = self.leaves(now, mine, others);
        let chunks = match self.away.pulls() {
            true => {
                let others = self.rivals(now, (Some(at), None), true);
                at == 0 || self.leaves(now, mine, others)
            }
            false => wholes,
        };
        LetsPass { wholes, chunks }
    }

    /// Starts the next read of a mover: of a small file, or of a chunk. `lets_pass`: of what it has
    /// begun alone.
    fn issue(
        &mut self,
        ports: &mut Ports,
        (at, lets_pass): (usize, LetsPass),
        whole: bool,
    ) -> Issued {
        let takes_wholes = self.movers.takes_wholes() && !lets_pass.wholes;
        let mover = self.movers.at(at);
        let pulls = mover.pulls();
        if whole {
            let order = match takes_wholes && pulls {
                true => self.plan.next_whole(false),
                false => None,
            };
            return match order {
                Some(order) => mover.read_whole(ports, order),
                None => mover.read_stretch(ports),
            };
        }
        while pulls && !lets_pass.chunks && !self.movers.at(at).has_reads() {
            match self.plan.next_large(ports) {
                Some(LargeOrder::Chunk(order)) => self.movers.at(at).take_chunk(order),
                Some(LargeOrder::Holes(order)) => self.movers.control().take_holes(order),
                None => break,
            }
        }
        self.movers.at(at).read_chunk(ports)
    }

    /// What the disk is asked about, or the receiver.
    pub fn awaited(&self, of_disk: bool) -> Option<Bytes> {
        match of_disk {
            true => {
                let read = self.movers.awaited();
                let read = read.and_then(|entry| self.plan.path_of(entry));
                read.or_else(|| self.plan.awaited_of_disk())
            }
            false => self.plan.awaited_of_peer(),
        }
    }

    /// When time alone changes something: the bandwidth limit lets more through.
    pub fn deadline(&self) -> Option<Instant> {
        let look_again = self.look_again.filter(|_| self.stop == Stopping::No);
        self.paced_until().into_iter().chain(look_again).min()
    }

    /// Whether nothing happens because it was asked to go slowly, or has to look again.
    pub fn is_paced(&self, now: Instant) -> bool {
        self.paced_until().is_some_and(|at| at > now)
    }

    fn paced_until(&self) -> Option<Instant> {
        match self.stop {
            Stopping::No => {
                let deadlines = [
                    self.rate.deadline(),
                    self.movers.deadline(),
                    self.plan.deadline(),
                ];
                deadlines.into_iter().flatten().min()
            }
            Stopping::Draining | Stopping::Closing => None,
        }
    }

    /// Sends what was held back to go together: manifest items, small files.
    pub fn flush(&mut self, ports: &mut Ports) {
        self.plan.flush(ports);
        for mover in self.movers.iter_mut() {
            mover.flush(ports);
        }
    }

    fn report(&mut self, now: Instant, ports: &mut Ports, last: bool) {
        let here_bytes = self.movers.sent_bytes(last) + self.plan.copied_bytes();
        let sent_bytes = here_bytes + self.away.sent_bytes(last);
        let sent_bytes = sent_bytes.saturating_sub(self.movers.again_bytes());
        let sent_bytes = self.plan.count_sent(sent_bytes);
        let passed_bytes = sent_bytes + self.movers.hole_bytes();
        self.reporter.progress(now, ports, passed_bytes, last);
        let announced = self.plan.announced();
        self.reporter.announced(now, ports, announced, last);
    }

    /// Everything is resolved: ends the open streams and tells the last progress.
    pub fn complete(&mut self, now: Instant, ports: &mut Ports) -> Totals {
        for mover in self.movers.iter_mut() {
            mover.end_streams(ports);
        }
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
        self.plan.in_flight() + self.movers.in_flight()
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
            self.movers.check();
            let mut orders = self.movers.orders();
            orders.chunks.extend(self.away.orders());
            orders.wholes += self.away.wholes();
            self.plan.check(&orders);
        }
    }
}

/// A command for movers on another worker.
fn command_away(ports: &mut Ports, worker: WorkerId, command: SendCommand) {
    let order = AwaySendOrder::Command(command);
    ports.mail_outpost(worker, MoverOrder::Send(order));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a sender that nothing hinders.
    pub(super) fn config() -> SenderConfig {
        SenderConfig {
            client: true,
            sources: Vec::new(),
            near: None,
            window: 64,
            read_ahead_bytes: (1 << 20) / 2,
            read_ahead_in_place_bytes: (1 << 20) / 2,
            read_ahead_all_bytes: 1 << 20,
            carriage: Carriage::Bytes,
            lookups: 64,
            parallel: ParallelTransferConfig {
                adaptive_parallelism: false,
                ..ParallelTransferConfig::default()
            },
            bwlimit_bps: None,
            follow_named: false,
            no_growing: false,
            counts: false,
            adds_lanes: true,
            keeps_digests: false,
        }
    }
}
