//! A peer that is back may have died before: its older sessions must give a sign of life, or their
//! files go over.
//!
//! A client killed in the middle of a push leaves a session that would hold the locks of its
//! partial files until the idle timeout. Its rerun must find them free, or everything would be sent
//! again. So a new session waits until every unfinished session of the same identity that holds
//! partial files was heard of, or is gone.

use std::time::{Duration, Instant};

use crate::ids::{Fingerprint, SessionId, WorkerId};
use crate::worker::Worker;
use crate::worker::code;
use crate::worker::lane::LanePhase;
use crate::worker::limits::STILL_QUEUED;
use crate::worker::mailbox::Mail;
use crate::worker::sessions::questions::{Question, Suspect, Suspicion, WAIT_AT_MOST};

/// Questions are looked through this often and not in each turn: with an identity shared by n
/// clients there are n of n suspects each, and the turns of a busy worker are microseconds apart.
const REVIEW_EVERY: Duration = Duration::from_millis(5);

/// A lane is not asked again this soon: several new sessions may wait for the same sign of life.
const PING_PAUSE: Duration = STILL_QUEUED;

impl Worker {
    /// Puts a new session off until older ones of its peer are known to live. False: there is
    /// nobody to ask.
    pub(super) fn wait_for_predecessors(
        &mut self,
        key: usize,
        session: SessionId,
        peer: Fingerprint,
    ) -> bool {
        let asker = self.io.id;
        let Some(lane) = self.connections.get(key).map(|found| found.serial) else {
            return false;
        };
        let mut missing = 0;
        for worker in (0..self.io.shared.workers).map(WorkerId) {
            let ask = Mail::AreYouAlive { asker, lane, peer };
            let asked = match worker == asker {
                true => self.question(asker, lane, &peer),
                false => self.io.shared.post(worker, ask),
            };
            missing += usize::from(asked);
        }
        if missing > 0
            && let Some(connection) = self.connections.get_mut(key)
        {
            connection.deadline = Some(self.io.now + WAIT_AT_MOST);
            if let Some((_, lane)) = connection.lane_mut() {
                lane.phase = LanePhase::Waiting { session, missing };
            }
        }
        missing > 0
    }

    /// Asks this worker's sessions of a peer for a sign of life. False: there are none that matter.
    fn question(&mut self, asker: WorkerId, lane: u64, peer: &Fingerprint) -> bool {
        let now = self.io.now;
        let mut suspects = Vec::new();
        for (session, running) in self.sessions.iter() {
            if running.peer != *peer || running.finished.is_some() || !running.space.holds_parts() {
                continue;
            }
            let newest = running.newest_lane();
            let Some(newest) = newest.and_then(|newest| self.connections.get(newest)) else {
                continue;
            };
            let rtt = newest.conn.snapshot().rtt;
            suspects.push(Suspect::new(session, running.serial, now, rtt));
        }
        for suspect in &suspects {
            self.ping(suspect.session);
        }
        let any = !suspects.is_empty();
        if any {
            let question = Question {
                asker,
                lane,
                suspects,
            };
            self.sessions.questions.push(question);
        }
        any
    }

    pub(crate) fn question_from(&mut self, asker: WorkerId, lane: u64, peer: &Fingerprint) {
        if !self.question(asker, lane, peer) {
            self.io.shared.post(asker, Mail::Answered { lane });
        }
    }

    fn ping(&mut self, session: usize) {
        let now = self.io.now;
        let running = self.sessions.get(session);
        let Some(newest) = running.and_then(|running| running.newest_lane()) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(newest) else {
            return;
        };
        if let Some((_, lane)) = connection.lane_mut() {
            if lane.asked.is_some_and(|asked| now < asked + PING_PAUSE) {
                return;
            }
            lane.asked = Some(now);
        }
        connection.ping(now);
        self.connections.touch(newest);
    }

    /// When [`Worker::review_questions`] has something to do if nothing else happens.
    pub(crate) fn questions_due(&self) -> Option<Instant> {
        let sessions = &self.sessions;
        (!sessions.questions.is_empty()).then_some(sessions.review_at)
    }

    /// Notices signs of life, gives up those who gave none, answers what is settled.
    pub(crate) fn review_questions(&mut self) {
        let now = self.io.now;
        if self.questions_due().is_none_or(|due| now < due) {
            return;
        }
        self.sessions.review_at = now + REVIEW_EVERY;
        for mut question in std::mem::take(&mut self.sessions.questions) {
            question.suspects.retain_mut(|suspect| self.review(suspect));
            let (asker, lane) = (question.asker, question.lane);
            if !question.suspects.is_empty() {
                self.sessions.questions.push(question);
            } else if asker == self.io.id {
                self.answered(lane);
            } else {
                self.io.shared.post(asker, Mail::Answered { lane });
            }
        }
    }

    /// False: nothing is to be known about it any more.
    fn review(&mut self, suspect: &mut Suspect) -> bool {
        let now = self.io.now;
        let running = self.sessions.get(suspect.session);
        let Some(running) = running.filter(|running| running.serial == suspect.serial) else {
            return false;
        };
        let newest = running.newest_lane();
        let Some((newest, connection)) =
            newest.and_then(|key| Some((key, self.connections.get(key)?)))
        else {
            suspect.put_off(now);
            return true;
        };
        let (heard, rtt) = (connection.heard, connection.conn.snapshot().rtt);
        match suspect.review(now, heard, rtt, self.sessions.len()) {
            Suspicion::Dispelled => return false,
            Suspicion::Open => {}
            Suspicion::Renewed => self.ping(suspect.session),
            Suspicion::Confirmed if connection.conn.is_closing() => {}
            Suspicion::Confirmed => {
                if self.io.log.admits(connection.who(), now) {
                    tracing::info!(peer = %connection.peer, "a session without a sign of life makes room for its successor");
                }
                let reason = "no sign of life while this identity began another session";
                self.connections
                    .close(&self.io, newest, code::TIMEOUT, reason);
            }
        }
        true
    }

    /// One worker's older sessions are settled.
    pub(crate) fn answered(&mut self, serial: u64) {
        let Some(key) = self.connections.find(serial) else {
            return;
        };
        if let Some((_, lane)) = self.connections.lane_mut(key)
            && let LanePhase::Waiting { missing, .. } = &mut lane.phase
        {
            *missing -= 1;
            if *missing == 0 {
                self.waited_enough(key);
            }
        }
    }

    /// All are settled, or the time is up.
    pub(super) fn waited_enough(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let (Some(peer), Some(lane)) = (connection.conn.peer_fingerprint(), connection.lane())
        else {
            return;
        };
        let LanePhase::Waiting { session, .. } = lane.phase else {
            return;
        };
        let ended = lane.control.fin_received;
        if self.sessions.find(session).is_some() {
            return self.violation(key, "a session of this id exists");
        }
        self.begin_served_session(key, session, peer);
        if ended && let Some(session) = self.connections.lane(key).and_then(|lane| lane.session()) {
            self.control_ended(key, session);
        }
        self.connections.touch(key);
    }
}
