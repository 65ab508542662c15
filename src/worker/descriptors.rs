//! Descriptors that TCP connections take: each is one of the process, and files need them, too.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many descriptors there are, and who has how many over TCP.
///
/// The kernel gives the lowest free number, so a number tells how full the table is; the disk layer
/// counts in the same way (`disk/descriptors.rs`).
pub struct StreamDescriptors {
    limit: u64,
    workers: u64,
    /// Of connections whose handshake is not complete, on all workers.
    strangers: AtomicU64,
    /// Of all connections, on all workers.
    streams: AtomicU64,
}

impl StreamDescriptors {
    /// To be made once the limit is what it is to be.
    pub fn of_this_process(workers: u8) -> StreamDescriptors {
        StreamDescriptors::new(landro_sys::process::open_files_limit(), workers)
    }

    fn new(limit: u64, workers: u8) -> StreamDescriptors {
        StreamDescriptors {
            limit,
            workers: u64::from(workers.max(1)),
            strangers: AtomicU64::new(0),
            streams: AtomicU64::new(0),
        }
    }

    pub(super) fn stranger_came(&self) {
        self.strangers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stranger_went(&self) {
        self.strangers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Strangers have a quarter of the table: for another one of them has to go.
    pub(super) fn are_strangers_too_many(&self) -> bool {
        self.strangers.load(Ordering::Relaxed) >= self.limit / 4
    }

    pub(super) fn stream_came(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stream_went(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there may be another connection, of this number, without another one's end. They
    /// stay as long as sessions, so all together have three sixteenths of the table: beside the
    /// half up to which sessions begin that leaves something to files, whose last quarter is for
    /// those that are open for a moment. Who lacks a connection dials again or goes on without it,
    /// and who lacks a file fails.
    pub(super) fn may_keep(&self, number: u64) -> bool {
        let is_few = self.streams.load(Ordering::Relaxed) < self.limit / 16 * 3;
        is_few && number < self.limit / 4 * 3
    }

    /// Connections that one identity may have on a worker: with all its workers an eighth of the
    /// table.
    pub(super) fn of_one_peer(&self) -> u64 {
        (self.limit / 8 / self.workers).max(LEAST_OF_ONE_PEER)
    }
}

/// A session over TCP, one that takes its place, and a few beside.
const LEAST_OF_ONE_PEER: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_a_quarter() {
        let descriptors = StreamDescriptors::new(100, 2);
        (0..24).for_each(|_| descriptors.stranger_came());
        assert!(!descriptors.are_strangers_too_many());
        descriptors.stranger_came();
        assert!(descriptors.are_strangers_too_many());
        descriptors.stranger_went();
        assert!(!descriptors.are_strangers_too_many());
        assert!(descriptors.may_keep(74) && !descriptors.may_keep(75));
        (0..18).for_each(|_| descriptors.stream_came());
        assert!(!descriptors.may_keep(30));
        descriptors.stream_went();
        assert!(descriptors.may_keep(30));
    }

    #[test]
    fn no_limit_is_no_bound() {
        let descriptors = StreamDescriptors::new(u64::MAX, 1);
        assert!(descriptors.may_keep(1 << 31) && descriptors.of_one_peer() > 1 << 31);
        assert_eq!(StreamDescriptors::new(64, 4).of_one_peer(), 8);
    }
}
