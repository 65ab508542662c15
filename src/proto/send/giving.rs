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
                ..
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::SenderConfig;
    use super::super::tests::config;
    use super::*;
    use crate::ids::{EntryId, Name, StreamKey};
    use crate::proto::send::orders::{RecordAt, WholeOrder};
    use crate::proto::sim::start;
    use crate::proto::wire::{Message, Verdict, VerdictKind};
    use crate::proto::{DiskDone, DiskOp, Kind, Lasting, Meta, Mtime, Output};

    const FILE_BYTES: u64 = 100;
    const ENTRY: EntryId = EntryId(1);
    const MOVER: MoverId = MoverId::of_added(0);
    const AWAY: WorkerId = WorkerId(1);

    fn of_file() -> SenderConfig {
        SenderConfig {
            sources: vec![Bytes::from_static(b"file")],
            ..config()
        }
    }

    fn source() -> DiskDone {
        DiskDone::Source {
            name: Some(Name::new(Bytes::from_static(b"file")).unwrap()),
            meta: Box::new(Meta {
                kind: Kind::File,
                mode: 0o644,
                mtime: Mtime::default(),
                size_bytes: FILE_BYTES,
                allocated_bytes: 4096,
                inode: 1,
                device: 0,
                lasting: Lasting::Inode,
                links: 1,
                is_sized: true,
            }),
            link: None,
            in_place: false,
        }
    }

    fn verdict(kind: VerdictKind) -> Message {
        let entry = ENTRY;
        Message::Verdicts(vec![Verdict { entry, kind }])
    }

    /// A sender whose one small file was ordered of a mover on another worker.
    fn sender(ports: &mut Ports) -> (Sender, WholeOrder) {
        let mut sender = Sender::new(start(), of_file());
        sender.set_pulls(start(), MoverId::CONTROL, false);
        sender.set_pulls_away(true);
        for report in [
            AwaySendReport::Begun { mover: MOVER },
            AwaySendReport::Wants {
                mover: MOVER,
                orders: 1,
            },
        ] {
            assert_eq!(sender.on_outpost(start(), ports, (AWAY, report)), Ok(0));
        }
        sender.pump(start(), ports);
        let mut ordered = None;
        for _ in 0..4 {
            while let Some(output) = ports.pop() {
                match output {
                    Output::Disk { op, cmd } => {
                        assert!(matches!(cmd, DiskOp::ResolveSource { .. }), "{cmd:?}");
                        sender.on_disk(ports, op, Ok(source()));
                        sender.flush(ports);
                        let send = verdict(VerdictKind::Send {});
                        sender.on_message(ports, send).unwrap();
                    }
                    Output::ToOutpost(AWAY, order) => {
                        if let MoverOrder::Send(AwaySendOrder::Wholes { mut orders, .. }) = *order {
                            ordered = orders.pop();
                        }
                    }
                    _ => {}
                }
            }
            sender.pump(start(), ports);
        }
        (sender, ordered.expect("it is ordered"))
    }

    fn ended(order: &WholeOrder, is_sent: bool) -> AwaySendReport {
        let at = RecordAt {
            stream: StreamKey(1),
            ordinal: 0,
            data_bytes: FILE_BYTES,
        };
        let emitted = EmittedWhole {
            bytes: FILE_BYTES,
            odd_size: None,
            at: Some(at),
        };
        let end = WholeEnd {
            entry: order.entry,
            held: order.held,
            result: is_sent.then_some(Ok(emitted)),
        };
        AwaySendReport::Wholes {
            mover: MOVER,
            ends: vec![end],
            lets_go: vec![order.dir],
        }
    }

    /// All is done there before the mail is here that it left: it is complete with that.
    #[test]
    fn what_overtakes_mail_waits_for_it() {
        let mut ports = Ports::default();
        let (mut sender, order) = sender(&mut ports);
        assert!(sender.on_finished().is_err(), "nothing is done");
        let (mut sender, _) = self::sender(&mut ports);
        let done = || verdict(VerdictKind::Done { resumed_bytes: 0 });
        sender.on_message(&mut ports, done()).unwrap();
        let twice = sender.on_message(&mut ports, done());
        assert!(twice.is_err(), "one verdict is the last");
        assert_eq!(sender.on_finished(), Ok(false));
        sender.check();
        let ended = ended(&order, true);
        let heard = sender.on_outpost(start(), &mut ports, (AWAY, ended));
        assert_eq!(heard, Ok(0));
        sender.check();
        assert!(sender.is_complete());
        let totals = sender.complete(start(), &mut ports);
        assert_eq!((totals.files, totals.bytes), (1, FILE_BYTES));
        assert_eq!(sender.totals().sent_bytes, FILE_BYTES);
    }

    #[test]
    fn who_has_what_was_not_sent_breaks_the_protocol() {
        let mut ports = Ports::default();
        let (mut sender, order) = sender(&mut ports);
        let done = verdict(VerdictKind::Done { resumed_bytes: 0 });
        sender.on_message(&mut ports, done).unwrap();
        let ended = ended(&order, false);
        let heard = sender.on_outpost(start(), &mut ports, (AWAY, ended));
        assert!(matches!(heard, Err(Violation(text)) if text.contains("was not sent")));
    }

    /// What a mover did not read goes to the next that has room; to that one nothing goes any more.
    #[test]
    fn what_was_given_back_is_ordered_again() {
        let mut ports = Ports::default();
        let (mut sender, order) = sender(&mut ports);
        let back = ended(&order, false);
        let heard = sender.on_outpost(start(), &mut ports, (AWAY, back));
        assert_eq!(heard, Ok(0));
        sender.check();
        sender.pump(start(), &mut ports);
        assert!(ports.pop().is_none(), "nobody takes it");
        sender.set_pulls(start(), MoverId::CONTROL, true);
        sender.pump(start(), &mut ports);
        let read = std::iter::from_fn(|| ports.pop());
        let read = read.filter(|output| {
            matches!(output, Output::Disk { cmd: DiskOp::ReadSmall { dir, .. }, .. } if *dir == order.dir)
        });
        assert_eq!(read.count(), 1);
    }
}
