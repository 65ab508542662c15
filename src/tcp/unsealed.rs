//! A connection that does without TLS: its handshake, its records, and what ends it.

use std::time::Instant;

use super::clear::{ClearHandshake, MAGIC, Written};
use super::conn::{Farewell, TcpConn, TcpPhase};
use super::fault::Fault;
use super::hands::InKernel;
use super::sealing::BATCH_RECORDS;
use crate::carrier::{ALTERED, CloseReason};

impl TcpConn {
    /// A server's first byte tells which of the two a client means.
    pub(super) fn leave_tls(&mut self) {
        let TcpPhase::Handshaking {
            deadline,
            shown_bytes: 0,
            bytes: 0,
            ..
        } = self.phase
        else {
            return;
        };
        let is_clear = self.inbox.front(1) == Some(&MAGIC[..1]);
        if let Some(passes) = self.clear.take_if(|_| is_clear) {
            self.in_kernel = InKernel::new(false);
            self.phase = TcpPhase::Proving {
                handshake: ClearHandshake::Awaits(passes),
                deadline,
            };
        }
    }

    /// Goes on with a handshake as far as what is here allows.
    pub(super) fn prove(&mut self, now: Instant) {
        while self.end.is_none()
            && let TcpPhase::Proving { handshake, .. } = &mut self.phase
        {
            let bytes = handshake.missing_bytes();
            let Some(said) = self.inbox.front(bytes) else {
                return;
            };
            let proven = handshake.go_on(said, &mut self.out);
            self.inbox.take(bytes);
            match proven {
                Ok(None) => {}
                Ok(Some(keys)) => {
                    (self.peer, self.shown) = (Some(keys.peer), Some(keys.peer));
                    self.phase = TcpPhase::Clear(Box::new(keys));
                    self.inbox.is_clear = true;
                    self.heard_at = now;
                }
                Err(fault) => self.fail(now, fault),
            }
        }
    }

    /// Looks at a record and acts on what it says; whether there was one.
    pub(super) fn next_clear_record(&mut self, now: Instant) -> Result<bool, Fault> {
        let TcpPhase::Clear(keys) = &mut self.phase else {
            return Ok(false);
        };
        if keys.missing_bulk_bytes > 0 {
            let bulk = self.inbox.take_up_to(keys.missing_bulk_bytes);
            keys.missing_bulk_bytes -= bulk.len();
            if bulk.is_empty() {
                return Ok(false);
            }
            self.heard_at = now;
            self.channel.take(self.inbox.bytes(), bulk)?;
            return Ok(true);
        }
        let Some(record) = self.inbox.record(0)? else {
            return Ok(false);
        };
        self.inbox.take(record.len());
        let record = keys.open.open(self.inbox.bytes(), record)?;
        self.counters.records_opened += 1;
        self.heard_at = now;
        if record.said.is_empty() {
            return Err(Fault::Frames("a record that says nothing"));
        }
        let buffer = self.inbox.bytes();
        if let Some(close) = self.channel.take(buffer, record.said)? {
            self.closed_by_peer(now, close);
        } else if record.bulk_bytes > 0 {
            if self.channel.missing_bulk_bytes() != record.bulk_bytes {
                return Err(Fault::Frames(
                    "bulk that is no data of a one-way stream's frame",
                ));
            }
            keys.missing_bulk_bytes = record.bulk_bytes;
        }
        Ok(true)
    }

    /// Writes a batch of records.
    pub(super) fn seal_in_the_clear(&mut self) {
        match self.farewell {
            Farewell::Said => return,
            // The peer has closed, and there are no alerts here.
            Farewell::Alert(_) => {
                self.farewell = Farewell::Said;
                return;
            }
            Farewell::No | Farewell::AfterClose => {}
        }
        self.make_room();
        for _ in 0..BATCH_RECORDS {
            let TcpPhase::Clear(keys) = &mut self.phase else {
                return;
            };
            match keys.seal.seal(&mut self.channel, &mut self.out) {
                Written::Nothing => break,
                Written::Record => self.counters.records_sealed += 1,
                Written::Head(piped) => {
                    self.counters.records_sealed += 1;
                    self.out_piped = Some(piped);
                    return;
                }
            }
        }
        if self.farewell == Farewell::AfterClose && self.channel.is_closed() {
            self.farewell = Farewell::Said;
        }
    }

    /// Somebody on the way changed what came, or is not who was awaited.
    pub(super) fn give_wire_up(&mut self, now: Instant, what: &str) {
        if self.knows_peer() {
            return self.close(now, ALTERED, what.as_bytes());
        }
        self.decide(now, CloseReason::Transport(what.to_owned()), false);
    }
}
