//! The receive buffer of a connection: small while little comes, and given back when nothing does.

use std::ops::Range;

use super::fault::Fault;
use super::record::{HEADER_BYTES, record_bytes};

/// The first buffer: a handshake's flights and control messages fit.
const FIRST_BYTES: usize = 4 << 10;

/// The largest: 15 full records with one system call.
const MOST_BYTES: usize = 256 << 10;

/// Bytes as they came; those of whole records are opened in place.
#[derive(Default)]
pub(super) struct Inbox {
    buffer: Vec<u8>,
    /// What is before was taken.
    start: usize,
    end: usize,
    was_full: bool,
}

impl Inbox {
    /// Room behind what was not taken. What was taken is overwritten.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let mut bytes = self.buffer.len().max(FIRST_BYTES);
        if std::mem::take(&mut self.was_full) {
            bytes = (bytes * 4).min(MOST_BYTES);
        }
        // A header that lies was found out when it came.
        let record = record_bytes(&self.buffer[..self.end]).ok().flatten();
        bytes = bytes.max(record.unwrap_or(0));
        if bytes > self.buffer.len() {
            self.buffer.resize(bytes, 0);
        }
        &mut self.buffer[self.end..]
    }

    pub fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
        self.was_full = self.end == self.buffer.len();
    }

    /// Where the whole record is that begins `offset` bytes behind what was taken.
    pub fn record(&self, offset: usize) -> Result<Option<Range<usize>>, Fault> {
        let at = self.start + offset;
        let bytes = record_bytes(&self.buffer[at..self.end])?;
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

    /// Keeps what was not taken and nothing else.
    pub fn shrink(&mut self) {
        self.buffer = self.buffer[self.start..self.end].to_vec();
        (self.start, self.end) = (0, self.buffer.len());
        self.was_full = self.end > 0;
    }

    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}
