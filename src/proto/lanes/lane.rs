//! One lane of a session: how far it is in its life, and what travels on it in each direction.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::{Buf, Bytes};

use super::ledger::{AddedLane, Ledger, STREAMS_WORN};
use super::ports::LaneKey;
use crate::ids::{MoverId, StreamKey};
use crate::proto::wire::WireError;
use crate::proto::wire::streams::{self, LANE_END_BYTES};

/// Where a lane is in its life. A session's newest lane carries; each older one runs empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    /// The newest: new streams and control bytes go here. Next: Emptying.
    Carrying,
    /// Replaced. Streams begun here still have something to send. Next: Announcing.
    Emptying,
    /// How many streams there were is being said; these bytes of that are left. Next: Announced.
    Announcing(Bytes),
    /// It was said. Next: Arrived.
    Announced,
    /// The peer's transport has it.
    Arrived,
}

/// Our direction of a lane's control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ControlOut {
    /// What the lane is for is being said; no data goes before it, which the peer would not read
    /// and which could use up the window. Next: Open, Held.
    Preface(Bytes),
    /// It took over, and how far the peer has read is not known yet. Next: Open.
    Held,
    /// Next: Ended.
    Open,
    /// The end was taken by the transport. Next: Arrived.
    Ended,
    /// The peer's transport has all of it.
    Arrived,
}

/// The peer's direction of a lane's control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlIn {
    /// It is another lane's turn, or too many answers wait. Next: Read.
    Shut,
    /// Read as it comes. Next: Shut, Ended.
    Read,
    Ended,
}

/// A one-way stream of the peer whose first byte was seen.
#[derive(Debug)]
enum Incoming {
    Data(StreamKey),
    LaneEnd(Vec<u8>),
}

/// Bytes of a data stream without what belongs to lanes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub key: StreamKey,
    pub bytes: Bytes,
    pub fin: bool,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub key: LaneKey,
    pub state: LaneState,
    pub control_out: ControlOut,
    pub control_in: ControlIn,
    /// Data streams of ours that were begun here, and those of them that have not ended.
    pub begun: u32,
    pub unfinished: u32,
    /// [`super::LanesOutput::Wants`] was said and no room given since.
    pub wants_room: bool,
    incoming: HashMap<u64, Incoming>,
    /// Data streams of the peer read to their ends, and how many it says there are.
    pub read: u32,
    pub announced: Option<u32>,
    /// It carries data beside the lane that carries control.
    pub added: Option<AddedLane>,
    /// What an account of it would say, of one that carries control, by its number. None: it would
    /// be too long, or there is what could not be moved again.
    carried: Option<Ledger>,
    /// It took over, and so much is here of how far the peer has read.
    pub count_in: Option<Vec<u8>>,
}

impl Lane {
    pub fn new(key: LaneKey, preface: Option<Bytes>) -> Lane {
        Lane {
            key,
            state: LaneState::Carrying,
            control_out: match preface {
                Some(bytes) => ControlOut::Preface(bytes),
                None => ControlOut::Open,
            },
            control_in: ControlIn::Shut,
            begun: 0,
            unfinished: 0,
            wants_room: false,
            incoming: HashMap::new(),
            read: 0,
            announced: None,
            added: None,
            carried: None,
            count_in: None,
        }
    }

    /// One that carries control, of this number.
    pub fn carrying(key: LaneKey, preface: Option<Bytes>, number: u32) -> Lane {
        Lane {
            carried: Some(Ledger::new(number)),
            ..Lane::new(key, preface)
        }
    }

    /// One that is added.
    pub fn added(key: LaneKey, preface: Option<Bytes>, added: AddedLane) -> Lane {
        Lane {
            control_in: ControlIn::Read,
            added: Some(added),
            ..Lane::new(key, preface)
        }
    }

    /// Who of the sender moves what travels here.
    pub fn mover(&self) -> MoverId {
        match &self.added {
            Some(added) => MoverId::of_added(added.ledger.number),
            None => MoverId::CONTROL,
        }
    }

    fn ledger_mut(&mut self) -> Option<&mut Ledger> {
        let added = self.added.as_mut().map(|added| &mut added.ledger);
        added.or(self.carried.as_mut())
    }

    /// A data stream of ours begins here; its number. `stays`: of it nothing could be moved again.
    pub fn begin_stream(&mut self, key: StreamKey, stays: bool) -> u64 {
        let number = u64::from(self.begun);
        if let Some(ledger) = self.ledger_mut() {
            ledger.ours.begin(key);
        }
        self.carried.take_if(|ledger| stays || ledger.is_full());
        self.begun += 1;
        self.unfinished += 1;
        number
    }

    /// Orders for an added lane may be pulled: the peer is told what it is.
    pub fn is_usable(&self) -> bool {
        let is_named = !matches!(self.control_out, ControlOut::Preface(_));
        self.state == LaneState::Carrying && is_named && !self.is_spent()
    }

    /// An added lane is to end: its key has sealed enough, there were so many streams on it that
    /// what is kept of them is much, or the peer has nothing more to say on it.
    pub fn is_spent(&self) -> bool {
        let is_full = |added: &AddedLane| added.is_worn || !added.ledger.ours.has_room();
        let is_full = self.added.as_ref().is_some_and(is_full);
        is_full || self.begun >= STREAMS_WORN || self.announced.is_some()
    }

    pub fn is_clear(&self) -> bool {
        self.added.as_ref().is_some_and(|added| added.is_clear)
    }

    /// A data stream of ours has ended, or is lost.
    pub fn close_stream(&mut self, key: StreamKey, records: u32, has_ended: bool) {
        if let Some(ledger) = self.ledger_mut() {
            ledger.ours.close(key, records, has_ended);
        }
    }

    /// On one of its streams that carries control there is what could not be moved again.
    pub fn keep_no_ledger(&mut self) {
        self.carried = None;
    }

    /// No data stream began on it, in either direction.
    pub fn is_bare(&self) -> bool {
        self.begun == 0 && self.read == 0 && self.incoming.is_empty()
    }

    /// What an account of one that carries control would say.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.carried.as_ref()
    }

    /// What an account of any would say.
    pub fn ledger_of_either(&self) -> Option<&Ledger> {
        let added = self.added.as_ref().map(|added| &added.ledger);
        added.or(self.carried.as_ref())
    }

    pub fn take_ledger(&mut self) -> Option<Ledger> {
        self.carried.take()
    }

    /// Data streams of the peer that were begun and not read to their ends, in order.
    pub fn half_read(&self) -> Vec<(u32, StreamKey)> {
        let data = self.incoming.iter().filter_map(|(stream, it)| match it {
            Incoming::Data(key) => Some((*stream as u32, *key)),
            Incoming::LaneEnd(_) => None,
        });
        let mut all: Vec<(u32, StreamKey)> = data.collect();
        all.sort_unstable();
        all
    }

    /// Everything the peer had to say here was read.
    pub fn is_read_out(&self) -> bool {
        self.control_in == ControlIn::Ended && self.announced == Some(self.read)
    }

    /// Everything we had to say here was taken by the transport.
    pub fn is_said(&self) -> bool {
        let announced = matches!(self.state, LaneState::Announced | LaneState::Arrived);
        announced && matches!(self.control_out, ControlOut::Ended | ControlOut::Arrived)
    }

    /// Everything we had to say here has arrived.
    pub fn is_arrived(&self) -> bool {
        self.state == LaneState::Arrived && self.control_out == ControlOut::Arrived
    }

    /// Takes bytes of a one-way stream; gives what of them a session is to see. `next`: the key of
    /// the next data stream that appears. Keys are ours, so that no peer can mix two streams up.
    ///
    /// # Errors
    /// When no peer that keeps to the protocol says that.
    pub fn take(
        &mut self,
        stream: u64,
        mut bytes: Bytes,
        fin: bool,
        next: &mut u64,
    ) -> Result<Option<Content>, WireError> {
        if fin {
            bytes = streams::without_end(bytes)?;
        }
        let is_clear = self.is_clear();
        let incoming = match self.incoming.entry(stream) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(fresh) => match bytes.first().copied() {
                None if fin => return Err(WireError::Record("a stream of nothing")),
                None => return Ok(None),
                Some(kind) => {
                    bytes.advance(1);
                    if let Some(added) = self.added.as_ref().filter(|_| kind == streams::DATA) {
                        added.ledger.theirs.may_begin(stream)?;
                    }
                    fresh.insert(Incoming::begun(kind, next, is_clear)?)
                }
            },
        };
        let content = match incoming {
            Incoming::Data(key) => {
                let key = *key;
                self.read += u32::from(fin);
                if let Some(ledger) = self.ledger_mut().filter(|_| fin) {
                    ledger.theirs.end(stream as u32, key);
                }
                self.carried.take_if(|ledger| ledger.is_full());
                (fin || !bytes.is_empty()).then_some(Content { key, bytes, fin })
            }
            Incoming::LaneEnd(so_far) => {
                let missing = LANE_END_BYTES - so_far.len();
                if bytes.len() > missing || (fin && bytes.len() < missing) {
                    return Err(WireError::LaneEnd("of another length"));
                }
                so_far.extend_from_slice(&bytes);
                if let (true, Some(count)) = (fin, so_far.first_chunk()) {
                    let before = self.announced.replace(u32::from_be_bytes(*count));
                    if before.is_some() {
                        return Err(WireError::LaneEnd("said twice"));
                    }
                }
                None
            }
        };
        if fin {
            self.incoming.remove(&stream);
        }
        // Those not read to their ends are streams, too.
        let seen = self.read as usize + self.incoming.len();
        if self.announced.is_some_and(|most| seen > most as usize) {
            return Err(WireError::LaneEnd("there are more data streams"));
        }
        Ok(content)
    }

    /// The peer reset a stream. Gives whether a session has seen any of it.
    pub fn reset(&mut self, stream: u64) -> bool {
        match self.incoming.remove(&stream) {
            Some(Incoming::Data(_)) => true,
            Some(Incoming::LaneEnd(_)) | None => false,
        }
    }

    /// Which of this lane's streams has the session's key.
    pub fn stream_of(&self, key: StreamKey) -> Option<u64> {
        let is_it = |incoming: &Incoming| matches!(incoming, Incoming::Data(data) if *data == key);
        let mut streams = self.incoming.iter();
        streams
            .find(|(_, incoming)| is_it(incoming))
            .map(|(stream, _)| *stream)
    }
}

impl Incoming {
    /// What begins with this byte.
    fn begun(kind: u8, next: &mut u64, is_clear: bool) -> Result<Incoming, WireError> {
        match kind {
            streams::DATA => {
                let key = StreamKey(*next);
                *next = next.wrapping_add(1);
                Ok(Incoming::Data(match is_clear {
                    true => key.in_the_clear(),
                    false => key,
                }))
            }
            streams::LANE_END => Ok(Incoming::LaneEnd(Vec::new())),
            other => Err(WireError::StreamType(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> Lane {
        Lane::new(LaneKey(1), None)
    }

    fn take(lane: &mut Lane, stream: u64, bytes: &'static [u8], fin: bool) -> Option<Content> {
        lane.take(stream, Bytes::from_static(bytes), fin, &mut 0)
            .unwrap()
    }

    #[test]
    fn a_lane_end_may_come_before_its_streams_and_in_pieces() {
        let mut lane = lane();
        for byte in [&[2][..], &[0], &[0], &[0]] {
            assert_eq!(take(&mut lane, 1, byte, false), None);
        }
        assert_eq!(take(&mut lane, 1, &[1, 0], true), None);
        assert_eq!((lane.announced, lane.read), (Some(1), 0));
        let content = take(&mut lane, 0, &[1, 9, 0], true).unwrap();
        assert_eq!((&content.bytes[..], content.fin), (&[9][..], true));
        lane.control_in = ControlIn::Ended;
        assert!(lane.is_read_out());
        let one_more = lane.take(2, Bytes::from_static(&[1, 9]), false, &mut 0);
        assert!(one_more.is_err());
    }

    #[test]
    fn what_is_no_stream_of_ours_is_refused() {
        let bad: [(&'static [u8], bool); 6] = [
            (&[3], false),
            (&[1], true),
            (&[0], true),
            (&[2, 0, 0, 1, 0], true),
            (&[2, 0, 0, 0, 1, 7, 0], true),
            (&[2, 0, 0, 0, 1, 7], false),
        ];
        for (bytes, fin) in bad {
            let taken = lane().take(0, Bytes::from_static(bytes), fin, &mut 0);
            assert!(taken.is_err(), "{bytes:?}");
        }
    }
}
