//! How a transfer ends, as a type: the exit codes of `landro cp`.

use crate::ids::Fingerprint;
use crate::proto::{EntryResult, Event, Kind, Outcome, SessionError, SessionErrorCode, Totals};
use crate::worker::Ended;

/// What became of all that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferSummary {
    /// Files that were copied; of several sessions, by the last one.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Entries that were there already, by their size and time; those of the sessions before, too.
    pub skipped: u64,
    /// Entries that were not copied.
    pub failed: u64,
    /// Bytes of files that travelled.
    pub moved_bytes: u64,
    /// Bytes of files that need not travel, for they did before.
    pub resumed_bytes: u64,
}

impl TransferSummary {
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::Progress { bytes } => self.moved_bytes += bytes,
            Event::Resumed { bytes } => self.resumed_bytes += bytes,
            Event::Entry { kind, result, .. } => match result {
                EntryResult::Skipped => self.skipped += 1,
                EntryResult::Failed(_) => self.failed += 1,
                EntryResult::Done { .. } => match kind {
                    Kind::File | Kind::Special => self.files += 1,
                    Kind::Directory => self.directories += 1,
                    Kind::Symlink => self.symlinks += 1,
                },
            },
            _ => {}
        }
    }

    /// Of a session that ended in order, which knows all of it.
    fn of(totals: Totals) -> TransferSummary {
        TransferSummary {
            files: totals.files,
            directories: totals.directories,
            symlinks: totals.symlinks,
            skipped: totals.skipped,
            failed: totals.errors,
            moved_bytes: totals.sent_bytes,
            resumed_bytes: totals.resumed_bytes,
        }
    }
}

/// Why not everything that was asked for is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Some entries failed, each of which an event told of; the rest is there.
    #[error("{} entries failed, the rest is complete", .0.failed)]
    Partial(TransferSummary),
    /// No entry is there: each failed.
    #[error("{} entries failed, nothing was copied", .0.failed)]
    Nothing(TransferSummary),
    /// The destination has no room for all of it.
    #[error("the destination is full: {text}")]
    Full {
        /// In words.
        text: String,
        /// What is there.
        done: TransferSummary,
    },
    /// Bytes of some entry are not those that were sent, and were not kept.
    #[error("{} entries failed, of some the digest was wrong", .0.failed)]
    Integrity(TransferSummary),
    /// Bytes of a file are not those that the daemon hashed, and are not handed over.
    #[error("{0}")]
    Corrupt(String),
    /// Whoever answered has a key that is not trusted here.
    #[error("the daemon has the key {shown}, which is not trusted here")]
    NotTrusted {
        /// The key.
        shown: Fingerprint,
    },
    /// The daemon does not let us in.
    #[error("the daemon does not let {ours} in: {why}")]
    Refused {
        /// Our key.
        ours: Fingerprint,
        /// Its words.
        why: String,
    },
    /// The daemon does not let us do this.
    #[error("{0}")]
    Forbidden(String),
    /// What was asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// The daemon has no room for another transfer now.
    #[error("{0}")]
    Busy(String),
    /// No daemon answers.
    #[error("no answer, {0}")]
    Unreachable(String),
    /// The connection was lost, and no other could be made in time.
    #[error("connection lost: {why}")]
    Lost {
        /// In words.
        why: String,
        /// What is there.
        done: TransferSummary,
    },
    /// Nothing was got on with for too long.
    #[error("{why}")]
    Stalled {
        /// Who was waited for, in words.
        why: String,
        /// What is there.
        done: TransferSummary,
    },
    /// It was cancelled, or the engine shut down.
    #[error("cancelled")]
    Cancelled(TransferSummary),
    /// The peer broke the protocol, or something failed here; in words.
    #[error("{0}")]
    Failed(String),
}

impl TransferError {
    /// Whether the same transfer may succeed later, without anybody having changed anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            TransferError::Busy(_)
            | TransferError::Unreachable(_)
            | TransferError::Lost { .. }
            | TransferError::Stalled { .. }
            | TransferError::Integrity(_)
            | TransferError::Corrupt(_)
            | TransferError::Cancelled(_) => true,
            TransferError::Partial(_)
            | TransferError::Nothing(_)
            | TransferError::Full { .. }
            | TransferError::NotTrusted { .. }
            | TransferError::Refused { .. }
            | TransferError::Forbidden(_)
            | TransferError::NotFound(_)
            | TransferError::Failed(_) => false,
        }
    }

    /// Bytes of files that the same transfer finds there already, but for the chunk of each file
    /// that was under way.
    pub fn resumable_bytes(&self) -> u64 {
        let done = match self {
            TransferError::Partial(done)
            | TransferError::Nothing(done)
            | TransferError::Integrity(done)
            | TransferError::Cancelled(done)
            | TransferError::Full { done, .. }
            | TransferError::Lost { done, .. }
            | TransferError::Stalled { done, .. } => done,
            TransferError::NotTrusted { .. }
            | TransferError::Refused { .. }
            | TransferError::Forbidden(_)
            | TransferError::NotFound(_)
            | TransferError::Busy(_)
            | TransferError::Unreachable(_)
            | TransferError::Corrupt(_)
            | TransferError::Failed(_) => return 0,
        };
        done.moved_bytes + done.resumed_bytes
    }

    /// What `landro cp` exits with then.
    pub fn exit_code(&self) -> u8 {
        match self {
            TransferError::Nothing(_)
            | TransferError::NotFound(_)
            | TransferError::Busy(_)
            | TransferError::Failed(_) => 1,
            TransferError::Partial(_) => 3,
            TransferError::NotTrusted { .. }
            | TransferError::Refused { .. }
            | TransferError::Forbidden(_) => 4,
            TransferError::Unreachable(_)
            | TransferError::Lost { .. }
            | TransferError::Stalled { .. } => 5,
            TransferError::Full { .. } => 6,
            TransferError::Integrity(_) | TransferError::Corrupt(_) => 7,
            TransferError::Cancelled(_) => 130,
        }
    }
}

/// What the end of the last session means; `done`: what became of all of them.
pub(in crate::api) fn judge(
    ended: Ended,
    done: TransferSummary,
    ours: Fingerprint,
) -> Result<TransferSummary, TransferError> {
    Err(match ended {
        Ended::Outcome(outcome) => return of_outcome(outcome, done),
        Ended::Unreachable { why, .. } => TransferError::Unreachable(why),
        Ended::Lost(why) => TransferError::Lost { why, done },
        Ended::IdentityUnknown(shown) => TransferError::NotTrusted { shown },
        Ended::RefusedByPeer(why) => TransferError::Refused { ours, why },
        Ended::Failed(why) => TransferError::Failed(why),
    })
}

fn of_outcome(outcome: Outcome, done: TransferSummary) -> Result<TransferSummary, TransferError> {
    Err(match outcome {
        Outcome::Complete(totals) => return complete(&totals, done),
        Outcome::Cancelled { .. } => TransferError::Cancelled(done),
        Outcome::Stopped { .. } => TransferError::Lost {
            why: "the daemon stopped the transfer".to_owned(),
            done,
        },
        Outcome::Refused(error) => refused(&error, done),
        Outcome::CalledOff(error) => match refused(&error, done) {
            // Nobody else was asked.
            TransferError::Forbidden(text) => TransferError::Failed(text),
            other => other,
        },
        Outcome::Violation(text) => TransferError::Failed(format!(
            "protocol error: {text}; do both sides run the same version of landro?"
        )),
        Outcome::Lost(_) => TransferError::Lost {
            why: "the daemon ended the session".to_owned(),
            done,
        },
        Outcome::Stalled { text, .. } => TransferError::Stalled { why: text, done },
    })
}

fn complete(totals: &Totals, done: TransferSummary) -> Result<TransferSummary, TransferError> {
    let of_session = TransferSummary::of(*totals);
    // Bytes of sessions before count, too.
    let summary = TransferSummary {
        moved_bytes: done.moved_bytes.max(of_session.moved_bytes),
        ..of_session
    };
    let anything = totals.files + totals.directories + totals.symlinks + totals.skipped > 0;
    Err(match totals {
        Totals { errors: 0, .. } => return Ok(summary),
        Totals {
            integrity: true, ..
        } => TransferError::Integrity(summary),
        Totals { full: true, .. } => TransferError::Full {
            text: format!("{} entries failed", totals.errors),
            done: summary,
        },
        _ if anything => TransferError::Partial(summary),
        _ => TransferError::Nothing(summary),
    })
}

/// What a daemon's refusal means.
pub(in crate::api) fn refused(error: &SessionError, done: TransferSummary) -> TransferError {
    let text = error.sentence("");
    match error.code {
        SessionErrorCode::Permission => TransferError::Forbidden(text),
        SessionErrorCode::NotFound => TransferError::NotFound(text),
        SessionErrorCode::Busy => TransferError::Busy(text),
        SessionErrorCode::Full => TransferError::Full { text, done },
        SessionErrorCode::Stalled => TransferError::Stalled { why: text, done },
        SessionErrorCode::Integrity => TransferError::Corrupt(text),
        SessionErrorCode::Unsupported | SessionErrorCode::Other => TransferError::Failed(text),
    }
}
