//! Orders for movers on other workers, and what they say of them.

use std::time::Instant;

use super::orders::{AwaySendOrder, AwaySendReport, EmittedWhole, LargeOrder};
use super::orders::{SendCommand, SendReport, WholeEnd};
use super::{Sender, command_away};
use crate::ids::{MoverId, WorkerId};
use crate::proto::MoverOrder;
use crate::proto::chunk::chunk_len_bytes;
use crate::proto::errors::{Violation, violation};
use crate::proto::ports::{Ports, Stopping};

impl Sender {
    /// Movers on another worker said something. Gives how many bytes their lanes took.
    ///
    /// # Errors
    /// When the receiver said that it has what was not sent.
    pub fn on_outpost(
        &mut self,
        now: Instant,
        ports: &mut Ports,
        (from, report): (WorkerId, AwaySendReport),
    ) -> Result<u64, Violation> {
        if self.stop != Stopping::No {
            return Ok(0);
        }
        let mut more_bytes = 0;
        match report {
            AwaySendReport::Begun { mover } => {
                self.away.begin(mover, from);
                let is_in_place = self.movers.is_in_place();
                let command = SendCommand::ReadInPlace(is_in_place);
                command_away(ports, from, command);
            }
            AwaySendReport::Wants { mover, orders } => self.away.want(mover, orders),
            AwaySendReport::Report { mover, report, .. } => {
                match &report {
                    SendReport::Over { file } => self.away.over(mover, *file),
                    SendReport::Chunk { at: Some(at), .. } | SendReport::Torn { at, .. } => {
                        self.away.emitted(at.data_bytes);
                    }
                    SendReport::GivenBack { .. } => self.away.retire(mover),
                    _ => {}
                }
                self.plan.on_report(ports, report);
                self.exchange(ports);
            }
            AwaySendReport::Wholes { mover, ends, .. } => {
                for end in ends {
                    self.on_whole_end(ports, mover, end)?;
                }
                self.exchange(ports);
            }
            AwaySendReport::Moved {
                mover,
                taken_bytes,
                is_idle,
                sent_bytes,
            } => {
                self.away.took(now, mover, taken_bytes, is_idle);
                self.away.sent(from, sent_bytes);
                more_bytes = taken_bytes;
            }
            AwaySendReport::Ended { mover } => self.away.end(mover),
        }
        Ok(more_bytes)
    }

    /// A small file was read by a mover on another worker, or was not.
    fn on_whole_end(
        &mut self,
        ports: &mut Ports,
        mover: MoverId,
        end: WholeEnd,
    ) -> Result<(), Violation> {
        let entry = end.entry;
        self.away.whole_over(mover, entry);
        match &end.result {
            Some(Ok(EmittedWhole { at: Some(at), .. })) => self.away.emitted(at.data_bytes),
            _ if self.plan.is_entry_told(entry) => {
                return violation(format!("entry {} done, which was not sent", entry.0));
            }
            Some(_) => {}
            None => self.away.retire(mover),
        }
        self.plan.on_report(ports, end.into_report());
        Ok(())
    }

    /// What was on another worker is gone, with all that it had.
    pub fn on_outpost_gone(&mut self, ports: &mut Ports, from: WorkerId) {
        for end in self.away.gone(from) {
            self.plan.on_report(ports, end);
        }
        self.exchange(ports);
    }

    /// Gives orders to movers on other workers that have room.
    pub(super) fn order_away(&mut self, now: Instant, ports: &mut Ports) {
        let mut has_given = true;
        while std::mem::take(&mut has_given) {
            for at in self.away.hungry() {
                // Not asked without need: the last answer is what is waited for.
                let may_have = self.plan.has_orders() && self.rate.lets(now, true);
                if may_have && !self.leaves_away(now, at) {
                    has_given |= self.give_away(now, ports, at);
                }
            }
        }
    }

    /// Gives a mover on another worker an order. False: there is none.
    fn give_away(&mut self, now: Instant, ports: &mut Ports, at: usize) -> bool {
        match self.away.take_turn(at) {
            true => self.give_wholes(now, ports, at) || self.give_chunk(now, ports, at),
            false => self.give_chunk(now, ports, at) || self.give_wholes(now, ports, at),
        }
    }

    fn give_wholes(&mut self, now: Instant, ports: &mut Ports, at: usize) -> bool {
        let orders = self.plan.next_wholes();
        if orders.is_empty() {
            return false;
        }
        let sizes = orders.iter().map(|order| order.version.size_bytes);
        let bytes = sizes.sum();
        let (mover, worker) = self.away.give_wholes(now, at, &orders);
        self.rate.take(bytes);
        self.note_lead(bytes as i64);
        let order = AwaySendOrder::Wholes { mover, orders };
        ports.mail_outpost(worker, MoverOrder::Send(order));
        true
    }

    fn give_chunk(&mut self, now: Instant, ports: &mut Ports, at: usize) -> bool {
        let order = loop {
            match self.plan.next_large(ports) {
                Some(LargeOrder::Chunk(order)) => break order,
                Some(LargeOrder::Holes(order)) => self.movers.control().take_holes(order),
                None => return false,
            }
        };
        let bytes = chunk_len_bytes(order.size_bytes, order.chunk);
        let (mover, worker) = self.away.give(now, at, order.file, bytes);
        self.rate.take(bytes);
        self.note_lead(bytes as i64);
        let order = AwaySendOrder::Chunk { mover, order };
        ports.mail_outpost(worker, MoverOrder::Send(order));
        true
    }

    /// As [`Sender::lets_pass`], of a mover on another worker.
    fn leaves_away(&mut self, now: Instant, at: usize) -> bool {
        let mine = self.away.load(now, at);
        let others = self.rivals(now, (None, Some(at)), true);
        self.leaves(now, mine, others)
    }
}
