//! What arrives at a connection: the handshake, then records, and what is said in them.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::channel::PeerClose;
use super::conn::{Farewell, TcpConn, TcpEnd, TcpPhase};
use super::fault::{Fault, alert};
use super::handshake::by_peer;
use super::record::{HEADER_BYTES, KEY_UPDATE, RecordContent};
use crate::carrier::{CloseReason, REPLACED};

/// Buffers are given back when nothing came for so long.
const IDLE_BUFFERS: Duration = Duration::from_secs(1);

/// Most bytes of the peer's records in a handshake: one takes 2 KiB.
const MAX_HANDSHAKE_BYTES: usize = 32 << 10;

/// KeyUpdates, tickets and records that say nothing, beyond those that say something: an honest
/// peer has a ticket or two, and a KeyUpdate in 2^24 records. To make a new key costs more than to
/// open a small record.
const MAX_RECORDS_WITHOUT_DATA: u32 = 32;

/// A message behind the handshake whose rest is in records to come; a ticket has a few hundred.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

const NEW_SESSION_TICKET: u8 = 4;

impl TcpConn {
    /// Where bytes from the socket are to be written. Unread data that was left there is moved, so
    /// streams are best read before.
    pub fn receive_buffer(&mut self) -> &mut [u8] {
        if self.channel.reads.needs_buffer() {
            self.channel.reads.vacate(self.inbox.bytes());
        }
        let most = match self.in_kernel.is_to_open() {
            // The kernel begins with a whole record.
            true => self.inbox.missing_bytes(),
            false => usize::MAX,
        };
        let is_known = self.knows_peer();
        let room = self.inbox.room(is_known);
        let most = most.min(room.len());
        &mut room[..most]
    }

    /// So many bytes were written to [`TcpConn::receive_buffer`].
    pub fn received(&mut self, now: Instant, bytes: usize) {
        self.arrived(now, bytes);
        self.leave_tls();
        match self.phase {
            TcpPhase::Handshaking { .. } => self.shake(now),
            TcpPhase::Proving { .. } => self.prove(now),
            TcpPhase::Established(_) | TcpPhase::Clear(_) | TcpPhase::Failed => {}
        }
        while self.end.is_none() && self.close_behind.is_none() {
            match self.next_record(now) {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => self.fail(now, fault),
            }
        }
        self.clear_at_end();
    }

    pub(super) fn arrived(&mut self, now: Instant, bytes: usize) {
        self.counters.received_bytes += bytes as u64;
        self.inbox.filled(bytes);
        self.release_at = Some(now + IDLE_BUFFERS);
    }

    pub(super) fn clear_at_end(&mut self) {
        if (self.end.is_some() || self.close_behind.is_some()) && !self.reads_buffer() {
            self.inbox.clear();
        }
    }

    /// Whether what is unread lies in the receive buffer, and would have to be moved to receive
    /// more.
    pub fn reads_buffer(&self) -> bool {
        self.channel.reads.needs_buffer()
    }

    /// Gives rustls the records that are here, one by one, until the handshake is over.
    fn shake(&mut self, now: Instant) {
        while let TcpPhase::Handshaking {
            shown_bytes, bytes, ..
        } = &mut self.phase
            && self.end.is_none()
        {
            let announced = match self.inbox.announced(*shown_bytes) {
                Ok(announced) => announced,
                Err(fault) => return self.fail(now, fault),
            };
            if *bytes + announced > MAX_HANDSHAKE_BYTES {
                let what = "a handshake without end";
                return self.fail(now, Fault::tls(alert::UNEXPECTED_MESSAGE, what));
            }
            let Ok(Some(record)) = self.inbox.record(*shown_bytes) else {
                return;
            };
            *shown_bytes += record.len();
            *bytes += record.len();
            self.step(now);
        }
    }

    /// One step of the handshake, with what rustls is shown.
    pub(super) fn step(&mut self, now: Instant) {
        let TcpPhase::Handshaking {
            handshake,
            shown_bytes,
            ..
        } = &mut self.phase
        else {
            return;
        };
        let incoming = self.inbox.next_bytes(*shown_bytes);
        let stepped = handshake.go_on(incoming, &mut self.out);
        self.shown = handshake.shown();
        match stepped {
            Ok((taken, is_over)) => {
                self.inbox.take(taken);
                *shown_bytes -= taken;
                if is_over {
                    self.establish(now);
                }
            }
            Err(reason) => {
                self.phase = TcpPhase::Failed;
                self.decide(now, reason, true);
            }
        }
    }

    fn establish(&mut self, now: Instant) {
        let TcpPhase::Handshaking { handshake, .. } =
            std::mem::replace(&mut self.phase, TcpPhase::Failed)
        else {
            return;
        };
        match handshake.finish() {
            Ok(keys) => {
                self.phase = TcpPhase::Established(Box::new(keys));
                self.peer = self.shown;
                self.heard_at = now;
            }
            Err(reason) => self.decide(now, reason, true),
        }
    }

    /// Opens a record and acts on what it says; whether there was one.
    fn next_record(&mut self, now: Instant) -> Result<bool, Fault> {
        let keys = match &mut self.phase {
            TcpPhase::Established(keys) => keys,
            TcpPhase::Clear(_) => return self.next_clear_record(now),
            TcpPhase::Handshaking { .. } | TcpPhase::Proving { .. } | TcpPhase::Failed => {
                return Ok(false);
            }
        };
        let Some(record) = self.inbox.record(0)? else {
            return Ok(false);
        };
        self.inbox.take(record.len());
        let (content, bytes) = keys.open.open(self.inbox.bytes_mut(record.clone()))?;
        let said = record.start + HEADER_BYTES..record.start + HEADER_BYTES + bytes;
        self.take_in(now, content, said)?;
        Ok(true)
    }

    /// Acts on what records of one type say.
    pub(super) fn take_in(
        &mut self,
        now: Instant,
        content: RecordContent,
        said: Range<usize>,
    ) -> Result<(), Fault> {
        self.counters.records_opened += 1;
        self.heard_at = now;
        match content {
            _ if !self.message.is_empty() && content != RecordContent::Handshake => {
                let what = "half a message, and then another";
                return Err(Fault::tls(alert::UNEXPECTED_MESSAGE, what));
            }
            RecordContent::Data if said.is_empty() => self.records_without_data += 1,
            RecordContent::Data => {
                self.records_without_data = self.records_without_data.saturating_sub(1);
                if let Some(close) = self.channel.take(self.inbox.bytes(), said)? {
                    self.closed_by_peer(now, close);
                }
            }
            RecordContent::Handshake => {
                self.records_without_data += 1;
                self.message.extend_from_slice(&self.inbox.bytes()[said]);
                self.take_messages(now)?;
            }
            RecordContent::Alert => {
                let said = self.inbox.bytes()[said].try_into().ok();
                self.alerted(now, said)?;
            }
        }
        if self.records_without_data > MAX_RECORDS_WITHOUT_DATA {
            let what = "more and more records that say nothing";
            return Err(Fault::tls(alert::UNEXPECTED_MESSAGE, what));
        }
        Ok(())
    }

    /// Messages behind the handshake.
    fn take_messages(&mut self, now: Instant) -> Result<(), Fault> {
        if self.message.is_empty() {
            let what = "a message of no bytes";
            return Err(Fault::tls(alert::UNEXPECTED_MESSAGE, what));
        }
        while let &[kind, high, middle, low, ..] = &self.message[..] {
            let bytes = 4 + u32::from_be_bytes([0, high, middle, low]) as usize;
            if bytes > MAX_MESSAGE_BYTES {
                return Err(Fault::tls(alert::UNEXPECTED_MESSAGE, "a message too long"));
            }
            if self.message.len() < bytes {
                return Ok(());
            }
            match kind {
                // We resume nothing.
                NEW_SESSION_TICKET if !self.is_server => {}
                // What is behind it is sealed with the next key, so nothing is in this record.
                KEY_UPDATE if bytes == 5 && self.message.len() == 5 && self.message[4] <= 1 => {
                    self.is_key_update_owed |= self.message[4] == 1;
                    self.renew(now, false);
                }
                _ => {
                    let what = "a message that has no place here";
                    return Err(Fault::tls(alert::UNEXPECTED_MESSAGE, what));
                }
            }
            self.message.drain(..bytes);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    /// The next key of one direction.
    pub(super) fn renew(&mut self, now: Instant, is_ours: bool) {
        let TcpPhase::Established(keys) = &mut self.phase else {
            return;
        };
        let renewed = if is_ours {
            keys.renew_seal()
        } else {
            keys.renew_open()
        };
        let counters = &mut self.counters;
        counters.keys_renewed += 1;
        match is_ours {
            true => counters.under_old_keys_bytes[0] = counters.sent_bytes,
            false => counters.under_old_keys_bytes[1] = counters.received_bytes,
        }
        self.in_kernel.renewed(is_ours);
        if let Err(reason) = renewed {
            self.farewell = Farewell::Alert(alert::INTERNAL_ERROR);
            self.decide(now, reason, true);
        }
    }

    fn alerted(&mut self, now: Instant, said: Option<[u8; 2]>) -> Result<(), Fault> {
        match said {
            None => return Err(Fault::tls(alert::DECODE_ERROR, "half an alert")),
            Some([_, alert::CLOSE_NOTIFY | alert::USER_CANCELED]) => self.ended(now),
            Some([_, said]) => {
                // Nobody would listen.
                self.farewell = Farewell::Said;
                self.decide(now, by_peer(said), false);
            }
        }
        Ok(())
    }

    pub(super) fn closed_by_peer(&mut self, now: Instant, close: PeerClose) {
        let PeerClose { code, reason } = close;
        let reason = String::from_utf8_lossy(&reason).into_owned();
        self.farewell = Farewell::Alert(alert::CLOSE_NOTIFY);
        let end = TcpEnd {
            reason: CloseReason::PeerApp { code, reason },
            until: now + self.limits.linger,
            awaits_peer: false,
        };
        if code == REPLACED {
            self.close_behind = Some(end);
            self.tell_close_behind();
        } else {
            self.end = Some(end);
        }
    }
}
