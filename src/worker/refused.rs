//! Nobody listens on the peer's port any more: ICMP says so at once, and the silence that follows
//! proves it.
//!
//! Anybody who knows both addresses can send such a message, and a host that starts a daemon anew
//! sends a true one that is soon untrue. So it ends no lane by itself (RFC 9000 §14.2.1 wants proof
//! of them, too): it makes the lane ask for signs of life, and a single authentic packet proves it
//! wrong.

use std::io;
use std::time::{Duration, Instant};

use landro_sys::SocketId;

use super::Worker;
use super::lane::{Lane, Phase, code};
use super::log::Who;

/// ICMP overtakes datagrams that still wait in our socket's buffer: what is heard within this time
/// proves nothing.
const STILL_QUEUED: Duration = Duration::from_millis(20);

/// How often the peer is asked for a sign of life, and how long each time; on a long path as many
/// round trips as [`ROUND_TRIPS`]. The user learns it within a second, together with
/// [`SIGN_OF_LIFE`].
const ROUNDS: u32 = 2;
/// In a handshake nothing can be asked before QUIC's own second try a second later, so the address
/// is dialled again instead, see [`DIAL_FOR`].
const HANDSHAKE_ROUNDS: u32 = 1;
const ROUND: Duration = Duration::from_millis(150);
const ROUND_TRIPS: u32 = 2;

/// A client that hears nothing for so long asks for a sign of life: one that only receives sends
/// nothing by itself, and what is not sent gets no ICMP. On a long path after as many round trips
/// as [`QUIET_ROUND_TRIPS`]: what is under way needs no asking.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_millis(250);
const QUIET_ROUND_TRIPS: u32 = 3;

/// All addresses are dialled in turn again until so long after the first dial, if all that keeps
/// them from answering is ICMP: a daemon that is being started anew is missed for a moment only.
pub(super) const DIAL_FOR: Duration = Duration::from_millis(600);

/// What is thought of a peer whose port is said to be closed.
#[derive(Debug)]
pub struct Doubt {
    until: Instant,
    /// What was said.
    why: String,
    rounds: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// What was under way is let in. Next: Asked.
    Settling,
    /// The peer had sent so many packets, and was asked for more so often. Next: either verdict.
    Asked { received: u64, rounds: u32 },
}

/// What to do when a doubt is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask for a sign of life; look again then.
    Ask,
    /// It is there after all.
    Alive,
    /// It is gone, for this reason.
    Gone(String),
}

impl Doubt {
    fn new(now: Instant, why: String, rounds: u32) -> Doubt {
        Doubt {
            until: now + STILL_QUEUED,
            why,
            rounds,
            state: State::Settling,
        }
    }

    /// When it is due; always later than the last [`Doubt::due`].
    pub fn until(&self) -> Instant {
        self.until
    }

    /// `received`: authentic packets of the peer so far.
    pub fn due(&mut self, now: Instant, received: u64, rtt: Duration) -> Next {
        let rounds = match self.state {
            State::Settling => 1,
            State::Asked {
                received: before, ..
            } if received > before => return Next::Alive,
            State::Asked { rounds, .. } if rounds >= self.rounds => {
                return Next::Gone(std::mem::take(&mut self.why));
            }
            State::Asked { rounds, .. } => rounds + 1,
        };
        self.state = State::Asked { received, rounds };
        self.until = now + ROUND.max(rtt * ROUND_TRIPS);
        Next::Ask
    }
}

impl Worker {
    /// ICMP said something about what is sent from a socket; only those of a command are connected
    /// to one peer.
    pub(super) fn refused(&mut self, socket: SocketId, error: &io::Error) {
        let lanes = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.socket == socket && !lane.conn.is_closing());
        for key in lanes.map(|(key, _)| key).collect::<Vec<_>>() {
            let lane = &mut self.lanes[key];
            if lane.doubt.is_none() {
                if self.log.admits(Who::Debug, self.now) {
                    tracing::debug!(peer = %lane.peer, %error, "ICMP says that the peer is not there; asking it");
                }
                let rounds = match lane.phase {
                    Phase::Handshaking(_) => HANDSHAKE_ROUNDS,
                    Phase::Preface(_)
                    | Phase::Waiting { .. }
                    | Phase::Serving { .. }
                    | Phase::Closing => ROUNDS,
                };
                lane.doubt = Some(Doubt::new(self.now, in_words(error), rounds));
                self.touch(key);
            }
        }
    }

    /// A send took the news that the receive did not get.
    pub(super) fn send_refused(&mut self, serial: u64, error: &io::Error) {
        let socket = self
            .lanes
            .iter()
            .find(|(_, lane)| lane.serial == serial)
            .map(|(_, lane)| lane.socket);
        if let Some(socket) = socket {
            self.refused(socket, error);
        }
    }

    /// Looks at a lane's doubt if it is due.
    pub(super) fn review_doubt(&mut self, key: usize) {
        let lane = &mut self.lanes[key];
        let Some(doubt) = lane
            .doubt
            .as_mut()
            .filter(|doubt| doubt.until() <= self.now)
        else {
            return;
        };
        let path = lane.conn.snapshot();
        match doubt.due(self.now, path.received_packets, known_rtt(&path)) {
            Next::Ask => lane.conn.keep_alive(),
            Next::Alive => {
                if self.log.admits(Who::Debug, self.now) {
                    tracing::debug!(peer = %lane.peer, "the peer is there, whatever ICMP says");
                }
                lane.doubt = None;
            }
            Next::Gone(why) => {
                lane.last_stats();
                lane.conn.give_up(code::TIMEOUT, &why);
            }
        }
    }
}

impl Lane {
    /// A client's lane adapts its patience to its path.
    pub(super) fn measure_quiet(&mut self) {
        if let Some(quiet) = &mut self.quiet {
            *quiet = SIGN_OF_LIFE.max(known_rtt(&self.conn.snapshot()) * QUIET_ROUND_TRIPS);
        }
    }
}

/// Zero before the first measurement: quiche's guess is no reason to wait.
fn known_rtt(path: &crate::quic::PathSnapshot) -> Duration {
    path.min_rtt.map_or(Duration::ZERO, |_| path.rtt)
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nobody listens on the peer's UDP port (ICMP: port unreachable)".to_owned()
        }
        _ => format!("the peer's host or a firewall rejects what is sent there (ICMP: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    ) -> (Duration, Next) {
        for _ in 0..10 {
            let at = doubt.until();
            match doubt.due(at, received(at - start), rtt) {
                Next::Ask => assert!(doubt.until() > at, "it moves on"),
                next => return (at - start, next),
            }
        }
        panic!("no verdict");
    }

    #[test]
    fn silence_is_the_proof_within_a_second() {
        let (start, mut doubt) = said();
        let (after, next) = verdict(&mut doubt, start, LAN, |_| 7);
        assert_eq!(next, Next::Gone("closed".to_owned()));
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
        assert_eq!(verdict(&mut doubt, start, LAN, heard).1, Next::Alive);
    }

    #[test]
    fn what_was_under_way_proves_nothing() {
        let (start, mut doubt) = said();
        let queued = |after| if after >= STILL_QUEUED { 9 } else { 7 };
        assert_eq!(
            verdict(&mut doubt, start, LAN, queued).1,
            Next::Gone("closed".to_owned())
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
        assert_eq!(verdict(&mut doubt, start, rtt, late).1, Next::Alive);
    }
}
