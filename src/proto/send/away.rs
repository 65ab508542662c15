//! Movers of a sender on other workers, as the plan's worker knows them: what they ask for, what
//! they were given, how fast their lanes are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::orders::{SendReport, WholeOrder};
use super::tail::{LaneLoad, LaneRate};
use crate::ids::{EntryId, MoverId, WorkerId};
use crate::proto::entries::EntryMap;

#[derive(Debug, Default)]
pub struct AwayMovers {
    all: Vec<AwayMover>,
    /// Whether they are given orders.
    pulls: bool,
    /// The one whose turn is next.
    next: usize,
    /// File bytes that transports took, by worker, all in all, as far as was told.
    sent_bytes: BTreeMap<WorkerId, u64>,
    /// And those that were emitted.
    emitted_bytes: u64,
}

#[derive(Debug)]
struct AwayMover {
    id: MoverId,
    worker: WorkerId,
    /// Orders that it has room for.
    wants: u32,
    /// The file of each order that it was given and has not said to be over.
    orders: Vec<usize>,
    /// Small files, with where the plan holds their directories.
    wholes: EntryMap<usize>,
    /// The next order is of small files, if there are any.
    is_wholes_turn: bool,
    /// Of these what its lane has not taken, about.
    held_bytes: u64,
    rate: LaneRate,
    /// It gave an order back: its lane is to end.
    retires: bool,
    has_ended: bool,
}

impl AwayMover {
    fn takes_orders(&self) -> bool {
        !self.retires && !self.has_ended
    }

    fn has_orders(&self) -> bool {
        !self.orders.is_empty() || !self.wholes.is_empty()
    }
}

impl AwayMovers {
    /// Workers that have movers.
    pub fn workers(&self) -> BTreeSet<WorkerId> {
        self.all.iter().map(|mover| mover.worker).collect()
    }

    pub fn set_pulls(&mut self, pulls: bool) {
        self.pulls = pulls;
    }

    /// Whether there are some that are given orders.
    pub fn pulls(&self) -> bool {
        self.pulls && self.all.iter().any(AwayMover::takes_orders)
    }

    fn find(&mut self, id: MoverId) -> Option<&mut AwayMover> {
        self.all.iter_mut().find(|mover| mover.id == id)
    }

    pub fn begin(&mut self, id: MoverId, worker: WorkerId) {
        self.all.push(AwayMover {
            id,
            worker,
            wants: 0,
            orders: Vec::new(),
            wholes: EntryMap::default(),
            is_wholes_turn: true,
            held_bytes: 0,
            rate: LaneRate::default(),
            retires: false,
            has_ended: false,
        });
    }

    /// A mover gave an order back, and would the next one.
    pub fn retire(&mut self, id: MoverId) {
        if let Some(mover) = self.find(id) {
            (mover.wants, mover.retires) = (0, true);
        }
    }

    /// A mover is gone. Orders may be on their way to it, and come back.
    pub fn end(&mut self, id: MoverId) {
        if let Some(mover) = self.find(id) {
            (mover.wants, mover.has_ended) = (0, true);
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.all
            .retain(|mover| !mover.has_ended || mover.has_orders());
    }

    /// A mover has room for so many orders more.
    pub fn want(&mut self, id: MoverId, orders: u32) {
        if let Some(mover) = self.find(id).filter(|mover| mover.takes_orders()) {
            mover.wants += orders;
        }
    }

    /// The places of those that have room, each once, beginning with whose turn it is.
    pub fn hungry(&mut self) -> Vec<usize> {
        let len = self.all.len();
        if !self.pulls || len == 0 {
            return Vec::new();
        }
        self.next = (self.next + 1) % len;
        let places = (0..len).map(|at| (self.next + at) % len);
        places.filter(|at| self.all[*at].wants > 0).collect()
    }

    /// An order of so many bytes of a file is for this one. Gives who that is, and where.
    pub fn give(
        &mut self,
        now: Instant,
        at: usize,
        file: usize,
        bytes: u64,
    ) -> (MoverId, WorkerId) {
        self.all[at].orders.push(file);
        self.book(now, at, bytes)
    }

    /// These small files are for this one.
    pub fn give_wholes(
        &mut self,
        now: Instant,
        at: usize,
        orders: &[WholeOrder],
    ) -> (MoverId, WorkerId) {
        let wholes = orders.iter().map(|order| (order.entry, order.held));
        self.all[at].wholes.extend(wholes);
        let sizes = orders.iter().map(|order| order.version.size_bytes);
        self.book(now, at, sizes.sum())
    }

    fn book(&mut self, now: Instant, at: usize, bytes: u64) -> (MoverId, WorkerId) {
        let mover = &mut self.all[at];
        mover.wants -= 1;
        mover.held_bytes += bytes;
        mover.rate.begin(now);
        (mover.id, mover.worker)
    }

    /// Whether small files have their turn; the next time chunks have.
    pub fn take_turn(&mut self, at: usize) -> bool {
        let turn = &mut self.all[at].is_wholes_turn;
        std::mem::replace(turn, !*turn)
    }

    /// An order of a file is over.
    pub fn over(&mut self, id: MoverId, file: usize) {
        if let Some(mover) = self.find(id)
            && let Some(at) = mover.orders.iter().position(|other| *other == file)
        {
            mover.orders.swap_remove(at);
        }
        self.settle();
    }

    /// The order of a small file is over.
    pub fn whole_over(&mut self, id: MoverId, entry: EntryId) {
        if let Some(mover) = self.find(id) {
            mover.wholes.remove(&entry);
        }
        self.settle();
    }

    /// A lane took so many bytes; `is_idle`: of all that its mover was given.
    pub fn took(&mut self, now: Instant, id: MoverId, bytes: u64, is_idle: bool) {
        if let Some(mover) = self.find(id) {
            let is_idle = is_idle && !mover.has_orders();
            mover.held_bytes = match is_idle {
                true => 0,
                false => mover.held_bytes.saturating_sub(bytes),
            };
            mover.rate.took(now, bytes, is_idle);
        }
    }

    /// What transports of a worker took so far.
    pub fn sent(&mut self, worker: WorkerId, bytes: u64) {
        self.sent_bytes.insert(worker, bytes);
    }

    /// So much of a chunk or a small file was emitted.
    pub fn emitted(&mut self, bytes: u64) {
        self.emitted_bytes += bytes;
    }

    /// File bytes that transports took; `last`: or will take, for nothing follows.
    pub fn sent_bytes(&self, last: bool) -> u64 {
        match last {
            true => self.emitted_bytes,
            false => self.sent_bytes.values().sum(),
        }
    }

    pub fn load(&self, now: Instant, at: usize) -> LaneLoad {
        let mover = &self.all[at];
        LaneLoad {
            held_bytes: mover.held_bytes,
            bytes_per_second: mover.rate.bytes_per_second(now),
        }
    }

    /// Of those that are given orders, but for the one at this place.
    pub fn loads(&self, now: Instant, but: Option<usize>) -> Vec<LaneLoad> {
        if !self.pulls {
            return Vec::new();
        }
        let others = (0..self.all.len()).filter(|at| Some(*at) != but);
        let others = others.filter(|at| self.all[*at].takes_orders());
        others.map(|at| self.load(now, at)).collect()
    }

    /// A worker is gone with all that it had. Gives the end of each order.
    pub fn gone(&mut self, worker: WorkerId) -> Vec<SendReport> {
        let (gone, rest) = std::mem::take(&mut self.all)
            .into_iter()
            .partition(|mover: &AwayMover| mover.worker == worker);
        self.all = rest;
        let gone: Vec<AwayMover> = gone;
        let ends = gone.into_iter().flat_map(|mover| {
            let files = mover.orders.into_iter();
            let wholes = mover.wholes.into_iter();
            let wholes = wholes.map(|(entry, held)| SendReport::Unread { entry, held });
            files.map(|file| SendReport::Over { file }).chain(wholes)
        });
        ends.collect()
    }

    /// Small files that they have.
    #[cfg(test)]
    pub fn wholes(&self) -> usize {
        self.all.iter().map(|mover| mover.wholes.len()).sum()
    }

    /// The file of each order that one of them has.
    #[cfg(test)]
    pub fn orders(&self) -> impl Iterator<Item = usize> {
        self.all
            .iter()
            .flat_map(|mover| mover.orders.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::sim::start;

    #[test]
    fn who_has_room_is_served_in_turn() {
        let mut movers = AwayMovers::default();
        for lane in 0..3 {
            movers.begin(MoverId::of_added(lane), WorkerId(1));
            movers.want(MoverId::of_added(lane), u32::from(lane != 1));
        }
        assert!(movers.hungry().is_empty(), "nobody is to be given orders");
        movers.set_pulls(true);
        assert_eq!(movers.hungry(), [2, 0]);
        assert_eq!(movers.hungry(), [2, 0]);
        assert_eq!(movers.hungry(), [0, 2]);
        let given = movers.give(start(), 0, 7, 100);
        assert_eq!(given, (MoverId::of_added(0), WorkerId(1)));
        assert_eq!(movers.hungry(), [2]);
        assert_eq!(movers.load(start(), 0).held_bytes, 100);
        movers.took(start(), MoverId::of_added(0), 60, true);
        assert_eq!(movers.load(start(), 0).held_bytes, 40, "it has its order");
        movers.over(MoverId::of_added(0), 7);
        movers.took(start(), MoverId::of_added(0), 10, true);
        assert_eq!(movers.load(start(), 0).held_bytes, 0);
    }

    #[test]
    fn one_that_gives_an_order_back_is_given_none() {
        let (mut movers, id) = (AwayMovers::default(), MoverId::of_added(0));
        movers.begin(id, WorkerId(1));
        movers.set_pulls(true);
        movers.want(id, 4);
        movers.give(start(), 0, 7, 100);
        assert!(movers.pulls());
        movers.retire(id);
        movers.want(id, 1);
        assert!(movers.hungry().is_empty() && !movers.pulls());
        assert!(movers.loads(start(), None).is_empty());
    }

    #[test]
    fn one_that_is_gone_is_remembered_until_its_orders_are_back() {
        let (mut movers, id) = (AwayMovers::default(), MoverId::of_added(0));
        movers.begin(id, WorkerId(1));
        movers.set_pulls(true);
        movers.want(id, 2);
        movers.give(start(), 0, 7, 100);
        movers.end(id);
        assert!(movers.hungry().is_empty() && !movers.pulls());
        assert_eq!(movers.orders().collect::<Vec<_>>(), [7]);
        movers.over(id, 7);
        assert_eq!(movers.workers().len(), 0);
    }
}
