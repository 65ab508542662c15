//! The sessions of a worker: each with its state machine, its files, its lanes, and what waits to
//! be sent.

pub(crate) mod questions;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use questions::Question;

use crate::disk::{Disk, Finished, Space};
use crate::ids::{Fingerprint, SessionId, StreamKey};
use crate::proto::session::Session;
use crate::proto::{Event, Input, Outcome, Output, Payload};
use crate::worker::client_events::ClientEvent;
use crate::worker::client_transfer::ClientTransfer;
use crate::worker::event_loop::Loop;
use crate::worker::log::SessionLog;
use crate::worker::shared::PeerAccess;
use crate::worker::timers::{Scheduled, Timer};

pub(crate) struct Running {
    pub(crate) serial: u64,
    pub(crate) id: SessionId,
    pub(crate) machine: Session,
    pub(crate) space: Rc<Space>,
    pub(crate) peer: Fingerprint,
    /// What a daemon let the peer do when the session began.
    pub(crate) allowed: Option<PeerAccess>,
    /// Why it does no longer.
    pub(crate) revoked: Option<&'static str>,
    /// Newest last: new data streams and control bytes go there.
    pub(crate) lanes: Vec<usize>,
    /// A lane is being connected to replace the newest.
    pub(crate) joining: bool,
    /// Not before: a server that refuses lanes is not asked in a loop.
    pub(crate) join_after: Instant,
    pub(crate) control_out: VecDeque<Bytes>,
    pub(crate) streams: HashMap<StreamKey, OutStream>,
    /// Streams with something queued, in the order they got it.
    pub(crate) order: VecDeque<StreamKey>,
    pub(crate) finished: Option<Outcome>,
    timer: Scheduled,
    /// Incoming data streams get their keys in order of appearance.
    pub(crate) next_incoming: u32,
    pub(crate) standing: Standing,
    pub(crate) is_client: bool,
    pub(crate) log: SessionLog,
    /// What the machine kept when that was last added up.
    held_bytes: u64,
}

/// What the machine said last of itself (`proto::Output`).
pub(crate) struct Standing {
    /// This side says where a lane ends that was replaced.
    pub(crate) leads: bool,
    pub(crate) takes_data: bool,
    answers_max: Option<usize>,
    /// Incoming streams of which the next bytes are best handed over together.
    pub(crate) pieces: HashMap<StreamKey, usize>,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing {
            leads: false,
            takes_data: true,
            answers_max: None,
            pieces: HashMap::new(),
        }
    }
}

impl Standing {
    /// The next bytes of an incoming stream are best handed over as one piece of so many.
    fn gather(&mut self, stream: StreamKey, piece: Option<usize>) {
        match piece {
            Some(bytes) => self.pieces.insert(stream, bytes),
            None => self.pieces.remove(&stream),
        };
    }
}

/// A data stream of ours that is not all accepted by QUIC yet.
pub(crate) struct OutStream {
    /// Lane and QUIC stream, once opened.
    pub(crate) opened: Option<(usize, u64)>,
    pub(crate) queue: VecDeque<Bytes>,
    pub(crate) fin: bool,
}

/// What a session begins with.
pub(crate) struct Beginning {
    pub(crate) id: SessionId,
    pub(crate) peer: Fingerprint,
    pub(crate) machine: Session,
    pub(crate) space: Space,
    /// On a daemon: what the peer may do. None: this is the client's side.
    pub(crate) allowed: Option<PeerAccess>,
}

impl Running {
    fn new(serial: u64, begin: Beginning, lane: usize, now: Instant) -> Running {
        Running {
            serial,
            id: begin.id,
            standing: Standing::default(),
            machine: begin.machine,
            space: Rc::new(begin.space),
            peer: begin.peer,
            is_client: begin.allowed.is_none(),
            allowed: begin.allowed,
            revoked: None,
            lanes: vec![lane],
            joining: false,
            join_after: now,
            control_out: VecDeque::new(),
            streams: HashMap::new(),
            order: VecDeque::new(),
            finished: None,
            timer: Scheduled::default(),
            next_incoming: 0,
            log: SessionLog::default(),
            held_bytes: 0,
        }
    }

    pub(crate) fn newest_lane(&self) -> Option<usize> {
        self.lanes.last().copied()
    }

    /// Whether a data stream that is not all accepted goes over this lane.
    pub(crate) fn has_streams_on(&self, lane: usize) -> bool {
        let mut opened = self.streams.values().filter_map(|out| out.opened);
        opened.any(|(on, _)| on == lane)
    }

    /// Queues bytes of a data stream.
    fn queue(&mut self, stream: StreamKey, bytes: Bytes, fin: bool) {
        let out = self.streams.entry(stream).or_insert_with(|| {
            self.order.push_back(stream);
            OutStream {
                opened: None,
                queue: VecDeque::new(),
                fin: false,
            }
        });
        if !bytes.is_empty() {
            out.queue.push_back(bytes);
        }
        out.fin |= fin;
    }

    /// Nothing of ours waits to be accepted by QUIC.
    pub(crate) fn all_accepted(&self) -> bool {
        self.control_out.is_empty()
            && self
                .streams
                .values()
                .all(|out| out.queue.is_empty() && !out.fin)
    }

    /// Whether more control bytes may be read now: what is acknowledged of our answers, or more
    /// room for them, touches the lane, and then it is read on.
    pub(crate) fn takes_control(&self) -> bool {
        let most = self.standing.answers_max;
        let waiting_bytes = || self.control_out.iter().map(Bytes::len).sum::<usize>();
        most.is_none_or(|most| waiting_bytes() <= most)
    }
}

pub(crate) struct Sessions {
    table: slab::Slab<Running>,
    ids: HashMap<SessionId, usize>,
    /// What all keep because their peers said or asked for something.
    held_bytes: u64,
    /// Older sessions that new ones of the same peer wait for.
    pub(crate) questions: Vec<Question>,
    /// When they are looked through next.
    pub(crate) review_at: Instant,
}

impl Sessions {
    pub(crate) fn new(now: Instant) -> Sessions {
        Sessions {
            table: slab::Slab::new(),
            ids: HashMap::new(),
            held_bytes: 0,
            questions: Vec::new(),
            review_at: now,
        }
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

    pub(crate) fn find(&self, id: SessionId) -> Option<usize> {
        self.ids.get(&id).copied()
    }

    /// A session's lanes, newest last.
    pub(crate) fn lanes(&self, key: usize) -> Vec<usize> {
        self.table
            .get(key)
            .map_or_else(Vec::new, |running| running.lanes.clone())
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub(crate) fn held_bytes_of(&self, key: usize) -> u64 {
        self.table.get(key).map_or(0, |running| running.held_bytes)
    }

    pub(crate) fn begin(&mut self, io: &mut Loop, begin: Beginning, lane: usize) -> usize {
        let id = begin.id;
        let running = Running::new(io.serial(), begin, lane, io.now);
        let key = self.table.insert(running);
        self.ids.insert(id, key);
        key
    }

    pub(crate) fn remove(&mut self, key: usize) -> Option<Running> {
        let running = self.table.try_remove(key)?;
        self.held_bytes -= running.held_bytes;
        self.ids.remove(&running.id);
        Some(running)
    }

    /// Tells a session's machine something. What it answers is for [`Sessions::drain`].
    pub(crate) fn tell(&mut self, now: Instant, key: usize, input: Input) {
        if let Some(running) = self.table.get_mut(key) {
            running.machine.handle(now, input);
        }
    }

    /// A disk operation came to its end. False: its session is no more.
    pub(crate) fn disk_finished(&mut self, now: Instant, finished: Finished) -> bool {
        let Finished {
            session,
            serial,
            op,
            result,
        } = finished;
        let found = self.table.get_mut(session);
        let running = found.filter(|running| running.serial == serial);
        let is_there = running.is_some();
        if let Some(running) = running {
            running.machine.handle(now, Input::Disk { op, result });
        }
        is_there
    }

    /// A session's timer is due. False: it was overtaken.
    pub(crate) fn expire(&mut self, key: usize, serial: u64, now: Instant) -> bool {
        let found = self.table.get_mut(key);
        let Some(running) = found.filter(|found| found.serial == serial) else {
            return false;
        };
        let surfaced = running.timer.surfaced(now);
        if surfaced && running.machine.deadline().is_some_and(|at| at <= now) {
            running.machine.handle(now, Input::Tick);
        }
        surfaced
    }

    /// Carries out everything a session wants, until it wants nothing. Gives how it ended, if it
    /// did.
    pub(crate) fn drain(
        &mut self,
        io: &mut Loop,
        disk: &mut Disk,
        client: Option<&ClientTransfer>,
        key: usize,
    ) -> Option<Outcome> {
        let running = self.table.get_mut(key)?;
        let mut ended = None;
        while let Some(output) = running.machine.poll() {
            match output {
                Output::Control(bytes) => running.control_out.push_back(bytes),
                Output::Data {
                    stream,
                    payload,
                    fin,
                } => match payload {
                    Payload::Bytes(bytes) => running.queue(stream, bytes, fin),
                    Payload::Range { .. } => unreachable!("QUIC says that it takes no ranges"),
                },
                Output::Copy(_) => unreachable!("QUIC says that it carries bytes"),
                Output::Piece { stream, bytes } => running.standing.gather(stream, bytes),
                Output::TakesData(takes_data) => running.standing.takes_data = takes_data,
                Output::AnswersMax(most) => running.standing.answers_max = most,
                Output::Leads => running.standing.leads = true,
                Output::Disk { op, cmd } => {
                    let space = running.space.clone();
                    disk.start(key, running.serial, &space, op, cmd);
                }
                Output::Event(event) => report(io, client, running, event),
                Output::Finished(outcome) => ended = Some(outcome),
            }
        }
        let timer = Timer::Session {
            key,
            serial: running.serial,
        };
        let deadline = running.machine.deadline();
        running.timer.want(deadline, &mut io.timers, timer);
        let held_bytes = running.machine.held_bytes();
        let before = std::mem::replace(&mut running.held_bytes, held_bytes);
        self.held_bytes = self.held_bytes + held_bytes - before;
        ended
    }

    /// Of the identity whose sessions keep most, the one that keeps most. `is_over`: a lane that
    /// goes already; a session that has no other ends as soon as its files are closed.
    pub(crate) fn heaviest_of_the_heaviest(
        &self,
        is_over: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut identities: HashMap<Fingerprint, (u64, u64, usize)> = HashMap::new();
        for (key, running) in &self.table {
            if running.lanes.iter().all(|&lane| is_over(lane)) {
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

    /// Holds the counters against the tables. `serves`: the session that a connection serves.
    #[cfg(debug_assertions)]
    pub(crate) fn check(&self, serves: impl Fn(usize) -> Option<usize>) {
        let held = self.table.iter().map(|(_, running)| running.held_bytes);
        assert_eq!(self.held_bytes, held.sum::<u64>());
        assert_eq!(self.ids.len(), self.table.len());
        for (key, running) in &self.table {
            assert_eq!(self.ids.get(&running.id), Some(&key));
            for &lane in &running.lanes {
                assert_eq!(serves(lane), Some(key));
            }
        }
    }
}

fn report(io: &mut Loop, client: Option<&ClientTransfer>, running: &mut Running, event: Event) {
    match client {
        Some(client) if running.is_client => client.tell(ClientEvent::Session(event)),
        _ => io
            .log
            .event(&mut running.log, &running.peer, &event, io.now),
    }
}
