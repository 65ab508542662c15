//! The movers of a sender: one for each lane that carries data, begun and ended with it.

use std::time::Instant;

use super::mover::{MoverConfig, SendMover, SendMoverOp};
use super::orders::{SendCommand, SendReport};
use super::tail::LaneLoad;
use super::{LOOKUP_LEAST, SenderConfig};
use crate::ids::{EntryId, MoverId, OpId};
#[cfg(test)]
use crate::proto::PIECE_BYTES;
use crate::proto::ports::Ports;
use crate::proto::{DiskDone, DiskError};

/// Read-aheads of a whole size that a session has at a time. Where more movers have something to do
/// each has less: what is read waits in buffers that all sessions share.
const WHOLE_READ_AHEADS: u64 = 4;

pub struct Movers {
    config: MoverConfig,
    /// All together read no further ahead.
    read_ahead_bytes: u64,
    /// Reads of small files at a time.
    lookups: usize,
    /// The first is that of the lanes that carry control, and is always there.
    all: Vec<SendMover>,
    is_in_place: bool,
    /// Of movers that are over.
    gone_emitted_bytes: u64,
    gone_hole_bytes: u64,
    /// What is emitted once more.
    again_bytes: u64,
}

impl Movers {
    pub fn new(now: Instant, settings: &SenderConfig) -> Movers {
        let lookups = settings.lookups.max(LOOKUP_LEAST);
        let config = MoverConfig {
            read_ahead_bytes: settings.read_ahead_bytes,
            read_ahead_in_place_bytes: settings.read_ahead_in_place_bytes,
            parallel: settings.parallel.clone(),
        };
        let all = vec![SendMover::new(now, MoverId::CONTROL, &config)];
        Movers {
            config,
            read_ahead_bytes: settings.read_ahead_all_bytes,
            lookups,
            all,
            is_in_place: false,
            gone_emitted_bytes: 0,
            gone_hole_bytes: 0,
            again_bytes: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn control(&mut self) -> &mut SendMover {
        &mut self.all[0]
    }

    pub fn at(&mut self, at: usize) -> &mut SendMover {
        &mut self.all[at]
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut SendMover> {
        self.all.iter_mut()
    }

    pub fn has(&self, id: MoverId) -> bool {
        self.all.iter().any(|mover| mover.id == id)
    }

    /// Whether there is such a mover, and it takes orders.
    pub fn pulls(&self, id: MoverId) -> bool {
        self.all.iter().any(|mover| mover.id == id && mover.pulls())
    }

    pub fn get(&self, id: MoverId) -> Option<&SendMover> {
        self.all.iter().find(|mover| mover.id == id)
    }

    pub fn find(&mut self, id: MoverId) -> Option<&mut SendMover> {
        self.all.iter_mut().find(|mover| mover.id == id)
    }

    /// Whether a mover takes orders; one that is not there is begun.
    pub fn set_pulls(&mut self, now: Instant, id: MoverId, pulls: bool) {
        if let Some(mover) = self.find(id) {
            return mover.set_pulls(pulls);
        }
        let mut mover = SendMover::new(now, id, &self.config);
        mover.set_pulls(pulls);
        mover.set_in_place(self.is_in_place);
        self.all.push(mover);
    }

    pub fn take_pipes(&mut self, id: MoverId) {
        if let Some(mover) = self.find(id) {
            mover.take_pipes();
        }
    }

    pub fn retire(&mut self, id: MoverId) {
        if let Some(mover) = self.find(id) {
            mover.retire();
        }
    }

    pub fn lose(&mut self, id: MoverId) {
        if let Some(mover) = self.find(id) {
            mover.lose();
        }
    }

    pub fn on_sent(&mut self, now: Instant, id: MoverId, bytes: u64) {
        if let Some(mover) = self.find(id) {
            mover.on_sent(now, bytes);
        }
    }

    /// A command for whoever has such an order.
    pub fn obey(&mut self, ports: &mut Ports, command: SendCommand) {
        if let SendCommand::ReadInPlace(is_in_place) = command {
            self.is_in_place = is_in_place;
        }
        for mover in &mut self.all {
            mover.obey(ports, command);
        }
    }

    pub fn next_report(&mut self) -> Option<(MoverId, SendReport)> {
        let mut all = self.all.iter_mut();
        all.find_map(|mover| Some((mover.id, mover.next_report()?)))
    }

    pub fn is_in_place(&self) -> bool {
        self.is_in_place
    }

    /// Takes what an operation was for out of the table it is in. Gives the place of its mover.
    pub fn finish(&mut self, op: OpId) -> Option<(usize, SendMoverOp)> {
        let mut all = self.all.iter_mut().enumerate();
        all.find_map(|(at, mover)| Some((at, mover.finish(op)?)))
    }

    pub fn on_disk(
        &mut self,
        ports: &mut Ports,
        (at, op): (usize, SendMoverOp),
        result: Result<DiskDone, DiskError>,
    ) {
        self.all[at].on_disk(ports, op, result);
    }

    pub fn in_flight(&self) -> usize {
        self.all.iter().map(SendMover::in_flight).sum()
    }

    /// Movers that have something to do.
    fn active(&self) -> usize {
        let active = self.all.iter().filter(|mover| mover.is_active());
        active.count().max(1)
    }

    /// Divides the streams of the session among those that have something to do.
    pub fn share_streams(&mut self) {
        let active = self.active();
        for mover in &mut self.all {
            mover.share_streams(active);
        }
    }

    /// What all may have read ahead together.
    fn most_ahead_bytes(&self) -> u64 {
        let wholes = self.all[0].most_ahead_bytes() * WHOLE_READ_AHEADS;
        wholes.min(self.read_ahead_bytes)
    }

    /// Whether a mover may start another read, as far as its lane and buffers are concerned. One
    /// that has nothing always may, or a lane that stands still would hold up all others.
    pub fn has_room(&self, at: usize) -> bool {
        let most_bytes = self.most_ahead_bytes();
        let mover = &self.all[at];
        let ahead_bytes: u64 = self.all.iter().map(SendMover::ahead_bytes).sum();
        let has_room = mover.is_empty_handed() || ahead_bytes < most_bytes;
        has_room && mover.has_room((most_bytes / self.active() as u64).max(1))
    }

    /// What those that take orders have to do, and how fast their lanes are, by their places, but
    /// for the one at this place.
    pub fn loads(
        &self,
        now: Instant,
        but: Option<usize>,
    ) -> impl Iterator<Item = (usize, LaneLoad)> {
        let others = self.all.iter().enumerate();
        let others = others.filter(move |(other, mover)| Some(*other) != but && mover.pulls());
        others.map(move |(at, mover)| (at, mover.load(now)))
    }

    /// Whether another small file may be read: so many at a time.
    pub fn takes_wholes(&self) -> bool {
        let reading: usize = self.all.iter().map(SendMover::wholes).sum();
        reading < self.lookups
    }

    /// Ends those that have nothing left to do.
    pub fn settle(&mut self, ports: &mut Ports) {
        for mover in &mut self.all {
            mover.end_if_retired(ports);
        }
        let (emitted, holes) = (&mut self.gone_emitted_bytes, &mut self.gone_hole_bytes);
        self.all.retain(|mover| {
            if mover.is_over() {
                *emitted += mover.emitted_bytes();
                *holes += mover.hole_bytes();
            }
            !mover.is_over()
        });
    }

    /// So much file data is going to be emitted again.
    pub fn take_back(&mut self, bytes: u64) {
        self.again_bytes += bytes;
    }

    /// File bytes that the transport took; `last`: that it has or will have, for nothing follows.
    pub fn sent_bytes(&self, last: bool) -> u64 {
        let emitted: u64 = self.all.iter().map(SendMover::emitted_bytes).sum();
        let untaken: u64 = match last {
            true => 0,
            false => self.all.iter().map(SendMover::untaken_bytes).sum(),
        };
        (self.gone_emitted_bytes + emitted).saturating_sub(untaken)
    }

    /// Of what was emitted, here and elsewhere, what is emitted again.
    pub fn again_bytes(&self) -> u64 {
        self.again_bytes
    }

    /// Bytes of holes that were passed.
    pub fn hole_bytes(&self) -> u64 {
        self.gone_hole_bytes + self.all.iter().map(SendMover::hole_bytes).sum::<u64>()
    }

    /// The entry of a read that is under way longest in its mover.
    pub fn awaited(&self) -> Option<EntryId> {
        self.all.iter().find_map(SendMover::awaited)
    }

    /// When a pipe is looked at again.
    pub fn deadline(&self) -> Option<Instant> {
        self.all.iter().filter_map(SendMover::deadline).min()
    }

    #[cfg(test)]
    pub fn orders(&self) -> super::mover::Orders {
        let all: Vec<_> = self.all.iter().map(SendMover::orders).collect();
        super::mover::Orders {
            wholes: all.iter().map(|orders| orders.wholes).sum(),
            chunks: all.into_iter().flat_map(|orders| orders.chunks).collect(),
        }
    }

    #[cfg(test)]
    pub fn check(&self) {
        self.all.iter().for_each(SendMover::check);
        // Each may go beyond the bound by what it reads or packs at a time.
        let slack_bytes: u64 = self.all.iter().map(SendMover::slack_bytes).sum();
        let ahead_bytes: u64 = self.all.iter().map(SendMover::ahead_bytes).sum();
        let most_bytes = self.most_ahead_bytes() + slack_bytes;
        assert!(
            ahead_bytes <= most_bytes,
            "{ahead_bytes} bytes are read ahead"
        );
        assert_eq!(self.all[0].id, MoverId::CONTROL);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::{ChunkIndex, EntryId, FileId, StreamKey};
    use crate::proto::Output;
    use crate::proto::parallel::ParallelTransferConfig;
    use crate::proto::send::mover::Issued;
    use crate::proto::send::orders::ChunkOrder;
    use crate::proto::send::tests::config;
    use crate::proto::sim::start;

    const MIB: u64 = 1 << 20;
    const FILE_BYTES: u64 = 64 * MIB;

    /// So many added lanes, which take all orders.
    fn movers(lanes: u32) -> Movers {
        let mut movers = Movers::new(start(), &config());
        for lane in 0..lanes {
            movers.set_pulls(start(), MoverId::of_added(lane), true);
        }
        movers.set_pulls(start(), MoverId::CONTROL, lanes == 0);
        movers.share_streams();
        movers
    }

    fn chunk(number: u32) -> ChunkOrder {
        ChunkOrder {
            file: 0,
            id: FileId(1),
            entry: EntryId(1),
            size_bytes: FILE_BYTES,
            chunk: ChunkIndex(number),
            is_only: false,
            map: None,
            kept: None,
        }
    }

    #[test]
    fn several_lanes_have_the_streams_of_one() {
        let most = ParallelTransferConfig::default().max_concurrent_streams;
        for lanes in [0, 1, 2, 3, 4, 16, 40] {
            let movers = movers(lanes);
            let active = movers.all.iter().filter(|mover| mover.pulls());
            let streams: Vec<usize> = active.map(SendMover::stream_target).collect();
            assert_eq!(streams.len(), lanes.max(1) as usize);
            assert!(streams.iter().all(|streams| *streams > 0), "{streams:?}");
            let all: usize = streams.iter().sum();
            assert!(all <= most.max(lanes as usize), "{streams:?}");
            assert!(all * 2 > most || lanes > 1, "{streams:?}");
        }
    }

    /// However many read, they stay within what the session may have, and each gets on.
    #[test]
    fn several_lanes_read_no_further_ahead_than_their_session_may() {
        for lanes in [1, 2, 4, 16] {
            let (mut movers, mut ports) = (movers(lanes), Ports::default());
            let (mut next, mut idle) = (0, 0);
            while idle < movers.len() {
                for at in 0..movers.len() {
                    idle += 1;
                    if movers.has_room(at) && movers.at(at).pulls() {
                        if !movers.at(at).has_reads() {
                            movers.at(at).take_chunk(chunk(next));
                            next += 1;
                        }
                        let issued = movers.at(at).read_chunk(&mut ports);
                        assert!(matches!(issued, Issued::Bytes(bytes) if bytes > 0));
                        idle = 0;
                    }
                }
            }
            let ahead: Vec<u64> = movers.all.iter().map(SendMover::ahead_bytes).collect();
            let all_bytes: u64 = ahead.iter().sum();
            let most_bytes = config().read_ahead_all_bytes + PIECE_BYTES as u64;
            assert!(all_bytes <= most_bytes, "{ahead:?}");
            assert!(ahead[1..].iter().all(|bytes| *bytes > 0), "{ahead:?}");
            movers.check();
        }
    }

    /// A lane that was asked while there was nothing for it, or whose reads came to nothing, is as
    /// fast as before.
    #[test]
    fn a_rate_lasts_while_there_is_nothing_to_move() {
        let (mut movers, mut ports) = (movers(1), Ports::default());
        let now = start();
        let later = |ms| now + Duration::from_millis(ms);
        let rate = |movers: &Movers, ms| movers.all[1].load(later(ms)).bytes_per_second;
        movers.at(1).take_chunk(chunk(0));
        movers.at(1).read_chunk(&mut ports);
        movers.at(1).keep_rate(now);
        let lane = MoverId::of_added(0);
        movers.on_sent(later(100), lane, MIB);
        assert_eq!(rate(&movers, 100), Some(10 * MIB));
        // Nobody wants the chunk any more, and its read comes back.
        movers.obey(&mut ports, SendCommand::Cancel { file: 0 });
        while let Some(output) = ports.pop() {
            if let Output::Disk { op, .. } = output {
                let op = movers.finish(op).unwrap();
                let read = DiskDone::Read {
                    data: vec![0; PIECE_BYTES].into(),
                };
                movers.on_disk(&mut ports, op, Ok(read));
            }
        }
        for ms in [200, 60_000] {
            movers.at(1).keep_rate(later(ms));
            assert_eq!(rate(&movers, ms + 50_000), Some(10 * MIB));
        }
    }
    /// What its next reads emit, once they ended.
    fn emitted(movers: &mut Movers, ports: &mut Ports, reads: usize) -> Vec<(StreamKey, u64)> {
        for _ in 0..reads {
            movers.control().read_chunk(ports);
        }
        let mut emitted = Vec::new();
        while let Some(output) = ports.pop() {
            match output {
                Output::Disk { op, .. } => {
                    let op = movers.finish(op).unwrap();
                    let data = vec![0; PIECE_BYTES].into();
                    movers.on_disk(ports, op, Ok(DiskDone::Read { data }));
                }
                Output::Data {
                    stream, payload, ..
                } => emitted.push((stream, payload.len_bytes())),
                other => panic!("{other:?}"),
            }
        }
        emitted
    }

    /// What it began on the lane that is over is torn, and what waited behind it goes on the next.
    #[test]
    fn the_mover_of_control_outlives_its_lane() {
        let mut config = config();
        config.parallel.max_concurrent_streams = 1;
        let (mut movers, mut ports) = (Movers::new(start(), &config), Ports::default());
        for number in 0..2 {
            movers.control().take_chunk(chunk(number));
        }
        let lost = emitted(&mut movers, &mut ports, 1);
        let stream = lost[0].0;
        assert!(lost.iter().all(|(on, _)| *on == stream), "{lost:?}");
        let untaken_bytes = lost.iter().map(|(_, bytes)| bytes).sum();
        movers
            .control()
            .lose_streams(&mut ports, &[stream], untaken_bytes);
        match movers.next_report() {
            Some((_, SendReport::Torn { chunk, at, .. })) => {
                assert_eq!((chunk, at.stream, at.ordinal), (ChunkIndex(0), stream, 0));
                assert_eq!(at.data_bytes, PIECE_BYTES as u64);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            movers.next_report(),
            Some((_, SendReport::Over { file: 0 }))
        ));
        assert!(movers.control().is_empty_handed());
        movers.check();
        let next = emitted(&mut movers, &mut ports, 1);
        assert!(!next.is_empty());
        assert!(next.iter().all(|(on, _)| *on != stream), "{next:?}");
        movers.check();
    }
}
