//! Who has to go when peers make a worker hold more than it may: each turn looks once.

use super::Worker;
use crate::proto::lanes::LanesInput;

const CONNECTIONS: &str =
    "the memory budget is used up, and this identity's connections take most of it";
const SESSIONS: &str = "the memory budget is used up, and this identity's sessions take most of it";
const SILENT: &str = "nothing was heard of the peer, and what this connection holds is needed";

impl Worker {
    /// Makes room where QUIC holds too much for strangers or for all.
    pub(super) fn make_room(&mut self) {
        while self.connections.is_crowded(&self.io)
            && let Some(key) = self.connections.oldest_of_the_crowd(&mut self.io)
        {
            self.displace(key);
        }
        if self.connections.is_overheld(&self.io)
            && let Some(key) = self.connections.heaviest_of_the_heaviest()
        {
            self.connections.evict(&mut self.io, key, CONNECTIONS);
        }
    }

    /// What peers announced and never send, or begin and never end, has a bound, too.
    pub(super) fn make_room_for_sessions(&mut self) {
        let shared = &self.io.shared;
        if self.sessions.held_bytes() <= shared.budget.sessions_bytes(shared.workers) {
            return;
        }
        let goes =
            |session| self.connections.are_evicted(session) && !self.sessions.is_cut(session);
        let Some(session) = self.sessions.heaviest_of_the_heaviest(goes) else {
            return;
        };
        if self.sessions.is_cut(session) {
            self.tell(session, LanesInput::NoLonger);
            return;
        }
        for lane in self.connections.keys_of(session) {
            self.connections.evict(&mut self.io, lane, SESSIONS);
        }
    }

    /// Gives up silent connections that hold much, the heaviest first.
    pub(super) fn listen(&mut self) {
        let sessions = &self.sessions;
        let beside = |session| sessions.held_bytes_of(session);
        for key in self.connections.too_silent(self.io.now, beside) {
            self.connections.evict(&mut self.io, key, SILENT);
        }
        let sessions_bytes = self.sessions.held_bytes();
        self.connections.plan_to_listen(self.io.now, sessions_bytes);
    }
}
