//! One session against another, one random step at a time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Rng;
use super::disk::Disk;
use super::ops::Handles;
use super::tap::Tap;
use super::wire::{Pipe, Wire};
use crate::ids::{MoverId, StreamKey};
use crate::proto::query::QUERIES_MAX;
use crate::proto::session::{Direction, Grant, Limits, Request, Session};
use crate::proto::wire::MAX_PART_BYTES;
use crate::proto::{Event, Input, Outcome, Output, PIECE_BYTES, PIPED_BYTES, Payload};

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

/// More steps than any test tree needs by far: reaching it means the sessions chase each other for
/// ever.
const MAX_STEPS: usize = 3_000_000;

/// Record heads and tails ride on top of the data the read-ahead is about, and the last read may
/// overshoot it.
const READ_AHEAD_SLACK_BYTES: usize = 2 * PIECE_BYTES;

/// Why [`World::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Both sessions finished and nothing is under way.
    Finished,
    /// The steps asked for were made.
    Reached,
}

/// Something that may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// A piece of the control stream this side reads, or its end.
    Control(usize),
    /// The transport takes stream data of the sender.
    Take,
    /// The receiver gets stream data.
    Data,
    /// A disk operation of this side completes.
    Disk(usize),
    /// This side's deadline is due.
    Tick(usize),
}

pub struct Side {
    session: Option<Session>,
    pub disk: Disk,
    pub handles: Handles,
    pub limits: Limits,
    pub standing: Standing,
    pub outcome: Option<Outcome>,
    pub events: Vec<Event>,
}

/// What a session said last of itself.
#[derive(Debug)]
pub struct Standing {
    takes_data: bool,
    answers_max: Option<usize>,
    pieces: HashMap<StreamKey, usize>,
}

pub struct World {
    pub sides: [Side; 2],
    pub wire: Wire,
    pub tap: Tap,
    pub sender: usize,
    now: Instant,
    rng: Rng,
    weights: [usize; 8],
    weights_for: usize,
    pub steps: usize,
    /// How long every operation of either disk takes at least; zero: whatever the seed makes of it.
    disk_latency: Duration,
    /// Of a hundred operations of either disk, so many never end.
    hanging_percent: u64,
    /// The sender's transport carries what stays in the kernel.
    takes_pipes: bool,
    /// What answers to queries may read at a time, whatever a sender may.
    answers_bytes: usize,
}

/// An operation that never ends is one that would end when nobody is there any more.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl World {
    /// `start` is any instant; only differences matter.
    pub fn new(
        mut rng: Rng,
        start: Instant,
        asked: (Request, Grant),
        limits: [Limits; 2],
        disks: [Disk; 2],
    ) -> World {
        let (request, grant) = asked;
        let sender = match &request {
            Request::Transfer(transfer) if transfer.direction == Direction::Push => CLIENT,
            Request::Transfer(_) | Request::List { .. } | Request::Queries => SERVER,
            Request::Bench { .. } => unreachable!("benchmarks have a world of their own"),
        };
        let answers_bytes = match request {
            Request::Queries => QUERIES_MAX * MAX_PART_BYTES,
            _ => 0,
        };
        let [client_limits, server_limits] = limits;
        let mut disks = disks;
        disks[sender].in_place = rng.chance(30);
        let [client_disk, server_disk] = disks;
        let client = Session::client(start, request, client_limits.clone());
        let server = Session::server(start, grant, server_limits.clone());
        let side = |session, disk, limits| Side {
            session: Some(session),
            disk,
            handles: Handles::default(),
            limits,
            standing: Standing {
                takes_data: true,
                answers_max: None,
                pieces: HashMap::new(),
            },
            outcome: None,
            events: Vec::new(),
        };
        // Of a generator of its own, so that seeds are what they were.
        let takes_pipes = rng.clone().chance(50);
        let window = rng.pick(&[20_000, 200_000, 2_000_000]);
        let mut world = World {
            sides: [
                side(client, client_disk, client_limits),
                side(server, server_disk, server_limits),
            ],
            wire: Wire::new(window),
            tap: Tap::default(),
            sender,
            now: start,
            rng,
            weights: [1; 8],
            weights_for: 0,
            steps: 0,
            disk_latency: Duration::ZERO,
            hanging_percent: 0,
            takes_pipes,
            answers_bytes,
        };
        world.drain(CLIENT);
        world.drain(SERVER);
        world
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    /// From now on every disk operation takes at least so long.
    pub fn slow_disks(&mut self, latency: Duration) {
        self.disk_latency = latency;
    }

    /// From now on some disk operations never end.
    pub fn hang_disks(&mut self, percent: u64) {
        self.hanging_percent = percent;
    }

    /// Makes steps until both are finished, at most `steps`.
    ///
    /// # Panics
    /// When nothing can happen and somebody is not finished, or when it goes on for ever.
    pub fn run(&mut self, steps: usize) -> Stop {
        for _ in 0..steps {
            let Some(action) = self.choose() else {
                self.check_end();
                return Stop::Finished;
            };
            self.act(action);
            self.steps += 1;
            assert!(self.steps < MAX_STEPS, "no end in sight: {}", self.state());
        }
        Stop::Reached
    }

    fn choose(&mut self) -> Option<Action> {
        // Phases in which some things are quick and others stall.
        if self.weights_for == 0 {
            self.weights_for = 20 + self.rng.below(600);
            for weight in &mut self.weights {
                *weight = self.rng.pick(&[0, 1, 1, 5, 30]);
            }
        }
        self.weights_for -= 1;
        self.now += Duration::from_nanos(self.rng.next() % 200_000);
        let actions = self.possible();
        if actions.is_empty() && self.sides.iter().all(|side| side.session.is_none()) {
            return None;
        }
        if actions.is_empty() {
            return self.jump_to_deadline();
        }
        let total: usize = actions.iter().map(|action| self.weight(*action)).sum();
        if total == 0 {
            return Some(self.rng.pick(&actions));
        }
        let mut at = self.rng.below(total);
        actions
            .into_iter()
            .find(|action| match at.checked_sub(self.weight(*action)) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            })
    }

    fn weight(&self, action: Action) -> usize {
        self.weights[match action {
            Action::Control(side) => side,
            Action::Take => 2,
            Action::Data => 3,
            Action::Disk(side) => 4 + side,
            Action::Tick(side) => 6 + side,
        }]
    }

    fn possible(&self) -> Vec<Action> {
        let mut actions = Vec::with_capacity(8);
        for side in [CLIENT, SERVER] {
            let incoming = &self.wire.control[1 - side];
            let answers_max = self.sides[side].standing.answers_max;
            let is_read =
                answers_max.is_none_or(|most| self.wire.control[side].waiting_bytes() <= most);
            let open = self.sides[side].session.is_some() && is_read;
            if open && (incoming.has_bytes() || incoming.closed && !incoming.close_delivered) {
                actions.push(Action::Control(side));
            }
            if self.sides[side]
                .handles
                .pending
                .iter()
                .any(|pending| pending.is_ready(self.now))
            {
                actions.push(Action::Disk(side));
            }
            if self
                .deadline(side)
                .is_some_and(|deadline| deadline <= self.now)
            {
                actions.push(Action::Tick(side));
            }
        }
        if self.wire.can_take() {
            actions.push(Action::Take);
        }
        let receiver = &self.sides[1 - self.sender];
        if self.wire.can_deliver() && (receiver.session.is_none() || receiver.standing.takes_data) {
            actions.push(Action::Data);
        }
        actions
    }

    fn deadline(&self, side: usize) -> Option<Instant> {
        self.sides[side]
            .session
            .as_ref()
            .and_then(Session::deadline)
    }

    /// Nothing can happen now: to what time alone brings first.
    fn jump_to_deadline(&mut self) -> Option<Action> {
        let ticks = |side| Some((self.deadline(side)?, 0, side));
        let disks = |side: usize| {
            let pending = &self.sides[side].handles.pending;
            Some((
                pending
                    .iter()
                    .filter_map(|pending| pending.ready_at)
                    .min()?,
                1,
                side,
            ))
        };
        let both = [CLIENT, SERVER].into_iter();
        let (at, what, side) = both
            .flat_map(|side| [ticks(side), disks(side)])
            .flatten()
            .min()?;
        self.now = self.now.max(at);
        Some(if what == 0 {
            Action::Tick(side)
        } else {
            Action::Disk(side)
        })
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Control(side) => {
                let pipe = &mut self.wire.control[1 - side];
                let input = match pipe.has_bytes() {
                    true => Input::Control(pipe.deliver(&mut self.rng)),
                    false => {
                        pipe.close_delivered = true;
                        Input::ControlClosed
                    }
                };
                if let (Input::Control(bytes), true) = (&input, side == self.sender) {
                    self.tap.delivered_to_sender(bytes.clone());
                }
                self.input(side, input);
            }
            Action::Take => {
                let bytes = self.wire.take(&mut self.rng) as u64;
                let mover = MoverId::CONTROL;
                if self.takes_pipes {
                    self.input(self.sender, Input::TakesPipes { mover });
                }
                if bytes > 0 {
                    self.input(self.sender, Input::Sent { mover, bytes });
                }
            }
            Action::Data => {
                if let Some((stream, bytes, fin)) = self.wire.deliver(&mut self.rng) {
                    if self.sides[1 - self.sender].session.is_some() {
                        self.tap.delivered_to_receiver(stream, bytes.clone());
                    }
                    self.input(1 - self.sender, Input::Data { stream, bytes, fin });
                }
            }
            Action::Disk(side) => {
                let Side { disk, handles, .. } = &mut self.sides[side];
                let mut ready: Vec<usize> = (0..handles.pending.len()).collect();
                ready.retain(|&at| handles.pending[at].is_ready(self.now));
                let at = self.rng.pick(&ready);
                let (op, result) = handles.complete(at, disk, &mut self.rng);
                self.input(side, Input::Disk { op, result });
            }
            Action::Tick(side) => self.input(side, Input::Tick),
        }
    }

    /// Hands an input to a side (one that is finished no longer listens) and does what it says.
    pub fn input(&mut self, side: usize, input: Input) {
        if let Some(session) = &mut self.sides[side].session {
            let is_tick = matches!(input, Input::Tick);
            session.handle(self.now, input);
            self.drain(side);
            let moved = self.sides[side]
                .session
                .as_ref()
                .is_none_or(|session| session.has_moved_on(self.now));
            assert!(!is_tick || moved, "a tick moved nothing: {}", self.state());
        }
    }

    fn drain(&mut self, side: usize) {
        let mut progress_events = 0;
        while let Some(output) = self.sides[side].session.as_mut().and_then(Session::poll) {
            match output {
                Output::Control(bytes) => {
                    match side == self.sender {
                        true => self.tap.sender_emits(bytes.clone()),
                        false => self.tap.receiver_emits(bytes.clone()),
                    }
                    self.wire.control[side].emit(bytes);
                }
                Output::Data {
                    stream,
                    payload,
                    fin,
                    ..
                } => self.emit_data(side, stream, payload, fin),
                Output::Stays(_) | Output::Retired(_) | Output::AddsLanes { .. } => {}
                Output::LaneOver(_)
                | Output::LaneAccount(_)
                | Output::Altered
                | Output::ToOutpost(..)
                | Output::ToHome(_) => {
                    panic!("an account of lanes that nobody added")
                }
                Output::Piece { stream, bytes } => {
                    let pieces = &mut self.sides[side].standing.pieces;
                    let before = match bytes {
                        Some(bytes) => pieces.insert(stream, bytes),
                        None => pieces.remove(&stream),
                    };
                    assert_ne!(before, bytes, "said of {stream:?}, and did not change");
                    assert!(bytes.is_none_or(|bytes| (1..=PIECE_BYTES).contains(&bytes)));
                }
                Output::TakesData(takes_data) => {
                    let before =
                        std::mem::replace(&mut self.sides[side].standing.takes_data, takes_data);
                    assert_ne!(before, takes_data, "said, and did not change");
                }
                Output::AnswersMax(most) => {
                    let before =
                        std::mem::replace(&mut self.sides[side].standing.answers_max, most);
                    assert_ne!(before, most, "said, and did not change");
                }
                Output::Copy(_) => panic!("this lane leads to another host"),
                Output::Disk { op, cmd } => {
                    let handles = &mut self.sides[side].handles;
                    handles.start(op, cmd);
                    let latency = match self.rng.chance(self.hanging_percent) {
                        true => NEVER,
                        false => self.disk_latency,
                    };
                    if let (Some(pending), false) = (handles.pending.last_mut(), latency.is_zero())
                    {
                        pending.ready_at = Some(self.now + latency);
                    }
                }
                Output::Event(event) => {
                    progress_events += usize::from(matches!(event, Event::Progress { .. }));
                    self.sides[side].events.push(event);
                }
                Output::Finished(outcome) => self.finish(side, outcome),
            }
        }
        assert!(
            progress_events <= 1,
            "{progress_events} progress events for one input"
        );
        self.check_bounds(side);
    }

    fn emit_data(&mut self, side: usize, stream: StreamKey, payload: Payload, fin: bool) {
        assert_eq!(side, self.sender, "a receiver sends no data");
        let data = match payload {
            Payload::Bytes(bytes) | Payload::FileData(bytes) => bytes,
            Payload::Piped { data, len_bytes } => {
                assert!(self.takes_pipes, "a pipe that nobody takes");
                super::ops::in_kernel(&data, len_bytes)
            }
        };
        self.tap.sender_emits_data(stream, data.clone(), fin);
        self.wire.emit_data(stream, data, fin);
    }

    fn finish(&mut self, side: usize, outcome: Outcome) {
        let session = self.sides[side].session.take();
        assert!(
            session.is_some_and(|mut session| session.poll().is_none()),
            "outputs after Finished"
        );
        let standing = &self.sides[side].standing;
        assert!(standing.takes_data, "what comes late is not to wait");
        let broken = matches!(outcome, Outcome::Violation(_));
        assert!(broken || standing.pieces.is_empty(), "{standing:?}");
        self.sides[side].outcome = Some(outcome);
        self.wire.control[side].closed = true;
        // Nobody reads what still comes this way.
        self.wire.control[1 - side].cut();
    }

    fn check_bounds(&self, side: usize) {
        let Side {
            disk,
            handles,
            limits,
            session,
            ..
        } = &self.sides[side];
        if side == self.sender {
            let ahead = handles.reading_bytes() + self.wire.untaken_bytes;
            let most = match disk.in_place {
                true => limits
                    .read_ahead_bytes
                    .min(limits.read_ahead_in_place_bytes),
                false => limits.read_ahead_bytes,
            };
            let piped = match self.takes_pipes {
                true => PIPED_BYTES,
                false => 0,
            };
            assert!(
                ahead <= (most + READ_AHEAD_SLACK_BYTES + piped).max(self.answers_bytes),
                "{ahead} bytes are read ahead"
            );
            let window = self.sides[1 - side].limits.entry_window as usize;
            assert!(
                self.tap.most_unresolved <= window,
                "{} entries are unresolved",
                self.tap.most_unresolved
            );
            let streams = limits.parallel.max_concurrent_streams + 1;
            assert!(
                self.wire.most_streams_open <= streams,
                "{} streams are open",
                self.wire.most_streams_open
            );
        } else {
            // The piece that reached the limit, and a small file it made whole.
            let most = limits.write_behind_bytes + 2 * PIECE_BYTES;
            assert!(
                handles.writing_bytes <= most,
                "{} bytes are written behind",
                handles.writing_bytes
            );
        }
        if session.is_some() {
            // The walk opens and lists, a few large files are opened; all else is bounded by
            // `lookups`.
            let lookups = handles.lookups_under_way();
            assert!(
                lookups <= limits.lookups + 16,
                "{lookups} lookups are under way"
            );
        }
    }

    fn check_end(&self) {
        for side in &self.sides {
            assert!(
                side.outcome.is_some() || side.session.is_none(),
                "nothing can happen: {}",
                self.state()
            );
        }
    }

    /// The process dies: `kill -9`. What it had under way on its disk may have happened or not.
    pub fn kill(&mut self, side: usize) {
        self.sides[side].session = None;
        let handles = std::mem::take(&mut self.sides[side].handles);
        handles.crash(&mut self.sides[side].disk, &mut self.rng);
        self.cut();
    }

    /// The connection is gone for good. Some of what had arrived may still be handed over.
    pub fn cut(&mut self) {
        for side in [CLIENT, SERVER] {
            while self.wire.control[1 - side].has_bytes() && self.rng.chance(60) {
                self.act(Action::Control(side));
            }
        }
        self.wire.control.iter_mut().for_each(Pipe::cut);
        for _ in self.wire.reset_all() {
            self.input(1 - self.sender, Input::DataReset);
        }
    }

    /// For panics: who waits for what.
    pub fn state(&self) -> String {
        let side = |at: usize| {
            let Side {
                handles,
                outcome,
                session,
                events,
                ..
            } = &self.sides[at];
            let (dirs, files) = handles.open_count();
            format!(
                "{} {:?} (session {}, {} operations under way, {dirs} directories, {files} files, {} events)",
                ["client", "server"][at],
                outcome,
                if session.is_some() { "runs" } else { "is gone" },
                handles.pending.len(),
                events.len(),
            )
        };
        let standing = self.sides.each_ref().map(|side| &side.standing);
        format!(
            "{}; {}; {} announced, {} unsent, takes {}, delivers {}, {standing:?}, step {}",
            side(CLIENT),
            side(SERVER),
            self.tap.announced.len(),
            self.wire.untaken_bytes,
            self.wire.can_take(),
            self.wire.can_deliver(),
            self.steps
        )
    }

    pub fn into_disks(self) -> [Disk; 2] {
        self.sides.map(|side| side.disk)
    }
}
