//! The sessions of a worker: each with its lanes' machine and its files.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use crate::disk::Space;
use crate::ids::{Fingerprint, SessionId, WorkerId};
use crate::metrics::{FlowDirection, Metric};
use crate::proto::Outcome;
use crate::proto::lanes::{Lanes, QuestionId};
use crate::proto::ports::RecordsMoved;
use crate::worker::event_loop::Loop;
use crate::worker::log::{SessionLanes, SessionLog};
use crate::worker::outpost_mail::PeerAt;
use crate::worker::shared::PeerAccess;
use crate::worker::timers::{Scheduled, Timer};

/// Sessions of one peer on one worker whose lanes are cut, and that wait for others.
const WAITING_MAX: usize = 8;

pub(crate) struct Running {
    pub(crate) serial: u64,
    pub(crate) id: SessionId,
    pub(crate) lanes: Lanes,
    pub(crate) space: Rc<Space>,
    pub(crate) peer: Fingerprint,
    /// What a daemon let the peer do when the session began, unless it does no longer.
    pub(crate) allowed: Option<PeerAccess>,
    pub(crate) is_client: bool,
    /// The session's own worker, if this is but a part of it (`proto/lanes/outpost.rs`).
    pub(crate) home: Option<WorkerId>,
    /// Of such a part on a command: where its lanes are dialled.
    pub(crate) dials: Option<PeerAt>,
    /// What lanes of it carried here that are gone.
    pub(crate) carried: SessionLanes,
    /// When it began, until the first data of it moved.
    pub(crate) awaits_data: Option<Instant>,
    /// What of it is in the worker's numbers.
    counted: RecordsMoved,
    /// What the lanes said last: whether data is to be read, and whether signs of life are wanted.
    pub(crate) takes_data: bool,
    pub(crate) listens: bool,
    pub(crate) finished: Option<Outcome>,
    pub(crate) log: SessionLog,
    timer: Scheduled,
    /// What the machine kept when that was last added up.
    held_bytes: u64,
}

/// What a session begins with.
pub(crate) struct Beginning {
    pub(crate) id: SessionId,
    /// Where the peer is.
    pub(crate) address: SocketAddr,
    pub(crate) peer: Fingerprint,
    pub(crate) lanes: Lanes,
    pub(crate) space: Space,
    /// On a daemon: what the peer may do. None: this is the client's side.
    pub(crate) allowed: Option<PeerAccess>,
    /// The session's own worker, if this is but a part of it.
    pub(crate) home: Option<WorkerId>,
    /// Of such a part on a command: where its lanes are dialled.
    pub(crate) dials: Option<PeerAt>,
}

#[derive(Default)]
pub(crate) struct Sessions {
    table: slab::Slab<Running>,
    ids: HashMap<SessionId, usize>,
    /// What all keep because their peers said or asked for something.
    held_bytes: u64,
    /// Questions whether older sessions live, with how many of these have not answered.
    questions: HashMap<QuestionId, usize>,
}

impl Running {
    /// Counts what was moved since that was last counted.
    pub(crate) fn count_records(&mut self, io: &Loop) {
        let now = self.lanes.records_moved();
        let before = std::mem::replace(&mut self.counted, now);
        for (flow, more) in [
            (FlowDirection::Sent, now.sent - before.sent),
            (FlowDirection::Received, now.received - before.received),
        ] {
            io.numbers.add(Metric::Records, [flow as usize], more);
        }
    }
}

impl Sessions {
    /// Counts what all did since that was last counted, and how many there are.
    pub(crate) fn count(&mut self, io: &Loop) {
        let (mut at_home, mut outgoing) = (0, 0);
        for (_, running) in &mut self.table {
            running.count_records(io);
            at_home += u64::from(running.home.is_none());
            outgoing += running.lanes.outgoing_streams() as u64;
        }
        io.numbers.set(Metric::Sessions, [], at_home);
        let sent = [FlowDirection::Sent as usize];
        io.numbers.set(Metric::Streams, sent, outgoing);
    }

    pub(crate) fn get(&self, key: usize) -> Option<&Running> {
        self.table.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: usize) -> Option<&mut Running> {
        self.table.get_mut(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Running)> {
        self.table.iter()
    }

    pub(crate) fn keys(&self) -> Vec<usize> {
        self.table.iter().map(|(key, _)| key).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Gives back the room of sessions that are over.
    pub(crate) fn shrink(&mut self) {
        self.table.shrink_to_fit();
        self.ids.shrink_to_fit();
        self.questions.shrink_to_fit();
    }

    pub(crate) fn find(&self, id: SessionId) -> Option<usize> {
        self.ids.get(&id).copied()
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub(crate) fn held_bytes_of(&self, key: usize) -> u64 {
        self.table.get(key).map_or(0, |running| running.held_bytes)
    }

    pub(crate) fn begin(&mut self, io: &mut Loop, begin: Beginning) -> usize {
        let id = begin.id;
        let confined = begin.allowed.as_ref().and_then(|it| it.path.clone());
        let key = self.table.insert(Running {
            serial: io.serial(),
            id,
            lanes: begin.lanes,
            space: Rc::new(begin.space),
            peer: begin.peer,
            is_client: begin.allowed.is_none(),
            allowed: begin.allowed,
            home: begin.home,
            dials: begin.dials,
            carried: SessionLanes::default(),
            awaits_data: begin.home.is_none().then_some(io.now),
            counted: RecordsMoved::default(),
            takes_data: true,
            listens: false,
            finished: None,
            log: SessionLog::new(begin.address, confined.as_deref(), io.now),
            timer: Scheduled::default(),
            held_bytes: 0,
        });
        self.ids.insert(id, key);
        key
    }

    pub(crate) fn remove(&mut self, key: usize) -> Option<Running> {
        let running = self.table.try_remove(key)?;
        self.held_bytes -= running.held_bytes;
        self.ids.remove(&running.id);
        Some(running)
    }

    /// Whether a session whose lane is cut may wait for another: there are few such of its peer,
    /// which costs that nothing meanwhile, not even a connection.
    pub(crate) fn may_wait(&self, key: usize) -> bool {
        let Some(running) = self.table.get(key) else {
            return false;
        };
        let waits = |other: &Running| other.peer == running.peer && other.lanes.is_cut();
        let waiting = self.table.iter().filter(|(_, other)| waits(other)).count();
        waiting < WAITING_MAX
    }

    /// It waits for another lane to take over, and has none.
    pub(crate) fn is_cut(&self, key: usize) -> bool {
        self.table
            .get(key)
            .is_some_and(|running| running.lanes.is_cut())
    }

    /// The session with this key, if it is the one with this serial number.
    pub(crate) fn get_same(&mut self, key: usize, serial: u64) -> Option<&mut Running> {
        let found = self.table.get_mut(key);
        found.filter(|running| running.serial == serial)
    }

    /// A session's timer is due, and was not overtaken.
    pub(crate) fn surfaced(&mut self, io: &Loop, key: usize, serial: u64) -> bool {
        self.get_same(key, serial)
            .is_some_and(|running| running.timer.surfaced(io.now))
    }

    /// Puts a session's next deadline into the loop's timers, and adds up what it keeps.
    pub(crate) fn schedule(&mut self, io: &mut Loop, key: usize) {
        let Some(running) = self.table.get_mut(key) else {
            return;
        };
        let serial = running.serial;
        let timer = Timer::Session { key, serial };
        let deadline = running.lanes.deadline();
        running.timer.want(deadline, &mut io.timers, timer);
        let held_bytes = running.lanes.held_bytes();
        let before = std::mem::replace(&mut running.held_bytes, held_bytes);
        self.held_bytes = self.held_bytes + held_bytes - before;
    }

    /// So many sessions are asked.
    pub(crate) fn open_question(&mut self, id: QuestionId, asked: usize) {
        self.questions.insert(id, asked);
    }

    /// One of them is settled. True: all are.
    pub(crate) fn settle_question(&mut self, id: QuestionId) -> bool {
        let Some(open) = self.questions.get_mut(&id) else {
            return false;
        };
        *open -= 1;
        let is_settled = *open == 0;
        if is_settled {
            self.questions.remove(&id);
        }
        is_settled
    }

    /// Of the identity whose sessions keep most, the one that keeps most. `is_over`: its lanes go
    /// already; such a one ends as soon as its files are closed.
    pub(crate) fn heaviest_of_the_heaviest(
        &self,
        is_over: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut identities: HashMap<Fingerprint, (u64, u64, usize)> = HashMap::new();
        for (key, running) in &self.table {
            if is_over(key) {
                continue;
            }
            let identity = identities
                .entry(running.peer)
                .or_insert((0, running.held_bytes, key));
            identity.0 += running.held_bytes;
            if running.held_bytes > identity.1 {
                (identity.1, identity.2) = (running.held_bytes, key);
            }
        }
        identities
            .into_values()
            .max_by_key(|(bytes, _, _)| *bytes)
            .map(|(_, _, key)| key)
    }

    /// Holds the counters against the tables. `serves`: whether there is a session that a
    /// connection serves.
    #[cfg(debug_assertions)]
    pub(crate) fn check(&self, serves: impl Iterator<Item = usize>) {
        let held = self.table.iter().map(|(_, running)| running.held_bytes);
        assert_eq!(self.held_bytes, held.sum::<u64>());
        assert_eq!(self.ids.len(), self.table.len());
        for (key, running) in &self.table {
            assert_eq!(self.ids.get(&running.id), Some(&key));
        }
        for session in serves {
            assert!(self.table.contains(session));
        }
    }
}
