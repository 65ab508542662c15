//! When a lane is closed: everything is said, another replaced it, or its time is up.

use crate::proto::Input;
use crate::worker::Worker;
use crate::worker::code;
use crate::worker::lane::{CONTROL_STREAM, LanePhase};
use crate::worker::limits::{LINGER, MAX_LANES_PER_SESSION};

impl Worker {
    /// Whether a closing lane has more to read: the receiver closes a replaced lane when it has
    /// read everything; what it had to say may still wait here.
    pub(crate) fn has_last_words(&self, key: usize) -> bool {
        self.connections.get(key).is_some_and(|connection| {
            let lane = connection.lane();
            lane.is_some_and(|lane| lane.session().is_some() && !lane.readable.is_empty())
                && connection.is_closed_as_replaced()
        })
    }

    /// The connection is closing, and nothing more will be read: no need to wait until QUIC has
    /// drained.
    pub(crate) fn lane_closes(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && connection.app.session().is_some()
        {
            connection.last_stats();
            self.note_close_reason(key);
            self.leave_session(key);
        }
    }

    /// After a turn: hangs up when everything is said, replaces tired lanes.
    pub(crate) fn settle_lane(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let Some(session) = connection.app.session() else {
            return;
        };
        let Some(running) = self.sessions.get(session) else {
            return;
        };
        if running.finished.is_some() {
            self.hang_up(key, session);
        } else if running.newest_lane() != Some(key) {
            self.retire(key);
        } else if running.is_client
            && !running.joining
            && running.lanes.len() < MAX_LANES_PER_SESSION
            && running.join_after <= self.io.now
            && connection.conn.is_worn()
        {
            self.replace_lane(key, session);
        }
    }

    /// The client hangs up when both have said their last word; the daemon's deadline covers a
    /// client that does not, and is near once the client has all that we said.
    fn hang_up(&mut self, key: usize, session: usize) {
        let (Some(running), Some(lane)) = (self.sessions.get(session), self.connections.lane(key))
        else {
            return;
        };
        if !lane.control.fin_received {
            return;
        }
        let lanes = running.lanes.clone();
        if running.is_client {
            let said = running.all_accepted() && lane.control.before.is_empty();
            if running.newest_lane() == Some(key) && said {
                for lane in lanes {
                    self.connections.close(&self.io, lane, code::DONE, "");
                    self.leave_session(lane);
                }
            }
            return;
        }
        let near = self.io.now + LINGER;
        let is_delivered = |&lane: &usize| {
            let connection = self.connections.get_mut(lane);
            connection.is_none_or(|found| found.conn.is_delivered(CONTROL_STREAM))
        };
        if lanes.iter().all(is_delivered) {
            for key in lanes {
                if let Some(connection) = self.connections.get_mut(key)
                    && connection.deadline.is_none_or(|at| at > near)
                {
                    connection.deadline = Some(near);
                    self.connections.touch(key);
                }
            }
        }
    }

    /// A replaced lane is closed by the side that received data on it: an acknowledgement says that
    /// its QUIC has the data, not that the data was read, and closing drops what was not. Its own
    /// control bytes must have arrived: the close overtakes what would have to be sent again.
    fn retire(&mut self, key: usize) {
        if let Some((conn, lane)) = self.connections.lane_mut(key)
            && lane.is_read_out()
            && conn.is_delivered(CONTROL_STREAM)
        {
            self.connections.close(&self.io, key, code::REPLACED, "");
            self.leave_session(key);
        }
    }

    /// A lane's deadline passed.
    pub(crate) fn lane_overdue(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let Some(lane) = connection.lane() else {
            return;
        };
        match &lane.phase {
            LanePhase::Preface(_) if connection.conn.is_closing() => self.drop_connection(key),
            LanePhase::Preface(_) => {
                let reason = "no session was named in time";
                self.connections.close(&self.io, key, code::TIMEOUT, reason);
            }
            LanePhase::Waiting { .. } => self.waited_enough(key),
            // Its session is over, or its control stream ended and no other lane took it up.
            LanePhase::Serving { session } => {
                let running = self.sessions.get(*session);
                let revoked = running.and_then(|running| running.revoked);
                self.leave_session(key);
                let (code, reason) = match revoked {
                    Some(why) => (code::UNAUTHORISED, why),
                    None => (code::DONE, ""),
                };
                self.connections.close(&self.io, key, code, reason);
            }
            LanePhase::Closing => self.drop_connection(key),
        }
    }

    /// The process ends: sessions are told, and what serves none is closed.
    pub(crate) fn stop_all(&mut self) {
        for session in self.sessions.keys() {
            self.sessions.tell(self.io.now, session, Input::Cancel);
            self.drain_session(session);
        }
        for key in self.connections.keys() {
            let connection = self.connections.get(key);
            if connection.is_some_and(|connection| connection.app.session().is_none()) {
                let reason = "the daemon is shutting down";
                self.connections
                    .close(&self.io, key, code::SHUTDOWN, reason);
            }
            self.connections.touch(key);
        }
    }
}
