//! What of a connection's records the kernel seals and opens: which keys it is to have, and when.

use std::time::Instant;

use landro_sys::aead::{BadRecord, RecordKey};

use super::conn::{Farewell, TcpConn, TcpPhase};
use super::fault::{Fault, alert};
use super::hands::Hands;
use super::record::{
    KEY_UPDATE_MESSAGE, MAX_PLAIN_BYTES, NOT_AUTHENTIC, NOT_TLS, RecordContent, TOO_LONG,
};
use super::sealing::BATCH_RECORDS;
use super::write_streams::Beside;

/// What is to be done to the socket.
pub enum KernelStep {
    /// TLS comes between it and TCP.
    Layer,
    /// The kernel seals with this from now on.
    Seal(RecordKey),
    /// The kernel opens with this from now on.
    Open(RecordKey),
}

impl TcpConn {
    /// What the socket needs before anything more is received or sent; to be asked until there is
    /// nothing, and each time [`TcpConn::kernel_answered`].
    pub fn kernel_step(&mut self, now: Instant) -> Option<KernelStep> {
        let is_out = self.is_out();
        if self.in_kernel.is_update_out && is_out {
            self.in_kernel.is_update_out = false;
            self.renew(now, true);
        }
        let TcpPhase::Established(keys) = &self.phase else {
            return None;
        };
        let state = &mut self.in_kernel;
        // A connection that ends as it begins stays as it is.
        let is_fine = self.end.is_none() && self.farewell == Farewell::No;
        let seals =
            state.seals == Hands::Due || (state.seals == Hands::Wanted && is_fine && is_out);
        let is_at_record = is_fine && self.inbox.is_empty();
        let opens = state.opens == Hands::Due || (state.opens == Hands::Wanted && is_at_record);
        match (seals, opens) {
            (false, false) => None,
            _ if !state.is_layered => Some(KernelStep::Layer),
            (true, _) => Some(KernelStep::Seal(keys.seal.for_kernel())),
            (false, true) => Some(KernelStep::Open(keys.open.for_kernel())),
        }
    }

    /// Whether the step was possible. Where the kernel is not to be had, all stays as it is. False:
    /// the connection cannot go on, for records of that direction were the kernel's already.
    pub fn kernel_answered(&mut self, step: KernelStep, took: bool) -> bool {
        let state = &mut self.in_kernel;
        match step {
            KernelStep::Layer if took => state.is_layered = true,
            KernelStep::Layer => (state.seals, state.opens) = (Hands::Ours, Hands::Ours),
            KernelStep::Seal(_) => return state.seals.answered(took),
            KernelStep::Open(_) => return state.opens.answered(took),
        }
        true
    }

    /// The type of the record that [`TcpConn::outgoing`] is to be; `None`: what goes out is sealed,
    /// or data, which any number of records may carry.
    pub fn outgoing_record(&self) -> Option<u8> {
        let is_special = self.in_kernel.seals() && self.in_kernel.content != RecordContent::Data;
        is_special.then(|| self.in_kernel.content.number())
    }

    /// Whether the kernel seals what is sent: bytes that the socket took may then wait outside of
    /// TCP.
    pub fn is_sealed_by_kernel(&self) -> bool {
        self.in_kernel.seals()
    }

    /// Whether the kernel opens what comes, which is then for [`TcpConn::received_record`].
    pub fn is_opened_by_kernel(&self) -> bool {
        matches!(self.in_kernel.opens, Hands::Kernel | Hands::Due)
    }

    /// So many bytes were written to [`TcpConn::receive_buffer`], which records of this type said.
    pub fn received_record(&mut self, now: Instant, content: u8, bytes: usize) {
        self.arrived(now, bytes);
        let said = self.inbox.take_all();
        if self.end.is_none() && self.close_behind.is_none() {
            let taken = RecordContent::of_number(content)
                .and_then(|content| self.take_in(now, content, said));
            if let Err(fault) = taken {
                self.fail(now, fault);
            }
        }
        self.clear_at_end();
    }

    /// The kernel could not open what came, and opens no more.
    pub fn not_opened(&mut self, now: Instant, bad: BadRecord) {
        let (alert, what) = match bad {
            BadRecord::NotAuthentic => (alert::BAD_RECORD_MAC, NOT_AUTHENTIC),
            BadRecord::TooLong => (alert::RECORD_OVERFLOW, TOO_LONG),
            BadRecord::NotTls => (alert::DECODE_ERROR, NOT_TLS),
            BadRecord::NoKey => (alert::UNEXPECTED_MESSAGE, "a KeyUpdate in pieces"),
        };
        if self.end.is_none() && self.close_behind.is_none() {
            self.fail(now, Fault::tls(alert, what));
        }
    }

    /// Writes what is to be said next, of one type, for the kernel to seal.
    pub(super) fn gather(&mut self) {
        if self.farewell == Farewell::Said || self.in_kernel.owes_key() {
            return;
        }
        self.in_kernel.content = RecordContent::Data;
        let is_cut_short = matches!(self.farewell, Farewell::Alert(_));
        if !is_cut_short && self.is_key_due() {
            self.is_key_update_owed = false;
            self.in_kernel.content = RecordContent::Handshake;
            self.in_kernel.is_update_out = true;
            self.out.extend(KEY_UPDATE_MESSAGE);
            return;
        }
        self.make_room();
        for _ in 0..BATCH_RECORDS {
            if is_cut_short {
                break;
            }
            let before = self.out.len();
            let (channel, out) = (&mut self.channel, &mut self.out);
            if let Some(aside) = channel.fill(out, MAX_PLAIN_BYTES, Beside::Pipes) {
                self.out_piped = channel.writes.take_aside(aside, out);
                break;
            }
            if self.out.len() == before {
                break;
            }
        }
        if self.out.is_empty()
            && let Some(alert) = self.last_word()
        {
            self.in_kernel.content = RecordContent::Alert;
            self.out.extend(alert);
        }
    }

    /// The socket took so many bytes in one call.
    pub(super) fn kernel_sealed(&mut self, bytes: usize) {
        if self.in_kernel.seals()
            && let TcpPhase::Established(keys) = &mut self.phase
        {
            let before = keys.seal.records();
            keys.seal.kernel_sealed(bytes);
            self.counters.records_sealed += keys.seal.records() - before;
        }
    }
}
