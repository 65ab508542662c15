//! The receive buffer of a connection: small while little comes, and large only in the turns in
//! which much does.

use std::ops::Range;

use super::clear::clear_record_bytes;
use super::fault::Fault;
use super::record::{HEADER_BYTES, record_bytes};
use super::spare::Spares;

/// The first buffer: a handshake's flights and control messages fit.
const FIRST_BYTES: usize = 4 << 10;

/// The largest: 15 full records with one system call.
const MOST_BYTES: usize = 256 << 10;

thread_local! {
    /// Buffers of [`MOST_BYTES`].
    static SPARES: Spares = const { Spares::new() };
}

/// Bytes as they came; those of whole records are opened in place.
#[derive(Default)]
pub(super) struct Inbox {
    buffer: Vec<u8>,
    /// What is before was taken.
    start: usize,
    end: usize,
    /// The last buffer was not enough.
    wants_most: bool,
    /// Its records are not those of TLS.
    pub is_clear: bool,
}

/// Large buffers that this thread keeps for nobody are free memory.
pub(super) fn forget_spares() {
    SPARES.with(Spares::forget);
}

impl Inbox {
    /// Room behind what was not taken. What was taken is overwritten. `may_be_large`: the peer is
    /// known.
    pub fn room(&mut self, may_be_large: bool) -> &mut [u8] {
        // A header that lies was found out when it came.
        let record = self.record_bytes(&self.buffer[self.start..self.end]);
        let record = record.ok().flatten().unwrap_or(0);
        if may_be_large && self.wants_most && self.buffer.len() < MOST_BYTES {
            let most = SPARES.with(Spares::take);
            self.move_to(most.unwrap_or_else(|| vec![0; MOST_BYTES]));
        } else {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let is_full = self.end == self.buffer.len();
            let more = if is_full { self.end * 2 } else { 0 };
            let bytes = record.max(more).max(FIRST_BYTES);
            if bytes > self.buffer.len() {
                self.buffer.resize(bytes, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
        self.wants_most |= self.end == self.buffer.len();
    }

    /// Goes on with another buffer, which has room for what was not taken.
    fn move_to(&mut self, mut buffer: Vec<u8>) {
        let rest = &self.buffer[self.start..self.end];
        buffer[..rest.len()].copy_from_slice(rest);
        (self.start, self.end) = (0, rest.len());
        let left = std::mem::replace(&mut self.buffer, buffer);
        if left.len() == MOST_BYTES {
            SPARES.with(|spares| spares.give(left));
        }
    }

    fn record_bytes(&self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        match self.is_clear {
            true => clear_record_bytes(bytes),
            false => record_bytes(bytes),
        }
    }

    /// So many bytes behind what was taken, if they are here.
    pub fn front(&self, bytes: usize) -> Option<&[u8]> {
        self.buffer[self.start..self.end].get(..bytes)
    }

    /// Where the whole record is that begins `offset` bytes behind what was taken.
    pub fn record(&self, offset: usize) -> Result<Option<Range<usize>>, Fault> {
        let at = self.start + offset;
        let bytes = self.record_bytes(&self.buffer[at..self.end])?;
        Ok(bytes
            .map(|bytes| at..at + bytes)
            .filter(|record| record.end <= self.end))
    }

    /// Bytes that the record takes which begins there, as far as its header is here.
    pub fn announced(&self, offset: usize) -> Result<usize, Fault> {
        let rest = &self.buffer[self.start + offset..self.end];
        Ok(record_bytes(rest)?.unwrap_or(rest.len()))
    }

    /// Bytes that are missing to the end of a record, or of its header.
    pub fn missing_bytes(&self) -> usize {
        let mut rest = &self.buffer[self.start..self.end];
        // A header that lies was found out when it came.
        while let Ok(Some(record)) = record_bytes(rest) {
            match rest.get(record..) {
                Some(behind) => rest = behind,
                None => return record - rest.len(),
            }
        }
        HEADER_BYTES.saturating_sub(rest.len()).max(1)
    }

    /// Takes at most so many bytes: where they are.
    pub fn take_up_to(&mut self, bytes: usize) -> Range<usize> {
        let start = self.start;
        self.start = self.end.min(start + bytes);
        start..self.start
    }

    /// Takes all that is there: where it is.
    pub fn take_all(&mut self) -> Range<usize> {
        let all = self.start..self.end;
        self.start = self.end;
        all
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub fn bytes_mut(&mut self, at: Range<usize>) -> &mut [u8] {
        &mut self.buffer[at]
    }

    /// So many bytes behind what was taken.
    pub fn next_bytes(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + bytes]
    }

    pub fn take(&mut self, bytes: usize) {
        self.start += bytes;
    }

    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Nothing comes now: keeps what was not taken and nothing else. `is_idle`: nor will much.
    pub fn shrink(&mut self, is_idle: bool) {
        if is_idle {
            self.wants_most = false;
        }
        let rest = self.end - self.start;
        if self.buffer.len() > rest {
            self.move_to(vec![0; rest]);
        }
    }

    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}
