//! A TCP connection arrives at any worker: it becomes a lane there, if that may be, or is handed
//! over to the one where it is to be: its session's, or one that has fewer of its lanes.

use crate::ids::{SessionId, WorkerId};
use crate::proto::lanes::{DialKind, LaneKey, LanesInput, NewcomerInput};
use crate::worker::Worker;
use crate::worker::connections::app::App;
use crate::worker::handed_over::{HandedOver, Joins};
use crate::worker::lane::{LanePhase, TransferLane};
use crate::worker::log::Who;
use crate::worker::mailbox::Mail;

impl Worker {
    /// A newcomer wants to be a lane of a session, which may be another worker's.
    pub(super) fn join(&mut self, key: usize, joins: Joins) {
        let shared = &self.io.shared;
        let place = match joins.kind {
            DialKind::Add => shared
                .homes
                .place(&joins.session, self.io.id, shared.workers),
            // Home alone knows when all of them are to end.
            DialKind::AddClear => shared.homes.place_at_home(&joins.session),
            DialKind::Replace | DialKind::TakeOver => None,
        };
        let home = shared.homes.find(&joins.session).map(|home| home.worker);
        let here = self.io.id;
        let Some(there) = place.or(home).filter(|worker| *worker != here) else {
            return self.join_here(key, joins);
        };
        let Some(handed) = self.take_out(key, joins) else {
            self.leave_place(place.map(|place| (joins.session, place)));
            return self.tell_newcomer(key, NewcomerInput::SessionExists(false));
        };
        let mail = Mail::HandedOver(Box::new(handed));
        if let Err(Mail::HandedOver(back)) = self.io.shared.try_post(there, mail) {
            self.leave_place(place.map(|place| (joins.session, place)));
            // The lane is lost, and its client dials another one.
            let granted_bytes = back.stream.granted_bytes;
            self.io.shared.budget.return_window(granted_bytes);
            if self.io.log.admits(Who::Debug, self.io.now) {
                tracing::debug!(peer = %back.stream.peer, "a lane was dropped: its worker has too much mail");
            }
        }
    }

    /// A lane is none any more that had a place among those of its session.
    pub(super) fn leave_place(&self, place: Option<(SessionId, WorkerId)>) {
        if let Some((session, worker)) = place {
            self.io.shared.homes.left(&session, worker);
        }
    }

    /// A newcomer is to be a lane here.
    fn join_here(&mut self, key: usize, joins: Joins) {
        let found = self.sessions.find(joins.session);
        let session = found.or_else(|| self.begin_outpost(key, joins));
        match session {
            Some(session) => self.join_served_lane(key, session, joins),
            None => {
                if joins.kind.is_added() {
                    self.leave_place(Some((joins.session, self.io.id)));
                }
                self.tell_newcomer(key, NewcomerInput::SessionExists(false));
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
            App::Undecided(_) | App::Streams(_) => return None,
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
        let place = joins.kind.is_added().then_some((joins.session, self.io.id));
        let Some(key) = self.connections.take_over(&mut self.io, stream, app) else {
            return self.leave_place(place);
        };
        let connection = self.connections.get(key);
        let peer = connection.and_then(|connection| connection.conn.peer_fingerprint());
        match peer.is_some_and(|peer| self.refuse_beyond_share(key, &peer)) {
            true => self.leave_place(place),
            false => self.join_here(key, joins),
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
