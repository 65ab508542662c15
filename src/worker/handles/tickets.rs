//! Tickets: what a connection is resumed with, and data sent before its handshake is complete. Each
//! is used once (RFC 8446, C.4).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::ids::Fingerprint;

/// Tickets of an engine, of 2 kB each; then the oldest goes.
const TICKETS_MAX: usize = 256;

/// A ticket that is larger is not kept: its size is the peer's choice, and so many of them are 2
/// MiB.
const TICKET_BYTES_MAX: usize = 8 << 10;

/// A ticket is kept for so long: who finds one, and the key in it, reads what was sent early with
/// it.
const TICKET_LASTS: Duration = Duration::from_secs(3600);

/// What a peer gave out, and who and where that was.
pub struct Ticket {
    pub(crate) bytes: Vec<u8>,
    pub(crate) peer: Fingerprint,
    pub(crate) address: SocketAddr,
    pub(crate) kept_at: Instant,
}

impl Ticket {
    fn is_fresh(&self, now: Instant) -> bool {
        now < self.kept_at + TICKET_LASTS
    }
}

/// The tickets of an engine, by what was connected to. Identity and protocols are the engine's.
#[derive(Default)]
pub struct Tickets(Mutex<HashMap<String, Ticket>>);

impl Tickets {
    pub(super) fn keep(&self, to: &str, ticket: Ticket) {
        if ticket.bytes.len() > TICKET_BYTES_MAX {
            return;
        }
        let mut tickets = self.tickets();
        tickets.retain(|_, other| other.is_fresh(ticket.kept_at));
        if tickets.len() >= TICKETS_MAX && !tickets.contains_key(to) {
            let oldest = tickets.iter().min_by_key(|(_, ticket)| ticket.kept_at);
            if let Some(oldest) = oldest.map(|(to, _)| to.clone()) {
                tickets.remove(&oldest);
            }
        }
        tickets.insert(to.to_owned(), ticket);
    }

    /// A ticket that is not too old, of somebody who is trusted.
    pub(crate) fn take(
        &self,
        to: &str,
        now: Instant,
        trusts: impl Fn(&Fingerprint) -> bool,
    ) -> Option<Ticket> {
        let ticket = self.tickets().remove(to)?;
        Some(ticket).filter(|ticket| ticket.is_fresh(now) && trusts(&ticket.peer))
    }

    fn tickets(&self) -> MutexGuard<'_, HashMap<String, Ticket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(kept_at: Instant) -> Ticket {
        Ticket {
            bytes: vec![1],
            peer: Fingerprint([7; 32]),
            address: SocketAddr::from(([192, 0, 2, 1], 1)),
            kept_at,
        }
    }

    #[test]
    fn a_ticket_is_used_once_while_it_is_fresh_and_its_peer_trusted() {
        let (tickets, now) = (Tickets::default(), crate::worker::now());
        let take = |at, trusts| tickets.take("a", at, |_| trusts).is_some();
        tickets.keep("a", ticket(now));
        assert!(take(now, true) && !take(now, true));
        tickets.keep("a", ticket(now));
        assert!(!take(now + TICKET_LASTS, true));
        tickets.keep("a", ticket(now));
        assert!(!take(now, false));
    }

    #[test]
    fn what_is_too_old_goes_with_the_next_and_what_is_too_large_is_not_kept() {
        let (tickets, now) = (Tickets::default(), crate::worker::now());
        tickets.keep("a", ticket(now));
        let mut large = ticket(now);
        large.bytes = vec![0; TICKET_BYTES_MAX + 1];
        tickets.keep("b", large);
        assert_eq!(tickets.tickets().len(), 1);
        tickets.keep("c", ticket(now + TICKET_LASTS));
        assert_eq!(tickets.tickets().len(), 1);
        assert!(tickets.take("c", now, |_| true).is_some());
    }

    #[test]
    fn the_oldest_goes() {
        let (tickets, now) = (Tickets::default(), crate::worker::now());
        for number in 0..=TICKETS_MAX as u64 {
            let kept_at = now + Duration::from_secs(number);
            tickets.keep(&number.to_string(), ticket(kept_at));
        }
        assert_eq!(tickets.tickets().len(), TICKETS_MAX);
        assert!(tickets.take("0", now, |_| true).is_none());
        assert!(tickets.take("1", now, |_| true).is_some());
    }
}
