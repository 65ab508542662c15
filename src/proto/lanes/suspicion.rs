//! A peer that is back may have died before: its older sessions give a sign of life, or their files
//! go over.
//!
//! A client killed in the middle of a push leaves a session that would hold the locks of its
//! partial files until the idle timeout. Its rerun must find them free, or everything would be sent
//! again. So a new session waits (see [`super::Newcomer`]) until every unfinished session of the
//! same identity that holds partial files was heard of, or is over. Here is what such an older
//! session does: it pings its peer in rounds, and closes its lane when enough of them pass in
//! silence.

use std::time::{Duration, Instant};

use super::ports::QuestionId;

/// An older session is asked this often if there are few, each time with half a round trip more
/// than [`ROUND`] to answer.
const ROUNDS: u32 = 8;
const ROUND: Duration = Duration::from_millis(250);

/// A round that ends later than this after its time does not count: this worker was away itself, in
/// a system call on a busy disk, and its socket's buffer may have overflowed meanwhile.
const AWAY: Duration = Duration::from_millis(50);

/// Datagrams sent before a death may still wait in our socket's buffer: what is heard within this
/// time counts only after a second question.
const STILL_QUEUED: Duration = Duration::from_millis(20);

/// Rounds are added, one for so many sessions on this worker, up to [`MOST_ROUNDS`]: many clients
/// fill the queue of their wire, where the one acknowledgement of a round is lost as easily as data
/// is. 16 rounds are 4 s, still less than the new session waits
/// ([`super::newcomer::WAIT_AT_MOST`]).
const SESSIONS_PER_ROUND: usize = 8;
const MOST_ROUNDS: u32 = 16;

/// A lane is not asked again this soon: several new sessions may wait for the same sign of life.
const PING_PAUSE: Duration = STILL_QUEUED;

/// The questions a session was asked and has not answered.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    open: Vec<Suspicion>,
    pinged: Option<Instant>,
}

#[derive(Debug)]
struct Suspicion {
    question: QuestionId,
    asked: Instant,
    state: SuspicionState,
    /// Rounds that passed in silence, how many may, how long each is, and when this one ends.
    missed: u32,
    rounds: u32,
    round: Duration,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SuspicionState {
    /// Nothing was heard since it was asked. Next: Heard, Again.
    Asked,
    /// What was heard may have been sent before a death. Next: Again.
    Heard,
    /// Asked a second time: the next sign of life counts.
    Again,
}

/// What a review of the questions brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspected {
    Wait,
    Ping,
    /// Nobody is there.
    Dead,
}

impl Suspicions {
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// A new session waits for this one. True: the peer is to be pinged.
    pub fn ask(
        &mut self,
        now: Instant,
        question: QuestionId,
        crowd: usize,
        round_trip: Duration,
    ) -> bool {
        let round = ROUND + round_trip / 2;
        self.open.push(Suspicion {
            question,
            asked: now,
            state: SuspicionState::Asked,
            missed: 0,
            rounds: rounds(crowd),
            round,
            until: now + round,
        });
        self.may_ping(now)
    }

    fn may_ping(&mut self, now: Instant) -> bool {
        let may = self.pinged.is_none_or(|pinged| now >= pinged + PING_PAUSE);
        if may {
            self.pinged = Some(now);
        }
        may
    }

    /// The peer was heard of. Gives the questions that are settled by it.
    pub fn heard(&mut self, now: Instant) -> Vec<QuestionId> {
        let mut settled = Vec::new();
        self.open.retain_mut(|suspicion| {
            let live = suspicion.state == SuspicionState::Again && now > suspicion.asked;
            if live {
                settled.push(suspicion.question);
            } else if suspicion.state == SuspicionState::Asked {
                suspicion.state = SuspicionState::Heard;
            }
            !live
        });
        settled
    }

    /// The session is over: nobody need wait for it.
    pub fn settle_all(&mut self) -> impl Iterator<Item = QuestionId> {
        self.open.drain(..).map(|suspicion| suspicion.question)
    }

    /// When [`Suspicions::review`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.open.iter().map(Suspicion::due).min()
    }

    /// Goes on with what is due; afterwards the next deadline is yet to come.
    pub fn review(&mut self, now: Instant) -> Suspected {
        let (mut ping, mut dead) = (false, false);
        for suspicion in &mut self.open {
            if suspicion.state == SuspicionState::Heard && now >= suspicion.due() {
                (suspicion.asked, suspicion.state) = (now, SuspicionState::Again);
                suspicion.until = suspicion.until.max(now + STILL_QUEUED);
                ping = true;
            } else if now >= suspicion.until {
                suspicion.missed += u32::from(now < suspicion.until + AWAY);
                suspicion.until = now + suspicion.round;
                dead |= suspicion.missed >= suspicion.rounds;
                ping = true;
            }
        }
        match (dead, ping) {
            (true, _) => Suspected::Dead,
            (false, true) if self.may_ping(now) => Suspected::Ping,
            (false, _) => Suspected::Wait,
        }
    }
}

impl Suspicion {
    fn due(&self) -> Instant {
        match self.state {
            SuspicionState::Heard => self.asked + STILL_QUEUED,
            SuspicionState::Asked | SuspicionState::Again => self.until,
        }
    }
}

/// How often a session is asked among so many.
fn rounds(sessions: usize) -> u32 {
    (ROUNDS + (sessions / SESSIONS_PER_ROUND) as u32).min(MOST_ROUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::WorkerId;
    use crate::proto::lanes::newcomer::WAIT_AT_MOST;
    use crate::proto::sim::start as sim_start;

    const ID: QuestionId = QuestionId {
        asker: WorkerId(0),
        connection: 7,
    };

    #[test]
    fn a_crowd_is_asked_more_often_but_never_beyond_the_wait() {
        assert_eq!(
            rounds(1),
            ROUNDS,
            "the rerun of a lone killed client waits no longer"
        );
        assert!(rounds(75) > ROUNDS);
        assert!(ROUND * rounds(usize::MAX >> 32) < WAIT_AT_MOST);
    }

    #[test]
    fn silence_is_death_after_all_rounds() {
        let start = sim_start();
        let mut suspicions = Suspicions::default();
        assert!(suspicions.ask(start, ID, 1, Duration::ZERO));
        for round in 1..=ROUNDS {
            let due = suspicions.deadline().unwrap();
            assert_eq!(due, start + ROUND * round);
            let dead = suspicions.review(due) == Suspected::Dead;
            assert_eq!(dead, round == ROUNDS);
            assert!(suspicions.deadline().unwrap() > due);
        }
    }

    #[test]
    fn a_worker_that_was_away_gives_nobody_up() {
        let mut now = sim_start();
        let mut suspicions = Suspicions::default();
        suspicions.ask(now, ID, 1, Duration::ZERO);
        for _ in 0..50 {
            now = suspicions.deadline().unwrap() + AWAY;
            assert_ne!(suspicions.review(now), Suspected::Dead);
        }
    }

    #[test]
    fn what_may_have_waited_in_a_socket_is_no_sign_of_life() {
        let start = sim_start();
        let mut suspicions = Suspicions::default();
        suspicions.ask(start, ID, 1, Duration::ZERO);
        let early = start + STILL_QUEUED / 2;
        assert_eq!(suspicions.heard(early), []);
        let due = suspicions.deadline().unwrap();
        assert_eq!(due, start + STILL_QUEUED);
        assert_eq!(suspicions.review(due), Suspected::Ping);
        assert_eq!(suspicions.heard(due), [], "in the same moment");
        assert_eq!(suspicions.heard(due + STILL_QUEUED / 2), [ID]);
        assert!(suspicions.is_empty());
    }
}
