//! A peer that is back may have died before: its older sessions must give a sign of life, or their
//! files go over.
//!
//! A client killed in the middle of a push leaves a session that would hold the locks of its
//! partial files until the idle timeout. Its rerun must find them free, or everything would be sent
//! again. So a new session waits until every unfinished session of the same identity that holds
//! partial files was heard of, or is gone.

use std::time::{Duration, Instant};

use super::Worker;
use super::lane::{Phase, code};
use super::link::Command;
use super::log::Who;
use crate::ids::{Fingerprint, SessionId, WorkerId};

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
/// is. 16 rounds are 4 s, still less than the new session waits.
const SESSIONS_PER_ROUND: usize = 8;
const MOST_ROUNDS: u32 = 16;

/// Questions are looked through this often and not in each turn: with an identity shared by n
/// clients there are n of n suspects each, and the turns of a busy worker are microseconds apart.
const REVIEW_EVERY: Duration = Duration::from_millis(5);

/// A lane is not asked again this soon: several new sessions may wait for the same sign of life.
const PING_PAUSE: Duration = STILL_QUEUED;

/// A new session does not wait longer, whatever the others do.
const WAIT_AT_MOST: Duration = Duration::from_secs(5);

/// What one worker was asked to find out; answered when no session is left in it.
pub struct Question {
    asker: WorkerId,
    /// The asking lane's serial number.
    lane: u64,
    suspects: Vec<Suspect>,
}

struct Suspect {
    session: usize,
    serial: u64,
    asked: Instant,
    /// Asked a second time: the next sign of life counts.
    again: bool,
    /// Rounds that it let pass, and when this one ends.
    missed: u32,
    until: Instant,
}

impl Worker {
    /// Puts a new session off until older ones of its peer are known to live. False: there is
    /// nobody to ask.
    pub(super) fn wait_for_predecessors(
        &mut self,
        key: usize,
        session: SessionId,
        peer: Fingerprint,
    ) -> bool {
        let asker = self.id;
        let question = self.lanes[key].serial;
        let mut missing = 0;
        for worker in (0..self.shared.workers).map(WorkerId) {
            let asked = match worker == asker {
                true => self.question(asker, question, &peer),
                false => self.shared.post(
                    worker,
                    Command::AreYouAlive {
                        asker,
                        lane: question,
                        peer,
                    },
                ),
            };
            missing += usize::from(asked);
        }
        if missing > 0 {
            let lane = &mut self.lanes[key];
            lane.phase = Phase::Waiting { session, missing };
            lane.deadline = Some(self.now + WAIT_AT_MOST);
        }
        missing > 0
    }

    /// Asks this worker's sessions of a peer for a sign of life. False: there are none that matter.
    fn question(&mut self, asker: WorkerId, lane: u64, peer: &Fingerprint) -> bool {
        let mut suspects = Vec::new();
        for (session, running) in &self.sessions {
            if running.peer != *peer || running.finished.is_some() || !running.space.holds_parts() {
                continue;
            }
            let Some(newest) = running.newest_lane() else {
                continue;
            };
            let until = self.now + self.round(newest);
            let serial = running.serial;
            suspects.push(Suspect {
                session,
                serial,
                asked: self.now,
                again: false,
                missed: 0,
                until,
            });
        }
        let any = !suspects.is_empty();
        for suspect in &suspects {
            self.ping(suspect.session);
        }
        if any {
            self.questions.push(Question {
                asker,
                lane,
                suspects,
            });
        }
        any
    }

    pub(super) fn question_from(&mut self, asker: WorkerId, lane: u64, peer: &Fingerprint) {
        if !self.question(asker, lane, peer) {
            self.shared.post(asker, Command::Answered { lane });
        }
    }

    fn round(&self, lane: usize) -> Duration {
        ROUND + self.lanes[lane].conn.snapshot().rtt / 2
    }

    fn ping(&mut self, session: usize) {
        let Some(newest) = self.sessions[session].newest_lane() else {
            return;
        };
        let lane = &mut self.lanes[newest];
        if lane
            .asked
            .is_some_and(|asked| self.now < asked + PING_PAUSE)
        {
            return;
        }
        (lane.pinged, lane.asked) = (self.now, Some(self.now));
        lane.conn.keep_alive();
        self.touch(newest);
    }

    /// When [`Worker::review_questions`] has something to do if nothing else happens.
    pub(super) fn questions_due(&self) -> Option<Instant> {
        (!self.questions.is_empty()).then_some(self.review_at)
    }

    /// Notices signs of life, gives up those who gave none, answers what is settled.
    pub(super) fn review_questions(&mut self) {
        if self.questions.is_empty() || self.now < self.review_at {
            return;
        }
        self.review_at = self.now + REVIEW_EVERY;
        for mut question in std::mem::take(&mut self.questions) {
            let suspects = std::mem::take(&mut question.suspects);
            question.suspects = suspects
                .into_iter()
                .filter_map(|suspect| self.review(suspect))
                .collect();
            if !question.suspects.is_empty() {
                self.questions.push(question);
            } else if question.asker == self.id {
                self.answered(question.lane);
            } else {
                self.shared.post(
                    question.asker,
                    Command::Answered {
                        lane: question.lane,
                    },
                );
            }
        }
    }

    /// None: nothing is to be known about it any more.
    fn review(&mut self, mut suspect: Suspect) -> Option<Suspect> {
        let running = self
            .sessions
            .get(suspect.session)
            .filter(|running| running.serial == suspect.serial)?;
        let Some(newest) = running.newest_lane() else {
            // Its files are being closed.
            suspect.until = self.now + ROUND;
            return Some(suspect);
        };
        let lane = &self.lanes[newest];
        if lane.heard > suspect.asked && suspect.again {
            return None;
        }
        if lane.heard > suspect.asked && self.now >= suspect.asked + STILL_QUEUED {
            (suspect.asked, suspect.again) = (self.now, true);
            self.ping(suspect.session);
        } else if self.now >= suspect.until {
            suspect.missed += u32::from(self.now < suspect.until + AWAY);
            suspect.until = self.now + self.round(newest);
            let rounds = rounds(self.sessions.len());
            if suspect.missed < rounds {
                self.ping(suspect.session);
            } else if !lane.conn.is_closing() {
                if self.log.admits(
                    lane.conn
                        .peer_fingerprint()
                        .map_or(Who::Strangers, Who::Peer),
                    self.now,
                ) {
                    tracing::info!(peer = %lane.peer, "a session without a sign of life makes room for its successor");
                }
                self.close_lane(
                    newest,
                    code::TIMEOUT,
                    "no sign of life while this identity began another session",
                );
            }
        }
        Some(suspect)
    }

    /// One worker's older sessions are settled.
    pub(super) fn answered(&mut self, serial: u64) {
        let asking = self
            .lanes
            .iter()
            .find(|(_, lane)| lane.serial == serial)
            .map(|(key, _)| key);
        let Some(key) = asking else { return };
        if let Phase::Waiting { missing, .. } = &mut self.lanes[key].phase {
            *missing -= 1;
            if *missing == 0 {
                self.waited_enough(key);
            }
        }
    }

    /// All are settled, or the time is up.
    pub(super) fn waited_enough(&mut self, key: usize) {
        let lane = &mut self.lanes[key];
        let Phase::Waiting { session, .. } = lane.phase else {
            return;
        };
        let Some(peer) = lane.conn.peer_fingerprint() else {
            return;
        };
        let ended = lane.control.fin_received;
        if self.session_ids.contains_key(&session) {
            return self.violation(key, "a session of this id exists");
        }
        self.begin_served_session(key, session, peer);
        if let Some(session) = self.lanes[key].session().filter(|_| ended) {
            self.control_ended(key, session);
        }
        self.touch(key);
    }
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
}
