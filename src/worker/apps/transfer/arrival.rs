//! How lanes arrive at a daemon: the preface, and what it asks for.

use super::reading::Read;
use crate::budget::MAX_LANES_PER_PEER;
use crate::disk::{Base, Space};
use crate::ids::{Fingerprint, SessionId};
use crate::proto::session::Session;
use crate::proto::wire::{Preface, PrefaceKind};
use crate::quic::StreamError;
use crate::worker::Worker;
use crate::worker::code;
use crate::worker::connections::app::App;
use crate::worker::lane::{CONTROL_STREAM, Lane, LanePhase};
use crate::worker::limits::{self, MAX_SERVED_LANES_PER_SESSION, PREFACE_TIMEOUT};
use crate::worker::log::Who;
use crate::worker::sessions::Beginning;

const NOT_AUTHORISED: &str = "this identity is not authorised here";

impl Worker {
    /// A peer's handshake is complete.
    pub(crate) fn lane_arrived(&mut self, key: usize, peer: &Fingerprint) {
        // The handshake asked already; a resumed one did not run the verify callback, and the list
        // may have been read again since.
        let authorised = self.io.shared.authorised(peer).is_some();
        // Before anything is refused: a connection that is dropped as a handshaking one is counted
        // off there.
        let lane = App::Transfer(Box::new(Lane::new(LanePhase::Preface(Vec::new()))));
        self.connections.decide(&self.io, key, lane, authorised);
        let io = &self.io;
        if !authorised {
            self.connections
                .close(io, key, code::UNAUTHORISED, NOT_AUTHORISED);
        } else if self.connections.count_of(peer) > MAX_LANES_PER_PEER {
            let reason = "too many connections of this identity";
            self.connections.close(io, key, code::BUSY, reason);
        } else if let Some(connection) = self.connections.get_mut(key) {
            connection.deadline = Some(io.now + PREFACE_TIMEOUT);
        }
    }

    /// A daemon's lane says what it is for.
    pub(super) fn read_preface(&mut self, key: usize) -> Read {
        let Some((conn, lane)) = self.connections.lane_mut(key) else {
            return Read::Drained;
        };
        let LanePhase::Preface(so_far) = &mut lane.phase else {
            return Read::Drained;
        };
        let mut chunk = [0; Preface::BYTES];
        let missing = Preface::BYTES - so_far.len();
        match conn.read(CONTROL_STREAM, &mut chunk[..missing]) {
            Ok(Some((bytes, fin))) => {
                so_far.extend_from_slice(&chunk[..bytes]);
                if let Ok(whole) = <[u8; Preface::BYTES]>::try_from(&so_far[..]) {
                    self.prefaced(key, &whole);
                    // QUIC says the end once: a client that gave up before it asked for anything.
                    if fin && let Some((_, lane)) = self.connections.lane_mut(key) {
                        lane.control.fin_received = true;
                        if let Some(session) = lane.session() {
                            self.control_ended(key, session);
                        }
                    }
                    Read::Again
                } else if fin {
                    self.violation(key, "the control stream ended inside its preface");
                    Read::Drained
                } else {
                    Read::Again
                }
            }
            Ok(None) => Read::Drained,
            Err(
                StreamError::Reset(_)
                | StreamError::Stopped(_)
                | StreamError::Unknown
                | StreamError::Quiche(_),
            ) => {
                self.violation(key, "the control stream was reset before its preface");
                Read::Drained
            }
        }
    }

    fn prefaced(&mut self, key: usize, bytes: &[u8; Preface::BYTES]) {
        let preface = match Preface::decode(bytes) {
            Ok(preface) => preface,
            Err(error) => return self.violation(key, &error.to_string()),
        };
        let connection = self.connections.get(key);
        let Some(peer) = connection.and_then(|found| found.conn.peer_fingerprint()) else {
            return;
        };
        match (preface.kind, self.sessions.find(preface.session)) {
            (PrefaceKind::New, None) => {
                if !self.wait_for_predecessors(key, preface.session, peer) {
                    self.begin_served_session(key, preface.session, peer);
                }
            }
            (PrefaceKind::New, Some(_)) => self.violation(key, "a session of this id exists"),
            (PrefaceKind::Join, Some(session)) if self.may_join(session, &peer) => {
                self.join_served_lane(key, session);
            }
            (PrefaceKind::Join, _) => {
                let reason = "no such session on this worker";
                self.connections
                    .close(&self.io, key, code::NO_SESSION, reason);
            }
        }
    }

    fn join_served_lane(&mut self, key: usize, session: usize) {
        if let Some(running) = self.sessions.get_mut(session) {
            running.lanes.push(key);
        }
        if let Some((_, lane)) = self.connections.lane_mut(key) {
            lane.phase = LanePhase::Serving { session };
        }
        // Of the older ones, too: the one that joined is the one that was waited for.
        for lane in self.sessions.lanes(session) {
            if let Some(connection) = self.connections.get_mut(lane) {
                connection.deadline = None;
            }
        }
        self.touch_session_lanes(session);
    }

    /// Whether a lane of this peer may become part of a session: one that lives, with not many more
    /// lanes than it needs.
    fn may_join(&self, session: usize, peer: &Fingerprint) -> bool {
        self.sessions.get(session).is_some_and(|running| {
            running.peer == *peer
                && running.finished.is_none()
                && running.revoked.is_none()
                && (1..MAX_SERVED_LANES_PER_SESSION).contains(&running.lanes.len())
        })
    }

    pub(super) fn begin_served_session(&mut self, key: usize, id: SessionId, peer: Fingerprint) {
        let Some(allowed) = self.io.shared.authorised(&peer) else {
            return self
                .connections
                .close(&self.io, key, code::UNAUTHORISED, NOT_AUTHORISED);
        };
        let Some(service) = &self.io.shared.service else {
            return;
        };
        let root = match &allowed.path {
            None => service.root.clone(),
            Some(path) => match crate::disk::open_beneath(&service.root, path) {
                Ok(root) => root,
                Err(error) => {
                    let path = String::from_utf8_lossy(path).into_owned();
                    if self.io.log.admits(Who::Peer(peer), self.io.now) {
                        tracing::error!(%peer, path, %error, "cannot open the path this peer is confined to");
                    }
                    let reason = "the directory of its path= is not there";
                    return self
                        .connections
                        .close(&self.io, key, code::UNAUTHORISED, reason);
                }
            },
        };
        let limits = limits::of_session(&self.io.shared, self.sessions.len());
        let begin = Beginning {
            id,
            peer,
            machine: Session::server(self.io.now, allowed.access, limits),
            space: Space::new(Base::Served(root), self.files_in_place()),
            allowed: Some(allowed),
        };
        self.begin_session(key, begin, None);
    }
}
