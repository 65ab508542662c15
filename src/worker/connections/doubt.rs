//! Nobody listens on the peer's port any more: ICMP says so at once, and the silence that follows
//! proves it.
//!
//! Anybody who knows both addresses can send such a message, and a host that starts a daemon anew
//! sends a true one that is soon untrue. So it ends no lane by itself (RFC 9000 §14.2.1 wants proof
//! of them, too): it makes the lane ask for signs of life, and a single authentic packet proves it
//! wrong.

use std::time::{Duration, Instant};

use crate::quic::PathSnapshot;
use crate::worker::limits::STILL_QUEUED;

/// How often the peer is asked for a sign of life, and how long each time; on a long path as many
/// round trips as [`ROUND_TRIPS`]. The user learns it within a second, together with
/// [`SIGN_OF_LIFE`].
pub(super) const ROUNDS: u32 = 2;
/// In a handshake nothing can be asked before QUIC's own second try a second later, so the address
/// is dialled again instead, see
/// [`crate::worker::addresses::DIAL_FOR`].
pub(super) const HANDSHAKE_ROUNDS: u32 = 1;
const ROUND: Duration = Duration::from_millis(150);
const ROUND_TRIPS: u32 = 2;

/// A client that hears nothing for so long asks for a sign of life: one that only receives sends
/// nothing by itself, and what is not sent gets no ICMP. On a long path after as many round trips
/// as [`QUIET_ROUND_TRIPS`]: what is under way needs no asking.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_millis(250);
const QUIET_ROUND_TRIPS: u32 = 3;

/// What is thought of a peer whose port is said to be closed.
#[derive(Debug)]
pub(super) struct Doubt {
    until: Instant,
    /// What was said.
    why: String,
    rounds: u32,
    state: DoubtState,
}

#[derive(Debug)]
enum DoubtState {
    /// What was under way is let in. Next: Asked.
    Settling,
    /// The peer had sent so many packets, and was asked for more so often. Next: either verdict.
    Asked { received: u64, rounds: u32 },
}

/// What to do when a doubt is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DoubtStep {
    /// Ask for a sign of life; look again then.
    Ask,
    /// It is there after all.
    Alive,
    /// It is gone, for this reason.
    Gone(String),
}

impl Doubt {
    pub(super) fn new(now: Instant, why: String, rounds: u32) -> Doubt {
        Doubt {
            until: now + STILL_QUEUED,
            why,
            rounds,
            state: DoubtState::Settling,
        }
    }

    /// When it is due; always later than the last [`Doubt::due`].
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// `received`: authentic packets of the peer so far.
    pub(super) fn due(&mut self, now: Instant, received: u64, rtt: Duration) -> DoubtStep {
        let rounds = match self.state {
            DoubtState::Settling => 1,
            DoubtState::Asked {
                received: before, ..
            } if received > before => return DoubtStep::Alive,
            DoubtState::Asked { rounds, .. } if rounds >= self.rounds => {
                return DoubtStep::Gone(std::mem::take(&mut self.why));
            }
            DoubtState::Asked { rounds, .. } => rounds + 1,
        };
        self.state = DoubtState::Asked { received, rounds };
        self.until = now + ROUND.max(rtt * ROUND_TRIPS);
        DoubtStep::Ask
    }
}

/// How long a connection that we dialled is silent before we ask: it adapts to its path.
pub(super) fn patience(path: &PathSnapshot) -> Duration {
    SIGN_OF_LIFE.max(known_rtt(path) * QUIET_ROUND_TRIPS)
}

/// Zero before the first measurement: quiche's guess is no reason to wait.
pub(super) fn known_rtt(path: &PathSnapshot) -> Duration {
    path.min_rtt.map_or(Duration::ZERO, |_| path.rtt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::addresses::DIAL_FOR;

    const LAN: Duration = Duration::from_micros(200);

    fn said() -> (Instant, Doubt) {
        let now = crate::worker::now();
        (now, Doubt::new(now, "closed".to_owned(), ROUNDS))
    }

    /// Goes from due to due; the time of the verdict.
    fn verdict(
        doubt: &mut Doubt,
        start: Instant,
        rtt: Duration,
        received: impl Fn(Duration) -> u64,
    ) -> (Duration, DoubtStep) {
        for _ in 0..10 {
            let at = doubt.until();
            match doubt.due(at, received(at - start), rtt) {
                DoubtStep::Ask => assert!(doubt.until() > at, "it moves on"),
                next => return (at - start, next),
            }
        }
        panic!("no verdict");
    }

    #[test]
    fn silence_is_the_proof_within_a_second() {
        let (start, mut doubt) = said();
        let (after, next) = verdict(&mut doubt, start, LAN, |_| 7);
        assert_eq!(next, DoubtStep::Gone("closed".to_owned()));
        assert!(SIGN_OF_LIFE + after < Duration::from_secs(1), "{after:?}");
    }

    #[test]
    fn several_dials_fit_into_the_second() {
        let now = crate::worker::now();
        let mut doubt = Doubt::new(now, "closed".to_owned(), HANDSHAKE_ROUNDS);
        let (after, _) = verdict(&mut doubt, now, Duration::ZERO, |_| 0);
        assert!(
            after * 3 < DIAL_FOR && DIAL_FOR + after < Duration::from_secs(1),
            "{after:?}"
        );
    }

    #[test]
    fn one_packet_proves_it_wrong() {
        let (start, mut doubt) = said();
        let heard = |after| if after > STILL_QUEUED { 8 } else { 7 };
        assert_eq!(verdict(&mut doubt, start, LAN, heard).1, DoubtStep::Alive);
    }

    #[test]
    fn what_was_under_way_proves_nothing() {
        let (start, mut doubt) = said();
        let queued = |after| if after >= STILL_QUEUED { 9 } else { 7 };
        assert_eq!(
            verdict(&mut doubt, start, LAN, queued).1,
            DoubtStep::Gone("closed".to_owned())
        );
    }

    #[test]
    fn a_long_path_has_the_time_it_needs() {
        let rtt = Duration::from_millis(700);
        let (start, mut doubt) = said();
        let late = |after| {
            if after > STILL_QUEUED + rtt * 3 / 2 {
                8
            } else {
                7
            }
        };
        assert_eq!(verdict(&mut doubt, start, rtt, late).1, DoubtStep::Alive);
    }
}
