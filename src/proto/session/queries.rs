//! A server's side of a session that answers several queries: a slot for each that is under way.
//!
//! What a session keeps for a client that does not read is bounded by its slots, by what all
//! answers together may have under way, and by [`ANSWERS_BYTES_MAX`], above which no query is read.

use bytes::Bytes;

use super::handles::AnswerHandles;
use super::listing::{BATCHES_AHEAD, Lister};
use super::range::{PARTS_AHEAD, RangeServer};
use crate::ids::{MoverId, OpId};
use crate::proto::errors::{Violation, violation};
use crate::proto::ports::{OpOwner, Ports};
use crate::proto::query::{QUERIES_MAX, Query};
use crate::proto::wire::{MAX_BATCH_BYTES, MAX_PART_BYTES, Message};
use crate::proto::{DiskDone, DiskError, Event, SessionError, Totals, Verb};

/// What waits for the transport before a server reads further queries: more than all answers
/// together have under way, so that acknowledgements of these are read.
pub(super) const ANSWERS_BYTES_MAX: usize = 1 << 20;

/// What a session may have sent without an acknowledgement. Beyond it each answer may have one
/// message under way, so that each gets on.
const AHEAD_BYTES: u32 = 512 << 10;

/// What a listing holds at most, and a part of a file.
const BATCH_BYTES: u32 = AHEAD_BYTES / BATCHES_AHEAD;
const PART_BYTES: u32 = AHEAD_BYTES / PARTS_AHEAD;

// Both are what is sent at most.
const _: () = assert!(BATCH_BYTES as usize >= MAX_BATCH_BYTES);
const _: () = assert!(PART_BYTES as usize >= MAX_PART_BYTES);

#[derive(Debug)]
enum Answering {
    Rows(Box<Lister>),
    Range(Box<RangeServer>),
}

impl Answering {
    fn new(ports: &mut Ports, handles: AnswerHandles, query: Query) -> Answering {
        match query {
            Query::List { path } => {
                Answering::Rows(Box::new(Lister::new(ports, handles, path, false)))
            }
            Query::Read {
                path,
                range,
                follow_named,
            } => {
                let asked = (path, follow_named);
                Answering::Range(Box::new(RangeServer::new(ports, handles, asked, range)))
            }
        }
    }

    fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        match self {
            Answering::Rows(lister) => lister.on_disk(ports, op, result),
            Answering::Range(server) => server.on_disk(ports, op, result),
        }
    }

    fn on_acknowledged(&mut self, ports: &mut Ports) -> Result<(), Violation> {
        match self {
            Answering::Rows(lister) => lister.on_acknowledged(ports),
            Answering::Range(server) => server.on_acknowledged(ports),
        }
    }

    /// So many bytes of it may be under way, or at least one message, less those messages that are
    /// owed from before.
    fn share(&mut self, ports: &mut Ports, most_bytes: u32, acks_due: u32) {
        let messages = (most_bytes / self.message_bytes()).max(1);
        let ahead_max = messages.saturating_sub(acks_due);
        match self {
            Answering::Rows(lister) => lister.share(ports, ahead_max),
            Answering::Range(server) => server.share(ports, ahead_max),
        }
    }

    fn message_bytes(&self) -> u32 {
        match self {
            Answering::Rows(_) => BATCH_BYTES,
            Answering::Range(_) => PART_BYTES,
        }
    }

    /// What the client has not acknowledged, and what is being read for it.
    fn under_way_bytes(&self) -> u32 {
        let messages = match self {
            Answering::Rows(lister) => lister.ahead_or_read(),
            Answering::Range(server) => server.ahead_or_read(),
        };
        messages * self.message_bytes()
    }

    fn result(&self) -> Option<Result<(), SessionError>> {
        match self {
            Answering::Rows(lister) => lister.result(),
            Answering::Range(server) => server.result(),
        }
    }

    /// Messages that the client has not acknowledged.
    fn ahead(&self) -> u32 {
        match self {
            Answering::Rows(lister) => lister.ahead(),
            Answering::Range(server) => server.ahead(),
        }
    }

    fn sent_bytes(&self) -> u64 {
        match self {
            Answering::Rows(_) => 0,
            Answering::Range(server) => server.all_sent_bytes(),
        }
    }

    fn stop(&mut self, ports: &mut Ports) {
        match self {
            Answering::Rows(lister) => lister.stop(ports),
            Answering::Range(server) => server.stop(ports),
        }
    }

    fn is_drained(&self) -> bool {
        match self {
            Answering::Rows(lister) => lister.is_drained(),
            Answering::Range(server) => server.is_drained(),
        }
    }
}

#[derive(Debug, Default)]
struct AnswerSlot {
    /// Until its files are closed, which its end does not wait for.
    answering: Option<Answering>,
    /// Its last message was said.
    has_ended: bool,
    is_forgotten: bool,
    /// Asked behind the end of the one before, whose files are not closed yet.
    next: Option<(Query, AnswerHandles)>,
    /// Acknowledgements of answers before, and the most that one of these is of.
    acks_due: u32,
    owed_message_bytes: u32,
}

impl AnswerSlot {
    fn is_at_work(&self) -> bool {
        self.answering.is_some() && !self.has_ended
    }

    fn under_way_bytes(&self) -> u32 {
        let now = self.answering.as_ref();
        self.acks_due * self.owed_message_bytes + now.map_or(0, Answering::under_way_bytes)
    }

    fn ask(
        &mut self,
        ports: &mut Ports,
        handles: AnswerHandles,
        query: Query,
    ) -> Result<(), Violation> {
        match &self.answering {
            None => self.begin(ports, handles, query),
            Some(_) if self.has_ended && self.next.is_none() => {
                self.next = Some((query, handles));
            }
            Some(_) => return violation("a query in a slot whose answer is under way"),
        }
        Ok(())
    }

    fn begin(&mut self, ports: &mut Ports, handles: AnswerHandles, query: Query) {
        (self.has_ended, self.is_forgotten) = (false, false);
        self.answering = Some(Answering::new(ports, handles, query));
    }

    /// Nobody wants the answer. True: it had not begun, and so has ended now.
    fn forget(&mut self, ports: &mut Ports) -> bool {
        let had_not_begun = self.next.take().is_some();
        match had_not_begun {
            true => ports.message(&Message::ListEnd {}),
            // It may have ended meanwhile.
            false => self.is_forgotten |= self.is_at_work(),
        }
        had_not_begun
    }

    fn on_acknowledged(&mut self, ports: &mut Ports) -> Result<(), Violation> {
        if self.acks_due > 0 {
            self.acks_due -= 1;
            return Ok(());
        }
        match &mut self.answering {
            Some(answering) => answering.on_acknowledged(ports),
            None => violation("acknowledged an answer that was not sent"),
        }
    }

    /// Says its end, closes it, begins the next. True: it ended now.
    fn advance(&mut self, ports: &mut Ports) -> bool {
        let Some(answering) = &mut self.answering else {
            return false;
        };
        let before = self.has_ended;
        match answering.result() {
            _ if before => {}
            Some(Ok(())) => self.has_ended = true,
            Some(Err(error)) => {
                ports.message(&Message::Unanswered(error));
                self.has_ended = true;
            }
            None if self.is_forgotten => {
                ports.message(&Message::ListEnd {});
                self.has_ended = true;
            }
            None => {}
        }
        if self.has_ended {
            answering.stop(ports);
        }
        if self.has_ended && answering.is_drained() {
            if self.acks_due == 0 {
                self.owed_message_bytes = 0;
            }
            self.acks_due += answering.ahead();
            self.owed_message_bytes = self.owed_message_bytes.max(answering.message_bytes());
            self.answering = None;
            if let Some((query, handles)) = self.next.take() {
                self.begin(ports, handles, query);
            }
        }
        self.has_ended && !before
    }
}

/// A server that answers.
#[derive(Debug, Default)]
pub struct QueryServer {
    slots: [AnswerSlot; QUERIES_MAX],
    /// Whose messages the client acknowledges next.
    about: u8,
    /// The first query, and how many there were.
    first: Option<Bytes>,
    asked: u32,
    answered: u64,
    /// Of answers that ended.
    sent_bytes: u64,
}

impl QueryServer {
    /// `Some`: the client asks for nothing more.
    ///
    /// # Errors
    /// When the client may not say that, or not now.
    pub fn on_message(
        &mut self,
        ports: &mut Ports,
        message: Message,
    ) -> Result<Option<Totals>, Violation> {
        match message {
            Message::Query { slot, query } => {
                let query = Query::from(query);
                let handles = AnswerHandles::of(slot, self.asked);
                self.note(ports, &query);
                self.in_slot(ports, slot, |it, ports| it.ask(ports, handles, query))?;
            }
            Message::About { slot } => {
                self.in_slot(ports, slot, |_, _| Ok(()))?;
                self.about = slot;
            }
            Message::ListAck {} => {
                self.in_slot(ports, self.about, AnswerSlot::on_acknowledged)?;
            }
            Message::Forget { slot } => {
                let mut has_ended = false;
                self.in_slot(ports, slot, |it, ports| {
                    has_ended = it.forget(ports);
                    Ok(())
                })?;
                self.answered += u64::from(has_ended);
            }
            Message::Finished {} => return Ok(Some(self.totals())),
            _ => return violation("a message out of place among queries"),
        }
        Ok(None)
    }

    fn in_slot(
        &mut self,
        ports: &mut Ports,
        slot: u8,
        does: impl FnOnce(&mut AnswerSlot, &mut Ports) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let Some(it) = self.slots.get_mut(usize::from(slot)) else {
            return violation(format!(
                "slot {slot} of a query, and there are {QUERIES_MAX}"
            ));
        };
        ports.about(Some(slot));
        let done = does(it, ports);
        ports.about(None);
        done
    }

    /// For the log.
    fn note(&mut self, ports: &mut Ports, query: &Query) {
        let more = self.asked as usize;
        self.asked = self.asked.wrapping_add(1);
        let first = self.first.get_or_insert_with(|| query.path().clone());
        let (verb, path) = (Verb::Queries, first.clone());
        ports.event(Event::Asked { verb, path, more });
    }

    pub fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        let OpOwner::Mover(MoverId(slot)) = OpOwner::of(op) else {
            return;
        };
        let found = self.slots.get_mut(slot as usize);
        if let Some(answering) = found.and_then(|it| it.answering.as_mut()) {
            ports.about(Some(slot as u8));
            answering.on_disk(ports, op, result);
            ports.about(None);
        }
    }

    pub fn advance(&mut self, ports: &mut Ports) {
        let at_work = self.slots.iter().filter(|it| it.is_at_work()).count() as u32;
        let share_bytes = AHEAD_BYTES / at_work.max(1);
        let mut all_bytes: u32 = self.slots.iter().map(AnswerSlot::under_way_bytes).sum();
        for (slot, it) in (0u8..).zip(&mut self.slots) {
            ports.about(Some(slot));
            let (acks_due, own_bytes) = (it.acks_due, it.under_way_bytes());
            if !it.has_ended
                && let Some(answering) = &mut it.answering
            {
                let left_bytes = AHEAD_BYTES.saturating_sub(all_bytes - own_bytes);
                answering.share(ports, share_bytes.min(left_bytes), acks_due);
            }
            all_bytes = all_bytes - own_bytes + it.under_way_bytes();
            let sent_bytes = it.answering.as_ref().map_or(0, Answering::sent_bytes);
            if it.advance(ports) {
                self.answered += 1;
                self.sent_bytes += sent_bytes;
            }
        }
        ports.about(None);
    }

    /// Nothing is asked for.
    pub fn rests(&self) -> bool {
        self.slots.iter().all(|it| it.answering.is_none())
    }

    /// The session ends: what is open is closed once nothing of it is in flight.
    pub fn stop(&mut self, ports: &mut Ports) {
        for it in &mut self.slots {
            it.next = None;
            if let Some(answering) = &mut it.answering {
                answering.stop(ports);
            }
        }
    }

    pub fn is_drained(&self) -> bool {
        let mut answers = self.slots.iter().filter_map(|it| it.answering.as_ref());
        answers.all(Answering::is_drained)
    }

    pub fn totals(&self) -> Totals {
        Totals {
            files: self.answered,
            sent_bytes: self.sent_bytes,
            ..Totals::default()
        }
    }
}
