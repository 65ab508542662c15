//! How sessions begin, go on over their lanes, and end.

use std::time::Duration;

use bytes::Bytes;

use crate::ids::Fingerprint;
use crate::proto::{Input, Outcome};
use crate::quic::CloseReason;
use crate::worker::Worker;
use crate::worker::code;
use crate::worker::connections::app::App;
use crate::worker::connections::connection::Connection;
use crate::worker::lane::{Errand, Lane, LanePhase};
use crate::worker::limits::{LINGER, TRIM_AFTER};
use crate::worker::log::Who;
use crate::worker::sessions::Beginning;
use crate::worker::stats::TransportStats;

/// After a lane could not be replaced: half of the AEAD limit is left when that is tried first.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// The handshake of a connection that we dialled is complete.
    pub(crate) fn dialled(&mut self, key: usize, errand: Errand, peer: Fingerprint) {
        match errand {
            Errand::FirstLane => self.begin_client_session(key, peer),
            Errand::Join { session } => self.join_client_lane(key, session, peer),
        }
    }

    /// `before`: what this lane says before the session's own words.
    pub(super) fn begin_session(&mut self, key: usize, begin: Beginning, before: Option<Bytes>) {
        let session = self.sessions.begin(&mut self.io, begin, key);
        self.disk.share_among(self.sessions.len());
        if let Some(connection) = self.connections.get_mut(key) {
            connection.deadline = None;
            match &mut connection.app {
                App::Transfer(lane) => lane.phase = LanePhase::Serving { session },
                App::Undecided(_) => {
                    let lane = Lane::serving(session, before);
                    connection.app = App::Transfer(Box::new(lane));
                }
            }
        }
        self.drain_session(session);
        self.connections.touch(key);
    }

    /// Where operations on files are made in place whatever the file system.
    pub(super) fn files_in_place(&self) -> bool {
        self.io.driver.backend() == landro_sys::Backend::Poll
    }

    pub(crate) fn touch_session_lanes(&mut self, session: usize) {
        for lane in self.sessions.lanes(session) {
            self.connections.touch(lane);
        }
    }

    /// Carries out everything a session wants, until it wants nothing.
    pub(crate) fn drain_session(&mut self, session: usize) {
        let client = self.client.as_ref();
        let ended = self
            .sessions
            .drain(&mut self.io, &mut self.disk, client, session);
        if let Some(outcome) = ended {
            self.finish(session, outcome);
        }
    }

    fn finish(&mut self, session: usize, outcome: Outcome) {
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        let now = self.io.now;
        self.io
            .log
            .outcome(running.log, &running.peer, &outcome, now);
        let violation = match &outcome {
            Outcome::Violation(reason) => Some(reason.clone()),
            _ => None,
        };
        // A client that got its answer hangs up; one that is cut off for a while gets it when it is
        // back.
        let answered = matches!(outcome, Outcome::Complete(_) | Outcome::Refused(_));
        let goes_on = running.revoked.is_none() && self.io.stopping.is_none();
        let patience = match answered && !running.is_client && goes_on {
            true => self.io.shared.quic.idle_timeout,
            false => LINGER,
        };
        running.finished = Some(outcome);
        for key in running.lanes.clone() {
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            match &violation {
                Some(reason) => self
                    .connections
                    .close(&self.io, key, code::VIOLATION, reason),
                None => connection.deadline = Some(now + patience),
            }
            self.connections.touch(key);
        }
        self.end_if_over(session);
    }

    /// The peer finished its control stream on this lane: it moved to the next one, or the session
    /// is over.
    pub(super) fn control_ended(&mut self, key: usize, session: usize) {
        let Some(running) = self.sessions.get(session) else {
            return;
        };
        if running.finished.is_some() {
            // Both have said their last word, or the client has not heard ours: `settle` knows.
        } else if running.newest_lane() == Some(key) {
            if running.is_client {
                self.sessions
                    .tell(self.io.now, session, Input::ControlClosed);
                self.drain_session(session);
            } else if let Some(connection) = self.connections.get_mut(key) {
                // A client ends its control stream early only to go on on another lane, whose first
                // packets may be behind this one's, or lost and sent again on a host that is busy
                // for seconds: it has as long as its handshake may take.
                let patience = self.io.shared.quic.handshake_timeout;
                connection.deadline = Some(self.io.now + patience);
            }
        } else {
            // The next lane's control bytes may be read now.
            self.touch_session_lanes(session);
        }
    }

    /// The peer broke the protocol below the session's own rules.
    pub(super) fn violation(&mut self, key: usize, reason: &str) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        if self.io.log.admits(connection.who(), self.io.now) {
            tracing::warn!(peer = %connection.peer, reason, "protocol violation");
        }
        self.connections
            .close(&self.io, key, code::VIOLATION, reason);
    }

    /// Takes a lane out of its session. A session that lost its last lane, or one with unfinished
    /// business on it, has lost its peer: what was to come on that lane will not come again.
    pub(super) fn leave_session(&mut self, key: usize) {
        let now = self.io.now;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(session) = connection.app.session() else {
            return;
        };
        connection.deadline.get_or_insert(now + LINGER);
        let too_late = was_too_late(connection);
        let Some((_, lane)) = connection.lane_mut() else {
            return;
        };
        lane.phase = LanePhase::Closing;
        let moved_on =
            lane.control.fin_sent && lane.control.fin_received && lane.incoming.is_empty();
        lane.release_buffers();
        let Some(running) = self.sessions.get_mut(session) else {
            return;
        };
        running.lanes.retain(|&lane| lane != key);
        let cut_off = running.has_streams_on(key);
        let alone = running.lanes.is_empty() && !running.joining;
        if running.finished.is_none() && too_late && !alone && !cut_off {
            // The daemon may have been done when this lane asked to join: its last word comes on an
            // older one, and no other lane need ask.
            let until = now + self.io.shared.quic.idle_timeout;
            running.join_after = until;
            for &older in &running.lanes {
                if let Some(older) = self.connections.get_mut(older) {
                    older.deadline.get_or_insert(until);
                }
            }
        } else if running.finished.is_none() && (alone || cut_off || !moved_on) {
            running.machine.handle(now, Input::ControlClosed);
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
        running.join_after = self.io.now + JOIN_PAUSE;
        if running.lanes.is_empty() && running.finished.is_none() {
            running.machine.handle(self.io.now, Input::ControlClosed);
            self.drain_session(session);
        }
        self.end_if_over(session);
    }

    /// Ends a session that has finished and has no lane. One that lost its lanes goes on until its
    /// state machine has closed every partial file, or kept it.
    fn end_if_over(&mut self, session: usize) {
        let is_over = self.sessions.get(session).is_some_and(|running| {
            running.finished.is_some() && !running.joining && running.lanes.is_empty()
        });
        let Some(running) = is_over.then(|| self.sessions.remove(session)).flatten() else {
            return;
        };
        self.disk.share_among(self.sessions.len());
        match &mut self.client {
            Some(client) => client.session_ended(running.finished),
            None if self.sessions.is_empty() => self.io.trim_at = Some(self.io.now + TRIM_AFTER),
            None => {}
        }
    }

    /// A lane is silent: what could be the reason, for whoever reads the debug log.
    pub(crate) fn tell_silence(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let running = connection
            .app
            .session()
            .and_then(|key| self.sessions.get(key));
        let (Some(lane), Some(running)) = (connection.lane(), running) else {
            return;
        };
        if self.io.log.admits(Who::Debug, self.io.now) {
            let streams = running.streams.iter();
            tracing::debug!(
                peer = %connection.peer,
                lane.readable = ?lane.readable,
                lane.partials,
                may_read = running.standing.takes_data,
                queued_streams = running.order.len(),
                queued_control = running.control_out.len(),
                disk_operations = self.disk.in_flight(),
                pool = self.io.pool.in_use(),
                path = ?connection.conn.snapshot(),
                streams = ?streams.map(|(key, out)| (key.0, out.opened, out.queue.len(), out.fin)).collect::<Vec<_>>(),
                "silence; asking for a sign of life"
            );
        }
    }

    /// A connection is about to be dropped: its lane leaves its session first, for the session's
    /// end asks why.
    pub(crate) fn lane_ends(&mut self, key: usize) {
        let connection = self.connections.get(key);
        if connection.is_some_and(|connection| connection.app.session().is_some()) {
            self.note_close_reason(key);
            self.leave_session(key);
        }
    }

    /// A connection is gone. In the handshake of a command's first lane that decides how the
    /// transfer ends.
    pub(crate) fn connection_ended(&mut self, gone: &Connection, stats: &TransportStats) {
        let Some(client) = &mut self.client else {
            if let Ok(mut served) = self.io.shared.served.lock() {
                served.add(stats);
            }
            return;
        };
        client.add_stats(stats);
        let closed = gone.conn.close_reason();
        match gone.app.dialled_for() {
            Some(Errand::FirstLane) => {
                if let Some(error) = client.not_answered(closed) {
                    self.dial_next(format!("{}: {error}", gone.peer));
                }
            }
            Some(Errand::Join { session }) => {
                client.note(closed);
                self.join_failed(session);
            }
            None => client.note(closed),
        }
    }
}

/// Whether the daemon refused the lane because the session it asked for is over.
fn was_too_late(connection: &Connection) -> bool {
    matches!(
        connection.conn.close_reason(),
        Some(CloseReason::PeerApp {
            code: code::NO_SESSION,
            ..
        })
    )
}
