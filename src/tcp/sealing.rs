//! What leaves a connection: frames go into records, several in one buffer for one system call.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::channel::Channel;
use super::clear::CLEAR_OVERHEAD_BYTES;
use super::conn::{Farewell, TcpConn, TcpPhase};
use super::fault::alert;
use super::frame::MAX_DATA_BYTES;
use super::record::{
    HEADER_BYTES, KEY_UPDATE_MESSAGE, MAX_PLAIN_BYTES, OVERHEAD_BYTES, RecordContent,
};
use super::spare::Spares;
use super::write_streams::{Beside, MAX_UNSENT_BYTES};

/// Records of a batch, which one system call is given: all that may wait to be sealed. A bit that
/// was left over would leave by itself, as a segment of some bytes between full ones.
pub(super) const BATCH_RECORDS: usize = MAX_UNSENT_BYTES.div_ceil(MAX_DATA_BYTES);

/// What a batch takes at most.
const BATCH_BYTES: usize = BATCH_RECORDS * (MAX_PLAIN_BYTES + CLEAR_OVERHEAD_BYTES);

const _: () = assert!(OVERHEAD_BYTES <= CLEAR_OVERHEAD_BYTES);

/// A send buffer of this size costs less to make than to remember.
const SMALL_BUFFER_BYTES: usize = 4 << 10;

thread_local! {
    /// Buffers with room for [`BATCH_BYTES`].
    static SPARES: Spares = const { Spares::new() };
}

/// As [`super::inbox::forget_spares`].
pub(super) fn forget_spares() {
    SPARES.with(Spares::forget);
}

impl TcpConn {
    /// Sealed bytes for the socket; empty: nothing is to be sent but what
    /// [`TcpConn::outgoing_piped`] gives.
    pub fn outgoing(&mut self, now: Instant) -> &[u8] {
        if self.is_out() {
            self.out.clear();
            self.out_at = 0;
            if self.in_kernel.seals() {
                self.gather();
            } else if let TcpPhase::Clear(_) = self.phase {
                self.seal_in_the_clear();
            } else {
                self.seal(now);
            }
        }
        &self.out[self.out_at..]
    }

    /// The socket took so many of them.
    pub fn sent(&mut self, bytes: usize) {
        self.counters.sent_bytes += bytes as u64;
        self.kernel_sealed(bytes);
        self.out_at = (self.out_at + bytes).min(self.out.len());
        if self.out_at == self.out.len() {
            self.out_at = 0;
            let mut out = std::mem::take(&mut self.out);
            if out.capacity() >= BATCH_BYTES {
                out.clear();
                SPARES.with(|spares| spares.give(out));
            }
        }
    }

    /// What follows [`TcpConn::outgoing`], if that is not sealed or is by the kernel: so many bytes
    /// of what is in a pipe.
    pub fn outgoing_piped(&self) -> Option<(&OwnedFd, usize)> {
        let piped = self.out_piped.as_ref();
        piped.map(|piped| (&*piped.pipe, piped.bytes))
    }

    /// The socket took so many of those.
    pub fn sent_piped(&mut self, bytes: usize) {
        self.counters.sent_bytes += bytes as u64;
        self.kernel_sealed(bytes);
        if let Some(piped) = &mut self.out_piped {
            piped.bytes = piped.bytes.saturating_sub(bytes);
        }
        self.out_piped.take_if(|piped| piped.bytes == 0);
    }

    /// Whether data that is in pipes can be sent, [`TcpConn::send_piped`]: from now on.
    pub fn takes_pipes(&self) -> bool {
        self.in_kernel.seals() || matches!(self.phase, TcpPhase::Clear(_))
    }

    /// All that was made ready has left.
    pub(super) fn is_out(&self) -> bool {
        self.out_at == self.out.len() && self.out_piped.is_none()
    }

    /// Seals a batch of records.
    fn seal(&mut self, now: Instant) {
        if !self.knows_peer() || self.farewell == Farewell::Said {
            return;
        }
        self.make_room();
        for _ in 0..BATCH_RECORDS {
            if matches!(self.farewell, Farewell::Alert(_)) {
                break;
            }
            if self.is_key_due() {
                self.is_key_update_owed = false;
                self.seal_one(RecordContent::Handshake, |_, out| {
                    out.extend(KEY_UPDATE_MESSAGE)
                });
                self.renew(now, true);
            }
            let fill = |channel: &mut Channel, out: &mut Vec<u8>| {
                let aside = channel.fill(out, MAX_PLAIN_BYTES, Beside::Pipes);
                debug_assert!(aside.is_none(), "a pipe on a connection that seals");
            };
            if !self.seal_one(RecordContent::Data, fill) {
                break;
            }
        }
        if let Some(alert) = self.last_word() {
            self.seal_one(RecordContent::Alert, |_, out| out.extend(alert));
        }
    }

    /// Where much is to be sent, has a large buffer for it; nothing lies in the one before.
    pub(super) fn make_room(&mut self) {
        if self.channel.writes.unsent_bytes() > SMALL_BUFFER_BYTES {
            let spare = SPARES.with(Spares::take);
            self.out = spare.unwrap_or_else(|| Vec::with_capacity(BATCH_BYTES));
        }
    }

    /// Whether the next thing to be said is that the next key begins.
    pub(super) fn is_key_due(&self) -> bool {
        let is_due = match &self.phase {
            TcpPhase::Established(keys) => keys.seal.records() >= self.limits.key_records,
            TcpPhase::Handshaking { .. }
            | TcpPhase::Proving { .. }
            | TcpPhase::Clear(_)
            | TcpPhase::Failed => false,
        };
        self.is_key_update_owed || (is_due && self.channel.has_something())
    }

    /// The alert behind which nothing follows, when all before it is sealed.
    pub(super) fn last_word(&mut self) -> Option<[u8; 2]> {
        let last = match self.farewell {
            Farewell::No | Farewell::Said => return None,
            Farewell::AfterClose if !self.channel.is_closed() => return None,
            Farewell::AfterClose => alert::CLOSE_NOTIFY,
            Farewell::Alert(alert) => alert,
        };
        self.farewell = Farewell::Said;
        // Levels mean nothing any more, but those of RFC 8446 §6 are looked at by some.
        let level = if last == alert::CLOSE_NOTIFY { 1 } else { 2 };
        Some([level, last])
    }

    /// Seals what is written to be said, if anything.
    fn seal_one(
        &mut self,
        content: RecordContent,
        write: impl FnOnce(&mut Channel, &mut Vec<u8>),
    ) -> bool {
        let TcpPhase::Established(keys) = &mut self.phase else {
            return false;
        };
        let at = self.out.len();
        self.out.extend([0; HEADER_BYTES]);
        write(&mut self.channel, &mut self.out);
        if self.out.len() == at + HEADER_BYTES {
            self.out.truncate(at);
            return false;
        }
        keys.seal.seal(content, &mut self.out, at);
        self.counters.records_sealed += 1;
        true
    }

    pub(super) fn has_outgoing(&self) -> bool {
        let has_unsealed = match self.farewell {
            Farewell::No => self.is_key_update_owed || self.channel.has_something(),
            Farewell::AfterClose | Farewell::Alert(_) => true,
            Farewell::Said => false,
        };
        !self.is_out() || self.in_kernel.owes_key() || (self.knows_peer() && has_unsealed)
    }
}
