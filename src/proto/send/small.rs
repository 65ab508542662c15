//! Small files: read whole, packed one behind the other onto one stream.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Op, Pumped, Sender, State};
use crate::ids::{EntryId, StreamKey};
use crate::proto::integrity::digest_of;
use crate::proto::manifest::SMALL_MAX_BYTES;
use crate::proto::session::errors::{source_changed, source_error};
use crate::proto::session::ports::Ports;
use crate::proto::wire::{RecordHead, RecordStatus, encode_record_tail};
use crate::proto::{DiskDone, DiskError, DiskOp, Payload};

/// The pack is handed over once it is this large; the worker takes stream bytes in pieces of this
/// size.
const PACK_BYTES: usize = 64 * 1024;

/// Data above this is passed by reference; below, copying costs less than one more piece does.
const COPY_MAX_BYTES: usize = 16 * 1024;

/// Room for what may still be appended to a pack that is just not full.
const PACK_SPARE_BYTES: usize = COPY_MAX_BYTES + 128;

/// The pack's stream ends after this many bytes and the next pack takes a new one, so that one lost
/// packet holds up no more than this.
const STREAM_BYTES: u64 = 4 << 20;

#[derive(Debug, Default)]
pub(super) struct Small {
    queue: VecDeque<EntryId>,
    reading: usize,
    pack: BytesMut,
    stream: Option<(StreamKey, u64)>,
}

impl Small {
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn has_stream(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn push(&mut self, entry: EntryId) {
        self.queue.push_back(entry);
    }

    /// A pack that is not full waits for reads in flight: they will fill it, and they always end.
    pub(super) fn may_flush(&self) -> bool {
        self.reading == 0 && !self.pack.is_empty()
    }
}

impl Sender {
    /// Starts the next read of a small file.
    pub(super) fn issue_small(&mut self, ports: &mut Ports) -> Pumped {
        if self.small.reading >= self.lookups {
            return Pumped::Nothing;
        }
        while let Some(id) = self.small.queue.pop_front() {
            // Gone: the receiver gave up on it in the meantime.
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let State::Wanted { dir, .. } = &mut entry.state else {
                continue;
            };
            let (Some(dir), Some(name)) = (dir.take(), entry.name.clone()) else {
                continue;
            };
            let charged_bytes = entry.size_bytes;
            let cmd = DiskOp::ReadSmall {
                dir: self.dirs[dir].id,
                name,
                max_bytes: SMALL_MAX_BYTES as usize,
            };
            self.small.reading += 1;
            self.reading_bytes += charged_bytes;
            self.ops.start(
                ports,
                Op::ReadSmall {
                    entry: id,
                    dir,
                    charged_bytes,
                },
                cmd,
            );
            return Pumped::Issued(charged_bytes);
        }
        Pumped::Nothing
    }

    pub(super) fn small_read(
        &mut self,
        ports: &mut Ports,
        id: EntryId,
        dir: usize,
        charged_bytes: u64,
        result: Result<DiskDone, DiskError>,
    ) {
        self.small.reading -= 1;
        self.reading_bytes -= charged_bytes;
        self.release_dir(ports, dir);
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        match result {
            Ok(DiskDone::Small { data, after })
                if data.len() as u64 == entry.size_bytes && entry.is_unchanged(&after) =>
            {
                entry.state = State::Emitted;
                self.pack(ports, id, data);
            }
            Ok(_) => self.abort(ports, id, source_changed(self.host)),
            Err(error) => self.abort(ports, id, source_error(self.host, &error)),
        }
    }

    /// Appends one file's record.
    fn pack(&mut self, ports: &mut Ports, entry: EntryId, data: Bytes) {
        let digest = digest_of(&data);
        let len = data.len();
        if self.small.pack.capacity() == 0 {
            self.small.pack = BytesMut::with_capacity(PACK_BYTES + PACK_SPARE_BYTES);
        }
        let before = self.small.pack.len();
        RecordHead::Whole {
            entry,
            len_bytes: len as u64,
        }
        .encode(&mut self.small.pack);
        let mut added = self.small.pack.len() - before;
        if len > COPY_MAX_BYTES {
            self.unsent_bytes += added as u64;
            self.flush_pack(ports, false);
            self.unsent_bytes += len as u64;
            let key = self.pack_key(len as u64);
            ports.data(key, Payload::Bytes(data), false);
            added = 0;
        } else {
            self.small.pack.put_slice(&data);
            added += len;
        }
        let before = self.small.pack.len();
        encode_record_tail(RecordStatus::Valid, &digest, &mut self.small.pack);
        added += self.small.pack.len() - before;
        self.unsent_bytes += added as u64;
        self.emitted_bytes += len as u64;
        let full_stream = self
            .small
            .stream
            .is_some_and(|(_, bytes)| bytes >= STREAM_BYTES);
        if self.small.pack.len() >= PACK_BYTES || full_stream {
            self.flush_pack(ports, full_stream);
        }
    }

    /// The stream for `bytes` more of the pack.
    fn pack_key(&mut self, bytes: u64) -> StreamKey {
        let (key, carried) = match self.small.stream {
            Some(stream) => stream,
            None => (self.streams.fresh_key(), 0),
        };
        self.small.stream = Some((key, carried + bytes));
        key
    }

    /// Hands the pack over; `fin` ends its stream (only between records).
    pub(super) fn flush_pack(&mut self, ports: &mut Ports, fin: bool) {
        if self.small.pack.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.small.pack).freeze();
        let key = self.pack_key(bytes.len() as u64);
        ports.data(key, Payload::Bytes(bytes), fin);
        if fin {
            self.small.stream = None;
        }
    }

    /// Nothing will be packed any more.
    pub(super) fn end_pack_stream(&mut self, ports: &mut Ports) {
        if !self.small.pack.is_empty() {
            self.flush_pack(ports, true);
        } else if let Some((key, _)) = self.small.stream.take() {
            ports.end_data(key);
        }
    }
}
