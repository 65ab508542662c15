//! What of a sender is on another worker than its plan: movers, which ask for orders, and what is
//! told by mail.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::SenderConfig;
use super::mover::{Issued, SendMover};
use super::movers::Movers;
use super::orders::{AwaySendOrder, AwaySendReport, ChunkOrder, SendReport, WholeEnd, WholeOrder};
use crate::ids::{DirId, FileId, MoverId, OpId};
use crate::proto::MoverReport;
use crate::proto::entries::EntryMap;
use crate::proto::ports::{Ports, Stopping};
use crate::proto::{DiskDone, DiskError, LostLane};

/// Orders that a mover has before it begins to read them, on their way to it included: what a fast
/// lane carries while mail goes there and back on a busy host. Small files are one in so many.
const ORDERS_AHEAD: u32 = 4;
const WHOLES_AHEAD: usize = 32;

/// Small files that ended are told of together, so many at most.
const TOLD_TOGETHER: usize = 32;

/// How much moved is told when so much did, or after this time: mail wakes another worker.
const TELL_BYTES: u64 = 1 << 20;
const TELL_EVERY: Duration = Duration::from_millis(20);

pub struct SendOutpost {
    movers: Movers,
    /// What home was told of each.
    known: BTreeMap<MoverId, MoverKnown>,
    /// Files by the plan's number, with their orders.
    files: HashMap<usize, (FileId, u32)>,
    /// Directories of small files, with how many of these are not told of.
    dirs: HashMap<DirId, u32>,
    /// Which of these directories a small file is in.
    wholes: EntryMap<DirId>,
    /// Small files that ended and are not told of, by their movers.
    ended: Vec<(MoverId, WholeEnd)>,
    /// The mover whose turn comes first next time.
    first: usize,
    told_at: Instant,
    /// What was read just now goes to the lanes next: whether they take it is not known.
    has_emitted: bool,
    stop: Stopping,
}

/// A mover that home knows.
#[derive(Debug, Default)]
struct MoverKnown {
    /// Orders that it asked for and that have not come.
    asked: u32,
    /// What its lane took since that was told.
    taken_bytes: u64,
    /// Home was told that nothing of what it was given is left.
    is_idle: bool,
}

impl SendOutpost {
    pub fn new(now: Instant, config: &SenderConfig) -> SendOutpost {
        let mut movers = Movers::new(now, config);
        // No lane that carries control is here.
        movers.set_pulls(now, MoverId::CONTROL, false);
        SendOutpost {
            movers,
            known: BTreeMap::new(),
            files: HashMap::new(),
            dirs: HashMap::new(),
            wholes: EntryMap::default(),
            ended: Vec::new(),
            first: 0,
            told_at: now,
            has_emitted: false,
            stop: Stopping::No,
        }
    }

    /// Whether the mover of a lane takes orders. At first mention it begins.
    pub fn set_pulls(&mut self, now: Instant, ports: &mut Ports, mover: MoverId, pulls: bool) {
        self.movers.set_pulls(now, mover, pulls);
        if let Entry::Vacant(fresh) = self.known.entry(mover) {
            fresh.insert(MoverKnown::default());
            tell(ports, AwaySendReport::Begun { mover });
        }
    }

    pub fn take_pipes(&mut self, mover: MoverId) {
        self.movers.take_pipes(mover);
    }

    pub fn retire(&mut self, ports: &mut Ports, mover: MoverId) {
        self.movers.retire(mover);
        self.tell_reports(ports);
    }

    /// A lane is no more: what was begun there may have to move again, which home knows.
    pub fn on_lane_lost(&mut self, ports: &mut Ports, lost: &LostLane) {
        self.movers.lose(lost.mover());
        self.tell_reports(ports);
    }

    pub fn on_sent(&mut self, now: Instant, mover: MoverId, bytes: u64) {
        self.movers.on_sent(now, mover, bytes);
        if let Some(known) = self.known.get_mut(&mover) {
            known.taken_bytes += bytes;
        }
    }

    /// Home said something.
    pub fn on_order(&mut self, ports: &mut Ports, order: AwaySendOrder) {
        match order {
            AwaySendOrder::Chunk { mover, order } => self.take_chunk(ports, mover, order),
            AwaySendOrder::Wholes { mover, orders } => self.take_wholes(mover, orders),
            AwaySendOrder::Command(command) => self.movers.obey(ports, command),
        }
        self.tell_reports(ports);
    }

    fn take_chunk(&mut self, ports: &mut Ports, id: MoverId, order: ChunkOrder) {
        let (file, chunk) = (order.file, order.chunk);
        self.files.entry(file).or_insert((order.id, 0)).1 += 1;
        self.note_order(id);
        let mover = self.movers.find(id);
        if let (Stopping::No, Some(mover)) = (&self.stop, mover.filter(|mover| mover.pulls())) {
            return mover.take_chunk(order);
        }
        // Its lane went, or is to go, while the order was on its way.
        self.tell_report(ports, id, SendReport::GivenBack { file, chunk });
        self.tell_report(ports, id, SendReport::Over { file });
    }

    fn take_wholes(&mut self, id: MoverId, orders: Vec<WholeOrder>) {
        for order in &orders {
            *self.dirs.entry(order.dir).or_default() += 1;
            self.wholes.insert(order.entry, order.dir);
        }
        self.note_order(id);
        let mover = self.movers.find(id);
        if let (Stopping::No, Some(mover)) = (&self.stop, mover.filter(|mover| mover.pulls())) {
            return mover.take_wholes(orders);
        }
        let unread = orders.into_iter().map(|order| (id, order.unread()));
        self.ended.extend(unread);
    }

    /// One of those that it asked for came.
    fn note_order(&mut self, id: MoverId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.asked = known.asked.saturating_sub(1);
            known.is_idle = false;
        }
    }

    pub fn on_disk(&mut self, ports: &mut Ports, op: OpId, result: Result<DiskDone, DiskError>) {
        if let Some(op) = self.movers.finish(op)
            && self.stop == Stopping::No
        {
            self.movers.on_disk(ports, op, result);
            self.has_emitted = true;
            self.tell_reports(ports);
        }
    }

    /// Reads, asks for more, and tells how much moved when it is time to.
    pub fn pump(&mut self, now: Instant, ports: &mut Ports) {
        if self.stop != Stopping::No {
            return;
        }
        self.read_on(now, ports);
        for mover in self.movers.iter_mut() {
            mover.retire_idle(ports, true);
        }
        self.tell_reports(ports);
        // Before it is told that a lane is gone, or its last stream ends.
        if self.known.keys().any(|id| !self.movers.pulls(*id)) {
            self.tell_ended(ports);
        }
        self.movers.settle(ports);
        self.ask(ports);
        self.tell_moved(now, ports);
        self.end_movers(ports);
    }

    /// Starts the reads that may be started.
    fn read_on(&mut self, now: Instant, ports: &mut Ports) {
        self.movers.share_streams();
        let len = self.movers.len();
        self.first = (self.first + 1) % len;
        let (mut at, mut idle) = (self.first, 0);
        while idle < len {
            let issued = match self.movers.has_room(at) {
                true => self.read_one(ports, at),
                false => Issued::Nothing,
            };
            self.movers.at(at).keep_rate(now);
            idle = match issued {
                Issued::Bytes(bytes) => {
                    self.movers.at(at).count(bytes);
                    0
                }
                Issued::Nothing => idle + 1,
            };
            at = (at + 1) % len;
        }
    }

    /// Starts the next read of a mover: small files and chunks have their turns.
    fn read_one(&mut self, ports: &mut Ports, at: usize) -> Issued {
        let takes_wholes = self.movers.takes_wholes();
        let mover = self.movers.at(at);
        for _ in 0..2 {
            let issued = match mover.is_wholes_turn() {
                true if takes_wholes => mover.read_next_whole(ports),
                true => Issued::Nothing,
                false => mover.read_chunk(ports),
            };
            match issued {
                Issued::Nothing => mover.pass_turn(),
                issued @ Issued::Bytes(_) => return issued,
            }
        }
        Issued::Nothing
    }

    /// Asks for orders, a few ahead of what is read.
    fn ask(&mut self, ports: &mut Ports) {
        for (id, known) in &mut self.known {
            let pulls = |mover: &&mut SendMover| mover.pulls();
            let Some(mover) = self.movers.find(*id).filter(pulls) else {
                continue;
            };
            let wholes = mover.wholes_ahead().div_ceil(WHOLES_AHEAD);
            let has = (mover.orders_ahead() + wholes) as u32 + known.asked;
            let orders = ORDERS_AHEAD.saturating_sub(has);
            if orders > 0 {
                known.asked += orders;
                let mover = *id;
                tell(ports, AwaySendReport::Wants { mover, orders });
            }
        }
    }

    /// Tells home what happened, in order.
    fn tell_reports(&mut self, ports: &mut Ports) {
        while let Some((mover, report)) = self.movers.next_report() {
            match report.into_whole_end() {
                Ok(end) => self.ended.push((mover, end)),
                Err(report) => self.tell_report(ports, mover, report),
            }
        }
        if self.ended.len() >= TOLD_TOGETHER {
            self.tell_ended(ports);
        }
    }

    /// Tells of small files that ended, and lets go of directories that no other is in.
    fn tell_ended(&mut self, ports: &mut Ports) {
        let mut all: BTreeMap<MoverId, Vec<WholeEnd>> = BTreeMap::new();
        for (mover, end) in self.ended.drain(..) {
            all.entry(mover).or_default().push(end);
        }
        for (mover, ends) in all {
            let mut lets_go = Vec::new();
            for end in &ends {
                let dir = self.wholes.remove(&end.entry);
                lets_go.extend(dir.filter(|dir| self.leaves(*dir)));
            }
            let ended = AwaySendReport::Wholes {
                mover,
                ends,
                lets_go,
            };
            tell(ports, ended);
        }
    }

    /// One small file less of a directory. True: no other is there.
    fn leaves(&mut self, dir: DirId) -> bool {
        let files = self.dirs.get_mut(&dir);
        let is_last = files.is_some_and(|files| {
            *files -= 1;
            *files == 0
        });
        if is_last {
            self.dirs.remove(&dir);
        }
        is_last
    }

    fn tell_report(&mut self, ports: &mut Ports, mover: MoverId, report: SendReport) {
        let mut lets_go = None;
        if let SendReport::Over { file } = report
            && let Some((id, orders)) = self.files.get_mut(&file)
        {
            *orders -= 1;
            lets_go = (*orders == 0).then_some(*id);
            if lets_go.is_some() {
                self.files.remove(&file);
            }
        }
        tell(
            ports,
            AwaySendReport::Report {
                mover,
                report,
                lets_go,
            },
        );
    }

    fn tell_moved(&mut self, now: Instant, ports: &mut Ports) {
        let taken_bytes: u64 = self.known.values().map(|known| known.taken_bytes).sum();
        let ids = self.known.keys();
        // Before a mover ends.
        let ends = ids.copied().any(|id| !self.movers.has(id));
        let has_emitted = std::mem::take(&mut self.has_emitted);
        let is_due = self.deadline().is_some_and(|at| at <= now) || taken_bytes >= TELL_BYTES;
        if !ends && (has_emitted || !is_due) {
            return;
        }
        // An idle one has nothing that is not told of.
        self.tell_ended(ports);
        self.told_at = now;
        let sent_bytes = self.movers.sent_bytes(false);
        for (id, known) in &mut self.known {
            let taken_bytes = std::mem::take(&mut known.taken_bytes);
            let mover = self.movers.find(*id);
            let (is_idle, waits) =
                mover.map_or((true, false), |mover| (is_idle(mover), mover.waits()));
            if taken_bytes > 0 || is_idle != known.is_idle {
                known.is_idle = is_idle;
                tell(
                    ports,
                    AwaySendReport::Moved {
                        mover: *id,
                        taken_bytes,
                        is_idle,
                        waits,
                        sent_bytes,
                    },
                );
            }
        }
    }

    /// Tells of movers that are over. What their lanes took was told.
    fn end_movers(&mut self, ports: &mut Ports) {
        let ids: Vec<MoverId> = self.known.keys().copied().collect();
        for mover in ids {
            if !self.movers.has(mover) {
                self.known.remove(&mover);
                tell(ports, AwaySendReport::Ended { mover });
            }
        }
    }

    /// When it is to be told how much moved.
    pub fn deadline(&self) -> Option<Instant> {
        // One that came to nothing has moved nothing, and is idle.
        let has_moved = |(id, known): (&MoverId, &MoverKnown)| {
            let is_idle = self.movers.get(*id).is_some_and(is_idle);
            known.taken_bytes > 0 || is_idle && !known.is_idle
        };
        let has_moved = self.known.iter().any(has_moved);
        (has_moved && self.stop == Stopping::No).then(|| self.told_at + TELL_EVERY)
    }

    /// Sends what was held back to go together.
    pub fn flush(&mut self, ports: &mut Ports) {
        // What is said of small files before they leave is heard before they arrive, mostly.
        self.tell_ended(ports);
        for mover in self.movers.iter_mut() {
            mover.flush(ports);
        }
    }

    /// Nothing is moved any more. [`SendOutpost::is_drained`] once nothing is in flight.
    pub fn stop(&mut self) {
        self.stop = Stopping::Closing;
    }

    pub fn is_drained(&self) -> bool {
        self.stop == Stopping::Closing && self.movers.in_flight() == 0
    }

    /// Holds the counters against the tables they count.
    #[cfg(test)]
    pub fn check(&self) {
        if self.stop == Stopping::No {
            self.movers.check();
            let wholes: u32 = self.dirs.values().sum();
            let known = self.movers.orders().wholes + self.ended.len();
            assert_eq!(wholes as usize, known, "small files");
            let orders = self.files.values().map(|(_, orders)| *orders as usize);
            let orders: usize = orders.sum();
            assert_eq!(orders, self.movers.orders().chunks.len(), "orders");
        }
    }
}

fn tell(ports: &mut Ports, report: AwaySendReport) {
    ports.mail_home(MoverReport::Send(report));
}

/// It has nothing to do.
fn is_idle(mover: &SendMover) -> bool {
    mover.held_bytes() == 0 && mover.has_no_wholes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{EntryId, Name};
    use crate::proto::send::orders::{SendCommand, Version};
    use crate::proto::sim::start;
    use crate::proto::{DiskOp, Kind, Lasting, Meta, Mtime, Output};

    const MOVER: MoverId = MoverId::of_added(0);

    fn whole(entry: u32, dir: u32) -> WholeOrder {
        WholeOrder {
            entry: EntryId(entry),
            held: dir as usize,
            dir: DirId(dir),
            name: Name::new(bytes::Bytes::from_static(b"file")).unwrap(),
            version: Version {
                size_bytes: 100,
                mtime: Mtime::default(),
                inode: None,
            },
            no_growing: false,
        }
    }

    /// The ends that home is told of, by entry and whether there is a result, and the directories
    /// that are let go of.
    fn told(ports: &mut Ports) -> (Vec<(u32, bool)>, Vec<DirId>) {
        let (mut told, mut dirs) = (Vec::new(), Vec::new());
        while let Some(output) = ports.pop() {
            if let Output::ToHome(report) = output
                && let MoverReport::Send(AwaySendReport::Wholes { ends, lets_go, .. }) = *report
            {
                let ends = ends.iter().map(|end| (end.entry.0, end.result.is_some()));
                told.extend(ends);
                dirs.extend(lets_go);
            }
        }
        (told, dirs)
    }

    /// An outpost that was ordered four small files in two directories, and reads at most one.
    fn outpost(ports: &mut Ports) -> SendOutpost {
        let mut config = super::super::tests::config();
        config.lookups = 1;
        let mut outpost = SendOutpost::new(start(), &config);
        outpost.set_pulls(start(), ports, MOVER, true);
        let orders = vec![whole(1, 7), whole(2, 7), whole(3, 7), whole(4, 8)];
        outpost.on_order(
            ports,
            AwaySendOrder::Wholes {
                mover: MOVER,
                orders,
            },
        );
        outpost.pump(start(), ports);
        outpost.check();
        outpost
    }

    #[test]
    fn what_is_not_begun_is_given_back() {
        let mut ports = Ports::default();
        let mut outpost = outpost(&mut ports);
        let is_read = |output: &Output| {
            matches!(
                output,
                Output::Disk {
                    cmd: DiskOp::ReadSmall { .. },
                    ..
                }
            )
        };
        let reads = std::iter::from_fn(|| ports.pop()).filter(is_read);
        assert_eq!(reads.count(), 1);
        outpost.retire(&mut ports, MOVER);
        outpost.pump(start(), &mut ports);
        outpost.check();
        let back = vec![(2, false), (3, false), (4, false)];
        assert_eq!(told(&mut ports), (back, vec![DirId(8)]));
        // One that was under way comes too late.
        let (mover, orders) = (MOVER, vec![whole(5, 9)]);
        outpost.on_order(&mut ports, AwaySendOrder::Wholes { mover, orders });
        outpost.flush(&mut ports);
        outpost.check();
        assert_eq!(told(&mut ports), (vec![(5, false)], vec![DirId(9)]));
    }

    #[test]
    fn what_is_forgotten_is_not_read() {
        let mut ports = Ports::default();
        let mut outpost = outpost(&mut ports);
        let entry = EntryId(4);
        let forget = AwaySendOrder::Command(SendCommand::Forget { entry });
        outpost.on_order(&mut ports, forget);
        outpost.flush(&mut ports);
        outpost.check();
        assert_eq!(told(&mut ports), (vec![(4, true)], vec![DirId(8)]));
        let lost = LostLane {
            number: 0,
            ..LostLane::default()
        };
        outpost.on_lane_lost(&mut ports, &lost);
        outpost.pump(start(), &mut ports);
        outpost.check();
        assert_eq!(told(&mut ports).0, [(2, false), (3, false)]);
    }

    /// What was asked for goes along: at home the same file fails.
    #[test]
    fn one_that_grew_fails_where_it_is_not_to() {
        for no_growing in [false, true] {
            let mut ports = Ports::default();
            let config = super::super::tests::config();
            let mut outpost = SendOutpost::new(start(), &config);
            outpost.set_pulls(start(), &mut ports, MOVER, true);
            let mover = MOVER;
            let orders = vec![WholeOrder {
                no_growing,
                ..whole(1, 7)
            }];
            outpost.on_order(&mut ports, AwaySendOrder::Wholes { mover, orders });
            outpost.pump(start(), &mut ports);
            let read = std::iter::from_fn(|| ports.pop()).find_map(|output| match output {
                Output::Disk { op, .. } => Some(op),
                _ => None,
            });
            let after = Meta {
                kind: Kind::File,
                mode: 0o644,
                mtime: Mtime {
                    seconds: 9,
                    nanoseconds: 0,
                },
                size_bytes: 150,
                allocated_bytes: 4096,
                inode: 0,
                device: 0,
                lasting: Lasting::Nothing,
                links: 1,
                is_sized: true,
            };
            let data = bytes::Bytes::from(vec![1; 150]);
            let small = DiskDone::Small { data, after };
            outpost.on_disk(&mut ports, read.unwrap(), Ok(small));
            outpost.pump(start(), &mut ports);
            outpost.flush(&mut ports);
            let ends = std::iter::from_fn(|| ports.pop()).find_map(|output| match output {
                Output::ToHome(report) => match *report {
                    MoverReport::Send(AwaySendReport::Wholes { ends, .. }) => Some(ends),
                    _ => None,
                },
                _ => None,
            });
            let failed = ends.is_some_and(|ends| matches!(ends[0].result, Some(Err(_))));
            assert_eq!(failed, no_growing);
        }
    }
}
