//! Rests between two reads of a stream that much comes on: each wake-up costs the same, whatever
//! there is to read.
//!
//! Over a link of 1 Gbit/s the kernel has some packets ready every fraction of a millisecond, and
//! each time a poll, a receive call and a turn of the loop bring a few kilobytes. In bulk nobody
//! waits for them so soon: what is read a millisecond later is acknowledged by the kernel all the
//! same. Where more comes than can be read there is nothing to wait for, and no rest.

use std::time::{Duration, Instant};

/// How long a rest is: 117 KB at 1 Gbit/s, and nothing that a user sees at the end of a file.
const REST: Duration = Duration::from_millis(1);

/// After so many bytes in a row what comes is bulk. Small files, and answers to small questions,
/// are over before.
const BULK_BYTES: usize = 2 << 20;

/// What comes after this time does not come in a row.
const ROW_GAP: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(super) struct ReadRest {
    /// Bytes in a row, and when the last of them were read.
    row_bytes: usize,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl ReadRest {
    /// So many bytes were read. `is_empty`: and more are to come, but are not there.
    pub(super) fn read(&mut self, now: Instant, bytes: usize, is_empty: bool) {
        if bytes == 0 {
            return;
        }
        let in_a_row = self.last.is_some_and(|last| now <= last + ROW_GAP);
        self.row_bytes = match in_a_row {
            true => self.row_bytes.saturating_add(bytes),
            false => bytes,
        };
        self.last = Some(now);
        let is_bulk = is_empty && self.row_bytes >= BULK_BYTES;
        self.until = is_bulk.then(|| now + REST);
    }

    /// When it is to be read again, though the kernel may have something before.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether a rest is over: then it is read again.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any time would do")]
    fn bulk_alone_is_read_with_rests() {
        let (mut rest, mut now) = (ReadRest::default(), Instant::now());
        for _ in 0..63 {
            rest.read(now, 32 << 10, true);
            assert_eq!(rest.until(), None);
            now += Duration::from_micros(300);
        }
        rest.read(now, 32 << 10, true);
        assert_eq!(rest.until(), Some(now + REST));
        assert!(!rest.is_over(now));
        now += REST;
        assert!(rest.is_over(now) && !rest.is_over(now));
        // Nothing came in it: the row goes on, but there is no rest before the next bytes.
        rest.read(now, 0, true);
        assert_eq!(rest.until(), None);
        now += ROW_GAP + Duration::from_millis(1);
        rest.read(now, 32 << 10, true);
        assert_eq!(rest.until(), None, "a new row");
        rest.read(now, 4 << 20, false);
        assert_eq!(rest.until(), None, "there is more");
    }
}
