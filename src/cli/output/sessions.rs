//! A copy that took several sessions: what all of them did, and no file twice.

use crate::engine::Ended;
use crate::proto::{Outcome, Totals};

/// The sessions of one copy that were lost.
#[derive(Clone, Copy, Default, Debug)]
pub struct LostSessions {
    /// What they did.
    lost: Totals,
    /// What is done is done again (`--force`).
    resends: bool,
}

impl LostSessions {
    pub fn new(resends: bool) -> LostSessions {
        LostSessions {
            lost: Totals::default(),
            resends,
        }
    }

    /// One more is lost, which did this.
    pub fn lose(&mut self, did: &Totals) {
        self.lost = self.with_unfinished(did);
    }

    /// What was done so far, where the last session is not complete, or not yet.
    pub fn with_unfinished(&self, last: &Totals) -> Totals {
        let lost = &self.lost;
        let files = |before: u64, now: u64| match self.resends {
            true => before.max(now),
            false => before.saturating_add(now),
        };
        Totals {
            files: files(lost.files, last.files),
            // Each session comes by all of them.
            directories: lost.directories.max(last.directories),
            symlinks: files(lost.symlinks, last.symlinks),
            bytes: files(lost.bytes, last.bytes),
            skipped: last.skipped.saturating_sub(self.files_lost()),
            resumed_bytes: lost.resumed_bytes.saturating_add(last.resumed_bytes),
            kept_chunks: lost.kept_chunks.saturating_add(last.kept_chunks),
            sent_bytes: lost.sent_bytes.saturating_add(last.sent_bytes),
            errors: lost.errors.max(last.errors),
            ..*last
        }
    }

    /// What was done by all of them, where the last session is complete: that one came by all that
    /// there is. What failed before and does not any more is no failure.
    pub fn with_complete(&self, last: &Totals) -> Totals {
        let all = self.with_unfinished(last);
        if self.resends {
            return Totals {
                files: last.files,
                symlinks: last.symlinks,
                bytes: last.bytes,
                skipped: last.skipped,
                errors: last.errors,
                ..all
            };
        }
        // What was not found done was changed meanwhile, and counts once.
        let again = self.files_lost().saturating_sub(last.skipped);
        Totals {
            files: all.files.saturating_sub(again),
            errors: last.errors,
            ..all
        }
    }

    /// Files were put in place of which nobody was told what could not be set: that is told at the
    /// end of a session, and the next one finds them there.
    pub fn leave_doubt(&self) -> bool {
        self.files_lost() > 0
    }

    fn files_lost(&self) -> u64 {
        match self.resends {
            true => 0,
            false => self.lost.files.saturating_add(self.lost.symlinks),
        }
    }

    /// An end of the last session, as one of all.
    pub fn ended(&self, ended: Ended) -> Ended {
        let Ended::Outcome(outcome) = ended else {
            return ended;
        };
        Ended::Outcome(match outcome {
            Outcome::Complete(totals) => Outcome::Complete(self.with_complete(&totals)),
            Outcome::Lost(totals) => Outcome::Lost(self.with_unfinished(&totals)),
            Outcome::Cancelled { reason, totals } => Outcome::Cancelled {
                reason,
                totals: self.with_unfinished(&totals),
            },
            Outcome::Stopped { reason, totals } => Outcome::Stopped {
                reason,
                totals: self.with_unfinished(&totals),
            },
            Outcome::Stalled { totals, text } => Outcome::Stalled {
                totals: self.with_unfinished(&totals),
                text,
            },
            other @ (Outcome::Refused(_) | Outcome::CalledOff(_) | Outcome::Violation(_)) => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn did(files: u64, skipped: u64, errors: u64) -> Totals {
        Totals {
            files,
            skipped,
            errors,
            directories: 1,
            bytes: files * 10,
            sent_bytes: files * 10 + 5,
            ..Totals::default()
        }
    }

    #[test]
    fn what_an_earlier_session_did_was_done_and_not_skipped() {
        let mut sessions = LostSessions::default();
        // One of these stood there before.
        sessions.lose(&did(10, 1, 2));
        sessions.lose(&Totals::default());
        sessions.lose(&did(2, 4, 0));
        let all = sessions.with_complete(&did(3, 13, 0));
        let expected = Totals {
            files: 15,
            skipped: 1,
            directories: 1,
            bytes: 150,
            sent_bytes: 165,
            ..Totals::default()
        };
        assert_eq!(all, expected, "and what failed at first does not any more");
        assert_eq!(sessions.with_unfinished(&did(1, 0, 0)).errors, 2);
    }

    #[test]
    fn what_changed_meanwhile_counts_once() {
        let mut sessions = LostSessions::default();
        sessions.lose(&did(10, 0, 0));
        let all = sessions.with_complete(&did(3, 8, 1));
        assert_eq!((all.files, all.skipped, all.errors), (11, 0, 1));
    }

    #[test]
    fn what_is_sent_again_in_any_case_counts_once() {
        let mut sessions = LostSessions::new(true);
        sessions.lose(&did(10, 0, 0));
        assert_eq!(sessions.with_unfinished(&did(4, 0, 0)).files, 10);
        let all = sessions.with_complete(&did(12, 0, 0));
        assert_eq!((all.files, all.bytes, all.sent_bytes), (12, 120, 230));
    }

    #[test]
    fn one_session_is_what_it_is() {
        let totals = did(3, 4, 1);
        assert_eq!(LostSessions::default().with_complete(&totals), totals);
        assert_eq!(LostSessions::default().with_unfinished(&totals), totals);
    }
}
