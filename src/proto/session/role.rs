//! What a side does in a session once both agreed: each verb of a session, by role.

use std::time::Instant;

use bytes::Bytes;

use super::VERDICTS_BYTES_MAX;
use super::asking::QueryClient;
use super::listing::Lister;
use super::queries::{ANSWERS_BYTES_MAX, QueryServer};
use crate::ids::{MoverId, OpId, StreamKey, WorkerId};
use crate::proto::bench::Bench;
use crate::proto::errors::{Violation, violation};
use crate::proto::ports::Ports;
use crate::proto::query::QueryRequest;
use crate::proto::receive::{ReceiveOutpost, Receiver, Target};
use crate::proto::send::{SendOutpost, Sender};
use crate::proto::wire::Message;
use crate::proto::{CopyStep, DiskDone, DiskError, Event, LostLane, SessionError, Totals};
use crate::proto::{MoverOrder, MoverReport};

pub(super) enum Role {
    /// None yet: nothing was asked for, or what the peer's window is to a sender is not known.
    Unknown,
    Send(Box<Sender>),
    Receive(Box<Receiver>),
    /// Receives on another worker than the session's.
    ReceiveAway(Box<ReceiveOutpost>),
    /// Sends from another worker than the session's.
    SendAway(Box<SendOutpost>),
    /// Describes a path.
    List(Box<Lister>),
    /// Reads what the server describes.
    Read,
    /// Answers queries of the client.
    Answers(Box<QueryServer>),
    /// Asks them.
    Asks(Box<QueryClient>),
    Bench(Box<Bench>),
}

/// How a role ended by itself: with everything done, or for this reason.
pub(super) type RoleEnd = Result<Totals, SessionError>;

impl Role {
    /// A message of the peer; `Some` when it was the last.
    ///
    /// # Errors
    /// When the peer may not say that (now).
    pub(super) fn on_message(
        &mut self,
        now: Instant,
        ports: &mut Ports,
        message: Message,
    ) -> Result<Option<Totals>, Violation> {
        match (self, message) {
            (Role::Send(sender), Message::Finished {}) => {
                let is_complete = sender.on_finished()?;
                Ok(is_complete.then(|| sender.complete(now, ports)))
            }
            (Role::Send(sender), message) => sender.on_message(ports, message).map(|()| None),
            (Role::Receive(receiver), message) => {
                receiver.on_message(ports, message).map(|()| None)
            }
            (Role::Bench(bench), message) => bench.on_message(now, ports, message).map(|()| None),
            (Role::List(lister), Message::ListAck {}) => {
                lister.on_acknowledged(ports).map(|()| None)
            }
            (Role::Answers(server), message) => server.on_message(ports, message),
            (Role::Asks(client), message) => client.on_message(now, ports, message),
            (Role::Read, Message::Listing(rows)) => {
                for row in rows {
                    ports.event(Event::Listing {
                        path: row.name,
                        meta: Box::new(row.meta),
                        link: row.link,
                    });
                }
                ports.message(&Message::ListAck {});
                Ok(None)
            }
            (Role::Read, Message::ListEnd {}) => Ok(Some(Totals::default())),
            (
                Role::Unknown
                | Role::ReceiveAway(_)
                | Role::SendAway(_)
                | Role::List(_)
                | Role::Read,
                _,
            ) => violation("a message out of place"),
        }
    }

    /// Bytes of a data stream. `is_running`: both agreed; only filler may come before.
    ///
    /// # Errors
    /// When none, or not these, may come.
    pub(super) fn on_data(
        &mut self,
        now: Instant,
        ports: &mut Ports,
        data: (StreamKey, Bytes, bool),
        is_running: bool,
    ) -> Result<(), Violation> {
        let (stream, bytes, fin) = data;
        match self {
            Role::Receive(receiver) if is_running => receiver.on_data(ports, stream, bytes, fin),
            Role::ReceiveAway(outpost) => outpost.on_data(ports, (stream, bytes, fin)),
            Role::Bench(bench) => bench.on_data(now, bytes.len()),
            Role::Unknown
            | Role::Send(_)
            | Role::SendAway(_)
            | Role::Receive(_)
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read => violation("data from a peer that has none to send"),
        }
    }

    /// An added lane is no more.
    pub(super) fn on_lane_lost(&mut self, ports: &mut Ports, lost: LostLane) {
        match self {
            Role::Send(sender) => sender.on_lane_lost(ports, &lost),
            Role::Receive(receiver) => receiver.on_lane_lost(ports, lost),
            Role::ReceiveAway(outpost) => outpost.on_lane_lost(ports, lost),
            Role::SendAway(outpost) => outpost.on_lane_lost(ports, &lost),
            Role::Unknown
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read
            | Role::Bench(_) => {}
        }
    }

    /// The receiver said what it did not take of an added lane.
    pub(super) fn on_lane_accounted(&mut self, ports: &mut Ports, missing: &[(StreamKey, u32)]) {
        match self {
            Role::Send(sender) => sender.on_lane_accounted(ports, missing),
            Role::Unknown
            | Role::Receive(_)
            | Role::ReceiveAway(_)
            | Role::SendAway(_)
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read
            | Role::Bench(_) => {}
        }
    }

    /// The part of this session on another worker said something. Gives how many file bytes came
    /// that had not been told.
    ///
    /// # Errors
    /// When the peer sent there what was not asked for.
    pub(super) fn on_outpost(
        &mut self,
        now: Instant,
        ports: &mut Ports,
        (from, report): (WorkerId, MoverReport),
    ) -> Result<u64, Violation> {
        match (self, report) {
            (Role::Receive(receiver), MoverReport::Receive(report)) => {
                return receiver.on_outpost(ports, from, report);
            }
            (Role::Receive(receiver), MoverReport::Gone) => receiver.on_outpost_gone(ports, from),
            (Role::Send(sender), MoverReport::Send(report)) => {
                return sender.on_outpost(now, ports, (from, report));
            }
            (Role::Send(sender), MoverReport::Gone) => sender.on_outpost_gone(ports, from),
            _ => {}
        }
        Ok(0)
    }

    /// This is such a part, and its session said something.
    ///
    /// # Errors
    /// When what waited for it is not what was agreed.
    pub(super) fn on_home(
        &mut self,
        ports: &mut Ports,
        order: MoverOrder,
    ) -> Result<(), Violation> {
        match (self, order) {
            (Role::ReceiveAway(outpost), MoverOrder::Receive(order)) => {
                return outpost.on_order(ports, order);
            }
            (Role::SendAway(outpost), MoverOrder::Send(order)) => outpost.on_order(ports, order),
            _ => {}
        }
        Ok(())
    }

    /// Whether the peer has said its last word: what is waited for is told by other workers.
    pub(super) fn has_finished(&self) -> bool {
        matches!(self, Role::Send(sender) if sender.has_finished())
    }

    /// This is no more than a part of a session, on another worker.
    pub(super) fn is_away(&self) -> bool {
        matches!(self, Role::ReceiveAway(_) | Role::SendAway(_))
    }

    /// A step of a copy within this host.
    ///
    /// # Errors
    /// When none, or not this one, may come.
    pub(super) fn on_copy(&mut self, ports: &mut Ports, step: CopyStep) -> Result<(), Violation> {
        match self {
            Role::Receive(receiver) => receiver.on_copy(ports, step),
            Role::Unknown
            | Role::Send(_)
            | Role::ReceiveAway(_)
            | Role::SendAway(_)
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read
            | Role::Bench(_) => violation("a copy from a side that has nothing to send"),
        }
    }

    pub(super) fn on_sent(&mut self, now: Instant, mover: MoverId, bytes: u64) {
        match self {
            Role::Send(sender) => sender.on_sent(now, mover, bytes),
            Role::SendAway(outpost) => outpost.on_sent(now, mover, bytes),
            Role::Bench(bench) => bench.on_sent(bytes),
            Role::Unknown
            | Role::Receive(_)
            | Role::ReceiveAway(_)
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read => {}
        }
    }

    /// A disk operation ended.
    ///
    /// # Errors
    /// When what the peer sent, and had to wait for it, is not what was agreed.
    pub(super) fn on_disk(
        &mut self,
        ports: &mut Ports,
        op: OpId,
        result: Result<DiskDone, DiskError>,
    ) -> Result<(), Violation> {
        match self {
            Role::Send(sender) => sender.on_disk(ports, op, result),
            Role::SendAway(outpost) => outpost.on_disk(ports, op, result),
            Role::Receive(receiver) => return receiver.on_disk(ports, op, result),
            Role::ReceiveAway(outpost) => return outpost.on_disk(ports, op, result),
            Role::List(lister) => lister.on_disk(ports, op, result),
            Role::Answers(server) => server.on_disk(ports, op, result),
            Role::Unknown | Role::Asks(_) | Role::Read | Role::Bench(_) => {}
        }
        Ok(())
    }

    /// Goes on as far as possible. `Some` when it has come to its end.
    pub(super) fn advance(&mut self, now: Instant, ports: &mut Ports) -> Option<RoleEnd> {
        match self {
            Role::Send(sender) => {
                sender.pump(now, ports);
                let is_complete = sender.is_complete();
                is_complete.then(|| Ok(sender.complete(now, ports)))
            }
            Role::Receive(receiver) => {
                receiver.pump(now, ports);
                receiver.is_complete().then(|| {
                    let totals = receiver.complete(now, ports);
                    receiver.flush(ports);
                    ports.message(&Message::Finished {});
                    Ok(totals)
                })
            }
            Role::ReceiveAway(outpost) => {
                outpost.pump(now, ports);
                None
            }
            Role::SendAway(outpost) => {
                outpost.pump(now, ports);
                None
            }
            Role::List(lister) => lister.result().map(|end| end.map(|()| Totals::default())),
            Role::Answers(server) => {
                server.advance(ports);
                None
            }
            Role::Asks(client) => client.has_finished().then(|| Ok(Totals::default())),
            Role::Bench(bench) => bench.pump(now, ports).map(Ok),
            Role::Unknown | Role::Read => None,
        }
    }

    /// The session ends: what is held is closed as soon as nothing of it is in flight.
    pub(super) fn stop(&mut self, now: Instant, ports: &mut Ports) {
        match self {
            Role::Send(sender) => {
                sender.stop(ports);
                sender.pump(now, ports);
            }
            Role::Receive(receiver) => {
                receiver.stop(ports);
                receiver.pump(now, ports);
            }
            Role::ReceiveAway(outpost) => outpost.stop(ports),
            Role::SendAway(outpost) => outpost.stop(),
            Role::List(lister) => lister.stop(ports),
            Role::Answers(server) => server.stop(ports),
            Role::Unknown | Role::Asks(_) | Role::Read | Role::Bench(_) => {}
        }
    }

    /// Whether nothing is held any more.
    pub(super) fn is_drained(&self) -> bool {
        match self {
            Role::Send(sender) => sender.is_drained(),
            Role::Receive(receiver) => receiver.is_drained(),
            Role::ReceiveAway(outpost) => outpost.is_drained(),
            Role::SendAway(outpost) => outpost.is_drained(),
            Role::List(lister) => lister.is_drained(),
            Role::Answers(server) => server.is_drained(),
            Role::Unknown | Role::Asks(_) | Role::Read | Role::Bench(_) => true,
        }
    }

    /// Hands over what was held back to go together.
    pub(super) fn flush(&mut self, ports: &mut Ports) {
        match self {
            Role::Send(sender) => sender.flush(ports),
            Role::SendAway(outpost) => outpost.flush(ports),
            Role::Receive(receiver) => receiver.flush(ports),
            Role::ReceiveAway(_)
            | Role::Unknown
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read
            | Role::Bench(_) => {}
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Role::Send(sender) => sender.deadline(),
            Role::ReceiveAway(outpost) => outpost.deadline(),
            Role::SendAway(outpost) => outpost.deadline(),
            Role::Bench(bench) => bench.deadline(),
            Role::Asks(client) => client.deadline(),
            Role::Unknown | Role::Receive(_) | Role::List(_) | Role::Answers(_) | Role::Read => {
                None
            }
        }
    }

    /// Whether nothing happens because it was asked to go slowly.
    pub(super) fn is_paced(&self, now: Instant) -> bool {
        match self {
            Role::Send(sender) => sender.is_paced(now),
            Role::Unknown
            | Role::Receive(_)
            | Role::ReceiveAway(_)
            | Role::SendAway(_)
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read
            | Role::Bench(_) => false,
        }
    }

    /// What the disk is asked about, or the peer: a path from the source's own name on.
    pub(super) fn awaited(&self, of_disk: bool) -> Option<Bytes> {
        match self {
            Role::Send(sender) => sender.awaited(of_disk),
            Role::Receive(receiver) => receiver.awaited(of_disk),
            Role::ReceiveAway(_)
            | Role::SendAway(_)
            | Role::Unknown
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read
            | Role::Bench(_) => None,
        }
    }

    /// When a peer that has not come to an end never will.
    pub(super) fn gives_up_at(&self) -> Option<Instant> {
        match self {
            Role::Bench(bench) => bench.gives_up_at(),
            Role::Unknown
            | Role::Send(_)
            | Role::Receive(_)
            | Role::ReceiveAway(_)
            | Role::SendAway(_)
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read => None,
        }
    }

    /// What a client asks in a session of queries.
    pub(super) fn ask(&mut self, now: Instant, ports: &mut Ports, ask: QueryRequest) {
        if let Role::Asks(client) = self {
            client.ask(now, ports, ask);
        }
    }

    /// The peer is at work, as it says.
    pub(super) fn on_sign(&mut self, now: Instant, sign: &Message) {
        if let Role::Asks(client) = self {
            client.on_sign(now, sign);
        }
    }

    /// Time passed.
    pub(super) fn on_tick(&mut self, now: Instant, ports: &mut Ports) {
        if let Role::Asks(client) = self {
            client.on_tick(now, ports);
        }
    }

    /// Whether nothing is asked for, and so nothing is to be got on with.
    pub(super) fn rests(&self) -> bool {
        match self {
            Role::Asks(client) => client.rests(),
            Role::Answers(server) => server.rests(),
            Role::Unknown
            | Role::Send(_)
            | Role::SendAway(_)
            | Role::Receive(_)
            | Role::ReceiveAway(_)
            | Role::List(_)
            | Role::Read
            | Role::Bench(_) => false,
        }
    }

    pub(super) fn takes_data(&self) -> bool {
        match self {
            Role::Receive(receiver) => receiver.takes_data(),
            Role::ReceiveAway(outpost) => outpost.takes_data(),
            Role::Unknown
            | Role::Send(_)
            | Role::SendAway(_)
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read
            | Role::Bench(_) => true,
        }
    }

    /// Whether what is received lands inside the target, as far as it is known where.
    pub(super) fn lands_inside(&self) -> bool {
        match self {
            Role::Receive(receiver) => {
                matches!(receiver.target(), Target::Ready { rename: None })
            }
            Role::Unknown
            | Role::Send(_)
            | Role::ReceiveAway(_)
            | Role::SendAway(_)
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read
            | Role::Bench(_) => false,
        }
    }

    /// How much of ours may wait while the peer's messages are read, once both agreed.
    pub(super) fn answers_max(&self) -> Option<usize> {
        match self {
            // Each part and each row of theirs is acknowledged.
            Role::Receive(_) | Role::Read | Role::Asks(_) => Some(VERDICTS_BYTES_MAX),
            Role::Answers(_) => Some(ANSWERS_BYTES_MAX),
            Role::Bench(bench) if bench.answers() => Some(0),
            Role::Unknown
            | Role::Send(_)
            | Role::ReceiveAway(_)
            | Role::SendAway(_)
            | Role::List(_)
            | Role::Bench(_) => None,
        }
    }

    pub(super) fn totals(&self) -> Totals {
        match self {
            Role::Send(sender) => sender.totals(),
            Role::Receive(receiver) => receiver.totals(),
            Role::Bench(bench) => bench.totals(),
            Role::Answers(server) => server.totals(),
            Role::Unknown
            | Role::ReceiveAway(_)
            | Role::SendAway(_)
            | Role::List(_)
            | Role::Asks(_)
            | Role::Read => Totals::default(),
        }
    }

    /// Heap bytes kept because the peer said or asked for something, about.
    pub(super) fn held_bytes(&self) -> u64 {
        match self {
            Role::Send(sender) => sender.held_bytes(),
            Role::Receive(receiver) => receiver.held_bytes(),
            Role::ReceiveAway(outpost) => outpost.held_bytes(),
            // What it has its home knows of.
            Role::Asks(_)
            | Role::SendAway(_)
            | Role::Unknown
            | Role::List(_)
            | Role::Answers(_)
            | Role::Read
            | Role::Bench(_) => 0,
        }
    }

    /// Holds counters against the tables they count.
    #[cfg(test)]
    pub(super) fn check(&self) {
        match self {
            Role::Send(sender) => sender.check(),
            Role::Receive(receiver) => receiver.check(),
            Role::ReceiveAway(outpost) => outpost.check(),
            Role::SendAway(outpost) => outpost.check(),
            Role::Unknown
            | Role::List(_)
            | Role::Answers(_)
            | Role::Asks(_)
            | Role::Read
            | Role::Bench(_) => {}
        }
    }
}
