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

use super::Connections;
use super::connection::{Connection, code};
use crate::quic::PathSnapshot;
use crate::worker::event_loop::Loop;
use crate::worker::limits::STILL_QUEUED;
use crate::worker::log::Who;

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
pub(in crate::worker) const DIAL_FOR: Duration = Duration::from_millis(600);

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
pub(super) enum Verdict {
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
            state: DoubtState::Settling,
        }
    }

    /// When it is due; always later than the last [`Doubt::due`].
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// `received`: authentic packets of the peer so far.
    fn due(&mut self, now: Instant, received: u64, rtt: Duration) -> Verdict {
        let rounds = match self.state {
            DoubtState::Settling => 1,
            DoubtState::Asked {
                received: before, ..
            } if received > before => return Verdict::Alive,
            DoubtState::Asked { rounds, .. } if rounds >= self.rounds => {
                return Verdict::Gone(std::mem::take(&mut self.why));
            }
            DoubtState::Asked { rounds, .. } => rounds + 1,
        };
        self.state = DoubtState::Asked { received, rounds };
        self.until = now + ROUND.max(rtt * ROUND_TRIPS);
        Verdict::Ask
    }
}

impl Connections {
    /// ICMP said something about what is sent from a socket; only those of a command are connected
    /// to one peer.
    pub(in crate::worker) fn refused(
        &mut self,
        io: &mut Loop,
        socket: SocketId,
        error: &io::Error,
    ) {
        let keys = self
            .iter()
            .filter(|(_, found)| found.socket == socket && !found.conn.is_closing())
            .map(|(key, _)| key);
        for key in keys.collect::<Vec<_>>() {
            if let Some(connection) = self.get_mut(key)
                && connection.doubt.is_none()
            {
                if io.log.admits(Who::Debug, io.now) {
                    tracing::debug!(peer = %connection.peer, %error, "ICMP says that the peer is not there; asking it");
                }
                let rounds = match connection.app.is_undecided() {
                    true => HANDSHAKE_ROUNDS,
                    false => ROUNDS,
                };
                connection.doubt = Some(Doubt::new(io.now, in_words(error), rounds));
                self.touch(key);
            }
        }
    }

    /// A send took the news that the receive did not get.
    pub(super) fn send_refused(&mut self, io: &mut Loop, serial: u64, error: &io::Error) {
        let found = self.find(serial).and_then(|key| self.get(key));
        if let Some(socket) = found.map(|connection| connection.socket) {
            self.refused(io, socket, error);
        }
    }

    /// Looks at what is doubted of one if that is due.
    pub(in crate::worker) fn review_doubt(&mut self, io: &mut Loop, key: usize) {
        let Some(connection) = self.get_mut(key) else {
            return;
        };
        let doubt = connection.doubt.as_mut();
        let Some(doubt) = doubt.filter(|doubt| doubt.until() <= io.now) else {
            return;
        };
        let path = connection.conn.snapshot();
        match doubt.due(io.now, path.received_packets, known_rtt(&path)) {
            Verdict::Ask => connection.conn.keep_alive(),
            Verdict::Alive => {
                if io.log.admits(Who::Debug, io.now) {
                    tracing::debug!(peer = %connection.peer, "the peer is there, whatever ICMP says");
                }
                connection.doubt = None;
            }
            Verdict::Gone(why) => {
                connection.last_stats();
                connection.conn.give_up(code::TIMEOUT, &why);
            }
        }
    }
}

impl Connection {
    /// One that we dialled adapts its patience to its path.
    pub(super) fn measure_quiet(&mut self) {
        if let Some(quiet) = &mut self.quiet {
            *quiet = SIGN_OF_LIFE.max(known_rtt(&self.conn.snapshot()) * QUIET_ROUND_TRIPS);
        }
    }
}

/// Zero before the first measurement: quiche's guess is no reason to wait.
fn known_rtt(path: &PathSnapshot) -> Duration {
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
    ) -> (Duration, Verdict) {
        for _ in 0..10 {
            let at = doubt.until();
            match doubt.due(at, received(at - start), rtt) {
                Verdict::Ask => assert!(doubt.until() > at, "it moves on"),
                next => return (at - start, next),
            }
        }
        panic!("no verdict");
    }

    #[test]
    fn silence_is_the_proof_within_a_second() {
        let (start, mut doubt) = said();
        let (after, next) = verdict(&mut doubt, start, LAN, |_| 7);
        assert_eq!(next, Verdict::Gone("closed".to_owned()));
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
        assert_eq!(verdict(&mut doubt, start, LAN, heard).1, Verdict::Alive);
    }

    #[test]
    fn what_was_under_way_proves_nothing() {
        let (start, mut doubt) = said();
        let queued = |after| if after >= STILL_QUEUED { 9 } else { 7 };
        assert_eq!(
            verdict(&mut doubt, start, LAN, queued).1,
            Verdict::Gone("closed".to_owned())
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
        assert_eq!(verdict(&mut doubt, start, rtt, late).1, Verdict::Alive);
    }
}
