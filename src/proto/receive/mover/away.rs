//! A mover whose plan is on another worker: it asks for what it does not know, and hands small
//! files over; and the plan's own mover, which answers, and puts them in place.

use std::collections::{BTreeMap, VecDeque};

use super::streams::{bytes_of, not_asked_for};
use super::{ReceiveMover, Taking, TakingPart, WholeState};
use crate::ids::{EntryId, MoverId, StreamKey, WorkerId};
use crate::proto::errors::Violation;
use crate::proto::ports::Ports;
use crate::proto::receive::orders::{
    AwayOrder, AwayReport, PartContent, ReceiveOrder, SmallFile, TakePart,
};
use crate::proto::wire::RecordHead;

/// What a mover has to do with a plan that is on another worker.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// The record that all streams wait for, and where: whether its file is wanted was asked.
    asked: Option<(StreamKey, RecordHead)>,
    /// To be told.
    reports: VecDeque<AwayReport>,
    /// Small files handed over and not put in place yet.
    handed_bytes: u64,
}

impl Away {
    pub(super) fn waits(&self) -> bool {
        self.asked.is_some()
    }

    pub(super) fn stop(&mut self) {
        self.asked = None;
    }

    #[cfg(test)]
    pub(super) fn handed_bytes(&self) -> u64 {
        self.handed_bytes
    }
}

/// Small files that other movers handed over, and that are put in place, or dropped, since they
/// were last told.
#[derive(Debug, Default)]
pub(super) struct FromAway(BTreeMap<WorkerId, u64>);

impl FromAway {
    pub(super) fn put(&mut self, worker: WorkerId, bytes: u64) {
        *self.0.entry(worker).or_default() += bytes;
    }
}

/// At a mover that is away.
impl ReceiveMover {
    /// One for the lanes of a worker that is not the plan's.
    pub fn away(worker: WorkerId, write_behind_max: u64) -> ReceiveMover {
        // That of the plan's worker is 0.
        let id = MoverId(u32::from(worker.0) + 1);
        ReceiveMover {
            away: Some(Away::default()),
            ..ReceiveMover::of(id, write_behind_max)
        }
    }

    pub(super) fn await_answer(&mut self, stream: StreamKey, head: RecordHead) {
        if let Some(away) = &mut self.away {
            away.asked = Some((stream, head));
            let entry = head.entry();
            away.reports.push_back(AwayReport::Asks { entry });
        }
    }

    pub(super) fn hand_over(&mut self, small: SmallFile) {
        if let Some(away) = &mut self.away {
            let bytes = small.held_bytes();
            // It counts where it is put in place.
            self.flow.received_bytes -= bytes_of(&small.data);
            away.handed_bytes += bytes;
            away.reports.push_back(AwayReport::Small(small));
            self.flow.write_behind_bytes += bytes;
        }
    }

    /// The plan's worker said something.
    ///
    /// # Errors
    /// When what waited for it is not what was ordered.
    pub fn on_away_order(&mut self, ports: &mut Ports, order: AwayOrder) -> Result<(), Violation> {
        let (entry, is_wanted) = match order {
            AwayOrder::Leave { entry } => {
                self.obey(ReceiveOrder::Leave { entry });
                return Ok(());
            }
            AwayOrder::Put { bytes } => {
                let handed = self.away.as_mut().map(|away| &mut away.handed_bytes);
                handed.into_iter().for_each(|handed| *handed -= bytes);
                self.flow.write_behind_bytes -= bytes;
                return Ok(());
            }
            AwayOrder::Unwanted { entry } => (entry, false),
            AwayOrder::Part(order) => {
                let entry = order.entry;
                self.obey(ReceiveOrder::Part(order));
                (entry, true)
            }
        };
        let is_it = |(_, head): &mut (StreamKey, RecordHead)| head.entry() == entry;
        let asked = self
            .away
            .as_mut()
            .and_then(|away| away.asked.take_if(is_it));
        if let Some((stream, head)) = asked {
            self.begin_answered(stream, head, is_wanted)?;
            self.go_on(ports)?;
        }
        Ok(())
    }

    /// What the plan's worker is to hear next, in order. Reports of chunks are behind nothing that
    /// was handed over after them.
    pub fn next_away_report(&mut self) -> Option<AwayReport> {
        let report = self.reports.pop_front().map(AwayReport::Report);
        report.or_else(|| self.away.as_mut()?.reports.pop_front())
    }
}

/// At the plan's own mover.
impl ReceiveMover {
    /// What a mover on another worker needs to take chunks of a file. None: nothing of it is wanted
    /// any more.
    ///
    /// # Errors
    /// When no chunks of it may come there.
    pub fn share(&mut self, entry: EntryId) -> Result<Option<TakePart>, Violation> {
        match self.taking.get(&entry) {
            None => {
                self.unasked.push(entry);
                Ok(None)
            }
            Some(Taking::Part(TakingPart { is_left: true, .. })) => Ok(None),
            Some(Taking::Part(TakingPart { order, .. })) => match &order.content {
                PartContent::Chunks {
                    size_bytes,
                    is_sparse,
                    claims,
                } => Ok(Some(TakePart {
                    entry,
                    part: order.part,
                    file: order.file,
                    content: PartContent::Chunks {
                        size_bytes: *size_bytes,
                        is_sparse: *is_sparse,
                        claims: claims.clone(),
                    },
                })),
                PartContent::Stretches(_) => not_asked_for(entry),
            },
            Some(Taking::Whole(..)) => not_asked_for(entry),
        }
    }

    /// A small file that arrived on another worker.
    ///
    /// # Errors
    /// When it was not ordered, or came before.
    pub fn take_small(
        &mut self,
        ports: &mut Ports,
        small: SmallFile,
        worker: WorkerId,
    ) -> Result<(), Violation> {
        let (entry, held_bytes) = (small.entry, small.held_bytes());
        self.flow.received_bytes += bytes_of(&small.data);
        match self.taking.get(&entry) {
            _ if self.is_stopped => Ok(()),
            None => {
                self.unasked.push(entry);
                self.from_away.put(worker, held_bytes);
                Ok(())
            }
            Some(Taking::Whole(order, WholeState::Asked))
                if bytes_of(&small.data) <= order.size_bytes =>
            {
                self.settle_whole(ports, small, Some((worker, held_bytes)))
            }
            Some(_) => not_asked_for(entry),
        }
    }

    /// How much of what a worker handed over is put in place, or dropped, since this was last
    /// asked.
    pub fn next_put(&mut self) -> Option<(WorkerId, u64)> {
        self.from_away.0.pop_first()
    }
}
