//! What peers can make a worker log: so many lines of each, then a count. No other file of the
//! worker logs what a peer does (`tests/tidy.rs` looks).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ids::Fingerprint;
use crate::proto::clear::ClearOff;
use crate::proto::{
    CancelReason, EntryErrorCode, EntryResult, Event, Outcome, SessionErrorCode, Totals, Verb,
};
use crate::quic::PathSnapshot;

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

/// The beginning of what a peer said. What may act on a terminal, or end a line, is escaped, in all
/// forms of the log; quotes and backslashes are the form's to escape.
fn shown(text: &[u8]) -> String {
    let cut = &text[..text.len().min(SHOWN_BYTES)];
    let mut shown = String::with_capacity(cut.len());
    for chunk in cut.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' | '\'' | '\\' => shown.push(char),
                _ => shown.extend(char.escape_debug()),
            }
        }
        let bytes = chunk.invalid().iter();
        shown.extend(bytes.map(|byte| format!("\\x{byte:02x}")));
    }
    if cut.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

/// What one session is about, and what it has caused so far.
#[derive(Clone, Debug)]
pub struct SessionLog {
    /// Where its first lane came from.
    address: SocketAddr,
    began: Instant,
    /// What the client wants; None until it said so, and on the client's side.
    asked: Option<Subject>,
    /// The `path=` of the peer.
    confined: Option<String>,
    failed: u64,
    warnings: u64,
}

#[derive(Clone, Debug)]
struct Subject {
    verb: Verb,
    path: String,
    more: usize,
}

impl SessionLog {
    pub fn new(address: SocketAddr, confined: Option<&[u8]>, now: Instant) -> SessionLog {
        SessionLog {
            address,
            began: now,
            asked: None,
            confined: confined.map(shown),
            failed: 0,
            warnings: 0,
        }
    }

    fn subject(&self) -> Option<&Subject> {
        self.asked.as_ref()
    }

    /// What the client wants, once it said so. None on the client's side.
    pub fn verb(&self) -> Option<Verb> {
        self.subject().map(|subject| subject.verb)
    }

    fn verb_word(&self) -> &'static str {
        match self.verb() {
            Some(Verb::Push) => "push",
            Some(Verb::Pull) => "pull",
            Some(Verb::List) => "list",
            Some(Verb::Queries) => "queries",
            Some(Verb::Bench) => "bench",
            None => "nothing",
        }
    }

    /// Of what has one.
    fn path(&self) -> Option<&str> {
        let subject = self.subject()?;
        (subject.verb != Verb::Bench).then_some(subject.path.as_str())
    }

    /// How many paths were named besides.
    fn more(&self) -> Option<usize> {
        self.subject().map(|it| it.more).filter(|more| *more > 0)
    }

    /// How long it took, in seconds, and file bytes per second that crossed the wire.
    fn pace(&self, totals: &Totals, now: Instant) -> (f64, u64) {
        let seconds = now.saturating_duration_since(self.began).as_secs_f64();
        // A session of no time at all has no rate.
        let rate = totals.sent_bytes as f64 / seconds.max(0.001);
        ((seconds * 1e3).round() / 1e3, rate as u64)
    }
}

/// What carried a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionLanes {
    /// Connections it had; on other workers than its own, those at its end.
    pub lanes: u64,
    /// QUIC packets that left.
    pub sent_packets: u64,
    /// Those of them that were declared lost.
    pub lost_packets: u64,
}

impl SessionLanes {
    pub fn add(&mut self, lane: &PathSnapshot) {
        self.lanes += 1;
        self.sent_packets += lane.sent_packets;
        self.lost_packets += lane.lost_packets;
    }
}

/// Who was not let in, and why.
pub struct Refused<'a> {
    /// Whose doing the line is.
    pub who: Who,
    pub address: SocketAddr,
    /// Whose certificate was shown, which anybody can show who has seen it: of a stranger the
    /// handshake ended before the key was to be proven.
    pub shown: Option<Fingerprint>,
    pub why: &'a str,
}

fn of_entry(code: EntryErrorCode) -> &'static str {
    match code {
        EntryErrorCode::Source => "source",
        EntryErrorCode::Destination => "destination",
        EntryErrorCode::Full => "full",
        EntryErrorCode::Integrity => "integrity",
        EntryErrorCode::Permission => "permission",
        EntryErrorCode::Name => "name",
    }
}

fn of_session(code: SessionErrorCode) -> &'static str {
    match code {
        SessionErrorCode::Permission => "permission",
        SessionErrorCode::NotFound => "not found",
        SessionErrorCode::Busy => "busy",
        SessionErrorCode::Unsupported => "unsupported",
        SessionErrorCode::Full => "full",
        SessionErrorCode::Stalled => "stalled",
        SessionErrorCode::Integrity => "integrity",
        SessionErrorCode::Other => "other",
    }
}

/// The system call that failed, and why, as far as one did: fields without a value say nothing.
fn failed_call(call: &str, errno: i32) -> (Option<String>, Option<i32>) {
    let call = Some(call).filter(|call| !call.is_empty());
    let errno = Some(errno).filter(|errno| *errno != 0);
    (call.map(|call| shown(call.as_bytes())), errno)
}

/// Why a session did not come to its own end.
fn cut_short(reason: CancelReason, by_peer: bool) -> &'static str {
    match (reason, by_peer) {
        (CancelReason::User, _) => "session cancelled",
        (CancelReason::Ending, true) => "session cut short: the client is ending",
        (CancelReason::Ending, false) => "session cut short: this daemon is ending",
        (CancelReason::Stalled, true) => "session given up by the client: no progress",
        (CancelReason::Stalled, false) => "session given up: no progress",
    }
}

/// A line about a session: what it was about, what follows of it, and who it was with.
macro_rules! told {
    ($level:ident, $of:ident, $peer:ident, [$($field:tt)*], $($ended:tt)*) => {
        tracing::$level!(
            verb = %$of.verb_word(),
            path = $of.path(),
            more = $of.more(),
            $($field)*,
            address = %$of.address,
            peer = %$peer,
            $($ended)*
        )
    };
}

impl Log {
    /// A daemon's log of a session: failures and warnings by name, the rest only as totals.
    pub fn event(&mut self, of: &mut SessionLog, peer: &Fingerprint, event: &Event, now: Instant) {
        match event {
            Event::Asked { verb, path, more } => {
                let (verb, path, more) = (*verb, shown(path), *more);
                of.asked = Some(Subject { verb, path, more });
            }
            Event::Entry {
                path,
                result: EntryResult::Failed(error),
                ..
            } => {
                of.failed += 1;
                if of.failed <= LINES_PER_SESSION && self.admits(Who::Peer(*peer), now) {
                    let text = error.sentence("");
                    let (path, text) = (shown(path), shown(text.as_bytes()));
                    let code = of_entry(error.code);
                    let (call, errno) = failed_call(&error.call, error.errno);
                    tracing::warn!(%peer, path, %code, call, errno, text, "entry failed");
                }
            }
            Event::Warning { path, text, .. } => {
                of.warnings += 1;
                if of.warnings <= LINES_PER_SESSION && self.admits(Who::Peer(*peer), now) {
                    let (path, text) = (shown(path), shown(text.as_bytes()));
                    tracing::warn!(%peer, path, text, "warning");
                }
            }
            Event::ClearOff(ClearOff::Altered) => {
                if self.admits(Who::Peer(*peer), now) {
                    tracing::error!(%peer, "data in the clear was changed on the wire; it comes again on encrypted lanes, and nothing more goes in the clear in this session");
                }
            }
            Event::ClearOff(ClearOff::NotAllowed | ClearOff::NotHad)
            | Event::Entry { .. }
            | Event::Started
            | Event::Addresses(_)
            | Event::Placed { .. }
            | Event::Begun { .. }
            | Event::Resumed { .. }
            | Event::Counted { .. }
            | Event::Announced { .. }
            | Event::Progress { .. }
            | Event::Listing { .. }
            | Event::Answer { .. }
            | Event::RoundTrips(_)
            | Event::Benched { .. } => {}
        }
    }

    /// How a session ended, in one line, and what of it was not logged.
    pub fn outcome(
        &mut self,
        of: &SessionLog,
        peer: &Fingerprint,
        (outcome, lanes): (&Outcome, SessionLanes),
        now: Instant,
    ) {
        let failed_entries = of.failed.saturating_sub(LINES_PER_SESSION);
        let warnings = of.warnings.saturating_sub(LINES_PER_SESSION);
        if failed_entries + warnings > 0 && self.admits(Who::Peer(*peer), now) {
            tracing::warn!(%peer, failed_entries, warnings, "more of this session were left out");
        }
        if !self.admits(Who::Peer(*peer), now) {
            return;
        }
        let (ended, totals) = match outcome {
            Outcome::Complete(totals) => ("session complete", totals),
            Outcome::Cancelled { reason, totals } => (cut_short(*reason, false), totals),
            Outcome::Stopped { reason, totals } => (cut_short(*reason, true), totals),
            Outcome::Lost(totals) => ("session lost its peer", totals),
            Outcome::Stalled { totals, text } => {
                let text = shown(text.as_bytes());
                told!(warn, of, peer, [why = text], "session stalled");
                ("session over, for nothing moved", totals)
            }
            Outcome::Refused(error) | Outcome::CalledOff(error) => {
                let text = shown(error.sentence("").as_bytes());
                let code = of_session(error.code);
                let (call, errno) = failed_call(&error.call, error.errno);
                let confined_to = of.confined.as_deref();
                return told!(
                    info,
                    of,
                    peer,
                    [confined_to, code = %code, call, errno, why = text],
                    "session refused"
                );
            }
            Outcome::Violation(reason) => {
                let reason = shown(reason.as_bytes());
                return told!(warn, of, peer, [why = reason], "session broke the protocol");
            }
        };
        let (seconds, bytes_per_second) = of.pace(totals, now);
        let kept_chunks = Some(totals.kept_chunks).filter(|chunks| *chunks > 0);
        told!(
            info,
            of,
            peer,
            [
                files = totals.files,
                bytes = totals.bytes,
                sent_bytes = totals.sent_bytes,
                kept_chunks,
                piped_bytes = kept_chunks.map(|_| totals.piped_bytes),
                skipped = totals.skipped,
                failed = totals.errors,
                seconds,
                bytes_per_second,
                lanes = lanes.lanes,
                sent_packets = lanes.sent_packets,
                lost_packets = lanes.lost_packets
            ],
            "{ended}"
        );
    }

    /// Somebody was not let in.
    pub fn refused(&mut self, of: &Refused, now: Instant) {
        if !self.admits(of.who, now) {
            return;
        }
        let (address, why) = (of.address, shown(of.why.as_bytes()));
        let peer = of.shown.map(tracing::field::display);
        tracing::warn!(why, %address, peer, "refused");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proto::EntryPlace;

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
        let mut session = SessionLog::new(([127, 0, 0, 1], 1).into(), None, start);
        for _ in 0..1000 {
            let event = Event::Warning {
                path: Bytes::from_static(b"p"),
                place: EntryPlace::Source,
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
        let ended = (&outcome, SessionLanes::default());
        log.outcome(&session, &fingerprint, ended, start);
        assert_eq!(
            BURST_LINES - log.buckets[&peer(1)].left,
            used + 2,
            "a count and the outcome"
        );
    }

    #[test]
    fn a_session_is_told_in_one_line() {
        let start = crate::worker::now();
        let mut session = SessionLog::new(([127, 0, 0, 1], 1).into(), None, start);
        assert_eq!((session.verb_word(), session.path()), ("nothing", None));
        let asked = Event::Asked {
            verb: Verb::Pull,
            path: Bytes::from_static(b"a \"b\"\n"),
            more: 2,
        };
        Log::default().event(&mut session, &Fingerprint([1; 32]), &asked, start);
        let subject = (session.verb_word(), session.path(), session.more());
        assert_eq!(subject, ("pull", Some("a \"b\"\\n"), Some(2)));
        let totals = Totals {
            files: 2,
            sent_bytes: 3000,
            ..Totals::default()
        };
        let pace = session.pace(&totals, start + Duration::from_micros(1_500_400));
        assert_eq!(pace, (1.5, 1999));
        assert_eq!(session.pace(&totals, start).0, 0.0);
    }

    #[test]
    fn what_a_peer_says_is_cut_and_cannot_forge_a_line() {
        let hostile = "a\n2026 INFO\x1b[\u{9b}1m\u{202e}".as_bytes();
        let harmless = "a\\n2026 INFO\\u{1b}[\\u{9b}1m\\u{202e}";
        assert_eq!(shown(hostile), harmless);
        assert_eq!(shown("grün \"x\" \\".as_bytes()), "grün \"x\" \\");
        assert_eq!(shown(b"\xff\xc3"), "\\xff\\xc3");
        assert!(shown(&[b'x'; 100_000]).len() < SHOWN_BYTES + 4);
    }
}
