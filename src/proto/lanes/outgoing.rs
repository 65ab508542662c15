//! What waits to be sent, and a round of sending it: control bytes, the end of a lane, data.
//!
//! A transport that has room for a lane begins a *round* for it. In a round the transport is handed
//! one thing after the other and says of each what it took, until nothing is left that it takes.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, Bytes};

use super::lane::{ControlOut, Lane, LaneState};
use super::ports::{LaneKey, LaneStream, Taken};
use super::takeover::KeptControl;
use crate::ids::{MoverId, StreamKey};
use crate::proto::Payload;
use crate::proto::wire::streams;

/// What to send and where. It stays in its queue until the transport has said what it took.
#[derive(Debug)]
pub(super) struct Send {
    pub stream: LaneStream,
    pub payload: Payload,
    pub fin: bool,
}

#[derive(Debug)]
pub(super) struct SendQueue {
    /// Control messages, several in each. They go to the newest lane.
    control: VecDeque<Bytes>,
    control_bytes: usize,
    kept: KeptControl,
    streams: HashMap<StreamKey, OutStream>,
    /// Streams that have not ended, in the order they appeared.
    order: VecDeque<StreamKey>,
    round: Option<Round>,
}

/// A data stream of ours that the transport has not taken to its end.
#[derive(Debug)]
struct OutStream {
    place: StreamPlace,
    queue: VecDeque<Payload>,
    /// How many end with what was queued so far.
    records: u32,
    ends: bool,
    /// Something of it could not be moved again.
    stays: bool,
}

impl Default for OutStream {
    fn default() -> OutStream {
        OutStream {
            place: StreamPlace::Nowhere,
            queue: VecDeque::new(),
            records: 0,
            ends: false,
            stays: false,
        }
    }
}

/// Where a data stream travels. It stays on the lane it began on.
#[derive(Clone, Copy, Debug)]
enum StreamPlace {
    /// On the lane that carries control when its turn comes. Next: Heading.
    Nowhere,
    /// Its number on its lane is given, its first byte was not taken yet. Next: On.
    Heading {
        lane: LaneKey,
        number: u64,
    },
    On {
        lane: LaneKey,
        number: u64,
    },
}

#[derive(Debug)]
struct Round {
    lane: LaneKey,
    /// Bytes of data that may still be offered.
    left: u64,
    /// File bytes that were taken.
    taken: u64,
    stage: Stage,
    offered: Option<Offered>,
}

/// What a round looks at next.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Control,
    LaneEnd,
    /// The stream at this place of `order`.
    Data(usize),
    Over,
}

/// What the transport was handed.
#[derive(Clone, Copy, Debug)]
enum Offered {
    Preface,
    Control,
    ControlEnd,
    LaneEnd,
    DataHead(StreamKey),
    Data(StreamKey),
    DataEnd(StreamKey),
}

/// What a round needs to know of the session.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundStanding {
    /// Control bytes, and new streams of the mover that goes with them, go to this lane.
    pub newest: bool,
    /// The session is over and all is taken: the control stream is to end.
    pub ends_control: bool,
}

impl StreamPlace {
    /// On this lane, as the next of its streams.
    fn begun(lane: &mut Lane, key: StreamKey, stays: bool) -> StreamPlace {
        let number = lane.begin_stream(key, stays);
        let lane = lane.key;
        StreamPlace::Heading { lane, number }
    }

    fn lane(self) -> Option<LaneKey> {
        match self {
            StreamPlace::Nowhere => None,
            StreamPlace::Heading { lane, .. } | StreamPlace::On { lane, .. } => Some(lane),
        }
    }
}

impl SendQueue {
    /// `kept_bytes`: of control that lanes took, should another lane take over.
    pub fn new(kept_bytes: usize) -> SendQueue {
        SendQueue {
            control: VecDeque::new(),
            control_bytes: 0,
            kept: KeptControl::of_at_most(kept_bytes),
            streams: HashMap::new(),
            order: VecDeque::new(),
            round: None,
        }
    }

    pub fn control(&mut self, bytes: Bytes) {
        self.control_bytes += bytes.len();
        self.control.push_back(bytes);
    }

    /// Control bytes that no lane has taken.
    pub fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    /// Data streams that have not ended.
    pub fn streams(&self) -> usize {
        self.order.len()
    }

    /// Queues bytes of a data stream, with which so many records end; gives where it is going, if
    /// it has begun. `added`: the added lane of its mover, where it begins at once, for what
    /// becomes of it is told with that lane's end.
    pub fn data(
        &mut self,
        key: StreamKey,
        (payload, records, fin): (Payload, u32, bool),
        added: Option<&mut Lane>,
    ) -> Option<LaneKey> {
        let out = self.streams.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            let mut out = OutStream::default();
            if let Some(lane) = added {
                out.place = StreamPlace::begun(lane, key, false);
            }
            out
        });
        out.records += records;
        if payload.len_bytes() > 0 {
            out.queue.push_back(payload);
        }
        out.ends |= fin;
        out.place.lane()
    }

    /// Something follows on this stream that could not be moved again. Gives the lane it is on.
    pub fn stays(&mut self, key: StreamKey) -> Option<LaneKey> {
        let out = self.streams.get_mut(&key)?;
        out.stays = true;
        out.place.lane()
    }

    /// Data waits for one of these lanes, or has no place yet.
    pub fn has_data(&self, is_one: impl Fn(LaneKey) -> bool) -> bool {
        let waits = |out: &OutStream| !out.queue.is_empty() && out.place.lane().is_none_or(&is_one);
        self.streams.values().any(waits)
    }

    /// Nothing waits to be taken. Streams that were not ended and have nothing queued do not wait.
    /// Nor do those on added lanes, whose loss loses nothing.
    pub fn is_taken(&self, added: &[Lane]) -> bool {
        let is_added = |on| added.iter().any(|lane| lane.key == on);
        let idle = |out: &OutStream| {
            out.queue.is_empty() && !out.ends || out.place.lane().is_some_and(is_added)
        };
        self.control.is_empty() && self.streams.values().all(idle)
    }

    /// A lane is gone, and what was on its streams with it.
    pub fn forget_lane(&mut self, lane: LaneKey) {
        self.streams.retain(|_, out| out.place.lane() != Some(lane));
        self.order.retain(|key| self.streams.contains_key(key));
        self.round.take_if(|round| round.lane == lane);
    }

    /// A lane is gone: its ledger is told what was given to its streams. Gives those that had not
    /// ended, in order, and how many bytes of them were not told as taken.
    pub fn lose_lane(&mut self, lane: &mut Lane) -> (Vec<StreamKey>, u64) {
        let round = self.round.take_if(|round| round.lane == lane.key);
        let mut bytes = round.map_or(0, |round| round.taken);
        let mut keys = Vec::new();
        for key in &self.order {
            if let Some(out) = self.streams.get(key)
                && out.place.lane() == Some(lane.key)
            {
                keys.push(*key);
                bytes += out.queue.iter().map(Payload::len_bytes).sum::<u64>();
                lane.close_stream(*key, out.records, false);
            }
        }
        self.forget_lane(lane.key);
        lane.unfinished = 0;
        (keys, bytes)
    }

    /// Nobody listens any more. What was sent on added lanes may still be accounted for.
    pub fn forget_all(&mut self, added: &mut [Lane]) {
        for lane in added {
            self.lose_lane(lane);
        }
        self.control.clear();
        self.control_bytes = 0;
        self.streams.clear();
        self.order.clear();
    }

    pub fn begin_round(&mut self, lane: LaneKey, left: u64) {
        debug_assert!(self.round.is_none(), "a round begins inside another");
        self.round = Some(Round {
            lane,
            left,
            taken: 0,
            stage: Stage::Control,
            offered: None,
        });
    }

    /// The lane of the round that goes on.
    pub fn round_lane(&self) -> Option<LaneKey> {
        self.round.as_ref().map(|round| round.lane)
    }

    /// Ends the round; gives the file bytes that were taken in it.
    pub fn end_round(&mut self) -> u64 {
        self.round.take().map_or(0, |round| round.taken)
    }

    /// The next thing to hand to the transport; None: the round is over.
    pub fn next(&mut self, lane: &mut Lane, standing: RoundStanding) -> Option<Send> {
        loop {
            let stage = self.round.as_ref()?.stage;
            let found = match stage {
                Stage::Control => self.next_control(lane, standing),
                Stage::LaneEnd => next_lane_end(lane),
                Stage::Data(at) => self.next_data(at, lane, standing),
                Stage::Over => return None,
            };
            let round = self.round.as_mut()?;
            if let Some((offered, send)) = found {
                round.offered = Some(offered);
                return Some(send);
            }
            round.stage = match stage {
                Stage::Control => Stage::LaneEnd,
                Stage::LaneEnd => Stage::Data(0),
                Stage::Data(at) if at + 1 < self.order.len() && round.left > 0 => {
                    Stage::Data(at + 1)
                }
                Stage::Data(_) | Stage::Over => Stage::Over,
            };
        }
    }

    fn next_control(&mut self, lane: &Lane, standing: RoundStanding) -> Option<(Offered, Send)> {
        let next = self.control.front().filter(|_| standing.newest);
        let is_over = !standing.newest || standing.ends_control;
        let (offered, bytes) = match (&lane.control_out, next) {
            (ControlOut::Preface(bytes), _) => (Offered::Preface, bytes.clone()),
            (ControlOut::Open, Some(bytes)) => (Offered::Control, bytes.clone()),
            (ControlOut::Open, None) if is_over => {
                (Offered::ControlEnd, Bytes::from_static(&streams::END))
            }
            (ControlOut::Open | ControlOut::Held | ControlOut::Ended | ControlOut::Arrived, _) => {
                return None;
            }
        };
        let send = Send {
            stream: LaneStream::Control,
            payload: Payload::Bytes(bytes),
            fin: matches!(offered, Offered::ControlEnd),
        };
        Some((offered, send))
    }

    fn next_data(
        &mut self,
        at: usize,
        lane: &mut Lane,
        standing: RoundStanding,
    ) -> Option<(Offered, Send)> {
        let round = self.round.as_ref().filter(|round| round.left > 0)?;
        debug_assert_eq!(round.lane, lane.key);
        let key = *self.order.get(at)?;
        let out = self.streams.get_mut(&key)?;
        // Until it is known how far the peer has read, the lane may come to nothing.
        let begins_here = standing.newest && lane.count_in.is_none();
        if let StreamPlace::Nowhere = out.place
            && begins_here
            && key.mover() == MoverId::CONTROL
        {
            out.place = StreamPlace::begun(lane, key, out.stays);
        }
        let (offered, number, payload) = match out.place {
            StreamPlace::Heading { lane: on, number } if on == lane.key => {
                let head = Bytes::from_static(&[streams::DATA]);
                (Offered::DataHead(key), number, Payload::Bytes(head))
            }
            StreamPlace::On { lane: on, number } if on == lane.key => match out.queue.front() {
                Some(payload) => (Offered::Data(key), number, payload.clone()),
                None if out.ends => {
                    let end = Bytes::from_static(&streams::END);
                    (Offered::DataEnd(key), number, Payload::Bytes(end))
                }
                None => return None,
            },
            StreamPlace::Nowhere | StreamPlace::Heading { .. } | StreamPlace::On { .. } => {
                return None;
            }
        };
        let send = Send {
            stream: LaneStream::OneWay(number),
            payload,
            fin: matches!(offered, Offered::DataEnd(_)),
        };
        Some((offered, send))
    }

    /// The transport's answer. Gives a stream that has ended and whose newcomer matters.
    pub fn answered(&mut self, lane: &mut Lane, taken: Taken) -> Option<LaneStream> {
        let round = self.round.as_mut()?;
        match (round.offered.take()?, taken) {
            (Offered::Preface, Taken::All | Taken::Gone) => {
                lane.control_out = match lane.count_in {
                    Some(_) => ControlOut::Held,
                    None => ControlOut::Open,
                };
            }
            (Offered::Preface, Taken::Part(bytes)) => {
                if let ControlOut::Preface(rest) = &mut lane.control_out {
                    rest.advance(bytes as usize);
                }
                round.stage = Stage::Over;
            }
            (Offered::Control, Taken::All) => {
                let whole = self.control.pop_front();
                self.control_bytes -= whole.as_ref().map_or(0, Bytes::len);
                whole.into_iter().for_each(|whole| self.kept.add(whole));
            }
            (Offered::Control, Taken::Part(bytes)) => {
                // Should another lane take over before this one takes more, the rest goes there:
                // read one behind the other the lanes are one stream.
                if let Some(rest) = self.control.front_mut() {
                    let taken = rest.split_to(bytes as usize);
                    self.control_bytes -= taken.len();
                    self.kept.add(taken);
                }
                round.stage = Stage::LaneEnd;
            }
            (Offered::ControlEnd, Taken::All) => {
                lane.control_out = ControlOut::Ended;
                return Some(LaneStream::Control);
            }
            (Offered::ControlEnd, Taken::Part(_)) => round.stage = Stage::LaneEnd,
            (Offered::Control | Offered::ControlEnd, Taken::Gone) => {
                lane.control_out = ControlOut::Ended;
            }
            (Offered::LaneEnd, Taken::All) => {
                lane.state = LaneState::Announced;
                return Some(LaneStream::OneWay(u64::from(lane.begun)));
            }
            (Offered::LaneEnd, Taken::Part(bytes)) => {
                if let LaneState::Announcing(rest) = &mut lane.state {
                    rest.advance(bytes as usize);
                }
                round.stage = Stage::Data(0);
            }
            (Offered::LaneEnd, Taken::Gone) => lane.state = LaneState::Announced,
            (Offered::DataHead(key), taken) => self.head_answered(lane, key, taken),
            (Offered::Data(key), taken) => self.data_answered(lane, key, taken),
            (Offered::DataEnd(_), Taken::Part(_)) => round.next_stream(),
            (Offered::DataEnd(key), Taken::All | Taken::Gone) => self.forget_stream(lane, key),
        }
        None
    }

    /// Whether lanes took so many control bytes.
    pub fn has_said(&self, bytes: u64) -> bool {
        bytes <= self.kept.taken_bytes()
    }

    /// The peer has read so many control bytes: those behind are sent again. False: there are none
    /// such, or not any more.
    pub fn go_back_to(&mut self, read: u64) -> bool {
        let Some(again) = self.kept.take_back_to(read) else {
            return false;
        };
        for bytes in again {
            self.control_bytes += bytes.len();
            self.control.push_front(bytes);
        }
        true
    }

    fn head_answered(&mut self, lane: &mut Lane, key: StreamKey, taken: Taken) {
        let (Some(round), Some(out)) = (&mut self.round, self.streams.get_mut(&key)) else {
            return;
        };
        match (taken, out.place) {
            (Taken::All, StreamPlace::Heading { lane, number }) => {
                out.place = StreamPlace::On { lane, number };
            }
            // Either no further stream may be opened, or no window is left for any.
            (Taken::Part(_), _) => round.stage = Stage::Over,
            (Taken::Gone, _) => self.give_up_stream(lane, key),
            (Taken::All, StreamPlace::Nowhere | StreamPlace::On { .. }) => {}
        }
    }

    fn data_answered(&mut self, lane: &mut Lane, key: StreamKey, taken: Taken) {
        let (Some(round), Some(out)) = (&mut self.round, self.streams.get_mut(&key)) else {
            return;
        };
        match taken {
            Taken::All => {
                let whole = out.queue.pop_front();
                round.took(whole.map_or(0, |whole| whole.len_bytes()));
            }
            Taken::Part(bytes) => {
                if let Some(rest) = out.queue.front_mut() {
                    rest.skip(bytes);
                    round.took(bytes);
                }
                round.next_stream();
            }
            Taken::Gone => self.give_up_stream(lane, key),
        }
    }

    /// The peer does not want a stream: what is left of it counts as taken.
    fn give_up_stream(&mut self, lane: &mut Lane, key: StreamKey) {
        if let (Some(round), Some(out)) = (&mut self.round, self.streams.get(&key)) {
            round.took(out.queue.iter().map(Payload::len_bytes).sum());
        }
        self.forget_stream(lane, key);
    }

    /// The stream at the round's place has ended. The next one moves up.
    fn forget_stream(&mut self, lane: &mut Lane, key: StreamKey) {
        if let Some(out) = self.streams.remove(&key) {
            lane.close_stream(key, out.records, true);
        }
        lane.unfinished -= 1;
        if let Some(at) = self.order.iter().position(|other| *other == key) {
            self.order.remove(at);
        }
    }

    /// What is counted is what is there.
    #[cfg(test)]
    pub fn check<'a>(&self, lanes: impl Iterator<Item = &'a Lane> + Clone) {
        let control: usize = self.control.iter().map(Bytes::len).sum();
        assert_eq!(self.control_bytes, control);
        assert_eq!(self.order.len(), self.streams.len());
        for key in &self.order {
            assert!(self.streams.contains_key(key), "{key:?} is queued twice");
        }
        for lane in lanes.clone() {
            let here = |out: &&OutStream| out.place.lane() == Some(lane.key);
            let unfinished = self.streams.values().filter(here).count();
            assert_eq!(lane.unfinished as usize, unfinished, "{lane:?}");
        }
        for out in self.streams.values() {
            let is_known = |on| lanes.clone().any(|lane| lane.key == on);
            assert!(out.place.lane().is_none_or(is_known), "on no lane: {out:?}");
        }
    }
}

impl Round {
    fn took(&mut self, bytes: u64) {
        self.taken += bytes;
        self.left = self.left.saturating_sub(bytes);
    }

    fn next_stream(&mut self) {
        if let Stage::Data(at) = self.stage {
            self.stage = Stage::Data(at + 1);
        }
    }
}

/// Says how many streams a replaced lane has, once none of them has more to say.
fn next_lane_end(lane: &mut Lane) -> Option<(Offered, Send)> {
    if lane.state == LaneState::Emptying && lane.unfinished == 0 {
        lane.state = LaneState::Announcing(streams::lane_end(lane.begun));
    }
    let LaneState::Announcing(bytes) = &lane.state else {
        return None;
    };
    let send = Send {
        stream: LaneStream::OneWay(u64::from(lane.begun)),
        payload: Payload::Bytes(bytes.clone()),
        fin: true,
    };
    Some((Offered::LaneEnd, send))
}
