//! How lanes and sessions begin, replace each other and end.

use std::rc::Rc;

use super::Worker;
use super::lane::{CONTROL_STREAM, LINGER, Lane, PREFACE_TIMEOUT, Phase, Purpose, code};
use super::log::Who;
use super::session::{MAX_LANES_PER_SESSION, MAX_SERVED_LANES_PER_SESSION, Running};
use super::timers::Scheduled;
use crate::budget::MAX_LANES_PER_PEER;
use crate::disk::{Base, Space};
use crate::ids::{Fingerprint, SessionId};
use crate::proto::Input;
use crate::proto::session::{Grant, Session};
use crate::proto::wire::{Preface, PrefaceKind};
use crate::quic::{CloseReason, ConnState, StreamError};

/// After a lane could not be replaced: half of the AEAD limit is left when that is tried first.
const JOIN_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// A daemon gives memory back this long after a session or much memory of connections ended: more
/// may follow at once.
pub(super) const TRIM_AFTER: std::time::Duration = std::time::Duration::from_secs(2);

impl Worker {
    /// Follows the connection's own state: a finished handshake starts what the lane is for.
    pub(super) fn advance(&mut self, key: usize) {
        let lane = &mut self.lanes[key];
        let Phase::Handshaking(purpose) = lane.phase else {
            return;
        };
        if lane.conn.state() != ConnState::Established {
            return;
        }
        let Some(fingerprint) = lane.conn.peer_fingerprint() else {
            self.close_lane(key, code::UNAUTHORISED, "no identity was presented");
            return;
        };
        match purpose {
            Purpose::Accepted => {
                // The handshake asked already; a resumed one did not run the verify callback, and
                // the list may have been read again since.
                let authorised = self.authorised(&fingerprint).is_some();
                // Before anything is refused: a lane that is dropped as a handshaking one is
                // counted off there.
                self.handshake_over(key, authorised);
                self.lanes[key].phase = Phase::Preface(Vec::new());
                if !authorised {
                    self.close_lane(
                        key,
                        code::UNAUTHORISED,
                        "this identity is not authorised here",
                    );
                } else if self.lanes_of(&fingerprint) > MAX_LANES_PER_PEER {
                    self.close_lane(key, code::BUSY, "too many connections of this identity");
                } else {
                    self.lanes[key].deadline = Some(self.now + PREFACE_TIMEOUT);
                }
            }
            Purpose::FirstLane => self.begin_client_session(key, fingerprint),
            Purpose::Join { session } => self.join_client_lane(key, session, fingerprint),
        }
    }

    pub(super) fn authorised(&self, fingerprint: &Fingerprint) -> Option<super::link::PeerAccess> {
        self.shared
            .service
            .as_ref()
            .and_then(|service| (service.authorize)(fingerprint))
    }

    fn lanes_of(&self, fingerprint: &Fingerprint) -> usize {
        self.lanes
            .iter()
            .filter(|(_, lane)| lane.conn.peer_fingerprint().as_ref() == Some(fingerprint))
            .count()
    }

    /// A daemon's lane says what it is for.
    pub(super) fn read_preface(&mut self, key: usize) -> super::turn::Read {
        use super::turn::Read;
        let lane = &mut self.lanes[key];
        let Phase::Preface(so_far) = &mut lane.phase else {
            return Read::Drained;
        };
        let mut chunk = [0; Preface::BYTES];
        let missing = Preface::BYTES - so_far.len();
        match lane.conn.read(CONTROL_STREAM, &mut chunk[..missing]) {
            Ok(Some((bytes, fin))) => {
                so_far.extend_from_slice(&chunk[..bytes]);
                if let Ok(whole) = <[u8; Preface::BYTES]>::try_from(&so_far[..]) {
                    self.prefaced(key, &whole);
                    // QUIC says the end once: a client that gave up before it asked for anything.
                    if fin && let Some(lane) = self.lanes.get_mut(key) {
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
        let Some(fingerprint) = self.lanes[key].conn.peer_fingerprint() else {
            return;
        };
        let known = self.session_ids.get(&preface.session).copied();
        match (preface.kind, known) {
            (PrefaceKind::New, None) => {
                if !self.wait_for_predecessors(key, preface.session, fingerprint) {
                    self.begin_served_session(key, preface.session, fingerprint);
                }
            }
            (PrefaceKind::New, Some(_)) => self.violation(key, "a session of this id exists"),
            (PrefaceKind::Join, Some(session)) if self.may_join(session, &fingerprint) => {
                for lane in self.sessions[session].lanes.clone() {
                    self.lanes[lane].deadline = None;
                }
                let lane = &mut self.lanes[key];
                lane.phase = Phase::Serving { session };
                lane.deadline = None;
                self.sessions[session].lanes.push(key);
                self.touch_session_lanes(session);
            }
            (PrefaceKind::Join, _) => {
                self.close_lane(key, code::NO_SESSION, "no such session on this worker");
            }
        }
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
        let Some(allowed) = self.authorised(&peer) else {
            return self.close_lane(
                key,
                code::UNAUTHORISED,
                "this identity is not authorised here",
            );
        };
        let Some(service) = &self.shared.service else {
            return;
        };
        let root = match &allowed.path {
            None => service.root.clone(),
            Some(path) => match crate::disk::open_beneath(&service.root, path) {
                Ok(root) => root,
                Err(error) => {
                    let path = String::from_utf8_lossy(path).into_owned();
                    if self.log.admits(Who::Peer(peer), self.now) {
                        tracing::error!(%peer, path, %error, "cannot open the path this peer is confined to");
                    }
                    return self.close_lane(
                        key,
                        code::UNAUTHORISED,
                        "the directory of its path= is not there",
                    );
                }
            },
        };
        let grant = Grant {
            read: allowed.access.read,
            write: allowed.access.write,
        };
        let machine = Session::server(self.now, grant, self.limits());
        self.begin_session(key, id, peer, machine, Base::Served(root), false);
        if let Some(session) = self.session_ids.get(&id) {
            self.sessions[*session].allowed = Some(allowed);
        }
    }

    pub(super) fn begin_session(
        &mut self,
        key: usize,
        id: SessionId,
        peer: Fingerprint,
        machine: Session,
        base: Base,
        is_client: bool,
    ) {
        let serial = self.serial();
        let inline_only = self.driver.backend() == landro_sys::Backend::Poll;
        let session = self.sessions.insert(Running {
            serial,
            id,
            machine,
            space: Rc::new(Space::new(base, inline_only)),
            peer,
            allowed: None,
            revoked: None,
            lanes: vec![key],
            joining: false,
            join_after: self.now,
            control_out: Default::default(),
            streams: Default::default(),
            order: Default::default(),
            finished: None,
            timer: Scheduled::default(),
            next_incoming: 0,
            standing: Default::default(),
            is_client,
            log: Default::default(),
            held_bytes: 0,
        });
        self.session_ids.insert(id, session);
        self.disk.share_among(self.sessions.len());
        let lane = &mut self.lanes[key];
        lane.phase = Phase::Serving { session };
        lane.deadline = None;
        self.drain_session(session);
        self.touch(key);
    }

    /// The peer finished its control stream on this lane: it moved to the next one, or the session
    /// is over.
    pub(super) fn control_ended(&mut self, key: usize, session: usize) {
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        if running.finished.is_some() {
            // Both have said their last word, or the client has not heard ours: `settle` knows.
        } else if running.newest_lane() == Some(key) {
            if running.is_client {
                running.machine.handle(self.now, Input::ControlClosed);
                self.drain_session(session);
            } else {
                // A client ends its control stream early only to go on on another lane, whose first
                // packets may be behind this one's, or lost and sent again on a host that is busy
                // for seconds: it has as long as its handshake may take.
                self.lanes[key].deadline = Some(self.now + self.shared.quic.handshake_timeout);
            }
        } else {
            // The next lane's control bytes may be read now.
            self.touch_session_lanes(session);
        }
    }

    /// The peer broke the protocol below the session's own rules.
    pub(super) fn violation(&mut self, key: usize, reason: &str) {
        let lane = &self.lanes[key];
        if self.log.admits(
            lane.conn
                .peer_fingerprint()
                .map_or(Who::Strangers, Who::Peer),
            self.now,
        ) {
            tracing::warn!(peer = %lane.peer, reason, "protocol violation");
        }
        self.close_lane(key, code::VIOLATION, reason);
    }

    /// Closes a lane with CONNECTION_CLOSE; its session learns it when the connection is closed.
    pub(super) fn close_lane(&mut self, key: usize, code: u64, reason: &str) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        lane.last_stats();
        lane.conn.close(code, reason.as_bytes());
        lane.readable.clear();
        lane.deadline = Some(self.now + LINGER);
        self.touch(key);
    }

    /// A lane's own deadline passed.
    pub(super) fn overdue(&mut self, key: usize) {
        let lane = &mut self.lanes[key];
        match &lane.phase {
            Phase::Handshaking(_) => {
                lane.conn.close(code::TIMEOUT, b"handshake timeout");
                self.drop_lane(key);
            }
            Phase::Preface(_) if lane.conn.is_closing() => self.drop_lane(key),
            Phase::Preface(_) => {
                self.close_lane(key, code::TIMEOUT, "no session was named in time")
            }
            Phase::Waiting { .. } => self.waited_enough(key),
            // Its session is over, or its control stream ended and no other lane took it up.
            Phase::Serving { session } => {
                let revoked = self
                    .sessions
                    .get(*session)
                    .and_then(|running| running.revoked);
                self.leave_session(key);
                match revoked {
                    Some(why) => self.close_lane(key, code::UNAUTHORISED, why),
                    None => self.close_lane(key, code::DONE, ""),
                }
            }
            Phase::Closing => self.drop_lane(key),
        }
    }

    /// After a turn: hangs up when everything is said, replaces tired lanes, clears closed ones.
    /// True: it is gone.
    pub(super) fn settle(&mut self, key: usize) -> bool {
        let lane = &mut self.lanes[key];
        if lane.evicted {
            self.drop_lane(key);
            return true;
        }
        match (lane.conn.state(), &lane.phase) {
            // The receiver closes a replaced lane when it has read everything; what it had to say
            // may still wait here.
            (
                ConnState::Closing
                | ConnState::Closed(CloseReason::PeerApp {
                    code: code::REPLACED,
                    ..
                }),
                Phase::Serving { .. },
            ) if !lane.readable.is_empty() && lane.is_closed_as_replaced() => return false,
            // The close, if it was ours to send, left with this turn.
            (ConnState::Closed(_), _) | (ConnState::Closing, Phase::Handshaking(_)) => {
                self.drop_lane(key);
                return true;
            }
            // Nothing more will be read: no need to wait until QUIC has drained.
            (ConnState::Closing, Phase::Serving { .. }) => {
                lane.last_stats();
                self.note_close_reason(key);
                self.leave_session(key);
                return self.drop_if_heavy(key);
            }
            (ConnState::Closing, _) => return self.drop_if_heavy(key),
            _ => {}
        }
        let Phase::Serving { session } = lane.phase else {
            return false;
        };
        let Some(running) = self.sessions.get(session) else {
            return false;
        };
        let newest = running.newest_lane() == Some(key);
        let lane = &mut self.lanes[key];
        if running.finished.is_some() {
            // The client hangs up when both have said their last word; the daemon's deadline covers
            // a client that does not, and is near once the client has all that we said.
            let said = running.all_accepted() && lane.control.before.is_empty();
            if running.is_client && newest && lane.control.fin_received && said {
                for lane in running.lanes.clone() {
                    self.close_lane(lane, code::DONE, "");
                    self.leave_session(lane);
                }
            } else if !running.is_client && lane.control.fin_received {
                let (lanes, near) = (running.lanes.clone(), self.now + LINGER);
                if lanes
                    .iter()
                    .all(|&lane| self.lanes[lane].conn.is_delivered(CONTROL_STREAM))
                {
                    for key in lanes {
                        if self.lanes[key].deadline.is_none_or(|at| at > near) {
                            self.lanes[key].deadline = Some(near);
                            self.touch(key);
                        }
                    }
                }
            }
        } else if !newest {
            // A replaced lane is closed by the side that received data on it: an acknowledgement
            // says that its QUIC has the data, not that the data was read, and closing drops what
            // was not. Its own control bytes must have arrived: the close overtakes what would have
            // to be sent again.
            if lane.is_read_out() && lane.conn.is_delivered(CONTROL_STREAM) {
                self.close_lane(key, code::REPLACED, "");
                self.leave_session(key);
            }
        } else if running.is_client
            && !running.joining
            && running.lanes.len() < MAX_LANES_PER_SESSION
            && running.join_after <= self.now
            && lane.conn.is_worn()
        {
            self.replace_lane(key, session);
        }
        false
    }

    fn drop_if_heavy(&mut self, key: usize) -> bool {
        let heavy = self.is_heavy(key);
        if heavy {
            self.drop_lane(key);
        }
        heavy
    }

    /// Takes a lane out of its session. A session that lost its last lane, or one with unfinished
    /// business on it, has lost its peer: what was to come on that lane will not come again.
    fn leave_session(&mut self, key: usize) {
        let lane = &mut self.lanes[key];
        let Phase::Serving { session } = lane.phase else {
            return;
        };
        lane.phase = Phase::Closing;
        lane.deadline.get_or_insert(self.now + LINGER);
        let moved_on =
            lane.control.fin_sent && lane.control.fin_received && lane.incoming.is_empty();
        let too_late = matches!(
            lane.conn.close_reason(),
            Some(CloseReason::PeerApp {
                code: code::NO_SESSION,
                ..
            })
        );
        lane.release_buffers();
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        running.lanes.retain(|&lane| lane != key);
        let cut_off = running
            .streams
            .values()
            .any(|out| out.opened.is_some_and(|(lane, _)| lane == key));
        let alone = running.lanes.is_empty() && !running.joining;
        if running.finished.is_none() && too_late && !alone && !cut_off {
            // The daemon may have been done when this lane asked to join: its last word comes on an
            // older one, and no other lane need ask.
            running.join_after = self.now + self.shared.quic.idle_timeout;
            for &older in &running.lanes {
                self.lanes[older]
                    .deadline
                    .get_or_insert(self.now + self.shared.quic.idle_timeout);
            }
        } else if running.finished.is_none() && (alone || cut_off || !moved_on) {
            running.machine.handle(self.now, Input::ControlClosed);
            self.drain_session(session);
        }
        // The next lane's control bytes may be read now.
        self.touch_session_lanes(session);
        self.end_if_over(session);
    }

    /// The lane that was to join did not.
    pub(super) fn join_failed(&mut self, session: usize) {
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        running.joining = false;
        running.join_after = self.now + JOIN_PAUSE;
        if running.lanes.is_empty() && running.finished.is_none() {
            running.machine.handle(self.now, Input::ControlClosed);
            self.drain_session(session);
        }
        self.end_if_over(session);
    }

    /// Ends a session that has finished and has no lane. One that lost its lanes goes on until its
    /// state machine has closed every partial file, or kept it.
    pub(super) fn end_if_over(&mut self, session: usize) {
        let Some(running) = self.sessions.get(session) else {
            return;
        };
        if running.finished.is_none() || running.joining || !running.lanes.is_empty() {
            return;
        }
        let running = self.sessions.remove(session);
        self.sessions_bytes -= running.held_bytes;
        self.session_ids.remove(&running.id);
        self.disk.share_among(self.sessions.len());
        if running.is_client {
            self.client_session_ended(running);
        } else if self.sessions.is_empty() {
            self.trim_at = Some(self.now + TRIM_AFTER);
        }
    }

    /// Removes a closed lane and gives back what it held.
    pub(super) fn drop_lane(&mut self, key: usize) {
        if !self.lanes.contains(key) {
            return;
        }
        if let Phase::Serving { .. } = self.lanes[key].phase {
            // First, for the session's end asks why.
            self.note_close_reason(key);
            self.leave_session(key);
        }
        if self.lanes[key].phase == Phase::Handshaking(Purpose::Accepted) {
            self.handshake_over(key, false);
        }
        let lane = self.lanes.remove(key);
        self.router.remove(key);
        self.shed(&lane);
        let stats = super::stats::of_lane(&lane, self.driver.backend());
        if self.log.admits(Who::Debug, self.now) {
            tracing::debug!(
                peer = %lane.peer,
                reason = ?lane.conn.close_reason(),
                self.gro_packets,
                self.gro_receives,
                ?stats,
                "connection ended"
            );
        }
        self.client_lane_ended(&lane, &stats);
        match lane.phase {
            Phase::Handshaking(Purpose::Join { session }) => self.join_failed(session),
            Phase::Handshaking(Purpose::Accepted | Purpose::FirstLane)
            | Phase::Preface(_)
            | Phase::Waiting { .. }
            | Phase::Serving { .. }
            | Phase::Closing => {}
        }
    }

    pub(super) fn new_lane(&mut self, lane: Lane) -> usize {
        let key = self.lanes.insert(lane);
        self.touch(key);
        key
    }
}
