//! Watches that a session gets on: one in which nothing moves and nothing is finished for too long
//! is over, however alive its connection is.
//!
//! What counts as getting on: a disk operation of this side that ended, well or not; a message of
//! the peer that brings the session nearer to its end; file bytes that came or that the transport
//! took, [`FLOOR_BYTES`] of them together.
//!
//! What a peer may give for ever, though nothing comes of it, is a *sign of work*, and believed for
//! [`SIGNS_AT_MOST`] while it gives nothing else: messages about what is no entry, or none any
//! more; zeros of a hole that it named, which this side hashes; and the message `working`. A peer
//! may be at work of which nothing travels (it hashes what it has of a file, waits for its disk):
//! every side whose operations end while it says nothing says `working`, each [`SIGN_EVERY`].

use std::time::{Duration, Instant};

use crate::proto::wire::Message;

/// Bytes that count as progress: less, one at a time, would hold a session for ever. A line of
/// 300 bit/s brings more in a minute.
const FLOOR_BYTES: u64 = 1 << 10;

/// Time between two signs of work: the shortest `--timeout` is a second.
const SIGN_EVERY: Duration = Duration::from_millis(400);

/// How often it is asked whether operations under way get on that take their time: one that waits
/// for a disk does many things, and says nothing before its end. What was got on with is dated with
/// the look that finds it, and is to be dated less late than [`WHO_KNOWS_SPEAKS_FIRST`]: with two
/// seconds the peer gave up first.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// How long a peer is believed that it works while nothing comes of it: to hash a terabyte from a
/// slow disk takes some five hours, and a hole of a hundred terabytes may be hashed meanwhile. A
/// peer that lies holds one session for so long.
const SIGNS_AT_MOST: Duration = Duration::from_secs(12 * 60 * 60);

/// Who waits for the peer alone gives it so much longer: who knows what it waits for is to say so
/// first.
const WHO_KNOWS_SPEAKS_FIRST: Duration = Duration::from_millis(700);

#[derive(Debug)]
pub(super) struct ProgressWatch {
    /// None: for ever.
    patience: Option<Duration>,
    /// When something was got on with last, and the bytes that moved since.
    since: Instant,
    moved_bytes: u64,
    /// Disk operations of this side that ended, how many of them before it last said something, and
    /// when that was.
    finished: u64,
    told: u64,
    said_at: Instant,
    looked_at: Instant,
    /// Since when there are signs of work and nothing else, and what the peer's last one counted.
    signs_since: Option<Instant>,
    peer_finished: u64,
}

impl ProgressWatch {
    pub(super) fn new(now: Instant, patience: Option<Duration>) -> ProgressWatch {
        ProgressWatch {
            patience,
            since: now,
            moved_bytes: 0,
            finished: 0,
            told: 0,
            said_at: now,
            looked_at: now,
            signs_since: None,
            peer_finished: 0,
        }
    }

    /// The peer waits no longer than that.
    pub(super) fn shorten(&mut self, patience: Option<Duration>) {
        self.patience = self.patience.into_iter().chain(patience).min();
    }

    /// A disk operation of this side ended.
    pub(super) fn finished_one(&mut self, now: Instant) {
        self.finished += 1;
        self.got_on(now);
    }

    /// The peer said something.
    pub(super) fn heard(&mut self, now: Instant, message: &Message) {
        match message {
            Message::Working { finished } => self.sign(now, *finished),
            // No honest peer says nothing.
            Message::Entries(items) if items.is_empty() => {}
            Message::Verdicts(verdicts) if verdicts.is_empty() => {}
            Message::Listing(rows) if rows.is_empty() => {}
            // What was asked for twice is no progress.
            Message::Again { .. } => {}
            Message::FilePart { data } => self.moved(now, data.len() as u64),
            // Lanes may come and go for ever.
            Message::LaneOver { .. } | Message::LaneAccount(_) => {}
            // Who says whose answer follows has not answered.
            Message::About { .. } | Message::Forget { .. } => {}
            Message::Abort { .. }
            | Message::Root { .. }
            | Message::End { .. }
            | Message::Holes { .. }
            | Message::SourceError { .. }
            | Message::SourceWarning { .. }
            | Message::DestinationWarning { .. } => self.believe(now),
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::Entries(_)
            | Message::ManifestEnd { .. }
            | Message::Counted { .. }
            | Message::Verdicts(_)
            | Message::Finished {}
            | Message::Listing(_)
            | Message::ListAck {}
            | Message::FileSize { .. }
            | Message::ChunkValue { .. }
            | Message::ListEnd {}
            | Message::BenchEnd { .. }
            | Message::Echo { .. }
            | Message::EchoReply { .. }
            | Message::Query { .. }
            | Message::Unanswered(_)
            | Message::Error(_)
            | Message::Cancel { .. } => self.got_on(now),
        }
    }

    /// Nothing is waited for up to now.
    pub(super) fn rest(&mut self, now: Instant) {
        self.got_on(now);
    }

    /// Zeros of a hole were hashed, which cost the peer a few bytes.
    pub(super) fn hashed(&mut self, now: Instant) {
        self.finished += 1;
        self.believe(now);
    }

    /// File bytes came, or left.
    pub(super) fn moved(&mut self, now: Instant, bytes: u64) {
        self.moved_bytes += bytes;
        if self.moved_bytes >= FLOOR_BYTES {
            self.got_on(now);
        }
    }

    fn got_on(&mut self, now: Instant) {
        (self.since, self.moved_bytes, self.signs_since) = (now, 0, None);
    }

    /// A sign of work of the peer: so many of its operations ended so far.
    fn sign(&mut self, now: Instant, finished: u64) {
        if finished > self.peer_finished {
            self.peer_finished = finished;
            self.believe(now);
        }
    }

    /// There is work, it seems, of which nothing comes yet.
    fn believe(&mut self, now: Instant) {
        let first = *self.signs_since.get_or_insert(now);
        if now.saturating_duration_since(first) < SIGNS_AT_MOST {
            self.since = now;
        }
    }

    /// This side said something, whatever it was.
    pub(super) fn said(&mut self, now: Instant) {
        (self.told, self.said_at) = (self.finished, now);
    }

    /// This side goes as slowly as it was asked to: that is work, too.
    pub(super) fn paced(&mut self, now: Instant) {
        if self.sign_at().is_none_or(|at| at > now) && self.told == self.finished {
            self.finished += 1;
        }
        self.since = now;
    }

    /// The world said what it knows of operations under way.
    pub(super) fn looked(&mut self, now: Instant) {
        self.looked_at = now;
    }

    /// What the next sign of work says, if one is due.
    pub(super) fn due_sign(&self, now: Instant) -> Option<u64> {
        (self.sign_at()? <= now).then_some(self.finished)
    }

    fn sign_at(&self) -> Option<Instant> {
        (self.finished > self.told).then(|| self.said_at + SIGN_EVERY)
    }

    /// Since when nothing was got on with, if that is too long. `own`: operations of this side that
    /// are under way.
    pub(super) fn stalled_since(&self, now: Instant, own: u64) -> Option<Instant> {
        (self.gives_up_at(own)? <= now).then_some(self.since)
    }

    fn gives_up_at(&self, own: u64) -> Option<Instant> {
        let grace = match own {
            0 => WHO_KNOWS_SPEAKS_FIRST,
            _ => Duration::ZERO,
        };
        self.since.checked_add(self.patience?)?.checked_add(grace)
    }

    /// When time alone changes something. `signs`: this side may speak.
    pub(super) fn deadline(&self, own: u64, signs: bool) -> Option<Instant> {
        let sign = self.sign_at().filter(|_| signs);
        let look = (own > 0).then(|| self.looked_at.max(self.since) + LOOK_EVERY);
        let due = [self.gives_up_at(own), sign, look];
        due.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Whether it is over, `seconds` after it began.
    fn is_over(watch: &ProgressWatch, start: Instant, seconds: u64) -> bool {
        let at = start + Duration::from_secs(seconds);
        watch.stalled_since(at, 0).is_some()
    }

    #[test]
    fn silence_ends_it_and_anything_finished_puts_that_off() {
        let start = crate::proto::sim::start();
        let mut watch = ProgressWatch::new(start, Some(PATIENCE));
        assert!(!is_over(&watch, start, 60) && is_over(&watch, start, 61));
        watch.finished_one(start + Duration::from_secs(50));
        assert!(!is_over(&watch, start, 110) && is_over(&watch, start, 111));
        watch.heard(start + Duration::from_secs(100), &Message::Finished {});
        assert!(!is_over(&watch, start, 160) && is_over(&watch, start, 161));
    }

    #[test]
    fn a_trickle_is_no_progress() {
        let start = crate::proto::sim::start();
        let mut watch = ProgressWatch::new(start, Some(PATIENCE));
        (1..60).for_each(|second| watch.moved(start + Duration::from_secs(second), 1));
        assert!(is_over(&watch, start, 61));
        watch.moved(start + Duration::from_secs(60), FLOOR_BYTES);
        assert!(!is_over(&watch, start, 120));
    }

    #[test]
    fn signs_are_believed_for_a_while_and_only_if_they_count_on() {
        let start = crate::proto::sim::start();
        let mut watch = ProgressWatch::new(start, Some(PATIENCE));
        let end = SIGNS_AT_MOST.as_secs();
        for second in (0..end + 600).step_by(30) {
            let finished = second + 1;
            watch.heard(
                start + Duration::from_secs(second),
                &Message::Working { finished },
            );
        }
        assert!(!is_over(&watch, start, end) && is_over(&watch, start, end + 100));
        let mut watch = ProgressWatch::new(start, Some(PATIENCE));
        for second in (0..600).step_by(30) {
            watch.heard(
                start + Duration::from_secs(second),
                &Message::Working { finished: 1 },
            );
        }
        assert!(is_over(&watch, start, 100));
    }

    #[test]
    fn work_that_says_nothing_gives_signs() {
        let start = crate::proto::sim::start();
        let mut watch = ProgressWatch::new(start, Some(PATIENCE));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watch.due_sign(at(10)), None, "nothing was done");
        watch.finished_one(at(10));
        assert_eq!(watch.due_sign(at(10)), Some(1));
        watch.said(at(10));
        watch.finished_one(at(10));
        assert_eq!(watch.due_sign(at(10)), None, "it has just spoken");
        assert_eq!(watch.due_sign(at(11)), Some(2));
    }

    #[test]
    fn no_timeout_is_none() {
        let start = crate::proto::sim::start();
        let mut watch = ProgressWatch::new(start, None);
        assert!(!is_over(&watch, start, 1 << 20));
        watch.shorten(Some(PATIENCE));
        assert!(is_over(&watch, start, 61));
    }
}
