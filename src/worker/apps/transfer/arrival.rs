//! Connections that arrive at a daemon: what they ask for, and the sessions that begin on them.

use std::time::Duration;

use crate::config::LaneKind;
use crate::disk::{Base, Space};
use crate::ids::{Fingerprint, SessionId};
use crate::metrics::Refusal;
use crate::proto::clear::{ClearLanes, ClearSecret};
use crate::proto::lanes::{
    DialKind, LaneKey, Lanes, Newcomer, NewcomerInput, NewcomerOutput, code,
};
use crate::proto::session::Session;
use crate::worker::Worker;
use crate::worker::connections::PeerShare;
use crate::worker::connections::app::App;
use crate::worker::handed_over::Joins;
use crate::worker::lane::{LanePhase, TransferLane};
use crate::worker::limits;
use crate::worker::log::{Refused, Who};
use crate::worker::sessions::Beginning;
use crate::worker::shared::{PeerAccess, Service};
use crate::worker::visits::Visit;

/// Operations on files that nobody waits for any more, of one worker: each holds a thread of its
/// driver, which has 512.
const HUNG_MAX: usize = 256;

const NO_ANSWER: &str =
    "a file system below the served directory does not answer, and holds too many operations";

const TOO_MANY: &str = "too many connections of this identity";

const OTHER_LANE: &str = "in the clear only the lane comes in that was admitted";

const NOT_AUTHORISED: &str = "this identity is not authorised here";

impl Worker {
    /// A peer's handshake is complete.
    pub(crate) fn lane_arrived(&mut self, key: usize, peer: &Fingerprint) {
        // The handshake asked already; a resumed one did not run the verify callback, and the list
        // may have been read again since.
        let authorised = self.io.shared.authorised(peer).is_some();
        // Before anything is refused: a connection that is dropped as a handshaking one is counted
        // off there.
        let newcomer = LanePhase::Arriving(Newcomer::new(self.io.now));
        let lane = App::Transfer(Box::new(TransferLane::new(newcomer)));
        self.connections.decide(&self.io, key, lane, authorised);
        let io = &self.io;
        if !authorised {
            self.connections
                .close(io, key, code::UNAUTHORISED, NOT_AUTHORISED);
            self.io.count_refusal(Refusal::Unauthorised);
            self.tell_refused(key, peer, super::lifecycle::NOT_AUTHORISED);
        } else if self.refuse_beyond_share(key, peer) {
            self.tell_refused(key, peer, TOO_MANY);
        } else {
            self.welcome_newcomer(key);
        }
    }

    /// Closes a connection of an identity that has too many. False: it has not.
    pub(super) fn refuse_beyond_share(&mut self, key: usize, peer: &Fingerprint) -> bool {
        let share = self.connections.share_of(&self.io, peer);
        if share != PeerShare::Within {
            self.io.count_refusal(Refusal::PeerShare);
        }
        match share {
            PeerShare::Within => {}
            PeerShare::Beyond => self.leave_and_close(key, code::BUSY, TOO_MANY),
            PeerShare::FarBeyond => self.connections.evict(&mut self.io, key, TOO_MANY),
        }
        share != PeerShare::Within
    }

    /// Says in the log which peer was not let in.
    pub(crate) fn tell_refused(&mut self, key: usize, peer: &Fingerprint, why: &str) {
        if let Some(connection) = self.connections.get(key) {
            let refused = Refused {
                who: Who::Peer(*peer),
                address: connection.peer,
                shown: Some(*peer),
                why,
            };
            self.io.log.refused(&refused, self.io.now);
        }
    }

    /// Tells a newcomer something and does what it wants.
    pub(crate) fn tell_newcomer(&mut self, key: usize, input: NewcomerInput) {
        if let Some(newcomer) = self.connections.newcomer_mut(key) {
            newcomer.handle(self.io.now, input);
            self.welcome_newcomer(key);
        }
    }

    fn welcome_newcomer(&mut self, key: usize) {
        while let Some(newcomer) = self.connections.newcomer_mut(key)
            && let Some(output) = newcomer.poll()
        {
            match output {
                NewcomerOutput::ReadControl { most_bytes } => {
                    self.read_control_up_to(key, most_bytes);
                }
                NewcomerOutput::Ask => {
                    let workers = self.ask_all_workers(key);
                    self.tell_newcomer(key, NewcomerInput::Asked { workers });
                }
                NewcomerOutput::Begin { .. } if self.is_clear(key) => {
                    self.leave_and_close(key, code::VIOLATION, OTHER_LANE);
                }
                NewcomerOutput::Begin { session } => match self.sessions.find(session) {
                    Some(_) => self.tell_newcomer(key, NewcomerInput::SessionExists(true)),
                    None => self.begin_served_session(key, session),
                },
                NewcomerOutput::Join {
                    session,
                    number,
                    kind,
                } => {
                    let joins = Joins {
                        session,
                        number,
                        kind,
                    };
                    match self.as_admitted(key, joins) {
                        Some(joins) => self.join(key, joins),
                        None => self.leave_and_close(key, code::VIOLATION, OTHER_LANE),
                    }
                }
                NewcomerOutput::Close { code, text } => self.leave_and_close(key, code, &text),
            }
        }
        let deadline = self.connections.newcomer_mut(key).map(|it| it.deadline());
        if let (Some(deadline), Some(connection)) = (deadline, self.connections.get_mut(key)) {
            connection.deadline = deadline;
            self.connections.touch(key);
        }
    }

    fn is_clear(&self, key: usize) -> bool {
        let connection = self.connections.get(key);
        connection.is_some_and(|it| it.conn.clear_lane().is_some())
    }

    /// A connection in the clear may be the very lane that it was admitted as, and nothing else.
    fn as_admitted(&self, key: usize, joins: Joins) -> Option<Joins> {
        let Some(clear) = self.connections.get(key)?.conn.clear_lane() else {
            return Some(joins);
        };
        let is_it = clear.session == joins.session && clear.lane == joins.number;
        (is_it && joins.kind == DialKind::Add).then_some(Joins {
            kind: DialKind::AddClear,
            ..joins
        })
    }

    fn begin_served_session(&mut self, key: usize, id: SessionId) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let address = connection.peer;
        let Some(peer) = connection.conn.peer_fingerprint() else {
            return;
        };
        let Some(allowed) = self.io.shared.authorised(&peer) else {
            return self.leave_and_close(key, code::UNAUTHORISED, NOT_AUTHORISED);
        };
        let Some(service) = &self.io.shared.service else {
            return;
        };
        if self.disk.hung() >= HUNG_MAX {
            self.io.count_refusal(Refusal::DiskHangs);
            if self.io.log.admits(Who::Peer(peer), self.io.now) {
                let hung = self.disk.hung();
                tracing::error!(%peer, hung, "a session is refused: operations on files do not come back");
            }
            return self.leave_and_close(key, code::BUSY, NO_ANSWER);
        }
        // On another worker, too: the kernel gives a TCP connection to any.
        if !self.io.shared.homes.claim(id, self.io.id) {
            return self.tell_newcomer(key, NewcomerInput::SessionExists(true));
        }
        let part = service.root.part(allowed.path.clone());
        let now = self.io.now;
        let mut limits = limits::of_session(&self.io.shared, self.sessions.len());
        if let Some(service) = &self.io.shared.service {
            limits.addresses = service.addresses.look(self.io.now);
        }
        limits.clear = self.clear_lanes(&id, peer, &allowed);
        let session = Session::server(now, allowed.access, limits);
        let begun_on = self.connections.get(key).map(|it| it.conn.kind());
        let config = self.lanes_config((id, peer), begun_on.unwrap_or(LaneKind::Quic));
        let begin = Beginning {
            id,
            address,
            peer,
            lanes: Lanes::server(now, LaneKey(key), session, config),
            space: Space::new(Base::Served(part)).of_peer(&peer),
            allowed: Some(allowed),
            home: None,
            dials: None,
        };
        self.begin_session(key, begin);
        let at_unix_s = crate::worker::before(Duration::ZERO);
        let from = address.ip();
        self.io.shared.visits.note(peer, Visit { at_unix_s, from });
    }

    /// Whether a session may have lanes in the clear; the secret is known to all workers then.
    fn clear_lanes(&self, id: &SessionId, peer: Fingerprint, allowed: &PeerAccess) -> ClearLanes {
        let shared = &self.io.shared;
        let is_allowed = |service: &Service| service.allow_clear && allowed.clear;
        if !shared.service.as_ref().is_some_and(is_allowed) {
            return ClearLanes::Off;
        }
        let secret = ClearSecret(rand::random());
        shared.homes.let_in(id, peer, secret);
        ClearLanes::Allowed(secret)
    }
}
