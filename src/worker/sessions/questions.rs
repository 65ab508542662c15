//! Older sessions of a peer that began another: what they were asked, and what their silence means.

use std::time::{Duration, Instant};

use crate::ids::WorkerId;
use crate::worker::limits::STILL_QUEUED;

/// An older session is asked this often if there are few, each time with half a round trip more
/// than [`ROUND`] to answer.
const ROUNDS: u32 = 8;
const ROUND: Duration = Duration::from_millis(250);

/// A round that ends later than this after its time does not count: this worker was away itself, in
/// a system call on a busy disk, and its socket's buffer may have overflowed meanwhile.
const ROUND_LATE: Duration = Duration::from_millis(50);

/// Rounds are added, one for so many sessions on this worker, up to [`MOST_ROUNDS`]: many clients
/// fill the queue of their wire, where the one acknowledgement of a round is lost as easily as data
/// is. 16 rounds are 4 s, still less than the new session waits.
const SESSIONS_PER_ROUND: usize = 8;
const MOST_ROUNDS: u32 = 16;

/// A new session does not wait longer, whatever the others do.
pub(crate) const WAIT_AT_MOST: Duration = Duration::from_secs(5);

/// What one worker was asked to find out; answered when no session is left in it.
pub(crate) struct Question {
    pub(crate) asker: WorkerId,
    /// The asking lane's serial number.
    pub(crate) lane: u64,
    pub(crate) suspects: Vec<Suspect>,
}

pub(crate) struct Suspect {
    pub(crate) session: usize,
    pub(crate) serial: u64,
    asked: Instant,
    /// Asked a second time: the next sign of life counts.
    again: bool,
    /// Rounds that it let pass, and when this one ends.
    missed: u32,
    until: Instant,
}

/// What is thought of a suspect.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Suspicion {
    /// It lives: nothing is to be known about it any more.
    Dispelled,
    /// Its round is not over.
    Open,
    /// It is to be asked once more.
    Renewed,
    /// It let all rounds pass.
    Confirmed,
}

impl Suspect {
    /// One that is asked now; `rtt` of its newest lane's path.
    pub(crate) fn new(session: usize, serial: u64, now: Instant, rtt: Duration) -> Suspect {
        Suspect {
            session,
            serial,
            asked: now,
            again: false,
            missed: 0,
            until: now + round(rtt),
        }
    }

    /// Its last lane is gone, and its files are being closed.
    pub(crate) fn put_off(&mut self, now: Instant) {
        self.until = now + ROUND;
    }

    /// `heard`: when its newest lane was heard of last.
    pub(crate) fn review(
        &mut self,
        now: Instant,
        heard: Instant,
        rtt: Duration,
        sessions: usize,
    ) -> Suspicion {
        if heard > self.asked && self.again {
            return Suspicion::Dispelled;
        }
        if heard > self.asked && now >= self.asked + STILL_QUEUED {
            (self.asked, self.again) = (now, true);
            return Suspicion::Renewed;
        }
        if now < self.until {
            return Suspicion::Open;
        }
        self.missed += u32::from(now < self.until + ROUND_LATE);
        self.until = now + round(rtt);
        match self.missed < rounds(sessions) {
            true => Suspicion::Renewed,
            false => Suspicion::Confirmed,
        }
    }
}

fn round(rtt: Duration) -> Duration {
    ROUND + rtt / 2
}

/// How often a session is asked among so many.
fn rounds(sessions: usize) -> u32 {
    (ROUNDS + (sessions / SESSIONS_PER_ROUND) as u32).min(MOST_ROUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_sign_of_life_counts_when_it_cannot_have_waited_in_our_socket() {
        let start = crate::worker::now();
        let (rtt, at) = (Duration::from_millis(2), |ms| {
            start + Duration::from_millis(ms)
        });
        let mut suspect = Suspect::new(0, 1, start, rtt);
        let soon = suspect.review(at(5), at(4), rtt, 1);
        assert_eq!(soon, Suspicion::Open, "sent before its death, perhaps");
        assert_eq!(suspect.review(at(30), at(4), rtt, 1), Suspicion::Renewed);
        assert_eq!(suspect.review(at(40), at(29), rtt, 1), Suspicion::Open);
        assert_eq!(suspect.review(at(50), at(45), rtt, 1), Suspicion::Dispelled);
    }

    #[test]
    fn silence_is_believed_after_all_rounds_in_which_we_listened() {
        let start = crate::worker::now();
        let mut suspect = Suspect::new(0, 1, start, Duration::ZERO);
        let mut now = start;
        for _ in 1..ROUNDS {
            now += ROUND;
            let found = suspect.review(now, start, Duration::ZERO, 1);
            assert_eq!(found, Suspicion::Renewed);
        }
        let late = now + ROUND + ROUND_LATE;
        let found = suspect.review(late, start, Duration::ZERO, 1);
        assert_eq!(found, Suspicion::Renewed, "we were away ourselves");
        let found = suspect.review(late + ROUND, start, Duration::ZERO, 1);
        assert_eq!(found, Suspicion::Confirmed);
    }
}
