//! Receive buffers and the datagrams in them; a buffer comes back when its [`Datagrams`] is
//! dropped.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::cmsg::CONTROL_BYTES;
use crate::memory::Mapping;
use crate::socket::SocketId;

/// Room for the sender's address; sockaddr_in6 is 28 bytes, rounded up so that the parts stay
/// aligned.
pub(crate) const NAME_BYTES: usize = 32;
/// io_uring's multishot recvmsg puts `struct io_uring_recvmsg_out` (16 bytes), address and control
/// part in front.
pub(crate) const HEADER_BYTES: usize = 16 + NAME_BYTES + CONTROL_BYTES;
/// The largest UDP payload is 65,527 bytes, and GRO joins no more.
pub(crate) const PAYLOAD_BYTES: usize = 64 * 1024;
/// From one buffer to the next.
pub(crate) const STRIDE_BYTES: usize = HEADER_BYTES + PAYLOAD_BYTES;

/// The memory datagrams are received into. Shared with the `Datagrams` handed out, so they may
/// outlive the driver.
pub(crate) struct ReceiveMemory {
    mapping: Mapping,
    count: u16,
    /// Buffers whose `Datagrams` were dropped since the driver last looked.
    returned: RefCell<Vec<u16>>,
}

impl ReceiveMemory {
    /// Address space for `count` buffers; resident once they are received into.
    pub fn new(count: u16) -> io::Result<Rc<ReceiveMemory>> {
        let mapping = Mapping::new(usize::from(count) * STRIDE_BYTES)?;
        let returned = RefCell::new(Vec::with_capacity(usize::from(count)));
        Ok(Rc::new(ReceiveMemory {
            mapping,
            count,
            returned,
        }))
    }

    pub fn count(&self) -> u16 {
        self.count
    }

    /// First byte of buffer `index` (its header room).
    pub fn start(&self, index: u16) -> *mut u8 {
        assert!(index < self.count);
        self.mapping.at(usize::from(index) * STRIDE_BYTES).as_ptr()
    }

    /// First payload byte of buffer `index`.
    pub fn payload(&self, index: u16) -> *mut u8 {
        assert!(index < self.count);
        self.mapping
            .at(usize::from(index) * STRIDE_BYTES + HEADER_BYTES)
            .as_ptr()
    }

    /// A buffer that was given back, if any.
    pub fn take_returned(&self) -> Option<u16> {
        self.returned.borrow_mut().pop()
    }

    /// Whether any buffer was given back.
    pub fn has_returned(&self) -> bool {
        !self.returned.borrow().is_empty()
    }
}

/// What recvmsg said about a message beside its payload.
pub(crate) struct Envelope {
    pub from: SocketAddr,
    pub to: Option<IpAddr>,
    pub segment_bytes: Option<usize>,
    pub truncated: bool,
    pub socket: SocketId,
}

/// One received message in a receive buffer: a datagram, or several of equal size from one sender
/// that GRO joined. Datagram `i` is `payload[i * segment_bytes .. min((i + 1) * segment_bytes,
/// len)]`.
///
/// Dropping it gives the buffer back for receiving, as [`crate::Driver::recycle`] does; while all
/// are held, nothing is received.
pub struct Datagrams {
    memory: Rc<ReceiveMemory>,
    index: u16,
    len: usize,
    segment_bytes: usize,
    envelope: Envelope,
}

impl Datagrams {
    /// Takes over buffer `index`, whose first `len` payload bytes the kernel has filled and will
    /// not touch again until the index is returned.
    ///
    /// # Safety
    /// The buffer must not be with the kernel, nor in another `Datagrams`.
    pub(crate) unsafe fn new(
        memory: Rc<ReceiveMemory>,
        index: u16,
        len: usize,
        envelope: Envelope,
    ) -> Datagrams {
        assert!(index < memory.count && len <= PAYLOAD_BYTES);
        // Never 0, so that `chunks(segment_bytes)` is always possible.
        let segment_bytes = envelope
            .segment_bytes
            .filter(|&size| size > 0)
            .unwrap_or(len)
            .max(1);
        Datagrams {
            memory,
            index,
            len,
            segment_bytes,
            envelope,
        }
    }

    /// All the bytes; QUIC decrypts in place.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        // SAFETY: initialised memory kept alive by `memory`; `new`'s caller promised that the
        // buffer is ours alone, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.memory.payload(self.index), self.len) }
    }

    /// All the bytes.
    pub fn payload(&self) -> &[u8] {
        // SAFETY: as in `payload_mut`, shared.
        unsafe { std::slice::from_raw_parts(self.memory.payload(self.index), self.len) }
    }

    /// Size of each datagram but the last, in bytes; the payload's length when there is only one.
    /// Never 0.
    pub fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// The sender. A v4 sender on a dual-stack socket is a plain v4 address.
    pub fn from(&self) -> SocketAddr {
        self.envelope.from
    }

    /// The local address it was sent to, where the kernel told.
    pub fn to(&self) -> Option<IpAddr> {
        self.envelope.to
    }

    /// The socket it came from.
    pub fn socket(&self) -> SocketId {
        self.envelope.socket
    }

    /// Whether the buffer was too small and bytes are missing; cannot happen with UDP's maximum
    /// sizes.
    pub fn truncated(&self) -> bool {
        self.envelope.truncated
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.memory.returned.borrow_mut().push(self.index);
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Datagrams");
        debug
            .field("len", &self.len)
            .field("segment_bytes", &self.segment_bytes);
        debug
            .field("from", &self.envelope.from)
            .field("to", &self.envelope.to)
            .finish_non_exhaustive()
    }
}
