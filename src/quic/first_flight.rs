//! Data that travels before the handshake is complete (0-RTT, RFC 9001 §4.6).
//!
//! A client that resumes a session sends with its first flight. Whoever records that flight may
//! send it again, and quiche does not notice: a server that allows it hands it to a program that
//! knows. What the server does not take as early data is lost like any packet, and quiche sends it
//! again when the handshake is complete.

use std::time::Instant;

use super::conn::{Conn, ConnPhase};
use super::share::PeerIs;
use crate::carrier::{Alpn, CRYPTO_ERROR};
use crate::ids::Fingerprint;

/// BoringSSL's `ssl_early_data_accepted`.
const EARLY_DATA_ACCEPTED: u32 = 2;

/// Stream bytes that a client sends early: what each server lets each peer have, however many it
/// has (`budget::MIN_WINDOW_BYTES`), and half of it, for its window may be another one than that
/// which the ticket names. Such a server would take more for a broken promise.
pub const EARLY_BYTES_MAX: usize = 16 << 10;

/// Writes that leave early, each of which may be a packet of its own: a server looks at so many
/// packets of early data and at no more (`share::MAX_EARLY_DATAGRAMS`).
const EARLY_WRITES_MAX: u32 = 16;

/// Streams that a client opens early: each takes memory of a server that does not know it yet.
pub const EARLY_STREAMS_MAX: u64 = 8;

impl Conn {
    /// Whether data travels though the handshake is not complete.
    pub fn is_early(&self) -> bool {
        matches!(self.phase, ConnPhase::Early { .. })
    }

    /// Whether what we send now is early data. Datagrams wait meanwhile, for those that are not
    /// taken early are lost.
    pub(super) fn sends_early(&self) -> bool {
        self.is_early() && !self.is_server()
    }

    /// How well the peer is known, for its share of memory.
    pub(super) fn peer_is(&self) -> PeerIs {
        match (self.is_proven(), self.early.peer) {
            (true, _) => PeerIs::Known,
            // A client chose whom it sends early data to.
            (false, Some(_)) if !self.is_server() => PeerIs::Known,
            // After a refusal, too, so that the peer hears why.
            (false, Some(_)) => PeerIs::Early,
            (false, None) => PeerIs::Stranger,
        }
    }

    /// Whether one more stream may be opened now. A server's own count in the memory of a peer that
    /// it does not know yet.
    pub(super) fn may_open(&self) -> bool {
        if self.sends_early() {
            return self.next_bidi + self.next_uni < EARLY_STREAMS_MAX;
        }
        !self.is_early() || !self.is_full()
    }

    /// Whose session is resumed, once data travels early.
    pub fn early_peer(&self) -> Option<Fingerprint> {
        self.early.peer
    }

    /// Whether what was sent before the handshake was complete was taken as that; `None` before it
    /// is complete. What was not is sent again by itself, as any that is lost.
    pub fn took_early(&self) -> Option<bool> {
        let took = || self.quiche.early_data_reason() == EARLY_DATA_ACCEPTED;
        self.is_proven().then(took)
    }

    /// Notices that the first flight may carry data. Trust is asked before any of it is read or
    /// sent: TLS asks nobody when it resumes a session.
    pub(super) fn advance_early(&mut self, deadline: Instant) {
        if !self.early.allowed || self.is_early() || !self.quiche.is_in_early_data() {
            return;
        }
        if self.alpn() == Alpn::Landro1 {
            // A transfer begins when the handshake is complete, whatever else the same server takes
            // early.
            self.early.allowed = false;
            return;
        }
        match self.certificate_of_peer() {
            Some(peer) if (self.trust)(&peer) => {
                self.phase = ConnPhase::Early { deadline };
                self.early.peer = Some(peer);
                self.early.protocol = self.protocol().to_vec();
            }
            // Nothing of it is read. The end of the handshake says why, for before that the peer
            // cannot read what we say.
            Some(_) | None => self.early.allowed = false,
        }
    }

    /// A handshake that resumes a session of somebody who is not trusted is over.
    pub(super) fn refuse(&mut self, alert: u8) {
        self.phase = ConnPhase::Refused;
        let _ = self
            .quiche
            .act()
            .close(false, CRYPTO_ERROR + u64::from(alert), b"");
    }

    /// Whether the handshake ended with whom, and with what, data travelled early.
    pub(super) fn is_as_early(&self, peer: Fingerprint) -> bool {
        let is_same = |early| early == peer && self.early.protocol == self.protocol();
        self.early.peer.is_none_or(is_same)
    }

    /// How much of so many bytes may leave now.
    pub(super) fn bounded_early(&self, bytes: usize) -> usize {
        match self.sends_early() {
            true if self.early.writes >= EARLY_WRITES_MAX => 0,
            true => bytes.min(EARLY_BYTES_MAX - self.early.bytes),
            false => bytes,
        }
    }

    pub(super) fn count_early(&mut self, bytes: usize) {
        if self.sends_early() {
            self.early.bytes += bytes;
            self.early.writes += 1;
        }
    }
}
