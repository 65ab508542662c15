//! Two sides with their lanes over simulated connections, one random step at a time.
//!
//! The world does what a worker does: it maps lanes to connections, and decides nothing about them.

mod link;
mod mail;
mod steps;
mod tests;
mod troubles;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Rng;
use super::disk::{Disk, Ino};
use super::ops::Handles;
use super::scenario::Parts;
use crate::ids::{DirId, FileId, Fingerprint, OpId, SessionId, WorkerId};
use crate::proto::clear::{ClearLanes, ClearSecret};
use crate::proto::lanes::{
    DialKind, GOODPUT_WINDOW, KEPT_BYTES, LaneClosed, LaneKey, LaneStream, Lanes, LanesConfig,
    LanesInput, LanesOutput, Newcomer, NewcomerInput, NewcomerOutput, QuestionId, Taken, code,
};
use crate::proto::session::{Grant, Limits, Request, Session};
use crate::proto::{Event, Outcome};
use link::{EndState, Link, Room};
use mail::Mail;
use steps::Action;
use troubles::Troubles;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What both sides take for granted of their transports.
const HANDSHAKE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);

/// Far more steps than any tree here needs.
const MAX_STEPS: usize = 2_000_000;

/// A session on one side with what it has open on that side's disk.
struct Node {
    lanes: Lanes,
    handles: Handles,
    takes_data: bool,
    listens: bool,
    outcome: Option<Outcome>,
    finished_at: Option<Instant>,
    over: bool,
    events: Vec<Event>,
    side: usize,
    id: SessionId,
    /// What of a session is on another worker: whose, and which worker.
    home: Option<(usize, WorkerId)>,
    /// Added lanes may be on other workers; whether data goes from here to the peer.
    opens: Option<bool>,
    /// Operations on files of this session by what of it is on other workers.
    operations_of_others: HashMap<OpId, usize>,
    /// Descriptors of the session's files, of what of it is on another worker.
    descriptors: HashMap<FileId, usize>,
    directories: HashMap<DirId, Ino>,
    /// Small files that were read there.
    wholes: usize,
}

/// What a server says whose client was cut off before it said anything.
const NO_REQUEST: &str = "no request within 10 s";

/// Kinds of actions that have a weight of their own, for each side.
const KINDS: usize = 9;

struct World {
    nodes: Vec<Node>,
    disks: [Disk; 2],
    links: Vec<Link>,
    /// By link: who dialled (a node), and whose it is at the server.
    dialled: Vec<usize>,
    kinds: Vec<DialKind>,
    newcomers: Vec<Option<Newcomer>>,
    owners: Vec<Option<usize>>,
    mail: Mail,
    /// Open questions: how many sessions have not answered, by the link that waits.
    questions: Vec<(usize, usize)>,
    grant: Grant,
    server_limits: Limits,
    troubles: Troubles,
    now: Instant,
    rng: Rng,
    weights: [usize; KINDS * 2],
    weights_for: usize,
    /// In this phase control bytes overtake all data.
    control_first: bool,
    steps: usize,
    cut_any: bool,
    /// Lanes that carried control and were cut.
    control_cuts: usize,
    /// Of a connection that was closed one side heard nothing.
    goodbye_lost: bool,
    /// How often something in the clear was changed.
    altered: usize,
    windows: &'static [usize],
}

impl World {
    fn new(parts: Parts, troubles: Troubles, windows: &'static [usize]) -> World {
        let Parts {
            rng,
            request,
            limits: [client_limits, mut server_limits],
            disks,
        } = parts;
        server_limits.adds_lanes = troubles.adds_from_bytes.is_some();
        if troubles.is_clear {
            server_limits.clear = ClearLanes::Allowed(ClearSecret([7; 32]));
        }
        let mut world = World {
            nodes: Vec::new(),
            disks,
            links: Vec::new(),
            dialled: Vec::new(),
            kinds: Vec::new(),
            newcomers: Vec::new(),
            owners: Vec::new(),
            mail: Mail::default(),
            questions: Vec::new(),
            grant: Grant {
                read: true,
                write: true,
            },
            server_limits,
            troubles,
            now: super::start(),
            rng,
            weights: [1; KINDS * 2],
            weights_for: 0,
            control_first: false,
            steps: 0,
            cut_any: false,
            control_cuts: 0,
            goodbye_lost: false,
            altered: 0,
            windows,
        };
        world.begin_client(request, client_limits);
        world
    }

    /// A client begins a session on a connection of its own.
    fn begin_client(&mut self, request: Request, mut limits: Limits) -> usize {
        limits.adds_lanes = self.troubles.adds_from_bytes.is_some();
        if self.troubles.is_clear {
            limits.clear = ClearLanes::Wanted;
        }
        let node = self.nodes.len();
        let link = self.dial(node, DialKind::Replace);
        self.links[link].ends[CLIENT].state = EndState::Open;
        let session = Session::client(self.now, request, limits);
        let id = SessionId([node as u8; 16]);
        let lanes = Lanes::client(self.now, LaneKey(link), session, self.config(id));
        self.nodes.push(Node::new(CLIENT, id, lanes));
        self.drain(node);
        node
    }

    fn config(&self, id: SessionId) -> LanesConfig {
        LanesConfig {
            id,
            peer: PEER,
            handshake: HANDSHAKE,
            idle: IDLE,
            adds_from_bytes: self.troubles.adds_from_bytes.unwrap_or(0),
            kept_bytes: if self.troubles.forgets { 0 } else { KEPT_BYTES },
            adds: self.troubles.adds,
            add_pause_max: crate::proto::lanes::ADD_PAUSE_MAX,
            takeover_dials: crate::proto::lanes::TAKEOVER_DIALS,
            places: 1,
            workers: if self.troubles.away > 0 { 3 } else { 1 },
            outlives_lanes: self.troubles.adds_from_bytes.is_some(),
            goodput_window: self.troubles.goodput_window.unwrap_or(GOODPUT_WINDOW),
            begins_on_tcp: self.troubles.is_clear,
        }
    }

    fn dial(&mut self, node: usize, kind: DialKind) -> usize {
        self.kinds.push(kind);
        let mut link = Link::new(self.windows, &mut self.rng);
        if kind.is_added() {
            link.refuses = self.troubles.added_refusals;
            link.reads_together = kind == DialKind::AddClear;
        }
        self.links.push(link);
        self.dialled.push(node);
        self.newcomers.push(None);
        self.owners.push(None);
        self.links.len() - 1
    }

    /// Runs until every session is over on both sides and every newcomer is settled.
    fn run(&mut self) {
        while self.step() {}
    }

    /// The client's process dies. Nobody tells the server.
    fn kill_client(&mut self) {
        let node = &mut self.nodes[CLIENT];
        let handles = std::mem::take(&mut node.handles);
        node.over = true;
        handles.crash(&mut self.disks[CLIENT], &mut self.rng);
        for link in &mut self.links {
            link.cut = true;
            link.ends[CLIENT].state = EndState::Closed;
        }
        self.cut_any = true;
    }

    /// One step; false: nothing can happen any more.
    fn step(&mut self) -> bool {
        self.trouble();
        let Some(action) = self.choose() else {
            if self.unstall() {
                return true;
            }
            for node in &self.nodes {
                assert!(node.over, "nothing can happen: {}", self.state());
            }
            return false;
        };
        self.act(action);
        self.steps += 1;
        assert!(self.steps < MAX_STEPS, "no end in sight: {}", self.state());
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Establish { link, side } => self.establish(link, side),
            Action::Carry { link, side } => {
                self.links[link].carry(side, self.control_first, &mut self.rng);
                self.tell_heard(link, 1 - side);
            }
            Action::Read { link, side } => self.read(link, side),
            Action::Room { link, side } => {
                let bytes = self.rng.pick(&[1, 5_000, 128 << 10]);
                self.links[link].ends[side].room = Room::Idle;
                self.links[link].ends[side].blocked = false;
                let lane = LaneKey(link);
                if let Some(node) = self.owner(link, side) {
                    let takes_pipes = self.kinds[link] == DialKind::AddClear;
                    let room = LanesInput::Room {
                        lane,
                        bytes,
                        takes_pipes,
                    };
                    self.input(node, room);
                }
            }
            Action::Delivered { link, side } => {
                if let Some(stream) = self.links[link].delivered(side) {
                    self.links[link].ends[side].watched.remove(&stream);
                    let lane = LaneKey(link);
                    if let Some(node) = self.owner(link, side) {
                        self.input(node, LanesInput::Delivered { lane, stream });
                    }
                }
            }
            Action::Goodbye { link, side } => {
                let data = self.takes_data(link, side);
                let why = self.links[link].goodbye(side, data);
                self.gone(link, side, why.unwrap_or(LaneClosed::Otherwise));
            }
            Action::Notice { link, side } => {
                let why = match self.links[link].is_reset {
                    true => LaneClosed::Cut,
                    false => LaneClosed::Otherwise,
                };
                self.gone(link, side, why);
            }
            Action::Disk { node } => {
                let Node { handles, side, .. } = &mut self.nodes[node];
                let mut ready: Vec<usize> = (0..handles.pending.len()).collect();
                ready.retain(|&at| handles.pending[at].is_ready(self.now));
                let at = self.rng.pick(&ready);
                let (op, result) = handles.complete(at, &mut self.disks[*side], &mut self.rng);
                let node = self.operator(node, op);
                self.input(node, LanesInput::Disk { op, result });
            }
            Action::Tick { node } => {
                self.input(node, LanesInput::Tick);
                let moved = self.nodes[node].deadline().is_none_or(|at| at > self.now);
                assert!(moved, "a tick moved nothing: {}", self.state());
            }
            Action::Mail { way } => self.deliver(way),
            Action::TickNewcomer { link } => self.newcomer(link, NewcomerInput::Tick),
        }
    }

    fn establish(&mut self, link: usize, side: usize) {
        if side == CLIENT && self.rng.chance(self.troubles.dial_fails) {
            self.links[link].cut = true;
            self.cut_any |= self.kinds[link] == DialKind::Replace;
            return self.gone(link, CLIENT, LaneClosed::Otherwise);
        }
        let unproven = self.troubles.unproven;
        if side == SERVER && self.kinds[link] == DialKind::AddClear && self.rng.chance(unproven) {
            self.links[link].cut = true;
            return self.gone(link, SERVER, LaneClosed::Otherwise);
        }
        self.links[link].ends[side].state = EndState::Open;
        if side == CLIENT {
            let (lane, peer, kind) = (LaneKey(link), PEER, self.kinds[link]);
            self.input(self.dialled[link], LanesInput::Dialled { lane, peer, kind });
        } else {
            self.newcomers[link] = Some(Newcomer::new(self.now));
            self.drain_newcomer(link);
        }
    }

    /// A side's connection is closed or lost.
    fn gone(&mut self, link: usize, side: usize, why: LaneClosed) {
        let was = self.links[link].ends[side].state;
        self.links[link].ends[side].state = EndState::Closed;
        if side == SERVER {
            self.newcomers[link] = None;
        }
        let lane = LaneKey(link);
        match (was, self.owner(link, side)) {
            (EndState::Handshaking, Some(node)) => self.input(
                node,
                LanesInput::DialFailed {
                    kind: self.kinds[link],
                },
            ),
            (EndState::Open, Some(node)) => self.input(node, LanesInput::Closed { lane, why }),
            (EndState::Closed, _) | (_, None) => {}
        }
    }

    fn read(&mut self, link: usize, side: usize) {
        let data = self.takes_data(link, side);
        let (stream, bytes, fin) = self.links[link].read(side, data, &mut self.rng);
        let lane = LaneKey(link);
        match (self.owner(link, side), stream) {
            (Some(node), LaneStream::Control) => {
                self.input(node, LanesInput::Control { lane, bytes, fin });
            }
            (Some(node), LaneStream::OneWay(stream)) => {
                let input = LanesInput::Data {
                    lane,
                    stream,
                    bytes,
                    fin,
                };
                self.input(node, input);
            }
            (None, _) => self.newcomer(link, NewcomerInput::Control { bytes, fin }),
        }
    }

    fn tell_heard(&mut self, link: usize, side: usize) {
        if let Some(node) = self.owner(link, side)
            && self.nodes[node].listens
            && std::mem::take(&mut self.links[link].ends[side].heard)
        {
            let lane = LaneKey(link);
            self.input(node, LanesInput::Heard { lane });
        }
    }

    // ---- what a worker does for a newcomer

    fn newcomer(&mut self, link: usize, input: NewcomerInput) {
        if let Some(newcomer) = &mut self.newcomers[link] {
            newcomer.handle(self.now, input);
            self.drain_newcomer(link);
        }
    }

    fn drain_newcomer(&mut self, link: usize) {
        while let Some(output) = self.newcomers[link].as_mut().and_then(Newcomer::poll) {
            match output {
                NewcomerOutput::ReadControl { most_bytes } => {
                    self.links[link].ends[SERVER].control_most = most_bytes;
                }
                NewcomerOutput::Ask => self.ask(link),
                NewcomerOutput::Begin { session } => match self.served(session) {
                    Some(_) => self.newcomer(link, NewcomerInput::SessionExists(true)),
                    None => self.begin_served(link, session),
                },
                NewcomerOutput::Join {
                    session,
                    number,
                    kind,
                } => {
                    let strays = match kind {
                        DialKind::Replace | DialKind::TakeOver => self.troubles.strays,
                        DialKind::Add | DialKind::AddClear => self.troubles.added_strays,
                    };
                    let stray = self.rng.chance(strays);
                    let kind = self.admitted(link, kind);
                    match self.served(session).filter(|_| !stray) {
                        Some(home) => {
                            let node = match kind {
                                DialKind::Add => self.takes_added(home),
                                DialKind::AddClear | DialKind::Replace | DialKind::TakeOver => home,
                            };
                            self.newcomers[link] = None;
                            self.owners[link] = Some(node);
                            let (lane, peer) = (LaneKey(link), PEER);
                            let joins = LanesInput::Joins {
                                lane,
                                number,
                                peer,
                                kind,
                            };
                            self.input(node, joins);
                        }
                        None => self.newcomer(link, NewcomerInput::SessionExists(false)),
                    }
                }
                NewcomerOutput::Close { code, .. } => {
                    assert_ne!(code, code::VIOLATION, "nobody here breaks the protocol");
                    self.newcomers[link] = None;
                    self.close(link, SERVER, code);
                }
            }
        }
    }

    /// In the clear nobody comes who was not let in.
    fn admitted(&self, link: usize, kind: DialKind) -> DialKind {
        match (self.kinds[link], kind) {
            (DialKind::AddClear, DialKind::Add) => DialKind::AddClear,
            _ => kind,
        }
    }

    fn served(&self, id: SessionId) -> Option<usize> {
        let is_served = |node: &Node| node.side == SERVER && node.home.is_none();
        let is_it = |node: &Node| is_served(node) && node.id == id && !node.over;
        self.nodes.iter().position(is_it)
    }

    fn begin_served(&mut self, link: usize, id: SessionId) {
        for older in self.sessions().filter(|node| node.side == SERVER) {
            let lives = |node: &Node| node.side == CLIENT && node.id == older.id && !node.over;
            let holds = older.handles.open_count().1 > 0;
            let waited = !holds || self.nodes.iter().any(lives);
            assert!(waited, "a dead session still holds files: {}", self.state());
        }
        self.newcomers[link] = None;
        let node = self.nodes.len();
        self.owners[link] = Some(node);
        let session = Session::server(self.now, self.grant, self.server_limits.clone());
        let lanes = Lanes::server(self.now, LaneKey(link), session, self.config(id));
        self.nodes.push(Node::new(SERVER, id, lanes));
        self.drain(node);
    }

    /// Older sessions that hold files are asked whether they live.
    fn ask(&mut self, link: usize) {
        let holds =
            |node: &Node| node.side == SERVER && node.outcome.is_none() && node.home.is_none();
        let asked: Vec<usize> = (0..self.nodes.len())
            .filter(|node| {
                holds(&self.nodes[*node]) && self.nodes[*node].handles.open_count().1 > 0
            })
            .collect();
        let (id, crowd) = (question(link), asked.len());
        self.questions.push((link, asked.len()));
        self.newcomer(
            link,
            NewcomerInput::Asked {
                workers: asked.len().min(1),
            },
        );
        for node in asked {
            let round_trip = Duration::from_millis(1);
            self.input(
                node,
                LanesInput::Question {
                    id,
                    crowd,
                    round_trip,
                },
            );
        }
    }

    fn settled(&mut self, id: QuestionId) {
        let link = id.connection as usize;
        let Some(open) = self.questions.iter_mut().find(|(at, _)| *at == link) else {
            panic!("an answer nobody waits for");
        };
        open.1 -= 1;
        if open.1 == 0 {
            self.newcomer(link, NewcomerInput::Answered);
        }
    }

    // ---- what a worker does for a session

    fn input(&mut self, node: usize, input: LanesInput) {
        if self.nodes[node].over {
            return;
        }
        self.nodes[node].lanes.handle(self.now, input);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        loop {
            let mut answer = None;
            while let Some(output) = self.nodes[node].lanes.poll() {
                assert!(!self.nodes[node].over, "an output after the end");
                answer = self.carry_out(node, output).or(answer);
            }
            match answer {
                Some(taken) => {
                    let taken = LanesInput::Taken(taken);
                    self.nodes[node].lanes.handle(self.now, taken);
                }
                None => return,
            }
        }
    }

    fn carry_out(&mut self, node: usize, output: LanesOutput) -> Option<Taken> {
        let side = self.nodes[node].side;
        match output {
            LanesOutput::Send {
                lane,
                stream,
                payload,
                fin,
            } => {
                let bytes = self.on_the_way(lane.0, payload);
                let rng = &mut self.rng;
                let taken = self.links[lane.0].send(side, stream, bytes, fin, rng);
                if taken == Taken::All {
                    self.links[lane.0].ends[side].room = Room::Due;
                }
                return Some(taken);
            }
            LanesOutput::Wants { lane } => self.links[lane.0].ends[side].room = Room::Due,
            LanesOutput::ReadControl { lane, allowed } => {
                let most = if allowed { usize::MAX } else { 0 };
                self.links[lane.0].ends[side].control_most = most;
            }
            LanesOutput::TakesData(takes) => self.nodes[node].takes_data = takes,
            LanesOutput::Piece { .. } | LanesOutput::TakenOver { .. } => {}
            LanesOutput::Watch { lane, stream } => {
                self.links[lane.0].ends[side].watched.insert(stream);
            }
            LanesOutput::DialClear { .. } => {
                self.dial(node, DialKind::AddClear);
            }
            LanesOutput::Dial { kind } => {
                assert_eq!(side, CLIENT);
                self.dial(node, kind);
            }
            LanesOutput::Close { lane, code, text } => {
                let is_cut = self.cut_any || self.control_cuts > 0 || self.troubles.stalls > 0;
                let honest = code != code::VIOLATION || is_cut && text == NO_REQUEST;
                assert!(honest, "{text}");
                self.close(lane.0, side, code);
            }
            LanesOutput::Ping { lane } => {
                // The peer's transport answers by itself.
                let link = &mut self.links[lane.0];
                let answers = !link.is_dead() && link.ends[1 - side].state == EndState::Open;
                link.ends[side].heard |= answers;
            }
            LanesOutput::Listen(listens) => self.nodes[node].listens = listens,
            LanesOutput::Settled(id) => self.settled(id),
            LanesOutput::TakesOutposts { sends } => self.nodes[node].opens = Some(sends),
            LanesOutput::ToOutpost { to, mail } => self.mail_outpost(node, to, mail),
            LanesOutput::ToHome(mail) => self.mail_home(node, mail),
            LanesOutput::Disk { op, cmd } => self.start_operation(node, op, cmd),
            LanesOutput::Event(event) => self.nodes[node].events.push(event),
            LanesOutput::Finished(outcome) => {
                assert!(self.nodes[node].outcome.is_none(), "finished twice");
                self.nodes[node].outcome = Some(outcome);
                self.nodes[node].finished_at = Some(self.now);
            }
            LanesOutput::Over => self.nodes[node].over = true,
        }
        None
    }

    fn close(&mut self, link: usize, side: usize, code: u64) {
        let lost = self.rng.chance(self.troubles.goodbyes_lost);
        if self.links[link].ends[side].state != EndState::Closed {
            self.links[link].close(side, code, lost);
            self.goodbye_lost |= lost;
        }
    }

    /// For panics.
    fn state(&self) -> String {
        let node = |node: &Node| {
            format!(
                "{} {:?} over {} ({} operations)",
                ["client", "server"][node.side],
                node.outcome,
                node.over,
                node.handles.pending.len()
            )
        };
        let nodes: Vec<String> = self.nodes.iter().map(node).collect();
        format!("{nodes:?}; step {}; {:#?}", self.steps, self.links)
    }
}

impl Node {
    fn new(side: usize, id: SessionId, lanes: Lanes) -> Node {
        Node {
            lanes,
            handles: Handles::default(),
            takes_data: true,
            listens: false,
            outcome: None,
            finished_at: None,
            over: false,
            events: Vec::new(),
            side,
            id,
            home: None,
            opens: None,
            operations_of_others: HashMap::new(),
            descriptors: HashMap::new(),
            directories: HashMap::new(),
            wholes: 0,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.lanes.deadline().filter(|_| !self.over)
    }
}

/// Everybody here is this one.
const PEER: Fingerprint = Fingerprint([1; 32]);

fn question(link: usize) -> QuestionId {
    QuestionId {
        asker: WorkerId(0),
        connection: link as u64,
    }
}
