//! Peers whose rights were taken away while they are connected: what they do ends, and they hear
//! why.

use super::Worker;
use super::lane::{LINGER, Phase, code};
use super::link::PeerAccess;
use super::log::Who;
use crate::ids::Fingerprint;
use crate::proto::{Input, SessionError, SessionErrorCode};

const REMOVED: &str = "this identity was removed from authorized_peers";
const NARROWED: &str = "the rights of this identity were narrowed in authorized_peers";
const MOVED: &str = "the path of this identity was changed in authorized_peers";

/// Why a session that began with `before` may not go on. More rights than before are no reason: the
/// next session has them.
fn taken_away(before: &PeerAccess, now: Option<&PeerAccess>) -> Option<&'static str> {
    let Some(now) = now else { return Some(REMOVED) };
    let lost = |before: bool, now: bool| before && !now;
    if before.path != now.path {
        Some(MOVED)
    } else if lost(before.access.read, now.access.read)
        || lost(before.access.write, now.access.write)
    {
        Some(NARROWED)
    } else {
        None
    }
}

impl Worker {
    /// The list of peers was read again: everybody who is in is asked for again.
    pub(super) fn reauthorise(&mut self) {
        for session in self.sessions.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            let running = &self.sessions[session];
            let now = self.authorised(&running.peer);
            let before = running
                .allowed
                .as_ref()
                .filter(|_| running.revoked.is_none());
            if let Some(why) = before.and_then(|before| taken_away(before, now.as_ref())) {
                self.revoke(session, why);
            }
        }
        for key in self.lanes.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            let lane = &self.lanes[key];
            let is_idle = matches!(lane.phase, Phase::Preface(_) | Phase::Waiting { .. });
            let peer: Option<Fingerprint> = lane.conn.peer_fingerprint().filter(|_| is_idle);
            if peer.is_some_and(|peer| self.authorised(&peer).is_none()) {
                self.close_lane(key, code::UNAUTHORISED, REMOVED);
            }
        }
    }

    /// Tells the peer, by a message of the session, which arrives for certain. A peer that does not
    /// hang up then is cut off.
    fn revoke(&mut self, session: usize, why: &'static str) {
        let running = &mut self.sessions[session];
        if self.log.admits(Who::Peer(running.peer), self.now) {
            tracing::info!(peer = %running.peer, why, "ending a session that is no longer allowed");
        }
        running.revoked = Some(why);
        let error = SessionError {
            code: SessionErrorCode::Permission,
            text: why.to_owned(),
        };
        running.machine.handle(self.now, Input::Refuse(error));
        self.drain_session(session);
        let Some(running) = self.sessions.get(session) else {
            return;
        };
        for key in running.lanes.clone() {
            let lane = &mut self.lanes[key];
            lane.deadline = Some(
                lane.deadline
                    .unwrap_or(self.now + LINGER)
                    .min(self.now + LINGER),
            );
            self.touch(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Access;

    #[test]
    fn less_ends_a_session_and_more_does_not() {
        let may = |read, write, path: Option<&str>| PeerAccess {
            access: Access { read, write },
            path: path.map(|path| path.as_bytes().to_vec()),
        };
        let before = may(true, true, Some("a"));
        assert_eq!(taken_away(&before, Some(&before)), None);
        assert_eq!(taken_away(&before, None), Some(REMOVED));
        assert_eq!(
            taken_away(&before, Some(&may(true, false, Some("a")))),
            Some(NARROWED)
        );
        assert_eq!(
            taken_away(&before, Some(&may(false, true, Some("a")))),
            Some(NARROWED)
        );
        assert_eq!(
            taken_away(&before, Some(&may(true, true, Some("b")))),
            Some(MOVED)
        );
        assert_eq!(
            taken_away(&before, Some(&may(true, true, None))),
            Some(MOVED)
        );
        assert_eq!(
            taken_away(&may(true, false, None), Some(&may(true, true, None))),
            None
        );
    }
}
