//! What peers can make a worker log: so many lines of each, then a count. No other file of the
//! worker logs what a peer does (`tests/tidy.rs` looks).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ids::Fingerprint;
use crate::proto::{EntryResult, Event, Outcome};

/// Failed entries a session may name, and warnings it may have, each; the first ones say what is
/// wrong.
const LINES_PER_SESSION: u64 = 20;

/// Lines one peer may cause at once, all kinds together: a few sessions with all that goes wrong in
/// them.
const BURST_LINES: u32 = 100;

/// One more line is allowed after each of these: a day's lines of 200 bytes are 17 MB, of the
/// longest there are 100.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// For whoever set `LANDRO_LOG=debug`: enough to follow some connections, too little to fill a disk
/// in an hour.
const DEBUG_BURST_LINES: u32 = 2_000;
const DEBUG_LINE_EVERY: Duration = Duration::from_millis(10);

/// Peers whose lines are counted apart; beyond them, the one heard of longest ago makes room.
const MAX_PEERS: usize = 256;

/// How long a count of what was left out waits for more.
const COUNT_AFTER: Duration = Duration::from_secs(10);

/// Longest text or path of a peer that a line shows.
const SHOWN_BYTES: usize = 256;

/// Whose doing a line is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Who {
    /// Somebody authenticated.
    Peer(Fingerprint),
    /// Anybody who can reach the port.
    Strangers,
    /// Everybody, on the level that nobody has to leave on.
    Debug,
}

/// A bucket of lines: full at first, one line comes in at a time.
#[derive(Debug)]
struct Bucket {
    left: u32,
    /// When `left` was last right.
    at: Instant,
    left_out: u64,
}

impl Bucket {
    /// Takes a line out; false: there is none.
    fn take(&mut self, burst: u32, every: Duration, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at);
        let came = u32::try_from(elapsed.as_nanos() / every.as_nanos()).unwrap_or(u32::MAX);
        if came > 0 {
            self.left = self.left.saturating_add(came).min(burst);
            self.at = now;
        }
        let taken = self.left.checked_sub(1);
        match taken {
            Some(left) => self.left = left,
            None => self.left_out += 1,
        }
        taken.is_some()
    }

    fn tell(&mut self, who: &Who) {
        let lines = std::mem::take(&mut self.left_out);
        match who {
            _ if lines == 0 => {}
            Who::Peer(peer) => {
                tracing::warn!(%peer, lines, "more lines about this peer were left out")
            }
            Who::Strangers => tracing::warn!(lines, "more lines about strangers were left out"),
            Who::Debug => tracing::debug!(lines, "more lines of this level were left out"),
        }
    }
}

/// One worker's log of its peers.
#[derive(Default)]
pub struct Log {
    buckets: HashMap<Who, Bucket>,
    /// When [`Log::tell_counts`] has something to say.
    due: Option<Instant>,
}

impl Log {
    /// Whether one more line about `who` may be written now.
    pub fn admits(&mut self, who: Who, now: Instant) -> bool {
        let (burst, every) = match who {
            Who::Peer(_) | Who::Strangers => (BURST_LINES, LINE_EVERY),
            Who::Debug if tracing::enabled!(tracing::Level::DEBUG) => {
                (DEBUG_BURST_LINES, DEBUG_LINE_EVERY)
            }
            Who::Debug => return false,
        };
        if self.buckets.len() >= MAX_PEERS && !self.buckets.contains_key(&who) {
            self.forget_one();
        }
        let full = Bucket {
            left: burst,
            at: now,
            left_out: 0,
        };
        let admitted = self
            .buckets
            .entry(who)
            .or_insert(full)
            .take(burst, every, now);
        if !admitted {
            self.due.get_or_insert(now + COUNT_AFTER);
        }
        admitted
    }

    fn forget_one(&mut self) {
        let oldest = self
            .buckets
            .iter()
            .min_by_key(|(_, bucket)| bucket.at)
            .map(|(who, _)| *who);
        if let Some((who, mut bucket)) = oldest.and_then(|who| self.buckets.remove_entry(&who)) {
            bucket.tell(&who);
        }
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Says how many lines were left out, if that is due.
    pub fn tell_counts(&mut self, now: Instant) {
        if self.due.is_some_and(|at| at <= now) {
            self.tell_all_counts();
        }
    }

    /// As [`Log::tell_counts`], at once: nothing more will come.
    pub fn tell_all_counts(&mut self) {
        self.due = None;
        self.buckets
            .iter_mut()
            .for_each(|(who, bucket)| bucket.tell(who));
    }
}

/// The beginning of what a peer said; escaped, for it may hold line ends and what acts on a
/// terminal.
fn shown(text: &[u8]) -> String {
    let cut = &text[..text.len().min(SHOWN_BYTES)];
    let rest = if cut.len() < text.len() { "..." } else { "" };
    format!("{}{rest}", cut.escape_ascii())
}

/// What one session has caused so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct SessionLog {
    failed: u64,
    warnings: u64,
}

impl Log {
    /// A daemon's log of a session: failures and warnings by name, the rest only as totals.
    pub fn event(&mut self, of: &mut SessionLog, peer: &Fingerprint, event: &Event, now: Instant) {
        match event {
            Event::Entry {
                path,
                result: EntryResult::Failed(error),
                ..
            } => {
                of.failed += 1;
                if of.failed <= LINES_PER_SESSION && self.admits(Who::Peer(*peer), now) {
                    let text = error.sentence("");
                    let (path, text) = (shown(path), shown(text.as_bytes()));
                    let (call, errno) = (shown(error.call.as_bytes()), error.errno);
                    let place = error.place;
                    tracing::warn!(
                        %peer, %path, ?place, code = ?error.code, call, errno, %text, "entry failed"
                    );
                }
            }
            Event::Warning { path, text } => {
                of.warnings += 1;
                if of.warnings <= LINES_PER_SESSION && self.admits(Who::Peer(*peer), now) {
                    let (path, text) = (shown(path), shown(text.as_bytes()));
                    tracing::warn!(%peer, %path, %text, "warning");
                }
            }
            Event::Entry { .. }
            | Event::Started
            | Event::Placed { .. }
            | Event::Begun { .. }
            | Event::Resumed { .. }
            | Event::Counted { .. }
            | Event::Announced { .. }
            | Event::Progress { .. }
            | Event::Listing { .. }
            | Event::RoundTrips(_)
            | Event::Benched { .. } => {}
        }
    }

    /// How a session ended, and what of it was not logged.
    pub fn outcome(&mut self, of: SessionLog, peer: &Fingerprint, outcome: &Outcome, now: Instant) {
        let failed_entries = of.failed.saturating_sub(LINES_PER_SESSION);
        let warnings = of.warnings.saturating_sub(LINES_PER_SESSION);
        if failed_entries + warnings > 0 && self.admits(Who::Peer(*peer), now) {
            tracing::warn!(%peer, failed_entries, warnings, "more of this session were left out");
        }
        if !self.admits(Who::Peer(*peer), now) {
            return;
        }
        match outcome {
            Outcome::Complete(totals) => tracing::info!(%peer, ?totals, "session complete"),
            Outcome::Cancelled(totals) => tracing::info!(%peer, ?totals, "session cancelled"),
            Outcome::Refused(error) | Outcome::CalledOff(error) => {
                let text = shown(error.sentence("").as_bytes());
                let (call, errno) = (shown(error.call.as_bytes()), error.errno);
                tracing::info!(%peer, code = ?error.code, call, errno, %text, "session refused");
            }
            Outcome::Violation(reason) => {
                let reason = shown(reason.as_bytes());
                tracing::warn!(%peer, %reason, "session broke the protocol");
            }
            Outcome::ServerStops(totals) => {
                tracing::info!(%peer, ?totals, "session ended by its server");
            }
            Outcome::Lost(totals) => tracing::info!(%peer, ?totals, "session lost its peer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn peer(byte: u8) -> Who {
        Who::Peer(Fingerprint([byte; 32]))
    }

    #[test]
    fn a_burst_then_a_line_a_second_each() {
        let (mut log, start) = (Log::default(), crate::worker::now());
        let admitted =
            |log: &mut Log, who, now| (0..10_000).filter(|_| log.admits(who, now)).count();
        assert_eq!(admitted(&mut log, peer(1), start), BURST_LINES as usize);
        assert_eq!(
            admitted(&mut log, peer(2), start),
            BURST_LINES as usize,
            "another peer has its own"
        );
        assert_eq!(admitted(&mut log, peer(1), start + 3 * LINE_EVERY), 3);
        assert_eq!(
            admitted(&mut log, peer(1), start + 86_400 * LINE_EVERY),
            BURST_LINES as usize
        );
        assert_eq!(
            log.buckets[&peer(2)].left_out,
            10_000 - u64::from(BURST_LINES)
        );
        assert_eq!(log.due(), Some(start + COUNT_AFTER));
        log.tell_counts(start);
        assert!(log.due().is_some(), "not yet");
        log.tell_counts(start + COUNT_AFTER);
        assert_eq!((log.due(), log.buckets[&peer(2)].left_out), (None, 0));
    }

    /// Identities cost nothing: as many as somebody likes take no more memory, and no more lines
    /// than their own.
    #[test]
    fn crowds_are_forgotten() {
        let (mut log, start) = (Log::default(), crate::worker::now());
        for number in 0..10_000_u32 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            assert!(log.admits(
                Who::Peer(Fingerprint(bytes)),
                start + Duration::from_millis(number.into())
            ));
        }
        assert!(log.buckets.len() <= MAX_PEERS);
    }

    #[test]
    fn a_session_names_some_of_each() {
        let (mut log, start) = (Log::default(), crate::worker::now());
        let fingerprint = Fingerprint([1; 32]);
        let mut session = SessionLog::default();
        for _ in 0..1000 {
            let event = Event::Warning {
                path: Bytes::from_static(b"p"),
                text: "t".into(),
            };
            log.event(&mut session, &fingerprint, &event, start);
        }
        let used = BURST_LINES - log.buckets[&peer(1)].left;
        assert_eq!(
            (u64::from(used), session.warnings),
            (LINES_PER_SESSION, 1000)
        );
        let outcome = Outcome::Violation("x".into());
        log.outcome(session, &fingerprint, &outcome, start);
        assert_eq!(
            BURST_LINES - log.buckets[&peer(1)].left,
            used + 2,
            "a count and the outcome"
        );
    }

    #[test]
    fn what_a_peer_says_is_cut_and_cannot_forge_a_line() {
        assert_eq!(shown(b"a\n2026 INFO\x1b["), "a\\n2026 INFO\\x1b[");
        assert!(shown(&[b'x'; 100_000]).len() < SHOWN_BYTES + 4);
    }
}
