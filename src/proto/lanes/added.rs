//! Lanes that are added: they carry data streams beside the lane that carries control, and may be
//! lost at any moment.
//!
//! - A client adds as many as it was told to when much was moved, one after the other, and another
//!   for each that goes. They are numbered among themselves. A number is used up even if the server
//!   never sees that lane.
//! - Their control streams carry the client's preface, and end. Each has a mover of its own in the
//!   sender's session, which pulls orders as its lane takes data, so that a fast lane carries more
//!   than a slow one. The lanes that carry control carry data while no added one is usable, or
//!   while that brings more (`goodput.rs`).
//! - One that is worn runs empty: its mover retires, and each side says how many streams it had.
//!   Either side may begin with that; the other follows.
//! - Each ends with an *account*, which the receiver of data gives on the control stream: when it
//!   closes a lane of which it has read everything, and when one is lost. A sender that notices a
//!   loss asks for the account. Nothing of a lane is moved again before its account came: until
//!   then the receiver may still be reading.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::goodput::DataWay;
use super::lane::{ControlIn, Lane, LaneState};
use super::ledger::{AddedLane, Ledger, MoverTold, OwnStreams};
use super::mail::{LaneEnd, ToHome};
use super::ports::{DialKind, LaneClosed, LaneKey, LanesOutput, code};
use super::{Course, JOIN_PAUSE, Lanes, LanesSide, MAX_ADDED, MAX_SERVED_ADDED, NO_SUCH_SESSION};
use crate::ids::{Fingerprint, MoverId};
use crate::proto::clear::ClearSecret;
use crate::proto::wire::{LaneAccount, PrefaceKind, streams};
use crate::proto::{Input, LostLane};

/// The longest pause before another lane is dialled, when the last ones came to nothing, as a rule.
/// The first is [`JOIN_PAUSE`], and each is twice the one before.
pub const ADD_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A lane that lived so long was none that comes to nothing.
const GOOD_LIFE: Duration = Duration::from_secs(60);

/// One that ran empty sooner, and was not worn here, came to nothing: the other side's key is not
/// used up by then (2^24 records).
const SHORT_LIFE: Duration = Duration::from_secs(10);

/// Lanes that a receiver accounted for of which it remembers whether the sender asked for that: a
/// sender has no more lanes at a time, and asks when it notices a loss.
const ACCOUNTED_MAX: usize = 64;

/// Lanes that one session may have one after the other: their movers' disk operations are told
/// apart by so many numbers (`ports.rs`).
const NUMBERS_MAX: u32 = (1 << 16) - 1;

/// Lanes that a server may not have seen while it saw younger ones.
const UNSEEN_MAX: u32 = 16;

/// Control bytes that may wait for the peer when a lane is added: the largest message.
const UNREAD_MAX_BYTES: usize = 64 << 10;

/// What was said of a lane.
pub(super) enum LaneWord {
    /// Lanes in the clear are no more.
    Altered,
    /// It was taken over from before this was agreed on.
    Early(u32),
    Over(u32),
    Account(LaneAccount),
}

/// Whether a client dials lanes to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Too little was moved yet. Next: Open.
    Early,
    /// As long as there are fewer than wanted. Next: Dialling.
    Open,
    /// Next: Open.
    Dialling,
}

/// What a session knows of its added lanes, beside those that live.
#[derive(Debug)]
pub(super) struct Adding {
    /// Both sides know how.
    is_agreed: bool,
    /// Data goes from here to the peer.
    pub(super) sends: bool,
    from_bytes: u64,
    moved_bytes: u64,
    /// As many at a time.
    most: usize,
    wish: Wish,
    /// Client: those that are dialled are in the clear.
    pub(super) clear: Option<ClearSecret>,
    /// There was such a lane: of a client, one that the server took.
    pub(super) has_had_clear: bool,
    /// Dials of such lanes that came to nothing.
    pub(super) clear_failures: u32,
    /// What one of them carried was altered.
    pub(super) was_altered: bool,
    /// When the last ones came to nothing: none is dialled before, and how long the next pause is.
    not_before: Option<Instant>,
    pause: Duration,
    pause_max: Duration,
    /// One of them went otherwise than by running empty, or did not come to be.
    has_lost: bool,
    next_number: u32,
    /// Sender: whether the mover of the lanes that carry control was told to take orders.
    control_pulls: bool,
    /// Server: lesser ones that it has not seen.
    skipped: Vec<u32>,
    /// Sender: lanes that are gone and not accounted for.
    unaccounted: Vec<(u32, OwnStreams)>,
    /// Lanes that carried control, and that were lost before all of this was agreed on.
    early: Vec<u32>,
    /// Sender: an account of which more is to come.
    partial: Option<LaneAccount>,
    /// Receiver: lanes accounted for, and whether the sender asked for it.
    accounted: VecDeque<(u32, bool)>,
}

impl Adding {
    pub fn new(from_bytes: u64, most: usize, pause_max: Duration) -> Adding {
        Adding {
            is_agreed: false,
            sends: false,
            from_bytes,
            moved_bytes: 0,
            most,
            wish: Wish::Early,
            clear: None,
            has_had_clear: false,
            clear_failures: 0,
            was_altered: false,
            not_before: None,
            pause: JOIN_PAUSE,
            pause_max,
            has_lost: false,
            next_number: 0,
            control_pulls: true,
            skipped: Vec::new(),
            unaccounted: Vec::new(),
            early: Vec::new(),
            partial: None,
            accounted: VecDeque::new(),
        }
    }

    /// Gives the lanes that were lost early.
    pub fn agree(&mut self, sends: bool, clear: Option<ClearSecret>) -> Vec<u32> {
        (self.is_agreed, self.sends) = (true, sends);
        self.clear = clear;
        std::mem::take(&mut self.early)
    }

    /// A lane that carried control is over before it is agreed that there are accounts.
    pub fn lose_early(&mut self, number: u32) {
        self.early.push(number);
    }

    pub fn is_agreed(&self) -> bool {
        self.is_agreed
    }

    pub fn sends(&self) -> bool {
        self.sends
    }

    /// Sender: a lane is gone of which the receiver is going to tell what it took.
    pub fn await_account(&mut self, number: u32, streams: OwnStreams) {
        self.unaccounted.push((number, streams));
    }

    /// Lanes that carried control and are gone, and of which the receiver has not told what it
    /// took.
    pub fn unaccounted_control(&self) -> usize {
        let carried = |(number, _): &&(u32, OwnStreams)| number & LostLane::CARRIED_CONTROL != 0;
        self.unaccounted.iter().filter(carried).count() + self.early.len()
    }

    /// Heap bytes of what accounts that are to come are held against, about.
    pub fn held_bytes(&self) -> u64 {
        let streams = self.unaccounted.iter().map(|(_, streams)| streams);
        streams.map(OwnStreams::held_bytes).sum()
    }

    pub fn is_dialling(&self) -> bool {
        self.wish == Wish::Dialling
    }

    pub fn next_number(&self) -> u32 {
        self.next_number
    }

    /// Outpost: what home knows.
    pub fn set_lost(&mut self, has_lost: bool) {
        self.has_lost = has_lost;
    }

    /// The lane that was dialled did not come to be.
    pub fn dial_failed(&mut self, now: Instant) {
        if self.dial_ended() {
            self.rest(now, self.pause_max);
        }
    }

    /// The lane that was dialled is there, or nobody waits for it any more. False: none was.
    pub fn dial_ended(&mut self) -> bool {
        let is_due = self.is_dialling();
        if is_due {
            self.wish = Wish::Open;
        }
        is_due
    }

    /// No other lane is dialled for a while. Several that go together are one reason.
    fn rest(&mut self, now: Instant, most: Duration) {
        self.has_lost = true;
        if self.not_before.is_none_or(|at| at <= now) {
            self.not_before = Some(now + self.pause.min(most));
            self.pause = (self.pause * 2).min(most);
        }
    }

    /// A lane is gone that was there since then. `has_failed`: it did not run empty.
    pub fn went(&mut self, now: Instant, since: Instant, has_failed: bool) {
        if now - since >= GOOD_LIFE {
            self.pause = JOIN_PAUSE;
        }
        if has_failed {
            self.rest(now, ADD_PAUSE_MAX);
        }
    }

    fn is_unseen(&self, number: u32) -> bool {
        let (next, skipped) = (self.next_number, self.skipped.len() as u32);
        let is_one = number < NUMBERS_MAX;
        let is_next = is_one && number >= next && number - next < UNSEEN_MAX - skipped;
        is_next || self.skipped.contains(&number)
    }

    /// There is a lane of this number, or there was.
    pub fn use_up(&mut self, number: u32) {
        self.skipped.retain(|skipped| *skipped != number);
        self.skipped.extend(self.next_number..number);
        self.next_number = self.next_number.max(number + 1);
    }

    pub fn remember(&mut self, number: u32, was_asked: bool) {
        self.accounted.push_back((number, was_asked));
        if self.accounted.len() > ACCOUNTED_MAX {
            self.accounted.pop_front();
        }
    }
}

impl Lanes {
    /// An added lane was lost, or did not come to be. Those that ran empty do not count.
    pub fn has_lost_added(&self) -> bool {
        self.adding.has_lost
    }

    pub(super) fn is_added(&self, key: LaneKey) -> bool {
        self.added.iter().any(|lane| lane.key == key)
    }

    /// Sender: begins and ends the movers of added lanes, and says whether that of the lanes that
    /// carry control takes orders. False: there was nothing to say.
    pub(super) fn tell_movers(&mut self, now: Instant) -> bool {
        if !self.adding.sends || !self.is_on() {
            return false;
        }
        let mut has_told = self.tell_away(now);
        // One that is to end before it was used.
        let unused = |lane: &&Lane| {
            let told = lane.added.as_ref().map(|added| added.told);
            told == Some(MoverTold::Nothing) && lane.state == LaneState::Carrying
        };
        let ends = |lane: &&Lane| unused(lane) && lane.is_spent();
        while let Some(key) = self.added.iter().find(ends).map(|lane| lane.key) {
            self.empty_added(key);
        }
        // Meanwhile nothing goes the other way.
        let prefers = self.prefers_added();
        let mut is_pulled = false;
        for lane in &mut self.added {
            let (is_usable, is_spent) = (lane.is_usable(), lane.is_spent());
            let mover = lane.mover();
            let Some(added) = &mut lane.added else {
                continue;
            };
            let told = match added.told {
                MoverTold::Nothing if is_usable => MoverTold::Pulls(prefers),
                MoverTold::Pulls(_) if is_spent => MoverTold::Retires,
                MoverTold::Pulls(_) => MoverTold::Pulls(prefers),
                told @ (MoverTold::Nothing | MoverTold::Retires) => told,
            };
            is_pulled |= told == MoverTold::Pulls(true);
            if added.told == told {
                continue;
            }
            let input = match told {
                MoverTold::Pulls(pulls) => Input::Pulls { mover, pulls },
                MoverTold::Retires | MoverTold::Nothing => Input::Retire { mover },
            };
            added.told = told;
            has_told = true;
            self.session.handle(now, input);
        }
        if self.adding.control_pulls == is_pulled && !self.is_outpost() {
            let (mover, pulls) = (MoverId::CONTROL, !is_pulled);
            self.adding.control_pulls = pulls;
            self.session.handle(now, Input::Pulls { mover, pulls });
            has_told = true;
        }
        has_told
    }

    /// Added lanes are given new data. An outpost has no others, and is given what home gives it.
    pub(super) fn prefers_added(&self) -> bool {
        let prefers = self.choice.prefers_added() || !self.control_carries_data();
        prefers || self.is_outpost()
    }

    /// A data stream that begins on the lane that carries control leaves: there is one, and how far
    /// its peer has read is known.
    fn control_carries_data(&self) -> bool {
        let newest = self.lanes.last();
        newest.is_some_and(|lane| lane.count_in.is_none())
    }

    /// The mover of an added lane has ended its streams.
    pub(super) fn mover_retired(&mut self, mover: MoverId) {
        let lane = self.added.iter().find(|lane| lane.mover() == mover);
        if let Some(lane) = lane.map(|lane| lane.key) {
            self.empty_added(lane);
        }
    }

    /// Nothing more begins on an added lane.
    fn empty_added(&mut self, key: LaneKey) {
        if let Some(lane) = self.added.iter_mut().find(|lane| lane.key == key) {
            lane.state = LaneState::Emptying;
            self.wants(key);
        }
    }

    /// Sender: lets goodput decide which movers take orders.
    pub(super) fn choose(&mut self, now: Instant) {
        if self.adding.sends && !self.is_outpost() {
            // At the end nothing new waits for a lane that may be stuck.
            let is_here = self.added.iter().any(Lane::is_usable);
            let is_usable = self.is_on() && (is_here || self.away.is_usable());
            let (out, added, away) = (&self.out, &self.added, &self.away);
            let is_added = |key: LaneKey| added.iter().any(|lane| lane.key == key);
            let waits_here = |way| out.has_data(|key| is_added(key) == (way == DataWay::Added));
            let waits = |way| waits_here(way) || way == DataWay::Added && away.waits();
            self.choice.look(now, is_usable, waits);
        }
    }

    pub(super) fn way_of(&self, key: LaneKey) -> DataWay {
        match self.is_added(key) {
            true => DataWay::Added,
            false => DataWay::Carrying,
        }
    }

    // ---- they come

    /// So much data came, or is to leave.
    pub(super) fn count_moved(&mut self, bytes: u64) {
        let adding = &mut self.adding;
        adding.moved_bytes = adding.moved_bytes.saturating_add(bytes);
        if adding.wish == Wish::Early && adding.moved_bytes >= adding.from_bytes {
            adding.wish = Wish::Open;
        }
    }

    fn may_add(&self) -> bool {
        let is_client = matches!(self.side, LanesSide::Client(_));
        let goes_on = self.course == Course::Running && self.control_read_bytes > 0;
        // While the lane that carries control is cut, nobody knows where to.
        let goes_on = goes_on && !self.lanes.is_empty();
        let lasts = |lane: &&Lane| lane.state == LaneState::Carrying && !lane.is_spent();
        let lasting = self.added.iter().filter(lasts).count() + self.away.len();
        let is_missed = lasting < self.adding.most;
        let count = self.added.len() + self.away.len();
        let has_room = count < MAX_ADDED
            && count + self.adding.unaccounted.len() < MAX_SERVED_ADDED
            && self.adding.next_number < NUMBERS_MAX;
        is_client && self.adding.is_agreed && goes_on && is_missed && has_room
    }

    /// When another is worth a try.
    pub(super) fn adds_at(&self) -> Option<Instant> {
        let is_open = self.adding.wish == Wish::Open && self.may_add();
        is_open.then(|| self.adding.not_before.unwrap_or(self.now))
    }

    /// A client asks for another if it wants one and may.
    pub(super) fn add(&mut self, now: Instant) {
        if self.adds_at().is_some_and(|at| at <= now) {
            self.adding.wish = Wish::Dialling;
            self.dial_added();
        }
    }

    /// The transport of an added lane says that another is to take over.
    pub(super) fn added_worn(&mut self, lane: LaneKey) {
        let lane = self.added.iter_mut().find(|other| other.key == lane);
        if let Some(added) = lane.and_then(|lane| lane.added.as_mut()) {
            added.is_worn = true;
        }
    }

    pub(super) fn dialled_to_add(&mut self, lane: LaneKey, peer: Fingerprint, kind: DialKind) {
        if self.is_outpost() {
            return self.ask_home(lane, None, peer);
        }
        let is_due = self.adding.is_dialling();
        if is_due {
            self.adding.wish = Wish::Open;
        }
        if is_due && peer != self.peer {
            // Whoever answers there is another one, and will be the next time.
            self.adding.rest(self.now, ADD_PAUSE_MAX);
        }
        let goes_on = self.course == Course::Running && !self.lanes.is_empty();
        let is_left = kind == DialKind::AddClear && self.adding.clear.is_none();
        if !is_due || peer != self.peer || !goes_on || is_left {
            if kind == DialKind::AddClear && self.adding.next_number < NUMBERS_MAX {
                // The server takes its pass for used.
                self.adding.use_up(self.adding.next_number);
            }
            return self.close(lane, code::DONE, "");
        }
        let number = self.adding.next_number;
        let preface = self.preface_of(PrefaceKind::Add, number);
        self.adopt_added(lane, (number, kind), Some(preface));
    }

    /// Server: a lane is added to a session that goes on, if it is none that is gone already.
    pub(super) fn joins_added(&mut self, lane: LaneKey, number: u32, is_due: bool, kind: DialKind) {
        let is_left = kind == DialKind::AddClear && self.adding.was_altered;
        match is_due && !is_left && self.has_room_for(number) {
            true => self.adopt_added(lane, (number, kind), None),
            false => self.close(lane, code::NO_SESSION, NO_SUCH_SESSION),
        }
    }

    /// Server: another lane may be added, and it is none that is gone already.
    pub(super) fn has_room_for(&self, number: u32) -> bool {
        let is_known = self.adding.is_agreed && self.adding.is_unseen(number);
        // Those that are gone count until both sides have said what became of them: a peer that
        // loses one after the other and reads nothing gets no more.
        let count = self.added.len() + self.away.len() + self.adding.unaccounted.len();
        let is_heard = self.out.control_bytes() <= UNREAD_MAX_BYTES;
        is_known && is_heard && count < MAX_SERVED_ADDED
    }

    /// The added lane of a number.
    pub(super) fn added_of(&self, number: u32) -> Option<LaneKey> {
        let is_it = |lane: &&Lane| {
            let added = lane.added.as_ref();
            added.is_some_and(|it| it.ledger.number == number)
        };
        self.added.iter().find(is_it).map(|lane| lane.key)
    }

    pub(super) fn adopt_added(
        &mut self,
        key: LaneKey,
        (number, kind): (u32, DialKind),
        preface: Option<Bytes>,
    ) {
        self.adding.use_up(number);
        let is_clear = kind == DialKind::AddClear;
        // A client knows when it hears of it.
        self.adding.has_had_clear |= is_clear && !self.is_client();
        let lane = AddedLane::new(number, self.now, is_clear);
        let lane = Lane::added(key, preface, lane);
        self.added.push(lane);
        let (lane, allowed) = (key, true);
        self.outputs
            .push_back(LanesOutput::ReadControl { lane, allowed });
        self.wants(key);
    }

    /// The control stream of an added lane has nothing but its end.
    pub(super) fn added_control(&mut self, now: Instant, key: LaneKey, bytes: Bytes, fin: bool) {
        let content = match fin {
            true => streams::without_end(bytes).map(|bytes| bytes.len()),
            false => Ok(bytes.len()),
        };
        if !matches!(content, Ok(0)) {
            let text = "control bytes on an added lane".to_owned();
            return self.violation(now, key, text);
        }
        if let (true, Some(lane)) = (fin, self.lane_mut(key)) {
            lane.control_in = ControlIn::Ended;
        }
    }

    // ---- they go

    /// Receiver: runs those empty that are to end, closes those of which everything is read, and
    /// accounts for them.
    pub(super) fn close_added(&mut self, now: Instant) {
        if self.adding.sends {
            return;
        }
        let ends = |lane: &&Lane| lane.state == LaneState::Carrying && lane.is_spent();
        while let Some(key) = self.added.iter().find(ends).map(|lane| lane.key) {
            self.empty_added(key);
        }
        let done = |lane: &&Lane| lane.begun == 0 && lane.is_arrived() && lane.is_read_out();
        while let Some(key) = self.added.iter().find(done).map(|lane| lane.key) {
            self.close(key, code::REPLACED, "");
            self.added_gone(now, key, LaneClosed::Replaced);
        }
    }

    /// An added lane is no more.
    pub(super) fn added_gone(&mut self, now: Instant, key: LaneKey, why: LaneClosed) {
        let Some(at) = self.added.iter().position(|lane| lane.key == key) else {
            return;
        };
        let mut lane = self.added.remove(at);
        self.out.lose_lane(&mut lane);
        let begun = lane.half_read();
        let Some(added) = lane.added else { return };
        // A peer that has each lane end as it comes has no more of them than one that loses them.
        let came_to_nothing = now - added.since < SHORT_LIFE && !added.is_worn;
        let has_failed = lane.state == LaneState::Carrying || came_to_nothing;
        if !self.is_on() {
            return;
        }
        self.adding.went(now, added.since, has_failed);
        let Ledger {
            number,
            ours,
            theirs,
        } = added.ledger;
        let mut lost = LostLane {
            number,
            altered: why == LaneClosed::Altered,
            ..LostLane::default()
        };
        if self.adding.sends {
            lost.tell_peer = why != LaneClosed::Replaced;
            if self.is_outpost() {
                let tell_peer = lost.tell_peer;
                self.session.handle(now, Input::LaneLost(lost));
                // Home hears what was torn before it hears of the end.
                self.drain(now);
                let end = LaneEnd {
                    has_failed,
                    ours,
                    tell_peer,
                };
                return self.mail_home(ToHome::LaneGone { number, end });
            }
            self.adding.await_account(number, ours);
        } else {
            lost.below = theirs.below;
            lost.ended = theirs.ahead.into_iter().collect();
            lost.begun = begun;
            lost.lately = theirs.lately.into_iter().collect();
            match self.is_outpost() {
                true => {
                    let end = LaneEnd {
                        has_failed,
                        ..LaneEnd::default()
                    };
                    self.mail_home(ToHome::LaneGone { number, end });
                }
                false => self.adding.remember(number, false),
            }
        }
        self.session.handle(now, Input::LaneLost(lost));
    }

    /// Receiver: the sender says that a lane is no more.
    pub(super) fn lane_over(&mut self, now: Instant, number: u32) {
        if let Some(key) = self.added_of(number) {
            self.close(key, code::DONE, "");
            self.added_gone(now, key, LaneClosed::Otherwise);
        } else if self.away_over(number) {
            // It is accounted for where it is.
        } else if !self.is_client() && self.adding.is_unseen(number) {
            // It comes too late, if ever.
            self.adding.use_up(number);
            self.adding.remember(number, false);
            let lost = LostLane {
                number,
                ..LostLane::default()
            };
            self.session.handle(now, Input::LaneLost(lost));
        }
        let mut accounted = self.adding.accounted.iter_mut();
        match accounted.find(|(known, _)| *known == number) {
            Some((_, was_asked @ false)) => *was_asked = true,
            Some(_) => self.broken(now, format!("lane {number} is said to be over twice")),
            None => self.broken(
                now,
                format!("lane {number} is said to be over, and never was"),
            ),
        }
    }

    /// Sender: what the receiver took of a lane.
    pub(super) fn lane_account(&mut self, now: Instant, account: LaneAccount) {
        let number = account.lane;
        let live = self.added_of(number);
        let is_away = self.away.has(number);
        let is_unseen = !self.is_client() && self.adding.is_unseen(number);
        let is_known = |(known, _): &(u32, OwnStreams)| *known == number;
        if live.is_none() && !is_away && !is_unseen && !self.adding.unaccounted.iter().any(is_known)
        {
            return self.broken(
                now,
                format!("an account of lane {number}, which has none due"),
            );
        }
        let more = account.more;
        let account = match self.adding.partial.take() {
            None => account,
            Some(before) => match joined(before, account) {
                Some(whole) => whole,
                None => return self.broken(now, format!("a torn account of lane {number}")),
            },
        };
        if more {
            // Of counted up streams, as is held against those that there are.
            self.adding.partial = Some(account);
            return;
        }
        if let Some(key) = live {
            self.close(key, code::DONE, "");
            self.added_gone(now, key, LaneClosed::Replaced);
        }
        if is_away {
            return self.account_away(number, account);
        }
        let unaccounted = &mut self.adding.unaccounted;
        let streams = match unaccounted.iter().position(is_known) {
            Some(at) => unaccounted.swap_remove(at).1,
            None => {
                self.adding.use_up(number);
                OwnStreams::default()
            }
        };
        self.settle_account(now, &streams, &account);
    }

    /// What was sent on a lane, and what of it was taken, is known.
    pub(super) fn settle_account(
        &mut self,
        now: Instant,
        streams: &OwnStreams,
        account: &LaneAccount,
    ) {
        match streams.missing(account) {
            Ok(missing) => self.session.handle(now, Input::LaneAccounted { missing }),
            Err(error) => self.broken(now, error.to_string()),
        }
    }

    pub(super) fn broken(&mut self, now: Instant, text: String) {
        if let Some(lane) = self.newest() {
            self.violation(now, lane, text);
        }
    }
}

/// Two parts of one account. None: they are of no one account.
fn joined(mut before: LaneAccount, next: LaneAccount) -> Option<LaneAccount> {
    let last = before.parts.last().map(|part| part.stream);
    let first = next.parts.first().map(|part| part.stream);
    let follows = first > last && next.parts.is_sorted_by(|a, b| a.stream < b.stream);
    if (before.lane, before.below) != (next.lane, next.below) || !follows {
        return None;
    }
    before.parts.extend(next.parts);
    (before.parts.len() <= ACCOUNT_PARTS_MAX).then_some(before)
}

/// Streams that an account names: a receiver has no more that are begun, or ended ahead of another.
const ACCOUNT_PARTS_MAX: usize = 16 << 10;
