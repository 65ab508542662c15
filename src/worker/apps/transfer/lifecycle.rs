//! How sessions begin, and what becomes of their lanes' connections.

use crate::config::LaneKind;
use crate::ids::{Fingerprint, SessionId};
use crate::metrics::Refusal;
use crate::proto::lanes::{
    ADD_PAUSE_MAX, ADDS_FROM_BYTES, DialKind, GOODPUT_WINDOW, LaneClosed, LaneKey, LanesConfig,
    LanesInput, NewcomerInput, TAKEOVER_DIALS, code,
};
use crate::quic::{CloseReason, Conn, KEY_SPENT, PathSnapshot};
use crate::worker::Worker;
use crate::worker::connections::app::App;
use crate::worker::connections::connection::WorkerConnection;
use crate::worker::connections::transport::Transport;
use crate::worker::lane::{Errand, LanePhase, TransferLane};
use crate::worker::limits;
use crate::worker::log::{Refused, Who};
use crate::worker::sessions::Beginning;

/// What a daemon's log says of a key that may not come in.
pub(super) const NOT_AUTHORISED: &str =
    "not in authorized_peers, or by a line that lets nobody in, or no longer";

impl Worker {
    /// The handshake of a connection that we dialled is complete.
    pub(crate) fn dialled(&mut self, key: usize, errand: Errand, peer: Fingerprint) {
        match errand {
            Errand::FirstLane => self.begin_client_session(key, peer),
            // What of it was here is over.
            Errand::Join { session, .. } if self.sessions.get(session).is_none() => {
                self.leave_and_close(key, code::DONE, "");
            }
            Errand::Join { session, kind } => {
                self.serve(key, session, kind);
                let lane = LaneKey(key);
                self.tell(session, LanesInput::Dialled { lane, peer, kind });
            }
        }
    }

    /// Of a session that began on a lane of this kind.
    pub(super) fn lanes_config(
        &self,
        (id, peer): (SessionId, Fingerprint),
        kind: LaneKind,
    ) -> LanesConfig {
        LanesConfig {
            id,
            peer,
            handshake: self.io.shared.quic.handshake_timeout,
            idle: self.io.shared.quic.idle_timeout,
            adds_from_bytes: ADDS_FROM_BYTES,
            adds: 0,
            add_pause_max: ADD_PAUSE_MAX,
            takeover_dials: TAKEOVER_DIALS,
            places: 1,
            workers: 1,
            outlives_lanes: false,
            kept_bytes: limits::kept_control_bytes(self.sessions.len()),
            goodput_window: GOODPUT_WINDOW,
            begins_on_tcp: kind != LaneKind::Quic,
        }
    }

    pub(super) fn begin_session(&mut self, key: usize, begin: Beginning) {
        let session = self.sessions.begin(&mut self.io, begin);
        self.disk.share_among(self.sessions.len());
        self.serve(key, session, DialKind::Replace);
        self.carry_out(session);
    }

    /// A connection becomes a lane of a session, as far as this worker is concerned.
    pub(super) fn serve(&mut self, key: usize, session: usize, kind: DialKind) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.deadline = None;
        if let (Some(client), true) = (&mut self.client, kind.is_added()) {
            client.paths.came(connection.path());
        }
        let phase = LanePhase::Serving { session };
        match &mut connection.app {
            App::Transfer(lane) => lane.phase = phase,
            App::Undecided(_) => connection.app = App::Transfer(Box::new(TransferLane::new(phase))),
            App::Streams(_) => return,
        }
        if let Some((_, lane)) = connection.lane_mut() {
            lane.is_added = kind.is_added();
        }
        self.connections.touch(key);
    }

    /// After a turn: tells the session what became of the lane.
    pub(crate) fn settle_lane(&mut self, key: usize) {
        let now = self.io.now;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let heard = connection.heard == now || connection.conn.arrives_at() == Some(now);
        let Some((conn, lane)) = connection.lane_mut() else {
            return;
        };
        let Some(session) = lane.session() else {
            return;
        };
        let wears = !lane.is_worn && conn.is_to_be_replaced(now);
        lane.is_worn |= wears;
        let delivered = take_delivered(conn, lane);
        let key = LaneKey(key);
        for stream in delivered {
            self.tell(session, LanesInput::Delivered { lane: key, stream });
        }
        if wears {
            self.tell(session, LanesInput::Worn { lane: key });
        }
        let listens = |session| self.sessions.get(session).is_some_and(|it| it.listens);
        if heard && listens(session) {
            self.tell(session, LanesInput::Heard { lane: key });
        }
    }

    /// Whether a closing lane has more to read: a replaced lane is closed by who has read all of
    /// it; what that side had to say may still wait here.
    pub(crate) fn has_last_words(&self, key: usize) -> bool {
        self.connections.get(key).is_some_and(|connection| {
            let lane = connection.lane();
            lane.is_some_and(|lane| lane.session().is_some() && !lane.readable.is_empty())
                && how_it_closed(connection) == LaneClosed::Replaced
        })
    }

    /// The connection is closing, and nothing more will be read: no need to wait until QUIC has
    /// drained.
    pub(crate) fn lane_closes(&mut self, key: usize) {
        self.connections.measure(&self.io, key);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Some(session) = connection.app.session() else {
            return;
        };
        connection.last_stats();
        let path = *connection.measured_path();
        let (mut why, kind) = (how_it_closed(connection), connection.conn.kind());
        let steer = connection.conn.quic().and_then(Conn::peer_cid_first_byte);
        let closed = connection.close_reason();
        connection
            .deadline
            .get_or_insert(self.io.now + crate::worker::limits::LINGER);
        let mut is_added = false;
        if let Some((_, lane)) = connection.lane_mut() {
            is_added = lane.is_added;
            lane.leave();
        }
        if is_added {
            self.added_lane_leaves(session);
        }
        self.carried_by_lane(session, &path);
        // First, for the session's end asks why. The session goes on without a lane that was added.
        if let Some(client) = &mut self.client
            && !is_added
        {
            client.note(closed);
            let elsewhere = &mut client.elsewhere;
            elsewhere.steer = steer.unwrap_or(elsewhere.steer);
            elsewhere.kind = Some(kind.other());
            if why == LaneClosed::NoSession {
                // Another worker may know it.
                elsewhere.kind = Some(kind);
                elsewhere.steer = elsewhere.steer.wrapping_add(1);
            }
        }
        if why == LaneClosed::Cut && self.client.is_none() && !self.sessions.may_wait(session) {
            why = LaneClosed::Otherwise;
        }
        let lane = LaneKey(key);
        self.tell(session, LanesInput::Closed { lane, why });
    }

    /// What a lane carried that is gone, for the log.
    pub(super) fn carried_by_lane(&mut self, session: usize, path: &PathSnapshot) {
        if let Some(running) = self.sessions.get_mut(session) {
            running.carried.add(path);
        }
    }

    /// An added lane of a session is none any more here.
    pub(super) fn added_lane_leaves(&self, session: usize) {
        if let Some(running) = self.sessions.get(session) {
            self.leave_place(Some((running.id, self.io.id)));
        }
    }

    /// A lane's own deadline passed: it does not carry a session yet, or no more.
    pub(crate) fn lane_overdue(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        match connection.lane().map(|lane| &lane.phase) {
            Some(LanePhase::Arriving(_)) if connection.conn.is_closing() => {
                self.drop_connection(key);
            }
            Some(LanePhase::Arriving(_)) => self.tell_newcomer(key, NewcomerInput::Tick),
            Some(LanePhase::Closing) => self.drop_connection(key),
            Some(LanePhase::Serving { .. }) | None => {}
        }
    }

    /// The process ends: sessions are told, and what serves none is closed.
    pub(crate) fn stop_all(&mut self) {
        for session in self.sessions.keys() {
            self.tell(session, LanesInput::Shutdown);
        }
        for key in self.connections.keys() {
            let closes = match self.connections.get(key).map(|found| &found.app) {
                // Codes are its program's.
                Some(App::Streams(_)) => Some((0, "the engine was shut down")),
                Some(app) if app.session().is_none() => {
                    Some((code::SHUTDOWN, "the daemon is shutting down"))
                }
                Some(_) | None => None,
            };
            if let Some((code, reason)) = closes {
                self.connections.close(&self.io, key, code, reason);
            }
            self.connections.touch(key);
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
            tracing::debug!(
                peer = %connection.peer,
                lane.readable = ?lane.readable,
                lane.control_most,
                partials = lane.partials(),
                running.takes_data,
                lanes = ?running.lanes,
                disk_operations = self.disk.in_flight(),
                pool = self.io.pool.in_use(),
                path = ?connection.conn.snapshot(),
                "silence; asking for a sign of life"
            );
        }
    }

    /// A connection is gone. In the handshake of a command's first lane that decides how the
    /// transfer ends.
    pub(crate) fn connection_ended(&mut self, gone: &WorkerConnection) {
        let Some(client) = &mut self.client else {
            match gone.app.dialled_for() {
                Some(Errand::Join { session, kind }) => {
                    self.tell(session, LanesInput::DialFailed { kind });
                }
                Some(Errand::FirstLane) | None => self.tell_stranger(gone),
            }
            return;
        };
        let closed = gone.close_reason();
        match gone.app.dialled_for() {
            Some(Errand::FirstLane) => {
                let at = (gone.conn.kind(), gone.path());
                let shown = gone.conn.shown_fingerprint();
                client.not_answered(self.io.now, at, closed, shown);
                self.dial_when_due();
            }
            Some(Errand::Join { session, kind }) => {
                if kind.is_added() {
                    client.paths.failed(gone.path());
                }
                // What was to be added is missed by nobody.
                if kind == DialKind::Replace {
                    client.note(closed);
                } else if kind == DialKind::TakeOver {
                    client.elsewhere.kind = Some(gone.conn.kind().other());
                }
                self.tell(session, LanesInput::DialFailed { kind });
            }
            None if gone.lane().is_some_and(|lane| lane.is_added) => {}
            None => client.note(closed),
        }
    }
}

impl Worker {
    /// Says in the log who did not get through the handshake. One that took too long is anybody's
    /// who sends a packet in somebody's name: the counters have it.
    fn tell_stranger(&mut self, gone: &WorkerConnection) {
        if gone.conn.peer_fingerprint().is_some() {
            return;
        }
        let shown = gone.conn.shown_fingerprint();
        let closed = gone.conn.close_reason();
        if matches!(
            closed,
            Some(CloseReason::IdentityRefused { by_peer: false, .. })
        ) {
            self.io.count_refusal(Refusal::Unauthorised);
        }
        let why = match (closed, shown) {
            (Some(CloseReason::IdentityRefused { by_peer: false, .. }), Some(_)) => {
                NOT_AUTHORISED.to_owned()
            }
            (Some(CloseReason::IdentityRefused { by_peer: false, .. }), None) => {
                "no identity was shown".to_owned()
            }
            (Some(reason @ CloseReason::Transport(_)), _) => reason.to_string(),
            _ => return,
        };
        let refused = Refused {
            who: Who::Strangers,
            address: gone.peer,
            shown,
            why: &why,
        };
        self.io.log.refused(&refused, self.io.now);
    }
}

/// Of the streams that are watched, those that the peer has.
fn take_delivered(
    conn: &mut Transport,
    lane: &mut TransferLane,
) -> Vec<crate::proto::lanes::LaneStream> {
    let is_server = conn.is_server();
    let mut delivered = Vec::new();
    lane.watched.retain(|&stream| {
        let has = conn.is_delivered(super::feeding::id_of_ours(stream, is_server));
        if has {
            delivered.push(stream);
        }
        !has
    });
    delivered
}

/// What a session is to know of how its lane ended.
fn how_it_closed(connection: &WorkerConnection) -> LaneClosed {
    match connection.conn.close_reason() {
        Some(CloseReason::PeerApp {
            code: code::REPLACED,
            ..
        }) => LaneClosed::Replaced,
        Some(CloseReason::PeerApp {
            code: code::NO_SESSION,
            ..
        }) => LaneClosed::NoSession,
        Some(
            CloseReason::GivenUp(_)
            | CloseReason::PeerApp {
                code: code::TAKEN_OVER | KEY_SPENT,
                ..
            },
        ) => LaneClosed::Cut,
        Some(
            CloseReason::PeerApp {
                code: code::ALTERED,
                ..
            }
            | CloseReason::Local {
                code: code::ALTERED,
                ..
            },
        ) => LaneClosed::Altered,
        _ => LaneClosed::Otherwise,
    }
}
