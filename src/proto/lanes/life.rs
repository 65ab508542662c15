//! How lanes come, replace each other and go; what time alone changes.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::lane::{ControlIn, ControlOut, Lane, LaneState};
use super::mail::ToHome;
use super::ports::{DialKind, LaneClosed, LaneKey, LanesOutput, QuestionId, code};
use super::suspicion::Suspected;
use super::{
    Course, Growth, JOIN_PAUSE, LINGER, Lanes, LanesSide, MAX_LANES, MAX_SERVED_LANES,
    NO_SUCH_SESSION,
};
use crate::ids::Fingerprint;
use crate::proto::Input;
use crate::proto::wire::{Preface, PrefaceKind};

impl Lanes {
    // ---- lanes come

    pub(super) fn preface(&self, kind: PrefaceKind) -> Bytes {
        self.preface_of(kind, self.next_number)
    }

    pub(super) fn preface_of(&self, kind: PrefaceKind, lane: u32) -> Bytes {
        let preface = Preface {
            kind,
            session: self.id,
            lane,
        };
        Bytes::copy_from_slice(&preface.encode())
    }

    /// From now on this lane carries, and the one before runs empty.
    pub(super) fn adopt(&mut self, lane: LaneKey, preface: Option<Bytes>) {
        if let Some(last) = self.lanes.len().checked_sub(1) {
            self.lanes[last].state = LaneState::Emptying;
            self.wants(self.lanes[last].key);
        }
        let lane = Lane::carrying(lane, preface, self.next_number);
        self.next_number += 1;
        self.lanes.push(lane);
        self.wants_newest();
    }

    pub(super) fn dialled(&mut self, lane: LaneKey, peer: Fingerprint, kind: DialKind) {
        match kind {
            DialKind::Add | DialKind::AddClear => return self.dialled_to_add(lane, peer, kind),
            DialKind::TakeOver => return self.dialled_to_take_over(lane, peer),
            DialKind::Replace => {}
        }
        if self.side != LanesSide::Client(Growth::Dialling) {
            return self.close(lane, code::DONE, "");
        }
        self.side = LanesSide::Client(Growth::Content);
        // One that took over and was not answered is to be known to the server first.
        let is_known = |newest: &Lane| newest.count_in.is_none();
        let may_join = self.lanes.last().is_some_and(is_known);
        if peer != self.peer || self.course != Course::Running || !may_join {
            return self.close(lane, code::DONE, "");
        }
        let preface = self.preface(PrefaceKind::Join);
        self.adopt(lane, Some(preface));
    }

    pub(super) fn dial_failed(&mut self, now: Instant, kind: DialKind) {
        match kind {
            DialKind::Add if self.is_outpost() => return self.mail_home(ToHome::DialFailed),
            DialKind::Add => return self.adding.dial_failed(now),
            DialKind::AddClear => return self.dial_in_the_clear_failed(now),
            DialKind::TakeOver => return self.dial_to_take_over_failed(now),
            DialKind::Replace => {}
        }
        if self.side == LanesSide::Client(Growth::Dialling) {
            let not_before = now + JOIN_PAUSE;
            self.side = LanesSide::Client(Growth::Wanted { not_before });
        }
    }

    /// A lane joins a session of its own peer that goes on, with not many more lanes than it needs.
    pub(super) fn joins(&mut self, lane: LaneKey, number: u32, peer: Fingerprint, kind: DialKind) {
        let goes_on = matches!(self.course, Course::Running | Course::AwaitJoin { .. });
        let count = self.lanes.len();
        match kind {
            DialKind::Add if self.is_outpost() => {
                return self.ask_home(lane, Some(number), peer);
            }
            DialKind::Add | DialKind::AddClear => {
                let is_due = peer == self.peer && goes_on;
                return self.joins_added(lane, number, is_due, kind);
            }
            DialKind::TakeOver => return self.joins_to_take_over(lane, number, peer),
            DialKind::Replace => {}
        }
        let is_open = |newest: &Lane| newest.count_in.is_some();
        let is_early = self.lanes.last().is_some_and(is_open);
        if peer != self.peer || !goes_on || is_early || !(1..MAX_SERVED_LANES).contains(&count) {
            return self.close(lane, code::NO_SESSION, NO_SUCH_SESSION);
        }
        if number != self.next_number {
            let text = format!("lane {number} joins where {} is due", self.next_number);
            return self.close(lane, code::VIOLATION, &text);
        }
        self.course = Course::Running;
        self.adopt(lane, None);
    }

    /// Another lane may be dialled: the server knows the newest, or the next one's preface might
    /// overtake that one's. It answers on the first lane, and ends its control stream on an older
    /// one when the next has joined.
    pub(super) fn may_grow(&self) -> bool {
        let ended = |lane: &Lane| lane.control_in == ControlIn::Ended;
        let Some((newest, older)) = self.lanes.split_last() else {
            return false;
        };
        let answered = self.control_read_bytes > 0 && newest.count_in.is_none();
        let known = answered && older.iter().all(ended);
        self.course == Course::Running && self.lanes.len() < MAX_LANES && known
    }

    pub(super) fn worn(&mut self, now: Instant, lane: LaneKey) {
        if self.side == LanesSide::Client(Growth::Content) && self.newest() == Some(lane) {
            self.side = LanesSide::Client(Growth::Wanted { not_before: now });
        }
        self.added_worn(lane);
    }

    // ---- lanes go

    pub(super) fn close(&mut self, lane: LaneKey, code: u64, text: &str) {
        let text = text.to_owned();
        self.outputs
            .push_back(LanesOutput::Close { lane, code, text });
    }

    /// Closes all lanes with the same words.
    pub(super) fn close_all(&mut self, code: u64, text: &str) {
        let added = std::mem::take(&mut self.added);
        for lane in added.into_iter().chain(std::mem::take(&mut self.lanes)) {
            self.out.forget_lane(lane.key);
            self.close(lane.key, code, text);
        }
        self.end_outposts();
    }

    /// A lane is no more. Unless its end was orderly, what was to come on it will not come again.
    pub(super) fn lane_lost(&mut self, now: Instant, key: LaneKey, why: LaneClosed) {
        if self.is_added(key) {
            let why = self.judge_clear(now, key, why);
            return self.added_gone(now, key, why);
        }
        if self.forget_asking(key) {
            return;
        }
        let Some(at) = self.at(key) else { return };
        if self.waits_for_another(now, at, why) {
            return;
        }
        let lane = self.lanes.remove(at);
        let was_newest = at == self.lanes.len();
        self.out.forget_lane(key);
        if was_newest {
            // What still waits has no lane to go on.
            self.out.forget_all(&mut self.added);
            self.lanes.iter_mut().for_each(|lane| lane.unfinished = 0);
        }
        if !self.is_on() {
            return;
        }
        // A close that says "replaced" comes from a peer that opened no stream here. After any
        // other loss the peer judges of what we sent, and ends the session if it did not read it.
        let is_read = lane.is_read_out() || why == LaneClosed::Replaced;
        if !was_newest && lane.is_said() && lane.control_in == ControlIn::Ended && is_read {
            return;
        }
        let refused = why == LaneClosed::NoSession && was_newest && lane.unfinished == 0;
        let waits = self.lanes.last().is_some_and(|older| {
            // Its last word may be still to come.
            older.control_in != ControlIn::Ended
        });
        if refused && waits && self.is_client() && self.course == Course::Running {
            let until = now + self.idle;
            self.course = Course::LastWord { until };
        } else {
            self.peer_lost(now);
        }
    }

    /// What was to come from the peer will not come.
    pub(super) fn peer_lost(&mut self, now: Instant) {
        if !matches!(self.course, Course::Revoked { .. }) {
            self.course = Course::Ending;
        }
        self.cut_until = None;
        self.session.handle(now, Input::ControlClosed);
    }

    /// A daemon no longer allows this session, or no longer would.
    pub(super) fn revoke(&mut self, until: Instant, why: &'static str) {
        self.course = match self.course {
            Course::Running
            | Course::AwaitJoin { .. }
            | Course::LastWord { .. }
            | Course::Ending => Course::Revoked { until, why },
            Course::Parting { until: before, .. } => Course::Parting {
                until: before.min(until),
                code: code::UNAUTHORISED,
                why,
            },
            Course::Revoked { .. } | Course::Over => self.course,
        };
    }

    // ---- time

    pub(super) fn tick(&mut self, now: Instant) {
        match self.course {
            Course::AwaitJoin { until } if now >= until => {
                if let Some(lane) = self.newest() {
                    self.close(lane, code::DONE, "");
                    self.lane_lost(now, lane, LaneClosed::Otherwise);
                }
            }
            Course::LastWord { until } if now >= until => {
                self.peer_lost(now);
                // Other workers are to leave their files before they hear that all is over.
                self.drain(now);
                self.close_all(code::DONE, "");
            }
            Course::Revoked { until, why } if now >= until => {
                self.close_all(code::UNAUTHORISED, why);
                self.peer_lost(now);
            }
            Course::Parting { until, code, why } if now >= until => {
                self.cut_until = None;
                self.close_all(code, why);
            }
            Course::Running
            | Course::AwaitJoin { .. }
            | Course::LastWord { .. }
            | Course::Ending
            | Course::Revoked { .. }
            | Course::Parting { .. }
            | Course::Over => {}
        }
        if self.cut_until.is_some_and(|until| until <= now) {
            self.cut_until = None;
            if self.is_on() {
                self.peer_lost(now);
            }
        }
        match (self.suspicions.review(now), self.newest()) {
            (Suspected::Ping, Some(lane)) => self.outputs.push_back(LanesOutput::Ping { lane }),
            (Suspected::Dead, Some(lane)) => {
                let text = "no sign of life while this identity began another session";
                self.close(lane, code::TIMEOUT, text);
                self.lane_lost(now, lane, LaneClosed::Otherwise);
            }
            // Without a lane its files are being closed already.
            (Suspected::Wait, _) | (_, None) => {}
        }
        if self.session.deadline().is_some_and(|at| at <= now) {
            self.session.handle(now, Input::Tick);
        }
    }

    pub(super) fn question(
        &mut self,
        now: Instant,
        id: QuestionId,
        crowd: usize,
        round_trip: Duration,
    ) {
        if !self.is_on() || self.is_outpost() {
            return self.outputs.push_back(LanesOutput::Settled(id));
        }
        self.hurry_another(now);
        if self.suspicions.is_empty() {
            self.outputs.push_back(LanesOutput::Listen(true));
        }
        let ping = self.suspicions.ask(now, id, crowd, round_trip);
        if let (true, Some(lane)) = (ping, self.newest()) {
            self.outputs.push_back(LanesOutput::Ping { lane });
        }
    }

    /// Something arrived on a lane; only the newest counts.
    pub(super) fn heard(&mut self, now: Instant, lane: LaneKey) {
        if self.newest() == Some(lane) {
            self.silence.heard(now);
            let settled = self.suspicions.heard(now).into_iter();
            self.outputs.extend(settled.map(LanesOutput::Settled));
            if self.suspicions.is_empty() && !self.is_client() {
                self.outputs.push_back(LanesOutput::Listen(false));
            }
        }
    }

    /// Closes replaced lanes on which nothing more will be said or read.
    pub(super) fn close_replaced(&mut self, now: Instant) {
        self.close_added(now);
        let done = |lane: &&Lane| lane.begun == 0 && lane.is_arrived() && lane.is_read_out();
        let older = self.lanes.len().saturating_sub(1);
        let done: Vec<LaneKey> = self.lanes[..older]
            .iter()
            .filter(done)
            .map(|lane| lane.key)
            .collect();
        for key in done {
            self.lanes.retain(|lane| lane.key != key);
            self.close(key, code::REPLACED, "");
        }
    }

    /// A client asks for another lane if it wants one and may.
    pub(super) fn grow(&mut self, now: Instant) {
        if let LanesSide::Client(Growth::Wanted { not_before }) = self.side
            && not_before <= now
            && self.may_grow()
        {
            self.side = LanesSide::Client(Growth::Dialling);
            let kind = DialKind::Replace;
            self.outputs.push_back(LanesOutput::Dial { kind });
        }
    }

    /// The session is over: the client hangs up when both have said their last word. The server's
    /// deadline covers a client that does not, and is near once the client has all that was said.
    pub(super) fn part(&mut self, now: Instant) {
        if let Course::Parting { until, code, why } = self.course {
            if self.is_client() {
                let hangs_up = self.lanes.last().is_some_and(|lane| {
                    let named = !matches!(lane.control_out, ControlOut::Preface(_));
                    lane.control_in == ControlIn::Ended && named && self.out.is_taken(&self.added)
                });
                if hangs_up {
                    self.close_all(code::DONE, "");
                }
            } else {
                let ended = |lane: &Lane| lane.control_in == ControlIn::Ended;
                let arrived = |lane: &Lane| lane.control_out == ControlOut::Arrived;
                if self.lanes.iter().any(ended) && self.lanes.iter().all(arrived) {
                    let until = until.min(now + LINGER);
                    self.course = Course::Parting { until, code, why };
                }
            }
        }
        if self.cut_until.is_some() {
            return;
        }
        if self.lanes.is_empty() {
            self.close_all(code::DONE, "");
        }
        let is_dialling = self.side == LanesSide::Client(Growth::Dialling)
            || self.adding.is_dialling()
            || self.silence.is_dialling();
        if self.lanes.is_empty() && !is_dialling && self.course != Course::Over {
            self.course = Course::Over;
            self.outputs.push_back(LanesOutput::Over);
        }
    }
}
