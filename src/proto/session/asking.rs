//! A client's side of a session that asks several queries: what of each came, and whether anything
//! comes.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::range::RangeTaker;
use super::watch::ProgressWatch;
use crate::ids::PATH_MAX_BYTES;
use crate::proto::errors::{HostSide, Violation, stalled, violation};
use crate::proto::ports::Ports;
use crate::proto::query::{QUERIES_MAX, Query, QueryAnswer, QueryRequest};
use crate::proto::wire::{ListItem, Message};
use crate::proto::{Carriage, SessionError, SessionErrorCode, Totals};

/// A query under way.
#[derive(Debug)]
struct AskedQuery {
    taker: Taker,
    watch: ProgressWatch,
    /// Its end was told; the server has yet to hear of that.
    is_settled: bool,
}

#[derive(Debug)]
enum Taker {
    Rows,
    Range(Box<RangeTaker>),
}

/// A client that asks.
#[derive(Debug)]
pub struct QueryClient {
    slots: [Option<AskedQuery>; QUERIES_MAX],
    /// Whose answer the server's next messages are.
    about: u8,
    /// How long a query may get on with nothing; None: for ever.
    patience: Option<Duration>,
    carriage: Carriage,
    /// Those whose query had no answer in time. What the server waits for there, as a disk that
    /// hangs, the next query in that slot would wait for, too: they are not free in this session
    /// any more.
    stalled: [bool; QUERIES_MAX],
    has_finished: bool,
}

impl QueryClient {
    pub fn new(patience: Option<Duration>, carriage: Carriage) -> QueryClient {
        QueryClient {
            slots: Default::default(),
            about: 0,
            patience,
            carriage,
            stalled: [false; QUERIES_MAX],
            has_finished: false,
        }
    }

    pub(super) fn ask(&mut self, now: Instant, ports: &mut Ports, ask: QueryRequest) {
        match ask {
            _ if self.has_finished => {}
            QueryRequest::Query { slot, query } => self.query(now, ports, (slot, query)),
            QueryRequest::Forget { slot } => self.forget(ports, slot),
            QueryRequest::NoMore => self.finish(ports),
        }
    }

    fn finish(&mut self, ports: &mut Ports) {
        ports.message(&Message::Finished {});
        self.has_finished = true;
    }

    fn query(&mut self, now: Instant, ports: &mut Ports, (slot, query): (u8, Query)) {
        let Some(free @ None) = self.slots.get_mut(usize::from(slot)) else {
            debug_assert!(false, "a slot that is not free, or none");
            return;
        };
        if query.path().len() > PATH_MAX_BYTES {
            let text = format!("a path is longer than {PATH_MAX_BYTES} bytes");
            let error = SessionError::told(SessionErrorCode::Unsupported, text);
            ports.answer(slot, QueryAnswer::End(Err(error)));
            return ports.answer(slot, QueryAnswer::Free);
        }
        let taker = match &query {
            Query::List { .. } => Taker::Rows,
            Query::Read { range, .. } => {
                Taker::Range(Box::new(RangeTaker::new(slot, Range::clone(range))))
            }
        };
        *free = Some(AskedQuery {
            taker,
            watch: ProgressWatch::new(now, self.patience),
            is_settled: false,
        });
        let query = query.into();
        ports.message(&Message::Query { slot, query });
    }

    fn forget(&mut self, ports: &mut Ports, slot: u8) {
        let asked = self.slots.get_mut(usize::from(slot));
        if let Some(Some(asked)) = asked
            && !asked.is_settled
        {
            asked.is_settled = true;
            ports.message(&Message::Forget { slot });
        }
    }

    /// Its end is this, whatever else comes.
    fn settle(&mut self, ports: &mut Ports, slot: u8, error: SessionError) {
        ports.answer(slot, QueryAnswer::End(Err(error)));
        self.forget(ports, slot);
    }

    /// `Some`: the server has nothing more to say.
    ///
    /// # Errors
    /// When the server may not say that, or not now.
    pub fn on_message(
        &mut self,
        now: Instant,
        ports: &mut Ports,
        message: Message,
    ) -> Result<Option<Totals>, Violation> {
        match message {
            Message::About { slot } if usize::from(slot) < QUERIES_MAX => self.about = slot,
            Message::Finished {} => return Ok(Some(Totals::default())),
            message => {
                let slot = self.about;
                ports.about(Some(slot));
                let taken = self.answer(now, ports, (slot, message));
                ports.about(None);
                taken?;
            }
        }
        Ok(None)
    }

    fn answer(
        &mut self,
        now: Instant,
        ports: &mut Ports,
        (slot, message): (u8, Message),
    ) -> Result<(), Violation> {
        let Some(Some(asked)) = self.slots.get_mut(usize::from(slot)) else {
            return violation("an answer that nobody asked for");
        };
        asked.watch.heard(now, &message);
        let end = match (&mut asked.taker, message) {
            (_, Message::Unanswered(error)) => Some(Err(error)),
            (Taker::Rows, Message::Listing(rows)) => {
                if !asked.is_settled {
                    tell_rows(ports, slot, rows);
                }
                ports.message(&Message::ListAck {});
                None
            }
            (Taker::Rows, Message::ListEnd {}) => Some(Ok(())),
            (Taker::Range(_), Message::ListEnd {}) if asked.is_settled => Some(Ok(())),
            (Taker::Range(_), Message::FilePart { .. }) if asked.is_settled => {
                ports.message(&Message::ListAck {});
                None
            }
            (Taker::Range(_), Message::FileSize { .. } | Message::ChunkValue { .. })
                if asked.is_settled =>
            {
                None
            }
            (Taker::Range(_), _) if asked.is_settled => {
                return violation("a message out of place in an answer that nobody wants");
            }
            (Taker::Range(taker), message) => {
                taker.on_message(ports, message)?;
                match taker.result() {
                    Some(Err(error)) => {
                        self.settle(ports, slot, error);
                        return Ok(());
                    }
                    end => end,
                }
            }
            (Taker::Rows, _) => return violation("a message out of place in a listing"),
        };
        if let Some(end) = end {
            if !asked.is_settled {
                ports.answer(slot, QueryAnswer::End(end));
            }
            self.slots[usize::from(slot)] = None;
            if !self.stalled[usize::from(slot)] {
                ports.answer(slot, QueryAnswer::Free);
            }
        }
        Ok(())
    }

    /// The server is at work, as it says.
    pub fn on_sign(&mut self, now: Instant, sign: &Message) {
        for asked in self.slots.iter_mut().flatten() {
            asked.watch.heard(now, sign);
        }
    }

    /// Gives up what has waited for too long. Where no slot is left behind that, the session ends.
    pub fn on_tick(&mut self, now: Instant, ports: &mut Ports) {
        if self.has_finished {
            return;
        }
        for slot in 0..QUERIES_MAX as u8 {
            let asked = self.slots[usize::from(slot)].as_ref();
            let waits = asked.filter(|asked| !asked.is_settled);
            let Some(since) = waits.and_then(|asked| asked.watch.stalled_since(now, 0)) else {
                continue;
            };
            let host = HostSide::of(false, self.carriage);
            let text = stalled(host, false, None, now - since);
            let error = SessionError::told(SessionErrorCode::Stalled, text);
            self.stalled[usize::from(slot)] = true;
            self.settle(ports, slot, error);
        }
        if self.stalled.iter().all(|is_stalled| *is_stalled) {
            self.finish(ports);
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        let asked = self.slots.iter().flatten();
        let waits = asked.filter(|asked| !asked.is_settled);
        waits
            .filter_map(|asked| asked.watch.deadline(0, false))
            .min()
    }

    /// Nothing is under way.
    pub fn rests(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    pub fn has_finished(&self) -> bool {
        self.has_finished
    }
}

fn tell_rows(ports: &mut Ports, slot: u8, rows: Vec<ListItem>) {
    for ListItem { name, meta, link } in rows {
        let meta = Box::new(meta);
        ports.answer(slot, QueryAnswer::Row { name, meta, link });
    }
}
