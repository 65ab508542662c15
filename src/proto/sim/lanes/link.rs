//! A simulated connection: streams with small windows, in order each but not among each other,
//! which closes, or is cut without a word.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use crate::proto::PIECE_BYTES;
use crate::proto::lanes::{LaneClosed, LaneStream, Taken, code};
use crate::proto::sim::Rng;

/// How a side's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// Next: Open, Closed.
    Handshaking,
    /// Next: Closed.
    Open,
    Closed,
}

/// Whether the machine is to be told of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Nothing is wanted, or nothing changed since something was refused.
    Idle,
    /// Next: Idle.
    Due,
}

/// One side of a connection.
#[derive(Debug)]
pub struct End {
    pub state: EndState,
    pub room: Room,
    /// Something was refused: told of room when there is more.
    pub blocked: bool,
    /// Control bytes that may be read.
    pub control_most: usize,
    pub watched: BTreeSet<LaneStream>,
    /// Something arrived since the machine was last told.
    pub heard: bool,
}

/// One direction of a stream.
#[derive(Debug, Default)]
struct Flow {
    under_way: VecDeque<Bytes>,
    arrived: VecDeque<Bytes>,
    fin_taken: bool,
    fin_arrived: bool,
    fin_read: bool,
}

/// What a side said when it closed.
#[derive(Clone, Copy, Debug)]
pub struct Goodbye {
    pub code: u64,
    /// The packet with it is lost, and not sent again.
    pub lost: bool,
}

#[derive(Debug)]
pub struct Link {
    pub ends: [End; 2],
    /// By the side that writes.
    flows: [BTreeMap<LaneStream, Flow>; 2],
    window_bytes: usize,
    most_streams: usize,
    /// Bytes that are offered are refused for good, in percent: the peer does not want the stream.
    pub refuses: u64,
    /// What arrived is read together, the end of a stream with its last bytes.
    pub reads_together: bool,
    /// Nothing arrives any more, and who noticed.
    pub cut: bool,
    /// It was cut, and both sides are told of that by their kernels.
    pub is_reset: bool,
    /// Nothing arrives for a while.
    pub is_stalled: bool,
    pub goodbyes: [Option<Goodbye>; 2],
    /// When a side that hears nothing any more gives up.
    pub idle_at: Option<Instant>,
}

impl Flow {
    fn taken_bytes(&self) -> usize {
        let all = self.under_way.iter().chain(&self.arrived);
        all.map(Bytes::len).sum()
    }

    /// All of it is with the peer's transport.
    fn is_arrived(&self) -> bool {
        self.under_way.is_empty() && self.fin_taken == self.fin_arrived
    }

    fn is_read(&self) -> bool {
        self.is_arrived() && self.arrived.is_empty() && self.fin_read
    }
}

impl Link {
    pub fn new(windows: &[usize], rng: &mut Rng) -> Link {
        let end = || End {
            state: EndState::Handshaking,
            room: Room::Idle,
            blocked: false,
            control_most: 0,
            watched: BTreeSet::new(),
            heard: false,
        };
        Link {
            ends: [end(), end()],
            flows: Default::default(),
            window_bytes: rng.pick(windows),
            // As many as a sender has at a time, at least.
            most_streams: rng.pick(&[18, 40]),
            refuses: 0,
            reads_together: false,
            cut: false,
            is_reset: false,
            is_stalled: false,
            goodbyes: [None; 2],
            idle_at: None,
        }
    }

    /// Both sides have closed it.
    pub fn is_over(&self) -> bool {
        let closed = |end: &End| end.state == EndState::Closed;
        self.ends.iter().all(closed)
    }

    /// More went over it than control.
    pub fn has_carried_data(&self) -> bool {
        self.flows.iter().any(|flows| flows.len() > 1)
    }

    /// Nothing arrives now.
    pub fn is_dead(&self) -> bool {
        self.cut || self.is_stalled
    }

    /// Nothing will come any more to this side.
    pub fn is_silent(&self, side: usize) -> bool {
        self.cut || self.goodbyes[1 - side].is_some_and(|goodbye| goodbye.lost)
    }

    /// Takes some or all of what a side wants to send.
    pub fn send(
        &mut self,
        side: usize,
        stream: LaneStream,
        mut bytes: Bytes,
        fin: bool,
        rng: &mut Rng,
    ) -> Taken {
        assert!(!bytes.is_empty(), "an end alone on {stream:?}");
        let is_refused = self.refuses > 0 && rng.chance(self.refuses);
        if self.ends[side].state != EndState::Open || is_refused {
            return Taken::Gone;
        }
        let flows = &mut self.flows[side];
        if !flows.contains_key(&stream) {
            let one_way = |stream: &LaneStream| matches!(stream, LaneStream::OneWay(_));
            let opened = flows.keys().filter(|stream| one_way(stream)).count();
            if let LaneStream::OneWay(number) = stream {
                assert_eq!(number, opened as u64, "one-way streams count up");
                let open = flows.values().filter(|flow| !flow.is_read()).count();
                if open > self.most_streams {
                    self.ends[side].blocked = true;
                    return Taken::Part(0);
                }
            }
            flows.insert(stream, Flow::default());
        }
        let used: usize = flows.values().map(Flow::taken_bytes).sum();
        let room = self.window_bytes.saturating_sub(used);
        let flow = flows.entry(stream).or_default();
        assert!(!flow.fin_taken, "more after the end of {stream:?}");
        let most = bytes.len().min(room);
        let len = match rng.chance(70) {
            true => most,
            false => rng.below(most + 1),
        };
        let taken = bytes.split_to(len);
        let taken_bytes = len as u64;
        if !taken.is_empty() {
            flow.under_way.push_back(taken);
        }
        if bytes.is_empty() {
            flow.fin_taken = fin;
            return Taken::All;
        }
        // What was refused for no reason is taken at the next try.
        self.ends[side].blocked = true;
        if len < most {
            self.ends[side].room = Room::Due;
        }
        Taken::Part(taken_bytes)
    }

    fn moving(&self, side: usize) -> impl Iterator<Item = LaneStream> {
        let moves = !self.is_dead() && self.ends[1 - side].state == EndState::Open;
        let flows = self.flows[side].iter();
        flows
            .filter(move |(_, flow)| moves && !flow.is_arrived())
            .map(|(stream, _)| *stream)
    }

    pub fn can_move(&self, side: usize) -> bool {
        self.moving(side).next().is_some()
    }

    /// Some of what this side sent arrives.
    pub fn carry(&mut self, side: usize, control_first: bool, rng: &mut Rng) {
        let mut streams: Vec<LaneStream> = self.moving(side).collect();
        if control_first && streams.first() == Some(&LaneStream::Control) {
            streams.truncate(1);
        }
        let stream = rng.pick(&streams);
        self.ends[1 - side].heard = true;
        let Some(flow) = self.flows[side].get_mut(&stream) else {
            return;
        };
        for _ in 0..=rng.below(4) {
            let Some(mut bytes) = flow.under_way.pop_front() else {
                break;
            };
            if rng.chance(20) {
                let rest = bytes.split_off(rng.below(bytes.len()));
                flow.under_way.push_front(rest);
            }
            if !bytes.is_empty() {
                flow.arrived.push_back(bytes);
            }
        }
        // FIN travels with the last byte.
        flow.fin_arrived = flow.fin_taken && flow.under_way.is_empty();
    }

    fn readable(&self, side: usize, data: bool) -> impl Iterator<Item = LaneStream> {
        let open = self.ends[side].state == EndState::Open;
        let control = self.ends[side].control_most > 0;
        let may = move |stream: &LaneStream| match stream {
            LaneStream::Control => control,
            LaneStream::OneWay(_) => data,
        };
        self.flows[1 - side]
            .iter()
            .filter(move |(stream, flow)| open && may(stream) && !flow.arrived.is_empty())
            .map(|(stream, _)| *stream)
    }

    pub fn can_read(&self, side: usize, data: bool) -> bool {
        self.readable(side, data).next().is_some()
    }

    /// Reads a piece of one stream, and whether the stream ended with it.
    pub fn read(&mut self, side: usize, data: bool, rng: &mut Rng) -> (LaneStream, Bytes, bool) {
        let streams: Vec<LaneStream> = self.readable(side, data).collect();
        let stream = rng.pick(&streams);
        let most = match stream {
            LaneStream::Control => self.ends[side].control_most.min(PIECE_BYTES),
            LaneStream::OneWay(_) => PIECE_BYTES,
        };
        let flow = self.flows[1 - side].get_mut(&stream).expect("it is there");
        let mut front = flow.arrived.pop_front().expect("something arrived");
        let len = match rng.chance(80) {
            true => most,
            false => 1 + rng.below(most.min(front.len())),
        };
        let mut piece = front.split_to(len.min(front.len()));
        if !front.is_empty() {
            flow.arrived.push_front(front);
        } else if self.reads_together && matches!(stream, LaneStream::OneWay(_)) {
            let all: Vec<Bytes> = [piece].into_iter().chain(flow.arrived.drain(..)).collect();
            let mut all = Bytes::from(all.concat());
            piece = all.split_to(all.len().min(most));
            flow.arrived.extend((!all.is_empty()).then_some(all));
        }
        let fin = flow.arrived.is_empty() && flow.fin_arrived;
        flow.fin_read |= fin;
        let writer = &mut self.ends[1 - side];
        if writer.blocked && !self.cut {
            (writer.blocked, writer.room) = (false, Room::Due);
        }
        (stream, piece, fin)
    }

    /// A watched stream that the peer's transport has all of.
    pub fn delivered(&self, side: usize) -> Option<LaneStream> {
        let end = &self.ends[side];
        let delivered = |stream: &&LaneStream| {
            let ours = self.flows[side].get(stream);
            let theirs = self.flows[1 - side].get(&LaneStream::Control);
            let read = **stream != LaneStream::Control || theirs.is_some_and(|flow| flow.fin_read);
            read && ours.is_some_and(Flow::is_arrived)
        };
        let open = end.state == EndState::Open && !self.is_dead();
        end.watched.iter().find(delivered).copied().filter(|_| open)
    }

    /// Both sides have said everything, control is read to its ends, and data is still under way.
    pub fn has_data_under_way(&self) -> bool {
        let control = |flows: &BTreeMap<LaneStream, Flow>| {
            let control = flows.get(&LaneStream::Control);
            control.is_some_and(|flow| flow.fin_read)
        };
        let said = |flow: &Flow| flow.fin_taken;
        let flows = || self.flows.iter().flat_map(BTreeMap::values);
        let open = self.ends.iter().all(|end| end.state == EndState::Open);
        open && self.flows.iter().all(control)
            && flows().all(said)
            && flows().any(|flow| !flow.is_arrived())
    }

    /// This side closes. What it had under way is dropped, by it and by its peer.
    pub fn close(&mut self, side: usize, code: u64, lost: bool) {
        if code == code::REPLACED {
            self.check_replaced(side);
        }
        self.ends[side].state = EndState::Closed;
        self.goodbyes[side] = Some(Goodbye { code, lost });
    }

    /// A replaced lane is closed by who has read all of it and has nothing under way.
    fn check_replaced(&self, side: usize) {
        let [ours, theirs] = [&self.flows[side], &self.flows[1 - side]];
        for (stream, flow) in theirs {
            assert!(flow.is_read(), "{stream:?} is closed and was not read");
        }
        for (stream, flow) in ours {
            let arrived = flow.fin_taken && flow.is_arrived();
            assert!(arrived, "{stream:?} is closed and did not arrive");
        }
        let control = LaneStream::Control;
        assert!(ours.contains_key(&control) && theirs.contains_key(&control));
    }

    /// What a peer's goodbye means to this side, if it has not heard it: `None` while one that is
    /// orderly waits for what arrived before it to be read.
    pub fn goodbye(&self, side: usize, data: bool) -> Option<LaneClosed> {
        let open = self.ends[side].state != EndState::Closed;
        let goodbye =
            self.goodbyes[1 - side].filter(|goodbye| open && !self.is_dead() && !goodbye.lost)?;
        match goodbye.code {
            code::REPLACED if self.can_read(side, data) => None,
            code::REPLACED => {
                let unread = |flow: &Flow| !flow.arrived.is_empty();
                let waits = self.flows[1 - side].values().any(unread);
                (!waits).then_some(LaneClosed::Replaced)
            }
            code::NO_SESSION => Some(LaneClosed::NoSession),
            code::TAKEN_OVER => Some(LaneClosed::Cut),
            code::ALTERED => Some(LaneClosed::Altered),
            _ => Some(LaneClosed::Otherwise),
        }
    }
}
