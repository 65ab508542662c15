//! Where a connection's packets go: to the peer's address, and to a new one only once the peer has
//! proven to be there.
//!
//! A client's address changes under way: a NAT forgets it and makes up another, or its host moves
//! to another network. quiche would follow to a second path, whose loss detection knows nothing of
//! what was in flight on the first: it would never be sent again. So quiche is told of one path for
//! life, and what follows the peer is here, on the server's side (clients dial, and servers stay).
//!
//! Anybody who can read along can send a copy of a packet from an address of his choice, and a peer
//! can write any sender into its packets. So a packet from elsewhere moves nothing by itself: it
//! *asks*. A secret goes there and nowhere else, in a DATAGRAM frame (RFC 9221), within three times
//! what came from there (RFC 9000 §8.1); the answer has to come from there, and the peer's packets
//! must not come from where it was meanwhile. Everything else goes on as before until then, but for
//! a handshake's, which has proven no address yet.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::note::Secret;
use crate::config::MIN_UDP_PAYLOAD_BYTES;

/// RFC 9000 §8.1: so many times what an unproven address sent may be sent there.
const AMPLIFICATION: usize = 3;

/// How soon a question may be repeated while packets come from where the peer may be: the question
/// or the answer was lost. On long paths the first answer is on its way still, and welcome.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Of a server's connection; a client's is always [`Presence::There`].
pub(super) struct Whereabouts {
    /// Where the peer was when it was last known to be anywhere; at first, where it dialled from.
    at: SocketAddr,
    state: Presence,
}

enum Presence {
    /// Next: Following (in a handshake), Asking.
    There,
    /// The handshake was carried on from another address than it began at: whoever dials can write
    /// any sender into its first packet, so nobody has proven to be at either. Packets go where the
    /// last came from, as many as that allows. Next: There, with an answer.
    Following(Elsewhere),
    /// Whether the peer is at another address is being found out. Next: There.
    Asking(Elsewhere),
}

/// An address that authentic packets came from, and what it is asked.
struct Elsewhere {
    at: SocketAddr,
    /// What may be sent there still.
    allowed_bytes: usize,
    secret: Secret,
    /// None: the question waits to be sent.
    asked_at: Option<Instant>,
    /// More came from there since it was sent.
    is_due_again: bool,
}

impl Elsewhere {
    fn new(at: SocketAddr, allowed_bytes: usize) -> Elsewhere {
        Elsewhere {
            at,
            allowed_bytes,
            secret: rand::random(),
            asked_at: None,
            is_due_again: false,
        }
    }
}

/// A question that is to be sent: alone in its packet, and nowhere else.
pub(super) struct Ask {
    pub to: SocketAddr,
    pub secret: Secret,
    pub most_bytes: usize,
}

impl Whereabouts {
    pub fn new(peer: SocketAddr) -> Whereabouts {
        Whereabouts {
            at: peer,
            state: Presence::There,
        }
    }

    /// Where the peer was when it was last known to be anywhere.
    pub fn known(&self) -> SocketAddr {
        self.at
    }

    /// Where packets go, and how many bytes of them may.
    pub fn destination(&self) -> (SocketAddr, usize) {
        match &self.state {
            Presence::Following(elsewhere) => (elsewhere.at, elsewhere.allowed_bytes),
            Presence::There | Presence::Asking(_) => (self.at, usize::MAX),
        }
    }

    /// Whether a packet from there says something new, if it is authentic.
    pub fn is_news(&self, from: SocketAddr) -> bool {
        from != self.at || !matches!(self.state, Presence::There)
    }

    /// An authentic packet, seen for the first time, came from there. `is_handshake_over`: of a
    /// trusted peer, which can be asked.
    pub fn heard(&mut self, from: SocketAddr, bytes: usize, is_handshake_over: bool) {
        let gained_bytes = bytes * AMPLIFICATION;
        match &mut self.state {
            Presence::Following(elsewhere) | Presence::Asking(elsewhere)
                if elsewhere.at == from =>
            {
                elsewhere.allowed_bytes += gained_bytes;
                elsewhere.is_due_again = true;
            }
            Presence::Following(elsewhere) => *elsewhere = Elsewhere::new(from, gained_bytes),
            // What is behind a NAT that forgot it comes from nowhere else any more.
            Presence::There | Presence::Asking(_) if from == self.at => {
                self.state = Presence::There;
            }
            Presence::There | Presence::Asking(_) => {
                let elsewhere = Elsewhere::new(from, gained_bytes);
                self.state = match is_handshake_over {
                    true => Presence::Asking(elsewhere),
                    false => Presence::Following(elsewhere),
                };
            }
        }
    }

    /// The question to be sent now, if one is.
    pub fn ask(&self, now: Instant) -> Option<Ask> {
        let elsewhere = self.elsewhere()?;
        let is_due = elsewhere
            .asked_at
            .is_none_or(|at| elsewhere.is_due_again && at + ASK_AGAIN <= now);
        is_due.then_some(Ask {
            to: elsewhere.at,
            secret: elsewhere.secret,
            most_bytes: elsewhere.allowed_bytes.min(MIN_UDP_PAYLOAD_BYTES),
        })
    }

    /// The question leaves.
    pub fn asked(&mut self, now: Instant) {
        if let Presence::Following(elsewhere) | Presence::Asking(elsewhere) = &mut self.state {
            elsewhere.asked_at = Some(now);
            elsewhere.is_due_again = false;
        }
    }

    /// A packet of so many bytes leaves for there.
    pub fn sent(&mut self, to: SocketAddr, bytes: usize) {
        if let Presence::Following(elsewhere) | Presence::Asking(elsewhere) = &mut self.state
            && elsewhere.at == to
        {
            elsewhere.allowed_bytes = elsewhere.allowed_bytes.saturating_sub(bytes);
        }
    }

    /// The peer answered from there. True: that is where it is.
    pub fn answered(&mut self, from: SocketAddr, secret: Secret) -> bool {
        let is_proven = self.elsewhere().is_some_and(|elsewhere| {
            elsewhere.at == from && elsewhere.asked_at.is_some() && elsewhere.secret == secret
        });
        if is_proven {
            *self = Whereabouts::new(from);
        }
        is_proven
    }

    fn elsewhere(&self) -> Option<&Elsewhere> {
        match &self.state {
            Presence::There => None,
            Presence::Following(elsewhere) | Presence::Asking(elsewhere) => Some(elsewhere),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1111))
    }

    fn start() -> Instant {
        crate::quic::tests::now()
    }

    fn asked(bytes: usize) -> (Whereabouts, Ask, Instant) {
        let (mut it, now) = (Whereabouts::new(addr(1)), start());
        it.heard(addr(2), bytes, true);
        let ask = it.ask(now).expect("a question");
        it.sent(ask.to, ask.most_bytes.min(60));
        it.asked(now);
        (it, ask, now)
    }

    #[test]
    fn only_the_secret_from_there_moves_it() {
        let (mut it, ask, _) = asked(1_000);
        assert_eq!((ask.to, ask.most_bytes), (addr(2), MIN_UDP_PAYLOAD_BYTES));
        assert!(!it.answered(addr(2), [0; 8]) && !it.answered(addr(1), ask.secret));
        assert!(!it.answered(addr(3), ask.secret));
        assert_eq!(it.destination(), (addr(1), usize::MAX));
        assert!(it.answered(addr(2), ask.secret));
        assert_eq!(it.destination(), (addr(2), usize::MAX));
        assert!(!it.answered(addr(2), ask.secret), "once");
    }

    #[test]
    fn a_peer_that_is_still_where_it_was_is_left_there() {
        let (mut it, ask, now) = asked(40);
        it.heard(addr(1), 40, true);
        assert!(!it.answered(addr(2), ask.secret));
        assert!(it.ask(now).is_none() && !it.is_news(addr(1)));
    }

    #[test]
    fn no_more_than_thrice_goes_to_an_address_without_proof() {
        let (mut it, ask, now) = asked(30);
        assert_eq!(ask.most_bytes, 90);
        it.heard(addr(2), 30, true);
        assert!(it.ask(now).is_none(), "too soon");
        let again = it.ask(now + ASK_AGAIN).expect("again");
        assert_eq!((again.secret, again.most_bytes), (ask.secret, 120));
        it.heard(addr(3), 50, true);
        let third = it.ask(now).expect("the latest is asked");
        assert_eq!((third.to, third.most_bytes), (addr(3), 150));
        assert_ne!(third.secret, ask.secret);
    }

    #[test]
    fn a_handshake_is_followed_and_then_asked() {
        let (mut it, now) = (Whereabouts::new(addr(1)), start());
        it.heard(addr(2), 1_200, false);
        assert_eq!(it.destination(), (addr(2), 3_600));
        it.sent(addr(2), 1_200);
        assert_eq!(it.destination(), (addr(2), 2_400));
        it.heard(addr(2), 200, true);
        let ask = it.ask(now).expect("a question");
        it.sent(ask.to, 100);
        it.asked(now);
        assert_eq!(it.destination(), (addr(2), 2_900), "no proof yet");
        assert!(it.answered(addr(2), ask.secret));
        assert_eq!(it.destination(), (addr(2), usize::MAX));
        assert_eq!(it.known(), addr(2));
    }

    #[test]
    fn a_first_packet_in_the_name_of_another_draws_no_more_than_its_own() {
        let mut it = Whereabouts::new(addr(1));
        it.heard(addr(2), 1_200, false);
        // Whoever read the answer ends the handshake in the same name as it began.
        it.heard(addr(1), 300, true);
        assert_eq!(it.destination(), (addr(1), 900));
        it.heard(addr(2), 100, true);
        assert_eq!(it.destination(), (addr(2), 300));
    }
}
