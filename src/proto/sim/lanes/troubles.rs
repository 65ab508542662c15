//! What goes wrong with the lanes of a simulated world, and when.

use std::time::Duration;

use bytes::Bytes;

use super::link::EndState;
use super::{CLIENT, SERVER, World};
use crate::proto::Payload;
use crate::proto::lanes::{DialKind, LaneClosed, LaneKey, LanesInput, code};
use crate::proto::sim::ops::in_kernel;

/// What goes wrong, in thousandths of all steps, and percentages from `dial_fails` on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Troubles {
    /// The newest lane is said to be worn, so often at most.
    pub wear: u64,
    pub most_lanes: usize,
    /// A connection is cut without a word.
    pub cuts: u64,
    /// The lane that carries control is, where its session outlives that.
    pub control_cuts: u64,
    /// Of these, in percent, so many are noticed by both sides whenever they are.
    pub control_resets: u64,
    /// It falls silent, and is back some time later.
    pub stalls: u64,
    /// The client's newest is not.
    pub spares_newest: bool,
    /// A dial that comes to nothing.
    pub dial_fails: u64,
    /// A goodbye that is lost.
    pub goodbyes_lost: u64,
    /// A lane that comes to a worker that knows nothing of its session.
    pub strays: u64,
    /// Lanes are added after so much data, so many at a time.
    pub adds_from_bytes: Option<u64>,
    pub adds: usize,
    /// Goodput is measured so long at a time.
    pub goodput_window: Option<Duration>,
    /// An added lane is cut without a word, in thousandths of all steps.
    pub added_cuts: u64,
    /// One that comes to a worker that knows nothing of its session, in percent.
    pub added_strays: u64,
    /// The peer stops a stream of an added lane, in percent of all that is offered.
    pub added_refusals: u64,
    /// An added lane arrives at another worker than the session's, in percent, and may stay there.
    pub away: u64,
    /// Nothing is kept of control that was sent.
    pub forgets: bool,
    /// Lanes that are added are in the clear.
    pub is_clear: bool,
    /// Of what of files goes in the clear, a byte is changed, in thousandths of what is sent.
    pub alters: u64,
    /// One side of a lane that is added sees that what comes is not the other's, in thousandths of
    /// all steps.
    pub forges: u64,
    /// A lane in the clear whose client is not let in, and does not know it yet, in percent.
    pub unproven: u64,
}

impl World {
    /// Wears lanes out, and cuts them.
    pub(super) fn trouble(&mut self) {
        let thousandth = self.rng.next() % 1000;
        if thousandth < self.troubles.wear && self.links.len() < self.troubles.most_lanes {
            let kind = match self.rng.chance(50) && self.troubles.adds_from_bytes.is_some() {
                true => DialKind::Add,
                false => DialKind::Replace,
            };
            let open = |link: &usize| {
                self.links[*link].ends[CLIENT].state == EndState::Open && self.kinds[*link] == kind
            };
            let newest = (0..self.links.len()).rev().find(open);
            if let Some(link) = newest {
                let lane = LaneKey(link);
                self.input(self.dialled[link], LanesInput::Worn { lane });
            }
        }
        let thousandth = self.rng.next() % 1000;
        if thousandth < self.troubles.cuts {
            let mut live: Vec<usize> = (0..self.links.len())
                .filter(|link| !self.links[*link].is_over() && !self.links[*link].cut)
                .collect();
            if self.troubles.spares_newest {
                live.pop();
            }
            if !live.is_empty() {
                let link = self.rng.pick(&live);
                self.cut(link);
            }
        }
        self.trouble_control();
        self.forge();
        if self.rng.next() % 1000 < self.troubles.added_cuts {
            let live: Vec<usize> = (0..self.links.len())
                .filter(|link| !self.links[*link].is_over() && !self.links[*link].cut)
                .filter(|link| self.kinds[*link].is_added())
                .collect();
            if !live.is_empty() {
                let link = self.rng.pick(&live);
                self.links[link].cut = true;
            }
        }
    }

    /// Somebody on the wire of a lane in the clear says what no side said; or, of another, a side
    /// that lies.
    fn forge(&mut self) {
        if self.troubles.forges == 0 || self.rng.next() % 1000 >= self.troubles.forges {
            return;
        }
        let side = self.rng.pick(&[CLIENT, SERVER]);
        let live = (0..self.links.len()).filter(|at| {
            let link = &self.links[*at];
            let is_open = link.ends[side].state == EndState::Open;
            self.kinds[*at].is_added() && is_open && self.owner(*at, side).is_some()
        });
        let live: Vec<usize> = live.collect();
        if live.is_empty() {
            return;
        }
        let link = self.rng.pick(&live);
        self.close(link, side, code::ALTERED);
        self.altered += 1;
        if let Some(node) = self.owner(link, side) {
            let (lane, why) = (LaneKey(link), LaneClosed::Altered);
            self.input(node, LanesInput::Closed { lane, why });
        }
    }

    /// What comes of what is sent.
    pub(super) fn on_the_way(&mut self, link: usize, payload: Payload) -> Bytes {
        let (bytes, is_bulk) = match payload {
            Payload::Bytes(bytes) => (bytes, false),
            Payload::FileData(bytes) => (bytes, true),
            Payload::Piped { data, len_bytes } => {
                assert!(self.kinds[link] == DialKind::AddClear, "nobody takes it");
                (in_kernel(&data, len_bytes), true)
            }
        };
        let is_clear = self.kinds[link] == DialKind::AddClear && is_bulk;
        if !is_clear || self.troubles.alters == 0 || self.rng.next() % 1000 >= self.troubles.alters
        {
            return bytes;
        }
        let mut bytes = bytes.to_vec();
        let at = self.rng.below(bytes.len());
        bytes[at] ^= 1 << self.rng.below(8);
        self.altered += 1;
        bytes.into()
    }

    /// What carries control is cut, or falls silent for a while.
    fn trouble_control(&mut self) {
        if self.troubles.stalls > 0 && self.rng.chance(5) {
            self.unstall();
        }
        let thousandth = self.rng.next() % 1000;
        let is_stall = thousandth >= self.troubles.control_cuts;
        if thousandth >= self.troubles.control_cuts + self.troubles.stalls
            || !self.nodes[CLIENT].lanes.outlives_control()
            || self.served(self.nodes[CLIENT].id).is_none()
            || self.links.len() > self.troubles.most_lanes
        {
            return;
        }
        let carries = |link: &usize| {
            !self.kinds[*link].is_added() && self.links[*link].ends[CLIENT].state == EndState::Open
        };
        let Some(at) = (0..self.links.len()).rev().find(carries) else {
            return;
        };
        let link = &mut self.links[at];
        if is_stall {
            link.is_stalled = true;
            return;
        }
        self.control_cuts += usize::from(!link.cut);
        link.cut = true;
        link.is_reset |= self.rng.chance(self.troubles.control_resets);
    }

    /// What was silent is back. False: nothing was.
    pub(super) fn unstall(&mut self) -> bool {
        let stalled = self.links.iter_mut().filter(|link| link.is_stalled);
        stalled.map(|link| link.is_stalled = false).count() > 0
    }

    pub(super) fn cut(&mut self, link: usize) {
        self.links[link].cut = true;
        self.cut_any = true;
    }
}
