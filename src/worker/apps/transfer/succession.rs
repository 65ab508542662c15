//! A peer that is back may have died before: its older sessions are asked for a sign of life, on
//! every worker.
//!
//! What an older session makes of that is in `proto/lanes/suspicion.rs`.

use crate::ids::{Fingerprint, WorkerId};
use crate::proto::lanes::{LanesInput, NewcomerInput, QuestionId};
use crate::worker::Worker;
use crate::worker::mailbox::Mail;

impl Worker {
    /// A new session is to begin on this connection. Gives how many workers have older sessions of
    /// its peer to ask, or might have.
    pub(super) fn ask_all_workers(&mut self, key: usize) -> usize {
        let asker = self.io.id;
        let Some(connection) = self.connections.get(key) else {
            return 0;
        };
        let Some(peer) = connection.conn.peer_fingerprint() else {
            return 0;
        };
        let lane = connection.serial;
        let mut asked = 0;
        for worker in (0..self.io.shared.workers).map(WorkerId) {
            let ask = Mail::AreYouAlive { asker, lane, peer };
            asked += usize::from(match worker == asker {
                true => self.question(asker, lane, &peer),
                false => self.io.shared.post(worker, ask),
            });
        }
        asked
    }

    /// Asks this worker's sessions of a peer for a sign of life. False: there are none that matter.
    fn question(&mut self, asker: WorkerId, connection: u64, peer: &Fingerprint) -> bool {
        let id = QuestionId { asker, connection };
        let crowd = self.sessions.len();
        let mut suspects = Vec::new();
        for (session, running) in self.sessions.iter() {
            let holds = running.finished.is_none() && running.space.holds_parts();
            let newest = self.connections.newest_of(session);
            if running.peer == *peer && holds && (newest.is_some() || running.lanes.is_cut()) {
                let round_trip = newest.map(|newest| newest.conn.snapshot().rtt);
                suspects.push((session, round_trip.unwrap_or_default()));
            }
        }
        if suspects.is_empty() {
            return false;
        }
        self.sessions.open_question(id, suspects.len());
        for (session, round_trip) in suspects {
            let question = LanesInput::Question {
                id,
                crowd,
                round_trip,
            };
            self.tell(session, question);
        }
        true
    }

    pub(crate) fn question_from(&mut self, asker: WorkerId, lane: u64, peer: &Fingerprint) {
        if !self.question(asker, lane, peer) {
            self.io.shared.post(asker, Mail::Answered { lane });
        }
    }

    /// A session is no reason to wait any more.
    pub(super) fn settled(&mut self, id: QuestionId) {
        if !self.sessions.settle_question(id) {
            return;
        }
        let lane = id.connection;
        if id.asker == self.io.id {
            self.answered(lane);
        } else {
            self.io.shared.post(id.asker, Mail::Answered { lane });
        }
    }

    /// One worker's older sessions are settled.
    pub(crate) fn answered(&mut self, serial: u64) {
        if let Some(key) = self.connections.find(serial) {
            self.tell_newcomer(key, NewcomerInput::Answered);
        }
    }
}
