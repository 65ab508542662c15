//! What comes of a handshake for the handles of its connection, and for the next connection.

use std::sync::Arc;
use std::time::Instant;

use super::running::StreamsApp;
use super::tickets::{Ticket, Tickets};
use crate::quic::Conn;

impl StreamsApp {
    /// The next ticket of the peer is kept there.
    pub(crate) fn keep_ticket(&mut self, tickets: (Arc<Tickets>, String)) {
        self.keeps_ticket = Some(tickets);
    }

    /// What came of the handshake.
    pub(super) fn note_handshake(&mut self, conn: &Conn, now: Instant) {
        if self.attached.took_early().is_none()
            && let Some(took) = conn.took_early()
        {
            self.attached.set_took_early(took);
        }
        if let Some(bytes) = conn.session_ticket()
            && let Some((tickets, to)) = self.keeps_ticket.take()
        {
            let ticket = Ticket {
                bytes: bytes.to_vec(),
                peer: self.attached.facts.peer,
                address: self.attached.facts.address,
                kept_at: now,
            };
            tickets.keep(&to, ticket);
        }
    }
}
