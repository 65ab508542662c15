//! All lanes of one session, on one side: which carries what, and how they come and go.
//!
//! A **lane** is one connection that carries a session; a session may outlive its lanes, since a
//! lane is replaced before its key has sealed too much. [`Lanes`] holds the session's own machine,
//! so that worker and simulator feed one machine per session; what a transport is to do, and what
//! it has to tell, is in [`LanesInput`] and [`LanesOutput`]. The contract is the one of all
//! machines in `proto`: [`Lanes::handle`] one input, then [`Lanes::poll`] until there is nothing
//! more; [`Lanes::deadline`] says when time alone is worth an input.
//!
//! The rules, the same on both sides:
//! - Lanes are numbered from 0 in the order they join; the client dials, the preface says the
//!   number, and the server counts along.
//! - The newest lane *carries*: control bytes go there, and fresh data streams of their mover. An
//!   older lane's control stream ends, in each direction, and its data streams run to their ends.
//! - The bytes of all lanes' control streams in the order of the lanes' numbers are one stream: a
//!   lane's are read only when those of all older lanes were read to their ends.
//! - When nothing more is to be sent on an older lane, its *lane end* says how many data streams
//!   there were. The side that opened none there closes it, once it has read everything and
//!   everything of its own has arrived. The other side must not: it would drop what its peer has
//!   not read.
//! - A lane that is lost before all of it was read takes the session with it.
//! - One that falls silent, or is cut, is taken over from by another that the client dials
//!   (`takeover.rs`).
//!
//! Beside these a session may have lanes that are *added* (`added.rs`), several at once: they carry
//! data streams and nothing else, and one that is lost loses nothing, since what was not read of it
//! moves again. Some of them may be on other workers than the session (`outpost.rs`).

mod added;
mod clear;
mod goodput;
mod lane;
mod ledger;
mod life;
mod mail;
pub(crate) mod newcomer;
mod outgoing;
mod outpost;
mod ports;
mod suspicion;
mod takeover;
mod traffic;

pub use added::ADD_PAUSE_MAX;
pub use goodput::GOODPUT_WINDOW;
pub use mail::{ToHome, ToOutpost};
pub use newcomer::{Newcomer, NewcomerInput, NewcomerOutput};
pub use ports::{
    DialKind, LaneClosed, LaneKey, LaneStream, LanesInput, LanesOutput, QuestionId, Taken, code,
};
pub use takeover::{KEPT_BYTES, TAKEOVER_DIALS};

#[cfg(test)]
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::clear::ClearOff;
use super::ports::RecordsMoved;
use super::session::Session;
use super::wire::PrefaceKind;
use super::{CancelReason, Input, Outcome, Output};
use crate::ids::{Fingerprint, MoverId, SessionId};
use added::{Adding, LaneWord};
use goodput::Choice;
use lane::{ControlIn, Lane, LaneState};
use outgoing::SendQueue;
use outpost::{AskingLanes, AwayLanes};
use suspicion::Suspicions;
use takeover::Silence;

/// After the last word of a session, how long a side waits for the other to hang up.
pub const LINGER: Duration = Duration::from_secs(3);

/// Lanes of one session at a time that a client asks for: the one that carries, older ones being
/// read out, one joining.
pub const MAX_LANES: usize = 4;

/// As many a server takes of a client. It may count lanes that the client has closed: what it has
/// not read of them yet, and a CONNECTION_CLOSE that was lost, which is not sent again, so that the
/// lane lives until its idle timeout.
pub const MAX_SERVED_LANES: usize = 4 * MAX_LANES;

/// After a lane could not be replaced. Half of the AEAD limit is left when that is tried first.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// Lanes that a session may be asked to add: what more would bring no measurement has shown.
pub const MAX_ADDS: usize = 16;

/// Added lanes of one session at a time that a client asks for: those, and as many running empty.
pub const MAX_ADDED: usize = 2 * MAX_ADDS;

/// As many a server takes of a client, which may know earlier that one is gone.
pub const MAX_SERVED_ADDED: usize = 2 * MAX_ADDED;

/// What a session moves before a lane is added to it. A smaller one is over about as soon as the
/// other lane's handshake is.
pub const ADDS_FROM_BYTES: u64 = 4 << 20;

/// What a lane hears that joins no session.
const NO_SUCH_SESSION: &str = "no such session on this worker";

/// What a session's lanes are given for their life.
#[derive(Clone, Copy, Debug)]
pub struct LanesConfig {
    pub id: SessionId,
    /// Whose lanes they are.
    pub peer: Fingerprint,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// After how much silence a transport gives up.
    pub idle: Duration,
    /// Client: after so much data lanes are added, if both sides know how
    /// (`Limits::adds_lanes`). Usually [`ADDS_FROM_BYTES`].
    pub adds_from_bytes: u64,
    /// So many, at most [`MAX_ADDS`].
    pub adds: usize,
    /// The longest pause before another is dialled, when the last dials came to nothing. Usually
    /// [`ADD_PAUSE_MAX`].
    pub add_pause_max: Duration,
    /// Dials in a row that come to nothing after which a client whose lane is cut gives up. Usually
    /// [`TAKEOVER_DIALS`] for each place that they may leave from.
    pub takeover_dials: u32,
    /// Client: places that lanes may leave from.
    pub places: u32,
    /// Client: on so many workers, of which the session's is the first.
    pub workers: u8,
    /// Client: lanes may take over from each other as soon as the session was asked for, if the
    /// server turns out to know how (`Limits::adds_lanes`).
    pub outlives_lanes: bool,
    /// Control bytes that are kept of what was sent last, should another lane take over. Usually
    /// [`KEPT_BYTES`].
    pub kept_bytes: usize,
    /// How long goodput is measured at a time, before data goes another way. Usually
    /// [`GOODPUT_WINDOW`].
    pub goodput_window: Duration,
    /// The first lane is over TCP, as those are that are added.
    pub begins_on_tcp: bool,
}

/// All lanes of one session.
pub struct Lanes {
    /// Of the last input.
    now: Instant,
    id: SessionId,
    peer: Fingerprint,
    side: LanesSide,
    course: Course,
    session: Session,
    /// Oldest first; the last is the newest.
    lanes: Vec<Lane>,
    /// Those that are added, oldest first.
    added: Vec<Lane>,
    adding: Adding,
    /// Home: those of other workers.
    away: AwayLanes,
    /// Outpost: those that home has not answered for.
    asking: AskingLanes,
    choice: Choice,
    silence: Silence,
    outlives_lanes: bool,
    /// The lane that carried control is cut, and until then another may take over. Meanwhile there
    /// is none, and what is to be sent waits.
    cut_until: Option<Instant>,
    /// Client: how many may have lanes.
    workers: u8,
    next_number: u32,
    /// Key of the next data stream of the peer that appears.
    next_incoming: u64,
    /// Control bytes of the peer, all lanes together.
    control_read_bytes: u64,
    out: SendQueue,
    suspicions: Suspicions,
    /// Control bytes are read only while no more of ours wait.
    answers_max: Option<usize>,
    handshake: Duration,
    takeover_dials: u32,
    places: u32,
    idle: Duration,
    /// How long a server whose client has its answer waits to be hung up on.
    patience: Duration,
    outputs: VecDeque<LanesOutput>,
}

/// For people who wonder why nothing moves.
impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("course", &self.course)
            .field("lanes", &self.lanes)
            .field("added", &self.added)
            .field("adding", &self.adding)
            .field("control_bytes", &self.out.control_bytes())
            .field("streams", &self.out.streams())
            .finish_non_exhaustive()
    }
}

/// Which side this is, and what only that side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LanesSide {
    Client(Growth),
    Server,
    /// What of either is on another worker (`outpost.rs`).
    Outpost,
}

/// Whether a client wants another lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    /// The newest lane does. Next: Wanted.
    Content,
    /// As soon as there is room for one. Next: Dialling.
    Wanted { not_before: Instant },
    /// Next: Content, Wanted.
    Dialling,
}

/// How far the session and its lanes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Next: any other.
    Running,
    /// Server: the newest lane's control stream ended, as a client does that goes on on another
    /// lane, whose first packets may be behind. Next: Running, Parting.
    AwaitJoin {
        until: Instant,
    },
    /// Client: the server refused the newest lane, for it had just said its last word, on an older
    /// one. Next: Parting.
    LastWord {
        until: Instant,
    },
    /// The session knows that its peer is gone, and closes its files. Next: Parting.
    Ending,
    /// The peer is told that it may not go on. Next: Parting.
    Revoked {
        until: Instant,
        why: &'static str,
    },
    /// The session is over: waits for the peer to hang up (server), or until all is said (client).
    /// Next: Over.
    Parting {
        until: Instant,
        code: u64,
        why: &'static str,
    },
    Over,
}

impl Lanes {
    /// A client's session, on its first lane, whose peer is known.
    pub fn client(now: Instant, lane: LaneKey, session: Session, config: LanesConfig) -> Lanes {
        let mut lanes = Lanes::new(now, LanesSide::Client(Growth::Content), session, config);
        let preface = lanes.preface(PrefaceKind::New);
        lanes.adopt(lane, Some(preface));
        if config.outlives_lanes {
            lanes.outputs.push_back(LanesOutput::Listen(true));
        }
        lanes
    }

    /// A server's session, on the connection that asked for it ([`NewcomerOutput::Begin`]).
    pub fn server(now: Instant, lane: LaneKey, session: Session, config: LanesConfig) -> Lanes {
        let mut lanes = Lanes::new(now, LanesSide::Server, session, config);
        lanes.adopt(lane, None);
        lanes
    }

    /// The lanes of a session on another worker than its own, around a part of that session
    /// (`outpost.rs`). The first of them joins next.
    pub fn outpost(now: Instant, session: Session, sends: bool, config: LanesConfig) -> Lanes {
        let mut lanes = Lanes::new(now, LanesSide::Outpost, session, config);
        lanes.adding.agree(sends, None);
        lanes
    }

    fn new(now: Instant, side: LanesSide, session: Session, config: LanesConfig) -> Lanes {
        Lanes {
            now,
            id: config.id,
            peer: config.peer,
            side,
            course: Course::Running,
            session,
            lanes: Vec::new(),
            added: Vec::new(),
            away: AwayLanes::default(),
            asking: AskingLanes::default(),
            adding: Adding::new(
                config.adds_from_bytes,
                config.adds.min(MAX_ADDS),
                config.add_pause_max,
            ),
            choice: Choice::new(now, config.goodput_window, config.begins_on_tcp),
            silence: Silence::new(now),
            outlives_lanes: config.outlives_lanes,
            cut_until: None,
            workers: config.workers,
            next_number: 0,
            next_incoming: 0,
            control_read_bytes: 0,
            out: SendQueue::new(config.kept_bytes),
            suspicions: Suspicions::default(),
            answers_max: None,
            handshake: config.handshake,
            takeover_dials: config.takeover_dials,
            places: config.places,
            idle: config.idle,
            patience: config.idle,
            outputs: VecDeque::new(),
        }
    }

    /// One mutation; [`Lanes::poll`] until `None` next. After [`LanesOutput::Over`] everything is
    /// ignored.
    pub fn handle(&mut self, now: Instant, input: LanesInput) {
        if self.course == Course::Over {
            return;
        }
        self.now = now;
        match input {
            LanesInput::Dialled { lane, peer, kind } => self.dialled(lane, peer, kind),
            LanesInput::DialFailed { kind } => self.dial_failed(now, kind),
            LanesInput::Joins {
                lane,
                number,
                peer,
                kind,
            } => self.joins(lane, number, peer, kind),
            LanesInput::Worn { lane } => self.worn(now, lane),
            LanesInput::Closed { lane, why } => self.lane_lost(now, lane, why),
            LanesInput::Heard { lane } => self.heard(now, lane),
            LanesInput::Control { lane, bytes, fin } => self.control(now, lane, bytes, fin),
            LanesInput::ControlReset { lane } => self.control_ended(now, lane),
            LanesInput::Data {
                lane,
                stream,
                bytes,
                fin,
            } => self.data(now, (lane, stream), bytes, fin),
            LanesInput::DataReset { lane, stream } => self.data_reset(now, lane, stream),
            LanesInput::Stray { lane } => {
                self.violation(now, lane, "a second bidirectional stream".to_owned());
            }
            LanesInput::Room {
                lane,
                bytes,
                takes_pipes,
            } => self.begin_round(now, lane, (bytes, takes_pipes)),
            LanesInput::Taken(taken) => self.taken(now, taken),
            LanesInput::Delivered { lane, stream } => self.delivered(lane, stream),
            LanesInput::Question {
                id,
                crowd,
                round_trip,
            } => self.question(now, id, crowd, round_trip),
            LanesInput::FromOutpost(from, mail) => self.hear_outpost(now, from, mail),
            LanesInput::FromHome(mail) => self.hear_home(now, mail),
            LanesInput::Disk { op, result } => {
                self.session.handle(now, Input::Disk { op, result });
            }
            LanesInput::DiskWorks => self.session.handle(now, Input::DiskWorks),
            LanesInput::Ask(ask) => self.session.handle(now, Input::Ask(ask)),
            // Home hears that, too, and says what follows.
            LanesInput::Cancel(_)
            | LanesInput::Shutdown
            | LanesInput::Refuse { .. }
            | LanesInput::NoLonger
                if self.is_outpost() => {}
            LanesInput::Cancel(reason) => self.session.handle(now, Input::Cancel(reason)),
            LanesInput::Shutdown => {
                self.patience = LINGER;
                let reason = CancelReason::Ending;
                self.session.handle(now, Input::Cancel(reason));
            }
            LanesInput::Refuse { error, why } => {
                self.revoke(now + LINGER, why);
                self.session.handle(now, Input::Refuse(error));
            }
            LanesInput::NoLonger => self.give_up_waiting(now),
            LanesInput::Tick => self.tick(now),
        }
    }

    /// The next thing wanted from the world. What the session holds back to go together is handed
    /// over when there is nothing else.
    pub fn poll(&mut self) -> Option<LanesOutput> {
        if self.outputs.is_empty() && self.course != Course::Over {
            self.settle(self.now);
        }
        self.outputs.pop_front()
    }

    /// When [`LanesInput::Tick`] is due if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        let course = match self.course {
            Course::Running | Course::Ending | Course::Over => None,
            Course::AwaitJoin { until }
            | Course::LastWord { until }
            | Course::Revoked { until, .. }
            | Course::Parting { until, .. } => {
                Some(until).filter(|_| !self.lanes.is_empty() || self.cut_until.is_some())
            }
        };
        let growth = match self.side {
            LanesSide::Client(Growth::Wanted { not_before }) if self.may_grow() => Some(not_before),
            LanesSide::Client(_) | LanesSide::Server | LanesSide::Outpost => None,
        };
        let suspicions = self.suspicions.deadline();
        let adding = self.adds_at();
        let session = self.session.deadline();
        let choice = self.choice.deadline();
        let silence = self.silence_due();
        let due = [session, course, growth, adding, choice, silence, suspicions];
        due.into_iter().chain([self.cut_until]).flatten().min()
    }

    /// Heap bytes kept because the peer said or asked for something, about. (An account, not a
    /// question of the protocol: no decision hangs on it here.)
    pub fn held_bytes(&self) -> u64 {
        let ledgers = self.all_lanes().filter_map(Lane::ledger_of_either);
        let ledgers_bytes: u64 = ledgers.map(|ledger| ledger.ours.held_bytes()).sum();
        self.session.held_bytes() + ledgers_bytes + self.adding.held_bytes()
    }

    /// What was moved whole of data streams here.
    pub fn records_moved(&self) -> RecordsMoved {
        self.session.records_moved()
    }

    /// Data streams of ours that have not ended.
    pub fn outgoing_streams(&self) -> usize {
        self.out.streams()
    }

    fn newest(&self) -> Option<LaneKey> {
        self.lanes.last().map(|lane| lane.key)
    }

    fn at(&self, lane: LaneKey) -> Option<usize> {
        self.lanes.iter().position(|other| other.key == lane)
    }

    fn is_client(&self) -> bool {
        matches!(self.side, LanesSide::Client(_))
    }

    /// The session is not over.
    fn is_on(&self) -> bool {
        !matches!(self.course, Course::Parting { .. } | Course::Over)
    }

    fn all_lanes(&self) -> impl Iterator<Item = &Lane> + Clone {
        self.lanes.iter().chain(&self.added)
    }

    fn lane_mut(&mut self, key: LaneKey) -> Option<&mut Lane> {
        let mut lanes = self.lanes.iter_mut().chain(&mut self.added);
        lanes.find(|lane| lane.key == key)
    }

    fn wants(&mut self, lane: LaneKey) {
        let wants = |it: &mut Lane| std::mem::replace(&mut it.wants_room, true);
        if self.lane_mut(lane).map(wants) == Some(false) {
            self.outputs.push_back(LanesOutput::Wants { lane });
        }
    }

    fn wants_newest(&mut self) {
        if let Some(lane) = self.newest() {
            self.wants(lane);
        }
    }

    // ---- after each input

    /// Goes on as far as possible after an input: carries out what the session wants, replaces and
    /// closes lanes.
    fn settle(&mut self, now: Instant) {
        self.drain(now);
        self.choose(now);
        while self.tell_movers(now) {
            self.drain(now);
        }
        if self.is_on() {
            self.close_replaced(now);
            self.grow(now);
            self.add(now);
            self.look_at_silence(now);
        } else {
            self.part(now);
        }
        self.say_what_is_read();
        #[cfg(test)]
        self.check();
    }

    /// Carries out everything the session wants, until it wants nothing.
    fn drain(&mut self, now: Instant) {
        let mut words = VecDeque::new();
        loop {
            self.drain_session(now, &mut words);
            // With the session's end nobody accounts for anything any more.
            match words.pop_front().filter(|_| self.is_on()) {
                Some(LaneWord::Early(number)) => self.lose_early(number),
                Some(LaneWord::Altered) => self.leave_clear(now, ClearOff::Altered),
                Some(LaneWord::Over(number)) => self.lane_over(now, number),
                Some(LaneWord::Account(account)) => self.lane_account(now, account),
                None => return,
            }
        }
    }

    fn drain_session(&mut self, now: Instant, words: &mut VecDeque<LaneWord>) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Control(bytes) => {
                    if self.carries() {
                        self.out.control(bytes);
                        self.wants_newest();
                    }
                }
                Output::Data {
                    stream,
                    payload,
                    records,
                    fin,
                } => {
                    if self.carries() {
                        self.count_moved(payload.len_bytes());
                        let mut added = self.added.iter_mut();
                        let added = added.find(|lane| lane.mover() == stream.mover());
                        if added.is_none() && stream.mover() != MoverId::CONTROL {
                            debug_assert!(false, "{stream:?} is of a lane that is gone");
                            continue;
                        }
                        let what = (payload, records, fin);
                        let lane = self.out.data(stream, what, added).or(self.newest());
                        lane.into_iter().for_each(|lane| self.wants(lane));
                    }
                }
                Output::Stays(stream) => {
                    let lane = self.out.stays(stream);
                    if let Some(lane) = lane.and_then(|lane| self.lane_mut(lane)) {
                        lane.keep_no_ledger();
                    }
                }
                Output::Retired(mover) => self.mover_retired(mover),
                Output::AddsLanes { sends, clear } => {
                    let early = self.adding.agree(sends, clear);
                    self.outputs.push_back(LanesOutput::TakesOutposts { sends });
                    words.extend(early.into_iter().map(LaneWord::Early));
                    self.count_moved(0);
                }
                Output::Altered => words.push_back(LaneWord::Altered),
                Output::LaneOver(number) => words.push_back(LaneWord::Over(number)),
                Output::LaneAccount(account) => words.push_back(LaneWord::Account(account)),
                Output::ToOutpost(to, order) => self.mail_outpost(to, ToOutpost::Movers(order)),
                Output::ToHome(report) => self.mail_home(ToHome::Movers(report)),
                Output::Copy(_) => unreachable!("these lanes lead to another host"),
                Output::Piece { stream, bytes } => self.piece(stream, bytes),
                Output::TakesData(takes) => {
                    self.outputs.push_back(LanesOutput::TakesData(takes));
                }
                Output::AnswersMax(most) => self.answers_max = most,
                Output::Disk { op, cmd } => self.outputs.push_back(LanesOutput::Disk { op, cmd }),
                Output::Event(event) => self.outputs.push_back(LanesOutput::Event(event)),
                Output::Finished(outcome) => self.finished(now, outcome),
            }
        }
    }

    /// There is a lane for what is to be sent, or may be again. When the newest is gone, no older
    /// one takes its place.
    fn carries(&self) -> bool {
        if self.is_outpost() {
            return self.is_on();
        }
        let carries = |lane: &Lane| lane.state == LaneState::Carrying;
        self.cut_until.is_some() || self.lanes.last().is_some_and(carries)
    }

    fn finished(&mut self, now: Instant, outcome: Outcome) {
        if self.is_outpost() {
            return self.finished_here(now, outcome);
        }
        // A client that got its answer hangs up; one that is cut off for a while gets it when it is
        // back.
        let answered = matches!(outcome, Outcome::Complete(_) | Outcome::Refused(_));
        let patience = match answered && !self.is_client() {
            true => self.patience,
            false => LINGER,
        };
        let (until, code, why) = match self.course {
            Course::Revoked { until, why } => (until, code::UNAUTHORISED, why),
            _ => (now + patience, code::DONE, ""),
        };
        self.course = Course::Parting { until, code, why };
        if self.is_client() {
            // What it has to say yet is worth no other lane.
            self.cut_until = None;
        }
        if let Outcome::Violation(text) = &outcome {
            self.cut_until = None;
            self.close_all(code::VIOLATION, text);
        }
        if self.adding.sends() {
            // Nothing that is under way there is wanted any more, or may go.
            self.end_outposts();
        }
        if !self.suspicions.is_empty() {
            let settled = self.suspicions.settle_all().map(LanesOutput::Settled);
            self.outputs.extend(settled);
            self.outputs.push_back(LanesOutput::Listen(false));
        }
        self.outputs.push_back(LanesOutput::Finished(outcome));
        self.wants_newest();
    }

    /// Says of which lanes control bytes are to be read, where that changed.
    fn say_what_is_read(&mut self) {
        let most = self.answers_max;
        let mut allowed = most.is_none_or(|most| self.out.control_bytes() <= most);
        for lane in &mut self.lanes {
            // How far the peer has read is no request that an answer is kept of.
            allowed |= lane.count_in.is_some();
            match (lane.control_in, allowed) {
                (ControlIn::Ended, _) => continue,
                (ControlIn::Shut, true) => lane.control_in = ControlIn::Read,
                (ControlIn::Read, false) => lane.control_in = ControlIn::Shut,
                (ControlIn::Shut, false) | (ControlIn::Read, true) => {
                    // Younger lanes wait for the end of this one.
                    allowed = false;
                    continue;
                }
            }
            let lane = lane.key;
            self.outputs
                .push_back(LanesOutput::ReadControl { lane, allowed });
            allowed = false;
        }
    }

    /// What must hold after each input.
    #[cfg(test)]
    fn check(&self) {
        self.out.check(self.all_lanes());
        assert!(self.added.len() <= MAX_SERVED_ADDED);
        assert!(self.added.iter().all(|lane| lane.added.is_some()));
        let movers: BTreeSet<MoverId> = self.added.iter().map(Lane::mover).collect();
        assert_eq!(movers.len(), self.added.len(), "two lanes of one number");
        assert!(self.lanes.len() <= self.next_number as usize);
        let readers = |lane: &&Lane| lane.control_in == ControlIn::Read;
        assert!(self.lanes.iter().filter(readers).count() <= 1);
        let most = match self.side {
            LanesSide::Client(_) => MAX_LANES,
            LanesSide::Server | LanesSide::Outpost => MAX_SERVED_LANES,
        };
        assert!(self.lanes.len() <= most);
        let carrying = |lane: &Lane| lane.state == LaneState::Carrying;
        let older = self.lanes.len().saturating_sub(1);
        assert!(!self.lanes[..older].iter().any(carrying), "two lanes carry");
        let goes_on = matches!(self.course, Course::Running | Course::AwaitJoin { .. });
        let is_cut = self.cut_until.is_some();
        let goes_on = goes_on && !self.is_outpost();
        assert!(!goes_on || is_cut != self.lanes.last().is_some_and(carrying));
        assert!(!is_cut || self.lanes.is_empty());
        assert!(self.course != Course::Over || self.lanes.is_empty());
        assert!(self.is_on() || self.suspicions.is_empty());
    }
}
