//! A TCP connection arrives at any worker: it is handed over to the one that has its session.

use crate::proto::lanes::{LaneKey, LanesInput, NewcomerInput};
use crate::worker::Worker;
use crate::worker::connections::app::App;
use crate::worker::handed_over::{HandedOver, Joins};
use crate::worker::lane::{LanePhase, TransferLane};
use crate::worker::log::Who;
use crate::worker::mailbox::Mail;

impl Worker {
    /// A newcomer wants to be a lane of a session, which may be another worker's.
    pub(super) fn join(&mut self, key: usize, joins: Joins) {
        if let Some(session) = self.sessions.find(joins.session) {
            return self.join_served_lane(key, session, joins);
        }
        let home = self.io.shared.homes.find(&joins.session);
        let handed = home.filter(|home| *home != self.io.id).and_then(|home| {
            let handed = self.take_out(key, joins)?;
            Some((home, handed))
        });
        let Some((home, handed)) = handed else {
            return self.tell_newcomer(key, NewcomerInput::SessionExists(false));
        };
        let mail = Mail::HandedOver(Box::new(handed));
        if let Err(Mail::HandedOver(back)) = self.io.shared.try_post(home, mail) {
            // The lane is lost, and its client dials another one.
            let granted_bytes = back.stream.granted_bytes;
            self.io.shared.budget.return_window(granted_bytes);
            if self.io.log.admits(Who::Debug, self.io.now) {
                tracing::debug!(peer = %back.stream.peer, "a lane was dropped: its worker has too much mail");
            }
        }
    }

    /// Takes a newcomer out of this worker. None: datagrams carry it, and they came to the right
    /// one.
    fn take_out(&mut self, key: usize, joins: Joins) -> Option<HandedOver> {
        let (_, lane) = self.connections.lane_mut(key)?;
        let readable = lane.readable.iter().copied().collect();
        let (stream, app) = self.connections.hand_over(&mut self.io, key)?;
        let newcomer = match app {
            App::Transfer(lane) => match lane.phase {
                LanePhase::Arriving(newcomer) => newcomer,
                LanePhase::Serving { .. } | LanePhase::Closing => return None,
            },
            App::Undecided(_) => return None,
        };
        Some(HandedOver {
            stream,
            newcomer,
            readable,
            joins,
        })
    }

    /// Another worker hands a connection over.
    pub(crate) fn take_over(&mut self, handed: HandedOver) {
        let HandedOver {
            stream,
            newcomer,
            readable,
            joins,
        } = handed;
        let mut lane = TransferLane::new(LanePhase::Arriving(newcomer));
        lane.readable.extend(readable);
        let app = App::Transfer(Box::new(lane));
        let Some(key) = self.connections.take_over(&mut self.io, stream, app) else {
            return;
        };
        let connection = self.connections.get(key);
        let peer = connection.and_then(|connection| connection.conn.peer_fingerprint());
        if peer.is_some_and(|peer| self.refuse_beyond_share(key, &peer)) {
            return;
        }
        match self.sessions.find(joins.session) {
            Some(session) => self.join_served_lane(key, session, joins),
            None => self.tell_newcomer(key, NewcomerInput::SessionExists(false)),
        }
    }

    fn join_served_lane(&mut self, key: usize, session: usize, joins: Joins) {
        let connection = self.connections.get(key);
        let peer = connection.and_then(|connection| connection.conn.peer_fingerprint());
        let Some(peer) = peer else { return };
        let Joins { number, kind, .. } = joins;
        self.serve(key, session, kind);
        let lane = LaneKey(key);
        let joins = LanesInput::Joins {
            lane,
            number,
            peer,
            kind,
        };
        self.tell(session, joins);
    }
}
