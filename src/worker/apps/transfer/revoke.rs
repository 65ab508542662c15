//! Peers whose rights were taken away while they are connected: what they do ends, and they hear
//! why.

use crate::proto::lanes::LanesInput;
use crate::proto::lanes::code;
use crate::proto::{SessionError, SessionErrorCode};
use crate::worker::Worker;
use crate::worker::log::Who;
use crate::worker::shared::PeerAccess;

const REMOVED: &str = "this identity was removed from authorized_peers, or its time there is over";
const NARROWED: &str = "the rights of this identity were narrowed in authorized_peers";
const MOVED: &str = "the path of this identity was changed in authorized_peers";

/// Why a session that began with `before` may not go on. More rights than before are no reason: the
/// next session has them. Nor is the right to go in the clear, to one that does not.
fn taken_away(before: &PeerAccess, now: Option<&PeerAccess>) -> Option<&'static str> {
    let Some(now) = now else { return Some(REMOVED) };
    let lost = |before: bool, now: bool| before && !now;
    if before.path != now.path {
        Some(MOVED)
    } else if lost(before.access.read, now.access.read)
        || lost(before.access.write, now.access.write)
        || lost(before.clear, now.clear)
    {
        Some(NARROWED)
    } else {
        None
    }
}

impl Worker {
    /// The list of peers was read again: everybody who is in is asked for again.
    pub(crate) fn reauthorise(&mut self) {
        for session in self.sessions.keys() {
            let Some(running) = self.sessions.get(session) else {
                continue;
            };
            let now = self.io.shared.authorised(&running.peer);
            if !now.as_ref().is_some_and(|now| now.clear) {
                // One that has not said yet what it wants would be let in.
                self.io.shared.homes.leave_clear(&running.id);
            }
            // What of a session is on another worker than its own ends with it.
            let before = running.allowed.as_ref();
            let before = before
                .filter(|_| running.home.is_none())
                .map(|before| PeerAccess {
                    clear: before.clear && running.lanes.may_go_clear(),
                    ..before.clone()
                });
            if let Some(why) = before.and_then(|before| taken_away(&before, now.as_ref())) {
                self.revoke(session, why);
            }
        }
        for key in self.connections.keys() {
            let connection = self.connections.get(key);
            let idle = connection.filter(|connection| connection.app.is_idle());
            let peer = idle.and_then(|connection| connection.conn.peer_fingerprint());
            if peer.is_some_and(|peer| self.io.shared.authorised(&peer).is_none()) {
                self.connections
                    .close(&self.io, key, code::UNAUTHORISED, REMOVED);
            }
        }
    }

    /// Tells the peer, by a message of the session, which arrives for certain. A peer that does not
    /// hang up then is cut off.
    fn revoke(&mut self, session: usize, why: &'static str) {
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        if self.io.log.admits(Who::Peer(running.peer), self.io.now) {
            tracing::info!(peer = %running.peer, why, "ending a session that is no longer allowed");
        }
        running.allowed = None;
        let error = SessionError::told(SessionErrorCode::Permission, why);
        self.tell(session, LanesInput::Refuse { error, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session::Grant;

    #[test]
    fn less_ends_a_session_and_more_does_not() {
        let may = |read, write, path: Option<&str>| PeerAccess {
            access: Grant { read, write },
            path: path.map(|path| path.as_bytes().to_vec()),
            clear: false,
        };
        let before = may(true, true, Some("a"));
        assert_eq!(taken_away(&before, Some(&before)), None);
        assert_eq!(taken_away(&before, None), Some(REMOVED));
        let clear = PeerAccess {
            clear: true,
            ..before.clone()
        };
        assert_eq!(taken_away(&clear, Some(&before)), Some(NARROWED));
        assert_eq!(taken_away(&before, Some(&clear)), None);
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
