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
//! must not come from where it was meanwhile. Everything else goes on as before until then.

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
    /// Where the peer is known to be.
    at: SocketAddr,
    state: Presence,
}

enum Presence {
    /// Next: Following (in a handshake), Asking.
    There,
    /// The handshake goes on with another address than it began at. Next: Following, There (back
    /// where it began), Asking.
    Following(Elsewhere),
    /// Whether the peer is at another address is being found out. Next: There, Asking.
    Asking {
        elsewhere: Elsewhere,
        question: Question,
    },
}

/// An address that authentic packets came from.
#[derive(Clone, Copy)]
struct Elsewhere {
    at: SocketAddr,
    /// What may be sent there still.
    allowed_bytes: usize,
}

struct Question {
    secret: Secret,
    /// None: it waits to be sent.
    sent_at: Option<Instant>,
    /// More came from there since it was sent.
    is_due_again: bool,
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

    /// Where the peer is known to be.
    pub fn known(&self) -> SocketAddr {
        self.at
    }

    /// Where packets go, and how many bytes of them may.
    pub fn destination(&self) -> (SocketAddr, usize) {
        match &self.state {
            Presence::Following(elsewhere) => (elsewhere.at, elsewhere.allowed_bytes),
            Presence::There | Presence::Asking { .. } => (self.at, usize::MAX),
        }
    }

    /// Whether a packet from there says something new, if it is authentic.
    pub fn is_news(&self, from: SocketAddr) -> bool {
        from != self.at || !matches!(self.state, Presence::There)
    }

    /// An authentic packet, seen for the first time, came from there. `is_proven`: the handshake is
    /// over, so that questions can be asked.
    pub fn heard(&mut self, from: SocketAddr, bytes: usize, is_proven: bool) {
        let gained_bytes = bytes * AMPLIFICATION;
        if from == self.at {
            // What is behind a NAT that forgot it comes from nowhere else any more.
            self.state = Presence::There;
            return;
        }
        match &mut self.state {
            Presence::Following(elsewhere) if elsewhere.at == from => {
                elsewhere.allowed_bytes += gained_bytes;
            }
            Presence::Asking {
                elsewhere,
                question,
            } if elsewhere.at == from => {
                elsewhere.allowed_bytes += gained_bytes;
                question.is_due_again = true;
            }
            Presence::There | Presence::Following(_) | Presence::Asking { .. } => {
                self.state = Presence::Following(Elsewhere {
                    at: from,
                    allowed_bytes: gained_bytes,
                });
            }
        }
        if let (true, Presence::Following(elsewhere)) = (is_proven, &self.state) {
            self.state = Presence::Asking {
                elsewhere: *elsewhere,
                question: Question {
                    secret: rand::random(),
                    sent_at: None,
                    is_due_again: false,
                },
            };
        }
    }

    /// The question to be sent now, if one is.
    pub fn ask(&self, now: Instant) -> Option<Ask> {
        let Presence::Asking {
            elsewhere,
            question,
        } = &self.state
        else {
            return None;
        };
        let is_due = question
            .sent_at
            .is_none_or(|at| question.is_due_again && at + ASK_AGAIN <= now);
        is_due.then_some(Ask {
            to: elsewhere.at,
            secret: question.secret,
            most_bytes: elsewhere.allowed_bytes.min(MIN_UDP_PAYLOAD_BYTES),
        })
    }

    /// The question has left, in a packet of so many bytes.
    pub fn asked(&mut self, now: Instant, bytes: usize) {
        if let Presence::Asking {
            elsewhere,
            question,
        } = &mut self.state
        {
            elsewhere.allowed_bytes = elsewhere.allowed_bytes.saturating_sub(bytes);
            question.sent_at = Some(now);
            question.is_due_again = false;
        }
    }

    /// A packet of so many bytes has left for [`Whereabouts::destination`].
    pub fn sent(&mut self, bytes: usize) {
        if let Presence::Following(elsewhere) = &mut self.state {
            elsewhere.allowed_bytes = elsewhere.allowed_bytes.saturating_sub(bytes);
        }
    }

    /// The peer answered from there. True: it has moved.
    pub fn answered(&mut self, from: SocketAddr, secret: Secret) -> bool {
        let proves = |elsewhere: &Elsewhere, question: &Question| {
            elsewhere.at == from && question.sent_at.is_some() && question.secret == secret
        };
        match &self.state {
            Presence::Asking {
                elsewhere,
                question,
            } if proves(elsewhere, question) => {
                *self = Whereabouts::new(from);
                true
            }
            Presence::There | Presence::Following(_) | Presence::Asking { .. } => false,
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
        it.asked(now, ask.most_bytes.min(60));
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
        it.sent(1_200);
        assert_eq!(it.destination(), (addr(2), 2_400));
        it.heard(addr(2), 200, true);
        assert_eq!(it.destination(), (addr(1), usize::MAX));
        let ask = it.ask(now).expect("a question");
        it.asked(now, 100);
        assert!(it.answered(addr(2), ask.secret));
        assert_eq!(it.known(), addr(2));
    }
}
