//! What arrives on lanes and what leaves on them.

use std::time::Instant;

use bytes::Bytes;

use super::lane::{ControlIn, ControlOut, Lane, LaneState};
use super::outgoing::{RoundStanding, Send};
use super::ports::{LaneClosed, LaneKey, LaneStream, LanesOutput, Taken, code};
use super::{Course, Lanes, LanesSide};
use crate::ids::StreamKey;
use crate::proto::Input;
use crate::proto::wire::streams;

impl Lanes {
    // ---- what arrives

    pub(super) fn control(&mut self, now: Instant, lane: LaneKey, bytes: Bytes, fin: bool) {
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
                (LanesSide::Server, _) => {}
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
        let Some(at) = self.at(key) else { return };
        let lane = &mut self.lanes[at];
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
        let at = self.at(lane);
        if at.is_some_and(|at| self.lanes[at].reset(stream)) {
            self.session.handle(now, Input::DataReset);
        }
    }

    /// The session said in which pieces one of the peer's streams is best read.
    pub(super) fn piece(&mut self, key: StreamKey, bytes: Option<usize>) {
        let stream = |lane: &Lane| Some((lane.key, lane.stream_of(key)?));
        if let Some((lane, stream)) = self.lanes.iter().find_map(stream) {
            self.outputs.push_back(LanesOutput::Piece {
                lane,
                stream,
                bytes,
            });
        }
    }

    /// The peer broke the protocol below the session's own rules.
    pub(super) fn violation(&mut self, now: Instant, lane: LaneKey, text: String) {
        if self.at(lane).is_some() {
            self.close(lane, code::VIOLATION, &text);
            self.lane_lost(now, lane, LaneClosed::Otherwise);
        }
    }

    // ---- what leaves

    pub(super) fn begin_round(&mut self, now: Instant, lane: LaneKey, bytes: usize) {
        if let Some(at) = self.at(lane) {
            self.lanes[at].wants_room = false;
            self.out.begin_round(lane, bytes as u64);
            self.go_on(now, at);
        }
    }

    pub(super) fn taken(&mut self, now: Instant, taken: Taken) {
        let Some(at) = self.out.round_lane().and_then(|lane| self.at(lane)) else {
            return;
        };
        let lane = &mut self.lanes[at];
        if let Some(stream) = self.out.answered(lane, taken) {
            let lane = lane.key;
            self.outputs.push_back(LanesOutput::Watch { lane, stream });
        }
        self.go_on(now, at);
    }

    /// Hands the transport the next thing of the round, or ends it.
    fn go_on(&mut self, now: Instant, at: usize) {
        let standing = RoundStanding {
            newest: at + 1 == self.lanes.len(),
            parting: !self.is_on(),
        };
        let lane = &mut self.lanes[at];
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
        let bytes = self.out.end_round();
        if bytes > 0 {
            self.session.handle(now, Input::Sent { bytes });
        }
        if ran_empty || standing.parting && standing.newest && self.is_control_due() {
            self.wants(at);
        }
    }

    /// The last data of the session was taken in this round, so that its control stream may end.
    fn is_control_due(&self) -> bool {
        let open = |lane: &Lane| lane.control_out == ControlOut::Open;
        self.lanes.last().is_some_and(open) && self.out.is_taken()
    }

    pub(super) fn delivered(&mut self, lane: LaneKey, stream: LaneStream) {
        let Some(at) = self.at(lane) else { return };
        let lane = &mut self.lanes[at];
        match stream {
            LaneStream::Control => lane.control_out = ControlOut::Arrived,
            LaneStream::OneWay(_) => lane.state = LaneState::Arrived,
        }
    }
}
