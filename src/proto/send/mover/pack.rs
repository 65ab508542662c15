//! Small files: read whole, packed one behind the other onto one stream.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Issued, SendMover, SendMoverOp};
use crate::ids::{EntryId, StreamKey};
use crate::proto::chunk::SMALL_MAX_BYTES;
use crate::proto::errors::{source_changed, source_error};
use crate::proto::integrity::digest_of;
use crate::proto::ports::{OddSize, Ports};
use crate::proto::send::orders::{Drift, EmittedWhole, RecordAt, SendReport, WholeEnd, WholeOrder};
use crate::proto::wire::{RecordHead, RecordStatus, encode_record_tail};
use crate::proto::{DiskDone, DiskError, DiskOp, EntryError, Meta, PIECE_BYTES, Payload};

/// The pack is handed over once it is this large: the worker takes stream bytes in such pieces.
const PACK_BYTES: usize = PIECE_BYTES;

/// Data above this is passed by reference; below, copying costs less than one more piece does.
const COPY_MAX_BYTES: usize = 16 * 1024;

/// Room for what may still be appended to a pack that is just not full.
const PACK_SPARE_BYTES: usize = COPY_MAX_BYTES + 128;

/// The pack's stream ends after this many bytes and the next pack takes a new one, so that one lost
/// packet holds up no more than this.
const STREAM_BYTES: u64 = 4 << 20;

#[derive(Debug, Default)]
pub(super) struct Pack {
    /// Orders whose read is not started. Where the plan is, they stay with it until then.
    ahead: VecDeque<WholeOrder>,
    /// Orders whose read is under way.
    reading: usize,
    /// Of those, entries that were given up.
    forgotten: Vec<EntryId>,
    bytes: BytesMut,
    /// Records that end in `bytes`.
    records: u32,
    stream: Option<PackStream>,
}

#[derive(Clone, Copy, Debug)]
struct PackStream {
    key: StreamKey,
    bytes: u64,
    /// Begun on it.
    records: u32,
    /// It was said that there is something that could not be moved again.
    stays: bool,
}

impl PackStream {
    fn new(key: StreamKey) -> PackStream {
        PackStream {
            key,
            bytes: 0,
            records: 0,
            stays: false,
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= STREAM_BYTES
    }
}

impl Pack {
    /// Its streams that are open.
    pub(super) fn streams(&self) -> usize {
        usize::from(self.stream.is_some())
    }

    /// No small file is being read for it, or is to be.
    pub(super) fn is_idle(&self) -> bool {
        self.reading == 0 && self.ahead.is_empty()
    }

    /// Bytes that were not handed over.
    pub(super) fn held_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Bytes of orders whose read is not started.
    pub(super) fn to_read(&self) -> u64 {
        let sizes = self.ahead.iter().map(|order| order.version.size_bytes);
        sizes.sum()
    }

    /// An order's read is over; whether anybody still wants it.
    fn end(&mut self, entry: EntryId) -> bool {
        self.reading -= 1;
        let at = self.forgotten.iter().position(|other| *other == entry);
        at.map(|at| self.forgotten.swap_remove(at)).is_none()
    }

    #[cfg(test)]
    pub(super) fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// `wholes`: reads under way.
    #[cfg(test)]
    pub(super) fn check(&self, wholes: usize) {
        assert_eq!(self.reading, wholes, "small files being read");
        assert!(self.forgotten.len() <= wholes, "{:?}", self.forgotten);
    }
}

impl SendMover {
    /// Small files that are being read.
    pub fn wholes(&self) -> usize {
        self.pack.reading
    }

    /// It has no small file, read or not.
    pub fn has_no_wholes(&self) -> bool {
        self.pack.is_idle()
    }

    /// Small files taken whose reads are not started.
    pub fn wholes_ahead(&self) -> usize {
        self.pack.ahead.len()
    }

    pub fn take_wholes(&mut self, orders: Vec<WholeOrder>) {
        self.pack.ahead.extend(orders);
    }

    /// Starts the read of the next small file that was taken.
    pub fn read_next_whole(&mut self, ports: &mut Ports) -> Issued {
        match self.pack.ahead.pop_front() {
            Some(order) => self.read_whole(ports, order),
            None => Issued::Nothing,
        }
    }

    /// What was taken and is not being read goes back to the plan.
    pub(super) fn give_back_wholes(&mut self) {
        let unread = self.pack.ahead.drain(..).map(WholeOrder::unread);
        self.reports.extend(unread.map(WholeEnd::into_report));
    }

    /// Nobody wants the small file any more.
    pub(super) fn forget_whole(&mut self, entry: EntryId) {
        let mut ahead = self.pack.ahead.iter();
        if let Some(at) = ahead.position(|order| order.entry == entry)
            && let Some(order) = self.pack.ahead.remove(at)
        {
            self.reports.push_back(SendReport::Whole {
                entry,
                held: order.held,
                result: Ok(EmittedWhole::default()),
            });
        } else if self.reads_whole(entry) {
            self.pack.forgotten.push(entry);
        }
    }

    pub fn read_whole(&mut self, ports: &mut Ports, order: WholeOrder) -> Issued {
        let size_bytes = order.version.size_bytes;
        let cmd = DiskOp::ReadSmall {
            dir: order.dir,
            name: order.name.clone(),
            max_bytes: SMALL_MAX_BYTES as usize,
        };
        self.pack.reading += 1;
        self.ahead.reading_bytes += size_bytes;
        self.ops.start(ports, SendMoverOp::Whole(order), cmd);
        Issued::Bytes(size_bytes)
    }

    pub(super) fn whole_read(
        &mut self,
        ports: &mut Ports,
        order: WholeOrder,
        result: Result<DiskDone, DiskError>,
    ) {
        let size_bytes = order.version.size_bytes;
        self.ahead.reading_bytes -= size_bytes;
        let is_wanted = self.pack.end(order.entry);
        if self.is_lost() {
            return self.reports.push_back(order.unread().into_report());
        }
        let result = match result {
            Ok(DiskDone::Small { data, after }) => self.judge_whole(&order, data, &after),
            Ok(_) => Err(source_changed()),
            Err(error) => Err(source_error(&error)),
        };
        let result = result.map(|(data, has_grown)| {
            let bytes = data.len() as u64;
            let odd_size = OddSize::of(has_grown, bytes, size_bytes);
            let at = is_wanted.then(|| self.pack(ports, order.entry, data, odd_size));
            EmittedWhole {
                bytes,
                odd_size,
                at,
            }
        });
        self.reports.push_back(SendReport::Whole {
            entry: order.entry,
            held: order.held,
            result,
        });
    }

    /// What is to be emitted of a small file that was read, and whether it grew meanwhile.
    fn judge_whole(
        &self,
        order: &WholeOrder,
        mut data: Bytes,
        after: &Meta,
    ) -> Result<(Bytes, bool), EntryError> {
        let size_bytes = order.version.size_bytes as usize;
        let drift = match order.version.drift(after) {
            // More came than there is: as if it had been there a moment later.
            Drift::Still if data.len() > size_bytes => Drift::Grown,
            drift => drift,
        };
        let has_grown = drift.judge(order.no_growing)?;
        // What it has now came after it was shorter. Of a file that did not grow it may be less
        // where a file system says what it does not know.
        if has_grown && data.len() < size_bytes {
            return Err(source_changed());
        }
        data.truncate(size_bytes);
        Ok((data, has_grown))
    }

    /// Appends one file's record; where it is.
    fn pack(
        &mut self,
        ports: &mut Ports,
        entry: EntryId,
        data: Bytes,
        odd_size: Option<OddSize>,
    ) -> RecordAt {
        let stream = self.pack_stream(ports);
        let at = RecordAt {
            stream: stream.key,
            ordinal: stream.records,
            data_bytes: data.len() as u64,
        };
        stream.records += 1;
        let digest = digest_of(&data);
        let len = data.len();
        if self.pack.bytes.capacity() == 0 {
            self.pack.bytes = BytesMut::with_capacity(PACK_BYTES + PACK_SPARE_BYTES);
        }
        let before = self.pack.bytes.len();
        RecordHead::Whole {
            entry,
            len_bytes: len as u64,
        }
        .encode(&mut self.pack.bytes);
        let mut added = self.pack.bytes.len() - before;
        if len > COPY_MAX_BYTES {
            self.ahead.untaken_bytes += added as u64;
            self.flush_pack(ports, false);
            self.ahead.untaken_bytes += len as u64;
            self.pack_stream(ports).bytes += len as u64;
            ports.data(at.stream, Payload::Bytes(data), 0, false);
            added = 0;
        } else {
            self.pack.bytes.put_slice(&data);
            added += len;
        }
        let before = self.pack.bytes.len();
        let status = match odd_size {
            None => RecordStatus::Valid,
            Some(OddSize::Grown) => RecordStatus::ValidPrefix,
            Some(OddSize::Short) => RecordStatus::ValidShort,
        };
        encode_record_tail(status, &digest, &mut self.pack.bytes);
        self.pack.records += 1;
        added += self.pack.bytes.len() - before;
        self.ahead.untaken_bytes += added as u64;
        self.ahead.emitted_bytes += len as u64;
        let full_stream = self.pack_stream(ports).is_full();
        if self.pack.bytes.len() >= PACK_BYTES || full_stream {
            self.flush_pack(ports, full_stream);
        }
        at
    }

    /// The stream of the pack. One that is new is opened here, since the pack is emitted later, and
    /// streams are numbered in the order in which they are opened.
    fn pack_stream(&mut self, ports: &mut Ports) -> &mut PackStream {
        let streams = &mut self.streams;
        self.pack.stream.get_or_insert_with(|| {
            let key = streams.fresh_key();
            ports.data(key, Payload::Bytes(Bytes::new()), 0, false);
            PackStream::new(key)
        })
    }

    /// Whether this small file is being read here.
    fn reads_whole(&self, entry: EntryId) -> bool {
        let is_it = |op: &SendMoverOp| matches!(op, SendMoverOp::Whole(it) if it.entry == entry);
        self.ops.any(is_it)
    }

    /// Gives up the pack, if its stream is no more.
    pub(super) fn lose_pack(&mut self, is_lost: impl Fn(StreamKey) -> bool) {
        let is_lost = |stream: &mut PackStream| is_lost(stream.key);
        if self.pack.stream.take_if(is_lost).is_some() {
            let bytes = std::mem::take(&mut self.pack.bytes).len() as u64;
            self.pack.records = 0;
            self.ahead.untaken_bytes -= bytes;
        }
    }

    /// Hands over a pack that is not full, unless reads in flight will fill it: they always end.
    pub fn flush(&mut self, ports: &mut Ports) {
        if self.pack.reading == 0 {
            self.flush_pack(ports, false);
        }
    }

    /// Emits a record of an unsized file, all of which go behind each other. What was read of a
    /// pipe cannot be read again.
    pub(super) fn append_stretch(&mut self, ports: &mut Ports, pieces: [Bytes; 3]) {
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.ahead.untaken_bytes += bytes;
        self.flush_pack(ports, false);
        let stream = self.pack_stream(ports);
        stream.bytes += bytes;
        stream.records += 1;
        if !std::mem::replace(&mut stream.stays, true) {
            ports.stays(stream.key);
        }
        let (key, full_stream) = (stream.key, stream.is_full());
        let [head, data, tail] = pieces;
        ports.data(key, Payload::Bytes(head), 0, false);
        ports.data(key, Payload::Bytes(data), 0, false);
        ports.data(key, Payload::Bytes(tail), 1, full_stream);
        if full_stream {
            self.pack.stream = None;
        }
    }

    /// Hands the pack over; `fin` ends its stream (only between records).
    fn flush_pack(&mut self, ports: &mut Ports, fin: bool) {
        if self.pack.bytes.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.pack.bytes).freeze();
        let records = std::mem::take(&mut self.pack.records);
        let stream = self.pack_stream(ports);
        stream.bytes += bytes.len() as u64;
        let key = stream.key;
        ports.data(key, Payload::Bytes(bytes), records, fin);
        if fin {
            self.pack.stream = None;
        }
    }

    pub(super) fn end_pack_stream(&mut self, ports: &mut Ports) {
        if !self.pack.bytes.is_empty() {
            self.flush_pack(ports, true);
        } else if let Some(stream) = self.pack.stream.take() {
            ports.end_data(stream.key);
        }
    }
}
