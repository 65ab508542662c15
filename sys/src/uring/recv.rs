//! Multishot receives into a ring of provided buffers, shared by all sockets of the driver.

use std::collections::VecDeque;
use std::io;
use std::mem::size_of;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, RecvMsgOut};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::cmsg::{self, CONTROL_BYTES};
use crate::errno::is_transient;
use crate::memory::Mapping;
use crate::receive::{Datagrams, Envelope, HEADER_BYTES, NAME_BYTES, ReceiveMemory, STRIDE_BYTES};
use crate::socket::SocketId;

/// The only buffer group of a ring.
const GROUP: u16 = 0;

/// Failed receives in a row before the socket is given up: transient errors are taken off the
/// socket by receiving them, so this many mean that the kernel will not receive any more. Those
/// that ICMP brings do not count: strangers can send as many as they like.
const ERRORS_MAX: u32 = 1_000;

pub(super) struct RingReceiver {
    /// The ring of buffers, shared with the kernel.
    entries: Mapping,
    /// Our side of the ring: the next entry to fill.
    tail: u16,
    /// Buffers the kernel has.
    available: u16,
    memory: Rc<ReceiveMemory>,
    /// What the kernel is to reserve in each buffer; read at submission.
    header: Box<libc::msghdr>,
    /// Sockets without a receive in flight.
    unarmed: VecDeque<SocketId>,
    errors: u32,
}

impl RingReceiver {
    pub fn new(ring: &IoUring, count: u16) -> io::Result<RingReceiver> {
        let memory = ReceiveMemory::new(count)?;
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let address = entries.at(0).as_ptr() as u64;
        // SAFETY: page-aligned, big enough for `count` entries, and unmapped only after the ring is
        // closed (`Held` drops the ring first).
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, count, GROUP, 0)?
        };
        // SAFETY: msghdr is integers and pointers, for which zero is a value.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_namelen = NAME_BYTES as _;
        header.msg_controllen = CONTROL_BYTES as _;
        let unarmed = VecDeque::new();
        let mut receiver = RingReceiver {
            entries,
            tail: 0,
            available: 0,
            memory,
            header,
            unarmed,
            errors: 0,
        };
        for index in (0..count).rev() {
            receiver.give(index);
        }
        receiver.publish();
        Ok(receiver)
    }

    pub fn add_socket(&mut self, id: SocketId) {
        self.unarmed.push_back(id);
    }

    /// Gives the kernel what the user gave back.
    pub fn give_back(&mut self) {
        if !self.memory.has_returned() {
            return;
        }
        while let Some(index) = self.memory.take_returned() {
            self.give(index);
        }
        self.publish();
    }

    /// The sockets to arm now: none while there is no buffer to receive into, it would fail at
    /// once.
    pub fn take_unarmed(&mut self) -> VecDeque<SocketId> {
        if self.available == 0 {
            VecDeque::new()
        } else {
            std::mem::take(&mut self.unarmed)
        }
    }

    /// A multishot receive on `fd`.
    pub fn entry(&self, fd: Fd) -> squeue::Entry {
        opcode::RecvMsgMulti::new(fd, &raw const *self.header, GROUP).build()
    }

    /// Handles a completion of socket `id`'s receive.
    ///
    /// # Errors
    /// When the socket can receive no more.
    pub fn complete(
        &mut self,
        id: SocketId,
        entry: &cqueue::Entry,
    ) -> io::Result<Option<Datagrams>> {
        if !cqueue::more(entry.flags()) {
            self.unarmed.push_back(id);
        }
        let buffer = cqueue::buffer_select(entry.flags());
        if buffer.is_some() {
            self.available = self.available.saturating_sub(1);
        }
        match (usize::try_from(entry.result()), buffer) {
            (Ok(len), Some(index)) if index < self.memory.count() => {
                self.errors = 0;
                Ok(self.datagrams(id, index, len))
            }
            (Ok(_), _) => Ok(None),
            (Err(_), buffer) => {
                if let Some(index) = buffer.filter(|&index| index < self.memory.count()) {
                    self.give(index);
                    self.publish();
                }
                self.failed(-entry.result())
            }
        }
    }

    /// ENOBUFS, the usual end of a multishot receive, says that all buffers were full; the socket
    /// is armed again when some came back.
    fn failed(&mut self, errno: i32) -> io::Result<Option<Datagrams>> {
        self.errors += u32::from(!matches!(errno, libc::ENOBUFS | libc::ECONNREFUSED));
        if is_transient(errno) && self.errors < ERRORS_MAX {
            return Ok(None);
        }
        Err(io::Error::from_raw_os_error(errno))
    }

    /// What the kernel put in buffer `index`; `None` (and the buffer is given back) for an empty
    /// datagram.
    fn datagrams(&mut self, id: SocketId, index: u16, len: usize) -> Option<Datagrams> {
        let parsed = {
            // SAFETY: the kernel handed buffer `index` over with this completion and will not touch
            // it until it is given back; nobody else has a reference yet. `len` is cut to the
            // buffer.
            let raw = unsafe {
                std::slice::from_raw_parts(self.memory.start(index), len.min(STRIDE_BYTES))
            };
            parse(raw, &self.header, id)
        };
        let Some((envelope, payload_len)) = parsed else {
            self.give(index);
            self.publish();
            return None;
        };
        // SAFETY: as above; the index is returned by dropping this.
        Some(unsafe { Datagrams::new(Rc::clone(&self.memory), index, payload_len, envelope) })
    }

    /// Writes the next ring entry; the kernel sees it after `publish`.
    fn give(&mut self, index: u16) {
        let position = usize::from(self.tail & (self.memory.count() - 1));
        let entry = self
            .entries
            .at(position * size_of::<BufRingEntry>())
            .cast::<BufRingEntry>();
        // SAFETY: inside the mapping and aligned; the kernel reads no entry from the tail on, so
        // this one is ours. Only address, length and id are written: the rest of entry 0 is the
        // shared tail.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(self.memory.start(index) as u64);
        entry.set_len(STRIDE_BYTES as u32);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
    }

    fn publish(&mut self) {
        let base = self.entries.at(0).cast::<BufRingEntry>().as_ptr();
        // SAFETY: `base` is the first entry of the ring, whose reserved field is the tail; it is
        // 2-aligned, and the kernel only reads it, so an atomic store is all that is needed.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Envelope and payload length of a filled buffer. `None` for an empty datagram or one without a
/// sender.
fn parse(raw: &[u8], header: &libc::msghdr, socket: SocketId) -> Option<(Envelope, usize)> {
    let out = RecvMsgOut::parse(raw, header).ok()?;
    let len = out.payload_data().len();
    debug_assert!(len <= raw.len() - HEADER_BYTES);
    let from = cmsg::decode_address(out.name_data()).filter(|_| len > 0)?;
    let received = cmsg::decode(out.control_data());
    let truncated = out.is_payload_truncated();
    Some((
        Envelope {
            from,
            to: received.to,
            segment_bytes: received.segment_bytes,
            truncated,
            socket,
        },
        len,
    ))
}
