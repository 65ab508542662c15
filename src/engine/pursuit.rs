//! Whether a session that was lost is begun anew, and when: as long as that gets a transfer on.

use std::time::{Duration, Instant};

use crate::proto::{CancelReason, EntryResult, Event, Kind, Outcome, SessionErrorCode};
use crate::worker::Ended;

/// How long a transfer that does not get further is gone on with: a daemon's host that is started
/// anew, or a network that is away, is back by then. A host that sleeps spends none of it, for its
/// monotonic clock stands still.
const WITHIN: Duration = Duration::from_secs(15 * 60);

/// Pauses before a session is begun anew: the first, and the longest, each twice the one before.
/// Who waits for a network to come back waits so long for nothing at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Bytes by which a session has to come further than all before. Of a large file nothing is kept
/// that is less than a chunk.
const FURTHER_BYTES: u64 = 1 << 20;

/// What a client does about a transfer whose session is lost: it begins another one, which finds
/// what has arrived. A daemon's refusal is final, whatever this says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Persistence {
    /// How often a session is begun anew at most; None: as often as time allows.
    pub times: Option<u32>,
    /// For how long that is done while none comes further than those before; None: for ever.
    pub within: Option<Duration>,
    /// Also if no session was accepted yet: nobody may be there.
    pub from_the_start: bool,
    /// Not any more once one was accepted: something may have been read that is not there twice.
    pub until_accepted: bool,
}

impl Persistence {
    /// What is lost is lost.
    pub const NONE: Persistence = Persistence {
        times: Some(0),
        within: Some(Duration::ZERO),
        from_the_start: false,
        until_accepted: false,
    };
}

impl Default for Persistence {
    /// For 15 minutes without getting further, once a daemon has accepted what was asked for.
    fn default() -> Persistence {
        Persistence {
            times: None,
            within: Some(WITHIN),
            from_the_start: false,
            until_accepted: false,
        }
    }
}

/// What becomes of a session that was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Setback {
    /// Until the next one begins.
    pub(super) pause: Duration,
    /// The session had come further than all before.
    pub(super) got_further: bool,
    pub(super) times_left: Option<u32>,
}

/// How a session ended that another one may go on with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LossKind {
    Gone,
    /// It had time enough, and did not get on.
    Stalled,
}

/// Files and bytes that are done, or need not be.
#[derive(Clone, Copy, Default, Debug)]
struct Reached {
    files: u64,
    bytes: u64,
}

/// The sessions of one request.
pub(super) struct Pursuit {
    persistence: Persistence,
    /// How long a session goes on that does not get on.
    patience: Option<Duration>,
    began_anew: u32,
    is_accepted: bool,
    reached: Reached,
    /// By the sessions before.
    furthest: Reached,
    /// When this session, or the last that did, came further than all before.
    further_at: Instant,
    gets_further: bool,
    /// Since when nothing is got on with.
    since: Option<Instant>,
    pause: Duration,
}

impl Pursuit {
    pub(super) fn new(
        now: Instant,
        persistence: Persistence,
        patience: Option<Duration>,
    ) -> Pursuit {
        Pursuit {
            persistence,
            patience,
            began_anew: 0,
            is_accepted: false,
            reached: Reached::default(),
            furthest: Reached::default(),
            further_at: now,
            gets_further: false,
            since: None,
            pause: FIRST_PAUSE,
        }
    }

    /// What a session tells.
    pub(super) fn note(&mut self, now: Instant, event: &Event) {
        let reached = &mut self.reached;
        match event {
            Event::Started => self.is_accepted = true,
            Event::Resumed { bytes } | Event::Progress { bytes } => {
                reached.bytes = reached.bytes.saturating_add(*bytes);
            }
            Event::Entry {
                kind: Kind::File | Kind::Symlink,
                size_bytes,
                result,
                ..
            } => match result {
                EntryResult::Done { .. } => reached.files += 1,
                EntryResult::Skipped => {
                    reached.files += 1;
                    reached.bytes = reached.bytes.saturating_add(*size_bytes);
                }
                EntryResult::Failed(_) => {}
            },
            Event::Entry { .. }
            | Event::Addresses(_)
            | Event::Placed { .. }
            | Event::Begun { .. }
            | Event::Asked { .. }
            | Event::Announced { .. }
            | Event::Counted { .. }
            | Event::Warning { .. }
            | Event::ClearOff(_)
            | Event::Listing { .. }
            | Event::Answer { .. }
            | Event::RoundTrips(_)
            | Event::Benched { .. } => return,
        }
        let further_bytes = self.reached.bytes.saturating_sub(self.furthest.bytes);
        if self.reached.files > self.furthest.files || further_bytes >= FURTHER_BYTES {
            (self.further_at, self.gets_further) = (now, true);
        }
    }

    /// A session ended so. None: for good.
    pub(super) fn ended(&mut self, now: Instant, ended: &Ended) -> Option<Setback> {
        let kind = loss(ended)?;
        let got_further = std::mem::take(&mut self.gets_further);
        let reached = std::mem::take(&mut self.reached);
        self.furthest.files = self.furthest.files.max(reached.files);
        self.furthest.bytes = self.furthest.bytes.max(reached.bytes);
        let Persistence {
            times,
            within,
            from_the_start,
            until_accepted,
        } = self.persistence;
        // Who lets a session stall that brought nothing would do it again.
        let is_hopeful = self.is_accepted && (kind == LossKind::Gone || got_further);
        let times_left = times.map(|times| times.checked_sub(self.began_anew + 1));
        let is_too_late = until_accepted && self.is_accepted;
        if !(is_hopeful || from_the_start) || is_too_late || times_left == Some(None) {
            return None;
        }
        if got_further {
            (self.since, self.pause) = (None, FIRST_PAUSE);
        }
        // While it stalled there was no progress either; but no longer than it may, for it could
        // be this process that was stopped.
        let stalled_since = self
            .patience
            .and_then(|patience| now.checked_sub(patience))
            .map_or(self.further_at, |at| at.max(self.further_at));
        let since = *self.since.get_or_insert(match kind {
            LossKind::Gone => now,
            LossKind::Stalled => stalled_since,
        });
        let left = within.map(|within| within.saturating_sub(now.duration_since(since)));
        // Less is no time for another try.
        if left.is_some_and(|left| left < FIRST_PAUSE) {
            return None;
        }
        // The last try comes as the time ends.
        let pause = left.map_or(self.pause, |left| self.pause.min(left));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.began_anew += 1;
        Some(Setback {
            pause,
            got_further,
            times_left: times_left.flatten(),
        })
    }
}

/// What another session may mend; None: what a daemon refused, or what is wrong with either side.
fn loss(ended: &Ended) -> Option<LossKind> {
    match ended {
        Ended::Lost(_) | Ended::Unreachable { .. } => Some(LossKind::Gone),
        Ended::IdentityUnknown(_) | Ended::RefusedByPeer(_) | Ended::Failed(_) => None,
        Ended::Outcome(outcome) => match outcome {
            Outcome::Lost(_) => Some(LossKind::Gone),
            Outcome::Stalled { .. } => Some(LossKind::Stalled),
            Outcome::Stopped { reason, .. } => match reason {
                CancelReason::Ending => Some(LossKind::Gone),
                CancelReason::Stalled => Some(LossKind::Stalled),
                CancelReason::User => None,
            },
            Outcome::Refused(error) => match error.code {
                SessionErrorCode::Stalled => Some(LossKind::Stalled),
                // What is left of the session before may be what is too much.
                SessionErrorCode::Busy => Some(LossKind::Gone),
                SessionErrorCode::Permission
                | SessionErrorCode::NotFound
                | SessionErrorCode::Unsupported
                | SessionErrorCode::Full
                | SessionErrorCode::Integrity
                | SessionErrorCode::Other => None,
            },
            Outcome::Complete(_)
            | Outcome::Cancelled { .. }
            | Outcome::CalledOff(_)
            | Outcome::Violation(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::Fingerprint;
    use crate::proto::{SessionError, Totals};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn pursuit(persistence: Persistence) -> (Pursuit, Instant) {
        let now = crate::engine::now();
        (Pursuit::new(now, persistence, Some(PATIENCE)), now)
    }

    fn moved(bytes: u64) -> Event {
        Event::Progress { bytes }
    }

    fn gone() -> Ended {
        Ended::Lost("t".into())
    }

    fn stalled() -> Ended {
        Ended::Outcome(Outcome::Stalled {
            totals: Totals::default(),
            text: "t".into(),
        })
    }

    fn refused(code: SessionErrorCode) -> Ended {
        Ended::Outcome(Outcome::Refused(SessionError::told(code, "t")))
    }

    /// The sum of the pauses until it gives up, where each session ends at once.
    fn pauses(pursuit: &mut Pursuit, mut now: Instant) -> (u32, Duration) {
        let (mut times, mut sum) = (0, Duration::ZERO);
        while let Some(setback) = pursuit.ended(now, &gone()) {
            (times, sum, now) = (times + 1, sum + setback.pause, now + setback.pause);
            assert!(setback.pause <= LONGEST_PAUSE && times < 1_000);
            pursuit.note(now, &Event::Started);
        }
        (times, sum)
    }

    #[test]
    fn a_daemon_that_never_accepted_is_left_alone() {
        let (mut it, now) = pursuit(Persistence::default());
        assert_eq!(it.ended(now, &gone()), None);
        let from_the_start = Persistence {
            times: Some(3),
            within: None,
            from_the_start: true,
            until_accepted: false,
        };
        let (mut it, now) = pursuit(from_the_start);
        let times = pauses(&mut it, now);
        assert_eq!(times, (3, Duration::from_secs(1 + 2 + 4)));
    }

    #[test]
    fn sessions_that_bring_nothing_come_to_an_end() {
        let (mut it, now) = pursuit(Persistence::default());
        it.note(now, &Event::Started);
        let (times, sum) = pauses(&mut it, now);
        assert!(
            times < 40 && sum <= WITHIN && sum + FIRST_PAUSE > WITHIN,
            "{times} {sum:?}"
        );
    }

    #[test]
    fn what_gets_further_has_all_the_time_again() {
        let (mut it, mut now) = pursuit(Persistence::default());
        it.note(now, &Event::Started);
        for number in 1..100 {
            it.note(now, &moved(FURTHER_BYTES * number));
            let setback = it.ended(now, &gone()).unwrap();
            assert!(setback.got_further && setback.pause == FIRST_PAUSE);
            now += WITHIN;
        }
        for _ in 0..2 {
            // As far as those before is not further.
            it.note(now, &moved(FURTHER_BYTES * 99));
            let setback = it.ended(now, &gone());
            assert!(setback.is_none_or(|setback| !setback.got_further));
            now += WITHIN;
        }
        it.note(now, &moved(FURTHER_BYTES * 99));
        assert_eq!(it.ended(now, &gone()), None);
    }

    #[test]
    fn what_is_found_done_is_not_further_and_a_file_more_is() {
        let entry = |result| Event::Entry {
            path: Bytes::from_static(b"f"),
            kind: Kind::File,
            size_bytes: 1,
            result,
        };
        let (mut it, now) = pursuit(Persistence::default());
        it.note(now, &Event::Started);
        it.note(now, &entry(EntryResult::Done { resumed_bytes: 0 }));
        assert!(it.ended(now, &gone()).unwrap().got_further);
        it.note(now, &entry(EntryResult::Skipped));
        assert!(!it.ended(now, &gone()).unwrap().got_further);
        it.note(now, &entry(EntryResult::Skipped));
        it.note(now, &entry(EntryResult::Done { resumed_bytes: 0 }));
        assert!(it.ended(now, &gone()).unwrap().got_further);
    }

    #[test]
    fn a_stall_is_time_without_progress() {
        let within = |within| Persistence {
            within: Some(within),
            ..Persistence::default()
        };
        for (limit, hope) in [(PATIENCE, false), (PATIENCE * 2, true)] {
            let (mut it, now) = pursuit(within(limit));
            it.note(now, &Event::Started);
            it.note(now, &moved(FURTHER_BYTES));
            let setback = it.ended(now + PATIENCE, &stalled());
            assert_eq!(setback.is_some(), hope);
        }
        // This process was stopped meanwhile.
        let (mut it, now) = pursuit(within(PATIENCE * 2));
        it.note(now, &Event::Started);
        it.note(now, &moved(FURTHER_BYTES));
        assert!(it.ended(now + WITHIN, &stalled()).is_some());
        it.note(now + WITHIN, &Event::Started);
        assert_eq!(
            it.ended(now + WITHIN, &stalled()),
            None,
            "it brought nothing"
        );
    }

    #[test]
    fn refusals_are_final() {
        let endings = [
            Ended::IdentityUnknown(Fingerprint([0; 32])),
            Ended::RefusedByPeer("t".into()),
            Ended::Failed("t".into()),
            Ended::Outcome(Outcome::Violation("t".into())),
            Ended::Outcome(Outcome::Complete(Totals::default())),
            refused(SessionErrorCode::Permission),
            refused(SessionErrorCode::NotFound),
            refused(SessionErrorCode::Full),
            refused(SessionErrorCode::Other),
        ];
        for ended in endings {
            let (mut it, now) = pursuit(Persistence {
                from_the_start: true,
                ..Persistence::default()
            });
            it.note(now, &Event::Started);
            it.note(now, &moved(FURTHER_BYTES));
            assert_eq!(it.ended(now, &ended), None, "{ended:?}");
        }
    }

    #[test]
    fn what_is_read_once_is_asked_for_until_somebody_takes_it() {
        let once = Persistence {
            times: Some(3),
            within: None,
            from_the_start: true,
            until_accepted: true,
        };
        let (mut pursuit, now) = pursuit(once);
        assert!(pursuit.ended(now, &gone()).is_some());
        pursuit.note(now, &Event::Started);
        assert_eq!(pursuit.ended(now, &gone()), None);
    }

    #[test]
    fn none_is_none() {
        let (mut it, now) = pursuit(Persistence::NONE);
        it.note(now, &Event::Started);
        it.note(now, &moved(FURTHER_BYTES));
        assert_eq!(it.ended(now, &gone()), None);
    }
}
