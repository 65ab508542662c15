//! Lanes of a session on other workers than its own: what home knows of them, and what an outpost
//! asks and hears.
//!
//! A session's *home* is the worker where it began. On each other worker that has added lanes of it
//! there is an *outpost*: the same machine, without lanes that carry control, around a part of the
//! session. Lanes live there from the moment that home admits them, and are accounted for there.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use super::goodput::DataWay;
use super::mail::{LaneEnd, ToHome, ToOutpost};
use super::ports::{DialKind, LaneClosed, LaneKey, LanesOutput, code};
use super::{Course, Lanes, LanesSide, NO_SUCH_SESSION};
use crate::ids::{Fingerprint, MoverId, WorkerId};
use crate::proto::send::AwaySendReport;
use crate::proto::wire::{LaneAccount, PrefaceKind};
use crate::proto::{Input, LostLane, MoverReport, Outcome};

/// Where a client's session is.
const HOME: WorkerId = WorkerId(0);

/// Home: the added lanes of other workers.
#[derive(Debug, Default)]
pub(super) struct AwayLanes {
    lanes: Vec<AwayLane>,
    /// Workers that have a part of the session.
    outposts: BTreeSet<WorkerId>,
    /// Sender: whether movers there were told to take orders.
    pulls: bool,
    /// Client: where a lane is being dialled.
    dials_at: Option<WorkerId>,
}

#[derive(Debug)]
struct AwayLane {
    number: u32,
    at: WorkerId,
    since: Instant,
    /// Sender: it may carry data.
    is_usable: bool,
    /// Sender: it was offered more than it took.
    waits: bool,
    /// Sender: what the receiver took of it, until it is known what was sent.
    account: Option<LaneAccount>,
}

impl AwayLanes {
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    pub fn has(&self, number: u32) -> bool {
        self.lanes.iter().any(|lane| lane.number == number)
    }

    pub fn is_usable(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_usable)
    }

    /// Something is to be sent there.
    pub fn waits(&self) -> bool {
        self.lanes.iter().any(|lane| lane.waits)
    }

    /// The lane of a mover.
    fn lane_of(&mut self, mover: MoverId) -> Option<&mut AwayLane> {
        let is_it = |lane: &&mut AwayLane| MoverId::of_added(lane.number) == mover;
        self.lanes.iter_mut().find(is_it)
    }

    /// Of so many workers, and with so many lanes at home, which is the first of those with fewest
    /// lanes. None: home.
    fn least_busy(&self, workers: u8, at_home: usize) -> Option<WorkerId> {
        let lanes = |worker| match worker {
            HOME => at_home,
            other => self.lanes.iter().filter(|lane| lane.at == other).count(),
        };
        let least = (0..workers)
            .map(WorkerId)
            .min_by_key(|worker| lanes(*worker));
        least.filter(|worker| *worker != HOME)
    }

    fn take(&mut self, number: u32) -> Option<AwayLane> {
        let at = self.lanes.iter().position(|lane| lane.number == number)?;
        Some(self.lanes.swap_remove(at))
    }
}

/// Outpost: lanes that home has not answered for.
#[derive(Debug, Default)]
pub(super) struct AskingLanes {
    /// In the order of their questions; None: it is gone meanwhile.
    lanes: VecDeque<Option<LaneKey>>,
    /// Home has admitted one, or had one dialled, and says when all is over.
    is_known: bool,
    /// Client: lanes are dialled here, and say what they are.
    dials: bool,
    /// What the peer did wrong.
    broken: Option<String>,
}

/// At home.
impl Lanes {
    /// An outpost said something.
    pub(super) fn hear_outpost(&mut self, now: Instant, from: WorkerId, mail: ToHome) {
        match mail {
            ToHome::Joins { number, peer } => self.joins_away(now, from, (number, peer)),
            ToHome::DialFailed => {
                if self.away.dials_at.take_if(|at| *at == from).is_some() {
                    self.adding.dial_failed(now);
                }
            }
            ToHome::LaneGone { number, end } => self.away_gone(now, number, end),
            ToHome::Movers(report) => {
                self.look_at_report(&report);
                self.session.handle(now, Input::FromOutpost(from, report));
            }
            ToHome::Broken(text) => {
                self.away.outposts.remove(&from);
                self.away.lanes.retain(|lane| lane.at != from);
                self.end_dial_at(from);
                let gone = Box::new(MoverReport::Gone);
                self.session.handle(now, Input::FromOutpost(from, gone));
                self.session.handle(now, Input::Broken(text));
            }
        }
    }

    fn joins_away(
        &mut self,
        now: Instant,
        from: WorkerId,
        (number, peer): (Option<u32>, Fingerprint),
    ) {
        let goes_on = matches!(self.course, Course::Running | Course::AwaitJoin { .. });
        let is_due = peer == self.peer && goes_on;
        let number = match number {
            // One that this client had dialled, which goes on while it has a lane for control.
            None => {
                let was_dialled = self.end_dial_at(from) && !self.lanes.is_empty();
                was_dialled.then(|| self.adding.next_number())
            }
            Some(number) => Some(number).filter(|number| self.has_room_for(*number)),
        };
        let answer = match number.filter(|_| is_due) {
            Some(number) => {
                self.adding.use_up(number);
                self.away.outposts.insert(from);
                self.away.lanes.push(AwayLane {
                    number,
                    at: from,
                    since: now,
                    is_usable: false,
                    waits: false,
                    account: None,
                });
                ToOutpost::Admit { number }
            }
            None => ToOutpost::Refuse,
        };
        self.mail_outpost(from, answer);
    }

    /// A lane is no more.
    fn away_gone(&mut self, now: Instant, number: u32, end: LaneEnd) {
        let Some(lane) = self.away.take(number).filter(|_| self.is_on()) else {
            return;
        };
        self.adding.went(now, lane.since, end.has_failed);
        if !self.adding.sends() {
            return self.adding.remember(number, false);
        }
        let lost = LostLane {
            number,
            tell_peer: end.tell_peer && lane.account.is_none(),
            ..LostLane::default()
        };
        match lane.account {
            None => {
                self.adding.await_account(number, end.ours);
                self.session.handle(now, Input::LaneLost(lost));
            }
            Some(account) => self.settle_account(now, &end.ours, &account),
        }
    }

    /// Sender: what the receiver took of a lane. What was sent there is still to be told.
    pub(super) fn account_away(&mut self, number: u32, account: LaneAccount) {
        let mut lanes = self.away.lanes.iter_mut();
        let Some(lane) = lanes.find(|lane| lane.number == number) else {
            return;
        };
        lane.account = Some(account);
        let at = lane.at;
        self.mail_outpost(at, ToOutpost::LaneOver { number });
    }

    /// What movers say is of interest here, too.
    fn look_at_report(&mut self, report: &MoverReport) {
        match report {
            MoverReport::Send(AwaySendReport::Begun { mover }) => {
                if let Some(lane) = self.away.lane_of(*mover) {
                    lane.is_usable = true;
                }
            }
            MoverReport::Send(AwaySendReport::Moved {
                mover,
                taken_bytes,
                waits,
                ..
            }) => {
                self.choice.took(DataWay::Added, *taken_bytes);
                if let Some(lane) = self.away.lane_of(*mover) {
                    lane.waits = *waits;
                }
            }
            MoverReport::Send(_) | MoverReport::Receive(_) | MoverReport::Gone => {}
        }
    }

    /// Sender: says whether movers on other workers are given orders. False: there was nothing to
    /// say.
    pub(super) fn tell_away(&mut self, now: Instant) -> bool {
        let pulls = self.prefers_added() && !self.is_outpost();
        if std::mem::replace(&mut self.away.pulls, pulls) == pulls {
            return false;
        }
        self.session.handle(now, Input::PullsAway(pulls));
        true
    }

    /// The peer says that a lane is no more. False: it is on no other worker.
    pub(super) fn away_over(&mut self, number: u32) -> bool {
        let Some(lane) = self.away.take(number) else {
            return false;
        };
        self.adding.remember(number, false);
        self.mail_outpost(lane.at, ToOutpost::LaneOver { number });
        true
    }

    /// Client: has another lane dialled, where there are fewest; in the clear at home, which alone
    /// knows when all of them are to end.
    pub(super) fn dial_added(&mut self) {
        if let Some(secret) = self.adding.clear {
            let lane = self.adding.next_number();
            return self.outputs.push_back(LanesOutput::DialClear {
                session: self.id,
                lane,
                secret: secret.of_lane(lane),
            });
        }
        let Some(worker) = self.away.least_busy(self.workers, self.added.len()) else {
            let kind = DialKind::Add;
            return self.outputs.push_back(LanesOutput::Dial { kind });
        };
        self.away.dials_at = Some(worker);
        self.away.outposts.insert(worker);
        let has_lost = self.has_lost_added();
        self.mail_outpost(worker, ToOutpost::Dial { has_lost });
    }

    /// What was dialled there is there, or is not. False: nothing was.
    fn end_dial_at(&mut self, worker: WorkerId) -> bool {
        let was_dialled = self.away.dials_at.take_if(|at| *at == worker).is_some();
        if was_dialled {
            self.adding.dial_ended();
        }
        was_dialled
    }

    pub(super) fn mail_outpost(&mut self, to: WorkerId, mail: ToOutpost) {
        self.outputs.push_back(LanesOutput::ToOutpost { to, mail });
    }

    /// The session is over, on other workers as well.
    pub(super) fn end_outposts(&mut self) {
        self.away.lanes.clear();
        if self.away.dials_at.take().is_some() {
            self.adding.dial_ended();
        }
        for worker in std::mem::take(&mut self.away.outposts) {
            self.mail_outpost(worker, ToOutpost::Over);
        }
    }
}

/// At an outpost.
impl Lanes {
    pub(super) fn is_outpost(&self) -> bool {
        self.side == LanesSide::Outpost
    }

    pub(super) fn mail_home(&mut self, mail: ToHome) {
        self.outputs.push_back(LanesOutput::ToHome(mail));
    }

    /// A lane arrived, or was dialled. Home knows whether it is due.
    pub(super) fn ask_home(&mut self, lane: LaneKey, number: Option<u32>, peer: Fingerprint) {
        self.asking.lanes.push_back(Some(lane));
        self.mail_home(ToHome::Joins { number, peer });
    }

    /// A lane that home was asked for is gone. False: it was none.
    pub(super) fn forget_asking(&mut self, lane: LaneKey) -> bool {
        let asks = |it: &&mut Option<LaneKey>| **it == Some(lane);
        let found = self.asking.lanes.iter_mut().find(asks);
        found.and_then(Option::take).is_some()
    }

    /// Home said something.
    pub(super) fn hear_home(&mut self, now: Instant, mail: ToOutpost) {
        match mail {
            ToOutpost::Admit { number } => {
                self.asking.is_known = true;
                match self.asking.lanes.pop_front().flatten() {
                    Some(lane) if self.asking.dials => {
                        let preface = self.preface_of(PrefaceKind::Add, number);
                        self.adopt_added(lane, (number, DialKind::Add), Some(preface));
                    }
                    Some(lane) => self.adopt_added(lane, (number, DialKind::Add), None),
                    None => self.never_came(now, number),
                }
            }
            ToOutpost::Refuse => {
                if let Some(lane) = self.asking.lanes.pop_front().flatten() {
                    self.close(lane, code::NO_SESSION, NO_SUCH_SESSION);
                }
                if self.asking.lanes.is_empty() && !self.asking.is_known {
                    self.end_here(now);
                }
            }
            ToOutpost::Dial { has_lost } => {
                self.asking.is_known = true;
                self.asking.dials = true;
                self.adding.set_lost(has_lost);
                let kind = DialKind::Add;
                self.outputs.push_back(LanesOutput::Dial { kind });
            }
            ToOutpost::LaneOver { number } => {
                // A sender's home knows already what was taken.
                let why = match self.adding.sends() {
                    true => LaneClosed::Replaced,
                    false => LaneClosed::Otherwise,
                };
                if let Some(lane) = self.added_of(number) {
                    self.close(lane, code::DONE, "");
                    self.added_gone(now, lane, why);
                }
            }
            ToOutpost::Movers(order) => self.session.handle(now, Input::FromHome(order)),
            ToOutpost::Over => self.end_here(now),
        }
    }

    /// A lane that home admitted was gone before: nothing was taken of it.
    fn never_came(&mut self, now: Instant, number: u32) {
        let end = LaneEnd {
            has_failed: true,
            tell_peer: true,
            ..LaneEnd::default()
        };
        self.mail_home(ToHome::LaneGone { number, end });
        let lost = LostLane {
            number,
            ..LostLane::default()
        };
        if !self.adding.sends() {
            self.session.handle(now, Input::LaneLost(lost));
        }
    }

    /// Nothing more is done here.
    fn end_here(&mut self, now: Instant) {
        self.close_all(code::DONE, "");
        self.session.handle(now, Input::Over);
    }

    /// The peer broke the protocol on a lane here.
    pub(super) fn broken_here(&mut self, now: Instant, text: String) {
        self.close_all(code::VIOLATION, &text);
        self.asking.broken.get_or_insert(text);
        self.end_here(now);
    }

    /// What the session had here is over, and nothing of it is in flight.
    pub(super) fn finished_here(&mut self, now: Instant, outcome: Outcome) {
        if let Outcome::Violation(text) = outcome {
            self.asking.broken.get_or_insert(text);
        }
        match self.asking.broken.take() {
            Some(text) => {
                self.close_all(code::VIOLATION, &text);
                self.mail_home(ToHome::Broken(text));
            }
            None => self.close_all(code::DONE, ""),
        }
        for lane in std::mem::take(&mut self.asking.lanes).into_iter().flatten() {
            self.close(lane, code::NO_SESSION, NO_SUCH_SESSION);
        }
        self.course = Course::Parting {
            until: now,
            code: code::DONE,
            why: "",
        };
    }
}
