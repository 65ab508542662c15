//! How far a transfer is: what is settled of how much, how fast it moves, since when nothing did.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::{EntryResult, Event, Kind};

/// The rate is that of the last seconds: long enough not to jump, short enough to notice a change.
const RATE_OVER: Duration = Duration::from_secs(5);

/// A silence that is worth a word: more than a disk takes to spin up is seldom good.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// Files and bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Amount {
    pub files: u64,
    pub bytes: u64,
}

/// Follows the events of one transfer.
pub struct Progress {
    pub announced: Amount,
    pub all_announced: bool,
    /// What a walk of its own counted, ahead of what was announced.
    counted: Option<Amount>,
    /// Of what crossed, or need not: skipped and resumed bytes.
    pub settled: Amount,
    moved_bytes: u64,
    /// The large file that was begun last and is not done.
    current: Option<Bytes>,
    /// The entry that was done last.
    last: Bytes,
    /// When something last moved.
    moved_at: Instant,
    samples: VecDeque<(Instant, u64)>,
}

impl Progress {
    pub fn new(now: Instant) -> Progress {
        Progress {
            announced: Amount::default(),
            all_announced: false,
            counted: None,
            settled: Amount::default(),
            moved_bytes: 0,
            current: None,
            last: Bytes::new(),
            moved_at: now,
            samples: VecDeque::new(),
        }
    }

    pub fn note(&mut self, now: Instant, event: &Event) {
        match event {
            Event::Announced {
                files,
                bytes,
                complete,
            } => {
                (self.announced.files, self.announced.bytes) = (*files, *bytes);
                self.all_announced |= complete;
            }
            Event::Counted { files, bytes } => self.count(Amount {
                files: *files,
                bytes: *bytes,
            }),
            Event::Begun { path } => self.current = Some(path.clone()),
            Event::Resumed { bytes } => self.settle(*bytes),
            Event::Progress { bytes } => {
                self.moved_bytes = self.moved_bytes.saturating_add(*bytes);
                self.settle(*bytes);
            }
            Event::Entry {
                path,
                kind,
                size_bytes,
                result,
            } => {
                self.current.take_if(|current| current == path);
                self.last = path.clone();
                let is_skipped = *result == EntryResult::Skipped;
                if is_skipped {
                    self.settle(*size_bytes);
                }
                // Symlinks are skipped, too, and no part of what was announced.
                let is_settled = is_skipped || matches!(result, EntryResult::Done { .. });
                let is_file = *kind == Kind::File;
                self.settled.files += u64::from(is_settled && is_file);
            }
            Event::Started
            | Event::Addresses(_)
            | Event::Asked { .. }
            | Event::Placed { .. }
            | Event::Warning { .. }
            | Event::ClearOff(_)
            | Event::Listing { .. }
            | Event::Answer { .. }
            | Event::RoundTrips(_)
            | Event::Benched { .. } => {}
        }
        self.moved_at = now;
    }

    fn settle(&mut self, bytes: u64) {
        self.settled.bytes = self.settled.bytes.saturating_add(bytes);
    }

    /// How much there is in all, from a walk of its own.
    pub fn count(&mut self, counted: Amount) {
        self.counted = Some(counted);
    }

    /// How much there is in all, if that is known; never less than what is.
    pub fn total(&self) -> Option<Amount> {
        let known = match self.all_announced {
            true => self.announced,
            false => self.counted?,
        };
        Some(Amount {
            files: known.files.max(self.announced.files),
            bytes: known.bytes.max(self.announced.bytes),
        })
    }

    pub fn current(&self) -> Option<&Bytes> {
        self.current.as_ref()
    }

    /// What is moved, or was moved last.
    pub fn at(&self) -> &Bytes {
        self.current.as_ref().unwrap_or(&self.last)
    }

    /// Has the rate be that of the time until now. To be told a few times a second.
    pub fn sample(&mut self, now: Instant) {
        self.samples.push_back((now, self.moved_bytes));
        while self.samples.len() > 2 && now.duration_since(self.samples[0].0) > RATE_OVER {
            self.samples.pop_front();
        }
    }

    /// Bytes per second that moved lately; skipped and resumed ones did not.
    pub fn rate(&self) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let seconds = last.0.duration_since(first.0).as_secs_f64();
        if seconds > 0.0 {
            (last.1 - first.1) as f64 / seconds
        } else {
            0.0
        }
    }

    /// How long it takes from now, as far as can be told.
    pub fn left(&self) -> Option<Duration> {
        let left_bytes = self.total()?.bytes.saturating_sub(self.settled.bytes);
        let seconds = left_bytes as f64 / self.rate();
        // NaN where nothing is left and nothing moves.
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// For how long nothing has moved, if that is worth a word.
    pub fn stalled(&self, now: Instant) -> Option<Duration> {
        let silent = now.duration_since(self.moved_at);
        (silent >= STALLED_AFTER).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &'static str, result: EntryResult) -> Event {
        Event::Entry {
            path: Bytes::from_static(path.as_bytes()),
            kind: Kind::File,
            size_bytes: 100,
            result,
        }
    }

    fn announced(complete: bool) -> Event {
        Event::Announced {
            files: 3,
            bytes: 300,
            complete,
        }
    }

    #[test]
    fn a_resumed_transfer_begins_where_it_is_and_its_rate_is_what_moves() {
        let start = crate::engine::now();
        let mut progress = Progress::new(start);
        progress.sample(start);
        progress.note(start, &announced(true));
        progress.note(start, &entry("a", EntryResult::Skipped));
        let link = Event::Entry {
            path: Bytes::from_static(b"link"),
            kind: Kind::Symlink,
            size_bytes: 0,
            result: EntryResult::Skipped,
        };
        progress.note(start, &link);
        progress.note(start, &Event::Resumed { bytes: 80 });
        assert_eq!(progress.settled.bytes, 180, "before anything moved");
        let later = start + Duration::from_secs(1);
        progress.note(later, &Event::Progress { bytes: 20 });
        let done = EntryResult::Done { resumed_bytes: 80 };
        progress.note(later, &entry("b", done));
        progress.sample(later);
        let settled = Amount {
            files: 2,
            bytes: 200,
        };
        assert_eq!(progress.settled, settled, "resumed bytes count once");
        assert_eq!(progress.rate(), 20.0);
        assert_eq!(progress.left(), Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_count_ahead_gives_the_total_until_all_is_announced() {
        let start = crate::engine::now();
        let mut progress = Progress::new(start);
        progress.note(start, &announced(false));
        assert_eq!(progress.total(), None);
        let counted = Amount {
            files: 2,
            bytes: 5000,
        };
        progress.count(counted);
        let total = progress.total().unwrap();
        assert_eq!(
            (total.files, total.bytes),
            (3, 5000),
            "never less than is known"
        );
        progress.note(start, &announced(true));
        assert_eq!(progress.total().unwrap().bytes, 300);
    }

    #[test]
    fn what_stalls_is_noticed() {
        let start = crate::engine::now();
        let mut progress = Progress::new(start);
        let path = Bytes::from_static(b"big");
        progress.note(start, &Event::Begun { path });
        assert_eq!(progress.stalled(start + Duration::from_secs(4)), None);
        let silent = Duration::from_secs(12);
        assert_eq!(progress.stalled(start + silent), Some(silent));
        assert!(progress.current().is_some());
        let done = EntryResult::Done { resumed_bytes: 0 };
        progress.note(start + silent, &entry("big", done));
        assert!(progress.current().is_none());
        assert_eq!(progress.stalled(start + silent), None);
    }
}
