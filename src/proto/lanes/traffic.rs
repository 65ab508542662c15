//! What arrives on lanes and what leaves on them.

use std::time::Instant;

use bytes::Bytes;

use super::lane::{ControlIn, ControlOut, Lane, LaneState};
use super::ledger::MoverTold;
use super::outgoing::{RoundStanding, Send};
use super::ports::{LaneClosed, LaneKey, LaneStream, LanesOutput, Taken, code};
use super::{Course, Lanes, LanesSide};
use crate::ids::StreamKey;
use crate::proto::Input;
use crate::proto::wire::streams;

impl Lanes {
    // ---- what arrives

    pub(super) fn control(&mut self, now: Instant, lane: LaneKey, bytes: Bytes, fin: bool) {
        if self.is_added(lane) {
            return self.added_control(now, lane, bytes, fin);
        }
        let Some(at) = self.at(lane) else { return };
        if self.lanes[at].control_in != ControlIn::Read {
            debug_assert!(false, "control bytes that were not to be read");
            return;
        }
        let bytes = match fin {
            false => bytes,
            true => match streams::without_end(bytes) {
                Ok(bytes) => bytes,
                Err(error) => return self.violation(now, lane, error.to_string()),
            },
        };
        let Some(bytes) = self.take_count(now, at, bytes) else {
            return;
        };
        if !bytes.is_empty() {
            self.control_read_bytes += bytes.len() as u64;
            self.session.handle(now, Input::Control(bytes));
            self.drain(now);
        }
        if fin {
            self.control_ended(now, lane);
        }
    }

    /// The peer's control stream goes on on the next lane, or the session is over.
    pub(super) fn control_ended(&mut self, now: Instant, lane: LaneKey) {
        let Some(at) = self.at(lane) else { return };
        self.lanes[at].control_in = ControlIn::Ended;
        if self.is_on() && self.newest() == Some(lane) {
            match (self.side, self.course) {
                (LanesSide::Server, Course::Running) => {
                    // As long as the next lane's handshake may take, on a host that is busy for
                    // seconds.
                    let until = now + self.handshake;
                    self.course = Course::AwaitJoin { until };
                }
                (LanesSide::Server | LanesSide::Outpost, _) => {}
                (LanesSide::Client(_), _) => self.peer_lost(now),
            }
        }
    }

    /// Bytes of a one-way stream of a lane.
    pub(super) fn data(
        &mut self,
        now: Instant,
        (key, stream): (LaneKey, u64),
        bytes: Bytes,
        fin: bool,
    ) {
        self.count_moved(bytes.len() as u64);
        let mut lanes = self.lanes.iter_mut().chain(&mut self.added);
        let Some(lane) = lanes.find(|lane| lane.key == key) else {
            return;
        };
        match lane.take(stream, bytes, fin, &mut self.next_incoming) {
            Ok(None) => {}
            Ok(Some(content)) => {
                let (stream, bytes) = (content.key, content.bytes);
                let input = Input::Data { stream, bytes, fin };
                self.session.handle(now, input);
            }
            Err(error) => self.violation(now, key, error.to_string()),
        }
    }

    pub(super) fn data_reset(&mut self, now: Instant, lane: LaneKey, stream: u64) {
        if self.is_added(lane) {
            // Only an ending transport resets streams.
            self.close(lane, code::DONE, "");
            return self.added_gone(now, lane, LaneClosed::Otherwise);
        }
        let at = self.at(lane);
        if at.is_some_and(|at| self.lanes[at].reset(stream)) {
            self.session.handle(now, Input::DataReset);
        }
    }

    /// The session said in which pieces one of the peer's streams is best read.
    pub(super) fn piece(&mut self, key: StreamKey, bytes: Option<usize>) {
        let stream = |lane: &Lane| Some((lane.key, lane.stream_of(key)?));
        let found = self.all_lanes().find_map(stream);
        if let Some((lane, stream)) = found {
            self.outputs.push_back(LanesOutput::Piece {
                lane,
                stream,
                bytes,
            });
        }
    }

    /// The peer broke the protocol below the session's own rules.
    pub(super) fn violation(&mut self, now: Instant, lane: LaneKey, text: String) {
        if self.is_outpost() {
            return self.broken_here(now, text);
        }
        let carrying = match self.is_added(lane) {
            true => self.newest(),
            false => self.at(lane).map(|_| lane),
        };
        if let Some(lane) = carrying {
            self.close(lane, code::VIOLATION, &text);
            self.lane_lost(now, lane, LaneClosed::Otherwise);
        }
    }

    // ---- what leaves

    pub(super) fn begin_round(
        &mut self,
        now: Instant,
        lane: LaneKey,
        (bytes, takes_pipes): (usize, bool),
    ) {
        if let Some(it) = self.lane_mut(lane) {
            it.wants_room = false;
            let mover = it.mover();
            if let Some(added) = &mut it.added
                && takes_pipes
                && !added.told_pipes
                && let MoverTold::Pulls(_) = added.told
            {
                added.told_pipes = true;
                self.session.handle(now, Input::TakesPipes { mover });
            }
            self.out.begin_round(lane, bytes as u64);
            self.go_on(now, lane);
        }
    }

    pub(super) fn taken(&mut self, now: Instant, taken: Taken) {
        let Some(key) = self.out.round_lane() else {
            return;
        };
        if taken == Taken::Gone && self.is_added(key) {
            // The lane is ending, or the peer does not want all of it. What is on it counts as sent
            // only if the peer says so.
            self.close(key, code::DONE, "");
            return self.added_gone(now, key, LaneClosed::Otherwise);
        }
        let mut lanes = self.lanes.iter_mut().chain(&mut self.added);
        let Some(lane) = lanes.find(|lane| lane.key == key) else {
            return;
        };
        if let Some(stream) = self.out.answered(lane, taken) {
            let lane = key;
            self.outputs.push_back(LanesOutput::Watch { lane, stream });
        }
        self.go_on(now, key);
    }

    /// Hands the transport the next thing of the round, or ends it.
    fn go_on(&mut self, now: Instant, key: LaneKey) {
        let standing = RoundStanding {
            newest: self.newest() == Some(key),
            ends_control: !self.is_on() && self.out.is_taken(&self.added),
        };
        let mut lanes = self.lanes.iter_mut().chain(&mut self.added);
        let Some(lane) = lanes.find(|lane| lane.key == key) else {
            return;
        };
        if let Some(Send {
            stream,
            payload,
            fin,
        }) = self.out.next(lane, standing)
        {
            let lane = lane.key;
            self.outputs.push_back(LanesOutput::Send {
                lane,
                stream,
                payload,
                fin,
            });
            return;
        }
        let ran_empty = lane.state == LaneState::Emptying && lane.unfinished == 0;
        let mover = lane.mover();
        let bytes = self.out.end_round();
        if bytes > 0 {
            self.choice.took(self.way_of(key), bytes);
            self.session.handle(now, Input::Sent { mover, bytes });
        }
        let control_ends = !self.is_on() && standing.newest && self.is_control_due();
        if ran_empty || control_ends {
            self.wants(key);
        }
    }

    /// The last data of the session was taken in this round, so that its control stream may end.
    fn is_control_due(&self) -> bool {
        let open = |lane: &Lane| lane.control_out == ControlOut::Open;
        self.lanes.last().is_some_and(open) && self.out.is_taken(&self.added)
    }

    pub(super) fn delivered(&mut self, lane: LaneKey, stream: LaneStream) {
        let Some(lane) = self.lane_mut(lane) else {
            return;
        };
        match stream {
            LaneStream::Control => {
                lane.control_out = ControlOut::Arrived;
                self.adding.has_had_clear |= lane.is_clear();
            }
            LaneStream::OneWay(_) => lane.state = LaneState::Arrived,
        }
    }
}
